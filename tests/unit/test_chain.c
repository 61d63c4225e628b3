/*
 * The chain: order, fan-out, what becomes of a record, dead letters of made records, origins, time.
 */
#include "tests/unit/steps.h"

enum {
	SEEN = 64,
};

/* What the probe step saw. */
static struct origin seen[SEEN];
static unsigned n_seen;
static unsigned ticks, flushes;

static void set_field(struct record *r, const char *key, int64_t i)
{
	uint8_t *p = record_scratch(r, MP_HEAD_MAX);
	assert_non_null(p);
	assert_int_equal(record_set(r, key, strlen(key), p, (uint32_t)(mp_write_int(p, i) - p)), 0);
}

static int64_t get_field(struct record *r, const char *key)
{
	const struct field *f = record_get(r, key, strlen(key));
	return f ? record_value(f->val, f->val_len).i : -1;
}

static int probe(struct stage *st, struct record *r)
{
	(void)r;
	assert_true(n_seen < SEEN);
	seen[n_seen++] = st->origin;
	return STAGE_OK;
}

/* Makes as many records as field n says, numbered in field i. */
static int multiply(struct stage *st, struct record *r)
{
	int64_t n = get_field(r, "n");
	for (int64_t i = 0; i < n; i++) {
		struct record copy = {0};
		assert_int_equal(record_share(&copy, r), 0);
		set_field(&copy, "i", i);
		int e = stage_emit(st, &copy);
		record_deinit(&copy);
		if (e < 0)
			return e;
	}
	return STAGE_E_EMITTED;
}

/* Field i decides: 0 goes on, 1 filtered, 2 absorbed, 3 rejected, 4 made too large. */
static int judge(struct stage *st, struct record *r)
{
	static const uint8_t huge[STEPS_ROOM] = {0xc6, 0, 3, 0xff, 0xf0};
	switch (get_field(r, "i")) {
	case 1:
		return STAGE_E_FILTERED;
	case 2:
		return STAGE_E_ABSORBED;
	case 3:
		return stage_say(st, STAGE_E_REJECT, "three is bad");
	case 4:
		return record_set(r, "huge field", 10, huge, 5 + 0x3fff0) < 0 ? -ENOMEM : STAGE_OK;
	default:
		return STAGE_OK;
	}
}

static int timed(struct stage *st)
{
	struct record r = {0};
	ticks++;
	set_field(&r, "i", 0);
	int e = stage_emit(st, &r);
	record_deinit(&r);
	st->deadline = 0;
	return e;
}

static int flush_twice(struct stage *st)
{
	(void)st;
	return ++flushes < 2 ? STAGE_E_AGAIN : STAGE_OK;
}

static const struct stage_ops probe_ops = {.name = "probe", .kind = STAGE_STEP, .transform = probe};
static const struct stage_ops multiply_ops = {
        .name = "multiply", .kind = STAGE_STEP, .transform = multiply};
static const struct stage_ops judge_ops = {.name = "judge",
                                           .kind = STAGE_STEP,
                                           .transform = judge,
                                           .tick = timed,
                                           .flush = flush_twice};

static const uint8_t epoch[16] = {7};

struct chain_test {
	struct steps *s;
	struct chain ch;
};

static void begin(struct chain_test *t, const struct chain_step *steps, unsigned n)
{
	assert_int_equal(chain_init(&t->ch, "test", steps, n, &t->s->host->base, 0, 1, STEPS_ROOM),
	                 0);
	assert_int_equal(chain_open(&t->ch), 0);
	chain_chunk(&t->ch, 1000, epoch, 42);
}

static struct chain_outcome feed(struct chain_test *t, uint32_t index, const char *json)
{
	steps_open(t->s, json);
	host_clear(t->s->host);
	n_seen = 0;
	return chain_run(&t->ch, index, &t->s->r);
}

static void test_empty(void **state)
{
	struct chain_test *t = *state;
	begin(t, NULL, 0);
	struct chain_outcome o = feed(t, 0, "{\"a\":1}");
	assert_int_equal(o.answer, STAGE_OK);
	assert_int_equal(t->ch.emitted, 1);
	assert_string_equal(steps_json(t->s, t->s->host->items[0].p, t->s->host->items[0].len),
	                    "{\"a\":1}");
}

static void test_outcomes(void **state)
{
	struct chain_test *t = *state;
	const struct chain_step steps[] = {{&probe_ops, NULL}, {&judge_ops, NULL}};
	begin(t, steps, 2);
	assert_int_equal(feed(t, 0, "{\"i\":0}").answer, STAGE_OK);
	assert_int_equal(t->ch.emitted, 1);
	assert_int_equal(feed(t, 0, "{\"i\":1}").answer, STAGE_E_FILTERED);
	assert_int_equal(t->ch.emitted, 0);
	assert_int_equal(feed(t, 0, "{\"i\":2}").answer, STAGE_E_ABSORBED);
	struct chain_outcome o = feed(t, 0, "{\"i\":3}");
	assert_int_equal(o.answer, STAGE_E_REJECT);
	assert_string_equal(o.why, "three is bad");
	assert_string_equal(o.step, "judge (step 2)");
	assert_int_equal(t->s->host->n, 0);
	o = feed(t, 0, "{\"i\":4}");
	assert_int_equal(o.answer, STAGE_E_REJECT);
	assert_non_null(strstr(o.why, "larger than a buffer"));
	assert_int_equal(t->ch.emitted, 0);
}

static void test_fan_out(void **state)
{
	struct chain_test *t = *state;
	const struct chain_step steps[] = {
	        {&multiply_ops, NULL}, {&probe_ops, NULL}, {&judge_ops, NULL}};
	begin(t, steps, 3);
	assert_int_equal(feed(t, 9, "{\"n\":7}").answer, STAGE_OK);
	/* 0, 5 and 6 went on; 3 and 4 are dead letters with their own bytes */
	assert_int_equal(t->s->host->n, 5);
	assert_int_equal(t->ch.emitted, 5);
	assert_true(t->ch.absorbed);
	const struct host_item *dead = &t->s->host->items[1];
	assert_true(dead->rejected);
	assert_string_equal(dead->why, "three is bad");
	assert_string_equal(dead->at, "judge (step 3)");
	assert_string_equal(steps_json(t->s, dead->p, dead->len), "{\"n\":7,\"i\":3}");
	assert_true(t->s->host->items[2].rejected);
	/* the probe was given seven records, numbered, of record 9 in chunk 42 */
	assert_int_equal(n_seen, 7);
	for (unsigned i = 0; i < n_seen; i++) {
		assert_int_equal(seen[i].ordinal, i);
		assert_int_equal(seen[i].record, 9);
		assert_int_equal(seen[i].chunk, 42);
		assert_memory_equal(seen[i].epoch, epoch, 16);
	}
	/* again: the same numbers */
	feed(t, 9, "{\"n\":2}");
	assert_int_equal(seen[0].ordinal, 0);
	assert_int_equal(seen[1].ordinal, 1);
	assert_int_equal(feed(t, 9, "{\"n\":0}").answer, STAGE_E_FILTERED);
	assert_int_equal(t->ch.emitted, 0);
}

static void test_all_absorbed(void **state)
{
	struct chain_test *t = *state;
	const struct chain_step steps[] = {
	        {&multiply_ops, NULL}, {&multiply_ops, NULL}, {&judge_ops, NULL}};
	begin(t, steps, 3);
	/* 2 x 2 records: i is 0, 1 twice */
	assert_int_equal(feed(t, 0, "{\"n\":2}").answer, STAGE_OK);
	assert_int_equal(t->ch.emitted, 2);
	assert_false(t->ch.absorbed);
}

static void test_time(void **state)
{
	struct chain_test *t = *state;
	const struct chain_step steps[] = {{&judge_ops, NULL}, {&probe_ops, NULL}};
	begin(t, steps, 2);
	ticks = flushes = n_seen = 0;
	assert_int_equal(chain_deadline(&t->ch), 0);
	t->ch.steps[0].deadline = 500;
	t->ch.steps[1].deadline = 700;
	assert_int_equal(chain_deadline(&t->ch), 500);
	assert_int_equal(chain_tick(&t->ch, 499), STAGE_OK);
	assert_int_equal(ticks, 0);
	assert_int_equal(chain_tick(&t->ch, 500), STAGE_OK);
	assert_int_equal(ticks, 1);
	assert_int_equal(t->s->host->n, 1);
	assert_int_equal(chain_deadline(&t->ch), 700);
	/* timed work is no run of an input record: its origin is its own */
	t->ch.steps[0].deadline = 500;
	assert_int_equal(chain_tick(&t->ch, 500), STAGE_OK);
	assert_int_equal(n_seen, 2);
	assert_int_equal(seen[0].record, UINT32_MAX);
	assert_true(seen[0].chunk != seen[1].chunk);
	assert_true(t->ch.steps[0].now > 1000);
	assert_int_equal(chain_flush(&t->ch), STAGE_E_AGAIN);
	assert_int_equal(chain_flush(&t->ch), STAGE_OK);
	assert_int_equal(t->ch.origin.chunk, 42);
}

/* Real steps, end to end. */
static void test_steps(void **state)
{
	struct chain_test *t = *state;
	static const char *const names[] = {"filter", "set", "route"};
	static const char *const yaml[] = {"{level: {not: debug}}",
	                                   "{service: =upper(service), n: =n + 1}",
	                                   "{big: \"n > 10\"}"};
	struct chain_step steps[3];
	void *config[3];
	for (int i = 0; i < 3; i++) {
		const struct stage_ops *ops = stage_find(STAGE_STEP, names[i]);
		config[i] = calloc(1, ops->config_size);
		ops->check(config[i], steps_node(t->s, yaml[i]), &t->s->c);
		steps[i] = (struct chain_step){ops, config[i]};
	}
	assert_int_equal(t->s->c.count, 0);
	begin(t, steps, 3);
	assert_int_equal(feed(t, 0, "{\"level\":\"debug\"}").answer, STAGE_E_FILTERED);
	assert_int_equal(feed(t, 1, "{\"service\":\"a\",\"n\":1}").answer, STAGE_OK);
	assert_int_equal(t->s->host->items[0].output, 0);
	assert_string_equal(steps_json(t->s, t->s->host->items[0].p, t->s->host->items[0].len),
	                    "{\"service\":\"A\",\"n\":2}");
	assert_int_equal(feed(t, 2, "{\"service\":\"a\",\"n\":10}").answer, STAGE_OK);
	assert_int_equal(t->ch.emitted, 1);
	assert_int_equal(t->s->host->items[0].output, 1);
	struct chain_outcome o = feed(t, 3, "{\"n\":\"x\"}");
	assert_int_equal(o.answer, STAGE_E_REJECT);
	assert_string_equal(o.step, "set (step 2)");
	chain_deinit(&t->ch);
	for (int i = 0; i < 3; i++) {
		steps[i].ops->config_free(config[i]);
		free(config[i]);
	}
}

static int setup(void **state)
{
	struct chain_test *t = calloc(1, sizeof(*t));
	t->s = steps_new();
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct chain_test *t = *state;
	chain_deinit(&t->ch);
	steps_free(t->s);
	free(t);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_empty),        T(test_outcomes), T(test_fan_out),
	        T(test_all_absorbed), T(test_time),     T(test_steps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
