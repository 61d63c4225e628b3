/*
 * The parts of keys.h that run seldom: growing, and starting the generations again.
 */
#include "stages/codecs/keys.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "ipc/err.h"

enum {
	KEYS_MIN = 64,
	KEYS_MAX = 1 << 30,
};

int keys_init(struct keys *k)
{
	*k = (struct keys){0};
	if (getrandom(&k->seed, sizeof(k->seed), 0) != sizeof(k->seed))
		return err_errno();
	return keys_grow(k);
}

void keys_deinit(struct keys *k)
{
	free(k->list);
	free(k->slots);
	*k = (struct keys){0};
}

void keys_wrap(struct keys *k)
{
	memset(k->slots, 0, 2 * (size_t)k->cap * sizeof(*k->slots));
	k->generation = 1;
}

int keys_grow(struct keys *k)
{
	uint32_t cap = k->cap ? 2 * k->cap : KEYS_MIN;
	if (cap > KEYS_MAX)
		return -ENOMEM;
	struct keys_entry *list = reallocarray(k->list, cap, sizeof(*list));
	if (!list)
		return -ENOMEM;
	k->list = list;
	struct keys_slot *slots = reallocarray(k->slots, 2 * (size_t)cap, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	k->slots = slots;
	k->cap = cap;
	keys_wrap(k);
	for (uint32_t i = 0; i < k->n; i++) {
		uint32_t s = list[i].hash & (2 * cap - 1);
		while (slots[s].generation == k->generation)
			s = (s + 1) & (2 * cap - 1);
		slots[s] = (struct keys_slot){k->generation, i};
	}
	return 0;
}
