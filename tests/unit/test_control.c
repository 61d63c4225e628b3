/*
 * The control socket with clients as they come: garbage, long lines, slow ones, too many,
 * half-closed ones; reloads; who may change what; the socket file of a dead daemon. Taps are
 * test_control_tap's.
 */
#include "control_rig.h"

/* ---- requests ---- */

static void answers_questions(void **state)
{
	struct rig *r = *state;
	int fd = client();
	say(fd, "status\n");
	assert_string_equal(answer_text(r, fd, "state"), "running");
	say(fd, "  workers \t\r\nstats\nstats --samples\naudit\n"); /* several at once */
	assert_non_null(strstr(answer(r, fd), "\"workers\":["));
	assert_non_null(strstr(answer(r, fd), "\"stages\":{"));
	assert_non_null(strstr(answer(r, fd), "\"samples\":["));
	assert_non_null(strstr(answer(r, fd), "\"balanced\":true"));
	say(fd, "graph\n");
	assert_non_null(strstr(answer_text(r, fd, "dot"), "digraph"));
	close(fd);
	TURN_UNTIL(r, r->m.control->n_clients == 0);
}

static void refuses_nonsense(void **state)
{
	struct rig *r = *state;
	int fd = client();
	say(fd, "\n");
	assert_refused(r, fd, "empty");
	say(fd, "workrs\n");
	assert_refused(r, fd, "did you mean \"workers\"");
	say(fd, "status too many\n");
	assert_refused(r, fd, "expected status");
	say(fd, "pause\n");
	assert_refused(r, fd, "expected pause STAGE");
	say(fd, "pause nobody\n");
	assert_refused(r, fd, "no stage \"nobody\"");
	say(fd, "scale mid 0\n");
	assert_refused(r, fd, "number of workers");
	say(fd, "scale mid 12x\n");
	assert_refused(r, fd, "number of workers");
	say(fd, "a b c d e f g h i j k l m n o p q r s t u\n");
	assert_refused(r, fd, "16 words");
	say(fd, "check\n");
	assert_refused(r, fd, "sluicectl itself");
	say(fd, "st\033[2Jatus\n");
	assert_refused(r, fd, "control characters");
	assert_int_equal(send(fd, "st\0tus\n", 7, 0), 7);
	assert_refused(r, fd, "control characters");
	say(fd, "\xff\xfe\n");
	assert_refused(r, fd, "unknown command");
	assert_string_equal(r->called, "");
	say(fd, "status\n"); /* and it still answers */
	assert_string_equal(answer_text(r, fd, "state"), "running");
	close(fd);
}

static void long_lines(void **state)
{
	struct rig *r = *state;
	static char line[COMMAND_LINE_MAX + 100];
	int fd = client();
	memset(line, ' ', sizeof(line));
	memcpy(line, "status", 6);
	line[COMMAND_LINE_MAX] = '\n'; /* the longest that is taken */
	assert_int_equal(send(fd, line, COMMAND_LINE_MAX + 1, 0), COMMAND_LINE_MAX + 1);
	assert_string_equal(answer_text(r, fd, "state"), "running");
	line[COMMAND_LINE_MAX] = ' ';
	assert_int_equal(send(fd, line, sizeof(line), 0), (ssize_t)sizeof(line));
	assert_refused(r, fd, "too long");
	assert_null(answer(r, fd));
	close(fd);
	TURN_UNTIL(r, r->m.control->n_clients == 0);
}

/* Requests byte by byte, one without a newline before its end, and one that ends at once. */
static void pieces_and_ends(void **state)
{
	struct rig *r = *state;
	int fd = client();
	for (const char *p = "status"; *p; p++) {
		assert_int_equal(send(fd, p, 1, 0), 1);
		turn(r);
	}
	shutdown(fd, SHUT_WR);
	assert_string_equal(answer_text(r, fd, "state"), "running");
	assert_null(answer(r, fd));
	close(fd);
	fd = client();
	close(fd);
	TURN_UNTIL(r, r->m.control->n_clients == 0);
}

/* ---- changing ---- */

static void changes_are_passed_on(void **state)
{
	struct rig *r = *state;
	static const struct {
		const char *request, *called, *key, *value;
	} cases[] = {
	        {"pause mid\n", "pause mid", "paused", "mid"},
	        {"resume mid\n", "resume mid", "resumed", "mid"},
	        {"drain\n", "drain", "draining", ""},
	        {"drain --flush\n", "drain --flush", "draining", ""},
	        {"restart out\n", "restart out", "restarted", "out"},
	        {"scale mid 3\n", "scale mid 3", "scaled", "mid"},
	};
	int fd = client();
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		r->answer = 0;
		r->why = NULL;
		say(fd, cases[i].request);
		const char *line = answer(r, fd);
		assert_non_null(line);
		if (!strstr(line, cases[i].key) || !strstr(line, cases[i].value))
			fail_msg("%s: %s", cases[i].request, line);
		assert_string_equal(r->called, cases[i].called);
		r->answer = 1;
		r->why = "the moon is full";
		say(fd, cases[i].request);
		assert_refused(r, fd, "the moon is full");
		r->answer = -ENOMEM;
		r->why = NULL;
		say(fd, cases[i].request);
		assert_refused(r, fd, strerror(ENOMEM));
	}
	close(fd);
}

static void only_root_and_the_daemons_user_change(void **state)
{
	(void)state;
	unsigned readers = 0, changers = 0;
	for (unsigned i = 0; i < COMMAND_COUNT; i++) {
		const struct command *c = &command_all[i];
		assert_null(command_refusal(c, 0, 500));
		assert_null(command_refusal(c, 500, 500));
		const char *why = command_refusal(c, 501, 500);
		if (c->who == COMMAND_WHO_CHANGE)
			assert_non_null(why);
		else
			assert_null(why);
		readers += c->who == COMMAND_WHO_READ;
		changers += c->who == COMMAND_WHO_CHANGE;
	}
	assert_true(readers > 0 && changers > 0);
	assert_non_null(command_refusal(&command_all[COMMAND_pause], (uid_t)-1, 500));
	static const enum command_id must[] = {COMMAND_pause,  COMMAND_resume,  COMMAND_drain,
	                                       COMMAND_reload, COMMAND_restart, COMMAND_scale,
	                                       COMMAND_reopen};
	for (size_t i = 0; i < sizeof(must) / sizeof(*must); i++)
		assert_int_equal(command_all[must[i]].who, COMMAND_WHO_CHANGE);
}

/* The same through the socket: the client's credentials are looked at, not what it says. */
static void a_strangers_change_does_not_arrive(void **state)
{
	struct rig *r = *state;
	int fd = client();
	say(fd, "status\n");
	answer(r, fd);
	r->m.control->clients[0]->uid = geteuid() + 12345;
	say(fd, "pause mid\n");
	if (geteuid() == 0 || geteuid() + 12345 != 0)
		assert_refused(r, fd, "only root");
	assert_string_equal(r->called, "");
	say(fd, "status\n");
	assert_string_equal(answer_text(r, fd, "state"), "running");
	close(fd);
}

static void a_reload_answers_at_its_end(void **state)
{
	struct rig *r = *state;
	char byte;
	int fd = client(), other = client();
	say(fd, "reload --discard a->b\nstatus\n");
	TURN_UNTIL(r, strcmp(r->called, "reload a->b") == 0);
	say(other, "status\n"); /* others are served meanwhile */
	assert_string_equal(answer_text(r, other, "state"), "running");
	assert_true(recv(fd, &byte, 1, 0) < 0);
	control_reloaded(&r->m, NULL);
	assert_non_null(strstr(answer(r, fd), "\"reloaded\":true"));
	assert_string_equal(answer_text(r, fd, "state"), "running"); /* what was asked behind it */
	say(fd, "reload\n");
	TURN_UNTIL(r, strcmp(r->called, "reload -") == 0);
	control_reloaded(&r->m, "x.yaml:1:1: expected a map");
	assert_refused(r, fd, "x.yaml:1:1");
	r->answer = 1;
	r->why = "another reload is under way";
	say(fd, "reload\n");
	assert_refused(r, fd, "under way");
	assert_int_equal(r->reopened, 3);
	say(fd, "reopen\n");
	assert_non_null(strstr(answer(r, fd), "\"reopened\":true"));
	assert_int_equal(r->reopened, 4);
	say(fd, "reload --discard\n");
	assert_refused(r, fd, "expected reload");
	close(fd);
	close(other);
}

/* A client that leaves while its reload is under way. */
static void a_reload_without_its_client(void **state)
{
	struct rig *r = *state;
	int fd = client();
	say(fd, "reload\n");
	TURN_UNTIL(r, strcmp(r->called, "reload -") == 0);
	close(fd);
	TURN_UNTIL(r, r->m.control->n_clients == 0);
	control_reloaded(&r->m, NULL);
}

/* ---- clients that try the daemon's patience ---- */

/* Asks and asks and reads nothing: it is not read further, and others are served. */
static void a_client_that_never_reads(void **state)
{
	struct rig *r = *state;
	int slow = client(), other = client();
	double end = seconds() + PATIENCE_S;
	unsigned refused = 0;
	r->m.n_samples = SAMPLES; /* long answers */
	for (unsigned i = 0; i < 250; i++)
		say(slow, "stats --samples\n"); /* all of it fits one read */
	while (refused < 50) {
		assert_true(seconds() < end);
		if (send(slow, "stats --samples\n", 16, MSG_NOSIGNAL) == 16)
			refused = 0;
		else
			refused++; /* its own buffers are full: the daemon does not read it any more
			            */
		turn(r);
	}
	for (unsigned i = 0; i < r->m.control->n_clients; i++) /* a few answers, not 250 */
		assert_true(r->m.control->clients[i]->out.cap <= CONTROL_PENDING_MAX / 8);
	say(other, "status\n");
	assert_string_equal(answer_text(r, other, "state"), "running");
	for (unsigned i = 0; i < 20; i++) /* and when it reads at last, all is there */
		assert_non_null(strstr(answer(r, slow), "\"samples\":["));
	close(slow);
	close(other);
	TURN_UNTIL(r, r->m.control->n_clients == 0);
}

static void too_many(void **state)
{
	struct rig *r = *state;
	int fds[CONTROL_CLIENTS_MAX + 36];
	enum { N = sizeof(fds) / sizeof(*fds) };
	unsigned refused = 0;
	for (unsigned i = 0; i < N; i++) {
		fds[i] = client();
		TURN_UNTIL(r, r->m.control->n_clients + r->m.control->refused == i + 1);
	}
	assert_int_equal(r->m.control->n_clients, CONTROL_CLIENTS_MAX);
	for (unsigned i = CONTROL_CLIENTS_MAX; i < N; i++) {
		assert_refused(r, fds[i], "too many clients");
		assert_null(answer(r, fds[i]));
		refused++;
	}
	assert_int_equal(refused, 36);
	say(fds[0], "status\n");
	assert_string_equal(answer_text(r, fds[0], "state"), "running");
	for (unsigned i = 0; i < N; i++)
		close(fds[i]);
	TURN_UNTIL(r, r->m.control->n_clients == 0);
	int fd = client(); /* there is room again */
	say(fd, "status\n");
	assert_string_equal(answer_text(r, fd, "state"), "running");
	close(fd);
}

/* Silence is limited, but not for those who wait for the daemon. */
static void silence(void **state)
{
	struct rig *r = *state;
	r->m.control->idle_us_for_tests = 50000;
	int tap = client(), quiet = client();
	say(tap, "tap mid -n 1\n");
	TURN_UNTIL(r, strcmp(r->called, "tap mid 1") == 0);
	assert_null(answer(r, quiet));
	assert_int_equal(r->m.control->dropped, 1);
	TURN_UNTIL(r, r->m.control->n_clients == 1);
	double later = seconds() + 0.2; /* several limits */
	TURN_UNTIL(r, seconds() > later);
	tapped(r, RIG_MID, "{\"n\":1}");
	assert_string_equal(answer(r, tap), "{\"n\":1}");
	close(tap);
	close(quiet);
}

/* ---- the socket file ---- */

static void the_file_and_its_mode(void **state)
{
	struct rig *r = *state;
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 0777, 0640);
	r->cfg.control_mode = 0600;
	assert_int_equal(control_reconfigure(&r->m), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_living_daemons_socket_is_left_alone(void **state)
{
	struct rig *r = *state;
	struct control_listen l;
	assert_int_equal(control_listen_open(&l, path, 0660), -EADDRINUSE);
	int fd = client();
	say(fd, "status\n");
	assert_string_equal(answer_text(r, fd, "state"), "running");
	close(fd);
}

static void a_dead_daemons_socket_is_replaced(void **state)
{
	struct rig *r = *state;
	struct control_listen l, again;
	char other[128];
	snprintf(other, sizeof(other), "%s/sub/dir/other.sock", dir); /* directories are made */
	assert_int_equal(control_listen_open(&l, other, 0660), 0);
	close(l.fd); /* as a crash leaves it: the file stays */
	assert_int_equal(access(other, F_OK), 0);
	assert_int_equal(control_listen_open(&again, other, 0660), 0);
	l.fd = -1;
	control_listen_close(&l); /* the first one's end must not take the second one's file */
	assert_int_equal(access(other, F_OK), 0);
	control_listen_close(&again);
	assert_int_equal(access(other, F_OK), -1);
	(void)r;
}

static void what_is_no_socket_is_not_removed(void **state)
{
	struct control_listen l;
	char other[128];
	(void)state;
	snprintf(other, sizeof(other), "%s/precious", dir);
	int fd = open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(control_listen_open(&l, other, 0660), -EEXIST);
	assert_int_equal(access(other, F_OK), 0);
	unlink(other);
}

static void paths_that_are_too_long(void **state)
{
	struct control_listen l;
	char other[200];
	(void)state;
	snprintf(other, sizeof(other), "%s/", dir);
	size_t n = strlen(other);
	memset(other + n, 'a', sizeof(other) - n);
	other[108] = '\0';
	assert_int_equal(control_listen_open(&l, other, 0660), -ENAMETOOLONG);
	other[107] = '\0';
	assert_int_equal(control_listen_open(&l, other, 0660), 0);
	control_listen_close(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        WITH_CONTROL(answers_questions),
	        WITH_CONTROL(refuses_nonsense),
	        WITH_CONTROL(long_lines),
	        WITH_CONTROL(pieces_and_ends),
	        WITH_CONTROL(changes_are_passed_on),
	        cmocka_unit_test(only_root_and_the_daemons_user_change),
	        WITH_CONTROL(a_strangers_change_does_not_arrive),
	        WITH_CONTROL(a_reload_answers_at_its_end),
	        WITH_CONTROL(a_reload_without_its_client),
	        WITH_CONTROL(a_client_that_never_reads),
	        WITH_CONTROL(too_many),
	        WITH_CONTROL(silence),
	        WITH_CONTROL(the_file_and_its_mode),
	        WITH_CONTROL(a_living_daemons_socket_is_left_alone),
	        WITH_CONTROL(a_dead_daemons_socket_is_replaced),
	        WITH_CONTROL(what_is_no_socket_is_not_removed),
	        WITH_CONTROL(paths_that_are_too_long),
	};
	return RUN_WITH_CONTROL(tests);
}
