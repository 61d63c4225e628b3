/*
 * Numbers -> text, for the JSON codec.
 *
 * The hard idea: the fewest digits that read back as the same double. Up to 15 digits, any decimal
 * that reads back is the shortest one, and for ordinary sizes it is found by scaling with an exact
 * power of ten and dividing again. The others are tried with 15, 16 and 17 digits.
 *
 * Invariants: a float's text has a point or an exponent, so that it stays a float; no text depends
 * on the process's locale.
 *
 * Limits: doubles that need 16 or 17 digits go through snprintf and cost about ten times the
 * others.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "stages/codecs/json.h"

enum {
	EXACT10 = 22, /* 10^22 is the last exact power of ten in a double */
};

static const double power10[EXACT10 + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                            1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                            1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static const char two_digits[200] = "00010203040506070809101112131415161718192021222324"
                                    "25262728293031323334353637383940414243444546474849"
                                    "50515253545556575859606162636465666768697071727374"
                                    "75767778798081828384858687888990919293949596979899";

/* Decimal digits of @u: by its bits, corrected by one comparison. */
static unsigned count_digits(uint64_t u)
{
	static const uint64_t power[20] = {0,
	                                   10u,
	                                   100u,
	                                   1000u,
	                                   10000u,
	                                   100000u,
	                                   1000000u,
	                                   10000000u,
	                                   100000000u,
	                                   1000000000u,
	                                   10000000000u,
	                                   100000000000u,
	                                   1000000000000u,
	                                   10000000000000u,
	                                   100000000000000u,
	                                   1000000000000000u,
	                                   10000000000000000u,
	                                   100000000000000000u,
	                                   1000000000000000000u,
	                                   10000000000000000000u};
	unsigned n = (64 - (unsigned)__builtin_clzll(u | 1)) * 1233 >> 12;
	return n + (u >= power[n]);
}

uint8_t *json_put_uint(uint8_t *p, uint64_t u)
{
	/* power[0] is 0, so that 0 has one digit */
	uint8_t *end = p + count_digits(u);
	uint8_t *t = end;
	while (u >= 100) {
		t -= 2;
		memcpy(t, two_digits + 2 * (u % 100), 2);
		u /= 100;
	}
	if (u >= 10)
		memcpy(p, two_digits + 2 * u, 2);
	else
		*p = (uint8_t)('0' + u);
	return end;
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
	/* below the normal range doubles have fewer digits than 15 */
	for (int places = a < DBL_MIN ? 0 : 14; places <= 16; places++) {
		char s[64];
		char back[64];
		double d;
		snprintf(s, sizeof(s), "%.*e", places, a);
		const char *exp = strchr(s, 'e');
		m = 0;
		for (const char *c = s; c < exp; c++)
			if (json_is_digit((uint8_t)*c))
				m = m * 10 + (uint64_t)(*c - '0');
		e10 = atoi(exp + 1) - places;
		if (!json_make_double(m, e10, &d)) {
			snprintf(back, sizeof(back), "%llue%d", (unsigned long long)m, e10);
			d = json_strtod(back);
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
