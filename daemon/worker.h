/*
 * A worker: the process of one stage. It is forked by the master, takes its slot of the arena, and
 * runs one loop until it is told to stop, has ended, or cannot go on:
 *
 *     wait -> claim -> run -> commit
 *
 * worker.c   the process: start, orders, waiting, leaving
 * unit.c     what is committed as one: outputs, letters, position, figures
 * unit_letter.c  dead letters
 * unit_aside.c   chunks that are not what was sealed
 * unit_log.c     what a producer does more when there is a log
 * unit_stored.c  what a producer may acknowledge
 * run_*.c    the loop of each kind
 *
 * Leaving is always safe, at any instruction: what was not committed is undone by the repair. An
 * orderly leave only saves that repair its work.
 */
#pragma once

#include "daemon/config.h"
#include "daemon/confine.h"
#include "daemon/nap.h"
#include "ipc/arena.h"
#include "ipc/clock.h"
#include "ipc/intent.h"
#include "ipc/link.h"

/* How a worker's process ends, for the master. */
enum worker_exit {
	WORKER_EXIT_STOPPED = 0, /* as ordered */
	WORKER_EXIT_ENDED = 10,  /* no more input, ever; committed */
	WORKER_EXIT_CANNOT = 11, /* said why; to be started again with back-off */
};

/* What a worker is given at its birth. */
struct worker_birth {
	const struct config *config;
	const struct config_stage *stage;
	struct arena *arena;
	uint32_t slot;
	unsigned ordinal;
	int channel; /* SOCK_SEQPACKET to the master: wakes us, takes tapped records */
	pid_t master;
	const uint32_t *edge_number; /* arena's number of each config edge */
	const int *eventfds;         /* by slot: doorbells (ipc/link.h) */
};

/* Runs the worker; never returns. */
_Noreturn void worker_main(const struct worker_birth *birth);

/* ---- shared by worker.c, unit.c, run_*.c ---- */

enum {
	UNIT_RANGES_MAX = 128,
};

struct unit_output {
	uint32_t edges[ARENA_EDGES_MAX]; /* ascending */
	unsigned n_edges;
	struct arena_handle at[ARENA_EDGES_MAX]; /* while open */
	bool missing[ARENA_EDGES_MAX];           /* while open: the edge is full and drops */
	bool open;
	uint8_t *p; /* the first edge's buffer */
	uint32_t used, records;
	uint8_t *nowhere; /* written to when all edges drop */
};

struct unit_input {
	struct arena_handle at;
	uint32_t from_record, from_byte, from_emitted; /* where this unit's part of it starts */
	uint32_t record, byte;                         /* how far it got */
	uint32_t records, bytes;                       /* of the chunk, checked */
	bool done;
};

struct worker {
	struct stage_host host; /* first: the host is found from it */
	const struct config *config;
	const struct config_stage *stage;
	struct arena *a;
	struct arena_worker *me;
	struct link *link;
	enum link_carrier listens;
	uint32_t slot;
	int channel;
	pid_t master;
	uint64_t reads; /* edges */

	/* what is run */
	struct stage st;         /* producer, consumer */
	struct chain chain;      /* transformer */
	struct state_env *state; /* transformer with stateful steps */
	struct codec codec;
	struct codec tap_codec;
	struct buf tap_buf;

	/* the unit in hand */
	struct unit_output out[STAGE_OUTPUTS_MAX];
	unsigned n_out;
	struct unit_output dead;
	uint32_t dead_edge;
	bool logged;       /* producer: its chunks go to the log first */
	bool ahead;        /* its outputs are in the log before their commit */
	bool bare;         /* this commit has a chunk without records, for its position */
	uint64_t unstored; /* logged: the oldest commit the stage was told is not stored yet; 0:
	                      none */
	struct unit_input in[ARENA_INPUTS_MAX];
	unsigned n_in;
	uint64_t book[BOOK_COUNT]; /* what this unit adds */
	int64_t born;              /* of its oldest record, CLOCK_MONOTONIC ns; 0: none */
	uint32_t origin_worker;
	uint64_t origin_commit;
	bool ended;       /* the commit that comes is the last */
	bool prepared;    /* consumer: finish() is done, its transaction is open */
	bool want_commit; /* the position's patches are many: commit at the next chance */
	struct {
		uint32_t off, len;
	} ranges[UNIT_RANGES_MAX];
	unsigned n_ranges;
	uint32_t range_bytes;
	uint8_t position[ARENA_POSITION_MAX];
	/* transformer: the record in hand */
	uint32_t emitted;        /* emissions of it so far, those of earlier units included */
	uint32_t emitted_before; /* of them, done by earlier units: not to be done again */
	uint32_t emitted_here;   /* surviving copies of it made in this unit */
	bool in_record;          /* a record is in hand */
	struct buf letter;
	unsigned reopened;
	struct confine_plan plan; /* until the stage is open */
	uint32_t confined;
	int64_t retry_since;
	struct nap nap;  /* before the next look for input */
	int64_t lingers; /* producer: since when the chunk that is to come does; 0: not yet */
};

/* Notes what the worker is doing, for `status`; @why may be NULL. */
void worker_activity(struct worker *w, enum worker_activity what, const char *why);
/* What the master wants now. */
enum worker_order worker_order(const struct worker *w);
/* Sleeps: for a doorbell (@waiting says which kind), the master, @fds, or @timeout_ns. Leaves the
 * process when the master is gone. Returns ready descriptors of @fds. @look, called after the
 * intent to sleep is visible to those who ring, says whether there is something to do already. */
int worker_sleep(struct worker *w, enum worker_waiting waiting, struct pollfd *fds, unsigned n_fds,
                 int64_t timeout_ns, bool (*look)(struct worker *w, void *arg), void *arg);
/* Sleeps until there may be something to claim, or the master wants something, or one of @fds does,
 * or @timeout_ns. Returns as worker_sleep(). */
int worker_wait_input(struct worker *w, struct pollfd *fds, unsigned n_fds, int64_t timeout_ns);
/* Gives back what is held and ends the process. */
_Noreturn void worker_leave(struct worker *w, int status);
/* This failure is not the fault of the record in hand: no attempt is to be counted against it.
 * Returns @r. */
int worker_blameless(struct worker *w, int r);
/* Does what can be done at any safe point: pauses while ordered to, reopens files, leaves when
 * ordered to stop. Nothing may be uncommitted. */
void worker_safe_point(struct worker *w);
/* Gives up all that what runs does not need, once it has opened its files. 0 or -errno. */
int worker_confine(struct worker *w);
/* Copies a record to whoever taps this stage. */
void worker_tap(struct worker *w, const uint8_t *rec, size_t len);

/* unit.c */
void unit_init(struct worker *w, const uint32_t *edge_number);
/* Opens @out for writing: waits for room. May commit what is in hand first. 0 or -errno. */
int unit_open(struct worker *w, struct unit_output *out);
/* The same without waiting: false when there is no room. */
bool unit_try_open(struct worker *w, struct unit_output *out);
/* Room for @need bytes in @out: ends the unit first when the output has less. 0, STAGE_E_REJECT (no
 * buffer holds that much), -errno. */
int unit_room(struct worker *w, struct unit_output *out, size_t need);
/* Whether anything is in hand that a commit would make true. */
bool unit_pending(const struct worker *w);
/* Commits what is in hand. 0 or -errno. */
int unit_commit(struct worker *w);
/* Forgets the letters and figures gathered since the unit began (consumers, before they try again).
 */
void unit_rewind(struct worker *w);
/* Claims another input into the unit. ARENA_E_NONE: there is none, or the unit takes no more. */
int unit_claim(struct worker *w);
/* Adds a dead letter. @step: which step said so, may be NULL. 0 or -errno. */
int unit_letter(struct worker *w, const char *why, const char *step, const void *input, size_t len,
                bool is_record, const char *at, uint32_t attempts);
/* Whether a letter for @len bytes of input fits what is open without a commit. */
bool unit_letter_fits(struct worker *w, size_t len);

/* How many commits of this producer may be acknowledged. */
uint64_t unit_stored(struct worker *w, bool delivered);
/* Opens @out, whatever it takes; nothing else may be open. 0 or -errno. */
int unit_wait_open(struct worker *w, struct unit_output *out);
/* Gives an open output back unused. */
void unit_give_up(struct worker *w, struct unit_output *out);
/* After a commit: wakes who waits for its chunks, or for the room it made. */
void unit_ring(struct worker *w, const struct intent *in);
/* Wakes worker @slot when it waits for one of @kinds. */
void unit_ring_one(struct worker *w, uint32_t slot, uint32_t kinds, uint32_t entry);

/* unit_aside.c */
/* Whether a claimed chunk may be worked on: looks at its bytes when something speaks against it. */
bool unit_sound(const struct worker *w, uint32_t entry);
/* Keeps a claimed chunk that is not what was sealed out of the flow: counted, told, its bytes kept.
 */
void unit_set_aside(struct worker *w, struct arena_handle h);
/* The writer of dead letters, now and then: saves the bytes of chunks that were set aside. */
void unit_save_aside(struct worker *w);
/* The chunk cannot be read on where @in stands: laid to it, so that whoever claims it next looks
 * closer. Returns what the worker is to end with. */
int unit_broken(struct worker *w, const struct unit_input *in);

/* unit_log.c: a producer whose chunks go to the log first (w->logged) */
void unit_log_init(struct worker *w);
/* The highest commit up to @committed that is durable with all before it. */
uint64_t unit_log_stored(const struct worker *w, uint64_t committed);
bool unit_log_replaying(const struct worker *w);
/* Before a commit: makes sure that a chunk carries the position's patches. 0 or -errno. */
int unit_log_carrier(struct worker *w);
/* Puts the intent's patches behind its last chunk. */
void unit_log_patches(struct worker *w, const struct intent *in);
/* With w->ahead: waits until the intent's outputs are in the log. 0; -EBADMSG: they cannot be. */
int unit_log_ahead(struct worker *w, struct intent *in);
/* For worker_sleep(): whether more is stored than the stage was told. */
bool unit_log_news(struct worker *w, void *arg);

/* run_*.c: never return but with -errno */
int run_producer(struct worker *w);
int run_transformer(struct worker *w);
int run_log(struct worker *w);
int run_consumer(struct worker *w);

/* A consumer that could not be opened for its give_up_after: what has waited on its edges so long
 * becomes dead letters, with the reason in st.why. Ends the process when its input has ended and
 * nothing is left. 0 or -errno. */
int consumer_give_up(struct worker *w);
