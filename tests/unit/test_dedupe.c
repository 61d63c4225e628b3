/*
 * dedupe: repeats go, re-runs stay, and every bound forgets the oldest.
 */
#include "tests/unit/rig.h"

#include "stages/key.h"

extern const struct stage_ops dedupe_step;

static int run(struct rig *g)
{
	g->st.origin.record++;
	return g->st.ops->transform(&g->st, &g->rec);
}

static int run_id(struct rig *g, int64_t id)
{
	rig_record(g, "id", 'i', id, NULL);
	return run(g);
}

static void test_repeats(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &dedupe_step, "{by: [user.id, kind]}");
	static const uint8_t user1[] = {0x81, 0xa2, 'i', 'd', 1};
	static const uint8_t user1f[] = {0x81, 0xa2, 'i', 'd', 0xca, 0x3f, 0x80, 0, 0};
	rig_record(&g, "user", 'r', user1, sizeof(user1), "kind", 's', "a", NULL);
	assert_int_equal(run(&g), STAGE_OK);
	assert_int_equal(run(&g), STAGE_E_FILTERED);
	rig_record(&g, "user", 'r', user1f, sizeof(user1f), "kind", 's', "a", "x", 'i', (int64_t)1,
	           NULL);
	assert_int_equal(run(&g), STAGE_E_FILTERED);
	rig_record(&g, "user", 'r', user1, sizeof(user1), "kind", 's', "b", NULL);
	assert_int_equal(run(&g), STAGE_OK);
	rig_record(&g, "user", 'r', user1, sizeof(user1), NULL);
	assert_int_equal(run(&g), STAGE_OK);
	rig_record(&g, "user", 'r', user1, sizeof(user1), "kind", 'n', NULL);
	assert_int_equal(run(&g), STAGE_E_FILTERED);
	rig_record(&g, "other", 's', "x", NULL);
	assert_int_equal(run(&g), STAGE_OK);
	assert_int_equal(run(&g), STAGE_OK);
	rig_close(&g);
}

static void expect_key(struct rig *g, const void *want, size_t len)
{
	struct buf b = {0};
	unsigned present;
	const char *path = "v";
	struct strings by = {&path, 1};
	assert_int_equal(key_build(&b, &g->rec, &by, &present), 0);
	assert_int_equal(b.len, len);
	assert_memory_equal(b.p, want, len);
	buf_deinit(&b);
}

static void test_canonical(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &dedupe_step, "{by: v}");
	rig_record(&g, "v", 'I', (uint64_t)1, NULL);
	expect_key(&g, "\x01", 1);
	rig_record(&g, "v", 'd', 1.0, NULL);
	expect_key(&g, "\x01", 1);
	rig_record(&g, "v", 'd', -0.0, NULL);
	expect_key(&g, "\x00", 1);
	rig_record(&g, "v", 'd', -1.0, NULL);
	expect_key(&g, "\xff", 1);
	rig_record(&g, "v", 'd', 0x1p63, NULL);
	expect_key(&g, "\xcf\x80\0\0\0\0\0\0\0", 9);
	rig_record(&g, "v", 'd', 0x1p64, NULL);
	expect_key(&g, "\xcb\x43\xf0\0\0\0\0\0\0", 9);
	rig_record(&g, "v", 'd', 1.5, NULL);
	expect_key(&g, "\xcb\x3f\xf8\0\0\0\0\0\0", 9);
	rig_record(&g, "v", 's', "1", NULL);
	expect_key(&g,
	           "\xa1"
	           "1",
	           2);
	rig_record(&g, "v", 'n', NULL);
	expect_key(&g, "\xc0", 1);
	rig_record(&g, "w", 'n', NULL);
	expect_key(&g, "\xc0", 1);
	static const uint8_t deep[] = {0x92, 0xdc, 0,    1, 0xcc, 5, 0xde, 0, 1, 0xd9, 1,
	                               'k',  0xcb, 0x40, 0, 0,    0, 0,    0, 0, 0};
	rig_record(&g, "v", 'r', deep, sizeof(deep), NULL);
	expect_key(&g, "\x92\x91\x05\x81\xa1k\x02", 7);
	rig_close(&g);
}

static void test_missing(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &dedupe_step, "{by: id, missing: key}");
	rig_record(&g, "x", 's', "a", NULL);
	assert_int_equal(run(&g), STAGE_OK);
	assert_int_equal(run(&g), STAGE_E_FILTERED);
	rig_close(&g);
	rig_open(&g, &dedupe_step, "{by: id, missing: reject}");
	rig_record(&g, "x", 's', "a", NULL);
	assert_int_equal(run(&g), STAGE_E_REJECT);
	assert_non_null(strstr(g.st.why, "id"));
	rig_close(&g);
}

/* A key of any length, one byte apart, is its own. */
static void test_lengths(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &dedupe_step, "{by: id}");
	static char text[2000];
	for (size_t n = 0; n < sizeof(text) - 1; n += n < 70 ? 1 : 97) {
		memset(text, 'a', n);
		text[n] = 0;
		for (int repeat = 0; repeat < 2; repeat++) {
			rig_record(&g, "id", 's', text, NULL);
			assert_int_equal(run(&g), repeat ? STAGE_E_FILTERED : STAGE_OK);
		}
		if (n == 0)
			continue;
		text[n - 1] = 'b';
		rig_record(&g, "id", 's', text, NULL);
		assert_int_equal(run(&g), STAGE_OK);
	}
	rig_close(&g);
}

static void test_units(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &dedupe_step, "{by: id}");
	assert_int_equal(run_id(&g, 1), STAGE_OK);
	assert_int_equal(rig_commit(&g), 0);
	assert_int_equal(run_id(&g, 2), STAGE_OK);
	rig_rollback(&g);
	/* undone: it was never seen */
	assert_int_equal(run_id(&g, 2), STAGE_OK);
	assert_int_equal(run_id(&g, 1), STAGE_E_FILTERED);
	/* the run whose unit was committed, once more: not a repeat */
	g.st.origin.chunk = 77;
	assert_int_equal(run_id(&g, 3), STAGE_OK);
	assert_int_equal(rig_commit(&g), 0);
	g.st.origin.record--;
	assert_int_equal(run_id(&g, 3), STAGE_OK);
	assert_int_equal(run_id(&g, 3), STAGE_E_FILTERED);
	/* another process goes on with it */
	rig_rollback(&g);
	rig_stop(&g);
	rig_start(&g, &dedupe_step);
	g.st.origin.chunk = 78;
	assert_int_equal(run_id(&g, 1), STAGE_E_FILTERED);
	assert_int_equal(run_id(&g, 3), STAGE_E_FILTERED);
	assert_int_equal(run_id(&g, 4), STAGE_OK);
	assert_int_equal(run_id(&g, 4), STAGE_E_FILTERED);
	rig_close(&g);
}

static void test_oldest(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &dedupe_step, "{by: id, max_entries: 100}");
	for (int i = 0; i < 150; i++)
		assert_int_equal(run_id(&g, i), STAGE_OK);
	for (int i = 149; i >= 50; i--)
		assert_int_equal(run_id(&g, i), STAGE_E_FILTERED);
	assert_int_equal(run_id(&g, 49), STAGE_OK);
	assert_int_equal(run_id(&g, 50), STAGE_OK);
	assert_int_equal(run_id(&g, 52), STAGE_E_FILTERED);
	uint64_t rows;
	assert_int_equal(state_count(g.kv, &rows), 0);
	assert_int_equal(rows, 200);
	rig_close(&g);
}

static void test_ttl(void **arg)
{
	(void)arg;
	struct rig g;
	uint64_t rows;
	rig_open(&g, &dedupe_step, "{by: id, ttl: 10s}");
	for (int i = 0; i < 2000; i++)
		assert_int_equal(run_id(&g, i), STAGE_OK);
	g.st.now += 9000000000;
	assert_int_equal(run_id(&g, 5), STAGE_E_FILTERED);
	assert_int_equal(run_id(&g, 5000), STAGE_OK);
	assert_int_equal(g.st.ops->tick(&g.st), STAGE_OK);
	g.st.now += 1000000000;
	/* over its time, though no tick has come: it is new again, and only once */
	assert_int_equal(run_id(&g, 5), STAGE_OK);
	assert_int_equal(run_id(&g, 5), STAGE_E_FILTERED);
	int calls = 0;
	while (g.st.ops->tick(&g.st) == STAGE_E_AGAIN) {
		assert_int_equal(rig_commit(&g), 0);
		calls++;
	}
	assert_true(calls >= 2);
	assert_true(g.st.deadline > 1);
	assert_int_equal(state_count(g.kv, &rows), 0);
	assert_int_equal(rows, 4);
	assert_int_equal(run_id(&g, 5000), STAGE_E_FILTERED);
	assert_int_equal(run_id(&g, 5), STAGE_E_FILTERED);
	assert_int_equal(run_id(&g, 6), STAGE_OK);
	rig_close(&g);
}

/* The state full: never a refusal, the newest are remembered. */
static void test_full(void **arg)
{
	(void)arg;
	struct rig g = {0};
	rig_tmpdir(g.dir);
	g.host = host_new(4096);
	rig_config(&g, &dedupe_step, "{by: id}", NULL);
	assert_int_equal(state_env_open(&g.env, g.dir, 2 << 20, 1, false), 0);
	assert_int_equal(state_env_step(g.env, 0, "dedupe", &g.kv), 0);
	host_stage(g.host, &g.st, &dedupe_step, g.config);
	g.st.kv = g.kv;
	assert_int_equal(g.st.ops->open(&g.st), 0);
	char id[32];
	for (int i = 0; i < 60000; i++) {
		snprintf(id, sizeof(id), "%x-%d", (unsigned)i * 2654435761u, i);
		rig_record(&g, "id", 's', id, NULL);
		assert_int_equal(run(&g), STAGE_OK);
		assert_int_equal(run(&g), STAGE_E_FILTERED);
		if (i % 500 == 0)
			assert_int_equal(rig_commit(&g), 0);
	}
	uint64_t rows;
	assert_int_equal(state_count(g.kv, &rows), 0);
	assert_true(rows / 2 > 1500);
	for (int i = 59999; i > 59999 - 1500; i--) {
		snprintf(id, sizeof(id), "%x-%d", (unsigned)i * 2654435761u, i);
		rig_record(&g, "id", 's', id, NULL);
		assert_int_equal(run(&g), STAGE_E_FILTERED);
	}
	rig_close(&g);
}

/* After a loss of power what was seen in the last moments before it is no proof of a repeat. */
static void test_lost_power(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &dedupe_step, "{by: id}");
	g.st.origin.chunk = 99;
	assert_int_equal(run_id(&g, 1), STAGE_OK);
	g.st.origin.chunk = 100;
	assert_int_equal(run_id(&g, 2), STAGE_OK);
	assert_int_equal(rig_commit(&g), 0);
	g.st.origin.epoch[0] ^= 1;
	g.st.doubt_from = 100;
	g.st.origin.chunk = 500;
	assert_int_equal(run_id(&g, 1), STAGE_E_FILTERED);
	assert_int_equal(run_id(&g, 2), STAGE_OK);
	assert_int_equal(run_id(&g, 2), STAGE_E_FILTERED); /* once more, not for ever */
	assert_int_equal(run_id(&g, 3), STAGE_OK);
	assert_int_equal(run_id(&g, 3), STAGE_E_FILTERED);
	rig_close(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_repeats),    cmocka_unit_test(test_canonical),
	        cmocka_unit_test(test_missing),    cmocka_unit_test(test_lengths),
	        cmocka_unit_test(test_units),      cmocka_unit_test(test_oldest),
	        cmocka_unit_test(test_ttl),        cmocka_unit_test(test_full),
	        cmocka_unit_test(test_lost_power),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
