/*
 * The groups that aggregate has touched since it last put them into the state: a hash table of
 * bounded size.
 *
 * Entries stay after they were stored ("clean"), so that a group that comes in every unit is read
 * from the state once and written once a unit. When the table is full its owner stores what is
 * dirty and clears it; nothing is ever removed singly.
 */
#pragma once

#include "ipc/buf.h"
#include "stages/steps/aggregate_num.h"

enum {
	GROUPS_MAX = 4096,         /* entries */
	GROUPS_SLOTS = 8192,       /* a power of two, twice as many */
	GROUPS_KEYS_MAX = 4 << 20, /* bytes of keys */
};

struct group {
	uint64_t hash;
	int64_t window;
	size_t key; /* offset in groups->keys */
	size_t key_len;
	bool dirty;
	struct agg_acc acc[];
};

struct groups {
	struct buf keys;
	uint8_t *entries; /* GROUPS_MAX of `stride` bytes */
	uint16_t *slots;  /* entry number + 1; 0: free */
	size_t stride;
	unsigned n;
};

/* @n_acc: accumulators an entry has. 0 or -ENOMEM. */
int groups_init(struct groups *g, unsigned n_acc);
void groups_deinit(struct groups *g);
void groups_clear(struct groups *g);

static inline struct group *groups_at(const struct groups *g, unsigned i)
{
	return (struct group *)(g->entries + i * g->stride);
}

uint64_t groups_hash(int64_t window, const uint8_t *key, size_t len);

/* The entry, or NULL. */
struct group *groups_find(const struct groups *g, uint64_t hash, int64_t window, const uint8_t *key,
                          size_t len);

static inline bool groups_full(const struct groups *g, size_t key_len)
{
	return g->n == GROUPS_MAX || (g->n && g->keys.len + key_len > GROUPS_KEYS_MAX);
}

/* Adds an entry that is not there yet, accumulators zero; the table is not full. NULL: no memory.
 */
struct group *groups_add(struct groups *g, uint64_t hash, int64_t window, const uint8_t *key,
                         size_t len);
