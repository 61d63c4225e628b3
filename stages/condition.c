/*
 * Conditions: a small tree of tests on fields. See condition.h for what they mean.
 *
 * The hard idea: `is` compares bytes first. A literal is kept as msgpack in its shortest form,
 * which is how nearly every writer writes it; equal bytes are equal values, and only unequal bytes
 * need a second look (another encoding of the same text, 5 against 5.0).
 *
 * A list longer than CONDITION_LIST is found by hash. Numbers are hashed in one form (integers
 * where there is one), so that 5.0 finds 5 there too.
 */
#include "stages/condition.h"

#include "stages/compare.h"
#include "stages/expr.h"
#include "stages/regex.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <xxhash.h>

enum {
	CONDITION_LIST = 8,
	CONDITION_DEPTH = 32,
};

enum test {
	TEST_ALL,
	TEST_ANY,
	TEST_NONE,
	TEST_EXPR,
	TEST_IS,
	TEST_NOT,
	TEST_LT,
	TEST_LE,
	TEST_GT,
	TEST_GE,
	TEST_MATCHES,
	TEST_EXISTS,
};

struct literal {
	struct mp v;
	uint8_t *raw; /* shortest msgpack */
	uint32_t raw_len;
};

struct condition {
	enum test test;
	const char *path; /* of the field: borrowed from the node */
	size_t path_len;
	bool dotted;
	bool exists;
	struct literal *list; /* IS, NOT: any of these; else one */
	size_t n_list;
	uint32_t *table; /* by hash: index into list + 1; a power of two of them; NULL: a short list
	                  */
	size_t mask;
	struct regex *regex;
	struct expr *expr;
	struct condition **kids;
	size_t n_kids;
};

static const char *const operators[] = {"is", "not", "in",      "lt",    "le",
                                        "gt", "ge",  "matches", "exists"};

struct condition *condition_free(struct condition *k)
{
	if (!k)
		return NULL;
	for (size_t i = 0; i < k->n_list; i++)
		free(k->list[i].raw);
	for (size_t i = 0; i < k->n_kids; i++)
		condition_free(k->kids[i]);
	free(k->list);
	free(k->table);
	free(k->kids);
	regex_free(k->regex);
	expr_free(k->expr);
	free(k);
	return NULL;
}

/* ---- literals ---- */

/* Integers where there is one, so that equal numbers are equal bytes. */
static struct mp one_form(struct mp v)
{
	if (v.type != MP_FLOAT || v.d != trunc(v.d))
		return v;
	if (v.d >= 0 && v.d < 0x1p64)
		return (struct mp){.type = MP_UINT, .u = (uint64_t)v.d};
	if (v.d < 0 && v.d >= -0x1p63)
		return (struct mp){.type = MP_INT, .i = (int64_t)v.d};
	return v;
}

static uint64_t hash_value(struct mp v)
{
	v = one_form(v);
	if (v.type == MP_STR)
		return XXH3_64bits_withSeed(v.p, v.len, MP_STR);
	uint64_t bits = v.type == MP_BOOL ? v.b : v.type == MP_NIL ? 0 : v.u;
	return XXH3_64bits_withSeed(&bits, sizeof(bits), (uint64_t)v.type);
}

static bool same(const struct mp *a, const struct mp *b)
{
	if (compare_is_number(a) && compare_is_number(b))
		return compare_numbers(a, b) == 0;
	if (a->type != b->type)
		return false;
	switch (a->type) {
	case MP_NIL:
		return true;
	case MP_BOOL:
		return a->b == b->b;
	case MP_STR:
		return a->len == b->len && (!a->len || memcmp(a->p, b->p, a->len) == 0);
	default:
		return false;
	}
}

static bool no_expression(const struct node *n, struct complaints *c)
{
	if (n->kind == NODE_SCALAR && !expr_is_expression(n))
		return true;
	if (n->kind == NODE_SCALAR)
		complain(c, n,
		         "an expression cannot stand here: write the whole condition as one "
		         "(\"a == b\"), or \"==\" for text that starts with =");
	else
		complain(c, n, "expected a value, not %s", node_describe(n));
	return false;
}

static bool add_literal(struct condition *k, const struct node *n, struct complaints *c)
{
	if (!no_expression(n, c))
		return false;
	struct literal *l = &k->list[k->n_list];
	l->v = expr_node_literal(n);
	l->raw = malloc(MP_HEAD_MAX + (l->v.type == MP_STR ? l->v.len : 0));
	if (!l->raw) {
		complain(c, n, "out of memory");
		return false;
	}
	k->n_list++;
	l->raw_len = (uint32_t)(mp_write(l->raw, &l->v) - l->raw);
	return true;
}

static void fill_table(struct condition *k)
{
	for (size_t i = 0; i < k->n_list; i++) {
		size_t at = hash_value(k->list[i].v) & k->mask;
		while (k->table[at])
			at = (at + 1) & k->mask;
		k->table[at] = (uint32_t)i + 1;
	}
}

static bool read_list(struct condition *k, const struct node *n, struct complaints *c)
{
	size_t n_items = n->kind == NODE_SEQ ? n->n : 1;
	bool good = true;
	k->list = calloc(n_items ? n_items : 1, sizeof(*k->list));
	if (!k->list) {
		complain(c, n, "out of memory");
		return false;
	}
	if (n->kind != NODE_SEQ)
		return add_literal(k, n, c);
	for (size_t i = 0; i < n->n; i++)
		good = add_literal(k, n->items[i], c) && good;
	if (!good || k->n_list <= CONDITION_LIST)
		return good;
	size_t cap = 2 * CONDITION_LIST;
	while (cap < 2 * k->n_list)
		cap *= 2;
	k->table = calloc(cap, sizeof(*k->table));
	k->mask = cap - 1;
	if (k->table)
		fill_table(k);
	return true; /* without a table it is searched one by one */
}

/* ---- reading ---- */

static struct condition *read_any(const struct node *n, unsigned depth, struct complaints *c);

static struct condition *new_condition(enum test test, const struct node *n, struct complaints *c)
{
	struct condition *k = calloc(1, sizeof(*k));
	if (!k)
		complain(c, n, "out of memory");
	else
		k->test = test;
	return k;
}

static bool add_kid(struct condition *k, struct condition *kid)
{
	if (!kid)
		return false;
	struct condition **p = reallocarray(k->kids, k->n_kids + 1, sizeof(*p));
	if (!p) {
		condition_free(kid);
		return false;
	}
	k->kids = p;
	k->kids[k->n_kids++] = kid;
	return true;
}

static bool read_pattern(struct condition *k, const struct node *n, struct complaints *c)
{
	char why[160];
	if (!no_expression(n, c))
		return false;
	struct mp v = expr_node_literal(n);
	if (v.type != MP_STR) {
		complain(c, n, "expected a regular expression, not %s", node_describe(n));
		return false;
	}
	k->regex = regex_new((const char *)v.p, v.len, why, sizeof(why));
	if (!k->regex)
		complain(c, n, "%s", why);
	return k->regex != NULL;
}

static bool read_order(struct condition *k, const struct node *n, struct complaints *c)
{
	if (n->kind == NODE_SCALAR && n->scalar != NODE_NULL && n->scalar != NODE_BOOL)
		return read_list(k, n, c);
	complain(c, n, "expected a number or text, not %s", node_describe(n));
	return false;
}

static bool read_operand(struct condition *k, const struct node *key, const struct node *n,
                         struct complaints *c)
{
	switch (k->test) {
	case TEST_MATCHES:
		return read_pattern(k, n, c);
	case TEST_LT:
	case TEST_LE:
	case TEST_GT:
	case TEST_GE:
		return read_order(k, n, c);
	case TEST_EXISTS:
		k->exists = n->b;
		if (n->kind == NODE_SCALAR && n->scalar == NODE_BOOL)
			return true;
		complain(c, n, "expected true or false, not %s", node_describe(n));
		return false;
	default:
		if (n->kind == NODE_SEQ || strcmp(key->text, "in") != 0)
			return read_list(k, n, c);
		complain(c, n, "`in` expects a list, not %s", node_describe(n));
		return false;
	}
}

static bool find_operator(const struct node *key, enum test *test, struct complaints *c)
{
	static const enum test tests[] = {TEST_IS, TEST_NOT, TEST_IS,      TEST_LT,    TEST_LE,
	                                  TEST_GT, TEST_GE,  TEST_MATCHES, TEST_EXISTS};
	size_t n = sizeof(operators) / sizeof(*operators);
	for (size_t i = 0; i < n; i++)
		if (strcmp(key->text, operators[i]) == 0) {
			*test = tests[i];
			return true;
		}
	const char *near = option_nearest(key->text, operators, n);
	complain(c, key,
	         "unknown operator \"%s\"%s%s%s (is, not, in, lt, le, gt, ge, matches, exists)",
	         key->text, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	return false;
}

static struct condition *new_test(enum test test, const struct node *field, const struct node *op,
                                  const struct node *value, struct complaints *c)
{
	struct condition *k = new_condition(test, field, c);
	if (!k)
		return NULL;
	k->path = field->text;
	k->path_len = field->len;
	k->dotted = memchr(field->text, '.', field->len) != NULL;
	if (!read_operand(k, op, value, c))
		return condition_free(k);
	return k;
}

/* Adds the tests of one field to @all. */
static bool read_field(struct condition *all, const struct node *field, const struct node *value,
                       struct complaints *c)
{
	bool good = true;
	if (value->kind != NODE_MAP)
		return add_kid(all, new_test(TEST_IS, field, field, value, c));
	if (value->n == 0) {
		complain(c, value, "expected at least one operator");
		return false;
	}
	NODE_FOREACH_PAIR(value, op, operand)
	{
		enum test test;
		good = find_operator(op, &test, c) &&
		       add_kid(all, new_test(test, field, op, operand, c)) && good;
	}
	return good;
}

/* The conditions under all, any, none. */
static bool read_group(struct condition *k, const struct node *n, unsigned depth,
                       struct complaints *c)
{
	bool good = true;
	if (n->kind != NODE_SEQ)
		return add_kid(k, read_any(n, depth, c));
	if (n->n == 0)
		complain(c, n, "expected at least one condition");
	for (size_t i = 0; i < n->n; i++)
		good = add_kid(k, read_any(n->items[i], depth, c)) && good;
	return good && n->n > 0;
}

/* A map inside any or none means: one of its fields. So that {any: {a: 1, b: 2}} is what it looks
 * like. */
static bool read_group_map(struct condition *k, const struct node *n, unsigned depth,
                           struct complaints *c)
{
	struct condition *inner = read_any(n, depth, c);
	if (!inner || inner->test != TEST_ALL || k->test == TEST_ALL)
		return add_kid(k, inner);
	bool good = true;
	for (size_t i = 0; i < inner->n_kids; i++) {
		good = good && add_kid(k, inner->kids[i]);
		if (good)
			inner->kids[i] = NULL;
	}
	condition_free(inner);
	return good;
}

static struct condition *read_map(const struct node *n, unsigned depth, struct complaints *c)
{
	static const char *const groups[] = {"all", "any", "none"};
	struct condition *all = new_condition(TEST_ALL, n, c);
	bool good = all != NULL;
	if (good && n->n == 0) {
		complain(c, n, "expected at least one field");
		good = false;
	}
	NODE_FOREACH_PAIR(n, key, value)
	{
		size_t g = 0;
		if (!all)
			break;
		while (g < 3 && strcmp(key->text, groups[g]) != 0)
			g++;
		if (g == 3) {
			good = read_field(all, key, value, c) && good;
			continue;
		}
		struct condition *k = new_condition((enum test)g, key, c);
		bool read = k && (value->kind == NODE_MAP ? read_group_map(k, value, depth, c)
		                                          : read_group(k, value, depth, c));
		good = read && add_kid(all, k) && good;
		if (!read)
			condition_free(k);
	}
	if (!good)
		return condition_free(all);
	if (all->n_kids > 1)
		return all;
	struct condition *only = all->kids[0];
	all->n_kids = 0;
	condition_free(all);
	return only;
}

static struct condition *read_any(const struct node *n, unsigned depth, struct complaints *c)
{
	if (depth == CONDITION_DEPTH) {
		complain(c, n, "conditions are nested deeper than %d", CONDITION_DEPTH);
		return NULL;
	}
	if (n->kind == NODE_MAP)
		return read_map(n, depth + 1, c);
	if (n->kind == NODE_SEQ || (n->scalar != NODE_STRING && n->scalar != NODE_BOOL)) {
		complain(c, n, "expected an expression or a map of fields, not %s",
		         node_describe(n));
		return NULL;
	}
	struct condition *k = new_condition(TEST_EXPR, n, c);
	if (!k)
		return NULL;
	k->expr = expr_compile(n, true, c);
	return k->expr ? k : condition_free(k);
}

struct condition *condition_compile(const struct node *n, struct complaints *c)
{
	return read_any(n, 0, c);
}

int condition_open(struct condition *k)
{
	if (k->regex)
		regex_jit(k->regex);
	int r = k->expr ? expr_open(k->expr) : 0;
	for (size_t i = 0; r == 0 && i < k->n_kids; i++)
		r = condition_open(k->kids[i]);
	return r;
}

/* ---- testing ---- */

/* Whether the field is the literal. @val NULL: it is missing. */
static bool is_literal(const struct literal *l, const uint8_t *val, uint32_t len)
{
	if (!val)
		return l->v.type == MP_NIL;
	if (len == l->raw_len && memcmp(val, l->raw, len) == 0)
		return l->v.type != MP_FLOAT || l->v.d == l->v.d;
	/* two short texts of unequal bytes */
	if ((val[0] & 0xe0) == 0xa0 && (l->raw[0] & 0xe0) == 0xa0)
		return false;
	struct mp v = record_value(val, len);
	return same(&v, &l->v);
}

static bool in_table(const struct condition *k, const uint8_t *val, uint32_t len)
{
	struct mp v = record_value(val, len);
	if (v.type > MP_STR)
		return false;
	for (size_t at = hash_value(v) & k->mask; k->table[at]; at = (at + 1) & k->mask)
		if (same(&v, &k->list[k->table[at] - 1].v))
			return true;
	return false;
}

static bool in_list(const struct condition *k, const uint8_t *val, uint32_t len)
{
	if (k->table)
		return in_table(k, val, len);
	for (size_t i = 0; i < k->n_list; i++)
		if (is_literal(&k->list[i], val, len))
			return true;
	return false;
}

static bool in_order(const struct condition *k, const uint8_t *val, uint32_t len)
{
	const struct mp v = record_value(val, len), *l = &k->list[0].v;
	int d;
	if (compare_is_number(&v) && compare_is_number(l))
		d = compare_numbers(&v, l);
	else if (v.type == MP_STR && l->type == MP_STR)
		d = compare_bytes(v.p, v.len, l->p, l->len);
	else
		return false;
	if (d == COMPARE_UNORDERED)
		return false;
	switch (k->test) {
	case TEST_LT:
		return d < 0;
	case TEST_LE:
		return d <= 0;
	case TEST_GT:
		return d > 0;
	default:
		return d >= 0;
	}
}

static int matches(const struct condition *k, struct stage *st, const uint8_t *val, uint32_t len,
                   bool *yes)
{
	struct mp v = record_value(val, len);
	*yes = false;
	if (v.type != MP_STR)
		return 0;
	int r = regex_match(k->regex, v.p, v.len, 0, NULL, NULL);
	if (r == REGEX_E_LIMIT)
		return stage_say(st, STAGE_E_REJECT,
		                 "%s: the pattern takes too many steps on this text", k->path);
	*yes = r == 0;
	return r < 0 ? r : 0;
}

static const uint8_t *field_value(const struct condition *k, struct record *r, uint32_t *len)
{
	*len = 0;
	if (k->dotted)
		return record_path(r, k->path, k->path_len, len);
	const struct field *f = record_get(r, k->path, k->path_len);
	if (!f)
		return NULL;
	*len = f->val_len;
	return f->val;
}

static int test_field(const struct condition *k, struct stage *st, struct record *r, bool *yes)
{
	uint32_t len;
	const uint8_t *val = field_value(k, r, &len);
	switch (k->test) {
	case TEST_IS:
		*yes = in_list(k, val, len);
		return 0;
	case TEST_NOT:
		*yes = !in_list(k, val, len);
		return 0;
	case TEST_EXISTS:
		*yes = (record_value(val, len).type != MP_NIL) == k->exists;
		return 0;
	case TEST_MATCHES:
		return matches(k, st, val, len, yes);
	default:
		*yes = in_order(k, val, len);
		return 0;
	}
}

/* all: until one does not fit; any, none: until one does. */
static int test_group(const struct condition *k, struct stage *st, struct record *r, bool *yes)
{
	bool stop_at = k->test != TEST_ALL;
	bool kid = !stop_at;
	for (size_t i = 0; i < k->n_kids; i++) {
		int a = condition_true(k->kids[i], st, r, &kid);
		if (a != 0)
			return a;
		if (kid == stop_at)
			break;
	}
	*yes = k->test == TEST_NONE ? !kid : kid;
	return 0;
}

int condition_true(const struct condition *k, struct stage *st, struct record *r, bool *yes)
{
	if (k->test == TEST_EXPR)
		return expr_true(k->expr, st, r, yes);
	if (k->test <= TEST_NONE)
		return test_group(k, st, r, yes);
	return test_field(k, st, r, yes);
}
