/*
 * Frames of the acknowledged protocol from a hostile peer: whatever they are, the parsers read
 * nothing behind them, and what they take is within the protocol. Input: for each frame one byte of
 * length and that many bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "stages/zmqproto.h"

enum {
	FRAMES = 6,
};

static void require(int ok)
{
	if (!ok)
		abort();
}

/* A copy of just its size, so that a byte too far is noticed. */
static struct zmqproto_frame copy(const uint8_t *p, size_t len)
{
	void *own = malloc(len ? len : 1);
	require(own != NULL);
	memcpy(own, p, len);
	return (struct zmqproto_frame){own, len};
}

static void check_request(const struct zmqproto *m, size_t n)
{
	require(m->kind == ZMQPROTO_HELLO || m->kind == ZMQPROTO_SEND);
	require(n == 3 && m->sequence >= 1);
}

static void check_answer(const struct zmqproto *m, size_t n)
{
	require(m->kind != ZMQPROTO_HELLO && m->kind != ZMQPROTO_SEND);
	require(n == (m->kind == ZMQPROTO_ACK || m->kind == ZMQPROTO_ERROR ? 2U : 4U));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct zmqproto_frame f[FRAMES];
	struct zmqproto m;
	const char *why = NULL;
	size_t n = 0;
	while (size && n < FRAMES) {
		size_t len = data[0] < size - 1 ? data[0] : size - 1;
		f[n++] = copy(data + 1, len);
		data += 1 + len;
		size -= 1 + len;
	}
	if (zmqproto_request(f, n, &m, &why) == ZMQPROTO_E_OK)
		check_request(&m, n);
	else
		require(why && *why);
	if (zmqproto_answer(f, n, &m, &why) == ZMQPROTO_E_OK)
		check_answer(&m, n);
	else
		require(why && *why);
	while (n)
		free((void *)f[--n].p);
	return 0;
}
