/*
 * The daemon's answers as people read them. What the JSON has and a table does not is left to
 * --json: a table answers one question at a glance.
 */
#include "daemon/ctl.h"

#include <stdio.h>

#define COLUMNS(t, ...)                                             \
 do {                                                               \
  static const char *const titles_[] = {__VA_ARGS__};               \
  table_columns(&(t), titles_, sizeof(titles_) / sizeof(*titles_)); \
 } while (0)

static void cell_doc(struct table *t, enum table_color color, struct doc d)
{
	size_t n;
	const char *s = doc_text(d, &n);
	table_cell_text(t, color, s, n);
}

static void cell_count(struct table *t, struct doc d, enum table_color color)
{
	char s[TABLE_NUMBER_MAX];
	table_cell(t, doc_num(d) > 0 ? color : TABLE_PLAIN, "%s", table_count(s, doc_num(d)));
}

static void cell_bytes(struct table *t, struct doc d)
{
	char s[TABLE_NUMBER_MAX];
	table_cell(t, TABLE_PLAIN, "%s", doc_num(d) > 0 ? table_bytes(s, doc_num(d)) : "-");
}

static void cell_micros(struct table *t, struct doc d)
{
	char s[TABLE_NUMBER_MAX];
	table_cell(t, TABLE_PLAIN, "%s", doc_num(d) > 0 ? table_micros(s, doc_num(d)) : "-");
}

static void add_doc(struct buf *out, const char *before, struct doc d)
{
	size_t n;
	const char *s = doc_text(d, &n);
	buf_add_str(out, before);
	table_add(out, s, n, TABLE_PLAIN, false);
}

static void finish(const struct ctl *ctl, struct table *t, struct buf *out)
{
	table_print(t, ctl->color, table_terminal_width(1), out);
	table_deinit(t);
}

enum table_color ctl_state_color(struct doc state)
{
	static const struct {
		const char *name;
		enum table_color color;
	} colors[] = {
	        {"running", TABLE_GOOD}, {"idle", TABLE_GOOD},     {"blocked", TABLE_WARN},
	        {"paused", TABLE_WARN},  {"starting", TABLE_WARN}, {"unreachable", TABLE_BAD},
	        {"waiting", TABLE_BAD},  {"ended", TABLE_DIM},     {"stopped", TABLE_DIM},
	};
	for (size_t i = 0; i < sizeof(colors) / sizeof(*colors); i++)
		if (doc_is(state, colors[i].name))
			return colors[i].color;
	return TABLE_PLAIN;
}

/* ---- status ---- */

static void show_head(struct doc d, struct buf *out)
{
	char s[TABLE_NUMBER_MAX];
	add_doc(out, "sluiced ", doc_at(d, "version"));
	add_doc(out, ": ", doc_at(d, "state"));
	buf_printf(out, ", pid %llu, up %s", (unsigned long long)doc_uint(doc_at(d, "pid")),
	           table_seconds(s, doc_num(doc_at(d, "uptime_s"))));
	add_doc(out, ", ", doc_at(d, "config"));
	buf_add_str(out, doc_bool(doc_at(d, "drained")) ? ", drained\n" : "\n");
	if (!doc_exists(doc_at(d, "reload_error")))
		return;
	size_t n;
	const char *why = doc_text(doc_at(d, "reload_error"), &n);
	buf_add_str(out, "the last reload was refused, the configuration before it runs:\n");
	for (size_t at = 0; at < n;) {
		const char *nl = memchr(why + at, '\n', n - at);
		size_t len = nl ? (size_t)(nl - why) - at : n - at;
		buf_add_str(out, "  ");
		table_add(out, why + at, len, TABLE_PLAIN, false);
		buf_add_byte(out, '\n');
		at += len + 1;
	}
}

static void show_aside(struct doc d, struct buf *out)
{
	if (doc_uint(doc_at(d, "aside")))
		buf_printf(out, "%llu chunks are set aside: torn or corrupt\n",
		           (unsigned long long)doc_uint(doc_at(d, "aside")));
}

static void show_edges(const struct ctl *ctl, struct doc edges, struct buf *out)
{
	struct table t = {0};
	COLUMNS(t, "EDGE", ">CHUNKS", ">QUOTA", ">RECORDS", ">OLDEST", "WHEN FULL");
	for (struct doc_walk w = doc_walk(edges); doc_next(&w);) {
		char s[TABLE_NUMBER_MAX];
		bool full = doc_bool(doc_at(w.value, "full"));
		double age = doc_num(doc_at(w.value, "oldest_s"));
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "name"));
		table_cell(&t, full ? TABLE_WARN : TABLE_PLAIN, "%llu",
		           (unsigned long long)doc_uint(doc_at(w.value, "queued")));
		cell_count(&t, doc_at(w.value, "quota"), TABLE_PLAIN);
		cell_count(&t, doc_at(w.value, "records"), TABLE_PLAIN);
		table_cell(&t, TABLE_PLAIN, "%s", age > 0 ? table_micros(s, age * 1e6) : "-");
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "policy"));
	}
	buf_add_byte(out, '\n');
	finish(ctl, &t, out);
}

void ctl_show_status(const struct ctl *ctl, struct doc d, struct buf *out)
{
	struct table t = {0};
	show_head(d, out);
	COLUMNS(t, "STAGE", "KIND", "TYPE", "STATE", ">WORKERS", "WHY");
	for (struct doc_walk w = doc_walk(doc_at(d, "stages")); doc_next(&w);) {
		struct doc state = doc_at(w.value, "state");
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "name"));
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "kind"));
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "type"));
		cell_doc(&t, ctl_state_color(state), state);
		table_cell(&t, TABLE_PLAIN, "%llu/%llu",
		           (unsigned long long)doc_uint(doc_at(w.value, "running")),
		           (unsigned long long)doc_uint(doc_at(w.value, "workers")));
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "why"));
	}
	buf_add_byte(out, '\n');
	finish(ctl, &t, out);
	show_edges(ctl, doc_at(d, "edges"), out);
	show_aside(d, out);
}

/* ---- stats ---- */

static void show_arena(struct doc d, struct buf *out)
{
	char s[TABLE_NUMBER_MAX];
	buf_printf(out, "\narena: %llu of %llu buffers free, %s\n",
	           (unsigned long long)doc_uint(doc_at(d, "free")),
	           (unsigned long long)doc_uint(doc_at(d, "buffers")),
	           table_bytes(s, doc_num(doc_at(d, "bytes"))));
	show_aside(d, out);
}

void ctl_show_stats(const struct ctl *ctl, struct doc d, struct buf *out)
{
	struct table t = {0};
	COLUMNS(t, "STAGE", ">IN", ">OUT", ">IN/S", ">OUT/S", ">MEDIAN", ">P99", ">FILTERED",
	        ">DEAD", ">RETRIES", ">QUEUE", ">BUSY", ">BLOCKED");
	for (struct doc_walk w = doc_walk(doc_at(d, "stages")); doc_next(&w);) {
		double blocked = doc_num(doc_at(w.value, "share.blocked"));
		cell_doc(&t, TABLE_PLAIN, w.key);
		cell_count(&t, doc_at(w.value, "records_in"), TABLE_PLAIN);
		cell_count(&t, doc_at(w.value, "records_out"), TABLE_PLAIN);
		cell_count(&t, doc_at(w.value, "rate.1s.in"), TABLE_PLAIN);
		cell_count(&t, doc_at(w.value, "rate.1s.out"), TABLE_PLAIN);
		cell_micros(&t, doc_at(w.value, "latency_us.median"));
		cell_micros(&t, doc_at(w.value, "latency_us.p99"));
		cell_count(&t, doc_at(w.value, "filtered"), TABLE_PLAIN);
		cell_count(&t, doc_at(w.value, "dead"), TABLE_BAD);
		cell_count(&t, doc_at(w.value, "retries"), TABLE_WARN);
		cell_count(&t, doc_at(w.value, "queue.chunks"), TABLE_PLAIN);
		table_cell(&t, TABLE_PLAIN, "%.0f %%",
		           100 * doc_num(doc_at(w.value, "share.busy")));
		table_cell(&t, blocked > 0.5 ? TABLE_WARN : TABLE_PLAIN, "%.0f %%", 100 * blocked);
	}
	finish(ctl, &t, out);
	show_arena(doc_at(d, "arena"), out);
}

/* ---- workers ---- */

/* "all", "all but files", "privileges, calls"; "-" for what is not confined at all. */
static void cell_confined(struct table *t, struct doc w)
{
	char text[128] = "", name[32];
	size_t len = 0;
	bool missing = false;
	for (struct doc_walk k = doc_walk(doc_at(w, "not_confined")); doc_next(&k); missing = true)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s",
		                        len ? ", " : "all but ",
		                        doc_copy(k.value, name, sizeof(name)));
	struct doc_walk k = doc_walk(doc_at(w, "confined"));
	bool any = doc_next(&k);
	table_cell(t, missing ? TABLE_WARN : TABLE_PLAIN, "%s", missing ? text : any ? "all" : "-");
}

static void worker_row(struct table *t, struct doc w)
{
	char s[TABLE_NUMBER_MAX];
	struct doc state = doc_at(w, "state");
	uint64_t restarts = doc_uint(doc_at(w, "restarts")), pid = doc_uint(doc_at(w, "pid"));
	double up = doc_num(doc_at(w, "uptime_s"));
	table_cell(t, TABLE_PLAIN, "%llu", (unsigned long long)doc_uint(doc_at(w, "index")));
	if (pid)
		table_cell(t, TABLE_PLAIN, "%llu", (unsigned long long)pid);
	else
		table_cell(t, TABLE_PLAIN, "-");
	cell_doc(t, ctl_state_color(state), state);
	cell_bytes(t, doc_at(w, "rss"));
	cell_bytes(t, doc_at(w, "pss"));
	table_cell(t, TABLE_PLAIN, "%.2f s", doc_num(doc_at(w, "cpu_s")));
	table_cell(t, TABLE_PLAIN, "%s", up > 0 ? table_seconds(s, up) : "-");
	table_cell(t, restarts ? TABLE_WARN : TABLE_PLAIN, "%llu", (unsigned long long)restarts);
	cell_confined(t, w);
	cell_doc(t, TABLE_PLAIN, doc_at(w, "why"));
}

void ctl_show_workers(const struct ctl *ctl, struct doc d, struct buf *out)
{
	struct table t = {0};
	COLUMNS(t, "STAGE", ">#", ">PID", "STATE", ">RSS", ">PSS", ">CPU", ">UP", ">RESTARTS",
	        "CONFINED", "WHY");
	table_cell(&t, TABLE_PLAIN, "(master)");
	worker_row(&t, doc_at(d, "master"));
	for (struct doc_walk w = doc_walk(doc_at(d, "workers")); doc_next(&w);) {
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "stage"));
		worker_row(&t, w.value);
	}
	finish(ctl, &t, out);
}

/* ---- audit ---- */

/* "received 10 + made 2 = 12" */
static void show_sum(struct doc d, const char *const *terms, struct buf *out)
{
	uint64_t sum = 0;
	bool first = true;
	for (; *terms; terms++) {
		uint64_t n = doc_uint(doc_at(d, *terms));
		sum += n;
		if (n == 0)
			continue;
		const char *underscore = strchr(*terms, '_');
		if (underscore)
			buf_printf(out, "%s%.*s %s %llu", first ? "" : " + ",
			           (int)(underscore - *terms), *terms, underscore + 1,
			           (unsigned long long)n);
		else
			buf_printf(out, "%s%s %llu", first ? "" : " + ", *terms,
			           (unsigned long long)n);
		first = false;
	}
	buf_printf(out, "%s%llu\n", first ? "" : " = ", (unsigned long long)sum);
}

static void show_balance(const struct ctl *ctl, struct doc d, struct buf *out)
{
	static const char *const in[] = {"received", "made", "replayed", "moved_in", NULL};
	static const char *const gone[] = {"delivered", "filtered", "absorbed",  "dead", "dropped",
	                                   "in_flight", "aside",    "moved_out", NULL};
	bool ok = doc_bool(doc_at(d, "balanced"));
	const char *word = ok ? "balanced" : "NOT balanced";
	table_add(out, word, strlen(word), ok ? TABLE_GOOD : TABLE_BAD, ctl->color);
	buf_add_str(out, "\n  in:   ");
	show_sum(d, in, out);
	buf_add_str(out, "  out:  ");
	show_sum(d, gone, out);
}

void ctl_show_audit(const struct ctl *ctl, struct doc d, struct buf *out)
{
	for (struct doc_walk w = doc_walk(doc_at(d, "pipelines")); doc_next(&w);) {
		const char *between = "";
		buf_add_str(out, "pipeline ");
		for (struct doc_walk s = doc_walk(doc_at(w.value, "stages")); doc_next(&s);
		     between = ", ")
			add_doc(out, between, s.value);
		buf_add_str(out, ": ");
		show_balance(ctl, w.value, out);
	}
	buf_add_str(out, "all: ");
	show_balance(ctl, d, out);
}

/* ---- graph ---- */

void ctl_show_graph(const struct ctl *ctl, struct doc d, struct buf *out)
{
	struct table t = {0}, e = {0};
	COLUMNS(t, "STAGE", "KIND", "TYPE", ">WORKERS");
	for (struct doc_walk w = doc_walk(doc_at(d, "stages")); doc_next(&w);) {
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "name"));
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "kind"));
		cell_doc(&t, TABLE_PLAIN, doc_at(w.value, "type"));
		cell_count(&t, doc_at(w.value, "workers"), TABLE_PLAIN);
	}
	finish(ctl, &t, out);
	buf_add_byte(out, '\n');
	COLUMNS(e, "EDGE", ">QUOTA", "WHEN FULL");
	for (struct doc_walk w = doc_walk(doc_at(d, "edges")); doc_next(&w);) {
		cell_doc(&e, TABLE_PLAIN, doc_at(w.value, "name"));
		cell_count(&e, doc_at(w.value, "quota"), TABLE_PLAIN);
		cell_doc(&e, TABLE_PLAIN, doc_at(w.value, "policy"));
	}
	finish(ctl, &e, out);
}
