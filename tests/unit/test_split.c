/*
 * Cutting a stream into messages: borders, counts, sizes, and reads of every length give the same
 * messages.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/split.h"

struct cut {
	struct buf all; /* the messages, '|' behind each */
	uint64_t records, messages, too_large;
};

static void run(struct cut *c, enum split_kind kind, size_t target, size_t max, const char *in,
                size_t len, size_t step)
{
	struct split s = {.kind = kind, .target = target, .max = max};
	struct split_piece piece;
	int r;
	*c = (struct cut){0};
	while ((r = split_next(&s, false, &piece)) != SPLIT_E_END) {
		if (r == SPLIT_E_MORE) {
			size_t n = len < step ? len : step;
			memcpy(split_room(&s, step), in, n);
			split_fed(&s, n);
			in += n;
			len -= n;
			if (!n)
				split_end(&s);
			continue;
		}
		assert_int_equal(r, SPLIT_E_OK);
		buf_add(&c->all, piece.head, piece.head_len);
		buf_add(&c->all, piece.p, piece.len);
		buf_add_byte(&c->all, '|');
		c->records += piece.records;
		c->messages++;
	}
	buf_add_byte(&c->all, 0);
	c->too_large = s.too_large;
	split_deinit(&s);
}

/* @want: the messages with '|' behind each. */
static void cuts(enum split_kind kind, size_t target, const char *in, const char *want,
                 uint64_t records)
{
	for (size_t step = 1; step <= strlen(in) + 1; step++) {
		struct cut c;
		run(&c, kind, target, 100, in, strlen(in), step);
		assert_string_equal((char *)c.all.p, want);
		assert_int_equal(c.records, records);
		assert_int_equal(c.too_large, 0);
		buf_deinit(&c.all);
	}
}

static void test_borders(void **state)
{
	(void)state;
	cuts(SPLIT_LINES, 6, "a\nbb\nccc\nd", "a\nbb\n|ccc\nd|", 4);
	cuts(SPLIT_LINES, 1, "a\n\nb\n", "a\n|\n|b\n|", 3);
	cuts(SPLIT_JSON, 1, "{\n \"a\":1\n}\n{\"b\":2}\n\n{}", "{\n \"a\":1\n}\n|{\"b\":2}\n\n|{}|",
	     3);
	cuts(SPLIT_JSON, 99, "{}\n{}\n\n", "{}\n{}\n\n|", 2);
	cuts(SPLIT_CSV, 1, "h,i\n1,\"x\ny\"\n2,\"\"\"\n\"\n",
	     "h,i\n1,\"x\ny\"\n|h,i\n2,\"\"\"\n\"\n|", 2);
	cuts(SPLIT_DEB822, 1, "A: 1\nB: 2\n \t\nA: 3\n\n\nA: 4",
	     "A: 1\nB: 2\n \t\n|A: 3\n\n|\nA: 4|", 3);
	cuts(SPLIT_MSGPACK, 1,
	     "\x81\xa1"
	     "a\x01\x80\x81\xa1"
	     "b\x80",
	     "\x81\xa1"
	     "a\x01|\x80|\x81\xa1"
	     "b\x80|",
	     3);
	cuts(SPLIT_JSON, 9, "", "", 0);
}

static void test_too_large(void **state)
{
	(void)state;
	char in[400];
	memset(in, 'x', sizeof(in));
	memcpy(in, "a\n", 2);
	memcpy(in + 300, "\nb\n", 3);
	for (size_t step = 1; step < 400; step += 7) {
		struct cut c;
		run(&c, SPLIT_LINES, 50, 100, in, 303, step);
		assert_int_equal(c.too_large, 1);
		assert_int_equal(c.records, 2);
		buf_deinit(&c.all);
	}
}

static FILE *open_sample(const char *name)
{
	const char *env = getenv("SLUICE_DATA");
	const char *dirs[] = {env ? env : "../shared/data", "../shared/data", "../../shared/data"};
	for (size_t i = 0; i < sizeof(dirs) / sizeof(*dirs); i++) {
		char command[512], path[400];
		snprintf(path, sizeof(path), "%s/%s", dirs[i], name);
		snprintf(command, sizeof(command), "zcat '%s'", path);
		FILE *f = fopen(path, "r");
		if (!f)
			continue;
		fclose(f);
		return popen(command, "r");
	}
	return NULL;
}

static void test_package_index(void **state)
{
	(void)state;
	static const char *const names[] = {"apt-index/sample.deb822.gz",
	                                    "apt-index/sample.ndjson.gz"};
	for (unsigned i = 0; i < 2; i++) {
		FILE *f = open_sample(names[i]);
		if (!f) {
			print_message("skipped: %s is not here\n", names[i]);
			skip();
		}
		struct buf in = {0};
		size_t n;
		do {
			assert_int_equal(buf_room(&in, 65536), 0);
			n = fread(in.p + in.len, 1, 65536, f);
			in.len += n;
		} while (n);
		pclose(f);
		struct cut c;
		run(&c, i ? SPLIT_JSON : SPLIT_DEB822, 65536, 262144, (char *)in.p, in.len, 70000);
		assert_int_equal(c.records, 4898);
		assert_true(c.messages > in.len / 65536 && c.messages < in.len / 40000);
		buf_deinit(&c.all);
		buf_deinit(&in);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_borders),
	        cmocka_unit_test(test_too_large),
	        cmocka_unit_test(test_package_index),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
