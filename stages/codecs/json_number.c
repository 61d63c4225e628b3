/*
 * Numbers: text -> msgpack.
 *
 * The hard idea: m * 10^e with m below 2^64 and |e| <= 27 can be rounded correctly with integers
 * alone, because 5^27 fits in 64 bits: multiply or divide in 128 bits, note whether a remainder is
 * left, round half to even once. That covers nearly all floats that people write; for m below 2^53
 * and |e| <= 22 one exact floating-point operation is enough (W. D. Clinger, "How to read floating
 * point numbers accurately", 1990). The rest goes to strtod_l in the C locale, whatever the
 * process's locale is.
 *
 * Invariant: an integer is exact or refused, never rounded; -0 is the float -0.0, since no integer
 * can say it.
 *
 * Limits: a number beyond the largest double is refused; one too small to tell from zero becomes
 * zero.
 */
#include <locale.h>
#include <math.h>
#include <stdlib.h>

#include "stages/codecs/json.h"

__extension__ typedef unsigned __int128 u128;

enum {
	DIGITS_MAX = 19,           /* decimal digits that always fit in 64 bits */
	EXPONENT_MAX = 1000000000, /* more than any text in memory can make up for */
	EXACT10 = 22,              /* 10^22 is the last exact power of ten in a double */
	EXACT5 = 27,               /* 5^27 is the last one below 2^64 */
};

static const double power10[EXACT10 + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                            1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                            1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static const uint64_t power5[EXACT5 + 1] = {
        1ull,
        5ull,
        25ull,
        125ull,
        625ull,
        3125ull,
        15625ull,
        78125ull,
        390625ull,
        1953125ull,
        9765625ull,
        48828125ull,
        244140625ull,
        1220703125ull,
        6103515625ull,
        30517578125ull,
        152587890625ull,
        762939453125ull,
        3814697265625ull,
        19073486328125ull,
        95367431640625ull,
        476837158203125ull,
        2384185791015625ull,
        11920928955078125ull,
        59604644775390625ull,
        298023223876953125ull,
        1490116119384765625ull,
        7450580596923828125ull,
};

/* Eight digits at once (all of 0..9), as in many public SWAR parsers: pairs, then fours, then
 * eight. */
static inline bool eight_digits(const uint8_t *p, uint64_t *v)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	uint64_t x;
	memcpy(&x, p, sizeof(x));
	if (((x & 0xf0f0f0f0f0f0f0f0u) | ((x + 0x0606060606060606u) & 0xf0f0f0f0f0f0f0f0u) >> 4) !=
	    0x3333333333333333u)
		return false;
	x -= 0x3030303030303030u;
	x = x * 10 + (x >> 8);
	*v = ((x & 0x000000ff000000ffu) * 0x000f424000000064u +
	      ((x >> 16) & 0x000000ff000000ffu) * 0x0000271000000001u) >>
	     32;
	return true;
#else
	(void)p;
	(void)v;
	return false;
#endif
}

/* Reads digits into @m while it has less than DIGITS_MAX of them (*@n counts); then only counts.
 * Returns the first byte that is none. *@over: how many were not taken. */
static inline const uint8_t *take_digits(const uint8_t *p, const uint8_t *end, uint64_t *m,
                                         unsigned *n, int64_t *over)
{
	uint64_t v;
	while (*n + 8 <= DIGITS_MAX && end - p >= 8 && eight_digits(p, &v)) {
		*m = *m * 100000000 + v;
		*n += 8;
		p += 8;
	}
	for (; p < end && json_is_digit(*p) && *n < DIGITS_MAX; p++, (*n)++)
		*m = *m * 10 + (uint64_t)(*p - '0');
	const uint8_t *rest = p;
	while (p < end && json_is_digit(*p))
		p++;
	*over = p - rest;
	return p;
}

/* "e+12" behind a number's digits at j->p; adds to d->e. */
static int exponent(struct json_parse *j, struct json_digits *d)
{
	const uint8_t *p = j->p + 1;
	int64_t e = 0;
	bool minus = p < j->end && *p == '-';
	if (p < j->end && (*p == '-' || *p == '+'))
		p++;
	if (p == j->end)
		return json_cut(j);
	if (!json_is_digit(*p))
		return json_bad(j, "a number with an exponent without digits");
	for (; p < j->end && json_is_digit(*p); p++)
		if (e < EXPONENT_MAX)
			e = e * 10 + (*p - '0');
	d->e += minus ? -e : e;
	d->whole = false;
	j->p = p;
	return JSON_OK;
}

/* ".25" behind a number's whole part at j->p; @n: digits in d->m so far. */
static int fraction(struct json_parse *j, struct json_digits *d, unsigned n)
{
	const uint8_t *p = j->p + 1;
	const uint8_t *start = p;
	int64_t over;
	if (p == j->end)
		return json_cut(j);
	if (!json_is_digit(*p))
		return json_bad(j, "a number with a point without digits");
	if (!d->m)
		for (n = 0; p < j->end && *p == '0';)
			p++;
	p = take_digits(p, j->end, &d->m, &n, &over);
	d->e -= p - start - over;
	d->cut |= over > 0;
	d->whole = false;
	j->p = p;
	return JSON_OK;
}

int json_number_end(struct json_parse *j, struct json_digits *d)
{
	const uint8_t *p = j->p;
	unsigned n = 0;
	int64_t over;
	*d = (struct json_digits){.minus = *p == '-', .whole = true};
	p += d->minus;
	if (p == j->end)
		return json_cut(j);
	if (!json_is_digit(*p)) {
		j->p = p;
		return json_bad(j, "a minus sign without a number");
	}
	const uint8_t *start = p;
	p = take_digits(p, j->end, &d->m, &n, &over);
	j->p = p;
	if (*start == '0' && p - start > 1)
		return json_bad(j, "a number with a leading zero");
	d->e = over;
	d->cut = over > 0;
	int r = JSON_OK;
	if (p < j->end && *p == '.')
		r = fraction(j, d, n);
	if (r == JSON_OK && j->p < j->end && (*j->p | 0x20) == 'e')
		r = exponent(j, d);
	if (r == JSON_OK && j->p == j->end && !j->last)
		return JSON_MORE;
	return r;
}

/* @p * 2^@e, rounded half to even; @sticky: a little more than @p. The result is a normal double.
 */
static double round_to_double(u128 p, int e, bool sticky)
{
	uint64_t high = (uint64_t)(p >> 64);
	int width = high ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll((uint64_t)p);
	int shift = width - 53;
	uint64_t m = (uint64_t)p;
	if (shift > 0) {
		u128 rest = p & (((u128)1 << shift) - 1);
		u128 half = (u128)1 << (shift - 1);
		m = (uint64_t)(p >> shift);
		m += rest > half || (rest == half && (sticky || (m & 1)));
		e += shift;
	}
	uint64_t bits = (uint64_t)(e + 1023) << 52;
	double scale;
	memcpy(&scale, &bits, sizeof(scale));
	return (double)m * scale;
}

/* @m / 5^@k * 2^-@k; m > 0. */
static double divide(uint64_t m, int k)
{
	uint64_t d = power5[k];
	int ld = __builtin_clzll(d);
	int lm = __builtin_clzll(m);
	d <<= ld;
	u128 n = (u128)(m << lm) << 63;
	uint64_t q = (uint64_t)(n / d);
	bool rest = (uint64_t)(n % d) != 0;
	return round_to_double(q, ld - lm - 63 - k, rest);
}

bool json_make_double(uint64_t m, int64_t e, double *d)
{
	if (m == 0) {
		*d = 0;
		return true;
	}
	if (e < -EXACT5 || e > EXACT5)
		return false;
	if (m <= (uint64_t)1 << 53 && e >= -EXACT10 && e <= EXACT10) {
		*d = e < 0 ? (double)m / power10[-e] : (double)m * power10[e];
		return true;
	}
	*d = e < 0 ? divide(m, (int)-e) : round_to_double((u128)m * power5[e], (int)e, false);
	return true;
}

double json_strtod(const char *s)
{
	static locale_t c;
	if (!c)
		c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	return c ? strtod_l(s, NULL, c) : strtod(s, NULL);
}

/* The float written at [p, end), by whatever way reaches it. 0 or -ENOMEM. */
static int read_double(struct json_parse *j, const uint8_t *p, const uint8_t *end,
                       const struct json_digits *d, double *v)
{
	double up;
	if (!d->cut && json_make_double(d->m, d->e, v))
		return 0;
	/* what was cut off lies between m and m + 1: often both are the same double */
	if (d->cut && d->m < UINT64_MAX && json_make_double(d->m, d->e, v) &&
	    json_make_double(d->m + 1, d->e, &up) && *v == up)
		return 0;
	j->text->len = 0;
	int r = buf_add(j->text, p, (size_t)(end - p));
	if (r == 0)
		r = buf_add_byte(j->text, 0);
	if (r == 0)
		*v = fabs(json_strtod((const char *)j->text->p));
	return r;
}

static int put_float(struct json_parse *j, double d)
{
	if (json_space(j) < MP_HEAD_MAX)
		return JSON_ROOM;
	j->o = mp_write_float(j->o, d);
	return JSON_OK;
}

static int put_integer(struct json_parse *j, uint64_t m, bool minus)
{
	uint8_t tmp[MP_HEAD_MAX];
	if (minus && m > (uint64_t)INT64_MAX + 1)
		return json_unfit(j, "an integer larger than 64 bits");
	if (minus && m == 0)
		return put_float(j, -0.0);
	bool fits = json_space(j) >= MP_HEAD_MAX;
	uint8_t *o = fits ? j->o : tmp;
	uint8_t *e = minus ? mp_write_int(o, (int64_t)(0 - m)) : mp_write_uint(o, m);
	if (!fits) {
		if (json_space(j) < (size_t)(e - tmp))
			return JSON_ROOM;
		memcpy(j->o, tmp, (size_t)(e - tmp));
	}
	j->o += e - o;
	return JSON_OK;
}

/* A twentieth digit still fits up to 2^64 - 1. False when it does not, or there are more. */
static bool twenty_digits(const uint8_t *last, struct json_digits *d)
{
	return d->e == 1 && !__builtin_mul_overflow(d->m, (uint64_t)10, &d->m) &&
	       !__builtin_add_overflow(d->m, (uint64_t)(*last - '0'), &d->m);
}

int json_number(struct json_parse *j)
{
	struct json_digits d;
	const uint8_t *p = j->p;
	double v;
	int r = json_number_end(j, &d);
	if (r != JSON_OK)
		return r;
	if (d.whole) {
		if (d.cut && !twenty_digits(j->p - 1, &d))
			return json_unfit(j, "an integer larger than 64 bits");
		return put_integer(j, d.m, d.minus);
	}
	r = read_double(j, p, j->p, &d, &v);
	if (r < 0)
		return r;
	if (isinf(v))
		return json_unfit(j, "a number larger than a float can hold");
	return put_float(j, d.minus ? -v : v);
}
