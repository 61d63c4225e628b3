/*
 * Confinement: what a worker gives up before it sees the first record.
 *
 * Two steps, because of threads. ZeroMQ's are born with its first socket, and Landlock binds only
 * the thread that asks for it and those born later: so files, privileges and limits go first
 * (confine_early, before any thread), from paths that the configuration names. System calls go last
 * (confine_late, after the stage has opened what it opens), for all threads at once.
 *
 * Invariants: nothing given up comes back; a worker that could not be confined says which part is
 * missing, and goes on unless the configuration demands it all.
 *
 * Limits: a directory that is removed and made anew is another one: a worker confined to the old
 * one says that it may not write there until its stage is restarted. A stage that runs programs
 * keeps what they need (files, network, exec) and gives up only new privileges and the calls no
 * program of a pipeline makes. Landlock does not see connect() to a unix socket, nor stat().
 * Without Landlock (Linux before 5.13) a transformer cannot open files at all, others are held by
 * the user's rights only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFINED(X)                                                               \
 X(privileges, "no new privileges, capabilities dropped to what the stage needs") \
 X(files, "file system: only the paths the configuration names (Landlock)")       \
 X(network, "no network but the unix sockets of its doorbells")                   \
 X(exec, "no programs can be started")                                            \
 X(calls, "only the system calls its kind of stage makes (seccomp)")

enum confined {
#define X(name, help) CONFINED_AT_##name,
	CONFINED(X)
#undef X
	        CONFINED_COUNT
};

#define CONFINED_BIT(name) (1u << CONFINED_AT_##name)

extern const char *const confined_name[CONFINED_COUNT];

enum {
	CONFINE_PATHS_MAX = 64,
};

/* What one worker needs. */
struct confine_plan {
	bool net;      /* sockets other than unix ones */
	bool files;    /* opens files while it runs */
	bool any_file; /* ... and nobody knows which */
	bool exec;     /* starts programs */
	struct confine_path {
		char *path;   /* owned */
		unsigned how; /* CONFINE_READ ... */
	} paths[CONFINE_PATHS_MAX];
	unsigned n_paths;
	bool overflow; /* more paths than fit */
	uint32_t want; /* bits that a full confinement of this plan has */
};

enum {
	CONFINE_READ = 1 << 0,
	CONFINE_WRITE = 1 << 1,   /* all: make, remove, rename below it */
	CONFINE_SOCKETS = 1 << 2, /* bind unix sockets in it */
};

/* Allows @path: the directory itself when it is one, else the one it lies in (files are rotated and
 * replaced); what is not there yet is allowed by its nearest parent that is. Where links lead is
 * allowed too. */
void confine_allow(struct confine_plan *p, const char *path, unsigned how);
void confine_plan_deinit(struct confine_plan *p);

/* Each returns the bits it achieved; what failed was logged. */
uint32_t confine_early(struct confine_plan *p);
uint32_t confine_late(struct confine_plan *p, uint32_t early);
