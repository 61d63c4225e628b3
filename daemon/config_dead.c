/*
 * The built-in writer of dead letters: a file consumer that nobody has to configure.
 *
 * It is the last stage, called "dead", and reads one edge, "*->dead", which every stage feeds. Its
 * map is made here from the section dead_letters and goes through the same parser as any
 * consumer's.
 */
#include "daemon/config_parts.h"

static bool table_has(const struct option *table, const char *name)
{
	for (; table && table->name; table++)
		if (strcmp(table->name, name) == 0)
			return true;
	return false;
}

static int add_pair(struct config *cfg, struct node *map, const struct node *where, const char *key,
                    const char *value)
{
	struct yaml_tree *t = &cfg->tree->yaml;
	return yaml_add(t, map, yaml_string(t, where, key), yaml_string(t, where, value));
}

/* The stage's map: as if somebody had written it. Files are renamed at an eighth of what there may
 * be, so that old ones can be removed one by one. */
static struct node *make_map(struct config *cfg, const struct stage_ops *ops)
{
	const struct node *where = node_get(cfg->tree->root, "dead_letters");
	struct yaml_tree *t = &cfg->tree->yaml;
	struct node *map = yaml_map(t, where), *rotate = yaml_map(t, where);
	_cleanup_(buf_deinit) struct buf path = {0};
	char max[32], part[32];
	snprintf(max, sizeof(max), "%llu", (unsigned long long)cfg->dead_max_size);
	snprintf(part, sizeof(part), "%llu", (unsigned long long)cfg->dead_max_size / 8);
	buf_printf(&path, "%s/dead.jsonl", cfg->dead_path ? cfg->dead_path : ".");
	if (!map || !rotate || !path.p || add_pair(cfg, map, where, "type", "file") < 0)
		return NULL;
	if (ops && table_has(ops->options, "path"))
		add_pair(cfg, map, where, "path", (char *)path.p);
	if (ops && table_has(ops->options, "max_size"))
		add_pair(cfg, map, where, "max_size", max);
	add_pair(cfg, rotate, where, "size", part);
	if (ops && table_has(ops->options, "rotate"))
		yaml_add(t, map, yaml_string(t, where, "rotate"), rotate);
	return map;
}

static int parse(struct config_stage *s, struct complaints *c)
{
	static const char *const type[] = {"type", NULL};
	if (!s->ops)
		return 0;
	s->config = calloc(1, s->ops->config_size ? s->ops->config_size : 1);
	if (!s->config)
		return -ENOMEM;
	option_parse(s->ops->options, s->node, type, s->config, c);
	if (s->ops->check)
		s->ops->check(s->config, s->node, c);
	s->codec = s->ops->flags & STAGE_CODEC ? codec_find("json") : NULL;
	if (!s->codec)
		return 0;
	s->codec_config = calloc(1, s->codec->config_size ? s->codec->config_size : 1);
	if (!s->codec_config)
		return -ENOMEM;
	option_parse(s->codec->options, NULL, NULL, s->codec_config, c);
	return 0;
}

void config_dead_make(struct config *cfg, struct complaints *c)
{
	if (!cfg->stages || !cfg->edges)
		return; /* no graph was made: that was complained about */
	struct config_stage *s = &cfg->stages[cfg->n_stages];
	const struct stage_ops *ops = stage_find(STAGE_CONSUMER, "file");
	*s = (struct config_stage){
	        .name = "dead",
	        .kind = STAGE_CONSUMER,
	        .ops = ops,
	        .outputs = {""},
	        .n_outputs = 1,
	        .workers = 1,
	        .max_attempts = 3,
	        .stall_timeout = INT64_C(60000000000),
	        .retry = {.attempts = 5,
	                  .base = INT64_C(1000000000),
	                  .max = INT64_C(60000000000),
	                  .factor = 2},
	        .timeout = INT64_C(30000000000),
	        .pipeline = cfg->n_pipelines,
	        .node = make_map(cfg, ops),
	        .builtin = true,
	};
	struct config_edge *e = &cfg->edges[cfg->n_edges];
	*e = (struct config_edge){
	        .from = UINT32_MAX,
	        .to = cfg->n_stages,
	        .full = cfg->dead_full == DEAD_DROP ? EDGE_DROP : EDGE_BLOCK,
	        .name = strdup("*->dead"),
	};
	cfg->dead_stage = cfg->n_stages++;
	cfg->dead_edge = cfg->n_edges++;
	if (!s->node || !e->name || parse(s, c) < 0)
		complain(c, cfg->tree->root, "out of memory");
}
