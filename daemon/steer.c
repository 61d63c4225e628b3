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
	snprintf(text, sizeof(text), "no stage is called %.64s%s%s%s", name, near ? "; did you mean " : "",
		 near ? near : "", near ? "?" : "");
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
		if (c->state == CHILD_RUNNING)
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
	bool single = s->builtin || s->log || s->stateful || (s->ops && (s->ops->flags & STAGE_SINGLE));
	*why = NULL;
	if (workers < 1)
		*why = "a stage has at least one worker; use pause to stop it";
	else if (workers > 1 && single)
		*why = "this stage can only have one worker: it keeps state or a position";
	else if (m->finishing)
		*why = "everything is being finished (drain --flush)";
	else if (m->state != MASTER_RUNNING)
		*why = "the daemon is not running normally";
	unsigned others = 0;
	for (unsigned i = 0; i < m->config->n_stages; i++)
		others += i == stage ? 0 : m->config->stages[i].workers;
	if (!*why && others + workers > m->arena.workers) {
		snprintf(text, sizeof(text), "arena.max_workers is %u, and the other stages have %u",
			 m->arena.workers, others);
		*why = text;
	}
	return *why != NULL;
}

int master_scale(struct master *m, const char *name, unsigned workers, const char **why)
{
	unsigned stage = 0;
	if (find(m, name, &stage, why) || refuse_scale(m, stage, workers, why))
		return 1;
	m->config->stages[stage].workers = workers;
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!of_stage(c, stage) || c->ordinal < workers)
			continue;
		if (c->state == CHILD_RUNNING || c->state == CHILD_WAITING)
			children_order(m, w, ORDER_STOP); /* its figures stay with its slot */
	}
	if (children_assign(m) != 0) {
		*why = "no free worker slot";
		return 1;
	}
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		if (!of_stage(c, stage) || c->ordinal >= workers)
			continue;
		if (c->state == CHILD_NONE || c->state == CHILD_STOPPED)
			children_restart_later(m, w);
	}
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
