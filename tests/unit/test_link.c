/*
 * Doorbells: whoever sleeps is woken, by either carrier, and a ring that reaches nobody harms
 * nobody.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "ipc/clock.h"
#include "ipc/link.h"

enum {
	WORKERS = 3,
	HALF_NET = LINK_NET_NS / 2,
};

struct rig {
	char dir[64];
	int fds[WORKERS];
	struct link *link[WORKERS];
};

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	strcpy(r->dir, "/tmp/test-link-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	assert_int_equal(link_eventfds_open(r->fds, WORKERS), 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	char path[320];
	for (unsigned i = 0; i < WORKERS; i++)
		r->link[i] = link_close(r->link[i]);
	link_eventfds_close(r->fds, WORKERS);
	DIR *d = opendir(r->dir);
	for (struct dirent *e; (e = readdir(d));) {
		snprintf(path, sizeof(path), "%s/%s", r->dir, e->d_name);
		unlink(path);
	}
	closedir(d);
	rmdir(r->dir);
	free(r);
	return 0;
}

static int open_worker(struct rig *r, uint32_t self, enum link_carrier listens)
{
	struct link_place place = {r->dir, self, WORKERS, r->fds, listens};
	return link_open(&r->link[self], &place);
}

/* How long worker @w sleeps, ns. */
static int64_t sleeps(struct rig *r, uint32_t w)
{
	int64_t from = clock_monotonic();
	assert_int_equal(link_wait(r->link[w], NULL, 0, LINK_NET_NS), 0);
	return clock_monotonic() - from;
}

/* Of this process: libzmq's come to the one that is its own. */
static unsigned threads(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/task");
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* A ring that came while nobody slept ends the next sleep; then there is nothing left. */
static void rings(struct rig *r, enum link_carrier carrier)
{
	assert_int_equal(open_worker(r, 0, LINK_EVENTFD), 0);
	assert_int_equal(open_worker(r, 1, carrier), 0);
	for (unsigned i = 0; i < 20; i++) {
		link_ring(r->link[0], 1, carrier, i);
		/* the first ring by ZeroMQ waits for the connection; the net is longer than that */
		assert_true(sleeps(r, 1) < LINK_NET_NS);
	}
	assert_true(sleeps(r, 1) >= LINK_NET_NS);
}

static void test_zmq(void **state)
{
	rings(*state, LINK_ZMQ);
}

static void test_eventfd(void **state)
{
	rings(*state, LINK_EVENTFD);
}

/* Who rings is another process, as it is in the daemon. */
static void test_from_a_child(void **state)
{
	struct rig *r = *state;
	assert_int_equal(open_worker(r, 1, LINK_EVENTFD), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (open_worker(r, 2, LINK_EVENTFD) != 0)
			_exit(1);
		link_ring(r->link[2], 1, LINK_EVENTFD, 0);
		_exit(0);
	}
	int status = -1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(sleeps(r, 1) < HALF_NET);
}

/* Many rings are one, and they do not pile up. */
static void test_many(void **state)
{
	struct rig *r = *state;
	assert_int_equal(open_worker(r, 0, LINK_EVENTFD), 0);
	assert_int_equal(open_worker(r, 1, LINK_EVENTFD), 0);
	for (unsigned i = 0; i < 10000; i++)
		link_ring(r->link[0], 1, LINK_EVENTFD, i);
	assert_true(sleeps(r, 1) < HALF_NET);
	assert_true(sleeps(r, 1) >= LINK_NET_NS);
}

static void test_nobody_there(void **state)
{
	struct rig *r = *state;
	assert_int_equal(open_worker(r, 0, LINK_EVENTFD), 0);
	for (unsigned i = 0; i < 1000; i++) {
		link_ring(r->link[0], 1, LINK_ZMQ, i);
		link_ring(r->link[0], 2, LINK_EVENTFD, i);
		link_ring(r->link[0], WORKERS, LINK_ZMQ, i);
	}
	/* who comes later finds an old ring, looks, and sleeps on */
	assert_int_equal(open_worker(r, 2, LINK_EVENTFD), 0);
	sleeps(r, 2);
	assert_true(sleeps(r, 2) >= LINK_NET_NS);
}

/* libzmq's threads come with the first need for them. */
static void test_threads(void **state)
{
	struct rig *r = *state;
	assert_int_equal(open_worker(r, 0, LINK_EVENTFD), 0);
	link_ring(r->link[0], 2, LINK_EVENTFD, 0);
	assert_int_equal(threads(), 1);
	assert_int_equal(open_worker(r, 1, LINK_ZMQ), 0);
	assert_true(threads() > 1);
}

/* Other descriptors wake, too; a nap is deaf to doorbells. */
static void test_others(void **state)
{
	struct rig *r = *state;
	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(open_worker(r, 0, LINK_EVENTFD), 0);
	struct pollfd fd = {.fd = pipes[0], .events = POLLIN};
	assert_int_equal(write(pipes[1], "x", 1), 1);
	assert_int_equal(link_wait(r->link[0], &fd, 1, LINK_NET_NS), 1);
	assert_int_equal(fd.revents, POLLIN);
	fd.fd = -1;
	link_ring(r->link[0], 0, LINK_EVENTFD, 0);
	int64_t from = clock_monotonic();
	assert_int_equal(link_nap(r->link[0], &fd, 1, 5000000), 0);
	assert_true(clock_monotonic() - from >= 5000000);
	assert_true(sleeps(r, 0) < HALF_NET);
	close(pipes[0]);
	close(pipes[1]);
}

static void test_long_path(void **state)
{
	struct rig *r = *state;
	char dir[120];
	memset(dir, 'x', sizeof(dir));
	dir[0] = '/';
	dir[105] = 0; /* with "/w0" one byte too long */
	struct link_place place = {dir, 0, WORKERS, r->fds, LINK_ZMQ};
	assert_int_equal(link_open(&r->link[0], &place), -ENAMETOOLONG);
	assert_null(r->link[0]);
}

#define RIGGED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        RIGGED(test_zmq),    RIGGED(test_eventfd),   RIGGED(test_from_a_child),
	        RIGGED(test_many),   RIGGED(test_threads),   RIGGED(test_nobody_there),
	        RIGGED(test_others), RIGGED(test_long_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
