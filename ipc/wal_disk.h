/*
 * How the log lies on the disk; shared by wal.c and wal_open.c, nobody else's business. Byte order
 * is the machine's: the file does not travel.
 */
#pragma once

#include "ipc/wal.h"

enum {
	WAL_VERSION = 2,
	WAL_RING_MIN = 16 * WAL_BLOCK,
	WAL_BYTES_PER_ENTRY = 8192, /* of the ring: how many entries are kept track of */
};

#define WAL_ENTRY_MAGIC      UINT64_C(0x4c57534543554c53)
#define WAL_CHECKPOINT_MAGIC UINT64_C(0x4b43534543554c53)

/* Block 0; written once. */
struct wal_file {
	char magic[8];
	uint32_t version;
	uint32_t positions;
	uint64_t region, ring_at, ring_end;
	uint8_t id[16];
	uint32_t crc; /* of this struct with crc 0 */
	uint32_t pad;
};
_Static_assert(sizeof(struct wal_file) == 64, "on disk");

struct wal_saved {
	char stage[WAL_NAME_MAX];
	uint32_t ordinal, len;
	uint64_t commit, number, seq;
};
_Static_assert(sizeof(struct wal_saved) == 96, "on disk");

struct wal_checkpoint {
	uint64_t magic;
	uint32_t crc;   /* of all of it with crc 0 */
	uint32_t bytes; /* of all of it: this block and the positions' bytes */
	uint8_t id[16];
	uint64_t generation, run;
	uint64_t next_seq, next_at; /* positions are as of all entries before this one */
	uint64_t tail_seq, tail_at; /* the oldest entry that is kept */
	uint64_t figures[WAL_FIGURES], figures_seq;
	uint32_t n, pad;
	struct wal_saved saved[WAL_POSITIONS_MAX];
};
_Static_assert(sizeof(struct wal_checkpoint) <= WAL_BLOCK, "one block");

/* The head of an entry; patches follow, then, with WAL_INLINE, the records. */
struct wal_head {
	uint64_t magic;
	uint32_t crc;        /* of head_bytes with crc 0 */
	uint32_t head_bytes; /* this, patches, inline records; a multiple of WAL_BLOCK */
	uint8_t id[16];
	uint8_t epoch[16];
	uint64_t run, seq, at;
	uint64_t group; /* seq of the first entry that was written with it */
	uint64_t need;  /* the oldest entry that was needed then */
	uint64_t commit, number;
	char stage[WAL_NAME_MAX];
	uint32_t ordinal, slot;
	uint32_t flags;
	uint32_t records, bytes, data_crc;
	uint32_t patch_bytes, pad;
};
_Static_assert(sizeof(struct wal_head) == 200, "on disk");

enum {
	WAL_HEAD_MAX =
	        (sizeof(struct wal_head) + WAL_PATCHES_MAX + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK,
};

_Static_assert(WAL_HEAD_MAX <= WAL_PATCHES_MAX + WAL_BLOCK, "wal_most()");

extern const char wal_magic[8];

static inline uint64_t wal_up(uint64_t n)
{
	return (n + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK;
}

/* wal.c, for wal_open.c */
void wal_apply_patches(struct wal_position *p, const uint8_t *patches, uint32_t bytes, bool fresh);
