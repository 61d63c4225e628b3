/*
 * What the tests of the JSON codec share: a codec with a host, ways to feed it, and comparing.
 */
#pragma once

#include "tests/unit/host.h"

#include <stdio.h>

#include "stages/codec.h"

enum {
	ROOM = 256 << 10,
};

struct fixture {
	struct codec codec;
	struct test_host *host;
	struct stage st;
};

static const struct stage_ops dummy = {.name = "dummy", .kind = STAGE_PRODUCER};

static inline void setup_room(struct fixture *f, size_t room)
{
	assert_int_equal(codec_init(&f->codec, codec_find("json"), NULL, room), 0);
	f->host = host_new(room);
	host_stage(f->host, &f->st, &dummy, NULL);
	f->st.codec = &f->codec;
}

static inline void teardown(struct fixture *f)
{
	codec_deinit(&f->codec);
	free(f->st.state);
	host_free(f->host);
}

static inline void feed(struct fixture *f, const void *text, size_t len)
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

static inline void feed_str(struct fixture *f, const char *text)
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
static inline void expect(const char *text, const char *want)
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
