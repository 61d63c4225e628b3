/*
 * The conservation law, looked at while everything moves:
 * received + made + replayed = delivered + filtered + absorbed + dead + dropped + in flight (+ set
 * aside).
 *
 * A look adds up figures and scans words; a commit in between would be seen half. So it is repeated
 * until no commit number changed and no intent was COMMITTED from before to after: then it was a
 * snapshot. Chunks on the dead-letter edge are not in flight: they were counted as dead when they
 * were put there.
 *
 * Figures are kept by stage, and a pipeline's are those of the stages that are in it now. When a
 * reload or a start cuts a pipeline in two, what was received in one part may have been delivered
 * in the other. How much that is follows from the whole, which balances: what each part has too
 * much or too little at that moment MOVED between them. It is a constant until the graph changes
 * again, for nothing goes from one pipeline to another; so from then on each balances exactly, by
 * itself. If the whole does not balance, nothing is laid to moving.
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
		if (arena_line_is_aside(line)) {
			b->aside += line->book[BOOK_dropped];
			continue;
		}
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
		uint32_t left = arena_left(f);
		if (v.state == WORD_ASIDE)
			b->aside += left;
		else
			b->in_flight += left;
	}
}

/* What came in and did not come out; 0: it balances. */
static int64_t surplus(const struct books *b)
{
	const uint64_t *v = b->book;
	uint64_t in = v[BOOK_received] + v[BOOK_made] + v[BOOK_replayed];
	uint64_t out = v[BOOK_delivered] + v[BOOK_filtered] + v[BOOK_absorbed] + v[BOOK_dead] +
	               v[BOOK_dropped] + b->in_flight + b->aside;
	return (int64_t)(in - out);
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
				b.balanced = surplus(&b) == 0;
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
	int r = look(m, &m->arena, pipeline, out);
	if (r == 0 && pipeline >= 0 && m->moved) {
		out->moved = -m->moved[pipeline];
		out->balanced = surplus(out) + out->moved == 0;
	}
	return r;
}

void books_attribute(struct master *m)
{
	struct books b;
	if (!m->moved_due || look(m, &m->arena, -1, &b) != 0)
		return;
	bool whole = b.balanced;
	for (unsigned i = 0; i < m->config->n_pipelines; i++) {
		if (look(m, &m->arena, (int)i, &b) != 0)
			return;
		m->moved[i] = whole ? surplus(&b) : 0;
	}
	m->moved_due = false;
}

void books_new_graph(struct master *m)
{
	free(m->moved);
	m->moved = calloc(m->config->n_pipelines + 1, sizeof(*m->moved));
	m->moved_due = m->moved != NULL;
	books_attribute(m);
}

int books_of_arena(const struct arena *a, struct books *out)
{
	return look(NULL, a, -1, out);
}
