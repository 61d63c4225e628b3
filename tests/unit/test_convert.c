/*
 * The step convert, and points in time as text.
 */
#include "tests/unit/text.h"

#include <time.h>

#include "stages/times.h"

/* @json: a value; @expected: what it becomes, or "! " and a part of the reason. */
static void gives(const char *how, const char *json, const char *expected)
{
	char yaml[256], in[512];
	struct text_steps t;
	struct buf rec = {0}, log = {0};
	snprintf(yaml, sizeof(yaml), "[{convert: {v: %s}}]", how);
	snprintf(in, sizeof(in), "{\"v\":%s}", json);
	text_steps_open(&t, yaml, 1 << 16);
	text_record(in, &rec);
	text_steps_run(&t, 0, rec.p, rec.len, &log);
	buf_add_byte(&log, 0);
	if (*expected == '!') {
		assert_int_equal(log.p[0], '!');
		if (!strstr((char *)log.p, expected + 2) || !strstr((char *)log.p, "field v"))
			fail_msg("%s of %s: expected %s, got %s", how, json, expected,
			         (char *)log.p);
	} else {
		snprintf(in, sizeof(in), "{\"v\":%s}\n", expected);
		assert_string_equal((char *)log.p, in);
	}
	buf_deinit(&rec);
	buf_deinit(&log);
	text_steps_close(&t);
}

static void test_int(void **state)
{
	(void)state;
	gives("int", "\"0\"", "0");
	gives("int", "\"-0\"", "0");
	gives("int", "\"+007\"", "7");
	gives("int", "\"-9223372036854775808\"", "-9223372036854775808");
	gives("int", "\"-9223372036854775809\"", "! it is beyond 64 bits");
	gives("int", "\"18446744073709551615\"", "18446744073709551615");
	gives("int", "\"18446744073709551616\"", "! it is beyond 64 bits");
	gives("int", "\"99999999999999999999999999\"", "! it is beyond 64 bits");
	static const char *const bad[] = {"\"\"",    "\"-\"",       "\" 1\"",   "\"1 \"",
	                                  "\"1.0\"", "\"1e3\"",     "\"0x1f\"", "\"1\\u0000\"",
	                                  "\"--1\"", "\"\xd9\xa3\""};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		gives("int", bad[i], "! it is no whole number");
	gives("int", "3.0", "3");
	gives("int", "-3e10", "-30000000000");
	gives("int", "3.5", "! it has a fraction");
	gives("int", "1.8446744073709552e19", "! it is beyond 64 bits");
	gives("int", "-9223372036854775808.0", "-9223372036854775808");
	gives("int", "-9.3e18", "! it is beyond 64 bits");
	gives("int", "18446744073709551615", "18446744073709551615");
	gives("int", "true", "1");
	gives("int", "null", "null");
	gives("int", "[1]", "! it is neither text nor a number");
}

static void test_float(void **state)
{
	(void)state;
	gives("float", "\"0.1\"", "0.1");
	gives("float", "\"-.5\"", "-0.5");
	gives("float", "\"5.\"", "5.0");
	gives("float", "\"1E-2\"", "0.01");
	gives("float", "\"+12\"", "12.0");
	gives("float", "\"1e999\"", "! it is beyond what a float can hold");
	gives("float", "\"1e-999\"", "0.0");
	static const char *const bad[] = {"\"\"",    "\".\"",     "\"e1\"",      "\"1e\"",
	                                  "\"inf\"", "\"nan\"",   "\"0x1p3\"",   "\" 1\"",
	                                  "\"1,5\"", "\"1.2.3\"", "\"1\\u0000\""};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		gives("float", bad[i], "! it is no number");
	gives("float", "7", "7.0");
	gives("float", "9007199254740992", "9.007199254740992e15");
	gives("float", "9007199254740993", "! a float cannot hold it exactly");
	gives("float", "18446744073709551615", "! a float cannot hold it exactly");
	gives("float", "-9223372036854775808", "-9.223372036854776e18");
	gives("float", "-9223372036854775807", "! a float cannot hold it exactly");
	gives("float", "true", "! it is neither text nor a number");
}

static void test_bool_string(void **state)
{
	(void)state;
	static const char *const yes[] = {"\"true\"", "\"YES\"", "\"On\"", "\"t\"",
	                                  "\"y\"",    "\"1\"",   "1",      "true"};
	static const char *const no[] = {"\"false\"", "\"no\"", "\"OFF\"", "\"F\"",
	                                 "\"n\"",     "\"0\"",  "0",       "false"};
	for (size_t i = 0; i < 8; i++) {
		gives("bool", yes[i], "true");
		gives("bool", no[i], "false");
	}
	gives("bool", "\"\"", "! it is neither true nor false");
	gives("bool", "2", "! it is neither true nor false");
	gives("bool", "\"yess\"", "! it is neither true nor false");
	gives("string", "\"x\"", "\"x\"");
	gives("string", "-5", "\"-5\"");
	gives("string", "18446744073709551615", "\"18446744073709551615\"");
	gives("string", "0.1", "\"0.1\"");
	gives("string", "1.0", "\"1.0\"");
	gives("string", "5e-324", "\"5e-324\"");
	gives("string", "0.30000000000000004", "\"0.30000000000000004\"");
	gives("string", "false", "\"false\"");
	gives("string", "[1,{\"a\":null}]", "\"[1,{\\\"a\\\":null}]\"");
}

static void test_time(void **state)
{
	(void)state;
	static const char apache[] = "{type: time, format: '%d/%b/%Y:%H:%M:%S %z'}";
	gives(apache, "\"17/May/2015:10:05:03 +0000\"", "1431857103");
	gives(apache, "\"17/may/2015:10:05:03 +0530\"", "1431837303");
	gives(apache, "\"31/Feb/2015:10:05:03 +0000\"", "! there is no such time");
	gives(apache, "\"17/Mai/2015:10:05:03 +0000\"", "! it does not read as the format says");
	gives(apache, "\"17/May/2015:10:05:03 +0000 \"", "! it does not read as the format says");
	gives("time", "\"1970-01-01T00:00:00Z\"", "0");
	gives("time", "\"1969-12-31 23:59:59.5\"", "-1");
	gives("time", "\"2024-02-29\"", "1709164800");
	gives("time", "\"2023-02-29\"", "! there is no such time");
	gives("{type: time, unit: ms}", "\"2001-09-09T01:46:40.123456789+00:00\"", "1000000000123");
	gives("{type: time, unit: us}", "\"2001-09-09T01:46:40.123456789-01:00\"",
	      "1000003600123456");
	gives("{type: time, unit: ns}", "\"2001-09-09T01:46:40.123456789Z\"",
	      "1000000000123456789");
	gives("{type: time, unit: ns}", "\"3001-09-09T01:46:40Z\"", "! it is too far away");
	gives("{type: time, unit: ns}", "\"1969-12-31T23:59:59.999999999Z\"", "-1");
	gives("{type: time, unit: float}", "\"1970-01-01T00:00:01.5Z\"", "1.5");
	gives("{type: time, unit: rfc3339}", "1431857103", "\"2015-05-17T10:05:03Z\"");
	gives("{type: time, unit: rfc3339}", "\"2015-05-17T12:05:03.120+02:00\"",
	      "\"2015-05-17T10:05:03.120Z\"");
	gives("{type: time, unit: rfc3339}", "-1.5", "\"1969-12-31T23:59:58.500Z\"");
	gives("{type: time, unit: rfc3339}", "9223372036854775807",
	      "! its year has no four digits");
	gives("{type: time, format: '%s.%f', unit: ms}", "\"1431857103.25\"", "1431857103250");
	gives("time", "1e300", "! it is too far away");
	gives("time", "true", "! it is neither text nor a number");
	text_step_refused("[{convert: {a: {type: time, format: '%Q'}}}]", "%Q");
	text_step_refused("[{convert: {a: {type: int, format: '%Y'}}}]", "for type time");
	text_step_refused("[{convert: {a: flaot}}]", "float");
	text_step_refused("[{convert: {a: {format: '%Y'}}}]", "type");
	text_step_refused("[{convert: [a]}]", "expected a map");
	text_step_refused("[{convert: {a: [int]}}]", "expected a type");
}

static void test_paths(void **state)
{
	(void)state;
	text_step_gives("[{convert: {a: int, b.c: float, none: int, b.none: bool}}]",
	                "{\"a\":\"1\",\"b\":{\"c\":\"2.5\",\"d\":\"3\"}}",
	                "{\"a\":1,\"b\":{\"c\":2.5,\"d\":\"3\"}}\n");
	text_step_gives("[{convert: {a: int}}]", "{\"a\":\"x\"}",
	                "! field a cannot be an int: it is no whole number: x\n");
}

static int64_t parse(const char *fmt, const char *s, int expected)
{
	struct times t = {0};
	int r = times_parse(fmt, s, strlen(s), &t);
	if (r != expected)
		fail_msg("%s by %s: %d", s, fmt ? fmt : "RFC 3339", r);
	return r ? 0 : t.sec;
}

static void test_formats(void **state)
{
	(void)state;
	assert_int_equal(parse("%y%m%d", "690101", 0), -31536000);
	assert_int_equal(parse("%y%m%d", "680101", 0), 3092601600);
	assert_int_equal(parse("%I:%M %p", "12:00 AM", 0), 0);
	assert_int_equal(parse("%I:%M %p", "12:30 pm", 0), 45000);
	parse("%I:%M %p", "13:00 PM", TIMES_E_RANGE);
	assert_int_equal(parse("%Y %j", "2024 366", 0), 1735603200);
	parse("%Y %j", "2023 366", TIMES_E_RANGE);
	assert_int_equal(parse("%a %b %e %T %Y", "Sun Dec  4 04:47:44 2005", 0), 1133671664);
	assert_int_equal(parse("%A, %d-%B-%Y", "Sunday, 04-December-2005", 0), 1133654400);
	assert_int_equal(parse("%D %R", "12/04/05 04:47", 0), 1133671620);
	assert_int_equal(parse("%F%%%n%t", "2005-12-04%", 0), 1133654400);
	assert_int_equal(parse("%FT%T", "2016-12-31T23:59:60", 0), 1483228800);
	assert_int_equal(parse("%s", "-5", 0), -5);
	assert_int_equal(parse("%Y-%m-%d", "-001-01-01", TIMES_E_MATCH), 0);
	assert_int_equal(parse("%Y-%m-%d", "-0001-01-01", 0), -62198755200);
	parse("%H", "24", TIMES_E_RANGE);
	parse("%M", "60", TIMES_E_RANGE);
	parse("%Y", "15", TIMES_E_MATCH);
	parse("%z", "+5", TIMES_E_MATCH);
	parse("%z", "+05:6", TIMES_E_MATCH);
	parse("%z", "+0560", TIMES_E_MATCH);
	parse("%f", "", TIMES_E_MATCH);
	parse("x", "", TIMES_E_MATCH);
	parse(NULL, "2024-01-01T", TIMES_E_MATCH);
	parse(NULL, "2024-01-01T00:00:00.", TIMES_E_MATCH);
	parse(NULL, "2024-01-01X00:00:00", TIMES_E_MATCH);
	assert_int_equal(times_unknown("%Y %E"), 'E');
	assert_int_equal(times_unknown("100%"), '%');
	assert_int_equal(times_unknown("%F %T%z"), 0);
}

/* Every day of 2,400 years against the C library, there and back. */
static void test_calendar(void **state)
{
	(void)state;
	char text[40], libc[40];
	for (int64_t day = -719162; day < 157000; day++) {
		time_t when = (time_t)(day * 86400 + (day & 0xffff));
		struct tm tm;
		struct times t = {.sec = when}, back;
		gmtime_r(&when, &tm);
		snprintf(libc, sizeof(libc), "%04d-%02d-%02dT%02d:%02d:%02dZ", tm.tm_year + 1900,
		         tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
		size_t n = times_rfc3339(text, &t);
		assert_string_equal(text, libc);
		assert_int_equal(times_parse(NULL, text, n, &back), 0);
		assert_int_equal(back.sec, when);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_int),         cmocka_unit_test(test_float),
	        cmocka_unit_test(test_bool_string), cmocka_unit_test(test_time),
	        cmocka_unit_test(test_paths),       cmocka_unit_test(test_formats),
	        cmocka_unit_test(test_calendar),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
