/*
 * set: fields get values, from top to bottom, each seeing what those before it did.
 *
 *     set: {service: =upper(service), user.seen: =now(), tags: [a, b], old: null}
 *
 * A key is a path: maps on the way are made where nothing is. A value is a literal (of any
 * structure) or an expression; nil removes the field. Literals are encoded once, when the
 * configuration is read.
 */
#include "stages/expr.h"
#include "stages/stage.h"

#include <string.h>

struct assignment {
	const char *path; /* borrowed from the node */
	size_t path_len;
	struct expr *expr; /* or: */
	struct buf literal;
};

struct set {
	struct assignment *v;
	size_t n;
};

enum {
	SET_DEPTH = 32,
};

static bool encode(struct buf *out, const struct node *n, unsigned depth, struct complaints *c);

static bool put(struct buf *out, const struct node *n, const struct mp *v, struct complaints *c)
{
	if (buf_room(out, MP_HEAD_MAX + (v->type == MP_STR ? v->len : 0)) < 0) {
		complain(c, n, "out of memory");
		return false;
	}
	out->len = (size_t)(mp_write(out->p + out->len, v) - out->p);
	return true;
}

static bool encode_scalar(struct buf *out, const struct node *n, struct complaints *c)
{
	if (expr_is_expression(n)) {
		complain(c, n,
		         "an expression cannot stand inside a structure: set \"a.b\" by itself");
		return false;
	}
	struct mp v = expr_node_literal(n);
	if (v.type == MP_STR && !mp_utf8_valid(v.p, v.len)) {
		complain(c, n, "the text is no UTF-8");
		return false;
	}
	return put(out, n, &v, c);
}

static bool encode(struct buf *out, const struct node *n, unsigned depth, struct complaints *c)
{
	if (n->kind == NODE_SCALAR)
		return encode_scalar(out, n, c);
	if (depth == SET_DEPTH) {
		complain(c, n, "nested deeper than %d", SET_DEPTH);
		return false;
	}
	bool map = n->kind == NODE_MAP;
	struct mp head = {.type = map ? MP_MAP : MP_ARRAY, .n = (uint32_t)n->n};
	bool good = put(out, n, &head, c);
	for (size_t i = 0; good && i < n->n; i++) {
		if (map) {
			const struct node *key = n->items[2 * i];
			struct mp name = {.type = MP_STR,
			                  .p = (const uint8_t *)key->text,
			                  .len = (uint32_t)key->len};
			good = put(out, key, &name, c);
		}
		good = good && encode(out, n->items[map ? 2 * i + 1 : i], depth + 1, c);
	}
	return good;
}

static bool read_assignment(struct assignment *a, const struct node *key, const struct node *value,
                            struct complaints *c)
{
	a->path = key->text;
	a->path_len = key->len;
	if (key->len == 0) {
		complain(c, key, "the name of a field is empty");
		return false;
	}
	if (!expr_is_expression(value))
		return encode(&a->literal, value, 0, c);
	a->expr = expr_compile(value, false, c);
	return a->expr != NULL;
}

static void set_check(void *config, const struct node *node, struct complaints *c)
{
	struct set *s = config;
	if (node->kind != NODE_MAP || node->n == 0) {
		complain(c, node, "expected a map of fields and values, not %s",
		         node->kind == NODE_MAP ? "an empty one" : node_describe(node));
		return;
	}
	s->v = calloc(node->n, sizeof(*s->v));
	if (!s->v) {
		complain(c, node, "out of memory");
		return;
	}
	NODE_FOREACH_PAIR(node, key, value)
	read_assignment(&s->v[s->n++], key, value, c);
}

static void set_config_free(void *config)
{
	struct set *s = config;
	for (size_t i = 0; i < s->n; i++) {
		expr_free(s->v[i].expr);
		buf_deinit(&s->v[i].literal);
	}
	free(s->v);
	*s = (struct set){0};
}

static int set_open(struct stage *st)
{
	const struct set *s = st->config;
	int r = 0;
	for (size_t i = 0; r == 0 && i < s->n; i++)
		if (s->v[i].expr)
			r = expr_open(s->v[i].expr);
	return r;
}

static int assign(struct stage *st, struct record *r, const struct assignment *a)
{
	const uint8_t *val = a->literal.p;
	uint32_t len = (uint32_t)a->literal.len;
	int e = a->expr ? expr_eval(a->expr, st, r, &val, &len) : 0;
	if (e == STAGE_E_REJECT) {
		char why[STAGE_WHY_MAX];
		memcpy(why, st->why, sizeof(why));
		return stage_say(st, e, "%s: %.200s", a->path, why);
	}
	if (e != 0)
		return e;
	if (!val || val[0] == 0xc0) {
		e = record_remove(r, a->path, a->path_len);
		return e < 0 ? e : 0;
	}
	e = record_set_path(r, a->path, a->path_len, val, len);
	if (e == RECORD_E_INVALID)
		return stage_say(st, STAGE_E_REJECT, "%s: a part of the path is no map", a->path);
	return e;
}

static int set_transform(struct stage *st, struct record *r)
{
	const struct set *s = st->config;
	for (size_t i = 0; i < s->n; i++) {
		int e = assign(st, r, &s->v[i]);
		if (e != 0)
			return e;
	}
	return STAGE_OK;
}

const struct stage_ops step_set = {
        .name = "set",
        .kind = STAGE_STEP,
        .help = "gives fields values: literals, or expressions that start with =",
        .example = "- set:\n"
                   "    processed_at: =now()\n"
                   "    hash: =xxh64(msg)\n"
                   "    service: =upper(service)\n"
                   "    old: null              # nil removes\n",
        .config_size = sizeof(struct set),
        .check = set_check,
        .config_free = set_config_free,
        .open = set_open,
        .transform = set_transform,
};
