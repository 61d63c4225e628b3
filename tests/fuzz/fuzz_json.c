/*
 * Any bytes into the JSON codec, with any window and any room: it ends, what it writes is one
 * well-formed map that record_open takes, and encoding and decoding that gives the same bytes. The
 * first two bytes choose the windows and the room.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "stages/codec.h"

static void check_record(struct codec *c, const uint8_t *p, size_t len)
{
	static struct buf text;
	static uint8_t back[1 << 16];
	struct record r = {0};
	const char *why;
	size_t n = 0;
	assert(mp_skip(p, p + len) == p + len);
	assert(record_open(&r, p, len, &why) == 0);
	record_deinit(&r);
	text.len = 0;
	assert(c->ops->encode(c, p, len, &text) == 0);
	struct codec_window w = {.p = text.p, .end = text.p + text.len, .last = true};
	assert(c->ops->decode(c, &w, back, sizeof(back), &n) == CODEC_E_OK);
	assert(n == len && memcmp(back, p, len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct codec c;
	struct codec again;
	if (size < 2)
		return 0;
	size_t room = data[0] < 128 ? data[0] * 4u : 1u << 14;
	size_t step = data[1] ? data[1] : size;
	data += 2;
	size -= 2;
	assert(codec_init(&c, codec_find("json"), NULL, room) == 0);
	assert(codec_init(&again, codec_find("json"), NULL, 1 << 16) == 0);
	uint8_t *out = malloc(room + 1);
	size_t off = 0;
	for (size_t end = step < size ? step : size;; end = end + step < size ? end + step : size) {
		/* an allocation of its own, so that a read too far is seen */
		uint8_t *copy = malloc(end - off + 1);
		memcpy(copy, data + off, end - off);
		struct codec_window w = {.p = copy, .end = copy + (end - off), .last = end == size};
		for (int answer = CODEC_E_OK; answer != CODEC_E_END && answer != CODEC_E_MORE;) {
			const uint8_t *before = w.p;
			size_t len = 0;
			answer = c.ops->decode(&c, &w, out, room, &len);
			assert(answer >= 0 && answer != CODEC_E_ROOM);
			assert(answer != CODEC_E_MORE || !w.last);
			assert(answer == CODEC_E_MORE || answer == CODEC_E_END || w.p > before);
			if (answer == CODEC_E_REJECT)
				assert(w.bad >= before && w.bad + w.bad_len <= w.end && w.why);
			if (answer == CODEC_E_OK)
				check_record(&again, out, len);
		}
		off += (size_t)(w.p - copy);
		free(copy);
		if (end == size)
			break;
	}
	assert(off == size);
	free(out);
	codec_deinit(&c);
	codec_deinit(&again);
	return 0;
}
