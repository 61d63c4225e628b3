/*
 * Any bytes into the msgpack codec: it ends, agrees with mp_skip about what is well-formed, and
 * what it takes record_open takes too and the JSON codec can say.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "stages/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct buf text;
	struct codec c;
	struct codec json;
	struct record r = {0};
	const char *why;
	size_t room = 1 << 14;
	assert(codec_init(&c, codec_find("msgpack"), NULL, room) == 0);
	assert(codec_init(&json, codec_find("json"), NULL, room) == 0);
	uint8_t *copy = malloc(size + 1);
	memcpy(copy, data, size);
	uint8_t *out = malloc(room);
	struct codec_window w = {.p = copy, .end = copy + size, .last = true};
	for (int answer = CODEC_E_OK; answer != CODEC_E_END;) {
		const uint8_t *before = w.p;
		size_t len = 0;
		answer = c.ops->decode(&c, &w, out, room, &len);
		assert(answer == CODEC_E_OK || answer == CODEC_E_END || answer == CODEC_E_REJECT);
		if (answer == CODEC_E_OK) {
			assert(mp_skip(before, w.end) == w.p);
			assert(record_open(&r, out, len, &why) == 0);
			text.len = 0;
			assert(json.ops->encode(&json, out, len, &text) == 0);
			assert(mp_utf8_valid(text.p, text.len));
		} else if (answer == CODEC_E_REJECT) {
			assert(w.p > before && w.bad == before && w.bad + w.bad_len == w.p);
		}
	}
	record_deinit(&r);
	free(out);
	free(copy);
	codec_deinit(&c);
	codec_deinit(&json);
	return 0;
}
