/*
 * What the master and the log's worker share: where the log lies, and what of it is to be put back.
 */
#pragma once

#include <stdint.h>
#include <stdio.h>

#include "daemon/config.h"

enum {
	LOG_MARK_MAGIC = 0x4d474f4c,
};

/* The log stage's position. After a loss of power the master sets it; the worker moves `next` on
 * with each commit. */
struct log_mark {
	uint32_t magic, reserved;
	uint64_t from, next, end; /* entries to be put back: [from, end), those before next are */
};

static inline void log_path(const struct config *cfg, char *out, size_t size)
{
	snprintf(out, size, "%s.log", cfg->arena_path);
}
