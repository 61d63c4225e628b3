/*
 * ring, wait, drain: all that the rest of the program knows of doorbells.
 *
 * Waiting is a plain ppoll, because zmq_poll counts in milliseconds: on the eventfd, or on the
 * PULL's ZMQ_FD. That one is edge-triggered: it is only armed after a receive has said EAGAIN, so
 * link_wait drains after each wake-up, and before the first.
 *
 * Who listens to an eventfd has no ZeroMQ context, and so none of its threads, until it first rings
 * somebody who listens to ZeroMQ.
 */
#include "ipc/link.h"

#include <pthread.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "ipc/err.h"
#include "ipc/log.h"

struct link {
	struct link_place place;
	char dir[108];
	void *ctx;
	void *pull;  /* NULL: listens to its eventfd */
	int fd;      /* of pull, or the eventfd */
	bool armed;  /* nothing was there when it was last looked at */
	void **push; /* by worker; made on the first ring */
};

static int set_int(void *socket, int option, int value)
{
	return zmq_setsockopt(socket, option, &value, sizeof(value)) < 0 ? err_errno() : 0;
}

/* HWM 0: a doorbell must never block; at most one is under way to a sleeper, so nothing piles up.
 */
static void *make_socket(struct link *l, int type)
{
	if (!l->ctx)
		l->ctx = zmq_ctx_new();
	void *s = l->ctx ? zmq_socket(l->ctx, type) : NULL;
	if (!s)
		return NULL;
	set_int(s, ZMQ_LINGER, 0);
	set_int(s, ZMQ_SNDHWM, 0);
	set_int(s, ZMQ_RCVHWM, 0);
	set_int(s, ZMQ_RECONNECT_IVL, 5);
	set_int(s, ZMQ_RECONNECT_IVL_MAX, 10);
	return s;
}

static int endpoint(const struct link *l, uint32_t w, char *out, size_t size)
{
	int n = snprintf(out, size, "ipc://%s/w%u", l->dir, w);
	return n - 6 > 107 ? -ENAMETOOLONG : 0;
}

static int bind_own(struct link *l)
{
	char at[160];
	size_t len = sizeof(l->fd);
	int r = endpoint(l, l->place.self, at, sizeof(at));
	if (r < 0)
		return r;
	l->pull = make_socket(l, ZMQ_PULL);
	if (!l->pull || zmq_bind(l->pull, at) < 0 ||
	    zmq_getsockopt(l->pull, ZMQ_FD, &l->fd, &len) < 0) {
		r = err_errno();
		log_error("cannot bind doorbell %s: %s", at, strerror(-r));
		return r;
	}
	return 0;
}

void link_eventfds_close(int *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		close(fds[i]);
}

int link_eventfds_open(int *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (fds[i] < 0) {
			int r = err_errno();
			link_eventfds_close(fds, i);
			return r;
		}
	}
	return 0;
}

int link_open(struct link **out, const struct link_place *place)
{
	if (strlen(place->dir) >= sizeof(((struct link *)0)->dir))
		return -ENAMETOOLONG;
	struct link *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->place = *place;
	snprintf(l->dir, sizeof(l->dir), "%s", place->dir);
	l->push = calloc(place->workers, sizeof(*l->push));
	int r = l->push ? 0 : -ENOMEM;
	if (place->listens == LINK_EVENTFD)
		l->fd = place->eventfds[place->self];
	else if (r == 0)
		r = bind_own(l);
	if (r < 0) {
		link_close(l);
		return r;
	}
	*out = l;
	return 0;
}

struct link *link_close(struct link *l)
{
	if (!l)
		return NULL;
	for (uint32_t i = 0; l->push && i < l->place.workers; i++)
		if (l->push[i])
			zmq_close(l->push[i]);
	if (l->pull)
		zmq_close(l->pull);
	if (l->ctx)
		zmq_ctx_term(l->ctx);
	free(l->push);
	free(l);
	return NULL;
}

/* Connected on the first ring. NULL: it cannot be reached. */
static void *push_to(struct link *l, uint32_t w)
{
	char at[160];
	if (l->push[w])
		return l->push[w];
	void *s = make_socket(l, ZMQ_PUSH);
	if (!s)
		return NULL;
	if (endpoint(l, w, at, sizeof(at)) < 0 || zmq_connect(s, at) < 0) {
		zmq_close(s);
		return NULL;
	}
	return l->push[w] = s;
}

void link_ring(struct link *l, uint32_t w, enum link_carrier carrier, uint32_t entry)
{
	const uint64_t one = 1;
	const uint32_t hint[4] = {entry, 0, l->place.self, 0};
	if (w >= l->place.workers)
		return;
	if (carrier == LINK_EVENTFD) {
		(void)!write(l->place.eventfds[w], &one, sizeof(one)); /* full: it rings already */
		return;
	}
	void *push = push_to(l, w);
	if (push)
		zmq_send(push, hint, sizeof(hint), ZMQ_DONTWAIT);
}

static bool drain(struct link *l)
{
	char hint[64];
	uint64_t n;
	bool any = false;
	if (!l->pull) {
		l->armed = true; /* level-triggered */
		return read(l->fd, &n, sizeof(n)) > 0;
	}
	while (zmq_recv(l->pull, hint, sizeof(hint), ZMQ_DONTWAIT) >= 0)
		any = true;
	l->armed = errno == EAGAIN;
	return any;
}

static int wait_for(struct pollfd *fds, unsigned n, int64_t ns)
{
	struct timespec ts = {ns / 1000000000, ns % 1000000000};
	int r = ppoll(fds, n, &ts, NULL);
	return r < 0 && errno != EINTR ? err_errno() : r < 0 ? 0 : r;
}

int link_nap(struct link *l, struct pollfd *fds, unsigned n, int64_t timeout_ns)
{
	(void)l;
	return wait_for(fds, n, timeout_ns);
}

int link_wait(struct link *l, struct pollfd *fds, unsigned n, int64_t timeout_ns)
{
	struct pollfd all[LINK_FDS_MAX];
	if (n > LINK_FDS_MAX - 1)
		n = LINK_FDS_MAX - 1;
	if (!l->armed && drain(l))
		timeout_ns = 0;
	if (timeout_ns > LINK_NET_NS)
		timeout_ns = LINK_NET_NS;
	all[0] = (struct pollfd){.fd = l->fd, .events = POLLIN};
	if (n)
		memcpy(all + 1, fds, n * sizeof(*fds));
	int r = wait_for(all, n + 1, timeout_ns);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < n; i++)
		fds[i].revents = r > 0 ? all[i + 1].revents : 0;
	if (r > 0 && all[0].revents) {
		drain(l);
		r--;
	}
	return r;
}

/* libzmq sets the scheduling of each of its threads to what it is anyway, and aborts where a
 * sandbox refuses the call (as the unit's SystemCallFilter does). It finds this one first; nobody
 * here asks for another scheduling. */
__attribute__((visibility("default"))) int pthread_setschedparam(pthread_t thread, int policy,
                                                                 const struct sched_param *param)
{
	(void)thread;
	(void)policy;
	(void)param;
	return 0;
}
