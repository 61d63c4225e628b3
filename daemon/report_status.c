/*
 * status: every stage's state with the reason in words, every edge, and what blocks what.
 *
 * A stage's state is that of its workers. When they differ, the liveliest says it (one running
 * worker of two: the stage runs), and the reason names those that are down. "blocked" leads
 * further: the edge that has no room, since when, its reader, and, going on from reader to reader,
 * the one at the end of the jam.
 *
 * Limits: each worker is looked at once, one after the other; a document is no snapshot. Time since
 * is the worker's own note.
 */
#include "daemon/report.h"

#include <limits.h>
#include <unistd.h>

static const char *const state_names[] = {
        [REPORT_RUNNING] = "running",
        [REPORT_BLOCKED] = "blocked",
        [REPORT_UNREACHABLE] = "unreachable",
        [REPORT_STARTING] = "starting",
        [REPORT_IDLE] = "idle",
        [REPORT_PAUSED] = "paused",
        [REPORT_WAITING] = "waiting",
        [REPORT_ENDED] = "ended",
        [REPORT_STOPPED] = "stopped",
};

const char *report_state_name(enum report_state s)
{
	return state_names[s];
}

const char *report_kind(enum stage_kind kind)
{
	return kind == STAGE_PRODUCER ? "producer"
	       : kind == STAGE_STEP   ? "transformer"
	                              : "consumer";
}

double report_since(int64_t now, int64_t ns)
{
	return ns > 0 && now > ns ? (double)(now - ns) / 1e9 : 0;
}

bool report_is_worker(const struct master *m, uint32_t slot, unsigned stage)
{
	return m->children[slot].wanted && m->children[slot].stage == stage;
}

bool report_is_past(const struct master *m, uint32_t slot)
{
	const struct child *c = &m->children[slot];
	return c->state != CHILD_RUNNING && c->ordinal >= m->config->stages[c->stage].workers;
}

static enum report_state of_activity(uint32_t activity)
{
	switch (activity) {
	case ACTIVITY_STARTING:
		return REPORT_STARTING;
	case ACTIVITY_IDLE:
		return REPORT_IDLE;
	case ACTIVITY_BLOCKED:
		return REPORT_BLOCKED;
	case ACTIVITY_UNREACHABLE:
		return REPORT_UNREACHABLE;
	case ACTIVITY_PAUSED:
		return REPORT_PAUSED;
	case ACTIVITY_ENDED:
		return REPORT_ENDED;
	default:
		return REPORT_RUNNING;
	}
}

enum report_state report_worker_state(const struct master *m, uint32_t slot)
{
	const struct arena_worker *w = arena_worker(&m->arena, slot);
	switch (m->children[slot].state) {
	case CHILD_RUNNING:
		return of_activity(atomic_load_explicit(&w->activity, memory_order_relaxed));
	case CHILD_WAITING:
		return REPORT_WAITING;
	case CHILD_ENDED:
		return REPORT_ENDED;
	case CHILD_STOPPED:
		return REPORT_STOPPED;
	default:
		return m->state == MASTER_STARTING ? REPORT_STARTING : REPORT_STOPPED;
	}
}

/* A stage as its workers together have it. */
struct stage_look {
	enum report_state state;
	uint32_t speaker; /* slot of the worker whose state it is; UINT32_MAX: none */
	unsigned workers, running, down;
	uint32_t down_slot; /* one that is down */
	uint64_t restarts;
};

static struct stage_look look_at(const struct master *m, unsigned stage)
{
	struct stage_look l = {
	        .state = m->state == MASTER_STARTING ? REPORT_STARTING : REPORT_STOPPED,
	        .speaker = UINT32_MAX,
	};
	for (uint32_t s = 0; s < m->arena.workers; s++) {
		if (!report_is_worker(m, s, stage) || report_is_past(m, s))
			continue;
		enum report_state state = report_worker_state(m, s);
		if (l.speaker == UINT32_MAX || state < l.state) {
			l.state = state;
			l.speaker = s;
		}
		l.workers++;
		l.running += m->children[s].state == CHILD_RUNNING;
		l.restarts += m->children[s].restarts;
		if (state == REPORT_WAITING) {
			l.down++;
			l.down_slot = s;
		}
	}
	return l;
}

/* The config edge that the speaker of a blocked stage waits for, or UINT32_MAX. */
static unsigned blocked_on(const struct master *m, const struct stage_look *l)
{
	if (l->state != REPORT_BLOCKED)
		return UINT32_MAX;
	const struct arena_worker *w = arena_worker(&m->arena, l->speaker);
	return report_edge_of_number(m,
	                             atomic_load_explicit(&w->blocked_edge, memory_order_relaxed));
}

static void add_worker_why(const struct master *m, uint32_t slot, struct buf *out)
{
	const struct arena_worker *w = arena_worker(&m->arena, slot);
	buf_printf(out, "%.*s", (int)strnlen(w->why, ARENA_WHY_MAX), w->why);
}

static void add_down(const struct master *m, const struct stage_look *l, struct buf *out)
{
	const struct child *c = &m->children[l->down_slot];
	buf_printf(out, "%s%u of %u workers down, to be started again: %.*s", out->len ? "; " : "",
	           l->down, l->workers, (int)strnlen(c->last_words, ARENA_WHY_MAX), c->last_words);
	if (c->failures > 1)
		buf_printf(out, " (%u times in a row without a commit)", c->failures);
}

/* Why a stage is in its state, but for what blocks it. */
static void add_own_why(const struct master *m, unsigned stage, const struct stage_look *l,
                        struct buf *out)
{
	if (l->speaker == UINT32_MAX)
		buf_add_str(out, "no worker has been started");
	else if (l->state == REPORT_UNREACHABLE || l->state == REPORT_STARTING)
		add_worker_why(m, l->speaker, out);
	else if (l->state == REPORT_IDLE)
		buf_add_str(out, m->config->stages[stage].kind == STAGE_PRODUCER
		                         ? "nothing comes in"
		                         : "waits for input");
	else if (l->state == REPORT_PAUSED)
		buf_add_str(out, "by command");
	else if (l->state == REPORT_ENDED)
		buf_add_str(out, "all is done");
	else if (l->state == REPORT_STOPPED)
		buf_add_str(out,
		            m->drained || m->state != MASTER_RUNNING ? "as ordered" : "not wanted");
	if (l->speaker != UINT32_MAX && l->state != REPORT_PAUSED && m->children[l->speaker].paused)
		buf_printf(out, "%swill pause after the work in hand", out->len ? "; " : "");
	if (l->down)
		add_down(m, l, out);
}

/* One reader of a jam: its state and reason, and what it waits for itself. */
static void add_reader_why(const struct master *m, unsigned stage, struct buf *out)
{
	struct stage_look l = look_at(m, stage);
	unsigned edge = blocked_on(m, &l);
	buf_printf(out, "%s is %s", m->config->stages[stage].name, report_state_name(l.state));
	if (edge != UINT32_MAX) {
		buf_printf(out, " on %s", m->config->edges[edge].name);
		return;
	}
	_cleanup_(buf_deinit) struct buf own = {0};
	add_own_why(m, stage, &l, &own);
	if (own.len)
		buf_printf(out, ": %.*s", (int)own.len, (char *)own.p);
}

/* The stage at the end of the jam that begins at config edge @edge. Edges lead upwards, so this
 * ends. */
static unsigned end_of_jam(const struct master *m, unsigned edge)
{
	unsigned stage = m->config->edges[edge].to;
	for (unsigned left = m->config->n_stages; left > 0; left--) {
		struct stage_look l = look_at(m, stage);
		unsigned next = blocked_on(m, &l);
		if (next == UINT32_MAX)
			break;
		stage = m->config->edges[next].to;
	}
	return stage;
}

static void write_text(struct json *j, const char *key, const struct buf *text)
{
	json_text_max(j, key, text->p ? (const char *)text->p : "", text->len);
}

static void write_blocked(const struct master *m, unsigned edge, double since_s, struct json *j,
                          struct buf *why)
{
	const struct config_edge *e = &m->config->edges[edge];
	unsigned root = end_of_jam(m, edge);
	_cleanup_(buf_deinit) struct buf reader = {0}, last = {0};
	add_reader_why(m, e->to, &reader);
	add_reader_why(m, root, &last);
	json_open(j, "blocked", '{');
	json_text(j, "edge", e->name);
	json_num(j, "since_s", since_s);
	json_text(j, "reader", m->config->stages[e->to].name);
	write_text(j, "reader_why", &reader);
	json_text(j, "root", m->config->stages[root].name);
	write_text(j, "root_why", &last);
	json_close(j, '}');
	buf_printf(why, "no room on %s for %.1f s: %.*s", e->name, since_s, (int)reader.len,
	           reader.p ? (char *)reader.p : "");
	if (root != e->to)
		buf_printf(why, "; the jam begins at: %.*s", (int)last.len,
		           last.p ? (char *)last.p : "");
}

static void write_stage(const struct master *m, unsigned stage, int64_t now, struct json *j)
{
	const struct config_stage *s = &m->config->stages[stage];
	struct stage_look l = look_at(m, stage);
	unsigned edge = blocked_on(m, &l);
	_cleanup_(buf_deinit) struct buf why = {0};
	double since = 0;
	if (l.speaker != UINT32_MAX)
		since = report_since(
		        now, atomic_load_explicit(&arena_worker(&m->arena, l.speaker)->since,
		                                  memory_order_relaxed));
	json_open(j, NULL, '{');
	json_text(j, "name", s->name);
	json_text(j, "kind", report_kind(s->kind));
	json_text(j, "type", s->ops ? s->ops->name : NULL);
	json_text(j, "state", report_state_name(l.state));
	if (edge != UINT32_MAX)
		write_blocked(m, edge, since, j, &why);
	add_own_why(m, stage, &l, &why);
	write_text(j, "why", &why);
	json_num(j, "since_s", since);
	json_uint(j, "workers", l.workers);
	json_uint(j, "running", l.running);
	json_uint(j, "restarts", l.restarts);
	json_uint(j, "pipeline", s->pipeline);
	json_bool(j, "builtin", s->builtin || s->log);
	json_close(j, '}');
}

void report_status(const struct master *m, struct json *j)
{
	char dead[PATH_MAX]; /* a relative path would mean nothing to who asks */
	int64_t now = master_now(), started_ms = m->started_at / 1000000;
	json_open(j, NULL, '{');
	json_text(j, "state", master_state_name(m->state));
	json_text(j, "why", m->why);
	json_text(j, "version", SLUICE_VERSION);
	json_int(j, "pid", getpid());
	json_num(j, "uptime_s", report_since(now, m->started));
	json_num(j, "started_at", (double)started_ms / 1e3);
	json_text(j, "config", m->config->path);
	json_uint(j, "pipelines", m->config->n_pipelines);
	json_bool(j, "drained", m->drained);
	json_uint(j, "reloads", m->reloads);
	json_text(j, "reload_error", m->reload_error[0] ? m->reload_error : NULL);
	json_uint(j, "aside", atomic_load_explicit(&m->arena.h->aside, memory_order_relaxed));
	json_text(j, "dead_letters",
	          realpath(m->config->dead_path, dead) ? dead : m->config->dead_path);
	json_open(j, "stages", '[');
	for (unsigned i = 0; i < config_all_stages(m->config); i++)
		if (m->config->stages[i].workers) /* a replayer without letters is not there */
			write_stage(m, i, now, j);
	json_close(j, ']');
	report_edges(m, now, j);
	json_close(j, '}');
}
