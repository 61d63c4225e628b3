/*
 * A field's value as plain text.
 *
 * The one idea: nested values are the JSON codec's business. It writes records only, so the value
 * is wrapped as the one field of a record and what stands around it is cut off again.
 *
 * Limits: shortest floats are found by trying 15, 16 and 17 digits with printf, about a microsecond
 * each; what needs more speed wants an algorithm of its own. The process runs in the C locale.
 */
#include "stages/text.h"

#include <inttypes.h>
#include <math.h>

int text_open(struct text *t, size_t max_record)
{
	const struct codec_ops *json = codec_find("json");
	if (!json)
		return 0;
	if (json->options) {
		struct complaints c = {0};
		t->json_config = calloc(1, json->config_size);
		if (!t->json_config)
			return -ENOMEM;
		option_parse(json->options, NULL, NULL, t->json_config, &c);
		buf_deinit(&c.text);
	}
	return codec_init(&t->json, json, t->json_config, max_record);
}

void text_close(struct text *t)
{
	if (t->json.ops)
		codec_deinit(&t->json);
	if (t->json_config)
		option_free(codec_find("json")->options, t->json_config);
	free(t->json_config);
	buf_deinit(&t->in);
	buf_deinit(&t->out);
	*t = (struct text){0};
}

size_t text_float(char out[32], double d)
{
	int n = 0;
	for (int digits = 15; digits <= 17; digits++) {
		n = snprintf(out, 30, "%.*g", digits, d);
		if (strtod(out, NULL) == d)
			break;
	}
	if (!strpbrk(out, ".e")) {
		memcpy(out + n, ".0", 3);
		n += 2;
	}
	return (size_t)n;
}

static bool text_space(uint8_t c)
{
	return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Of {"": VALUE} the VALUE. */
static int text_unwrap(const struct buf *b, struct buf *out)
{
	const uint8_t *p = b->p, *end = p + b->len;
	while (p < end && *p != ':')
		p++;
	p++;
	while (end > p && text_space(end[-1]))
		end--;
	end--;
	while (p < end && text_space(*p))
		p++;
	while (end > p && text_space(end[-1]))
		end--;
	return p < end ? buf_add(out, p, (size_t)(end - p)) : TEXT_E_REFUSED;
}

static int text_nested(struct text *t, const uint8_t *val, uint32_t len, struct buf *out,
                       const char **why)
{
	*why = "it is a map or an array";
	if (!t->json.ops)
		return TEXT_E_REFUSED;
	t->in.len = t->out.len = 0;
	int r = buf_room(&t->in, (size_t)len + 2);
	if (r < 0)
		return r;
	uint8_t *p = mp_write_str(mp_write_map_head(t->in.p, 1), "", 0);
	memcpy(p, val, len);
	r = t->json.ops->encode(&t->json, t->in.p, (size_t)(p - t->in.p) + len, &t->out);
	if (r > 0) {
		*why = t->json.why;
		return TEXT_E_REFUSED;
	}
	return r < 0 ? r : text_unwrap(&t->out, out);
}

static int text_number(const struct mp *v, struct buf *out, const char **why)
{
	char s[32];
	if (v->type == MP_INT)
		return buf_printf(out, "%" PRIi64, v->i);
	if (v->type == MP_UINT)
		return buf_printf(out, "%" PRIu64, v->u);
	*why = "it is no finite number";
	return isfinite(v->d) ? buf_add(out, s, text_float(s, v->d)) : TEXT_E_REFUSED;
}

int text_add(struct text *t, const uint8_t *val, uint32_t len, struct buf *out, const char **why)
{
	struct mp v = record_value(val, len);
	switch (v.type) {
	case MP_NIL:
		return 0;
	case MP_BOOL:
		return buf_add_str(out, v.b ? "true" : "false");
	case MP_INT:
	case MP_UINT:
	case MP_FLOAT:
		return text_number(&v, out, why);
	case MP_STR:
		return buf_add(out, v.p, v.len);
	case MP_BIN:
		*why = "it is binary and not UTF-8";
		return mp_utf8_valid(v.p, v.len) ? buf_add(out, v.p, v.len) : TEXT_E_REFUSED;
	case MP_ARRAY:
	case MP_MAP:
		return text_nested(t, val, len, out, why);
	default:
		*why = "it is a msgpack extension";
		return TEXT_E_REFUSED;
	}
}
