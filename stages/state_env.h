/*
 * The inside of state.c and state_env.c; nobody else includes it.
 */
#pragma once

#include <lmdb.h>

#include "stages/state.h"

enum {
	STATE_MARGIN_PAGES = 32, /* meta pages, the table of databases, lists of free pages */
};

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

/* What LMDB answered, as ours; what is no ordinary answer is logged. */
int state_error(const struct state_env *env, int rc, const char *what);

/* Counts in env->strange what steps hold that are no more / drops it. In the open transaction;
 * MDB_* codes. */
int state_count_strangers(struct state_env *env);
int state_sweep(struct state_env *env);
