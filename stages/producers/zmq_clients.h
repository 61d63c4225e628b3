/*
 * What the router remembers of its clients: the last sequence of each, within the producer's
 * position, so that it is committed together with the records it speaks of.
 *
 * An entry is 64 bytes, and 1,000 of them fit a position. Entry i of the position is entry i in
 * memory. A routing id of up to 32 bytes stands there as it is, a longer one as its SHA-256.
 *
 * Invariants: the first `part` bytes of the message `seq` + 1 are made already, records and dead
 * letters alike; a slot in use has id_len > 0; `used` grows with each message of any client, and so
 * orders clients by age.
 */
#pragma once

#include "stages/stage.h"

enum {
	CLIENTS_MAX = 1000,
	CLIENTS_ID = 32,      /* bytes of an id that stand in the table as they are */
	CLIENTS_HASHED = 255, /* id_len of an id that is hashed */
	CLIENTS_NONE = UINT16_MAX,
	CLIENTS_INDEX = 4096,
};

enum {
	CLIENT_HEADLESS = 1, /* the message's header was passed over: it must not be read again */
};

struct client {
	uint8_t id[CLIENTS_ID];
	uint8_t id_len;
	uint8_t flags; /* CLIENT_* */
	uint16_t bad;  /* dead letters among `part`; so many or more */
	uint32_t part;
	uint64_t seq; /* last message made in full */
	uint64_t used;
	uint64_t key; /* fingerprint of the CURVE key it is bound to; 0: none */
};

struct clients {
	struct client slot[CLIENTS_MAX];
	uint16_t index[CLIENTS_INDEX]; /* slots by hash of the id, open addressing; CLIENTS_NONE:
	                                  empty */
	uint64_t used;                 /* the largest of all */
	unsigned n;                    /* slots in use */
};

/* Reads the table from what was committed; a position of something else is an empty table. */
void clients_load(struct clients *c, const struct stage *st);

/* The slot of @id (1 to 255 bytes), or CLIENTS_NONE. */
unsigned clients_find(const struct clients *c, const void *id, size_t len);

/* A free slot now is @id's; there must be one (n < CLIENTS_MAX). clients_save is the caller's. */
unsigned clients_add(struct clients *c, const void *id, size_t len);

/* Forgets a slot. clients_save is the caller's. */
void clients_remove(struct clients *c, unsigned slot);

/* Puts the slot into the position of the unit in hand (clients_touch: only its numbers, and makes
 * it the youngest). 0 or -errno. */
int clients_save(const struct clients *c, struct stage *st, unsigned slot);
int clients_touch(struct clients *c, struct stage *st, unsigned slot);
