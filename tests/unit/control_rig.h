/*
 * A control socket of a master made by hand, and its clients. One thread: the test is the client
 * and turns the event loop while it waits, so nothing depends on timing.
 */
#pragma once

#include "master_rig.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#include "daemon/control_parts.h"
#include "daemon/doc.h"

enum {
	PATIENCE_S = 20,
};

static char dir[64];
static char path[96];

static inline double seconds(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Lets the daemon work once, for at most 10 ms. */
static inline void turn(struct rig *r)
{
	assert_true(sd_event_run(r->m.event, 10000) >= 0);
}

#define TURN_UNTIL(r, condition)        \
 do {                                   \
  double end_ = seconds() + PATIENCE_S; \
  while (!(condition)) {                \
   assert_true(seconds() < end_);       \
   turn(r);                             \
  }                                     \
 } while (0)

static inline int client(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static inline void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* The next line, without its newline; NULL: the daemon has ended the connection. Static. */
static inline const char *answer(struct rig *r, int fd)
{
	static char line[1 << 20];
	size_t n = 0;
	double end = seconds() + PATIENCE_S;
	while (seconds() < end) {
		ssize_t got = recv(fd, line + n, 1, 0);
		if (got == 0 || (got < 0 && errno == ECONNRESET))
			return NULL;
		if (got < 0) {
			turn(r);
			continue;
		}
		if (line[n] == '\n') {
			line[n] = '\0';
			return line;
		}
		assert_true(++n < sizeof(line));
	}
	fail_msg("no answer");
	return NULL;
}

/* The member @key of the next answer, as text ("" when it is none). Static. */
static inline const char *answer_text(struct rig *r, int fd, const char *key)
{
	static char text[2048];
	struct buf store = {0};
	struct doc d;
	const char *line = answer(r, fd);
	assert_non_null(line);
	if (doc_parse(&store, line, strlen(line), &d) != 0)
		fail_msg("no JSON: %s", line);
	doc_copy(doc_at(d, key), text, sizeof(text));
	buf_deinit(&store);
	return text;
}

static inline void assert_refused(struct rig *r, int fd, const char *why)
{
	const char *text = answer_text(r, fd, "error");
	if (!strstr(text, why))
		fail_msg("expected a refusal with \"%s\", got \"%s\"", why, text);
}

static inline void tapped(struct rig *r, unsigned stage, const char *json)
{
	control_tapped(&r->m, rig_slot(r, stage, 0), json, strlen(json));
}

static inline int control_setup(void **state)
{
	struct rig *r = rig_new();
	r->cfg.control_socket = path;
	r->cfg.control_mode = 0640;
	assert_true(sd_event_new(&r->m.event) >= 0);
	assert_int_equal(control_open(&r->m), 0);
	*state = r;
	return 0;
}

static inline int control_teardown(void **state)
{
	struct rig *r = *state;
	control_close(&r->m);
	sd_event_unref(r->m.event);
	rig_free(r);
	return 0;
}

static inline int control_begin(void)
{
	snprintf(dir, sizeof(dir), "/tmp/sluice-test-control-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/control.sock", dir);
	return 0;
}

static inline int control_end(int failed)
{
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) == 0 ? failed : 1;
}

#define WITH_CONTROL(f) cmocka_unit_test_setup_teardown(f, control_setup, control_teardown)

/* Runs the tests with a directory for the sockets. */
#define RUN_WITH_CONTROL(tests) \
 (control_begin() ? 1 : control_end(cmocka_run_group_tests(tests, NULL, NULL)))
