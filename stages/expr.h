/*
 * Expressions of the configuration: Lua 5.4 with the record's fields in scope.
 *
 * Common forms (a field, a literal, comparisons, and/or/not, concatenation, arithmetic, now(),
 * upper(), lower(), hashes, ...) are parsed here and run natively, on msgpack bytes; everything
 * else, and everything in doubt, goes to Lua. Both ways give the same result: the tests run them
 * against each other.
 */
#pragma once

#include "stages/stage.h"

struct expr;

/* How a scalar of the configuration reads as an expression: `=x` is the expression x, `==x` the
 * literal string "=x", anything else a literal of its YAML type. @always: an expression even
 * without `=` (filter, route conditions). Makes complaints about @n. NULL after a complaint. */
struct expr *expr_compile(const struct node *n, bool always, struct complaints *c);
struct expr *expr_free(struct expr *e); /* returns NULL */

/* How literals are told from expressions: true for `=x`, false for `==x` and all else. */
bool expr_is_expression(const struct node *n);
/* What a scalar node is as a literal (`==x` is "=x"); strings point into the node. */
struct mp expr_node_literal(const struct node *n);

/* True when the expression runs natively (for tests and `--try -v`). */
bool expr_native(const struct expr *e);

/* Evaluates on @r. The value is msgpack bytes that live until @r is cleared: *@val, *@len; *@val
 * NULL: nil.
 * @st gives now, worker and the place for the reason. 0, STAGE_E_REJECT (a runtime error: st->why),
 * -errno. expr_eval_lua forces the Lua way (tests). Needs expr_open once in this process. */
int expr_eval(struct expr *e, struct stage *st, struct record *r, const uint8_t **val,
              uint32_t *len);
int expr_eval_lua(struct expr *e, struct stage *st, struct record *r, const uint8_t **val,
                  uint32_t *len);

/* Lua's truth: everything but nil and false. */
int expr_true(struct expr *e, struct stage *st, struct record *r, bool *yes);

/* Makes what evaluation needs in this process (a Lua state, on first need). 0 or -errno. */
int expr_open(struct expr *e);
