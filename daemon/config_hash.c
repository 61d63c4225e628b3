/*
 * What makes a stage what it is, as one number: reload replaces the stages whose number changed.
 *
 * The hard idea: the hash is taken over what the configuration says, not over how it is written. A
 * node is written as its kind and value in a fixed form, so comments, blank lines, quotes and flow
 * or block style do not matter; the order of keys does (the expressions of `set` run in order). To
 * the stage's own nodes come the edges around it, since defaults of `from` depend on the
 * neighbours, and those global settings a worker is started with. A quota counts only where it was
 * written: the default is a share of the arena that every new edge changes, and no worker need be
 * replaced for that.
 *
 * A producer has a second number, of its own options alone: as long as that stays, an end it has
 * come to stays its end, whatever is changed around it.
 *
 * Limit: files that a stage reads (scripts, keys, certificates) are not looked into.
 */
#include "daemon/config_parts.h"

#include <xxhash.h>

static void add_u64(struct buf *b, uint64_t v)
{
	buf_add(b, &v, sizeof(v));
}

static void add_text(struct buf *b, const char *s, size_t len)
{
	add_u64(b, len);
	buf_add(b, s, len);
}

static void add_string(struct buf *b, const char *s)
{
	add_text(b, s ? s : "", s ? strlen(s) : 0);
}

static void add_scalar(struct buf *b, const struct node *n)
{
	uint64_t bits;
	buf_add_byte(b, (uint8_t)n->scalar);
	switch (n->scalar) {
	case NODE_NULL:
		break;
	case NODE_BOOL:
		buf_add_byte(b, n->b);
		break;
	case NODE_INT:
		add_u64(b, (uint64_t)n->i);
		add_u64(b, n->u);
		break;
	case NODE_FLOAT:
		memcpy(&bits, &n->d, sizeof(bits));
		add_u64(b, bits);
		break;
	case NODE_STRING:
		add_text(b, n->text, n->len);
		break;
	}
}

static void add_node(struct buf *b, const struct node *n)
{
	buf_add_byte(b, (uint8_t)n->kind);
	if (n->kind == NODE_SCALAR) {
		add_scalar(b, n);
		return;
	}
	size_t items = n->kind == NODE_MAP ? 2 * n->n : n->n;
	add_u64(b, items);
	for (size_t i = 0; i < items; i++)
		add_node(b, n->items[i]);
}

static void add_edges(struct buf *b, const struct config *cfg, unsigned stage)
{
	for (unsigned i = 0; i < cfg->n_edges; i++) {
		const struct config_edge *e = &cfg->edges[i];
		if (e->from != stage && e->to != stage)
			continue;
		bool said = i < cfg->tree->n_links && cfg->tree->links[i].quota_node;
		add_string(b, e->name);
		add_u64(b, said ? e->quota : 0);
		add_u64(b, e->full);
	}
}

static void add_globals(struct buf *b, const struct config *cfg)
{
	add_u64(b, cfg->arena_buffer);
	add_u64(b, cfg->arena_sync);
	add_u64(b, cfg->arena_sync ? cfg->arena_log_size : 0);
	add_string(b, cfg->state_path);
	add_u64(b, cfg->state_size);
	add_u64(b, cfg->dead_full);
	add_string(b, cfg->runtime_dir);
}

static bool is_common(const struct config_stage *s, const char *key)
{
	struct option table[CONFIG_COMMON_MAX];
	config_common_table(s, table);
	for (const struct option *o = table; o->name; o++)
		if (strcmp(o->name, key) == 0)
			return true;
	return false;
}

/* What a producer takes in and what it makes of it: its type, its own options, its codec's. Not the
 * keys that say how its workers are run, which every stage has. */
static uint64_t hash_source(const struct config_stage *s, struct buf *b)
{
	uint64_t sum = 0; /* in whatever order they stand */
	if (s->kind != STAGE_PRODUCER || s->builtin)
		return 0;
	for (size_t i = 0; i < s->node->n; i++) {
		const struct node *key = s->node->items[2 * i];
		if (is_common(s, key->text))
			continue;
		b->len = 0;
		add_node(b, key);
		add_node(b, s->node->items[2 * i + 1]);
		sum += XXH3_64bits(b->p, b->len);
	}
	return sum;
}

void config_hash_all(struct config *cfg)
{
	_cleanup_(buf_deinit) struct buf b = {0};
	for (unsigned i = 0; i < config_all_stages(cfg); i++) {
		struct config_stage *s = &cfg->stages[i];
		b.len = 0;
		buf_add_byte(&b, (uint8_t)s->kind);
		add_string(&b, s->name);
		if (i < cfg->n_stages)
			add_node(&b, s->node);
		else
			add_string(&b, cfg->edges[s->replay_edge].name);
		add_edges(&b, cfg, i);
		add_globals(&b, cfg);
		if (s->kind != STAGE_PRODUCER) /* how its readers nap and are rung */
			add_u64(&b, (uint64_t)config_linger(cfg, s));
		if (s->builtin)
			add_u64(&b, cfg->dead_max_size);
		s->hash = XXH3_64bits(b.p, b.len);
		s->source_hash = hash_source(s, &b);
	}
}
