/*
 * Edges: how full each is, from one pass over the ledger for all of them.
 *
 * A word says what its entry is at this moment; facts are copied before they are used, since the
 * entry's next owner may be writing them. So the records counted are as good as a look can be, the
 * chunks are exact.
 */
#include "daemon/report.h"

uint32_t report_edge_number(const struct master *m, unsigned edge)
{
	uint32_t n =
	        m->edge_number && edge < m->config->n_edges ? m->edge_number[edge] : ARENA_NO_EDGE;
	return n < ARENA_EDGES_MAX ? n : ARENA_NO_EDGE;
}

unsigned report_edge_of_number(const struct master *m, uint32_t number)
{
	for (unsigned i = 0; number < ARENA_EDGES_MAX && i < m->config->n_edges; i++)
		if (report_edge_number(m, i) == number)
			return i;
	return UINT32_MAX;
}

void report_edges_look(const struct arena *a, struct report_edge *out)
{
	memset(out, 0, ARENA_EDGES_MAX * sizeof(*out));
	for (uint32_t i = 0; i < a->entries; i++) {
		struct word w = arena_word(a, i);
		if (w.edge >= ARENA_EDGES_MAX || w.state == WORD_FREE || w.state >= WORD_ASIDE)
			continue;
		struct report_edge *e = &out[w.edge];
		e->charged++;
		if (w.state != WORD_QUEUED)
			continue;
		struct arena_facts f = a->facts[i];
		e->queued++;
		e->records += arena_left(&f);
		if (f.queued > 0 && (!e->oldest || f.queued < e->oldest))
			e->oldest = f.queued;
	}
}

static void write_edge(const struct master *m, unsigned i, const struct report_edge *look,
                       int64_t now, struct json *j)
{
	const struct config_edge *e = &m->config->edges[i];
	uint32_t n = report_edge_number(m, i);
	struct report_edge seen = n != ARENA_NO_EDGE ? look[n] : (struct report_edge){0};
	json_open(j, NULL, '{');
	json_text(j, "name", e->name);
	json_text(j, "from", e->from < m->config->n_stages ? m->config->stages[e->from].name : "*");
	json_text(j, "to", m->config->stages[e->to].name);
	json_uint(j, "queued", seen.charged);
	json_uint(j, "waiting", seen.queued);
	json_uint(j, "records", seen.records);
	json_uint(j, "quota", e->quota);
	json_bool(j, "full", seen.charged >= e->quota);
	json_text(j, "policy", e->full == EDGE_DROP ? "drop" : "block");
	json_num(j, "oldest_s", report_since(now, seen.oldest));
	json_close(j, '}');
}

void report_edges(const struct master *m, int64_t now, struct json *j)
{
	struct report_edge look[ARENA_EDGES_MAX];
	report_edges_look(&m->arena, look);
	json_open(j, "edges", '[');
	for (unsigned i = 0; i < m->config->n_edges; i++)
		write_edge(m, i, look, now, j);
	json_close(j, ']');
}
