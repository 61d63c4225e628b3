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
#include "stages/state.h"

#include <assert.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

enum {
	UNIT_BYTES = 64 << 20, /* a unit is taken to touch at most this much of a large map */
	STRANGERS_MAX = 64,    /* databases of former steps */
	MARGIN_PAGES = 32,     /* meta pages, the table of databases, lists of free pages */
	INLINE_MAX = 1024,     /* longer values may need pages in a row */
};

static const char COMMITS[] = "commits";

struct state {
	struct state_env *env;
	char *name;
	MDB_cursor *cursor; /* of the open transaction, or NULL */
	MDB_dbi dbi;
};

struct state_env {
	MDB_env *env;
	MDB_txn *txn; /* the unit's, or NULL */
	char *path;
	int owner; /* locked file */
	unsigned n_steps, cap_steps;
	struct state **steps;
	MDB_dbi commits;
	bool swept;       /* what steps held that are no more was dropped */
	uint64_t strange; /* pages of it */
	uint64_t page;    /* bytes */
	uint64_t map;     /* pages */
	uint64_t limit;   /* pages that may be live */
	uint64_t gave_up; /* pages the unit before gave up, at most */
	/* of the unit in hand, in pages */
	uint64_t live_begin, live_peak, branches, ops;
};

/* What LMDB answered, as ours. */
static int state_error(const struct state_env *env, int rc, const char *what)
{
	switch (rc) {
	case MDB_SUCCESS:
		return 0;
	case MDB_NOTFOUND:
		return STATE_E_NONE;
	case MDB_MAP_FULL:
	case MDB_TXN_FULL:
		return STATE_E_FULL;
	default:
		break;
	}
	log_error("state %s: %s: %s", env->path, what, mdb_strerror(rc));
	if (rc > 0)
		return -rc;
	bool spoilt = rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND || rc == MDB_INVALID ||
	              rc == MDB_VERSION_MISMATCH;
	return spoilt ? -EUCLEAN : -EIO;
}

/* mkdir -p, private to us where we make it. */
static int state_mkdir(const char *path)
{
	_cleanup_free_ char *p = strdup(path);
	if (!p)
		return -ENOMEM;
	for (char *s = p + 1; *s; s++) {
		if (*s != '/')
			continue;
		*s = 0;
		if (mkdir(p, 0700) < 0 && errno != EEXIST)
			return err_errno();
		*s = '/';
	}
	return mkdir(p, 0700) < 0 && errno != EEXIST ? err_errno() : 0;
}

static int state_own(struct state_env *env)
{
	_cleanup_free_ char *file = NULL;
	if (asprintf(&file, "%s/owner", env->path) < 0) {
		file = NULL;
		return -ENOMEM;
	}
	env->owner = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (env->owner < 0) {
		int r = err_errno();
		log_error("state: cannot open %s: %s", file, strerror(-r));
		return r;
	}
	char pid[32] = "";
	if (flock(env->owner, LOCK_EX | LOCK_NB) < 0) {
		int r = errno == EWOULDBLOCK ? -EBUSY : err_errno();
		if (pread(env->owner, pid, sizeof(pid) - 1, 0) < 0)
			pid[0] = 0;
		pid[strcspn(pid, "\n")] = 0;
		log_error("state %s: in use by process %s", env->path, pid);
		return r;
	}
	int n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	/* only people read it: a failure changes nothing */
	if (ftruncate(env->owner, 0) < 0 || pwrite(env->owner, pid, (size_t)n, 0) < 0)
		log_debug("state %s: owner file: %m", env->path);
	return 0;
}

/* Takes the disk space now, so that a full disk is met at the start and not inside a unit. */
static int state_allocate(const struct state_env *env, uint64_t size)
{
	int fd;
	int rc = mdb_env_get_fd(env->env, &fd);
	if (rc)
		return state_error(env, rc, "descriptor");
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size) == 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == ENOSYS)
		return 0;
	int r = err_errno();
	log_error("state %s: no room for its %llu bytes: %m", env->path, (unsigned long long)size);
	return r;
}

static int state_dbi(struct state_env *env, const char *name, MDB_dbi *dbi)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(env->env, NULL, 0, &txn);
	if (rc)
		return state_error(env, rc, "begin");
	rc = mdb_dbi_open(txn, name, MDB_CREATE, dbi);
	if (rc) {
		mdb_txn_abort(txn);
	} else {
		rc = mdb_txn_commit(txn);
	}
	int r = state_error(env, rc, name);
	return r == STATE_E_FULL ? -ENOSPC : r > 0 ? -EIO : r;
}

static void state_measure(struct state_env *env, uint64_t asked)
{
	MDB_envinfo info;
	MDB_stat st;
	mdb_env_info(env->env, &info);
	mdb_env_stat(env->env, &st);
	env->page = st.ms_psize;
	env->map = info.me_mapsize / env->page;
	uint64_t unit = 2 * (uint64_t)UNIT_BYTES / env->page;
	if (unit < env->map / 4)
		unit = env->map / 4;
	env->limit = (env->map - env->map / 32 - MARGIN_PAGES) / 3;
	if (env->map > unit && env->map - unit > env->limit)
		env->limit = env->map - unit;
	env->gave_up = UINT64_MAX;
	if (info.me_mapsize > asked)
		log_notice("state %s: already uses more than state.size: %llu bytes", env->path,
		           (unsigned long long)info.me_mapsize);
}

static int state_env_map(struct state_env *env, uint64_t size, unsigned n_steps, bool sync)
{
	int rc = mdb_env_create(&env->env);
	if (rc)
		return state_error(env, rc, "create");
	rc = mdb_env_set_mapsize(env->env, size);
	if (!rc)
		rc = mdb_env_set_maxdbs(env->env, n_steps + 1 + STRANGERS_MAX);
	unsigned flags = MDB_NOLOCK | MDB_NOTLS | (sync ? 0 : MDB_NOSYNC);
	if (!rc)
		rc = mdb_env_open(env->env, env->path, flags, 0600);
	return state_error(env, rc, "open");
}

static int state_env_setup(struct state_env *env, const char *path, uint64_t size, unsigned n_steps,
                           bool sync)
{
	env->path = strdup(path);
	env->steps = calloc(n_steps ? n_steps : 1, sizeof(*env->steps));
	env->cap_steps = n_steps;
	if (!env->path || !env->steps)
		return -ENOMEM;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	size = (size + page - 1) / page * page;
	if (size < (uint64_t)3 * MARGIN_PAGES * page) {
		log_error("state %s: state.size %llu is too small", path, (unsigned long long)size);
		return -EINVAL;
	}
	int r = state_mkdir(path);
	if (r < 0) {
		log_error("state %s: cannot make the directory: %s", path, strerror(-r));
		return r;
	}
	r = state_own(env);
	if (!r)
		r = state_env_map(env, size, n_steps, sync);
	if (!r)
		r = state_allocate(env, size);
	if (r)
		return r > 0 ? -EIO : r;
	state_measure(env, size);
	return state_dbi(env, COMMITS, &env->commits);
}

int state_env_open(struct state_env **envp, const char *path, uint64_t size, unsigned n_steps,
                   bool sync)
{
	*envp = NULL;
	struct state_env *env = calloc(1, sizeof(*env));
	if (!env)
		return -ENOMEM;
	env->owner = -1;
	int r = state_env_setup(env, path, size, n_steps, sync);
	if (r) {
		state_env_close(env);
		return r;
	}
	*envp = env;
	return 0;
}

struct state_env *state_env_close(struct state_env *env)
{
	if (!env)
		return NULL;
	state_env_rollback(env);
	for (unsigned i = 0; i < env->n_steps; i++) {
		free(env->steps[i]->name);
		free(env->steps[i]);
	}
	free(env->steps);
	if (env->env) {
		/* a clean stop is worth an fsync even when commits are not */
		mdb_env_sync(env->env, 1);
		mdb_env_close(env->env);
	}
	if (env->owner >= 0)
		close(env->owner);
	free(env->path);
	free(env);
	return NULL;
}

int state_env_step(struct state_env *env, unsigned index, const char *step, struct state **kvp)
{
	*kvp = NULL;
	/* LMDB opens a database in a transaction of its own: before the first unit */
	assert(!env->txn);
	assert(env->n_steps < env->cap_steps);
	char name[128];
	snprintf(name, sizeof(name), "%u.%s", index, step);
	struct state *kv = calloc(1, sizeof(*kv));
	if (!kv)
		return -ENOMEM;
	kv->env = env;
	kv->name = strdup(name);
	int r = kv->name ? state_dbi(env, name, &kv->dbi) : -ENOMEM;
	if (r) {
		free(kv->name);
		free(kv);
		return r;
	}
	env->steps[env->n_steps++] = kv;
	*kvp = kv;
	return 0;
}

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

static bool state_known(const struct state_env *env, const MDB_val *name)
{
	if (name->mv_size == strlen(COMMITS) && !memcmp(name->mv_data, COMMITS, name->mv_size))
		return true;
	for (unsigned i = 0; i < env->n_steps; i++) {
		const char *s = env->steps[i]->name;
		if (name->mv_size == strlen(s) && !memcmp(name->mv_data, s, name->mv_size))
			return true;
	}
	return false;
}

/* The first database that no step has opened: its name to @out. MDB_NOTFOUND: there is none.
 * @pages, when given, gets what all of them hold, and there is no name. */
static int state_stranger(struct state_env *env, MDB_dbi names, char out[STATE_KEY_MAX + 1],
                          uint64_t *pages)
{
	MDB_cursor *cursor;
	MDB_val k, v;
	int rc = mdb_cursor_open(env->txn, names, &cursor);
	if (rc)
		return rc;
	while ((rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) == 0) {
		MDB_stat st;
		MDB_dbi dbi;
		if (state_known(env, &k))
			continue;
		snprintf(out, STATE_KEY_MAX + 1, "%.*s", (int)k.mv_size, (char *)k.mv_data);
		if (!pages)
			break;
		rc = mdb_dbi_open(env->txn, out, 0, &dbi);
		if (!rc)
			rc = mdb_stat(env->txn, dbi, &st);
		if (rc)
			break;
		*pages += st.ms_branch_pages + st.ms_leaf_pages + st.ms_overflow_pages;
	}
	mdb_cursor_close(cursor);
	return rc;
}

/* Counts what steps hold that are no more. */
static int state_count_strangers(struct state_env *env)
{
	char name[STATE_KEY_MAX + 1];
	MDB_dbi names;
	env->strange = 0;
	int rc = mdb_dbi_open(env->txn, NULL, 0, &names);
	if (!rc)
		rc = state_stranger(env, names, name, &env->strange);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Drops it, with the first commit: all steps have been opened by then. Nobody reads it, and it
 * would fill the map unseen. */
static int state_sweep(struct state_env *env)
{
	char name[STATE_KEY_MAX + 1];
	MDB_dbi names, dbi;
	int rc = mdb_dbi_open(env->txn, NULL, 0, &names);
	while (!rc && (rc = state_stranger(env, names, name, NULL)) == 0) {
		log_notice("state %s: what step %s remembered is dropped", env->path, name);
		rc = mdb_dbi_open(env->txn, name, 0, &dbi);
		if (!rc)
			rc = mdb_drop(env->txn, dbi, 1);
	}
	return rc == MDB_NOTFOUND ? 0 : rc;
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
	uint64_t need = MARGIN_PAGES + state_spent(env) + (rows ? v->mv_size / env->page + 1 : 0);
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
