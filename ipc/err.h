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
