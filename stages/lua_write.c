/*
 * Values from Lua to msgpack, and records both ways.
 *
 * The hard idea: a Lua table forgets the order of its keys, whether it was a list when empty, which
 * keys held nil, and how wide a float was. So writing a value takes the bytes it was made from as a
 * hint (`was`): what still says the same is copied byte for byte, keys that were there keep their
 * order, new ones follow sorted by their bytes. A record that goes through a script untouched comes
 * out identical.
 *
 * Limits: containers nest to LUA_BOX_DEPTH (a table that holds itself ends there); nil values
 * inside a map survive only while they stay in their place; keys are text, integers are written as
 * their digits.
 */
#include "stages/lua.h"

#include <lauxlib.h>
#include <string.h>

#include "stages/compare.h"

/* Room in box->out; what no record can hold is not written. */
static uint8_t *room(lua_State *L, size_t n)
{
	struct lua_box *b = lua_box_of(L);
	size_t most = b->st && b->st->max_record ? b->st->max_record : b->limit;
	if (b->out.len + n > most + MP_HEAD_MAX)
		luaL_error(L, "the result is too large");
	if (buf_room(&b->out, n) < 0)
		luaL_error(L, "not enough memory");
	return b->out.p + b->out.len;
}

static void wrote(lua_State *L, const uint8_t *end)
{
	struct lua_box *b = lua_box_of(L);
	b->out.len = (size_t)(end - b->out.p);
}

static void write_raw(lua_State *L, const uint8_t *p, size_t n)
{
	uint8_t *to = room(L, n);
	if (n)
		memcpy(to, p, n);
	wrote(L, to + n);
}

static void write_text(lua_State *L, const char *s, size_t n)
{
	if (n > UINT32_MAX)
		luaL_error(L, "the result is too large");
	uint8_t *p = room(L, MP_HEAD_MAX + n);
	if (mp_utf8_valid((const uint8_t *)s, n))
		wrote(L, mp_write_str(p, s, (uint32_t)n));
	else
		wrote(L, mp_write_bin(p, s, (uint32_t)n));
}

/* Whether the scalar at @index is what @was says. */
static bool unchanged(lua_State *L, int index, const struct mp *was)
{
	size_t n;
	const char *s;
	switch (lua_type(L, index)) {
	case LUA_TBOOLEAN:
		return was->type == MP_BOOL && was->b == lua_toboolean(L, index);
	case LUA_TSTRING:
		s = lua_tolstring(L, index, &n);
		return was->type == MP_STR && was->len == n && (!n || memcmp(s, was->p, n) == 0);
	case LUA_TNUMBER:
		if (lua_isinteger(L, index))
			return (was->type == MP_INT || was->type == MP_UINT) &&
			       was->i == lua_tointeger(L, index);
		return was->type == MP_FLOAT && was->d == lua_tonumber(L, index);
	default:
		return false;
	}
}

static void write_number(lua_State *L, int index)
{
	uint8_t *p = room(L, MP_HEAD_MAX);
	wrote(L, lua_isinteger(L, index) ? mp_write_int(p, lua_tointeger(L, index))
	                                 : mp_write_float(p, lua_tonumber(L, index)));
}

static void write_value(lua_State *L, int index, const uint8_t *was, uint32_t was_len,
                        unsigned depth);

/* The element of @hint's list or map that goes with the one being written; both NULL when there is
 * none. */
struct hint {
	const uint8_t *p, *end; /* what is left of the container */
	uint32_t n;             /* elements or pairs left */
};

static void next_element(struct hint *h, const uint8_t **p, uint32_t *len)
{
	*p = NULL;
	*len = 0;
	if (!h->n)
		return;
	const uint8_t *q = mp_skip(h->p, h->end);
	if (!q)
		return;
	h->n--;
	*p = h->p;
	*len = (uint32_t)(q - h->p);
	h->p = q;
}

static void write_array(lua_State *L, int index, lua_Integer n, struct hint h, unsigned depth)
{
	wrote(L, mp_write_array_head(room(L, MP_HEAD_MAX), (uint32_t)n));
	for (lua_Integer i = 1; i <= n; i++) {
		const uint8_t *was;
		uint32_t len;
		next_element(&h, &was, &len);
		lua_rawgeti(L, index, i);
		write_value(L, lua_gettop(L), was, len, depth);
		lua_pop(L, 1);
	}
}

/* A key that the value's former bytes do not have. */
struct key {
	const char *s; /* held by the table; an integer's text is in `digits` */
	size_t len;
	bool integer;
	lua_Integer i;
	char digits[24];
};

/* Not kept in the struct, which moves when it is sorted. */
static const char *key_text(const struct key *k)
{
	return k->integer ? k->digits : k->s;
}

static int order_keys(const void *a, const void *b)
{
	const struct key *x = a, *y = b;
	return compare_bytes((const uint8_t *)key_text(x), (uint32_t)x->len,
	                     (const uint8_t *)key_text(y), (uint32_t)y->len);
}

static void read_key(lua_State *L, int index, struct key *k)
{
	k->integer = lua_type(L, index) != LUA_TSTRING;
	if (!k->integer) {
		k->s = lua_tolstring(L, index, &k->len);
		if (!mp_utf8_valid((const uint8_t *)k->s, k->len))
			luaL_error(L, "a map has a key that is no UTF-8");
		return;
	}
	if (!lua_isinteger(L, index))
		luaL_error(L, "a map has a key that is neither text nor an integer");
	k->i = lua_tointeger(L, index);
	k->len = (size_t)snprintf(k->digits, sizeof(k->digits), "%lld", (long long)k->i);
}

static uint32_t count_entries(lua_State *L, int index)
{
	uint32_t n = 0;
	lua_pushnil(L);
	for (; lua_next(L, index); n++)
		lua_pop(L, 1);
	return n;
}

/* Whether the set at @old (0: there is none) or the record @r (may be NULL) has the key. */
static bool is_old(lua_State *L, int old, struct record *r, const struct key *k)
{
	if (r && record_get(r, key_text(k), k->len))
		return true;
	if (!old)
		return false;
	lua_pushlstring(L, key_text(k), k->len);
	bool yes = lua_rawget(L, old) != LUA_TNIL;
	lua_pop(L, 1);
	return yes;
}

/* Pushes one block with the new keys of the table at @index, sorted; *@n of them, @max entries in
 * all. */
static struct key *push_new_keys(lua_State *L, int index, uint32_t max, int old, struct record *r,
                                 uint32_t *n)
{
	struct key *keys = lua_newuserdatauv(L, (max + 1) * sizeof(*keys), 0);
	*n = 0;
	lua_pushnil(L);
	while (lua_next(L, index)) {
		struct key *k = &keys[*n];
		lua_pop(L, 1);
		read_key(L, -1, k);
		if (!is_old(L, old, r, k))
			++*n;
		else if (k->integer)
			luaL_error(L, "a map has the key %s as text and as an integer", k->digits);
	}
	qsort(keys, *n, sizeof(*keys), order_keys);
	for (uint32_t i = 1; i < *n; i++)
		if (order_keys(&keys[i - 1], &keys[i]) == 0)
			luaL_error(L, "a map has the key %s twice", key_text(&keys[i]));
	return keys;
}

static void push_entry(lua_State *L, int index, const struct key *k)
{
	if (k->integer)
		lua_rawgeti(L, index, k->i);
	else {
		lua_pushlstring(L, k->s, k->len);
		lua_rawget(L, index);
	}
}

static bool next_pair(struct hint *h, struct mp *key, const uint8_t **val, uint32_t *len)
{
	if (!h->n)
		return false;
	const uint8_t *p = mp_read(h->p, h->end, key);
	const uint8_t *q = p && key->type == MP_STR ? mp_skip(p, h->end) : NULL;
	if (!q)
		return false;
	h->n--;
	h->p = q;
	*val = p;
	*len = (uint32_t)(q - p);
	return true;
}

/* How many pairs of @h are still in the table at @index. *@nils: those that were and are nil. */
static uint32_t count_old(lua_State *L, int index, struct hint h, uint32_t *nils)
{
	struct mp key;
	const uint8_t *val;
	uint32_t len, n = 0;
	*nils = 0;
	while (next_pair(&h, &key, &val, &len)) {
		lua_pushlstring(L, (const char *)key.p, key.len);
		if (lua_rawget(L, index) != LUA_TNIL)
			n++;
		else if (record_value(val, len).type == MP_NIL)
			++*nils;
		lua_pop(L, 1);
	}
	return n;
}

static int push_old_keys(lua_State *L, struct hint h)
{
	struct mp key;
	const uint8_t *val;
	uint32_t len;
	lua_newtable(L);
	while (next_pair(&h, &key, &val, &len)) {
		lua_pushlstring(L, (const char *)key.p, key.len);
		lua_pushboolean(L, true);
		lua_rawset(L, -3);
	}
	return lua_gettop(L);
}

static void write_old_pairs(lua_State *L, int index, struct hint h, unsigned depth)
{
	struct mp key;
	const uint8_t *val;
	uint32_t len;
	while (next_pair(&h, &key, &val, &len)) {
		lua_pushlstring(L, (const char *)key.p, key.len);
		if (lua_rawget(L, index) != LUA_TNIL || record_value(val, len).type == MP_NIL) {
			write_text(L, (const char *)key.p, key.len);
			write_value(L, lua_gettop(L), val, len, depth);
		}
		lua_pop(L, 1);
	}
}

static void write_map(lua_State *L, int index, struct hint h, unsigned depth)
{
	uint32_t nils, total = count_entries(L, index), fresh = 0;
	uint32_t old = count_old(L, index, h, &nils);
	struct key *keys = NULL;
	if (old < total)
		keys = push_new_keys(L, index, total, h.n ? push_old_keys(L, h) : 0, NULL, &fresh);
	wrote(L, mp_write_map_head(room(L, MP_HEAD_MAX), old + nils + fresh));
	write_old_pairs(L, index, h, depth);
	for (uint32_t i = 0; i < fresh; i++) {
		write_text(L, key_text(&keys[i]), keys[i].len);
		push_entry(L, index, &keys[i]);
		write_value(L, lua_gettop(L), NULL, 0, depth);
		lua_pop(L, 1);
	}
}

/* Whether the table at @index is a list: it is marked as one, or has the keys 1 to n and no other.
 */
static bool is_list(lua_State *L, int index, const struct mp *was, lua_Integer *n)
{
	*n = (lua_Integer)lua_rawlen(L, index);
	uint32_t entries = count_entries(L, index);
	if (entries != *n)
		return false;
	if (*n > 0)
		return true;
	bool marked = lua_getmetatable(L, index);
	if (marked) {
		luaL_getmetatable(L, LUA_BOX_ARRAY);
		marked = lua_rawequal(L, -1, -2);
		lua_pop(L, 2);
	}
	return marked || was->type == MP_ARRAY;
}

static void write_table(lua_State *L, int index, const struct mp *was, struct hint h,
                        unsigned depth)
{
	lua_Integer n;
	if (depth == LUA_BOX_DEPTH)
		luaL_error(L, "a table is nested deeper than %d", LUA_BOX_DEPTH);
	luaL_checkstack(L, 12, "a table is nested too deep");
	int top = lua_gettop(L);
	if (is_list(L, index, was, &n)) {
		if (was->type != MP_ARRAY)
			h.n = 0;
		write_array(L, index, n, h, depth + 1);
	} else {
		if (was->type != MP_MAP)
			h.n = 0;
		write_map(L, index, h, depth + 1);
	}
	lua_settop(L, top);
}

static void write_value(lua_State *L, int index, const uint8_t *was, uint32_t was_len,
                        unsigned depth)
{
	struct mp v = {.type = MP_NIL};
	struct hint h = {0};
	size_t n;
	const char *s;
	uint32_t len = 0;
	const uint8_t *raw;
	if (was) {
		h.p = mp_read(was, was + was_len, &v);
		h.end = was + was_len;
		h.n = h.p && (v.type == MP_ARRAY || v.type == MP_MAP) ? v.n : 0;
	}
	if (was && unchanged(L, index, &v)) {
		write_raw(L, was, was_len);
		return;
	}
	switch (lua_type(L, index)) {
	case LUA_TNIL:
		wrote(L, mp_write_nil(room(L, MP_HEAD_MAX)));
		return;
	case LUA_TBOOLEAN:
		wrote(L, mp_write_bool(room(L, MP_HEAD_MAX), lua_toboolean(L, index)));
		return;
	case LUA_TNUMBER:
		write_number(L, index);
		return;
	case LUA_TSTRING:
		s = lua_tolstring(L, index, &n);
		write_text(L, s, n);
		return;
	case LUA_TTABLE:
		write_table(L, index, &v, h, depth);
		return;
	case LUA_TLIGHTUSERDATA: /* null */
		wrote(L, mp_write_nil(room(L, MP_HEAD_MAX)));
		return;
	default:
		raw = lua_box_opaque(L, index, &len);
		if (!raw)
			luaL_error(L, "a %s is no value for a record", luaL_typename(L, index));
		write_raw(L, raw, len);
	}
}

void lua_box_write(lua_State *L, int index, const uint8_t *was, uint32_t was_len)
{
	write_value(L, lua_absindex(L, index), was, was_len, 0);
}

void lua_box_push_record(lua_State *L, const struct record *r)
{
	lua_createtable(L, 0, (int)r->n);
	for (uint32_t i = 0; i < r->n; i++) {
		const struct field *f = &r->fields[i];
		lua_pushlstring(L, (const char *)f->key, f->key_len);
		lua_box_push(L, f->val, f->val + f->val_len);
		lua_rawset(L, -3);
	}
}

/* The value just written to box->out from @at on, moved to the record's scratch. */
static const uint8_t *keep(lua_State *L, struct record *r, size_t at, uint32_t *len)
{
	struct lua_box *b = lua_box_of(L);
	*len = (uint32_t)(b->out.len - at);
	uint8_t *p = record_scratch(r, *len ? *len : 1);
	if (!p)
		luaL_error(L, "not enough memory");
	memcpy(p, b->out.p + at, *len);
	b->out.len = at;
	return p;
}

/* Takes over what became of field @i, which the table at @index may still have. False: it is gone.
 */
static bool take_field(lua_State *L, int index, struct record *r, uint32_t i, uint32_t *kept)
{
	struct field *f = &r->fields[i];
	uint32_t len;
	lua_pushlstring(L, (const char *)f->key, f->key_len);
	if (lua_rawget(L, index) == LUA_TNIL) {
		lua_pop(L, 1);
		return record_value(f->val, f->val_len).type == MP_NIL;
	}
	++*kept;
	size_t at = lua_box_of(L)->out.len;
	write_value(L, lua_gettop(L), f->val, f->val_len, 0);
	lua_pop(L, 1);
	const struct buf *out = &lua_box_of(L)->out;
	if (out->len - at == f->val_len && memcmp(out->p + at, f->val, f->val_len) == 0) {
		lua_box_of(L)->out.len = at;
		return true;
	}
	const uint8_t *val = keep(L, r, at, &len);
	if (record_set(r, (const char *)f->key, f->key_len, val, len) < 0)
		luaL_error(L, "not enough memory");
	return true;
}

static void add_field(lua_State *L, int index, struct record *r, const struct key *k)
{
	uint32_t len;
	uint8_t *name = record_scratch(r, k->len ? k->len : 1);
	if (!name)
		luaL_error(L, "not enough memory");
	memcpy(name, key_text(k), k->len);
	size_t at = lua_box_of(L)->out.len;
	push_entry(L, index, k);
	write_value(L, lua_gettop(L), NULL, 0, 0);
	lua_pop(L, 1);
	const uint8_t *val = keep(L, r, at, &len);
	if (record_set(r, (const char *)name, k->len, val, len) < 0)
		luaL_error(L, "not enough memory");
}

void lua_box_take_record(lua_State *L, int index, struct record *r)
{
	uint32_t kept = 0, fresh = 0, total;
	index = lua_absindex(L, index);
	luaL_checkstack(L, 12, "too much on the stack");
	for (uint32_t i = 0; i < r->n;) {
		if (take_field(L, index, r, i, &kept))
			i++;
		else
			record_remove(r, (const char *)r->fields[i].key, r->fields[i].key_len);
	}
	total = count_entries(L, index);
	if (kept == total)
		return;
	int top = lua_gettop(L);
	struct key *keys = push_new_keys(L, index, total, 0, r, &fresh);
	for (uint32_t i = 0; i < fresh; i++)
		add_field(L, index, r, &keys[i]);
	lua_settop(L, top);
}
