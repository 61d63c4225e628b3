/*
 * Expressions: evaluation of the tree on a record's bytes.
 *
 * The hard idea: no value is built. A field is a pointer into the record, a literal a pointer into
 * the tree, and only what is computed (text, mostly) takes bytes of the record's scratch.
 *
 * The rules for nil, which Lua is taught too (expr_lua.c):
 *   a missing field is nil; arithmetic, `..`, `#` and functions of nil give nil;
 *   `<` `<=` `>` `>=` with nil are false; `==` knows nil as Lua does.
 * Anything else that Lua would refuse, or that it does in a way of its own, is EXPR_E_DOUBT.
 */
#include "stages/expr_tree.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

void expr_val_field(struct expr_val *out, const uint8_t *raw, uint32_t len)
{
	out->v = record_value(raw, len);
	out->raw = raw;
	out->raw_len = len;
}

void expr_val_str(struct expr_val *out, const void *s, size_t len)
{
	*out = (struct expr_val){.v = {.type = MP_STR, .p = s, .len = (uint32_t)len}};
}

void expr_val_int(struct expr_val *out, int64_t i)
{
	*out = (struct expr_val){.v = {.type = i < 0 ? MP_INT : MP_UINT, .i = i}};
}

void expr_val_float(struct expr_val *out, double d)
{
	*out = (struct expr_val){.v = {.type = MP_FLOAT, .d = d}};
}

void expr_val_bool(struct expr_val *out, bool b)
{
	*out = (struct expr_val){.v = {.type = MP_BOOL, .b = b}};
}

bool expr_val_int64(const struct expr_val *v, int64_t *i)
{
	*i = v->v.i;
	return v->v.type == MP_INT || (v->v.type == MP_UINT && v->v.u <= INT64_MAX);
}

bool expr_val_true(const struct expr_val *v)
{
	return v->v.type != MP_NIL && (v->v.type != MP_BOOL || v->v.b);
}

int expr_fail(struct expr_env *env, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(env->st->why, sizeof(env->st->why), fmt, ap);
	va_end(ap);
	return EXPR_E_FAILED;
}

static unsigned uint_text(uint64_t u, char *text)
{
	char digits[20];
	unsigned n = 0;
	do {
		digits[n++] = (char)('0' + u % 10);
		u /= 10;
	} while (u);
	for (unsigned i = 0; i < n; i++)
		text[i] = digits[n - 1 - i];
	return n;
}

unsigned expr_number_text(const struct mp *v, char *text)
{
	if (v->type == MP_UINT)
		return uint_text(v->u, text);
	if (v->type == MP_INT) {
		text[0] = '-';
		return 1 + uint_text(-(uint64_t)v->i, text + 1);
	}
	int n = snprintf(text, EXPR_NUMBER_MAX, "%.14g", v->d);
	/* what would read as an integer gets ".0", as in Lua */
	if (text[strspn(text, "-0123456789")] == 0) {
		memcpy(text + n, ".0", 3);
		n += 2;
	}
	return (unsigned)n;
}

bool expr_val_text(const struct expr_val *v, char *room, const uint8_t **p, size_t *len)
{
	if (v->v.type == MP_STR) {
		*p = v->v.p;
		*len = v->v.len;
		return true;
	}
	*p = (const uint8_t *)room;
	*len = compare_is_number(&v->v) ? expr_number_text(&v->v, room) : 0;
	return *len > 0;
}

int expr_val_bytes(struct expr_val *v, struct record *r)
{
	if (v->raw)
		return 0;
	size_t len = v->v.type == MP_STR || v->v.type == MP_BIN ? v->v.len : 0;
	uint8_t *p = record_scratch(r, MP_HEAD_MAX + len);
	if (!p)
		return -ENOMEM;
	v->raw = p;
	v->raw_len = (uint32_t)(mp_write(p, &v->v) - p);
	return 0;
}

static void eval_field(const struct expr_node *n, struct record *r, struct expr_val *out)
{
	if (n->dotted) {
		uint32_t len = 0;
		const uint8_t *p = record_path(r, n->name, n->name_len, &len);
		expr_val_field(out, p, len);
		return;
	}
	const struct field *f = record_get(r, n->name, n->name_len);
	expr_val_field(out, f ? f->val : NULL, f ? f->val_len : 0);
}

static bool is_nil(const struct expr_val *v)
{
	return v->v.type == MP_NIL;
}

static bool is_scalar(const struct expr_val *v)
{
	return v->v.type <= MP_STR;
}

static int eval_equal(const struct expr_val *a, const struct expr_val *b, bool *yes)
{
	if (compare_is_number(&a->v) && compare_is_number(&b->v)) {
		*yes = compare_numbers(&a->v, &b->v) == 0;
		return 0;
	}
	if (!is_scalar(a) || !is_scalar(b))
		return is_nil(a) || is_nil(b) ? (*yes = false, 0) : EXPR_E_DOUBT;
	*yes = a->v.type == b->v.type &&
	       (a->v.type == MP_NIL || (a->v.type == MP_BOOL && a->v.b == b->v.b) ||
	        (a->v.type == MP_STR && a->v.len == b->v.len &&
	         (a->v.len == 0 || memcmp(a->v.p, b->v.p, a->v.len) == 0)));
	return 0;
}

static int eval_order(enum expr_op op, const struct expr_val *a, const struct expr_val *b,
                      bool *yes)
{
	int c;
	*yes = false;
	if (is_nil(a) || is_nil(b))
		return 0;
	if (compare_is_number(&a->v) && compare_is_number(&b->v))
		c = compare_numbers(&a->v, &b->v);
	else if (a->v.type == MP_STR && b->v.type == MP_STR)
		c = compare_bytes(a->v.p, a->v.len, b->v.p, b->v.len);
	else
		return EXPR_E_DOUBT;
	if (c == COMPARE_UNORDERED)
		return 0;
	*yes = op == EXPR_LT ? c < 0 : op == EXPR_LE ? c <= 0 : op == EXPR_GT ? c > 0 : c >= 0;
	return 0;
}

static int eval_compare(enum expr_op op, const struct expr_val *a, const struct expr_val *b,
                        struct expr_val *out)
{
	bool yes;
	int r = op == EXPR_EQ || op == EXPR_NE ? eval_equal(a, b, &yes)
	                                       : eval_order(op, a, b, &yes);
	if (r == 0)
		expr_val_bool(out, op == EXPR_NE ? !yes : yes);
	return r;
}

/* Integers wrap round, as Lua's do. */
static int integer_arithmetic(enum expr_op op, int64_t a, int64_t b, struct expr_val *out)
{
	uint64_t x = (uint64_t)a, y = (uint64_t)b;
	switch (op) {
	case EXPR_ADD:
		expr_val_int(out, (int64_t)(x + y));
		return 0;
	case EXPR_SUB:
		expr_val_int(out, (int64_t)(x - y));
		return 0;
	case EXPR_MUL:
		expr_val_int(out, (int64_t)(x * y));
		return 0;
	case EXPR_IDIV:
		if (b == 0 || b == -1)
			return EXPR_E_DOUBT;
		expr_val_int(out, a / b - (a % b != 0 && (a % b < 0) != (b < 0)));
		return 0;
	default:
		if (b == 0 || b == -1)
			return EXPR_E_DOUBT;
		expr_val_int(out, a % b + (a % b != 0 && (a % b < 0) != (b < 0) ? b : 0));
		return 0;
	}
}

static int float_arithmetic(enum expr_op op, double a, double b, struct expr_val *out)
{
	switch (op) {
	case EXPR_ADD:
		expr_val_float(out, a + b);
		return 0;
	case EXPR_SUB:
		if (a == 0 &&
		    b == 0) /* Lua makes x - 0 an addition, which has another sign of zero */
			return EXPR_E_DOUBT;
		expr_val_float(out, a - b);
		return 0;
	case EXPR_MUL:
		expr_val_float(out, a * b);
		return 0;
	case EXPR_DIV:
		expr_val_float(out, a / b);
		return 0;
	case EXPR_IDIV:
		expr_val_float(out, floor(a / b));
		return 0;
	default:
		return EXPR_E_DOUBT; /* % and ^ of floats: Lua's own way */
	}
}

static bool to_double(const struct expr_val *v, double *d)
{
	int64_t i;
	if (v->v.type == MP_FLOAT)
		*d = v->v.d;
	else if (expr_val_int64(v, &i))
		*d = (double)i;
	else
		return false;
	return true;
}

static int eval_arithmetic(enum expr_op op, const struct expr_val *a, const struct expr_val *b,
                           struct expr_val *out)
{
	int64_t i, j;
	double x, y;
	if (is_nil(a) || is_nil(b)) {
		*out = (struct expr_val){0};
		return 0;
	}
	if (op != EXPR_DIV && op != EXPR_POW && expr_val_int64(a, &i) && expr_val_int64(b, &j))
		return integer_arithmetic(op, i, j, out);
	if (to_double(a, &x) && to_double(b, &y))
		return float_arithmetic(op, x, y, out);
	return EXPR_E_DOUBT;
}

static int eval_negative(const struct expr_val *a, struct expr_val *out)
{
	int64_t i;
	if (is_nil(a))
		*out = *a;
	else if (expr_val_int64(a, &i))
		expr_val_int(out, (int64_t) - (uint64_t)i);
	else if (a->v.type == MP_FLOAT)
		expr_val_float(out, -a->v.d);
	else
		return EXPR_E_DOUBT;
	return 0;
}

static int eval_length(const struct expr_val *a, struct expr_val *out)
{
	if (a->v.type != MP_STR && !is_nil(a))
		return EXPR_E_DOUBT;
	if (is_nil(a))
		*out = *a;
	else
		expr_val_int(out, a->v.len);
	return 0;
}

static int eval_concat(struct expr_env *env, const struct expr_val *a, const struct expr_val *b,
                       struct expr_val *out)
{
	char x[EXPR_NUMBER_MAX], y[EXPR_NUMBER_MAX];
	const uint8_t *p, *q;
	size_t m, n;
	*out = (struct expr_val){0};
	if (is_nil(a) || is_nil(b))
		return 0;
	if (!expr_val_text(a, x, &p, &m) || !expr_val_text(b, y, &q, &n))
		return EXPR_E_DOUBT;
	if (m + n > env->st->max_record)
		return EXPR_E_DOUBT; /* only its length may be wanted: Lua has its own limits */
	uint8_t *to = record_scratch(env->r, MP_HEAD_MAX + m + n);
	if (!to)
		return -ENOMEM;
	uint8_t *body = mp_write_str_head(to, (uint32_t)(m + n));
	memcpy(body, p, m);
	memcpy(body + m, q, n);
	expr_val_str(out, body, m + n);
	out->raw = to;
	out->raw_len = (uint32_t)((size_t)(body - to) + m + n);
	return 0;
}

static int eval_call(const struct expr_tree *t, const struct expr_node *n, struct expr_env *env,
                     struct expr_val *out)
{
	struct expr_val args[EXPR_ARGS_MAX];
	for (unsigned i = 0; i < n->n; i++) {
		int r = expr_tree_eval(t, n->kid[i], env, &args[i]);
		if (r != 0)
			return r;
	}
	return expr_func_call(n->func, env, args, n->n, out);
}

static int eval_binary(const struct expr_tree *t, const struct expr_node *n, struct expr_env *env,
                       struct expr_val *out)
{
	struct expr_val a, b;
	int r = expr_tree_eval(t, n->kid[0], env, &a);
	if (r == 0 && (n->op == EXPR_AND || n->op == EXPR_OR)) {
		if (expr_val_true(&a) == (n->op == EXPR_AND))
			return expr_tree_eval(t, n->kid[1], env, out);
		*out = a;
		return 0;
	}
	if (r == 0)
		r = expr_tree_eval(t, n->kid[1], env, &b);
	if (r != 0)
		return r;
	if (n->op == EXPR_CONCAT)
		return eval_concat(env, &a, &b, out);
	if (n->op >= EXPR_EQ && n->op <= EXPR_GE)
		return eval_compare(n->op, &a, &b, out);
	return eval_arithmetic(n->op, &a, &b, out);
}

static int eval_unary(const struct expr_tree *t, const struct expr_node *n, struct expr_env *env,
                      struct expr_val *out)
{
	struct expr_val a;
	int r = expr_tree_eval(t, n->kid[0], env, &a);
	if (r != 0)
		return r;
	if (n->op == EXPR_NEG)
		return eval_negative(&a, out);
	if (n->op == EXPR_LENGTH)
		return eval_length(&a, out);
	expr_val_bool(out, !expr_val_true(&a));
	return 0;
}

int expr_tree_eval(const struct expr_tree *t, uint16_t node, struct expr_env *env,
                   struct expr_val *out)
{
	const struct expr_node *n = &t->nodes[node];
	switch (n->op) {
	case EXPR_LITERAL:
		*out = n->literal;
		return 0;
	case EXPR_FIELD:
		eval_field(n, env->r, out);
		return 0;
	case EXPR_CALL:
		return eval_call(t, n, env, out);
	case EXPR_NOT:
	case EXPR_NEG:
	case EXPR_LENGTH:
		return eval_unary(t, n, env, out);
	default:
		return eval_binary(t, n, env, out);
	}
}
