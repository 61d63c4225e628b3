/*
 * The hot loops alone, to count their instructions: what one record costs in a codec, in a chain of
 * steps.
 *
 *     hot LIST                  the names of the loops, one a line
 *     hot NAME [COUNT]          prepares COUNT records, then calls hot_loop() once; prints ns a
 * record
 *
 * Instructions are counted by callgrind with --toggle-collect=hot_loop (test_budget.py does), so
 * that what prepares the input stays out. Time is printed for those who run it without callgrind:
 * then each loop goes over its records 200 times and the best is told.
 *
 * Limit: everything is in the cache here. What waiting for memory costs shows in the whole bench
 * only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/yaml.h"
#include "stages/chain.h"

enum {
	ROOM = 4 << 20,
	STEPS_MAX = 8,
};

struct hot {
	size_t n;
	struct buf text;    /* NDJSON */
	struct buf records; /* msgpack, back to back */
	struct buf out;
	struct codec codec;
	struct chain chain;
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "hot: %s\n", what);
	exit(1);
}

/* ---- what carries the steps ---- */

struct host {
	struct stage_host base;
	struct buf *out;
};

static int host_emit(struct stage_host *h, unsigned output, const struct record *r)
{
	struct buf *out = ((struct host *)h)->out;
	(void)output;
	out->len += record_write(r, out->p + out->len);
	return 0;
}

static int host_reject(struct stage_host *h, const char *why, const void *input, size_t len,
                       const char *at)
{
	(void)h, (void)input, (void)len, (void)at;
	die(why);
}

static struct host host = {.base = {.emit = host_emit, .reject = host_reject}};

static void steps_open(struct hot *h, const char *yaml)
{
	static struct yaml_tree tree;
	static struct chain_step steps[STEPS_MAX];
	static const uint8_t epoch[16];
	struct complaints c = {0};
	const struct node *list = yaml_parse(&tree, "hot", yaml, strlen(yaml), &c);
	if (!list || list->n > STEPS_MAX)
		die("bad steps");
	for (size_t i = 0; i < list->n; i++) {
		const struct node *step = list->items[i];
		const struct stage_ops *ops = stage_find(STAGE_STEP, step->items[0]->text);
		void *config = ops ? calloc(1, ops->config_size + 1) : NULL;
		if (!config)
			die("no such step");
		if (ops->options)
			option_parse(ops->options, step->items[1], NULL, config, &c);
		if (ops->check)
			ops->check(config, step->items[1], &c);
		steps[i] = (struct chain_step){ops, config};
	}
	host.out = &h->out;
	if (c.count ||
	    chain_init(&h->chain, "hot", steps, (unsigned)list->n, &host.base, 0, 1, ROOM) ||
	    chain_open(&h->chain))
		die("the steps do not open");
	chain_chunk(&h->chain, 1700000000000000000, epoch, 1);
}

/* ---- the loops ---- */

static void codec_open(struct hot *h, const char *name)
{
	if (codec_init(&h->codec, codec_find(name), NULL, ROOM) < 0)
		die(name);
}

static void decode(struct hot *h, const struct buf *from, struct buf *to)
{
	struct codec_window w = {.p = from->p, .end = from->p + from->len, .last = true};
	size_t len;
	int r;
	to->len = 0;
	h->codec.ops->reset(&h->codec);
	while ((r = h->codec.ops->decode(&h->codec, &w, to->p + to->len, to->cap - to->len,
	                                 &len)) == CODEC_E_OK)
		to->len += len;
	if (r != CODEC_E_END)
		die("the input is not decoded");
}

static void decode_text(struct hot *h)
{
	decode(h, &h->text, &h->out);
}

static void decode_records(struct hot *h)
{
	decode(h, &h->records, &h->out);
}

static void encode(struct hot *h)
{
	const uint8_t *p = h->records.p, *end = p + h->records.len;
	h->out.len = 0;
	for (const uint8_t *next; p < end; p = next) {
		next = mp_skip(p, end);
		if (h->codec.ops->encode(&h->codec, p, (size_t)(next - p), &h->out) != 0)
			die("a record is not encoded");
	}
}

static void run_steps(struct hot *h)
{
	static struct record rec;
	const uint8_t *p = h->records.p, *end = p + h->records.len;
	uint32_t i = 0;
	h->out.len = 0;
	for (const uint8_t *next; p < end; p = next) {
		const char *why;
		if (record_next(&rec, p, end, &next, &why) != 0)
			die(why);
		if (chain_run(&h->chain, i++, &rec).answer < 0)
			die("a step fails");
	}
}

static const struct loop {
	const char *name;
	const char *codec; /* of the loop itself */
	const char *input; /* codec that makes h->records of the text */
	const char *steps;
	void (*run)(struct hot *h);
} loops[] = {
        {"json-decode", "json", "json", NULL, decode_text},
        {"json-encode", "json", "json", NULL, encode},
        {"msgpack-decode", "msgpack", "json", NULL, decode_records},
        {"lines-decode", "lines", "lines", NULL, decode_text},
        {"lines-encode", "lines", "lines", NULL, encode},
        {"copy", NULL, "json", "[]", run_steps},
        {"filter", NULL, "json", "[filter: {level: {not: debug}}]", run_steps},
        {"filter-set", NULL, "json",
         "[filter: {level: {not: debug}}, "
         "set: {processed_at: =now(), hash: =xxh64(msg), service: =upper(service)}]",
         run_steps},
};

__attribute__((noinline)) void hot_loop(struct hot *h, const struct loop *l);
__attribute__((noinline)) void hot_loop(struct hot *h, const struct loop *l)
{
	l->run(h);
	__asm__ volatile(
	        "" ::
	                : "memory"); /* no tail call: the toggle wants this function to return */
}

/* The same records every time; one in four is filtered out. */
static void make_text(struct buf *b, size_t n)
{
	static const char *const level[] = {"debug", "info", "warn", "error"};
	static const char *const service[] = {"checkout", "billing", "search", "auth"};
	uint32_t x = 1;
	for (size_t i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223;
		buf_printf(b,
		           "{\"id\":%zu,\"ts\":\"2026-03-01T00:%02u:%02u.%03uZ\",\"level\":\"%s\","
		           "\"service\":\"%s\",\"msg\":\"request %08x handled by worker %u in the "
		           "usual way%s\","
		           "\"latency_ms\":%u.%02u,\"user\":{\"id\":%u,\"country\":\"DE\"}}\n",
		           i + 1, x >> 27, x >> 22 & 31, x >> 12 & 511, level[i & 3],
		           service[x >> 30], x, x >> 26, i % 16 ? "" : " \\\"said he\\\"", x >> 23,
		           10 + (x >> 8) % 90, x >> 12);
	}
}

static void prepare(struct hot *h, const struct loop *l, size_t n)
{
	h->n = n;
	make_text(&h->text, n);
	if (buf_room(&h->records, 2 * h->text.len + ROOM) < 0 ||
	    buf_room(&h->out, 4 * h->text.len + ROOM) < 0)
		die("no memory");
	codec_open(h, l->input);
	decode(h, &h->text, &h->records);
	codec_deinit(&h->codec);
	if (l->codec)
		codec_open(h, l->codec);
	if (l->steps)
		steps_open(h, l->steps);
}

static int64_t now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void time_it(struct hot *h, const struct loop *l)
{
	int64_t best = INT64_MAX;
	for (int i = 0; i < 200; i++) {
		int64_t t = now();
		hot_loop(h, l);
		t = now() - t;
		best = t < best ? t : best;
	}
	printf("%s %.1f ns\n", l->name, (double)best / (double)h->n);
}

int main(int argc, char **argv)
{
	static struct hot h;
	size_t n = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	for (size_t i = 0; i < sizeof(loops) / sizeof(*loops); i++) {
		const struct loop *l = &loops[i];
		if (argc < 2 || strcmp(argv[1], "LIST") == 0) {
			puts(l->name);
			continue;
		}
		if (strcmp(argv[1], l->name) != 0)
			continue;
		prepare(&h, l, n ? n : 2000);
		if (n) { /* once, to fill what is filled once, then the loop that is counted */
			l->run(&h);
			hot_loop(&h, l);
		} else {
			time_it(&h, l);
		}
		return 0;
	}
	return argc < 2 || strcmp(argv[1], "LIST") == 0 ? 0 : 2;
}
