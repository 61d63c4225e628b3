/*
 * The arithmetic of aggregate: see aggregate_num.h.
 *
 * Limit: integers and floats are compared as long double, exact where its mantissa has 64 bits or
 * more (x86-64, and 113 bits on 64-bit ARM).
 */
#include "stages/steps/aggregate_num.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
	NUMBER_TEXT_MAX = 64, /* longer strings are no numbers */
};

/* An integer of at most 64 bits, written in decimal. */
static bool text_int(const char *s, agg_int *out)
{
	bool minus = *s == '-';
	agg_int v = 0;
	const char *p = s + (*s == '-' || *s == '+');
	if (!*p)
		return false;
	for (; *p; p++) {
		if (*p < '0' || *p > '9')
			return false;
		v = v * 10 + (*p - '0');
		if (v > UINT64_MAX)
			return false;
	}
	*out = minus ? -v : v;
	return *out >= INT64_MIN;
}

static bool text_num(const uint8_t *p, uint32_t len, struct agg_num *out)
{
	char text[NUMBER_TEXT_MAX];
	if (len == 0 || len >= sizeof(text) || memchr(p, 0, len))
		return false;
	memcpy(text, p, len);
	text[len] = 0;
	/* strtod also knows blanks in front, hex, inf and nan: not meant here */
	if (text[strspn(text, "0123456789+-.eE")])
		return false;
	if (text_int(text, &out->i))
		return true;
	char *end;
	out->d = strtod(text, &end);
	out->is_float = true;
	return *end == 0 && isfinite(out->d);
}

bool agg_num(const struct mp *v, struct agg_num *out)
{
	*out = (struct agg_num){.present = true};
	switch (v->type) {
	case MP_NIL:
		out->present = false;
		return true;
	case MP_INT:
		out->i = v->i;
		return true;
	case MP_UINT:
		out->i = v->u;
		return true;
	case MP_FLOAT:
		out->d = v->d;
		out->is_float = true;
		return true;
	case MP_STR:
		return text_num(v->p, v->len, out);
	default:
		return false;
	}
}

static void add_float(struct agg_acc *a, double d)
{
	double t = a->d + d;
	if (fabs(a->d) >= fabs(d))
		a->comp += (a->d - t) + d;
	else
		a->comp += (d - t) + a->d;
	a->d = t;
	a->floats++;
}

static void add_extreme(struct agg_acc *a, enum agg_fn fn, const struct agg_num *v)
{
	if (v->is_float && isnan(v->d))
		return;
	long double new = v->is_float ? (long double)v->d : (long double)v->i;
	long double old = a->floats ? (long double)a->d : (long double)a->i;
	bool better = fn == AGG_MIN ? new < old : new > old;
	if (!a->n++ || better) {
		a->floats = v->is_float;
		a->i = v->i;
		a->d = v->d;
	}
}

void agg_add(struct agg_acc *a, enum agg_fn fn, const struct agg_num *v)
{
	if (!v->present)
		return;
	if (fn == AGG_MIN || fn == AGG_MAX) {
		add_extreme(a, fn, v);
		return;
	}
	a->n++;
	if (fn == AGG_COUNT)
		return;
	if (v->is_float)
		add_float(a, v->d);
	else
		a->i += v->i;
}

static uint8_t *write_int(uint8_t *p, agg_int i)
{
	if (i >= 0 && i <= UINT64_MAX)
		return mp_write_uint(p, (uint64_t)i);
	if (i < 0 && i >= INT64_MIN)
		return mp_write_int(p, (int64_t)i);
	return mp_write_float(p, (double)i);
}

/* The compensation of a sum that has left the finite numbers is NaN and says nothing. */
static double float_sum(const struct agg_acc *a)
{
	double floats = isfinite(a->d) ? a->d + a->comp : a->d;
	return (double)a->i + floats;
}

uint8_t *agg_result(uint8_t *p, enum agg_fn fn, const struct agg_acc *a)
{
	if (fn == AGG_COUNT)
		return mp_write_uint(p, a->n);
	if (!a->n)
		return fn == AGG_SUM ? mp_write_uint(p, 0) : mp_write_nil(p);
	if (fn == AGG_MEAN) {
		if (a->floats)
			return mp_write_float(p, float_sum(a) / (double)a->n);
		return mp_write_float(p, (double)((long double)a->i / (long double)a->n));
	}
	if (!a->floats)
		return write_int(p, a->i);
	return mp_write_float(p, fn == AGG_SUM ? float_sum(a) : a->d);
}
