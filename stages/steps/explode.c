/*
 * Step `explode`: one record for each element of an array, or for each part of a string.
 *
 *     explode: {field: items}                            {items: [1, 2]}  ->  {items: 1}, {items:
 * 2} explode: {field: Tag, split: ",", trim: true, into: tag, index: n}
 *
 * Every record made has all the other fields. With `into` the element goes there and the field
 * itself is taken away; with `index` a field counts from 0. An empty array, and a string without
 * parts, make no record: it is filtered. A record without the field (or with nil in it) goes on as
 * it is. What is neither an array nor, with `split`, a string is rejected.
 *
 * The one idea: the records made share the bytes of the one in hand; only the table of fields is
 * copied.
 *
 * Limit: parts are found by a literal separator, not by a pattern.
 */
#include "stages/stage.h"

struct explode_config {
	const char *field;
	const char *split;
	const char *into;
	const char *index;
	bool trim;
};

static const struct option explode_options[] = {
        {.name = "field",
         .type = OPTION_STRING,
         .offset = offsetof(struct explode_config, field),
         .required = true,
         .help = "the array, or the string to split (may be a path)"},
        {.name = "split",
         .type = OPTION_STRING,
         .offset = offsetof(struct explode_config, split),
         .help = "what separates the parts of a string"},
        {.name = "trim",
         .type = OPTION_BOOL,
         .offset = offsetof(struct explode_config, trim),
         .def = "false",
         .help = "take blanks and line ends off the parts, and leave out empty ones"},
        {.name = "into",
         .type = OPTION_STRING,
         .offset = offsetof(struct explode_config, into),
         .help = "where the element goes; default: the field itself"},
        {.name = "index",
         .type = OPTION_STRING,
         .offset = offsetof(struct explode_config, index),
         .help = "a field that gets the element's number, from 0"},
        OPTION_END,
};

struct explode {
	struct record made;
};

static void explode_check(void *config, const struct node *node, struct complaints *c)
{
	const struct explode_config *cf = config;
	const char *into = cf->into ? cf->into : cf->field;
	/* a path could fail for one element after others were emitted */
	if (cf->index && (strchr(cf->index, '.') || (into && strcmp(cf->index, into) == 0)))
		complain(c, node, "index: expected a top-level field other than the element's");
	if (cf->trim && !cf->split)
		complain(c, node, "trim: parts are trimmed, so it needs `split`");
}

static void explode_close(struct stage *st)
{
	struct explode *x = st->state;
	record_deinit(&x->made);
}

static int explode_set(struct stage *st, const char *where, const uint8_t *val, uint32_t len)
{
	struct explode *x = st->state;
	int r = record_set_path(&x->made, where, strlen(where), val, len);
	if (r > 0)
		return stage_say(st, STAGE_E_REJECT,
		                 "explode: no way to %s: something on it is no map", where);
	return r;
}

/* Emits the record of element number @i. @val lives as long as @r. */
static int explode_emit(struct stage *st, struct record *r, uint64_t i, const uint8_t *val,
                        uint32_t len)
{
	const struct explode_config *cf = st->config;
	struct explode *x = st->state;
	uint8_t *number;
	record_clear(&x->made);
	int e = record_share(&x->made, r);
	if (e == 0 && cf->into && strcmp(cf->into, cf->field) != 0) {
		e = record_remove(&x->made, cf->field, strlen(cf->field));
		e = e > 0 ? 0 : e;
	}
	if (e == 0)
		e = explode_set(st, cf->into ? cf->into : cf->field, val, len);
	if (e == 0 && cf->index) {
		number = record_scratch(&x->made, MP_HEAD_MAX);
		if (!number)
			return -ENOMEM;
		e = explode_set(st, cf->index, number,
		                (uint32_t)(mp_write_uint(number, i) - number));
	}
	return e ? e : stage_emit(st, &x->made);
}

static int explode_array(struct stage *st, struct record *r, const uint8_t *val, uint32_t len,
                         uint32_t n)
{
	struct mp head;
	const uint8_t *end = val + len, *p = mp_read(val, end, &head);
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *next = p ? mp_skip(p, end) : NULL;
		if (!next)
			return -EINVAL;
		int e = explode_emit(st, r, i, p, (uint32_t)(next - p));
		if (e)
			return e;
		p = next;
	}
	return n ? STAGE_E_EMITTED : STAGE_E_FILTERED;
}

static bool explode_space(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static int explode_part(struct stage *st, struct record *r, uint64_t i, const uint8_t *p,
                        const uint8_t *end)
{
	uint8_t *val = record_scratch(r, (size_t)(end - p) + MP_HEAD_MAX);
	if (!val)
		return -ENOMEM;
	uint8_t *to = mp_write_str(val, p, (uint32_t)(end - p));
	return explode_emit(st, r, i, val, (uint32_t)(to - val));
}

static int explode_string(struct stage *st, struct record *r, const struct mp *v)
{
	const struct explode_config *cf = st->config;
	const uint8_t *p = v->p, *end = p + v->len;
	size_t sep = strlen(cf->split);
	uint64_t i = 0;
	for (bool more = v->len > 0; more;) {
		const uint8_t *at = memmem(p, (size_t)(end - p), cf->split, sep);
		const uint8_t *from = p, *to = at ? at : end;
		while (cf->trim && from < to && explode_space(*from))
			from++;
		while (cf->trim && to > from && explode_space(to[-1]))
			to--;
		int e = cf->trim && from == to ? 0 : explode_part(st, r, i++, from, to);
		if (e)
			return e;
		more = at != NULL;
		p = at ? at + sep : end;
	}
	return i ? STAGE_E_EMITTED : STAGE_E_FILTERED;
}

static int explode_transform(struct stage *st, struct record *r)
{
	const struct explode_config *cf = st->config;
	uint32_t len;
	const uint8_t *val = record_path(r, cf->field, strlen(cf->field), &len);
	struct mp v = record_value(val, val ? len : 0);
	if (v.type == MP_NIL)
		return STAGE_OK;
	if (v.type == MP_ARRAY)
		return explode_array(st, r, val, len, v.n);
	if (v.type == MP_STR && cf->split)
		return explode_string(st, r, &v);
	return stage_say(st, STAGE_E_REJECT, "explode: field %s is no array%s", cf->field,
	                 cf->split ? " and no string" : "");
}

const struct stage_ops step_explode = {
        .name = "explode",
        .kind = STAGE_STEP,
        .help = "one record for each element of an array, or part of a string",
        .example = "- explode: {field: tags, into: tag}\n"
                   "- explode: {field: Tag, split: \",\", trim: true, into: tag}\n",
        .bare = "field",
        .options = explode_options,
        .config_size = sizeof(struct explode_config),
        .state_size = sizeof(struct explode),
        .check = explode_check,
        .close = explode_close,
        .transform = explode_transform,
};
