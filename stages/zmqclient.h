/*
 * The client's side of the acknowledged protocol (zmqproto.h): the dealer consumer's and `sluicectl
 * send`'s.
 *
 * Messages are numbered as they are submitted and kept until they are acknowledged; so whatever
 * happens to the connection or the daemon, they can be sent again from any place the daemon names
 * in READY. The caller owns the DEALER socket, which should be ZMQ_IMMEDIATE: then nothing goes out
 * that nobody is there to take.
 *
 * HELLO names the lowest sequence not acknowledged. It is repeated when nothing is heard while
 * something is awaited: after one second, then two, at most every five.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <zmq.h>

#include "stages/zmqproto.h"

enum zmqclient_error {
	ZMQCLIENT_E_OK,
	ZMQCLIENT_E_REFUSED, /* the daemon will not have it, or speaks another language: client->why
	                      */
};

struct zmqclient {
	void *sock;
	zmq_msg_t *ring; /* message s is at s % cap */
	uint64_t cap;
	uint64_t next;                       /* sequence of the next message submitted */
	uint64_t acked;                      /* everything up to here is acknowledged */
	uint64_t cursor;                     /* next sequence to transmit */
	uint64_t window;                     /* of the last READY */
	uint64_t last;                       /* what the last READY said */
	bool ready;                          /* READY came for the last HELLO */
	bool heard;                          /* anything, ever */
	int64_t heard_at, hello_at, silence; /* CLOCK_MONOTONIC, ns */
	unsigned behind;                     /* READYs in a row below what was acknowledged */
	uint64_t answers;                    /* received */
	uint64_t naks, nak_records, resent;
	char nak_why[ZMQPROTO_REASON_MAX]; /* of the first one */
	char why[ZMQPROTO_REASON_MAX + 64];
};

/* @cap: messages kept at most; @next: sequence of the first one. 0 or -ENOMEM. */
int zmqclient_init(struct zmqclient *c, void *sock, uint64_t cap, uint64_t next);
void zmqclient_deinit(struct zmqclient *c);

/* Whether one more message can be submitted. */
bool zmqclient_room(const struct zmqclient *c);

/* Takes over @m's content (there must be room) and returns its sequence. One that a former run's
 * acknowledgements cover already is dropped. */
uint64_t zmqclient_submit(struct zmqclient *c, zmq_msg_t *m);

/* Sends what may be sent and reads what has come; when nothing has, waits for it at most
 * @timeout_ms. 0, ZMQCLIENT_E_REFUSED, -errno (-EINTR: a signal came). */
int zmqclient_work(struct zmqclient *c, int timeout_ms);

/* Asks where the daemon stands: HELLO goes out with the next work, `ready` is false until it is
 * answered. */
void zmqclient_hello(struct zmqclient *c);
