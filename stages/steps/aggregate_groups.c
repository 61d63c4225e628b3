/*
 * A hash table with open addressing over a flat array of entries. See aggregate_groups.h.
 *
 * The table takes GROUPS_MAX * (40 + 48 * accumulators) bytes at most, of which the kernel gives
 * only the pages that were touched.
 */
#include "stages/steps/aggregate_groups.h"

#include <assert.h>
#include <xxhash.h>

int groups_init(struct groups *g, unsigned n_acc)
{
	_Static_assert(GROUPS_MAX < UINT16_MAX, "entry numbers fit their slots");
	*g = (struct groups){0};
	g->stride = sizeof(struct group) + n_acc * sizeof(struct agg_acc);
	g->entries = calloc(GROUPS_MAX, g->stride);
	g->slots = calloc(GROUPS_SLOTS, sizeof(*g->slots));
	return g->entries && g->slots ? 0 : -ENOMEM;
}

void groups_deinit(struct groups *g)
{
	free(g->entries);
	free(g->slots);
	buf_deinit(&g->keys);
	*g = (struct groups){0};
}

void groups_clear(struct groups *g)
{
	if (!g->n)
		return;
	memset(g->slots, 0, GROUPS_SLOTS * sizeof(*g->slots));
	g->keys.len = 0;
	g->n = 0;
}

uint64_t groups_hash(int64_t window, const uint8_t *key, size_t len)
{
	return XXH3_64bits_withSeed(key, len, (uint64_t)window);
}

struct group *groups_find(const struct groups *g, uint64_t hash, int64_t window, const uint8_t *key,
                          size_t len)
{
	for (uint64_t s = hash;; s++) {
		unsigned number = g->slots[s % GROUPS_SLOTS];
		if (!number)
			return NULL;
		struct group *e = groups_at(g, number - 1);
		if (e->hash == hash && e->window == window && e->key_len == len &&
		    (len == 0 || !memcmp(g->keys.p + e->key, key, len)))
			return e;
	}
}

struct group *groups_add(struct groups *g, uint64_t hash, int64_t window, const uint8_t *key,
                         size_t len)
{
	assert(!groups_full(g, len));
	struct group *e = groups_at(g, g->n);
	memset(e, 0, g->stride);
	e->hash = hash;
	e->window = window;
	e->key = g->keys.len;
	e->key_len = len;
	if (buf_add(&g->keys, key, len) < 0)
		return NULL;
	uint64_t s = hash;
	while (g->slots[s % GROUPS_SLOTS])
		s++;
	g->slots[s % GROUPS_SLOTS] = (uint16_t)++g->n;
	return e;
}
