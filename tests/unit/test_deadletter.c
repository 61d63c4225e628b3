/*
 * Dead letters: listing, marking, and purging beside a writer that runs.
 */
#include "tests/unit/files.h"

#include "daemon/deadletter.h"
#include "stages/consumers/file.h"

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

struct seen {
	char ids[256];
	unsigned n;
	unsigned replayed;
};

static int see(void *arg, const struct deadletter *d)
{
	struct seen *s = arg;
	assert_true(strlen(s->ids) + strlen(d->id) + 2 < sizeof(s->ids));
	strcat(s->ids, d->id);
	strcat(s->ids, " ");
	s->n++;
	s->replayed += d->replayed;
	return 0;
}

static const char *list(struct deadletter_filter f)
{
	static struct seen s;
	memset(&s, 0, sizeof(s));
	assert_int_equal(deadletter_each(dir, &f, NULL, see, &s), 0);
	return s.ids;
}

static void letter(const char *name, const char *id, const char *at, const char *stage,
                   const char *error)
{
	char line[512];
	snprintf(line, sizeof(line),
	         "{\"id\":\"%s\",\"at\":\"%s\",\"stage\":\"%s\",\"error\":\"%s\","
	         "\"input\":{\"a\":[1,2]},\"position\":\"message 7\",\"attempts\":3}\n",
	         id, at, stage, error);
	files_append(files_name(dir, name), line);
}

static void some_letters(void)
{
	letter("dead.jsonl.000001", "a", "2025-01-01T00:00:00Z", "clean/parse", "no number");
	letter("dead.jsonl.000001", "b", "2025-01-02T00:00:00.5Z", "clean", "bad \\\"quote\\\"");
	letter("dead.jsonl.000002", "c", "2025-01-03T00:00:00Z", "cleaner", "no number");
	letter("dead.jsonl", "d", "2025-01-04T00:00:00Z", "clean/filter", "other");
	files_append(files_name(dir, "dead.jsonl"), "{\"id\":\"half");
}

static int64_t day(int n)
{
	return (1735689600 + (int64_t)(n - 1) * 86400) * 1000000000;
}

static int look_close(void *arg, const struct deadletter *d)
{
	(void)arg;
	assert_string_equal(d->id, "b");
	assert_string_equal(d->error, "bad \"quote\"");
	assert_string_equal(d->stage, "clean");
	assert_string_equal(d->position, "message 7");
	assert_int_equal(d->attempts, 3);
	assert_true(d->time == day(2) + 500000000);
	assert_non_null(d->input);
	assert_int_equal(record_value(d->input, d->input_len).type, MP_MAP);
	assert_int_equal(d->json[d->json_len - 1], '}');
	return 42;
}

static void test_list(void **state)
{
	(void)state;
	struct deadletter_filter b = {.id = "b"};
	assert_string_equal(list((struct deadletter_filter){0}), "");
	some_letters();
	assert_string_equal(list((struct deadletter_filter){0}), "a b c d ");
	assert_string_equal(list((struct deadletter_filter){.stage = "clean"}), "a b d ");
	assert_string_equal(list((struct deadletter_filter){.stage = "clean/parse"}), "a ");
	assert_string_equal(list((struct deadletter_filter){.error = "number"}), "a c ");
	assert_string_equal(list((struct deadletter_filter){.since = day(2)}), "b c d ");
	assert_string_equal(list((struct deadletter_filter){.before = day(2)}), "a ");
	assert_string_equal(list((struct deadletter_filter){.limit = 2}), "a b ");
	assert_int_equal(deadletter_each(dir, &b, NULL, look_close, NULL), 42);
	assert_int_equal(deadletter_each(files_name(dir, "dead.jsonl"), &b, NULL, look_close, NULL),
	                 42);
}

static void test_no_letters(void **state)
{
	(void)state;
	struct deadletter_filter all = {0};
	struct seen s = {0};
	uint64_t bad = 0;
	files_write(files_name(dir, "dead.jsonl"),
	            "not JSON\n[1]\n{\"id\":7}\n{}\n\n{\"id\":\"x\",\"at\":\"soon\"}\n");
	assert_int_equal(deadletter_each(dir, &all, &bad, see, &s), 0);
	assert_string_equal(s.ids, "x ");
	assert_int_equal(bad, 4);
}

static void test_mark(void **state)
{
	(void)state;
	const char *ids[] = {"c", "a"};
	const char *more[] = {"d"};
	struct seen s = {0};
	struct deadletter_filter all = {0};
	some_letters();
	assert_int_equal(deadletter_mark(dir, ids, 2), 0);
	assert_string_equal(list((struct deadletter_filter){.open_only = true}), "b d ");
	assert_int_equal(deadletter_mark(dir, more, 1), 0);
	assert_int_equal(deadletter_mark(dir, more, 1), 0);
	assert_string_equal(list((struct deadletter_filter){.open_only = true}), "b ");
	assert_int_equal(deadletter_each(dir, &all, NULL, see, &s), 0);
	assert_int_equal(s.replayed, 3);
}

static void test_purge(void **state)
{
	(void)state;
	struct deadletter_purge p;
	const char *ids[] = {"a"};
	some_letters();
	assert_int_equal(deadletter_mark(dir, ids, 1), 0);
	assert_int_equal(deadletter_purge(dir, day(2), &p), 0);
	assert_int_equal(p.removed, 1);
	assert_int_equal(p.kept, 2);
	assert_string_equal(list((struct deadletter_filter){0}), "b c d ");
	assert_int_equal(deadletter_purge(dir, INT64_MAX, &p), 0);
	assert_int_equal(p.removed, 2);
	/* the file that is written is not touched */
	assert_string_equal(list((struct deadletter_filter){0}), "d ");
	assert_true(files_there(files_name(dir, "replayed")));
	assert_int_equal(deadletter_rotate(dir), 0);
	assert_int_equal(deadletter_purge(dir, INT64_MAX, &p), 0);
	assert_string_equal(list((struct deadletter_filter){0}), "");
	assert_false(files_there(files_name(dir, "replayed")));
	assert_int_equal(deadletter_rotate(dir), 0);
}

/* What is no letter is nobody's to drop by its age. */
static void test_purge_of_other_lines(void **state)
{
	(void)state;
	struct deadletter_purge p;
	uint64_t bad = 0;
	struct seen s = {0};
	some_letters();
	files_append(files_name(dir, "dead.jsonl.000001"), "a note of mine\nand half a");
	assert_int_equal(deadletter_purge(dir, day(3), &p), 0);
	assert_int_equal(p.removed, 2);
	assert_int_equal(p.kept, 3);
	assert_int_equal(deadletter_each(dir, &(struct deadletter_filter){0}, &bad, see, &s), 0);
	assert_string_equal(s.ids, "c d ");
	assert_int_equal(bad, 2);
	assert_int_equal(deadletter_purge(dir, INT64_MAX, &p), 0);
	assert_int_equal(p.removed, 3);
	assert_int_equal(p.kept, 0);
}

/* Through the writer: it must lose nothing, nor be confused. */
static void test_purge_beside_writer(void **state)
{
	(void)state;
	struct test_host *host = host_new(4096);
	struct codec codec;
	struct stage st;
	struct deadletter_purge p;
	struct file_out_config config = {.path = files_name(dir, "dead.jsonl"), .mode = 0640};
	static const char *const ids[] = {"a", "b", "c"};
	host_stage(host, &st, stage_find(STAGE_CONSUMER, "file"), &config);
	files_codec(&codec, "json", 4096);
	st.codec = &codec;
	assert_int_equal(st.ops->open(&st), 0);
	for (unsigned i = 0; i < 3; i++) {
		uint8_t rec[64];
		uint8_t *o = mp_write_map_head(rec, 1);
		o = mp_write_str(o, "id", 2);
		o = mp_write_str(o, ids[i], 1);
		for (int answer = STAGE_E_FULL; answer == STAGE_E_FULL;) {
			assert_int_equal(st.ops->begin(&st), 0);
			answer = st.ops->consume(&st, rec, (size_t)(o - rec));
			assert_int_equal(st.ops->finish(&st), 0);
		}
		if (i != 1)
			continue;
		assert_int_equal(deadletter_rotate(dir), 0);
		assert_int_equal(deadletter_purge(dir, INT64_MAX, &p), 0);
		assert_int_equal(p.busy, 1); /* it does not know yet, and still writes there */
		assert_int_equal(p.removed, 0);
		assert_int_equal(st.ops->reopen(&st), 0);
		assert_int_equal(deadletter_purge(dir, INT64_MAX, &p), 0);
		assert_int_equal(p.removed, 2);
	}
	assert_string_equal(list((struct deadletter_filter){0}), "c ");
	st.ops->close(&st);
	free(st.state);
	files_codec_free(&codec);
	host_free(host);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_list),  TEST(test_no_letters),           TEST(test_mark),
	        TEST(test_purge), TEST(test_purge_of_other_lines), TEST(test_purge_beside_writer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
