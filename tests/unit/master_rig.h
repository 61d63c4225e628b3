/*
 * A master made by hand: an arena in a small memfd, a configuration of four stages, and the
 * master's functions replaced by notes of how they were called. What reports and the control socket
 * need, without a process.
 *
 *     in -> mid -> out      and the dead letters' writer
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "daemon/control.h"
#include "daemon/replay.h"
#include "daemon/report.h"

enum {
	RIG_IN,
	RIG_MID,
	RIG_OUT,
	RIG_DEAD,
	RIG_STAGES,
	RIG_WORKERS = 6, /* in, mid, mid, out, dead, one free */
	RIG_EDGES = 3,
};

static const struct stage_ops rig_ops = {.name = "rigged", .kind = STAGE_PRODUCER};

struct rig {
	struct master m;
	struct config cfg;
	struct config_stage stages[RIG_STAGES];
	struct config_edge edges[RIG_EDGES];
	struct child children[RIG_WORKERS];
	uint32_t edge_number[RIG_EDGES];
	struct sample samples[SAMPLES * RIG_STAGES];
	int fd;
	/* how the master was called, and what it answers */
	char called[256];
	int answer;
	const char *why;
	int64_t now;
	struct books books;
	int books_answer;
	unsigned reopened;
};

/* The one rig that the replaced functions note to. */
static struct rig *rig;

/* Where the number of arena edge @from -> @to is learnt. */
static inline void rig_edge(struct rig *r, unsigned i, unsigned from, unsigned to, const char *name)
{
	const char *f = from == UINT32_MAX ? "*" : r->stages[from].name;
	r->edges[i] = (struct config_edge){
	        .from = from, .to = to, .quota = 4, .name = (char *)(uintptr_t)name};
	assert_int_equal(arena_edge_assign(&r->m.arena, f, r->stages[to].name, &r->edge_number[i]),
	                 0);
	atomic_store(&r->m.arena.h->edges[r->edge_number[i]].quota, 4);
}

static inline void rig_worker(struct rig *r, unsigned stage, unsigned ordinal)
{
	uint32_t slot;
	assert_int_equal(arena_worker_assign(&r->m.arena, r->stages[stage].name, ordinal, &slot),
	                 0);
	r->children[slot] = (struct child){.wanted = true,
	                                   .stage = stage,
	                                   .ordinal = ordinal,
	                                   .state = CHILD_RUNNING,
	                                   .pid = 1000 + (pid_t)slot,
	                                   .master = &r->m,
	                                   .channel = -1,
	                                   .started = 1};
	atomic_store(&arena_worker(&r->m.arena, slot)->activity, ACTIVITY_WORKING);
}

static inline void rig_stage(struct rig *r, unsigned i, const char *name, enum stage_kind kind,
                             unsigned workers)
{
	static const char *const outputs[] = {"", NULL};
	r->stages[i] = (struct config_stage){.name = name,
	                                     .kind = kind,
	                                     .workers = workers,
	                                     .ops = kind == STAGE_STEP ? NULL : &rig_ops,
	                                     .builtin = i == RIG_DEAD,
	                                     .pipeline = i == RIG_DEAD};
	r->stages[i].outputs[0] = outputs[0];
	r->stages[i].n_outputs = 1;
}

static inline struct rig *rig_new(void)
{
	const struct arena_geometry g = {
	        .entries = 16, .workers = RIG_WORKERS, .buffer_size = 4096};
	struct rig *r = calloc(1, sizeof(*r));
	assert_non_null(r);
	rig = r;
	r->fd = memfd_create("rig", MFD_CLOEXEC);
	assert_true(r->fd >= 0);
	assert_int_equal(arena_create(&r->m.arena, r->fd, &g), 0);
	r->m.config = &r->cfg;
	r->m.children = r->children;
	r->m.edge_number = r->edge_number;
	r->m.samples = r->samples;
	r->m.state = MASTER_RUNNING;
	r->m.why = "running";
	r->now = 100000000000;
	r->cfg.path = (char *)(uintptr_t) "/etc/sluice/sluice.yaml";
	r->cfg.stages = r->stages;
	r->cfg.n_stages = RIG_STAGES;
	r->cfg.edges = r->edges;
	r->cfg.n_edges = RIG_EDGES;
	r->cfg.n_pipelines = 1;
	r->cfg.dead_stage = RIG_DEAD;
	r->cfg.dead_path = "/var/lib/sluice/dead";
	rig_stage(r, RIG_IN, "in", STAGE_PRODUCER, 1);
	rig_stage(r, RIG_MID, "mid", STAGE_STEP, 2);
	rig_stage(r, RIG_OUT, "out", STAGE_CONSUMER, 1);
	rig_stage(r, RIG_DEAD, "dead", STAGE_CONSUMER, 1);
	rig_edge(r, 0, RIG_IN, RIG_MID, "in->mid");
	rig_edge(r, 1, RIG_MID, RIG_OUT, "mid->out");
	rig_edge(r, 2, UINT32_MAX, RIG_DEAD, "*->dead");
	rig_worker(r, RIG_IN, 0);
	rig_worker(r, RIG_MID, 0);
	rig_worker(r, RIG_MID, 1);
	rig_worker(r, RIG_OUT, 0);
	rig_worker(r, RIG_DEAD, 0);
	r->books.balanced = true;
	return r;
}

static inline void rig_free(struct rig *r)
{
	arena_detach(&r->m.arena);
	close(r->fd);
	free(r);
	rig = NULL;
}

/* The slot of a stage's worker. */
static inline uint32_t rig_slot(struct rig *r, unsigned stage, unsigned ordinal)
{
	for (uint32_t s = 0; s < RIG_WORKERS; s++)
		if (r->children[s].wanted && r->children[s].stage == stage &&
		    r->children[s].ordinal == ordinal)
			return s;
	fail_msg("no such worker");
	return 0;
}

static inline struct arena_worker *rig_of(struct rig *r, unsigned stage, unsigned ordinal)
{
	return arena_worker(&r->m.arena, rig_slot(r, stage, ordinal));
}

/* ---- the master's functions ---- */

int64_t master_now(void)
{
	return rig->now;
}

const char *master_state_name(enum master_state s)
{
	return s == MASTER_RUNNING ? "running" : s == MASTER_STARTING ? "starting" : "draining";
}

static int rig_called(const char **why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int rig_called(const char **why, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(rig->called, sizeof(rig->called), fmt, ap);
	va_end(ap);
	if (rig->why)
		*why = rig->why;
	return rig->answer;
}

int master_pause(struct master *m, const char *stage, bool pause, const char **why)
{
	(void)m;
	return rig_called(why, "%s %s", pause ? "pause" : "resume", stage);
}

int master_drain(struct master *m, bool flush, const char **why)
{
	(void)m;
	return rig_called(why, flush ? "drain --flush" : "drain");
}

int master_restart(struct master *m, const char *stage, const char **why)
{
	(void)m;
	return rig_called(why, "restart %s", stage);
}

int master_scale(struct master *m, const char *stage, unsigned workers, const char **why)
{
	(void)m;
	return rig_called(why, "scale %s %u", stage, workers);
}

int master_reload(struct master *m, const char *discard, const char **why)
{
	(void)m;
	return rig_called(why, "reload %s", discard ? discard : "-");
}

int master_tap(struct master *m, const char *stage, unsigned n, const char **why)
{
	(void)m;
	return rig_called(why, "tap %s %u", stage, n);
}

void master_reopen(struct master *m)
{
	(void)m;
	rig->reopened++;
}

int replay_start(struct master *m, const char **why)
{
	(void)m;
	return rig_called(why, "replay");
}

int books_audit(const struct master *m, int pipeline, struct books *out)
{
	(void)m;
	(void)pipeline;
	*out = rig->books;
	return rig->books_answer;
}

void books_attribute(struct master *m)
{
	(void)m;
}

uint64_t watch_pss(pid_t pid)
{
	return (uint64_t)pid * 10;
}

const char *watch_unsound(const struct master *m, int64_t now)
{
	(void)m;
	(void)now;
	return NULL;
}

/* The process's own log has no place here; a build that has ipc/log.c takes this one instead. */
__attribute__((weak)) void log_write(struct log_site *site, enum log_level level, const char *fmt,
                                     ...)
{
	(void)site;
	(void)level;
	(void)fmt;
}
