/*
 * What steps remember, over LMDB: one environment a worker, one named database a step, one write
 * transaction a unit, in which the commit's id is stored too.
 *
 * The hard idea: LMDB answers MDB_MAP_FULL by spoiling the whole transaction, and with it the unit,
 * so that "evict something and go on" would be impossible. So the map is never let run full. LMDB
 * writes by copying pages: besides the live pages it needs room for those the unit in hand copies
 * and for those the unit before it gave up, which may be used again only one commit later. `limit`
 * pages may therefore be live: a third of the map, or all but 128 MiB where a unit cannot touch so
 * much. Above it state_put refuses before LMDB is asked. When even so the estimate of what is free
 * says "perhaps not enough", the write is tried in a nested transaction, which may fail without
 * harm to the unit.
 *
 * Locks: exactly one process at a time owns an environment, and a worker's successor is started
 * only after it was reaped. So LMDB runs without its lock table (MDB_NOLOCK): nothing in shared
 * memory can be left behind by a killed process. The rule is enforced by flock() on the file
 * `owner`, which the kernel releases at death. A killed process leaves at worst pages that no meta
 * page leads to.
 *
 * Limits: a unit that touches more than 64 MiB (an eighth of the map) of a large state that is full
 * can be refused room that it would have in the next. Without `sync` a power loss can cost the last
 * units or, as the kernel may write pages in any order, spoil the file; a spoilt file is refused
 * with its name, not repaired. What a step remembered that the configuration no longer has (at that
 * place) is dropped at the first commit.
 */
#include "stages/state_env.h"

#include <assert.h>
#include <string.h>

enum {
	INLINE_MAX = 1024, /* longer values may need pages in a row */
};

/* Pages in use by what the steps hold; *@branches: those of them that lead to others. */
static uint64_t state_live(struct state_env *env, uint64_t *branches)
{
	uint64_t live = env->strange;
	if (branches)
		*branches = 0;
	for (unsigned i = 0; i < env->n_steps; i++) {
		MDB_stat st;
		if (mdb_stat(env->txn, env->steps[i]->dbi, &st))
			continue;
		live += st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages;
		if (branches)
			*branches += st.ms_branch_pages;
	}
	return live;
}

static int state_begin(struct state_env *env)
{
	if (env->txn)
		return 0;
	int rc = mdb_txn_begin(env->env, NULL, 0, &env->txn);
	if (rc)
		env->txn = NULL;
	if (!rc && !env->swept)
		rc = state_count_strangers(env);
	if (rc) {
		state_env_rollback(env);
		int r = state_error(env, rc, "begin");
		return r > 0 ? -EIO : r;
	}
	env->live_begin = env->live_peak = state_live(env, &env->branches);
	env->ops = 0;
	if (env->gave_up == UINT64_MAX) /* just opened: what the last unit did is not known */
		env->gave_up = env->live_begin;
	return 0;
}

/* Pages of before the unit that it has copied or given up, at most. */
static uint64_t state_copied(const struct state_env *env)
{
	uint64_t n = 2 * env->ops + env->branches;
	return n < env->live_begin ? n : env->live_begin;
}

/* Pages this unit has taken from the free ones, at most. */
static uint64_t state_spent(const struct state_env *env)
{
	return state_copied(env) + (env->live_peak - env->live_begin);
}

static void state_end(struct state_env *env)
{
	env->txn = NULL;
	for (unsigned i = 0; i < env->n_steps; i++)
		env->steps[i]->cursor = NULL;
}

int state_env_commit(struct state_env *env, const struct commit_id *id)
{
	int r = state_begin(env);
	if (r)
		return r;
	MDB_val key = {sizeof(id->worker), (void *)&id->worker};
	MDB_val val = {sizeof(*id), (void *)id};
	int rc = mdb_put(env->txn, env->commits, &key, &val, 0);
	if (!rc && !env->swept)
		rc = state_sweep(env);
	if (rc) {
		state_env_rollback(env);
	} else {
		uint64_t copied = state_copied(env);
		rc = mdb_txn_commit(env->txn);
		state_end(env);
		if (!rc) {
			env->gave_up = copied + env->strange;
			env->strange = 0;
			env->swept = true;
		}
	}
	if (rc == MDB_MAP_FULL || rc == MDB_TXN_FULL) {
		log_error("state %s: full at commit: raise state.size", env->path);
		return -ENOSPC;
	}
	return state_error(env, rc, "commit");
}

void state_env_rollback(struct state_env *env)
{
	if (!env->txn)
		return;
	mdb_txn_abort(env->txn);
	state_end(env);
}

int state_env_committed(struct state_env *env, const struct commit_id *id)
{
	MDB_txn *txn = env->txn;
	int rc = txn ? 0 : mdb_txn_begin(env->env, NULL, MDB_RDONLY, &txn);
	if (rc) {
		int r = state_error(env, rc, "read");
		return r > 0 ? -EIO : r;
	}
	MDB_val key = {sizeof(id->worker), (void *)&id->worker}, val;
	rc = mdb_get(txn, env->commits, &key, &val);
	int yes = !rc && val.mv_size == sizeof(*id) && !memcmp(val.mv_data, id, sizeof(*id));
	if (!env->txn)
		mdb_txn_abort(txn);
	if (rc && rc != MDB_NOTFOUND) {
		int r = state_error(env, rc, "read");
		return r > 0 ? -EIO : r;
	}
	return yes;
}

bool state_env_dirty(const struct state_env *env)
{
	return env->txn != NULL;
}

int state_get(struct state *kv, const void *key, size_t key_len, const uint8_t **val, size_t *len)
{
	assert(key_len > 0 && key_len <= STATE_KEY_MAX);
	int r = state_begin(kv->env);
	if (r)
		return r;
	MDB_val k = {key_len, (void *)key}, v;
	int rc = mdb_get(kv->env->txn, kv->dbi, &k, &v);
	if (rc)
		return state_error(kv->env, rc, "get");
	*val = v.mv_data;
	*len = v.mv_size;
	return 0;
}

/* A write that may not find room: in a nested transaction, whose failure spoils only itself. @v
 * NULL: a removal. */
static int state_try(struct state *kv, MDB_val *k, MDB_val *v)
{
	MDB_txn *nested;
	int rc = mdb_txn_begin(kv->env->env, kv->env->txn, 0, &nested);
	if (rc)
		return rc;
	rc = v ? mdb_put(nested, kv->dbi, k, v, 0) : mdb_del(nested, kv->dbi, k, NULL);
	if (!rc)
		return mdb_txn_commit(nested);
	mdb_txn_abort(nested);
	return rc;
}

static int state_write(struct state *kv, MDB_val *k, MDB_val *v)
{
	struct state_env *env = kv->env;
	bool rows = v && v->mv_size > INLINE_MAX;
	uint64_t need =
	        STATE_MARGIN_PAGES + state_spent(env) + (rows ? v->mv_size / env->page + 1 : 0);
	/* the list of what was given up is written too, 512 numbers a page */
	need += need / 256;
	env->ops += 1 + (rows ? v->mv_size / env->page + 1 : 0);
	if (rows || env->live_begin + env->gave_up + need > env->map)
		return state_try(kv, k, v);
	return v ? mdb_put(env->txn, kv->dbi, k, v, 0) : mdb_del(env->txn, kv->dbi, k, NULL);
}

/* Whether a value of @len at @k would make the data more. */
static bool state_grows(struct state *kv, MDB_val *k, size_t len)
{
	MDB_val old;
	return mdb_get(kv->env->txn, kv->dbi, k, &old) != 0 || old.mv_size < len;
}

int state_put(struct state *kv, const void *key, size_t key_len, const void *val, size_t len)
{
	assert(key_len > 0 && key_len <= STATE_KEY_MAX);
	struct state_env *env = kv->env;
	int r = state_begin(env);
	if (r)
		return r;
	MDB_val k = {key_len, (void *)key}, v = {len, (void *)val};
	uint64_t live = state_live(env, NULL);
	if (live > env->live_peak)
		env->live_peak = live;
	if (live + len / env->page >= env->limit && state_grows(kv, &k, len))
		return STATE_E_FULL;
	return state_error(env, state_write(kv, &k, &v), "put");
}

int state_del(struct state *kv, const void *key, size_t key_len)
{
	assert(key_len > 0 && key_len <= STATE_KEY_MAX);
	int r = state_begin(kv->env);
	if (r)
		return r;
	MDB_val k = {key_len, (void *)key};
	return state_error(kv->env, state_write(kv, &k, NULL), "delete");
}

static int state_cursor(struct state *kv, MDB_val *k, MDB_val *v, MDB_cursor_op op)
{
	int r = state_begin(kv->env);
	if (r)
		return r;
	int rc = 0;
	if (!kv->cursor)
		rc = mdb_cursor_open(kv->env->txn, kv->dbi, &kv->cursor);
	if (!rc)
		rc = mdb_cursor_get(kv->cursor, k, v, op);
	return state_error(kv->env, rc, "seek");
}

static int state_found(int r, const MDB_val *k, const MDB_val *v, uint8_t *found, size_t *found_len,
                       const uint8_t **val, size_t *len)
{
	if (r)
		return r;
	memcpy(found, k->mv_data, k->mv_size);
	*found_len = k->mv_size;
	*val = v->mv_data;
	*len = v->mv_size;
	return 0;
}

int state_seek(struct state *kv, const void *key, size_t key_len, uint8_t *found, size_t *found_len,
               const uint8_t **val, size_t *len)
{
	assert(key_len <= STATE_KEY_MAX);
	MDB_val k = {key_len, (void *)key}, v;
	int r = state_cursor(kv, &k, &v, key_len ? MDB_SET_RANGE : MDB_FIRST);
	return state_found(r, &k, &v, found, found_len, val, len);
}

int state_last(struct state *kv, uint8_t *found, size_t *found_len, const uint8_t **val,
               size_t *len)
{
	MDB_val k = {0}, v;
	int r = state_cursor(kv, &k, &v, MDB_LAST);
	return state_found(r, &k, &v, found, found_len, val, len);
}

int state_count(struct state *kv, uint64_t *n)
{
	int r = state_begin(kv->env);
	if (r)
		return r;
	MDB_stat st;
	int rc = mdb_stat(kv->env->txn, kv->dbi, &st);
	*n = rc ? 0 : st.ms_entries;
	return state_error(kv->env, rc, "count");
}

int state_clear(struct state *kv)
{
	int r = state_begin(kv->env);
	if (r)
		return r;
	kv->env->ops += kv->env->live_begin;
	kv->cursor = NULL; /* stays with the transaction, which frees it */
	return state_error(kv->env, mdb_drop(kv->env->txn, kv->dbi, 0), "clear");
}

int state_usage(struct state *kv, uint64_t *used, uint64_t *limit)
{
	int r = state_begin(kv->env);
	if (r)
		return r;
	*used = state_live(kv->env, NULL) * kv->env->page;
	*limit = kv->env->limit * kv->env->page;
	return 0;
}
