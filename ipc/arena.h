/*
 * The arena: one shared mapping that holds everything in flight, and the ledger that says where it
 * is.
 *
 *   header | worker slots | words | numbers | facts | buffers
 *
 * The ledger is the only truth. Entry i of it owns buffer i for ever. Its WORD, one 64-bit atomic,
 * says what the buffer is at this moment:
 *
 *   FREE -> FILLING(w, edge) -> QUEUED(edge) -> CLAIMED(w, edge) -> FREE
 *                                  ^_______________|  returned: w died and was repaired, or gave it
 * back
 *
 * Who may change a word: FREE and QUEUED ones anybody, by compare-and-swap from what it saw (the
 * generation in the word makes that sound); FILLING and CLAIMED ones only their owner w, or whoever
 * repairs w once its process is gone. That is why the owner's commit needs plain stores only.
 *
 * Every edge owns the entry that has the edge's number: no other edge may fill it. Together with
 * the rule that nobody waits for room while holding a FILLING entry (unit.c), the last edge of the
 * graph can always be emptied, hence the one before: no deadlock for any quota >= 1.
 *
 * A quota counts FILLING, QUEUED and CLAIMED entries of its edge by scanning; workers that look at
 * the same moment may go over it by one each. The arena's size is the hard bound.
 *
 * All numbers read from the mapping are range-checked before use: any worker can write it.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/buf.h"
#include "ipc/stats.h"

enum {
	ARENA_LAYOUT = 6, /* raise on every change of a shared struct */
	ARENA_EDGES_MAX = 64,
	ARENA_WORKERS_MAX = 250,
	ARENA_NAME_MAX = 64,    /* a stage's name with its NUL */
	ARENA_OUTPUT_MAX = 128, /* "stage.output" with its NUL */
	ARENA_WHY_MAX = 256,
	ARENA_POSITION_MAX = 65536,
	ARENA_PATCHES_MAX = 16384, /* bytes of position patches in one intent */
	ARENA_INPUTS_MAX = 16,     /* chunks one unit may take */
	ARENA_BOOKS_MAX = 128,     /* stages whose figures are kept after their workers are gone */
	ARENA_TAIL = 20480,        /* bytes behind a buffer, in an arena with tails */
	ARENA_NO_RECORD = UINT32_MAX,
	ARENA_NO_EDGE = UINT32_MAX,
	ARENA_SAVED = 1,
};

enum arena_error {
	ARENA_E_OK,
	ARENA_E_NONE,     /* nothing to claim, no room, no such thing */
	ARENA_E_LAYOUT,   /* made by another version */
	ARENA_E_GEOMETRY, /* sizes differ from what is asked */
	ARENA_E_CORRUPT,  /* a header that cannot be */
};

/* ---- the word ---- */

enum word_state {
	WORD_FREE,
	WORD_FILLING,
	WORD_QUEUED,
	WORD_CLAIMED,
	WORD_ASIDE, /* set aside: torn or corrupt; owned by nobody, until its bytes are saved: then
	               owner is ARENA_SAVED, and the master frees it */
};

struct word {
	enum word_state state;
	uint32_t edge;
	uint32_t owner;    /* worker slot; meaningful for FILLING and CLAIMED */
	uint32_t attempts; /* crashes on this chunk */
	uint32_t gen;      /* 24 bits; goes up each time the entry leaves FREE */
};

static inline uint64_t word_pack(struct word w)
{
	return (uint64_t)(w.state & 0xf) | (uint64_t)(w.edge & 0xfff) << 4 |
	       (uint64_t)(w.owner & 0xffff) << 16 | (uint64_t)(w.attempts & 0xff) << 32 |
	       (uint64_t)(w.gen & 0xffffff) << 40;
}

static inline struct word word_unpack(uint64_t v)
{
	return (struct word){
	        .state = (enum word_state)(v & 0xf),
	        .edge = (uint32_t)(v >> 4 & 0xfff),
	        .owner = (uint32_t)(v >> 16 & 0xffff),
	        .attempts = (uint32_t)(v >> 32 & 0xff),
	        .gen = (uint32_t)(v >> 40 & 0xffffff),
	};
}

/* ---- shared structs ---- */

enum {
	FACT_LETTERS =
	        1 << 0, /* on its way to the log: dead letters, which are on the books already */
};

/* What is known of a chunk. Written by the owner of the entry only. */
struct arena_facts {
	uint32_t records;
	uint32_t bytes;
	uint32_t reached_record;  /* records before this one are done ... */
	uint32_t reached_byte;    /* ... and this is where it starts */
	uint32_t reached_emitted; /* of that record, so many emissions are done already */
	uint32_t skip_record; /* a record that kills its worker: set it aside; ARENA_NO_RECORD: none
	                       */
	uint32_t skip_signal;
	uint32_t skip_attempts;
	uint32_t crc;           /* CRC32C of the bytes, when the arena is a file */
	uint32_t boot;          /* header->boot when it was sealed */
	uint32_t origin_worker; /* the producer's slot, ... */
	uint32_t skip_step;     /* ... which step was at it */
	uint64_t origin_commit; /* ... and the number of its commit that this came from */
	int64_t born;           /* CLOCK_MONOTONIC ns when its first record was taken in */
	int64_t queued;         /* ... when it was put on this edge */
	uint32_t flags;         /* FACT_* */
	uint32_t reserved;
	uint64_t base; /* the oldest entry of the log that is needed to make it anew; 0: none */
	/* The log's worker only, at any time: the chunk of this number (it may be gone) stands in
	 * the log as this entry, which takes the place of its base. */
	_Atomic uint64_t carried_number;
	_Atomic uint64_t carried;
	_Atomic uint64_t ahead; /* number of a chunk that has to be in the log before its commit */
	uint8_t pad[16];
};
_Static_assert(sizeof(struct arena_facts) == 128, "two cache lines");

/* Records of the chunk that are not done. */
static inline uint32_t arena_left(const struct arena_facts *f)
{
	return f->records > f->reached_record ? f->records - f->reached_record : 0;
}

/* What stands behind the buffer of a chunk on its way to the log (arenas with tails): the position
 * that its producer committed with it, which must become durable with it and not before. */
struct arena_tail {
	uint32_t bytes;
	uint32_t fresh;                     /* 1: what was known of the position before is void */
	uint8_t patches[ARENA_PATCHES_MAX]; /* as in struct intent */
};
_Static_assert(sizeof(struct arena_tail) <= ARENA_TAIL, "");

struct arena_edge {
	char from[ARENA_OUTPUT_MAX]; /* "stage", "stage.output" or "*" */
	char to[ARENA_NAME_MAX];
	_Atomic uint32_t quota; /* chunks */
	_Atomic uint32_t drop;  /* 1: who finds it full drops, counted */
	_Atomic uint32_t
	        discard; /* 1: a reload is to remove it with its chunks, dropped and counted */
	uint8_t pad[52];
};
_Static_assert(sizeof(struct arena_edge) == 256, "");

enum retire_state {
	RETIRE_NONE,
	RETIRE_SLOT,    /* a slot's figures move to a line of the books */
	RETIRE_DISCARD, /* a queued chunk is dropped, counted in a line of the books */
};

enum intent_state {
	INTENT_OPEN,      /* a unit may be under work; a crash undoes it */
	INTENT_PREPARED,  /* the stage's own transaction decides */
	INTENT_COMMITTED, /* it has happened; a crash finishes it */
};

enum intent_action {
	INTENT_FREE,
	INTENT_ADVANCE,
};

struct intent_in {
	uint32_t entry, gen;
	uint32_t action;
	uint32_t reached_record, reached_byte, reached_emitted;
};

struct intent_out {
	uint32_t entry, gen;
};

/* What a worker commits next. The commit point is one store: state. */
struct intent {
	_Atomic uint32_t state;
	uint32_t n_in, n_out;
	uint32_t patch_bytes;
	uint64_t number;           /* of this slot's commits; goes up by one */
	uint64_t flags;            /* new value of committed.flags */
	uint64_t book[BOOK_COUNT]; /* new absolute values */
	struct intent_in in[ARENA_INPUTS_MAX];
	struct intent_out out[ARENA_EDGES_MAX];
	uint8_t patches[ARENA_PATCHES_MAX]; /* {u32 offset, u32 length, bytes} ... */
};

enum {
	COMMITTED_ENDED = 1 << 0,    /* the stage said "no more, ever", or has flushed */
	COMMITTED_POSITION = 1 << 1, /* a position was committed */
	COMMITTED_CUT_OFF = 1 << 2,  /* the machine lost its power while this stage was at work */
};

/* What a worker has committed. */
struct arena_committed {
	_Atomic uint64_t number;
	uint64_t flags;
	uint64_t book[BOOK_COUNT];
};

enum worker_order { /* master -> worker */
	            ORDER_RUN,
	            ORDER_PAUSE, /* finish the unit in hand, then wait */
	            ORDER_DRAIN, /* producers: take no more, commit, exit; others: go on until told
	                            to stop */
	            ORDER_STOP,  /* finish the unit in hand, exit */
	            ORDER_FLUSH, /* the input has ended: take what is queued, flush, exit */
};

enum worker_activity { /* worker -> master */
	               ACTIVITY_STARTING,
	               ACTIVITY_WORKING,
	               ACTIVITY_IDLE,        /* waits for input */
	               ACTIVITY_BLOCKED,     /* waits for room on blocked_edge */
	               ACTIVITY_UNREACHABLE, /* waits for the outside: why[] */
	               ACTIVITY_PAUSED,
	               ACTIVITY_ENDED,
};

enum worker_waiting {
	WAITING_NOT,
	WAITING_INPUT = 1 << 0,
	WAITING_ROOM = 1 << 1,
	WAITING_LOG = 1 << 2,        /* producer: for its chunks to become durable */
	WAITING_BY_EVENTFD = 1 << 3, /* what it listens to (link.h) */
};

/* One worker's place. Written by its process, but for what is marked master. */
struct arena_worker {
	char stage[ARENA_NAME_MAX]; /* master; "": the slot is free */
	uint32_t ordinal;           /* master: number in its stage */
	uint32_t kind;              /* master: enum stage_kind */
	uint64_t source_hash;       /* master: of the producer's own options when it last ran */
	_Atomic uint64_t reads;     /* master: bit an edge it takes from */
	_Atomic uint64_t writes;    /* master: bit an edge it fills */
	_Atomic int32_t pid;        /* master; 0: no process */
	_Atomic uint32_t order;     /* master: enum worker_order */
	_Atomic uint32_t reopen;    /* master: goes up when files are to be reopened */
	_Atomic uint32_t tap;       /* master: records still wanted by `tap` */
	_Atomic uint32_t activity;
	_Atomic uint32_t blocked_edge;
	_Atomic int64_t since;       /* CLOCK_MONOTONIC ns of the last change of activity */
	_Atomic uint64_t progress;   /* goes up while it is alive and going on */
	_Atomic uint32_t waiting;    /* enum worker_waiting: whether a doorbell would help */
	_Atomic uint32_t hand_entry; /* entry in hand, ARENA_NO_RECORD: none */
	_Atomic uint32_t hand_record;
	_Atomic uint32_t hand_step;
	_Atomic uint64_t hand_input; /* producers: identity of the input in hand, 0: none */
	uint64_t poison_input;       /* master: an input that kills: set it aside */
	uint32_t poison_signal, poison_count; /* master */
	_Atomic uint32_t
	        replaying; /* 1: the log still holds chunks of it to be put back; the log's */
	_Atomic uint32_t confined;   /* bit a part of its confinement (daemon/confine.h) ... */
	_Atomic uint32_t unconfined; /* ... and those it was to have and has not */
	char why[ARENA_WHY_MAX];
	char heir[ARENA_NAME_MAX]; /* master: once its stage is gone, a stage of the same pipeline
	                            */
	struct arena_committed committed;
	struct stats_block stats;
	struct intent intent;
	_Alignas(64) uint8_t position[ARENA_POSITION_MAX];
};

/* Figures of a stage whose workers' slots were given to others. Master only, by its intent below.
 */
struct arena_book {
	char stage[ARENA_NAME_MAX];
	char heir[ARENA_NAME_MAX]; /* a stage of the same pipeline, for the pipeline's balance */
	uint64_t book[BOOK_COUNT];
};

struct arena_header {
	char magic[8]; /* "SLUICE\n" */
	uint32_t layout;
	uint32_t header_size;
	uint32_t entries;
	uint32_t workers;
	uint32_t worker_stride;
	uint32_t checked; /* 1: chunks carry CRC32C (the arena is a file) */
	uint64_t buffer_size, buffer_stride;
	uint64_t workers_at, words_at, numbers_at, facts_at, buffers_at, total_size;
	uint8_t epoch[16];   /* UUID: names this arena */
	uint8_t boot_id[16]; /* of the machine's boot that used it last */
	uint32_t boot;       /* how many boots have used it */
	uint32_t dead_edge;
	uint32_t tail_size; /* ARENA_TAIL or 0 */
	uint32_t rebuilt;   /* 1: made anew from the log after a loss of power */
	/* Then: chunks of earlier epochs with this number and higher are in doubt: what a stage
	 * made of them may have been lost behind it, and they come again. 0: none. */
	uint64_t doubt_from;
	_Atomic uint32_t replaying; /* 1: the log still holds chunks to be put back */
	uint32_t reserved;
	_Atomic uint64_t next_number; /* of chunks */
	_Atomic uint64_t edges_used;  /* bit an edge */
	_Atomic uint64_t aside;       /* chunks set aside */
	_Atomic uint64_t aside_records;
	struct {
		_Atomic uint32_t state; /* RETIRE_*: what is committed and has to be carried out */
		uint32_t slot, line;    /* RETIRE_DISCARD: slot is the entry, gen its generation */
		uint32_t gen;
		uint32_t pad;
		uint64_t book[BOOK_COUNT];
	} retire;
	struct arena_edge edges[ARENA_EDGES_MAX];
	struct arena_book books[ARENA_BOOKS_MAX];
};

/* ---- the process's view ---- */

struct arena {
	int fd;
	size_t size;
	uint32_t entries, workers; /* checked copies: the header is shared */
	uint64_t buffer_size, buffer_stride;
	uint32_t tail_size;
	bool boot_changed; /* arena_attach() found that the machine was started anew since */
	struct arena_header *h;
	uint8_t *workers_at;
	uint32_t worker_stride;
	_Atomic uint64_t *words;
	_Atomic uint64_t *numbers; /* chunk number of entry i: also the order in its queue */
	struct arena_facts *facts;
	uint8_t *buffers;
};

struct arena_geometry {
	uint32_t entries;
	uint32_t workers;
	uint64_t buffer_size; /* a multiple of the page size */
	bool checked;
	bool tails; /* there is a log: buffers have tails */
};

/* A held entry: index and generation. */
struct arena_handle {
	uint32_t entry;
	uint32_t gen;
};

/* Bytes of the mapping for a geometry, and of its part that is not buffers. */
uint64_t arena_bytes(const struct arena_geometry *g);
uint64_t arena_overhead(const struct arena_geometry *g);

/* Makes an arena in @fd (an empty memfd or file): allocated in full, so that no later write can
 * fail for want of room. The fd stays the caller's. 0 or -errno (-ENOSPC: and the file is cut to
 * nothing). */
int arena_create(struct arena *a, int fd, const struct arena_geometry *g);

/* Maps an existing one and checks its header. Says in a->boot_changed whether the machine was
 * started anew since it was used. 0, ARENA_E_LAYOUT, ARENA_E_CORRUPT, -errno. The caller compares
 * the geometry. */
int arena_attach(struct arena *a, int fd);
/* Takes it over into this boot of the machine: from now on chunks of earlier ones are checked when
 * claimed. */
void arena_note_boot(struct arena *a);
/* The same for a look: a private copy, on which one may even try a repair; the file is not changed.
 */
int arena_look(struct arena *a, int fd);
void arena_detach(struct arena *a);
/* An arena in plain memory of @size bytes (tests). */
int arena_place(struct arena *a, void *memory, size_t size, const struct arena_geometry *g);

static inline struct arena_worker *arena_worker(const struct arena *a, uint32_t w)
{
	return (struct arena_worker *)(void *)(a->workers_at + (size_t)w * a->worker_stride);
}

static inline uint8_t *arena_buffer(const struct arena *a, uint32_t entry)
{
	return a->buffers + (size_t)entry * a->buffer_stride;
}

/* The tail of @entry's buffer; NULL: this arena has none. */
static inline struct arena_tail *arena_tail(const struct arena *a, uint32_t entry)
{
	return a->tail_size ? (struct arena_tail *)(void *)(arena_buffer(a, entry) + a->buffer_size)
	                    : NULL;
}

static inline struct word arena_word(const struct arena *a, uint32_t entry)
{
	return word_unpack(atomic_load_explicit(&a->words[entry], memory_order_acquire));
}

/* ---- names (master only) ---- */

/* The number of edge @from -> @to, given to it on first sight. ARENA_E_NONE: all numbers are in
 * use. */
int arena_edge_assign(struct arena *a, const char *from, const char *to, uint32_t *edge);
/* Takes the edge out of use; its number is given away again. The caller has seen it empty. */
void arena_edge_remove(struct arena *a, uint32_t edge);
/* The slot of worker @ordinal of @stage, given to it on first sight. ARENA_E_NONE: all in use. */
int arena_worker_assign(struct arena *a, const char *stage, uint32_t ordinal, uint32_t *slot);
/* Moves the figures of a slot without a process and without entries into its stage's book and frees
 * it.
 * @heir: see struct arena_book. Repeatable after a crash: arena_retire_finish. */
int arena_worker_retire(struct arena *a, uint32_t slot, const char *heir);
/* The same into the book of @stage, another than the slot's own. */
int arena_worker_retire_as(struct arena *a, uint32_t slot, const char *stage, const char *heir);
void arena_retire_finish(struct arena *a);
/* Drops a QUEUED chunk, counted as dropped by @stage. Returns the records dropped. Master only, and
 * only when no worker reads that edge. Repeatable after a crash, as above. */
uint64_t arena_discard(struct arena *a, uint32_t entry, const char *stage);
/* Frees an entry that was set aside; its @records go to the line "aside:STAGE" of the books, which
 * counts with @stage's pipeline. Master only. Repeatable after a crash, as above. */
void arena_put_away(struct arena *a, uint32_t entry, const char *stage, uint64_t records);
/* Whether a line of the books is one of these. */
bool arena_line_is_aside(const struct arena_book *line);

/* ---- the life of a chunk (workers) ---- */

/* Takes a FREE entry for @edge. ARENA_E_NONE: the quota is reached, or no entry may be taken. */
int arena_acquire(struct arena *a, uint32_t w, uint32_t edge, struct arena_handle *out);
/* Writes the facts of a filled chunk and gives it the next number. @facts: origin, base, born,
 * records, bytes are the caller's; the rest is set here. Before the commit that publishes it. */
void arena_seal(struct arena *a, struct arena_handle h, const struct arena_facts *facts);
/* The same for a copy whose CRC32C is known. */
void arena_seal_copy(struct arena *a, struct arena_handle h, const struct arena_facts *facts,
                     uint32_t crc);
/* Whether the chunk's bytes are what was sealed; looks only at chunks of an earlier boot. */
bool arena_intact(const struct arena *a, uint32_t entry);
/* The same for any sealed chunk. */
bool arena_verified(const struct arena *a, uint32_t entry);
/* The oldest entry of the log that is needed to make the chunk in @entry anew; 0: none is. */
uint64_t arena_base(const struct arena *a, uint32_t entry);
/* Asks for a sealed chunk to be written to the log before it is committed; whether it is. */
void arena_ask_ahead(struct arena *a, struct arena_handle h);
bool arena_is_ahead(const struct arena *a, uint32_t entry);
/* Chunk @number, which was in @entry, stands in the log as entry @seq. Log's worker only. */
void arena_carried(struct arena *a, uint32_t entry, uint64_t number, uint64_t seq);
/* Gives back a FILLING entry unused. */
void arena_drop(struct arena *a, uint32_t w, struct arena_handle h);
/* Takes the oldest QUEUED chunk of the edges in @edges (bit each). ARENA_E_NONE: there is none. */
int arena_claim(struct arena *a, uint32_t w, uint64_t edges, struct arena_handle *out);
/* Gives a claimed chunk back to its queue, undone. */
void arena_unclaim(struct arena *a, uint32_t w, struct arena_handle h);
/* Whether a chunk of these edges is queued; how many entries an edge is charged with; how many are
 * free. */
bool arena_any_queued(const struct arena *a, uint64_t edges);
uint32_t arena_charged(const struct arena *a, uint32_t edge);
uint32_t arena_free(const struct arena *a);
