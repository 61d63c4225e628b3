/*
 * record.[ch] by examples, and by random edits against the plainest model there is: a list of paths
 * and values that is rebuilt each time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ipc/record.h"
#include "stages/codec.h"

/* JSON is the readable way to say records here. */
static struct codec json;

static int setup(void **state)
{
	(void)state;
	return codec_init(&json, codec_find("json"), NULL, 1 << 20);
}

static int teardown(void **state)
{
	(void)state;
	codec_deinit(&json);
	return 0;
}

/* msgpack of a JSON object; the caller frees it. */
static uint8_t *pack(const char *text, size_t *len)
{
	uint8_t *out = malloc(1 << 16);
	assert_non_null(out);
	struct codec_window w = {.p = (const uint8_t *)text, .last = true};
	w.end = w.p + strlen(text);
	assert_int_equal(json.ops->decode(&json, &w, out, 1 << 16, len), CODEC_E_OK);
	/* as tight as can be, so that a read too far is seen */
	uint8_t *tight = malloc(*len);
	assert_non_null(tight);
	memcpy(tight, out, *len);
	free(out);
	return tight;
}

/* The value of the JSON object's only field, in scratch of @r. */
static const uint8_t *value(struct record *r, const char *text, uint32_t *len)
{
	char object[4096];
	size_t n;
	snprintf(object, sizeof(object), "{\"\":%s}", text);
	uint8_t *p = pack(object, &n);
	uint8_t *v = record_scratch(r, n);
	memcpy(v, p + 2, n - 2);
	free(p);
	*len = (uint32_t)n - 2;
	return v;
}

static void expect(const struct record *r, const char *want)
{
	struct buf b = {0};
	size_t size = record_size(r);
	uint8_t *out = malloc(size);
	assert_non_null(out);
	assert_int_equal(record_write(r, out), size);
	assert_ptr_equal(mp_skip(out, out + size), out + size);
	assert_int_equal(json.ops->encode(&json, out, size, &b), 0);
	b.p[b.len - 1] = 0;
	assert_string_equal((char *)b.p, want);
	buf_deinit(&b);
	free(out);
}

static uint8_t *open_json(struct record *r, const char *text)
{
	const char *why = NULL;
	size_t len;
	uint8_t *p = pack(text, &len);
	assert_int_equal(record_open(r, p, len, &why), 0);
	expect(r, text);
	return p;
}

static void set(struct record *r, const char *path, const char *text, int want)
{
	uint32_t len;
	const uint8_t *v = value(r, text, &len);
	/* keys have to stay */
	char *key = (char *)record_scratch(r, strlen(path) + 1);
	strcpy(key, path);
	assert_int_equal(record_set_path(r, key, strlen(key), v, len), want);
}

static void test_open_and_get(void **state)
{
	(void)state;
	struct record r = {0};
	uint8_t *p =
	        open_json(&r, "{\"a\":1,\"b\":{\"c\":{\"d\":[1,2]},\"e\":null},\"f.g\":7,\"\":8}");
	uint32_t len;
	assert_non_null(record_get(&r, "a", 1));
	assert_null(record_get(&r, "x", 1));
	assert_non_null(record_get(&r, "", 0));
	assert_non_null(record_path(&r, "b.c.d", 5, &len));
	assert_int_equal(len, 3);
	assert_non_null(record_path(&r, "b.e", 3, &len));
	assert_int_equal(len, 1);
	assert_non_null(record_path(&r, "f.g", 3, &len));
	assert_int_equal(record_value(record_path(&r, "f.g", 3, &len), 1).u, 7);
	assert_null(record_path(&r, "b.c.x", 5, &len));
	assert_null(record_path(&r, "a.b", 3, &len));
	assert_null(record_path(&r, "b.c.d.e", 7, &len));
	assert_null(record_path(&r, "b.", 2, &len));
	assert_null(record_path(&r, "b..c", 4, &len));
	record_deinit(&r);
	free(p);
}

static void test_edit(void **state)
{
	(void)state;
	struct record r = {0};
	uint8_t *p = open_json(&r, "{\"a\":1,\"b\":{\"c\":1,\"d\":2},\"x.y\":3}");
	set(&r, "a", "\"one\"", 0);
	set(&r, "b.c", "[1,2,3]", 0);
	set(&r, "b.new", "true", 0);
	set(&r, "x.y", "4", 0);
	set(&r, "q.r.s", "5", 0);
	set(&r, "b.n.m", "6", 0);
	set(&r, "a.b", "1", RECORD_E_INVALID);
	set(&r, "b.d.e.f", "1", RECORD_E_INVALID);
	expect(&r, "{\"a\":\"one\",\"b\":{\"c\":[1,2,3],\"d\":2,\"new\":true,\"n\":{\"m\":6}},\"x."
	           "y\":4,"
	           "\"q\":{\"r\":{\"s\":5}}}");
	assert_int_equal(record_remove(&r, "b.d", 3), 0);
	assert_int_equal(record_remove(&r, "b.d", 3), RECORD_E_NONE);
	assert_int_equal(record_remove(&r, "b.n.m", 5), 0);
	assert_int_equal(record_remove(&r, "zz", 2), RECORD_E_NONE);
	assert_int_equal(record_remove(&r, "x.y", 3), 0);
	expect(&r, "{\"a\":\"one\",\"b\":{\"c\":[1,2,3],\"new\":true,\"n\":{}},\"q\":{\"r\":{\"s\":"
	           "5}}}");
	assert_int_equal(record_rename(&r, "a", 1, "q", 1), 0);
	expect(&r, "{\"q\":\"one\",\"b\":{\"c\":[1,2,3],\"new\":true,\"n\":{}}}");
	assert_int_equal(record_rename(&r, "b", 1, "q", 1), 0);
	assert_int_equal(record_rename(&r, "b", 1, "z", 1), RECORD_E_NONE);
	assert_int_equal(record_rename(&r, "q", 1, "q", 1), 0);
	expect(&r, "{\"q\":{\"c\":[1,2,3],\"new\":true,\"n\":{}}}");
	record_deinit(&r);
	free(p);
}

/* A nested map that gets its sixteenth entry needs a longer head, and a shorter one when it loses
 * it. */
static void test_head_width_of_nested(void **state)
{
	(void)state;
	struct record r = {0};
	uint8_t *p = open_json(&r, "{\"m\":{\"z\":{}}}");
	char path[32];
	for (int i = 0; i < 70; i++) {
		snprintf(path, sizeof(path), "m.z.k%d", i);
		set(&r, path, "1", 0);
		snprintf(path, sizeof(path), "top%d", i);
		set(&r, path, "2", 0);
	}
	for (int i = 0; i < 69; i++) {
		snprintf(path, sizeof(path), "m.z.k%d", i);
		assert_int_equal(record_remove(&r, path, strlen(path)), 0);
		snprintf(path, sizeof(path), "top%d", i);
		assert_int_equal(record_remove(&r, path, strlen(path)), 0);
	}
	expect(&r, "{\"m\":{\"z\":{\"k69\":1}},\"top69\":2}");
	record_deinit(&r);
	free(p);
}

static void refused(const char *bytes, size_t len, const char *want)
{
	struct record r = {0};
	const char *why = NULL;
	uint8_t *p = malloc(len + 1);
	assert_non_null(p);
	memcpy(p + 1, bytes, len);
	assert_int_equal(record_open(&r, p + 1, len, &why), RECORD_E_INVALID);
	assert_string_equal(why, want);
	assert_int_equal(r.n, 0);
	record_deinit(&r);
	free(p);
}

#define REFUSED(bytes, want) refused(bytes, sizeof(bytes) - 1, want)

static void test_refused(void **state)
{
	(void)state;
	REFUSED("", "truncated or invalid msgpack");
	REFUSED("\x90", "not a map");
	REFUSED("\x80\x80", "bytes behind the map");
	REFUSED("\x81\x01\x02", "a key is not a string");
	REFUSED("\x81\xa1k\xcd\x01", "truncated, invalid or too deeply nested msgpack");
	REFUSED("\x82\xa1k\x01\xa1k\x02", "the same key twice");
	REFUSED("\x82\xa1k\x01\xd9\x01k\x02", "the same key twice");
	REFUSED("\xdf\xff\xff\xff\xff\xa1k\x01", "truncated or invalid msgpack");
	REFUSED("\x81\xa1k\xa5xy", "truncated, invalid or too deeply nested msgpack");
}

/* Many fields go another way to find what is there twice. */
static void test_many_fields(void **state)
{
	(void)state;
	for (unsigned n = 60; n < 3000; n += n < 70 ? 1 : 977) {
		for (unsigned twice = 0; twice < 2; twice++) {
			struct record r = {0};
			const char *why = NULL;
			uint8_t *p = malloc(n * 16 + 16);
			assert_non_null(p);
			uint8_t *e = mp_write_map_head(p, n);
			for (unsigned i = 0; i < n; i++) {
				char key[16];
				int len = snprintf(key, sizeof(key), "k%u",
				                   twice && i == n - 1 ? n / 2 : i);
				e = mp_write_str(e, key, (uint32_t)len);
				e = mp_write_uint(e, i);
			}
			assert_int_equal(record_open(&r, p, (size_t)(e - p), &why),
			                 twice ? RECORD_E_INVALID : 0);
			if (!twice) {
				assert_int_equal(record_size(&r), e - p);
				assert_non_null(record_get(&r, "k59", 3));
			}
			record_deinit(&r);
			free(p);
		}
	}
}

static void test_share(void **state)
{
	(void)state;
	struct record a = {0};
	struct record b = {0};
	uint8_t *p = open_json(&a, "{\"a\":1,\"b\":{\"c\":2}}");
	assert_int_equal(record_share(&b, &a), 0);
	set(&b, "b.c", "3", 0);
	set(&b, "d", "4", 0);
	expect(&a, "{\"a\":1,\"b\":{\"c\":2}}");
	expect(&b, "{\"a\":1,\"b\":{\"c\":3},\"d\":4}");
	record_deinit(&b);
	record_deinit(&a);
	free(p);
}

/* Scratch stays where it is until the record is cleared, and is then used again. */
static void test_scratch(void **state)
{
	(void)state;
	struct record r = {0};
	uint8_t *parts[200];
	for (int round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 200; i++) {
			parts[i] = record_scratch(&r, i * 10);
			assert_non_null(parts[i]);
			assert_int_equal((uintptr_t)parts[i] % 8, 0);
			memset(parts[i], (int)i, i * 10);
		}
		for (unsigned i = 1; i < 200; i++)
			for (unsigned k = 0; k < i * 10; k++)
				assert_int_equal(parts[i][k], i);
		record_clear(&r);
	}
	assert_null(record_scratch(&r, SIZE_MAX - 3));
	record_deinit(&r);
	record_deinit(&r);
}

static uint64_t rng_state = 88172645463325252u;

static unsigned rng(unsigned n)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (unsigned)(rng_state % n);
}

/* Model: a tree over three keys a level, three levels: 0 nothing, 1 map, else a number. */
enum {
	KEYS = 3,
	LEVELS = 3,
};

struct tree {
	unsigned what;
	struct tree *sub[KEYS];
	unsigned order[KEYS]; /* sub in the order they were added, n of them */
	unsigned n;
};

static void prune(struct tree *t)
{
	for (unsigned i = 0; i < KEYS; i++) {
		if (t->sub[i])
			prune(t->sub[i]);
		free(t->sub[i]);
	}
	memset(t, 0, sizeof(*t));
}

static void drop_from(struct tree *t, unsigned k)
{
	unsigned at = 0;
	while (t->order[at] != k)
		at++;
	t->n--;
	for (; at < t->n; at++)
		t->order[at] = t->order[at + 1];
	prune(t->sub[k]);
	free(t->sub[k]);
	t->sub[k] = NULL;
}

static int model_set(struct tree *t, const unsigned *path, unsigned len, unsigned what)
{
	for (; len; len--, path++) {
		if (t->what > 1)
			return RECORD_E_INVALID;
		if (!t->sub[*path]) {
			t->sub[*path] = calloc(1, sizeof(struct tree));
			assert_non_null(t->sub[*path]);
			t->sub[*path]->what = 1;
			t->order[t->n++] = *path;
		}
		t = t->sub[*path];
	}
	prune(t);
	t->what = what;
	return 0;
}

static int model_remove(struct tree *t, const unsigned *path, unsigned len)
{
	for (; len > 1; len--, path++) {
		t = t->sub[*path];
		if (!t)
			return RECORD_E_NONE;
	}
	if (!t->sub[*path])
		return RECORD_E_NONE;
	drop_from(t, *path);
	return 0;
}

static void model_print(const struct tree *t, struct buf *b)
{
	if (t->what > 1) {
		buf_printf(b, "%u", t->what);
		return;
	}
	buf_add_str(b, "{");
	for (unsigned i = 0; i < t->n; i++) {
		buf_printf(b, "%s\"key%u\":", i ? "," : "", t->order[i]);
		model_print(t->sub[t->order[i]], b);
	}
	buf_add_str(b, "}");
}

static void test_random_edits(void **state)
{
	(void)state;
	struct record r = {0};
	struct tree model = {.what = 1};
	struct buf b = {0};
	for (int round = 0; round < 20000; round++) {
		unsigned path[LEVELS];
		char text[64] = "";
		unsigned len = 1 + rng(LEVELS);
		for (unsigned i = 0; i < len; i++) {
			path[i] = rng(KEYS);
			snprintf(text + strlen(text), 16, "%skey%u", i ? "." : "", path[i]);
		}
		if (rng(3)) {
			char number[16];
			unsigned what = 2 + rng(70000);
			snprintf(number, sizeof(number), "%u", what);
			set(&r, text, number, model_set(&model, path, len, what));
		} else {
			assert_int_equal(record_remove(&r, text, strlen(text)),
			                 model_remove(&model, path, len));
		}
		b.len = 0;
		model_print(&model, &b);
		buf_add_byte(&b, 0);
		expect(&r, (char *)b.p);
		if (rng(200) == 0) {
			record_clear(&r);
			prune(&model);
			model.what = 1;
		}
	}
	prune(&model);
	buf_deinit(&b);
	record_deinit(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_open_and_get),
	        cmocka_unit_test(test_edit),
	        cmocka_unit_test(test_head_width_of_nested),
	        cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_many_fields),
	        cmocka_unit_test(test_share),
	        cmocka_unit_test(test_scratch),
	        cmocka_unit_test(test_random_edits),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
