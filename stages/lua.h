/*
 * Lua 5.4 in a box: bounded in memory, in instructions and in what it can reach.
 *
 * In the box: the basic functions without load, dofile, require, print, collectgarbage and
 * coroutines; string (without dump and pack), table, math, utf8. No io, os, debug, no modules.
 * Every call has a budget: instructions, bytes allocated and the work of library functions are
 * charged to it. A call that is over it ends with an error that the script cannot hold up, whatever
 * pcall it is in.
 *
 * Values: msgpack's nil, booleans, integers to 2^63-1, floats, strings, arrays and maps become
 * Lua's own. Larger integers, binary values and ext are opaque: a script may pass them on, compare
 * them and take tostring() of them. A nil inside a list is the constant `null`. Text that is no
 * UTF-8 becomes binary. A list keeps a mark (a metatable), so that an empty one stays a list; {} is
 * a map, array{} a list.
 */
#pragma once

#include <lua.h>

#include "stages/stage.h"

/* The metatable that marks a table as a list. */
#define LUA_BOX_ARRAY "list"

enum {
	LUA_BOX_DEPTH = 100, /* tables inside tables */
};

enum lua_box_error {
	LUA_BOX_E_OK,
	LUA_BOX_E_ERROR, /* box->why says what, with the line */
};

struct lua_box {
	lua_State *L;
	size_t used, limit;   /* bytes */
	int64_t left, budget; /* instructions */
	int64_t cpu_end;      /* CLOCK_THREAD_CPUTIME_ID ns: the backstop behind the budget */
	const char *stopped;  /* why the running call has to end; NULL: it does not */
	bool running;
	struct stage *st; /* of the call in hand, for functions */
	struct record *r;
	struct buf out; /* where lua_box_write collects */
	char why[STAGE_WHY_MAX];
};

/* NULL: no memory. @memory: bytes for all that Lua holds; @instructions: for one call. */
struct lua_box *lua_box_new(size_t memory, int64_t instructions);
struct lua_box *lua_box_free(struct lua_box *b); /* returns NULL */
struct lua_box *lua_box_of(lua_State *L);

/* Runs @fn(L) protected, with @arg as its light userdata argument; its @results stay on the stack.
 * Nothing that can raise an error may be done with b->L outside of this. 0 or LUA_BOX_E_ERROR. */
int lua_box_run(struct lua_box *b, lua_CFunction fn, void *arg, int results);

/* Takes @n off the budget, for C functions whose work grows with their arguments. May raise. */
void lua_box_charge(lua_State *L, double n);

/* Pushes the msgpack value at @p. Returns the byte behind it. May raise (invalid, too deep, no
 * memory). */
const uint8_t *lua_box_push(lua_State *L, const uint8_t *p, const uint8_t *end);

/* Appends the value at @index to box->out as msgpack. @was: what it was converted from, or NULL:
 * what is unchanged is then copied (order of keys, kind of empty tables and encodings are kept).
 * May raise. */
void lua_box_write(lua_State *L, int index, const uint8_t *was, uint32_t was_len);

/* Pushes the record as a table. May raise. */
void lua_box_push_record(lua_State *L, const struct record *r);

/* Makes @r say what the table at @index says: fields that are gone from it are removed, changed
 * ones set, new ones added at the end in the order of their names. May raise: @r is then half
 * changed. */
void lua_box_take_record(lua_State *L, int index, struct record *r);

/* The msgpack bytes of an opaque value at @index, or NULL. */
const uint8_t *lua_box_opaque(lua_State *L, int index, uint32_t *len);

/* Pushes the opaque value made of @len msgpack bytes. May raise. */
void lua_box_push_opaque(lua_State *L, const uint8_t *raw, uint32_t len);

/* Makes the metatables of opaque values and of lists (lua_value.c). */
void lua_value_types(lua_State *L);

/* Adds string.find, match, gmatch and gsub to the table on the top (lua_pattern.c). */
void lua_pattern_install(lua_State *L);

/* Adds the functions of expressions as globals (expr_lua.c). @basic: those that replace Lua's own
 * too. */
void expr_lua_install(lua_State *L, bool basic);
