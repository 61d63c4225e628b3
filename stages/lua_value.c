/*
 * Values from msgpack to Lua, and the opaque ones, which Lua has no kind for. Back: lua_write.c.
 *
 * An opaque value is a userdata that holds the msgpack bytes. It may be passed on, compared, and
 * written as text; large integers are ordered among numbers exactly.
 */
#include "stages/lua.h"
#include "stages/expr_tree.h"

#include <lauxlib.h>
#include <string.h>

#define OPAQUE "opaque value"

struct opaque {
	uint32_t len;
	uint8_t raw[];
};

void lua_box_push_opaque(lua_State *L, const uint8_t *raw, uint32_t len)
{
	struct opaque *o = lua_newuserdatauv(L, sizeof(*o) + len, 0);
	o->len = len;
	memcpy(o->raw, raw, len);
	luaL_setmetatable(L, OPAQUE);
}

const uint8_t *lua_box_opaque(lua_State *L, int index, uint32_t *len)
{
	const struct opaque *o = luaL_testudata(L, index, OPAQUE);
	if (!o)
		return NULL;
	*len = o->len;
	return o->raw;
}

/* A number or opaque value at @index, for comparing. */
static bool comparable(lua_State *L, int index, struct mp *v)
{
	uint32_t len;
	const uint8_t *raw = lua_box_opaque(L, index, &len);
	if (raw) {
		*v = record_value(raw, len);
	} else if (lua_type(L, index) != LUA_TNUMBER) {
		return false;
	} else if (lua_isinteger(L, index)) {
		int64_t i = lua_tointeger(L, index);
		*v = (struct mp){.type = i < 0 ? MP_INT : MP_UINT, .i = i};
	} else {
		*v = (struct mp){.type = MP_FLOAT, .d = lua_tonumber(L, index)};
	}
	return true;
}

static int opaque_order(lua_State *L, bool or_equal)
{
	struct mp a, b;
	if (lua_isnil(L, 1) || lua_isnil(L, 2)) {
		lua_pushboolean(L, false);
		return 1;
	}
	if (!comparable(L, 1, &a) || !comparable(L, 2, &b) || !compare_is_number(&a) ||
	    !compare_is_number(&b))
		return luaL_error(L, "attempt to compare %s with %s", luaL_typename(L, 1),
		                  luaL_typename(L, 2));
	int c = compare_numbers(&a, &b);
	lua_pushboolean(L, c < 0 || (or_equal && c == 0));
	return 1;
}

static int opaque_lt(lua_State *L)
{
	return opaque_order(L, false);
}

static int opaque_le(lua_State *L)
{
	return opaque_order(L, true);
}

static int opaque_eq(lua_State *L)
{
	struct mp a, b;
	bool same = comparable(L, 1, &a) && comparable(L, 2, &b) && a.type == b.type;
	if (same && a.type == MP_UINT)
		same = a.u == b.u;
	else if (same)
		same = a.len == b.len && a.ext == b.ext && memcmp(a.p, b.p, a.len) == 0;
	lua_pushboolean(L, same);
	return 1;
}

static void push_text(lua_State *L, int index)
{
	char text[EXPR_NUMBER_MAX];
	struct mp v;
	if (!comparable(L, index, &v))
		lua_pushvalue(L, index);
	else if (compare_is_number(&v))
		lua_pushlstring(L, text, expr_number_text(&v, text));
	else if (v.type == MP_BIN)
		lua_pushlstring(L, (const char *)v.p, v.len);
	else
		lua_pushfstring(L, "ext(%d, %d bytes)", v.ext, (int)v.len);
}

static int opaque_tostring(lua_State *L)
{
	luaL_checkudata(L, 1, OPAQUE);
	push_text(L, 1);
	return 1;
}

/* Large integers as their digits; nil gives nil, as all over expressions. */
static int opaque_concat(lua_State *L)
{
	struct mp v;
	if (lua_isnil(L, 1) || lua_isnil(L, 2)) {
		lua_pushnil(L);
		return 1;
	}
	for (int i = 1; i <= 2; i++)
		if (lua_type(L, i) != LUA_TSTRING &&
		    !(comparable(L, i, &v) && compare_is_number(&v)))
			return luaL_error(L, "attempt to concatenate a %s value",
			                  luaL_typename(L, i));
	push_text(L, 1);
	push_text(L, 2);
	lua_concat(L, 2);
	return 1;
}

void lua_value_types(lua_State *L)
{
	static const luaL_Reg methods[] = {
	        {"__lt", opaque_lt},         {"__le", opaque_le},
	        {"__eq", opaque_eq},         {"__tostring", opaque_tostring},
	        {"__concat", opaque_concat}, {NULL, NULL},
	};
	luaL_newmetatable(L, OPAQUE);
	luaL_setfuncs(L, methods, 0);
	lua_pushboolean(L, false);
	lua_setfield(L, -2, "__metatable");
	luaL_newmetatable(L, LUA_BOX_ARRAY);
	lua_pop(L, 2);
}

static const uint8_t *push(lua_State *L, const uint8_t *p, const uint8_t *end, unsigned depth);

static const uint8_t *push_array(lua_State *L, const uint8_t *p, const uint8_t *end, uint32_t n,
                                 unsigned depth)
{
	/* every element is a byte at least: the claim was checked against what is left */
	lua_createtable(L, (int)n, 0);
	luaL_setmetatable(L, LUA_BOX_ARRAY);
	for (uint32_t i = 1; i <= n; i++) {
		p = push(L, p, end, depth);
		if (lua_isnil(L, -1)) {
			lua_pop(L, 1);
			lua_pushlightuserdata(L, NULL);
		}
		lua_rawseti(L, -2, i);
	}
	return p;
}

static const uint8_t *push_map(lua_State *L, const uint8_t *p, const uint8_t *end, uint32_t n,
                               unsigned depth)
{
	lua_createtable(L, 0, (int)n);
	for (uint32_t i = 0; i < n; i++) {
		p = push(L, p, end, depth);
		if (lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "a map has a key that is no text");
		p = push(L, p, end, depth);
		lua_rawset(L, -3);
	}
	return p;
}

static const uint8_t *push(lua_State *L, const uint8_t *p, const uint8_t *end, unsigned depth)
{
	struct mp v;
	const uint8_t *q = mp_read(p, end, &v);
	if (!q)
		luaL_error(L, "a value is no msgpack");
	if (v.type >= MP_ARRAY && v.type <= MP_MAP && depth == LUA_BOX_DEPTH)
		luaL_error(L, "a value is nested deeper than %d", LUA_BOX_DEPTH);
	luaL_checkstack(L, 4, "a value is nested too deep");
	switch (v.type) {
	case MP_NIL:
		lua_pushnil(L);
		return q;
	case MP_BOOL:
		lua_pushboolean(L, v.b);
		return q;
	case MP_UINT:
		if (v.u > INT64_MAX)
			break;
		/* fall through */
	case MP_INT:
		lua_pushinteger(L, v.i);
		return q;
	case MP_FLOAT:
		lua_pushnumber(L, v.d);
		return q;
	case MP_STR:
		lua_pushlstring(L, (const char *)v.p, v.len);
		return q;
	case MP_ARRAY:
		return push_array(L, q, end, v.n, depth + 1);
	case MP_MAP:
		return push_map(L, q, end, v.n, depth + 1);
	default:
		break;
	}
	lua_box_push_opaque(L, p, (uint32_t)(q - p));
	return q;
}

const uint8_t *lua_box_push(lua_State *L, const uint8_t *p, const uint8_t *end)
{
	return push(L, p, end, 0);
}
