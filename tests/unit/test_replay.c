/*
 * Spools and the replayer: each letter back exactly once, wherever the replayer, or who wrote the
 * spool, ends.
 */
#include "tests/unit/files.h"

#include "daemon/deadletter.h"
#include "daemon/replay.h"
#include "daemon/spool.h"

enum {
	LETTERS = 7,
	ROOM = 4096,
};

static char *dir;

static int make_dir(void **state)
{
	(void)state;
	dir = files_dir();
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	files_remove(dir);
	return 0;
}

static size_t letter(char line[512], unsigned n, const char *input)
{
	return (size_t)snprintf(
	        line, 512,
	        "{\"id\":\"e-0-1-%u\",\"at\":\"2026-01-02T03:04:05Z\",\"stage\":\"clean/convert\","
	        "\"error\":\"no\",\"input\":%s,\"position\":\"\",\"attempts\":1}",
	        n, input);
}

static void add(struct spool_writer *w, unsigned n, const char *input)
{
	char line[512];
	size_t len = letter(line, n, input);
	assert_int_equal(spool_add(w, line, len), 0);
}

static void publish(unsigned letters)
{
	struct spool_writer w = {0};
	char input[32];
	assert_int_equal(spool_create(&w, dir, "clean"), 0);
	for (unsigned i = 0; i < letters; i++) {
		snprintf(input, sizeof(input), "{\"n\":%u}", i);
		add(&w, i, input);
	}
	assert_int_equal(spool_publish(&w), 0);
}

static unsigned lines_in(const char *name)
{
	unsigned n = 0;
	FILE *f = fopen(files_name(dir, name), "re");
	for (int c; f && (c = getc(f)) != EOF;)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

/* ---- spools ---- */

static void a_spool_is_there_when_it_is_published(void **state)
{
	struct spool_writer w = {0};
	struct spool s;
	(void)state;
	assert_int_equal(spool_create(&w, dir, "clean"), 0);
	add(&w, 1, "{}");
	assert_false(spool_exists(dir, "clean"));
	assert_int_equal(spool_open(&s, dir, "clean"), SPOOL_E_NONE);
	/* whoever began it died: the next one starts anew */
	fclose(w.f);
	w.f = NULL;
	publish(2);
	assert_true(spool_exists(dir, "clean"));
	assert_false(spool_exists(dir, "clea"));
	assert_int_equal(access(w.fresh, F_OK), -1);
	assert_int_equal(spool_open(&s, dir, "clean"), 0);
	const char *line;
	size_t len;
	assert_int_equal(spool_next(&s, &line, &len), 0);
	assert_non_null(strstr(line, "\"e-0-1-0\""));
	assert_int_equal(strlen(line), len);
	assert_int_equal(spool_next(&s, &line, &len), 0);
	assert_int_equal(spool_next(&s, &line, &len), SPOOL_E_END);
	assert_int_equal(spool_remove(&s), 0);
	assert_int_equal(spool_remove(&s), 0);
	spool_close(&s);
	assert_false(spool_exists(dir, "clean"));
}

static void an_abandoned_spool_leaves_nothing(void **state)
{
	struct spool_writer w = {0};
	(void)state;
	spool_abandon(&w);
	assert_int_equal(spool_create(&w, dir, "clean"), 0);
	spool_abandon(&w);
	assert_false(spool_exists(dir, "clean"));
	assert_int_equal(access(w.fresh, F_OK), -1);
}

static void a_position_belongs_to_one_spool(void **state)
{
	struct spool_position p, none = {{0}, 0, 0};
	struct spool s;
	const char *line;
	size_t len;
	(void)state;
	publish(3);
	assert_int_equal(spool_open(&s, dir, "clean"), 0);
	assert_false(spool_resume(&s, &none));
	assert_int_equal(spool_next(&s, &line, &len), 0);
	spool_tell(&s, false, &p);
	spool_close(&s);
	assert_int_equal(spool_open(&s, dir, "clean"), 0);
	assert_false(spool_resume(&s, &p));
	assert_int_equal(spool_next(&s, &line, &len), 0);
	assert_non_null(strstr(line, "\"e-0-1-1\""));
	spool_tell(&s, true, &p);
	assert_true(spool_resume(&s, &p));
	spool_close(&s);
	publish(3); /* another, in its place */
	assert_int_equal(spool_open(&s, dir, "clean"), 0);
	assert_false(spool_resume(&s, &p));
	assert_int_equal(spool_next(&s, &line, &len), 0);
	assert_non_null(strstr(line, "\"e-0-1-0\""));
	spool_close(&s);
}

static void what_is_no_spool_is_refused(void **state)
{
	static const char *const texts[] = {"", "{\"spool\":\"12\"}\n",
	                                    "no spool at all, but as long as a head of one\n",
	                                    "{\"spool\":\"0123456789abcdef0123456789abcdeX\"}\n"};
	struct spool s;
	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		unlink(files_name(dir, "replay:bad.spool"));
		files_append(files_name(dir, "replay:bad.spool"), texts[i]);
		assert_int_equal(spool_open(&s, dir, "bad"), -EBADMSG);
	}
}

static int count_replayed(void *arg, const struct deadletter *d)
{
	*(unsigned *)arg += d->replayed;
	return 0;
}

static unsigned replayed(void)
{
	static const struct deadletter_filter all;
	unsigned n = 0;
	assert_int_equal(deadletter_each(dir, &all, NULL, count_replayed, &n), 0);
	return n;
}

static void marks_are_made_once_and_survive_a_kill(void **state)
{
	struct spool s;
	char line[512];
	(void)state;
	for (unsigned i = 0; i < 30; i++) {
		letter(line, i, "{}");
		strcat(line, "\n");
		files_append(files_name(dir, "dead.jsonl"), line);
	}
	/* letters 0 and 1 are marked; of 25 only "e-0-1-2" got onto the disk, which reads as
	 * another's */
	files_append(files_name(dir, "replayed"), "e-0-1-0\ne-0-1-1\ne-0-1-2");
	assert_int_equal(replayed(), 2);
	publish(2);
	assert_int_equal(spool_open(&s, dir, "clean"), 0);
	assert_int_equal(spool_mark(&s, dir), 0);
	spool_close(&s);
	assert_int_equal(replayed(), 2);
	publish(LETTERS);
	assert_int_equal(spool_open(&s, dir, "clean"), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(spool_mark(&s, dir), 0);
	spool_close(&s);
	assert_int_equal(replayed(), LETTERS);
	assert_int_equal(lines_in("replayed"), LETTERS);
}

/* ---- the replayer ---- */

struct run {
	struct test_host *host;
	struct stage st;
	struct replay_config config;
};

static struct run *run_new(struct test_host *host)
{
	struct run *r = calloc(1, sizeof(*r));
	assert_non_null(r);
	r->host = host;
	r->config = (struct replay_config){.letters = dir, .stage = "clean"};
	host_stage(host, &r->st, &replay_ops, &r->config);
	assert_int_equal(r->st.ops->open(&r->st), 0);
	return r;
}

static void run_free(struct run *r)
{
	r->st.ops->close(&r->st);
	free(r->st.state);
	free(r);
}

/* All that is left, as the worker would: the end is committed, then `stored` is called. */
static void run_to_the_end(struct run *r, bool stored)
{
	int answer;
	while ((answer = r->st.ops->produce(&r->st)) == STAGE_OK)
		;
	assert_int_equal(answer, STAGE_E_END);
	if (stored)
		assert_int_equal(r->st.ops->stored(&r->st), 0);
}

static void check_numbers(const struct test_host *host, unsigned n)
{
	assert_int_equal(host->n, n);
	for (unsigned i = 0; i < n; i++) {
		const uint8_t want[] = {0x81, 0xa1, 'n', (uint8_t)i};
		assert_false(host->items[i].rejected);
		assert_int_equal(host->items[i].len, sizeof(want));
		assert_memory_equal(host->items[i].p, want, sizeof(want));
	}
}

static void a_kill_behind_any_commit_goes_on_behind_it(void **state)
{
	(void)state;
	for (unsigned at = 0; at <= LETTERS; at++) {
		struct test_host *host = host_new(ROOM);
		publish(LETTERS);
		struct run *r = run_new(host);
		for (unsigned i = 0; i < at; i++)
			assert_int_equal(r->st.ops->produce(&r->st), STAGE_OK);
		run_free(r); /* the position is that of the last commit */
		r = run_new(host);
		run_to_the_end(r, true);
		run_free(r);
		check_numbers(host, LETTERS);
		assert_false(spool_exists(dir, "clean"));
		host_free(host);
	}
}

static void what_was_not_committed_is_made_again(void **state)
{
	struct test_host *host = host_new(ROOM);
	uint8_t committed[STAGE_POSITION_MAX];
	(void)state;
	publish(LETTERS);
	struct run *r = run_new(host);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(r->st.ops->produce(&r->st), STAGE_OK);
		if (i == 1)
			memcpy(committed, host->position, sizeof(committed));
	}
	run_free(r);
	free(host->items[3].p);
	free(host->items[2].p);
	host->n = 2; /* the rest was undone */
	memcpy(host->position, committed, sizeof(committed));
	r = run_new(host);
	run_to_the_end(r, true);
	run_free(r);
	check_numbers(host, LETTERS);
	host_free(host);
}

static void a_kill_before_the_removal_does_not_read_again(void **state)
{
	struct test_host *host = host_new(ROOM);
	(void)state;
	publish(LETTERS);
	struct run *r = run_new(host);
	run_to_the_end(r, false);
	run_free(r);
	assert_true(spool_exists(dir, "clean"));
	r = run_new(host);
	assert_false(spool_exists(dir, "clean"));
	run_to_the_end(r, true);
	run_free(r);
	check_numbers(host, LETTERS);
	/* and one behind it finds nothing, and one with a new spool all of it */
	r = run_new(host);
	run_to_the_end(r, true);
	run_free(r);
	host_clear(host);
	publish(2);
	r = run_new(host);
	run_to_the_end(r, true);
	run_free(r);
	check_numbers(host, 2);
	host_free(host);
}

static void the_spool_stays_until_all_is_delivered(void **state)
{
	struct test_host *host = host_new(ROOM);
	(void)state;
	publish(LETTERS);
	struct run *r = run_new(host);
	r->st.commit_id.number = 5;
	for (unsigned i = 0; i < LETTERS; i++)
		assert_int_equal(r->st.ops->produce(&r->st), STAGE_OK);
	for (host->stored = 0; host->stored < 5; host->stored++) {
		assert_int_equal(r->st.ops->produce(&r->st), STAGE_E_IDLE);
		assert_int_equal(r->st.ops->stored(&r->st), 0);
		assert_true(spool_exists(dir, "clean"));
	}
	run_to_the_end(r, true);
	run_free(r);
	check_numbers(host, LETTERS);
	assert_false(spool_exists(dir, "clean"));
	host_free(host);
}

static void the_replayer_makes_the_marks(void **state)
{
	struct test_host *host = host_new(ROOM);
	char line[512];
	(void)state;
	unlink(files_name(dir, "dead.jsonl"));
	unlink(files_name(dir, "replayed"));
	for (unsigned i = 0; i < LETTERS; i++) {
		letter(line, i, "{}");
		strcat(line, "\n");
		files_append(files_name(dir, "dead.jsonl"), line);
	}
	publish(LETTERS - 1);
	struct run *r = run_new(host);
	assert_int_equal(replayed(), LETTERS - 1); /* before the first letter is back */
	assert_int_equal(host->n, 0);
	run_free(r);
	host_free(host);
}

static void what_cannot_go_back_becomes_a_letter(void **state)
{
	struct test_host *host = host_new(64);
	struct spool_writer w = {0};
	(void)state;
	assert_int_equal(spool_create(&w, dir, "clean"), 0);
	add(&w, 0, "\"no record\"");
	add(&w, 1, "{\"n\":1}");
	add(&w, 2,
	    "{\"n\":\"0123456789012345678901234567890123456789012345678901234567890123456789\"}");
	assert_int_equal(spool_add(&w, "[]", 2), 0);
	assert_int_equal(spool_publish(&w), 0);
	struct run *r = run_new(host);
	run_to_the_end(r, true);
	run_free(r);
	assert_int_equal(host->n, 4);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(host->items[i].rejected, i != 1);
	assert_string_equal(host->items[0].at, "e-0-1-0");
	assert_string_equal(host->items[2].why, "larger than arena.buffer");
	assert_string_equal(host->items[3].why, "no dead letter");
	host_free(host);
}

static void a_spool_that_is_none_stops_the_replayer(void **state)
{
	struct test_host *host = host_new(ROOM);
	struct run r = {.host = host, .config = {.letters = dir, .stage = "bad"}};
	(void)state;
	unlink(files_name(dir, "replay:bad.spool"));
	files_append(files_name(dir, "replay:bad.spool"), "something else\n");
	host_stage(host, &r.st, &replay_ops, &r.config);
	assert_int_equal(r.st.ops->open(&r.st), -EBADMSG);
	assert_non_null(strstr(r.st.why, "it is no spool"));
	assert_true(spool_exists(dir, "bad"));
	r.st.ops->close(&r.st);
	free(r.st.state);
	host_free(host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_spool_is_there_when_it_is_published),
	        cmocka_unit_test(an_abandoned_spool_leaves_nothing),
	        cmocka_unit_test(a_position_belongs_to_one_spool),
	        cmocka_unit_test(what_is_no_spool_is_refused),
	        cmocka_unit_test(marks_are_made_once_and_survive_a_kill),
	        cmocka_unit_test(a_kill_behind_any_commit_goes_on_behind_it),
	        cmocka_unit_test(what_was_not_committed_is_made_again),
	        cmocka_unit_test(a_kill_before_the_removal_does_not_read_again),
	        cmocka_unit_test(the_spool_stays_until_all_is_delivered),
	        cmocka_unit_test(the_replayer_makes_the_marks),
	        cmocka_unit_test(what_cannot_go_back_becomes_a_letter),
	        cmocka_unit_test(a_spool_that_is_none_stops_the_replayer),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
