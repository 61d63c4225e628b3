/*
 * Codec `lines`: each line of text is a record with one field, {line: "..."}.
 *
 * The end of a line is LF; a CR right before it belongs to the line end. A last line without LF is
 * taken. An empty line is a record with an empty string, so that counts agree with `wc -l`.
 *
 * The one hard idea: a line too long for any record must neither fill the memory nor hide what
 * follows. As soon as more than max_record bytes of it are in the window its beginning is rejected,
 * and the rest is skipped over as many windows as it takes. What is rejected does not depend on
 * where windows end.
 *
 * Invariant: bytes in front of window->p were given out as a record, named in a reject, or are the
 * rest of a line whose beginning was.
 *
 * Limits: a process that dies inside such a rest and resumes in the middle of it takes what is left
 * of the line for a line. Encoding writes the field as it is: a line feed inside it makes two
 * lines.
 */
#include "stages/codecs/window.h"

enum lines_encoding {
	LINES_UTF8,
	LINES_LATIN1,
	LINES_BYTES,
};

static const char *const lines_encodings[] = {"utf8", "latin1", "bytes", NULL};

struct lines_config {
	const char *key;
	int encoding;
};

static const struct option lines_options[] = {
        {.name = "key",
         .type = OPTION_STRING,
         .offset = offsetof(struct lines_config, key),
         .def = "line",
         .help = "the field that holds the line"},
        {.name = "encoding",
         .type = OPTION_ENUM,
         .offset = offsetof(struct lines_config, encoding),
         .def = "utf8",
         .choices = lines_encodings,
         .help = "utf8: other bytes are rejected; latin1: converted; bytes: kept as binary"},
        OPTION_END,
};

static const struct lines_config lines_default = {.key = "line", .encoding = LINES_UTF8};

struct lines {
	struct buf prefix; /* map head and key, as every record begins */
	bool skip;         /* inside the rest of a line that was rejected */
};

static const struct lines_config *lines_config(const struct codec *c)
{
	return c->config ? c->config : &lines_default;
}

static int lines_open(struct codec *c)
{
	struct lines *st = c->state;
	const char *key = lines_config(c)->key;
	size_t len = strlen(key);
	int r = buf_room(&st->prefix, 2 * MP_HEAD_MAX + len);
	if (r < 0)
		return r;
	uint8_t *p = mp_write_map_head(st->prefix.p, 1);
	p = mp_write_str(p, key, (uint32_t)len);
	st->prefix.len = (size_t)(p - st->prefix.p);
	return 0;
}

static void lines_close(struct codec *c)
{
	struct lines *st = c->state;
	buf_deinit(&st->prefix);
}

static void lines_reset(struct codec *c)
{
	struct lines *st = c->state;
	st->skip = false;
}

/* Goes behind the line that is being skipped. False when it goes on behind the window. */
static bool lines_skip(struct lines *st, struct codec_window *w)
{
	size_t len = (size_t)(w->end - w->p);
	const uint8_t *nl = len ? memchr(w->p, '\n', len) : NULL;
	w->p = nl ? nl + 1 : w->end;
	st->skip = !nl && !w->last;
	return nl != NULL;
}

static size_t lines_high(const uint8_t *p, size_t n)
{
	size_t high = 0;
	for (size_t i = 0; i < n; i++)
		high += p[i] >> 7;
	return high;
}

static uint8_t *lines_write_latin1(uint8_t *o, const uint8_t *p, size_t n, size_t size)
{
	o = mp_write_str_head(o, (uint32_t)size);
	for (size_t i = 0; i < n; i++) {
		if (p[i] < 0x80) {
			*o++ = p[i];
		} else {
			*o++ = (uint8_t)(0xc0 | p[i] >> 6);
			*o++ = (uint8_t)(0x80 | (p[i] & 0x3f));
		}
	}
	return o;
}

static uint8_t *lines_write(int encoding, uint8_t *o, const uint8_t *p, size_t n, size_t size)
{
	switch (encoding) {
	case LINES_LATIN1:
		return lines_write_latin1(o, p, n, size);
	case LINES_BYTES:
		return mp_write_bin(o, p, (uint32_t)n);
	default:
		return mp_write_str(o, p, (uint32_t)n);
	}
}

/* The line [p, p+n) as a record; @next is behind its end. */
static int lines_record(struct codec *c, struct codec_window *w, size_t n, const uint8_t *next,
                        uint8_t *out, size_t room, size_t *len)
{
	const struct lines *st = c->state;
	const uint8_t *p = w->p;
	int encoding = lines_config(c)->encoding;
	size_t size = n, need = SIZE_MAX;

	if (n <= c->max_record) {
		if (encoding == LINES_LATIN1)
			size += lines_high(p, n);
		/* a binary's head is never more than one byte longer than a string's */
		need = st->prefix.len + window_str_size(size) + (encoding == LINES_BYTES);
	}
	if (need > c->max_record)
		return window_reject(w, p, n < c->max_record ? n : c->max_record, next,
		                     "line longer than a record may be");
	if (need > room)
		return CODEC_E_ROOM;
	if (encoding == LINES_UTF8 && !mp_utf8_valid(p, n))
		return window_reject(w, p, n, next, "line is not UTF-8");
	memcpy(out, st->prefix.p, st->prefix.len);
	*len = (size_t)(lines_write(encoding, out + st->prefix.len, p, n, size) - out);
	w->p = next;
	return CODEC_E_OK;
}

static int lines_decode(struct codec *c, struct codec_window *w, uint8_t *out, size_t room,
                        size_t *len)
{
	struct lines *st = c->state;
	if ((st->skip && !lines_skip(st, w)) || w->p == w->end)
		return CODEC_E_END;

	size_t n = (size_t)(w->end - w->p);
	const uint8_t *nl = memchr(w->p, '\n', n);
	if (nl) {
		n = (size_t)(nl - w->p);
		if (n && nl[-1] == '\r')
			n--;
		return lines_record(c, w, n, nl + 1, out, room, len);
	}
	if (w->last)
		return lines_record(c, w, n, w->end, out, room, len);
	if (n <= c->max_record)
		return CODEC_E_MORE;
	st->skip = true;
	return window_reject(w, w->p, c->max_record, w->end, "line longer than a record may be");
}

/* Finds the field @key of the map at [p, p+len). False when it has none. */
static bool lines_find(const uint8_t *p, size_t len, const char *key, struct mp *v)
{
	const uint8_t *end = p + len;
	size_t key_len = strlen(key);
	struct mp map, k;
	p = mp_read(p, end, &map);
	if (!p || map.type != MP_MAP)
		return false;
	for (uint32_t i = 0; i < map.n; i++) {
		p = mp_read(p, end, &k);
		if (!p || k.type != MP_STR)
			return false;
		if (k.len == key_len && memcmp(k.p, key, key_len) == 0)
			return mp_read(p, end, v) != NULL;
		p = mp_skip(p, end);
	}
	return false;
}

/* Appends UTF-8 text as Latin-1. False when a character has no place there. */
static bool lines_add_latin1(struct buf *out, const struct mp *v)
{
	for (uint32_t i = 0; i < v->len; i++) {
		uint8_t ch = v->p[i];
		if (ch >= 0x80) {
			if (ch > 0xc3 || ++i == v->len)
				return false;
			ch = (uint8_t)(ch << 6 | (v->p[i] & 0x3f));
		}
		out->p[out->len++] = ch;
	}
	return true;
}

static int lines_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out)
{
	const struct lines_config *cf = lines_config(c);
	struct mp v;
	if (!lines_find(rec, len, cf->key, &v)) {
		c->why = "the record has no such field as the line's";
		return CODEC_E_REJECT;
	}
	if (v.type != MP_STR && v.type != MP_BIN) {
		c->why = "the field that should be the line is no text";
		return CODEC_E_REJECT;
	}
	size_t before = out->len;
	int r = buf_room(out, (size_t)v.len + 1);
	if (r < 0)
		return r;
	if (cf->encoding != LINES_LATIN1 || v.type == MP_BIN) {
		buf_add(out, v.p, v.len);
	} else if (!lines_add_latin1(out, &v)) {
		out->len = before;
		c->why = "the line has a character that Latin-1 does not have";
		return CODEC_E_REJECT;
	}
	return buf_add_byte(out, '\n');
}

const struct codec_ops codec_lines = {
        .name = "lines",
        .help = "each line of text is a record with one field",
        .options = lines_options,
        .config_size = sizeof(struct lines_config),
        .state_size = sizeof(struct lines),
        .open = lines_open,
        .close = lines_close,
        .reset = lines_reset,
        .decode = lines_decode,
        .encode = lines_encode,
        .text = true,
};
