/*
 * dedupe: passes the first record with a key and drops its repeats.
 *
 *     dedupe: {by: [client, id], ttl: 1h, max_entries: 1000000}
 *
 * The hard idea: a record that is run again after a crash is no repeat. The state is undone with
 * the unit, so mostly there is nothing to do; but a unit may end while a record's results are still
 * under way, and then its key is in the state when the record comes again. So the origin of the
 * record that set the key stands beside it, and the same origin passes.
 *
 * After a loss of power (arena.sync) it is the other way round: the state has outlived what was
 * made of the record, which now comes again from the log, under another origin. Keys that were set
 * in that time are no proof of a repeat, and pass once more: at least once then, never less.
 *
 * Two rows an entry, in one database: the key (itself up to 64 bytes, else its XXH3-128) leads to
 * {number, time, origin}; 'o' and the number, counted up, lead back to the key. The 'o' rows in
 * their order are the order of insertion: the oldest entry is the first of them, the next number
 * follows the last.
 *
 * Bounds: `max_entries`, and the size of the state. At nine tenths of the latter two old entries go
 * for each new one, because removing entries here and there frees pages only after a while; if it
 * is full all the same, many go at once. So it forgets early, and never stops. The time is that of
 * the chunk; a repeat does not prolong `ttl`.
 *
 * Honest limits: what was forgotten passes again. Keys hashed by XXH3 can be made to collide by
 * somebody who wants a record of his dropped.
 */
#include <string.h>
#include <time.h>

#include "stages/key.h"
#include "stages/stage.h"
#include "stages/state.h"
#include "ipc/clock.h"

enum {
	NAME_MAX_BYTES = 65, /* 'k' and 64 bytes of key */
	ORDER_BYTES = 9,     /* 'o' and a big-endian number */
	EXPIRE_A_TICK = 512,
	EVICT_AT_ONCE = 64,
	EVICT_ROUNDS = 32,
};

enum dedupe_missing {
	MISSING_PASS,
	MISSING_KEY,
	MISSING_REJECT,
};

static const char *const missing_names[] = {"pass", "key", "reject", NULL};

struct dedupe_config {
	struct strings by;
	int64_t ttl; /* ns; 0: for ever */
	int64_t max_entries;
	int missing;
};

struct dedupe {
	struct buf key;
	uint64_t next; /* number of the next entry */
	bool loaded;   /* `next` is known */
	bool told;     /* that the state is full */
};

/* What is known of a key; stored as it stands. */
struct seen {
	uint64_t number;
	int64_t at; /* CLOCK_REALTIME ns */
	struct origin origin;
};
_Static_assert(sizeof(struct seen) == 48, "stored in files");

static const struct option dedupe_options[] = {
        {.name = "by",
         .type = OPTION_STRINGS,
         .offset = offsetof(struct dedupe_config, by),
         .required = true,
         .help = "fields whose values together are the key (paths)"},
        {.name = "ttl",
         .type = OPTION_DURATION,
         .offset = offsetof(struct dedupe_config, ttl),
         .def = "0",
         .help = "a key is forgotten this long after it was first seen; 0: never"},
        {.name = "max_entries",
         .type = OPTION_INT,
         .offset = offsetof(struct dedupe_config, max_entries),
         .def = "1000000",
         .min = 1,
         .max = 1e12,
         .help = "keys remembered; then the oldest goes"},
        {.name = "missing",
         .type = OPTION_ENUM,
         .offset = offsetof(struct dedupe_config, missing),
         .def = "pass",
         .choices = missing_names,
         .help = "a record without any of the fields: pass it, take that as a key too, or reject "
                 "it"},
        OPTION_END,
};

static void order_key(uint8_t out[ORDER_BYTES], uint64_t number)
{
	out[0] = 'o';
	for (int i = 0; i < 8; i++)
		out[1 + i] = (uint8_t)(number >> (56 - 8 * i));
}

static int dedupe_load(struct stage *st)
{
	struct dedupe *d = st->state;
	uint8_t key[STATE_KEY_MAX];
	size_t key_len, len;
	const uint8_t *val;
	int r = state_last(st->kv, key, &key_len, &val, &len);
	if (r < 0)
		return r;
	d->next = 0;
	if (r == 0 && key_len == ORDER_BYTES && key[0] == 'o') {
		for (int i = 0; i < 8; i++)
			d->next = d->next << 8 | key[1 + i];
		d->next++;
	}
	d->loaded = true;
	return 0;
}

/* Finds the oldest entry: its order row, the name of its key (copied), when it came. 0,
 * STATE_E_NONE. */
static int dedupe_oldest(struct stage *st, uint8_t order[STATE_KEY_MAX],
                         uint8_t name[NAME_MAX_BYTES], size_t *name_len, struct seen *seen)
{
	size_t order_len, len;
	const uint8_t *val;
	int r = state_seek(st->kv, "o", 1, order, &order_len, &val, &len);
	if (r)
		return r;
	if (len > NAME_MAX_BYTES || order_len != ORDER_BYTES)
		return -EUCLEAN;
	memcpy(name, val, len);
	*name_len = len;
	r = state_get(st->kv, name, *name_len, &val, &len);
	if (r || len != sizeof(*seen))
		return r < 0 ? r : -EUCLEAN;
	memcpy(seen, val, sizeof(*seen));
	return 0;
}

/* Forgets up to @n of the oldest entries, of those seen at @until or before. 0, STATE_E_NONE: no
 * more. */
static int dedupe_forget(struct stage *st, unsigned n, int64_t until)
{
	for (unsigned i = 0; i < n; i++) {
		uint8_t order[STATE_KEY_MAX], name[NAME_MAX_BYTES];
		size_t name_len;
		struct seen seen;
		int r = dedupe_oldest(st, order, name, &name_len, &seen);
		if (r)
			return r;
		if (seen.at > until)
			return STATE_E_NONE;
		r = state_del(st->kv, name, name_len);
		if (!r)
			r = state_del(st->kv, order, ORDER_BYTES);
		if (r)
			return r == STATE_E_FULL ? -ENOSPC : r < 0 ? r : -EUCLEAN;
	}
	return 0;
}

/* Makes room for one more by the bounds that are known beforehand. */
static int dedupe_room(struct stage *st)
{
	const struct dedupe_config *c = st->config;
	struct dedupe *d = st->state;
	uint64_t rows, used, limit;
	int r = state_count(st->kv, &rows);
	if (!r)
		r = state_usage(st->kv, &used, &limit);
	if (r)
		return r;
	unsigned n = rows / 2 >= (uint64_t)c->max_entries;
	if (rows / 2 > (uint64_t)c->max_entries || used >= limit - limit / 10)
		n = 2;
	if (used >= limit - limit / 10 && !d->told) {
		d->told = true;
		log_notice("dedupe: state.size is reached with %llu keys: the oldest go early",
		           (unsigned long long)rows / 2);
	}
	r = n ? dedupe_forget(st, n, INT64_MAX) : 0;
	return r == STATE_E_NONE ? 0 : r;
}

/* Writes both rows or none. */
static int dedupe_put(struct stage *st, const uint8_t *name, size_t name_len,
                      const struct seen *seen)
{
	uint8_t order[ORDER_BYTES];
	order_key(order, seen->number);
	int r = state_put(st->kv, name, name_len, seen, sizeof(*seen));
	if (r)
		return r;
	r = state_put(st->kv, order, sizeof(order), name, name_len);
	if (r != STATE_E_FULL)
		return r;
	int undo = state_del(st->kv, name, name_len);
	return undo < 0 ? undo : undo == STATE_E_FULL ? -ENOSPC : STATE_E_FULL;
}

static int dedupe_insert(struct stage *st, const uint8_t *name, size_t name_len)
{
	struct dedupe *d = st->state;
	int r = dedupe_room(st);
	if (r)
		return r;
	struct seen seen = {.number = d->next, .at = st->now, .origin = st->origin};
	for (unsigned round = 0; round < EVICT_ROUNDS; round++) {
		r = dedupe_put(st, name, name_len, &seen);
		if (r != STATE_E_FULL)
			break;
		r = dedupe_forget(st, EVICT_AT_ONCE, INT64_MAX);
		if (r < 0)
			return r;
		r = STATE_E_FULL;
	}
	if (r == STATE_E_FULL)
		return stage_say(st, STAGE_E_REJECT,
		                 "dedupe: state.size is used up by other steps");
	d->next++;
	return r;
}

/* Both rows of an entry. */
static int dedupe_remove(struct stage *st, const uint8_t *name, size_t name_len, uint64_t number)
{
	uint8_t order[ORDER_BYTES];
	order_key(order, number);
	int r = state_del(st->kv, name, name_len);
	if (!r)
		r = state_del(st->kv, order, sizeof(order));
	return r == STATE_E_FULL ? -ENOSPC : r == STATE_E_NONE ? 0 : r;
}

/* The record that set the key may have been lost behind this step, with the power, and come again.
 */
static bool in_doubt(const struct stage *st, const struct origin *seen)
{
	return st->doubt_from && seen->chunk >= st->doubt_from &&
	       memcmp(seen->epoch, st->origin.epoch, sizeof(seen->epoch)) != 0;
}

static int dedupe_seen(struct stage *st, const uint8_t *name, size_t name_len)
{
	const struct dedupe_config *c = st->config;
	const uint8_t *val;
	size_t len;
	int r = state_get(st->kv, name, name_len, &val, &len);
	if (r == STATE_E_NONE)
		return dedupe_insert(st, name, name_len);
	if (r)
		return r;
	struct seen seen;
	if (len != sizeof(seen))
		return -EUCLEAN;
	memcpy(&seen, val, sizeof(seen));
	if (!memcmp(&seen.origin, &st->origin, sizeof(seen.origin)))
		return STAGE_OK;
	if (!in_doubt(st, &seen.origin) && (!c->ttl || st->now - seen.at < c->ttl))
		return STAGE_E_FILTERED;
	r = dedupe_remove(st, name, name_len, seen.number);
	return r ? r : dedupe_insert(st, name, name_len);
}

static int dedupe_transform(struct stage *st, struct record *r)
{
	const struct dedupe_config *c = st->config;
	struct dedupe *d = st->state;
	unsigned present;
	int rc = d->loaded ? 0 : dedupe_load(st);
	if (rc)
		return rc;
	d->key.len = 0;
	rc = key_build(&d->key, r, &c->by, &present);
	if (rc)
		return rc;
	if (!present && c->missing == MISSING_PASS)
		return STAGE_OK;
	if (!present && c->missing == MISSING_REJECT)
		return stage_say(st, STAGE_E_REJECT, "dedupe: no field %s%s", c->by.v[0],
		                 c->by.n > 1 ? " nor the others" : "");
	uint8_t name[NAME_MAX_BYTES];
	size_t name_len = key_name(name, sizeof(name), d->key.p, d->key.len);
	return dedupe_seen(st, name, name_len);
}

/* Forgets what is over its time, a part at a time, and says when to be called again. */
static int dedupe_tick(struct stage *st)
{
	const struct dedupe_config *c = st->config;
	int r = dedupe_forget(st, EXPIRE_A_TICK, st->now - c->ttl);
	if (r < 0)
		return r;
	if (r == 0)
		return STAGE_E_AGAIN;
	int64_t pause = c->ttl / 16;
	if (pause < 1000000000)
		pause = 1000000000;
	if (pause > 60000000000)
		pause = 60000000000;
	st->deadline = clock_monotonic() + pause;
	return STAGE_OK;
}

static int dedupe_open(struct stage *st)
{
	const struct dedupe_config *c = st->config;
	if (!st->kv)
		return -EINVAL;
	st->deadline = c->ttl ? 1 : 0; /* at once: what ran out while nobody was here */
	return 0;
}

static void dedupe_close(struct stage *st)
{
	struct dedupe *d = st->state;
	buf_deinit(&d->key);
}

static void dedupe_rollback(struct stage *st)
{
	struct dedupe *d = st->state;
	d->loaded = false;
}

const struct stage_ops dedupe_step = {
        .name = "dedupe",
        .kind = STAGE_STEP,
        .flags = STAGE_STATEFUL,
        .help = "passes the first record with a key, drops its repeats",
        .example = "steps:\n"
                   "  - dedupe: {by: [client, id], ttl: 1h, max_entries: 1000000}\n",
        .bare = "by",
        .options = dedupe_options,
        .config_size = sizeof(struct dedupe_config),
        .state_size = sizeof(struct dedupe),
        .open = dedupe_open,
        .close = dedupe_close,
        .transform = dedupe_transform,
        .tick = dedupe_tick,
        .rollback = dedupe_rollback,
};
