/*
 * The configuration of each stage by itself: its name, type, common keys, own options, codec,
 * steps.
 *
 * The hard idea: the keys of one map have up to four readers. The common table (workers, retry,
 * ...), the stage's own table, its codec's table and the graph (`from`, `quota`, `full`) each take
 * theirs; a key that is nobody's is complained about once, with the nearest of all of them as a
 * hint. Where a stage's table has a key of the common one (a timeout of its own), the stage's is
 * meant.
 *
 * Invariant: check() of a stage is only called with a config in which every required option has a
 * value, so that a stage need not expect what its table has already refused.
 *
 * Limits: `codec` takes the codec's name; its options stand beside it.
 */
#include "daemon/config_parts.h"

static const char *const jitters[] = {
        [RETRY_JITTER_FULL] = "full", [RETRY_JITTER_NONE] = "none", NULL};

static const struct option retry_options[] = {
        {"attempts", OPTION_INT, offsetof(struct retry, attempts), .def = "5", .min = 1,
         .max = 1000000, .help = "tries before the records become dead letters"},
        {"base", OPTION_DURATION, offsetof(struct retry, base), .def = "1s", .min = 0.001,
         .max = 86400, .help = "wait before the second try"},
        {"factor", OPTION_FLOAT, offsetof(struct retry, factor), .def = "2", .min = 1, .max = 100,
         .help = "each wait is so many times the one before"},
        {"max", OPTION_DURATION, offsetof(struct retry, max), .def = "60s", .min = 0.001,
         .max = 86400, .help = "longest wait"},
        {"jitter", OPTION_ENUM, offsetof(struct retry, jitter), .def = "full", .choices = jitters,
         .help = "full: a random part of the wait; none: all of it"},
        OPTION_END,
};

struct batch {
	int64_t records, linger;
};

static const struct option batch_options[] = {
        {"records", OPTION_INT, offsetof(struct batch, records), .def = "10000", .min = 1,
         .max = 1000000, .help = "a chunk is sent on when it has so many"},
        {"linger", OPTION_DURATION, offsetof(struct batch, linger), .def = "1ms", .min = 0,
         .max = 60,
         .help = "or is so old; up to 1ms and with slow input, all stages work on a common beat of "
                 "two lingers, so a record is at most twice as long on its way; 0: at once"},
        OPTION_END,
};

struct common {
	int64_t workers, max_attempts, stall_timeout, timeout, give_up_after;
	uint64_t memory_max;
	struct retry retry;
	struct batch batch;
	bool meta;
};

enum {
	FOR_PRODUCER = 1 << STAGE_PRODUCER,
	FOR_STEP = 1 << STAGE_STEP,
	FOR_CONSUMER = 1 << STAGE_CONSUMER,
	FOR_ALL = FOR_PRODUCER | FOR_STEP | FOR_CONSUMER,
	FOR_OUTSIDE = 1 << 3, /* producers: only those that talk to the outside */
};

static const struct {
	unsigned whom;
	struct option option;
} common_keys[] = {
        {FOR_ALL,
         {"workers", OPTION_INT, offsetof(struct common, workers), .def = "1", .min = 1,
          .max = CONFIG_WORKERS_MAX, .help = "processes"}},
        {FOR_ALL,
         {"max_attempts", OPTION_INT, offsetof(struct common, max_attempts), .def = "3", .min = 1,
          .max = 100, .help = "crashes on one record before it is set aside"}},
        {FOR_ALL,
         {"stall_timeout", OPTION_DURATION, offsetof(struct common, stall_timeout), .def = "60s",
          .min = 0.05, .max = 864000, .help = "a worker without progress for so long is replaced"}},
        {FOR_ALL,
         {"memory_max", OPTION_SIZE, offsetof(struct common, memory_max), .min = 8388608,
          .max = 17592186044416.0, .help = "a worker with more memory of its own is replaced"}},
        {FOR_PRODUCER,
         {"batch", OPTION_SUB, offsetof(struct common, batch), .sub = batch_options,
          .help = "when a chunk is sent on"}},
        {FOR_PRODUCER,
         {"meta", OPTION_BOOL, offsetof(struct common, meta), .def = "false",
          .help = "add _meta: where and when each record came in"}},
        {FOR_CONSUMER,
         {"retry", OPTION_SUB, offsetof(struct common, retry), .sub = retry_options,
          .help = "how an attempt that failed is repeated"}},
        {FOR_CONSUMER,
         {"give_up_after", OPTION_DURATION, offsetof(struct common, give_up_after), .def = "0",
          .min = 0, .max = 31536000,
          .help = "what cannot be reached or opened is tried for so long, then its input becomes "
                  "dead letters; 0: without end"}},
        {FOR_CONSUMER | FOR_OUTSIDE,
         {"timeout", OPTION_DURATION, offsetof(struct common, timeout), .def = "30s", .min = 0.001,
          .max = 86400, .help = "for one attempt"}},
};

const char *config_section(enum stage_kind kind)
{
	static const char *const names[] = {[STAGE_PRODUCER] = "producers",
	                                    [STAGE_STEP] = "transformers",
	                                    [STAGE_CONSUMER] = "consumers"};
	return names[kind];
}

/* Keys that the graph and this file read: no table has them. */
const char *const *config_structural(const struct config_stage *s)
{
	static const char *const producer[] = {"type", "codec", NULL};
	static const char *const step[] = {"from", "quota", "full", "steps", NULL};
	static const char *const consumer[] = {"type", "from", "quota", "full", "codec", NULL};
	if (s->kind == STAGE_STEP)
		return step;
	if (s->kind == STAGE_PRODUCER)
		return producer;
	return consumer;
}

static bool table_has(const struct option *table, const char *name)
{
	for (; table && table->name; table++)
		if (strcmp(table->name, name) == 0)
			return true;
	return false;
}

/* The common keys this stage has, without those its own table has too. @out: CONFIG_COMMON_MAX. */
void config_common_table(const struct config_stage *s, struct option *out)
{
	unsigned whom = 1U << s->kind;
	size_t n = 0;
	if (s->kind == STAGE_PRODUCER && s->ops && (s->ops->flags & STAGE_OUTSIDE))
		whom |= FOR_OUTSIDE;
	for (size_t i = 0; i < sizeof(common_keys) / sizeof(*common_keys); i++)
		if ((common_keys[i].whom & whom) &&
		    !(s->ops && table_has(s->ops->options, common_keys[i].option.name)))
			out[n++] = common_keys[i].option;
	out[n] = (struct option)OPTION_END;
}

void config_add_name(struct buf *names, const char *name)
{
	buf_add(names, &name, sizeof(name));
}

void config_add_names(struct buf *names, const struct option *table)
{
	for (; table && table->name; table++)
		config_add_name(names, table->name);
}

/* All keys of the map, as a list to ignore. */
static void add_keys(struct buf *names, const struct node *map)
{
	for (size_t i = 0; i < map->n; i++)
		config_add_name(names, map->items[2 * i]->text);
}

bool config_any_required(const struct option *table)
{
	for (; table && table->name; table++)
		if (table->required ||
		    (table->type == OPTION_SUB && config_any_required(table->sub)))
			return true;
	return false;
}

static void *options_new(const struct option *table, size_t size, const struct node *map,
                         const char *const *ignore, struct complaints *c)
{
	void *config = calloc(1, size ? size : 1);
	if (!config)
		complain(c, map, "out of memory");
	else
		option_parse(table, map, ignore, config, c);
	return config;
}

static void take_common(struct config_stage *s, const struct common *v)
{
	s->workers = (unsigned)v->workers;
	s->max_attempts = v->max_attempts;
	s->stall_timeout = v->stall_timeout;
	s->memory_max = v->memory_max;
	s->batch_records = v->batch.records;
	s->linger = v->batch.linger;
	s->retry = v->retry;
	s->timeout = v->timeout;
	s->give_up_after = v->give_up_after;
	s->meta = v->meta;
}

/* A worker must not be taken for hanging while it waits as long as it was told to. */
static void check_stall(struct config_stage *s, struct complaints *c)
{
	const struct node *stall = node_get(s->node, "stall_timeout");
	if (s->timeout == 0 || s->stall_timeout > s->timeout)
		return;
	if (!stall)
		s->stall_timeout = 2 * s->timeout;
	else
		complain(c, stall, "stall_timeout: must be longer than timeout (%lld ms)",
		         (long long)(s->timeout / 1000000));
}

static void parse_common(struct config_stage *s, const struct node *map, const char *const *all,
                         struct complaints *c)
{
	struct option table[CONFIG_COMMON_MAX];
	/* what has no key here has its default still: a timeout for producers that ask nobody, ...
	 */
	struct common v = {.timeout = INT64_C(30000000000)};
	config_common_table(s, table);
	option_parse(table, map, all, &v, c);
	if (v.retry.base > v.retry.max) {
		const struct node *retry = node_get(map, "retry");
		complain(c, retry ? retry : map, "retry: base is longer than max");
	}
	take_common(s, &v);
	if (s->kind == STAGE_CONSUMER)
		check_stall(s, c);
}

static void parse_codec(struct config_stage *s, const struct node *map, const char *const *all,
                        struct complaints *c)
{
	const struct node *n = node_get(map, "codec");
	_cleanup_(buf_deinit) struct buf names = {0};
	if (n && s->ops && !(s->ops->flags & STAGE_CODEC)) {
		complain(c, n, "codec: type \"%s\" takes none", s->ops->name);
		return;
	}
	if (!s->ops || !(s->ops->flags & STAGE_CODEC))
		return;
	const char *name = n && n->kind == NODE_SCALAR ? n->text : n ? "" : "json";
	s->codec = codec_find(name);
	if (s->codec) {
		unsigned before = c->count;
		s->codec_config =
		        options_new(s->codec->options, s->codec->config_size, map, all, c);
		if (s->codec->check && s->codec_config &&
		    (c->count == before || !config_any_required(s->codec->options)))
			s->codec->check(s->codec_config, map, c);
		return;
	}
	_cleanup_(buf_deinit) struct buf known = {0};
	for (size_t i = 0; codec_all[i]; i++) {
		config_add_name(&names, codec_all[i]->name);
		buf_printf(&known, "%s%s", i ? ", " : "", codec_all[i]->name);
	}
	const char *near = option_nearest(name, (const char *const *)(void *)names.p,
	                                  names.len / sizeof(char *));
	if (n && n->kind != NODE_SCALAR)
		complain(c, n, "codec: expected a name, got %s", node_describe(n));
	else if (near)
		complain(c, n, "codec: unknown codec \"%s\": did you mean \"%s\"?", name, near);
	else
		complain(c, n ? n : map, "codec: unknown codec \"%s\": known are %.*s", name,
		         (int)known.len, known.p ? (char *)known.p : "");
}

/* The stage's own options; says what no reader knows. */
static void parse_own(struct config_stage *s, const struct node *map, struct complaints *c)
{
	struct option common[CONFIG_COMMON_MAX];
	_cleanup_(buf_deinit) struct buf ignore = {0};
	const struct stage_ops *ops = s->ops;
	unsigned before = c->count;
	config_common_table(s, common);
	config_add_names(&ignore, common);
	if (s->codec)
		config_add_names(&ignore, s->codec->options);
	for (const char *const *k = config_structural(s); *k; k++)
		config_add_name(&ignore, *k);
	if (!ops || (!ops->options && ops->check))
		add_keys(&ignore, map); /* nobody can say what it knows; or it reads them itself */
	config_add_name(&ignore, NULL);
	s->config = options_new(ops ? ops->options : NULL, ops ? ops->config_size : 0, map,
	                        (const char *const *)(void *)ignore.p, c);
	bool whole = c->count == before || !config_any_required(ops ? ops->options : NULL);
	if (ops && ops->check && s->config && whole)
		ops->check(s->config, map, c);
}

static void known_types(enum stage_kind kind, struct buf *names, struct buf *text)
{
	for (size_t i = 0; stage_all[i]; i++)
		if (stage_all[i]->kind == kind) {
			buf_printf(text, "%s%s", names->len ? ", " : "", stage_all[i]->name);
			config_add_name(names, stage_all[i]->name);
		}
}

/* "unknown WHAT "WORD"" with the nearest name, or all of them. */
void config_unknown_type(enum stage_kind kind, const struct node *n, const char *what,
                         struct complaints *c)
{
	_cleanup_(buf_deinit) struct buf names = {0}, text = {0};
	known_types(kind, &names, &text);
	const char *near = option_nearest(n->text, (const char *const *)(void *)names.p,
	                                  names.len / sizeof(char *));
	if (near)
		complain(c, n, "unknown %s \"%s\": did you mean \"%s\"?", what, n->text, near);
	else
		complain(c, n, "unknown %s \"%s\": known are %.*s", what, n->text, (int)text.len,
		         text.p ? (char *)text.p : "");
}

static void find_type(struct config_stage *s, const struct node *map, struct complaints *c)
{
	const struct node *n = node_get(map, "type");
	const char *what = s->kind == STAGE_PRODUCER ? "producer type" : "consumer type";
	enum stage_kind other = s->kind == STAGE_PRODUCER ? STAGE_CONSUMER : STAGE_PRODUCER;
	_cleanup_(buf_deinit) struct buf names = {0}, text = {0};
	known_types(s->kind, &names, &text);
	if (!n) {
		complain(c, map, "missing key \"type\": known are %.*s", (int)text.len,
		         text.p ? (char *)text.p : "");
	} else if (n->kind != NODE_SCALAR) {
		complain(c, n, "type: expected a name, got %s", node_describe(n));
	} else {
		s->ops = stage_find(s->kind, n->text);
		if (!s->ops && stage_find(other, n->text))
			complain(c, n, "type \"%s\" is a %s: it belongs under %s", n->text,
			         other == STAGE_PRODUCER ? "producer" : "consumer",
			         config_section(other));
		else if (!s->ops)
			config_unknown_type(s->kind, n, what, c);
	}
}

static void check_name(const struct config *cfg, const struct node *key, struct complaints *c)
{
	const struct config_stage *same = config_stage(cfg, key->text);
	size_t good = strspn(key->text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	                                "0123456789_-");
	if (key->text[good] || key->len > CONFIG_NAME_MAX)
		complain(c, key, "the name \"%s\" cannot be: 1 to %d of A-Z a-z 0-9 _ -", key->text,
		         CONFIG_NAME_MAX);
	else if (strcmp(key->text, "dead") == 0)
		complain(c, key, "the name \"dead\" is taken: the built-in writer of dead letters");
	else if (same)
		complain(c, key, "the name \"%s\" is taken: a stage under %s at %s:%u:%u has it",
		         key->text, config_section(same->kind), config_place(cfg, same)->file,
		         config_place(cfg, same)->line, config_place(cfg, same)->column);
}

static void read_stage(struct config *cfg, enum stage_kind kind, const struct node *key,
                       const struct node *map, struct complaints *c)
{
	_cleanup_(buf_deinit) struct buf all = {0};
	check_name(cfg, key, c);
	struct config_stage *s = &cfg->stages[cfg->n_stages++];
	*s = (struct config_stage){.name = key->text,
	                           .kind = kind,
	                           .node = map,
	                           .workers = 1,
	                           .outputs = {""},
	                           .n_outputs = 1};
	if (map->kind != NODE_MAP) {
		complain(c, map, "%s: expected a map, got %s", key->text, node_describe(map));
		return;
	}
	if (kind != STAGE_STEP)
		find_type(s, map, c);
	add_keys(&all, map);
	config_add_name(&all, NULL);
	if (!all.p) {
		complain(c, map, "out of memory");
		return;
	}
	parse_common(s, map, (const char *const *)(void *)all.p, c);
	if (kind == STAGE_STEP) {
		config_steps_read(cfg, s, map, c);
	} else {
		parse_codec(s, map, (const char *const *)(void *)all.p, c);
		parse_own(s, map, c);
	}
}

const struct node *config_place(const struct config *cfg, const struct config_stage *s)
{
	const struct node *map = node_get(cfg->tree->root, config_section(s->kind));
	for (size_t i = 0; map && map->kind == NODE_MAP && i < map->n; i++)
		if (map->items[2 * i + 1] == s->node)
			return map->items[2 * i];
	return s->node;
}

static const struct node *stages_of(const struct config *cfg, enum stage_kind kind)
{
	const struct node *n = node_get(cfg->tree->root, config_section(kind));
	return n && n->kind == NODE_MAP ? n : NULL;
}

void config_stages_read(struct config *cfg, struct complaints *c)
{
	size_t n = 0;
	for (int kind = STAGE_PRODUCER; kind <= STAGE_CONSUMER; kind++) {
		const struct node *map = stages_of(cfg, (enum stage_kind)kind);
		n += map ? map->n : 0;
	}
	if (n > CONFIG_STAGES_MAX) {
		complain(c, cfg->tree->root, "%zu stages: at most %d are possible", n,
		         CONFIG_STAGES_MAX);
		n = 0;
	}
	cfg->stages = calloc(n + 2, sizeof(*cfg->stages));
	if (!cfg->stages)
		complain(c, cfg->tree->root, "out of memory");
	for (int kind = STAGE_PRODUCER; n && cfg->stages && kind <= STAGE_CONSUMER; kind++) {
		const struct node *map = stages_of(cfg, (enum stage_kind)kind);
		for (size_t i = 0; map && i < map->n; i++)
			read_stage(cfg, (enum stage_kind)kind, map->items[2 * i],
			           map->items[2 * i + 1], c);
	}
}

static void stage_deinit(struct config_stage *s)
{
	if (s->ops && s->config && s->ops->config_free)
		s->ops->config_free(s->config);
	if (s->ops && s->config)
		option_free(s->ops->options, s->config);
	free(s->config);
	if (s->codec && s->codec_config)
		option_free(s->codec->options, s->codec_config);
	free(s->codec_config);
	config_steps_free(s);
}

void config_stages_free(struct config *cfg)
{
	for (unsigned i = 0; i < config_all_stages(cfg); i++)
		stage_deinit(&cfg->stages[i]);
	free(cfg->stages);
	cfg->stages = NULL;
	cfg->n_stages = cfg->n_replays = 0;
}
