/*
 * Small things that the text codecs share: how a rejected piece is named, and how long a string
 * becomes.
 */
#pragma once

#include "stages/codec.h"

/* Rejects [bad, bad+len) of @w for @why; decoding goes on at @next. Returns CODEC_E_REJECT. */
static inline int window_reject(struct codec_window *w, const uint8_t *bad, size_t len,
                                const uint8_t *next, const char *why)
{
	w->bad = bad;
	w->bad_len = len;
	w->p = next;
	w->why = why;
	return CODEC_E_REJECT;
}

/* Bytes of a msgpack string of @len bytes, head included, as mp_write_str writes it. */
static inline size_t window_str_size(size_t len)
{
	return len + (len < 32 ? 1 : len < 256 ? 2 : len < 65536 ? 3 : 5);
}
