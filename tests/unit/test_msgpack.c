/*
 * The msgpack codec: msgpack-c packs random records, the public suite's encodings go through
 * unchanged, and everything that is no record is refused with its reason; streams cut at every
 * place.
 */
#include "tests/unit/host.h"

#include <stdio.h>

#include <msgpack.h>

#include "stages/codec.h"

enum {
	ROOM = 64 << 10,
};

struct fixture {
	struct codec codec;
	struct test_host *host;
	struct stage st;
};

static const struct stage_ops dummy = {.name = "dummy", .kind = STAGE_PRODUCER};

static void setup_room(struct fixture *f, size_t room)
{
	assert_int_equal(codec_init(&f->codec, codec_find("msgpack"), NULL, room), 0);
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

static size_t offered;

static int note(struct stage *st, void *arg, size_t consumed)
{
	(void)st;
	(void)arg;
	assert_true(consumed > offered);
	offered = consumed;
	return 0;
}

/* Feeds with windows that grow by @step; the first one has @first bytes. */
static void feed_stream(struct fixture *f, const void *data, size_t len, size_t first, size_t step)
{
	size_t off = 0;
	host_clear(f->host);
	f->codec.ops->reset(&f->codec);
	for (size_t end = first;; end = end + step < len ? end + step : len) {
		size_t n = end - off;
		uint8_t *copy = malloc(n + 1);
		assert_non_null(copy);
		memcpy(copy + 1, (const char *)data + off, n);
		struct codec_window w = {copy + 1, copy + 1 + n, end == len, NULL, 0, NULL};
		offered = 0;
		assert_int_equal(stage_decode(&f->st, &w, "test", note, NULL), 0);
		assert_int_equal(offered, w.p - copy - 1);
		off += (size_t)(w.p - copy - 1);
		free(copy);
		if (end == len)
			break;
	}
	assert_int_equal(off, len);
}

static void feed(struct fixture *f, const void *data, size_t len)
{
	feed_stream(f, data, len, len, len);
}

/* @why NULL: taken as it is; else rejected with it, and an empty map behind is taken if @goes_on.
 */
static void one(const char *data, size_t len, const char *why, bool goes_on)
{
	struct fixture f;
	struct buf b = {0};
	setup_room(&f, ROOM);
	buf_add(&b, data, len);
	if (goes_on)
		buf_add_byte(&b, 0x80);
	feed(&f, b.p, b.len);
	assert_int_equal(f.host->n, goes_on ? 2 : 1);
	struct host_item *it = &f.host->items[0];
	assert_int_equal(it->rejected, why != NULL);
	if (why)
		assert_string_equal(it->why, why);
	assert_int_equal(it->len, len);
	assert_memory_equal(it->p, data, len);
	if (goes_on)
		assert_false(f.host->items[1].rejected);
	buf_deinit(&b);
	teardown(&f);
}

#define ONE(data, why, goes_on) one(data, sizeof(data) - 1, why, goes_on)

static void test_one(void **state)
{
	(void)state;
	ONE("\x80", NULL, true);
	ONE("\x81\xa1k\x01", NULL, true);
	ONE("\x81\xa1k\xc7\x0c\xff\0\0\0\1\xff\xff\xff\xff\xff\xff\xff\xff", NULL, true);
	ONE("\x82\xa1k\x01\xa1l\x81\xa1k\x01", NULL, true);
	ONE("\x82\xa1k\x01\xa1k\x01", "the same key twice", true);
	ONE("\x82\xa1k\x01\xd9\x01k\x01", "the same key twice", true);
	ONE("\x81\xa1m\x92\x01\x82\xa1k\x01\xa1k\x01", "the same key twice", true);
	ONE("\x81\x01\x01", "a key is not a string", true);
	ONE("\x81\xa1k\x81\xc0\x01", "a key is not a string", true);
	ONE("\x81\xa1k\xa1\xff", "a string is not UTF-8", true);
	ONE("\x81\xa1\xff\x01", "a string is not UTF-8", true);
	ONE("\x91\x01", "not a record: an array", true);
	ONE("\x01", "not a record: a number", true);
	ONE("\xa1k", "not a record: a string", true);
	ONE("\xc0", "not a record: nil", true);
	ONE("\xc3", "not a record: a boolean", true);
	ONE("\xc4\x01z", "not a record: binary", true);
	ONE("\xd4\x01z", "not a record: an ext", true);
	ONE("\xc1", "a byte that msgpack does not have (0xc1)", false);
	ONE("\xc1\x80\x80\x80", "a byte that msgpack does not have (0xc1)", false);
	ONE("\x81\xa1k", "ends in the middle of a value", false);
	ONE("\x81\xa1k\xce\x01\x02", "ends in the middle of a value", false);
	ONE("\x81\xa1k\xdb\x00\x00\x01\x00zz", "ends in the middle of a value", false);
	ONE("\x81\xa1k\xdb\xff\xff\xff\xffzz", "larger than a buffer (65536 bytes)", false);
	ONE("\xdf\xff\xff\xff\xff\x01\x02", "larger than a buffer (65536 bytes)", false);
}

static void test_depth(void **state)
{
	(void)state;
	for (unsigned depth = 126; depth < 132; depth++) {
		uint8_t b[160] = {0x81, 0xa1, 'k'};
		struct fixture f;
		setup_room(&f, ROOM);
		memset(b + 3, 0x91, depth - 1);
		b[2 + depth] = 0x90;
		feed(&f, b, 3 + depth);
		assert_int_equal(f.host->n, 1);
		assert_int_equal(f.host->items[0].rejected, depth + 1 > 128);
		teardown(&f);
	}
}

static void test_too_large(void **state)
{
	(void)state;
	struct fixture f;
	uint8_t b[400] = {0x81, 0xa1, 'k', 0xda, 1, 0};
	setup_room(&f, 128);
	memset(b + 6, 'x', 256);
	b[262] = 0x80;
	feed(&f, b, 263);
	assert_int_equal(f.host->n, 2);
	assert_string_equal(f.host->items[0].why, "larger than a buffer (128 bytes)");
	assert_int_equal(f.host->items[0].len, 262);
	assert_false(f.host->items[1].rejected);
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

static void pack_map(msgpack_packer *pk, int depth);

static void pack_value(msgpack_packer *pk, int depth)
{
	char bytes[300];
	size_t len = rng() % sizeof(bytes);
	uint64_t u = rng() >> (rng() % 64);
	memset(bytes, 'a' + (int)(rng() % 20), len);
	switch (rng() % (depth > 3 ? 6 : 8)) {
	case 0:
		msgpack_pack_nil(pk);
		break;
	case 1:
		msgpack_pack_uint64(pk, u);
		break;
	case 2:
		msgpack_pack_int64(pk, (int64_t)u);
		break;
	case 3:
		msgpack_pack_double(pk, (double)u / 3);
		break;
	case 4:
		msgpack_pack_str(pk, len);
		msgpack_pack_str_body(pk, bytes, len);
		break;
	case 5:
		msgpack_pack_ext(pk, len, (int8_t)u);
		msgpack_pack_ext_body(pk, bytes, len);
		break;
	case 6:
		len = rng() % 20;
		msgpack_pack_array(pk, len);
		while (len--)
			pack_value(pk, depth + 1);
		break;
	default:
		pack_map(pk, depth + 1);
	}
}

static void pack_map(msgpack_packer *pk, int depth)
{
	size_t n = rng() % 20;
	msgpack_pack_map(pk, n);
	for (size_t i = 0; i < n; i++) {
		char key[16];
		int len = snprintf(key, sizeof(key), "key%zu", i);
		msgpack_pack_str(pk, (size_t)len);
		msgpack_pack_str_body(pk, key, (size_t)len);
		pack_value(pk, depth);
	}
}

static void test_random_stream(void **state)
{
	(void)state;
	for (int round = 0; round < 60; round++) {
		msgpack_sbuffer sb;
		msgpack_packer pk;
		struct fixture f;
		size_t ends[9] = {0};
		msgpack_sbuffer_init(&sb);
		msgpack_packer_init(&pk, &sb, msgpack_sbuffer_write);
		for (int i = 1; i <= 8; i++) {
			pack_map(&pk, 1);
			ends[i] = sb.size;
		}
		setup_room(&f, 1 << 20);
		for (int cut = 0; cut < 20; cut++) {
			feed_stream(&f, sb.data, sb.size, cut ? rng() % sb.size : sb.size,
			            1 + rng() % sb.size);
			assert_int_equal(f.host->n, 8);
			for (int i = 0; i < 8; i++) {
				struct host_item *it = &f.host->items[i];
				assert_false(it->rejected);
				assert_int_equal(it->len, ends[i + 1] - ends[i]);
				assert_memory_equal(it->p, sb.data + ends[i], it->len);
			}
		}
		teardown(&f);
		msgpack_sbuffer_destroy(&sb);
	}
}

static void test_every_cut(void **state)
{
	(void)state;
	static const char data[] = "\x81\xa1k\x01\x92\x01\x02\x82\xa1"
	                           "a\xd9\x03xyz\xa1"
	                           "b\x81\xa1k\xcb"
	                           "12345678\x82\xa1k\x01\xa1k\x02\xc4\x02zz\x80\x81\xa1k";
	struct fixture f;
	setup_room(&f, ROOM);
	for (size_t first = 0; first < sizeof(data); first++) {
		feed_stream(&f, data, sizeof(data) - 1, first, 1 + first % 3);
		assert_int_equal(f.host->n, 7);
		unsigned taken = 0;
		for (unsigned i = 0; i < 7; i++)
			taken += !f.host->items[i].rejected;
		assert_int_equal(taken, 3);
	}
	teardown(&f);
}

/* The rest of a stream behind a wrong byte stays rejected until the next input begins. */
static void test_broken_stream(void **state)
{
	(void)state;
	struct fixture f;
	setup_room(&f, ROOM);
	feed_stream(&f, "\x80\xc1\x80\x80\x80", 5, 2, 1);
	assert_int_equal(f.host->n, 5);
	assert_false(f.host->items[0].rejected);
	for (unsigned i = 1; i < 5; i++)
		assert_true(f.host->items[i].rejected);
	feed(&f, "\x80", 1);
	assert_int_equal(f.host->n, 1);
	assert_false(f.host->items[0].rejected);
	teardown(&f);
}

static int hex(int c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Every encoding of the public suite, as the value of a record's field. Its JSON is not looked at:
 * strings of hex pairs with dashes are the encodings. */
static void test_suite(void **state)
{
	(void)state;
	const char *dirs[] = {getenv("SLUICE_DATA"), "../shared/data", "../../shared/data"};
	FILE *in = NULL;
	for (size_t i = 0; i < 3 && !in; i++) {
		char path[4096];
		snprintf(path, sizeof(path), "%s/msgpack/msgpack-test-suite.json",
		         dirs[i] ? dirs[i] : "");
		in = fopen(path, "r");
	}
	if (!in) {
		print_message("msgpack/msgpack-test-suite.json is not here: skipped\n");
		skip();
	}
	struct fixture f;
	char line[2000];
	bool encodings = false;
	unsigned n = 0;
	setup_room(&f, ROOM);
	while (fgets(line, sizeof(line), in)) {
		if (strstr(line, "\"msgpack\": ["))
			encodings = true;
		else if (strchr(line, ']'))
			encodings = false;
		char *p = strchr(line, '"');
		if (!encodings || !p || strstr(line, "msgpack"))
			continue;
		uint8_t rec[1000] = {0x81, 0xa1, 'k'};
		size_t len = 3;
		for (p++; hex(p[0]) >= 0; p += p[2] == '-' ? 3 : 2)
			rec[len++] = (uint8_t)(hex(p[0]) << 4 | hex(p[1]));
		feed(&f, rec, len);
		assert_int_equal(f.host->n, 1);
		assert_false(f.host->items[0].rejected);
		assert_int_equal(f.host->items[0].len, len);
		msgpack_unpacked u;
		msgpack_unpacked_init(&u);
		assert_int_equal(msgpack_unpack_next(&u, (char *)rec, len, NULL),
		                 MSGPACK_UNPACK_SUCCESS);
		msgpack_unpacked_destroy(&u);
		n++;
	}
	assert_int_equal(n, 233);
	fclose(in);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_one),       cmocka_unit_test(test_depth),
	        cmocka_unit_test(test_too_large), cmocka_unit_test(test_random_stream),
	        cmocka_unit_test(test_every_cut), cmocka_unit_test(test_broken_stream),
	        cmocka_unit_test(test_suite),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
