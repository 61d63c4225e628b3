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
 */
#pragma once

#include <poll.h>
#include <stdint.h>

enum {
	LINK_NET_NS = 100000000, /* 100 ms: how long a sleeper trusts that somebody rings */
	LINK_FDS_MAX = 80,
};

struct link;

/* Binds worker @self's own endpoint, DIR/wN. 0, -ENAMETOOLONG (an ipc path has at most 107 bytes),
 * -errno. */
int link_open(struct link **l, const char *dir, uint32_t self, uint32_t workers);
struct link *link_close(struct link *l); /* returns NULL */

/* Rings worker @w. Never blocks, never fails: see above. */
void link_ring(struct link *l, uint32_t w, uint32_t entry, uint32_t gen);

/* Sleeps until a doorbell, one of @fds, or @timeout_ns (at most LINK_NET_NS). Revents are set in
 * @fds. Returns the number of ready descriptors of @fds, or -errno other than -EINTR. */
int link_wait(struct link *l, struct pollfd *fds, unsigned n, int64_t timeout_ns);

/* The same, deaf to doorbells: for a short while in which nobody was asked to ring. */
int link_nap(struct link *l, struct pollfd *fds, unsigned n, int64_t timeout_ns);
