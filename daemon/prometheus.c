/*
 * Figures in Prometheus' text format, version 0.0.4, for a scraper's text-file collector or a small
 * script behind an HTTP server: the daemon itself opens no port.
 *
 * Made by the client from the daemon's JSON, metric by metric, since all samples of one metric have
 * to stand together. Units are the base ones (seconds, bytes), counters end in _total. Label values
 * are escaped as the format wants it: backslash, quote, newline.
 */
#include "daemon/ctl.h"

#include <stdio.h>

#include "ipc/stats.h"

static void add_label(struct buf *out, const char *name, struct doc value)
{
	size_t n;
	const char *s = doc_text(value, &n);
	if (out->p[out->len - 1] != '{')
		buf_add_byte(out, ',');
	buf_printf(out, "%s=\"", name);
	for (size_t i = 0; i < n; i++)
		if (s[i] == '\n')
			buf_add_str(out, "\\n");
		else if (s[i] == '"' || s[i] == '\\')
			buf_printf(out, "\\%c", s[i]);
		else
			buf_add_byte(out, (uint8_t)s[i]);
	buf_add_byte(out, '"');
}

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(struct buf *out, double v)
{
	buf_printf(out, " %.15g\n", v);
}

static void labels_of_stage(struct buf *out, struct doc name, struct doc stage)
{
	buf_add_byte(out, '{');
	add_label(out, "stage", name);
	add_label(out, "kind", doc_at(stage, "kind"));
}

/* One number of each stage. */
static void by_stage(struct buf *out, struct doc stages, const char *name, const char *type,
                     const char *help, const char *path, double factor)
{
	head(out, name, type, help);
	for (struct doc_walk w = doc_walk(stages); doc_next(&w);) {
		buf_add_str(out, name);
		labels_of_stage(out, w.key, w.value);
		buf_add_byte(out, '}');
		value(out, doc_num(doc_at(w.value, path)) * factor);
	}
}

static void books(struct buf *out, struct doc stages)
{
	char name[96];
	for (unsigned i = 0; i < BOOK_COUNT; i++) {
		snprintf(name, sizeof(name), "sluice_stage_%s_total", stats_book_name[i]);
		by_stage(out, stages, name, "counter", stats_book_help[i], stats_book_name[i], 1);
	}
}

static void counters(struct buf *out, struct doc stages)
{
	char name[96];
	for (unsigned i = 0; i < STAT_COUNT; i++) {
		size_t n = strlen(stats_name[i]);
		bool time = n > 3 && strcmp(stats_name[i] + n - 3, "_ns") == 0;
		snprintf(name, sizeof(name), "sluice_stage_%.*s%s_total", (int)(time ? n - 3 : n),
		         stats_name[i], time ? "_seconds" : "");
		by_stage(out, stages, name, "counter", stats_help[i], stats_name[i],
		         time ? 1e-9 : 1);
	}
}

static void summary(struct buf *out, struct doc stages, const char *name, const char *help,
                    const char *path, double factor)
{
	static const struct {
		const char *key, *quantile;
	} q[] = {{"median", "0.5"}, {"p90", "0.9"}, {"p99", "0.99"}, {"p999", "0.999"}};
	head(out, name, "summary", help);
	for (struct doc_walk w = doc_walk(stages); doc_next(&w);) {
		struct doc h = doc_at(w.value, path);
		for (size_t i = 0; i < sizeof(q) / sizeof(*q); i++) {
			buf_add_str(out, name);
			labels_of_stage(out, w.key, w.value);
			buf_printf(out, ",quantile=\"%s\"}", q[i].quantile);
			value(out, doc_num(doc_at(h, q[i].key)) * factor);
		}
		double count = doc_num(doc_at(h, "count"));
		buf_printf(out, "%s_sum", name);
		labels_of_stage(out, w.key, w.value);
		buf_add_byte(out, '}');
		value(out, doc_num(doc_at(h, "mean")) * factor * count);
		buf_printf(out, "%s_count", name);
		labels_of_stage(out, w.key, w.value);
		buf_add_byte(out, '}');
		value(out, count);
	}
}

static void by_worker(struct buf *out, struct doc workers, const char *name, const char *type,
                      const char *help, const char *path)
{
	head(out, name, type, help);
	for (struct doc_walk w = doc_walk(doc_at(workers, "workers")); doc_next(&w);) {
		buf_add_str(out, name);
		buf_add_byte(out, '{');
		add_label(out, "stage", doc_at(w.value, "stage"));
		buf_printf(out, ",index=\"%llu\"}",
		           (unsigned long long)doc_uint(doc_at(w.value, "index")));
		value(out, doc_num(doc_at(w.value, path)));
	}
}

static void by_edge(struct buf *out, struct doc edges, const char *name, const char *help,
                    const char *path)
{
	head(out, name, "gauge", help);
	for (struct doc_walk w = doc_walk(edges); doc_next(&w);) {
		buf_add_str(out, name);
		buf_add_byte(out, '{');
		add_label(out, "edge", doc_at(w.value, "name"));
		buf_add_byte(out, '}');
		value(out, doc_num(doc_at(w.value, path)));
	}
}

static void states(struct buf *out, struct doc stages)
{
	static const char name[] = "sluice_stage_state";
	head(out, name, "gauge", "the state a stage is in, always 1");
	for (struct doc_walk w = doc_walk(stages); doc_next(&w);) {
		buf_add_str(out, name);
		buf_add_byte(out, '{');
		add_label(out, "stage", doc_at(w.value, "name"));
		add_label(out, "state", doc_at(w.value, "state"));
		buf_add_byte(out, '}');
		value(out, 1);
	}
}

static void one(struct buf *out, const char *name, const char *help, struct doc v)
{
	head(out, name, "gauge", help);
	buf_add_str(out, name);
	value(out, doc_num(v));
}

void prometheus_print(struct doc stats, struct doc workers, struct doc status, struct buf *out)
{
	struct doc stages = doc_at(stats, "stages"), edges = doc_at(status, "edges");
	books(out, stages);
	counters(out, stages);
	summary(out, stages, "sluice_stage_latency_seconds",
	        "consumers: from the taking in to the delivery; others: queue and work",
	        "latency_us", 1e-6);
	summary(out, stages, "sluice_stage_work_seconds", "work for one record", "work_ns", 1e-9);
	by_stage(out, stages, "sluice_stage_workers", "gauge", "processes that run", "workers", 1);
	by_stage(out, stages, "sluice_stage_queue_chunks", "gauge", "chunks on the edges it reads",
	         "queue.chunks", 1);
	states(out, doc_at(status, "stages"));
	by_edge(out, edges, "sluice_edge_chunks", "chunks an edge holds", "queued");
	by_edge(out, edges, "sluice_edge_quota", "chunks an edge may hold", "quota");
	by_edge(out, edges, "sluice_edge_oldest_seconds", "age of its oldest queued chunk",
	        "oldest_s");
	by_worker(out, workers, "sluice_worker_resident_bytes", "gauge", "resident memory", "rss");
	by_worker(out, workers, "sluice_worker_proportional_bytes", "gauge",
	          "resident memory with shared pages divided among their users", "pss");
	by_worker(out, workers, "sluice_worker_cpu_seconds_total", "counter",
	          "processor time of the process", "cpu_s");
	by_worker(out, workers, "sluice_worker_restarts_total", "counter",
	          "times it was started again", "restarts");
	one(out, "sluice_arena_buffers", "buffers of the arena", doc_at(stats, "arena.buffers"));
	one(out, "sluice_arena_free_buffers", "free buffers of the arena",
	    doc_at(stats, "arena.free"));
	one(out, "sluice_arena_bytes", "bytes of the arena", doc_at(stats, "arena.bytes"));
	one(out, "sluice_uptime_seconds", "since the daemon was started",
	    doc_at(stats, "uptime_s"));
}
