/*
 * The master's life: start, loop, drain, stop.
 *
 *   STARTING -> RUNNING -> DRAINING -> STOPPING -> (exit)
 *                  |__________________^   an arena that outlives us needs no drain
 *
 * DRAINING: producers take no more, everything in flight goes to its end. STOPPING: workers finish
 * the unit in hand and leave. A drain that is not over after `stop_timeout` becomes a stop; workers
 * that do not leave then are killed. systemd is told all of it (notify.h).
 */
#include "daemon/master.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control.h"
#include "daemon/notify.h"
#include "daemon/replay.h"
#include "ipc/clock.h"
#include "ipc/fault.h"
#include "ipc/log.h"

static const int64_t SECOND = 1000000000;

enum {
	TICK_US = 100000,
	ENDING_US = 5000, /* with --until-done, once a stage has ended: the others are watched
	                     closely */
};

int64_t master_now(void)
{
	return clock_monotonic();
}

const char *master_state_name(enum master_state s)
{
	static const char *const name[] = {"starting", "running", "draining", "stopping", "ended"};
	return s <= MASTER_ENDED ? name[s] : "?";
}

void master_set_state(struct master *m, enum master_state s, const char *why)
{
	m->state = s;
	m->why = why;
	notify_state(m);
}

/* ---- starting ---- */

/* Up means: every worker is beyond its opening, or said why it is not. */
static bool all_up(const struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		const struct child *c = &m->children[w];
		if (c->wanted && c->state == CHILD_RUNNING && c->restarts == 0 &&
		    atomic_load(&arena_worker(&m->arena, w)->activity) == ACTIVITY_STARTING)
			return false;
	}
	return true;
}

static int spawn_all(struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		if (!m->children[w].wanted)
			continue;
		int r = children_spawn(m, w);
		if (r < 0) {
			log_error("cannot fork a worker: %s", strerror(-r));
			return r;
		}
	}
	return 0;
}

static void tell_losses(const struct master *m)
{
	if (m->stored)
		log_notice("the arena is in memory, kept by the service manager over a restart or "
		           "a crash, not over "
		           "a stop (set arena.path to keep it)");
	else if (!m->config->arena_path)
		log_notice("the arena is in memory only: a crash of the master or the machine "
		           "loses what is in "
		           "flight (set arena.path to keep it)");
	else if (!m->config->arena_sync)
		log_notice("arena.sync is off: a power loss can lose what is in flight");
}

/* ---- stopping ---- */

static bool is_producer(const struct master *m, uint32_t w)
{
	return m->config->stages[m->children[w].stage].kind == STAGE_PRODUCER;
}

static void order_all(struct master *m, enum worker_order order, bool producers_only)
{
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (m->children[w].wanted && (!producers_only || is_producer(m, w)))
			children_order(m, w, order);
}

static void unpause_all(struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		if (!m->children[w].wanted || !m->children[w].paused || is_producer(m, w))
			continue;
		m->children[w].paused = false;
		children_order(m, w, ORDER_RUN);
	}
}

static void begin_stopping(struct master *m, const char *why)
{
	master_set_state(m, MASTER_STOPPING, why);
	m->stop_at = master_now() + 5 * SECOND;
	order_all(m, ORDER_STOP, false);
}

void master_stop(struct master *m)
{
	if (m->state >= MASTER_STOPPING)
		return;
	reload_abandon(m);
	if (home_persistent(m)) {
		begin_stopping(m, "stopping: what is in flight stays in the arena");
		return;
	}
	if (m->state == MASTER_DRAINING)
		return;
	master_set_state(m, MASTER_DRAINING, "draining");
	m->stop_at = master_now() + m->config->stop_timeout;
	order_all(m, ORDER_DRAIN, true);
	unpause_all(m);
}

/* Ends the loop when the last worker is gone. */
static void finish_if_gone(struct master *m)
{
	if (children_running(m) == 0)
		sd_event_exit(m->event, m->exit_status);
}

static void kill_the_rest(struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (m->children[w].state == CHILD_RUNNING) {
			log_warning("worker %s[%u] does not leave: killed",
			            m->config->stages[m->children[w].stage].name,
			            m->children[w].ordinal);
			children_kill(m, w, false);
		}
	m->stop_at = master_now() + 5 * SECOND;
}

static void drain_step(struct master *m, int64_t now)
{
	if (flow_drain_on(m)) {
		m->clean = flow_drained(m);
		begin_stopping(m, "stopping: everything in flight was finished");
		finish_if_gone(m);
	} else if (now > m->stop_at) {
		uint64_t left = m->arena.entries - arena_free(&m->arena);
		log_warning("stop_timeout is over with %llu chunks in flight%s",
		            (unsigned long long)left, home_persistent(m) ? "" : ": they are lost");
		begin_stopping(m, "stopping: stop_timeout was over");
	}
}

/* A run that ends by itself should not wait for a tick at every stage on the way. */
static uint64_t tick_us(const struct master *m)
{
	for (uint32_t w = 0; m->until_done && w < m->arena.workers; w++)
		if (m->children[w].state == CHILD_ENDED)
			return ENDING_US;
	return TICK_US;
}

void master_child_gone(struct master *m, uint32_t slot)
{
	replay_child_gone(m, slot);
	if (m->state == MASTER_STOPPING)
		finish_if_gone(m);
	else if (m->state == MASTER_DRAINING)
		drain_step(m, master_now());
	else if (flow_pass_ends_on(m) && m->until_done) {
		m->clean = true;
		master_set_state(m, MASTER_ENDED, "done");
		sd_event_exit(m->event, 0);
	} else if (m->until_done) {
		sd_event_source_set_time_relative(m->tick, tick_us(m));
	}
	reload_step(m);
}

/* ---- the loop ---- */

static int on_tick(sd_event_source *src, uint64_t usec, void *arg)
{
	struct master *m = arg;
	static int64_t checked;
	int64_t now = master_now();
	sd_event_source_set_time(src, usec + tick_us(m));
	sd_event_source_set_enabled(src, SD_EVENT_ON);
	checked = checked ? checked : now;
	if (now - checked >= SECOND - SECOND / 20) { /* half a tick early is in time */
		checked = now;
		children_check(m, now);
	}
	notify_tick(m, now);
	aside_step(m);
	reload_step(m);
	if (m->discarding)
		home_discard_rest(m);
	switch (m->state) {
	case MASTER_STARTING:
		if (all_up(m))
			master_set_state(m, MASTER_RUNNING, "running");
		break;
	case MASTER_RUNNING:
		if (flow_pass_ends_on(m) && m->until_done) {
			m->clean = true;
			sd_event_exit(m->event, 0);
		}
		break;
	case MASTER_DRAINING:
		flow_awaken(m);
		drain_step(m, now);
		break;
	case MASTER_STOPPING:
		if (now > m->stop_at)
			kill_the_rest(m);
		finish_if_gone(m);
		break;
	case MASTER_ENDED:
		break;
	}
	return 0;
}

static int on_signal(sd_event_source *src, const struct signalfd_siginfo *info, void *arg)
{
	struct master *m = arg;
	const char *why = NULL;
	(void)src;
	if (info->ssi_signo == SIGHUP) {
		master_reopen(m);
		if (m->reload) /* it may have read the file already */
			m->reload_again = true;
		else
			(void)master_reload(m, NULL, &why); /* says why not in the log */
	} else if (m->state == MASTER_DRAINING) { /* asked twice: do not wait for the drain */
		begin_stopping(m, "stopping");
	} else {
		master_stop(m);
	}
	return 0;
}

static int make_loop(struct master *m)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	int r = sd_event_default(&m->event);
	if (r >= 0)
		r = sd_event_add_signal(m->event, NULL, SIGTERM, on_signal, m);
	if (r >= 0)
		r = sd_event_add_signal(m->event, NULL, SIGINT, on_signal, m);
	if (r >= 0)
		r = sd_event_add_signal(m->event, NULL, SIGHUP, on_signal, m);
	if (r >= 0)
		r = sd_event_add_time_relative(m->event, &m->tick, CLOCK_MONOTONIC, TICK_US, 1000,
		                               on_tick, m);
	return r < 0 ? r : 0;
}

static int start(struct master *m)
{
	const char *why;
	int r = home_open(m);
	if (r < 0)
		return r;
	m->children = calloc(m->arena.workers, sizeof(*m->children));
	m->samples = calloc((size_t)SAMPLES * m->config->n_stages, sizeof(*m->samples));
	if (!m->children || !m->samples)
		return -ENOMEM;
	for (uint32_t w = 0; w < m->arena.workers; w++)
		m->children[w].channel = -1;
	r = children_assign(m);
	if (r == 0)
		books_new_graph(m);
	if (r == 0)
		r = make_loop(m);
	if (r == 0)
		r = control_open(m);
	if (r < 0)
		return r;
	tell_losses(m);
	r = spawn_all(m);
	if (r == 0 && replay_start(m, &why) != 0)
		log_warning("dead letters wait to be replayed: %s", why);
	return r;
}

int master_run(struct config *config, bool until_done)
{
	struct master *m = calloc(1, sizeof(*m));
	if (!m)
		return 1;
	m->config = config;
	m->until_done = until_done;
	m->lock_fd = m->arena.fd = -1;
	m->started = master_now();
	m->started_at = clock_realtime();
	m->why = "starting";
	fault_role("master");
	int r = start(m);
	if (r == 0) {
		log_info("started with %s: %u stages", config->path, config->n_stages - 1);
		r = sd_event_loop(m->event);
		log_info("stopped");
	}
	m->orderly = r == 0;
	int status = r < 0 ? 1 : r;
	reload_abandon(m);
	control_close(m);
	children_free(m);
	home_close(m);
	m->tick = sd_event_source_disable_unref(m->tick);
	m->event = sd_event_unref(m->event);
	free(m->samples);
	free(m->moved);
	config_free(m->config);
	free(m);
	return status;
}
