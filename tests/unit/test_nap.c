/*
 * Naps against a simulated clock: chunks come at a given pace, and who naps for them is to wake up
 * about once a chunk, soon after it came, and to ask for doorbells when there is no pace.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/nap.h"

enum {
	CHUNKS = 4000,
	SETTLED = 1000, /* chunks after which the pace must have been found */
	WAKING = 20000, /* ns from the end of a nap, or from a doorbell, to the look */
	LINGER = 1000000,
};

struct outcome {
	double wakes, doorbells; /* a chunk */
	double late;             /* ns, the mean */
	int64_t latest;
};

/* Chunk i comes at i * @period + up to @jitter. */
static int64_t arrival(int64_t i, int64_t period, int64_t jitter)
{
	return i * period + (jitter ? i * 7919 % 97 * jitter / 97 : 0);
}

static struct outcome play(int64_t linger, int64_t period, int64_t jitter, bool small)
{
	struct nap n;
	struct outcome o = {0};
	int64_t now = 0, next = 1, wakes = 0, bells = 0, late = 0;
	nap_init(&n, linger);
	while (next < CHUNKS) {
		bool count = next >= SETTLED;
		int64_t t = nap_take(&n), due = arrival(next, period, jitter);
		assert_true(t <= n.most);
		bells += count && t == 0;
		wakes += count;
		now = t ? now + t + WAKING : (due > now ? due : now) + WAKING;
		for (; next < CHUNKS && (due = arrival(next, period, jitter)) <= now; next++) {
			nap_chunk(&n, small);
			if (!count)
				continue;
			late += now - due;
			o.latest = now - due > o.latest ? now - due : o.latest;
		}
	}
	o.wakes = (double)wakes / (CHUNKS - SETTLED);
	o.doorbells = (double)bells / (CHUNKS - SETTLED);
	o.late = (double)late / (CHUNKS - SETTLED);
	return o;
}

static void a_steady_pace_costs_about_one_waking_a_chunk(void **state)
{
	(void)state;
	for (int64_t period = 300000; period <= 1400000; period += 50000) {
		struct outcome o = play(LINGER, period, 0, true);
		print_message("%5.2f ms: %.2f wakes, %.2f doorbells, %.0f us late, at most %.0f\n",
		              (double)period / 1e6, o.wakes, o.doorbells, o.late / 1e3,
		              (double)o.latest / 1e3);
		assert_true(o.wakes < 1.3);
		assert_true(o.doorbells < 0.05);
		assert_true(o.late < 200000);
	}
}

static void an_unsteady_one_is_late_by_no_more_than_a_nap(void **state)
{
	(void)state;
	struct outcome o = play(LINGER, 800000, 700000, true);
	print_message("%.2f wakes, %.2f doorbells, %.0f us late, at most %.0f\n", o.wakes,
	              o.doorbells, o.late / 1e3, (double)o.latest / 1e3);
	assert_true(o.wakes < 2);
	assert_true(o.latest <= LINGER + LINGER / 2 + WAKING);
}

static void what_comes_seldom_is_rung_for(void **state)
{
	(void)state;
	struct outcome o = play(LINGER, 10000000, 0, true);
	assert_true(o.doorbells > 0.95);
	assert_true(o.wakes < 2);
}

static void what_comes_fast_is_rung_for(void **state)
{
	(void)state;
	struct outcome o = play(LINGER, 10000, 0, true);
	assert_true(o.late < 60000);
}

static void full_chunks_and_those_that_may_not_wait_are_rung_for(void **state)
{
	(void)state;
	assert_true(play(LINGER, 500000, 0, false).doorbells == 1);
	assert_true(play(0, 500000, 0, true).doorbells == 1);
	assert_true(play(INT64_MAX, 500000, 0, true).doorbells < 0.05);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_steady_pace_costs_about_one_waking_a_chunk),
	        cmocka_unit_test(an_unsteady_one_is_late_by_no_more_than_a_nap),
	        cmocka_unit_test(what_comes_seldom_is_rung_for),
	        cmocka_unit_test(what_comes_fast_is_rung_for),
	        cmocka_unit_test(full_chunks_and_those_that_may_not_wait_are_rung_for),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
