/*
 * aggregate's configuration: `compute` is a map of field to function, and a function is written as
 * one would say it: sum(Size). The word is looked up in one table; the path's text is copied, as
 * the node's text goes on behind it.
 */
#include "stages/steps/aggregate_config.h"

#include <string.h>
#include <xxhash.h>

const struct option aggregate_options[] = {
        {.name = "by",
         .type = OPTION_STRINGS,
         .offset = offsetof(struct aggregate_config, by),
         .help = "fields that name the group (paths); none: one group of all"},
        {.name = "compute",
         .type = OPTION_NODE,
         .offset = offsetof(struct aggregate_config, compute),
         .required = true,
         .help = "field: function; count(), count(PATH), sum(PATH), min(PATH), max(PATH), "
                 "mean(PATH)"},
        {.name = "window",
         .type = OPTION_DURATION,
         .offset = offsetof(struct aggregate_config, window),
         .def = "0",
         .help = "emit each group when this long a window ends; 0: when the input ends"},
        {.name = "window_field",
         .type = OPTION_STRING,
         .offset = offsetof(struct aggregate_config, stamp),
         .def = "window_start",
         .help = "field for the window's start: seconds since 1970, whole when `window` is"},
        {.name = "max_keys",
         .type = OPTION_INT,
         .offset = offsetof(struct aggregate_config, max_keys),
         .def = "1000000",
         .min = 1,
         .max = 1e12,
         .help = "groups at a time; records of further groups are rejected"},
        OPTION_END,
};

static const struct {
	const char *name;
	enum agg_fn fn;
} functions[] = {
        {"count", AGG_COUNT}, {"sum", AGG_SUM},   {"min", AGG_MIN},
        {"max", AGG_MAX},     {"mean", AGG_MEAN}, {"avg", AGG_MEAN},
};

static bool function_named(const char *s, size_t len, enum agg_fn *fn)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		if (strlen(functions[i].name) != len || memcmp(functions[i].name, s, len) != 0)
			continue;
		*fn = functions[i].fn;
		return true;
	}
	return false;
}

/* "sum(a.b)" at @v; the path's text is put at *@room. */
static void compute_parse(struct compute *op, const struct node *v, char **room,
                          struct complaints *c)
{
	static const char form[] =
	        "expected count(), count(PATH), sum(PATH), min(PATH), max(PATH) or "
	        "mean(PATH)";
	if (v->kind != NODE_SCALAR || memchr(v->text, 0, v->len)) {
		complain(c, v, "%s, not %s", form, node_describe(v));
		return;
	}
	const char *s = v->text + strspn(v->text, "= ");
	size_t word = strcspn(s, "( ");
	const char *arg = s + word;
	arg += strspn(arg, "( ");
	size_t len = strcspn(arg, ") ");
	const char *rest = arg + len;
	rest += strspn(rest, " ");
	bool bare = !s[word];
	if (!function_named(s, word, &op->fn) || (!bare && (s[word] != '(' || strcmp(rest, ")")))) {
		complain(c, v, "%s, not \"%s\"", form, v->text);
		return;
	}
	if (!len && op->fn != AGG_COUNT) {
		complain(c, v, "\"%s\" needs a field: %.*s(PATH)", v->text, (int)word, s);
		return;
	}
	if (!len)
		return;
	op->path = *room;
	op->path_len = len;
	memcpy(*room, arg, len);
	(*room)[len] = 0;
	*room += len + 1;
}

static bool is_by(const struct aggregate_config *cfg, const char *name)
{
	for (size_t i = 0; i < cfg->by.n; i++)
		if (!strcmp(cfg->by.v[i], name))
			return true;
	return cfg->window && !strcmp(cfg->stamp, name);
}

void aggregate_check(void *config, const struct node *node, struct complaints *c)
{
	struct aggregate_config *cfg = config;
	const struct node *map = cfg->compute;
	if (!map)
		return;
	if (map->kind != NODE_MAP || map->n == 0 || map->n > COMPUTE_MAX) {
		complain(c, map, "compute: expected a map of 1 to %d fields", COMPUTE_MAX);
		return;
	}
	size_t text = 0;
	NODE_FOREACH_PAIR(map, k, v)
	text += v->kind == NODE_SCALAR ? v->len + 1 : 0;
	cfg->ops = calloc(map->n, sizeof(*cfg->ops));
	cfg->paths = malloc(text + 1);
	if (!cfg->ops || !cfg->paths) {
		complain(c, node, "no memory");
		return;
	}
	char *room = cfg->paths;
	NODE_FOREACH_PAIR(map, name, fn)
	{
		struct compute *op = &cfg->ops[cfg->n++];
		op->name = name->text;
		compute_parse(op, fn, &room, c);
		if (is_by(cfg, op->name))
			complain(c, name, "field \"%s\" is also one of the group's own", op->name);
	}
}

void aggregate_config_free(void *config)
{
	struct aggregate_config *cfg = config;
	free(cfg->ops);
	free(cfg->paths);
	cfg->ops = NULL;
	cfg->paths = NULL;
}

uint64_t aggregate_shape(const struct aggregate_config *c)
{
	XXH64_hash_t h = (XXH64_hash_t)c->window;
	for (size_t i = 0; i < c->by.n; i++)
		h = XXH3_64bits_withSeed(c->by.v[i], strlen(c->by.v[i]) + 1, h);
	for (unsigned i = 0; i < c->n; i++) {
		const struct compute *op = &c->ops[i];
		h = XXH3_64bits_withSeed(op->name, strlen(op->name) + 1, h + op->fn + 1);
		h = XXH3_64bits_withSeed(op->path ? op->path : "", op->path_len, h);
	}
	return h;
}
