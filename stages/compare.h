/*
 * Order and equality of numbers across msgpack's three kinds, without ever losing precision.
 *
 * The hard idea: an integer is never turned into a double to be compared with one, for above 2^53
 * that would call different numbers equal. The double is cut to an integer instead, which is exact,
 * and its fraction decides what is left.
 */
#pragma once

#include "ipc/mp.h"

enum {
	COMPARE_UNORDERED = 2, /* one of the two is not a number (NaN) */
};

static inline bool compare_is_number(const struct mp *v)
{
	return v->type == MP_INT || v->type == MP_UINT || v->type == MP_FLOAT;
}

/* -1: a < b, 0: equal, 1: a > b, COMPARE_UNORDERED. Both must be numbers. */
int compare_numbers(const struct mp *a, const struct mp *b);

/* As bytes; the shorter of two with the same beginning comes first. -1, 0, 1. */
int compare_bytes(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len);
