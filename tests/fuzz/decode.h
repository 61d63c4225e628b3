/*
 * What every codec promises, checked on any input: decoding ends, each call makes progress, a
 * record is one well-formed map in UTF-8, and where a stream is cut makes no difference to what
 * comes out of it.
 *
 * The first two bytes of the input choose the cut and the size of the largest record; the rest is
 * decoded twice, whole and in pieces that are memory of their own, and the two outcomes are
 * compared.
 */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/record.h"
#include "stages/codec.h"

#define MUST(x) \
 do {           \
  if (!(x))     \
   abort();     \
 } while (0)

static inline void fuzz_utf8(const uint8_t *p, const uint8_t *end)
{
	struct mp v;
	while (p < end) {
		p = mp_read(p, end, &v);
		MUST(p);
		MUST(v.type != MP_STR || mp_utf8_valid(v.p, v.len));
	}
}

static inline void fuzz_record(const uint8_t *p, size_t len)
{
	static struct record r;
	const char *why;
	MUST(record_open(&r, p, len, &why) == 0);
	fuzz_utf8(p, p + len);
}

/* Decodes what is in the window; the outcome is appended to @log. @record (optional) sees each
 * record. */
static inline void fuzz_drain(struct codec *c, struct codec_window *w, struct buf *log,
                              void (*record)(struct codec *c, const uint8_t *p, size_t len))
{
	for (;;) {
		size_t len = 0, room = w->end > w->p ? *w->p % 32 : 0;
		const uint8_t *before = w->p;
		uint8_t *out = malloc(room ? room : 1);
		int r = c->ops->decode(c, w, out, room, &len);
		if (r == CODEC_E_ROOM) {
			MUST(w->p >= before && room < c->max_record);
			before = w->p;
			out = realloc(out, c->max_record);
			r = c->ops->decode(c, w, out, c->max_record, &len);
		}
		MUST(r >= 0 && r != CODEC_E_ROOM);
		MUST(w->p >= before && w->p <= w->end);
		if (r == CODEC_E_OK) {
			MUST(w->p > before && len <= c->max_record);
			fuzz_record(out, len);
			buf_add(log, out, len);
			if (record)
				record(c, out, len);
		} else if (r == CODEC_E_REJECT) {
			MUST(w->p > before && w->why);
			buf_add_str(log, w->why);
			buf_add(log, w->bad, w->bad_len);
		} else {
			MUST(r == CODEC_E_END || !w->last);
			MUST(!w->last || w->p == w->end);
		}
		buf_add_byte(log, (uint8_t)('0' + r));
		free(out);
		if (r == CODEC_E_MORE || r == CODEC_E_END) {
			log->len--; /* how often a window ended is no part of the outcome */
			return;
		}
	}
}

static inline void fuzz_pieces(struct codec *c, const uint8_t *p, size_t n, size_t step,
                               struct buf *log,
                               void (*record)(struct codec *c, const uint8_t *p, size_t len))
{
	size_t done = 0, upto = step < n ? step : n;
	if (c->ops->reset)
		c->ops->reset(c);
	for (;;) {
		size_t len = upto - done;
		uint8_t *copy = malloc(len ? len : 1);
		if (len)
			memcpy(copy, p + done, len);
		struct codec_window w = {.p = copy, .end = copy + len, .last = upto == n};
		fuzz_drain(c, &w, log, record);
		done += (size_t)(w.p - copy);
		free(copy);
		if (upto == n)
			break;
		upto = n - upto > step ? upto + step : n;
	}
	MUST(done == n);
}

static inline void fuzz_codec(const char *name, const void *config, const uint8_t *data,
                              size_t size,
                              void (*record)(struct codec *c, const uint8_t *p, size_t len))
{
	static const size_t sizes[] = {32, 64, 256, 65536};
	struct codec c;
	struct buf whole = {0}, cut = {0};
	if (size < 2)
		return;
	MUST(codec_init(&c, codec_find(name), config, sizes[data[0] & 3]) == 0);
	size_t step = (size_t)data[1] + 1, n = size - 2;
	uint8_t *copy = malloc(n ? n : 1);
	memcpy(copy, data + 2, n);
	fuzz_pieces(&c, copy, n, n + 1, &whole, record);
	fuzz_pieces(&c, copy, n, step, &cut, NULL);
	MUST(whole.len == cut.len);
	MUST(!whole.len || memcmp(whole.p, cut.p, whole.len) == 0);
	free(copy);
	codec_deinit(&c);
	buf_deinit(&whole);
	buf_deinit(&cut);
}

/* @text, what was written for the record [p, p+len), must read back as that record. */
static inline void fuzz_back(const char *name, const void *config, const struct buf *text,
                             const uint8_t *p, size_t len)
{
	struct codec c;
	size_t n = 0, room = 2 * len + 64;
	uint8_t *out = malloc(room);
	struct codec_window w = {.p = text->p, .end = text->p + text->len, .last = true};
	MUST(codec_init(&c, codec_find(name), config, room) == 0);
	MUST(c.ops->decode(&c, &w, out, room, &n) == CODEC_E_OK);
	MUST(n == len && memcmp(out, p, n) == 0);
	MUST(c.ops->decode(&c, &w, out, room, &n) == CODEC_E_END);
	codec_deinit(&c);
	free(out);
}
