/*
 * Lua's patterns (manual 6.4.1) with a matcher that counts: string.find, match, gmatch, gsub.
 *
 * The hard idea: Lua's own matcher backtracks inside one C call, where no hook can end it:
 * `.-.-.-.-x` on a long string runs for years. This one takes every step off the call's budget, so
 * it ends with an error like any other endless loop.
 *
 * Matching is by recursion over the pattern; only what follows a repeat recurs, hence the depth is
 * the number of repeats, captures and such in the pattern, and it is bounded.
 */
#include "stages/lua.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

enum {
	CAPTURES_MAX = 32,
	MATCH_DEPTH = 200,
	CHARGE_EVERY = 256,
	CAPTURE_OPEN = -1,
	CAPTURE_POSITION = -2,
};

struct matcher {
	lua_State *L;
	const char *s, *send; /* subject */
	const char *pend;
	unsigned steps;
	int depth;
	int n;
	struct {
		const char *at;
		ptrdiff_t len;
	} cap[CAPTURES_MAX];
};

static const char *match(struct matcher *m, const char *s, const char *p);

static void step(struct matcher *m)
{
	if (++m->steps % CHARGE_EVERY == 0)
		lua_box_charge(m->L, CHARGE_EVERY);
}

/* The byte behind the single item (a character, %x, a set) at @p. */
static const char *item_end(struct matcher *m, const char *p)
{
	if (*p == '%') {
		if (p + 1 == m->pend)
			luaL_error(m->L, "malformed pattern (ends with '%%')");
		return p + 2;
	}
	if (*p++ != '[')
		return p;
	if (p < m->pend && *p == '^')
		p++;
	do {
		if (p == m->pend)
			luaL_error(m->L, "malformed pattern (missing ']')");
		if (*p++ == '%') {
			if (p == m->pend)
				luaL_error(m->L, "malformed pattern (missing ']')");
			p++;
		}
	} while (p == m->pend || *p != ']');
	return p + 1;
}

static bool in_class(unsigned char c, char class)
{
	bool yes;
	switch (class | 32) {
	case 'a':
		yes = isalpha(c);
		break;
	case 'c':
		yes = iscntrl(c);
		break;
	case 'd':
		yes = isdigit(c);
		break;
	case 'g':
		yes = isgraph(c);
		break;
	case 'l':
		yes = islower(c);
		break;
	case 'p':
		yes = ispunct(c);
		break;
	case 's':
		yes = isspace(c);
		break;
	case 'u':
		yes = isupper(c);
		break;
	case 'w':
		yes = isalnum(c);
		break;
	case 'x':
		yes = isxdigit(c);
		break;
	default:
		return c == (unsigned char)class;
	}
	return isupper((unsigned char)class) ? !yes : yes;
}

/* @p: behind "[", @end: at the closing "]". */
static bool in_set(unsigned char c, const char *p, const char *end)
{
	bool want = true;
	if (*p == '^') {
		want = false;
		p++;
	}
	while (p < end) {
		if (*p == '%') {
			if (in_class(c, p[1]))
				return want;
			p += 2;
		} else if (p + 2 < end && p[1] == '-') {
			if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2])
				return want;
			p += 3;
		} else if ((unsigned char)*p++ == c) {
			return want;
		}
	}
	return !want;
}

static bool item_matches(struct matcher *m, const char *s, const char *p, const char *pe)
{
	step(m);
	if (s >= m->send)
		return false;
	unsigned char c = (unsigned char)*s;
	switch (*p) {
	case '.':
		return true;
	case '%':
		return in_class(c, p[1]);
	case '[':
		return in_set(c, p + 1, pe - 1);
	default:
		return c == (unsigned char)*p;
	}
}

static const char *match_greedy(struct matcher *m, const char *s, const char *p, const char *pe,
                                ptrdiff_t least)
{
	ptrdiff_t n = 0;
	while (item_matches(m, s + n, p, pe))
		n++;
	for (; n >= least; n--) {
		const char *r = match(m, s + n, pe + 1);
		if (r)
			return r;
	}
	return NULL;
}

static const char *match_lazy(struct matcher *m, const char *s, const char *p, const char *pe)
{
	for (;; s++) {
		const char *r = match(m, s, pe + 1);
		if (r)
			return r;
		if (!item_matches(m, s, p, pe))
			return NULL;
	}
}

static const char *match_balance(struct matcher *m, const char *s, const char *p)
{
	if (m->pend - p < 2)
		luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
	if (s >= m->send || *s != *p)
		return NULL;
	int open = 1;
	while (++s < m->send) {
		step(m);
		if (*s == p[1]) {
			if (--open == 0)
				return s + 1;
		} else if (*s == *p) {
			open++;
		}
	}
	return NULL;
}

static const char *match_frontier(struct matcher *m, const char *s, const char *p)
{
	if (p >= m->pend || *p != '[')
		luaL_error(m->L, "missing '[' after '%%f' in pattern");
	const char *pe = item_end(m, p);
	unsigned char before = s == m->s ? 0 : (unsigned char)s[-1];
	unsigned char here = s == m->send ? 0 : (unsigned char)*s;
	if (in_set(before, p + 1, pe - 1) || !in_set(here, p + 1, pe - 1))
		return NULL;
	return match(m, s, pe);
}

static const char *match_reference(struct matcher *m, const char *s, char digit)
{
	int i = digit - '1';
	if (i < 0 || i >= m->n || m->cap[i].len == CAPTURE_OPEN)
		luaL_error(m->L, "invalid capture index %%%d", i + 1);
	size_t len = m->cap[i].len < 0 ? 0 : (size_t)m->cap[i].len;
	lua_box_charge(m->L, (double)len / 16);
	if ((size_t)(m->send - s) < len || (len && memcmp(m->cap[i].at, s, len) != 0))
		return NULL;
	return s + len;
}

static const char *open_capture(struct matcher *m, const char *s, const char *p, ptrdiff_t what)
{
	if (m->n >= CAPTURES_MAX)
		luaL_error(m->L, "too many captures");
	m->cap[m->n].at = s;
	m->cap[m->n++].len = what;
	const char *r = match(m, s, p);
	if (!r)
		m->n--;
	return r;
}

static const char *close_capture(struct matcher *m, const char *s, const char *p)
{
	int i = m->n - 1;
	while (i >= 0 && m->cap[i].len != CAPTURE_OPEN)
		i--;
	if (i < 0)
		luaL_error(m->L, "invalid pattern capture");
	m->cap[i].len = s - m->cap[i].at;
	const char *r = match(m, s, p);
	if (!r)
		m->cap[i].len = CAPTURE_OPEN;
	return r;
}

/* The item at @p with what repeats it. *@done: the answer is final; else the match goes on at the
 * result with *@p moved. */
static const char *match_item(struct matcher *m, const char *s, const char **p, bool *done)
{
	const char *pe = item_end(m, *p);
	const char *r;
	*done = true;
	switch (pe < m->pend ? *pe : 0) {
	case '?':
		if (item_matches(m, s, *p, pe) && (r = match(m, s + 1, pe + 1)))
			return r;
		*done = false;
		*p = pe + 1;
		return s;
	case '*':
		return match_greedy(m, s, *p, pe, 0);
	case '+':
		return match_greedy(m, s, *p, pe, 1);
	case '-':
		return match_lazy(m, s, *p, pe);
	default:
		if (!item_matches(m, s, *p, pe))
			return NULL;
		*done = false;
		*p = pe;
		return s + 1;
	}
}

static const char *match_here(struct matcher *m, const char *s, const char *p)
{
	while (s && p < m->pend) {
		bool done;
		step(m);
		if (*p == '(' && p + 1 < m->pend && p[1] == ')')
			return open_capture(m, s, p + 2, CAPTURE_POSITION);
		if (*p == '(')
			return open_capture(m, s, p + 1, CAPTURE_OPEN);
		if (*p == ')')
			return close_capture(m, s, p + 1);
		if (*p == '$' && p + 1 == m->pend)
			return s == m->send ? s : NULL;
		if (*p == '%' && p + 1 < m->pend && p[1] == 'b') {
			s = match_balance(m, s, p + 2);
			p += 4;
		} else if (*p == '%' && p + 1 < m->pend && p[1] == 'f') {
			return match_frontier(m, s, p + 2);
		} else if (*p == '%' && p + 1 < m->pend && isdigit((unsigned char)p[1])) {
			s = match_reference(m, s, p[1]);
			p += 2;
		} else {
			s = match_item(m, s, &p, &done);
			if (done)
				return s;
		}
	}
	return s;
}

static const char *match(struct matcher *m, const char *s, const char *p)
{
	if (++m->depth > MATCH_DEPTH)
		luaL_error(m->L, "pattern too complex");
	const char *r = match_here(m, s, p);
	m->depth--;
	return r;
}

static void begin(struct matcher *m, lua_State *L, const char *s, size_t len, const char *p,
                  size_t p_len)
{
	*m = (struct matcher){.L = L, .s = s, .send = s + len, .pend = p + p_len};
}

static void push_capture(struct matcher *m, int i, const char *s, const char *e)
{
	if (i == 0 && m->n == 0)
		lua_pushlstring(m->L, s, (size_t)(e - s));
	else if (i >= m->n)
		luaL_error(m->L, "invalid capture index %%%d", i + 1);
	else if (m->cap[i].len == CAPTURE_OPEN)
		luaL_error(m->L, "unfinished capture");
	else if (m->cap[i].len == CAPTURE_POSITION)
		lua_pushinteger(m->L, m->cap[i].at - m->s + 1);
	else
		lua_pushlstring(m->L, m->cap[i].at, (size_t)m->cap[i].len);
}

/* Pushes the captures; the whole match when there are none and @whole. */
static int push_captures(struct matcher *m, const char *s, const char *e, bool whole)
{
	int n = m->n == 0 && whole ? 1 : m->n;
	luaL_checkstack(m->L, n, "too many captures");
	for (int i = 0; i < n; i++)
		push_capture(m, i, s, e);
	return n;
}

/* Where a search starts: argument @i, from 1, negative from the end. */
static size_t start_of(lua_State *L, int i, size_t len)
{
	lua_Integer at = luaL_optinteger(L, i, 1);
	if (at > 0)
		return (size_t)at - 1;
	if (at == 0 || at < -(lua_Integer)len)
		return 0;
	return len + (size_t)at;
}

static int find_plain(lua_State *L, const char *s, size_t len, const char *p, size_t p_len,
                      size_t from)
{
	lua_box_charge(L, (double)(len - from) / 16);
	const char *at = memmem(s + from, len - from, p, p_len);
	if (!at) {
		lua_pushnil(L);
		return 1;
	}
	lua_pushinteger(L, at - s + 1);
	lua_pushinteger(L, at - s + (lua_Integer)p_len);
	return 2;
}

static int search(lua_State *L, bool find)
{
	size_t len, p_len;
	const char *s = luaL_checklstring(L, 1, &len);
	const char *p = luaL_checklstring(L, 2, &p_len);
	size_t from = start_of(L, 3, len);
	if (from > len) {
		lua_pushnil(L);
		return 1;
	}
	if (find && lua_toboolean(L, 4))
		return find_plain(L, s, len, p, p_len, from);
	struct matcher m;
	bool anchored = p_len > 0 && *p == '^';
	begin(&m, L, s, len, p, p_len);
	for (const char *at = s + from; at <= m.send; at++) {
		m.n = 0;
		const char *e = match(&m, at, p + anchored);
		if (e && find) {
			lua_pushinteger(L, at - s + 1);
			lua_pushinteger(L, e - s);
			return 2 + push_captures(&m, at, e, false);
		}
		if (e)
			return push_captures(&m, at, e, true);
		if (anchored)
			break;
	}
	lua_pushnil(L);
	return 1;
}

static int pattern_find(lua_State *L)
{
	return search(L, true);
}

static int pattern_match(lua_State *L)
{
	return search(L, false);
}

/* Upvalues: subject, pattern, next start, end of the last match (so that an empty one is not found
 * there). */
static int gmatch_next(lua_State *L)
{
	size_t len, p_len;
	const char *s = lua_tolstring(L, lua_upvalueindex(1), &len);
	const char *p = lua_tolstring(L, lua_upvalueindex(2), &p_len);
	const char *last = s + lua_tointeger(L, lua_upvalueindex(4));
	struct matcher m;
	begin(&m, L, s, len, p, p_len);
	for (const char *at = s + lua_tointeger(L, lua_upvalueindex(3)); at <= m.send; at++) {
		m.n = 0;
		const char *e = match(&m, at, p);
		if (!e || e == last)
			continue;
		lua_pushinteger(L, e - s);
		lua_copy(L, -1, lua_upvalueindex(3));
		lua_replace(L, lua_upvalueindex(4));
		return push_captures(&m, at, e, true);
	}
	return 0;
}

static int pattern_gmatch(lua_State *L)
{
	size_t len;
	luaL_checklstring(L, 1, &len);
	luaL_checkstring(L, 2);
	size_t from = start_of(L, 3, len);
	lua_settop(L, 2);
	lua_pushinteger(L, (lua_Integer)(from > len ? len + 1 : from));
	lua_pushinteger(L, -1);
	lua_pushcclosure(L, gmatch_next, 4);
	return 1;
}

static void add_by_text(struct matcher *m, luaL_Buffer *b, const char *s, const char *e)
{
	size_t len;
	const char *by = lua_tolstring(m->L, 3, &len);
	for (const char *end = by + len; by < end; by++) {
		if (*by != '%') {
			luaL_addchar(b, *by);
			continue;
		}
		if (++by == end || !(*by == '%' || isdigit((unsigned char)*by)))
			luaL_error(m->L, "invalid use of '%%' in replacement string");
		if (*by == '%') {
			luaL_addchar(b, '%');
		} else if (*by == '0') {
			luaL_addlstring(b, s, (size_t)(e - s));
		} else {
			push_capture(m, *by - '1', s, e);
			luaL_tolstring(m->L, -1, NULL);
			lua_remove(m->L, -2);
			luaL_addvalue(b);
		}
	}
}

static void add_replacement(struct matcher *m, luaL_Buffer *b, const char *s, const char *e)
{
	lua_State *L = m->L;
	int kind = lua_type(L, 3);
	if (kind == LUA_TFUNCTION) {
		lua_pushvalue(L, 3);
		lua_call(L, push_captures(m, s, e, true), 1);
	} else if (kind == LUA_TTABLE) {
		push_capture(m, 0, s, e);
		lua_gettable(L, 3);
	} else {
		add_by_text(m, b, s, e);
		return;
	}
	if (!lua_toboolean(L, -1)) {
		lua_pop(L, 1);
		luaL_addlstring(b, s, (size_t)(e - s));
		return;
	}
	if (!lua_isstring(L, -1))
		luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
	luaL_addvalue(b);
}

static int pattern_gsub(lua_State *L)
{
	size_t len, p_len;
	const char *s = luaL_checklstring(L, 1, &len), *last = NULL;
	const char *p = luaL_checklstring(L, 2, &p_len);
	int kind = lua_type(L, 3);
	lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)len + 1), n = 0;
	bool anchored = p_len > 0 && *p == '^';
	luaL_argexpected(L,
	                 kind == LUA_TNUMBER || kind == LUA_TSTRING || kind == LUA_TFUNCTION ||
	                         kind == LUA_TTABLE,
	                 3, "string/function/table");
	struct matcher m;
	luaL_Buffer b;
	luaL_buffinit(L, &b);
	begin(&m, L, s, len, p, p_len);
	while (n < most) {
		m.n = 0;
		const char *e = match(&m, s, p + anchored);
		if (e && e != last) {
			n++;
			add_replacement(&m, &b, s, e);
			s = last = e;
		} else if (s < m.send) {
			luaL_addchar(&b, *s++);
		} else {
			break;
		}
		if (anchored)
			break;
	}
	luaL_addlstring(&b, s, (size_t)(m.send - s));
	luaL_pushresult(&b);
	lua_pushinteger(L, n);
	return 2;
}

void lua_pattern_install(lua_State *L)
{
	static const luaL_Reg functions[] = {
	        {"find", pattern_find},
	        {"match", pattern_match},
	        {"gmatch", pattern_gmatch},
	        {"gsub", pattern_gsub},
	        {NULL, NULL},
	};
	luaL_setfuncs(L, functions, 0);
}
