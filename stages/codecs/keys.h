/*
 * "Has this map had this key already?" for all maps of a record, however nested, at a few
 * nanoseconds a key: one open-addressed table for the whole record, in which a key is found by its
 * map's number and its hash.
 *
 * The table is never cleared: a slot belongs to the record in hand only when it carries the
 * record's generation. Hashes are seeded from the kernel's randomness, so that nobody outside can
 * choose keys that fall together. Memory grows with the largest number of keys in one record and is
 * then reused.
 *
 * Keys are remembered as offsets into the record under construction. They must hold while their map
 * is open; once it is closed nothing is compared with them any more, and its bytes may move.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum keys_error {
	KEYS_E_OK,
	KEYS_E_TWICE,
};

struct keys_entry {
	uint32_t hash; /* of the key, the map mixed in */
	uint32_t map;
	uint32_t off;
	uint32_t len;
};

struct keys_slot {
	uint32_t generation;
	uint32_t index;
};

struct keys {
	struct keys_entry *list;
	struct keys_slot *slots; /* twice as many as the list holds */
	uint32_t n;
	uint32_t cap; /* a power of two, or 0 */
	uint32_t generation;
	uint32_t maps;
	uint64_t seed;
};

/* @k zeroed. 0 or -errno. */
int keys_init(struct keys *k);
void keys_deinit(struct keys *k);

/* Makes room for more keys than `cap`. 0 or -ENOMEM. */
int keys_grow(struct keys *k);
/* Starts the generations again after 2^32 records. */
void keys_wrap(struct keys *k);

/* A new record begins. */
static inline void keys_begin(struct keys *k)
{
	k->n = 0;
	k->maps = 0;
	if (++k->generation == 0)
		keys_wrap(k);
}

/* A new map begins: its number. */
static inline uint32_t keys_map(struct keys *k)
{
	return k->maps++;
}

/* Notes that map @map has the key of @len bytes at @base + @off. KEYS_E_TWICE, or -ENOMEM. */
static inline int keys_add(struct keys *k, const uint8_t *base, uint32_t map, uint32_t off,
                           uint32_t len)
{
	if (k->n == k->cap) {
		int r = keys_grow(k);
		if (r < 0)
			return r;
	}
	uint32_t hash = (uint32_t)XXH3_64bits_withSeed(base + off, len, k->seed);
	hash ^= map * 0x9e3779b9u;
	uint32_t mask = 2 * k->cap - 1;
	uint32_t s = hash & mask;
	for (; k->slots[s].generation == k->generation; s = (s + 1) & mask) {
		const struct keys_entry *e = &k->list[k->slots[s].index];
		if (e->hash == hash && e->map == map && e->len == len &&
		    memcmp(base + e->off, base + off, len) == 0)
			return KEYS_E_TWICE;
	}
	k->slots[s] = (struct keys_slot){k->generation, k->n};
	k->list[k->n++] = (struct keys_entry){hash, map, off, len};
	return KEYS_E_OK;
}
