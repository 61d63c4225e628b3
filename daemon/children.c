/*
 * Workers' processes: fork, reap, repair, start again.
 *
 * The order at a death is fixed: the process is reaped (nothing can write its entries any more),
 * its intent is repaired, then the slot may be used again. Restarts are at once the first time,
 * then after a random time of up to RESTART_BASE * 2^n, at most RESTART_MAX; a commit made since
 * its birth, or so long a life, clears the count.
 *
 * What counts against the chunk in hand: a crash of its own making (a signal nobody sends to stop a
 * process, a failure that it reports) and a stall. Not SIGKILL from elsewhere: that is the OOM
 * killer, or a person.
 */
#include "daemon/master.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control.h"
#include "daemon/replay.h"
#include "daemon/worker.h"
#include "ipc/fault.h"
#include "ipc/log.h"

static const int64_t RESTART_BASE = 10000000; /* ns */
static const int64_t RESTART_MAX = 30000000000;
static const int64_t SOUND = 100000000; /* who waits for input so long has got everything open */

/* ---- birth ---- */

static bool keep_in_child(const struct master *m, int fd, int channel)
{
	int type = 0, domain = 0;
	socklen_t len = sizeof(type);
	if (fd <= 2 || fd == m->lock_fd || fd == m->arena.fd || fd == channel)
		return true;
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (fd == m->eventfds[w])
			return true;
	/* the journal's socket, which libsystemd keeps to itself */
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
	       getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && type == SOCK_DGRAM &&
	       domain == AF_UNIX;
}

/* The master's other descriptors are no business of a worker, and must not be held open by it. */
static void close_others(const struct master *m, int channel)
{
	for (int fd = 3; fd < 1024; fd++)
		if (!keep_in_child(m, fd, channel))
			close(fd);
}

static void reset_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	for (int s = 1; s < 32; s++)
		signal(s, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN); /* a terminal's hang-up is for the master to answer */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void become_worker(struct master *m, uint32_t slot, int channel, pid_t master)
{
	struct child *c = &m->children[slot];
	reset_signals();
	close_others(m, channel);
	struct worker_birth birth = {.config = m->config,
	                             .stage = &m->config->stages[c->stage],
	                             .arena = &m->arena,
	                             .slot = slot,
	                             .ordinal = c->ordinal,
	                             .channel = channel,
	                             .master = master,
	                             .edge_number = m->edge_number,
	                             .eventfds = m->eventfds};
	worker_main(&birth);
}

static void forget_process(struct child *c)
{
	/* the source before its descriptor: a fork under way may hold a copy, and epoll would go on
	 * naming it */
	c->channel_source = sd_event_source_disable_unref(c->channel_source);
	c->exit_source = sd_event_source_disable_unref(c->exit_source);
	if (c->channel >= 0)
		close(c->channel);
	c->channel = -1;
}

static int on_channel(sd_event_source *src, int fd, uint32_t revents, void *arg)
{
	struct child *c = arg;
	static char record[1 << 18];
	ssize_t n = 1;
	(void)src;
	(void)revents;
	for (int i = 0; i < 64 && (n = recv(fd, record, sizeof(record), MSG_DONTWAIT)) > 0; i++)
		control_tapped(c->master, (uint32_t)(c - c->master->children), record, (size_t)n);
	if (n == 0)
		c->channel_source = sd_event_source_disable_unref(c->channel_source);
	return 0;
}

/* The doorbells that stood in a dead worker's sockets are gone, and its repair put chunks back
 * without ringing: whoever sleeps takes a look. */
static void wake_all(const struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++)
		if (m->children[w].channel >= 0)
			send(m->children[w].channel, "w", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int on_child_exit(sd_event_source *src, const siginfo_t *info, void *arg);

/* One more than the stage is to have since it was scaled down. */
static bool surplus(const struct master *m, const struct child *c)
{
	return c->stage < m->config->n_stages && c->ordinal >= m->config->stages[c->stage].workers;
}

static enum worker_order order_at_birth(const struct master *m, const struct child *c)
{
	bool producer = m->config->stages[c->stage].kind == STAGE_PRODUCER;
	if (surplus(m, c))
		return ORDER_STOP; /* it only settles what its predecessor left open */
	if (producer && (m->drained || m->state == MASTER_DRAINING))
		return ORDER_DRAIN; /* one that crashed while it drained */
	return c->paused ? ORDER_PAUSE : ORDER_RUN;
}

/* A process that cannot be watched must not run: nobody would repair it, and another would get its
 * slot. */
static int end_unwatched(struct master *m, struct child *c, int r)
{
	uint32_t slot = (uint32_t)(c - m->children);
	kill(c->pid, SIGKILL);
	while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
		;
	forget_process(c);
	intent_repair(&m->arena, slot, NULL);
	atomic_store(&arena_worker(&m->arena, slot)->pid, 0);
	c->pid = 0;
	c->state = CHILD_STOPPED;
	return r;
}

int children_spawn(struct master *m, uint32_t slot)
{
	struct child *c = &m->children[slot];
	struct arena_worker *s = arena_worker(&m->arena, slot);
	int pair[2];
	FAULT(spawn);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno();
	c->restart_timer = sd_event_source_disable_unref(c->restart_timer);
	c->master = m;
	c->commits_at_start = atomic_load(&s->committed.number);
	c->killed_by_us = c->killed_for_stall = c->replace = false;
	enum worker_order order = order_at_birth(m, c);
	atomic_store(&s->order, order);
	c->may_leave = order == ORDER_STOP || order == ORDER_DRAIN;
	atomic_store(&s->activity, ACTIVITY_STARTING);
	const struct config_stage *stage = &m->config->stages[c->stage];
	/* only a producer's end is remembered, as long as it would take in the same: the others
	 * find out again that nothing can come */
	if (stage->kind != STAGE_PRODUCER || stage->builtin || s->source_hash != stage->source_hash)
		s->committed.flags &= ~(uint64_t)COMMITTED_ENDED;
	s->kind = stage->kind;
	s->source_hash = stage->source_hash;
	pid_t self = getpid(), pid = fork();
	if (pid < 0) {
		int r = err_errno();
		close(pair[0]);
		close(pair[1]);
		return r;
	}
	if (pid == 0)
		become_worker(m, slot, pair[1], self);
	close(pair[1]);
	c->pid = pid;
	c->channel = pair[0];
	c->state = CHILD_RUNNING;
	c->started = c->seen_at = master_now();
	atomic_store(&s->pid, pid);
	int r = sd_event_add_child(m->event, &c->exit_source, pid, WEXITED, on_child_exit, c);
	if (r >= 0)
		r = sd_event_add_io(m->event, &c->channel_source, c->channel, EPOLLIN, on_channel,
		                    c);
	return r < 0 ? end_unwatched(m, c, r) : 0;
}

/* ---- death ---- */

static bool crash_signal(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS || sig == SIGABRT || sig == SIGFPE ||
	       sig == SIGILL || sig == SIGSYS || sig == SIGXCPU || sig == SIGTRAP;
}

/* A producer has no chunk in hand when its codec dies, but it says which input it works on. The
 * first to die could not say which (see stages/decode.c): that death is counted for whatever the
 * second one names. */
static void count_against_input(struct arena_worker *s, const struct intent_death *death)
{
	uint64_t hand = atomic_load_explicit(&s->hand_input, memory_order_relaxed);
	if (!hand)
		return;
	bool same = s->poison_input == hand || s->poison_input == STAGE_HAND_SOME;
	s->poison_count = s->poison_count && same ? s->poison_count + 1 : 1;
	s->poison_input = hand;
	s->poison_signal = death->signal;
}

static void repair(struct master *m, struct child *c, const siginfo_t *info)
{
	uint32_t slot = (uint32_t)(c - m->children);
	bool killed = info->si_code != CLD_EXITED;
	struct intent_death death = {
	        .counts = c->killed_for_stall || (killed && crash_signal(info->si_status)) ||
	                  (!killed && info->si_status != WORKER_EXIT_STOPPED &&
	                   info->si_status != WORKER_EXIT_ENDED),
	        .signal = killed && !c->killed_for_stall ? (uint32_t)info->si_status : 0,
	        .max_attempts = (uint32_t)m->config->stages[c->stage].max_attempts,
	};
	FAULT(reap);
	if (death.counts)
		count_against_input(arena_worker(&m->arena, slot), &death);
	intent_repair(&m->arena, slot, &death);
	atomic_store(&arena_worker(&m->arena, slot)->pid, 0);
}

/* Its stage's own transaction decides how its last unit ended: only a successor can ask. */
static bool unsettled(const struct master *m, uint32_t slot)
{
	return atomic_load(&arena_worker(&m->arena, slot)->intent.state) == INTENT_PREPARED;
}

static int64_t back_off(unsigned failures)
{
	uint32_t v = 0;
	if (failures <= 1)
		return 0;
	int64_t most = RESTART_BASE;
	for (unsigned i = 2; i < failures && most < RESTART_MAX; i++)
		most *= 2;
	if (most > RESTART_MAX)
		most = RESTART_MAX;
	(void)!getrandom(&v, sizeof(v), 0);
	return most / 4 + (int64_t)((double)most * 0.75 * v / 4294967296.0);
}

static int on_restart(sd_event_source *src, uint64_t usec, void *arg)
{
	struct child *c = arg;
	(void)src;
	(void)usec;
	int r = children_spawn(c->master, (uint32_t)(c - c->master->children));
	if (r < 0) {
		log_error("cannot fork: %s", strerror(-r));
		c->failures++;
		children_restart_later(c->master, (uint32_t)(c - c->master->children));
	}
	return 0;
}

void children_restart_later(struct master *m, uint32_t slot)
{
	struct child *c = &m->children[slot];
	int64_t pause = back_off(c->failures);
	c->state = CHILD_WAITING;
	if (pause == 0) {
		on_restart(NULL, 0, c);
		return;
	}
	c->restart_timer = sd_event_source_disable_unref(c->restart_timer);
	int r = sd_event_add_time_relative(m->event, &c->restart_timer, CLOCK_MONOTONIC,
	                                   (uint64_t)pause / 1000, 1000, on_restart, c);
	if (r < 0)
		on_restart(NULL, 0, c);
}

static void note_last_words(struct master *m, struct child *c, const siginfo_t *info)
{
	const struct arena_worker *s = arena_worker(&m->arena, (uint32_t)(c - m->children));
	const char *stage = m->config->stages[c->stage].name;
	if (c->killed_for_stall)
		snprintf(c->last_words, sizeof(c->last_words),
		         "hung: no progress for its stall_timeout");
	else if (info->si_code != CLD_EXITED)
		snprintf(c->last_words, sizeof(c->last_words), "killed by %s",
		         strsignal(info->si_status));
	else
		snprintf(c->last_words, sizeof(c->last_words), "%.*s", ARENA_WHY_MAX - 1,
		         s->why[0] ? s->why : "ended");
	if (!c->killed_by_us)
		log_warning("worker %s[%u] (pid %d): %s", stage, c->ordinal, (int)c->pid,
		            c->last_words);
}

/* A producer that crashes during a drain has nothing to come back for: it would take in again. */
static bool intake_stopped(const struct master *m)
{
	return m->drained || m->state == MASTER_DRAINING;
}

static int on_child_exit(sd_event_source *src, const siginfo_t *info, void *arg)
{
	struct child *c = arg;
	struct master *m = c->master;
	uint32_t slot = (uint32_t)(c - m->children);
	struct arena_worker *s = arena_worker(&m->arena, slot);
	(void)src;
	bool is_producer = m->config->stages[c->stage].kind == STAGE_PRODUCER;
	bool ended = info->si_code == CLD_EXITED && info->si_status == WORKER_EXIT_ENDED;
	bool orderly = ended || (info->si_code == CLD_EXITED &&
	                         info->si_status == WORKER_EXIT_STOPPED && c->may_leave);
	forget_process(c);
	if (!orderly)
		note_last_words(m, c, info);
	repair(m, c, info);
	c->pid = 0;
	/* it went well, even if there was nothing to commit: for a while, or up to its wait for
	 * input */
	int64_t lived = master_now() - c->started;
	bool waited = lived > SOUND && atomic_load(&s->activity) == ACTIVITY_IDLE;
	if (atomic_load(&s->committed.number) != c->commits_at_start || lived > RESTART_MAX ||
	    waited)
		c->failures = 0;
	if (surplus(m, c) && !unsettled(m, slot)) {
		children_let_go(m, slot);
	} else if (ended) {
		c->state = CHILD_ENDED;
	} else if (m->state >= MASTER_STOPPING || (intake_stopped(m) && is_producer) ||
	           (orderly && !c->replace && !surplus(m, c))) {
		c->state = CHILD_STOPPED;
	} else {
		c->restarts++;
		c->failures += !orderly || surplus(m, c); /* that one could not settle yet */
		children_restart_later(m, slot);
	}
	wake_all(m);
	master_child_gone(m, slot);
	return 0;
}

void children_reap(struct master *m, uint32_t slot)
{
	struct child *c = &m->children[slot];
	siginfo_t info = {0};
	if (c->state != CHILD_RUNNING || c->pid <= 0 ||
	    waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG) < 0 || !info.si_pid)
		return;
	on_child_exit(NULL, &info, c);
}

/* ---- orders ---- */

void children_order(struct master *m, uint32_t slot, enum worker_order order)
{
	struct child *c = &m->children[slot];
	atomic_store_explicit(&arena_worker(&m->arena, slot)->order, order, memory_order_release);
	c->may_leave |= order == ORDER_STOP || order == ORDER_DRAIN;
	if (c->channel >= 0)
		send(c->channel, "o", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	/* one that has to settle its predecessor's transaction is started first, and stopped then
	 */
	if (c->state == CHILD_WAITING && (order == ORDER_STOP || order == ORDER_DRAIN) &&
	    !unsettled(m, slot)) {
		c->restart_timer = sd_event_source_disable_unref(c->restart_timer);
		c->state = CHILD_STOPPED;
	}
}

void children_kill(struct master *m, uint32_t slot, bool for_stall)
{
	struct child *c = &m->children[slot];
	if (c->state != CHILD_RUNNING || c->pid <= 0)
		return;
	c->killed_for_stall = for_stall;
	c->killed_by_us = !for_stall;
	kill(c->pid, SIGKILL);
}

void children_let_go(struct master *m, uint32_t slot)
{
	struct child *c = &m->children[slot];
	c->restart_timer = sd_event_source_disable_unref(c->restart_timer);
	*c = (struct child){.master = m, .channel = -1, .stage = c->stage, .ordinal = c->ordinal};
}

unsigned children_running(const struct master *m)
{
	unsigned n = 0;
	for (uint32_t w = 0; w < m->arena.workers; w++)
		n += m->children[w].state == CHILD_RUNNING;
	return n;
}

bool children_left(const struct master *m, unsigned stage)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		const struct child *c = &m->children[w];
		if (c->wanted && c->stage == stage &&
		    (c->state == CHILD_RUNNING || c->state == CHILD_WAITING))
			return false;
	}
	return true;
}

/* Slots of stages that are not in the configuration keep their positions as long as nobody needs
 * the place. */
static bool retire_one_stray(struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct arena_worker *s = arena_worker(&m->arena, w);
		s->stage[sizeof(s->stage) - 1] = 0;
		const struct config_stage *st =
		        s->stage[0] ? config_stage(m->config, s->stage) : NULL;
		if (!s->stage[0] || m->children[w].wanted || (st && s->ordinal < st->workers) ||
		    !intent_clean(&m->arena, w) || replay_holds(m, w))
			continue;
		if (replay_retire(m, w))
			return true;
		arena_worker_retire(&m->arena, w, st ? st->name : s->heir);
		return true;
	}
	return false;
}

/* A worker that the stage has no more, whose transaction only a successor can settle: it is started
 * for that, and leaves. */
static void assign_unsettled(struct master *m)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		struct arena_worker *s = arena_worker(&m->arena, w);
		s->stage[sizeof(s->stage) - 1] = 0;
		const struct config_stage *st =
		        s->stage[0] ? config_stage(m->config, s->stage) : NULL;
		if (c->wanted || !st || s->ordinal < st->workers || !unsettled(m, w))
			continue;
		c->master = m;
		c->stage = (unsigned)(st - m->config->stages);
		c->ordinal = s->ordinal;
		c->wanted = true;
	}
}

int children_assign(struct master *m)
{
	for (unsigned i = 0; i < m->config->n_stages; i++) {
		for (unsigned k = 0; k < m->config->stages[i].workers; k++) {
			uint32_t slot;
			while (arena_worker_assign(&m->arena, m->config->stages[i].name, k,
			                           &slot) != 0)
				if (!retire_one_stray(m)) {
					log_error("arena.max_workers is %u, which is not enough: "
					          "raise it",
					          m->arena.workers);
					return -ENOSPC;
				}
			struct child *c = &m->children[slot];
			c->master = m;
			c->stage = i;
			c->ordinal = k;
			c->wanted = true;
		}
	}
	assign_unsettled(m);
	return 0;
}

void children_free(struct master *m)
{
	for (uint32_t w = 0; m->children && w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		forget_process(c);
		c->restart_timer = sd_event_source_disable_unref(c->restart_timer);
	}
	free(m->children);
	m->children = NULL;
}
