/*
 * What only the whole configuration can tell: whether workers, edges and the arena fit each other,
 * and whether a secret lies open.
 *
 * The arena's sum, which also stands in the manual: buffers = arena.size / arena.buffer. Every edge
 * needs one of its own, so that the last edge of a chain can always empty; 2 more are shared. A
 * default quota is an equal share, at least 2.
 *
 * A secret in plain text is refused when others may read the file. Only the keys of producers and
 * consumers (and of maps their tables describe) are looked at: a field of a record may be called
 * `password`.
 */
#include "daemon/config_parts.h"

#include <strings.h>
#include <sys/stat.h>

enum {
	SHARED_BUFFERS = 2,
};

static const char *size_text(uint64_t v, char *out, size_t size)
{
	static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
	unsigned u = 0;
	for (; u < 4 && v >= 1024 && v % 1024 == 0; u++)
		v /= 1024;
	snprintf(out, size, "%llu%s", (unsigned long long)v, units[u]);
	return out;
}

/* The node of @key in @section, else the section, else the file: where a complaint about it
 * belongs. */
static const struct node *place(const struct config *cfg, const char *section, const char *key)
{
	const struct node *s = node_get(cfg->tree->root, section);
	const struct node *n = node_get(s, key);
	return n ? n : s ? s : cfg->tree->root;
}

static void check_single(const struct config_stage *s, struct complaints *c)
{
	const struct node *n = node_get(s->node, "workers");
	if (s->workers <= 1 || !n)
		return;
	if (s->ops && (s->ops->flags & STAGE_SINGLE))
		complain(c, n, "workers: type \"%s\" works with one worker only", s->ops->name);
	for (unsigned i = 0; i < s->n_steps; i++) {
		const struct stage_ops *ops = s->steps[i].ops;
		if (ops->flags & STAGE_STATEFUL)
			complain(c, n,
			         "workers: step \"%s\" remembers records, and each of %u workers "
			         "would see only some of them: set workers: 1",
			         ops->name, s->workers);
		else if (ops->flags & STAGE_SINGLE)
			complain(c, n, "workers: step \"%s\" works with one worker only",
			         ops->name);
	}
}

static void check_workers(const struct config *cfg, struct complaints *c)
{
	uint64_t sum = 1;
	for (unsigned i = 0; i < cfg->n_stages; i++) {
		if (cfg->stages[i].builtin)
			continue;
		sum += cfg->stages[i].workers;
		check_single(&cfg->stages[i], c);
	}
	if (sum > cfg->max_workers)
		complain(
		        c, place(cfg, "arena", "max_workers"),
		        "arena.max_workers: %llu is too small: the stages have %llu workers, and 1 "
		        "writes dead letters: set it to %llu or more%s",
		        (unsigned long long)cfg->max_workers, (unsigned long long)sum - 1,
		        (unsigned long long)sum,
		        sum > CONFIG_WORKERS_MAX ? ", which is more than is possible" : "");
}

static void check_arena(struct config *cfg, struct complaints *c)
{
	uint64_t buffers = cfg->arena_size / cfg->arena_buffer;
	uint64_t need = (uint64_t)cfg->n_edges + SHARED_BUFFERS;
	char size[32], buffer[32], want[32];
	if (cfg->n_edges == 0)
		return; /* no graph was made: that was complained about */
	if (buffers < need)
		complain(
		        c, place(cfg, "arena", "size"),
		        "arena.size: %s is too small: it holds %llu buffers of %s, and %u edges "
		        "need "
		        "%llu (one each, %d shared): set arena.size to %s or more, or arena.buffer "
		        "lower",
		        size_text(cfg->arena_size, size, sizeof(size)), (unsigned long long)buffers,
		        size_text(cfg->arena_buffer, buffer, sizeof(buffer)), cfg->n_edges,
		        (unsigned long long)need, SHARED_BUFFERS,
		        size_text(need * cfg->arena_buffer, want, sizeof(want)));
	for (unsigned i = 0; i < cfg->n_edges; i++) {
		const struct node *n =
		        i < cfg->tree->n_links ? cfg->tree->links[i].quota_node : NULL;
		uint64_t share = buffers / cfg->n_edges;
		if (!n)
			cfg->edges[i].quota = share > 2 ? share : 2;
		else if (buffers >= need && cfg->edges[i].quota > buffers)
			complain(c, n,
			         "quota: %llu is more than the %llu buffers that the arena has",
			         (unsigned long long)cfg->edges[i].quota,
			         (unsigned long long)buffers);
	}
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);
	return n >= m && strcasecmp(s + n - m, end) == 0;
}

static bool secret_key(const char *key)
{
	static const char *const words[] = {"password",    "passwd",     "secret",
	                                    "token",       "api_key",    "apikey",
	                                    "private_key", "secret_key", "access_key"};
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (ends_with(key, words[i]))
			return true;
	return false;
}

static bool open_to_others(const struct config *cfg, const char *file)
{
	for (const struct yaml_file *f = cfg->tree->yaml.files; f; f = f->next)
		if (f->name == file)
			return f->mode & S_IROTH;
	return false;
}

static void check_secrets(const struct config *cfg, const struct option *table,
                          const struct node *map, struct complaints *c)
{
	for (size_t i = 0; map && map->kind == NODE_MAP && i < map->n; i++) {
		const struct node *key = map->items[2 * i], *v = map->items[2 * i + 1];
		for (const struct option *o = table; o && o->name; o++)
			if (o->type == OPTION_SUB && strcmp(o->name, key->text) == 0)
				check_secrets(cfg, o->sub, v, c);
		if (v->kind != NODE_SCALAR || v->scalar == NODE_NULL || v->scalar == NODE_BOOL ||
		    v->len == 0 || v->expanded || !secret_key(key->text) ||
		    strncmp(v->text, "file:", 5) == 0 || !open_to_others(cfg, v->file))
			continue;
		complain(c, v,
		         "%s: a secret in a file that everybody can read: chmod o-r %s, or write "
		         "file:PATH or ${NAME} instead",
		         key->text, v->file);
	}
}

void config_check_all(struct config *cfg, struct complaints *c)
{
	check_workers(cfg, c);
	check_arena(cfg, c);
	for (unsigned i = 0; i < cfg->n_stages; i++)
		if (cfg->stages[i].kind != STAGE_STEP && !cfg->stages[i].builtin)
			check_secrets(cfg, cfg->stages[i].ops ? cfg->stages[i].ops->options : NULL,
			              cfg->stages[i].node, c);
}
