/*
 * Step `keep`: takes all fields away but those named. `keep: [id, user.country]`, or one name.
 *
 * A path keeps what it leads to, in maps that hold nothing else; such fields come behind the
 * others. A field that is not there is no error; a record of which nothing is left goes on as an
 * empty one.
 *
 * The one idea: what paths lead to is looked up before the fields go, and set again after. The
 * bytes stay where they are meanwhile, for a record owns pointers only. The table is compacted
 * here, in one pass, because removing one field after the other would move the rest each time.
 */
#include "stages/stage.h"

struct keep_config {
	struct strings fields;
};

/* What a path led to. */
struct keep_value {
	const uint8_t *p;
	uint32_t len;
};

struct keep {
	struct keep_value *values; /* one per field of the configuration */
};

static void keep_check(void *config, const struct node *node, struct complaints *c)
{
	struct keep_config *cf = config;
	if (option_strings(node, &cf->fields, c) && !cf->fields.n)
		complain(c, node, "keep: expected at least one field");
}

static void keep_config_free(void *config)
{
	struct keep_config *cf = config;
	free(cf->fields.v);
}

static int keep_open(struct stage *st)
{
	const struct keep_config *cf = st->config;
	struct keep *k = st->state;
	k->values = calloc(cf->fields.n + 1, sizeof(*k->values));
	return k->values ? 0 : -ENOMEM;
}

static void keep_close(struct stage *st)
{
	struct keep *k = st->state;
	free(k->values);
	k->values = NULL;
}

static bool keep_named(const struct keep_config *cf, const struct field *f)
{
	for (size_t i = 0; i < cf->fields.n; i++) {
		const char *name = cf->fields.v[i];
		if (strlen(name) == f->key_len && memcmp(name, f->key, f->key_len) == 0)
			return true;
	}
	return false;
}

/* Bytes of a key with its head. */
static size_t keep_key_size(uint32_t len)
{
	return (size_t)len + (len < 32 ? 1 : len < 256 ? 2 : len < 65536 ? 3 : 5);
}

static void keep_compact(const struct keep_config *cf, struct record *r)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < r->n; i++) {
		const struct field *f = &r->fields[i];
		if (keep_named(cf, f))
			r->fields[n++] = *f;
		else
			r->size -= keep_key_size(f->key_len) + f->val_len;
	}
	r->n = n;
	r->hint = 0;
}

static int keep_transform(struct stage *st, struct record *r)
{
	const struct keep_config *cf = st->config;
	struct keep *k = st->state;
	for (size_t i = 0; i < cf->fields.n; i++) {
		const char *name = cf->fields.v[i];
		struct keep_value *v = &k->values[i];
		bool path = strchr(name, '.') && !record_get(r, name, strlen(name));
		v->p = path ? record_path(r, name, strlen(name), &v->len) : NULL;
	}
	keep_compact(cf, r);
	for (size_t i = 0; i < cf->fields.n; i++) {
		const struct keep_value *v = &k->values[i];
		const char *name = cf->fields.v[i];
		int e = v->p ? record_set_path(r, name, strlen(name), v->p, v->len) : 0;
		if (e < 0)
			return e;
	}
	return STAGE_OK;
}

const struct stage_ops step_keep = {
        .name = "keep",
        .kind = STAGE_STEP,
        .help = "take all fields away but these",
        .example = "- keep: [id, user.country]\n",
        .config_size = sizeof(struct keep_config),
        .state_size = sizeof(struct keep),
        .check = keep_check,
        .config_free = keep_config_free,
        .open = keep_open,
        .close = keep_close,
        .transform = keep_transform,
};
