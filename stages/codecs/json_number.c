/*
 * Numbers: text -> msgpack, and back.
 *
 * The hard idea: m * 10^e with m below 2^64 and |e| <= 27 can be rounded correctly with integers
 * alone, because 5^27 fits in 64 bits: multiply or divide in 128 bits, note whether a remainder is
 * left, round half to even once. That covers nearly all floats that people write; for m below 2^53
 * and |e| <= 22 one exact floating-point operation is enough (W. D. Clinger, "How to read floating
 * point numbers accurately", 1990). The rest goes to strtod_l in the C locale, whatever the
 * process's locale is.
 *
 * Writing looks for the fewest digits that read back as the same double: by scaling where that is
 * exact (up to 15 digits any decimal that reads back is the shortest one), else by trying 16, 17
 * digits.
 *
 * Invariants
 *  - an integer is exact or refused, never rounded; -0 is the float -0.0, since no integer can say
 * it;
 *  - a float's text always has a point or an exponent, so that it stays a float.
 *
 * Limits: a number beyond the largest double is refused; one too small to tell from zero becomes
 * zero.
 */
#include <locale.h>
#include <math.h>
#include <stdio.h>
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

static inline bool is_digit(uint8_t c)
{
	return (uint8_t)(c - '0') < 10;
}

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
	for (; p < end && is_digit(*p) && *n < DIGITS_MAX; p++, (*n)++)
		*m = *m * 10 + (uint64_t)(*p - '0');
	const uint8_t *rest = p;
	while (p < end && is_digit(*p))
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
	if (!is_digit(*p))
		return json_bad(j, "a number with an exponent without digits");
	for (; p < j->end && is_digit(*p); p++)
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
	if (!is_digit(*p))
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
	if (!is_digit(*p)) {
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

/* The double nearest to @m * 10^@e; false when this cheap way does not reach it. */
static bool make_double(uint64_t m, int64_t e, double *d)
{
	if (e < -EXACT5 || e > EXACT5) {
		*d = 0;
		return m == 0;
	}
	if (m <= (uint64_t)1 << 53 && e >= -EXACT10 && e <= EXACT10) {
		*d = e < 0 ? (double)m / power10[-e] : (double)m * power10[e];
		return true;
	}
	*d = e < 0 ? divide(m, (int)-e) : round_to_double((u128)m * power5[e], (int)e, false);
	return true;
}

/* strtod in the C locale. The locale is made once a process and kept. */
static double c_strtod(const char *s)
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
	if (!d->cut && make_double(d->m, d->e, v))
		return 0;
	/* what was cut off lies between m and m + 1: often both are the same double */
	if (d->cut && d->m < UINT64_MAX && make_double(d->m, d->e, v) &&
	    make_double(d->m + 1, d->e, &up) && *v == up)
		return 0;
	j->text->len = 0;
	int r = buf_add(j->text, p, (size_t)(end - p));
	if (r == 0)
		r = buf_add_byte(j->text, 0);
	if (r == 0)
		*v = fabs(c_strtod((const char *)j->text->p));
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

static const char two_digits[200] = "00010203040506070809101112131415161718192021222324"
                                    "25262728293031323334353637383940414243444546474849"
                                    "50515253545556575859606162636465666768697071727374"
                                    "75767778798081828384858687888990919293949596979899";

uint8_t *json_put_uint(uint8_t *p, uint64_t u)
{
	uint8_t tmp[20];
	uint8_t *t = tmp + sizeof(tmp);
	while (u >= 100) {
		t -= 2;
		memcpy(t, two_digits + 2 * (u % 100), 2);
		u /= 100;
	}
	if (u >= 10) {
		t -= 2;
		memcpy(t, two_digits + 2 * u, 2);
	} else {
		*--t = (uint8_t)('0' + u);
	}
	size_t n = (size_t)(tmp + sizeof(tmp) - t);
	memcpy(p, t, n);
	return p + n;
}

uint8_t *json_put_int(uint8_t *p, int64_t i)
{
	if (i >= 0)
		return json_put_uint(p, (uint64_t)i);
	*p = '-';
	return json_put_uint(p + 1, 0 - (uint64_t)i);
}

/* Writes @m * 10^-@k with k decimals, k > 0. */
static uint8_t *put_decimal(uint8_t *p, uint64_t m, unsigned k)
{
	uint8_t digits[24];
	size_t n = (size_t)(json_put_uint(digits, m) - digits);
	if (n <= k) {
		*p++ = '0';
		*p++ = '.';
		memset(p, '0', k - n);
		p += k - n;
		memcpy(p, digits, n);
		return p + n;
	}
	memcpy(p, digits, n - k);
	p += n - k;
	*p++ = '.';
	memcpy(p, digits + n - k, k);
	return p + k;
}

/* Writes 0.DIGITS * 10^@point for @n digits, by exponent where zeros would have to be filled in. */
static uint8_t *put_digits(uint8_t *p, uint64_t m, int n, int point)
{
	if (point > -5 && point < n)
		return put_decimal(p, m, (unsigned)(n - point));
	uint8_t digits[24];
	json_put_uint(digits, m);
	*p++ = digits[0];
	if (n > 1) {
		*p++ = '.';
		memcpy(p, digits + 1, (size_t)n - 1);
		p += n - 1;
	}
	*p++ = 'e';
	return json_put_int(p, point - 1);
}

/* Any positive double, by trying until it reads back; locale-proof, since only digits are looked
 * at. */
static uint8_t *put_by_trying(uint8_t *p, double a)
{
	uint64_t m = 0;
	int e10 = 0;
	for (int places = 14; places <= 16; places++) {
		char s[64];
		char back[64];
		double d;
		snprintf(s, sizeof(s), "%.*e", places, a);
		const char *exp = strchr(s, 'e');
		m = 0;
		for (const char *c = s; c < exp; c++)
			if (is_digit((uint8_t)*c))
				m = m * 10 + (uint64_t)(*c - '0');
		e10 = atoi(exp + 1) - places;
		if (!make_double(m, e10, &d)) {
			snprintf(back, sizeof(back), "%llue%d", (unsigned long long)m, e10);
			d = c_strtod(back);
		}
		if (d == a)
			break;
	}
	for (; m && m % 10 == 0; e10++)
		m /= 10;
	uint8_t tmp[24];
	int n = (int)(json_put_uint(tmp, m) - tmp);
	return put_digits(p, m, n, n + e10);
}

uint8_t *json_put_double(uint8_t *p, double d)
{
	double a = fabs(d);
	if (signbit(d))
		*p++ = '-';
	if (a < 1e15 && a == floor(a)) {
		p = json_put_uint(p, (uint64_t)a);
		*p++ = '.';
		*p++ = '0';
		return p;
	}
	if (a >= 1e-5) {
		for (unsigned k = 1; k <= EXACT10 && a * power10[k] < 1e15; k++) {
			uint64_t m = (uint64_t)(a * power10[k] + 0.5);
			if ((double)m / power10[k] == a)
				return put_decimal(p, m, k);
		}
	}
	return put_by_trying(p, a);
}
