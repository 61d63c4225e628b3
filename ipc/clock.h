/*
 * The time, in nanoseconds: one pair of functions for everybody.
 */
#pragma once

#include <stdint.h>
#include <time.h>

static inline int64_t clock_read(clockid_t which)
{
	struct timespec ts;
	clock_gettime(which, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* For durations and deadlines: never set, stands while the machine sleeps. */
static inline int64_t clock_monotonic(void)
{
	return clock_read(CLOCK_MONOTONIC);
}

/* Since 1970-01-01T00:00:00Z. */
static inline int64_t clock_realtime(void)
{
	return clock_read(CLOCK_REALTIME);
}
