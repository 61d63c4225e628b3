/*
 * A rig for codecs and steps whose input and output read well as text: configuration as YAML,
 * records as JSON lines, rejected input as "! reason".
 */
#pragma once

#include "tests/unit/host.h"

#include <stdio.h>
#include <unistd.h>

#include "daemon/yaml.h"
#include "stages/chain.h"

/* A codec with its configuration. */
struct text_codec {
	struct codec codec;
	void *config;
	struct yaml_tree tree;
};

/* @yaml: the options, NULL for none. Returns the number of complaints; the first one's text on
 * stderr when none were expected is the caller's to print. */
static inline unsigned text_codec_config(struct text_codec *t, const char *name, const char *yaml,
                                         struct complaints *c)
{
	const struct codec_ops *ops = codec_find(name);
	assert_non_null(ops);
	memset(t, 0, sizeof(*t));
	struct node *n = yaml ? yaml_parse(&t->tree, "test", yaml, strlen(yaml), c) : NULL;
	t->config = calloc(1, ops->config_size ? ops->config_size : 1);
	if (ops->options)
		option_parse(ops->options, n, NULL, t->config, c);
	if (ops->check)
		ops->check(t->config, n, c);
	t->codec.ops = ops;
	return c->count;
}

static inline void text_codec_open(struct text_codec *t, const char *name, const char *yaml,
                                   size_t max_record)
{
	struct complaints c = {0};
	if (text_codec_config(t, name, yaml, &c))
		fail_msg("%.*s", (int)c.text.len, (char *)c.text.p);
	const struct codec_ops *ops = t->codec.ops;
	assert_int_equal(codec_init(&t->codec, ops, t->config, max_record), 0);
	if (ops->reset)
		ops->reset(&t->codec);
}

static inline void text_codec_close(struct text_codec *t)
{
	const struct codec_ops *ops = t->codec.ops;
	if (t->codec.state)
		codec_deinit(&t->codec);
	if (ops->options)
		option_free(ops->options, t->config);
	free(t->config);
	yaml_deinit(&t->tree);
}

/* Appends the record as a line of JSON. */
static inline void text_add_record(struct buf *out, const uint8_t *p, size_t len)
{
	static struct text_codec json;
	const char *why;
	struct record r = {0};
	if (!json.codec.state)
		text_codec_open(&json, "json", NULL, 1 << 24);
	int e = record_open(&r, p, len, &why);
	if (e)
		fail_msg("not a record: %s", why);
	record_deinit(&r);
	assert_int_equal(json.codec.ops->encode(&json.codec, p, len, out), 0);
}

/* The one record that a line of JSON says. */
static inline void text_record(const char *s, struct buf *out)
{
	static struct text_codec json;
	size_t n = strlen(s);
	if (!json.codec.state)
		text_codec_open(&json, "json", NULL, 1 << 24);
	json.codec.ops->reset(&json.codec);
	struct codec_window w = {
	        .p = (const uint8_t *)s, .end = (const uint8_t *)s + n, .last = true};
	out->len = 0;
	assert_int_equal(buf_room(out, 16 * n + 64), 0);
	assert_int_equal(json.codec.ops->decode(&json.codec, &w, out->p, out->cap, &out->len), 0);
}

/* Decodes what is in @w to the end of the window, each record first into too little room. */
static inline int text_drain(struct codec *c, struct codec_window *w, struct buf *log)
{
	for (;;) {
		size_t len = 0, room = 1;
		uint8_t *out = malloc(c->max_record);
		int r = c->ops->decode(c, w, out, 0, &len);
		while (r == CODEC_E_ROOM && room < c->max_record) {
			room = 2 * room < c->max_record ? 2 * room : c->max_record;
			uint8_t *exact = malloc(room); /* so that ASan sees a byte too many */
			r = c->ops->decode(c, w, exact, room, &len);
			if (r == CODEC_E_OK)
				memcpy(out, exact, len);
			free(exact);
		}
		assert_true(r >= 0);
		assert_int_not_equal(r, CODEC_E_ROOM);
		assert_true(w->p <= w->end);
		if (r == CODEC_E_OK)
			text_add_record(log, out, len);
		if (r == CODEC_E_REJECT)
			buf_printf(log, "! %s [%.*s]\n", w->why, (int)w->bad_len,
			           (const char *)w->bad);
		free(out);
		if (r == CODEC_E_MORE)
			assert_false(w->last);
		if (r == CODEC_E_MORE || r == CODEC_E_END)
			return r;
	}
}

/* Decodes [p, p+n), a stream that arrives in pieces: first @first bytes, then @step by @step. Every
 * window is memory of its own. */
static inline void text_stream(struct codec *c, const uint8_t *p, size_t n, size_t first,
                               size_t step, struct buf *log)
{
	size_t done = 0, upto = first < n ? first : n;
	if (c->ops->reset)
		c->ops->reset(c);
	for (;;) {
		size_t len = upto - done;
		uint8_t *copy = malloc(len ? len : 1);
		if (len)
			memcpy(copy, p + done, len);
		struct codec_window w = {.p = copy, .end = copy + len, .last = upto == n};
		text_drain(c, &w, log);
		done += (size_t)(w.p - copy);
		free(copy);
		if (upto == n)
			break;
		upto = n - upto > step ? upto + step : n;
	}
	assert_int_equal(done, n);
}

/* The whole input must give @expected, wherever it is cut. */
static inline void text_decodes(const char *codec, const char *yaml, size_t max_record,
                                const char *in, size_t n, const char *expected)
{
	struct text_codec t;
	struct buf log = {0};
	text_codec_open(&t, codec, yaml, max_record);
	for (size_t cut = 0; cut <= n + 1; cut++) {
		log.len = 0;
		/* cut n+1: one byte after the other */
		text_stream(&t.codec, (const uint8_t *)in, n, cut > n ? 1 : cut, cut > n ? 1 : n,
		            &log);
		buf_add_byte(&log, 0);
		if (strcmp((char *)log.p, expected) != 0)
			fail_msg("cut at %zu of %zu:\n%s--- expected\n%s", cut, n, (char *)log.p,
			         expected);
	}
	buf_deinit(&log);
	text_codec_close(&t);
}

/* Encodes records (lines of JSON) and expects @expected, or "! reason". */
static inline void text_encodes(struct text_codec *t, const char *json, const char *expected)
{
	struct buf rec = {0}, out = {0};
	text_record(json, &rec);
	int r = t->codec.ops->encode(&t->codec, rec.p, rec.len, &out);
	assert_true(r >= 0);
	if (r) {
		assert_int_equal(out.len, 0);
		buf_printf(&out, "! %s", t->codec.why);
	}
	buf_add_byte(&out, 0);
	assert_string_equal((char *)out.p, expected);
	buf_deinit(&rec);
	buf_deinit(&out);
}

/* Steps from YAML, a list as in a transformer. */
struct text_steps {
	struct yaml_tree tree;
	struct chain chain;
	struct chain_step steps[16];
	void *configs[16];
	unsigned n;
	struct test_host *host;
};

static inline void text_steps_config(struct text_steps *t, const char *yaml, struct complaints *c)
{
	memset(t, 0, sizeof(*t));
	struct node *list = yaml_parse(&t->tree, "test", yaml, strlen(yaml), c);
	if (!list || list->kind != NODE_SEQ)
		fail_msg("no list of steps: %.*s", (int)c->text.len, (char *)c->text.p);
	for (size_t i = 0; i < list->n; i++) {
		const struct stage_ops *ops =
		        stage_find(STAGE_STEP, list->items[i]->items[0]->text);
		const struct node *v = list->items[i]->items[1];
		assert_non_null(ops);
		void *config = calloc(1, ops->config_size ? ops->config_size : 1);
		unsigned before = c->count;
		if (ops->options)
			option_parse(ops->options, v, NULL, config, c);
		if (ops->check && c->count == before)
			ops->check(config, v, c);
		t->configs[t->n] = config;
		t->steps[t->n++] = (struct chain_step){ops, config};
	}
}

static inline void text_steps_open(struct text_steps *t, const char *yaml, size_t max_record)
{
	struct complaints c = {0};
	text_steps_config(t, yaml, &c);
	if (c.count)
		fail_msg("%.*s", (int)c.text.len, (char *)c.text.p);
	t->host = host_new(max_record);
	assert_int_equal(
	        chain_init(&t->chain, "test", t->steps, t->n, &t->host->base, 0, 1, max_record), 0);
	assert_int_equal(chain_open(&t->chain), 0);
	static const uint8_t epoch[16];
	chain_chunk(&t->chain, 1700000000000000000, epoch, 1);
}

static inline void text_steps_close(struct text_steps *t)
{
	if (t->host) {
		chain_deinit(&t->chain);
		host_free(t->host);
	}
	for (unsigned i = 0; i < t->n; i++) {
		if (t->steps[i].ops->config_free)
			t->steps[i].ops->config_free(t->configs[i]);
		if (t->steps[i].ops->options)
			option_free(t->steps[i].ops->options, t->configs[i]);
		free(t->configs[i]);
	}
	yaml_deinit(&t->tree);
}

/* Runs msgpack record number @index; what came of it is appended as text. */
static inline struct chain_outcome text_steps_run(struct text_steps *t, uint32_t index,
                                                  const uint8_t *p, size_t len, struct buf *log)
{
	static struct record r;
	const char *why;
	host_clear(t->host);
	assert_int_equal(record_open(&r, p, len, &why), 0);
	struct chain_outcome o = chain_run(&t->chain, index, &r);
	for (unsigned i = 0; log && i < t->host->n; i++)
		text_add_record(log, t->host->items[i].p, t->host->items[i].len);
	if (log && o.answer == STAGE_E_REJECT)
		buf_printf(log, "! %s\n", o.why);
	if (log && o.answer == STAGE_E_FILTERED)
		buf_add_str(log, "filtered\n");
	assert_true(o.answer >= 0);
	record_clear(&r);
	return o;
}

/* The record @json through the steps @yaml must give @expected. */
static inline void text_step_gives(const char *yaml, const char *json, const char *expected)
{
	struct text_steps t;
	struct buf rec = {0}, log = {0};
	text_steps_open(&t, yaml, 1 << 16);
	text_record(json, &rec);
	for (int i = 0; i < 2; i++) { /* the second time nothing of the first is left */
		log.len = 0;
		text_steps_run(&t, (uint32_t)i, rec.p, rec.len, &log);
		buf_add_byte(&log, 0);
		assert_string_equal((char *)log.p, expected);
	}
	buf_deinit(&rec);
	buf_deinit(&log);
	text_steps_close(&t);
}

/* The steps @yaml must be complained about with @part somewhere in the text. */
static inline void text_step_refused(const char *yaml, const char *part)
{
	struct text_steps t;
	struct complaints c = {0};
	text_steps_config(&t, yaml, &c);
	assert_true(c.count > 0);
	buf_add_byte(&c.text, 0);
	if (!strstr((char *)c.text.p, part))
		fail_msg("expected \"%s\" in: %s", part, (char *)c.text.p);
	buf_deinit(&c.text);
	text_steps_close(&t);
}

/* Opens a file (or a command's output) of the folder of real input; NULL, with a word, when it is
 * absent. */
static inline bool text_data_path(const char *name, char path[512])
{
	const char *env = getenv("SLUICE_DATA");
	const char *const places[] = {env ? env : "../shared/data", "../shared/data",
	                              "../../shared/data"};
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, 512, "%s/%s", places[i], name);
		if (access(path, R_OK) == 0)
			return true;
	}
	printf("skipped: no %s\n", name);
	return false;
}

static inline bool text_data(const char *name, struct buf *out)
{
	char path[512], command[600];
	size_t len = strlen(name), n;
	if (!text_data_path(name, path))
		return false;
	bool gz = len > 3 && strcmp(name + len - 3, ".gz") == 0;
	snprintf(command, sizeof(command), "gzip -dc '%s'", path);
	FILE *f = gz ? popen(command, "r") : fopen(path, "r");
	assert_non_null(f);
	do {
		assert_int_equal(buf_room(out, 1 << 16), 0);
		n = fread(out->p + out->len, 1, 1 << 16, f);
		out->len += n;
	} while (n);
	assert_int_equal(gz ? pclose(f) : fclose(f), 0);
	return true;
}
