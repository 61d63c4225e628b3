/*
 * lua: a script decides. It defines process(record), which gets each record as a table and returns
 *
 *     the record (changed or not), or another table      that goes on
 *     nil                                                the record is filtered
 *     a list of tables                                   each goes on as a record of its own
 *
 * The script runs in a box (stages/lua.h): no files, no modules, bounded memory and instructions.
 * What it keeps in globals lives as long as the worker and is not undone with a unit: it is no
 * place for state that must be exact. An error in it makes a dead letter of the record, with the
 * message and the line.
 *
 * Limit: each record is converted whole, which costs about as much again as a short script.
 */
#include "stages/lua.h"

#include <errno.h>
#include <lauxlib.h>
#include <string.h>

enum {
	SCRIPT_MAX = 1 << 20,
};

struct lua_config {
	const char *script;
	const char *file;
	const char *function;
	uint64_t memory;
	int64_t instructions;
	/* made by check */
	char *text;
	size_t len;
};

struct lua_step {
	struct lua_box *box;
	int function;       /* reference to the script's function */
	struct record made; /* one record of a list */
};

/* Where the box keeps a list that was returned, and the table of the record in hand. */
static const char list_key, record_key;

static const struct option lua_options[] = {
        {.name = "script",
         .type = OPTION_STRING,
         .offset = offsetof(struct lua_config, script),
         .help = "the script itself"},
        {.name = "file",
         .type = OPTION_STRING,
         .offset = offsetof(struct lua_config, file),
         .help = "a file that holds the script; read when the configuration is"},
        {.name = "function",
         .type = OPTION_STRING,
         .offset = offsetof(struct lua_config, function),
         .def = "process",
         .help = "the function that is called with each record"},
        {.name = "memory",
         .type = OPTION_SIZE,
         .offset = offsetof(struct lua_config, memory),
         .def = "64MiB",
         .min = 1 << 20,
         .max = 1 << 30,
         .help = "what the script may hold"},
        {.name = "instructions",
         .type = OPTION_INT,
         .offset = offsetof(struct lua_config, instructions),
         .def = "10000000",
         .min = 1000,
         .max = 1e10,
         .help = "what it may do for one record"},
        OPTION_END,
};

/* What goes into the box and comes out with one call. */
struct request {
	const struct lua_config *c;
	struct lua_step *s;
	struct record *r;
	int function;
	enum stage_answer answer;
	lua_Integer n, i; /* of a list: elements, the one wanted */
};

static int load_script(lua_State *L)
{
	struct request *q = lua_touserdata(L, 1);
	const struct lua_config *c = q->c;
	expr_lua_install(L, false);
	if (luaL_loadbufferx(L, c->text, c->len, "=lua", "t") != LUA_OK)
		return lua_error(L);
	lua_call(L, 0, 0);
	if (lua_getglobal(L, c->function) != LUA_TFUNCTION)
		return luaL_error(L, "the script does not define a function %s", c->function);
	q->function = luaL_ref(L, LUA_REGISTRYINDEX);
	return 0;
}

/* A box with the script loaded, *@function a reference to its function. NULL: @why. */
static struct lua_box *load(const struct lua_config *c, int *function, char *why, size_t why_size)
{
	struct request q = {.c = c};
	struct lua_box *b = lua_box_new(c->memory, c->instructions);
	if (!b) {
		snprintf(why, why_size, "out of memory");
		return NULL;
	}
	int r = lua_box_run(b, load_script, &q, 0);
	*function = q.function;
	if (r == 0)
		return b;
	snprintf(why, why_size, "%s", b->why);
	return lua_box_free(b);
}

static int read_file(const char *path, char **text, size_t *len)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return err_errno();
	char *p = malloc(SCRIPT_MAX + 1);
	size_t n = p ? fread(p, 1, SCRIPT_MAX + 1, f) : 0;
	int r = !p ? -ENOMEM : ferror(f) ? -EIO : n > SCRIPT_MAX ? -EFBIG : 0;
	fclose(f);
	if (r < 0) {
		free(p);
		return r;
	}
	*text = p;
	*len = n;
	return 0;
}

static bool find_script(struct lua_config *c, const struct node *node, struct complaints *out)
{
	if (!c->script == !c->file) {
		complain(out, node, "expected either `script` or `file`");
		return false;
	}
	if (c->script) {
		c->text = strdup(c->script);
		c->len = strlen(c->script);
		return c->text != NULL;
	}
	int r = read_file(c->file, &c->text, &c->len);
	if (r < 0)
		complain(out, node_get(node, "file"), "%s: %s", c->file, strerror(-r));
	return r == 0;
}

static void lua_check(void *config, const struct node *node, struct complaints *out)
{
	struct lua_config *c = config;
	char why[STAGE_WHY_MAX];
	if (!find_script(c, node, out))
		return;
	int function;
	struct lua_box *b = load(c, &function, why, sizeof(why));
	const struct node *at = node_get(node, c->script ? "script" : "file");
	if (!b)
		complain(out, at ? at : node, "%s", why);
	lua_box_free(b);
}

static void lua_config_free(void *config)
{
	struct lua_config *c = config;
	free(c->text);
	c->text = NULL;
}

static int lua_step_open(struct stage *st)
{
	struct lua_step *s = st->state;
	char why[STAGE_WHY_MAX];
	s->box = load(st->config, &s->function, why, sizeof(why));
	if (s->box)
		return 0;
	return stage_say(st, -EINVAL, "%s", why);
}

static void lua_step_close(struct stage *st)
{
	struct lua_step *s = st->state;
	s->box = lua_box_free(s->box);
	record_deinit(&s->made);
}

/* The table on the top becomes the record, which the script changed or replaced by another. */
static void take_result(lua_State *L, struct record *r, bool replaced)
{
	while (replaced && r->n > 0) {
		const struct field *f = &r->fields[r->n - 1];
		record_remove(r, (const char *)f->key, f->key_len);
	}
	lua_box_take_record(L, -1, r);
}

/* Whether the table on the top is a list of records: a record has no element 1, its keys are text.
 */
static bool is_list(lua_State *L)
{
	bool list = lua_rawgeti(L, -1, 1) != LUA_TNIL;
	lua_pop(L, 1);
	lua_pushnil(L);
	if (!lua_next(L, -2))
		return true;
	lua_pop(L, 2);
	return list;
}

static int call_script(lua_State *L)
{
	struct request *q = lua_touserdata(L, 1);
	lua_rawgeti(L, LUA_REGISTRYINDEX, q->function);
	lua_box_push_record(L, q->r);
	lua_pushvalue(L, -1);
	lua_insert(L, 2);
	lua_call(L, 1, 1); /* 2: the record's table, 3: what came back */
	if (lua_isnil(L, 3) || (lua_isboolean(L, 3) && !lua_toboolean(L, 3))) {
		q->answer = STAGE_E_FILTERED;
		return 0;
	}
	if (!lua_istable(L, 3))
		return luaL_error(L, "the function returned a %s, not a table or nil",
		                  luaL_typename(L, 3));
	bool same = lua_rawequal(L, 2, 3);
	if (same || !is_list(L)) {
		take_result(L, q->r, !same);
		return 0;
	}
	q->answer = STAGE_E_EMITTED;
	q->n = (lua_Integer)lua_rawlen(L, 3);
	lua_rawsetp(L, LUA_REGISTRYINDEX, &list_key);
	lua_rawsetp(L, LUA_REGISTRYINDEX, &record_key);
	return 0;
}

/* Makes s->made of element i of the list. */
static int take_element(lua_State *L)
{
	struct request *q = lua_touserdata(L, 1);
	lua_rawgetp(L, LUA_REGISTRYINDEX, &record_key);
	lua_rawgetp(L, LUA_REGISTRYINDEX, &list_key);
	if (lua_rawgeti(L, -1, q->i) != LUA_TTABLE)
		return luaL_error(L, "element %d of the list is a %s, not a record", (int)q->i,
		                  luaL_typename(L, -1));
	record_clear(&q->s->made);
	if (lua_rawequal(L, 2, -1) && record_share(&q->s->made, q->r) < 0)
		return luaL_error(L, "not enough memory");
	lua_box_take_record(L, -1, &q->s->made);
	return 0;
}

/* All elements are looked at before the first is emitted: a list is taken whole or not at all. */
static int emit_list(struct stage *st, struct request *q)
{
	struct lua_step *s = st->state;
	for (int pass = 0; pass < 2; pass++)
		for (q->i = 1; q->i <= q->n; q->i++) {
			if (lua_box_run(s->box, take_element, q, 0) != 0)
				return stage_say(st, STAGE_E_REJECT, "%.240s", s->box->why);
			int r = pass ? stage_emit(st, &s->made) : 0;
			if (r < 0)
				return r;
		}
	return STAGE_E_EMITTED;
}

static int lua_transform(struct stage *st, struct record *r)
{
	struct lua_step *s = st->state;
	struct request q = {.s = s, .r = r, .function = s->function};
	s->box->st = st;
	s->box->r = r;
	if (lua_box_run(s->box, call_script, &q, 0) != 0)
		return stage_say(st, STAGE_E_REJECT, "%.240s", s->box->why);
	return q.answer == STAGE_E_EMITTED ? emit_list(st, &q) : (int)q.answer;
}

const struct stage_ops step_lua = {
        .name = "lua",
        .kind = STAGE_STEP,
        .help = "runs a Lua script on each record",
        .example = "- lua:\n"
                   "    script: |\n"
                   "      function process(record)\n"
                   "        record.total = record.price * record.count\n"
                   "        return record\n"
                   "      end\n",
        .options = lua_options,
        .config_size = sizeof(struct lua_config),
        .state_size = sizeof(struct lua_step),
        .check = lua_check,
        .config_free = lua_config_free,
        .open = lua_step_open,
        .close = lua_step_close,
        .transform = lua_transform,
};
