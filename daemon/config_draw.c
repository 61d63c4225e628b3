/*
 * The graph as text: Graphviz's dot and Mermaid. Stages are numbered nodes with their names as
 * labels, so that any name is fine; the dead-letter writer is drawn with dashes, since every stage
 * feeds it.
 */
#include "daemon/config_parts.h"

static const char *label(const struct config_stage *s)
{
	return s->builtin || s->log    ? "built in"
	       : s->kind == STAGE_STEP ? "transformer"
	                               : s->ops->name;
}

static void add_quoted(struct buf *out, const char *s)
{
	for (; *s; s++)
		if (*s == '"' || *s == '\\')
			buf_add_byte(out, '_');
		else
			buf_add_byte(out, (uint8_t)*s);
}

void config_graph_dot(const struct config *cfg, struct buf *out)
{
	static const char *const shapes[] = {"invhouse", "box", "house"};
	buf_add_str(out, "digraph sluice {\n\trankdir=LR;\n");
	for (unsigned i = 0; i < cfg->n_stages; i++) {
		const struct config_stage *s = &cfg->stages[i];
		buf_printf(out, "\ts%u [shape=%s%s, label=\"%s\\n%s", i, shapes[s->kind],
		           s->builtin ? ", style=dashed" : "", s->name, label(s));
		if (s->workers > 1)
			buf_printf(out, " x%u", s->workers);
		buf_add_str(out, "\"];\n");
	}
	for (unsigned i = 0; i < cfg->n_edges; i++) {
		const struct config_edge *e = &cfg->edges[i];
		if (e->from == UINT32_MAX)
			continue;
		buf_printf(out, "\ts%u -> s%u [label=\"", e->from, e->to);
		add_quoted(out, cfg->stages[e->from].outputs[e->output]);
		buf_printf(out, "\"%s];\n", e->full == EDGE_DROP ? ", style=dotted" : "");
	}
	buf_add_str(out, "}\n");
}

void config_graph_mermaid(const struct config *cfg, struct buf *out)
{
	static const char *const shapes[][2] = {{"([", "])"}, {"[", "]"}, {"[(", ")]"}};
	buf_add_str(out, "flowchart LR\n");
	for (unsigned i = 0; i < cfg->n_stages; i++) {
		const struct config_stage *s = &cfg->stages[i];
		buf_printf(out, "\ts%u%s\"%s (%s", i, shapes[s->kind][0], s->name, label(s));
		if (s->workers > 1)
			buf_printf(out, " x%u", s->workers);
		buf_printf(out, ")\"%s\n", shapes[s->kind][1]);
	}
	for (unsigned i = 0; i < cfg->n_edges; i++) {
		const struct config_edge *e = &cfg->edges[i];
		if (e->from == UINT32_MAX)
			continue;
		buf_printf(out, "\ts%u %s", e->from, e->full == EDGE_DROP ? "-.->" : "-->");
		if (e->output) {
			buf_add_str(out, "|\"");
			add_quoted(out, cfg->stages[e->from].outputs[e->output]);
			buf_add_str(out, "\"|");
		}
		buf_printf(out, " s%u\n", e->to);
	}
}
