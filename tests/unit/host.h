/*
 * A host for stage tests: two buffers instead of a worker. What a stage emits, makes or rejects is
 * kept in order; the position is kept as the worker would; units are ended by the test.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stages/stage.h"

enum {
	HOST_ITEMS = 4096,
};

struct host_item {
	unsigned output; /* emit: which output */
	bool rejected;
	uint8_t *p; /* record, or rejected input */
	size_t len;
	char why[STAGE_WHY_MAX];
	char at[STAGE_WHY_MAX];
};

struct test_host {
	struct stage_host base; /* first: the host is found from it */
	size_t room;            /* largest record */
	uint8_t *scratch;
	struct host_item items[HOST_ITEMS];
	unsigned n;
	uint8_t position[STAGE_POSITION_MAX];
	uint64_t stored;
};

static inline struct host_item *host_add(struct test_host *t, const void *p, size_t len)
{
	assert_true(t->n < HOST_ITEMS);
	struct host_item *it = &t->items[t->n++];
	memset(it, 0, sizeof(*it));
	it->p = malloc(len + 1);
	assert_non_null(it->p);
	if (len)
		memcpy(it->p, p, len);
	it->p[len] = 0;
	it->len = len;
	return it;
}

static inline int host_reserve(struct stage_host *h, size_t need, uint8_t **p, size_t *room)
{
	struct test_host *t = (struct test_host *)h;
	if (need > t->room)
		return STAGE_E_REJECT;
	*p = t->scratch;
	*room = t->room;
	return 0;
}

static inline int host_made(struct stage_host *h, size_t len)
{
	struct test_host *t = (struct test_host *)h;
	host_add(t, t->scratch, len);
	return 0;
}

static inline int host_emit(struct stage_host *h, unsigned output, const struct record *r)
{
	struct test_host *t = (struct test_host *)h;
	size_t size = record_size(r);
	if (size > t->room)
		return STAGE_E_REJECT;
	size_t len = record_write(r, t->scratch);
	assert_int_equal(len, size);
	host_add(t, t->scratch, len)->output = output;
	return 0;
}

static inline int host_reject(struct stage_host *h, const char *why, const void *input, size_t len,
                              const char *at)
{
	struct test_host *t = (struct test_host *)h;
	struct host_item *it = host_add(t, input, len);
	it->rejected = true;
	snprintf(it->why, sizeof(it->why), "%s", why);
	snprintf(it->at, sizeof(it->at), "%s", at ? at : "");
	return 0;
}

static inline int host_position(struct stage_host *h, uint32_t off, const void *data, uint32_t len)
{
	struct test_host *t = (struct test_host *)h;
	assert_true((size_t)off + len <= sizeof(t->position));
	memcpy(t->position + off, data, len);
	return 0;
}

static inline uint64_t host_stored(struct stage_host *h, bool delivered)
{
	(void)delivered;
	return ((struct test_host *)h)->stored;
}

static inline struct test_host *host_new(size_t room)
{
	struct test_host *t = calloc(1, sizeof(*t));
	assert_non_null(t);
	t->base = (struct stage_host){host_reserve, host_made,     host_emit,
	                              host_reject,  host_position, host_stored};
	t->room = room;
	t->scratch = malloc(room);
	assert_non_null(t->scratch);
	return t;
}

static inline void host_clear(struct test_host *t)
{
	for (unsigned i = 0; i < t->n; i++)
		free(t->items[i].p);
	t->n = 0;
}

static inline void host_free(struct test_host *t)
{
	host_clear(t);
	free(t->scratch);
	free(t);
}

/* Makes @st a stage of @ops carried by @t, with @config. The caller opens, closes and frees
 * st->state. */
static inline void host_stage(struct test_host *t, struct stage *st, const struct stage_ops *ops,
                              const void *config)
{
	memset(st, 0, sizeof(*st));
	st->ops = ops;
	st->name = "test";
	st->config = config;
	st->state = calloc(1, ops->state_size ? ops->state_size : 1);
	st->host = &t->base;
	st->workers = 1;
	st->max_record = t->room;
	st->position = t->position;
	st->position_fresh = true;
	st->timeout = 30000000000;
	st->now = 1700000000000000000;
}
