/*
 * The arithmetic of aggregate: accumulators that add integers exactly and floats with compensation.
 *
 * Integers go to a 128-bit sum, which 2^63 additions cannot overflow; floats go to a second sum by
 * Neumaier's variant of Kahan's summation (A. Neumaier, "Rundungsfehleranalyse einiger Verfahren
 * zur Summation endlicher Summen", ZAMM 54, 1974). A sum of nothing but integers is an integer as
 * long as it fits 64 bits, signed or unsigned, and a float above; with one float in it, it is a
 * float.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ipc/mp.h"

__extension__ typedef __int128 agg_int;

enum agg_fn {
	AGG_COUNT, /* records; with a field: those that have it */
	AGG_SUM,
	AGG_MIN,
	AGG_MAX,
	AGG_MEAN,
};

struct agg_num {
	bool present;
	bool is_float;
	agg_int i;
	double d;
};

/* Stored in the state as it stands. */
struct agg_acc {
	agg_int i;       /* sum of the integers; min, max: the value when it is an integer */
	double d, comp;  /* sum of the floats and what it lacks; min, max: the value when it is a
	                    float */
	uint64_t n;      /* numbers seen */
	uint64_t floats; /* floats seen; min, max: whether the value is one */
};
_Static_assert(sizeof(struct agg_acc) == 48, "stored in files");

/* Reads a number: an integer, a float, or a string that is nothing but a decimal number. Nil is a
 * number that is not present. False: something else. */
bool agg_num(const struct mp *v, struct agg_num *out);

void agg_add(struct agg_acc *a, enum agg_fn fn, const struct agg_num *v);

/* Writes the result as msgpack (at most MP_HEAD_MAX bytes). Of no numbers: count and sum are 0, the
 * others nil. Returns the byte behind. */
uint8_t *agg_result(uint8_t *p, enum agg_fn fn, const struct agg_acc *a);
