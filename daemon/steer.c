/*
 * What an administrator may ask for besides looking: pause, drain, restart, scale, tap, reopen.
 */
#include "daemon/master.h"

#include <stdio.h>
#include <string.h>

static int find(const struct master *m, const char *name, unsigned *stage, const char **why)
{
	static char text[256];
	const struct config_stage *s = config_stage(m->config, name);
	if (s) {
		*stage = (unsigned)(s - m->config->stages);
		return 0;
	}
	const char *names[256];
	size_t n = 0;
	for (unsigned i = 0; i < m->config->n_stages && n < 256; i++)
		names[n++] = m->config->stages[i].name;
	const char *near = option_nearest(name, names, n);
	snprintf(text, sizeof(text), "no stage is called %.64s%s%s%s", name,
	         near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
	*why = text;
	return 1;
}

static bool of_stage(const struct child *c, unsigned stage)
{
	return c->wanted && c->stage == stage;
}

int master_pause(struct master *m, const char *name, bool pause, const char **why)
{
	unsigned stage = 0;
	if (find(m, name, &stage, why))
		return 1;
	if (m->state >= MASTER_DRAINING) {
		*why = "the daemon is stopping";
		return 1;
	}
	if (m->drained && m->config->stages[stage].kind == STAGE_PRODUCER) {
		*why = "intake was stopped by drain; restart begins it again";
		return 1;
	}
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!of_stage(c, stage))
			continue;
		c->paused = pause;
		/* one that is leaving leaves; the next one is born paused */
		if (c->state == CHILD_RUNNING &&
		    atomic_load(&arena_worker(&m->arena, w)->order) != ORDER_STOP)
			children_order(m, w, pause ? ORDER_PAUSE : ORDER_RUN);
	}
	return 0;
}

int master_drain(struct master *m, bool flush, const char **why)
{
	if (m->state >= MASTER_DRAINING) {
		*why = "the daemon is stopping";
		return 1;
	}
	if (flush && m->reload) {
		*why = "a reload is under way";
		return 1;
	}
	m->drained = true;
	m->finishing |= flush;
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (m->children[w].wanted &&
		    m->config->stages[m->children[w].stage].kind == STAGE_PRODUCER)
			children_order(m, w, ORDER_DRAIN);
	return 0;
}

int master_restart(struct master *m, const char *name, const char **why)
{
	unsigned stage = 0;
	if (find(m, name, &stage, why))
		return 1;
	if (m->state >= MASTER_STOPPING) {
		*why = "the daemon is stopping";
		return 1;
	}
	if (m->finishing) {
		*why = "everything is being finished (drain --flush): start the daemon again";
		return 1;
	}
	if (m->config->stages[stage].kind == STAGE_PRODUCER)
		m->drained = false; /* somebody wants intake again */
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!of_stage(c, stage))
			continue;
		if (c->state == CHILD_RUNNING) {
			c->replace = true;
			children_order(m, w, ORDER_STOP);
		} else if (c->state == CHILD_WAITING || c->state == CHILD_STOPPED) {
			c->failures = 0;
			children_restart_later(m, w);
		}
	}
	return 0;
}

static int refuse_scale(const struct master *m, unsigned stage, unsigned workers, const char **why)
{
	static char text[256];
	const struct config_stage *s = &m->config->stages[stage];
	bool single =
	        s->builtin || s->log || s->stateful || (s->ops && (s->ops->flags & STAGE_SINGLE));
	*why = NULL;
	if (workers < 1)
		*why = "a stage has at least one worker; use pause to stop it";
	else if (workers > 1 && single)
		*why = "this stage can only have one worker: it keeps state or a position";
	else if (m->finishing)
		*why = "everything is being finished (drain --flush)";
	else if (m->state != MASTER_RUNNING)
		*why = "the daemon is not running normally";
	else if (m->reload)
		*why = "a reload is under way";
	unsigned others = 0;
	for (unsigned i = 0; i < m->config->n_stages; i++)
		others += i == stage ? 0 : m->config->stages[i].workers;
	if (!*why && others + workers > m->arena.workers) {
		snprintf(text, sizeof(text),
		         "arena.max_workers is %u, and the other stages have %u", m->arena.workers,
		         others);
		*why = text;
	}
	return *why != NULL;
}

/* Ends the workers that are too many. Their figures stay with their slots. */
static void scale_down(struct master *m, unsigned stage, unsigned workers)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!of_stage(c, stage) || c->ordinal < workers)
			continue;
		c->replace = false;
		children_order(m, w, ORDER_STOP);
		if (c->state != CHILD_RUNNING && c->state != CHILD_WAITING)
			children_let_go(m, w);
	}
}

/* Starts those that are missing, paused if the stage is. */
static void scale_up(struct master *m, unsigned stage, bool paused)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!of_stage(c, stage) || c->ordinal >= m->config->stages[stage].workers)
			continue;
		if (c->state == CHILD_NONE) {
			c->paused = paused;
			children_restart_later(m, w);
		} else if (c->state == CHILD_RUNNING &&
		           atomic_load(&arena_worker(&m->arena, w)->order) == ORDER_STOP) {
			c->replace = true; /* it was told to leave by a scale before this one */
		}
	}
}

int master_scale(struct master *m, const char *name, unsigned workers, const char **why)
{
	unsigned stage = 0;
	bool paused = false;
	if (find(m, name, &stage, why) || refuse_scale(m, stage, workers, why))
		return 1;
	for (uint32_t w = 0; w < m->arena.workers; w++)
		paused |= of_stage(&m->children[w], stage) && m->children[w].paused;
	unsigned before = m->config->stages[stage].workers;
	m->config->stages[stage].workers = workers;
	if (children_assign(m) != 0) {
		m->config->stages[stage].workers = before;
		scale_down(m, stage, before);
		*why = "no free worker slot";
		return 1;
	}
	scale_down(m, stage, workers);
	scale_up(m, stage, paused);
	return 0;
}

int master_tap(struct master *m, const char *name, unsigned n, const char **why)
{
	unsigned stage = 0;
	if (find(m, name, &stage, why))
		return 1;
	if (m->config->stages[stage].kind == STAGE_CONSUMER) {
		*why = "a consumer puts out no records; tap the stage before it";
		return 1;
	}
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (of_stage(&m->children[w], stage))
			atomic_store(&arena_worker(&m->arena, w)->tap, n);
	return 0;
}

void master_reopen(struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		if (!m->children[w].wanted)
			continue;
		atomic_fetch_add(&arena_worker(&m->arena, w)->reopen, 1);
		children_order(m, w,
		               (enum worker_order)atomic_load(&arena_worker(&m->arena, w)->order));
	}
}
