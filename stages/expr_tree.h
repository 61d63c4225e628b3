/*
 * The inside of expressions: the tree that runs natively, its values, its functions. Only expr*.c
 * and lua.c include this.
 *
 * One rule keeps the native way and the Lua way alike: where the tree is not certain of Lua's
 * answer (a string in arithmetic, a comparison of unlike types, a table) it says EXPR_E_DOUBT, and
 * the same expression is evaluated by Lua for that record. Functions are written once, in
 * expr_funcs.c, on struct expr_val, and Lua calls the same code.
 */
#pragma once

#include "stages/compare.h"
#include "stages/expr.h"

enum {
	EXPR_ARGS_MAX = 8,
	EXPR_NODES_MAX = 4096,
	EXPR_DEPTH_MAX = 100,
	EXPR_NUMBER_MAX = 40, /* bytes of the longest number as text */
};

/* Answers inside the expression code; negative is -errno. */
enum expr_error {
	EXPR_E_OK,
	EXPR_E_DOUBT,       /* Lua has to say */
	EXPR_E_FAILED,      /* a runtime error: st->why says which */
	EXPR_E_UNSUPPORTED, /* parser: nothing the tree can do */
	EXPR_E_SYNTAX,      /* parser: not an expression at all */
};

struct expr_val {
	struct mp v;
	const uint8_t *raw; /* the same value as msgpack bytes when they exist already, else NULL */
	uint32_t raw_len;
};

/* What one evaluation works on. */
struct expr_env {
	struct stage *st;
	struct record *r;
};

/* Gives 0, EXPR_E_FAILED (env->st->why), or -errno. @args: @n of them, none nil unless EXPR_NILS.
 * @out is nil when called. Memory for results: record_scratch(env->r). */
typedef int expr_fn(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out);

enum {
	EXPR_NILS = 1 << 0,  /* wants to see nil arguments; otherwise nil in is nil out */
	EXPR_BASIC = 1 << 1, /* replaces a function of Lua's own: not given to scripts */
};

struct expr_func {
	const char *name;
	uint8_t min, max; /* number of arguments */
	uint8_t flags;
	expr_fn *fn;
	const char *help;
};

/* Numbers and time are in expr_funcs.c, text in expr_strings.c, hashes and uuid() in expr_hash.c.
 */
expr_fn expr_fn_upper, expr_fn_lower, expr_fn_trim, expr_fn_len, expr_fn_substr, expr_fn_replace,
        expr_fn_split, expr_fn_match, expr_fn_capture, expr_fn_host, expr_fn_urlpath,
        expr_fn_tostring, expr_fn_tonumber;
expr_fn expr_fn_xxh64, expr_fn_xxh3, expr_fn_md5, expr_fn_sha1, expr_fn_sha256, expr_fn_uuid;

extern const struct expr_func expr_funcs[]; /* ends with name NULL */
const struct expr_func *expr_func_find(const char *name, size_t len);
/* The nearest name of a function, or NULL. */
const char *expr_func_nearest(const char *name);
/* Applies the rule for nil and the number of arguments, then calls. */
int expr_func_call(const struct expr_func *f, struct expr_env *env, const struct expr_val *args,
                   unsigned n, struct expr_val *out);

enum expr_op {
	EXPR_LITERAL,
	EXPR_FIELD,
	EXPR_OR,
	EXPR_AND,
	EXPR_NOT,
	EXPR_EQ,
	EXPR_NE,
	EXPR_LT,
	EXPR_LE,
	EXPR_GT,
	EXPR_GE,
	EXPR_CONCAT,
	EXPR_ADD,
	EXPR_SUB,
	EXPR_MUL,
	EXPR_DIV,
	EXPR_IDIV,
	EXPR_MOD,
	EXPR_POW,
	EXPR_NEG,
	EXPR_LENGTH,
	EXPR_CALL,
};

struct expr_node {
	enum expr_op op;
	uint8_t n;   /* children in use */
	bool dotted; /* field: the name is a path */
	uint16_t kid[EXPR_ARGS_MAX];
	const struct expr_func *func; /* call */
	const char *name;             /* field: borrowed from the expression's text */
	uint32_t name_len;
	struct expr_val literal; /* raw points into the tree's pool */
};

struct expr_tree {
	struct expr_node *nodes;
	unsigned n;
	uint16_t root;
	uint8_t *pool; /* literals as msgpack */
	size_t pool_len;
};

/* Parses @text, which must stay. 0, EXPR_E_UNSUPPORTED, EXPR_E_SYNTAX (*@at: the byte, @why: what),
 * -ENOMEM. */
int expr_parse(struct expr_tree *t, const char *text, size_t len, size_t *at, char *why,
               size_t why_size);
void expr_tree_deinit(struct expr_tree *t);
/* Names that are Lua's constants and no fields: null, math.pi, ... */
bool expr_parse_constant(const char *name, size_t len);

/* 0, EXPR_E_DOUBT, EXPR_E_FAILED, -errno. */
int expr_tree_eval(const struct expr_tree *t, uint16_t node, struct expr_env *env,
                   struct expr_val *out);

/* Helpers shared by evaluation, functions and Lua. */
void expr_val_field(struct expr_val *out, const uint8_t *raw, uint32_t len);
void expr_val_str(struct expr_val *out, const void *s, size_t len);
void expr_val_int(struct expr_val *out, int64_t i);
void expr_val_float(struct expr_val *out, double d);
void expr_val_bool(struct expr_val *out, bool b);
/* True when @v is an integer that Lua has too. */
bool expr_val_int64(const struct expr_val *v, int64_t *i);
bool expr_val_true(const struct expr_val *v);
/* A number as Lua's tostring writes it. Returns the number of bytes (at most EXPR_NUMBER_MAX). */
unsigned expr_number_text(const struct mp *v, char *text);
/* The text of a string, or of a number in @room (EXPR_NUMBER_MAX bytes); false for all else. */
bool expr_val_text(const struct expr_val *v, char *room, const uint8_t **p, size_t *len);
/* As msgpack bytes, made in the record's scratch if need be. 0 or -ENOMEM. */
int expr_val_bytes(struct expr_val *v, struct record *r);
/* st->why = ...; returns EXPR_E_FAILED. */
int expr_fail(struct expr_env *env, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The Lua way. @text becomes a function of the process's expression state on first need. */
struct expr_lua {
	int ref; /* of the compiled function; 0: not yet */
};
/* Checks that Lua takes @text. 0, EXPR_E_SYNTAX (@why), -ENOMEM. */
int expr_lua_check(const char *text, size_t len, char *why, size_t why_size);
int expr_lua_open(struct expr_lua *l, const char *text, size_t len);
void expr_lua_free(struct expr_lua *l);
/* 0, EXPR_E_FAILED, -errno. */
int expr_lua_eval(struct expr_lua *l, const char *text, size_t len, struct expr_env *env,
                  struct expr_val *out);
