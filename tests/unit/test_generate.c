/* The generator: templates, sequence numbers that go on where they stopped, the end, the pace; and
 * null. */
#include "tests/unit/host.h"

#include <time.h>

#include "daemon/yaml.h"

struct made {
	struct yaml_tree tree;
	struct complaints c;
	struct test_host *host;
	struct stage st;
	void *config;
	const struct stage_ops *ops;
};

static void make(struct made *m, const char *yaml)
{
	memset(m, 0, sizeof(*m));
	m->ops = stage_find(STAGE_PRODUCER, "generate");
	assert_non_null(m->ops);
	const struct node *n = yaml_parse(&m->tree, "t", yaml, strlen(yaml), &m->c);
	m->config = calloc(1, m->ops->config_size);
	option_parse(m->ops->options, n, NULL, m->config, &m->c);
	m->ops->check(m->config, n, &m->c);
	m->host = host_new(65536);
	host_stage(m->host, &m->st, m->ops, m->config);
}

static void end(struct made *m)
{
	free(m->st.state);
	host_free(m->host);
	m->ops->config_free(m->config);
	free(m->config);
	buf_deinit(&m->c.text);
	yaml_deinit(&m->tree);
}

static struct mp field(struct host_item *it, const char *path)
{
	struct record r = {0};
	const char *why;
	uint32_t len;
	assert_int_equal(record_open(&r, it->p, it->len, &why), 0);
	const uint8_t *p = record_path(&r, path, strlen(path), &len);
	assert_non_null(p);
	struct mp v = record_value(p, len);
	record_deinit(&r);
	return v;
}

static void template(void **state)
{
	(void)state;
	struct made m;
	make(&m, "count: 2\n"
	         "record: {id: =seq, at: =now, r: =random, s: text, eq: ==x, n: -5, u: "
	         "18446744073709551615,\n"
	         "  f: 1.5, b: true, z: null, in: {deep: [1, =seq]}, '=key': ''}\n");
	assert_int_equal(m.c.count, 0);
	assert_int_equal(m.ops->open(&m.st), 0);
	assert_int_equal(m.ops->produce(&m.st), STAGE_OK);
	assert_int_equal(m.ops->produce(&m.st), STAGE_E_END);
	assert_int_equal(m.host->n, 2);
	struct host_item *it = &m.host->items[1];
	assert_int_equal(field(it, "id").u, 1);
	assert_true(field(it, "at").u == (uint64_t)m.st.now);
	assert_true(field(it, "r").u != field(&m.host->items[0], "r").u);
	assert_true(field(it, "r").u <= INT64_MAX);
	assert_int_equal(field(it, "s").len, 4);
	assert_memory_equal(field(it, "eq").p, "=x", 2);
	assert_int_equal(field(it, "n").i, -5);
	assert_true(field(it, "u").u == UINT64_MAX);
	assert_true(field(it, "f").d == 1.5);
	assert_true(field(it, "b").b);
	assert_int_equal(field(it, "z").type, MP_NIL);
	assert_int_equal(field(it, "in.deep").n, 2);
	assert_int_equal(field(it, "=key").type, MP_STR);
	end(&m);
}

static void usual_record(void **state)
{
	(void)state;
	struct made m;
	make(&m, "count: 1\n");
	assert_int_equal(m.ops->open(&m.st), 0);
	assert_int_equal(m.ops->produce(&m.st), STAGE_OK);
	assert_in_range(m.host->items[0].len, 95, 110);
	assert_int_equal(field(&m.host->items[0], "seq").u, 0);
	end(&m);
}

/* What was made before a crash and after it is one sequence without gap or repeat. */
static void resumes(void **state)
{
	(void)state;
	struct made m;
	make(&m, "count: 3000\nrecord: {id: =seq, r: =random}\n");
	uint8_t position[8];
	assert_int_equal(m.ops->open(&m.st), 0);
	assert_int_equal(m.ops->produce(&m.st), STAGE_OK);
	unsigned first = m.host->n;
	assert_true(first > 0 && first < 3000);
	memcpy(position, m.host->position, 8);
	uint64_t r_next;
	assert_int_equal(m.ops->produce(&m.st), STAGE_OK); /* never committed */
	assert_int_equal(field(&m.host->items[first], "id").u, first);
	r_next = field(&m.host->items[first], "r").u;
	memset(m.st.state, 0, m.ops->state_size);
	memcpy(m.host->position, position, 8);
	m.st.position_fresh = false;
	host_clear(m.host);
	assert_int_equal(m.ops->open(&m.st), 0);
	int r;
	while ((r = m.ops->produce(&m.st)) == STAGE_OK)
		;
	assert_int_equal(r, STAGE_E_END);
	assert_int_equal(m.host->n, 3000 - first);
	assert_true(field(&m.host->items[0], "r").u == r_next);
	for (unsigned i = 0; i < m.host->n; i++)
		assert_int_equal(field(&m.host->items[i], "id").u, first + i);
	end(&m);
}

static void pace(void **state)
{
	(void)state;
	struct made m;
	make(&m, "rate: 200\n");
	assert_int_equal(m.ops->open(&m.st), 0);
	struct timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	while (m.host->n < 21) {
		int r = m.ops->produce(&m.st);
		assert_true(r == STAGE_OK || r == STAGE_E_IDLE);
		if (r == STAGE_OK)
			continue;
		assert_true(m.st.deadline > 0);
		struct timespec until = {m.st.deadline / 1000000000, m.st.deadline % 1000000000};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	/* the 21st is due after 100 ms: never earlier, whatever the machine does */
	double took = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	assert_true(took > 0.099);
	end(&m);
}

static void says(const char *yaml, const char *want)
{
	struct made m;
	make(&m, yaml);
	buf_add(&m.c.text, "", 1);
	assert_string_equal((char *)m.c.text.p, want);
	end(&m);
}

static void refusals(void **state)
{
	(void)state;
	says("record: [1]", "t:1:9: record: expected a map, got a list\n");
	says("record: {a: =nwo}",
	     "t:1:13: record: unknown placeholder \"=nwo\": did you mean \"=now\"?\n");
	says("record: {a: {b: =upper(x)}}", "t:1:17: record: unknown placeholder \"=upper(x)\": "
	                                    "known are =seq, =now, =random; == starts a "
	                                    "plain =\n");
	struct made m;
	make(&m, "record: {a: b}");
	m.st.max_record = 3;
	assert_int_equal(m.ops->open(&m.st), -EMSGSIZE);
	end(&m);
}

static void nowhere(void **state)
{
	(void)state;
	struct test_host *t = host_new(100);
	struct stage st;
	const struct stage_ops *ops = stage_find(STAGE_CONSUMER, "null");
	host_stage(t, &st, ops, NULL);
	assert_int_equal(ops->consume(&st, (const uint8_t *)"\x80", 1), STAGE_OK);
	assert_int_equal(ops->finish(&st), STAGE_OK);
	assert_int_equal(t->n, 0);
	free(st.state);
	host_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(template), cmocka_unit_test(usual_record),
	        cmocka_unit_test(resumes),  cmocka_unit_test(pace),
	        cmocka_unit_test(refusals), cmocka_unit_test(nowhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
