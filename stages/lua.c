/*
 * The box around Lua: allocation, budget, library. Values are converted in lua_value.c.
 *
 * The hard idea: one budget for three kinds of work. The count hook charges instructions, the
 * allocator charges bytes (a script that copies long strings does little else), and library
 * functions that loop in C charge what they are about to do. Once it is used up, the hook is set to
 * fire at every instruction: a pcall catches the error only to meet it again at the next
 * instruction outside.
 *
 * What would get around it is not in the box: coroutines (hooks of their own), __gc (finalizers run
 * without hooks), xpcall (handlers), load and string.dump (hand-made bytecode), string.rep as it
 * comes (it loops over an empty string), patterns as they come (exponential; lua_pattern.c has a
 * counting matcher), and table functions on tables with a __len that lies.
 *
 * Limit: comparing two long equal strings, or passing on very many arguments, costs one
 * instruction. The backstop for that is processor time: a second, and 200 ns for each instruction
 * of the budget, looked at every LUA_BOX_STEP instructions.
 */
#include "stages/lua.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>
#include <time.h>

enum {
	LUA_BOX_STEP = 1000, /* instructions between two looks */
	LUA_BOX_SECONDS = 1, /* of processor time for a call, and */
	LUA_BOX_NS = 200,    /* for each instruction of its budget */
	LUA_BOX_BYTES = 32,  /* allocated bytes that cost as much as an instruction */
};

struct lua_box *lua_box_of(lua_State *L)
{
	return *(struct lua_box **)lua_getextraspace(L);
}

static void stop(struct lua_box *b, const char *why)
{
	if (!b->stopped)
		b->stopped = why;
}

static bool charge_alloc(struct lua_box *b, size_t more)
{
	if (!b->running)
		return true;
	b->left -= (int64_t)(more / LUA_BOX_BYTES);
	if (b->left < 0)
		stop(b, "it takes too many instructions");
	return !b->stopped;
}

static void *allocate(void *ud, void *p, size_t old, size_t size)
{
	struct lua_box *b = ud;
	if (!p)
		old = 0; /* it says the kind of object */
	if (size == 0) {
		free(p);
		b->used -= old;
		return NULL;
	}
	if (size > old) {
		if (size - old > b->limit - b->used) {
			/* Lua answers with a full collection: that is not free either */
			charge_alloc(b, b->limit);
			return NULL;
		}
		if (!charge_alloc(b, size - old))
			return NULL;
	}
	void *q = realloc(p, size);
	if (q)
		b->used += size - old;
	return q;
}

static int64_t cpu_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void look(lua_State *L, lua_Debug *ar)
{
	struct lua_box *b = lua_box_of(L);
	(void)ar;
	b->left -= LUA_BOX_STEP;
	if (b->left < 0)
		stop(b, "it takes too many instructions");
	else if (!b->cpu_end) /* the clock costs as much as a short call: it starts here */
		b->cpu_end =
		        cpu_now() + LUA_BOX_SECONDS * INT64_C(1000000000) + b->budget * LUA_BOX_NS;
	else if (cpu_now() > b->cpu_end)
		stop(b, "it takes too long");
	if (b->stopped) {
		lua_sethook(L, look, LUA_MASKCOUNT, 1);
		luaL_error(L, "%s", b->stopped);
	}
}

void lua_box_charge(lua_State *L, double n)
{
	struct lua_box *b = lua_box_of(L);
	if (!(n < (double)b->left)) {
		b->left = -1;
		stop(b, "it takes too many instructions");
		lua_sethook(L, look, LUA_MASKCOUNT, 1);
		luaL_error(L, "%s", b->stopped);
	}
	if (n > 0)
		b->left -= (int64_t)n;
}

static int keep_error(struct lua_box *b, int status)
{
	lua_State *L = b->L;
	const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
	if (b->stopped)
		snprintf(b->why, sizeof(b->why), "%s%s%s", b->stopped, text ? ": " : "",
		         text && status != LUA_ERRMEM ? text : "");
	else if (status == LUA_ERRMEM)
		snprintf(b->why, sizeof(b->why), "it takes more than %zu bytes of memory",
		         b->limit);
	else
		snprintf(b->why, sizeof(b->why), "%s", text ? text : "an error without text");
	lua_settop(L, 0);
	return LUA_BOX_E_ERROR;
}

int lua_box_run(struct lua_box *b, lua_CFunction fn, void *arg, int results)
{
	lua_State *L = b->L;
	b->left = b->budget;
	b->stopped = NULL;
	b->out.len = 0;
	b->cpu_end = 0;
	lua_sethook(L, look, LUA_MASKCOUNT, LUA_BOX_STEP);
	b->running = true;
	lua_pushcfunction(L, fn);
	lua_pushlightuserdata(L, arg);
	int r = lua_pcall(L, 1, results, 0);
	/* a script may have caught the error in its very last instruction */
	if (r == LUA_OK && b->stopped)
		r = LUA_ERRRUN;
	b->running = false;
	return r == LUA_OK ? 0 : keep_error(b, r);
}

/* Finalizers run without hooks: no table may have one. */
static int box_setmetatable(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	int t = lua_type(L, 2);
	luaL_argcheck(L, t == LUA_TNIL || t == LUA_TTABLE, 2, "nil or a table expected");
	if (t == LUA_TTABLE) {
		lua_pushliteral(L, "__gc");
		luaL_argcheck(L, lua_rawget(L, 2) == LUA_TNIL, 2, "__gc is not to be had");
	}
	if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
		return luaL_error(L, "cannot change a protected metatable");
	lua_settop(L, 2);
	lua_setmetatable(L, 1);
	return 1;
}

static int box_rep(lua_State *L)
{
	size_t len, sep_len;
	const char *s = luaL_checklstring(L, 1, &len);
	lua_Integer n = luaL_checkinteger(L, 2);
	const char *sep = luaL_optlstring(L, 3, "", &sep_len);
	if (n <= 0 || len + sep_len == 0) {
		lua_pushliteral(L, "");
		return 1;
	}
	if ((double)(len + sep_len) * (double)n > (double)lua_box_of(L)->limit)
		return luaL_error(L, "resulting string too large");
	lua_box_charge(L, (double)n);
	luaL_Buffer out;
	luaL_buffinit(L, &out);
	for (lua_Integer i = 0; i < n; i++) {
		luaL_addlstring(&out, s, len);
		if (i + 1 < n)
			luaL_addlstring(&out, sep, sep_len);
	}
	luaL_pushresult(&out);
	return 1;
}

/* The functions of table that loop in C, paid for beforehand. Upvalue 1: Lua's own function. */
static int call_own(lua_State *L, double work)
{
	lua_box_charge(L, work);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_insert(L, 1);
	lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
	return lua_gettop(L);
}

/* The length that Lua's function will find: no __len may say another one the second time. */
static double honest_length(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	if (luaL_getmetafield(L, 1, "__len") != LUA_TNIL)
		luaL_error(L, "a table with __len is not taken here");
	return (double)lua_rawlen(L, 1);
}

static int box_insert_remove(lua_State *L)
{
	double n = honest_length(L);
	return call_own(L, lua_gettop(L) > 1 ? n : 1);
}

static int box_append_insert(lua_State *L)
{
	double n = honest_length(L);
	return call_own(L, lua_gettop(L) > 2 ? n : 1);
}

static int box_sort(lua_State *L)
{
	return call_own(L, 32 * honest_length(L));
}

static int box_concat(lua_State *L)
{
	double n = honest_length(L);
	return call_own(L, luaL_optnumber(L, 4, n) - luaL_optnumber(L, 3, 1) + 1);
}

static int box_move(lua_State *L)
{
	return call_own(L, luaL_checknumber(L, 3) - luaL_checknumber(L, 2) + 1);
}

static int box_array(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	luaL_setmetatable(L, LUA_BOX_ARRAY);
	return 1;
}

/* Wraps field @name of the table on the top. */
static void wrap(lua_State *L, const char *name, lua_CFunction f)
{
	lua_getfield(L, -1, name);
	lua_pushcclosure(L, f, 1);
	lua_setfield(L, -2, name);
}

static void forget(lua_State *L, const char *const *names)
{
	for (; *names; names++) {
		lua_pushnil(L);
		lua_setfield(L, -2, *names);
	}
}

static void open_string(lua_State *L)
{
	static const char *const gone[] = {"dump", "pack", "packsize", "unpack", NULL};
	luaL_requiref(L, "string", luaopen_string, 1);
	forget(L, gone);
	lua_pushcfunction(L, box_rep);
	lua_setfield(L, -2, "rep");
	lua_pattern_install(L);
	lua_pop(L, 1);
	lua_pushliteral(L, "");
	lua_getmetatable(L, -1);
	lua_pushboolean(L, false);
	lua_setfield(L, -2, "__metatable");
	lua_pop(L, 2);
}

static void open_table(lua_State *L)
{
	luaL_requiref(L, "table", luaopen_table, 1);
	wrap(L, "insert", box_append_insert);
	wrap(L, "remove", box_insert_remove);
	wrap(L, "sort", box_sort);
	wrap(L, "concat", box_concat);
	wrap(L, "move", box_move);
	lua_pop(L, 1);
}

static int open_box(lua_State *L)
{
	static const char *const gone[] = {"collectgarbage", "dofile", "load",   "loadfile",
	                                   "print",          "warn",   "xpcall", NULL};
	luaL_requiref(L, "_G", luaopen_base, 1);
	forget(L, gone);
	lua_pushcfunction(L, box_setmetatable);
	lua_setfield(L, -2, "setmetatable");
	lua_pushcfunction(L, box_array);
	lua_setfield(L, -2, "array");
	lua_pushlightuserdata(L, NULL);
	lua_setfield(L, -2, "null");
	lua_pop(L, 1);
	luaL_requiref(L, "math", luaopen_math, 1);
	luaL_requiref(L, "utf8", luaopen_utf8, 1);
	lua_pop(L, 2);
	lua_value_types(L);
	open_string(L);
	open_table(L);
	/* where modules and files would be found */
	lua_pushnil(L);
	lua_setfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
	return 0;
}

struct lua_box *lua_box_new(size_t memory, int64_t instructions)
{
	struct lua_box *b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	b->limit = memory;
	b->budget = instructions;
	b->L = lua_newstate(allocate, b);
	if (!b->L)
		return lua_box_free(b);
	*(struct lua_box **)lua_getextraspace(b->L) = b;
	lua_gc(b->L, LUA_GCGEN, 0, 0);
	if (lua_box_run(b, open_box, NULL, 0) != 0)
		return lua_box_free(b);
	return b;
}

struct lua_box *lua_box_free(struct lua_box *b)
{
	if (!b)
		return NULL;
	b->running = false;
	if (b->L)
		lua_close(b->L);
	buf_deinit(&b->out);
	free(b);
	return NULL;
}
