/*
 * route: which output a record leaves by, alone and in a chain.
 */
#include "tests/unit/steps.h"

static void test_first(void **state)
{
	struct steps *s = *state;
	steps_start(s, "route", "{errors: {level: error}, slow: \"latency > 5\"}");
	const char *const *names = s->st.ops->outputs(s->config);
	assert_string_equal(names[0], "errors");
	assert_string_equal(names[1], "slow");
	assert_null(names[2]);
	assert_int_equal(steps_run(s, "{\"level\":\"error\",\"latency\":9}"), STAGE_E_EMITTED);
	assert_int_equal(s->host->n, 1);
	assert_int_equal(s->host->items[0].output, 1);
	assert_int_equal(steps_run(s, "{\"latency\":9}"), STAGE_E_EMITTED);
	assert_int_equal(s->host->items[1].output, 2);
	assert_string_equal(steps_json(s, s->host->items[1].p, s->host->items[1].len),
	                    "{\"latency\":9}");
	assert_int_equal(steps_run(s, "{\"latency\":1}"), STAGE_OK);
	assert_int_equal(s->host->n, 2);
}

static void test_all_and_default(void **state)
{
	struct steps *s = *state;
	steps_start(s, "route", "{a: {x: 1}, b: {y: 1}, c: {z: 1}, match: all, default: drop}");
	assert_int_equal(steps_run(s, "{\"x\":1,\"z\":1}"), STAGE_E_EMITTED);
	assert_int_equal(s->host->n, 2);
	assert_int_equal(s->host->items[0].output, 1);
	assert_int_equal(s->host->items[1].output, 3);
	assert_int_equal(steps_run(s, "{}"), STAGE_E_FILTERED);
	/* a condition that fails rejects the record before any output has it */
	steps_start(s, "route", "{a: {x: 1}, b: \"y < 5\", match: all}");
	assert_int_equal(steps_run(s, "{\"x\":1,\"y\":\"q\"}"), STAGE_E_REJECT);
	assert_int_equal(s->host->n, 0);
}

static void test_refused(void **state)
{
	struct steps *s = *state;
	steps_refuse(s, "route", "{}", "at least one output");
	steps_refuse(s, "route", "{match: all}", "at least one output");
	steps_refuse(s, "route", "{a: {x: 1}, match: some}", "expected first or all");
	steps_refuse(s, "route", "{a: {x: 1}, default: 5}", "expected main or drop");
	steps_refuse(s, "route", "{main: {x: 1}}", "cannot be the name");
	steps_refuse(s, "route", "{\"a b\": {x: 1}}", "cannot be the name");
	steps_refuse(s, "route", "{a: \"x >\"}", "too early");
	steps_refuse(s, "route", "x > 5", "expected a map");
	struct buf b = {0};
	buf_add_str(&b, "{");
	for (int i = 0; i < 32; i++)
		buf_printf(&b, "o%d: \"true\", ", i);
	buf_add_str(&b, "}");
	buf_add_byte(&b, 0);
	steps_refuse(s, "route", (char *)b.p, "more than 31 outputs");
	buf_deinit(&b);
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
	const struct CMUnitTest tests[] = {T(test_first), T(test_all_and_default), T(test_refused)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
