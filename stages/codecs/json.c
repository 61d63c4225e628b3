/*
 * The JSON codec: values one behind the other, separated by blanks or by nothing, each over as many
 * lines as it likes.
 *
 * The hard idea is where to go on after bad input, so that one bad value costs as few good ones as
 * can be:
 *  - a value that is JSON but no record (a list, a key twice, too large) is skipped as a whole;
 *  - after text that is not JSON the next line is read on. When it was the first word of a line
 *    that could not be right, that line itself is read again as a beginning: most likely the value
 *    before it was cut off.
 *
 * Invariants
 *  - what is rejected is a value or whole rest of a line, never a piece of good input behind it;
 *  - the cuts of a stream into windows make no difference, as long as a window may grow to
 *    TEXT_FACTOR times the largest record. Text that goes on longer without becoming a value is
 *    rejected in pieces.
 *
 * Limits: the byte order mark is skipped at the start only; UTF-16 and UTF-32 are refused like any
 * other text that is not JSON.
 */
#include <stdio.h>

#include "stages/codec.h"
#include "stages/codecs/json.h"

enum {
	TEXT_FACTOR = 8,   /* text of a value: at most this many times the largest record, */
	TEXT_LEAST = 4096, /* and this */
};

struct json_state {
	struct keys keys;
	struct buf text;
	bool started;  /* the place where a byte order mark may be has been passed */
	bool dropping; /* up to the next newline: the rest of a line that was rejected */
	uint8_t head_hint[MP_DEPTH_MAX];
	char why[96];
};

static int json_open(struct codec *c)
{
	struct json_state *s = c->state;
	memset(s->head_hint, 1, sizeof(s->head_hint));
	return keys_init(&s->keys);
}

static void json_close(struct codec *c)
{
	struct json_state *s = c->state;
	keys_deinit(&s->keys);
	buf_deinit(&s->text);
}

static void json_reset(struct codec *c)
{
	struct json_state *s = c->state;
	s->started = false;
	s->dropping = false;
}

static const uint8_t *line_end(const uint8_t *p, const uint8_t *end)
{
	return p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
}

/* Moves w->p to the first byte of a value. False: there is none, *@answer says END or MORE. */
static bool find_start(struct json_state *s, struct codec_window *w, int *answer)
{
	static const uint8_t bom[3] = {0xef, 0xbb, 0xbf};
	if (s->dropping) {
		const uint8_t *nl = line_end(w->p, w->end);
		w->p = nl ? nl + 1 : w->end;
		s->dropping = !nl;
	}
	size_t left = (size_t)(w->end - w->p);
	if (!s->started && left) {
		size_t n = left < 3 ? left : 3;
		bool like = memcmp(w->p, bom, n) == 0;
		*answer = CODEC_E_MORE;
		if (like && n < 3 && !w->last)
			return false;
		s->started = true;
		w->p += like && n == 3 ? 3 : 0;
	}
	while (w->p < w->end && json_is_blank(*w->p))
		w->p++;
	*answer = CODEC_E_END;
	return w->p < w->end;
}

static size_t text_max(const struct codec *c)
{
	return c->max_record > SIZE_MAX / 16 ? SIZE_MAX : c->max_record * TEXT_FACTOR + TEXT_LEAST;
}

/* Rejects [w->p, to) and goes on at @on. */
static int reject(struct codec_window *w, const uint8_t *to, const uint8_t *on, const char *why)
{
	w->bad = w->p;
	w->bad_len = (size_t)(to - w->p);
	w->why = why;
	w->p = on;
	return CODEC_E_REJECT;
}

/* The window ends before the value does: more is needed, unless there was too much already. */
static int more(struct codec *c, struct codec_window *w, const char *why)
{
	struct json_state *s = c->state;
	if (!w->last && (size_t)(w->end - w->p) < text_max(c))
		return CODEC_E_MORE;
	s->dropping = !w->last;
	if (!w->last) {
		snprintf(s->why, sizeof(s->why), "too large: no end after %zu bytes", text_max(c));
		why = s->why;
	}
	return reject(w, w->end, w->end, why);
}

/* The start of the line of @at, when only blanks stand before it there and it is behind @start. */
static const uint8_t *first_on_line(const uint8_t *start, const uint8_t *at)
{
	const uint8_t *p = at;
	while (p > start && p[-1] != '\n') {
		p--;
		if (!json_is_blank(*p))
			return NULL;
	}
	return p > start ? p : NULL;
}

/* Text that is no JSON, seen at @at. */
static int reject_line(struct codec *c, struct codec_window *w, const uint8_t *at, const char *why)
{
	const uint8_t *on = at < w->end ? first_on_line(w->p, at) : NULL;
	if (on)
		return reject(w, on - 1, on, why);
	const uint8_t *nl = line_end(at, w->end);
	if (!nl)
		return more(c, w, why);
	return reject(w, nl, nl + 1, why);
}

/* JSON, but no record: the whole value goes; if it does not end well, the line where @at is. */
static int reject_value(struct codec *c, struct codec_window *w, const uint8_t *at, const char *why)
{
	struct json_parse j = {.p = w->p, .end = w->end, .last = w->last};
	switch (json_skip(&j)) {
	case JSON_OK:
		return reject(w, j.p, j.p, why);
	case JSON_MORE:
		return more(c, w, why);
	default:
		return reject_line(c, w, at > j.p ? at : j.p, why);
	}
}

static int too_large(struct codec *c, struct codec_window *w, const uint8_t *at)
{
	struct json_state *s = c->state;
	if (*w->p == '[')
		return reject_value(c, w, at, "not a record: an array");
	snprintf(s->why, sizeof(s->why), "larger than a buffer (%zu bytes)", c->max_record);
	return reject_value(c, w, at, s->why);
}

static const char *no_record(uint8_t first)
{
	switch (first) {
	case '[':
		return "not a record: an array";
	case '"':
		return "not a record: a string";
	case 't':
	case 'f':
		return "not a record: a boolean";
	case 'n':
		return "not a record: null";
	default:
		return "not a record: a number";
	}
}

/* A whole value that is no object. A word that goes on behind it was none: 2024-01-31, nullable. */
static int reject_other(struct codec *c, struct codec_window *w, const uint8_t *behind)
{
	uint8_t first = *w->p;
	bool word = first != '[' && first != '"';
	if (word && behind == w->end && !w->last)
		return more(c, w, "this is not JSON");
	if (word && behind < w->end && !json_is_blank(*behind) && !memchr("{}[]\",:", *behind, 7))
		return reject_line(c, w, behind, "this is not JSON");
	return reject(w, behind, behind, no_record(first));
}

static int json_decode(struct codec *c, struct codec_window *w, uint8_t *out, size_t room,
                       size_t *len)
{
	struct json_state *s = c->state;
	int answer;
	if (!find_start(s, w, &answer))
		return answer;
	size_t most = c->max_record < UINT32_MAX ? c->max_record : UINT32_MAX;
	bool whole = room >= most;
	struct json_parse j = {.p = w->p,
	                       .end = w->end,
	                       .last = w->last,
	                       .out = out,
	                       .o = out,
	                       .room = out + (whole ? most : room),
	                       .keys = &s->keys,
	                       .text = &s->text,
	                       .head_hint = s->head_hint};
	keys_begin(&s->keys);
	answer = json_value(&j);
	switch (answer) {
	case JSON_OK:
		if (*w->p != '{')
			return reject_other(c, w, j.p);
		*len = (size_t)(j.o - out);
		w->p = j.p;
		return CODEC_E_OK;
	case JSON_MORE:
		return more(c, w, "ends in the middle of a value");
	case JSON_ROOM:
		return whole ? too_large(c, w, j.p) : CODEC_E_ROOM;
	case JSON_UNFIT:
		return reject_value(c, w, j.p, j.why);
	case JSON_BAD:
		return reject_line(c, w, j.p, j.why);
	default:
		return answer;
	}
}

static const uint8_t *json_behind(struct codec *c, const struct codec_window *w)
{
	struct json_state s = *(const struct json_state *)c->state; /* a look changes nothing */
	struct codec_window at = *w;
	int answer;
	if (!find_start(&s, &at, &answer))
		return NULL;
	struct json_parse j = {.p = at.p, .end = at.end, .last = at.last};
	bool whole = *at.p == '{' || *at.p == '[';
	answer = whole ? json_skip(&j) : JSON_BAD;
	if (answer == JSON_OK)
		return j.p;
	const uint8_t *nl = answer == JSON_MORE ? NULL : line_end(j.p, at.end);
	return nl ? nl + 1 : NULL;
}

static int json_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out)
{
	return json_write(out, rec, len, &c->why);
}

const struct codec_ops codec_json = {
        .name = "json",
        .help = "JSON objects, one behind the other (NDJSON too)",
        .state_size = sizeof(struct json_state),
        .open = json_open,
        .close = json_close,
        .reset = json_reset,
        .behind = json_behind,
        .decode = json_decode,
        .encode = json_encode,
        .text = true,
};
