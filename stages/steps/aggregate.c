/*
 * aggregate: groups records and computes over each group.
 *
 *     aggregate:
 *       by: [section]
 *       compute: {packages: count(), bytes: sum(Size), largest: max(Size)}
 *       window: 1m
 *
 * It takes its input in; what comes out is one record a group: the fields of `by`, the computed
 * ones, and with a window its start. Without `window` groups come out when the input has ended for
 * good; with it, when the clock has passed the window's end (tumbling windows, aligned to the
 * epoch, by the time at which records come here, not by a time they carry).
 *
 * The hard idea: the state is a database, but no record touches it. Groups are worked on in a table
 * in memory (aggregate_groups.h); settle(), called before each commit, stores those that changed. A
 * group is stored once when it is new, at its full size, while its first record can still be
 * refused for want of room; later writes only replace.
 *
 * A group is emitted first and removed then. The unit may end inside stage_emit, but only before
 * the record is placed: so record and removal are always in one unit. (A step behind this one that
 * makes several records of one breaks that by its nature: a crash between them makes the first
 * again.)
 *
 * A unit may also end in the middle of an input record, when a step before this one made many of it
 * and some of them left by a route. After a crash that record is run again from its start. So with
 * each commit it is noted how far this step had come in the record in hand (its origin, see
 * stage.h): what was taken in already is then passed over. Some such notes are kept, because other
 * chunks may come before that one is run again.
 *
 * Limits: more than `max_keys` groups at a time, and groups for which the state has no room, are
 * refused with the reason. A clock that is set back opens windows again that were emitted. When
 * `by`, `compute` or `window` change, what was gathered under the old ones is dropped, with a line
 * in the log.
 */
#include <string.h>

#include "stages/key.h"
#include "stages/stage.h"
#include "stages/state.h"
#include "stages/steps/aggregate_config.h"
#include "stages/steps/aggregate_groups.h"
#include "ipc/clock.h"

enum {
	EMIT_A_CALL = 64,     /* groups a call of tick or flush emits */
	WINDOW_BYTES = 9,     /* 'g' and the window's start, big-endian, sign flipped */
	NAME_MAX_BYTES = 256, /* of a group's key behind that */
	SECOND = 1000000000,
	MARKS = 16, /* at least as many as there are workers that fill this stage's edges */
};

/* Row "c" of the state: what it was made for, and the records in hand at the last commits. */
struct agg_head {
	uint64_t shape;
	uint64_t next; /* the mark that is replaced next */
	struct origin marks[MARKS];
};

struct aggregate {
	struct agg_head head;
	struct groups groups;
	struct buf key; /* of the record in hand */
	struct buf row; /* of the group in hand */
	struct record out;
	bool loaded; /* the state was found to be of this configuration */
	bool taken;  /* something was taken in since the last commit */
};

/* ---- state ---- */

/* A group's key in the state: by window, then by key. */
static size_t row_key(uint8_t *out, int64_t window, const uint8_t *key, size_t len)
{
	uint64_t w = (uint64_t)window ^ (1ull << 63);
	out[0] = 'g';
	for (int i = 0; i < 8; i++)
		out[1 + i] = (uint8_t)(w >> (56 - 8 * i));
	return WINDOW_BYTES + key_name(out + WINDOW_BYTES, NAME_MAX_BYTES, key, len);
}

static int64_t row_window(const uint8_t *key)
{
	uint64_t w = 0;
	for (int i = 0; i < 8; i++)
		w = w << 8 | key[1 + i];
	return (int64_t)(w ^ (1ull << 63));
}

static int head_store(struct stage *st)
{
	struct aggregate *a = st->state;
	int r = state_put(st->kv, "c", 1, &a->head, sizeof(a->head));
	return r == STATE_E_FULL ? -ENOSPC : r;
}

static int aggregate_load(struct stage *st)
{
	struct aggregate *a = st->state;
	uint64_t shape = aggregate_shape(st->config), n;
	const uint8_t *val;
	size_t len;
	int r = state_get(st->kv, "c", 1, &val, &len);
	if (r < 0)
		return r;
	a->loaded = true;
	if (r == 0 && len == sizeof(a->head) && !memcmp(val, &shape, sizeof(shape))) {
		memcpy(&a->head, val, sizeof(a->head));
		return 0;
	}
	a->head = (struct agg_head){.shape = shape};
	r = state_count(st->kv, &n);
	if (r)
		return r;
	if (n > 1)
		log_warning("aggregate: the configuration has changed: %llu groups are dropped",
		            (unsigned long long)n - 1);
	r = n ? state_clear(st->kv) : 0;
	return r == STATE_E_FULL ? -ENOSPC : r ? r : head_store(st);
}

static bool same_record(const struct origin *a, const struct origin *b)
{
	return a->chunk == b->chunk && a->record == b->record &&
	       !memcmp(a->epoch, b->epoch, sizeof(a->epoch));
}

/* Notes how far this step is in the record in hand; timed work has none. */
static int mark_store(struct stage *st)
{
	struct aggregate *a = st->state;
	const struct origin *o = &st->origin;
	if (!a->taken || !o->chunk || o->record == UINT32_MAX || o->ordinal == UINT32_MAX)
		return 0;
	unsigned at = 0;
	while (at < MARKS && !(a->head.marks[at].chunk == o->chunk &&
	                       !memcmp(a->head.marks[at].epoch, o->epoch, sizeof(o->epoch))))
		at++;
	if (at == MARKS)
		at = (unsigned)(a->head.next++ % MARKS);
	a->head.marks[at] = *o;
	a->taken = false;
	return head_store(st);
}

/* Whether the record in hand was given to this step before, in a unit that was committed. */
static bool was_taken(const struct stage *st)
{
	const struct aggregate *a = st->state;
	for (unsigned i = 0; i < MARKS && st->origin.chunk; i++) /* chunks count from 1 */
		if (same_record(&a->head.marks[i], &st->origin))
			return st->origin.ordinal <= a->head.marks[i].ordinal;
	return false;
}

static int row_store(struct stage *st, const struct group *g)
{
	const struct aggregate_config *c = st->config;
	struct aggregate *a = st->state;
	uint8_t name[WINDOW_BYTES + NAME_MAX_BYTES];
	const uint8_t *key = a->groups.keys.p + g->key;
	size_t name_len = row_key(name, g->window, key, g->key_len);
	a->row.len = 0;
	int r = buf_add(&a->row, g->acc, c->n * sizeof(g->acc[0]));
	if (!r)
		r = buf_add(&a->row, key, g->key_len);
	return r ? r : state_put(st->kv, name, name_len, a->row.p, a->row.len);
}

static int aggregate_settle(struct stage *st)
{
	struct aggregate *a = st->state;
	for (unsigned i = 0; i < a->groups.n; i++) {
		struct group *g = groups_at(&a->groups, i);
		if (!g->dirty)
			continue;
		int r = row_store(st, g);
		if (r)
			return r == STATE_E_FULL ? -ENOSPC : r;
		g->dirty = false;
	}
	return 0;
}

static int aggregate_commit(struct stage *st)
{
	int r = aggregate_settle(st);
	return r ? r : mark_store(st);
}

static void aggregate_rollback(struct stage *st)
{
	struct aggregate *a = st->state;
	groups_clear(&a->groups);
	a->loaded = a->taken = false;
}

/* ---- input ---- */

/* Asks for a tick when the window that starts at @window has ended. */
static void aggregate_wake(struct stage *st, int64_t window)
{
	const struct aggregate_config *c = st->config;
	int64_t left = window + c->window - st->now;
	int64_t at = clock_monotonic() + (left > 0 ? left : 0) + 1;
	if (!st->deadline || at < st->deadline)
		st->deadline = at;
}

/* A group that the state does not have yet. */
static int group_new(struct stage *st, struct group *g)
{
	const struct aggregate_config *c = st->config;
	uint64_t rows;
	int r = state_count(st->kv, &rows);
	if (r)
		return r;
	if (rows > (uint64_t)c->max_keys)
		return stage_say(st, STAGE_E_REJECT, "aggregate: more than %lld groups (max_keys)",
		                 (long long)c->max_keys);
	r = row_store(st, g);
	if (r == STATE_E_FULL)
		return stage_say(st, STAGE_E_REJECT,
		                 "aggregate: no room for another group (state.size)");
	return r;
}

/* Fills @g from the state. STATE_E_NONE: it is new. */
static int group_read(struct stage *st, struct group *g)
{
	const struct aggregate_config *c = st->config;
	struct aggregate *a = st->state;
	uint8_t name[WINDOW_BYTES + NAME_MAX_BYTES];
	const uint8_t *val;
	size_t len, accs = c->n * sizeof(g->acc[0]);
	size_t name_len = row_key(name, g->window, a->groups.keys.p + g->key, g->key_len);
	int r = state_get(st->kv, name, name_len, &val, &len);
	if (r)
		return r;
	if (len != accs + g->key_len)
		return -EUCLEAN;
	memcpy(g->acc, val, accs);
	return 0;
}

/* The record's group, from the table, the state, or new. */
static int group_of(struct stage *st, int64_t window, struct group **out)
{
	struct aggregate *a = st->state;
	struct groups *t = &a->groups;
	int r = 0;
	uint64_t hash = groups_hash(window, a->key.p, a->key.len);
	*out = groups_find(t, hash, window, a->key.p, a->key.len);
	if (*out)
		return 0;
	if (groups_full(t, a->key.len)) {
		r = aggregate_settle(st);
		groups_clear(t);
	}
	if (r)
		return r;
	struct group *g = groups_add(t, hash, window, a->key.p, a->key.len);
	if (!g)
		return -ENOMEM;
	r = group_read(st, g);
	if (r == STATE_E_NONE)
		r = group_new(st, g);
	if (r > 0) {
		/* the table cannot forget one entry, so it forgets all: what is dirty is stored
		 * before */
		int s = aggregate_settle(st);
		groups_clear(t);
		return s ? s : r;
	}
	*out = g;
	return r;
}

/* The answer to a record that was taken in before the crash: as it was then. A group that is not
 * there was refused, if there was no room for it, or has been emitted since. */
static int taken_again(struct stage *st, int64_t window)
{
	const struct aggregate_config *c = st->config;
	struct aggregate *a = st->state;
	uint8_t name[WINDOW_BYTES + NAME_MAX_BYTES];
	const uint8_t *val;
	uint64_t rows;
	size_t len, name_len = row_key(name, window, a->key.p, a->key.len);
	int r = state_get(st->kv, name, name_len, &val, &len);
	if (r != STATE_E_NONE)
		return r < 0 ? r : STAGE_E_ABSORBED;
	r = state_count(st->kv, &rows);
	if (r)
		return r;
	if (rows > (uint64_t)c->max_keys)
		return stage_say(st, STAGE_E_REJECT, "aggregate: more than %lld groups (max_keys)",
		                 (long long)c->max_keys);
	return STAGE_E_ABSORBED;
}

/* The numbers that the computed fields need of @r. */
static int aggregate_numbers(struct stage *st, struct record *r, struct agg_num *v)
{
	const struct aggregate_config *c = st->config;
	for (unsigned i = 0; i < c->n; i++) {
		const struct compute *op = &c->ops[i];
		v[i] = (struct agg_num){.present = true};
		if (!op->path)
			continue;
		uint32_t len = 0;
		const uint8_t *val = record_path(r, op->path, op->path_len, &len);
		struct mp m = record_value(val, len);
		if (op->fn == AGG_COUNT)
			v[i].present = m.type != MP_NIL;
		else if (!agg_num(&m, &v[i]))
			return stage_say(st, STAGE_E_REJECT, "aggregate: %s is no number",
			                 op->path);
	}
	return 0;
}

static int64_t window_of(const struct aggregate_config *c, int64_t now)
{
	if (!c->window)
		return 0;
	int64_t into = now % c->window;
	return now - (into < 0 ? into + c->window : into);
}

static int aggregate_transform(struct stage *st, struct record *r)
{
	const struct aggregate_config *c = st->config;
	struct aggregate *a = st->state;
	struct agg_num v[COMPUTE_MAX];
	unsigned present;
	a->key.len = 0;
	int rc = key_build(&a->key, r, &c->by, &present);
	if (!rc)
		rc = aggregate_numbers(st, r, v);
	if (rc)
		return rc;
	if (!a->loaded && (rc = aggregate_load(st)) != 0)
		return rc;
	int64_t window = window_of(c, st->now);
	if (was_taken(st))
		return taken_again(st, window);
	struct group *g;
	rc = group_of(st, window, &g);
	if (rc)
		return rc;
	if (!st->deadline && c->window)
		aggregate_wake(st, window);
	for (unsigned i = 0; i < c->n; i++)
		agg_add(&g->acc[i], c->ops[i].fn, &v[i]);
	g->dirty = a->taken = true;
	return STAGE_E_ABSORBED;
}

/* ---- output ---- */

static int out_set(struct record *out, const char *name, const uint8_t *from, const uint8_t *to)
{
	return record_set(out, name, strlen(name), from, (uint32_t)(to - from));
}

static int out_window(struct stage *st, struct record *out, int64_t window)
{
	const struct aggregate_config *c = st->config;
	uint8_t *p = record_scratch(out, MP_HEAD_MAX);
	if (!p)
		return -ENOMEM;
	uint8_t *end = c->window % SECOND ? mp_write_float(p, (double)window / SECOND)
	                                  : mp_write_int(p, window / SECOND);
	return out_set(out, c->stamp, p, end);
}

/* Makes the record of the group in a->row. */
static int out_build(struct stage *st, int64_t window)
{
	const struct aggregate_config *c = st->config;
	struct aggregate *a = st->state;
	size_t accs = c->n * sizeof(struct agg_acc);
	const uint8_t *p = a->row.p + accs, *end = a->row.p + a->row.len;
	record_clear(&a->out);
	if (a->row.len < accs)
		return -EUCLEAN;
	for (size_t i = 0; i < c->by.n; i++) {
		const char *path = c->by.v[i];
		const uint8_t *next = mp_skip(p, end);
		if (!next)
			return -EUCLEAN;
		int r = record_set_path(&a->out, path, strlen(path), p, (uint32_t)(next - p));
		if (r < 0)
			return r;
		p = next;
	}
	int r = c->window ? out_window(st, &a->out, window) : 0;
	for (unsigned i = 0; i < c->n && !r; i++) {
		struct agg_acc acc;
		memcpy(&acc, a->row.p + i * sizeof(acc), sizeof(acc));
		uint8_t *v = record_scratch(&a->out, MP_HEAD_MAX);
		if (!v)
			return -ENOMEM;
		r = out_set(&a->out, c->ops[i].name, v, agg_result(v, c->ops[i].fn, &acc));
	}
	return r;
}

/* Emits the first group if its window has ended at @until. STATE_E_NONE: there is none. */
static int out_next(struct stage *st, int64_t until)
{
	const struct aggregate_config *c = st->config;
	struct aggregate *a = st->state;
	uint8_t name[STATE_KEY_MAX];
	const uint8_t *val;
	size_t name_len, len;
	int r = state_seek(st->kv, "g", 1, name, &name_len, &val, &len);
	if (r)
		return r;
	if (name[0] != 'g' || name_len <= WINDOW_BYTES)
		return STATE_E_NONE;
	int64_t window = row_window(name);
	if (c->window && window + c->window > until) {
		aggregate_wake(st, window);
		return STATE_E_NONE;
	}
	a->row.len = 0;
	r = buf_add(&a->row, val, len);
	if (!r)
		r = out_build(st, window);
	if (!r)
		r = stage_emit(st, &a->out);
	if (!r)
		r = state_del(st->kv, name, name_len);
	return r <= 0 ? r : r == STATE_E_FULL ? -ENOSPC : -EUCLEAN;
}

static int aggregate_emit(struct stage *st, int64_t until)
{
	struct aggregate *a = st->state;
	int r = a->loaded ? 0 : aggregate_load(st);
	if (!r)
		r = aggregate_settle(st);
	groups_clear(&a->groups);
	for (unsigned i = 0; i < EMIT_A_CALL && !r; i++)
		r = out_next(st, until);
	return r == 0 ? STAGE_E_AGAIN : r == STATE_E_NONE ? STAGE_OK : r;
}

static int aggregate_tick(struct stage *st)
{
	int64_t due = st->deadline;
	st->deadline = 0;
	int r = aggregate_emit(st, st->now);
	if (r == STAGE_E_AGAIN)
		st->deadline = due;
	return r;
}

static int aggregate_flush(struct stage *st)
{
	return aggregate_emit(st, INT64_MAX);
}

static int aggregate_open(struct stage *st)
{
	const struct aggregate_config *c = st->config;
	struct aggregate *a = st->state;
	if (!st->kv)
		return -EINVAL;
	st->deadline = c->window ? 1 : 0; /* at once: windows that ended while nobody was here */
	return a->groups.slots ? 0 : groups_init(&a->groups, c->n); /* open may be tried again */
}

static void aggregate_close(struct stage *st)
{
	struct aggregate *a = st->state;
	groups_deinit(&a->groups);
	buf_deinit(&a->key);
	buf_deinit(&a->row);
	record_deinit(&a->out);
}

const struct stage_ops aggregate_step = {
        .name = "aggregate",
        .kind = STAGE_STEP,
        .flags = STAGE_STATEFUL | STAGE_HOLDS,
        .help = "groups records and computes over each group",
        .example = "steps:\n"
                   "  - aggregate:\n"
                   "      by: [section]\n"
                   "      compute: {packages: count(), bytes: sum(Size)}\n",
        .options = aggregate_options,
        .config_size = sizeof(struct aggregate_config),
        .state_size = sizeof(struct aggregate),
        .check = aggregate_check,
        .config_free = aggregate_config_free,
        .open = aggregate_open,
        .close = aggregate_close,
        .transform = aggregate_transform,
        .tick = aggregate_tick,
        .flush = aggregate_flush,
        .settle = aggregate_commit,
        .rollback = aggregate_rollback,
};
