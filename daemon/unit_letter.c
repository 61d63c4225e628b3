/*
 * Dead letters: a record or an input that could not be processed, with its reason, on the edge to
 * the built-in writer. Exactly once like every other record: it is part of the unit.
 *
 *     {id, at, stage, error, input, position, attempts}
 *
 * `id` is made of the arena's epoch, the slot, the commit's number and the letter's place in it, so
 * the same letter has the same id however often its unit is tried. An input that no buffer holds is
 * cut.
 *
 * Nobody can reject a letter: what the writer cannot put down is gone. So whatever a letter holds,
 * it has a form in JSON, which is seen by writing it. Reasons and places quote names and data from
 * outside, maybe cut in the middle of a character: what is no UTF-8 in them becomes `?`. A record
 * that JSON cannot say (nested too deep for one thing) stands there as its msgpack bytes.
 */
#include "daemon/worker.h"

#include <string.h>
#include <time.h>

enum {
	LETTER_SLACK = 1024, /* bytes of a letter besides its input */
};

bool unit_letter_fits(struct worker *w, size_t len)
{
	size_t need = len + LETTER_SLACK;
	if (need > (uint32_t)w->a->buffer_size)
		need = (uint32_t)w->a->buffer_size;
	if (!w->dead.open)
		return unit_try_open(w, &w->dead);
	return (uint32_t)w->a->buffer_size - w->dead.used >= need;
}

static void put_str(struct buf *b, const char *s, size_t len)
{
	if (buf_room(b, MP_HEAD_MAX + len) < 0)
		return;
	b->len = (size_t)(mp_write_str(b->p + b->len, s, (uint32_t)len) - b->p);
}

static void put_pair(struct buf *b, const char *key, const char *value)
{
	char text[STAGE_WHY_MAX + 64];
	size_t len = strnlen(value, sizeof(text)), n;
	memcpy(text, value, len);
	for (size_t i = 0; i < len; i += n) {
		n = mp_utf8_char((const uint8_t *)text + i, len - i);
		if (!n) {
			text[i] = '?';
			n = 1;
		}
	}
	put_str(b, key, strlen(key));
	put_str(b, text, len);
}

static void put_uint(struct buf *b, const char *key, uint64_t v)
{
	put_str(b, key, strlen(key));
	if (buf_room(b, MP_HEAD_MAX) == 0)
		b->len = (size_t)(mp_write_uint(b->p + b->len, v) - b->p);
}

static void put_input(struct worker *w, struct buf *b, const void *input, size_t len,
                      bool is_record)
{
	size_t most = (uint32_t)w->a->buffer_size - LETTER_SLACK;
	put_str(b, "input", 5);
	if (is_record && len <= most) {
		buf_add(b, input, len);
		return;
	}
	size_t n = len <= most ? len : most;
	while (n < len && n && ((const uint8_t *)input)[n] >> 6 == 2)
		n--; /* do not cut inside a character */
	if (buf_room(b, MP_HEAD_MAX + n) < 0)
		return;
	bool text = !is_record && mp_utf8_valid(input, n);
	uint8_t *end = text ? mp_write_str(b->p + b->len, input, (uint32_t)n)
	                    : mp_write_bin(b->p + b->len, input, (uint32_t)n);
	b->len = (size_t)(end - b->p);
}

static void format_time(char *out, size_t size, int64_t ns)
{
	time_t s = (time_t)(ns / 1000000000);
	struct tm tm;
	gmtime_r(&s, &tm);
	size_t n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, size - n, ".%06dZ", (int)(ns % 1000000000 / 1000));
}

static void write_letter(struct worker *w, const char *why, const char *step, const void *input,
                         size_t len, bool is_record, const char *at, uint32_t attempts)
{
	struct buf *b = &w->letter;
	char text[STAGE_WHY_MAX + 64];
	b->len = 0;
	if (buf_room(b, len + LETTER_SLACK) < 0)
		return;
	b->len = (size_t)(mp_write_map_head(b->p, 7) - b->p);
	snprintf(text, sizeof(text), "%02x%02x%02x%02x-%u-%llu-%u", w->a->h->epoch[0],
	         w->a->h->epoch[1], w->a->h->epoch[2], w->a->h->epoch[3], w->slot,
	         (unsigned long long)atomic_load(&w->me->committed.number) + 1, w->dead.records);
	put_pair(b, "id", text);
	format_time(text, sizeof(text), clock_realtime());
	put_pair(b, "at", text);
	if (step)
		snprintf(text, sizeof(text), "%s/%s", w->stage->name, step);
	else
		snprintf(text, sizeof(text), "%s", w->stage->name);
	put_pair(b, "stage", text);
	snprintf(text, sizeof(text), "%s", why ? why : "?");
	put_pair(b, "error", text);
	put_input(w, b, input, len, is_record);
	snprintf(text, sizeof(text), "%s", at ? at : "");
	put_pair(b, "position", text);
	put_uint(b, "attempts", attempts);
}

/* Whether the letter in hand can be written down. */
static bool has_a_form(struct worker *w)
{
	w->tap_buf.len = 0;
	return !w->tap_codec.ops || w->tap_codec.ops->encode(&w->tap_codec, w->letter.p,
	                                                     w->letter.len, &w->tap_buf) == 0;
}

int unit_letter(struct worker *w, const char *why, const char *step, const void *input, size_t len,
                bool is_record, const char *at, uint32_t attempts)
{
	if (w->stage->builtin &&
	    w->stage->kind ==
	            STAGE_CONSUMER) { /* a letter about a letter would go round for ever */
		log_error("dead letter cannot be written: %s", why);
		stats_add(&w->me->stats, STAT_errors_data,
		          1); /* its record is in the books already, as dead */
		return 0;
	}
	write_letter(w, why, step, input, len, is_record, at, attempts);
	if (is_record && !has_a_form(w))
		write_letter(w, why, step, input, len, false, at, attempts);
	int r = unit_room(w, &w->dead, w->letter.len);
	if (r != 0)
		return r < 0 ? r : -EMSGSIZE;
	memcpy(w->dead.p + w->dead.used, w->letter.p, w->letter.len);
	w->dead.used += (uint32_t)w->letter.len;
	w->dead.records++;
	w->book[w->dead.missing[0] ? BOOK_dropped : BOOK_dead]++;
	stats_add(&w->me->stats, STAT_errors_data, 1);
	return 0;
}
