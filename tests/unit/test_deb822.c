/*
 * The codec `deb822`: fields, continuations, comments, bad paragraphs, every cut of a stream,
 * writing, and Debian's own package index against what awk makes of it.
 */
#include "tests/unit/text.h"

#define IN(s) (s), sizeof(s) - 1

static void test_fields(void **state)
{
	(void)state;
	text_decodes("deb822", NULL, 256, IN("A: 1\nB:2\nC: \t x y \t\n\nA:\n"),
	             "{\"A\":\"1\",\"B\":\"2\",\"C\":\"x y\"}\n{\"A\":\"\"}\n");
	text_decodes("deb822", NULL, 256, IN("\n \n\t\r\nA: 1\r\n \t \r\n\r\nB: 2"),
	             "{\"A\":\"1\"}\n{\"B\":\"2\"}\n");
	text_decodes("deb822", NULL, 256, IN(""), "");
	text_decodes("deb822", NULL, 256, IN("\n\n"), "");
	text_decodes("deb822", NULL, 256, IN("A: b: c:d\n"), "{\"A\":\"b: c:d\"}\n");
	text_decodes("deb822", NULL, 256, IN("A: \xc3\xbc\n\nB: \xff\nC: 1\n\nD: 1\n"),
	             "{\"A\":\"\xc3\xbc\"}\n! paragraph is not UTF-8 [B: \xff\nC: "
	             "1\n\n]\n{\"D\":\"1\"}\n");
}

static void test_continuations(void **state)
{
	(void)state;
	text_decodes("deb822", NULL, 256, IN("A: 1\n 2\n\t3 \r\n  4\nB:\n x\n\n"),
	             "{\"A\":\"1\\n2\\n3 \\n 4\",\"B\":\"\\nx\"}\n");
	text_decodes("deb822", NULL, 256, IN("A: 1\n .\n .x\n  .\n"),
	             "{\"A\":\"1\\n.\\n.x\\n .\"}\n");
	text_decodes("deb822", "dots: true", 256, IN("A: 1\n .\n .x\n  .\n"),
	             "{\"A\":\"1\\n\\n.x\\n .\"}\n");
	text_decodes("deb822", NULL, 256, IN("# c\nA: 1\n#: d\n 2\n#\n\n#e\n\nB: 1\n#f"),
	             "{\"A\":\"1\\n2\"}\n{\"B\":\"1\"}\n");
	text_decodes(
	        "deb822", "comments: false", 256, IN("A: 1\n#B: 2\n\nC: 3\n"),
	        "! not a line of the form Key: value: #B: 2 [A: 1\n#B: 2\n\n]\n{\"C\":\"3\"}\n");
}

static void test_bad(void **state)
{
	(void)state;
	text_decodes("deb822", NULL, 256, IN("A: 1\nno colon\nB: 2\n\nC: 3\n"),
	             "! not a line of the form Key: value: no colon [A: 1\nno colon\nB: 2\n\n]\n"
	             "{\"C\":\"3\"}\n");
	text_decodes("deb822", NULL, 256, IN(" x\nA: 1\n\nC: 3"),
	             "! continuation line without a field:  x [ x\nA: 1\n\n]\n{\"C\":\"3\"}\n");
	text_decodes("deb822", NULL, 256, IN("Ab: 1\nx: 1\naB: 2\n\nC: 3"),
	             "! field stands twice in one paragraph: aB: 2 [Ab: 1\nx: 1\naB: 2\n\n]\n"
	             "{\"C\":\"3\"}\n");
	text_decodes("deb822", NULL, 256, IN(": 1\n\n-a: 2\n\na b: 3\n\nA : 4\n\n\xc3\xbc: 5\n"),
	             "! not a line of the form Key: value: : 1 [: 1\n\n]\n"
	             "! not a line of the form Key: value: -a: 2 [-a: 2\n\n]\n"
	             "! not a line of the form Key: value: a b: 3 [a b: 3\n\n]\n"
	             "! not a line of the form Key: value: A : 4 [A : 4\n\n]\n"
	             "! not a line of the form Key: value: \xc3\xbc: 5 [\xc3\xbc: 5\n]\n");
}

static void test_too_long(void **state)
{
	(void)state;
	text_decodes(
	        "deb822", NULL, 16, IN("A: 123456789012\n\nA: 1234567890123\n\nB: 1\n"),
	        "{\"A\":\"123456789012\"}\n"
	        "! paragraph longer than a record may be [A: 1234567890123\n\n]\n{\"B\":\"1\"}\n");
	text_decodes(
	        "deb822", NULL, 16,
	        IN("A: 1\nC: 12345678901234567890123456789012345678901234567890123456789\nD: 1\n"
	           " \t\nB: 1\n"),
	        "! paragraph longer than a record may be [A: 1\nC: 12345678]\n{\"B\":\"1\"}\n");
	text_decodes(
	        "deb822", NULL, 16,
	        IN("A: 1234567890123456789012345678901234567890123456789012345678901234567890"),
	        "! paragraph longer than a record may be [A: 1234567890123]\n");
}

static void test_long_comment(void **state)
{
	(void)state;
	text_decodes(
	        "deb822", NULL, 16,
	        IN("#345678901234567890123456789012345678901234567890123456789012\nB: 1\n\n"
	           "#3456789012345678901234567890123456789012345678901234567890123\n\nC: 1\n\n"
	           "#345678901234567890123456789012345678901234567890123456789012345\n\nD: 1\n"),
	        "{\"B\":\"1\"}\n{\"C\":\"1\"}\n"
	        "! paragraph longer than a record may be [#345678901234567]\n{\"D\":\"1\"}\n");
}

static void test_many_fields(void **state)
{
	(void)state;
	struct buf in = {0}, log = {0};
	struct text_codec t;
	for (int i = 0; i < 1024; i++)
		buf_printf(&in, "k%d: v\n", i);
	buf_printf(&in, "\n");
	for (int i = 0; i < 1025; i++)
		buf_printf(&in, "k%d: v\n", i);
	text_codec_open(&t, "deb822", NULL, 1 << 16);
	text_stream(&t.codec, in.p, in.len, 100, 1000, &log);
	buf_add_byte(&log, 0);
	assert_non_null(
	        strstr((char *)log.p, "\"k1023\":\"v\"}\n! too many fields in one paragraph"));
	text_codec_close(&t);
	buf_deinit(&in);
	buf_deinit(&log);
}

static void test_encode(void **state)
{
	(void)state;
	static const char sorry[] =
	        "! a value has blanks, empty lines or CRs where deb822 cannot say them";
	static const char *const unsaid[] = {"{\"A\":\" x\"}",       "{\"A\":\"x\\t\"}",
	                                     "{\"A\":\"x\\r\"}",     "{\"A\":\"1\\n\"}",
	                                     "{\"A\":\"1\\n\\n2\"}", "{\"A\":\"1\\n \\n2\"}",
	                                     "{\"A\":\"1\\nx\\r\"}"};
	struct text_codec t;
	text_codec_open(&t, "deb822", NULL, 4096);
	text_encodes(&t, "{\"A\":\"x\",\"B\":7,\"C\":null,\"D\":\"\"}", "A: x\nB: 7\nD:\n\n");
	text_encodes(&t, "{\"A\":\"1\\n2\\n 3\\n.\",\"B\":\"\\nx\"}",
	             "A: 1\n 2\n  3\n .\nB:\n x\n\n");
	text_encodes(&t, "{\"A\":[1,{\"b\":2}]}", "A: [1,{\"b\":2}]\n\n");
	for (size_t i = 0; i < sizeof(unsaid) / sizeof(*unsaid); i++)
		text_encodes(&t, unsaid[i], sorry);
	text_encodes(&t, "{\"a b\":\"x\"}", "! a field's name is no deb822 field name");
	text_encodes(&t, "{\"#a\":\"x\"}", "! a field's name is no deb822 field name");
	text_encodes(&t, "{\"\":\"x\"}", "! a field's name is no deb822 field name");
	text_encodes(&t, "{\"a\":1,\"A\":2}",
	             "! two names that differ by case only, or too many fields");
	text_encodes(&t, "{}", "! a record without fields is no paragraph");
	text_codec_close(&t);
	text_codec_open(&t, "deb822", "dots: true", 4096);
	text_encodes(&t, "{\"A\":\"1\\n\\n2\"}", "A: 1\n .\n 2\n\n");
	text_encodes(&t, "{\"A\":\"1\\n.\"}", sorry);
	text_codec_close(&t);
}

/* Makes the two numbers that awk leaves without quotes strings, as this codec has them. */
static void quote_number(struct buf *json, const char *key)
{
	struct buf out = {0};
	char find[40];
	int n = snprintf(find, sizeof(find), "\"%s\":", key);
	uint8_t *p = json->p, *end = p + json->len, *at;
	while ((at = memmem(p, (size_t)(end - p), find, (size_t)n))) {
		at += n;
		buf_add(&out, p, (size_t)(at - p));
		buf_add_byte(&out, '"');
		for (p = at; p < end && *p != ',' && *p != '}'; p++)
			buf_add_byte(&out, *p);
		buf_add_byte(&out, '"');
	}
	buf_add(&out, p, (size_t)(end - p));
	buf_deinit(json);
	*json = out;
}

static void test_package_index(void **state)
{
	(void)state;
	struct buf in = {0}, json = {0}, log = {0}, expected = {0}, again = {0};
	struct text_codec deb, js;
	if (!text_data("apt-index/sample.deb822.gz", &in))
		skip();
	assert_true(text_data("apt-index/sample.ndjson.gz", &json));
	quote_number(&json, "Size");
	quote_number(&json, "Installed-Size");
	text_codec_open(&js, "json", NULL, 1 << 18);
	text_stream(&js.codec, json.p, json.len, json.len, 1, &expected);
	text_codec_open(&deb, "deb822", NULL, 1 << 18);
	text_stream(&deb.codec, in.p, in.len, 65536, 65536, &log);
	assert_int_equal(log.len, expected.len);
	assert_memory_equal(log.p, expected.p, log.len);

	/* written and read again it is the same */
	uint8_t *out = malloc(1 << 18);
	struct codec_window w = {.p = in.p, .end = in.p + in.len, .last = true};
	size_t len, n = 0;
	while (deb.codec.ops->decode(&deb.codec, &w, out, 1 << 18, &len) == CODEC_E_OK) {
		assert_int_equal(deb.codec.ops->encode(&deb.codec, out, len, &again), 0);
		n++;
	}
	assert_int_equal(n, 4898);
	log.len = 0;
	text_stream(&deb.codec, again.p, again.len, 65536, 65536, &log);
	assert_int_equal(log.len, expected.len);
	assert_memory_equal(log.p, expected.p, log.len);
	free(out);
	text_codec_close(&deb);
	text_codec_close(&js);
	buf_deinit(&in);
	buf_deinit(&json);
	buf_deinit(&log);
	buf_deinit(&expected);
	buf_deinit(&again);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_fields),       cmocka_unit_test(test_continuations),
	        cmocka_unit_test(test_bad),          cmocka_unit_test(test_too_long),
	        cmocka_unit_test(test_long_comment), cmocka_unit_test(test_many_fields),
	        cmocka_unit_test(test_encode),       cmocka_unit_test(test_package_index),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
