/*
 * Codec `deb822`: paragraphs of "Key: value" lines, as in Debian's package indexes and control
 * files (Debian Policy, chapter 5; deb822(5)). A paragraph is a record, its values are strings.
 *
 *  - A value is what stands behind the colon, without the blanks around it. A line that begins with
 * a blank continues it: a line feed and the line without its first character are added.
 *  - Lines that are empty or hold only blanks end a paragraph. CRLF counts as LF.
 *  - Lines that begin with # are comments and are skipped (`comments: false`: an error).
 *  - A continuation of a single "." stays what it is, for that it stands for an empty line is a
 * rule of some fields, not of the format. `dots: true` makes it one.
 *  - Field names are the same whatever their case: a second one makes the paragraph bad. Names keep
 * the case they were written in.
 *
 * The one hard idea: lines are walked once, and what is found is a table of pieces that lie in the
 * window; sizes are known before the first byte is written, so nothing is moved or copied twice.
 * Only the few values with continuations are walked again.
 *
 * Invariant: an error never stops the walk; the whole bad paragraph is what is rejected.
 *
 * Limits: at most DEB822_FIELDS_MAX fields; a paragraph longer than four times the largest record
 * is rejected by its beginning and skipped. A process that dies within such a rest and resumes
 * there takes what is left of the paragraph for one.
 */
#include "stages/codecs/deb822.h"

#include <stdio.h>

static const struct option deb822_options[] = {
        {.name = "comments",
         .type = OPTION_BOOL,
         .offset = offsetof(struct deb822_config, comments),
         .def = "true",
         .help = "skip lines that begin with #"},
        {.name = "dots",
         .type = OPTION_BOOL,
         .offset = offsetof(struct deb822_config, dots),
         .def = "false",
         .help = "a continuation line of one dot stands for an empty line"},
        OPTION_END,
};

const struct deb822_config *deb822_config(const struct codec *c)
{
	static const struct deb822_config def = {.comments = true};
	return c->config ? c->config : &def;
}

/* Bytes of input that a paragraph, and any line between two, may have. */
static size_t deb822_limit(const struct codec *c)
{
	return 4 * c->max_record;
}

static int deb822_open(struct codec *c)
{
	struct deb822 *st = c->state;
	int r = buf_room(&st->value, 1);
	return r < 0 ? r : text_open(&st->text, c->max_record);
}

static void deb822_close(struct codec *c)
{
	struct deb822 *st = c->state;
	text_close(&st->text);
	buf_deinit(&st->value);
}

static void deb822_reset(struct codec *c)
{
	struct deb822 *st = c->state;
	st->skip = false;
}

/* A line: [p, end) without its line end; `next` is behind it. False: it goes on behind the window.
 */
struct deb822_line {
	const uint8_t *p;
	const uint8_t *end;
	const uint8_t *next;
	bool blank;
};

static bool deb822_read_line(const uint8_t *p, const uint8_t *end, bool last, struct deb822_line *l)
{
	const uint8_t *nl = memchr(p, '\n', (size_t)(end - p));
	if (!nl && !last)
		return false;
	l->p = p;
	l->end = nl ? nl : end;
	l->next = nl ? nl + 1 : end;
	if (nl && nl > p && nl[-1] == '\r')
		l->end--;
	while (p < l->end && deb822_blank(*p))
		p++;
	l->blank = p == l->end;
	return true;
}

/* Goes behind the blank line that ends the paragraph being skipped; as far as the window reaches.
 */
static bool deb822_skip(struct deb822 *st, struct codec_window *w)
{
	for (; w->p < w->end; w->p++) {
		uint8_t ch = *w->p;
		if (ch == '\n') {
			if (st->skip_blank) {
				w->p++;
				st->skip = false;
				return true;
			}
			st->skip_blank = true;
		} else if (!deb822_blank(ch) && ch != '\r') {
			st->skip_blank = false;
		}
	}
	st->skip = !w->last;
	return false;
}

static int deb822_too_long(struct codec *c, struct codec_window *w, const uint8_t *start,
                           const uint8_t *line)
{
	struct deb822 *st = c->state;
	st->skip = true;
	st->skip_blank = true;
	w->p = line;
	deb822_skip(st, w);
	return window_reject(w, start, c->max_record, w->p,
	                     "paragraph longer than a record may be");
}

static void deb822_bad(struct deb822 *st, const char *what, const struct deb822_line *l)
{
	if (st->bad)
		return;
	int n = (int)(l->end - l->p);
	if (n > 40)
		n = 40;
	while (n > 0 && (l->p[n - 1] & 0x80)) /* no half characters in a reason */
		n--;
	snprintf(st->why, sizeof(st->why), "%s: %.*s", what, n, (const char *)l->p);
	st->bad = st->why;
}

static inline uint8_t deb822_lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

static bool deb822_same_key(const struct deb822_field *a, const struct deb822_field *b)
{
	if (a->key_len != b->key_len)
		return false;
	for (uint32_t i = 0; i < a->key_len; i++)
		if (deb822_lower(a->key[i]) != deb822_lower(b->key[i]))
			return false;
	return true;
}

bool deb822_repeated(struct deb822 *st, const struct deb822_field *f)
{
	unsigned h = f->key_len * 7 + deb822_lower(f->key[0]) * 3 +
	             deb822_lower(f->key[f->key_len - 1]) * 5 +
	             deb822_lower(f->key[f->key_len / 2]);
	uint64_t bit = UINT64_C(1) << (h & 63);
	bool maybe = st->seen & bit;
	st->seen |= bit;
	for (unsigned i = 0; maybe && i < st->n; i++)
		if (deb822_same_key(&st->fields[i], f))
			return true;
	return false;
}

static void deb822_new_field(struct deb822 *st, const struct deb822_line *l)
{
	const uint8_t *p = l->p;
	while (p < l->end && deb822_key_char(*p))
		p++;
	if (p == l->end || *p != ':' || p == l->p || *l->p == '#' || *l->p == '-') {
		deb822_bad(st, "not a line of the form Key: value", l);
		return;
	}
	if (st->n == DEB822_FIELDS_MAX) {
		deb822_bad(st, "too many fields in one paragraph, at", l);
		return;
	}
	struct deb822_field *f = &st->fields[st->n];
	const uint8_t *end = l->end;
	*f = (struct deb822_field){.key = l->p, .key_len = (uint32_t)(p - l->p), .end = l->next};
	for (p++; p < end && deb822_blank(*p);)
		p++;
	while (end > p && deb822_blank(end[-1]))
		end--;
	f->first = p;
	f->first_len = f->val_len = (uint32_t)(end - p);
	if (deb822_repeated(st, f))
		deb822_bad(st, "field stands twice in one paragraph", l);
	else
		st->n++;
}

/* What a continuation line adds behind the line feed. */
static inline size_t deb822_continued(const struct deb822_line *l, bool dots)
{
	size_t n = (size_t)(l->end - l->p) - 1;
	return dots && n == 1 && l->p[1] == '.' ? 0 : n;
}

static void deb822_continue(struct deb822 *st, const struct deb822_line *l, bool dots)
{
	if (!st->n) {
		deb822_bad(st, "continuation line without a field", l);
		return;
	}
	struct deb822_field *f = &st->fields[st->n - 1];
	if (!f->more)
		f->more = l->p;
	f->end = l->next;
	f->val_len += 1 + (uint32_t)deb822_continued(l, dots);
}

static uint8_t *deb822_write_more(uint8_t *o, const struct deb822_field *f,
                                  const struct deb822_config *cf)
{
	struct deb822_line l;
	for (const uint8_t *p = f->more; p < f->end; p = l.next) {
		deb822_read_line(p, f->end, true, &l);
		if (!deb822_blank(*p)) /* a comment between */
			continue;
		size_t n = deb822_continued(&l, cf->dots);
		*o++ = '\n';
		memcpy(o, p + 1, n);
		o += n;
	}
	return o;
}

static size_t deb822_write(const struct deb822 *st, uint8_t *out, const struct deb822_config *cf)
{
	uint8_t *o = mp_write_map_head(out, st->n);
	for (unsigned i = 0; i < st->n; i++) {
		const struct deb822_field *f = &st->fields[i];
		o = mp_write_str(o, f->key, f->key_len);
		o = mp_write_str_head(o, f->val_len);
		memcpy(o, f->first, f->first_len);
		o += f->first_len;
		if (f->more)
			o = deb822_write_more(o, f, cf);
	}
	return (size_t)(o - out);
}

/* The paragraph [start, next) has been walked; it becomes a record, or is rejected. */
static int deb822_paragraph(struct codec *c, struct codec_window *w, const uint8_t *start,
                            const uint8_t *next, uint8_t *out, size_t room, size_t *len)
{
	struct deb822 *st = c->state;
	size_t size = st->n < 16 ? 1 : 3, in = (size_t)(next - start);
	for (unsigned i = 0; i < st->n; i++)
		size += window_str_size(st->fields[i].key_len) +
		        window_str_size(st->fields[i].val_len);
	if (!st->bad && size > c->max_record)
		st->bad = "paragraph longer than a record may be";
	if (!st->bad && size > room)
		return CODEC_E_ROOM;
	if (!st->bad && !mp_utf8_valid(start, in))
		st->bad = "paragraph is not UTF-8";
	if (st->bad)
		return window_reject(w, start, in, next, st->bad);
	*len = deb822_write(st, out, deb822_config(c));
	w->p = next;
	return CODEC_E_OK;
}

static bool deb822_comment(const struct deb822_config *cf, const struct deb822_line *l)
{
	return cf->comments && l->p < l->end && *l->p == '#';
}

/* Moves window->p to the first line of a paragraph. False: none in the window (yet), or a line
 * longer than any paragraph may be. */
static bool deb822_seek(struct codec *c, struct codec_window *w)
{
	struct deb822 *st = c->state;
	struct deb822_line l;
	if (st->skip && !deb822_skip(st, w))
		return false;
	while (w->p < w->end && deb822_read_line(w->p, w->end, w->last, &l)) {
		if ((size_t)(l.next - w->p) > deb822_limit(c))
			return false;
		if (!l.blank && !deb822_comment(deb822_config(c), &l))
			return true;
		w->p = l.next;
	}
	return false;
}

static int deb822_decode(struct codec *c, struct codec_window *w, uint8_t *out, size_t room,
                         size_t *len)
{
	struct deb822 *st = c->state;
	const struct deb822_config *cf = deb822_config(c);
	size_t limit = deb822_limit(c);
	if (!deb822_seek(c, w)) {
		if ((size_t)(w->end - w->p) > limit)
			return deb822_too_long(c, w, w->p, w->p);
		return w->p == w->end ? CODEC_E_END : CODEC_E_MORE;
	}
	const uint8_t *start = w->p;
	struct deb822_line l = {.next = start};
	st->n = 0;
	st->seen = 0;
	st->bad = NULL;
	for (;;) {
		const uint8_t *p = l.next;
		bool whole = p < w->end && deb822_read_line(p, w->end, w->last, &l);
		const uint8_t *to = whole ? l.next : w->end;
		if ((size_t)(to - start) > limit)
			return deb822_too_long(c, w, start, p);
		if (!whole && !w->last)
			return CODEC_E_MORE;
		if (!whole || l.blank)
			return deb822_paragraph(c, w, start, to, out, room, len);
		if (deb822_comment(cf, &l))
			continue;
		if (deb822_blank(*l.p))
			deb822_continue(st, &l, cf->dots);
		else
			deb822_new_field(st, &l);
	}
}

static const uint8_t *deb822_behind(struct codec *c, const struct codec_window *w)
{
	const struct deb822 *st = c->state;
	struct codec_window at = *w;
	struct deb822_line l = {.next = NULL};
	if (st->skip || !deb822_seek(c, &at))
		return NULL;
	while (at.p < at.end && deb822_read_line(at.p, at.end, at.last, &l)) {
		at.p = l.next;
		if (l.blank)
			return at.p;
	}
	return NULL;
}

const struct codec_ops codec_deb822 = {
        .name = "deb822",
        .help = "paragraphs of Key: value lines, as in Debian's package indexes",
        .options = deb822_options,
        .config_size = sizeof(struct deb822_config),
        .state_size = sizeof(struct deb822),
        .open = deb822_open,
        .close = deb822_close,
        .reset = deb822_reset,
        .behind = deb822_behind,
        .decode = deb822_decode,
        .encode = deb822_encode,
        .text = true,
};
