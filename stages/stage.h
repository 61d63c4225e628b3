/*
 * The stage contract: everything a stage sees. It sees records; never entries, links or processes.
 *
 * A stage is a const struct stage_ops at the end of its own file plus one line in stages.def. There
 * are three kinds; which run function it has follows from the kind:
 *
 *   producer   produce(st)        makes records with stage_reserve/stage_made or stage_emit
 *   step       transform(st, r)   changes r in place, drops it, or emits others with stage_emit
 *   consumer   consume(st, ...)   takes one record; finish(st) delivers what was taken since
 * begin(st)
 *
 * Exactly once, seen from here
 *  - A UNIT is what is committed as one: some input records, all that was emitted for them, the
 * position, the state. The host decides where units end; it may end one inside stage_emit and
 * stage_reserve (when the output is full), so nothing obtained from state.h may be held across
 * those calls.
 *  - The POSITION (producers, consumers) is a small block of bytes that is committed with the unit.
 * Set it right after the emission it belongs to: it always says "everything emitted so far". After
 * a crash the new worker finds the committed one in st->position.
 *  - A step may be given the same record again after a crash (the unit was undone). State in
 * state.h is undone with it. st->origin names a record's run: a step that remembers "seen" stores
 * it beside the key, so that seeing the same one again is no repeat (see steps/dedupe.c).
 *  - A consumer with a transaction of its own (sqlite) stores st->commit_id in that transaction and
 * answers committed() after a crash.
 */
#pragma once

#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ipc/buf.h"
#include "ipc/err.h"
#include "ipc/log.h"
#include "ipc/record.h"
#include "stages/codec.h"
#include "stages/option.h"

enum stage_kind {
	STAGE_PRODUCER,
	STAGE_STEP,
	STAGE_CONSUMER,
};

/* What a run function answers; negative is -errno: the worker ends and is replaced. */
enum stage_answer {
	STAGE_OK = 0,     /* done; producer: there may be more right now */
	STAGE_E_IDLE,     /* producer: nothing now; wait for st->fds or st->deadline */
	STAGE_E_END,      /* producer: no more, ever */
	STAGE_E_FILTERED, /* step: the record goes no further, on purpose */
	STAGE_E_ABSORBED, /* step: the record went into the state (aggregate) */
	STAGE_E_EMITTED,  /* step: all that comes of this record was emitted already (explode) */
	STAGE_E_REJECT,   /* this record is bad: st->why says so; it becomes a dead letter */
	STAGE_E_RETRY, /* consumer: an attempt failed for a reason in the data or the peer's answer
	                  (st->why) */
	STAGE_E_UNREACHABLE, /* consumer: the peer is not there, disk full, ... (st->why): tried
	                        without end */
	STAGE_E_FULL,  /* consumer: finish the unit first, then offer this record again. Also when
	                * nothing  was taken: then finish() has a position to set, which must be
	                * committed first */
	STAGE_E_AGAIN, /* tick, flush: there is more; call again (the unit may be committed between)
	                */
};

/* What *stage.hand holds. */
enum {
	STAGE_HAND_NONE = 0,
	STAGE_HAND_SOME =
	        1, /* some input: nobody has died lately, so nobody took the time to identify it */
	           /* above: the identity of the input */
};

enum {
	STAGE_FDS_MAX = 64,         /* descriptors a stage may wait for */
	STAGE_WHY_MAX = 256,        /* bytes of a reason */
	STAGE_POSITION_MAX = 65536, /* bytes of a position */
	STAGE_OUTPUTS_MAX = 32,     /* named outputs of a transformer (route) */
};

/* stage_ops.flags */
enum {
	STAGE_SINGLE = 1 << 0, /* at most one worker, whatever the configuration says */
	STAGE_STATEFUL =
	        1
	        << 1, /* step: keeps state in state.h (needs one worker, commits by transaction) */
	STAGE_TRANSACTION = 1 << 2, /* consumer: has begin/finish/commit/committed of its own */
	STAGE_OUTSIDE = 1 << 3,     /* talks to the outside: retry and timeout apply */
	STAGE_CODEC = 1 << 4,       /* takes `codec:` and the codec's options; st->codec is set */
	STAGE_HOLDS = 1 << 5,       /* step: gives out of its state what is nowhere else then */
};

/* stage_ops.needs: what a worker of this stage keeps when it is confined (everything else is given
 * up once the stage is open). 0: not said; a step then gets nothing, unless it is STAGE_OUTSIDE,
 * others network and files. */
enum {
	STAGE_NEEDS_NOTHING = 1 << 0,
	STAGE_NEEDS_NET = 1 << 1,   /* sockets other than unix ones */
	STAGE_NEEDS_FILES = 1 << 2, /* files: those of `paths`, or any when that is not there */
	STAGE_NEEDS_EXEC = 1 << 3,  /* starts programs, which may do what the daemon's user may */
};

enum stage_path_use {
	STAGE_PATH_READ,
	STAGE_PATH_WRITE, /* make, replace, remove: the directory it lies in */
};

struct stage;
struct state;

/* Names one commit of one worker for ever: stored by stages with their own transaction. */
struct commit_id {
	uint8_t epoch[16]; /* UUID of the arena */
	uint32_t worker;   /* the worker's slot */
	uint32_t reserved;
	uint64_t number; /* of this worker's commits */
};

/* Names one run of one record through one step: equal on every attempt, different otherwise. */
struct origin {
	uint8_t epoch[16];
	uint64_t chunk;   /* number of the input chunk within the epoch */
	uint32_t record;  /* index in the chunk */
	uint32_t ordinal; /* how many records this step was given before for this input record */
};

/* What carries a stage: the worker, or a test with two buffers. */
struct stage_host {
	/* At least @need bytes of room for one record, *@room bytes in fact, at *@p. Ends the unit
	 * first when the output has less. STAGE_E_REJECT: @need is more than any buffer has. Or
	 * -errno. */
	int (*reserve)(struct stage_host *h, size_t need, uint8_t **p, size_t *room);
	/* The record of @len bytes written at *p of the last reserve exists now. 0 or -errno. */
	int (*made)(struct stage_host *h, size_t len);
	/* A record leaves the last step by output @output (0: the main one). 0, STAGE_E_REJECT
	 * (larger than a buffer), -errno. */
	int (*emit)(struct stage_host *h, unsigned output, const struct record *r);
	/* A dead letter: @input (may be binary, is cut when long) of @at (what it was: "message 17
	 * from ...",
	 * "/var/log/x at byte 4711") could not be taken, because @why. 0 or -errno. */
	int (*reject)(struct stage_host *h, const char *why, const void *input, size_t len,
	              const char *at);
	/* Bytes [off, off+len) of the position become @data, with the next commit. 0 or -errno. */
	int (*position)(struct stage_host *h, uint32_t off, const void *data, uint32_t len);
	/* How many commits of this worker are stored for good (see stage_ops.stored). */
	uint64_t (*stored)(struct stage_host *h, bool delivered);
};

struct stage {
	const struct stage_ops *ops;
	const char *name;    /* of the entry in the configuration */
	const void *config;  /* filled from ops->options; read only */
	void *state;         /* ops->state_size zeroed bytes, this worker's own */
	struct codec *codec; /* with STAGE_CODEC */
	struct state *kv;    /* with STAGE_STATEFUL: see state.h; keys are this step's own */
	struct stage_host *host;
	struct chain *chain; /* step: the chain it stands in */
	unsigned index;      /* step: its place in the chain, from 0 */
	unsigned worker;     /* this worker's number in its stage, from 0 */
	unsigned workers;
	size_t max_record; /* bytes of the largest record that fits */
	const uint8_t
	        *position;   /* what was committed, then what was set: STAGE_POSITION_MAX bytes */
	bool position_fresh; /* no position was ever committed */
	bool cut_off; /* ... because the machine lost its power while this stage was at work */
	struct commit_id commit_id; /* of the unit in hand */
	struct origin origin;       /* step: of the record in hand */
	uint64_t doubt_from; /* step: after a loss of power, chunks of other epochs from this number
	                      * on come again, for what was made of them may be lost; 0: none do */
	int64_t now;         /* CLOCK_REALTIME in ns, taken once a chunk */
	int64_t timeout;     /* ns for one attempt (STAGE_OUTSIDE) */
	/* what the stage waits for when idle: its to fill in */
	struct pollfd fds[STAGE_FDS_MAX];
	unsigned n_fds;
	int64_t deadline; /* CLOCK_MONOTONIC ns at which tick or produce wants to run; 0: none */
	char why[STAGE_WHY_MAX]; /* reason of the last answer that has one */
	/* Producer: the input it works on, should it die of it (stage_decode sets it). NULL: nobody
	 * asks. */
	_Atomic uint64_t *hand;
	uint64_t poison_input;  /* workers before this one died of this input ... */
	uint32_t poison_count;  /* ... so many times in a row; 0: of none */
	uint32_t poison_signal; /* ... the last time of this signal; 0: it hung or said that it
	                           cannot go on */
	uint32_t max_attempts;  /* and so many are enough */
	bool poison_in_hand;    /* what is being rejected is that input */
	bool crowded; /* producer: many places of the position were set since the last commit:
	               * produce() is to return, so that there can be one */
	bool awaited; /* producer: somebody waits for what it makes to be stored */
	bool pressed; /* producer: what waited outside filled half of its room or more, so whoever
	               * writes there may be held up */
	bool resumes; /* producer: what it has in hand and has not yet made is read again from the
	               * position: a drain may end it between two records */
	_Atomic uint64_t *progress; /* see stage_goes_on(); NULL: nobody asks */
	uint64_t
	        refused; /* counted refusals that cost no record: bad clients, too large messages */
};

struct stage_ops {
	const char *name; /* as in `type:`, or as the step's key */
	enum stage_kind kind;
	unsigned flags;
	const char *help;             /* one line */
	const char *example;          /* a few lines of YAML for the manual */
	const struct option *options; /* NULL: none, or check reads the node itself */
	/* step: the option that a value stands for which is no map (`- dedupe: id`). NULL: it has
	 * to be a map. */
	const char *bare;
	unsigned needs; /* STAGE_NEEDS_* */
	/* Names every path the stage opens, now or later (a file's directory is meant with it).
	 * Optional. */
	void (*paths)(const void *config,
	              void (*add)(void *arg, const char *path, enum stage_path_use use), void *arg);
	size_t config_size;
	size_t state_size;

	/* Reads what the table cannot say, and checks: compile an expression once to see that it
	 * does.
	 * @node: the stage's own map (producer, consumer) or the step's value. Makes complaints.
	 * Runs in the master too: no side effects, no libraries that dislike fork. Optional. */
	void (*check)(void *config, const struct node *node, struct complaints *c);
	void (*config_free)(void *config); /* frees what check made; optional */
	/* route: names of its outputs besides the main one, NULL-terminated. Optional. */
	const char *const *(*outputs)(const void *config);

	int (*open)(struct stage *st);   /* in the worker; optional. 0, STAGE_E_UNREACHABLE (tried
	                                    again), -errno */
	void (*close)(struct stage *st); /* optional; also after a failed open */

	int (*produce)(struct stage *st);
	int (*transform)(struct stage *st, struct record *r);
	int (*consume)(struct stage *st, const uint8_t *rec, size_t len);

	/* Timed work (windows, TTL, rotation), when st->deadline has passed. Consumers: between
	 * units only. Optional. */
	int (*tick)(struct stage *st);
	/* The input has ended for good: emit what is held (aggregate). Called until it answers
	 * STAGE_OK. Optional. */
	int (*flush)(struct stage *st);

	/* Consumers. begin: a unit starts, commit_id is set. finish: deliver; after STAGE_OK it is
	 * delivered or (TRANSACTION) ready to commit. commit: make it so. rollback: forget all
	 * since begin. */
	int (*begin)(struct stage *st);
	int (*finish)(struct stage *st);
	int (*commit)(struct stage *st);
	void (*rollback)(struct stage *st);
	/* After a crash between finish and commit: 1 the unit @id is in, 0 it is not, -errno, or
	 * STAGE_E_UNREACHABLE. */
	int (*committed)(struct stage *st, const struct commit_id *id);

	/* Steps that hold back writes to their state. settle: the unit is about to be committed,
	 * put all that is held in memory into st->kv now; 0 or -errno. `rollback` (above): the unit
	 * was undone, drop what is held and read the state anew. Both optional; a unit may end
	 * inside stage_emit, so settle may be called there too. */
	int (*settle)(struct stage *st);

	/* Producers: a commit is done (st->commit_id of the last one). Acknowledge what
	 * host->stored allows. Also called now and then while idle. Optional. */
	int (*stored)(struct stage *st);
	/* Producers: take nothing new from outside; what was taken in already (a socket's queue) is
	 * still to be produced, until produce() answers IDLE. An answer that is not 0: there is
	 * nothing, leave now. Optional. */
	int (*drain)(struct stage *st);
	/* The worker has slept, for whatever reason, maybe in the middle of a unit: look after
	 * those who want to connect. Makes nothing and sends nothing. Optional. */
	void (*doors)(struct stage *st);
	/* Producers. gather: nobody looks at the input for a while, so let it gather where that
	 * wakes nobody. hand_over: it is wanted again; called until it answers false: all that had
	 * gathered can be produced. Both or none. */
	void (*gather)(struct stage *st);
	bool (*hand_over)(struct stage *st);
	/* Reopen files (SIGHUP, logrotate). Between units only. Optional. */
	int (*reopen)(struct stage *st);
};

/* Sets st->why and returns @answer: `return stage_say(st, STAGE_E_REJECT, "no field %s", f);` */
int stage_say(struct stage *st, int answer, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* Producer: so many bytes were read from a pipe at once; its room is 64 KiB (pipe(7)). */
static inline void stage_read_pipe(struct stage *st, size_t bytes)
{
	st->pressed |= bytes >= 32768;
}

static inline int stage_reserve(struct stage *st, size_t need, uint8_t **p, size_t *room)
{
	return st->host->reserve(st->host, need, p, room);
}

static inline int stage_made(struct stage *st, size_t len)
{
	return st->host->made(st->host, len);
}

static inline int stage_reject(struct stage *st, const char *why, const void *input, size_t len,
                               const char *at)
{
	return st->host->reject(st->host, why, input, len, at);
}

static inline int stage_position(struct stage *st, uint32_t off, const void *data, uint32_t len)
{
	return st->host->position(st->host, off, data, len);
}

/* Says that a call that lasts does so because something outside is slow, not because it hangs: a
 * worker that shows no progress for `stall_timeout` is killed. */
static inline void stage_goes_on(struct stage *st)
{
	if (st->progress)
		atomic_fetch_add_explicit(st->progress, 1, memory_order_relaxed);
}

/* A step emits a record of its own: it goes through the steps behind this one. @r is used up (its
 * fields may be changed by them) but stays the caller's to deinit. 0 or -errno. */
int stage_emit(struct stage *st, struct record *r);
/* The same by a named output (route): it leaves the transformer at once. */
int stage_emit_output(struct stage *st, unsigned output, struct record *r);

/* Decodes all that is in @w and makes records of it: the loop every producer with a codec runs.
 * Records too large and rejected input become dead letters (@at: where this input came from;
 * offsets are added). After each record and each reject @made (optional) is called with the bytes
 * consumed so far: the place to set the position. Returns 0 when the window is used up (w->p tells
 * how far: the rest is an unfinished record when !w->last), or -errno. */
int stage_decode(struct stage *st, struct codec_window *w, const char *at,
                 int (*made)(struct stage *st, void *arg, size_t consumed), void *arg);

/* All producers, steps and consumers, NULL-terminated, in the order of stages.def. */
extern const struct stage_ops *const stage_all[];
/* The one with this kind and name, or NULL. */
const struct stage_ops *stage_find(enum stage_kind kind, const char *name);
