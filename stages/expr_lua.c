/*
 * Expressions run by Lua: one box a process, one compiled function an expression.
 *
 * The hard idea: an expression means the same here as in the tree, so names are rewritten before
 * Lua sees them. In `upper(user.name) .. x` the name before "(" is a function and stays;
 * `user.name` and `x` are fields, and become F"user.name" and F"x": looked up as paths, at the
 * moment they are evaluated. That way a field called `len` does not hide the function, and a key
 * that contains dots is found. An expression with `function` in it may have variables of its own
 * and is not rewritten: its global names are looked up as functions first, then as fields, and dots
 * index step by step.
 *
 * nil is taught the rules of the tree by a metatable: arithmetic, `..`, `#` and indexing give nil,
 * order is false. Expressions cannot set variables: names belong to the record.
 */
#include "stages/lua.h"
#include "stages/expr_tree.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

enum {
	EXPR_LUA_MEMORY = 64 << 20,
	EXPR_LUA_INSTRUCTIONS = 1000000,
};

static struct lua_box *box;
static unsigned users; /* compiled expressions */

/* ---- functions and fields, as Lua sees them ---- */

static void arg_value(lua_State *L, int i, struct expr_env *env, struct expr_val *out)
{
	struct lua_box *b = lua_box_of(L);
	uint32_t len;
	size_t n;
	const char *s;
	const uint8_t *raw;
	*out = (struct expr_val){0};
	switch (lua_type(L, i)) {
	case LUA_TNIL:
		return;
	case LUA_TBOOLEAN:
		expr_val_bool(out, lua_toboolean(L, i));
		return;
	case LUA_TNUMBER:
		if (lua_isinteger(L, i))
			expr_val_int(out, lua_tointeger(L, i));
		else
			expr_val_float(out, lua_tonumber(L, i));
		return;
	case LUA_TSTRING:
		s = lua_tolstring(L, i, &n);
		if (n > UINT32_MAX)
			luaL_error(L, "the text is too long");
		expr_val_str(out, s, n);
		return;
	default:
		raw = lua_box_opaque(L, i, &len);
		if (!raw) {
			size_t at = b->out.len;
			lua_box_write(L, i, NULL, 0);
			len = (uint32_t)(b->out.len - at);
			uint8_t *p = record_scratch(env->r, len);
			if (!p)
				luaL_error(L, "not enough memory");
			memcpy(p, b->out.p + at, len);
			b->out.len = at;
			raw = p;
		}
		expr_val_field(out, raw, len);
	}
}

static void push_val(lua_State *L, const struct expr_val *v)
{
	switch (v->v.type) {
	case MP_NIL:
		lua_pushnil(L);
		return;
	case MP_BOOL:
		lua_pushboolean(L, v->v.b);
		return;
	case MP_FLOAT:
		lua_pushnumber(L, v->v.d);
		return;
	case MP_STR:
		lua_pushlstring(L, (const char *)v->v.p, v->v.len);
		return;
	default:
		break;
	}
	if (v->raw) {
		lua_box_push(L, v->raw, v->raw + v->raw_len);
		return;
	}
	uint8_t bytes[MP_HEAD_MAX];
	lua_box_push(L, bytes, mp_write(bytes, &v->v));
}

/* Any function of expr_funcs. Upvalue: the function. */
static int call_func(lua_State *L)
{
	const struct expr_func *f = lua_touserdata(L, lua_upvalueindex(1));
	struct lua_box *b = lua_box_of(L);
	struct expr_env env = {b->st, b->r};
	struct expr_val args[EXPR_ARGS_MAX], out;
	int n = lua_gettop(L);
	if (!env.r)
		return luaL_error(L, "%s() needs a record in hand", f->name);
	if (n < f->min || n > f->max)
		return luaL_error(L, "%s() takes %d to %d arguments, not %d", f->name, f->min,
		                  f->max, n);
	for (int i = 0; i < n; i++)
		arg_value(L, i + 1, &env, &args[i]);
	int r = expr_func_call(f, &env, args, (unsigned)n, &out);
	if (r == EXPR_E_FAILED)
		return luaL_error(L, "%s", env.st->why);
	if (r != 0)
		return luaL_error(L, "%s(): %s", f->name, strerror(-r));
	push_val(L, &out);
	return 1;
}

void expr_lua_install(lua_State *L, bool basic)
{
	for (const struct expr_func *f = expr_funcs; f->name; f++) {
		if ((f->flags & EXPR_BASIC) && !basic)
			continue;
		lua_pushlightuserdata(L, (void *)f);
		lua_pushcclosure(L, call_func, 1);
		lua_setglobal(L, f->name);
	}
}

static int get_field(lua_State *L)
{
	struct lua_box *b = lua_box_of(L);
	size_t n;
	const char *path = lua_tolstring(L, 1, &n);
	uint32_t len = 0;
	const uint8_t *p = path && b->r ? record_path(b->r, path, n, &len) : NULL;
	if (p)
		lua_box_push(L, p, p + len);
	else
		lua_pushnil(L);
	return 1;
}

/* __index of the globals: a function, else a field. Upvalue: the table of functions. */
static int get_global(lua_State *L)
{
	lua_pushvalue(L, 2);
	if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
		return 1;
	lua_remove(L, 1);
	return lua_type(L, 1) == LUA_TSTRING ? get_field(L) : 0;
}

static int refuse_set(lua_State *L)
{
	return luaL_error(L, "an expression cannot set a variable");
}

static int give_nil(lua_State *L)
{
	lua_pushnil(L);
	return 1;
}

static int give_false(lua_State *L)
{
	lua_pushboolean(L, false);
	return 1;
}

/* ---- the box ---- */

static void teach_nil(lua_State *L)
{
	static const char *const nils[] = {"__add", "__sub", "__mul",    "__div", "__idiv", "__mod",
	                                   "__pow", "__unm", "__concat", "__len", "__index"};
	static const char *const falses[] = {"__lt", "__le"};
	lua_pushnil(L);
	lua_newtable(L);
	for (size_t i = 0; i < sizeof(nils) / sizeof(*nils); i++) {
		lua_pushcfunction(L, give_nil);
		lua_setfield(L, -2, nils[i]);
	}
	for (size_t i = 0; i < sizeof(falses) / sizeof(*falses); i++) {
		lua_pushcfunction(L, give_false);
		lua_setfield(L, -2, falses[i]);
	}
	lua_pushboolean(L, false);
	lua_setfield(L, -2, "__metatable");
	lua_setmetatable(L, -2);
	lua_pop(L, 1);
}

/* Puts an empty table in front of the one on the top, whose fields are then read through it. */
static void protect(lua_State *L, lua_CFunction index)
{
	lua_newtable(L);
	lua_newtable(L);
	lua_rotate(L, -3, 2); /* proxy, meta, table */
	if (index)
		lua_pushcclosure(L, index, 1);
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, refuse_set);
	lua_setfield(L, -2, "__newindex");
	lua_pushboolean(L, false);
	lua_setfield(L, -2, "__metatable");
	lua_setmetatable(L, -2);
}

static int prepare_box(lua_State *L)
{
	static const char *const libraries[] = {"string", "table", "math", "utf8"};
	expr_lua_install(L, true);
	for (size_t i = 0; i < sizeof(libraries) / sizeof(*libraries); i++) {
		lua_getglobal(L, libraries[i]);
		protect(L, NULL);
		lua_setglobal(L, libraries[i]);
	}
	lua_pushnil(L);
	lua_setglobal(L, "_G");
	teach_nil(L);
	lua_pushglobaltable(L);
	protect(L, get_global);
	lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
	return 0;
}

static int open_process_box(void)
{
	if (box)
		return 0;
	box = lua_box_new(EXPR_LUA_MEMORY, EXPR_LUA_INSTRUCTIONS);
	if (!box)
		return -ENOMEM;
	if (lua_box_run(box, prepare_box, NULL, 0) == 0)
		return 0;
	box = lua_box_free(box);
	return -ENOMEM;
}

/* ---- rewriting ---- */

struct rewriter {
	const char *p, *end;
	struct buf *out;
	char before; /* last significant character that is no name */
	bool plain;  /* no rewriting */
};

static bool name_start(char c)
{
	return isalpha((unsigned char)c) || c == '_';
}

static bool name_char(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

static int copy(struct rewriter *w, const char *to)
{
	int r = buf_add(w->out, w->p, (size_t)(to - w->p));
	w->p = to;
	return r;
}

/* The end of the long bracket that starts at @p ("[[", "[==["), or NULL when none does. */
static const char *long_bracket(const char *p, const char *end)
{
	const char *q = p + 1;
	while (q < end && *q == '=')
		q++;
	if (q >= end || *q != '[')
		return NULL;
	size_t level = (size_t)(q - p - 1);
	for (q++; q < end; q++) {
		if (*q != ']' || (size_t)(end - q) < level + 2 || q[level + 1] != ']')
			continue;
		if (strspn(q + 1, "=") >= level)
			return q + level + 2;
	}
	return end;
}

static const char *quoted(const char *p, const char *end)
{
	const char *q = p + 1;
	for (; q < end && *q != *p; q++)
		if (*q == '\\')
			q++;
	return q < end ? q + 1 : end;
}

static bool is_word(const char *p, size_t n, const char *const *words)
{
	for (; *words; words++)
		if (strlen(*words) == n && memcmp(*words, p, n) == 0)
			return true;
	return false;
}

/* Lua's own words, which are no fields even when they are not called. */
static bool lua_word(const char *p, size_t n)
{
	static const char *const words[] = {
	        "and",    "or",    "not",    "nil",    "true",  "false", "function", "end",
	        "if",     "then",  "else",   "elseif", "for",   "in",    "do",       "while",
	        "repeat", "until", "return", "local",  "break", "goto",  NULL};
	return is_word(p, n, words);
}

/* Whether what follows makes the name before it a call, or a key of a table. */
static bool called_or_key(const char *p, const char *end)
{
	while (p < end && isspace((unsigned char)*p))
		p++;
	if (p >= end)
		return false;
	if (*p == '=')
		return p + 1 >= end || p[1] != '=';
	return *p == '(' || *p == '"' || *p == '\'' || *p == '{' ||
	       (*p == '[' && p + 1 < end && (p[1] == '[' || p[1] == '='));
}

static int rewrite_name(struct rewriter *w)
{
	const char *q = w->p;
	while (q < w->end && name_char(*q))
		q++;
	if (w->before == '.' || w->before == ':' || w->plain || lua_word(w->p, (size_t)(q - w->p)))
		return copy(w, q);
	while (q + 1 < w->end && *q == '.' && name_start(q[1]))
		for (q++; q < w->end && name_char(*q);)
			q++;
	/* a constant by its whole name: `null.x` is a field, as in the tree */
	if (called_or_key(q, w->end) || expr_parse_constant(w->p, (size_t)(q - w->p)))
		return copy(w, q);
	int r = buf_add_str(w->out, " F\"");
	if (r == 0)
		r = copy(w, q);
	return r == 0 ? buf_add_str(w->out, "\"") : r;
}

static int rewrite_step(struct rewriter *w)
{
	char c = *w->p;
	const char *q = NULL;
	if (name_start(c)) {
		int r = rewrite_name(w);
		w->before = 'a';
		return r;
	}
	if (isdigit((unsigned char)c) ||
	    (c == '.' && w->p + 1 < w->end && isdigit((unsigned char)w->p[1]))) {
		for (q = w->p + 1; q < w->end && (name_char(*q) || *q == '.');)
			q++;
		w->before = '0';
		return copy(w, q);
	}
	if (c == '"' || c == '\'')
		q = quoted(w->p, w->end);
	else if (c == '[')
		q = long_bracket(w->p, w->end);
	if (c == '.' && w->p + 1 < w->end && w->p[1] == '.') {
		q = w->p + 2;
		c = '~'; /* an operator, not an index */
	}
	if (!isspace((unsigned char)c))
		w->before = c;
	return copy(w, q ? q : w->p + 1);
}

static bool has_function(const char *text, size_t len)
{
	const char *p = text, *end = text + len;
	while ((p = memmem(p, (size_t)(end - p), "function", 8))) {
		if ((p == text || !name_char(p[-1])) && (p + 8 == end || !name_char(p[8])))
			return true;
		p += 8;
	}
	return false;
}

static int rewrite(const char *text, size_t len, struct buf *out)
{
	struct rewriter w = {
	        .p = text, .end = text + len, .out = out, .plain = has_function(text, len)};
	int r = buf_add_str(out, "local F=...;return ");
	while (r == 0 && w.p < w.end)
		r = rewrite_step(&w);
	return r;
}

/* ---- compiling and running ---- */

/* Compiles @text onto the stack. "expression" stands for it in messages. */
static int load_text(lua_State *L, const char *text, size_t len, char *why, size_t why_size)
{
	_cleanup_(buf_deinit) struct buf b = {0};
	int r = rewrite(text, len, &b);
	if (r < 0)
		return r;
	r = luaL_loadbufferx(L, (const char *)b.p, b.len, "=expression", "t");
	if (r == LUA_OK)
		return 0;
	const char *m = lua_tostring(L, -1);
	if (m && strncmp(m, "expression:", 11) == 0 && strchr(m + 11, ' '))
		m = strchr(m + 11, ' ') + 1;
	snprintf(why, why_size, "%s", m ? m : "out of memory");
	lua_pop(L, 1);
	return EXPR_E_SYNTAX;
}

int expr_lua_check(const char *text, size_t len, char *why, size_t why_size)
{
	struct lua_box *b = lua_box_new(EXPR_LUA_MEMORY, EXPR_LUA_INSTRUCTIONS);
	if (!b)
		return -ENOMEM;
	int r = load_text(b->L, text, len, why, why_size);
	lua_box_free(b);
	return r;
}

struct request {
	struct expr_lua *l;
	const char *text;
	size_t len;
	struct expr_val *out;
	struct record *r;
};

static int compile(lua_State *L)
{
	struct request *q = lua_touserdata(L, 1);
	char why[160];
	if (load_text(L, q->text, q->len, why, sizeof(why)) != 0)
		return luaL_error(L, "%s", why);
	q->l->ref = luaL_ref(L, LUA_REGISTRYINDEX);
	return 0;
}

int expr_lua_open(struct expr_lua *l, const char *text, size_t len)
{
	struct request q = {.l = l, .text = text, .len = len};
	int r = open_process_box();
	if (r < 0 || l->ref)
		return r;
	/* its text was checked: only memory can be missing */
	if (lua_box_run(box, compile, &q, 0) != 0)
		return -ENOMEM;
	users++;
	return 0;
}

void expr_lua_free(struct expr_lua *l)
{
	if (!l->ref)
		return;
	luaL_unref(box->L, LUA_REGISTRYINDEX, l->ref);
	l->ref = 0;
	if (--users == 0)
		box = lua_box_free(box);
}

static int evaluate(lua_State *L)
{
	struct request *q = lua_touserdata(L, 1);
	struct lua_box *b = lua_box_of(L);
	lua_rawgeti(L, LUA_REGISTRYINDEX, q->l->ref);
	lua_pushcfunction(L, get_field);
	lua_call(L, 1, 1);
	*q->out = (struct expr_val){0};
	if (lua_isnil(L, -1) || (lua_islightuserdata(L, -1) && !lua_touserdata(L, -1)))
		return 0;
	lua_box_write(L, -1, NULL, 0);
	uint8_t *p = record_scratch(q->r, b->out.len);
	if (!p)
		return luaL_error(L, "not enough memory");
	memcpy(p, b->out.p, b->out.len);
	expr_val_field(q->out, p, (uint32_t)b->out.len);
	return 0;
}

int expr_lua_eval(struct expr_lua *l, const char *text, size_t len, struct expr_env *env,
                  struct expr_val *out)
{
	struct request q = {.l = l, .text = text, .len = len, .out = out, .r = env->r};
	int r = expr_lua_open(l, text, len);
	if (r < 0)
		return r;
	box->st = env->st;
	box->r = env->r;
	r = lua_box_run(box, evaluate, &q, 0);
	box->st = NULL;
	box->r = NULL;
	if (r == 0)
		return 0;
	const char *why = strncmp(box->why, "expression:1: ", 14) == 0 ? box->why + 14 : box->why;
	return expr_fail(env, "%s", why);
}
