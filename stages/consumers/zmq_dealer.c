/*
 * The dealer consumer's transaction with its peer; see zmq_dealer.h.
 *
 * The position is one struct: the last unit with a message, and its sequence. A successor may find
 * it as of before the unit in question or as of that unit: commit_id tells which, and both lead to
 * the same answer.
 */
#include "stages/consumers/zmq_dealer.h"

#include <inttypes.h>
#include <string.h>

#include "stages/zmqsock.h"
#include "ipc/clock.h"

enum {
	ASK_MS = 1000, /* how long a peer may be silent before it counts as absent */
	ID_MAX = 255,  /* libzmq's limit */
	OWN_MAX = 200,
};

struct place {
	char magic[8];
	struct commit_id id; /* the unit that had `sequence` */
	uint64_t sequence;   /* of the last message; 0: none yet */
	uint64_t message;    /* 1: unit `id` has a message, which has `sequence` */
};

static const char place_magic[8] = "SLZMQD1";

struct dealer {
	struct stage *st;
	struct zmqclient client;
	struct place place;
	uint64_t naks_told;
};

static int64_t monotonic_ms(void)
{
	return clock_monotonic() / 1000000;
}

void dealer_id(const struct stage *st, const char *name, char *id)
{
	char host[65] = "sluice", own[OWN_MAX + 1];
	const uint8_t *e = st->commit_id.epoch;
	gethostname(host, sizeof(host) - 1);
	if (name)
		snprintf(own, sizeof(own), "%s", name);
	else
		snprintf(own, sizeof(own), "%s.%s", host, st->name);
	snprintf(id, ID_MAX + 1, "%s.%u.%02x%02x%02x%02x", own, st->worker, e[0], e[1], e[2], e[3]);
}

int dealer_open(struct dealer **dealer, struct stage *st, void *sock)
{
	struct dealer *d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	*dealer = d;
	d->st = st;
	if (!st->position_fresh && memcmp(st->position, place_magic, sizeof(place_magic)) == 0)
		memcpy(&d->place, st->position, sizeof(d->place));
	memcpy(d->place.magic, place_magic, sizeof(place_magic));
	return zmqclient_init(&d->client, sock, 1, d->place.sequence + 1);
}

struct dealer *dealer_close(struct dealer *d)
{
	if (d) {
		zmqclient_deinit(&d->client);
		free(d);
	}
	return NULL;
}

static int unreachable(struct dealer *d, int r)
{
	const char *why = "the peer does not answer";
	if (r == ZMQCLIENT_E_REFUSED)
		why = d->client.why;
	else if (!d->client.heard)
		why = "no peer has answered yet";
	zmqclient_hello(&d->client);
	return stage_say(d->st, STAGE_E_UNREACHABLE, "%s", why);
}

/* Until the client is ready or @ms are over. 0, STAGE_E_UNREACHABLE, -errno. */
static int get_ready(struct dealer *d, int64_t ms)
{
	int64_t until = monotonic_ms() + ms;
	int r = 0;
	while (!d->client.ready && r == 0) {
		int64_t left = until - monotonic_ms();
		if (left <= 0)
			break;
		r = zmqclient_work(&d->client, (int)left);
	}
	if (r < 0 && r != -EINTR)
		return r;
	return d->client.ready ? 0 : unreachable(d, r);
}

int dealer_finish(struct dealer *d, bool message)
{
	struct zmqclient *c = &d->client;
	int r = zmqclient_work(c, 0);
	if (r < 0)
		return r;
	r = r ? unreachable(d, r) : get_ready(d, ASK_MS);
	if (r)
		return r;
	if (c->acked + 1 != c->next) {
		/* only after power loss on one side: its past is gone, the numbers go on from the
		 * peer's */
		log_warning("the peer has %" PRIu64 " messages of ours, expected %" PRIu64,
		            c->acked, c->next - 1);
		c->next = c->acked + 1;
	}
	d->place.id = d->st->commit_id;
	d->place.message = message;
	d->place.sequence = message ? c->next : c->next - 1;
	return stage_position(d->st, 0, &d->place, sizeof(d->place));
}

static void tell_naks(struct dealer *d)
{
	if (d->client.naks > d->naks_told)
		log_warning("the peer made dead letters of %" PRIu64 " records so far: %s",
		            d->client.nak_records, d->client.nak_why);
	d->naks_told = d->client.naks;
}

int dealer_commit(struct dealer *d, const void *message, size_t len)
{
	struct zmqclient *c = &d->client;
	_cleanup_(zmqsock_msg_close) zmq_msg_t m;
	int r = 0;
	if (!d->place.message)
		return 0;
	if (zmq_msg_init_size(&m, len))
		return -ENOMEM;
	memcpy(zmq_msg_data(&m), message, len);
	uint64_t seq = zmqclient_submit(c, &m);
	int64_t until = monotonic_ms() + d->st->timeout / 1000000;
	while (c->acked < seq) {
		int64_t left = until - monotonic_ms();
		if (left <= 0)
			return -ETIMEDOUT;
		r = zmqclient_work(c, left > ASK_MS ? ASK_MS : (int)left);
		if (r == ZMQCLIENT_E_REFUSED) {
			log_error("%s", c->why);
			return -EPROTO;
		}
		if (r < 0 && r != -EINTR)
			return r;
	}
	tell_naks(d);
	return 0;
}

int dealer_committed(struct dealer *d, const struct commit_id *id)
{
	struct zmqclient *c = &d->client;
	bool after = memcmp(&d->place.id, id, sizeof(*id)) == 0;
	if (after && !d->place.message)
		return 1;
	uint64_t sequence = after ? d->place.sequence : d->place.sequence + 1;
	/* a client the peer does not know is taken at its word, which must not be past this unit */
	c->acked = sequence - 1;
	c->next = c->cursor = sequence;
	zmqclient_hello(c);
	int r = get_ready(d, ASK_MS);
	if (r)
		return r;
	bool in = c->acked >= sequence;
	d->place.sequence = in ? sequence : sequence - 1;
	c->next = d->place.sequence + 1;
	return in;
}
