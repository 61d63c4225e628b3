/*
 * The graph: who reads whom.
 *
 * The hard idea: `from` may be left out, and what it means then follows from the order of the file:
 * a transformer reads the one before it, else the only producer; a consumer reads the last
 * transformer, else the only producer; else it has to be said. First every `from` becomes links
 * between stages as they stand in the file; then the links are checked (dangling, circles, outputs
 * that nobody reads); only then are the stages put into topological order and the links made into
 * edges.
 *
 * Order: producers, transformers (each after all it reads, else as in the file), consumers, dead
 * letters. Edges are sorted by their reader, so every edge leads from a lower to a higher stage.
 *
 * A `from` that is wrong is complained about; who is unread or in a circle cannot be told then, and
 * is left for the next run.
 */
#include "daemon/config_parts.h"

static const struct option link_options[] = {
        {"full", OPTION_ENUM, offsetof(struct config_link, full), .def = "block",
         .choices = (const char *const[]){"block", "drop", NULL},
         .help = "when the queue is full: hold up who feeds it, or drop the chunk and count"},
        {"quota", OPTION_INT, offsetof(struct config_link, quota), .min = 1, .max = 1000000,
         .help = "most chunks that may wait"},
        OPTION_END,
};

static unsigned index_of(const struct config *cfg, const char *name, size_t len)
{
	for (unsigned i = 0; i < cfg->n_stages; i++)
		if (strncmp(cfg->stages[i].name, name, len) == 0 && !cfg->stages[i].name[len])
			return i;
	return UINT32_MAX;
}

static struct config_link *new_link(struct config *cfg, const struct config_link *like)
{
	struct config_tree *t = cfg->tree;
	if ((t->n_links & (t->n_links - 1)) == 0) {
		size_t cap = t->n_links ? 2 * (size_t)t->n_links : 1;
		struct config_link *links = realloc(t->links, cap * sizeof(*links));
		if (!links)
			return NULL;
		t->links = links;
	}
	t->links[t->n_links] = *like;
	return &t->links[t->n_links++];
}

bool config_add_link(struct config *cfg, const struct config_link *like)
{
	return new_link(cfg, like) != NULL;
}

/* Says that @n names no stage to read from, with the nearest that does. */
static void dangling(const struct config *cfg, const struct node *n, const char *name,
                     struct complaints *c)
{
	_cleanup_(buf_deinit) struct buf names = {0}, text = {0};
	for (unsigned i = 0; i < cfg->n_stages; i++)
		if (cfg->stages[i].kind != STAGE_CONSUMER) {
			config_add_name(&names, cfg->stages[i].name);
			buf_printf(&text, "%s%s", text.len ? ", " : "", cfg->stages[i].name);
		}
	const char *near = option_nearest(name, (const char *const *)(void *)names.p,
	                                  names.len / sizeof(char *));
	if (near)
		complain(c, n, "from: there is no \"%s\": did you mean \"%s\"?", name, near);
	else
		complain(c, n, "from: there is no \"%s\" to read from: there is %.*s", name,
		         (int)text.len, text.len ? (char *)text.p : "");
}

/* The number of output @name of @s, or -1 after a complaint. */
static int find_output(const struct config *cfg, const struct config_stage *s, const struct node *n,
                       const char *name, struct complaints *c)
{
	for (unsigned i = 1; i < s->n_outputs; i++)
		if (strcmp(s->outputs[i], name) == 0)
			return (int)i;
	if (s->n_outputs == 1 && cfg->tree->broken_steps)
		return -1; /* the step that has it may be the one that was complained about */
	const char *near = option_nearest(name, s->outputs + 1, s->n_outputs - 1);
	if (near)
		complain(c, n, "from: %s has no output \"%s\": did you mean \"%s.%s\"?", s->name,
		         name, s->name, near);
	else
		complain(c, n, "from: %s has no output \"%s\"%s", s->name, name,
		         s->n_outputs == 1 ? ": only a transformer with a route step has some"
		                           : "");
	return -1;
}

/* Fills in from and output of @link from the text "stage" or "stage.output". */
static bool resolve(const struct config *cfg, const struct node *n, struct config_link *link,
                    struct complaints *c)
{
	if (n->kind != NODE_SCALAR || n->scalar == NODE_NULL || strlen(n->text) != n->len) {
		complain(c, n, "from: expected the name of a stage, got %s", node_describe(n));
		return false;
	}
	size_t len = strcspn(n->text, ".");
	link->from = index_of(cfg, n->text, len);
	if (n->bad || link->from == UINT32_MAX) {
		char name[128];
		snprintf(name, sizeof(name), "%.*s", (int)(len > 100 ? 100 : len), n->text);
		dangling(cfg, n, name, c);
		return false;
	}
	const struct config_stage *from = &cfg->stages[link->from];
	if (from->kind == STAGE_CONSUMER) {
		complain(c, n, "from: %s is a consumer: nothing comes out of it", from->name);
		return false;
	}
	if (n->text[len]) {
		int output = find_output(cfg, from, n, n->text + len + 1, c);
		link->output = output < 0 ? 0 : (unsigned)output;
		return output >= 0;
	}
	return true;
}

/* Reads one item of `from`: a name, or {stage: name, quota: ..., full: ...}. */
static void read_from_item(struct config *cfg, const struct node *item, struct config_link link,
                           struct complaints *c)
{
	static const char *const stage[] = {"stage", NULL};
	const struct node *name = item;
	bool good = true;
	if (item->kind == NODE_MAP) {
		/* what the item leaves out, the stage's own quota and full say */
		struct config_link own = {0};
		option_parse(link_options, item, stage, &own, c);
		if (node_get(item, "quota")) {
			link.quota = own.quota;
			link.quota_node = node_get(item, "quota");
		}
		if (node_get(item, "full"))
			link.full = own.full;
		name = node_get(item, "stage");
		if (!name)
			complain(c, item,
			         "from: missing key \"stage\": the name of the stage to read");
	}
	link.node = name ? name : item;
	good = name && resolve(cfg, name, &link, c);
	for (unsigned i = 0; good && i < cfg->tree->n_links; i++) {
		const struct config_link *l = &cfg->tree->links[i];
		if (l->to == link.to && l->from == link.from && l->output == link.output) {
			complain(c, name, "from: \"%s\" is in the list already", name->text);
			return;
		}
	}
	if (good && !new_link(cfg, &link))
		complain(c, item, "out of memory");
	cfg->tree->broken_links = cfg->tree->broken_links || !good;
}

static void names_of(const struct config *cfg, enum stage_kind kind, struct buf *out)
{
	for (unsigned i = 0; i < cfg->n_stages; i++)
		if (cfg->stages[i].kind == kind)
			buf_printf(out, "%s%s", out->len ? ", " : "", cfg->stages[i].name);
}

/* Whom stage @to reads when it does not say: see the head of this file. */
static void default_from(struct config *cfg, struct config_link link, struct complaints *c)
{
	const struct config_stage *to = &cfg->stages[link.to];
	unsigned producers = 0, producer = 0, transformer = UINT32_MAX;
	for (unsigned i = 0; i < cfg->n_stages; i++)
		if (cfg->stages[i].kind == STAGE_PRODUCER) {
			producers++;
			producer = i;
		} else if (cfg->stages[i].kind == STAGE_STEP &&
		           (to->kind == STAGE_CONSUMER || i < link.to)) {
			transformer = i;
		}
	link.from = transformer != UINT32_MAX ? transformer : producer;
	if (transformer != UINT32_MAX || producers == 1) {
		if (!new_link(cfg, &link))
			complain(c, link.node, "out of memory");
		return;
	}
	cfg->tree->broken_links = true;
	if (producers == 0)
		return; /* said once, for the whole file */
	_cleanup_(buf_deinit) struct buf names = {0};
	names_of(cfg, STAGE_PRODUCER, &names);
	complain(c, config_place(cfg, to),
	         "%s: missing key \"from\": there are several producers (%.*s)", to->name,
	         (int)names.len, (char *)names.p);
}

static void read_from(struct config *cfg, unsigned to, struct complaints *c)
{
	static const char *const names[] = {"full", "quota"};
	const struct node *map = cfg->stages[to].node, *from = node_get(map, "from");
	struct config_link link = {.to = to, .node = map};
	struct node *own = yaml_map(&cfg->tree->yaml, map);
	if (map->kind != NODE_MAP) {
		cfg->tree->broken_links = true;
		return;
	}
	for (size_t i = 0; own && i < map->n; i++)
		for (size_t k = 0; k < 2; k++)
			if (strcmp(map->items[2 * i]->text, names[k]) == 0)
				yaml_add(&cfg->tree->yaml, own, map->items[2 * i],
				         map->items[2 * i + 1]);
	option_parse(link_options, own, NULL, &link, c);
	link.to = to;
	link.node = map;
	link.quota_node = node_get(map, "quota");
	if (!from) {
		default_from(cfg, link, c);
	} else if (from->kind != NODE_SEQ) {
		read_from_item(cfg, from, link, c);
	} else {
		if (from->n == 0) {
			complain(c, from, "from: the list is empty");
			cfg->tree->broken_links = true;
		}
		for (size_t i = 0; i < from->n; i++)
			read_from_item(cfg, from->items[i], link, c);
	}
}

static void check_present(const struct config *cfg, struct complaints *c)
{
	unsigned n[3] = {0};
	if (cfg->tree->broken_file)
		return;
	for (unsigned i = 0; i < cfg->n_stages; i++)
		n[cfg->stages[i].kind]++;
	if (n[STAGE_PRODUCER] == 0)
		complain(c, cfg->tree->root,
		         "no producer: a pipeline starts with one under "
		         "\"producers:\"");
	if (n[STAGE_CONSUMER] == 0)
		complain(c, cfg->tree->root,
		         "no consumer: a pipeline ends with one under "
		         "\"consumers:\"");
}

/* True when a step with outputs of its own says that nothing goes on to the main one (`default:
 * drop`). */
static bool main_unused(const struct config_stage *s)
{
	const struct node *steps = node_get(s->node, "steps");
	for (size_t i = 0; steps && steps->kind == NODE_SEQ && i < steps->n; i++) {
		const struct node *item = steps->items[i];
		if (item->kind != NODE_MAP || item->n != 1)
			continue;
		const struct stage_ops *ops = stage_find(STAGE_STEP, item->items[0]->text);
		const struct node *rest = node_get(item->items[1], "default");
		if (ops && ops->outputs && rest && rest->kind == NODE_SCALAR &&
		    strcmp(rest->text, "drop") == 0)
			return true;
	}
	return false;
}

static void check_read(const struct config *cfg, struct complaints *c)
{
	for (unsigned i = 0; i < cfg->n_stages; i++) {
		const struct config_stage *s = &cfg->stages[i];
		uint64_t read = 0;
		for (unsigned l = 0; l < cfg->tree->n_links; l++)
			if (cfg->tree->links[l].from == i)
				read |= UINT64_C(1) << cfg->tree->links[l].output;
		if (s->kind == STAGE_CONSUMER)
			continue;
		if (read == 0 && s->n_outputs == 1) {
			complain(c, config_place(cfg, s),
			         "nobody reads from %s: name it in a \"from\", or remove it",
			         s->name);
			continue;
		}
		if (!(read & 1) && !main_unused(s))
			complain(c, config_place(cfg, s),
			         "nobody reads the main output of %s: name it in a \"from\"",
			         s->name);
		for (unsigned o = 1; o < s->n_outputs; o++)
			if (!(read & UINT64_C(1) << o))
				complain(c, config_place(cfg, s),
				         "nobody reads the output \"%s.%s\": name it in a "
				         "\"from\"",
				         s->name, s->outputs[o]);
	}
}

/* Places stages one by one, each when all it reads is placed; of those that could be, the first in
 * the file. @order: old indices; @waits: zeroed. Returns how many found a place (Kahn, 1962). */
static unsigned sort_stages(const struct config *cfg, unsigned *order, unsigned *waits,
                            bool *placed)
{
	const struct config_tree *t = cfg->tree;
	unsigned n = 0;
	for (unsigned l = 0; l < t->n_links; l++)
		waits[t->links[l].to]++;
	for (int kind = STAGE_PRODUCER; kind <= STAGE_CONSUMER; kind++)
		for (unsigned i = 0; i < cfg->n_stages; i++) {
			if (placed[i] || waits[i] || (int)cfg->stages[i].kind != kind)
				continue;
			placed[i] = true;
			order[n++] = i;
			for (unsigned l = 0; l < t->n_links; l++)
				waits[t->links[l].to] -= t->links[l].from == i;
			i = UINT32_MAX; /* from the start: those that waited for this one come next
			                 */
		}
	return n;
}

/* The link by which stage @at waits for one that found no place. */
static const struct config_link *waits_for(const struct config *cfg, unsigned at,
                                           const bool *placed)
{
	for (unsigned l = 0; l < cfg->tree->n_links; l++)
		if (cfg->tree->links[l].to == at && !placed[cfg->tree->links[l].from])
			return &cfg->tree->links[l];
	return NULL;
}

/* From @start back to whom it waits for, and so on, until a stage comes again: the circle. */
static void tell_circle(const struct config *cfg, unsigned start, const bool *placed,
                        struct complaints *c)
{
	_cleanup_(buf_deinit) struct buf text = {0};
	const struct config_link *l = waits_for(cfg, start, placed);
	for (unsigned steps = 0; l && steps < cfg->n_stages; steps++)
		l = waits_for(cfg, l->from, placed);
	if (!l)
		return;
	const unsigned first = l->to;
	const struct node *place = l->node;
	do {
		buf_printf(&text, "%s reads ", cfg->stages[l->to].name);
		l = waits_for(cfg, l->from, placed);
	} while (l && l->to != first && text.len < 512);
	complain(c, place, "from: a circle: %.*s%s", (int)text.len, (char *)text.p,
	         cfg->stages[first].name);
}

static void check_circles(const struct config *cfg, const bool *placed, struct complaints *c)
{
	for (unsigned i = 0; i < cfg->n_stages; i++)
		if (!placed[i] && cfg->stages[i].kind == STAGE_STEP) {
			tell_circle(cfg, i, placed, c);
			return; /* what hangs behind it waits for the next run */
		}
}

static int by_reader(const void *a, const void *b)
{
	const struct config_link *x = a, *y = b;
	if (x->to != y->to)
		return x->to < y->to ? -1 : 1;
	if (x->from != y->from)
		return x->from < y->from ? -1 : 1;
	return (x->output > y->output) - (x->output < y->output);
}

/* Puts the stages into @order and makes the links follow. */
static int reorder(struct config *cfg, const unsigned *order)
{
	_cleanup_free_ struct config_stage *old = calloc(cfg->n_stages, sizeof(*old));
	_cleanup_free_ unsigned *now = calloc(cfg->n_stages, sizeof(*now));
	if (!old || !now)
		return -ENOMEM;
	memcpy(old, cfg->stages, cfg->n_stages * sizeof(*old));
	for (unsigned i = 0; i < cfg->n_stages; i++) {
		cfg->stages[i] = old[order[i]];
		now[order[i]] = i;
	}
	for (unsigned l = 0; l < cfg->tree->n_links; l++) {
		cfg->tree->links[l].from = now[cfg->tree->links[l].from];
		cfg->tree->links[l].to = now[cfg->tree->links[l].to];
	}
	return 0;
}

static int make_edges(struct config *cfg)
{
	cfg->edges = calloc((size_t)cfg->tree->n_links + 1, sizeof(*cfg->edges));
	if (!cfg->edges)
		return -ENOMEM;
	for (unsigned l = 0; l < cfg->tree->n_links; l++) {
		const struct config_link *k = &cfg->tree->links[l];
		const struct config_stage *from = &cfg->stages[k->from];
		struct config_edge *e = &cfg->edges[cfg->n_edges++];
		*e = (struct config_edge){.from = k->from,
		                          .output = k->output,
		                          .to = k->to,
		                          .quota = k->quota,
		                          .full = k->full};
		if (asprintf(&e->name, "%s%s%s->%s", from->name, k->output ? "." : "",
		             from->outputs[k->output], cfg->stages[k->to].name) < 0) {
			e->name = NULL;
			return -ENOMEM;
		}
	}
	return 0;
}

/* Numbers the connected parts: edges go from lower to higher stages, so repeated passes over them
 * settle quickly. */
static void number_pipelines(struct config *cfg)
{
	for (unsigned i = 0; i < cfg->n_stages; i++)
		cfg->stages[i].pipeline = i;
	for (bool again = true; again;) {
		again = false;
		for (unsigned e = 0; e < cfg->n_edges; e++) {
			unsigned *a = &cfg->stages[cfg->edges[e].from].pipeline;
			unsigned *b = &cfg->stages[cfg->edges[e].to].pipeline;
			again = again || *a != *b;
			*a = *b = *a < *b ? *a : *b;
		}
	}
	for (unsigned i = 0; i < cfg->n_stages; i++)
		cfg->stages[i].pipeline = cfg->stages[i].pipeline == i
		                                  ? cfg->n_pipelines++
		                                  : cfg->stages[cfg->stages[i].pipeline].pipeline;
}

/* Stages stand in topological order, edges in the order of their readers. */
static void number_depths(struct config *cfg)
{
	for (unsigned e = 0; e < cfg->n_edges; e++) {
		unsigned from = cfg->stages[cfg->edges[e].from].depth;
		unsigned *to = &cfg->stages[cfg->edges[e].to].depth;
		*to = *to > from ? *to : from + 1;
	}
}

void config_graph_make(struct config *cfg, struct complaints *c)
{
	_cleanup_free_ unsigned *order = calloc((size_t)cfg->n_stages + 1, sizeof(*order));
	_cleanup_free_ unsigned *waits = calloc((size_t)cfg->n_stages + 1, sizeof(*waits));
	_cleanup_free_ bool *placed = calloc((size_t)cfg->n_stages + 1, sizeof(*placed));
	check_present(cfg, c);
	for (unsigned i = 0; i < cfg->n_stages; i++)
		if (cfg->stages[i].kind != STAGE_PRODUCER)
			read_from(cfg, i, c);
	if (!order || !waits || !placed) {
		complain(c, cfg->tree->root, "out of memory");
		return;
	}
	if (cfg->tree->broken_links || cfg->n_stages == 0)
		return;
	check_read(cfg, c);
	if (sort_stages(cfg, order, waits, placed) < cfg->n_stages) {
		check_circles(cfg, placed, c);
		return;
	}
	int r = reorder(cfg, order);
	if (r == 0) {
		config_log_splice(cfg, c);
		if (cfg->tree->n_links)
			qsort(cfg->tree->links, cfg->tree->n_links, sizeof(*cfg->tree->links),
			      by_reader);
		r = make_edges(cfg);
	}
	if (r < 0) {
		complain(c, cfg->tree->root, "out of memory");
		return;
	}
	number_pipelines(cfg);
	number_depths(cfg);
}
