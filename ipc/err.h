/*
 * Two kinds of errors, told apart by their sign.
 *
 *   negative  -errno: this process cannot go on. Passed up unchanged to the worker's end, where it
 * is logged; the master restarts the worker. positive  MODULE_E_*: an ordinary answer of one
 * function, named in its module's header. The direct caller deals with it. zero      done.
 *
 * assert() is for bugs only and stays on in every build. Outside input never asserts.
 */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* -errno for the call that just failed; never 0, so that a failure cannot be read as a success. */
static inline int err_errno(void)
{
	return errno > 0 ? -errno : -EIO;
}

/* Writes all @len bytes at @at of a file, or fails: 0 or -errno; then a part may be written. */
static inline int err_pwrite(int fd, const void *p, size_t len, off_t at)
{
	while (len) {
		ssize_t n = pwrite(fd, p, len, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? err_errno() : -EIO;
		p = (const char *)p + n;
		len -= (size_t)n;
		at += n;
	}
	return 0;
}

static inline void err_free_p(void *p)
{
	free(*(void **)p);
}

static inline void err_close_p(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Locals that clean up after themselves: `_cleanup_(err_free_p) char *s = NULL;` */
#define _cleanup_(f)    __attribute__((cleanup(f)))
#define _cleanup_free_  _cleanup_(err_free_p)
#define _cleanup_close_ _cleanup_(err_close_p)

/* The descriptor, which _cleanup_close_ then leaves open. */
static inline int err_take_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}
