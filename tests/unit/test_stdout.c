/*
 * The stdout consumer, with a pipe for standard output.
 */
#include "tests/unit/files.h"

#include <signal.h>

struct run {
	struct test_host *host;
	struct codec codec;
	struct stage st;
	int saved;
	int reader;
};

static void run_make(struct run *r, const char *codec)
{
	int fds[2];
	fflush(stdout);
	assert_int_equal(pipe(fds), 0);
	r->saved = dup(STDOUT_FILENO);
	r->reader = fds[0];
	dup2(fds[1], STDOUT_FILENO);
	close(fds[1]);
	r->host = host_new(65536);
	host_stage(r->host, &r->st, stage_find(STAGE_CONSUMER, "stdout"), NULL);
	files_codec(&r->codec, codec, 65536);
	r->st.codec = &r->codec;
	r->st.timeout = 1000000;
}

static void run_free(struct run *r)
{
	dup2(r->saved, STDOUT_FILENO);
	close(r->saved);
	if (r->reader >= 0)
		close(r->reader);
	r->st.ops->close(&r->st);
	free(r->st.state);
	files_codec_free(&r->codec);
	host_free(r->host);
}

static int take(struct run *r, unsigned n, size_t pad)
{
	static char text[60000];
	static uint8_t rec[65536];
	memset(text, 'x', sizeof(text));
	uint8_t *o = mp_write_map_head(rec, 2);
	o = mp_write_uint(mp_write_str(o, "n", 1), n);
	o = mp_write_str(mp_write_str(o, "t", 1), text, (uint32_t)pad);
	return r->st.ops->consume(&r->st, rec, (size_t)(o - rec));
}

static void unit(struct run *r, unsigned n)
{
	assert_int_equal(r->st.ops->begin(&r->st), 0);
	assert_int_equal(take(r, n, 1), 0);
	assert_int_equal(r->st.ops->finish(&r->st), 0);
}

static void test_head_once(void **state)
{
	(void)state;
	struct run r;
	char text[256];
	run_make(&r, "csv");
	unit(&r, 1);
	/* undone before it was written: its head must come again */
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	assert_int_equal(take(&r, 99, 1), 0);
	r.st.ops->rollback(&r.st);
	unit(&r, 2);
	ssize_t n = read(r.reader, text, sizeof(text) - 1);
	run_free(&r);
	assert_true(n > 0);
	text[n] = 0;
	assert_string_equal(text, "n,t\n1,x\n2,x\n");
}

/* A full pipe that does not block: the unit goes on where it stopped. */
static void test_slow_reader(void **state)
{
	(void)state;
	struct run r;
	static char text[300000];
	size_t got = 0;
	run_make(&r, "json");
	fcntl(STDOUT_FILENO, F_SETFL, O_NONBLOCK);
	int answer = r.st.ops->begin(&r.st);
	for (unsigned i = 0; i < 4; i++)
		answer |= take(&r, i, 50000);
	int first = r.st.ops->finish(&r.st);
	fcntl(r.reader, F_SETFL, O_NONBLOCK);
	for (int again = first; got < sizeof(text);) {
		ssize_t n = read(r.reader, text + got, sizeof(text) - got);
		if (n > 0)
			got += (size_t)n;
		else if (again == STAGE_E_UNREACHABLE)
			again = r.st.ops->finish(&r.st);
		else
			break;
	}
	run_free(&r);
	assert_int_equal(answer, 0);
	assert_int_equal(first, STAGE_E_UNREACHABLE);
	assert_int_equal(got, 4 * (50000 + strlen("{\"n\":0,\"t\":\"\"}\n")));
}

static void test_no_reader(void **state)
{
	(void)state;
	struct run r;
	run_make(&r, "json");
	close(r.reader);
	r.reader = -1;
	int answer = r.st.ops->begin(&r.st);
	answer |= take(&r, 1, 1);
	int end = r.st.ops->finish(&r.st);
	run_free(&r);
	assert_int_equal(answer, 0);
	assert_int_equal(end, -EPIPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_head_once),
	        cmocka_unit_test(test_slow_reader),
	        cmocka_unit_test(test_no_reader),
	};
	signal(SIGPIPE, SIG_IGN); /* as the worker does */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
