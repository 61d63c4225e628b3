/*
 * route: records leave the transformer by named outputs.
 *
 *     route:
 *       errors: {level: error}          # read by `from: NAME.errors`
 *       slow: "latency > 5"
 *       match: all                      # default first: only the first output that fits
 *       default: drop                   # default main: what fits none goes on to the main output
 *
 * Conditions (stages/condition.h) are tried from top to bottom. A record that fits leaves at once:
 * steps behind this one see only what fits none. `match`, `default` and `main` cannot be names of
 * outputs.
 */
#include "stages/condition.h"

#include <string.h>

enum {
	ROUTES_MAX = STAGE_OUTPUTS_MAX - 1, /* one is the main output */
};

struct route {
	const char *names[ROUTES_MAX + 1]; /* NULL-terminated; borrowed from the nodes */
	struct condition *when[ROUTES_MAX];
	unsigned n;
	bool all;
	bool drop;
};

static bool choose(const struct node *value, const char *no, const char *yes, bool *chosen,
                   struct complaints *c)
{
	bool text = value->kind == NODE_SCALAR && value->scalar == NODE_STRING;
	*chosen = text && strcmp(value->text, yes) == 0;
	if (*chosen || (text && strcmp(value->text, no) == 0))
		return true;
	complain(c, value, "expected %s or %s", no, yes);
	return false;
}

static bool good_name(const struct node *key, struct complaints *c)
{
	bool good = key->len > 0 && strcmp(key->text, "main") != 0;
	for (size_t i = 0; i < key->len; i++) {
		char ch = key->text[i];
		good = good && (ch == '_' || ch == '-' || (ch >= '0' && ch <= '9') ||
		                (uint8_t)((ch | 32) - 'a') < 26);
	}
	if (!good)
		complain(c, key,
		         "\"%s\" cannot be the name of an output (letters, digits, _ and -; not "
		         "main)",
		         key->text);
	return good;
}

static void read_route(struct route *t, const struct node *key, const struct node *value,
                       struct complaints *c)
{
	if (strcmp(key->text, "match") == 0) {
		choose(value, "first", "all", &t->all, c);
	} else if (strcmp(key->text, "default") == 0) {
		choose(value, "main", "drop", &t->drop, c);
	} else if (good_name(key, c)) {
		if (t->n == ROUTES_MAX) {
			complain(c, key, "more than %d outputs", ROUTES_MAX);
			return;
		}
		t->names[t->n] = key->text;
		t->when[t->n] = condition_compile(value, c);
		t->n++;
	}
}

static void route_check(void *config, const struct node *node, struct complaints *c)
{
	struct route *t = config;
	if (node->kind != NODE_MAP) {
		complain(c, node, "expected a map of outputs and conditions, not %s",
		         node_describe(node));
		return;
	}
	NODE_FOREACH_PAIR(node, key, value)
	read_route(t, key, value, c);
	if (t->n == 0)
		complain(c, node, "expected at least one output");
}

static void route_config_free(void *config)
{
	struct route *t = config;
	for (unsigned i = 0; i < t->n; i++)
		t->when[i] = condition_free(t->when[i]);
}

static const char *const *route_outputs(const void *config)
{
	return ((const struct route *)config)->names;
}

static int route_open(struct stage *st)
{
	const struct route *t = st->config;
	int r = 0;
	for (unsigned i = 0; r == 0 && i < t->n; i++)
		r = condition_open(t->when[i]);
	return r;
}

/* All conditions are asked before the first output is used: a record is either routed or rejected.
 */
static int decide(const struct route *t, struct stage *st, struct record *r, uint32_t *outputs)
{
	*outputs = 0;
	for (unsigned i = 0; i < t->n; i++) {
		bool yes = false;
		int a = condition_true(t->when[i], st, r, &yes);
		if (a != 0)
			return a;
		if (!yes)
			continue;
		*outputs |= UINT32_C(1) << i;
		if (!t->all)
			break;
	}
	return 0;
}

static int route_transform(struct stage *st, struct record *r)
{
	const struct route *t = st->config;
	uint32_t outputs;
	int a = decide(t, st, r, &outputs);
	if (a != 0)
		return a;
	if (!outputs)
		return t->drop ? STAGE_E_FILTERED : STAGE_OK;
	for (unsigned i = 0; a == 0 && i < t->n; i++)
		if (outputs & UINT32_C(1) << i)
			a = stage_emit_output(st, i + 1, r);
	return a != 0 ? a : STAGE_E_EMITTED;
}

const struct stage_ops step_route = {
        .name = "route",
        .kind = STAGE_STEP,
        .help = "sends records to named outputs by condition",
        .example = "- route:\n"
                   "    errors: {level: error}   # read by `from: NAME.errors`\n"
                   "    slow: \"latency > 5\"\n"
                   "    default: main            # or drop\n"
                   "    match: first             # or all\n",
        .config_size = sizeof(struct route),
        .check = route_check,
        .config_free = route_config_free,
        .outputs = route_outputs,
        .open = route_open,
        .transform = route_transform,
};
