/*
 * What the parts of the log's worker share: run_log.c takes, writes and hands on; log_carry.c says
 * what may be overwritten; log_replay.c puts back what the log held before a loss of power. Nobody
 * else includes this.
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
	bool damaged;                 /* overwritten in memory: its position alone goes on */
};

struct log_run {
	struct worker *w;
	struct wal wal;
	unsigned n;                       /* producers: stages 0 .. n-1 of the configuration */
	uint32_t edge[STAGE_OUTPUTS_MAX]; /* of producer i to the log */
	unsigned turn;                    /* who is asked first */
	struct taken taken[WAL_GROUP_MAX];
	unsigned n_taken;
	uint64_t first; /* the entry of the first of them */
	struct arena_handle out[ARENA_EDGES_MAX];
	unsigned n_out;
	struct log_mark mark;
	struct {
		uint8_t *done;    /* as behind the mark, LOG_MARK_BYTES */
		uint8_t *edge;    /* where a carried entry goes: see log_replay.c */
		uint64_t at;      /* what is tried next ... */
		uint64_t waiting; /* ... and edges for which an earlier one waits */
		int64_t again;    /* monotonic ns: not to be tried before */
		uint64_t behind;  /* bit a producer: an earlier chunk of it waits */
	} replay;
	uint64_t booked;         /* commits when the figures were taken last */
	int64_t looked;          /* monotonic ns of the last look at what is needed, */
	int64_t checked;         /* ... of the last look whether a checkpoint is due */
	int64_t written;         /* ... of the last checkpoint */
	struct unit_output back; /* the edge of a carried chunk that is put back */
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

/* Writes a checkpoint when that frees something, or the last one has old figures. 0 or -errno. */
int log_checkpoint(struct log_run *l);
/* Says why the log's worker ends; returns @r. */
int log_cannot_write(struct log_run *l, int r);

/* log_carry.c. Moves on what is needed. */
void log_move_need(struct log_run *l);
/* How many chunks there would be room for, were all that is needed written again; a group at most.
 */
unsigned log_could_take(struct log_run *l);
/* The ring is short of room: writes again what stands still; a part of it when there is an order.
 * 0 or -errno. */
int log_carry(struct log_run *l);
/* Writes what workers want in the log before they commit it; whether there is any, and room. 0 or
 * -errno. */
int log_ahead(struct log_run *l);
bool log_ahead_now(const struct log_run *l);
/* What a predecessor wrote without being able to say so. 0 or -errno. */
int log_adopt(struct log_run *l);

/* log_books.c: notes the figures for the next checkpoint. Whether there are others than before. */
bool log_books_take(struct log_run *l);

/* log_replay.c: takes up where a predecessor was. 0 or -errno. */
int log_replay_begin(struct log_run *l);
/* Whether there is something left to be put back. */
static inline bool log_replaying(const struct log_run *l)
{
	return l->mark.next < l->mark.end;
}
/* Puts back the next entry that can be. Positive: there is no room for any of them yet. */
int log_replay_one(struct log_run *l);
/* Whether there is room for one now. */
bool log_replay_room(struct log_run *l);
/* Whether entry @seq is still to be put back, and to some place. */
bool log_replay_waits(struct log_run *l, uint64_t seq);
/* Bytes and entries that all that is still to be put back takes when it is carried. */
uint64_t log_replay_needs(struct log_run *l, uint64_t *n);
/* The entries @seq[0 .. n) have been written again as @first and those behind it: these are to be
 * put back in their stead. Only when the mark can note as many more. */
bool log_replay_can_move(const struct log_run *l, unsigned n);
void log_replay_moved(struct log_run *l, const uint64_t *seq, unsigned n, uint64_t first);
/* A damaged entry that was to be put back: counted, and done with. */
void log_replay_damaged(struct log_run *l, const struct wal_entry *e);
