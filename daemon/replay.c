/*
 * Replayers as the master sees them: started where a spool lies, given back when it is gone.
 *
 * The hard idea: the spool's file is the order. Nothing else says that there is something to
 * replay, so a start of the daemon, a reload and the command do the same: look which spools there
 * are, and start who is not running. A replayer takes a worker's slot only while its spool is
 * there; its position stands in that slot, which therefore must not be given away before
 * (replay_holds). When it has ended its figures move to the book of the stage whose letters they
 * were, in one step.
 *
 * A spool that is published while its predecessor's replayer is just ending is seen when that one
 * is reaped. With too few slots for all, those left over start when one has ended.
 *
 * Invariants: at most one process for a spool; a slot named for a replayer is either running, or
 * has a spool, or is about to be retired.
 *
 * Limit: where spools lie (dead_letters.path) must not change between two runs while one is
 * unfinished.
 */
#include "daemon/replay.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "daemon/spool.h"
#include "ipc/log.h"

static bool is_replayer(const struct master *m, unsigned stage)
{
	return stage >= m->config->n_stages && stage < config_all_stages(m->config);
}

static const char *stage_of(const struct config_stage *replayer)
{
	const struct replay_config *c = replayer->config;
	return c->stage;
}

/* The stage whose replayer a slot was named for, as far as the arena can be believed; NULL: none.
 */
static const char *slot_is_for(const struct master *m, uint32_t slot, char name[ARENA_NAME_MAX])
{
	const size_t prefix = sizeof(SPOOL_PREFIX) - 1;
	memcpy(name, arena_worker(&m->arena, slot)->stage, ARENA_NAME_MAX);
	name[ARENA_NAME_MAX - 1] = '\0';
	return strncmp(name, SPOOL_PREFIX, prefix) == 0 && !strchr(name, '/') ? name + prefix
	                                                                      : NULL;
}

static bool has_process(const struct child *c)
{
	return c->state == CHILD_RUNNING || c->state == CHILD_WAITING;
}

bool replay_holds(const struct master *m, uint32_t slot)
{
	char name[ARENA_NAME_MAX];
	const char *stage = slot_is_for(m, slot, name);
	return stage && spool_exists(m->config->dead_path, stage);
}

bool replay_retire(struct master *m, uint32_t slot)
{
	char name[ARENA_NAME_MAX];
	const char *stage = slot_is_for(m, slot, name);
	if (!stage)
		return false;
	struct child *c = &m->children[slot];
	struct config_stage *s = config_stage(m->config, name);
	c->wanted = c->paused = false;
	c->state = CHILD_NONE;
	c->restarts = c->failures = 0;
	if (s)
		s->workers = 0;
	arena_worker_retire_as(&m->arena, slot, stage, arena_worker(&m->arena, slot)->heir);
	return true;
}

/* Slots of replayers that were finished, but whose master died before it could give them back. */
static void retire_finished(struct master *m)
{
	char name[ARENA_NAME_MAX];
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (slot_is_for(m, w, name) && !has_process(&m->children[w]) &&
		    !replay_holds(m, w) && intent_clean(&m->arena, w))
			replay_retire(m, w);
}

/* ---- starting ---- */

static struct child *find_child(const struct master *m, unsigned stage)
{
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (m->children[w].wanted && m->children[w].stage == stage)
			return &m->children[w];
	return NULL;
}

static struct child *take_slot(struct master *m, unsigned stage)
{
	uint32_t slot;
	if (arena_worker_assign(&m->arena, m->config->stages[stage].name, 0, &slot) != 0)
		return NULL;
	struct child *c = &m->children[slot];
	c->master = m;
	c->stage = stage;
	c->ordinal = 0;
	c->wanted = true;
	c->state = CHILD_NONE;
	return c;
}

/* Spools of stages that are not configured are of no use, but are nothing to throw away. */
static void tell_orphans(const struct master *m)
{
	DIR *dir = opendir(m->config->dead_path);
	for (const struct dirent *e; dir && (e = readdir(dir));) {
		char name[ARENA_NAME_MAX];
		size_t len = strlen(e->d_name), end = sizeof(".spool") - 1;
		if (len <= end || len - end >= sizeof(name) ||
		    strncmp(e->d_name, SPOOL_PREFIX, sizeof(SPOOL_PREFIX) - 1) != 0 ||
		    strcmp(e->d_name + len - end, ".spool") != 0)
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(len - end), e->d_name);
		if (!config_stage(m->config, name))
			log_warning("%s/%s holds dead letters to replay to a stage that is not "
			            "configured: it "
			            "waits until the stage is there again",
			            m->config->dead_path, e->d_name);
	}
	if (dir)
		closedir(dir);
}

int replay_start(struct master *m, const char **why)
{
	*why = NULL;
	if (!m->config->n_replays)
		return 0;
	retire_finished(m);
	tell_orphans(m);
	for (unsigned i = m->config->n_stages; i < config_all_stages(m->config); i++) {
		struct config_stage *s = &m->config->stages[i];
		struct child *c = find_child(m, i);
		if (!c && !spool_exists(m->config->dead_path, stage_of(s)))
			continue;
		if (m->drained || m->state >= MASTER_DRAINING) {
			*why = "intake is stopped: they are replayed when the daemon has been "
			       "started again";
			continue;
		}
		if (!c && !(c = take_slot(m, i))) {
			*why = "all of arena.max_workers are in use: they are replayed when one is "
			       "free; raise it";
			continue;
		}
		s->workers = 1;
		if (!has_process(c))
			children_restart_later(m, (uint32_t)(c - m->children));
	}
	return *why != NULL;
}

void replay_child_gone(struct master *m, uint32_t slot)
{
	struct child *c = &m->children[slot];
	const char *why;
	if (c->state != CHILD_ENDED || !is_replayer(m, c->stage))
		return;
	bool more = replay_holds(m, slot);
	if (more && m->state < MASTER_DRAINING) {
		children_restart_later(m, slot);
	} else if (!more) {
		replay_retire(m, slot);
		replay_start(m, &why); /* one that waits for a slot */
	}
}

/* ---- what others ask ---- */

/* A replayer that has work. One that was stopped by a drain that is to finish everything will not
 * come again. */
static bool at_work(const struct master *m, const struct child *c)
{
	return c->wanted && is_replayer(m, c->stage) &&
	       !(m->finishing && c->state == CHILD_STOPPED);
}

bool replay_feeds(const struct master *m, unsigned stage)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		const struct child *c = &m->children[w];
		if (!at_work(m, c))
			continue;
		unsigned edge = m->config->stages[c->stage].replay_edge;
		if (m->config->edges[edge].to == stage)
			return true;
	}
	return false;
}

bool replay_active(const struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (at_work(m, &m->children[w]))
			return true;
	return false;
}

bool replay_fills(const struct master *m, unsigned edge)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		const struct child *c = &m->children[w];
		if (c->wanted && has_process(c) && is_replayer(m, c->stage) &&
		    m->config->stages[c->stage].replay_edge == edge)
			return true;
	}
	return false;
}

const char *replay_refusal(const struct master *m, const struct config *next)
{
	static char text[256];
	bool moved = strcmp(m->config->dead_path, next->dead_path) != 0;
	for (unsigned i = m->config->n_stages; i < config_all_stages(m->config); i++) {
		const struct config_stage *s = &m->config->stages[i];
		if (!spool_exists(m->config->dead_path, stage_of(s)) ||
		    (!moved && config_stage(next, s->name)))
			continue;
		snprintf(text, sizeof(text),
		         "dead letters are being replayed to %s: it cannot be removed, nor "
		         "dead_letters.path be changed, before that is done",
		         stage_of(s));
		return text;
	}
	return NULL;
}
