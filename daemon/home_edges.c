/*
 * The edges in the arena and those of the configuration: numbers by name, and what becomes of edges
 * that the configuration has no more.
 *
 * An edge without chunks just goes. One with chunks keeps a start from happening, for nobody would
 * ever read them; unless it was ordered to be dropped (`reload --discard`) and that reload did not
 * come to its end, because the master was killed or stopped in it. The order stands in the arena,
 * in the edge itself, from before anything is done about it, and goes when the edge is removed,
 * when the reload is refused, or when a daemon starts with a configuration that has the edge. So
 * whoever starts next with the new configuration finishes it.
 *
 * Figures of stages that are gone are counted with those they were linked with. That is looked up
 * while the arena still knows its edges.
 */
#include "daemon/master.h"

#include <stdio.h>
#include <string.h>

#include "daemon/spool.h"
#include "ipc/log.h"

/* ---- names ---- */

void home_edge_names(const struct config *cfg, unsigned edge, char *from, size_t size,
                     const char **to)
{
	const struct config_edge *e = &cfg->edges[edge];
	*to = cfg->stages[e->to].name;
	if (e->from == UINT32_MAX)
		snprintf(from, size, "*");
	else if (e->output)
		snprintf(from, size, "%s.%s", cfg->stages[e->from].name,
		         cfg->stages[e->from].outputs[e->output]);
	else
		snprintf(from, size, "%s", cfg->stages[e->from].name);
}

int home_assign_edges(struct master *m)
{
	const struct config *cfg = m->config;
	uint32_t *numbers = calloc(cfg->n_edges + 1, sizeof(*numbers));
	if (!numbers)
		return -ENOMEM;
	for (unsigned i = 0; i < cfg->n_edges; i++) {
		char from[ARENA_OUTPUT_MAX];
		const char *to;
		home_edge_names(cfg, i, from, sizeof(from), &to);
		if (arena_edge_assign(&m->arena, from, to, &numbers[i]) != 0) {
			log_error("more than %d edges, or an arena with too few buffers for them",
			          ARENA_EDGES_MAX);
			free(numbers);
			return -ENOSPC;
		}
		struct arena_edge *e = &m->arena.h->edges[numbers[i]];
		uint64_t quota = cfg->edges[i].quota ? cfg->edges[i].quota : 1;
		atomic_store(&e->quota, quota < UINT32_MAX ? (uint32_t)quota : UINT32_MAX);
		atomic_store(&e->drop, cfg->edges[i].full == EDGE_DROP);
		atomic_store(&e->discard, 0);
	}
	free(m->edge_number);
	m->edge_number = numbers;
	m->arena.h->dead_edge = numbers[cfg->dead_edge];
	return 0;
}

/* ---- heirs ---- */

/* Whether an end of arena edge @e is @stage (an output of it counts as it). Dead letters link all
 * with all: no link. */
static bool at_edge(const struct arena *a, uint32_t e, const char *stage)
{
	const struct arena_edge *it = &a->h->edges[e];
	size_t len = strnlen(stage, ARENA_NAME_MAX);
	if (it->from[0] == '*')
		return false;
	return strncmp(it->to, stage, ARENA_NAME_MAX) == 0 ||
	       (strncmp(it->from, stage, len) == 0 && (!it->from[len] || it->from[len] == '.'));
}

/* A stage of the configuration that @stage was linked with in the arena, over whatever lies
 * between; NULL: none. */
static const char *linked_with(const struct master *m, const char *stage)
{
	const struct arena *a = &m->arena;
	uint64_t used = atomic_load(&a->h->edges_used), in = 0, before;
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
		in |= (uint64_t)at_edge(a, e, stage) << e;
	do {
		before = in &= used;
		for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
			for (uint32_t x = 0; (in >> e & 1) && x < ARENA_EDGES_MAX; x++)
				in |= (uint64_t)at_edge(a, x, a->h->edges[e].to) << x;
		in &= used;
	} while (in != before);
	for (unsigned i = 0; i < m->config->n_stages; i++)
		for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
			if ((in >> e & 1) && at_edge(a, e, m->config->stages[i].name))
				return m->config->stages[i].name;
	return NULL;
}

static void name_heir(const struct master *m, const char *shared, char *heir)
{
	char stage[ARENA_NAME_MAX];
	snprintf(stage, sizeof(stage), "%.*s", ARENA_NAME_MAX - 1, shared);
	bool gone = stage[0] && !config_stage(m->config, stage);
	const size_t prefix = sizeof(SPOOL_PREFIX) - 1; /* a replayer is linked as its stage is */
	bool replayer = strncmp(stage, SPOOL_PREFIX, prefix) == 0;
	const char *name = gone ? linked_with(m, stage + (replayer ? prefix : 0)) : NULL;
	if (name)
		snprintf(heir, ARENA_NAME_MAX, "%s", name);
}

/* Slots of stages that the configuration no longer has keep their figures and positions, for it may
 * come back. Until then the books count them with the stages they were linked with. While the arena
 * still knows its edges. */
static void name_heirs(struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++)
		name_heir(m, arena_worker(&m->arena, w)->stage, arena_worker(&m->arena, w)->heir);
	for (uint32_t i = 0; i < ARENA_BOOKS_MAX; i++)
		name_heir(m, m->arena.h->books[i].stage, m->arena.h->books[i].heir);
}

/* ---- edges that the configuration has no more ---- */

static bool stray(const struct master *m, uint32_t e)
{
	for (unsigned i = 0; i < m->config->n_edges; i++)
		if (m->edge_number[i] == e)
			return false;
	return atomic_load(&m->arena.h->edges_used) >> e & 1;
}

static bool given_up(const struct master *m, uint32_t e)
{
	return stray(m, e) && atomic_load(&m->arena.h->edges[e].discard);
}

/* What is in the arena must have a place in the configuration, or an order to drop it. */
static int refuse_strays(const struct master *m)
{
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++) {
		uint32_t chunks = stray(m, e) && !given_up(m, e) ? arena_charged(&m->arena, e) : 0;
		if (!chunks)
			continue;
		log_error("the arena holds %u chunks of edge %.*s -> %.*s, which the configuration "
		          "no longer has: put it back and run `sluicectl drain`, or save them with "
		          "--arena-export",
		          chunks, ARENA_OUTPUT_MAX, m->arena.h->edges[e].from, ARENA_NAME_MAX,
		          m->arena.h->edges[e].to);
		return -EINVAL;
	}
	return 0;
}

void home_discard_edge(struct master *m, uint32_t e)
{
	const struct arena_edge *edge = &m->arena.h->edges[e];
	uint64_t records = 0;
	char to[ARENA_NAME_MAX];
	snprintf(to, sizeof(to), "%.*s", ARENA_NAME_MAX - 1, edge->to);
	for (uint32_t i = 0; i < m->arena.entries; i++) {
		struct word v = arena_word(&m->arena, i);
		if (v.state == WORD_QUEUED && v.edge == e)
			records += arena_discard(&m->arena, i, to);
	}
	if (records)
		log_warning("dropped %llu records of edge %.*s->%s as ordered",
		            (unsigned long long)records, ARENA_OUTPUT_MAX, edge->from, to);
}

void home_give_up_unsettled(struct arena *a, uint32_t slot)
{
	if (atomic_load(&arena_worker(a, slot)->intent.state) != INTENT_PREPARED)
		return;
	intent_settle(a, slot, false);
	intent_repair(a, slot, NULL);
}

/* Chunks of an edge that is given up may be in the hands of a stage that is gone as well: of its
 * reader, or of who was about to put them there. */
static void take_from_the_gone(struct master *m, uint32_t e)
{
	for (uint32_t i = 0; i < m->arena.entries; i++) {
		struct word v = arena_word(&m->arena, i);
		char stage[ARENA_NAME_MAX];
		bool held = v.state == WORD_CLAIMED || v.state == WORD_FILLING;
		if (!held || v.edge != e || v.owner >= m->arena.workers)
			continue;
		snprintf(stage, sizeof(stage), "%.*s", ARENA_NAME_MAX - 1,
		         arena_worker(&m->arena, v.owner)->stage);
		if (!config_stage(m->config, stage))
			home_give_up_unsettled(&m->arena, v.owner);
	}
}

void home_discard_rest(struct master *m)
{
	m->discarding = false;
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++) {
		if (!given_up(m, e))
			continue;
		home_discard_edge(m, e);
		if (arena_charged(&m->arena, e))
			m->discarding = true; /* a successor has to settle it first */
		else
			arena_edge_remove(&m->arena, e);
	}
}

int home_settle_edges(struct master *m)
{
	int r = refuse_strays(m);
	if (r < 0)
		return r;
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
		if (given_up(m, e)) {
			take_from_the_gone(m, e);
			home_discard_edge(m, e);
		}
	name_heirs(m); /* of lines of the books that the discard began, too */
	home_discard_rest(m);
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
		if (stray(m, e) && !given_up(m, e))
			arena_edge_remove(&m->arena, e);
	return 0;
}
