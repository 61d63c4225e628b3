/*
 * The workers' side of the log (arena.sync): what a producer commits reaches its readers by way of
 * the built-in log.
 *
 * The hard idea: the position must become durable together with the records it speaks of, neither
 * before them (their sender would be told that they are stored) nor without what was committed
 * before. So every commit that changes the position has a chunk on the edge to the log, with the
 * position's patches in the tail of its buffer. A commit without any record gets a bare chunk for
 * that. When a commit has two chunks (records, dead letters) the patches are with the later one;
 * the log keeps the order.
 *
 * Some outputs have to be in the log before the commit that makes them (w->ahead): what a step
 * gives out of its state, which forgets it by that commit, durably; and dead letters that are put
 * back, which others might take for a repeat when they come a second time. These stay where they
 * are, FILLING, while the log's worker copies them, and so their commit has no other form than
 * any. Should this process end in between, the log holds a chunk that was never made: nobody needs
 * it, and only a loss of power in the same moment makes it come, beside the one made anew.
 *
 * Invariant: a chunk leaves the edge to the log only when it is durable. So the lowest commit still
 * on that edge is the first that must not be acknowledged.
 */
#include "daemon/worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Not every producer does: what puts back dead letters fills its stage's edge. */
static bool leads_to_log(const struct worker *w, uint32_t edge)
{
	const char *log = w->config->stages[w->config->log_stage].name;
	return strncmp(w->a->h->edges[edge].to, log, ARENA_NAME_MAX) == 0;
}

static bool gives_from_state(const struct config_stage *s)
{
	for (unsigned i = 0; i < s->n_steps; i++)
		if (s->steps[i].ops->flags & STAGE_HOLDS)
			return true;
	return false;
}

void unit_log_init(struct worker *w)
{
	bool producer = w->stage->kind == STAGE_PRODUCER;
	if (w->config->log_stage == UINT32_MAX)
		return;
	w->ahead = producer ? w->stage->builtin : gives_from_state(w->stage);
	w->logged = producer && !w->stage->builtin && w->out[0].n_edges == 1 &&
	            leads_to_log(w, w->out[0].edges[0]);
	if (w->logged)
		w->dead.edges[0] = w->out[0].edges[0];
}

/* One look is enough: only this process puts chunks there, and none comes back. */
uint64_t unit_log_stored(const struct worker *w, uint64_t committed)
{
	uint64_t stored = committed;
	for (uint32_t i = 0; i < w->a->entries; i++) {
		struct word v = arena_word(w->a, i);
		const struct arena_facts *f = &w->a->facts[i];
		if ((v.state == WORD_QUEUED || v.state == WORD_CLAIMED) &&
		    v.edge == w->out[0].edges[0] && f->origin_worker == w->slot &&
		    f->origin_commit <= stored)
			stored = f->origin_commit - 1;
	}
	return stored;
}

/* The log still has to put back chunks of before a loss of power: nobody knows yet which of them
 * are delivered. What puts back dead letters cannot know whose they were. */
bool unit_log_replaying(const struct worker *w)
{
	const _Atomic uint32_t *of = w->logged ? &w->me->replaying : &w->a->h->replaying;
	return atomic_load_explicit(of, memory_order_acquire) != 0;
}

int unit_log_carrier(struct worker *w)
{
	bool records = (w->out[0].open && w->out[0].records) || (w->dead.open && w->dead.records);
	if (!w->logged || !w->n_ranges || records)
		return 0;
	if (w->dead.open) /* nobody waits for room while holding an entry */
		unit_give_up(w, &w->dead);
	int r = unit_wait_open(w, &w->out[0]);
	w->bare = r == 0;
	return r;
}

void unit_log_patches(struct worker *w, const struct intent *in)
{
	if (!w->logged || !in->n_out)
		return;
	for (unsigned i = 0; i < in->n_out; i++) {
		struct arena_tail *t = arena_tail(w->a, in->out[i].entry);
		bool last = i + 1 == in->n_out;
		t->bytes = last ? in->patch_bytes : 0;
		t->fresh = last && !(w->me->committed.flags & COMMITTED_POSITION);
		memcpy(t->patches, in->patches, t->bytes);
	}
}

bool unit_log_news(struct worker *w, void *arg)
{
	(void)arg;
	return w->logged && unit_log_stored(w, w->unstored) >= w->unstored && w->unstored;
}

/* ---- into the log before the commit ---- */

static bool all_ahead(struct worker *w, void *arg)
{
	const struct intent *in = arg;
	bool all = true;
	for (unsigned i = 0; i < in->n_out; i++)
		all &= arena_is_ahead(w->a, in->out[i].entry);
	return all;
}

static void ring_log(struct worker *w)
{
	const char *log = w->config->stages[w->config->log_stage].name;
	atomic_thread_fence(memory_order_seq_cst); /* against worker_sleep, as in unit_ring() */
	for (uint32_t s = 0; s < w->a->workers; s++)
		if (strncmp(arena_worker(w->a, s)->stage, log, ARENA_NAME_MAX) == 0)
			unit_ring_one(w, s, WAITING_INPUT | WAITING_ROOM, 0);
}

/* Nobody else could tell: the log's worker passes over what is not what was sealed. */
static bool all_intact(const struct worker *w, const struct intent *in)
{
	bool all = true;
	for (unsigned i = 0; i < in->n_out; i++)
		all &= arena_verified(w->a, in->out[i].entry);
	return all;
}

int unit_log_ahead(struct worker *w, struct intent *in)
{
	if (!w->ahead)
		return 0;
	for (unsigned i = 0; i < in->n_out; i++)
		arena_ask_ahead(w->a, (struct arena_handle){in->out[i].entry, in->out[i].gen});
	for (bool waited = false; !all_ahead(w, in); waited = true) {
		if (worker_order(w) == ORDER_STOP)
			worker_leave(w, WORKER_EXIT_STOPPED);
		if (waited)
			worker_activity(w, ACTIVITY_UNREACHABLE,
			                "waits until what it made is in the log");
		if (waited && !all_intact(w, in)) {
			snprintf(w->st.why, sizeof(w->st.why),
			         "what it made was overwritten in memory: it is made once more");
			return -EBADMSG;
		}
		ring_log(w);
		worker_sleep(w, WAITING_LOG, NULL, 0, LINK_NET_NS, all_ahead, in);
	}
	worker_activity(w, ACTIVITY_WORKING, NULL);
	return 0;
}
