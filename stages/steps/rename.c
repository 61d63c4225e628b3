/*
 * Step `rename`: gives fields other names. `rename: {msg: message, src.ip: client}`.
 *
 * Names may be paths. A top-level field keeps its place; with a path on either side the value is
 * taken away and set at the new place. A field that is not there is no error; a field that had the
 * new name is replaced. The pairs are run from top to bottom, so {a: b, b: c} moves a to c.
 *
 * Limit: two names cannot be swapped in one step, for that order decides.
 */
#include "stages/stage.h"

struct rename_pair {
	const char *from, *to;
	size_t from_len, to_len;
};

struct rename_config {
	struct rename_pair *pairs;
	size_t n;
};

static void rename_check(void *config, const struct node *node, struct complaints *c)
{
	struct rename_config *cf = config;
	if (node->kind != NODE_MAP || !node->n) {
		complain(c, node, "rename: expected a map of old and new names, got %s",
		         node_describe(node));
		return;
	}
	cf->pairs = calloc(node->n, sizeof(*cf->pairs));
	if (!cf->pairs) {
		complain(c, node, "rename: out of memory");
		return;
	}
	for (size_t i = 0; i < node->n; i++) {
		const struct node *from = node->items[2 * i], *to = node->items[2 * i + 1];
		if (to->kind != NODE_SCALAR || !to->len || to->scalar == NODE_NULL) {
			complain(c, to, "rename: expected the new name of %s, got %s", from->text,
			         node_describe(to));
			continue;
		}
		cf->pairs[cf->n++] = (struct rename_pair){from->text, to->text, from->len, to->len};
	}
}

static void rename_config_free(void *config)
{
	struct rename_config *cf = config;
	free(cf->pairs);
}

static int rename_move(struct stage *st, struct record *r, const struct rename_pair *p)
{
	uint32_t len;
	const uint8_t *val = record_path(r, p->from, p->from_len, &len);
	if (!val || (p->from_len == p->to_len && memcmp(p->from, p->to, p->to_len) == 0))
		return STAGE_OK;
	int e = record_remove(r, p->from, p->from_len);
	if (e < 0)
		return e;
	e = record_set_path(r, p->to, p->to_len, val, len);
	if (e > 0)
		return stage_say(st, STAGE_E_REJECT,
		                 "rename: no way to %s: something on it is no map", p->to);
	return e;
}

static int rename_transform(struct stage *st, struct record *r)
{
	const struct rename_config *cf = st->config;
	for (size_t i = 0; i < cf->n; i++) {
		const struct rename_pair *p = &cf->pairs[i];
		int e;
		if (record_get(r, p->from, p->from_len) && !memchr(p->to, '.', p->to_len))
			e = record_rename(r, p->from, p->from_len, p->to, p->to_len);
		else
			e = rename_move(st, r, p);
		if (e)
			return e;
	}
	return STAGE_OK;
}

const struct stage_ops step_rename = {
        .name = "rename",
        .kind = STAGE_STEP,
        .help = "give fields other names",
        .example = "- rename: {msg: message, src.ip: client}\n",
        .config_size = sizeof(struct rename_config),
        .check = rename_check,
        .config_free = rename_config_free,
        .transform = rename_transform,
};
