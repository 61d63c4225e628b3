/*
 * The step parse: codecs and patterns over a field, and real logs.
 */
#include "tests/unit/text.h"

#include "stages/steps/capture.h"

static void test_json(void **state)
{
	(void)state;
	text_step_gives("[{parse: {field: m}}]",
	                "{\"a\":1,\"m\":\"{\\\"a\\\":2,\\\"b\\\":[3]}\",\"z\":0}",
	                "{\"a\":2,\"z\":0,\"b\":[3]}\n");
	text_step_gives("[{parse: {field: m, format: json, into: x.y}}]",
	                "{\"m\":\" {\\\"a\\\":2} \"}", "{\"x\":{\"y\":{\"a\":2}}}\n");
	text_step_gives("[{parse: {field: m, keep_original: true}}]", "{\"m\":\"{\\\"a\\\":2}\"}",
	                "{\"m\":\"{\\\"a\\\":2}\",\"a\":2}\n");
	text_step_gives("[{parse: {field: d.m, into: d.m}}]", "{\"d\":{\"m\":\"{\\\"a\\\":2}\"}}",
	                "{\"d\":{\"m\":{\"a\":2}}}\n");
	/* a parsed field of the name of the text wins */
	text_step_gives("[{parse: {field: m}}]", "{\"m\":\"{\\\"m\\\":2}\"}", "{\"m\":2}\n");
	text_step_gives("[{parse: {field: m}}, {parse: {field: n}}]",
	                "{\"m\":\"{\\\"n\\\":\\\"{\\\\\\\"o\\\\\\\":5}\\\"}\"}", "{\"o\":5}\n");
	text_step_gives("[{parse: {field: m}}]", "{\"m\":\"\"}", "! field m: no record in it\n");
	text_step_gives("[{parse: {field: m}}]", "{\"m\":\"{} {}\"}",
	                "! field m: more than one record in it\n");
	text_step_gives("[{parse: {field: m}}]", "{\"m\":7}", "! field m is no text\n");
	text_step_gives("[{parse: {field: m}}]", "{\"x\":7}", "! no field m to parse\n");
	text_step_gives("[{parse: {field: m, into: x.y}}]", "{\"m\":\"{}\",\"x\":7}",
	                "! parse: no way to x.y: something on it is no map\n");
}

static void test_json_bad(void **state)
{
	(void)state;
	static const char *const bad[] = {"{\"m\":\"{\\\"a\\\":}\"}", "{\"m\":\"[1]\"}",
	                                  "{\"m\":\"5\"}", "{\"m\":\"{\\\"a\\\":1\"}"};
	struct text_steps t;
	text_steps_open(&t, "[{parse: {field: m}}]", 1 << 16);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct buf rec = {0};
		text_record(bad[i], &rec);
		struct chain_outcome o = text_steps_run(&t, 0, rec.p, rec.len, NULL);
		assert_int_equal(o.answer, STAGE_E_REJECT);
		assert_non_null(strstr(o.why, "field m is no json: "));
		buf_deinit(&rec);
	}
	text_steps_close(&t);
}

/* A text that grows when parsed: a buffer that starts at 4 KiB has to follow, up to the largest
 * record. */
static void test_growth(void **state)
{
	(void)state;
	struct buf json = {0}, rec = {0};
	buf_add_str(&json, "{\"m\":\"{\\\"a\\\":[0.5");
	for (int i = 0; i < 5000; i++)
		buf_add_str(&json, ",0.5");
	buf_add_str(&json, "]}\"}");
	buf_add_byte(&json, 0);
	text_record((char *)json.p, &rec);
	struct text_steps t;
	text_steps_open(&t, "[{parse: {field: m}}]", 1 << 16);
	assert_int_equal(text_steps_run(&t, 0, rec.p, rec.len, NULL).answer, STAGE_OK);
	assert_int_equal(t.host->items[0].len, 3 + 3 + 5001 * 9);
	text_steps_close(&t);
	text_steps_open(&t, "[{parse: {field: m}}]", 30000);
	assert_int_equal(text_steps_run(&t, 0, rec.p, rec.len, NULL).answer, STAGE_E_REJECT);
	text_steps_close(&t);
	buf_deinit(&json);
	buf_deinit(&rec);
}

static void test_codecs(void **state)
{
	(void)state;
	text_step_gives("[{parse: {field: m, format: csv, columns: [a, b], delimiter: ';'}}]",
	                "{\"m\":\"1;\\\"x;y\\\"\",\"z\":0}",
	                "{\"z\":0,\"a\":\"1\",\"b\":\"x;y\"}\n");
	text_step_gives("[{parse: {field: m, format: csv, columns: [a, b]}}]", "{\"m\":\"1\"}",
	                "! field m is no csv: line 1: 1 fields where there are 2 columns\n");
	text_step_gives("[{parse: {field: m, format: deb822, into: p}}]",
	                "{\"m\":\"A: 1\\nB:\\n 2\"}", "{\"p\":{\"A\":\"1\",\"B\":\"\\n2\"}}\n");
	text_step_refused("[{parse: {field: m, format: csv}}]", "needs columns");
	text_step_refused("[{parse: {field: m, format: csv, columns: [a], delimiter: xx}}]",
	                  "delimiter");
	text_step_refused("[{parse: {field: m, format: json, delimiter: ','}}]", "delimiter");
	text_step_refused("[{parse: {field: m, format: xml}}]", "xml");
	text_step_refused("[{parse: {format: json}}]", "field");
	text_step_refused("[{parse: {field: m, patern: x}}]", "pattern");
}

static void test_regex(void **state)
{
	(void)state;
	text_step_gives("[{parse: {field: m, pattern: '^(?<ip>\\S+) (?<n>\\d+)?(?<rest>.*)$'}}]",
	                "{\"m\":\"::1 x\",\"z\":0}", "{\"z\":0,\"ip\":\"::1\",\"rest\":\"x\"}\n");
	text_step_gives("[{parse: {field: m, pattern: '(?<b>\\w)-(?<a>\\w)', into: g}}]",
	                "{\"m\":\"__x-\xc3\xbc-\"}", "! field m does not match the pattern\n");
	text_step_gives("[{parse: {field: m, pattern: '(?<b>.)-(?<a>.)', into: g}}]",
	                "{\"m\":\"\xc3\xa4-\xc3\xbc-\"}",
	                "{\"g\":{\"b\":\"\xc3\xa4\",\"a\":\"\xc3\xbc\"}}\n");
	text_step_gives("[{parse: {field: m, pattern: '(?J)^(?:a(?<x>.)|b(?<x>.))'}}]",
	                "{\"m\":\"b5\"}", "{\"x\":\"5\"}\n");
	/* backtracking without end is given up */
	text_step_gives("[{parse: {field: m, pattern: '^(?<x>(a+)+)+$'}}]",
	                "{\"m\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\"}",
	                "! field m: matching the pattern takes too many steps\n");
	text_step_refused("[{parse: {field: m, pattern: '(?<x>a'}}]",
	                  "missing closing parenthesis");
	text_step_refused("[{parse: {field: m, pattern: '(a)'}}]", "no named group");
	text_step_refused("[{parse: {field: m, pattern: '(?<x>\\C)'}}]", "\\C");
	text_step_refused("[{parse: {field: m, format: regex}}]", "needs a pattern");
	text_step_refused("[{parse: {field: m, pattern: '(?<a>b)', delimiter: x}}]",
	                  "not an option");
	text_step_refused("[{parse: {field: m, format: json, pattern: '(?<a>b)'}}]", "pattern");
}

/* Machine code and interpreter agree. */
static void test_interpreter(void **state)
{
	(void)state;
	static const char pattern[] = "(?<a>[a-c]+?)(?<b>\\d{2,})?(?<c>x|$)";
	static const char *const texts[] = {"abc12x",
	                                    "c",
	                                    "zzab1",
	                                    "bb123",
	                                    "",
	                                    ("\xc3\xa4"
	                                     "a77"),
	                                    "a1x",
	                                    "cx",
	                                    "\xff",
	                                    "aaaa12"};
	struct capture *jit = NULL, *slow = NULL;
	struct buf x = {0}, y = {0};
	char why[160];
	assert_int_equal(capture_new(&jit, pattern, true, why, sizeof(why)), 0);
	assert_int_equal(capture_new(&slow, pattern, false, why, sizeof(why)), 0);
	assert_false(capture_jit(slow));
	if (!capture_jit(jit))
		print_message("no machine code here: interpreter only\n");
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		const uint8_t *s = (const uint8_t *)texts[i];
		int r = capture_map(jit, s, strlen(texts[i]), &x);
		assert_int_equal(capture_map(slow, s, strlen(texts[i]), &y), r);
		assert_int_equal(x.len, y.len);
		assert_memory_equal(x.p, y.p, x.len);
	}
	assert_int_equal(capture_map(jit, (const uint8_t *)"\xff", 1, &x), CAPTURE_E_TEXT);
	capture_free(jit);
	capture_free(slow);
	buf_deinit(&x);
	buf_deinit(&y);
}

/* Runs every line of a file through steps; counts what became of them. */
struct tally {
	unsigned ok, rejected, rejected_line;
	int64_t sum;
	unsigned status200, noted;
	int64_t first, last;
};

static int64_t number(struct record *r, const char *key)
{
	struct field *f = record_get(r, key, strlen(key));
	struct mp v = f ? record_value(f->val, f->val_len) : (struct mp){.type = MP_NIL};
	return v.type == MP_UINT ? (int64_t)v.u : -1;
}

static void note(struct tally *y, const struct host_item *it, const char *key, const char *text)
{
	struct record r = {0};
	const char *why;
	assert_int_equal(record_open(&r, it->p, it->len, &why), 0);
	int64_t at = number(&r, "at"), bytes = number(&r, "bytes");
	y->sum += bytes > 0 ? bytes : 0;
	y->status200 += number(&r, "status") == 200;
	y->first = y->ok == 1 || at < y->first ? at : y->first;
	y->last = at > y->last ? at : y->last;
	struct field *f = record_get(&r, key, strlen(key));
	struct mp v = f ? record_value(f->val, f->val_len) : (struct mp){.type = MP_NIL};
	y->noted += v.type == MP_STR && v.len == strlen(text) && memcmp(v.p, text, v.len) == 0;
	record_deinit(&r);
}

static bool tally(const char *file, const char *steps, const char *key, const char *text,
                  struct tally *y)
{
	struct buf in = {0};
	struct text_codec lines;
	struct text_steps t;
	uint8_t out[8192];
	size_t len;
	*y = (struct tally){0};
	if (!text_data(file, &in))
		return false;
	text_codec_open(&lines, "lines", NULL, sizeof(out));
	text_steps_open(&t, steps, 1 << 16);
	struct codec_window w = {.p = in.p, .end = in.p + in.len, .last = true};
	for (unsigned n = 1;
	     lines.codec.ops->decode(&lines.codec, &w, out, sizeof(out), &len) == CODEC_E_OK; n++) {
		struct chain_outcome o = text_steps_run(&t, n, out, len, NULL);
		if (o.answer == STAGE_E_REJECT) {
			y->rejected++;
			y->rejected_line = n;
			continue;
		}
		assert_int_equal(o.answer, STAGE_OK);
		assert_int_equal(t.host->n, 1);
		y->ok++;
		note(y, &t.host->items[0], key, text);
	}
	assert_int_equal(w.end - w.p, 0);
	text_steps_close(&t);
	text_codec_close(&lines);
	buf_deinit(&in);
	return true;
}

static void test_apache(void **state)
{
	(void)state;
	struct tally y;
	static const char steps[] =
	        "- parse:\n"
	        "    field: line\n"
	        "    pattern: '^(?<ip>\\S+) (?<ident>\\S+) (?<user>\\S+) \\[(?<at>[^\\]]+)\\] "
	        "\"(?<request>(?:[^\"\\\\]|\\\\.)*)\" (?<status>\\d{3}) (?:(?<bytes>\\d+)|-) "
	        "\"(?<referrer>(?:[^\"\\\\]|\\\\.)*)\" \"(?<agent>(?:[^\"\\\\]|\\\\.)*)\"$'\n"
	        "- convert:\n"
	        "    status: int\n"
	        "    bytes: int\n"
	        "    at: {type: time, format: '%d/%b/%Y:%H:%M:%S %z'}\n";
	if (!tally("logs/apache_logs", steps, "ip", "66.249.73.135", &y))
		skip();
	assert_int_equal(y.ok, 9999);
	assert_int_equal(y.rejected, 1);
	assert_int_equal(y.rejected_line, 8899);
	assert_int_equal(y.sum, 2747282505);
	assert_int_equal(y.status200, 9125);
	assert_int_equal(y.noted, 482);
	assert_int_equal(y.first, 1431857100);
	assert_int_equal(y.last, 1432155959);
}

static void test_loghub(void **state)
{
	(void)state;
	struct tally y;
	if (!tally("logs/loghub/Apache/Apache_2k.log",
	           "[{parse: {field: line, pattern: "
	           "'^\\[(?P<time>[^\\]]+)\\] \\[(?P<level>\\w+)\\] (?P<msg>.*)$'}}, "
	           "{convert: {time: {type: time, format: '%a %b %d %T %Y'}}}]",
	           "level", "notice", &y))
		skip();
	assert_int_equal(y.ok, 2000);
	assert_int_equal(y.noted, 1405);
	assert_true(tally("logs/loghub/Linux/Linux_2k.log",
	                  "[{parse: {field: line, pattern: '^(?P<month>\\w{3}) +(?P<day>\\d+) "
	                  "(?P<time>\\S+) (?P<host>\\S+) "
	                  "(?P<prog>[^\\[:]+?)(?:\\[(?P<pid>\\d+)\\])?: ?(?P<msg>.*)$'}}]",
	                  "prog", "ftpd", &y));
	assert_int_equal(y.ok, 2000);
	assert_int_equal(y.noted, 916);
	assert_true(tally("logs/loghub/Spark/Spark_2k.log",
	                  "[{parse: {field: line, pattern: '^(?P<date>\\S+) (?P<time>\\S+) "
	                  "(?P<level>\\w+) (?P<component>[^:]+): (?P<msg>.*)$'}}]",
	                  "component", "executor.Executor", &y));
	assert_int_equal(y.ok, 2000);
	assert_int_equal(y.noted, 606);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_json),   cmocka_unit_test(test_json_bad),
	        cmocka_unit_test(test_growth), cmocka_unit_test(test_codecs),
	        cmocka_unit_test(test_regex),  cmocka_unit_test(test_interpreter),
	        cmocka_unit_test(test_apache), cmocka_unit_test(test_loghub),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
