/*
 * Conditions of `filter` and `route`.
 *
 *     "latency > 5 and host(url) ~= 'x'"        text: an expression (a leading = may be there)
 *     {level: {not: debug}, status: 200}        a map: all of its fields must fit
 *     {any: [{level: error}, "latency > 5"]}    all, any, none: lists of conditions (or one map)
 *
 * A field is compared with a value (the same as `is`), a list (the same as `in`), or by operators:
 * is, not, in, lt, le, gt, ge, matches (a regular expression), exists. Several operators must all
 * fit.
 *
 * Comparison knows types: numbers with numbers, exactly, whatever their kinds; text with text, by
 * bytes; anything else is unequal and in no order. A missing field is nil: `is: null` fits it,
 * `not: x` fits it, orders and `matches` do not. Nothing here rejects a record but an expression
 * that fails.
 */
#pragma once

#include "stages/stage.h"

struct condition;

/* Reads a condition. NULL after complaints. The node must stay. */
struct condition *condition_compile(const struct node *n, struct complaints *c);
struct condition *condition_free(struct condition *k); /* returns NULL */

/* Makes what evaluation needs in this process. 0 or -errno. */
int condition_open(struct condition *k);

/* 0 and *@yes; STAGE_E_REJECT (st->why); -errno. */
int condition_true(const struct condition *k, struct stage *st, struct record *r, bool *yes);
