/*
 * For tests of steps: a step from a piece of YAML, records from JSON and back to JSON.
 */
#pragma once

#include "tests/unit/host.h"

#include "daemon/yaml.h"
#include "stages/chain.h"

enum {
	STEPS_ROOM = 256 << 10,
};

struct steps {
	struct test_host *host;
	struct yaml_tree tree;
	struct complaints c;
	struct codec json;
	struct stage st;
	void *config;
	struct record r;
	uint8_t in[STEPS_ROOM], out[STEPS_ROOM];
	struct buf text;
};

static inline struct steps *steps_new(void)
{
	struct steps *s = calloc(1, sizeof(*s));
	assert_non_null(s);
	s->host = host_new(STEPS_ROOM);
	assert_int_equal(codec_init(&s->json, codec_find("json"), NULL, STEPS_ROOM), 0);
	return s;
}

static inline void steps_stop(struct steps *s)
{
	if (!s->st.ops)
		return;
	if (s->st.ops->close)
		s->st.ops->close(&s->st);
	free(s->st.state);
	if (s->config && s->st.ops->config_free)
		s->st.ops->config_free(s->config);
	if (s->config && s->st.ops->options)
		option_free(s->st.ops->options, s->config);
	free(s->config);
	s->config = NULL;
	memset(&s->st, 0, sizeof(s->st));
	yaml_deinit(&s->tree);
	buf_deinit(&s->c.text);
	s->c.count = 0;
	record_deinit(&s->r);
	host_clear(s->host);
}

static inline void steps_free(struct steps *s)
{
	steps_stop(s);
	codec_deinit(&s->json);
	host_free(s->host);
	buf_deinit(&s->text);
	yaml_deinit(&s->tree);
	buf_deinit(&s->c.text);
	record_deinit(&s->r);
	free(s);
}

static inline struct node *steps_node(struct steps *s, const char *yaml)
{
	struct node *n = yaml_parse(&s->tree, "test", yaml, strlen(yaml), &s->c);
	assert_non_null(n);
	return n;
}

/* Reads the step's configuration. The number of complaints; their text is in s->c.text. */
static inline unsigned steps_check(struct steps *s, const char *step, const char *yaml)
{
	steps_stop(s);
	const struct stage_ops *ops = stage_find(STAGE_STEP, step);
	assert_non_null(ops);
	struct node *n = steps_node(s, yaml);
	s->config = calloc(1, ops->config_size + 1);
	assert_non_null(s->config);
	host_stage(s->host, &s->st, ops, s->config);
	if (ops->options)
		option_parse(ops->options, n, NULL, s->config, &s->c);
	if (s->c.count == 0)
		ops->check(s->config, n, &s->c);
	assert_int_equal(buf_add_byte(&s->c.text, 0), 0);
	assert_non_null(s->c.text.p);
	return s->c.count;
}

static inline void steps_start(struct steps *s, const char *step, const char *yaml)
{
	if (steps_check(s, step, yaml) != 0)
		fail_msg("%s", (char *)s->c.text.p);
	if (s->st.ops->open)
		assert_int_equal(s->st.ops->open(&s->st), 0);
}

/* A complaint is expected that contains @text. */
static inline void steps_refuse(struct steps *s, const char *step, const char *yaml,
                                const char *text)
{
	assert_true(steps_check(s, step, yaml) > 0);
	const char *got = (const char *)s->c.text.p;
	if (got && !strstr(got, text))
		fail_msg("\"%s\" is not in \"%s\"", text, got);
}

static inline void steps_open(struct steps *s, const char *json)
{
	size_t len;
	const char *why;
	struct codec_window w = {.p = (const uint8_t *)json,
	                         .end = (const uint8_t *)json + strlen(json),
	                         .last = true};
	int r = s->json.ops->decode(&s->json, &w, s->in, sizeof(s->in), &len);
	if (r != CODEC_E_OK)
		fail_msg("%s: answer %d", json, r);
	assert_int_equal(record_open(&s->r, s->in, len, &why), 0);
}

static inline const char *steps_json(struct steps *s, const uint8_t *rec, size_t len)
{
	s->text.len = 0;
	assert_int_equal(s->json.ops->encode(&s->json, rec, len, &s->text), 0);
	while (s->text.len && s->text.p[s->text.len - 1] == '\n')
		s->text.len--;
	assert_int_equal(buf_add_byte(&s->text, 0), 0);
	return (const char *)s->text.p;
}

static inline const char *steps_record(struct steps *s)
{
	assert_true(record_size(&s->r) <= sizeof(s->out));
	return steps_json(s, s->out, record_write(&s->r, s->out));
}

/* Runs the step on @json. */
static inline int steps_run(struct steps *s, const char *json)
{
	steps_open(s, json);
	return s->st.ops->transform(&s->st, &s->r);
}

static inline void steps_expect_at(struct steps *s, const char *json, const char *want, int line)
{
	int a = steps_run(s, json);
	if (a != STAGE_OK)
		fail_msg("line %d: answer %d: %s", line, a, s->st.why);
	const char *got = steps_record(s);
	if (strcmp(got, want) != 0)
		fail_msg("line %d: %s, not %s", line, got, want);
}

#define steps_expect(s, json, want) steps_expect_at(s, json, want, __LINE__)
