/*
 * The codec `lines`: line ends, encodings, lines too long, every cut of a stream.
 */
#include "tests/unit/text.h"

#define IN(s) (s), sizeof(s) - 1

static void test_line_ends(void **state)
{
	(void)state;
	text_decodes("lines", NULL, 64, IN("a\nb\r\n\n\r\nlast"),
	             "{\"line\":\"a\"}\n{\"line\":\"b\"}\n{\"line\":\"\"}\n{\"line\":\"\"}\n"
	             "{\"line\":\"last\"}\n");
	text_decodes("lines", NULL, 64, IN(""), "");
	text_decodes("lines", NULL, 64, IN("a\n"), "{\"line\":\"a\"}\n");
	/* a CR that is not right before an LF is a character */
	text_decodes("lines", NULL, 64, IN("a\rb\r\r\nc\r"),
	             "{\"line\":\"a\\rb\\r\"}\n{\"line\":\"c\\r\"}\n");
	text_decodes("lines", "key: text", 64, IN("x\n"), "{\"text\":\"x\"}\n");
	text_decodes("lines", NULL, 64, IN("a\0b\n"), "{\"line\":\"a\\u0000b\"}\n");
}

static void test_encodings(void **state)
{
	(void)state;
	text_decodes("lines", NULL, 64, IN("gr\xc3\xbc\xc3\x9f\ngr\xfc\nok\n"),
	             "{\"line\":\"gr\xc3\xbc\xc3\x9f\"}\n! line is not UTF-8 [gr\xfc]\n"
	             "{\"line\":\"ok\"}\n");
	text_decodes("lines", "encoding: latin1", 64, IN("gr\xfc\xdf\xff\x80\n"),
	             "{\"line\":\"gr\xc3\xbc\xc3\x9f\xc3\xbf\xc2\x80\"}\n");

	struct text_codec t;
	uint8_t out[64];
	size_t len;
	text_codec_open(&t, "lines", "encoding: bytes", 64);
	struct codec_window w = {.p = (const uint8_t *)"\xff\xfe\n", .last = true};
	w.end = w.p + 3;
	assert_int_equal(t.codec.ops->decode(&t.codec, &w, out, sizeof(out), &len), CODEC_E_OK);
	assert_int_equal(len, 10);
	assert_memory_equal(out, "\x81\xa4line\xc4\x02\xff\xfe", 10);
	text_codec_close(&t);
}

static void test_too_long(void **state)
{
	(void)state;
	/* a record of 16 bytes holds a line of 9: map head, "line" with head, string head */
	text_decodes("lines", NULL, 16, IN("123456789\n1234567890\nab\n"),
	             "{\"line\":\"123456789\"}\n! line longer than a record may be [1234567890]\n"
	             "{\"line\":\"ab\"}\n");
	text_decodes("lines", NULL, 16, IN("0123456789abcdef\r\n0123456789abcdefghijklmnop\nab"),
	             "! line longer than a record may be [0123456789abcdef]\n"
	             "! line longer than a record may be [0123456789abcdef]\n{\"line\":\"ab\"}\n");
	text_decodes("lines", NULL, 16, IN("0123456789abcdefghijklmnopqrstuvwxyz"),
	             "! line longer than a record may be [0123456789abcdef]\n");
	text_decodes("lines", "encoding: latin1", 16,
	             IN("\xff\xff\xff\xff\n\xff\xff\xff\xff\xff\n"),
	             "{\"line\":\"\xc3\xbf\xc3\xbf\xc3\xbf\xc3\xbf\"}\n"
	             "! line longer than a record may be [\xff\xff\xff\xff\xff]\n");
}

static void test_encode(void **state)
{
	(void)state;
	struct text_codec t;
	text_codec_open(&t, "lines", NULL, 4096);
	text_encodes(&t, "{\"a\":1,\"line\":\"x y\"}", "x y\n");
	text_encodes(&t, "{\"line\":\"\"}", "\n");
	text_encodes(&t, "{\"a\":{\"line\":\"x\"}}",
	             "! the record has no such field as the line's");
	text_encodes(&t, "{\"line\":7}", "! the field that should be the line is no text");
	text_codec_close(&t);
	text_codec_open(&t, "lines", "{key: m, encoding: latin1}", 4096);
	text_encodes(&t, "{\"m\":\"\\u00fc\\u00ff\\u0080~\"}", "\xfc\xff\x80~\n");
	text_encodes(&t, "{\"m\":\"ab\\u0100\"}",
	             "! the line has a character that Latin-1 does not have");
	text_codec_close(&t);
}

static unsigned count(const struct buf *log, char first)
{
	unsigned n = 0;
	for (const char *p = (char *)log->p; p < (char *)log->p + log->len; p = strchr(p, '\n') + 1)
		n += *p == first;
	return n;
}

/* The UTF-8 decoder stress test: 232 good lines of 300, 68 bad ones. */
static void test_utf8_stress(void **state)
{
	(void)state;
	struct buf in = {0}, log = {0};
	struct text_codec t;
	if (!text_data("utf8/UTF-8-test.txt", &in))
		skip();
	text_codec_open(&t, "lines", NULL, 4096);
	text_stream(&t.codec, in.p, in.len, 1000, 777, &log);
	buf_add_byte(&log, 0);
	log.len--;
	assert_int_equal(count(&log, '{'), 232);
	assert_true(strstr((char *)log.p, "! line is not UTF-8") != NULL);
	text_codec_close(&t);
	buf_deinit(&in);
	buf_deinit(&log);
}

/* Without a line feed behind the last line there are 2,000 lines nevertheless. */
static void test_loghub(void **state)
{
	(void)state;
	static const char *const files[] = {"Apache/Apache_2k.log", "Linux/Linux_2k.log",
	                                    "Spark/Spark_2k.log"};
	for (size_t i = 0; i < 3; i++) {
		struct buf in = {0}, log = {0};
		struct text_codec t;
		char name[64];
		snprintf(name, sizeof(name), "logs/loghub/%s", files[i]);
		if (!text_data(name, &in))
			skip();
		text_codec_open(&t, "lines", NULL, 4096);
		text_stream(&t.codec, in.p, in.len, 4096, 4096, &log);
		assert_int_equal(count(&log, '{'), 2000);
		assert_null(memmem(log.p, log.len, "\\r", 2));
		text_codec_close(&t);
		buf_deinit(&in);
		buf_deinit(&log);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_line_ends),   cmocka_unit_test(test_encodings),
	        cmocka_unit_test(test_too_long),    cmocka_unit_test(test_encode),
	        cmocka_unit_test(test_utf8_stress), cmocka_unit_test(test_loghub),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
