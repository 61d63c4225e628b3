/*
 * The configuration of a transformer's steps: a list of one-key maps, `- filter: {...}`.
 *
 * The hard idea: a step that has a table of options takes a map that the table describes; one that
 * has none reads its value itself, in its check(), and so may know short forms (`- filter: level ==
 * "error"`). A table's check() is not called for what is no map, nor when a required option is
 * missing from it: that was complained about then. A bare `- name` is a step without options.
 *
 * A step that has outputs of its own (route) gives them to the transformer; one step may.
 */
#include "daemon/config_parts.h"

/* The options of one step from @value. */
static void step_options(struct chain_step *step, void *config, const struct node *key,
                         const struct node *value, struct complaints *c)
{
	const struct stage_ops *ops = step->ops;
	bool nothing = value->kind == NODE_SCALAR && value->scalar == NODE_NULL;
	bool map = value->kind == NODE_MAP || nothing;
	unsigned before = c->count;
	if (value->bad)
		return;
	if (ops->options && !map) {
		complain(c, value, "%s: expected a map, got %s", key->text, node_describe(value));
		return;
	}
	if (ops->options)
		option_parse(ops->options, value, NULL, config, c);
	else if (!ops->check && !nothing && !(map && value->n == 0))
		complain(c, value, "%s: takes no options", ops->name);
	bool whole = c->count == before || !config_any_required(ops->options);
	if (ops->check && whole)
		ops->check(config, value, c);
}

/* Splits "- name: options" or a bare "- name" into @key and @value. False after a complaint. */
static bool split_step(struct config *cfg, const struct node *item, const struct node **key,
                       const struct node **value, struct complaints *c)
{
	*key = item;
	if (item->kind == NODE_MAP && item->n == 1) {
		*key = item->items[0];
		*value = item->items[1];
		return true;
	}
	if (item->kind == NODE_MAP && item->n > 1) {
		complain(c, item->items[2], "a step has one key: start a new one with \"- %s:\"",
		         item->items[2]->text);
		return false;
	}
	if (item->kind != NODE_SCALAR || item->scalar != NODE_STRING) {
		complain(c, item, "expected a step such as \"- filter: ...\", got %s",
		         item->kind == NODE_MAP ? "an empty map" : node_describe(item));
		return false;
	}
	*value = yaml_map(&cfg->tree->yaml, item);
	return *value != NULL;
}

static void add_outputs(struct config_stage *s, const struct chain_step *step,
                        const struct node *key, struct complaints *c)
{
	const char *const *outputs = step->ops->outputs ? step->ops->outputs(step->config) : NULL;
	if (s->n_outputs > 1 && outputs && *outputs) {
		complain(c, key, "only one step of a transformer may have outputs of its own");
		return;
	}
	for (; outputs && *outputs; outputs++)
		if (s->n_outputs < STAGE_OUTPUTS_MAX)
			s->outputs[s->n_outputs++] = *outputs;
		else
			complain(c, key, "more than %d outputs", STAGE_OUTPUTS_MAX - 1);
}

static void add_step(struct config *cfg, struct config_stage *s, const struct node *item,
                     struct complaints *c)
{
	const struct node *key = NULL, *value = NULL;
	if (!split_step(cfg, item, &key, &value, c))
		return;
	const struct stage_ops *ops = stage_find(STAGE_STEP, key->text);
	if (!ops) {
		config_unknown_type(STAGE_STEP, key, "step", c);
		return;
	}
	void *config = calloc(1, ops->config_size ? ops->config_size : 1);
	if (!config) {
		complain(c, item, "out of memory");
		return;
	}
	struct chain_step *step = &s->steps[s->n_steps++];
	*step = (struct chain_step){.ops = ops, .config = config};
	s->stateful = s->stateful || (ops->flags & STAGE_STATEFUL);
	unsigned before = c->count;
	step_options(step, config, key, value, c);
	if (c->count == before)
		add_outputs(s, step, key, c);
}

void config_steps_read(struct config *cfg, struct config_stage *s, const struct node *map,
                       struct complaints *c)
{
	static const char *const none[] = {NULL};
	const struct node *steps = node_get(map, "steps");
	struct option common[CONFIG_COMMON_MAX];
	_cleanup_(buf_deinit) struct buf ignore = {0};
	char nothing;
	config_common_table(s, common);
	config_add_names(&ignore, common);
	for (const char *const *k = config_structural(s); *k; k++)
		config_add_name(&ignore, *k);
	config_add_name(&ignore, NULL);
	option_parse(NULL, map, ignore.p ? (const char *const *)(void *)ignore.p : none, &nothing,
	             c);
	if (!steps) {
		complain(c, map,
		         "missing key \"steps\": a list such as [{filter: ...}, {set: ...}]");
		return;
	}
	if (steps->kind != NODE_SEQ) {
		complain(c, steps, "steps: expected a list, got %s", node_describe(steps));
		return;
	}
	s->steps = calloc(steps->n + 1, sizeof(*s->steps));
	if (!s->steps)
		complain(c, steps, "out of memory");
	unsigned before = c->count;
	for (size_t i = 0; s->steps && i < steps->n; i++)
		add_step(cfg, s, steps->items[i], c);
	if (c->count != before)
		cfg->tree->broken_steps = true;
}

void config_steps_free(struct config_stage *s)
{
	for (unsigned i = 0; i < s->n_steps; i++) {
		void *config = (void *)s->steps[i].config;
		if (s->steps[i].ops->config_free)
			s->steps[i].ops->config_free(config);
		option_free(s->steps[i].ops->options, config);
		free(config);
	}
	free(s->steps);
	s->steps = NULL;
	s->n_steps = 0;
}
