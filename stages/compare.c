/*
 * See compare.h. An MP_INT is negative and an MP_UINT is not, which halves the cases.
 */
#include "stages/compare.h"

#include <math.h>
#include <string.h>

static int order_u64(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int order_double(double a, double b)
{
	if (isnan(a) || isnan(b))
		return COMPARE_UNORDERED;
	return a < b ? -1 : a > b;
}

/* @i is not below 0. */
static int order_uint_double(uint64_t i, double d)
{
	if (isnan(d))
		return COMPARE_UNORDERED;
	if (d < 0)
		return 1;
	if (d >= 0x1p64)
		return -1;
	uint64_t whole = (uint64_t)d;
	if (i != whole)
		return order_u64(i, whole);
	return d > (double)whole ? -1 : 0;
}

/* @i is below 0. */
static int order_int_double(int64_t i, double d)
{
	if (isnan(d))
		return COMPARE_UNORDERED;
	if (d >= 0)
		return -1;
	if (d < -0x1p63)
		return 1;
	int64_t whole = (int64_t)d;
	if (i != whole)
		return i < whole ? -1 : 1;
	return d < (double)whole ? 1 : 0;
}

static int order_number_double(const struct mp *a, double d)
{
	if (a->type == MP_FLOAT)
		return order_double(a->d, d);
	return a->type == MP_UINT ? order_uint_double(a->u, d) : order_int_double(a->i, d);
}

int compare_numbers(const struct mp *a, const struct mp *b)
{
	if (b->type == MP_FLOAT)
		return order_number_double(a, b->d);
	if (a->type == MP_FLOAT) {
		int r = order_number_double(b, a->d);
		return r == COMPARE_UNORDERED ? r : -r;
	}
	if (a->type != b->type)
		return a->type == MP_INT ? -1 : 1;
	if (a->type == MP_UINT)
		return order_u64(a->u, b->u);
	return a->i < b->i ? -1 : a->i > b->i;
}

int compare_bytes(const uint8_t *a, uint32_t a_len, const uint8_t *b, uint32_t b_len)
{
	uint32_t n = a_len < b_len ? a_len : b_len;
	int r = n ? memcmp(a, b, n) : 0;
	if (r != 0)
		return r < 0 ? -1 : 1;
	return order_u64(a_len, b_len);
}
