/*
 * A rig for steps: a stage from a line of YAML, carried by the host of two buffers, with a state in
 * a temporary directory, and records from a line of arguments.
 */
#pragma once

#include "tests/unit/host.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "daemon/yaml.h"
#include "stages/state.h"

struct rig {
	struct test_host *host;
	struct stage st;
	struct yaml_tree tree;
	void *config;
	char dir[64];
	struct state_env *env;
	struct state *kv;
	struct record rec;
	struct buf bytes;
	struct commit_id id;
};

static inline void rig_tmpdir(char dir[64])
{
	snprintf(dir, 64, "/tmp/sluice-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
}

static inline void rig_remove(const char *dir)
{
	static const char *const files[] = {"data.mdb", "owner"};
	char path[128];
	for (size_t i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		unlink(path);
	}
	rmdir(dir);
}

/* Reads @yaml as the stage's map. Returns the number of complaints, which go to @text when it is
 * given. */
static inline unsigned rig_config(struct rig *g, const struct stage_ops *ops, const char *yaml,
                                  struct buf *text)
{
	struct complaints c = {0};
	struct node *n = yaml_parse(&g->tree, "test", yaml, strlen(yaml), &c);
	g->config = calloc(1, ops->config_size ? ops->config_size : 1);
	option_parse(ops->options, n, NULL, g->config, &c);
	if (ops->check && !c.count)
		ops->check(g->config, n, &c);
	if (text)
		buf_add(text, c.text.p, c.text.len);
	else if (c.count)
		fail_msg("%.*s", (int)c.text.len, (char *)c.text.p);
	buf_deinit(&c.text);
	return c.count;
}

static inline void rig_start(struct rig *g, const struct stage_ops *ops)
{
	if (ops->flags & STAGE_STATEFUL) {
		assert_int_equal(state_env_open(&g->env, g->dir, 64 << 20, 1, false), 0);
		assert_int_equal(state_env_step(g->env, 0, ops->name, &g->kv), 0);
	}
	host_stage(g->host, &g->st, ops, g->config);
	g->st.kv = g->kv;
	assert_int_equal(ops->open ? ops->open(&g->st) : 0, 0);
}

static inline void rig_open(struct rig *g, const struct stage_ops *ops, const char *yaml)
{
	memset(g, 0, sizeof(*g));
	rig_tmpdir(g->dir);
	g->host = host_new(256 << 10);
	rig_config(g, ops, yaml, NULL);
	rig_start(g, ops);
}

static inline void rig_stop(struct rig *g)
{
	if (g->st.ops->close)
		g->st.ops->close(&g->st);
	free(g->st.state);
	g->env = state_env_close(g->env);
}

static inline void rig_close(struct rig *g)
{
	const struct stage_ops *ops = g->st.ops;
	rig_stop(g);
	if (ops->config_free)
		ops->config_free(g->config);
	option_free(ops->options, g->config);
	free(g->config);
	yaml_deinit(&g->tree);
	host_free(g->host);
	record_deinit(&g->rec);
	buf_deinit(&g->bytes);
	rig_remove(g->dir);
}

static inline int rig_commit(struct rig *g)
{
	int r = g->st.ops->settle ? g->st.ops->settle(&g->st) : 0;
	g->id.number++;
	return r ? r : state_env_commit(g->env, &g->id);
}

static inline void rig_rollback(struct rig *g)
{
	state_env_rollback(g->env);
	if (g->st.ops->rollback)
		g->st.ops->rollback(&g->st);
}

/* Opens g->rec on a record made of (key, type, value) triples: i int64, u uint64, d double, s
 * string, n nil, I an integer in its longest form, r raw msgpack (pointer, size_t); closed by NULL.
 */
static inline void rig_record(struct rig *g, ...)
{
	va_list ap;
	struct buf *b = &g->bytes;
	b->len = 0;
	uint32_t n = 0;
	assert_int_equal(buf_room(b, 1 << 20), 0);
	b->len = 5;
	va_start(ap, g);
	for (const char *k; (k = va_arg(ap, const char *)); n++) {
		uint8_t *p = mp_write_str(b->p + b->len, k, (uint32_t)strlen(k));
		int type = va_arg(ap, int);
		if (type == 'i') {
			p = mp_write_int(p, va_arg(ap, int64_t));
		} else if (type == 'u') {
			p = mp_write_uint(p, va_arg(ap, uint64_t));
		} else if (type == 'd') {
			p = mp_write_float(p, va_arg(ap, double));
		} else if (type == 'n') {
			p = mp_write_nil(p);
		} else if (type == 's') {
			const char *s = va_arg(ap, const char *);
			p = mp_write_str(p, s, (uint32_t)strlen(s));
		} else if (type == 'I') {
			uint64_t u = va_arg(ap, uint64_t);
			*p++ = 0xcf;
			for (int i = 56; i >= 0; i -= 8)
				*p++ = (uint8_t)(u >> i);
		} else {
			const void *raw = va_arg(ap, const void *);
			size_t len = va_arg(ap, size_t);
			memcpy(p, raw, len);
			p += len;
		}
		b->len = (size_t)(p - b->p);
	}
	va_end(ap);
	b->p[0] = 0xdf;
	for (int i = 0; i < 4; i++)
		b->p[1 + i] = (uint8_t)(n >> (24 - 8 * i));
	const char *why = "";
	int r = record_open(&g->rec, b->p, b->len, &why);
	if (r)
		fail_msg("record: %s", why);
}

/* The top-level field @key of emitted record @i. */
static inline struct mp rig_out(struct rig *g, unsigned i, const char *key)
{
	static struct record r;
	const char *why;
	record_deinit(&r);
	assert_true(i < g->host->n);
	assert_int_equal(record_open(&r, g->host->items[i].p, g->host->items[i].len, &why), 0);
	uint32_t len;
	const uint8_t *v = record_path(&r, key, strlen(key), &len);
	assert_non_null(v);
	struct mp m = record_value(v, len);
	record_deinit(&r);
	return m;
}
