/*
 * Conditions, by the step that does nothing else.
 */
#include "tests/unit/steps.h"

#include <time.h>

#include "stages/condition.h"

static void expect(struct steps *s, const char *json, bool keep, int line)
{
	int a = steps_run(s, json);
	if (a != (keep ? STAGE_OK : STAGE_E_FILTERED))
		fail_msg("line %d: %s: answer %d %s", line, json, a, s->st.why);
}

#define keeps(json) expect(s, json, true, __LINE__)
#define drops(json) expect(s, json, false, __LINE__)

static void test_is_and_not(void **state)
{
	struct steps *s = *state;
	steps_start(s, "filter", "{level: {not: debug}}");
	keeps("{\"level\":\"info\"}");
	drops("{\"level\":\"debug\"}");
	keeps("{\"level\":\"debugger\"}");
	keeps("{}");
	keeps("{\"level\":7}");
	steps_start(s, "filter", "{level: error, code: 5}");
	keeps("{\"level\":\"error\",\"code\":5}");
	keeps("{\"level\":\"error\",\"code\":5.0}");
	drops("{\"level\":\"error\",\"code\":\"5\"}");
	drops("{\"level\":\"error\"}");
	steps_start(s, "filter", "{code: \"5\"}");
	drops("{\"code\":5}");
	keeps("{\"code\":\"5\"}");
	steps_start(s, "filter", "{a.b: true}");
	keeps("{\"a\":{\"b\":true}}");
	keeps("{\"a.b\":true}");
	drops("{\"a\":{\"b\":false}}");
	drops("{\"a\":1}");
	steps_start(s, "filter", "{x: null}");
	keeps("{}");
	keeps("{\"x\":null}");
	drops("{\"x\":0}");
	steps_start(s, "filter", "{x: {not: null}}");
	drops("{}");
	keeps("{\"x\":[]}");
	steps_start(s, "filter", "{x: ==y}");
	keeps("{\"x\":\"=y\"}");
}

static void test_order(void **state)
{
	struct steps *s = *state;
	steps_start(s, "filter", "{x: {ge: 9007199254740993}}");
	keeps("{\"x\":9007199254740993}");
	drops("{\"x\":9007199254740992}");
	drops("{\"x\":9007199254740992.0}");
	keeps("{\"x\":9007199254740994.0}");
	keeps("{\"x\":18446744073709551615}");
	drops("{\"x\":\"9\"}");
	drops("{}");
	steps_start(s, "filter", "{x: {lt: 18446744073709551615}}");
	keeps("{\"x\":18446744073709551614}");
	drops("{\"x\":18446744073709551615}");
	keeps("{\"x\":-1}");
	drops("{\"x\":1e30}");
	steps_start(s, "filter", "{x: {gt: -1.5, le: 2}}");
	keeps("{\"x\":-1}");
	drops("{\"x\":-2}");
	drops("{\"x\":-1.5}");
	keeps("{\"x\":2}");
	drops("{\"x\":2.25}");
	steps_start(s, "filter", "{x: {gt: abc}}");
	keeps("{\"x\":\"abcd\"}");
	keeps("{\"x\":\"b\"}");
	keeps("{\"x\":\"c\"}");
	drops("{\"x\":\"abc\"}");
	drops("{\"x\":\"ab\"}");
	drops("{\"x\":5}");
}

static void test_lists(void **state)
{
	struct steps *s = *state;
	steps_start(s, "filter", "{x: [a, 2, 3.5, null, true]}");
	keeps("{\"x\":\"a\"}");
	keeps("{\"x\":2.0}");
	keeps("{\"x\":3.5}");
	keeps("{\"x\":true}");
	keeps("{}");
	drops("{\"x\":\"b\"}");
	drops("{\"x\":false}");
	struct buf b = {0};
	buf_add_str(&b, "{x: {in: [");
	for (int i = 0; i < 1000; i++)
		buf_printf(&b, "w%d, %d, ", i, i * 3);
	buf_add_str(&b, "0.5, 18446744073709551615]}}");
	buf_add_byte(&b, 0);
	steps_start(s, "filter", (char *)b.p);
	buf_deinit(&b);
	for (int i = 0; i < 3300; i++) {
		char json[64];
		snprintf(json, sizeof(json), "{\"x\":%d}", i);
		expect(s, json, i % 3 == 0 && i < 3000, __LINE__);
		snprintf(json, sizeof(json), "{\"x\":\"w%d\"}", i);
		expect(s, json, i < 1000, __LINE__);
	}
	keeps("{\"x\":6.0}");
	keeps("{\"x\":0.5}");
	keeps("{\"x\":18446744073709551615}");
	drops("{\"x\":null}");
	drops("{}");
	drops("{\"x\":[3]}");
	steps_start(s, "filter", "{x: {not: [a, b]}}");
	keeps("{\"x\":\"c\"}");
	drops("{\"x\":\"b\"}");
}

static void test_groups(void **state)
{
	struct steps *s = *state;
	steps_start(s, "filter", "{any: [{a: 1}, {b: 2}, \"c > 3\"]}");
	keeps("{\"a\":1}");
	keeps("{\"b\":2}");
	keeps("{\"c\":4}");
	drops("{\"c\":3}");
	steps_start(s, "filter", "{any: {a: 1, b: 2}}");
	keeps("{\"a\":1}");
	keeps("{\"b\":2}");
	drops("{\"a\":2,\"b\":1}");
	steps_start(s, "filter", "{none: [{a: 1}, {b: 2}], c: {exists: true}}");
	keeps("{\"c\":0}");
	drops("{\"c\":0,\"a\":1}");
	drops("{\"a\":0}");
	drops("{\"c\":null}");
	steps_start(s, "filter", "{all: [{a: 1}, {any: [{b: 1}, {none: [{c: 1}]}]}]}");
	keeps("{\"a\":1}");
	keeps("{\"a\":1,\"b\":1,\"c\":1}");
	drops("{\"a\":1,\"c\":1}");
}

static void test_matches(void **state)
{
	struct steps *s = *state;
	steps_start(s, "filter", "{u: {matches: '^/api/v[0-9]+/'}}");
	keeps("{\"u\":\"/api/v2/x\"}");
	drops("{\"u\":\"/api/x\"}");
	drops("{\"u\":5}");
	drops("{}");
	steps_start(s, "filter", "{u: {matches: '^.$'}}");
	keeps("{\"u\":\"\xc3\xa4\"}");
	drops("{\"u\":\"ab\"}");
	/* nested repeats on a hostile text end with a reason, and soon */
	steps_start(s, "filter", "{u: {matches: '^(a+)+$'}}");
	keeps("{\"u\":\"aaaa\"}");
	assert_int_equal(
	        steps_run(s, "{\"u\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!\"}"),
	        STAGE_E_REJECT);
	assert_non_null(strstr(s->st.why, "too many steps"));
}

static void test_expression(void **state)
{
	struct steps *s = *state;
	steps_start(s, "filter", "\"latency > 5 and level ~= 'debug'\"");
	keeps("{\"latency\":6}");
	drops("{\"latency\":6,\"level\":\"debug\"}");
	drops("{}");
	steps_start(s, "filter", "=latency > 5");
	keeps("{\"latency\":6}");
	assert_int_equal(steps_run(s, "{\"latency\":\"6\"}"), STAGE_E_REJECT);
	assert_non_null(strstr(s->st.why, "compare"));
}

static void test_refused(void **state)
{
	struct steps *s = *state;
	steps_refuse(s, "filter", "{a: {matchs: x}}", "did you mean \"matches\"");
	steps_refuse(s, "filter", "{a: {matchs: x}}", "test:1:6:");
	steps_refuse(s, "filter", "{a: {matches: '(x'}}", "at byte 2 of the pattern");
	steps_refuse(s, "filter", "{a: {in: x}}", "expects a list");
	steps_refuse(s, "filter", "{a: {lt: [1]}}", "number or text");
	steps_refuse(s, "filter", "{a: {exists: 1}}", "true or false");
	steps_refuse(s, "filter", "{a: {}}", "at least one operator");
	steps_refuse(s, "filter", "{}", "at least one field");
	steps_refuse(s, "filter", "{any: []}", "at least one condition");
	steps_refuse(s, "filter", "{a: {is: =b}}", "write the whole condition as one");
	steps_refuse(s, "filter", "a >", "too early");
	steps_refuse(s, "filter", "uper(a) == 'X'", "did you mean upper()");
	steps_refuse(s, "filter", "match(a, '(')", "pattern");
	steps_refuse(s, "filter", "[1]", "expected an expression or a map");
	steps_refuse(s, "filter", "5", "expected an expression or a map");
	/* all that is wrong, not the first thing only */
	assert_true(steps_check(s, "filter", "{a: {lt: []}, b: {xx: 1}, c: {matches: '('}}") == 3);
}

static void bench(struct steps *s, const char *yaml, const char *json)
{
	struct timespec a, b;
	steps_start(s, "filter", yaml);
	steps_open(s, json);
	const int rounds = 300000;
	int kept = 0;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	for (int i = 0; i < rounds; i++)
		kept += s->st.ops->transform(&s->st, &s->r) == STAGE_OK;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
	printf("  %6.1f ns  filter: %s\n", ns / rounds, yaml);
	assert_int_equal(kept, rounds);
}

static void test_speed(void **state)
{
	struct steps *s = *state;
	const char *json =
	        "{\"time\":\"2026-11-20T10:00:00Z\",\"service\":\"shop\",\"level\":\"info\","
	        "\"latency\":7.5,\"msg\":\"order 4711 was taken\"}";
	bench(s, "{level: {not: debug}}", json);
	bench(s, "{latency: {gt: 5}}", json);
	bench(s, "{msg: {matches: 'order [0-9]+ was'}}", json);
	bench(s, "{level: [a, b, c, d, e, f, g, h, i, info]}", json);
	bench(s, "level ~= 'debug'", json);
	bench(s, "latency > 5 and level == 'info'", json);
	bench(s, "msg:find('order', 1, true) ~= nil", json);
}

static int setup(void **state)
{
	*state = steps_new();
	return 0;
}

static int teardown(void **state)
{
	steps_free(*state);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_is_and_not), T(test_order),      T(test_lists),   T(test_groups),
	        T(test_matches),    T(test_expression), T(test_refused), T(test_speed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
