/*
 * A log in a directory of its own, and chunks that can be told from each other.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/crc32c.h"
#include "ipc/wal.h"

enum {
	SECTOR = 512,
	RING = 512 << 10,
	CHUNK = 64 << 10,
	ITEMS_MAX = 4096,
	PLACE = 256, /* bytes of a position that are used here */
};

static char dir[64], path[96];
static uint8_t *chunk[WAL_GROUP_MAX]; /* aligned data */
static uint64_t seed = 88172645463325252u;

static uint64_t rnd(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

static int setup(void **state)
{
	(void)state;
	struct stat st;
	snprintf(dir, sizeof(dir), "%s/sluice-log-XXXXXX",
	         stat("/dev/shm", &st) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/log", dir);
	for (unsigned i = 0; i < WAL_GROUP_MAX; i++)
		chunk[i] = aligned_alloc(WAL_BLOCK, CHUNK);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	rmdir(dir);
	for (unsigned i = 0; i < WAL_GROUP_MAX; i++)
		free(chunk[i]);
	return 0;
}

/* ---- chunks that can be told from each other ---- */

static void fill(uint8_t *p, uint64_t number, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

struct patch {
	uint32_t off, len;
	uint64_t value;
};

static struct wal_item item(unsigned at, uint64_t number, uint32_t bytes, struct patch *patch)
{
	fill(chunk[at], number, bytes);
	*patch = (struct patch){(uint32_t)(8 * (number % (PLACE / 8))), 8, number};
	return (struct wal_item){.stage = number % 3 ? "orders" : "metrics",
	                         .commit = number,
	                         .number = number,
	                         .records = 1 + (uint32_t)(number % 5),
	                         .bytes = bytes,
	                         .crc = crc32c(0, chunk[at], bytes),
	                         .data = chunk[at],
	                         .patches = patch,
	                         .patch_bytes = sizeof(*patch)};
}

static int append(struct wal *w, uint64_t number, unsigned n, uint32_t bytes)
{
	struct wal_item items[WAL_GROUP_MAX];
	struct patch patches[WAL_GROUP_MAX];
	for (unsigned i = 0; i < n; i++)
		items[i] = item(i, number + i, bytes, &patches[i]);
	return wal_append(w, items, n);
}

static void assert_entry(struct wal *w, uint64_t seq, uint64_t number, uint32_t bytes)
{
	static _Alignas(WAL_BLOCK) uint8_t got[CHUNK], want[CHUNK];
	const struct wal_entry *e = wal_entry(w, seq);
	assert_non_null(e);
	assert_int_equal(e->number, number);
	assert_int_equal(e->commit, number);
	assert_int_equal(e->bytes, bytes);
	assert_string_equal(w->position[e->who].stage, number % 3 ? "orders" : "metrics");
	assert_int_equal(wal_read(w, e, got), 0);
	fill(want, number, bytes);
	assert_memory_equal(got, want, bytes);
}

static void fresh(struct wal *w, enum wal_mode mode)
{
	unlink(path);
	assert_int_equal(wal_create(path, RING, 2), 0);
	assert_int_equal(wal_open(w, path, mode), 0);
}

static void reopen(struct wal *w, enum wal_mode mode)
{
	wal_close(w);
	assert_int_equal(wal_open(w, path, mode), 0);
}

/* A checkpoint whose figures are as of now. */
static int save(struct wal *w)
{
	w->figures_seq = w->next_seq;
	return wal_checkpoint(w);
}
