/*
 * A new configuration under load: checked first, then only changed stages are replaced.
 *
 * A stage is unchanged when its own text is the same and it has the same edges; its workers never
 * notice. The others are AFFECTED. An affected stage may be stopped as soon as no chunk can be left
 * behind that nobody would read: when each of its input edges that the new configuration does not
 * have is empty, and its writers are stopped. Stages without such an edge stop at once, so this
 * walks down the graph and ends. When the last one has left, the configuration is swapped and the
 * new workers are forked; edges that stay keep their numbers and their chunks.
 *
 * The log (arena.sync) is the last to stop: what others still have to finish may have to be in it
 * first. So it is no writer to wait for; instead, a producer whose reader goes is stopped, and when
 * the log has passed all of it on, no more comes.
 *
 * If that takes longer than `stop_timeout` (a removed reader whose output is dead), the stopped
 * stages are started again as they were and the reload is refused, naming the edge.
 */
#include "daemon/master.h"

#include <stdio.h>
#include <string.h>

#include "daemon/control.h"
#include "daemon/notify.h"
#include "daemon/replay.h"
#include "daemon/worker.h"
#include "ipc/log.h"

struct reload {
	struct config *next;
	int discard; /* the edge of the old configuration that is dropped with its chunks, or -1 */
	bool *affected; /* by old stage */
	int64_t until;  /* monotonic ns */
};

static int find_edge(const struct config *cfg, const char *from, const char *to)
{
	for (unsigned i = 0; i < cfg->n_edges; i++) {
		char f[ARENA_OUTPUT_MAX];
		const char *t;
		home_edge_names(cfg, i, f, sizeof(f), &t);
		if (strcmp(f, from) == 0 && strcmp(t, to) == 0)
			return (int)i;
	}
	return -1;
}

/* The edge of @other with the same name as edge @i of @cfg, or -1. */
static int same_edge(const struct config *cfg, unsigned i, const struct config *other)
{
	char from[ARENA_OUTPUT_MAX];
	const char *to;
	home_edge_names(cfg, i, from, sizeof(from), &to);
	return find_edge(other, from, to);
}

/* True when every edge of stage @s in @cfg is in @other too. */
static bool edges_in(const struct config *cfg, unsigned s, const struct config *other)
{
	for (unsigned i = 0; i < cfg->n_edges; i++)
		if ((cfg->edges[i].from == s || cfg->edges[i].to == s) &&
		    same_edge(cfg, i, other) < 0)
			return false;
	return true;
}

static bool changed(const struct config *old, unsigned s, const struct config *next)
{
	const struct config_stage *n = config_stage(next, old->stages[s].name);
	if (!n || n->hash != old->stages[s].hash || n->kind != old->stages[s].kind)
		return true;
	return !edges_in(old, s, next) || !edges_in(next, (unsigned)(n - next->stages), old);
}

/* With a log a producer's readers are the log's: the one whose reader goes is affected as it would
 * be without. */
static void affect_producers(const struct config *old, struct reload *r)
{
	for (unsigned i = 0; i < old->n_edges; i++)
		if (old->edges[i].from == old->log_stage && old->edges[i].output &&
		    same_edge(old, i, r->next) < 0)
			r->affected[old->edges[i].output - 1] = true;
}

static bool differs(const char *a, const char *b)
{
	return a != b && (!a || !b || strcmp(a, b) != 0);
}

static const char *needs_restart(const struct config *a, const struct config *b)
{
	if (a->arena_size != b->arena_size || a->arena_buffer != b->arena_buffer ||
	    differs(a->arena_path, b->arena_path) || a->arena_sync != b->arena_sync ||
	    a->arena_log_size != b->arena_log_size || a->max_workers != b->max_workers)
		return "the arena section has changed: that needs a restart";
	if (differs(a->state_path, b->state_path) || a->state_size != b->state_size)
		return "the state section has changed: that needs a restart";
	if (differs(a->runtime_dir, b->runtime_dir) ||
	    differs(a->control_socket, b->control_socket))
		return "runtime_dir or control.socket has changed: that needs a restart";
	return NULL;
}

static int refuse(struct master *m, const char *text, size_t len, const char **why)
{
	snprintf(m->reload_error, sizeof(m->reload_error), "%.*s", (int)len, text);
	*why = m->reload_error;
	log_error("reload refused, the old configuration stays: %s", m->reload_error);
	return 1;
}

static struct reload *reload_free(struct reload *r)
{
	if (r) {
		config_free(r->next);
		free(r->affected);
		free(r);
	}
	return NULL;
}

/* Stages that are not replaced keep the number of workers they were scaled to. False: there is no
 * room for that. */
static bool keep_scale(const struct config *old, struct reload *r)
{
	uint64_t sum = 0;
	bool scaled = false; /* what the file alone says was checked when it was read */
	for (unsigned s = 0; s < r->next->n_stages; s++) {
		struct config_stage *n = &r->next->stages[s];
		const struct config_stage *o = config_stage(old, n->name);
		if (o && !r->affected[o - old->stages]) {
			scaled |= n->workers != o->workers;
			n->workers = o->workers;
		}
		sum += n->workers;
	}
	return !scaled || sum <= r->next->max_workers;
}

/* Says in the arena that the edge is to be dropped with its chunks, or that nothing is: a master
 * that is killed before that is done leaves it to the next one. */
static void order_discard(struct master *m, bool ordered)
{
	for (unsigned i = 0; i < m->config->n_edges; i++) {
		bool it = ordered && (int)i == m->reload->discard;
		atomic_store(&m->arena.h->edges[m->edge_number[i]].discard, it);
	}
}

/* The edge meant by `--discard @name`: one that is there and will not be. -1: @why (@size bytes)
 * says what is wrong with it. */
static int edge_to_discard(const struct master *m, const struct config *next, const char *name,
                           char *why, size_t size)
{
	for (unsigned i = 0; i < m->config->n_edges; i++) {
		if (strcmp(m->config->edges[i].name, name) != 0)
			continue;
		if (same_edge(m->config, i, next) < 0)
			return (int)i;
		snprintf(why, size,
		         "--discard %s: the new configuration still has this edge, and only edges "
		         "that it no longer has can be dropped",
		         name);
		return -1;
	}
	snprintf(why, size,
	         "--discard %s: there is no such edge; `sluicectl status` lists them as FROM->TO",
	         name);
	return -1;
}

int master_reload(struct master *m, const char *discard, const char **why)
{
	static const char too_many[] =
	        "arena.max_workers is too small for the new configuration and the stages that "
	        "were scaled: scale them down first";
	struct complaints c = {0};
	if (m->state >= MASTER_DRAINING)
		return refuse(m, "the daemon is stopping", 22, why);
	if (m->finishing)
		return refuse(m, "everything is being finished (drain --flush)", 44, why);
	if (m->reload)
		return refuse(m, "another reload is under way", 27, why);
	struct reload *r = calloc(1, sizeof(*r));
	if (!r)
		return refuse(m, "no memory", 9, why);
	r->next = config_load(m->config->path, &c);
	const char *restart = r->next ? needs_restart(m->config, r->next) : NULL;
	char no_edge[512];
	if (r->next && !restart)
		restart = replay_refusal(m, r->next);
	r->discard = -1;
	if (r->next && !restart && discard) {
		r->discard = edge_to_discard(m, r->next, discard, no_edge, sizeof(no_edge));
		restart = r->discard < 0 ? no_edge : NULL;
	}
	if (!r->next || restart) {
		int answer = restart ? refuse(m, restart, strlen(restart), why)
		                     : refuse(m, (char *)c.text.p, c.text.len, why);
		buf_deinit(&c.text);
		reload_free(r);
		return answer;
	}
	buf_deinit(&c.text);
	r->affected = calloc(config_all_stages(m->config), sizeof(*r->affected));
	if (!r->affected) {
		reload_free(r);
		return refuse(m, "no memory", 9, why);
	}
	for (unsigned s = 0; s < config_all_stages(m->config); s++)
		r->affected[s] = changed(m->config, s, r->next);
	affect_producers(m->config, r);
	if (!keep_scale(m->config, r)) {
		reload_free(r);
		return refuse(m, too_many, strlen(too_many), why);
	}
	r->until = master_now() + m->config->stop_timeout;
	m->reload = r;
	order_discard(m, true);
	m->reload_error[0] = 0;
	notify_reloading();
	return 0; /* reload_step() does the rest, from the loop */
}

/* The log has passed on all that its output number @output ever will. */
static bool passed_on(const struct master *m, unsigned output)
{
	if (!output || atomic_load(&m->arena.h->replaying) || !children_left(m, output - 1))
		return false;
	for (unsigned i = 0; i < m->config->n_edges; i++)
		if (m->config->edges[i].from == output - 1 && !flow_edge_empty(m, i))
			return false;
	return true;
}

/* Nothing comes onto edge @i any more. */
static bool dried_up(const struct master *m, unsigned i)
{
	const struct config_edge *e = &m->config->edges[i];
	if (replay_fills(m, i))
		return false;
	return e->from == UINT32_MAX || children_left(m, e->from) ||
	       (e->from == m->config->log_stage && passed_on(m, e->output));
}

/* The first edge that still keeps affected stage @s from being stopped, or -1. */
static int keeps(const struct master *m, unsigned s)
{
	const struct reload *r = m->reload;
	for (unsigned i = 0; i < m->config->n_edges; i++) {
		const struct config_edge *e = &m->config->edges[i];
		if (e->to != s || same_edge(m->config, i, r->next) >= 0)
			continue;
		if ((int)i == r->discard)
			continue;
		if (!dried_up(m, i) || !flow_edge_empty(m, i))
			return (int)i;
	}
	return -1;
}

static void stop_stage(struct master *m, unsigned s)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (c->wanted && c->stage == s &&
		    (c->state == CHILD_RUNNING || c->state == CHILD_WAITING) &&
		    atomic_load(&arena_worker(&m->arena, w)->order) != ORDER_STOP)
			children_order(m, w, ORDER_STOP);
	}
}

static void end_reload(struct master *m, const char *why)
{
	m->reload = reload_free(m->reload);
	if (why) {
		if (why != m->reload_error)
			snprintf(m->reload_error, sizeof(m->reload_error), "%s", why);
		log_error("reload refused, the old configuration stays: %s", m->reload_error);
	} else {
		m->reloads++;
		m->reload_error[0] = 0;
	}
	notify_reloaded(m);
	control_reloaded(m, why ? m->reload_error : NULL);
}

/* Starts again what was stopped. */
static void start_again(struct master *m)
{
	const struct reload *r = m->reload;
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!c->wanted || !r->affected[c->stage])
			continue;
		if (c->state == CHILD_STOPPED)
			children_restart_later(m, w);
		else if (c->state == CHILD_RUNNING &&
		         atomic_load(&arena_worker(&m->arena, w)->order) == ORDER_STOP)
			c->replace = true; /* it is about to leave */
	}
}

/* Refused before anything was swapped: what was stopped goes on. */
static void go_on_as_before(struct master *m, const char *why)
{
	start_again(m);
	order_discard(m, false);
	end_reload(m, why);
}

/* @edge keeps a stage from stopping; -1: @stage does not leave. */
static void go_back(struct master *m, unsigned stage, int edge)
{
	char text[512];
	const char *name = edge >= 0 ? m->config->edges[edge].name : "";
	if (edge >= 0)
		snprintf(text, sizeof(text),
		         "edge %s still holds chunks after stop_timeout; `sluicectl reload "
		         "--discard %s` drops them",
		         name, name);
	else
		snprintf(text, sizeof(text),
		         "stage %s does not stop within stop_timeout: `sluicectl status` says why",
		         m->config->stages[stage].name);
	go_on_as_before(m, text);
}

/* A surviving stage that removed stage @s was connected with, in some steps: its pipeline takes the
 * figures. */
static const char *heir_of(const struct config *old, unsigned s, const struct config *next)
{
	for (unsigned i = 0; i < old->n_stages; i++)
		if (i != s && old->stages[i].pipeline == old->stages[s].pipeline &&
		    !old->stages[i].builtin && config_stage(next, old->stages[i].name))
			return old->stages[i].name;
	return "";
}

/* One that is dropped may have chunks in a transaction of a reader that stays: it goes when they
 * are settled. */
static void remove_old_edges(struct master *m)
{
	for (unsigned i = 0; i < m->config->n_edges; i++) {
		if (same_edge(m->config, i, m->reload->next) >= 0)
			continue;
		if ((int)i == m->reload->discard)
			home_discard_edge(m, m->edge_number[i]);
		if (flow_edge_empty(m, i))
			arena_edge_remove(&m->arena, m->edge_number[i]);
		else
			m->discarding = true;
	}
}

/* Slots of stages that are gone are given up, those of changed ones stay theirs (positions,
 * figures). */
static void release_children(struct master *m)
{
	const struct reload *r = m->reload;
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!c->wanted)
			continue;
		const char *name = m->config->stages[c->stage].name;
		const struct config_stage *n = config_stage(r->next, name);
		if (r->affected[c->stage]) {
			c->wanted = false;
			c->state = CHILD_NONE;
			c->failures = 0;
		} else {
			c->stage = (unsigned)(n - r->next->stages);
		}
		if (n)
			continue;
		children_let_go(
		        m, w); /* whatever was ordered of it is not meant for the slot's next one */
		home_give_up_unsettled(&m->arena, w);
		if (intent_clean(&m->arena, w))
			arena_worker_retire(&m->arena, w, heir_of(m->config, c->stage, r->next));
	}
}

/* Whether all new edges get numbers, beside those that are kept until their chunks are settled.
 * Once the configuration is swapped there is no way back. */
static bool edges_fit(const struct master *m)
{
	const struct config *next = m->reload->next;
	unsigned n = next->n_edges;
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++) {
		bool named = false;
		for (unsigned i = 0; i < m->config->n_edges; i++)
			named |= m->edge_number[i] == e && same_edge(m->config, i, next) >= 0;
		n += !named && arena_charged(&m->arena, e);
	}
	return n <= ARENA_EDGES_MAX && n <= m->arena.entries;
}

static int swap(struct master *m)
{
	struct reload *r = m->reload;
	struct sample *samples = calloc((size_t)SAMPLES * r->next->n_stages, sizeof(*samples));
	if (!samples)
		return -ENOMEM;
	release_children(m); /* before the edges: who starts after a crash here finds by them what
	                        was linked */
	remove_old_edges(m);
	config_free(m->config);
	m->config = r->next;
	r->next = NULL;
	free(m->samples);
	m->samples = samples;
	m->n_samples = m->sample_at = 0;
	const char *why;
	int x = home_assign_edges(m);
	if (x == 0)
		x = children_assign(m);
	if (x == 0)
		books_new_graph(m);
	for (uint32_t w = 0; x == 0 && w < m->arena.workers; w++)
		if (m->children[w].wanted && m->children[w].state == CHILD_NONE)
			children_restart_later(m, w);
	if (x == 0 && replay_start(m, &why) != 0)
		log_warning("dead letters wait to be replayed: %s", why);
	return x;
}

/* Stops who may stop. True: some have not left; *@stage: one of them, *@edge: one that keeps one,
 * or -1. */
static bool stop_affected(struct master *m, unsigned *stage, int *edge)
{
	unsigned log = m->config->log_stage;
	bool waiting = false;
	*edge = -1;
	for (unsigned s = 0; s < config_all_stages(m->config); s++) {
		if (s == log || !m->reload->affected[s] || children_left(m, s))
			continue;
		waiting = true;
		*stage = s;
		int e = keeps(m, s);
		if (e < 0)
			stop_stage(m, s);
		else if (*edge < 0)
			*edge = e;
	}
	if (waiting || log == UINT32_MAX || !m->reload->affected[log] || children_left(m, log))
		return waiting;
	*stage = log;
	*edge = keeps(m, log);
	if (*edge < 0)
		stop_stage(m, log);
	return true;
}

void reload_step(struct master *m)
{
	struct reload *r = m->reload;
	const char *why;
	unsigned stage = 0;
	int edge;
	if (!r && m->reload_again) {
		m->reload_again = false;
		(void)master_reload(m, NULL, &why);
	}
	if (!r)
		return;
	if (stop_affected(m, &stage, &edge)) {
		if (master_now() > r->until)
			go_back(m, stage, edge);
		return;
	}
	if (!edges_fit(m)) {
		go_on_as_before(
		        m, "chunks of edges that were dropped wait for a transaction to be "
		           "settled, and take the numbers of new edges: when it is, try again");
		return;
	}
	int x = swap(m);
	if (x < 0) {
		/* the new configuration is in force, but not all of it could be started */
		end_reload(m, "not enough room in the arena for the new configuration: restart the "
		              "daemon");
		return;
	}
	end_reload(m, NULL);
}

void reload_abandon(struct master *m)
{
	if (m->reload && m->state < MASTER_DRAINING && !home_persistent(m)) {
		go_on_as_before(m, "the daemon is stopping");
	}
	m->reload = reload_free(m->reload);
}
