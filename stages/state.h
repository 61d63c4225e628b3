/*
 * What steps remember, in LMDB: one environment a transformer worker, one named database a step,
 * one write transaction a unit. The transaction also holds the commit's id, and so decides after a
 * crash whether the unit happened (DESIGN: a stage with its own transaction has its commit point
 * there). MDB_NOSYNC: a process crash loses nothing; power loss is the business of `sync: true`.
 *
 * Keys are at most STATE_KEY_MAX bytes (LMDB's limit); longer ones are the step's to hash. What
 * state_get returns lies in LMDB's map: it is gone with the next put, del, stage_emit or
 * stage_reserve. The map has a fixed size (`state.size`): STATE_E_FULL is an ordinary answer.
 */
#pragma once

#include "stages/stage.h"

enum {
	STATE_KEY_MAX = 511,
};

enum state_error {
	STATE_E_OK,
	STATE_E_NONE, /* no such key; no more keys */
	STATE_E_FULL, /* state.size is used up */
};

struct state_env; /* one a worker */

/* Opens (creates) the environment in directory @path, of at most @size bytes, with @n_steps
 * databases.
 * @sync: fsync each commit. 0 or -errno. */
int state_env_open(struct state_env **env, const char *path, uint64_t size, unsigned n_steps,
                   bool sync);
struct state_env *state_env_close(struct state_env *env); /* returns NULL */

/* The view of step @index, named @step ("dedupe"): a database called "INDEX.STEP". Lives as long as
 * env. */
int state_env_step(struct state_env *env, unsigned index, const char *step, struct state **kv);

/* The unit's transaction: begin is implied by the first use; commit stores @id in it. */
int state_env_commit(struct state_env *env, const struct commit_id *id);
void state_env_rollback(struct state_env *env);
/* 1: the last committed transaction of that worker was @id; 0: it was not; -errno. */
int state_env_committed(struct state_env *env, const struct commit_id *id);
/* Whether anything was read or written since the last commit or rollback. */
bool state_env_dirty(const struct state_env *env);

/* For steps. 0, STATE_E_*, or -errno. */
int state_get(struct state *kv, const void *key, size_t key_len, const uint8_t **val, size_t *len);
int state_put(struct state *kv, const void *key, size_t key_len, const void *val, size_t len);
int state_del(struct state *kv, const void *key, size_t key_len);
/* First key >= @key (empty: the very first). The found key is copied to @found (STATE_KEY_MAX
 * bytes). */
int state_seek(struct state *kv, const void *key, size_t key_len, uint8_t *found, size_t *found_len,
               const uint8_t **val, size_t *len);
/* Last key. */
int state_last(struct state *kv, uint8_t *found, size_t *found_len, const uint8_t **val,
               size_t *len);
/* Number of keys. */
int state_count(struct state *kv, uint64_t *n);
/* Forgets all keys of this step, in the unit's transaction. */
int state_clear(struct state *kv);
/* Bytes of data held by all steps of this worker, and the bytes above which state_put answers
 * STATE_E_FULL for what would make it more. A step that evicts starts a little below. */
int state_usage(struct state *kv, uint64_t *used, uint64_t *limit);
