/*
 * The acknowledged protocol's daemon side; see zmq_router.h.
 *
 * Invariants
 *  - acked <= slot.seq; everything up to `acked` is stored (or delivered) for good;
 *  - the queue of answers is in the order of commits, and holds for each client its messages in
 * (acked, seq];
 *  - st->host is the caller's again whenever no message is being decoded.
 */
#include "stages/producers/zmq_router.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stages/producers/zmq_clients.h"
#include "stages/producers/zmq_sieve.h"
#include "ipc/clock.h"

enum {
	ID_MAX = 255,
	READY_EVERY = 100 * 1000 * 1000, /* ns between two READY nobody asked for */
	OWED_EVERY = 50 * 1000 * 1000,   /* ns between two looks whether what is owed can be said */
	GREET_EVERY = 5 * 1000 * 1000,   /* ns between two looks who is back */
};

static const int64_t GREET_FOR =
        INT64_C(10000000000); /* ns; longer than clients take to reconnect */

/* What is known of a client only while this process lives. */
struct session {
	uint8_t id[ID_MAX];
	uint8_t id_len; /* 0: not heard of yet */
	bool greeted;   /* HELLO came, or READY was promised: its messages are taken */
	bool owe_ready;
	bool owe_ack;
	bool touched; /* is in router->touched */
	uint64_t acked;
	uint64_t floor; /* the window counts from here: acked, or what a former process had taken */
	uint64_t newest;  /* number of its newest entry in the queue */
	int64_t ready_at; /* CLOCK_MONOTONIC, ns; 0: READY may be sent at once */
};

struct due {
	uint64_t commit; /* may be said when this commit is stored */
	uint64_t seq;
	uint32_t slot;
	uint32_t bad; /* dead letters of this one message */
	char why[SIEVE_WHY_MAX];
};

struct router {
	struct stage *st;
	struct zmqsock *sock;
	struct router_config cfg;
	struct clients clients;
	struct session session[CLIENTS_MAX];
	struct sieve sieve;
	struct due *queue; /* ring: numbers head..tail-1, each at number % cap */
	uint64_t head, tail, cap;
	uint16_t touched[CLIENTS_MAX];
	unsigned n_touched;
	bool owes;                     /* some session owes something */
	int64_t greet_at, greet_until; /* CLOCK_MONOTONIC, ns; 0: no more */
};

struct decoding {
	struct router *router;
	unsigned slot;
	uint32_t from; /* bytes of the message that were done before */
};

static int queue_grow(struct router *ro)
{
	if (ro->tail - ro->head < ro->cap)
		return 0;
	uint64_t cap = ro->cap ? 2 * ro->cap : 64;
	struct due *q = malloc(cap * sizeof(*q));
	if (!q)
		return -ENOMEM;
	for (uint64_t i = ro->head; i < ro->tail; i++)
		q[i % cap] = ro->queue[i % ro->cap];
	free(ro->queue);
	ro->queue = q;
	ro->cap = cap;
	return 0;
}

/* Message @seq of @slot may be answered when @commit is stored. */
static int queue_add(struct router *ro, uint64_t commit, unsigned slot, uint64_t seq, uint32_t bad,
                     const char *why)
{
	struct session *s = &ro->session[slot];
	if (!bad && s->newest >= ro->head && s->newest < ro->tail) {
		struct due *d = &ro->queue[s->newest % ro->cap];
		if (d->slot == slot && d->commit == commit && !d->bad) {
			d->seq = seq;
			return 0;
		}
	}
	int r = queue_grow(ro);
	if (r < 0)
		return r;
	struct due *d = &ro->queue[ro->tail % ro->cap];
	*d = (struct due){.commit = commit, .seq = seq, .slot = slot, .bad = bad};
	if (bad)
		snprintf(d->why, sizeof(d->why), "%s", why);
	s->newest = ro->tail++;
	return 0;
}

/* What a former process committed is one more entry a client: stored when its last commit is. */
static int inherit(struct router *ro)
{
	struct stage *st = ro->st;
	uint64_t commit = st->commit_id.number ? st->commit_id.number - 1 : 0;
	bool stored = st->host->stored(st->host, ro->cfg.delivered) >= commit;
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		const struct client *cl = &ro->clients.slot[i];
		struct session *s = &ro->session[i];
		if (!cl->id_len || !cl->seq)
			continue;
		s->floor = cl->seq;
		s->acked = stored ? cl->seq : 0;
		int r = stored ? 0 : queue_add(ro, commit, i, cl->seq, 0, NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

int router_open(struct router **router, struct stage *st, struct zmqsock *sock,
                const struct router_config *cfg)
{
	struct router *ro = calloc(1, sizeof(*ro));
	if (!ro)
		return -ENOMEM;
	*router = ro;
	ro->st = st;
	ro->sock = sock;
	ro->cfg = *cfg;
	sieve_init(&ro->sieve);
	clients_load(&ro->clients, st);
	ro->greet_at = clock_monotonic();
	ro->greet_until = ro->clients.n ? ro->greet_at + GREET_FOR : 0;
	return inherit(ro);
}

struct router *router_close(struct router *ro)
{
	if (ro) {
		free(ro->queue);
		free(ro);
	}
	return NULL;
}

/* A client that does not read its answers loses them: that is none of our business. 0: said; 1: it
 * is not there, or does not read; -errno. */
static int say_to(struct router *ro, const void *id, size_t id_len, const char *word,
                  const struct zmqproto_frame *rest, size_t n)
{
	struct zmqproto_frame f[1 + ZMQPROTO_FRAMES_MAX] = {{id, id_len}, zmqproto_word(word)};
	memcpy(f + 2, rest, n * sizeof(*rest));
	return zmqsock_send(ro->sock->sock, f, n + 2);
}

static int say(struct router *ro, const void *id, size_t id_len, const char *word,
               const struct zmqproto_frame *rest, size_t n)
{
	int r = say_to(ro, id, id_len, word, rest, n);
	return r < 0 ? r : 0;
}

/* What will never be taken is answered with the reason. */
static int refuse(struct router *ro, const void *id, size_t id_len, const char *why)
{
	struct zmqproto_frame reason = zmqproto_word(why);
	ro->st->refused++;
	return say(ro, id, id_len, "ERROR", &reason, 1);
}

static int say_ready_to(struct router *ro, unsigned slot, const void *id, size_t id_len)
{
	char last[ZMQPROTO_NUMBER_MAX], window[ZMQPROTO_NUMBER_MAX];
	struct zmqproto_frame f[] = {
	        zmqproto_word("1"),
	        zmqproto_number(last, ro->clients.slot[slot].seq),
	        zmqproto_number(window, ro->cfg.window),
	};
	return say_to(ro, id, id_len, "READY", f, 3);
}

static int say_ready(struct router *ro, unsigned slot)
{
	struct session *s = &ro->session[slot];
	s->owe_ready = s->owe_ack = false;
	s->ready_at = clock_monotonic();
	int r = say_ready_to(ro, slot, s->id, s->id_len);
	return r < 0 ? r : 0;
}

static int say_ack(struct router *ro, unsigned slot)
{
	struct session *s = &ro->session[slot];
	char seq[ZMQPROTO_NUMBER_MAX];
	struct zmqproto_frame f = zmqproto_number(seq, s->acked);
	s->owe_ack = false;
	return say(ro, s->id, s->id_len, "ACK", &f, 1);
}

static int say_nak(struct router *ro, const struct due *d)
{
	struct session *s = &ro->session[d->slot];
	char seq[ZMQPROTO_NUMBER_MAX], bad[ZMQPROTO_NUMBER_MAX];
	struct zmqproto_frame f[] = {
	        zmqproto_number(seq, d->seq),
	        zmqproto_number(bad, d->bad),
	        zmqproto_word(d->why),
	};
	s->owe_ack = false;
	return say(ro, s->id, s->id_len, "NAK", f, 3);
}

static bool settled(const struct router *ro, unsigned slot)
{
	return ro->session[slot].acked == ro->clients.slot[slot].seq;
}

static int pay(struct router *ro, unsigned slot, int64_t now)
{
	struct session *s = &ro->session[slot];
	int r = 0;
	if (s->owe_ready && settled(ro, slot) && now - s->ready_at >= READY_EVERY)
		r = say_ready(ro, slot);
	else if (s->owe_ack)
		r = say_ack(ro, slot);
	if (s->owe_ready)
		ro->owes = true;
	return r;
}

static int pay_all(struct router *ro)
{
	if (!ro->owes)
		return 0;
	ro->owes = false;
	int64_t now = clock_monotonic();
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		int r = ro->session[i].id_len ? pay(ro, i, now) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int settle_one(struct router *ro, const struct due *d)
{
	struct session *s = &ro->session[d->slot];
	s->acked = d->seq;
	if (s->floor < s->acked)
		s->floor = s->acked;
	if (!s->touched)
		ro->touched[ro->n_touched++] = (uint16_t)d->slot;
	s->touched = true;
	if (d->bad && s->greeted)
		return say_nak(ro, d);
	s->owe_ack = s->greeted;
	return 0;
}

/* A client whose window was full when the last process died has nothing to send, and would wait out
 * its silence: so whoever is known and back is told at once where to go on. */
static int greet(struct router *ro)
{
	int64_t now = clock_monotonic();
	if (now < ro->greet_at)
		return 0;
	ro->greet_at = now + GREET_EVERY;
	if (now > ro->greet_until)
		ro->greet_until = 0;
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		const struct client *cl = &ro->clients.slot[i];
		struct session *s = &ro->session[i];
		/* one that is bound to a key has to show it first */
		if (!cl->id_len || cl->id_len == CLIENTS_HASHED || cl->key || s->id_len ||
		    !settled(ro, i))
			continue;
		int r = say_ready_to(ro, i, cl->id, cl->id_len);
		if (r < 0)
			return r;
		if (r > 0)
			continue;
		memcpy(s->id, cl->id, cl->id_len);
		s->id_len = cl->id_len;
		s->greeted = true;
		s->ready_at = now;
	}
	return 0;
}

int router_answer(struct router *ro)
{
	int r = 0;
	if (ro->head < ro->tail) {
		uint64_t stored = ro->st->host->stored(ro->st->host, ro->cfg.delivered);
		for (; r == 0 && ro->head < ro->tail; ro->head++) {
			const struct due *d = &ro->queue[ro->head % ro->cap];
			if (d->commit > stored)
				break;
			r = settle_one(ro, d);
		}
	}
	int64_t now = ro->n_touched ? clock_monotonic() : 0;
	for (unsigned i = 0; i < ro->n_touched; i++) {
		ro->session[ro->touched[i]].touched = false;
		if (r == 0)
			r = pay(ro, ro->touched[i], now);
	}
	ro->n_touched = 0;
	r = r < 0 ? r : pay_all(ro);
	return r == 0 && ro->greet_until ? greet(ro) : r;
}

int64_t router_deadline(const struct router *ro)
{
	if (ro->greet_until)
		return ro->greet_at;
	return ro->owes ? clock_monotonic() + OWED_EVERY : 0;
}

/* The oldest client of which nothing is under way makes room; one with half a message stored goes
 * last. */
static unsigned oldest(const struct router *ro)
{
	unsigned best = CLIENTS_NONE;
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		const struct client *cl = &ro->clients.slot[i];
		if (!cl->id_len || !settled(ro, i))
			continue;
		const struct client *b = best == CLIENTS_NONE ? NULL : &ro->clients.slot[best];
		if (!b || (!cl->part && b->part) || (!cl->part == !b->part && cl->used < b->used))
			best = i;
	}
	return best;
}

/* 0: there is a free slot; 1: there is none; -errno. One goes for one that comes, and where
 * max_clients was lowered one more: a unit has room for few. */
static int make_room(struct router *ro)
{
	bool room = ro->clients.n < ro->cfg.max_clients;
	for (unsigned i = 0; i < 2 && ro->clients.n >= ro->cfg.max_clients; i++) {
		unsigned out = oldest(ro);
		if (out == CLIENTS_NONE)
			break;
		clients_remove(&ro->clients, out);
		ro->session[out] = (struct session){0};
		int r = clients_save(&ro->clients, ro->st, out);
		if (r < 0)
			return r;
		room = true;
	}
	return room ? 0 : 1;
}

/* The client's slot, a new one when it is unknown. 0; 1: no room; -errno. */
static int slot_of(struct router *ro, const void *id, size_t len, unsigned *slot)
{
	*slot = clients_find(&ro->clients, id, len);
	int r = 0;
	if (*slot == CLIENTS_NONE) {
		r = make_room(ro);
		if (r)
			return r;
		*slot = clients_add(&ro->clients, id, len);
		ro->session[*slot] = (struct session){0};
		r = clients_save(&ro->clients, ro->st, *slot);
	}
	struct session *s = &ro->session[*slot];
	if (!s->id_len) {
		memcpy(s->id, id, len);
		s->id_len = (uint8_t)len;
	}
	return r;
}

/* With CURVE an id belongs to the key that came with it first, until that key is let in no more. 1:
 * it is another's. */
static int check_owner(struct router *ro, unsigned slot, zmq_msg_t *frame)
{
	struct client *cl = &ro->clients.slot[slot];
	const char *user = ro->cfg.keys ? zmq_msg_gets(frame, "User-Id") : NULL;
	uint64_t key = user ? strtoull(user, NULL, 16) : 0;
	if (key == cl->key || !key)
		return 0;
	char owner[ZMQSOCK_USER_ID_LEN];
	snprintf(owner, sizeof(owner), "%016" PRIx64, cl->key);
	if (cl->key && zmqsock_known(ro->sock, owner))
		return 1;
	cl->key = key;
	return clients_save(&ro->clients, ro->st, slot);
}

static void owe_ready(struct router *ro, unsigned slot, bool asked)
{
	struct session *s = &ro->session[slot];
	s->greeted = s->owe_ready = ro->owes = true;
	if (asked)
		s->ready_at = 0;
}

static int hello(struct router *ro, unsigned slot, const struct zmqproto *m)
{
	struct client *cl = &ro->clients.slot[slot];
	struct session *s = &ro->session[slot];
	owe_ready(ro, slot, true);
	if (cl->seq || cl->part || m->sequence == 1)
		return 0;
	cl->seq = s->acked = s->floor = m->sequence - 1;
	return clients_touch(&ro->clients, ro->st, slot);
}

static int part_made(struct stage *st, void *arg, size_t consumed)
{
	struct decoding *d = arg;
	struct client *cl = &d->router->clients.slot[d->slot];
	uint32_t bad = d->router->sieve.bad;
	cl->part = d->from + (uint32_t)consumed;
	cl->bad = bad < UINT16_MAX ? (uint16_t)bad : UINT16_MAX;
	if (st->codec->headless)
		cl->flags |= CLIENT_HEADLESS;
	return clients_touch(&d->router->clients, st, d->slot);
}

/* Goes on behind what a former process had made of this message. That is not looked at again but
 * for a header, for it may be what killed that process. */
static void resume(struct router *ro, struct decoding *d, struct codec_window *w)
{
	const struct client *cl = &ro->clients.slot[d->slot];
	struct codec *codec = ro->st->codec;
	size_t len = (size_t)(w->end - w->p);
	d->from = cl->part < len ? cl->part : (uint32_t)len;
	if (!d->from)
		return;
	bool header = codec->ops->has_prologue && !(cl->flags & CLIENT_HEADLESS) &&
	              codec->ops->prologue(codec, w->p, d->from) > 0;
	if (!header && codec->ops->lost)
		codec->ops->lost(codec);
	w->p += d->from;
	sieve_found(&ro->sieve, cl->bad);
}

static int decode(struct router *ro, unsigned slot, const struct zmqproto *m)
{
	struct stage *st = ro->st;
	const struct session *s = &ro->session[slot];
	struct decoding d = {.router = ro, .slot = slot};
	struct codec_window w = {.p = m->text.p, .last = true};
	w.end = w.p + m->text.len;
	char at[STAGE_WHY_MAX];
	snprintf(at, sizeof(at), "message %" PRIu64 " of %.*s", m->sequence, s->id_len,
	         (const char *)s->id);
	if (st->codec->ops->reset)
		st->codec->ops->reset(st->codec);
	sieve_on(&ro->sieve, st);
	resume(ro, &d, &w);
	int r = w.p < w.end ? stage_decode(st, &w, at, part_made, &d) : 0;
	sieve_off(&ro->sieve, st);
	return r;
}

static int take_new(struct router *ro, unsigned slot, const struct zmqproto *m)
{
	struct client *cl = &ro->clients.slot[slot];
	int r = decode(ro, slot, m);
	if (r < 0)
		return r;
	cl->seq = m->sequence;
	cl->part = cl->bad = cl->flags = 0;
	r = clients_touch(&ro->clients, ro->st, slot);
	if (r < 0)
		return r;
	return queue_add(ro, ro->st->commit_id.number, slot, m->sequence, ro->sieve.bad,
	                 ro->sieve.why);
}

static int take_send(struct router *ro, unsigned slot, const struct zmqproto *m)
{
	const struct client *cl = &ro->clients.slot[slot];
	struct session *s = &ro->session[slot];
	if (s->greeted && m->sequence <= cl->seq) {
		/* a repeat: what is not acknowledged yet will be, by the queue */
		if (m->sequence <= s->acked)
			s->owe_ack = ro->owes = true;
		return 0;
	}
	if (s->greeted && m->sequence == cl->seq + 1 && m->sequence - s->floor <= ro->cfg.window)
		return take_new(ro, slot, m);
	owe_ready(ro, slot, false);
	return 0;
}

static int dispatch(struct router *ro, zmq_msg_t *id, zmq_msg_t *last, const struct zmqproto *m)
{
	unsigned slot;
	size_t len = zmq_msg_size(id);
	int r = slot_of(ro, zmq_msg_data(id), len, &slot);
	if (r > 0)
		return refuse(ro, zmq_msg_data(id), len, "too many clients: try again later");
	if (r == 0)
		r = check_owner(ro, slot, last);
	if (r > 0)
		return refuse(ro, zmq_msg_data(id), len, "this routing id belongs to another key");
	if (r < 0)
		return r;
	return m->kind == ZMQPROTO_HELLO ? hello(ro, slot, m) : take_send(ro, slot, m);
}

struct frames {
	zmq_msg_t msg[ZMQPROTO_FRAMES_MAX];
	struct zmqproto_frame f[ZMQPROTO_FRAMES_MAX];
	size_t n; /* of the message; more than ZMQPROTO_FRAMES_MAX are counted only */
};

static void frames_close(struct frames *fr)
{
	for (size_t i = 0; i < ZMQPROTO_FRAMES_MAX; i++)
		zmq_msg_close(&fr->msg[i]);
}

static int fetch(struct router *ro, bool more, struct frames *fr, size_t *bytes)
{
	_cleanup_(zmqsock_msg_close) zmq_msg_t junk;
	zmq_msg_init(&junk);
	for (fr->n = 0; more; fr->n++) {
		bool room = fr->n < ZMQPROTO_FRAMES_MAX;
		zmq_msg_t *m = room ? &fr->msg[fr->n] : &junk;
		while (zmq_msg_recv(m, ro->sock->sock, 0) < 0)
			if (errno != EINTR)
				return err_errno();
		if (room)
			fr->f[fr->n] = (struct zmqproto_frame){zmq_msg_data(m), zmq_msg_size(m)};
		*bytes += zmq_msg_size(m);
		more = zmq_msg_more(m);
	}
	return 0;
}

int router_take(struct router *ro, zmq_msg_t *first, size_t *bytes)
{
	_cleanup_(frames_close) struct frames fr;
	struct zmqproto m;
	const char *why;
	for (size_t i = 0; i < ZMQPROTO_FRAMES_MAX; i++)
		zmq_msg_init(&fr.msg[i]);
	*bytes = zmq_msg_size(first);
	int r = fetch(ro, zmq_msg_more(first), &fr, bytes);
	if (r < 0)
		return r;
	const uint8_t *id = zmq_msg_data(first);
	size_t id_len = zmq_msg_size(first);
	if (id_len == 0 || id[0] == 0)
		return refuse(ro, id, id_len,
		              "set a routing id: one made by libzmq cannot be resumed");
	if (fr.n == 0 || fr.n > ZMQPROTO_FRAMES_MAX)
		return refuse(ro, id, id_len, "a message of the protocol has 2 to 4 frames");
	if (zmqproto_request(fr.f, fr.n, &m, &why) != ZMQPROTO_E_OK)
		return refuse(ro, id, id_len, why);
	return dispatch(ro, first, &fr.msg[fr.n - 1], &m);
}
