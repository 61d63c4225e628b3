/*
 * set: literals of every kind, expressions in order, paths, removal, and what is refused.
 */
#include "tests/unit/steps.h"

#include <time.h>

static void test_literals(void **state)
{
	struct steps *s = *state;
	steps_start(s, "set",
	            "{a: 1, b: 2.5, c: text, d: true, e: \"5\", f: ==x, g: [1, {h: null}], i: {}}");
	steps_expect(s, "{}",
	             "{\"a\":1,\"b\":2.5,\"c\":\"text\",\"d\":true,\"e\":\"5\",\"f\":\"=x\","
	             "\"g\":[1,{\"h\":null}],\"i\":{}}");
	steps_expect(
	        s, "{\"z\":0,\"a\":{}}",
	        "{\"z\":0,\"a\":1,\"b\":2.5,\"c\":\"text\",\"d\":true,\"e\":\"5\",\"f\":\"=x\","
	        "\"g\":[1,{\"h\":null}],\"i\":{}}");
	steps_start(s, "set", "{a: 18446744073709551615}");
	steps_expect(s, "{}", "{\"a\":18446744073709551615}");
}

/* From top to bottom, each seeing what those before it did. */
static void test_order(void **state)
{
	struct steps *s = *state;
	steps_start(s, "set", "{c: =a .. 'x', d: =c .. b, b: =upper(d), a: null}");
	steps_expect(s, "{\"a\":\"1\",\"b\":\"2\"}", "{\"b\":\"1X2\",\"c\":\"1x\",\"d\":\"1x2\"}");
	steps_start(s, "set", "{n: =n + 1, twice: =n * 2}");
	steps_expect(s, "{\"n\":20}", "{\"n\":21,\"twice\":42}");
	steps_expect(s, "{}", "{}");
}

static void test_paths(void **state)
{
	struct steps *s = *state;
	steps_start(s, "set", "{user.country: =upper(user.country), user.a.b: 1}");
	steps_expect(s, "{\"user\":{\"country\":\"de\",\"n\":1}}",
	             "{\"user\":{\"country\":\"DE\",\"n\":1,\"a\":{\"b\":1}}}");
	steps_expect(s, "{}", "{\"user\":{\"a\":{\"b\":1}}}");
	assert_int_equal(steps_run(s, "{\"user\":5}"), STAGE_E_REJECT);
	assert_string_equal(s->st.why, "user.a.b: a part of the path is no map");
	steps_start(s, "set", "{a.b: null, c: =d}");
	steps_expect(s, "{\"a\":{\"b\":1,\"x\":2},\"c\":3}", "{\"a\":{\"x\":2}}");
	steps_expect(s, "{\"a\":1,\"d\":null}", "{\"a\":1,\"d\":null}");
}

static void test_errors(void **state)
{
	struct steps *s = *state;
	steps_start(s, "set", "{x: =a + b}");
	assert_int_equal(steps_run(s, "{\"a\":1,\"b\":\"q\"}"), STAGE_E_REJECT);
	assert_true(strncmp(s->st.why, "x: ", 3) == 0);
	assert_non_null(strstr(s->st.why, "'number' with a 'string'"));
	steps_expect(s, "{\"a\":1,\"b\":1}", "{\"a\":1,\"b\":1,\"x\":2}");
	steps_refuse(s, "set", "{x: =a +}", "test:1:5:");
	steps_refuse(s, "set", "{x: [=a]}", "inside a structure");
	steps_refuse(s, "set", "{}", "expected a map");
	steps_refuse(s, "set", "[a]", "expected a map");
	assert_int_equal(steps_check(s, "set", "{a: =(, b: =), c: 1}"), 2);
}

static void bench(struct steps *s, const char *yaml)
{
	struct timespec a, b;
	double ns = 0;
	const char *why;
	const int rounds = 200000;
	steps_start(s, "set", yaml);
	steps_open(s, "{\"time\":\"2026-11-20T10:00:00Z\",\"service\":\"shop\",\"level\":\"info\","
	              "\"latency\":7.5,\"msg\":\"order 4711 was taken\"}");
	static uint8_t in[4096];
	size_t len = record_write(&s->r, in);
	for (int pass = 0; pass < 2; pass++) {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
		for (int i = 0; i < rounds; i++) {
			assert_int_equal(record_open(&s->r, in, len, &why), 0);
			if (pass)
				s->st.ops->transform(&s->st, &s->r);
		}
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
		double t = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
		ns = pass ? t - ns : t;
	}
	printf("  %6.1f ns  set: %s\n", ns / rounds, yaml);
}

static void test_speed(void **state)
{
	struct steps *s = *state;
	bench(s, "{env: prod}");
	bench(s, "{service: =upper(service)}");
	bench(s, "{env: prod, service: =upper(service)}");
	bench(s, "{processed_at: =now(), hash: =xxh64(msg), service: =upper(service)}");
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
	        T(test_literals), T(test_order), T(test_paths), T(test_errors), T(test_speed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
