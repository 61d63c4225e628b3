/*
 * aggregate: exact sums, groups in parts, windows, and units that are undone.
 */
#include "tests/unit/rig.h"

#include <math.h>

#include "stages/steps/aggregate_num.h"

extern const struct stage_ops aggregate_step;

static int run(struct rig *g)
{
	g->st.origin.record++;
	return g->st.ops->transform(&g->st, &g->rec);
}

static void add(struct rig *g, const char *section, int64_t size)
{
	rig_record(g, "section", 's', section, "Size", 'i', size, NULL);
	assert_int_equal(run(g), STAGE_E_ABSORBED);
}

static void flush(struct rig *g)
{
	int r, calls = 0;
	do {
		unsigned before = g->host->n;
		r = g->st.ops->flush(&g->st);
		assert_true(g->host->n - before <= 64);
		assert_int_equal(rig_commit(g), 0);
		assert_true(++calls < 10000);
	} while (r == STAGE_E_AGAIN);
	assert_int_equal(r, STAGE_OK);
}

static uint64_t out_u(struct rig *g, unsigned i, const char *key)
{
	struct mp m = rig_out(g, i, key);
	assert_int_equal(m.type, MP_UINT);
	return m.u;
}

static double out_d(struct rig *g, unsigned i, const char *key)
{
	struct mp m = rig_out(g, i, key);
	assert_int_equal(m.type, MP_FLOAT);
	return m.d;
}

static void test_functions(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &aggregate_step,
	         "by: [section]\n"
	         "compute: {n: count(), sized: count(Size), bytes: sum(Size), small: min(Size),\n"
	         "  large: max(Size), mean: mean(Size), bare: count}\n");
	add(&g, "libs", 10);
	add(&g, "net", 5);
	add(&g, "libs", -4);
	rig_record(&g, "section", 's', "libs", NULL);
	assert_int_equal(run(&g), STAGE_E_ABSORBED);
	rig_record(&g, "section", 's', "libs", "Size", 's', "100", NULL);
	assert_int_equal(run(&g), STAGE_E_ABSORBED);
	rig_record(&g, "section", 's', "libs", "Size", 's', "0x10", NULL);
	assert_int_equal(run(&g), STAGE_E_REJECT);
	assert_non_null(strstr(g.st.why, "Size"));
	rig_record(&g, "Size", 'n', NULL);
	assert_int_equal(run(&g), STAGE_E_ABSORBED);
	assert_int_equal(g.host->n, 0);
	flush(&g);
	assert_int_equal(g.host->n, 3);
	/* by the key's bytes: "net" is shorter than "libs", nil comes behind strings */
	struct mp m = rig_out(&g, 1, "section");
	assert_int_equal(m.len, 4);
	assert_memory_equal(m.p, "libs", 4);
	assert_int_equal(out_u(&g, 1, "n"), 4);
	assert_int_equal(out_u(&g, 1, "bare"), 4);
	assert_int_equal(out_u(&g, 1, "sized"), 3);
	assert_int_equal(out_u(&g, 1, "bytes"), 106);
	assert_int_equal(rig_out(&g, 1, "small").i, -4);
	assert_int_equal(out_u(&g, 1, "large"), 100);
	assert_true(fabs(out_d(&g, 1, "mean") - 106.0 / 3) < 1e-12);
	assert_int_equal(rig_out(&g, 2, "section").type, MP_NIL);
	assert_int_equal(out_u(&g, 2, "n"), 1);
	assert_int_equal(out_u(&g, 2, "bytes"), 0);
	assert_int_equal(rig_out(&g, 2, "mean").type, MP_NIL);
	assert_int_equal(rig_out(&g, 2, "small").type, MP_NIL);
	flush(&g);
	assert_int_equal(g.host->n, 3);
	rig_close(&g);
}

static struct mp sum_of(enum agg_fn fn, const struct mp *v, unsigned n)
{
	static uint8_t bytes[MP_HEAD_MAX];
	struct agg_acc a = {0};
	for (unsigned i = 0; i < n; i++) {
		struct agg_num x;
		assert_true(agg_num(&v[i], &x));
		agg_add(&a, fn, &x);
	}
	uint8_t *end = agg_result(bytes, fn, &a);
	struct mp m;
	assert_ptr_equal(mp_read(bytes, end, &m), end);
	return m;
}

#define U(x)                \
 {                          \
  .type = MP_UINT, .u = (x) \
 }
#define I(x)               \
 {                         \
  .type = MP_INT, .i = (x) \
 }
#define D(x)                 \
 {                           \
  .type = MP_FLOAT, .d = (x) \
 }
#define S(x)                                                      \
 {                                                                \
  .type = MP_STR, .p = (const uint8_t *)(x), .len = sizeof(x) - 1 \
 }
#define SUM(fn, ...)                          \
 sum_of(fn, (const struct mp[]){__VA_ARGS__}, \
	sizeof((const struct mp[]){__VA_ARGS__}) / sizeof(struct mp))

static void test_exact(void **arg)
{
	(void)arg;
	struct mp m = SUM(AGG_SUM, U(9007199254740993), U(9007199254740992), U(1));
	assert_int_equal(m.type, MP_UINT);
	assert_true(m.u == 18014398509481986);
	m = SUM(AGG_SUM, U(UINT64_MAX - 1), U(1));
	assert_int_equal(m.type, MP_UINT);
	assert_true(m.u == UINT64_MAX);
	m = SUM(AGG_SUM, U(UINT64_MAX), U(1));
	assert_int_equal(m.type, MP_FLOAT);
	assert_true(m.d == 0x1p64);
	m = SUM(AGG_SUM, U(UINT64_MAX), U(UINT64_MAX), I(INT64_MIN), I(INT64_MIN), I(INT64_MIN));
	assert_int_equal(m.type, MP_UINT);
	assert_true(m.u == (uint64_t)(INT64_MAX)-1);
	m = SUM(AGG_SUM, I(INT64_MIN), I(-1));
	assert_int_equal(m.type, MP_FLOAT);
	m = SUM(AGG_SUM, D(1), D(1e100), D(1), D(-1e100));
	assert_true(m.type == MP_FLOAT && m.d == 2);
	m = SUM(AGG_SUM, D(INFINITY), D(1));
	assert_true(isinf(m.d));
	m = SUM(AGG_SUM, D(0.1), D(0.2), D(0.3), D(0.4), U(1));
	assert_true(m.type == MP_FLOAT && m.d == 2);
	m = SUM(AGG_MAX, U(9007199254740993), D(9007199254740992), U(9007199254740992));
	assert_true(m.type == MP_UINT && m.u == 9007199254740993);
	m = SUM(AGG_MAX, U(UINT64_MAX - 1), U(UINT64_MAX), D(1.5), I(-1));
	assert_true(m.type == MP_UINT && m.u == UINT64_MAX);
	m = SUM(AGG_MIN, U(1), D(NAN), D(-1.5), I(-1));
	assert_true(m.type == MP_FLOAT && m.d == -1.5);
	m = SUM(AGG_MEAN, U(1), U(2));
	assert_true(m.d == 1.5);
	m = SUM(AGG_SUM, S("18446744073709551615"), S("-1"), S("+2"));
	assert_true(m.type == MP_FLOAT && m.d == 0x1p64);
	m = SUM(AGG_SUM, S("1.5"), S("1e2"));
	assert_true(m.d == 101.5);
	struct agg_num x;
	static const struct mp bad[] = {S(""),    S(" 1"),    S("1 "),          S("nan"),
	                                S("inf"), S("0x1"),   S("-"),           S("1.2.3"),
	                                S("e"),   S("1e999"), {.type = MP_BOOL}};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(agg_num(&bad[i], &x));
}

/* More groups than the table in memory holds, again and again, against plain arrays. */
static void test_many(void **arg)
{
	(void)arg;
	enum { KEYS = 9000, RECORDS = 60000 };
	static uint64_t sums[KEYS], counts[KEYS];
	struct rig g;
	char name[300];
	memset(sums, 0, sizeof(sums));
	memset(counts, 0, sizeof(counts));
	rig_open(&g, &aggregate_step, "{by: key, compute: {n: count(), s: sum(v)}}");
	uint32_t x = 1;
	for (uint32_t i = 0; i < RECORDS; i++) {
		x = x * 1664525 + 1013904223;
		uint32_t k = (x >> 8) % KEYS;
		/* some keys too long to stand in the state as they are */
		snprintf(name, sizeof(name), "%0*u", k % 10 ? 5 : 280, k);
		rig_record(&g, "key", 's', name, "v", 'u', (uint64_t)x, NULL);
		assert_int_equal(run(&g), STAGE_E_ABSORBED);
		sums[k] += x;
		counts[k]++;
		if (i % 1000 == 999)
			assert_int_equal(rig_commit(&g), 0);
		if (i % 7000 == 6999) {
			/* a unit undone and run again */
			for (int j = 0; j < 300; j++) {
				snprintf(name, sizeof(name), "%05d", j * 11 % KEYS);
				rig_record(&g, "key", 's', name, "v", 'i', (int64_t)1, NULL);
				assert_int_equal(run(&g), STAGE_E_ABSORBED);
			}
			rig_rollback(&g);
		}
	}
	assert_int_equal(rig_commit(&g), 0);
	unsigned groups = 0, seen = 0;
	for (unsigned k = 0; k < KEYS; k++)
		groups += counts[k] > 0;
	int r;
	do {
		r = g.st.ops->flush(&g.st);
		/* every other part is undone, comes again, and is then kept */
		if (r == STAGE_E_AGAIN && seen % 128 == 0 && g.host->n) {
			rig_rollback(&g);
			host_clear(g.host);
			r = g.st.ops->flush(&g.st);
		}
		assert_int_equal(rig_commit(&g), 0);
		for (unsigned i = 0; i < g.host->n; i++, seen++) {
			struct mp m = rig_out(&g, i, "key");
			unsigned k = (unsigned)strtoul((const char *)m.p + m.len - 5, NULL, 10);
			assert_true(k < KEYS);
			assert_int_equal(out_u(&g, i, "n"), counts[k]);
			assert_int_equal(out_u(&g, i, "s"), sums[k]);
			counts[k] = 0;
		}
		host_clear(g.host);
	} while (r == STAGE_E_AGAIN);
	assert_int_equal(r, STAGE_OK);
	assert_int_equal(seen, groups);
	rig_close(&g);
}

static void test_restart(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &aggregate_step, "{by: section, compute: {n: sum(Size)}}");
	add(&g, "a", 1);
	assert_int_equal(rig_commit(&g), 0);
	add(&g, "a", 10);
	add(&g, "b", 10);
	rig_stop(&g);
	rig_start(&g, &aggregate_step);
	add(&g, "a", 100);
	assert_int_equal(rig_commit(&g), 0);
	rig_rollback(&g);
	flush(&g);
	assert_int_equal(g.host->n, 1);
	assert_int_equal(out_u(&g, 0, "n"), 101);
	rig_close(&g);
}

/* Groups gathered by another configuration are not read as what they are not. */
static void test_changed(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &aggregate_step, "{by: section, compute: {n: sum(Size)}}");
	add(&g, "a", 1);
	assert_int_equal(rig_commit(&g), 0);
	rig_stop(&g);
	aggregate_step.config_free(g.config);
	option_free(aggregate_step.options, g.config);
	free(g.config);
	rig_config(&g, &aggregate_step, "{by: section, compute: {n: max(Size), k: count()}}", NULL);
	rig_start(&g, &aggregate_step);
	add(&g, "b", 7);
	flush(&g);
	assert_int_equal(g.host->n, 1);
	assert_int_equal(out_u(&g, 0, "n"), 7);
	rig_close(&g);
}

static void test_max_keys(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &aggregate_step, "{by: section, compute: {n: count()}, max_keys: 3}");
	add(&g, "a", 1);
	add(&g, "b", 1);
	assert_int_equal(rig_commit(&g), 0);
	add(&g, "c", 1);
	rig_record(&g, "section", 's', "d", NULL);
	assert_int_equal(run(&g), STAGE_E_REJECT);
	assert_non_null(strstr(g.st.why, "max_keys"));
	add(&g, "a", 1);
	rig_record(&g, "section", 's', "d", NULL);
	assert_int_equal(run(&g), STAGE_E_REJECT);
	add(&g, "c", 1);
	flush(&g);
	assert_int_equal(g.host->n, 3);
	assert_int_equal(out_u(&g, 0, "n"), 2);
	assert_int_equal(out_u(&g, 1, "n"), 1);
	assert_int_equal(out_u(&g, 2, "n"), 2);
	add(&g, "d", 1);
	rig_close(&g);
}

static void test_windows(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &aggregate_step, "{by: section, compute: {n: count()}, window: 1m}");
	int64_t minute = 60000000000, start = g.st.now / minute * minute;
	assert_int_equal(g.st.deadline, 1);
	assert_int_equal(g.st.ops->tick(&g.st), STAGE_OK);
	assert_int_equal(g.st.deadline, 0);
	g.st.now = start;
	for (int i = 0; i < 100; i++) {
		char name[16];
		snprintf(name, sizeof(name), "%02d", i);
		add(&g, name, i);
	}
	assert_true(g.st.deadline > 1);
	g.st.now = start + minute - 1;
	add(&g, "00", 1);
	assert_int_equal(g.st.ops->tick(&g.st), STAGE_OK);
	assert_int_equal(g.host->n, 0);
	assert_true(g.st.deadline > 1);
	g.st.now = start + minute;
	add(&g, "00", 1);
	assert_int_equal(g.st.ops->tick(&g.st), STAGE_E_AGAIN);
	assert_int_equal(g.host->n, 64);
	assert_int_equal(rig_commit(&g), 0);
	assert_int_equal(g.st.ops->tick(&g.st), STAGE_OK);
	assert_int_equal(g.host->n, 100);
	assert_true(g.st.deadline > 1);
	assert_int_equal(out_u(&g, 0, "n"), 2);
	assert_int_equal(out_u(&g, 1, "n"), 1);
	assert_int_equal(out_u(&g, 99, "window_start"), (uint64_t)start / 1000000000);
	flush(&g);
	assert_int_equal(g.host->n, 101);
	assert_int_equal(out_u(&g, 100, "n"), 1);
	assert_int_equal(out_u(&g, 100, "window_start"), (uint64_t)(start + minute) / 1000000000);
	rig_close(&g);
}

/* What tick or flush would lose or double if a unit ended where it may: before a record is placed.
 */
static struct rig *ending;
static unsigned emits;

static int host_emit_ending(struct stage_host *h, unsigned output, const struct record *r)
{
	if (emits++ % 10 == 7) {
		assert_int_equal(rig_commit(ending), 0);
		/* all that is committed: what left, and what the state still has */
		uint64_t rows;
		assert_int_equal(state_count(ending->kv, &rows), 0);
		assert_int_equal(rows - 1 + ending->host->n, 200);
	}
	return host_emit(h, output, r);
}

static void test_unit_ends_inside(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &aggregate_step, "{by: section, compute: {n: count()}}");
	for (int i = 0; i < 200; i++) {
		char name[16];
		snprintf(name, sizeof(name), "%d", i);
		add(&g, name, i);
	}
	ending = &g;
	emits = 0;
	g.host->base.emit = host_emit_ending;
	flush(&g);
	assert_int_equal(g.host->n, 200);
	rig_close(&g);
}

static void test_paths(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &aggregate_step, "{by: [u.c, k], compute: {n: sum(u.v)}}");
	static const uint8_t u[] = {0x82, 0xa1, 'c', 0xa1, 'x', 0xa1, 'v', 3};
	rig_record(&g, "u", 'r', u, sizeof(u), "k", 'd', 2.0, NULL);
	assert_int_equal(run(&g), STAGE_E_ABSORBED);
	rig_record(&g, "u", 'r', u, sizeof(u), "k", 'I', (uint64_t)2, NULL);
	assert_int_equal(run(&g), STAGE_E_ABSORBED);
	flush(&g);
	assert_int_equal(g.host->n, 1);
	assert_int_equal(out_u(&g, 0, "n"), 6);
	assert_int_equal(out_u(&g, 0, "k"), 2);
	assert_memory_equal(rig_out(&g, 0, "u.c").p, "x", 1);
	rig_close(&g);
}

static void refuse(const char *yaml, const char *word)
{
	struct rig g = {0};
	struct buf text = {0};
	assert_true(rig_config(&g, &aggregate_step, yaml, &text) > 0);
	buf_add_byte(&text, 0);
	if (!strstr((char *)text.p, word))
		fail_msg("%s: no \"%s\" in: %s", yaml, word, (char *)text.p);
	aggregate_step.config_free(g.config);
	option_free(aggregate_step.options, g.config);
	free(g.config);
	yaml_deinit(&g.tree);
	buf_deinit(&text);
}

static void test_refused(void **arg)
{
	(void)arg;
	refuse("{by: a}", "compute");
	refuse("{by: a, compute: sum(x)}", "map");
	refuse("{by: a, compute: {}}", "map");
	refuse("{by: a, compute: {x: total(b)}}", "expected");
	refuse("{by: a, compute: {x: sum(b}}", "expected");
	refuse("{by: a, compute: {x: sum(b) c}}", "expected");
	refuse("{by: a, compute: {x: sum()}}", "needs a field");
	refuse("{by: a, compute: {x: sum}}", "needs a field");
	refuse("{by: a, compute: {x: [1]}}", "expected");
	refuse("{by: a, compute: {a: count()}}", "group's own");
	refuse("{by: a, compute: {b: count()}, windo: 1m}", "window");
}

static FILE *open_sample(void)
{
	const char *env = getenv("SLUICE_DATA");
	const char *const dirs[] = {env ? env : "../shared/data", "../shared/data",
	                            "../../shared/data"};
	char path[512];
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%.400s/apt-index/sample.ndjson.gz", dirs[i]);
		if (access(path, R_OK) != 0)
			continue;
		snprintf(path, sizeof(path), "zcat %.400s/apt-index/sample.ndjson.gz", dirs[i]);
		return popen(path, "r");
	}
	return NULL;
}

/* A package index by section; the answers were computed by others' means. */
static void test_sample(void **arg)
{
	(void)arg;
	FILE *f = open_sample();
	if (!f) {
		print_message("no sample of the package index here: skipped\n");
		skip();
	}
	struct rig g;
	struct codec codec;
	rig_open(&g, &aggregate_step,
	         "{by: Section, compute: {n: count(), bytes: sum(Size), sized: "
	         "count(Installed-Size)}}");
	assert_int_equal(codec_init(&codec, codec_find("json"), NULL, 256 << 10), 0);
	static char line[256 << 10];
	static uint8_t rec[256 << 10];
	while (fgets(line, sizeof(line), f)) {
		struct codec_window w = {.p = (uint8_t *)line, .last = true};
		w.end = w.p + strlen(line);
		size_t len;
		const char *why;
		assert_int_equal(codec.ops->decode(&codec, &w, rec, sizeof(rec), &len), CODEC_E_OK);
		assert_int_equal(record_open(&g.rec, rec, len, &why), 0);
		assert_int_equal(run(&g), STAGE_E_ABSORBED);
		if (g.st.origin.record % 100 == 0)
			assert_int_equal(rig_commit(&g), 0);
	}
	pclose(f);
	codec_deinit(&codec);
	flush(&g);
	uint64_t n = 0, bytes = 0, sized = 0;
	for (unsigned i = 0; i < g.host->n; i++) {
		struct mp m = rig_out(&g, i, "Section");
		n += out_u(&g, i, "n");
		bytes += out_u(&g, i, "bytes");
		sized += out_u(&g, i, "sized");
		if (m.len == 5 && !memcmp(m.p, "admin", 5)) {
			assert_int_equal(out_u(&g, i, "n"), 109);
			assert_int_equal(out_u(&g, i, "bytes"), 29632688);
		}
	}
	assert_int_equal(g.host->n, 57);
	assert_int_equal(n, 4898);
	assert_int_equal(bytes, 9164180768);
	assert_int_equal(sized, 4888);
	rig_close(&g);
}

/* Not a test that can fail by slowness: it prints what a record costs. */
static void test_speed(void **arg)
{
	(void)arg;
	struct rig g;
	enum { RECORDS = 1000000 };
	static struct rig in[60];
	rig_open(&g, &aggregate_step, "{by: section, compute: {n: count(), bytes: sum(Size)}}");
	for (int i = 0; i < 60; i++) {
		char name[32];
		snprintf(name, sizeof(name), "section-%d", i);
		rig_record(&in[i], "Package", 's', "some-package-name", "Version", 's', "1.2.3-4",
		           "section", 's', name, "Size", 'i', (int64_t)100000 + i, NULL);
	}
	struct timespec a, b;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	for (unsigned i = 0; i < RECORDS; i++) {
		assert_int_equal(g.st.ops->transform(&g.st, &in[i % 60].rec), STAGE_E_ABSORBED);
		if (i % 2500 == 2499)
			assert_int_equal(rig_commit(&g), 0);
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	print_message("aggregate: %.2f M records/s of CPU with 60 keys\n", RECORDS / s / 1e6);
	flush(&g);
	assert_int_equal(g.host->n, 60);
	assert_int_equal(out_u(&g, 0, "n"), 16667);
	for (int i = 0; i < 60; i++) {
		record_deinit(&in[i].rec);
		buf_deinit(&in[i].bytes);
	}
	rig_close(&g);
}

/* What a step was given for record @record of chunk @chunk, parts @from to @to of it, each counted
 * once. */
static void give_parts(struct rig *g, uint64_t chunk, uint32_t record, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		g->st.origin = (struct origin){
		        .epoch = {1}, .chunk = chunk, .record = record, .ordinal = i};
		rig_record(g, "section", 's', i % 2 ? "libs" : "net", "Size", 'i', (int64_t)1,
		           NULL);
		assert_int_equal(g->st.ops->transform(&g->st, &g->rec), STAGE_E_ABSORBED);
	}
}

/* A unit ends in the middle of a record (parts of it leave by a route), its worker dies, and the
 * whole record comes again: after other chunks, too. */
static void test_ends_in_record(void **arg)
{
	(void)arg;
	struct rig g;
	rig_open(&g, &aggregate_step, "by: [section]\ncompute: {n: count()}\n");
	give_parts(&g, 7, 3, 0, 10);
	assert_int_equal(rig_commit(&g), 0);
	give_parts(&g, 7, 3, 10, 15); /* undone: they are counted when they come again */
	rig_rollback(&g);
	rig_stop(&g);
	rig_start(&g, &aggregate_step);
	give_parts(&g, 6, 3, 0, 4);
	assert_int_equal(rig_commit(&g), 0);
	give_parts(&g, 7, 3, 0, 20);
	give_parts(&g, 7, 4, 0, 2);
	assert_int_equal(rig_commit(&g), 0);
	give_parts(&g, 8, 4, 0, 2);
	flush(&g);
	assert_int_equal(g.host->n, 2);
	assert_int_equal(out_u(&g, 0, "n") + out_u(&g, 1, "n"), 4 + 20 + 2 + 2);
	rig_close(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_functions), cmocka_unit_test(test_exact),
	        cmocka_unit_test(test_many),      cmocka_unit_test(test_restart),
	        cmocka_unit_test(test_changed),   cmocka_unit_test(test_max_keys),
	        cmocka_unit_test(test_windows),   cmocka_unit_test(test_unit_ends_inside),
	        cmocka_unit_test(test_paths),     cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_sample),    cmocka_unit_test(test_ends_in_record),
	        cmocka_unit_test(test_speed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
