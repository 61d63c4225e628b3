/*
 * Records as deb822 paragraphs: a line a field, an empty line at the end.
 *
 * The one rule: what is written reads back as the same text, or the record is refused. So a name
 * must be a field name, a value's first line has no blanks around it, no line ends with a CR, and
 * no further line is empty or blank; with `dots: true` an empty one is written as a dot (and then a
 * line that is a dot cannot be said). Nil fields are left out; values that are no strings are
 * written as text (text.h).
 */
#include "stages/codecs/deb822.h"

static bool deb822_key_ok(const struct mp *k)
{
	if (k->type != MP_STR || !k->len || *k->p == '#' || *k->p == '-')
		return false;
	for (uint32_t i = 0; i < k->len; i++)
		if (!deb822_key_char(k->p[i]))
			return false;
	return true;
}

static bool deb822_all_blank(const uint8_t *p, size_t n)
{
	while (n && deb822_blank(p[n - 1]))
		n--;
	return n == 0;
}

/* The first line, [p, p+n), can stand behind the colon. */
static bool deb822_first_ok(const uint8_t *p, size_t n)
{
	return !n || !(deb822_blank(p[0]) || deb822_blank(p[n - 1]) || p[n - 1] == '\r');
}

/* Appends one further line. False: it cannot be said. */
static bool deb822_add_more(const struct deb822_config *cf, const uint8_t *p, size_t n,
                            struct buf *out)
{
	if (cf->dots && n == 1 && *p == '.')
		return false;
	if (cf->dots && !n) {
		buf_add_str(out, "\n .");
		return true;
	}
	if (deb822_all_blank(p, n) || p[n - 1] == '\r')
		return false;
	buf_add_str(out, "\n ");
	buf_add(out, p, n);
	return true;
}

/* Appends " value" with its further lines; there is room. */
static bool deb822_add_value(const struct deb822_config *cf, const struct buf *v, struct buf *out)
{
	const uint8_t *p = v->p, *end = p + v->len;
	const uint8_t *nl = v->len ? memchr(p, '\n', v->len) : NULL;
	size_t n = nl ? (size_t)(nl - p) : v->len;
	if (!deb822_first_ok(p, n))
		return false;
	if (n) {
		buf_add_byte(out, ' ');
		buf_add(out, p, n);
	}
	while (nl) {
		p = nl + 1;
		nl = memchr(p, '\n', (size_t)(end - p));
		if (!deb822_add_more(cf, p, (size_t)((nl ? nl : end) - p), out))
			return false;
	}
	return true;
}

static int deb822_add_field(struct codec *c, const struct mp *k, const uint8_t *val, uint32_t len,
                            struct buf *out)
{
	struct deb822 *st = c->state;
	if (len && *val == 0xc0) /* nil */
		return 0;
	if (!deb822_key_ok(k)) {
		c->why = "a field's name is no deb822 field name";
		return CODEC_E_REJECT;
	}
	st->value.len = 0;
	int r = text_add(&st->text, val, len, &st->value, &c->why);
	if (r)
		return r < 0 ? r : CODEC_E_REJECT;
	/* a line feed becomes at most three characters */
	r = buf_room(out, k->len + 8 + 3 * st->value.len);
	if (r < 0)
		return r;
	buf_add(out, k->p, k->len);
	buf_add_byte(out, ':');
	if (!deb822_add_value(deb822_config(c), &st->value, out)) {
		c->why = "a value has blanks, empty lines or CRs where deb822 cannot say them";
		return CODEC_E_REJECT;
	}
	return buf_add_byte(out, '\n');
}

/* The next field of the map at *@p. */
static int deb822_next(struct codec *c, const uint8_t **p, const uint8_t *end, struct buf *out)
{
	struct deb822 *st = c->state;
	struct mp k;
	const uint8_t *val = mp_read(*p, end, &k);
	*p = val ? mp_skip(val, end) : NULL;
	if (!*p)
		return -EINVAL;
	struct deb822_field f = {.key = k.p, .key_len = k.type == MP_STR ? k.len : 0};
	if (f.key_len) {
		if (st->n == DEB822_FIELDS_MAX || deb822_repeated(st, &f)) {
			c->why = "two names that differ by case only, or too many fields";
			return CODEC_E_REJECT;
		}
		st->fields[st->n++] = f;
	}
	return deb822_add_field(c, &k, val, (uint32_t)(*p - val), out);
}

int deb822_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out)
{
	struct deb822 *st = c->state;
	const uint8_t *end = rec + len;
	size_t before = out->len;
	struct mp map;
	int r = 0;
	const uint8_t *p = mp_read(rec, end, &map);
	if (!p || map.type != MP_MAP)
		return -EINVAL;
	st->n = 0;
	st->seen = 0;
	for (uint32_t i = 0; i < map.n && r == 0; i++)
		r = deb822_next(c, &p, end, out);
	if (r == 0 && out->len == before) {
		c->why = "a record without fields is no paragraph";
		r = CODEC_E_REJECT;
	}
	if (r == 0)
		r = buf_add_byte(out, '\n');
	if (r)
		out->len = before;
	return r;
}
