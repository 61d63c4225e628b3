/*
 * The client's side of the acknowledged protocol; see zmqclient.h.
 *
 * Invariants: messages with acked < sequence < next are held in the ring, at most `cap` of them;
 * the ones below `cursor` have been given to the socket; nothing is sent unless READY came since
 * the last HELLO.
 */
#include "stages/zmqclient.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/clock.h"
#include "ipc/err.h"
#include "stages/zmqsock.h"

#define SECOND 1000000000LL

enum {
	BEHIND_MAX = 3, /* HELLOs after which a daemon that is behind is believed to be */
};

int zmqclient_init(struct zmqclient *c, void *sock, uint64_t cap, uint64_t next)
{
	*c = (struct zmqclient){.sock = sock,
	                        .cap = cap,
	                        .next = next,
	                        .acked = next - 1,
	                        .cursor = next,
	                        .silence = SECOND};
	c->ring = calloc(cap, sizeof(*c->ring));
	if (!c->ring)
		return -ENOMEM;
	for (uint64_t i = 0; i < cap; i++)
		zmq_msg_init(&c->ring[i]);
	return 0;
}

void zmqclient_deinit(struct zmqclient *c)
{
	for (uint64_t i = 0; c->ring && i < c->cap; i++)
		zmq_msg_close(&c->ring[i]);
	free(c->ring);
	*c = (struct zmqclient){0};
}

static uint64_t held(const struct zmqclient *c)
{
	return c->next > c->acked + 1 ? c->next - 1 - c->acked : 0;
}

bool zmqclient_room(const struct zmqclient *c)
{
	return held(c) < c->cap;
}

uint64_t zmqclient_submit(struct zmqclient *c, zmq_msg_t *m)
{
	assert(zmqclient_room(c));
	uint64_t seq = c->next++;
	if (seq > c->acked) {
		zmq_msg_move(&c->ring[seq % c->cap], m);
		return seq;
	}
	zmq_msg_close(m);
	zmq_msg_init(m);
	return seq;
}

void zmqclient_hello(struct zmqclient *c)
{
	c->ready = false;
	c->hello_at = 0;
}

/* 0 sent; 1 nobody takes it now; -errno. */
static int send_hello(struct zmqclient *c, int64_t now)
{
	char next[ZMQPROTO_NUMBER_MAX];
	struct zmqproto_frame f[] = {
	        zmqproto_word("HELLO"),
	        zmqproto_word("1"),
	        zmqproto_number(next, c->acked + 1),
	};
	int r = zmqsock_send(c->sock, f, 3);
	if (r == 0) {
		c->ready = false;
		c->hello_at = now;
	}
	return r;
}

static int send_one(struct zmqclient *c)
{
	char seq[ZMQPROTO_NUMBER_MAX];
	struct zmqproto_frame f[] = {zmqproto_word("SEND"), zmqproto_number(seq, c->cursor)};
	if (zmq_send(c->sock, f[0].p, f[0].len, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
		return errno == EAGAIN || errno == EINTR ? 1 : err_errno();
	if (zmq_send(c->sock, f[1].p, f[1].len, ZMQ_SNDMORE) < 0)
		return err_errno();
	_cleanup_(zmqsock_msg_close) zmq_msg_t copy;
	zmq_msg_init(&copy);
	if (zmq_msg_copy(&copy, &c->ring[c->cursor % c->cap]) ||
	    zmq_msg_send(&copy, c->sock, 0) < 0)
		return err_errno();
	c->cursor++;
	return 0;
}

static bool may_send(const struct zmqclient *c)
{
	return c->ready && c->cursor < c->next && c->cursor - c->acked <= c->window;
}

static bool awaits(const struct zmqclient *c)
{
	return !c->ready || c->cursor > c->acked + 1;
}

static int64_t latest(const struct zmqclient *c)
{
	return c->heard_at > c->hello_at ? c->heard_at : c->hello_at;
}

static int transmit(struct zmqclient *c)
{
	int64_t now = clock_monotonic();
	int r = 0;
	if (awaits(c) && (!c->hello_at || now - latest(c) >= c->silence)) {
		if (c->hello_at && c->silence < 5 * SECOND)
			c->silence = c->silence < 2 * SECOND ? 2 * SECOND : 5 * SECOND;
		r = send_hello(c, now);
	}
	while (r == 0 && may_send(c))
		r = send_one(c);
	return r < 0 ? r : 0;
}

static int refused(struct zmqclient *c, const char *what, const struct zmqproto_frame *text)
{
	int len = text->len < ZMQPROTO_REASON_MAX ? (int)text->len : ZMQPROTO_REASON_MAX;
	snprintf(c->why, sizeof(c->why), "%s%.*s", what, len, (const char *)text->p);
	return ZMQCLIENT_E_REFUSED;
}

static void release(struct zmqclient *c, uint64_t seq)
{
	for (uint64_t s = c->acked + 1; s <= seq && s < c->next; s++) {
		zmq_msg_t *m = &c->ring[s % c->cap];
		zmq_msg_close(m);
		zmq_msg_init(m);
	}
	if (seq > c->acked)
		c->acked = seq;
	if (c->cursor <= c->acked)
		c->cursor = c->acked + 1;
}

static int on_ready(struct zmqclient *c, const struct zmqproto *m)
{
	c->last = m->sequence;
	c->window = m->count ? m->count : 1;
	if (m->sequence < c->acked) {
		/* it has forgotten this client, or has lost what it had acknowledged: HELLO will
		 * tell */
		if (c->ready || ++c->behind < BEHIND_MAX) {
			zmqclient_hello(c);
			return 0;
		}
		snprintf(c->why, sizeof(c->why),
		         "the daemon has messages up to %" PRIu64
		         ", though it acknowledged %" PRIu64,
		         m->sequence, c->acked);
		return ZMQCLIENT_E_REFUSED;
	}
	c->behind = 0;
	c->ready = true;
	release(c, m->sequence);
	if (c->cursor > c->acked + 1)
		c->resent += c->cursor - (c->acked + 1);
	c->cursor = c->acked + 1;
	return 0;
}

static int on_ack(struct zmqclient *c, const struct zmqproto *m)
{
	static const struct zmqproto_frame none = {"", 0};
	if (m->sequence >= c->next && m->sequence > c->acked)
		return refused(c,
		               "a message was acknowledged that was never sent: does somebody "
		               "else use this id?",
		               &none);
	release(c, m->sequence);
	if (m->kind == ZMQPROTO_NAK) {
		int len = m->text.len < ZMQPROTO_REASON_MAX ? (int)m->text.len
		                                            : ZMQPROTO_REASON_MAX - 1;
		if (!c->naks++)
			snprintf(c->nak_why, sizeof(c->nak_why), "%.*s", len,
			         (const char *)m->text.p);
		c->nak_records += m->count;
	}
	return 0;
}

static int on_answer(struct zmqclient *c, const struct zmqproto_frame *f, size_t n)
{
	struct zmqproto m;
	const char *why;
	if (zmqproto_answer(f, n, &m, &why) != ZMQPROTO_E_OK) {
		struct zmqproto_frame text = zmqproto_word(why);
		return refused(c, "the peer does not speak the protocol: ", &text);
	}
	c->heard = true;
	c->answers++;
	c->heard_at = clock_monotonic();
	c->silence = SECOND;
	if (m.kind == ZMQPROTO_READY)
		return on_ready(c, &m);
	if (m.kind == ZMQPROTO_ERROR)
		return refused(c, "refused: ", &m.text);
	return on_ack(c, &m);
}

/* Reads one answer. 0; 1: none is there; ZMQCLIENT_E_REFUSED is told by *refusal; -errno. */
static int read_one(struct zmqclient *c, int *refusal)
{
	char text[ZMQPROTO_FRAMES_MAX][ZMQPROTO_REASON_MAX];
	struct zmqproto_frame f[ZMQPROTO_FRAMES_MAX];
	int more = 1;
	size_t n = 0, more_len = sizeof(more);
	for (; more; n++) {
		size_t i = n < ZMQPROTO_FRAMES_MAX ? n : ZMQPROTO_FRAMES_MAX - 1;
		int len = zmq_recv(c->sock, text[i], sizeof(text[i]), ZMQ_DONTWAIT);
		if (len < 0)
			return errno == EAGAIN || errno == EINTR ? 1 : err_errno();
		size_t kept = (size_t)len < sizeof(text[i]) ? (size_t)len : sizeof(text[i]);
		f[i] = (struct zmqproto_frame){text[i], kept};
		if (zmq_getsockopt(c->sock, ZMQ_RCVMORE, &more, &more_len))
			return err_errno();
	}
	*refusal = on_answer(c, f, n <= ZMQPROTO_FRAMES_MAX ? n : 0);
	return 0;
}

static int read_all(struct zmqclient *c)
{
	for (;;) {
		int refusal = 0;
		int r = read_one(c, &refusal);
		if (r < 0)
			return r;
		if (r > 0 || refusal)
			return refusal;
	}
}

int zmqclient_work(struct zmqclient *c, int timeout_ms)
{
	uint64_t before = c->answers;
	int r = transmit(c);
	if (r == 0)
		r = read_all(c);
	if (r || timeout_ms == 0 || c->answers != before)
		return r ? r : transmit(c);
	bool wants_out = may_send(c) || (!c->ready && !c->hello_at);
	zmq_pollitem_t item = {.socket = c->sock,
	                       .events = (short)(ZMQ_POLLIN | (wants_out ? ZMQ_POLLOUT : 0))};
	if (zmq_poll(&item, 1, timeout_ms) < 0)
		return err_errno();
	r = read_all(c);
	return r ? r : transmit(c);
}
