/*
 * Fault points: places where a test can end a process, or look at every interleaving.
 *
 * In a release build they are nothing. With -DSLUICE_FAULTS each calls fault_hit(), which reads two
 * variables of the environment:
 *
 *   SLUICE_FAULT        rules, with commas between
 *       NAME:N[:ROLE[:SIGNAL]]   who makes the Nth passage of point NAME gets SIGNAL (a number;
 * else SIGKILL). ROLE: only passages of the stage of that name, or of "master"; * is any
 *       random:P[:ROLE[:SIGNAL]] the same at every passage with probability P (0.002)
 *   SLUICE_FAULT_STATE  a file that keeps the counts, so that N is counted over all processes and
 * restarts of a daemon, and that says afterwards how often each role passed each point
 *
 * The explorer (tests/unit/explore.h) brings a fault_hit() of its own.
 */
#pragma once

enum fault_point {
#define FAULT_POINT(name) FAULT_##name,
#include "ipc/fault.def"
#undef FAULT_POINT
	FAULT_POINTS
};

#ifdef SLUICE_FAULTS
void fault_hit(enum fault_point at);
/* Says which role this process has: "master" or the stage's name. */
void fault_role(const char *role);
const char *fault_name(enum fault_point at);
# define FAULT(name) fault_hit(FAULT_##name)
#else
# define FAULT(name) ((void)0)
static inline void fault_role(const char *role)
{
	(void)role;
}
#endif
