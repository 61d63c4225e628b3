/*
 * Records as csv rows.
 *
 * The columns are those of `columns`; without it those of the file's header (a consumer that
 * appends to a file reads it with `prologue`) or of the first record. Fields that `columns` does
 * not name are left out, for that is what one asks with it; without `columns` a field that has no
 * column makes the record one that cannot be said. Missing fields and nil are empty; numbers and
 * booleans are text, maps and arrays JSON text (text.h). Rows end with LF.
 *
 * Limits: an empty string, nil and a missing field look the same.
 */
#include "stages/codecs/csv.h"

#include <stdio.h>

/* The columns from the record's fields, unless they are known. */
static int csv_learn(struct codec *c, const uint8_t *rec, size_t len)
{
	struct csv *st = c->state;
	const uint8_t *end = rec + len;
	struct mp map, k;
	int r = 0;
	if (st->named)
		return 0;
	const uint8_t *p = mp_read(rec, end, &map);
	if (!p || map.type != MP_MAP)
		return -EINVAL;
	c->why = st->why;
	snprintf(st->why, sizeof(st->why), "a record without fields makes no row");
	if (!map.n)
		return CODEC_E_REJECT;
	for (uint32_t i = 0; i < map.n && r == 0; i++) {
		p = mp_read(p, end, &k);
		if (!p || k.type != MP_STR || !(p = mp_skip(p, end)))
			return -EINVAL;
		r = csv_add_name(st, k.p, k.len);
	}
	st->named = r == 0;
	if (r)
		st->n_names = 0, st->keys.len = 0;
	return r;
}

static bool csv_needs_quotes(const struct csv *st, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] == st->delimiter || p[i] == st->quote || p[i] == '\n' || p[i] == '\r')
			return true;
	return n == 0 && st->n_names == 1;
}

static int csv_add_field(const struct csv *st, const uint8_t *p, size_t n, struct buf *out)
{
	if (!csv_needs_quotes(st, p, n))
		return buf_add(out, p, n);
	int r = buf_room(out, 2 * n + 2);
	if (r < 0)
		return r;
	uint8_t *o = out->p + out->len;
	*o++ = st->quote;
	for (size_t i = 0; i < n; i++) {
		*o++ = p[i];
		if (p[i] == st->quote)
			*o++ = p[i];
	}
	*o++ = st->quote;
	out->len = (size_t)(o - out->p);
	return 0;
}

int csv_head(struct codec *c, const uint8_t *rec, size_t len, struct buf *out)
{
	struct csv *st = c->state;
	if (!csv_config(c)->header)
		return 0;
	int r = csv_learn(c, rec, len);
	if (r)
		return r < 0 ? r : 0; /* encode will say it */
	for (uint32_t i = 0; i < st->n_names && r == 0; i++) {
		const struct csv_name *n = &st->names[i];
		if (i)
			r = buf_add_byte(out, st->delimiter);
		if (r == 0)
			r = csv_add_field(st, st->keys.p + n->off + n->len - n->chars, n->chars,
			                  out);
	}
	return r ? r : buf_add_byte(out, '\n');
}

/* Where the field belongs; n_names: nowhere. Fields mostly come in the order of the columns. */
static uint32_t csv_column(const struct csv *st, uint32_t guess, const struct mp *k)
{
	if (guess < st->n_names && csv_name_is(st, guess, k->p, k->len))
		return guess;
	uint32_t i = 0;
	while (i < st->n_names && !csv_name_is(st, i, k->p, k->len))
		i++;
	return i;
}

/* Puts the record's values where their columns are. */
static int csv_place(struct codec *c, const uint8_t *p, const uint8_t *end)
{
	struct csv *st = c->state;
	struct mp map, k;
	memset(st->spans, 0, st->n_names * sizeof(*st->spans));
	p = mp_read(p, end, &map);
	if (!p || map.type != MP_MAP)
		return -EINVAL;
	for (uint32_t i = 0, guess = 0; i < map.n; i++) {
		const uint8_t *val = mp_read(p, end, &k);
		p = val && k.type == MP_STR ? mp_skip(val, end) : NULL;
		if (!p)
			return -EINVAL;
		uint32_t at = csv_column(st, guess, &k);
		guess = at + 1;
		if (at < st->n_names) {
			st->spans[at] = (struct csv_span){.p = val, .len = (uint32_t)(p - val)};
		} else if (!st->fixed) {
			snprintf(st->why, sizeof(st->why), "field \"%.*s\" has no column",
			         k.len < 80 ? (int)k.len : 0, (const char *)k.p);
			c->why = st->why;
			return CODEC_E_REJECT;
		}
	}
	return 0;
}

static int csv_add_value(struct codec *c, uint32_t i, struct buf *out)
{
	struct csv *st = c->state;
	const struct csv_span *s = &st->spans[i];
	int r = i ? buf_add_byte(out, st->delimiter) : 0;
	st->value.len = 0;
	if (r == 0 && s->p)
		r = text_add(&st->text, s->p, s->len, &st->value, &c->why);
	if (r)
		return r < 0 ? r : CODEC_E_REJECT;
	return csv_add_field(st, st->value.p, st->value.len, out);
}

int csv_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out)
{
	struct csv *st = c->state;
	size_t before = out->len;
	int r = csv_learn(c, rec, len);
	if (r == 0)
		r = csv_place(c, rec, rec + len);
	for (uint32_t i = 0; i < st->n_names && r == 0; i++)
		r = csv_add_value(c, i, out);
	if (r == 0)
		r = buf_add_byte(out, '\n');
	if (r)
		out->len = before;
	return r;
}
