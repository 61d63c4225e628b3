/*
 * The built-in replayers of dead letters: one producer for each stage that takes records.
 *
 * A letter goes back to the stage that rejected it, so a replayer "replay:STAGE" fills one of the
 * edges that STAGE reads (whoever fills an edge, its readers are the same). Its figures belong to
 * STAGE's pipeline, whose books must balance by themselves: that is why there is one for each.
 *
 * Replayers stand behind the configured stages and the writer of dead letters, outside of n_stages:
 * most of them never run, and what counts or shows stages need not know of them. `workers` of one
 * is 0 until there is something to replay (replay.c).
 */
#include "daemon/config_parts.h"
#include "daemon/replay.h"
#include "daemon/spool.h"

_Static_assert(sizeof(SPOOL_PREFIX) + CONFIG_NAME_MAX <= ARENA_NAME_MAX, "a replayer's name fits");

static int make_one(struct config *cfg, unsigned edge)
{
	const struct config_stage *to = &cfg->stages[cfg->edges[edge].to];
	_cleanup_(buf_deinit) struct buf name = {0};
	buf_printf(&name, SPOOL_PREFIX "%s", to->name);
	const struct node *n =
	        name.p ? yaml_string(&cfg->tree->yaml, to->node, (const char *)name.p) : NULL;
	struct replay_config *config = calloc(1, sizeof(*config));
	if (!n || !config) {
		free(config);
		return -ENOMEM;
	}
	*config = (struct replay_config){.letters = cfg->dead_path, .stage = to->name};
	cfg->stages[config_all_stages(cfg)] = (struct config_stage){
	        .name = n->text,
	        .kind = STAGE_PRODUCER,
	        .ops = &replay_ops,
	        .config = config,
	        .outputs = {""},
	        .n_outputs = 1,
	        .max_attempts = 3,
	        .stall_timeout = INT64_C(60000000000),
	        .batch_records = 10000,
	        .linger = INT64_C(1000000),
	        .pipeline = to->pipeline,
	        .node = to->node,
	        .builtin = true,
	        .replay_edge = edge,
	};
	cfg->n_replays++;
	return 0;
}

static bool is_first_edge(const struct config *cfg, unsigned edge)
{
	for (unsigned i = 0; i < edge; i++)
		if (cfg->edges[i].to == cfg->edges[edge].to)
			return false;
	return edge != cfg->dead_edge && !cfg->stages[cfg->edges[edge].to].log;
}

void config_replay_make(struct config *cfg, struct complaints *c)
{
	if (!cfg->stages || !cfg->edges)
		return; /* no graph was made: that was complained about */
	struct config_stage *more =
	        reallocarray(cfg->stages, 2 * (size_t)cfg->n_stages, sizeof(*more));
	int r = more ? 0 : -ENOMEM;
	if (more)
		cfg->stages = more;
	for (unsigned i = 0; i < cfg->n_edges && r == 0; i++)
		if (is_first_edge(cfg, i))
			r = make_one(cfg, i);
	if (r < 0)
		complain(c, cfg->tree->root, "out of memory");
}
