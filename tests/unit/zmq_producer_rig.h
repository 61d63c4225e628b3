/*
 * A zmq producer that listens in a directory of its own or on a free port, takes JSON, and is asked
 * what it made of it.
 */
#pragma once

#include "tests/unit/zmq_rig.h"

static char dir[64];
static char endpoint[128];

static inline struct rig *start(const char *more)
{
	char yaml[1024];
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/s", dir);
	snprintf(yaml, sizeof(yaml), "listen: %s\n%s", endpoint, more);
	struct rig *r = rig_new(STAGE_PRODUCER, "json", yaml);
	rig_start(r);
	return r;
}

static inline struct rig *start_tcp(const char *more)
{
	char yaml[1024];
	snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.1:%u", rig_port());
	snprintf(yaml, sizeof(yaml), "listen: %s\n%s", endpoint, more);
	struct rig *r = rig_new(STAGE_PRODUCER, "json", yaml);
	rig_start(r);
	return r;
}

/* The integer "n" of item @i, which is {"n": ...}. */
static inline uint64_t number(const struct rig *r, unsigned i)
{
	const struct host_item *it = &r->host->items[i];
	struct mp v;
	const uint8_t *p = mp_read(it->p, it->p + it->len, &v);
	assert_false(it->rejected);
	assert_int_equal(v.type, MP_MAP);
	p = mp_read(p, it->p + it->len, &v);
	assert_int_equal(v.len, 1);
	p = mp_read(p, it->p + it->len, &v);
	assert_non_null(p);
	assert_int_equal(v.type, MP_UINT);
	return v.u;
}

/* Items are exactly {"n":1}, {"n":2}, ... {"n":@last}. */
static inline void assert_numbers(const struct rig *r, unsigned last)
{
	assert_int_equal(r->host->n, last);
	for (unsigned i = 0; i < last; i++)
		assert_int_equal(number(r, i), i + 1);
}

static inline int producer_setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_zmq.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static inline int producer_teardown(void **state)
{
	(void)state;
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}
