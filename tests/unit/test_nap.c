/*
 * Naps against a simulated clock: chunks come at a given pace, and who naps for them is to wake up
 * once for each when they come on the beat, and to ask for doorbells when there is no pace.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/nap.h"

enum {
	CHUNKS = 4000,
	SETTLED = 100,  /* chunks after which the pace must have been found */
	WAKING = 60000, /* ns from the end of a nap, or from a doorbell, to the look */
	LINGER = 1000000,
	STEP = 100000,
};

/* How chunks come. */
struct pace {
	int64_t linger, period, jitter;
	unsigned depth;
	bool large;
	int64_t missed; /* every so many-th comes half a linger late; 0: none */
};

struct outcome {
	double wakes, doorbells; /* a chunk */
	double late;             /* ns, the mean */
	int64_t latest;
};

/* Chunk i is sealed on a beat, and there when its maker has woken up and run. */
static int64_t arrival(const struct pace *p, int64_t i)
{
	int64_t t = i * p->period + WAKING + (p->jitter ? i * 7919 % 97 * p->jitter / 97 : 0);
	return p->missed && i % p->missed == 0 ? t + p->linger / 2 : t;
}

static struct outcome play(struct pace p)
{
	struct nap n;
	struct outcome o = {0};
	int64_t now = 1, next = 1, wakes = 0, bells = 0, late = 0;
	nap_init(&n, p.linger, p.depth);
	while (next < CHUNKS) {
		bool count = next >= SETTLED;
		int64_t t = nap_take(&n, now), due = arrival(&p, next);
		assert_true(t >= 0 && t <= n.period);
		bells += count && t == 0;
		wakes += count;
		now = t ? now + t + WAKING : (due > now ? due : now) + WAKING;
		for (; next < CHUNKS && (due = arrival(&p, next)) <= now; next++) {
			nap_chunk(&n, !p.large);
			if (!count)
				continue;
			late += now - due;
			o.latest = now - due > o.latest ? now - due : o.latest;
		}
	}
	o.wakes = (double)wakes / (CHUNKS - SETTLED);
	o.doorbells = (double)bells / (CHUNKS - SETTLED);
	o.late = (double)late / (CHUNKS - SETTLED);
	print_message(
	        "%5.2f ms, jitter %.2f: %.2f wakes, %.2f doorbells, %.0f us late, at most %.0f\n",
	        (double)p.period / 1e6, (double)p.jitter / 1e6, o.wakes, o.doorbells, o.late / 1e3,
	        (double)o.latest / 1e3);
	return o;
}

static void on_the_beat_nobody_rings(void **state)
{
	(void)state;
	for (int64_t linger = 300000; linger <= LINGER; linger += 50000)
		for (unsigned depth = 1; depth < 4; depth++) {
			struct pace p = {linger, 2 * linger, 0, depth, false, 0};
			struct outcome o = play(p);
			assert_true(o.wakes < 1.01);
			assert_true(o.doorbells == 0);
			assert_true(o.latest <= depth * STEP);
		}
}

static void a_stage_that_is_late_costs_a_step(void **state)
{
	(void)state;
	struct outcome o = play((struct pace){LINGER, 2 * LINGER, 3 * STEP, 1, false, 0});
	assert_true(o.wakes < 2.5);
	assert_true(o.doorbells < 0.01);
	assert_true(o.latest <= 2 * STEP + WAKING);
}

static void a_beat_that_is_missed_costs_one_doorbell(void **state)
{
	(void)state;
	struct outcome o = play((struct pace){LINGER, 2 * LINGER, 0, 1, false, 50});
	assert_true(o.doorbells < 0.03);
	assert_true(o.wakes < 1.1);
}

static void an_unsteady_one_is_late_by_no_more_than_two_lingers(void **state)
{
	(void)state;
	struct outcome o = play((struct pace){LINGER, 800000, 700000, 1, false, 0});
	assert_true(o.wakes < 2);
	assert_true(o.latest <= 2 * LINGER + WAKING);
}

static void what_comes_seldom_is_rung_for(void **state)
{
	(void)state;
	struct outcome o = play((struct pace){LINGER, 10000000, 0, 1, false, 0});
	assert_true(o.doorbells > 0.95);
	assert_true(o.wakes < 1.5);
}

static void what_comes_fast_is_rung_for(void **state)
{
	(void)state;
	struct outcome o = play((struct pace){LINGER, 10000, 0, 1, false, 0});
	assert_true(o.late < 150000);
	assert_true(o.doorbells > 0.1);
}

static void full_chunks_and_those_that_may_not_wait_are_rung_for(void **state)
{
	(void)state;
	assert_true(play((struct pace){LINGER, LINGER, 0, 1, true, 0}).doorbells == 1);
	assert_true(play((struct pace){0, 500000, 0, 1, false, 0}).doorbells == 1);
	assert_true(play((struct pace){2 * STEP, 2 * STEP, 0, 1, false, 0}).doorbells == 1);
	assert_true(play((struct pace){5 * LINGER, 5 * LINGER, 0, 1, false, 0}).doorbells == 1);
	assert_true(play((struct pace){INT64_MAX, 500000, 0, 1, false, 0}).doorbells == 1);
}

static void a_nap_that_held_somebody_up_is_not_taken_again(void **state)
{
	(void)state;
	struct nap n;
	nap_init(&n, LINGER, 1);
	nap_chunk(&n, true);
	assert_true(nap_take(&n, 1) > 0);
	nap_full(&n);
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(nap_take(&n, 1), 0);
		nap_chunk(&n, true);
	}
}

static void the_beat_is_always_ahead(void **state)
{
	(void)state;
	assert_int_equal(nap_beat(0, LINGER), LINGER);
	assert_int_equal(nap_beat(LINGER - 1, LINGER), LINGER);
	assert_int_equal(nap_beat(LINGER, LINGER), 2 * LINGER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(on_the_beat_nobody_rings),
	        cmocka_unit_test(a_stage_that_is_late_costs_a_step),
	        cmocka_unit_test(a_beat_that_is_missed_costs_one_doorbell),
	        cmocka_unit_test(an_unsteady_one_is_late_by_no_more_than_two_lingers),
	        cmocka_unit_test(what_comes_seldom_is_rung_for),
	        cmocka_unit_test(what_comes_fast_is_rung_for),
	        cmocka_unit_test(full_chunks_and_those_that_may_not_wait_are_rung_for),
	        cmocka_unit_test(a_nap_that_held_somebody_up_is_not_taken_again),
	        cmocka_unit_test(the_beat_is_always_ahead),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
