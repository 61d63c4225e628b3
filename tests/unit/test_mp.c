/*
 * mp.[ch] against msgpack-c as the oracle: random values both ways, every prefix of every value,
 * and a table of hand-made bad input. UTF-8 against Markus Kuhn's stress test where it is at hand,
 * and against a plain decoder by random bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <msgpack.h>

#include "ipc/mp.h"

static uint64_t rng_state = 88172645463325252u;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

/* Packs a random value with msgpack-c. */
static void pack_random(msgpack_packer *pk, int depth)
{
	char bytes[70000];
	size_t len = rng() % 100 == 0 ? rng() % sizeof(bytes) : rng() % 40;
	uint64_t u = rng() >> (rng() % 64);
	memset(bytes, 'a' + (int)(rng() % 20), len);
	switch (rng() % (depth > 4 ? 8 : 10)) {
	case 0:
		msgpack_pack_nil(pk);
		break;
	case 1:
		rng() & 1 ? msgpack_pack_true(pk) : msgpack_pack_false(pk);
		break;
	case 2:
		msgpack_pack_uint64(pk, u);
		break;
	case 3:
		msgpack_pack_int64(pk, -(int64_t)(u >> 1) - 1);
		break;
	case 4:
		rng() & 1 ? msgpack_pack_double(pk, (double)u / 7) : msgpack_pack_float(pk, 1.5f);
		break;
	case 5:
		msgpack_pack_str(pk, len);
		msgpack_pack_str_body(pk, bytes, len);
		break;
	case 6:
		msgpack_pack_bin(pk, len);
		msgpack_pack_bin_body(pk, bytes, len);
		break;
	case 7:
		msgpack_pack_ext(pk, len, (int8_t)u);
		msgpack_pack_ext_body(pk, bytes, len);
		break;
	case 8:
		len = rng() % 20;
		msgpack_pack_array(pk, len);
		for (size_t i = 0; i < len; i++)
			pack_random(pk, depth + 1);
		break;
	default:
		len = rng() % 20;
		msgpack_pack_map(pk, len);
		for (size_t i = 0; i < 2 * len; i++)
			pack_random(pk, depth + 1);
	}
}

static const uint8_t *same(const msgpack_object *o, const uint8_t *p, const uint8_t *end)
{
	struct mp v;
	p = mp_read(p, end, &v);
	assert_non_null(p);
	switch (o->type) {
	case MSGPACK_OBJECT_NIL:
		assert_int_equal(v.type, MP_NIL);
		break;
	case MSGPACK_OBJECT_BOOLEAN:
		assert_int_equal(v.type, MP_BOOL);
		assert_int_equal(v.b, o->via.boolean);
		break;
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		assert_int_equal(v.type, MP_UINT);
		assert_true(v.u == o->via.u64);
		break;
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		assert_int_equal(v.type, MP_INT);
		assert_true(v.i == o->via.i64);
		break;
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		assert_int_equal(v.type, MP_FLOAT);
		assert_memory_equal(&v.d, &o->via.f64, 8);
		break;
	case MSGPACK_OBJECT_STR:
	case MSGPACK_OBJECT_BIN:
		assert_int_equal(v.type, o->type == MSGPACK_OBJECT_STR ? MP_STR : MP_BIN);
		assert_int_equal(v.len, o->via.str.size);
		assert_memory_equal(v.p, o->via.str.ptr, v.len);
		break;
	case MSGPACK_OBJECT_EXT:
		assert_int_equal(v.type, MP_EXT);
		assert_int_equal(v.ext, o->via.ext.type);
		assert_int_equal(v.len, o->via.ext.size);
		assert_memory_equal(v.p, o->via.ext.ptr, v.len);
		break;
	case MSGPACK_OBJECT_ARRAY:
		assert_int_equal(v.type, MP_ARRAY);
		assert_int_equal(v.n, o->via.array.size);
		for (uint32_t i = 0; i < v.n; i++)
			p = same(&o->via.array.ptr[i], p, end);
		break;
	case MSGPACK_OBJECT_MAP:
		assert_int_equal(v.type, MP_MAP);
		assert_int_equal(v.n, o->via.map.size);
		for (uint32_t i = 0; i < v.n; i++) {
			p = same(&o->via.map.ptr[i].key, p, end);
			p = same(&o->via.map.ptr[i].val, p, end);
		}
		break;
	default:
		fail();
	}
	return p;
}

/* Reads everything and writes it again: msgpack-c chooses shortest forms too, floats apart. */
static size_t rewrite(const uint8_t *p, const uint8_t *end, uint8_t *out)
{
	uint8_t *o = out;
	while (p < end) {
		struct mp v;
		p = mp_read(p, end, &v);
		assert_non_null(p);
		o = mp_write(o, &v);
	}
	return (size_t)(o - out);
}

static void test_oracle(void **state)
{
	(void)state;
	static uint8_t out[64 << 20];
	for (int round = 0; round < 2000; round++) {
		msgpack_sbuffer sb;
		msgpack_packer pk;
		msgpack_unpacked u;
		msgpack_sbuffer_init(&sb);
		msgpack_packer_init(&pk, &sb, msgpack_sbuffer_write);
		pack_random(&pk, 0);
		const uint8_t *p = (const uint8_t *)sb.data;
		const uint8_t *end = p + sb.size;
		msgpack_unpacked_init(&u);
		assert_int_equal(msgpack_unpack_next(&u, sb.data, sb.size, NULL),
		                 MSGPACK_UNPACK_SUCCESS);
		assert_ptr_equal(same(&u.data, p, end), end);
		assert_ptr_equal(mp_skip(p, end), end);
		assert_true(sb.size * 3 < sizeof(out));
		size_t n = rewrite(p, end, out);
		assert_ptr_equal(same(&u.data, out, out + n), out + n);
		msgpack_unpacked_destroy(&u);
		msgpack_sbuffer_destroy(&sb);
	}
}

static void test_every_prefix_is_truncated(void **state)
{
	(void)state;
	for (int round = 0; round < 300; round++) {
		msgpack_sbuffer sb;
		msgpack_packer pk;
		msgpack_sbuffer_init(&sb);
		msgpack_packer_init(&pk, &sb, msgpack_sbuffer_write);
		pack_random(&pk, 3);
		size_t step = sb.size > 3000 ? sb.size / 300 : 1;
		for (size_t len = 0; len < sb.size; len += step) {
			/* an allocation of its own, so that a read too far is seen */
			uint8_t *copy = malloc(len + 1);
			assert_non_null(copy);
			memcpy(copy + 1, sb.data, len);
			assert_null(mp_skip(copy + 1, copy + 1 + len));
			free(copy);
		}
		msgpack_sbuffer_destroy(&sb);
	}
}

static void test_bad(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t len;
	} bad[] = {
	        {"", 0},
	        {"\xc1", 1},
	        {"\x91\xc1", 2},
	        {"\xdf\xff\xff\xff\xff\x01\x02", 7},
	        {"\xdd\xff\xff\xff\xff\x01\x02", 7},
	        {"\xdb\xff\xff\xff\xff zz", 8},
	        {"\xc6\xff\xff\xff\xff zz", 8},
	        {"\xc9\xff\xff\xff\xff zz", 8},
	        {"\xdf\x80\x00\x00\x00\x01\x02", 7},
	        {"\x81\xa1k", 3},
	        {"\xd8\x01", 2},
	        {"\xcf\x01\x02\x03\x04\x05\x06\x07", 8},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint8_t *copy = malloc(bad[i].len + 1);
		assert_non_null(copy);
		memcpy(copy + 1, bad[i].bytes, bad[i].len);
		assert_null(mp_skip(copy + 1, copy + 1 + bad[i].len));
		free(copy);
	}
}

static void test_depth(void **state)
{
	(void)state;
	uint8_t deep[100001];
	memset(deep, 0x91, sizeof(deep));
	deep[MP_DEPTH_HELD] = 0xc0;
	assert_ptr_equal(mp_skip(deep, deep + sizeof(deep)), deep + MP_DEPTH_HELD + 1);
	deep[MP_DEPTH_HELD - 1] = 0x90;
	assert_ptr_equal(mp_skip(deep, deep + sizeof(deep)), deep + MP_DEPTH_HELD);
	memset(deep, 0x91, sizeof(deep));
	deep[MP_DEPTH_HELD] = 0x90;
	assert_null(mp_skip(deep, deep + sizeof(deep)));
	deep[sizeof(deep) - 1] = 0xc0;
	deep[MP_DEPTH_HELD] = 0x91;
	assert_null(mp_skip(deep, deep + sizeof(deep)));
}

static void test_integers(void **state)
{
	(void)state;
	static const int64_t values[] = {0,         1,        127,    128,        255,
	                                 256,       65535,    65536,  4294967295, 4294967296,
	                                 INT64_MAX, -1,       -32,    -33,        -128,
	                                 -129,      -32768,   -32769, INT32_MIN,  INT32_MIN - 1ll,
	                                 INT64_MIN, INT32_MAX};
	static const size_t sizes[] = {1, 1, 1, 2, 2, 3, 3, 5, 5, 9, 9,
	                               1, 1, 2, 2, 3, 3, 5, 5, 9, 9, 5};
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		uint8_t b[MP_HEAD_MAX];
		struct mp v;
		uint8_t *e = mp_write_int(b, values[i]);
		assert_int_equal(e - b, sizes[i]);
		assert_ptr_equal(mp_read(b, e, &v), e);
		assert_int_equal(v.type, values[i] < 0 ? MP_INT : MP_UINT);
		assert_true(v.i == values[i]);
	}
}

/* The plainest decoder: code point by code point. */
static bool utf8_plain(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len;) {
		uint32_t c = p[i++];
		unsigned more = c < 0x80   ? 0
		                : c < 0xc0 ? 9
		                : c < 0xe0 ? 1
		                : c < 0xf0 ? 2
		                : c < 0xf8 ? 3
		                           : 9;
		static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
		if (more == 9 || len - i < more)
			return false;
		if (more)
			c &= 0x3fu >> more;
		for (unsigned k = 0; k < more; k++, i++) {
			if ((p[i] & 0xc0) != 0x80)
				return false;
			c = c << 6 | (p[i] & 0x3f);
		}
		if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
			return false;
	}
	return true;
}

static void test_utf8_random(void **state)
{
	(void)state;
	static const uint8_t often[] = {0x80, 0xbf, 0xc2, 0xe0, 0xed, 0xf0,
	                                0xf4, 0x9f, 0xa0, 0x90, 0x8f, 'a'};
	unsigned valid = 0;
	for (int round = 0; round < 300000; round++) {
		uint8_t b[64];
		size_t len = rng() % 7;
		size_t pad = rng() % 50;
		memset(b, 'x', pad);
		for (size_t i = 0; i < len; i++)
			b[pad + i] = rng() & 1 ? (uint8_t)rng() : often[rng() % sizeof(often)];
		bool want = utf8_plain(b, pad + len);
		valid += want;
		assert_int_equal(mp_utf8_valid(b, pad + len), want);
	}
	assert_true(valid > 1000);
}

static void test_utf8_all_sequences(void **state)
{
	(void)state;
	for (uint32_t c = 0; c < 1u << 24; c += c < 0xc00000 ? 0x1003 : 1) {
		uint8_t b[4] = {(uint8_t)(c >> 16), (uint8_t)(c >> 8), (uint8_t)c, 0x80};
		assert_int_equal(mp_utf8_valid(b, 3), utf8_plain(b, 3));
		assert_int_equal(mp_utf8_valid(b, 4), utf8_plain(b, 4));
	}
}

static FILE *open_data(const char *name)
{
	const char *dirs[] = {getenv("SLUICE_DATA"), "../shared/data", "../../shared/data"};
	for (size_t i = 0; i < 3; i++) {
		char path[4096];
		if (!dirs[i])
			continue;
		snprintf(path, sizeof(path), "%s/%s", dirs[i], name);
		FILE *f = fopen(path, "rb");
		if (f)
			return f;
	}
	return NULL;
}

static void test_utf8_kuhn(void **state)
{
	(void)state;
	FILE *text = open_data("utf8/UTF-8-test.txt");
	FILE *want = open_data("utf8/UTF-8-test.expected.json");
	if (!text || !want) {
		print_message("utf8/UTF-8-test.txt is not here: skipped\n");
		skip();
	}
	bool bad[301] = {false};
	char line[4096];
	unsigned n_bad = 0;
	while (fgets(line, sizeof(line), want)) {
		unsigned n = (unsigned)strtoul(line, NULL, 10);
		if (n && n <= 300)
			bad[n] = true;
	}
	for (unsigned n = 1; n <= 300; n++) {
		char *got = NULL;
		size_t cap = 0;
		ssize_t len = getline(&got, &cap, text);
		assert_true(len >= 0);
		if (len && got[len - 1] == '\n')
			len--;
		assert_int_equal(mp_utf8_valid((uint8_t *)got, (size_t)len), !bad[n]);
		n_bad += bad[n];
		free(got);
	}
	assert_int_equal(n_bad, 68);
	fclose(text);
	fclose(want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_oracle),
	        cmocka_unit_test(test_every_prefix_is_truncated),
	        cmocka_unit_test(test_bad),
	        cmocka_unit_test(test_depth),
	        cmocka_unit_test(test_integers),
	        cmocka_unit_test(test_utf8_random),
	        cmocka_unit_test(test_utf8_all_sequences),
	        cmocka_unit_test(test_utf8_kuhn),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
