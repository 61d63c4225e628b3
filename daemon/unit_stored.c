/*
 * What a producer may acknowledge: how many of its commits are stored, or delivered, for good.
 *
 * Stored: committed, and with a log durable (unit_log.c). Delivered: nothing that comes of the
 * commit is in the arena any more. A scan is no snapshot, so that is only believed when no commit
 * happened around it.
 */
#include "daemon/worker.h"

static uint64_t oldest_origin(const struct worker *w, uint64_t none)
{
	uint64_t oldest = none;
	for (uint32_t i = 0; i < w->a->entries; i++) {
		struct word v = arena_word(w->a, i);
		if (v.state != WORD_QUEUED && v.state != WORD_CLAIMED)
			continue;
		const struct arena_facts *f = &w->a->facts[i];
		uint64_t commit = f->origin_commit ? f->origin_commit : 1; /* none is 0 */
		if (f->origin_worker == w->slot && v.edge != w->dead_edge && commit <= oldest)
			oldest = commit - 1;
	}
	return oldest;
}

static uint64_t stored(struct worker *w, uint64_t committed)
{
	if (!w->logged)
		return committed;
	uint64_t durable = unit_log_stored(w, committed);
	w->unstored = durable < committed ? durable + 1 : 0;
	return durable;
}

uint64_t unit_stored(struct worker *w, bool delivered)
{
	uint64_t committed = atomic_load_explicit(&w->me->committed.number, memory_order_relaxed);
	if (!delivered)
		return stored(w, committed);
	if (unit_log_replaying(w))
		return 0;
	for (unsigned tries = 0; tries < 16; tries++) {
		bool still = true;
		uint64_t before = intent_commits(w->a, &still);
		uint64_t oldest = oldest_origin(w, committed);
		/* facts are plain: they must have been read before the second look at the commits
		 */
		atomic_thread_fence(memory_order_acquire);
		if (intent_commits(w->a, &still) == before && still)
			return oldest;
	}
	return 0; /* too lively: the next call will tell */
}
