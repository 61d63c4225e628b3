/*
 * What tests of stages with files share: a temporary directory, files in it, a stage with its
 * codec.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/host.h"

static inline char *files_dir(void)
{
	static char dir[64];
	snprintf(dir, sizeof(dir), "/tmp/sluice-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	return dir;
}

static inline void files_remove(const char *dir)
{
	char command[PATH_MAX + 16];
	assert_int_equal(strncmp(dir, "/tmp/sluice-test-", 17), 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	assert_int_equal(system(command), 0);
}

/* A name that stays valid for the next 63 calls. */
static inline const char *files_name(const char *dir, const char *name)
{
	static char names[64][PATH_MAX];
	static unsigned turn;
	char *p = names[turn++ % 64];
	snprintf(p, PATH_MAX, "%s/%s", dir, name);
	return p;
}

static inline void files_put(const char *path, int flags, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | flags, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	close(fd);
}

static inline void files_write(const char *path, const char *text)
{
	files_put(path, O_TRUNC, text, strlen(text));
}

static inline void files_append(const char *path, const char *text)
{
	files_put(path, O_APPEND, text, strlen(text));
}

/* The whole file, with a NUL behind it; static. NULL: there is none. */
static inline char *files_read(const char *path)
{
	static char text[1 << 20];
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return NULL;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	assert_true(n >= 0);
	text[n] = 0;
	close(fd);
	return text;
}

static inline bool files_there(const char *path)
{
	struct stat sb;
	return stat(path, &sb) == 0;
}

/* Configuration with its defaults; the caller sets the rest and frees it. */
static inline void *files_config(const struct option *options, size_t size)
{
	struct complaints c = {0};
	void *config = calloc(1, size ? size : 1);
	assert_non_null(config);
	if (options)
		option_parse(options, NULL, NULL, config, &c);
	buf_deinit(&c.text);
	return config;
}

static inline void files_codec(struct codec *c, const char *name, size_t max_record)
{
	const struct codec_ops *ops = codec_find(name);
	assert_non_null(ops);
	void *config = files_config(ops->options, ops->config_size);
	assert_int_equal(codec_init(c, ops, config, max_record), 0);
}

static inline void files_codec_free(struct codec *c)
{
	void *config = (void *)c->config;
	const struct codec_ops *ops = c->ops;
	codec_deinit(c);
	if (ops->options)
		option_free(ops->options, config);
	free(config);
}
