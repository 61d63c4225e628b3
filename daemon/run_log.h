/*
 * What the master and the log's worker share: where the log lies, and what of it is to be put back.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/config.h"
#include "ipc/arena.h"
#include "ipc/wal.h"

enum {
	LOG_MARK_MAGIC = 0x4d474f4c,
};

/* The log stage's position. After a loss of power the master sets it; the worker moves it on with
 * each commit. Behind it lie LOG_MARK_BITS bits, one for each entry of [next, end) that is done, at
 * (seq - from) % LOG_MARK_BITS. */
struct log_mark {
	uint32_t magic, reserved;
	uint64_t from, next, end; /* entries to be put back: [from, end), those before next are */
	uint64_t first_end;       /* what comes behind was carried since */
};

enum {
	LOG_MARK_AT = 64, /* where the bits begin */
	LOG_MARK_BYTES = ARENA_POSITION_MAX - LOG_MARK_AT,
	LOG_MARK_BITS = 8 * LOG_MARK_BYTES,
};
_Static_assert(sizeof(struct log_mark) <= LOG_MARK_AT, "");

static inline uint64_t log_mark_bit(const struct log_mark *m, uint64_t seq)
{
	return (seq - m->from) % LOG_MARK_BITS;
}

/* Notes in @bits whether entry @seq is done. */
static inline void log_mark_set(uint8_t *bits, const struct log_mark *m, uint64_t seq, bool done)
{
	uint64_t bit = log_mark_bit(m, seq);
	uint8_t mask = (uint8_t)(1u << bit % 8);
	bits[bit / 8] = done ? (uint8_t)(bits[bit / 8] | mask) : (uint8_t)(bits[bit / 8] & ~mask);
}

/* What stands beside a carried chunk in the log. */
struct log_note {
	uint64_t base; /* what it needed until then */
	char from[ARENA_OUTPUT_MAX];
	char to[ARENA_NAME_MAX]; /* the edge it was on */
};
_Static_assert(sizeof(struct log_note) == 200, "on disk");

/* What it was made of is put back too, from entry @from of the log on. */
static inline bool log_note_redundant(const struct log_note *n, uint64_t from)
{
	return n->base >= from;
}

/* Bytes of the log that all chunks of the arena take when they are carried, one more included for
 * the ring's end; and the least size of a log. */
static inline uint64_t log_reserve(const struct config *cfg)
{
	return cfg->arena_size / cfg->arena_buffer * wal_most_carried(cfg->arena_buffer) +
	       wal_most(cfg->arena_buffer);
}

static inline uint64_t log_least(const struct config *cfg)
{
	return 2 * log_reserve(cfg) + WAL_GROUP_MAX * wal_most(cfg->arena_buffer);
}

/* log_books.c, for the master. Records that entries have got since the figures were noted. */
uint64_t log_books_since(const struct wal *w);
/* Gives a new arena the books that the log knows. */
void log_books_restore(struct arena *a, const struct wal *w);

static inline void log_path(const struct config *cfg, char *out, size_t size)
{
	snprintf(out, size, "%s.log", cfg->arena_path);
}
