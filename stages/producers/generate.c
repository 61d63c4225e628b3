/*
 * A producer that makes records from a template: for measuring, demonstrations and soak tests.
 *
 * The hard idea: the template is turned into msgpack once, in check(). What changes from record to
 * record
 * (`=seq`, `=now`, `=random`) is given a place of fixed size in it, an unsigned 64-bit integer of 9
 * bytes, so that making a record is one copy and a few stores.
 *
 * Exactly once: the position is the sequence number of the next record. `=random` is a function of
 * the sequence number, so that a record made again after a crash is the same but for `=now`.
 *
 * Pace: with a rate, record n is due n/rate seconds after the start. The worker sleeps until the
 * next is due, at least a millisecond, and makes up for what it missed, at most one second's worth.
 *
 * Limits: one worker. Placeholders are whole values, not parts of strings, and no keys.
 */
#include "stages/stage.h"
#include "ipc/clock.h"

#include <assert.h>
#include <inttypes.h>
#include <time.h>

enum {
	AT_ONCE = 1024,   /* records made in one call of produce */
	PATCHES_MAX = 64, /* placeholders in a template */
	DEPTH_MAX = 64,   /* containers inside containers in a template */
	PATCH_SIZE = 9,   /* 0xcf and 8 bytes */
	SECOND = 1000000000,
	TICK = SECOND / 1000, /* ns: shortest sleep */
};

enum patch_kind {
	PATCH_SEQ,
	PATCH_NOW,
	PATCH_RANDOM,
};

struct patch {
	enum patch_kind kind;
	size_t offset; /* of the 8 bytes */
};

struct config {
	double rate;
	int64_t count;
	const struct node *record;
	/* made by check */
	struct buf template;
	struct patch *patches;
	unsigned n_patches;
};

struct made {
	uint64_t next; /* sequence number of the next record */
	uint64_t base; /* of the first one that the pace counts */
	int64_t start; /* CLOCK_MONOTONIC ns at which it was due */
};

static void put_u64(uint8_t *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, sizeof(v));
}

/* splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014); 63 bits
 * of it, so that every language can hold it. */
static uint64_t random_of(uint64_t seq)
{
	uint64_t z = (seq + 1) * UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) >> 1;
}

static bool add_patch(struct config *g, const struct node *n, struct complaints *c)
{
	static const char *const names[] = {"=seq", "=now", "=random"};
	static const uint8_t zero[PATCH_SIZE] = {0xcf};
	for (unsigned i = 0; i < 3; i++) {
		if (strcmp(n->text, names[i]) != 0)
			continue;
		if (g->n_patches == PATCHES_MAX) {
			complain(c, n, "record: more than %d placeholders", PATCHES_MAX);
			return false;
		}
		g->patches[g->n_patches++] =
		        (struct patch){.kind = (enum patch_kind)i, .offset = g->template.len + 1};
		return buf_add(&g->template, zero, sizeof(zero)) == 0;
	}
	const char *near = option_nearest(n->text, names, 3);
	complain(c, n, "record: unknown placeholder \"%s\": %s%s%s", n->text,
	         near ? "did you mean \"" : "known are =seq, =now, =random; == starts a plain =",
	         near ? near : "", near ? "\"?" : "");
	return false;
}

static bool add_text(struct buf *out, const struct node *n, size_t skip, struct complaints *c)
{
	size_t len = n->len - skip;
	if (!mp_utf8_valid((const uint8_t *)n->text, n->len) || len > UINT32_MAX) {
		complain(c, n, "record: the text is no UTF-8");
		return false;
	}
	if (buf_room(out, MP_HEAD_MAX + len) < 0)
		return false;
	out->len =
	        (size_t)(mp_write_str(out->p + out->len, n->text + skip, (uint32_t)len) - out->p);
	return true;
}

static bool add_scalar(struct config *g, const struct node *n, struct complaints *c)
{
	struct buf *out = &g->template;
	if (n->scalar == NODE_STRING && n->text[0] == '=' && n->text[1] != '=')
		return add_patch(g, n, c);
	if (n->scalar == NODE_STRING)
		return add_text(out, n, n->text[0] == '=', c);
	if (buf_room(out, MP_HEAD_MAX) < 0)
		return false;
	uint8_t *p = out->p + out->len;
	if (n->scalar == NODE_NULL)
		p = mp_write_nil(p);
	else if (n->scalar == NODE_BOOL)
		p = mp_write_bool(p, n->b);
	else if (n->scalar == NODE_FLOAT)
		p = mp_write_float(p, n->d);
	else
		p = n->i < 0 ? mp_write_int(p, n->i) : mp_write_uint(p, n->u);
	out->len = (size_t)(p - out->p);
	return true;
}

static bool add_value(struct config *g, const struct node *n, unsigned depth, struct complaints *c)
{
	struct buf *out = &g->template;
	if (n->bad || depth == DEPTH_MAX)
		return false;
	if (n->kind == NODE_SCALAR)
		return add_scalar(g, n, c);
	if (buf_room(out, MP_HEAD_MAX) < 0)
		return false;
	uint8_t *p = out->p + out->len;
	p = n->kind == NODE_MAP ? mp_write_map_head(p, (uint32_t)n->n)
	                        : mp_write_array_head(p, (uint32_t)n->n);
	out->len = (size_t)(p - out->p);
	for (size_t i = 0; i < n->n; i++) {
		const struct node *value = n->items[n->kind == NODE_MAP ? 2 * i + 1 : i];
		if (n->kind == NODE_MAP && !add_text(out, n->items[2 * i], 0, c))
			return false;
		if (!add_value(g, value, depth + 1, c))
			return false;
	}
	return true;
}

/* About 100 bytes: a line of a service's log. */
static bool add_default(struct config *g)
{
	static const char *const pairs[][2] = {
	        {"seq", "=seq"},      {"at", "=now"},
	        {"level", "info"},    {"service", "generator"},
	        {"user", "u-000042"}, {"msg", "a record of the usual size"}};
	struct complaints none = {0};
	struct node *items[12], nodes[12];
	for (size_t i = 0; i < 12; i++) {
		const char *text = pairs[i / 2][i % 2];
		nodes[i] = (struct node){.kind = NODE_SCALAR,
		                         .scalar = NODE_STRING,
		                         .text = (char *)text,
		                         .len = strlen(text)};
		items[i] = &nodes[i];
	}
	struct node map = {.kind = NODE_MAP, .items = items, .n = 6};
	return add_value(g, &map, 0, &none);
}

static void check(void *config, const struct node *node, struct complaints *c)
{
	struct config *g = config;
	unsigned before = c->count;
	const struct node *where = g->record ? g->record : node;
	if (g->record && g->record->kind != NODE_MAP) {
		complain(c, where, "record: expected a map, got %s", node_describe(where));
		return;
	}
	g->patches = calloc(PATCHES_MAX, sizeof(*g->patches));
	if (!g->patches || !(g->record ? add_value(g, g->record, 0, c) : add_default(g)))
		if (c->count == before)
			complain(c, where, "record: cannot be made into a record");
}

static void config_free(void *config)
{
	struct config *g = config;
	buf_deinit(&g->template);
	free(g->patches);
	g->patches = NULL;
}

static int open_(struct stage *st)
{
	const struct config *g = st->config;
	struct made *m = st->state;
	if (g->template.len > st->max_record)
		return stage_say(st, -EMSGSIZE,
		                 "the record has %zu bytes, a buffer has room for %zu",
		                 g->template.len, st->max_record);
	if (!st->position_fresh)
		memcpy(&m->next, st->position, sizeof(m->next));
	m->base = m->next;
	m->start = clock_monotonic();
	st->resumes = true;
	return 0;
}

static int make_one(struct stage *st, const struct config *g, struct made *m)
{
	uint8_t *p;
	size_t room;
	int r = stage_reserve(st, g->template.len, &p, &room);
	if (r != 0)
		return r > 0 ? -EMSGSIZE : r;
	memcpy(p, g->template.p, g->template.len);
	for (unsigned i = 0; i < g->n_patches; i++) {
		const struct patch *patch = &g->patches[i];
		put_u64(p + patch->offset, patch->kind == PATCH_SEQ   ? m->next
		                           : patch->kind == PATCH_NOW ? (uint64_t)st->now
		                                                      : random_of(m->next));
	}
	r = stage_made(st, g->template.len);
	if (r < 0)
		return r;
	m->next++;
	return stage_position(st, 0, &m->next, sizeof(m->next));
}

/* How many records are due; sets the deadline when none is. */
static uint64_t due(struct stage *st, const struct config *g, struct made *m)
{
	int64_t now = clock_monotonic();
	double should = (double)(now - m->start) / SECOND * g->rate + 1;
	uint64_t done = m->next - m->base;
	if (should - (double)done > g->rate + 1) { /* more than a second behind: let it go */
		m->base = m->next;
		m->start = now - SECOND;
		done = 0;
		should = g->rate;
	}
	if (should >= (double)done + 1)
		return (uint64_t)should - done;
	double at = (double)m->start + (double)done / g->rate * SECOND;
	st->deadline = at > (double)(now + TICK) ? (int64_t)at : now + TICK;
	return 0;
}

static int produce(struct stage *st)
{
	const struct config *g = st->config;
	struct made *m = st->state;
	uint64_t n = AT_ONCE;
	st->deadline = 0;
	if (g->count > 0 && m->next >= (uint64_t)g->count)
		return STAGE_E_END;
	if (g->count > 0 && (uint64_t)g->count - m->next < n)
		n = (uint64_t)g->count - m->next;
	if (g->rate > 0) {
		uint64_t ready = due(st, g, m);
		if (ready == 0)
			return STAGE_E_IDLE;
		n = ready < n ? ready : n;
	}
	for (; n > 0; n--) {
		int r = make_one(st, g, m);
		if (r < 0)
			return r;
	}
	return STAGE_OK;
}

static const struct option options[] = {
        {"rate", OPTION_FLOAT, offsetof(struct config, rate), .def = "0", .min = 0, .max = 1e9,
         .help = "records a second; 0: as fast as they are taken"},
        {"count", OPTION_INT, offsetof(struct config, count), .def = "0", .min = 0, .max = 9e18,
         .help = "records in all; 0: without end"},
        {"record", OPTION_NODE, offsetof(struct config, record),
         .help = "template: any map; the values =seq, =now (ns since 1970), =random are filled in"},
        OPTION_END,
};

const struct stage_ops producer_generate = {
        .name = "generate",
        .kind = STAGE_PRODUCER,
        .flags = STAGE_SINGLE,
        .needs = STAGE_NEEDS_NOTHING,
        .help = "makes records from a template",
        .example = "type: generate\n"
                   "rate: 1000\n"
                   "record: {id: =seq, at: =now, level: info, nested: {r: =random}}\n",
        .options = options,
        .config_size = sizeof(struct config),
        .state_size = sizeof(struct made),
        .check = check,
        .config_free = config_free,
        .open = open_,
        .produce = produce,
};
