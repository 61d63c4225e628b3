/*
 * The JSON codec: values and their msgpack, what is refused and where reading goes on, streams cut
 * at every place, rooms of every size, and what msgpack becomes in JSON.
 */
#include "tests/unit/json_fixture.h"

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
	assert_int_equal(codec_init(&c, codec_find("json"), NULL, 1000), 0);
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

/* A host like a chunk: room runs out from record to record, a new chunk begins when too little is
 * left. */
struct chunk_host {
	struct stage_host base;
	struct test_host *items;
	uint8_t chunk[200];
	size_t used;
	unsigned chunks;
};

static int chunk_reserve(struct stage_host *h, size_t need, uint8_t **p, size_t *room)
{
	struct chunk_host *c = (struct chunk_host *)h;
	if (need > sizeof(c->chunk))
		return STAGE_E_REJECT;
	if (need > sizeof(c->chunk) - c->used) {
		c->used = 0;
		c->chunks++;
	}
	*p = c->chunk + c->used;
	*room = sizeof(c->chunk) - c->used;
	return 0;
}

static int chunk_made(struct stage_host *h, size_t len)
{
	struct chunk_host *c = (struct chunk_host *)h;
	host_add(c->items, c->chunk + c->used, len);
	c->used += len;
	return 0;
}

static int chunk_reject(struct stage_host *h, const char *why, const void *input, size_t len,
                        const char *at)
{
	struct chunk_host *c = (struct chunk_host *)h;
	return host_reject(&c->items->base, why, input, len, at);
}

struct told {
	size_t at[64];
	unsigned n;
};

static int tell(struct stage *st, void *arg, size_t consumed)
{
	struct told *t = arg;
	(void)st;
	assert_true(t->n < 64);
	assert_true(t->n == 0 || consumed > t->at[t->n - 1]);
	t->at[t->n++] = consumed;
	return 0;
}

/* Chunks make no difference, and reading goes on from any place that was told. */
static void test_chunks_and_positions(void **state)
{
	(void)state;
	struct fixture whole;
	struct fixture f;
	struct buf b = {0};
	struct told told = {.n = 0};
	struct chunk_host host = {
	        .base = {.reserve = chunk_reserve, .made = chunk_made, .reject = chunk_reject}};
	for (int i = 0; i < 30; i++)
		buf_printf(&b,
		           i % 5 ? "{\"i\":%d,\"text\":\"%.*s\"}\n" : "{\"i\":%d,\"bad\":%.*s}\n",
		           i, (i * 37) % 190,
		           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
		           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
		           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
	setup_room(&whole, sizeof(host.chunk));
	setup_room(&f, sizeof(host.chunk));
	feed(&whole, b.p, b.len);
	host.items = f.host;
	f.st.host = &host.base;
	struct codec_window w = {.p = b.p, .end = b.p + b.len, .last = true};
	assert_int_equal(stage_decode(&f.st, &w, "test", tell, &told), 0);
	same_items(&whole, &f);
	assert_true(host.chunks > 5);
	assert_int_equal(told.n, whole.host->n);
	teardown(&whole);
	for (unsigned i = 0; i < told.n; i++) {
		setup_room(&whole, sizeof(host.chunk));
		feed(&whole, b.p + told.at[i], b.len - told.at[i]);
		assert_int_equal(whole.host->n, told.n - i - 1);
		for (unsigned k = 0; k < whole.host->n; k++) {
			struct host_item *x = &whole.host->items[k];
			struct host_item *y = &f.host->items[i + 1 + k];
			assert_int_equal(x->len, y->len);
			assert_memory_equal(x->p, y->p, x->len);
		}
		teardown(&whole);
	}
	buf_deinit(&b);
	teardown(&f);
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
	assert_int_equal(codec_init(&c, codec_find("json"), NULL, ROOM), 0);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_records),
	        cmocka_unit_test(test_strings),
	        cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_goes_on),
	        cmocka_unit_test(test_depth),
	        cmocka_unit_test(test_head_widths),
	        cmocka_unit_test(test_string_lengths),
	        cmocka_unit_test(test_room),
	        cmocka_unit_test(test_too_large),
	        cmocka_unit_test(test_every_cut),
	        cmocka_unit_test(test_chunks_and_positions),
	        cmocka_unit_test(test_endless),
	        cmocka_unit_test(test_encode),
	        cmocka_unit_test(test_encode_refuses),
	        cmocka_unit_test(test_many_keys),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
