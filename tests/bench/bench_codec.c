/*
 * How fast the codecs are, in nanoseconds a record and MB a second of text, on log records of about
 *200 bytes and on any NDJSON or JSON file given as argument. yajl's SAX parser with empty callbacks
 *is the yardstick: it finds the values, and builds nothing.
 *
 *	bench_codec [FILE...]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <yajl/yajl_parse.h>

#include "stages/codec.h"

enum {
	ROOM = 8 << 20,
	TEXT = 8 << 20, /* bytes of generated log records */
	ROUNDS = 7,
};

static int64_t now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000 + ts.tv_nsec;
}

struct work {
	struct codec *c;
	const struct buf *in;
	struct buf *records; /* all of them, back to back */
	size_t n;
	struct buf out;
};

/* Each returns the number of records it went over. */
static size_t decode_all(struct work *w)
{
	struct codec_window win = {.p = w->in->p, .end = w->in->p + w->in->len, .last = true};
	size_t n = 0;
	size_t len;
	int r;
	w->records->len = 0;
	w->c->ops->reset(w->c);
	while ((r = w->c->ops->decode(w->c, &win, w->records->p + w->records->len,
	                              w->records->cap - w->records->len, &len)) != CODEC_E_END) {
		if (r != CODEC_E_OK) {
			fprintf(stderr, "answer %d: %s\n", r, win.why ? win.why : "");
			exit(1);
		}
		w->records->len += len;
		n++;
	}
	return n;
}

static size_t encode_all(struct work *w)
{
	const uint8_t *p = w->records->p;
	const uint8_t *end = p + w->records->len;
	size_t n = 0;
	w->out.len = 0;
	for (const uint8_t *next; p < end; p = next, n++) {
		next = mp_skip(p, end);
		if (w->c->ops->encode(w->c, p, (size_t)(next - p), &w->out) != 0)
			exit(1);
	}
	return n;
}

static size_t open_all(struct work *w)
{
	const uint8_t *p = w->records->p;
	const uint8_t *end = p + w->records->len;
	struct record r = {0};
	const char *why;
	size_t n = 0;
	for (const uint8_t *next; p < end; p = next, n++) {
		next = mp_skip(p, end);
		if (record_open(&r, p, (size_t)(next - p), &why) != 0)
			exit(1);
	}
	record_deinit(&r);
	return n;
}

static size_t rewrite_all(struct work *w)
{
	const uint8_t *p = w->records->p;
	const uint8_t *end = p + w->records->len;
	struct record r = {0};
	const char *why;
	size_t n = 0;
	w->out.len = 0;
	buf_room(&w->out, w->records->len);
	for (const uint8_t *next; p < end; p = next, n++) {
		next = mp_skip(p, end);
		if (record_open(&r, p, (size_t)(next - p), &why) != 0)
			exit(1);
		w->out.len += record_write(&r, w->out.p + w->out.len);
	}
	record_deinit(&r);
	return n;
}

static int yajl_nothing(void *ctx)
{
	(void)ctx;
	return 1;
}

static int yajl_bool(void *ctx, int b)
{
	(void)b;
	return yajl_nothing(ctx);
}

static int yajl_text(void *ctx, const char *s, size_t len)
{
	(void)s;
	(void)len;
	return yajl_nothing(ctx);
}

static int yajl_string(void *ctx, const unsigned char *s, size_t len)
{
	(void)s;
	(void)len;
	return yajl_nothing(ctx);
}

static size_t yajl_all(struct work *w)
{
	static const yajl_callbacks cb = {yajl_nothing, yajl_bool,    NULL,         NULL,
	                                  yajl_text,    yajl_string,  yajl_nothing, yajl_string,
	                                  yajl_nothing, yajl_nothing, yajl_nothing};
	yajl_handle h = yajl_alloc(&cb, NULL, NULL);
	yajl_config(h, yajl_allow_multiple_values, 1);
	if (yajl_parse(h, w->in->p, w->in->len) != yajl_status_ok)
		exit(1);
	yajl_complete_parse(h);
	yajl_free(h);
	return w->n;
}

static void run(const char *name, size_t (*f)(struct work *), struct work *w, size_t bytes)
{
	int64_t best = INT64_MAX;
	size_t n = 0;
	for (int i = 0; i < ROUNDS; i++) {
		int64_t t = now();
		n = f(w);
		t = now() - t;
		best = t < best ? t : best;
	}
	printf("  %-22s %9.1f ns/record %8.0f MB/s\n", name, (double)best / (double)n,
	       (double)bytes * 1e3 / (double)best);
}

static void bench(const char *name, const struct buf *in)
{
	struct codec json;
	struct codec mp;
	struct buf records = {0};
	if (codec_init(&json, codec_find("json"), NULL, ROOM) < 0 ||
	    codec_init(&mp, codec_find("msgpack"), NULL, ROOM) < 0 ||
	    buf_room(&records, 2 * in->len + ROOM) < 0)
		exit(1);
	struct work w = {.c = &json, .in = in, .records = &records};
	w.n = decode_all(&w);
	printf("%s: %zu records, %zu bytes of JSON, %zu of msgpack\n", name, w.n, in->len,
	       records.len);
	run("json decode", decode_all, &w, in->len);
	run("yajl SAX", yajl_all, &w, in->len);
	run("json encode", encode_all, &w, in->len);
	run("record_open", open_all, &w, records.len);
	run("record_open + write", rewrite_all, &w, records.len);
	struct buf copy = {0};
	buf_add(&copy, records.p, records.len);
	w.c = &mp;
	w.in = &copy;
	run("msgpack decode", decode_all, &w, copy.len);
	buf_deinit(&copy);
	buf_deinit(&w.out);
	buf_deinit(&records);
	codec_deinit(&json);
	codec_deinit(&mp);
}

static void logs(struct buf *b)
{
	static const char *level[] = {"debug", "info", "warning", "error"};
	static const char *service[] = {"checkout", "search", "inventory", "mail"};
	static const char *country[] = {"DE", "FR", "US", "JP"};
	uint32_t x = 1;
	for (uint64_t i = 0; b->len < TEXT; i++) {
		x = x * 1664525 + 1013904223;
		buf_printf(
		        b,
		        "{\"id\":%" PRIu64 ",\"ts\":%" PRIu64
		        ",\"level\":\"%s\",\"service\":\"%s\","
		        "\"msg\":\"request %u handled by worker %u in the usual way, nothing odd\","
		        "\"latency_ms\":%u.%u,\"user\":{\"id\":%u,\"country\":\"%s\"}}\n",
		        1000000 + i, 1700000000000 + 17 * i, level[x >> 30], service[x >> 28 & 3],
		        x >> 8, x >> 27, x >> 24, 1 + (x >> 16) % 9, x >> 4, country[x >> 20 & 3]);
	}
}

static void slurp(const char *path, struct buf *b)
{
	FILE *f = fopen(path, "rb");
	if (!f) {
		perror(path);
		exit(1);
	}
	for (size_t n = 1; n; b->len += n) {
		if (buf_room(b, 65536) < 0)
			exit(1);
		n = fread(b->p + b->len, 1, 65536, f);
	}
	fclose(f);
}

int main(int argc, char **argv)
{
	struct buf b = {0};
	logs(&b);
	bench("log records", &b);
	for (int i = 1; i < argc; i++) {
		b.len = 0;
		slurp(argv[i], &b);
		bench(argv[i], &b);
	}
	buf_deinit(&b);
	return 0;
}
