/*
 * Taps through the control socket: several at once, slow ones, ones that leave, records that are
 * none, and the daemon's end.
 */
#include "control_rig.h"

static void taps(void **state)
{
	struct rig *r = *state;
	int a = client(), b = client();
	say(a, "tap mid -n 2\n");
	TURN_UNTIL(r, strcmp(r->called, "tap mid 2") == 0);
	say(b, "tap mid 3\n");
	TURN_UNTIL(r, strcmp(r->called, "tap mid 3") == 0); /* the most that somebody wants */
	tapped(r, RIG_MID, "{\"n\":1}\n");
	tapped(r, RIG_IN, "{\"n\":100}"); /* another stage's */
	tapped(r, RIG_MID, "{\"n\":2}");
	tapped(r, RIG_MID, "{\"n\":3}");
	assert_string_equal(answer(r, a), "{\"n\":1}");
	assert_string_equal(answer(r, a), "{\"n\":2}");
	assert_string_equal(answer(r, a), "{\"tapped\":2,\"missed\":0,\"end\":true}");
	assert_string_equal(answer(r, b), "{\"n\":1}");
	assert_string_equal(answer(r, b), "{\"n\":2}");
	assert_string_equal(answer(r, b), "{\"n\":3}");
	assert_string_equal(answer(r, b), "{\"tapped\":3,\"missed\":0,\"end\":true}");
	assert_string_equal(r->called, "tap mid 0"); /* nobody wants more */
	say(a, "tap mid\n");
	TURN_UNTIL(r, strcmp(r->called, "tap mid 10") == 0);
	tapped(r, RIG_MID, "{\"n\":4}");
	say(a, "status\n"); /* another request ends the tap */
	assert_string_equal(answer(r, a), "{\"n\":4}");
	assert_string_equal(answer(r, a), "{\"tapped\":1,\"missed\":0,\"end\":true}");
	assert_string_equal(answer_text(r, a, "state"), "running");
	say(a, "tap mid -n 0\n");
	assert_refused(r, a, "expected tap");
	r->answer = 1;
	r->why = "not of a consumer";
	say(a, "tap out\n");
	assert_refused(r, a, "not of a consumer");
	close(a);
	close(b);
}

static void what_is_no_record_is_not_passed_on(void **state)
{
	struct rig *r = *state;
	const char *const bad[] = {
	        "", "{", "\n\n", "[1]", "{}\n{}", "{\"a\":\"\033\"}", "{\"a\":\"\xff\"}", "x{}"};
	int fd = client();
	say(fd, "tap mid -n 1\n");
	TURN_UNTIL(r, strcmp(r->called, "tap mid 1") == 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		tapped(r, RIG_MID, bad[i]);
	control_tapped(&r->m, 4000000, "{}", 2);
	tapped(r, RIG_MID, "{}");
	assert_string_equal(answer(r, fd), "{}");
	close(fd);
}

/* A client that taps and leaves takes its wish back; one that half-closes gets all and the end. */
static void taps_and_leaving(void **state)
{
	struct rig *r = *state;
	int fd = client();
	say(fd, "tap mid -n 5\n");
	TURN_UNTIL(r, strcmp(r->called, "tap mid 5") == 0);
	close(fd);
	TURN_UNTIL(r, strcmp(r->called, "tap mid 0") == 0);
	assert_int_equal(r->m.control->n_clients, 0);
	fd = client();
	say(fd, "tap mid -n 1\n");
	shutdown(fd, SHUT_WR);
	TURN_UNTIL(r, strcmp(r->called, "tap mid 1") == 0);
	turn(r);
	tapped(r, RIG_MID, "{\"n\":1}");
	assert_string_equal(answer(r, fd), "{\"n\":1}");
	assert_non_null(strstr(answer(r, fd), "\"end\":true"));
	assert_null(answer(r, fd));
	close(fd);
}

/* A tapping client that does not read: what it may pile up is bounded, the rest is missed and
 * counted. */
static void a_slow_tap_is_bounded(void **state)
{
	struct rig *r = *state;
	enum { N = 4000, SIZE = 1000 };
	static char record[SIZE + 1];
	int fd = client();
	memset(record, 'x', SIZE);
	memcpy(record, "{\"a\":\"", 6);
	memcpy(record + SIZE - 2, "\"}", 3);
	say(fd, "tap mid -n 1000000\n");
	TURN_UNTIL(r, strcmp(r->called, "tap mid 1000000") == 0);
	for (unsigned i = 0; i < N; i++)
		tapped(r, RIG_MID, record);
	struct client *c = r->m.control->clients[0];
	assert_true(c->tap_missed > 0);
	assert_true(c->out.len - c->sent <= CONTROL_PENDING_MAX);
	assert_int_equal(c->tapped + c->tap_missed, N);
	assert_true(c->out.cap <= 4 * CONTROL_PENDING_MAX);
	unsigned missed = (unsigned)c->tap_missed, got = c->tapped;
	for (unsigned i = 0; i < got; i++)
		assert_string_equal(answer(r, fd), record);
	say(fd, "status\n");
	char want[128];
	snprintf(want, sizeof(want), "{\"tapped\":%u,\"missed\":%u,\"end\":true}", got, missed);
	assert_string_equal(answer(r, fd), want);
	close(fd);
}

static void ends_taps_when_the_daemon_stops(void **state)
{
	struct rig *r = *state;
	int fd = client();
	say(fd, "tap mid -n 5\n");
	TURN_UNTIL(r, strcmp(r->called, "tap mid 5") == 0);
	control_close(&r->m);
	assert_non_null(strstr(answer(r, fd), "\"end\":true"));
	assert_null(answer(r, fd));
	close(fd);
	assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        WITH_CONTROL(taps),
	        WITH_CONTROL(what_is_no_record_is_not_passed_on),
	        WITH_CONTROL(taps_and_leaving),
	        WITH_CONTROL(a_slow_tap_is_bounded),
	        WITH_CONTROL(ends_taps_when_the_daemon_stops),
	};
	return RUN_WITH_CONTROL(tests);
}
