/*
 * The router's table of clients; see zmq_clients.h. Lookups go through a small hash index in
 * memory, which is never stored: it is made anew from the slots at start and after a removal (rare:
 * a removal means that more clients came than the table has room for).
 */
#include "stages/producers/zmq_clients.h"

#include <openssl/evp.h>
#include <string.h>
#include <xxhash.h>

static const char magic[8] = "SLZMQR2"; /* at the start of the position */

_Static_assert(sizeof(struct client) == 64, "the entry's layout is stored");
_Static_assert(offsetof(struct client, flags) == 33 && offsetof(struct client, part) == 36,
               "the entry's layout is stored");
_Static_assert(sizeof(magic) + sizeof(struct client) * CLIENTS_MAX <= STAGE_POSITION_MAX,
               "the table fits a position");
_Static_assert((CLIENTS_INDEX & (CLIENTS_INDEX - 1)) == 0 && CLIENTS_INDEX > 2 * CLIENTS_MAX,
               "the index is never full");

static uint32_t offset_of(unsigned slot)
{
	return (uint32_t)(sizeof(magic) + sizeof(struct client) * slot);
}

/* The id as it stands in a slot. */
static void make_id(const void *id, size_t len, struct client *c)
{
	memset(c->id, 0, sizeof(c->id));
	c->id_len = len <= CLIENTS_ID ? (uint8_t)len : CLIENTS_HASHED;
	if (len <= CLIENTS_ID)
		memcpy(c->id, id, len);
	else
		EVP_Digest(id, len, c->id, NULL, EVP_sha256(), NULL);
}

static size_t hash_of(const struct client *c)
{
	return (size_t)XXH3_64bits(c->id, sizeof(c->id)) & (CLIENTS_INDEX - 1);
}

static void index_add(struct clients *c, unsigned slot)
{
	size_t h = hash_of(&c->slot[slot]);
	while (c->index[h] != CLIENTS_NONE)
		h = (h + 1) & (CLIENTS_INDEX - 1);
	c->index[h] = (uint16_t)slot;
}

static void index_all(struct clients *c)
{
	memset(c->index, 0xff, sizeof(c->index));
	c->n = 0;
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		if (!c->slot[i].id_len)
			continue;
		if (c->slot[i].used > c->used)
			c->used = c->slot[i].used;
		index_add(c, i);
		c->n++;
	}
}

void clients_load(struct clients *c, const struct stage *st)
{
	*c = (struct clients){0};
	if (!st->position_fresh) {
		if (memcmp(st->position, magic, sizeof(magic)) == 0)
			memcpy(c->slot, st->position + sizeof(magic), sizeof(c->slot));
		else
			log_warning("the position is not one of a router: all clients start anew");
	}
	index_all(c);
}

unsigned clients_find(const struct clients *c, const void *id, size_t len)
{
	struct client want;
	make_id(id, len, &want);
	for (size_t h = hash_of(&want);; h = (h + 1) & (CLIENTS_INDEX - 1)) {
		unsigned slot = c->index[h];
		if (slot == CLIENTS_NONE)
			return CLIENTS_NONE;
		if (c->slot[slot].id_len == want.id_len &&
		    memcmp(c->slot[slot].id, want.id, sizeof(want.id)) == 0)
			return slot;
	}
}

unsigned clients_add(struct clients *c, const void *id, size_t len)
{
	unsigned slot = 0;
	while (c->slot[slot].id_len)
		slot++;
	c->slot[slot] = (struct client){.used = ++c->used};
	make_id(id, len, &c->slot[slot]);
	index_add(c, slot);
	c->n++;
	return slot;
}

void clients_remove(struct clients *c, unsigned slot)
{
	c->slot[slot] = (struct client){0};
	index_all(c);
}

int clients_save(const struct clients *c, struct stage *st, unsigned slot)
{
	int r = stage_position(st, 0, magic, sizeof(magic));
	if (r < 0)
		return r;
	return stage_position(st, offset_of(slot), &c->slot[slot], sizeof(c->slot[slot]));
}

int clients_touch(struct clients *c, struct stage *st, unsigned slot)
{
	struct client *cl = &c->slot[slot];
	const uint32_t from = offsetof(struct client, flags);
	cl->used = ++c->used;
	return stage_position(st, offset_of(slot) + from, &cl->flags, (uint32_t)sizeof(*cl) - from);
}
