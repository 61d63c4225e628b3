/*
 * A program that a stage runs and talks to over pipes: its own process group, its stdin, stdout and
 * stderr ours.
 *
 * It dies with us: on child_stop its whole group is killed, and should the worker itself be killed,
 * the kernel kills the program (PR_SET_PDEATHSIG). What it writes to stderr goes to our log line by
 * line, and lines too many are dropped and counted. A program that ends too soon is started again,
 * each time after a longer pause. All descriptors are non-blocking; nothing here waits longer than
 * the deadline it is given.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "ipc/buf.h"
#include "stages/option.h"

enum child_error {
	CHILD_E_OK,
	CHILD_E_LATE,  /* the deadline has passed */
	CHILD_E_GONE,  /* it has ended, or closed its stdout */
	CHILD_E_PAUSE, /* not to be started yet: wait until `next_start` */
	CHILD_E_START, /* it cannot be started: `why` */
	CHILD_E_LONG,  /* it has written more than `max_in` and nobody took it */
};

enum {
	CHILD_WHY_MAX = 128,
};

/* What `command:` says. */
struct child_command {
	struct strings argv; /* OPTION_STRINGS */
	bool shell;          /* a single string: for sh -c */
};

/* The option that names the program; @member: the struct child_command in the stage's config. */
#define CHILD_COMMAND(config, member)                                 \
 {                                                                    \
  .name = "command", .type = OPTION_STRINGS, .required = true,        \
  .offset = offsetof(config, member.argv),                            \
  .help = "the program: a list of its words, or one string for sh -c" \
 }

struct child {
	const struct child_command *command;
	const char *name; /* for the log */
	pid_t pid;        /* 0: not running */
	int in, out, err; /* our ends; -1: closed */
	struct buf to;    /* not yet written to its stdin: [to_off, to.len) */
	size_t to_off;
	struct buf from; /* read from its stdout and not yet taken: [from_off, from.len) */
	size_t from_off;
	size_t max_in;           /* bytes `from` may hold */
	struct buf line;         /* of its stderr */
	unsigned failures;       /* in a row */
	int64_t next_start;      /* CLOCK_MONOTONIC ns */
	char why[CHILD_WHY_MAX]; /* how it ended, or why it cannot be started */
};

/* Says in @cmd how `command:` was written: call from check(). @node: the stage's map. */
void child_check(struct child_command *cmd, const struct node *node, struct complaints *c);

/* @command is borrowed. Starts nothing. */
void child_init(struct child *c, const struct child_command *command, const char *name,
                size_t max_in);
/* Stops it and frees everything. */
void child_deinit(struct child *c, int64_t grace);

/* Starts it unless it runs. 0, CHILD_E_PAUSE, CHILD_E_START, -errno. A failure counts for the next
 * pause. */
int child_start(struct child *c);

/* It did what is expected of it: the next failure is the first one. */
void child_worked(struct child *c);

/* Ends it: closes its stdin, gives it @grace ns to end by itself (and goes on reading what it
 * says), then SIGTERM, then SIGKILL to its group. `why` says how it ended. True: by itself with
 * status 0. What it has written stays in `from` unless @drop. */
bool child_stop(struct child *c, int64_t grace, bool drop);

/* The same, for one that failed: no grace, what it wrote is dropped, and the pause before the next
 * start grows. */
void child_failed(struct child *c);

/* One round of talking: waits until something can be written, read or has ended, at most until
 * @deadline (CLOCK_MONOTONIC ns; 0: does not wait). 0 (something may have happened), CHILD_E_*,
 * -errno. */
int child_talk(struct child *c, int64_t deadline);

/* Bytes read and not yet taken. */
static inline const uint8_t *child_has(const struct child *c, size_t *len)
{
	*len = c->from.len - c->from_off;
	return *len ? c->from.p + c->from_off : NULL;
}

void child_take(struct child *c, size_t len);

/* The next whole line, without its end, or NULL. It is to be taken with child_take(*len + 1). */
const uint8_t *child_line(const struct child *c, size_t *len);

/* Bytes not yet written to its stdin. */
static inline size_t child_unsent(const struct child *c)
{
	return c->to.len - c->to_off;
}

/* CLOCK_MONOTONIC, ns. */
