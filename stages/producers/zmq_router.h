/*
 * The acknowledged way in: the daemon's side of the protocol in zmqproto.h.
 *
 * The one hard idea: what a client was told and what is stored must never disagree, whenever this
 * process is killed. So a client's last sequence is part of the position (zmq_clients.h), which is
 * committed with the very records it counts; a message that was cut in two by a commit stands there
 * as "n of its records are in", and when it comes again its first n are decoded into nothing. ACKs
 * wait in a queue until the host says that the commit they belong to is stored.
 *
 * After a restart the clients that are known are told READY as soon as they are back, for some
 * seconds; a client need not wait out its silence.
 *
 * READY speaks for everything up to a sequence, so it is only sent when all that was taken of this
 * client is acknowledged; until then it is owed. A client whose repeats arrive meanwhile loses
 * nothing: they are known by number and dropped.
 *
 * Limits: a NAK is told once, and not after a restart (the dead letters are there all the same). A
 * client must repeat a message with the same content; another content under an old number is not
 * noticed. Two clients that use one routing id at once take the connection from each other.
 */
#pragma once

#include "stages/zmqsock.h"

struct router_config {
	bool delivered;  /* acknowledge when delivered, not when stored */
	bool keys;       /* CURVE: an id belongs to a key */
	uint64_t window; /* unacknowledged messages a client */
	unsigned max_clients;
};

struct router;

/* 0 or -errno. The socket is borrowed. */
int router_open(struct router **router, struct stage *st, struct zmqsock *sock,
                const struct router_config *cfg);
struct router *router_close(struct router *router); /* returns NULL */

/* Takes one whole message; @first is its first frame, received already, the others are fetched.
 * *@bytes: of all frames. 0 or -errno. */
int router_take(struct router *router, zmq_msg_t *first, size_t *bytes);

/* Sends what may be said now: ACK and NAK of what is stored, READY and ACK that were owed. 0 or
 * -errno. */
int router_answer(struct router *router);

/* When router_answer is to be called though nothing happens: CLOCK_MONOTONIC ns, 0: need not. */
int64_t router_deadline(const struct router *router);
