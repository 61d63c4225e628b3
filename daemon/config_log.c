/*
 * The built-in stage "log" of a configuration with arena.sync: nothing goes on from a producer
 * before it is on the disk.
 *
 * The hard idea: it is a stage like others. Each producer's edges become one edge to the log; for
 * each producer the log has an output of that producer's name, and who read "orders" now reads
 * "log.orders". So queues, quotas, ends, drains, reloads and `status` need to know nothing of it.
 * Because all producers go through the one log, what were several pipelines become one.
 *
 * What the log may forget is what the consumers have on disk: so those that can are told to sync,
 * whatever their own setting says.
 */
#include "daemon/config_parts.h"
#include "daemon/run_log.h"

static unsigned count_producers(const struct config *cfg)
{
	unsigned n = 0;
	while (n < cfg->n_stages && cfg->stages[n].kind == STAGE_PRODUCER)
		n++;
	return n;
}

static const struct node *place(const struct config *cfg)
{
	const struct node *arena = node_get(cfg->tree->root, "arena"), *n = node_get(arena, "sync");
	return n ? n : cfg->tree->root;
}

/* Puts the stage behind the producers, which come first. */
static bool insert_stage(struct config *cfg, unsigned producers)
{
	struct config_stage *s = &cfg->stages[producers];
	memmove(s + 1, s, (cfg->n_stages - producers) * sizeof(*s));
	*s = (struct config_stage){
	        .name = "log",
	        .kind = STAGE_STEP,
	        .outputs = {""},
	        .n_outputs = 1 + producers,
	        .workers = 1,
	        .max_attempts = 3,
	        .stall_timeout = INT64_C(60000000000),
	        .node = yaml_map(&cfg->tree->yaml, place(cfg)),
	        .log = true,
	};
	for (unsigned i = 0; i < producers; i++)
		s->outputs[1 + i] = cfg->stages[i].name;
	cfg->n_stages++;
	cfg->log_stage = producers;
	return s->node != NULL;
}

static void lead_through(struct config *cfg, unsigned producers)
{
	for (unsigned l = 0; l < cfg->tree->n_links; l++) {
		struct config_link *k = &cfg->tree->links[l];
		k->to += k->to >= producers;
		if (k->from >= producers) {
			k->from++;
		} else {
			k->output = 1 + k->from;
			k->from = producers;
		}
	}
}

void config_log_splice(struct config *cfg, struct complaints *c)
{
	unsigned producers = count_producers(cfg);
	bool fits = true;
	if (!cfg->arena_sync)
		return;
	if (!cfg->arena_path)
		complain(c, place(cfg), "sync: needs arena.path: the log lies beside it");
	if (config_stage(cfg, "log"))
		complain(c, config_place(cfg, config_stage(cfg, "log")),
		         "the name \"log\" is taken with arena.sync: the built-in log");
	if (producers >= STAGE_OUTPUTS_MAX)
		complain(c, place(cfg), "sync: at most %d producers are possible with it",
		         STAGE_OUTPUTS_MAX - 1);
	if (!cfg->arena_path || config_stage(cfg, "log") || producers >= STAGE_OUTPUTS_MAX)
		return;
	fits = insert_stage(cfg, producers);
	lead_through(cfg, producers);
	for (unsigned i = 0; i < producers; i++) {
		struct config_link link = {.from = i, .to = producers, .node = cfg->stages[i].node};
		fits = fits && config_add_link(cfg, &link);
	}
	if (!fits)
		complain(c, cfg->tree->root, "out of memory");
}

static void set_sync(const struct option *table, void *config)
{
	for (; table && table->name; table++) {
		void *at = (char *)config + table->offset;
		if (table->type == OPTION_BOOL && strcmp(table->name, "sync") == 0)
			*(bool *)at = true;
		if (table->type != OPTION_ENUM || strcmp(table->name, "synchronous") != 0)
			continue;
		for (int i = 0; table->choices[i]; i++)
			if (strcmp(table->choices[i], "full") == 0)
				*(int *)at = i;
	}
}

void config_log_sync(struct config *cfg)
{
	for (unsigned i = 0; cfg->arena_sync && i < cfg->n_stages; i++) {
		struct config_stage *s = &cfg->stages[i];
		if (s->kind == STAGE_CONSUMER && s->ops && s->config)
			set_sync(s->ops->options, s->config);
	}
}

void config_log_check(struct config *cfg, struct complaints *c)
{
	const struct node *n = node_get(node_get(cfg->tree->root, "arena"), "log_size");
	/* what the arena holds must fit twice: what stands still is written again before its old
	 * place is free */
	uint64_t least = log_least(cfg), normal = least + log_reserve(cfg);
	if (!cfg->arena_log_size)
		cfg->arena_log_size = 4 * cfg->arena_size > normal ? 4 * cfg->arena_size : normal;
	else if (cfg->arena_log_size < least)
		complain(
		        c, n ? n : place(cfg),
		        "log_size: %llu bytes are too few: %llu is the least for this arena, twice "
		        "what it holds and some chunks more, so that one output that stands still "
		        "cannot fill the log",
		        (unsigned long long)cfg->arena_log_size, (unsigned long long)least);
}
