/*
 * Entries of chunks that were set aside, given back once their bytes are saved (unit_aside.c).
 *
 * Freeing and counting are one step that a crash cannot cut in two: the arena's own intent, as for
 * a chunk that is dropped. The count stays in the books as `aside`, with the pipeline of who would
 * have read the chunk.
 *
 * Limit: as long as the writer of dead letters cannot run, entries are kept.
 */
#include "daemon/master.h"

#include <stdio.h>

/* Chunks that the books do not have in flight are not missing from it either. */
static uint64_t missing(const struct arena *a, uint32_t entry, struct word v)
{
	const struct arena_facts *f = &a->facts[entry];
	if (v.edge == a->h->dead_edge || (f->flags & FACT_LETTERS))
		return 0;
	return arena_left(f);
}

void aside_step(struct master *m)
{
	for (uint32_t i = 0; i < m->arena.entries; i++) {
		struct word v = arena_word(&m->arena, i);
		if (v.state != WORD_ASIDE || v.owner != ARENA_SAVED)
			continue;
		char stage[ARENA_NAME_MAX];
		snprintf(stage, sizeof(stage), "%.*s", ARENA_NAME_MAX - 1,
		         v.edge < ARENA_EDGES_MAX ? m->arena.h->edges[v.edge].to : "");
		arena_put_away(&m->arena, i, stage, missing(&m->arena, i, v));
	}
}
