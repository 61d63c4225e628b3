/*
 * The JSON codec: values and their msgpack, what is refused and where it goes on, streams cut at
 * every place, numbers against strtod and printf, the public suites where they are at hand, and
 * round trips.
 */
#include "tests/unit/host.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "stages/codec.h"

extern const struct codec_ops codec_json;

enum {
	ROOM = 256 << 10,
};

struct fixture {
	struct codec codec;
	struct test_host *host;
	struct stage st;
};

static const struct stage_ops dummy = {.name = "dummy", .kind = STAGE_PRODUCER};

static void setup_room(struct fixture *f, size_t room)
{
	assert_int_equal(codec_init(&f->codec, &codec_json, NULL, room), 0);
	f->host = host_new(room);
	host_stage(f->host, &f->st, &dummy, NULL);
	f->st.codec = &f->codec;
}

static void teardown(struct fixture *f)
{
	codec_deinit(&f->codec);
	free(f->st.state);
	host_free(f->host);
}

static void feed(struct fixture *f, const void *text, size_t len)
{
	/* memory of its own, so that a read too far is seen */
	uint8_t *copy = malloc(len + 1);
	assert_non_null(copy);
	memcpy(copy + 1, text, len);
	struct codec_window w = {.p = copy + 1, .end = copy + 1 + len, .last = true};
	host_clear(f->host);
	if (f->codec.ops->reset)
		f->codec.ops->reset(&f->codec);
	assert_int_equal(stage_decode(&f->st, &w, "test", NULL, NULL), 0);
	assert_ptr_equal(w.p, w.end);
	free(copy);
	for (unsigned i = 0; i < f->host->n; i++) {
		struct host_item *it = &f->host->items[i];
		if (!it->rejected)
			assert_ptr_equal(mp_skip(it->p, it->p + it->len), it->p + it->len);
	}
}

static void feed_str(struct fixture *f, const char *text)
{
	feed(f, text, strlen(text));
}

static const char *encode(struct fixture *f, const struct host_item *it, struct buf *b)
{
	b->len = 0;
	assert_int_equal(f->codec.ops->encode(&f->codec, it->p, it->len, b), 0);
	assert_int_equal(buf_add_byte(b, 0), 0);
	return (const char *)b->p;
}

/* What the text becomes: records as JSON, rejects as "!reason|input", one a line. */
static void expect(const char *text, const char *want)
{
	struct fixture f;
	struct buf got = {0};
	struct buf line = {0};
	setup_room(&f, ROOM);
	feed_str(&f, text);
	for (unsigned i = 0; i < f.host->n; i++) {
		struct host_item *it = &f.host->items[i];
		if (it->rejected)
			buf_printf(&got, "!%s|%s\n", it->why, (char *)it->p);
		else
			buf_add_str(&got, encode(&f, it, &line));
	}
	buf_add_byte(&got, 0);
	assert_string_equal((char *)got.p, want);
	buf_deinit(&got);
	buf_deinit(&line);
	teardown(&f);
}

static void test_records(void **state)
{
	(void)state;
	expect("", "");
	expect(" \n\r\t\n", "");
	expect("{}", "{}\n");
	expect("{}{}\n\n {}", "{}\n{}\n{}\n");
	expect("{\"a\":1}", "{\"a\":1}\n");
	expect("{ \"a\" : [ 1 , [ ] , { } , \"x\" , null , true , false ] }\n",
	       "{\"a\":[1,[],{},\"x\",null,true,false]}\n");
	expect("{\n  \"a\": {\n                                   \"b\": 1\n  }\n}\n{\"c\":2}",
	       "{\"a\":{\"b\":1}}\n{\"c\":2}\n");
	expect("\xef\xbb\xbf{\"a\":1}", "{\"a\":1}\n");
	expect("{\"\":\"\"}", "{\"\":\"\"}\n");
}

static void test_strings(void **state)
{
	(void)state;
	expect("{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "{\"a\":\"\\\"\\\\/\\b\\f\\n\\r\\t\"}\n");
	expect("{\"a\":\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00\"}",
	       "{\"a\":\"A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"}\n");
	expect("{\"a\":\"\\u0000\\u001f\\u007f\"}", "{\"a\":\"\\u0000\\u001f\x7f\"}\n");
	expect("{\"a\":\"\\u000b\"}", "{\"a\":\"\\u000b\"}\n");
	expect("{\"a\":"
	       "\"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\"}",
	       "{\"a\":"
	       "\"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\"}\n");
	expect("{\"\\u0061\":1}", "{\"a\":1}\n");
}

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

static void test_refused(void **state)
{
	(void)state;
	expect("[1]{\"a\":1}", "!not a record: an array|[1]\n{\"a\":1}\n");
	expect("1\n\"x\" true null {}",
	       "!not a record: a number|1\n!not a record: a string|\"x\"\n"
	       "!not a record: a boolean|true\n!not a record: null|null\n{}\n");
	expect("2024-01-31 hello\n{}", "!this is not JSON|2024-01-31 hello\n{}\n");
	expect("hello\n{}", "!this is not JSON|hello\n{}\n");
	expect("{\"a\":1,\"a\":2}{}", "!the same key twice|{\"a\":1,\"a\":2}\n{}\n");
	expect("{\"b\":{\"a\":1,\n\"\\u0061\":2}}{}",
	       "!the same key twice|{\"b\":{\"a\":1,\n\"\\u0061\":2}}\n{}\n");
	expect("{\"a\":{\"a\":{\"a\":1}},\"b\":[{\"a\":1},{\"a\":1}]}",
	       "{\"a\":{\"a\":{\"a\":1}},\"b\":[{\"a\":1},{\"a\":1}]}\n");
	expect("{\"a\":\"\\ud800\"}{}",
	       "!half of a surrogate pair in a string|{\"a\":\"\\ud800\"}\n{}\n");
	expect("{\"a\":\"\\udc00\\ud800\"}",
	       "!half of a surrogate pair in a string|{\"a\":\"\\udc00\\ud800\"}\n");
	expect("{\"a\":\"\xff\"}{}", "!a string is not UTF-8|{\"a\":\"\xff\"}\n{}\n");
	expect("{\"a\":\"\xed\xa0\x80\"}", "!a string is not UTF-8|{\"a\":\"\xed\xa0\x80\"}\n");
	expect("{\"a\":tru}\n{}", "!this is not JSON|{\"a\":tru}\n{}\n");
	expect("{\"a\":1", "!ends in the middle of a value|{\"a\":1\n");
	expect("{\"a\":01}", "!a number with a leading zero|{\"a\":01}\n");
	expect("{\"a\":1,}", "!a key has to be a string in quotes|{\"a\":1,}\n");
}

/* A value that was cut off must not take the next line with it. */
static void test_goes_on(void **state)
{
	(void)state;
	expect("{\"a\":1,\"b\":\n{\"x\":1}\n{\"y\":1}\n",
	       "!a comma or a brace has to follow a value|{\"a\":1,\"b\":\n{\"x\":1}\n{\"y\":1}\n");
	expect("{\"a\":1,\n{\"x\":1}\n",
	       "!a key has to be a string in quotes|{\"a\":1,\n{\"x\":1}\n");
	expect("{\"a\":\"tru\n{\"x\":1}\n",
	       "!a control character in a string|{\"a\":\"tru\n{\"x\":1}\n");
	expect("{\"a\":1,\"a\":2\n{\"x\":1}\n",
	       "!the same key twice|{\"a\":1,\"a\":2\n{\"x\":1}\n");
}

static void test_depth(void **state)
{
	(void)state;
	struct fixture f;
	struct buf b = {0};
	setup_room(&f, ROOM);
	static const unsigned depths[] = {1, 127, 128, 129, 1000, 5000, 100000};
	for (size_t i = 0; i < sizeof(depths) / sizeof(depths[0]); i++) {
		unsigned d = depths[i];
		b.len = 0;
		buf_add_str(&b, "{\"a\":");
		for (unsigned k = 1; k < d; k++)
			buf_add_byte(&b, '[');
		if (d == 1)
			buf_add_byte(&b, '1');
		for (unsigned k = 1; k < d; k++)
			buf_add_byte(&b, ']');
		buf_add_str(&b, "}\n{\"b\":1}\n");
		feed(&f, b.p, b.len);
		assert_int_equal(f.host->n, 2);
		assert_int_equal(f.host->items[0].rejected, d > 128);
		assert_false(f.host->items[1].rejected);
		if (d > 128)
			assert_string_equal(f.host->items[0].why, "nested too deep");
	}
	buf_deinit(&b);
	teardown(&f);
}

/* Containers around every change of head width, twice in a row, so that right and wrong guesses
 * occur. */
static void test_head_widths(void **state)
{
	(void)state;
	struct fixture f;
	struct buf b = {0};
	struct buf line = {0};
	setup_room(&f, 4 << 20);
	static const unsigned sizes[] = {0, 1, 15, 16, 17, 16, 3, 65535, 65536, 65536, 2, 40};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		b.len = 0;
		buf_add_str(&b, "{\"l\":[");
		for (unsigned k = 0; k < sizes[i]; k++)
			buf_printf(&b, "%s%u", k ? "," : "", k);
		buf_add_str(&b, "],\"m\":{");
		for (unsigned k = 0; k < sizes[i]; k++)
			buf_printf(&b, "%s\"k%u\":%u", k ? "," : "", k, k);
		buf_add_str(&b, "}}\n");
		feed(&f, b.p, b.len);
		assert_int_equal(f.host->n, 1);
		encode(&f, &f.host->items[0], &line);
		assert_int_equal(line.len, b.len + 1);
		assert_memory_equal(line.p, b.p, b.len);
	}
	buf_deinit(&b);
	buf_deinit(&line);
	teardown(&f);
}

static void test_string_lengths(void **state)
{
	(void)state;
	struct fixture f;
	struct buf b = {0};
	struct buf line = {0};
	setup_room(&f, ROOM);
	for (unsigned n = 0; n < 70000; n += n < 300 ? 1 : 13057) {
		b.len = 0;
		buf_add_str(&b, "{\"k");
		for (unsigned k = 0; k < n; k++)
			buf_add_byte(&b, (uint8_t)('a' + k % 26));
		buf_add_str(&b, "\":\"");
		for (unsigned k = 0; k < n; k++)
			buf_add_byte(&b, (uint8_t)('a' + k % 26));
		buf_add_str(&b, n % 3 ? "\\n\"}\n" : "\"}\n");
		feed(&f, b.p, b.len);
		assert_int_equal(f.host->n, 1);
		assert_false(f.host->items[0].rejected);
		encode(&f, &f.host->items[0], &line);
		assert_int_equal(line.len, b.len + 1);
		assert_memory_equal(line.p, b.p, b.len);
	}
	buf_deinit(&b);
	buf_deinit(&line);
	teardown(&f);
}

/* Every room from nothing to enough: ROOM until it fits, and then the very same bytes. */
static void test_room(void **state)
{
	(void)state;
	static const char text[] =
	        "{\"id\":18446744073709551615,\"s\":\"some text here\","
	        "\"l\":[1,2.5,-300,null,true],\"e\":\"a\\nb\",\"u\":{\"c\":\"DE\"}}";
	struct codec c;
	uint8_t whole[256];
	size_t want = 0;
	size_t len = 0;
	assert_int_equal(codec_init(&c, &codec_json, NULL, 1000), 0);
	const uint8_t *p = (const uint8_t *)text;
	struct codec_window w = {.p = p, .end = p + sizeof(text) - 1, .last = true};
	assert_int_equal(c.ops->decode(&c, &w, whole, sizeof(whole), &want), CODEC_E_OK);
	for (size_t room = 0; room <= want; room++) {
		uint8_t *tight = malloc(room ? room : 1);
		assert_non_null(tight);
		w.p = p;
		int r = c.ops->decode(&c, &w, tight, room, &len);
		assert_int_equal(r, room < want ? CODEC_E_ROOM : CODEC_E_OK);
		if (r == CODEC_E_OK) {
			assert_int_equal(len, want);
			assert_memory_equal(tight, whole, want);
		} else {
			assert_ptr_equal(w.p, p);
		}
		free(tight);
	}
	codec_deinit(&c);
}

static void test_too_large(void **state)
{
	(void)state;
	struct fixture f;
	struct buf b = {0};
	setup_room(&f, 128);
	buf_add_str(&b, "{\"a\":1}\n{\"a\":\n\"");
	for (int i = 0; i < 300; i++)
		buf_add_byte(&b, 'x');
	buf_add_str(&b, "\",\n\"b\":[1,2]}{\"c\":1}\n");
	feed(&f, b.p, b.len);
	assert_int_equal(f.host->n, 3);
	assert_false(f.host->items[0].rejected);
	assert_string_equal(f.host->items[1].why, "larger than a buffer (128 bytes)");
	assert_string_equal(f.host->items[1].at, "test, byte 8");
	assert_int_equal(f.host->items[1].p[f.host->items[1].len - 1], '}');
	assert_false(f.host->items[2].rejected);
	buf_deinit(&b);
	teardown(&f);
}

/* Feeds @text as a stream with windows that grow by @step bytes, as a file being read would. */
static void feed_stream(struct fixture *f, const char *text, size_t len, size_t first, size_t step)
{
	size_t off = 0;
	host_clear(f->host);
	f->codec.ops->reset(&f->codec);
	for (size_t end = first;; end = end + step < len ? end + step : len) {
		size_t n = end - off;
		uint8_t *copy = malloc(n + 1);
		assert_non_null(copy);
		memcpy(copy + 1, text + off, n);
		struct codec_window w = {copy + 1, copy + 1 + n, end == len, NULL, 0, NULL};
		assert_int_equal(stage_decode(&f->st, &w, "test", NULL, NULL), 0);
		off += (size_t)(w.p - copy - 1);
		free(copy);
		if (end == len)
			break;
	}
	assert_int_equal(off, len);
}

static void same_items(struct fixture *a, struct fixture *b)
{
	assert_int_equal(a->host->n, b->host->n);
	for (unsigned i = 0; i < a->host->n; i++) {
		struct host_item *x = &a->host->items[i];
		struct host_item *y = &b->host->items[i];
		assert_int_equal(x->rejected, y->rejected);
		assert_string_equal(x->why, y->why);
		assert_int_equal(x->len, y->len);
		assert_memory_equal(x->p, y->p, x->len);
	}
}

static void test_every_cut(void **state)
{
	(void)state;
	static const char text[] =
	        "\xef\xbb\xbf {\"a\":1,\"s\":\"x\\u20ac\\ud83d\\ude00 "
	        "\xe2\x82\xac\"}{\"b\":[1.5e3,-7]}\n"
	        "[1,\n2]\n12 true \"s\" nul\n{\"a\":tru}\n\n{\"d\":1,\n "
	        "\"d\":2}\n{\"cut\":\n{\"x\":1}\n"
	        "{\"y\":123456789012345678901}\n2024-05-06\n{\"z\":{\"q\":null}}\n{\"end\":";
	struct fixture whole;
	struct fixture cut;
	setup_room(&whole, ROOM);
	setup_room(&cut, ROOM);
	feed(&whole, text, sizeof(text) - 1);
	assert_true(whole.host->n > 10);
	for (size_t i = 0; i < sizeof(text) - 1; i++) {
		feed_stream(&cut, text, sizeof(text) - 1, i, sizeof(text));
		same_items(&whole, &cut);
	}
	for (size_t step = 1; step < 9; step++) {
		feed_stream(&cut, text, sizeof(text) - 1, 0, step);
		same_items(&whole, &cut);
	}
	teardown(&whole);
	teardown(&cut);
}

/* Text that never ends does not make the window grow for ever. */
static void test_endless(void **state)
{
	(void)state;
	struct fixture f;
	setup_room(&f, 1024);
	size_t len = 1 << 20;
	char *text = malloc(len);
	assert_non_null(text);
	memset(text, 'x', len);
	memcpy(text, "{\"a\":\"", 6);
	memcpy(text + len - 10, "\n{\"b\":1}\n", 9);
	text[len - 1] = '\n';
	feed_stream(&f, text, len, 0, 4096);
	assert_int_equal(f.host->n, 2);
	assert_true(f.host->items[0].rejected);
	assert_in_range(f.host->items[0].len, 1024, 32768);
	assert_false(f.host->items[1].rejected);
	free(text);
	teardown(&f);
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

static void encoded(const char *rec, size_t len, const char *want)
{
	struct fixture f;
	struct buf b = {0};
	struct host_item it = {.p = (uint8_t *)(uintptr_t)rec, .len = len};
	setup_room(&f, ROOM);
	assert_string_equal(encode(&f, &it, &b), want);
	buf_deinit(&b);
	teardown(&f);
}

#define ENCODED(rec, want) encoded(rec, sizeof(rec) - 1, want)

static void test_encode(void **state)
{
	(void)state;
	ENCODED("\x81\xa1"
	        "a\xcb\x7f\xf8\0\0\0\0\0\0",
	        "{\"a\":null}\n");
	ENCODED("\x81\xa1"
	        "a\xca\xff\x80\0\0",
	        "{\"a\":null}\n");
	ENCODED("\x81\xa1"
	        "a\xca\x3f\xc0\0\0",
	        "{\"a\":1.5}\n");
	ENCODED("\x81\xa1"
	        "a\xc4\x00",
	        "{\"a\":\"\"}\n");
	ENCODED("\x81\xa1"
	        "a\xc4\x01"
	        "f",
	        "{\"a\":\"Zg==\"}\n");
	ENCODED("\x81\xa1"
	        "a\xc4\x06"
	        "foobar",
	        "{\"a\":\"Zm9vYmFy\"}\n");
	ENCODED("\x81\xa1"
	        "a\xc4\x05"
	        "fooba",
	        "{\"a\":\"Zm9vYmE=\"}\n");
	ENCODED("\x81\xa1"
	        "a\xd4\x05\xff",
	        "{\"a\":{\"ext\":5,\"data\":\"/w==\"}}\n");
	ENCODED("\x81\xa1"
	        "a\xd6\xff\x00\x00\x00\x00",
	        "{\"a\":\"1970-01-01T00:00:00Z\"}\n");
	ENCODED("\x81\xa1"
	        "a\xd7\xff\x77\x35\x94\x00\x65\x53\xf1\x00",
	        "{\"a\":\"2023-11-14T22:13:20.500Z\"}\n");
	ENCODED("\x81\xa1"
	        "a\xc7\x0c\xff\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff",
	        "{\"a\":\"1969-12-31T23:59:59.000000001Z\"}\n");
	ENCODED("\x84\x01\x01\xc3\x02\xc0\x03\xcb\x3f\xf8\0\0\0\0\0\0\x04",
	        "{\"1\":1,\"true\":2,\"null\":3,\"1.5\":4}\n");
}

static void test_encode_refuses(void **state)
{
	(void)state;
	static const struct {
		const char *rec;
		size_t len;
	} bad[] = {{"\x81\xa1"
	            "a\xa1\xff",
	            5},
	           {"\x81\x80\x01", 3},
	           {"\x81\xa1"
	            "a",
	            3}};
	struct codec c;
	struct buf b = {0};
	assert_int_equal(codec_init(&c, &codec_json, NULL, ROOM), 0);
	buf_add_str(&b, "before");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int r = c.ops->encode(&c, (const uint8_t *)bad[i].rec, bad[i].len, &b);
		assert_int_equal(r, CODEC_E_REJECT);
		assert_non_null(c.why);
		assert_int_equal(b.len, 6);
	}
	buf_deinit(&b);
	codec_deinit(&c);
}

/* Maps with very many keys, unlike and alike. */
static void test_many_keys(void **state)
{
	(void)state;
	struct fixture f;
	struct buf b = {0};
	setup_room(&f, 4 << 20);
	for (int twice = 0; twice < 2; twice++) {
		b.len = 0;
		buf_add_str(&b, "{");
		for (unsigned i = 0; i < 100000; i++)
			buf_printf(&b, "\"key%u\":{\"x\":1},", i);
		buf_printf(&b, "\"key%d\":1}", twice ? 77 : -1);
		feed(&f, b.p, b.len);
		assert_int_equal(f.host->n, 1);
		assert_int_equal(f.host->items[0].rejected, twice);
	}
	buf_deinit(&b);
	teardown(&f);
}

static char *data_path(const char *name, char *path, size_t size)
{
	const char *dirs[] = {getenv("SLUICE_DATA"), "../shared/data", "../../shared/data"};
	for (size_t i = 0; i < 3; i++) {
		if (!dirs[i])
			continue;
		snprintf(path, size, "%s/%s", dirs[i], name);
		if (access(path, R_OK) == 0)
			return path;
	}
	print_message("%s is not here: skipped\n", name);
	skip();
	return NULL;
}

/* Reads a file, packed or not. */
static void slurp(const char *path, struct buf *b)
{
	char command[6000];
	snprintf(command, sizeof(command), "gzip -dcf '%s'", path);
	FILE *f = popen(command, "r");
	assert_non_null(f);
	b->len = 0;
	for (size_t n = 1; n; b->len += n) {
		assert_int_equal(buf_room(b, 65536), 0);
		n = fread(b->p + b->len, 1, 65536, f);
	}
	assert_int_equal(pclose(f), 0);
}

/* @name's first letter says what has to happen. Returns whether it was taken. */
static void suite_case(struct fixture *f, const char *name, const struct buf *b)
{
	unsigned records = 0;
	unsigned not_record = 0;
	unsigned other = 0;
	feed(f, b->p, b->len);
	for (unsigned i = 0; i < f->host->n; i++) {
		const struct host_item *it = &f->host->items[i];
		if (!it->rejected)
			records++;
		else if (strncmp(it->why, "not a record: ", 14) == 0)
			not_record++;
		else
			other++;
	}
	const uint8_t *p = b->p;
	size_t left = b->len;
	for (; left && strchr(" \t\r\n", *p); left--)
		p++;
	bool duplicate = strstr(name, "duplicated_key") != NULL;
	bool fine = true;
	if (*name == 'y' && duplicate)
		fine = records == 0 && other == 1;
	else if (*name == 'y' && *p == '{')
		fine = records == 1 && not_record == 0 && other == 0;
	else if (*name == 'y')
		fine = records == 0 && not_record == 1 && other == 0;
	else if (*name == 'n')
		/* several values are well-formed here, one behind the other */
		fine = other > 0 || records + not_record > 1 || f->host->n == 0;
	if (!fine)
		fail_msg("%s: %u records, %u other values, %u refused", name, records, not_record,
		         other);
}

static void test_json_test_suite(void **state)
{
	(void)state;
	char dir[4096];
	char path[5000];
	struct fixture f;
	struct buf b = {0};
	unsigned n = 0;
	data_path("json/JSONTestSuite/test_parsing", dir, sizeof(dir));
	DIR *d = opendir(dir);
	assert_non_null(d);
	setup_room(&f, ROOM);
	for (struct dirent *e; (e = readdir(d));) {
		if (!strstr(e->d_name, ".json"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		slurp(path, &b);
		suite_case(&f, e->d_name, &b);
		n++;
	}
	assert_int_equal(n, 318);
	closedir(d);
	buf_deinit(&b);
	teardown(&f);
}

/* Decodes, encodes, decodes: the same bytes. Leaves the first record in f. */
static void round_trip(struct fixture *f, const struct buf *text)
{
	struct buf line = {0};
	feed(f, text->p, text->len);
	unsigned n = f->host->n;
	for (unsigned i = 0; i < n; i++) {
		struct host_item *it = &f->host->items[i];
		struct fixture again;
		assert_false(it->rejected);
		encode(f, it, &line);
		setup_room(&again, f->host->room);
		feed(&again, line.p, line.len - 1);
		assert_int_equal(again.host->n, 1);
		assert_false(again.host->items[0].rejected);
		assert_int_equal(again.host->items[0].len, it->len);
		assert_memory_equal(again.host->items[0].p, it->p, it->len);
		teardown(&again);
	}
	buf_deinit(&line);
}

static uint64_t get_uint(const uint8_t *p, const uint8_t *end, const char *path)
{
	struct record r = {0};
	const char *why;
	uint32_t len = 0;
	assert_int_equal(record_open(&r, p, (size_t)(end - p), &why), 0);
	const uint8_t *v = record_path(&r, path, strlen(path), &len);
	struct mp m = record_value(v, len);
	record_deinit(&r);
	assert_int_equal(m.type, MP_UINT);
	return m.u;
}

static void test_twitter(void **state)
{
	(void)state;
	char path[4096];
	struct fixture f;
	struct buf b = {0};
	data_path("json/real/twitter.json", path, sizeof(path));
	slurp(path, &b);
	setup_room(&f, 4 << 20);
	round_trip(&f, &b);
	assert_int_equal(f.host->n, 1);
	struct record r = {0};
	const char *why;
	uint32_t len = 0;
	assert_int_equal(record_open(&r, f.host->items[0].p, f.host->items[0].len, &why), 0);
	const uint8_t *p = record_path(&r, "statuses", 8, &len);
	const uint8_t *end = p + len;
	struct mp v;
	p = mp_read(p, end, &v);
	assert_int_equal(v.n, 100);
	uint64_t retweets = 0;
	uint64_t max_id = 0;
	for (uint32_t i = 0; i < 100; i++) {
		const uint8_t *next = mp_skip(p, end);
		uint64_t id = get_uint(p, next, "id");
		retweets += get_uint(p, next, "retweet_count");
		max_id = id > max_id ? id : max_id;
		p = next;
	}
	assert_int_equal(retweets, 7122);
	assert_true(max_id == 505874924095815681u);
	record_deinit(&r);
	buf_deinit(&b);
	teardown(&f);
}

static void test_citm(void **state)
{
	(void)state;
	char path[4096];
	struct fixture f;
	struct buf b = {0};
	data_path("json/real/citm_catalog.json.gz", path, sizeof(path));
	slurp(path, &b);
	setup_room(&f, 4 << 20);
	round_trip(&f, &b);
	struct record r = {0};
	const char *why;
	uint32_t len = 0;
	uint64_t sum = 0;
	unsigned prices = 0;
	assert_int_equal(record_open(&r, f.host->items[0].p, f.host->items[0].len, &why), 0);
	const uint8_t *p = record_path(&r, "performances", 12, &len);
	const uint8_t *end = p + len;
	struct mp v;
	p = mp_read(p, end, &v);
	assert_int_equal(v.n, 243);
	for (uint32_t i = 0; i < 243; i++) {
		struct record perf = {0};
		const uint8_t *next = mp_skip(p, end);
		assert_int_equal(record_open(&perf, p, (size_t)(next - p), &why), 0);
		const uint8_t *q = record_path(&perf, "prices", 6, &len);
		const uint8_t *q_end = q + len;
		q = mp_read(q, q_end, &v);
		for (uint32_t k = v.n; k; k--, prices++) {
			const uint8_t *q_next = mp_skip(q, q_end);
			sum += get_uint(q, q_next, "amount");
			q = q_next;
		}
		record_deinit(&perf);
		p = next;
	}
	assert_int_equal(prices, 907);
	assert_int_equal(sum, 42356300);
	record_deinit(&r);
	buf_deinit(&b);
	teardown(&f);
}

static void test_apt_index(void **state)
{
	(void)state;
	char path[4096];
	struct codec c;
	struct buf b = {0};
	struct buf line = {0};
	static uint8_t room[ROOM];
	size_t len = 0;
	unsigned n = 0;
	uint64_t sum = 0;
	data_path("apt-index/sample.ndjson.gz", path, sizeof(path));
	slurp(path, &b);
	assert_int_equal(codec_init(&c, &codec_json, NULL, ROOM), 0);
	struct codec_window w = {.p = b.p, .end = b.p + b.len, .last = true};
	for (int r; (r = c.ops->decode(&c, &w, room, ROOM, &len)) != CODEC_E_END; n++) {
		assert_int_equal(r, CODEC_E_OK);
		sum += get_uint(room, room + len, "Size");
	}
	assert_int_equal(n, 4898);
	assert_true(sum == 9164180768u);
	buf_deinit(&b);
	buf_deinit(&line);
	codec_deinit(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_records),     cmocka_unit_test(test_strings),
	        cmocka_unit_test(test_numbers),     cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_goes_on),     cmocka_unit_test(test_depth),
	        cmocka_unit_test(test_head_widths), cmocka_unit_test(test_string_lengths),
	        cmocka_unit_test(test_room),        cmocka_unit_test(test_too_large),
	        cmocka_unit_test(test_every_cut),   cmocka_unit_test(test_endless),
	        cmocka_unit_test(test_floats_read), cmocka_unit_test(test_floats_written),
	        cmocka_unit_test(test_encode),      cmocka_unit_test(test_encode_refuses),
	        cmocka_unit_test(test_many_keys),   cmocka_unit_test(test_json_test_suite),
	        cmocka_unit_test(test_twitter),     cmocka_unit_test(test_citm),
	        cmocka_unit_test(test_apt_index),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
