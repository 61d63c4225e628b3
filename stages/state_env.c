/*
 * Opening and closing the environment behind state.h: directory, owner, size, databases.
 *
 * The file's blocks are taken from the disk when it is opened, so that a full disk is met there and
 * not inside a unit. A step that was taken out of the configuration, or moved to another place in
 * it, leaves its database behind; its pages are counted until the first commit, which drops it: by
 * then all steps that there are have been opened.
 *
 * Limit: a map that once grew beyond the size asked for now stays as large.
 */
#include "stages/state_env.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

enum {
	UNIT_BYTES = 64 << 20, /* a unit is taken to touch at most this much of a large map */
	STRANGERS_MAX = 64,    /* databases of former steps */
};

static const char COMMITS[] = "commits";

int state_error(const struct state_env *env, int rc, const char *what)
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
	env->limit = (env->map - env->map / 32 - STATE_MARGIN_PAGES) / 3;
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
	if (size < (uint64_t)3 * STATE_MARGIN_PAGES * page) {
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

int state_count_strangers(struct state_env *env)
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
int state_sweep(struct state_env *env)
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
