/*
 * How the end travels: a stage may flush when all its feeders have ended and its edges are empty.
 *
 * "Empty" must hold still: a scan is no snapshot. A chunk only comes onto an edge from a feeder;
 * when all feeders' processes have ended (reaped and repaired) no new one can come, so one clean
 * scan after that is proof. The same holds for a drain: producers gone, then stage by stage from
 * the front to the back.
 *
 * A drain by itself passes no end on: groups and windows stay in the state, and the next start goes
 * on with them. A drain that is to flush (`sluicectl drain --flush`) makes the producers' stop an
 * end like any other.
 *
 * The log (arena.sync) is passed by: its readers may flush when it has passed all on, and it ends
 * when they have, for what they give out of their state has to be in it first. A reload stops it
 * last for the same reason (reload.c).
 *
 * An end is not for ever: dead letters may be put back long after the last record came in. A stage
 * that has ended and finds a chunk on its edge is started again, and ends again when the replay
 * has.
 */
#include "daemon/replay.h"

bool flow_edge_empty(const struct master *m, unsigned edge)
{
	return arena_charged(&m->arena, m->edge_number[edge]) == 0;
}

/* Who stopped for a drain that is to finish everything will not come again. */
static bool child_ended(const struct master *m, const struct child *c)
{
	return c->state == CHILD_ENDED || (m->finishing && c->state == CHILD_STOPPED &&
	                                   m->config->stages[c->stage].kind == STAGE_PRODUCER);
}

/* All of a stage's workers have come to their end. */
static bool stage_ended(const struct master *m, unsigned stage)
{
	bool any = false;
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		const struct child *c = &m->children[w];
		if (!c->wanted || c->stage != stage)
			continue;
		any = true;
		if (!child_ended(m, c))
			return false;
	}
	return any;
}

typedef bool gone_fn(const struct master *m, unsigned stage);

static bool dried_up(const struct master *m, unsigned stage, gone_fn *gone);

/* Nothing more can come from @stage. The log stays to the last, for those behind it may want
 * something in it still: it has no more when it has passed all on. */
static bool nothing_comes(const struct master *m, unsigned stage, gone_fn *gone)
{
	return gone(m, stage) || (stage == m->config->log_stage &&
	                          !atomic_load(&m->arena.h->replaying) && dried_up(m, stage, gone));
}

/* All stages but the log are @gone. */
static bool only_log_left(const struct master *m, gone_fn *gone)
{
	for (unsigned s = 0; s < m->config->n_stages; s++)
		if (s != m->config->log_stage && !m->config->stages[s].builtin && !gone(m, s))
			return false;
	return !replay_active(m);
}

/* All that fill a stage's edges are @gone, and the edges are empty. */
static bool dried_up(const struct master *m, unsigned stage, gone_fn *gone)
{
	const struct config *cfg = m->config;
	for (unsigned i = 0; i < cfg->n_edges; i++) {
		const struct config_edge *e = &cfg->edges[i];
		if (e->to != stage)
			continue;
		if (e->from != UINT32_MAX && !nothing_comes(m, e->from, gone))
			return false;
		for (unsigned s = 0; e->from == UINT32_MAX && s < cfg->n_stages; s++)
			if (s != stage && !gone(m, s))
				return false;
		if (!flow_edge_empty(m, i))
			return false;
	}
	return true;
}

static bool has_input(const struct master *m, unsigned stage)
{
	for (unsigned i = 0; i < m->config->n_edges; i++)
		if (m->config->edges[i].to == stage && !flow_edge_empty(m, i))
			return true;
	return false;
}

void flow_awaken(struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!c->wanted || c->state != CHILD_ENDED ||
		    m->config->stages[c->stage].kind == STAGE_PRODUCER ||
		    !(has_input(m, c->stage) ||
		      (c->stage == m->config->log_stage && replay_active(m))))
			continue;
		c->failures = 0;
		children_restart_later(m, w);
	}
}

bool flow_pass_ends_on(struct master *m)
{
	bool all = !replay_active(m);
	flow_awaken(m);
	for (unsigned s = 0; s < m->config->n_stages; s++) {
		if (stage_ended(m, s))
			continue;
		all = false;
		const struct config_stage *st = &m->config->stages[s];
		/* the dead-letter writer stays as long as the daemon does: a replay may need it */
		if (st->kind == STAGE_PRODUCER || (st->builtin && !m->until_done) ||
		    !dried_up(m, s, stage_ended) || replay_feeds(m, s) ||
		    (s == m->config->log_stage && !only_log_left(m, stage_ended)))
			continue;
		for (uint32_t w = 0; w < m->arena.workers; w++) {
			struct child *c = &m->children[w];
			uint32_t order = atomic_load(&arena_worker(&m->arena, w)->order);
			if (c->wanted && c->stage == s && c->state == CHILD_RUNNING && !c->paused &&
			    order != ORDER_FLUSH && order != ORDER_STOP)
				children_order(m, w, ORDER_FLUSH);
		}
	}
	return all;
}

bool flow_drain_on(struct master *m)
{
	bool all = true;
	for (unsigned s = m->config->n_stages; s < config_all_stages(m->config); s++)
		if (!children_left(m, s))
			return false; /* replays fill any edge */
	for (unsigned s = 0; s < m->config->n_stages; s++) {
		if (children_left(m, s))
			continue;
		all = false;
		/* an edge that is empty now may be filled by a timer of the stage before it as long
		 * as that one runs */
		if (m->config->stages[s].kind == STAGE_PRODUCER || !dried_up(m, s, children_left) ||
		    (s == m->config->log_stage && !only_log_left(m, children_left)))
			continue;
		for (uint32_t w = 0; w < m->arena.workers; w++)
			if (m->children[w].wanted && m->children[w].stage == s &&
			    atomic_load(&arena_worker(&m->arena, w)->order) != ORDER_STOP)
				children_order(m, w, ORDER_STOP);
	}
	return all;
}

bool flow_drained(const struct master *m)
{
	/* from the front to the back: a chunk can only be ahead of the look, never behind it */
	for (unsigned i = 0; i < m->config->n_edges; i++)
		if (!flow_edge_empty(m, i))
			return false;
	for (unsigned i = 0; i < m->config->n_edges; i++)
		if (!flow_edge_empty(m, i))
			return false;
	return true;
}
