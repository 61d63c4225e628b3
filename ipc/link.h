/*
 * Doorbells between workers: ZeroMQ PUSH -> PULL over ipc://, each worker binding its own PULL.
 *
 * A doorbell says "look at the ledger" and nothing else; its 16 bytes name an entry as a hint for
 * people who trace. A lost, doubled, late or stuck one harms nothing: sleepers look by themselves
 * every LINK_NET. PUSH can lose messages even on a clean close (libzmq issue 4660), which is why
 * delivery by ZeroMQ is never the evidence that a chunk moved.
 *
 * Made after the fork, in the worker only: a ZeroMQ context does not survive a fork. The endpoints
 * lie in a private directory (zmq_bind unlinks whatever is at an ipc path).
 *
 * A ZeroMQ doorbell passes two threads of libzmq before it wakes the sleeper. Where every
 * microsecond counts (a pipeline with `linger: 0`) the sleeper listens to an eventfd instead, which
 * wakes it at once. The master makes one for each worker's slot before the first fork, so all
 * workers have all of them. The sleeper says which of the two it listens to; who rings obeys.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

enum {
	LINK_NET_NS = 100000000, /* 100 ms: how long a sleeper trusts that somebody rings */
	LINK_FDS_MAX = 80,
};

/* What carries a doorbell. */
enum link_carrier {
	LINK_ZMQ,
	LINK_EVENTFD,
};

struct link_place {
	const char *dir; /* of the ZeroMQ endpoints */
	uint32_t self, workers;
	const int *eventfds;       /* by worker; they stay the caller's */
	enum link_carrier listens; /* this worker, to this */
};

struct link;

/* Makes @n eventfds, to be inherited by all workers. 0 or -errno (then there are none). */
int link_eventfds_open(int *fds, uint32_t n);
void link_eventfds_close(int *fds, uint32_t n);

/* With LINK_ZMQ, binds this worker's own endpoint, DIR/wN. 0, -ENAMETOOLONG (an ipc path has at
 * most 107 bytes), -errno. */
int link_open(struct link **l, const struct link_place *place);
struct link *link_close(struct link *l); /* returns NULL */

/* Rings worker @w, which listens to @carrier. Never blocks, never fails: see above. */
void link_ring(struct link *l, uint32_t w, enum link_carrier carrier, uint32_t entry);

/* Sleeps until a doorbell, one of @fds, or @timeout_ns (at most LINK_NET_NS). Revents are set in
 * @fds. Returns the number of ready descriptors of @fds, or -errno other than -EINTR. */
int link_wait(struct link *l, struct pollfd *fds, unsigned n, int64_t timeout_ns);

/* The same, deaf to doorbells: for a short while in which nobody was asked to ring. */
int link_nap(struct link *l, struct pollfd *fds, unsigned n, int64_t timeout_ns);
