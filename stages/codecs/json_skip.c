/*
 * Where does this JSON value end? Syntax alone: used on values that are JSON but cannot be a
 * record, so that what stands behind them is read on, and on values too large to keep.
 *
 * Nesting is one bit a level (list or map), so that far deeper values than a record may have are
 * found whole. Beyond SKIP_DEPTH it says "bad", and the codec goes on at the next line.
 */
#include "stages/codecs/json.h"

enum {
	SKIP_DEPTH = 4096,
};

struct skip {
	unsigned depth;
	uint64_t maps[SKIP_DEPTH / 64]; /* bit set: the container at this depth is a map */
};

static bool in_map(const struct skip *s)
{
	unsigned d = s->depth - 1;
	return s->maps[d / 64] >> (d % 64) & 1;
}

static bool enter(struct skip *s, bool map)
{
	if (s->depth == SKIP_DEPTH)
		return false;
	uint64_t bit = (uint64_t)1 << (s->depth % 64);
	uint64_t *w = &s->maps[s->depth++ / 64];
	*w = map ? *w | bit : *w & ~bit;
	return true;
}

/* Moves over blanks; false at the end of the window. */
static bool token(struct json_parse *j)
{
	while (j->p < j->end && json_is_blank(*j->p))
		j->p++;
	return j->p < j->end;
}

static int skip_string(struct json_parse *j)
{
	bool plain;
	bool ascii;
	j->p++;
	return json_string_end(j, &plain, &ascii);
}

/* "key": -> before the value. */
static int skip_key(struct json_parse *j)
{
	if (!token(j))
		return json_cut(j);
	if (*j->p != '"')
		return JSON_BAD;
	int r = skip_string(j);
	if (r != JSON_OK)
		return r;
	if (!token(j))
		return json_cut(j);
	return *j->p++ == ':' ? JSON_OK : JSON_BAD;
}

static int skip_scalar(struct json_parse *j)
{
	struct json_digits d;
	if (*j->p == '"')
		return skip_string(j);
	if (*j->p == '-' || (*j->p >= '0' && *j->p <= '9'))
		return json_number_end(j, &d);
	return json_literal_end(j);
}

/* Enters the container at j->p. *@empty: it was closed at once. */
static int skip_open(struct json_parse *j, struct skip *s, bool *empty)
{
	bool map = *j->p++ == '{';
	if (!enter(s, map))
		return JSON_BAD;
	if (!token(j))
		return json_cut(j);
	*empty = *j->p == (map ? '}' : ']');
	if (*empty)
		return JSON_OK;
	return map ? skip_key(j) : JSON_OK;
}

/* Behind a value: closes what closes here. *@done: the outermost one. Else the next value is due.
 */
static int skip_after(struct json_parse *j, struct skip *s, bool *done)
{
	while (s->depth) {
		if (!token(j))
			return json_cut(j);
		uint8_t c = *j->p;
		if (c == ',') {
			j->p++;
			return in_map(s) ? skip_key(j) : JSON_OK;
		}
		if (c != (in_map(s) ? '}' : ']'))
			return JSON_BAD;
		j->p++;
		s->depth--;
	}
	*done = true;
	return JSON_OK;
}

int json_skip(struct json_parse *j)
{
	struct skip s;
	bool done = false;
	s.depth = 0;
	while (!done) {
		int r;
		bool empty = true;
		if (!token(j))
			return json_cut(j);
		if (*j->p == '{' || *j->p == '[')
			r = skip_open(j, &s, &empty);
		else
			r = skip_scalar(j);
		if (r != JSON_OK)
			return r;
		if (empty) {
			r = skip_after(j, &s, &done);
			if (r != JSON_OK)
				return r;
		}
	}
	return JSON_OK;
}
