/*
 * Numbers in JSON: integers are exact, floats agree with strtod bit by bit, and are written with
 * the fewest digits that read back.
 */
#include "tests/unit/json_fixture.h"

#include <inttypes.h>
#include <math.h>

static void test_numbers(void **state)
{
	(void)state;
	expect("{\"a\":[0,-0,-1,9223372036854775807,-9223372036854775808,18446744073709551615]}",
	       "{\"a\":[0,-0.0,-1,9223372036854775807,-9223372036854775808,18446744073709551615]}"
	       "\n");
	expect("{\"a\":18446744073709551616}",
	       "!an integer larger than 64 bits|{\"a\":18446744073709551616}\n");
	expect("{\"a\":-9223372036854775809}\n{}",
	       "!an integer larger than 64 bits|{\"a\":-9223372036854775809}\n{}\n");
	expect("{\"a\":100000000000000000000000}",
	       "!an integer larger than 64 bits|{\"a\":100000000000000000000000}\n");
	expect("{\"a\":[1.0,1e5,0.1,-2.5E-3,1e300,5e-324,1.7976931348623157e308,123456789012345678."
	       "0]}",
	       "{\"a\":[1.0,100000.0,0.1,-0.0025,1e300,5e-324,1.7976931348623157e308,"
	       "1.2345678901234568e17]}\n");
	expect("{\"a\":1e400}", "!a number larger than a float can hold|{\"a\":1e400}\n");
	expect("{\"a\":[1e-400,-0.0,0e99999999999]}", "{\"a\":[0.0,-0.0,0.0]}\n");
}

/* Every number of digits, and both sides of each change. */
static void test_integers(void **state)
{
	(void)state;
	uint64_t power = 1;
	char text[128];
	char want[160];
	for (int k = 0; k < 20; k++, power *= 10) {
		for (int d = -1; d < 2; d++) {
			uint64_t u = power + (uint64_t)(int64_t)d;
			int64_t i = -(int64_t)(u >> 1) - 1;
			snprintf(text, sizeof(text), "{\"a\":[%" PRIu64 ",%" PRId64 "]}", u, i);
			snprintf(want, sizeof(want), "%s\n", text);
			expect(text, want);
		}
	}
}

static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

static double number_of(struct fixture *f, const char *number)
{
	char text[2000];
	struct mp v;
	snprintf(text, sizeof(text), "{\"a\":%s}", number);
	feed_str(f, text);
	assert_int_equal(f->host->n, 1);
	assert_false(f->host->items[0].rejected);
	const uint8_t *p = f->host->items[0].p;
	mp_read(p + 3, p + f->host->items[0].len, &v);
	assert_int_equal(v.type, MP_FLOAT);
	return v.d;
}

static void same_double(double a, double b, const char *text)
{
	if (memcmp(&a, &b, sizeof(a)) != 0)
		fail_msg("%s: %a, not %a", text, a, b);
}

static void test_floats_read(void **state)
{
	(void)state;
	struct fixture f;
	char s[1200];
	setup_room(&f, ROOM);
	for (int i = 0; i < 200000; i++) {
		uint64_t m = rng() >> (rng() % 64);
		int e = (int)(rng() % 2 ? rng() % 70 : rng() % 700) - (int)(rng() % 2 ? 35 : 350);
		if (rng() & 1)
			snprintf(s, sizeof(s), "%" PRIu64 "e%d", m, e);
		else
			snprintf(s, sizeof(s), "%u.%" PRIu64 "e%d", (unsigned)(rng() % 1000), m, e);
		double want = strtod(s, NULL);
		if (isfinite(want))
			same_double(number_of(&f, s), want, s);
	}
	/* halfway cases: exact binary midpoints with many digits */
	for (int i = 0; i < 3000; i++) {
		double d = ldexp((double)(rng() >> 11 | 1), (int)(rng() % 100) - 90);
		double next = nextafter(d, INFINITY);
		long double half = ((long double)d + (long double)next) / 2;
		snprintf(s, sizeof(s), "%.*Lf%s", 130, half, i & 1 ? "0001" : "");
		same_double(number_of(&f, s), strtod(s, NULL), s);
	}
	teardown(&f);
}

static void test_floats_written(void **state)
{
	(void)state;
	struct fixture f;
	struct buf b = {0};
	setup_room(&f, ROOM);
	for (int i = 0; i < 200000; i++) {
		double d;
		uint64_t bits = rng();
		memcpy(&d, &bits, sizeof(d));
		if (i % 4 == 1)
			d = (double)(int64_t)(rng() >> (rng() % 60)) / 1000;
		if (i % 4 == 2)
			d = (double)(int64_t)rng() / (double)(rng() >> 10);
		if (i % 4 == 3)
			d = (double)(rng() >> (rng() % 64));
		if (!isfinite(d))
			continue;
		uint8_t rec[16] = {0x81, 0xa1, 'a'};
		struct host_item it = {.p = rec, .len = 12};
		mp_write_float(rec + 3, d);
		const char *text = encode(&f, &it, &b);
		same_double(strtod(text + 5, NULL), d, text);
		same_double(number_of(&f, strtok((char *)b.p + 5, "}")), d, text);
		/* the fewest digits: none with one digit less reads back */
		char shorter[64];
		int digits = 0;
		for (const char *c = text + 5; *c && *c != 'e'; c++)
			digits += *c >= '0' && *c <= '9' && (digits || *c != '0');
		if (d != 0 && fabs(d) >= 1e-5 && fabs(d) < 1e15 && d != floor(d) && digits > 1) {
			snprintf(shorter, sizeof(shorter), "%.*e", digits - 2, d);
			assert_true(strtod(shorter, NULL) != d);
		}
	}
	buf_deinit(&b);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_numbers),
	        cmocka_unit_test(test_integers),
	        cmocka_unit_test(test_floats_read),
	        cmocka_unit_test(test_floats_written),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
