/*
 * stats: every stage's figures, added up over its workers and over those that were retired.
 *
 * Counters of the books are the committed ones, hence exact; the rest is for looking. Everything is
 * copied out of the shared memory first and computed from the copy. Rates come from the master's
 * samples, one a second: over the last second, ten, sixty, or as long as there are samples.
 *
 * Limit: a copy of a histogram that its worker is writing may be off by the records of one chunk.
 */
#include "daemon/report.h"

struct figures {
	uint64_t book[BOOK_COUNT];
	uint64_t stat[STAT_COUNT];
	struct histogram latency, work;
	uint64_t rss;
	unsigned workers;
};

static uint64_t load(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void add_worker(struct figures *f, const struct master *m, uint32_t slot)
{
	const struct arena_worker *w = arena_worker(&m->arena, slot);
	const struct child *c = &m->children[slot];
	for (unsigned i = 0; i < BOOK_COUNT; i++)
		f->book[i] += load(&w->committed.book[i]);
	for (unsigned i = 0; i < STAT_COUNT; i++)
		f->stat[i] += stats_get(&w->stats, (enum stats_item)i);
	histogram_merge(&f->latency, &w->stats.latency);
	histogram_merge(&f->work, &w->stats.work);
	if (c->state == CHILD_RUNNING) {
		f->rss += c->rss;

		f->workers++;
	}
}

static void gather(const struct master *m, unsigned stage, struct figures *f)
{
	const char *name = m->config->stages[stage].name;
	memset(f, 0, sizeof(*f));
	for (uint32_t s = 0; s < m->arena.workers; s++)
		if (report_is_worker(m, s, stage))
			add_worker(f, m, s);
	for (unsigned b = 0; b < ARENA_BOOKS_MAX; b++) {
		const struct arena_book *old = &m->arena.h->books[b];
		if (strncmp(old->stage, name, ARENA_NAME_MAX) != 0)
			continue;
		for (unsigned i = 0; i < BOOK_COUNT; i++)
			f->book[i] += load(&old->book[i]);
	}
}

/* @ns_a_unit: what one unit of the output has in ns. */
static void write_histogram(struct json *j, const char *key, const struct histogram *h,
                            double ns_a_unit)
{
	static const struct {
		const char *name;
		double q;
	} quantiles[] = {{"median", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
	json_open(j, key, '{');
	json_uint(j, "count", h->count);
	json_num(j, "min", h->count ? (double)h->min / ns_a_unit : 0);
	json_num(j, "max", h->count ? (double)h->max / ns_a_unit : 0);
	json_num(j, "mean", histogram_mean(h) / ns_a_unit);
	json_num(j, "stddev", histogram_stddev(h) / ns_a_unit);
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(*quantiles); i++)
		json_num(j, quantiles[i].name,
		         (double)histogram_quantile(h, quantiles[i].q) / ns_a_unit);
	json_close(j, '}');
}

static void write_shares(struct json *j, const struct figures *f)
{
	double busy = (double)f->stat[STAT_busy_ns], idle = (double)f->stat[STAT_idle_ns],
	       blocked = (double)f->stat[STAT_blocked_ns], all = busy + idle + blocked;
	json_open(j, "share", '{');
	json_num(j, "busy", all > 0 ? busy / all : 0);
	json_num(j, "idle", all > 0 ? idle / all : 0);
	json_num(j, "blocked", all > 0 ? blocked / all : 0);
	json_close(j, '}');
}

/* The sample of @stage taken @ago seconds before the last one. */
static const struct sample *sample(const struct master *m, unsigned stage, unsigned ago)
{
	unsigned at = (m->sample_at + 2 * SAMPLES - 1 - ago) % SAMPLES;
	return &m->samples[(size_t)at * m->config->n_stages + stage];
}

static unsigned n_samples(const struct master *m)
{
	if (!m->samples)
		return 0;
	return m->n_samples < SAMPLES ? m->n_samples : SAMPLES;
}

static void write_rate(struct json *j, const char *key, const struct master *m, unsigned stage,
                       unsigned over)
{
	unsigned n = n_samples(m);
	double in = 0, out = 0;
	over = n && over > n - 1 ? n - 1 : over;
	if (n > 1 && over > 0) {
		const struct sample *now = sample(m, stage, 0), *then = sample(m, stage, over);
		in = now->records_in > then->records_in
		             ? (double)(now->records_in - then->records_in)
		             : 0;
		out = now->records_out > then->records_out
		              ? (double)(now->records_out - then->records_out)
		              : 0;
		in /= over;
		out /= over;
	}
	json_open(j, key, '{');
	json_num(j, "in", in);
	json_num(j, "out", out);
	json_close(j, '}');
}

static void write_rates(struct json *j, const struct master *m, unsigned stage)
{
	json_open(j, "rate", '{');
	write_rate(j, "1s", m, stage, 1);
	write_rate(j, "10s", m, stage, 10);
	write_rate(j, "60s", m, stage, 60);
	json_close(j, '}');
}

/* Oldest first: [in, out] totals. */
static void write_samples(struct json *j, const struct master *m, unsigned stage)
{
	json_open(j, "samples", '[');
	for (unsigned ago = n_samples(m); ago-- > 0;) {
		json_open(j, NULL, '[');
		json_uint(j, NULL, sample(m, stage, ago)->records_in);
		json_uint(j, NULL, sample(m, stage, ago)->records_out);
		json_close(j, ']');
	}
	json_close(j, ']');
}

static void write_queue(struct json *j, const struct master *m, unsigned stage,
                        const struct report_edge *look)
{
	uint64_t chunks = 0, records = 0, quota = 0;
	for (unsigned i = 0; i < m->config->n_edges; i++) {
		uint32_t n = report_edge_number(m, i);
		if (m->config->edges[i].to != stage || n == ARENA_NO_EDGE)
			continue;
		chunks += look[n].charged;
		records += look[n].records;
		quota += m->config->edges[i].quota;
	}
	json_open(j, "queue", '{');
	json_uint(j, "chunks", chunks);
	json_uint(j, "records", records);
	json_uint(j, "quota", quota);
	json_close(j, '}');
}

static void write_stage(struct json *j, const struct master *m, unsigned stage, struct figures *f,
                        const struct report_edge *look, bool samples)
{
	const struct config_stage *s = &m->config->stages[stage];
	gather(m, stage, f);
	json_open(j, s->name, '{');
	json_text(j, "kind", report_kind(s->kind));
	json_uint(j, "pipeline", s->pipeline);
	json_uint(j, "workers", f->workers);
	for (unsigned i = 0; i < BOOK_COUNT; i++)
		json_uint(j, stats_book_name[i], f->book[i]);
	for (unsigned i = 0; i < STAT_COUNT; i++)
		json_uint(j, stats_name[i], f->stat[i]);
	write_histogram(j, "latency_us", &f->latency, 1e3);
	write_histogram(j, "work_ns", &f->work, 1);
	write_shares(j, f);
	write_rates(j, m, stage);
	write_queue(j, m, stage, look);
	json_uint(j, "rss", f->rss);

	if (samples)
		write_samples(j, m, stage);
	json_close(j, '}');
}

static void write_arena(struct json *j, const struct arena *a)
{
	json_open(j, "arena", '{');
	json_uint(j, "buffers", a->entries);
	json_uint(j, "free", arena_free(a));
	json_uint(j, "bytes", a->size);
	json_uint(j, "buffer_bytes", a->buffer_size);
	json_uint(j, "aside", atomic_load_explicit(&a->h->aside, memory_order_relaxed));
	json_close(j, '}');
}

void report_stats(const struct master *m, bool samples, struct json *j)
{
	struct report_edge look[ARENA_EDGES_MAX];
	_cleanup_free_ struct figures *f = malloc(sizeof(*f));
	if (!f) {
		j->error = -ENOMEM;
		return;
	}
	report_edges_look(&m->arena, look);
	json_open(j, NULL, '{');
	json_text(j, "state", master_state_name(m->state));
	json_num(j, "uptime_s", report_since(master_now(), m->started));
	json_open(j, "stages", '{');
	for (unsigned i = 0; i < m->config->n_stages; i++)
		write_stage(j, m, i, f, look, samples);
	json_close(j, '}');
	write_arena(j, &m->arena);
	json_close(j, '}');
}
