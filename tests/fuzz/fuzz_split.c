/*
 * Cutting a stream into messages: every byte of the input comes out once and in order, unless its
 * record was too large, and no message is larger than allowed. Input: kind, step of reading, then
 * the stream.
 */
#include <stdint.h>
#include <stdlib.h>

#include "daemon/split.h"

static void require(int ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	struct split s = {.kind = data[0] % 5, .target = 16, .max = 40};
	size_t step = 1 + data[1] % 64, fed = 0, out = 0;
	const uint8_t *in = data + 2;
	size -= 2;
	for (;;) {
		struct split_piece piece;
		int r = split_next(&s, data[0] & 128, &piece);
		require(r >= 0);
		if (r == SPLIT_E_END)
			break;
		if (r == SPLIT_E_MORE) {
			size_t n = size - fed < step ? size - fed : step;
			uint8_t *room = split_room(&s, step);
			require(room != NULL);
			memcpy(room, in + fed, n);
			split_fed(&s, n);
			fed += n;
			if (n == 0)
				split_end(&s);
			continue;
		}
		require(piece.len > 0 && piece.len + piece.head_len <= s.max);
		if (s.too_large == 0) {
			size_t head = s.kind == SPLIT_CSV && out == 0 ? piece.head_len : 0;
			require(memcmp(in + out + head, piece.p, piece.len) == 0);
			out += head + piece.len;
		}
	}
	if (s.too_large == 0 && (s.kind != SPLIT_CSV || out))
		require(out == size);
	split_deinit(&s);
	return 0;
}
