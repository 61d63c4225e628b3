/*
 * The durable log: what producers took in, on the disk before anybody is told that it was stored.
 *
 * One preallocated, pre-written file, used as a ring:
 *
 *   head | checkpoint A | checkpoint B | entry, entry, ... (ring) ...
 *
 * An ENTRY is one chunk that a producer committed, with all that is needed to go on after a loss of
 * power: whose it is, its records, and the patches of the producer's position that were committed
 * with it. A GROUP is what is written at once: wal_append() returns when all of it is on the disk.
 * A CHECKPOINT holds the positions of all producers as they are after all entries before
 * `next_seq`, and where the oldest entry is that is still needed. The two are written in turn, so
 * one of them is always whole.
 *
 * How the end is found. A group begins only when the one before it is on the disk; so only the last
 * group can be torn, and a bad entry that is followed by one of a LATER group was whole once: it is
 * damage, counted and skipped, whereas a bad entry of the last group was never acknowledged: the
 * log ends before it. Whoever opens the log to write takes a new RUN number into a new checkpoint
 * first, and entries after a checkpoint count only if their run is at least its own. So remains of
 * an older, abandoned end are never taken for a continuation.
 *
 * A write that fails is not tried again: nobody can say then what is on the disk, and with a page
 * cache between, a second fdatasync() may say "done" about pages that the kernel has dropped. The
 * log refuses all further work
 * (-EIO). Opened anew, it is read from the disk, and whatever was in doubt is appended once more
 * behind it: an entry may stand there twice (same chunk number), never not at all.
 *
 * With O_DIRECT and O_DSYNC records go to the disk straight from shared memory. Where the file
 * system refuses that, it is pwritev() and fdatasync().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	WAL_BLOCK = 4096,         /* everything begins at a multiple of it */
	WAL_NAME_MAX = 64,        /* a stage's name with its NUL */
	WAL_POSITIONS_MAX = 32,   /* producers */
	WAL_POSITION_MAX = 65536, /* bytes of a position */
	WAL_PATCHES_MAX = 16384,
	WAL_GROUP_MAX = 16, /* entries written at once */
	WAL_FIGURES = 16,
};

/* Bytes that an entry with @bytes of records takes at most, and a carried one with a short note. */
static inline uint64_t wal_most(uint64_t bytes)
{
	return (bytes + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK + WAL_PATCHES_MAX + WAL_BLOCK;
}

static inline uint64_t wal_most_carried(uint64_t bytes)
{
	return (bytes + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK + WAL_BLOCK;
}

enum wal_error {
	WAL_E_OK,
	WAL_E_NONE,    /* there is no such file, or no such entry */
	WAL_E_FULL,    /* what is still needed leaves no room */
	WAL_E_CORRUPT, /* the file's head or both checkpoints are damaged; an entry's bytes are not
	                  what was written */
	WAL_E_VERSION, /* made by another version */
};

/* How wal_open() opens. */
enum wal_mode {
	WAL_READ, /* changes nothing */
	WAL_WRITE,
	WAL_BUFFERED, /* as WAL_WRITE, through the page cache (tests) */
};

enum {
	WAL_LETTERS = 1 << 0,  /* flags: these records are dead letters */
	WAL_FRESH = 1 << 1,    /* what was known of the position before is void */
	WAL_INLINE = 1 << 2,   /* the log's own: records stand behind the patches */
	WAL_CARRIED = 1 << 3,  /* written again: no new commit; the patches are the caller's note */
	WAL_REPEATED = 1 << 5, /* only in memory: see wal_find_repeated() */
	WAL_AGAIN = 1 << 4,    /* carried before it was handed on: it is a producer's chunk still */
};

/* A chunk to append. */
struct wal_item {
	const char *stage; /* the producer */
	uint32_t ordinal, slot;
	uint64_t commit; /* number of the producer's commit */
	uint64_t number; /* of the chunk */
	uint32_t flags;
	uint32_t records, bytes;
	uint32_t crc;        /* CRC32C of the bytes */
	const void *data;    /* aligned to WAL_BLOCK, and readable to the next multiple of it */
	const void *patches; /* {u32 offset, u32 length, bytes} ... */
	uint32_t patch_bytes;
};

/* What is known of an entry in memory. */
struct wal_entry {
	uint64_t seq;
	uint64_t at; /* in the file; 0: it is damaged */
	uint64_t commit, number;
	uint8_t epoch[16];
	uint32_t size; /* on disk */
	uint32_t records, bytes, crc;
	uint32_t slot;
	uint16_t who; /* index into wal->position */
	uint16_t flags;
	uint64_t group;
};

/* The position of one producer as of the last entry. */
struct wal_position {
	char stage[WAL_NAME_MAX]; /* "": unused */
	uint32_t ordinal;
	uint32_t len;    /* bytes that may differ from zero */
	uint64_t commit; /* of its last entry */
	uint64_t number; /* of its last chunk */
	uint64_t seq;    /* of its last entry */
	uint8_t *bytes;  /* WAL_POSITION_MAX of them */
};

struct wal {
	int fd;
	bool direct;
	bool failed;
	uint32_t positions; /* how many a checkpoint holds */
	uint64_t region;    /* bytes of a checkpoint */
	uint64_t ring_at, ring_end;
	uint8_t id[16];    /* of this file */
	uint8_t epoch[16]; /* of the arena: the caller's to set before the first wal_append() */
	uint64_t run, generation;
	uint64_t next_seq, next_at;
	uint64_t tail_seq,
	        tail_at;  /* as of the last checkpoint: from here on nothing may be overwritten */
	uint64_t need;    /* the oldest entry that is needed; the caller's to move on */
	uint64_t reserve; /* bytes and entries that wal_room() leaves free: the caller's */
	uint64_t reserve_entries;
	/* the caller's, kept by checkpoints: figures as of the entries before figures_seq */
	uint64_t figures[WAL_FIGURES], figures_seq;
	uint64_t damaged;        /* entries found to be damaged since it was opened */
	bool torn;               /* the last group was: it was never acknowledged, and is dropped */
	struct wal_entry *index; /* by seq % cap */
	uint64_t cap;
	struct wal_position position[WAL_POSITIONS_MAX];
	uint8_t *heads;      /* WAL_GROUP_MAX heads, aligned */
	uint8_t *region_buf; /* one checkpoint, aligned */
};

/* Makes the log @path with a ring of @ring bytes for @positions producers: allocated and written in
 * full, beside its place and then renamed, so it is whole or not there. 0 or -errno (-ENOSPC:
 * nothing is left behind). */
int wal_create(const char *path, uint64_t ring, uint32_t positions);
/* Opens @path, reads positions and finds all entries. 0, WAL_E_NONE, WAL_E_CORRUPT, WAL_E_VERSION,
 * -errno. */
int wal_open(struct wal *w, const char *path, enum wal_mode mode);
void wal_close(struct wal *w);

/* Writes @n (1 to WAL_GROUP_MAX) chunks; when it returns 0 they are on the disk. WAL_E_FULL:
 * nothing was written. -errno: see above. */
int wal_append(struct wal *w, const struct wal_item *items, unsigned n);
/* Whether @n entries with @bytes of records each would fit and leave the reserve. */
bool wal_room(const struct wal *w, unsigned n, uint32_t bytes);
/* The same, the reserve included. */
bool wal_fits(const struct wal *w, unsigned n, uint32_t bytes);
/* Bytes that an entry takes. */
uint64_t wal_size(uint32_t bytes, uint32_t patch_bytes);
/* Bytes of the ring that are not free (from the last checkpoint's tail on). */
uint64_t wal_kept(const struct wal *w);
/* Writes a checkpoint: entries before w->need and w->figures_seq may be overwritten from now on. 0
 * or -errno. */
int wal_checkpoint(struct wal *w);

/* Entry @seq, NULL: it is not there (any more), or damaged. */
const struct wal_entry *wal_entry(const struct wal *w, uint64_t seq);
/* Reads an entry's records into @to (aligned, room for the bytes rounded up to blocks). 0,
 * WAL_E_CORRUPT, -errno. */
int wal_read(struct wal *w, const struct wal_entry *e, void *to);
/* Reads the note of a carried entry, @size bytes of it. 0, WAL_E_CORRUPT, -errno. */
int wal_note(struct wal *w, const struct wal_entry *e, void *to, uint32_t size);
/* Marks all but the first of those entries of [@from, @to) that have the same number. 0 or -ENOMEM.
 */
int wal_find_repeated(struct wal *w, uint64_t from, uint64_t to);
/* The first entry that begins at least @bytes behind the tail; the end when there is none. */
uint64_t wal_behind(const struct wal *w, uint64_t bytes);
/* The position of a producer, made when @make. NULL: there is none, or no room for one more. */
struct wal_position *wal_position(struct wal *w, const char *stage, uint32_t ordinal, bool make);
/* Sets it as a whole (before the first entry of a producer). 0 or -ENOSPC. */
int wal_set_position(struct wal *w, const char *stage, uint32_t ordinal, const void *bytes,
                     uint32_t len, uint64_t commit);
