/*
 * A byte buffer that grows and is reused: once it has reached the size of the work, adding to it
 * allocates nothing. Owned by value; `buf_deinit` may be called on a zeroed or deinited one.
 */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct buf {
	uint8_t *p;
	size_t len; /* bytes in use */
	size_t cap; /* bytes allocated */
};

/* Makes room for @more bytes behind `len`. 0, or -ENOMEM (contents untouched). */
static inline int buf_room(struct buf *b, size_t more)
{
	if (b->cap - b->len >= more)
		return 0;
	size_t cap = b->cap ? b->cap : 256;
	while (cap - b->len < more) {
		if (cap > SIZE_MAX / 2)
			return -ENOMEM;
		cap *= 2;
	}
	uint8_t *p = realloc(b->p, cap);
	if (!p)
		return -ENOMEM;
	b->p = p;
	b->cap = cap;
	return 0;
}

/* Appends @len bytes. 0 or -ENOMEM. */
static inline int buf_add(struct buf *b, const void *data, size_t len)
{
	int r = buf_room(b, len);
	if (r < 0)
		return r;
	if (len)
		memcpy(b->p + b->len, data, len);
	b->len += len;
	return 0;
}

static inline int buf_add_str(struct buf *b, const char *s)
{
	return buf_add(b, s, strlen(s));
}

static inline int buf_add_byte(struct buf *b, uint8_t c)
{
	return buf_add(b, &c, 1);
}

/* Appends formatted text (without the closing NUL). 0 or -ENOMEM. */
__attribute__((format(printf, 2, 3))) static inline int buf_printf(struct buf *b, const char *fmt,
                                                                   ...)
{
	va_list ap;
	for (size_t want = 128;;) {
		int r = buf_room(b, want);
		if (r < 0)
			return r;
		va_start(ap, fmt);
		int n = vsnprintf((char *)b->p + b->len, b->cap - b->len, fmt, ap);
		va_end(ap);
		if (n < 0)
			return -EINVAL;
		if ((size_t)n < b->cap - b->len) {
			b->len += (size_t)n;
			return 0;
		}
		want = (size_t)n + 1;
	}
}

static inline void buf_deinit(struct buf *b)
{
	free(b->p);
	*b = (struct buf){0};
}
