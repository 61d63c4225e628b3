/*
 * Fault points: places where a test can end a process, or look at every interleaving.
 *
 * In a release build they are nothing. With -DSLUICE_FAULTS each calls fault_hit(), which reads
 * SLUICE_FAULT from the environment:
 *
 *     NAME:N[:ROLE][,...]   SIGKILL to itself at the Nth passage of point NAME (ROLE: only in the stage or
 *                           "master" of that name), once a daemon: a file named by SLUICE_FAULT_DONE marks it
 *     random:P[:ROLE]       at every passage with probability P (0.002)
 *
 * The explorer (tests/unit/test_explore.c) brings a fault_hit() of its own.
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
