/*
 * What the parts of the log's worker share: run_log.c takes, writes and hands on; log_replay.c puts
 * back what the log held before a loss of power. Nobody else includes this.
 */
#pragma once

#include "daemon/run_log.h"
#include "daemon/worker.h"
#include "ipc/wal.h"

/* A chunk of the group in hand. */
struct taken {
	struct arena_handle at;
	const struct unit_output *to; /* NULL: a position only */
	unsigned out, n_out;          /* its copies: log_run.out[out .. out + n_out) */
	uint32_t missing;             /* edges that are full and drop */
};

struct log_run {
	struct worker *w;
	struct wal wal;
	unsigned n;                       /* producers: stages 0 .. n-1 of the configuration */
	uint32_t edge[STAGE_OUTPUTS_MAX]; /* of producer i to the log */
	unsigned turn;                    /* who is asked first */
	struct taken taken[WAL_GROUP_MAX];
	unsigned n_taken;
	struct arena_handle out[ARENA_EDGES_MAX];
	unsigned n_out;
	struct log_mark mark;
	uint64_t last_number[WAL_POSITIONS_MAX]; /* put back last, by wal_entry.who */
	int64_t looked;  /* monotonic ns of the last look at what is needed, */
	int64_t checked; /* ... of the last checkpoint */
	uint64_t upto[ARENA_WORKERS_MAX];
	bool blocked, full;
};

static inline struct arena *log_arena(const struct log_run *l)
{
	return l->w->a;
}

/* The slot of the producer whose position this is, UINT32_MAX: it has none. */
uint32_t log_slot_of(const struct log_run *l, const struct wal_position *p);
/* Where a chunk of producer @i goes; NULL: nowhere, it is a position only. */
const struct unit_output *log_destination(const struct log_run *l, unsigned i, uint32_t records,
                                          bool letters);
/* An entry on every edge of @to, all or none; edges that drop may be missing. */
bool log_take_outputs(struct log_run *l, const struct unit_output *to, struct taken *t);
/* Gives back the entries taken from number @from on. */
void log_give_back(struct log_run *l, unsigned from);
/* Copies a chunk to its readers' entries. @p: its bytes, in none of them or in the first. */
void log_publish(struct log_run *l, struct intent *in, const struct taken *t, const uint8_t *p,
                 const struct arena_facts *f);

/* log_replay.c: puts back the entry at the mark. Positive: there is no room for it yet. */
int log_replay_one(struct log_run *l);
/* Whether there is room for it now. */
bool log_replay_room(struct log_run *l);
