/*
 * graph: stages and edges as they are configured, with the drawings for people's tools beside them,
 * so that whoever may ask the daemon can draw it without reading its configuration file.
 */
#include "daemon/report.h"

static void write_stage(const struct config_stage *s, struct json *j)
{
	json_open(j, NULL, '{');
	json_text(j, "name", s->name);
	json_text(j, "kind", report_kind(s->kind));
	json_text(j, "type", s->ops ? s->ops->name : NULL);
	json_uint(j, "workers", s->workers);
	json_uint(j, "pipeline", s->pipeline);
	json_bool(j, "builtin", s->builtin);
	if (!s->ops) {
		json_open(j, "steps", '[');
		for (unsigned i = 0; i < s->n_steps; i++)
			json_text(j, NULL, s->steps[i].ops->name);
		json_close(j, ']');
	}
	json_close(j, '}');
}

static void write_edge(const struct config *cfg, const struct config_edge *e, struct json *j)
{
	bool any = e->from >= cfg->n_stages;
	json_open(j, NULL, '{');
	json_text(j, "name", e->name);
	json_text(j, "from", any ? "*" : cfg->stages[e->from].name);
	json_text(j, "output", any ? "" : cfg->stages[e->from].outputs[e->output]);
	json_text(j, "to", cfg->stages[e->to].name);
	json_uint(j, "quota", e->quota);
	json_text(j, "policy", e->full == EDGE_DROP ? "drop" : "block");
	json_close(j, '}');
}

static void write_drawing(struct json *j, const char *key, const struct config *cfg,
                          void (*draw)(const struct config *, struct buf *))
{
	_cleanup_(buf_deinit) struct buf text = {0};
	draw(cfg, &text);
	json_text_max(j, key, text.p ? (const char *)text.p : "", text.len);
}

void report_graph(const struct config *cfg, struct json *j)
{
	json_open(j, NULL, '{');
	json_open(j, "stages", '[');
	for (unsigned i = 0; i < cfg->n_stages; i++)
		write_stage(&cfg->stages[i], j);
	json_close(j, ']');
	json_open(j, "edges", '[');
	for (unsigned i = 0; i < cfg->n_edges; i++)
		write_edge(cfg, &cfg->edges[i], j);
	json_close(j, ']');
	write_drawing(j, "dot", cfg, config_graph_dot);
	write_drawing(j, "mermaid", cfg, config_graph_mermaid);
	json_close(j, '}');
}
