/*
 * What the tests of the configuration share: a directory with a file in it, loading that file, and
 * what was said about it.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config.h"

static char dir[] = "/tmp/sluice-config-XXXXXX";

static inline void put(const char *name, const char *text)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
	assert_int_equal(fchmod(fileno(f), 0640), 0);
	fclose(f);
}

static inline void drop(const char *name)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
}

/* The complaints with the directory taken out of them. */
static inline void clean(const struct buf *text, struct buf *out)
{
	size_t n = strlen(dir) + 1;
	out->len = 0;
	for (size_t i = 0; i < text->len; i++)
		if (text->len - i >= n && memcmp(text->p + i, dir, n - 1) == 0 &&
		    text->p[i + n - 1] == '/')
			i += n - 1;
		else
			buf_add_byte(out, text->p[i]);
	buf_add_byte(out, 0);
}

static inline struct config *load(const char *text, struct buf *said)
{
	char path[256];
	struct complaints c = {0};
	snprintf(path, sizeof(path), "%s/s.yaml", dir);
	put("s.yaml", text);
	struct config *cfg = config_load(path, &c);
	assert_true((cfg == NULL) == (c.count > 0));
	clean(&c.text, said);
	buf_deinit(&c.text);
	return cfg;
}

static inline void says(const char *text, const char *want)
{
	struct buf said = {0};
	struct config *cfg = load(text, &said);
	assert_string_equal((char *)said.p, want);
	assert_true((cfg == NULL) == (*want != '\0'));
	config_free(cfg);
	buf_deinit(&said);
}

static inline struct config *good(const char *text)
{
	struct buf said = {0};
	struct config *cfg = load(text, &said);
	assert_string_equal((char *)said.p, "");
	buf_deinit(&said);
	return cfg;
}

#define P  "producers:\n  in: {type: generate}\n"
#define C  "consumers:\n  out: {type: null}\n"
#define CF "consumers:\n  out: {type: null, from: "

static inline int start(void **state)
{
	(void)state;
	unsetenv("RUNTIME_DIRECTORY");
	unsetenv("STATE_DIRECTORY");
	return mkdtemp(dir) ? 0 : -1;
}

static inline int stop(void **state)
{
	(void)state;
	drop("s.yaml");
	return rmdir(dir);
}
