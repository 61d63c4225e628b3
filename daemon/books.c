/*
 * The conservation law, looked at while everything moves:
 * received + made + replayed = delivered + filtered + absorbed + dead + dropped + in flight (+ set
 * aside).
 *
 * A look adds up figures and scans words; a commit in between would be seen half. So it is repeated
 * until no commit number changed and no intent was COMMITTED from before to after: then it was a
 * snapshot. Chunks on the dead-letter edge are not in flight: they were counted as dead when they
 * were put there.
 */
#include "daemon/master.h"

#include <string.h>
#include <time.h>

static const struct config_stage *stage_named(const struct master *m, const char *shared)
{
	char name[ARENA_NAME_MAX];
	memcpy(name, shared, sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	return config_stage(m->config, name);
}

/* Who inherits from @stage, which may be gone for longer than its own heir is. "": nobody. */
static const char *heir_of(const struct arena *a, const char *stage)
{
	for (uint32_t w = 0; w < a->workers; w++)
		if (arena_worker(a, w)->heir[0] &&
		    strncmp(arena_worker(a, w)->stage, stage, ARENA_NAME_MAX) == 0)
			return arena_worker(a, w)->heir;
	for (unsigned i = 0; i < ARENA_BOOKS_MAX; i++)
		if (strncmp(a->h->books[i].stage, stage, ARENA_NAME_MAX) == 0)
			return a->h->books[i].heir;
	return "";
}

/* Whether figures of @stage, or of its @heir once it is gone, belong to the pipeline. */
static bool in_pipeline(const struct master *m, const char *stage, const char *heir, int pipeline)
{
	if (pipeline < 0)
		return true;
	const struct config_stage *s = stage_named(m, stage);
	for (unsigned hops = 0; !s && heir[0] && hops < ARENA_BOOKS_MAX; hops++) {
		s = stage_named(m, heir);
		heir = s ? "" : heir_of(&m->arena, heir);
	}
	return s && !(s->builtin && s->kind == STAGE_CONSUMER) && (int)s->pipeline == pipeline;
}

static int edge_pipeline(const struct master *m, uint32_t number)
{
	for (unsigned i = 0; i < m->config->n_edges; i++)
		if (m->edge_number[i] == number)
			return (int)m->config->stages[m->config->edges[i].to].pipeline;
	/* one that is on its way out: to whoever would have read it */
	const struct config_stage *s =
	        number < ARENA_EDGES_MAX ? stage_named(m, m->arena.h->edges[number].to) : NULL;
	return s ? (int)s->pipeline : -1;
}

static void add_figures(const struct master *m, const struct arena *a, int pipeline,
                        struct books *b)
{
	for (uint32_t w = 0; w < a->workers; w++) {
		const struct arena_worker *s = arena_worker(a, w);
		if (!s->stage[0] || (m && !in_pipeline(m, s->stage, s->heir, pipeline)))
			continue;
		for (unsigned i = 0; i < BOOK_COUNT; i++)
			b->book[i] += s->committed.book[i];
	}
	for (unsigned k = 0; k < ARENA_BOOKS_MAX; k++) {
		const struct arena_book *line = &a->h->books[k];
		if (!line->stage[0] || (m && !in_pipeline(m, line->stage, line->heir, pipeline)))
			continue;
		for (unsigned i = 0; i < BOOK_COUNT; i++)
			b->book[i] += line->book[i];
	}
}

static void add_flight(const struct master *m, const struct arena *a, int pipeline, struct books *b)
{
	for (uint32_t i = 0; i < a->entries; i++) {
		struct word v = arena_word(a, i);
		const struct arena_facts *f = &a->facts[i];
		if (v.state == WORD_FREE || v.state == WORD_FILLING || v.edge == a->h->dead_edge ||
		    (f->flags & FACT_LETTERS))
			continue;
		if (m && pipeline >= 0 && edge_pipeline(m, v.edge) != pipeline)
			continue;
		uint32_t left =
		        f->records >= f->reached_record ? f->records - f->reached_record : 0;
		if (v.state == WORD_ASIDE)
			b->aside += left;
		else
			b->in_flight += left;
	}
}

static bool balanced(const struct books *b)
{
	const uint64_t *v = b->book;
	return v[BOOK_received] + v[BOOK_made] + v[BOOK_replayed] ==
	       v[BOOK_delivered] + v[BOOK_filtered] + v[BOOK_absorbed] + v[BOOK_dead] +
	               v[BOOK_dropped] + b->in_flight + b->aside;
}

static int look(const struct master *m, const struct arena *a, int pipeline, struct books *out)
{
	struct timespec pause = {0, 100000};
	for (unsigned tries = 0; tries < 1000; tries++) {
		struct books b = {0};
		bool still = true;
		uint64_t before = intent_commits(a, &still);
		if (still) {
			add_figures(m, a, pipeline, &b);
			add_flight(m, a, pipeline, &b);
			atomic_thread_fence(memory_order_seq_cst);
			if (intent_commits(a, &still) == before && still) {
				b.balanced = balanced(&b);
				*out = b;
				return 0;
			}
		}
		if (tries > 100)
			nanosleep(&pause, NULL);
	}
	return ARENA_E_NONE;
}

int books_audit(const struct master *m, int pipeline, struct books *out)
{
	return look(m, &m->arena, pipeline, out);
}

int books_of_arena(const struct arena *a, struct books *out)
{
	return look(NULL, a, -1, out);
}
