/*
 * Cutting input into messages; see split.h. Each call looks at the input from the last cut on: what
 * is not a message yet is looked at again when more has come, which is at most `max` bytes.
 */
#include "daemon/split.h"

#include "ipc/mp.h"

static const char *const names[] = {"json", "lines", "csv", "deb822", "msgpack"};

int split_kind_find(const char *name)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strcmp(names[i], name) == 0)
			return (int)i;
	return -1;
}

uint8_t *split_room(struct split *s, size_t want)
{
	if (s->off) {
		memmove(s->in.p, s->in.p + s->off, s->in.len - s->off);
		s->in.len -= s->off;
		s->off = 0;
	}
	return buf_room(&s->in, want) < 0 ? NULL : s->in.p + s->in.len;
}

void split_fed(struct split *s, size_t n)
{
	s->in.len += n;
}

void split_end(struct split *s)
{
	s->ended = true;
}

void split_deinit(struct split *s)
{
	buf_deinit(&s->in);
	buf_deinit(&s->head);
}

static const uint8_t *newline(const struct split *s, size_t from)
{
	return from < s->in.len ? memchr(s->in.p + from, '\n', s->in.len - from) : NULL;
}

/* A newline whose next line begins a record. */
static size_t end_json(const struct split *s, size_t from)
{
	for (const uint8_t *nl; (nl = newline(s, from)); from = (size_t)(nl - s->in.p) + 1) {
		size_t next = (size_t)(nl - s->in.p) + 1;
		if (next == s->in.len)
			return s->flush ? next : 0;
		if (nl[1] == '{')
			return next;
	}
	return 0;
}

static size_t end_lines(const struct split *s, size_t from)
{
	const uint8_t *nl = newline(s, from);
	return nl ? (size_t)(nl - s->in.p) + 1 : 0;
}

static size_t end_csv(const struct split *s, size_t from, bool *quoted)
{
	for (size_t i = from; i < s->in.len; i++) {
		if (s->in.p[i] == '"')
			*quoted = !*quoted;
		else if (s->in.p[i] == '\n' && !*quoted)
			return i + 1;
	}
	return 0;
}

static bool is_blank(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* A line of nothing but blanks ends a paragraph. */
static size_t end_deb822(const struct split *s, size_t from)
{
	for (const uint8_t *nl; (nl = newline(s, from)); from = (size_t)(nl - s->in.p) + 1) {
		size_t i = (size_t)(nl - s->in.p) + 1;
		while (i < s->in.len && is_blank(s->in.p[i]))
			i++;
		if (i == s->in.len)
			return 0;
		if (s->in.p[i] == '\n')
			return i + 1;
	}
	return 0;
}

static size_t end_msgpack(const struct split *s, size_t start)
{
	if (start >= s->in.len)
		return 0; /* nothing was read yet: there is no buffer to point into */
	const uint8_t *end = mp_skip(s->in.p + start, s->in.p + s->in.len);
	return end ? (size_t)(end - s->in.p) : 0;
}

/* Where the record at @start ends, 0 when that is not in the buffer yet. */
static size_t record_end(const struct split *s, size_t start)
{
	bool quoted = start == s->off && s->quoted;
	size_t end = 0;
	switch (s->kind) {
	case SPLIT_JSON:
		end = end_json(s, start);
		break;
	case SPLIT_LINES:
		end = end_lines(s, start);
		break;
	case SPLIT_CSV:
		end = end_csv(s, start, &quoted);
		break;
	case SPLIT_DEB822:
		end = end_deb822(s, start);
		break;
	case SPLIT_MSGPACK:
		end = end_msgpack(s, start);
		break;
	}
	return end || !s->ended || start >= s->in.len ? end : s->in.len;
}

static bool blank(const struct split *s, size_t start, size_t end)
{
	if (s->kind == SPLIT_MSGPACK || s->kind == SPLIT_LINES)
		return false;
	while (start < end && (is_blank(s->in.p[start]) || s->in.p[start] == '\n'))
		start++;
	return start == end;
}

/* The first line of csv. SPLIT_E_OK when it is there (or not wanted). */
static int take_head(struct split *s)
{
	if (s->kind != SPLIT_CSV || s->has_head)
		return SPLIT_E_OK;
	size_t end = record_end(s, s->off);
	if (!end && !s->ended && s->in.len > s->max)
		s->broken = s->ended = true;
	if (!end || s->broken)
		return s->ended ? SPLIT_E_END : SPLIT_E_MORE;
	int r = buf_add(&s->head, s->in.p + s->off, end - s->off);
	s->off = end;
	s->has_head = true;
	return r;
}

/* Drops the beginning of a record that is too large already, though its end is not there. The last
 * byte stays: it may be the newline that belongs to the end. */
static void skip_start(struct split *s)
{
	s->too_large += !s->skipping;
	s->skipping = true;
	if (s->kind == SPLIT_MSGPACK) {
		s->broken = s->ended = true;
		s->off = s->in.len;
		return;
	}
	for (; s->off + 1 < s->in.len; s->off++)
		s->quoted ^= s->in.p[s->off] == '"';
}

/* Whether the record from `off` to @end is too large; then it is dropped. */
static bool skip_large(struct split *s, size_t end)
{
	if (!s->skipping && end - s->off + s->head.len <= s->max)
		return false;
	s->too_large += !s->skipping;
	s->skipping = s->quoted = false;
	s->off = end;
	return true;
}

int split_next(struct split *s, bool flush, struct split_piece *out)
{
	s->flush = flush;
	int r = take_head(s);
	if (r)
		return r;
	size_t at = s->off, end;
	bool full = false;
	*out = (struct split_piece){.head = s->head.p, .head_len = s->head.len};
	while (!full && (end = record_end(s, at))) {
		if (at == s->off && skip_large(s, end)) {
			at = end;
			continue;
		}
		size_t len = end - s->off + s->head.len;
		full = at > s->off && (len > s->target || len > s->max);
		if (full)
			break;
		out->records += !blank(s, at, end);
		at = end;
	}
	if (!full && !s->ended && (!flush || at == s->off)) {
		if (at == s->off && s->in.len - s->off > s->max)
			skip_start(s);
		return SPLIT_E_MORE;
	}
	out->p = s->in.p + s->off;
	out->len = at - s->off;
	s->off = at;
	return out->len ? SPLIT_E_OK : SPLIT_E_END;
}
