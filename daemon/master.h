/*
 * The master: forks the workers, watches them, repairs what they leave, and answers the control
 * socket.
 *
 * One thread, one sd-event loop. It never touches libzmq, record bytes or a stage's library. The
 * shared memory is outside input to it: every number from there is checked before use, nothing from
 * there is asserted. It must be kept simple, for it is the one process whose crash is felt.
 *
 * master.c    life: start, loop, drain, stop
 * home.c      runtime directory, lock, arena: made or attached
 * home_edges.c  edges of the arena and of the configuration
 * children.c  fork, reap, repair, restart with back-off
 * watch.c     stalls, memory limits, figures from /proc
 * notify.c    what systemd is told, and what it keeps
 * aside.c     entries of chunks that were set aside
 * flow.c      ends of stages, emptiness of edges
 * reload.c    a new configuration under load
 * books.c     the conservation law, audited
 * control.c   the control socket; report.c what it answers
 */
#pragma once

#include <sys/types.h>

#include <systemd/sd-event.h>

#include "daemon/config.h"
#include "ipc/arena.h"
#include "ipc/intent.h"

enum master_state {
	MASTER_STARTING, /* not every stage has come up */
	MASTER_RUNNING,
	MASTER_DRAINING, /* intake has stopped, what is in flight is being finished */
	MASTER_STOPPING, /* workers finish the unit in hand */
	MASTER_ENDED,    /* all stages have ended (--until-done) */
};

enum child_state {
	CHILD_NONE, /* no process, none wanted */
	CHILD_RUNNING,
	CHILD_WAITING, /* died; a timer will start it again */
	CHILD_ENDED,   /* its stage has no more to do, ever */
	CHILD_STOPPED, /* left as ordered */
};

enum {
	SAMPLES = 300, /* one a second, five minutes */
};

/* What the master notes of a stage once a second. */
struct sample {
	uint64_t records_in, records_out;
};

/* One worker as its master sees it. Index = slot in the arena. */
struct child {
	struct master *master;
	bool wanted; /* the configuration has this worker */
	enum child_state state;
	unsigned stage; /* index into config->stages */
	unsigned ordinal;
	pid_t pid;
	int channel; /* to the worker; -1: none */
	sd_event_source *exit_source, *restart_timer, *channel_source;
	uint64_t restarts;         /* since the daemon started */
	unsigned failures;         /* in a row without a commit: the exponent of the back-off */
	uint64_t commits_at_start; /* committed.number when it was forked */
	int64_t started;           /* CLOCK_MONOTONIC ns */
	bool killed_for_stall;     /* by us */
	bool killed_by_us;         /* for another reason: does not count against its chunk */
	bool replace;   /* restart at once after an orderly leave (restart, memory_max, reload) */
	bool paused;    /* by command */
	bool may_leave; /* it was told to: an exit with 0 is no accident */
	uint64_t seen_progress, seen_hand; /* for the stall check ... */
	int64_t seen_at;                   /* ... monotonic ns when they last changed */
	char last_words[ARENA_WHY_MAX];    /* why it ended last */
	/* sampled once a second */
	uint64_t rss, pss, rss_anon, rss_peak, vms, cpu_ns;
};

struct control;
struct reload;

struct master {
	struct config *config;
	struct arena arena;
	enum master_state state;
	const char *why; /* in words, for STATUS= */
	sd_event *event;
	struct child *children; /* arena.workers of them */
	int *eventfds;          /* by slot: the workers' doorbells */
	uint32_t *edge_number;  /* arena's number of each config edge */
	sd_event_source *tick;
	int64_t started;    /* CLOCK_MONOTONIC ns */
	int64_t started_at; /* CLOCK_REALTIME ns */
	int64_t checked_at; /* monotonic ns of the last children_check() */
	int64_t stop_at;    /* monotonic ns at which a drain is over; 0: none */
	bool until_done;
	bool drained;   /* by command: intake stays stopped ... */
	bool finishing; /* ... and counts as ended: what is behind it flushes and ends */
	int lock_fd;
	bool stored;  /* the memory arena was given to systemd's fd store */
	bool orderly; /* the loop came to its own end */
	bool clean;   /* everything was finished: positions may be carried over */
	int exit_status;
	uint64_t reloads;
	char reload_error[4096]; /* of the last reload that failed; "" else */
	struct sample *samples;  /* [stage][SAMPLES], a ring */
	unsigned sample_at;      /* where the next goes */
	unsigned n_samples;
	int64_t *moved; /* by pipeline: what it had too much when the graph was made: see books.c */
	bool moved_due; /* that is not known yet */
	bool discarding;       /* an edge that is to be dropped waits for a stage to settle */
	struct reload *reload; /* one that is under way */
	bool reload_again;     /* SIGHUP came meanwhile: another one, when this one has ended */
	struct control *control;
};

/* ---- commands (control.c calls them). All return 0 or a positive/negative error with @why set to
 * a text for people (static or inside the master; valid until the next call). ---- */

/* @stage: a stage's name. */
int master_pause(struct master *m, const char *stage, bool pause, const char **why);
/* @flush: the end of the intake is passed on, for good, until the daemon is started again. */
int master_drain(struct master *m, bool flush, const char **why);
int master_restart(struct master *m, const char *stage, const char **why);
int master_scale(struct master *m, const char *stage, unsigned workers, const char **why);
/* Begins a reload; @discard: name of an edge whose chunks may be dropped, or NULL. Positive with
 * @why: refused, the old configuration stays. 0: under way; control_reloaded() tells how it ended.
 */
int master_reload(struct master *m, const char *discard, const char **why);
/* Goes on with a reload that waits for workers to leave; called whenever one did, and by the tick.
 */
void reload_step(struct master *m);
/* Stops before anything was changed, because the daemon stops; what it had stopped goes on, to
 * finish its chunks. */
void reload_abandon(struct master *m);
/* Asks the stage's workers for copies of the next @n records; they arrive in control_tapped(). */
int master_tap(struct master *m, const char *stage, unsigned n, const char **why);
/* Asks consumers to reopen their files. */
void master_reopen(struct master *m);
/* Begins an orderly stop, as SIGTERM does. */
void master_stop(struct master *m);

/* ---- books.c ---- */

struct books {
	uint64_t book[BOOK_COUNT];
	uint64_t in_flight; /* records */
	uint64_t aside;     /* records set aside, torn or corrupt: part of the balance */
	int64_t moved; /* of a pipeline: how many came from what is another one now; < 0: went */
	bool balanced;
};

/* The books of the whole (@pipeline -1) or of one pipeline. Looks until nothing moved while
 * looking. 0, or ARENA_E_NONE: it never held still (tried for about 100 ms). */
int books_audit(const struct master *m, int pipeline, struct books *out);
/* To be called when pipelines may have been cut or joined: finds out what each has of others. */
void books_new_graph(struct master *m);
/* Does that when it is still due: the ledger had not held still. */
void books_attribute(struct master *m);
/* The same over an arena alone, without a configuration (--arena-check). */
int books_of_arena(const struct arena *a, struct books *out);

/* ---- home.c, home_edges.c ---- */

/* Makes the runtime directory, takes the lock, makes or attaches the arena, brings it in order.
 * 0 or -errno; the reason was logged. */
int home_open(struct master *m);
void home_close(struct master *m);
/* Gives each config edge its arena number (m->edge_number) and sets quotas. 0 or -errno, logged. */
int home_assign_edges(struct master *m);
/* The names an edge has in the arena. @to is borrowed from the configuration. */
void home_edge_names(const struct config *cfg, unsigned edge, char *from, size_t size,
                     const char **to);
/* At a start: edges that the configuration has no more go, those ordered to be dropped with their
 * chunks. 0, or -errno when an edge still holds chunks that nobody gave up (logged). */
int home_settle_edges(struct master *m);
/* Drops the queued chunks of an arena edge, counted in the book of who would have read them. Nobody
 * reads it any more. */
void home_discard_edge(struct master *m, uint32_t edge);
/* Goes on with edges that were to be dropped when the daemon started, and could not be in full. */
void home_discard_rest(struct master *m);
/* A worker of a removed stage left with a transaction that nobody can ask about any more: it counts
 * as not done, so that its chunks are given up with the others of their edge. */
void home_give_up_unsettled(struct arena *a, uint32_t slot);
/* Whether the arena outlives a stop. One in systemd's fd store does not: nothing tells a restart,
 * which keeps it, from a stop, which does not. */
bool home_persistent(const struct master *m);

/* ---- children.c ---- */

/* Gives each worker of each stage its slot; ARENA_E_NONE with a log line when there are not enough.
 */
int children_assign(struct master *m);
/* Forks the worker of slot @slot. 0 or -errno. */
int children_spawn(struct master *m, uint32_t slot);
/* Sets the order of a worker and wakes it. */
void children_order(struct master *m, uint32_t slot, enum worker_order order);
/* Starts it again after its back-off. */
void children_restart_later(struct master *m, uint32_t slot);
void children_kill(struct master *m, uint32_t slot, bool for_stall);
/* Reaps and repairs a worker whose end the event loop was not told of: one that died while somebody
 * traced it, and was let go after that (libsystemd then looks once, too early). */
void children_reap(struct master *m, uint32_t slot);
/* Once a second: stalls, memory limits, figures from /proc. */
void children_check(struct master *m, int64_t now);
/* Proportional set size of a process in bytes, read now (it costs the kernel a walk); 0: gone. */
uint64_t watch_pss(pid_t pid);
/* Why systemd's watchdog should not be fed; NULL: all is sound. */
const char *watch_unsound(const struct master *m, int64_t now);
/* The slot is no longer any worker's of the configuration; it keeps its figures. It has no process.
 */
void children_let_go(struct master *m, uint32_t slot);
/* True when none of a stage's workers has a process or waits for one. */
bool children_left(const struct master *m, unsigned stage);
/* How many have a process. */
unsigned children_running(const struct master *m);
void children_free(struct master *m);

/* ---- aside.c ---- */

/* Frees the entries of chunks that were set aside and whose bytes are saved. */
void aside_step(struct master *m);

/* ---- flow.c ---- */

/* Whether an edge is empty in a stable look (config edge index). */
bool flow_edge_empty(const struct master *m, unsigned edge);
/* Sends FLUSH to stages whose feeders have ended and whose edges are empty; true when all have
 * ended. */
bool flow_pass_ends_on(struct master *m);
/* Starts ended stages again onto whose edges something was put. */
void flow_awaken(struct master *m);
/* After the producers were told to drain: stops each stage that nothing can come to any more, from
 * the front to the back. True when all have left. */
bool flow_drain_on(struct master *m);
/* True when no chunk is in flight. */
bool flow_drained(const struct master *m);

/* ---- master.c ---- */

/* Sets the state and says so to systemd. */
void master_set_state(struct master *m, enum master_state s, const char *why);
/* A worker has left or ended: what it means for the whole. */
void master_child_gone(struct master *m, uint32_t slot);
/* Runs the daemon until it is stopped. Takes @config. Returns the exit status. */
int master_run(struct config *config, bool until_done);
int64_t master_now(void); /* CLOCK_MONOTONIC ns */
const char *master_state_name(enum master_state s);
