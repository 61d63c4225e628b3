/*
 * Expressions as stages see them: a literal of the configuration, or a tree, or Lua.
 *
 * An expression is compiled where the configuration is read and evaluated in workers forked later.
 * What a process needs for itself (the Lua function) is made there, when first needed.
 */
#include "stages/expr_tree.h"
#include "stages/regex.h"

#include <string.h>

struct expr {
	char *text; /* without the leading = */
	size_t len;
	bool native;
	struct expr_tree tree;
	struct expr_lua lua;
};

struct expr *expr_free(struct expr *e)
{
	if (!e)
		return NULL;
	expr_lua_free(&e->lua);
	expr_tree_deinit(&e->tree);
	free(e->text);
	free(e);
	return NULL;
}

bool expr_native(const struct expr *e)
{
	return e->native;
}

/* A tree of one literal: what is no expression needs no other code. */
static int literal_tree(struct expr_tree *t, const struct mp *v)
{
	size_t len = v->type == MP_STR ? v->len : 0;
	t->nodes = calloc(1, sizeof(*t->nodes));
	t->pool = malloc(MP_HEAD_MAX + len);
	if (!t->nodes || !t->pool)
		return -ENOMEM;
	t->n = 1;
	t->pool_len = (size_t)(mp_write(t->pool, v) - t->pool);
	expr_val_field(&t->nodes[0].literal, t->pool, (uint32_t)t->pool_len);
	return 0;
}

struct mp expr_node_literal(const struct node *n)
{
	switch (n->scalar) {
	case NODE_NULL:
		return (struct mp){.type = MP_NIL};
	case NODE_BOOL:
		return (struct mp){.type = MP_BOOL, .b = n->b};
	case NODE_INT:
		if (n->u > INT64_MAX)
			return (struct mp){.type = MP_UINT, .u = n->u};
		return (struct mp){.type = n->i < 0 ? MP_INT : MP_UINT, .i = n->i};
	case NODE_FLOAT:
		return (struct mp){.type = MP_FLOAT, .d = n->d};
	default:
		break;
	}
	bool escaped = n->len >= 2 && n->text[0] == '=' && n->text[1] == '=';
	return (struct mp){.type = MP_STR,
	                   .p = (const uint8_t *)n->text + escaped,
	                   .len = (uint32_t)n->len - escaped};
}

bool expr_is_expression(const struct node *n)
{
	return n->kind == NODE_SCALAR && n->scalar == NODE_STRING && n->len >= 1 &&
	       n->text[0] == '=' && !(n->len >= 2 && n->text[1] == '=');
}

static bool balanced(const char *text, size_t len)
{
	int depth = 0;
	for (size_t i = 0; i < len; i++)
		depth += (text[i] == '(' || text[i] == '{') - (text[i] == ')' || text[i] == '}');
	return depth == 0;
}

/* The end of the quoted text that starts at @p. */
static const char *skip_quoted(const char *p)
{
	const char *q = p + 1;
	for (; *q && *q != *p; q++)
		if (*q == '\\' && q[1])
			q++;
	return *q ? q + 1 : q;
}

static bool word_char(char c)
{
	return c == '_' || c == '.' || c == ':' || (c >= '0' && c <= '9') ||
	       (uint8_t)((c | 32) - 'a') < 26;
}

static bool known_call(const char *name, size_t len)
{
	static const char *const others[] = {
	        "type",  "ipairs", "pairs",  "next",  "select", "assert",       "error",
	        "pcall", "rawget", "rawlen", "array", "not",    "setmetatable", "getmetatable",
	        "and",   "or",     "rawset", "F",     NULL};
	if (memchr(name, '.', len) || memchr(name, ':', len) || expr_func_find(name, len))
		return true;
	for (size_t k = 0; others[k]; k++)
		if (strlen(others[k]) == len && memcmp(others[k], name, len) == 0)
			return true;
	return false;
}

/* A misspelt function would only show when a record comes. */
static void check_calls(const struct expr *e, const struct node *n, struct complaints *c)
{
	for (const char *p = e->text; *p;) {
		const char *q = p;
		while (word_char(*q))
			q++;
		if (q == p) {
			p = *p == '"' || *p == '\'' ? skip_quoted(p) : p + 1;
			continue;
		}
		if (*q == '(' && !known_call(p, (size_t)(q - p))) {
			_cleanup_free_ char *name = strndup(p, (size_t)(q - p));
			const char *near = name ? expr_func_nearest(name) : NULL;
			complain(c, n, "expression: there is no function %s()%s%s%s",
			         name ? name : "", near ? "; did you mean " : "", near ? near : "",
			         near ? "()?" : "");
			return;
		}
		p = q;
	}
}

/* Patterns that are written out can be wrong right away. */
static void check_patterns(const struct expr *e, const struct node *n, struct complaints *c)
{
	for (unsigned i = 0; i < e->tree.n; i++) {
		const struct expr_node *call = &e->tree.nodes[i];
		if (call->op != EXPR_CALL ||
		    (call->func->fn != expr_fn_match && call->func->fn != expr_fn_capture))
			continue;
		const struct expr_node *p = &e->tree.nodes[call->kid[1]];
		char why[160];
		if (p->op != EXPR_LITERAL || p->literal.v.type != MP_STR)
			continue;
		struct regex *x =
		        regex_new((const char *)p->literal.v.p, p->literal.v.len, why, sizeof(why));
		if (!x)
			complain(c, n, "expression: %s(): %s", call->func->name, why);
		regex_free(x);
	}
}

/* Compiles e->text. False after a complaint. */
static bool compile(struct expr *e, const struct node *n, struct complaints *c)
{
	char why[160], lua_why[160];
	size_t at = 0;
	unsigned before = c->count;
	int r = expr_parse(&e->tree, e->text, e->len, &at, why, sizeof(why));
	int l = expr_lua_check(e->text, e->len, lua_why, sizeof(lua_why));
	if (r == -ENOMEM || l == -ENOMEM) {
		complain(c, n, "out of memory");
	} else if (r == EXPR_E_SYNTAX) {
		complain(c, n, "expression: %s, at character %zu of \"%s\"%s", why, at + 1, e->text,
		         balanced(e->text, e->len)
		                 ? ""
		                 : " (brackets do not match: put it in quotes, YAML ends a value "
		                   "within {} at a comma)");
	} else if (l != 0) {
		complain(c, n, "expression: %s, in \"%s\"", lua_why, e->text);
	} else {
		e->native = r == 0;
		if (e->native)
			check_patterns(e, n, c);
		else if (!strstr(e->text, "function") && !strstr(e->text, "[["))
			check_calls(e, n, c);
	}
	return c->count == before;
}

struct expr *expr_compile(const struct node *n, bool always, struct complaints *c)
{
	if (n->kind != NODE_SCALAR) {
		complain(c, n, "expected a value or an expression, not %s", node_describe(n));
		return NULL;
	}
	struct expr *e = calloc(1, sizeof(*e));
	if (!e) {
		complain(c, n, "out of memory");
		return NULL;
	}
	bool expression = expr_is_expression(n);
	if (!expression && !(always && n->scalar == NODE_STRING)) {
		struct mp v = expr_node_literal(n);
		e->native = true;
		if (literal_tree(&e->tree, &v) == 0)
			return e;
		complain(c, n, "out of memory");
		return expr_free(e);
	}
	e->len = n->len - expression;
	e->text = strndup(n->text + expression, e->len);
	if (e->text && strlen(e->text) == e->len && compile(e, n, c))
		return e;
	if (!e->text || strlen(e->text) != e->len)
		complain(c, n, "expression: a NUL byte or no memory");
	return expr_free(e);
}

int expr_open(struct expr *e)
{
	return e->native ? 0 : expr_lua_open(&e->lua, e->text, e->len);
}

static int finish(int r, struct expr_env *env, struct expr_val *v, const uint8_t **val,
                  uint32_t *len)
{
	*val = NULL;
	*len = 0;
	if (r == EXPR_E_FAILED)
		return STAGE_E_REJECT;
	if (r != 0 || v->v.type == MP_NIL)
		return r;
	r = expr_val_bytes(v, env->r);
	*val = v->raw;
	*len = v->raw_len;
	return r;
}

static int eval(struct expr *e, struct expr_env *env, struct expr_val *out)
{
	int r = e->native ? expr_tree_eval(&e->tree, e->tree.root, env, out) : EXPR_E_DOUBT;
	if (r == EXPR_E_DOUBT)
		r = expr_lua_eval(&e->lua, e->text, e->len, env, out);
	return r;
}

int expr_eval(struct expr *e, struct stage *st, struct record *r, const uint8_t **val,
              uint32_t *len)
{
	struct expr_env env = {st, r};
	struct expr_val v;
	int answer = eval(e, &env, &v);
	return finish(answer, &env, &v, val, len);
}

int expr_eval_lua(struct expr *e, struct stage *st, struct record *r, const uint8_t **val,
                  uint32_t *len)
{
	struct expr_env env = {st, r};
	struct expr_val v;
	int answer =
	        e->text ? expr_lua_eval(&e->lua, e->text, e->len, &env, &v) : eval(e, &env, &v);
	return finish(answer, &env, &v, val, len);
}

int expr_true(struct expr *e, struct stage *st, struct record *r, bool *yes)
{
	struct expr_env env = {st, r};
	struct expr_val v;
	int answer = eval(e, &env, &v);
	if (answer == EXPR_E_FAILED)
		return STAGE_E_REJECT;
	*yes = answer == 0 && expr_val_true(&v);
	return answer;
}
