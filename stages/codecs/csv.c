/*
 * Codec `csv`: rows of fields (RFC 4180), each a record of strings named by the columns.
 *
 *  - Names come from the header line, or from `columns`. With both, the header has to say the same
 * names. With neither (`header: false`) the fields are named "1", "2", ... as many as the first row
 * has.
 *  - Rows end with LF or CRLF, the last one also with the input. A byte order mark in front is
 * dropped, empty lines are skipped. Blanks belong to the fields.
 *  - A field that begins with a quote ends at the quote that is not doubled; behind it only a
 * delimiter or a row's end may stand. A quote elsewhere is a character like others.
 *  - A row with too many or too few fields, or not in UTF-8, is rejected with its line.
 *  - A header that is bad, or was passed over because it kills, is rejected, and with it all rows
 * of that input unless `columns` names them: the row behind it is never taken for a header.
 *
 * The one hard idea: a row is first found (spans of the window, nothing written), then judged, then
 * written. So "goes on behind the window", "too long", "bad" and "does not fit" never mix, and the
 * same input gives the same records wherever windows end.
 *
 * Where a bad row ends: text behind a closing quote rejects everything up to the end of that line.
 * A quote that is never closed, or not within four times the largest record, is taken for a stray
 * one: only its line is rejected, and reading goes on with the next.
 *
 * Limits: one-byte delimiter and quote; CSV_COLUMNS_MAX columns. Lines are not counted after a
 * resume.
 */
#include "stages/codecs/csv.h"

#include <inttypes.h>
#include <stdio.h>

static const char csv_mark[] = "\xef\xbb\xbf"; /* byte order mark */

int csv_add_name(struct csv *st, const uint8_t *name, size_t len)
{
	if (st->n_names == CSV_COLUMNS_MAX) {
		snprintf(st->why, sizeof(st->why), "more than %d columns", CSV_COLUMNS_MAX);
		return CODEC_E_REJECT;
	}
	for (uint32_t i = 0; i < st->n_names; i++)
		if (csv_name_is(st, i, name, len)) {
			snprintf(st->why, sizeof(st->why), "two columns of the same name: \"%.*s\"",
			         len < 80 ? (int)len : 0, (const char *)name);
			return CODEC_E_REJECT;
		}
	int r = buf_room(&st->keys, MP_HEAD_MAX + len);
	if (r < 0)
		return r;
	uint8_t *at = st->keys.p + st->keys.len;
	uint8_t *end = mp_write_str(at, name, (uint32_t)len);
	st->names[st->n_names++] = (struct csv_name){
	        .off = (uint32_t)st->keys.len, .len = (uint32_t)(end - at), .chars = (uint32_t)len};
	st->keys.len += (size_t)(end - at);
	return 0;
}

static void csv_reset(struct codec *c)
{
	struct csv *st = c->state;
	c->headless = false;
	st->phase = CSV_START;
	st->skip = false;
	st->broken = NULL;
	st->line = 1;
	if (!st->fixed) {
		st->named = false;
		st->n_names = 0;
		st->keys.len = 0;
	}
}

static int csv_open(struct codec *c)
{
	struct csv *st = c->state;
	const struct csv_config *cf = csv_config(c);
	st->delimiter = csv_char(cf->delimiter);
	st->quote = csv_char(cf->quote);
	if (!st->delimiter || !st->quote || st->delimiter == st->quote)
		return -EINVAL;
	st->spans = calloc(CSV_COLUMNS_MAX, sizeof(*st->spans));
	st->names = calloc(CSV_COLUMNS_MAX, sizeof(*st->names));
	if (!st->spans || !st->names)
		return -ENOMEM;
	for (size_t i = 0; i < cf->columns.n; i++) {
		const char *s = cf->columns.v[i];
		int r = csv_add_name(st, (const uint8_t *)s, strlen(s));
		if (r)
			return r < 0 ? r : -EINVAL;
	}
	st->named = st->fixed = cf->columns.n > 0;
	csv_reset(c);
	return text_open(&st->text, c->max_record);
}

static void csv_close(struct codec *c)
{
	struct csv *st = c->state;
	free(st->spans);
	free(st->names);
	buf_deinit(&st->keys);
	buf_deinit(&st->value);
	text_close(&st->text);
}

enum csv_found {
	CSV_ROW,
	CSV_BLANK, /* an empty line */
	CSV_MORE,  /* goes on behind the window */
	CSV_LONG,  /* longer than any row may be */
	CSV_OPEN,  /* a quote is not closed when the input ends */
	CSV_TEXT,  /* text behind a closing quote, at `next` */
};

struct csv_row {
	const uint8_t *start;
	const uint8_t *end;  /* of what may be looked at */
	const uint8_t *next; /* behind the row */
	uint32_t n;          /* fields, also those behind CSV_COLUMNS_MAX */
	uint32_t lines;
	bool last; /* nothing follows `end` */
};

/* A quoted field, @p behind its opening quote. *@next: behind the closing one. */
static enum csv_found csv_quoted(const struct csv *st, struct csv_row *row, const uint8_t *p,
                                 struct csv_span *s)
{
	*s = (struct csv_span){.p = p};
	for (const uint8_t *q = p;;) {
		q = q < row->end ? memchr(q, st->quote, (size_t)(row->end - q)) : NULL;
		if (!q)
			return row->last ? CSV_OPEN : CSV_MORE;
		if (q + 1 < row->end && q[1] == st->quote) {
			s->escapes++;
			q += 2;
			continue;
		}
		s->len = (uint32_t)(q - p);
		for (const uint8_t *nl = p; (nl = memchr(nl, '\n', (size_t)(q - nl))); nl++)
			row->lines++;
		row->next = q + 1;
		return CSV_ROW;
	}
}

static enum csv_found csv_plain(const struct csv *st, struct csv_row *row, const uint8_t *p,
                                struct csv_span *s)
{
	const uint8_t *q = p;
	while (q < row->end && *q != st->delimiter && *q != '\n')
		q++;
	if (q == row->end && !row->last)
		return CSV_MORE;
	*s = (struct csv_span){.p = p, .len = (uint32_t)(q - p)};
	if (q < row->end && *q == '\n' && s->len && q[-1] == '\r')
		s->len--;
	row->next = q;
	return CSV_ROW;
}

/* What stands behind a field: CSV_ROW with *@more (a delimiter) or without (the row's end). */
static enum csv_found csv_behind(const struct csv *st, struct csv_row *row, bool *more)
{
	const uint8_t *p = row->next;
	*more = false;
	if (p < row->end && *p == '\r') {
		if (p + 1 == row->end && !row->last)
			return CSV_MORE;
		p += p + 1 < row->end && p[1] == '\n';
	}
	if (p == row->end)
		return row->last ? CSV_ROW : CSV_MORE;
	if (*p != st->delimiter && *p != '\n')
		return CSV_TEXT;
	*more = *p == st->delimiter;
	row->next = p + 1;
	return CSV_ROW;
}

/* Finds the row at row->start. */
static enum csv_found csv_find(struct csv *st, struct csv_row *row)
{
	const uint8_t *p = row->start;
	struct csv_span spare;
	bool more = true, quoted = false;
	row->n = 0;
	row->lines = 1;
	while (more) {
		struct csv_span *s = row->n < CSV_COLUMNS_MAX ? &st->spans[row->n] : &spare;
		quoted = p < row->end && *p == st->quote;
		if (p == row->end && !row->last)
			return CSV_MORE;
		enum csv_found f =
		        quoted ? csv_quoted(st, row, p + 1, s) : csv_plain(st, row, p, s);
		if (f == CSV_ROW)
			f = csv_behind(st, row, &more);
		if (f != CSV_ROW)
			return f;
		p = row->next;
		row->n++;
	}
	return row->n == 1 && !quoted && !st->spans[0].len ? CSV_BLANK : CSV_ROW;
}

static size_t csv_cap(const struct codec *c, size_t len)
{
	return len < c->max_record ? len : c->max_record;
}

static void csv_count_lines(struct csv *st, const uint8_t *p, const uint8_t *end)
{
	for (; st->line && p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++)
		st->line++;
}

/* Makes @why the reason, with the line when it is known. */
static void csv_say(struct csv *st, const char *why)
{
	char text[sizeof(st->why)];
	snprintf(text, sizeof(text), "%s", why);
	if (st->line)
		snprintf(st->why, sizeof(st->why), "line %" PRIu64 ": %.120s", st->line, text);
	else
		snprintf(st->why, sizeof(st->why), "%s", text);
}

/* Rejects from @start to the end of the line that @from is in. CODEC_E_MORE: its end is not here
 * yet. */
static int csv_reject_line(struct codec *c, struct codec_window *w, const uint8_t *start,
                           const uint8_t *from, const char *why)
{
	struct csv *st = c->state;
	const uint8_t *nl = from < w->end ? memchr(from, '\n', (size_t)(w->end - from)) : NULL;
	size_t len = (size_t)((nl ? nl : w->end) - start);
	if (!nl && !w->last) {
		if (len <= 4 * c->max_record)
			return CODEC_E_MORE;
		st->skip = true;
	}
	csv_say(st, why);
	const uint8_t *next = nl ? nl + 1 : w->end;
	csv_count_lines(st, start, next);
	return window_reject(w, start, csv_cap(c, len), next, st->why);
}

/* Rejects a row that was found whole. */
static int csv_reject_row(struct codec *c, struct codec_window *w, const struct csv_row *row,
                          const char *why)
{
	struct csv *st = c->state;
	csv_say(st, why);
	st->line += st->line ? row->lines : 0;
	return window_reject(w, row->start, csv_cap(c, (size_t)(row->next - row->start)), row->next,
	                     st->why);
}

/* Finds the next row that is not empty. CODEC_E_OK: here it is (window->p not moved behind it). */
static int csv_row(struct codec *c, struct codec_window *w, struct csv_row *row)
{
	struct csv *st = c->state;
	size_t limit = 4 * c->max_record;
	for (; w->p<w->end; w->p = row->next, st->line += st->line> 0) {
		bool cut = (size_t)(w->end - w->p) > limit;
		*row = (struct csv_row){
		        .start = w->p, .end = cut ? w->p + limit : w->end, .last = w->last && !cut};
		enum csv_found f = csv_find(st, row);
		switch (f == CSV_MORE && cut ? CSV_LONG : f) {
		case CSV_ROW:
			return CODEC_E_OK;
		case CSV_BLANK:
			continue;
		case CSV_MORE:
			return CODEC_E_MORE;
		case CSV_LONG:
			return csv_reject_line(c, w, w->p, w->p, "row longer than a record may be");
		case CSV_OPEN:
			return csv_reject_line(c, w, w->p, w->p, "quote that is never closed");
		case CSV_TEXT:
			return csv_reject_line(c, w, w->p, row->next,
			                       "text behind a closing quote");
		}
	}
	return CODEC_E_END;
}

/* Copies a field, its doubled quotes made single. */
static uint8_t *csv_copy(const struct csv *st, uint8_t *o, const struct csv_span *s)
{
	const uint8_t *p = s->p, *end = p + s->len;
	for (uint32_t i = 0; i < s->escapes; i++) {
		const uint8_t *q = memchr(p, st->quote, (size_t)(end - p));
		size_t n = (size_t)(q - p) + 1;
		memcpy(o, p, n);
		o += n;
		p = q + 2;
	}
	memcpy(o, p, (size_t)(end - p));
	return o + (end - p);
}

static bool csv_header_agrees(struct csv *st, const struct csv_row *row)
{
	if (row->n != st->n_names)
		return false;
	for (uint32_t i = 0; i < row->n; i++) {
		const struct csv_span *s = &st->spans[i];
		if (buf_room(&st->value, (size_t)s->len + 1) < 0)
			return false;
		size_t n = (size_t)(csv_copy(st, st->value.p, s) - st->value.p);
		if (!csv_name_is(st, i, st->value.p, n))
			return false;
	}
	return true;
}

/* Makes the fields of the row the names. 0, CODEC_E_REJECT (why), -ENOMEM. */
static int csv_names_from(struct csv *st, const struct csv_row *row)
{
	if (row->n > CSV_COLUMNS_MAX) {
		snprintf(st->why, sizeof(st->why), "more than %d columns", CSV_COLUMNS_MAX);
		return CODEC_E_REJECT;
	}
	int r = 0;
	for (uint32_t i = 0; i < row->n && r == 0; i++) {
		const struct csv_span *s = &st->spans[i];
		r = buf_room(&st->value, (size_t)s->len + 1);
		if (r < 0)
			return r;
		size_t n = (size_t)(csv_copy(st, st->value.p, s) - st->value.p);
		r = csv_add_name(st, st->value.p, n);
	}
	return r;
}

/* There will be no names: every row is rejected because of @why. */
static void csv_no_names(struct csv *st, const char *why)
{
	if (st->fixed)
		return;
	snprintf(st->broken_why, sizeof(st->broken_why), "header: %.120s", why);
	st->broken = st->broken_why;
	st->named = true;
}

/* The header row becomes the names, or the reason why every row is rejected. */
static int csv_header(struct codec *c, struct codec_window *w, const struct csv_row *row)
{
	struct csv *st = c->state;
	st->phase = CSV_ROWS;
	if (st->fixed) {
		if (!csv_header_agrees(st, row))
			return csv_reject_row(c, w, row,
			                      "not the header that `columns` says "
			                      "(header: false when there is none)");
		st->line += st->line ? row->lines : 0;
		w->p = row->next;
		return CODEC_E_OK;
	}
	int r = CODEC_E_REJECT;
	if (mp_utf8_valid(row->start, (size_t)(row->next - row->start)))
		r = csv_names_from(st, row);
	else
		snprintf(st->why, sizeof(st->why), "not UTF-8");
	if (r < 0)
		return r;
	if (r == CODEC_E_REJECT) {
		csv_no_names(st, st->why);
		return csv_reject_row(c, w, row, st->broken);
	}
	st->named = true;
	st->line += st->line ? row->lines : 0;
	w->p = row->next;
	return CODEC_E_OK;
}

/* Everything in front of the rows. CODEC_E_OK: done. */
static int csv_begin(struct codec *c, struct codec_window *w)
{
	struct csv *st = c->state;
	size_t n = (size_t)(w->end - w->p);
	if (st->phase == CSV_START) {
		bool mark = n && memcmp(w->p, csv_mark, n < 3 ? n : 3) == 0;
		if (mark && n < 3 && !w->last)
			return CODEC_E_MORE;
		if (n == 0)
			return CODEC_E_END;
		if (mark && n >= 3)
			w->p += 3;
		st->phase = csv_config(c)->header ? CSV_HEADER : CSV_ROWS;
	}
	if (st->phase == CSV_ROWS)
		return CODEC_E_OK;
	struct csv_row row;
	int r = csv_row(c, w, &row);
	if (r == CODEC_E_REJECT) {
		st->phase = CSV_ROWS;
		csv_no_names(st, st->why);
	}
	return r == CODEC_E_OK ? csv_header(c, w, &row) : r;
}

static void csv_lost(struct codec *c)
{
	struct csv *st = c->state;
	if (st->phase == CSV_ROWS)
		return;
	st->phase = CSV_ROWS;
	c->headless = true;
	if (csv_config(c)->header)
		csv_no_names(st, "it was passed over unread, so nobody knows the columns");
}

/* Names the fields "1" to "@n". 0, CODEC_E_REJECT (why), -ENOMEM. */
static int csv_number(struct csv *st, uint32_t n)
{
	char name[16];
	if (n > CSV_COLUMNS_MAX) {
		snprintf(st->why, sizeof(st->why), "more than %d columns", CSV_COLUMNS_MAX);
		return CODEC_E_REJECT;
	}
	int r = 0;
	for (uint32_t i = 1; i <= n && r == 0; i++) {
		int len = snprintf(name, sizeof(name), "%" PRIu32, i);
		r = csv_add_name(st, (const uint8_t *)name, (size_t)len);
	}
	st->named = r == 0;
	return r;
}

static int64_t csv_prologue(struct codec *c, const uint8_t *p, size_t len)
{
	struct csv *st = c->state;
	const struct csv_config *cf = csv_config(c);
	struct codec_window w = {.p = p, .end = p + len};
	csv_reset(c);
	if (!len)
		return 0;
	int r = csv_begin(c, &w);
	if (r == CODEC_E_OK && !cf->header && !st->fixed) {
		struct csv_row row;
		r = csv_row(c, &w, &row);
		if (r == CODEC_E_OK)
			r = csv_number(st, row.n);
	}
	if (r == CODEC_E_MORE || r == CODEC_E_END) {
		csv_reset(c);
		return 0;
	}
	st->line = 0;
	return r < 0 ? r : w.p > p ? w.p - p : (int64_t)len;
}

static size_t csv_size(const struct csv *st, const struct csv_row *row)
{
	size_t size = st->keys.len + (row->n < 16 ? 1 : 3);
	for (uint32_t i = 0; i < row->n; i++)
		size += window_str_size(st->spans[i].len - st->spans[i].escapes);
	return size;
}

static size_t csv_write(const struct csv *st, const struct csv_row *row, uint8_t *out)
{
	uint8_t *o = mp_write_map_head(out, row->n);
	for (uint32_t i = 0; i < row->n; i++) {
		const struct csv_span *s = &st->spans[i];
		memcpy(o, st->keys.p + st->names[i].off, st->names[i].len);
		o = mp_write_str_head(o + st->names[i].len, s->len - s->escapes);
		o = csv_copy(st, o, s);
	}
	return (size_t)(o - out);
}

/* Judges the row, and writes it. */
static int csv_record(struct codec *c, struct codec_window *w, const struct csv_row *row,
                      uint8_t *out, size_t room, size_t *len)
{
	struct csv *st = c->state;
	char why[80];
	if (row->n != st->n_names) {
		snprintf(why, sizeof(why), "%" PRIu32 " fields where there are %" PRIu32 " columns",
		         row->n, st->n_names);
		return csv_reject_row(c, w, row, why);
	}
	size_t size = csv_size(st, row);
	if (size > c->max_record)
		return csv_reject_row(c, w, row, "row longer than a record may be");
	if (size > room)
		return CODEC_E_ROOM;
	if (!mp_utf8_valid(row->start, (size_t)(row->next - row->start)))
		return csv_reject_row(c, w, row, "not UTF-8");
	*len = csv_write(st, row, out);
	st->line += st->line ? row->lines : 0;
	w->p = row->next;
	return CODEC_E_OK;
}

static const uint8_t *csv_row_end(struct codec *c, const struct codec_window *w)
{
	struct csv *st = c->state;
	struct codec_window at = *w;
	struct csv_row row;
	uint64_t line = st->line;
	if (st->phase == CSV_START && at.end - at.p > 3 && memcmp(at.p, csv_mark, 3) == 0)
		at.p += 3; /* else a quote behind it is none */
	int r = csv_row(c, &at, &row);
	if (r == CODEC_E_MORE) {
		st->line = line; /* it will be asked again */
		return NULL;
	}
	if (r != CODEC_E_OK)
		return at.p;
	st->line += st->line ? row.lines : 0;
	return row.next;
}

static int csv_decode(struct codec *c, struct codec_window *w, uint8_t *out, size_t room,
                      size_t *len)
{
	struct csv *st = c->state;
	struct csv_row row;
	if (st->skip) {
		const uint8_t *nl =
		        w->p < w->end ? memchr(w->p, '\n', (size_t)(w->end - w->p)) : NULL;
		csv_count_lines(st, w->p, nl ? nl + 1 : w->end);
		w->p = nl ? nl + 1 : w->end;
		st->skip = !nl && !w->last;
	}
	int r = csv_begin(c, w);
	if (r == CODEC_E_OK)
		r = csv_row(c, w, &row);
	if (r != CODEC_E_OK)
		return r;
	if (st->broken)
		return csv_reject_row(c, w, &row, st->broken);
	if (!st->named) {
		r = csv_number(st, row.n);
		if (r)
			return r < 0 ? r : csv_reject_row(c, w, &row, st->why);
	}
	return csv_record(c, w, &row, out, room, len);
}

const struct codec_ops codec_csv = {
        .name = "csv",
        .help = "rows of fields, a header line or named columns (RFC 4180)",
        .options = csv_options,
        .config_size = sizeof(struct csv_config),
        .state_size = sizeof(struct csv),
        .check = csv_check,
        .open = csv_open,
        .close = csv_close,
        .reset = csv_reset,
        .begin = csv_begin,
        .lost = csv_lost,
        .has_prologue = true,
        .prologue = csv_prologue,
        .behind = csv_row_end,
        .decode = csv_decode,
        .head = csv_head,
        .encode = csv_encode,
        .text = true,
};
