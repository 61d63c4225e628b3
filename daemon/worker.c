/*
 * A worker's process: birth, sleeping, orders, leaving.
 *
 * The hard idea is going to sleep without missing a doorbell: the worker first says in the arena
 * that it waits, then looks once more, then sleeps; whoever publishes first publishes, then looks
 * who waits. With a full fence on both sides one of the two sees the other. Should it go wrong all
 * the same, the sleep ends after LINK_NET_NS.
 *
 * The channel to the master is how a worker learns that the master is gone, besides
 * PR_SET_PDEATHSIG: its other end closes.
 */
#include "daemon/worker.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/confine_stage.h"
#include "ipc/fault.h"
#include "stages/state.h"

void worker_activity(struct worker *w, enum worker_activity what, const char *why)
{
	struct arena_worker *me = w->me;
	if (atomic_load_explicit(&me->activity, memory_order_relaxed) == (uint32_t)what && !why)
		return;
	if (why)
		snprintf(me->why, sizeof(me->why), "%s", why);
	else if (what == ACTIVITY_WORKING)
		me->why[0] = 0;
	if (atomic_load_explicit(&me->activity, memory_order_relaxed) == (uint32_t)what)
		return;
	atomic_store_explicit(&me->since, clock_monotonic(), memory_order_relaxed);
	atomic_store_explicit(&me->activity, what, memory_order_relaxed);
}

enum worker_order worker_order(const struct worker *w)
{
	return (enum worker_order)atomic_load_explicit(&w->me->order, memory_order_acquire);
}

_Noreturn void worker_leave(struct worker *w, int status)
{
	for (unsigned i = 0; i < w->n_in; i++) {
		struct word v = arena_word(w->a, w->in[i].at.entry);
		if (v.state == WORD_CLAIMED && v.owner == w->slot && v.gen == w->in[i].at.gen)
			arena_unclaim(w->a, w->slot, w->in[i].at);
	}
	if (w->stage->ops && w->stage->ops->close)
		w->stage->ops->close(&w->st);
	if (!w->stage->ops)
		chain_deinit(&w->chain);
	w->state = state_env_close(w->state);
	w->link = link_close(w->link);
	if (status == WORKER_EXIT_ENDED)
		worker_activity(w, ACTIVITY_ENDED, NULL);
	_exit(status); /* what is still FILLING the master gives back */
}

int worker_blameless(struct worker *w, int r)
{
	atomic_store_explicit(&w->me->hand_entry, ARENA_NO_RECORD, memory_order_relaxed);
	atomic_store_explicit(&w->me->hand_input, STAGE_HAND_NONE, memory_order_relaxed);
	return r;
}

/* Empties the channel; leaves when its other end is closed. */
static void read_channel(struct worker *w)
{
	char msg[64];
	ssize_t n;
	while ((n = recv(w->channel, msg, sizeof(msg), MSG_DONTWAIT)) > 0)
		;
	if (n == 0 || getppid() != w->master)
		_exit(WORKER_EXIT_STOPPED);
}

static void note_sleep(struct worker *w, enum worker_waiting kind, int64_t from, int64_t to)
{
	static int64_t woke;
	static uint64_t refused;
	struct stats_block *s = &w->me->stats;
	stats_add(s, STAT_refused,
	          w->st.refused - refused); /* a stage counts for itself; tell it now and then */
	refused = w->st.refused;
	if (woke)
		stats_add(s, STAT_busy_ns, (uint64_t)(from - woke));
	stats_add(s, kind == WAITING_ROOM ? STAT_blocked_ns : STAT_idle_ns, (uint64_t)(to - from));
	stats_add(s, STAT_wakeups, 1);
	woke = to;
}

/* One sleep, until a doorbell (unless @napping), the master, @fds or @timeout_ns. */
static int doze(struct worker *w, enum worker_waiting waiting, bool napping, struct pollfd *fds,
                unsigned n_fds, int64_t timeout_ns)
{
	struct pollfd all[STAGE_FDS_MAX + 1];
	if (n_fds > STAGE_FDS_MAX)
		n_fds = STAGE_FDS_MAX;
	all[0] = (struct pollfd){.fd = w->channel, .events = POLLIN};
	if (n_fds)
		memcpy(all + 1, fds, n_fds * sizeof(*fds));
	int64_t from = clock_monotonic();
	if (timeout_ns < 0)
		timeout_ns = 0;
	int r = (napping ? link_nap : link_wait)(w->link, all, n_fds + 1, timeout_ns);
	note_sleep(w, waiting, from, clock_monotonic());
	if (w->stage->ops && w->stage->ops->doors)
		w->stage->ops->doors(&w->st);
	atomic_fetch_add_explicit(&w->me->progress, 1, memory_order_relaxed);
	if (r > 0 && all[0].revents) {
		read_channel(w);
		r--;
	}
	for (unsigned i = 0; i < n_fds; i++)
		fds[i].revents = all[i + 1].revents;
	return r;
}

int worker_sleep(struct worker *w, enum worker_waiting waiting, struct pollfd *fds, unsigned n_fds,
                 int64_t timeout_ns, bool (*look)(struct worker *w, void *arg), void *arg)
{
	struct arena_worker *me = w->me;
	uint32_t how = w->listens == LINK_EVENTFD ? WAITING_BY_EVENTFD : 0;
	atomic_store(&me->waiting, waiting | how); /* before the look: see above */
	atomic_thread_fence(memory_order_seq_cst);
	bool found = look && look(w, arg);
	int r = found ? 0 : doze(w, waiting, false, fds, n_fds, timeout_ns);
	atomic_store_explicit(&me->waiting, WAITING_NOT, memory_order_relaxed);
	return r;
}

static bool work_to_do(struct worker *w, void *arg)
{
	(void)arg;
	return arena_any_queued(w->a, w->reads) || worker_order(w) != ORDER_RUN;
}

/* Whether who fills an edge that this worker reads has no room there. */
static bool input_is_full(const struct worker *w)
{
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
		if ((w->reads >> e & 1) &&
		    arena_charged(w->a, e) >=
		            atomic_load_explicit(&w->a->h->edges[e].quota, memory_order_relaxed))
			return true;
	return false;
}

int worker_wait_input(struct worker *w, struct pollfd *fds, unsigned n_fds, int64_t timeout_ns)
{
	int64_t nap = nap_take(&w->nap, clock_monotonic());
	if (nap) {
		int r = doze(w, WAITING_INPUT, true, fds, n_fds,
		             nap < timeout_ns ? nap : timeout_ns);
		if (input_is_full(w))
			nap_full(&w->nap);
		return r;
	}
	worker_activity(w, ACTIVITY_IDLE, NULL);
	int r = worker_sleep(w, WAITING_INPUT, fds, n_fds, timeout_ns, work_to_do, NULL);
	worker_activity(w, ACTIVITY_WORKING, NULL);
	return r;
}

static void reopen(struct worker *w)
{
	unsigned want = atomic_load_explicit(&w->me->reopen, memory_order_relaxed);
	if (want == w->reopened)
		return;
	w->reopened = want;
	if (w->stage->ops && w->stage->ops->reopen) {
		int r = w->stage->ops->reopen(&w->st);
		if (r != 0)
			log_warning("cannot reopen: %s", w->st.why);
	}
}

void worker_safe_point(struct worker *w)
{
	reopen(w);
	while (worker_order(w) == ORDER_PAUSE) {
		worker_activity(w, ACTIVITY_PAUSED, NULL);
		worker_sleep(w, WAITING_NOT, NULL, 0, LINK_NET_NS, NULL, NULL);
	}
	enum worker_order o = worker_order(w);
	bool producer = w->stage->kind == STAGE_PRODUCER;
	if (o == ORDER_STOP || (o == ORDER_DRAIN && producer))
		worker_leave(w, WORKER_EXIT_STOPPED);
}

void worker_tap(struct worker *w, const uint8_t *rec, size_t len)
{
	w->tap_buf.len = 0;
	if (!w->tap_codec.ops ||
	    w->tap_codec.ops->encode(&w->tap_codec, rec, len, &w->tap_buf) != 0)
		return;
	if (send(w->channel, w->tap_buf.p, w->tap_buf.len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		atomic_fetch_sub(&w->me->tap, 1);
}

/* ---- birth ---- */

/* Dies with the master. Set after any change of user, which would clear it; then the master may
 * already be gone, hence the second look. */
static void tie_to_master(const struct worker *w)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != w->master)
		_exit(WORKER_EXIT_STOPPED);
}

static void set_limits(const struct worker *w)
{
	if (!w->stage->memory_max)
		return;
	/* an explosion becomes a failed allocation of this process; mapped thread stacks count too
	 */
	rlim_t most = w->stage->memory_max * 2 + (64 << 20);
	struct rlimit lim = {most, most};
	setrlimit(RLIMIT_DATA, &lim);
}

static void fill_stage(struct worker *w)
{
	struct stage *st = &w->st;
	const struct config_stage *s = w->stage;
	st->ops = s->ops;
	st->name = s->name;
	st->config = s->config;
	st->host = &w->host;
	st->worker = w->me->ordinal;
	st->workers = s->workers;
	st->max_record = w->a->buffer_size;
	st->position = w->position;
	st->position_fresh = !(w->me->committed.flags & COMMITTED_POSITION);
	st->cut_off = st->position_fresh && (w->me->committed.flags & COMMITTED_CUT_OFF);
	memcpy(st->commit_id.epoch, w->a->h->epoch, sizeof(st->commit_id.epoch));
	st->commit_id.worker = w->slot;
	st->commit_id.number = atomic_load(&w->me->committed.number) + 1;
	st->now = clock_realtime();
	st->timeout = s->timeout;
	atomic_store_explicit(&w->me->hand_input, STAGE_HAND_NONE, memory_order_relaxed);
	st->hand = &w->me->hand_input;
	st->progress = &w->me->progress;
	st->poison_input = w->me->poison_input;
	st->poison_count = w->me->poison_count;
	st->poison_signal = w->me->poison_signal;
	st->max_attempts = (uint32_t)s->max_attempts;
}

static int make_stage(struct worker *w)
{
	const struct config_stage *s = w->stage;
	fill_stage(w);
	w->st.state = calloc(1, s->ops->state_size ? s->ops->state_size : 1);
	if (!w->st.state)
		return -ENOMEM;
	if (!s->codec)
		return 0;
	int r = codec_init(&w->codec, s->codec, s->codec_config, w->a->buffer_size);
	w->st.codec = &w->codec;
	return r;
}

static bool stateful(const struct config_stage *s)
{
	for (unsigned i = 0; i < s->n_steps; i++)
		if (s->steps[i].ops->flags & STAGE_STATEFUL)
			return true;
	return false;
}

static int make_chain(struct worker *w)
{
	const struct config_stage *s = w->stage;
	if (stateful(s)) {
		char path[512];
		snprintf(path, sizeof(path), "%s/%s.%u", w->config->state_path, s->name,
		         w->me->ordinal);
		int r = state_env_open(&w->state, path, w->config->state_size, s->n_steps,
		                       w->config->arena_sync);
		if (r < 0)
			return r;
	}
	int r = chain_init(&w->chain, s->name, s->steps, s->n_steps, &w->host, w->me->ordinal,
	                   s->workers, w->a->buffer_size);
	for (unsigned i = 0; r == 0 && i < w->chain.n; i++) {
		w->chain.steps[i].doubt_from = w->a->h->rebuilt ? w->a->h->doubt_from : 0;
		w->chain.steps[i].progress = &w->me->progress;
	}
	w->chain.env = w->state;
	w->chain.hand = &w->me->hand_step;
	return r;
}

/* A predecessor died between its transaction's commit and telling so: the stage knows how it ended.
 */
static int settle(struct worker *w)
{
	if (atomic_load(&w->me->intent.state) != INTENT_PREPARED)
		return 0;
	struct commit_id id = {.worker = w->slot, .number = w->me->intent.number};
	memcpy(id.epoch, w->a->h->epoch, sizeof(id.epoch));
	int r = w->state                                    ? state_env_committed(w->state, &id)
	        : w->stage->ops && w->stage->ops->committed ? w->stage->ops->committed(&w->st, &id)
	                                                    : 0;
	if (r < 0 || r > 1)
		return r;
	intent_settle(w->a, w->slot, r == 1);
	intent_repair(w->a, w->slot, NULL);
	memcpy(w->position, w->me->position, sizeof(w->position));
	fill_stage(w);
	return 0;
}

static int open_chain(struct worker *w)
{
	int r = chain_open(&w->chain);
	if (r == 0)
		return 0;
	const struct stage *st = &w->chain.steps[w->chain.opened];
	snprintf(w->st.why, sizeof(w->st.why), "step %u (%s): %.200s", w->chain.opened + 1,
	         st->ops->name,
	         st->why[0] ? st->why
	         : r < 0    ? strerror(-r)
	                    : "cannot be opened yet");
	return r;
}

static int open_what_runs(struct worker *w)
{
	int r = 0;
	if (!w->stage->ops)
		r = open_chain(w);
	else if (w->stage->ops->open)
		r = w->stage->ops->open(&w->st);
	return r == 0 ? settle(w) : r;
}

/* Whether this consumer gives its input up when it cannot be opened for long. One with a
 * transaction to settle must be opened for that first. */
static bool gives_up(const struct worker *w)
{
	return w->stage->kind == STAGE_CONSUMER && w->stage->give_up_after &&
	       atomic_load(&w->me->intent.state) == INTENT_OPEN;
}

static void after_failed_open(struct worker *w, int r)
{
	if (!w->st.why[0])
		snprintf(w->st.why, sizeof(w->st.why), "cannot be opened: %s",
		         r < 0 ? strerror(-r) : "no reason was given");
	log_warning("not reachable yet: %s", w->st.why);
	worker_activity(w, ACTIVITY_UNREACHABLE, w->st.why);
	if (w->stage->ops && w->stage->ops->close)
		w->stage->ops->close(&w->st);
	memset(w->st.state, 0, w->stage->ops ? w->stage->ops->state_size : 0);
	unit_rewind(w);
}

/* Until the next try. @since: it could not be opened all this time. */
static int pause_before_open(struct worker *w, int64_t pause, int64_t since)
{
	for (int64_t end = clock_monotonic() + pause; clock_monotonic() < end;) {
		int r = 0;
		if (worker_order(w) == ORDER_STOP)
			worker_leave(w, WORKER_EXIT_STOPPED);
		if (gives_up(w) && clock_monotonic() - since >= w->stage->give_up_after)
			r = consumer_give_up(w);
		if (r < 0)
			return r;
		worker_activity(w, ACTIVITY_UNREACHABLE, w->st.why);
		worker_sleep(w, WAITING_NOT, NULL, 0, LINK_NET_NS, NULL, NULL);
	}
	return 0;
}

/* The outside may not be there yet: tried again for ever, shown, with everything else untouched;
 * but a consumer with give_up_after does without it then. */
static int open_patiently(struct worker *w)
{
	int64_t pause = w->stage->retry.base ? w->stage->retry.base : 1000000000;
	int64_t since = clock_monotonic();
	for (;;) {
		w->st.why[0] = 0;
		int r = open_what_runs(w);
		if (r == 0 || (r < 0 && !gives_up(w)))
			return r;
		after_failed_open(w, r);
		r = pause_before_open(w, pause, since);
		if (r < 0)
			return r;
		pause = pause * 2 < w->stage->retry.max ? pause * 2 : pause;
	}
}

/* ---- confinement ---- */

/* Notes what was achieved of what was wanted; -EPERM when that is not enough. */
static int note_confined(struct worker *w, uint32_t want)
{
	uint32_t missing = want & ~w->confined;
	atomic_store(&w->me->confined, w->confined);
	atomic_store(&w->me->unconfined, missing);
	if (!missing || w->config->confine != CONFINE_REQUIRED)
		return 0;
	snprintf(w->st.why, sizeof(w->st.why),
	         "not confined (%s is missing), and daemon.confine is required",
	         confined_name[__builtin_ctz(missing)]);
	return -EPERM;
}

/* Before any thread: files, privileges, limits. */
static void confine_birth(struct worker *w)
{
	atomic_store(&w->me->confined, 0);
	atomic_store(&w->me->unconfined, 0);
	if (w->config->confine == CONFINE_OFF)
		return;
	confine_plan_stage(&w->plan, w->config, w->stage, w->me->ordinal);
	w->confined = confine_early(&w->plan);
}

/* After the stage's open, before the first record: system calls. */
int worker_confine(struct worker *w)
{
	if (w->config->confine == CONFINE_OFF)
		return 0;
	w->confined = confine_late(&w->plan, w->confined);
	int r = note_confined(w, w->plan.want);
	confine_plan_deinit(&w->plan);
	return r;
}

static int run(struct worker *w)
{
	if (w->stage->log)
		return run_log(w);
	int r = w->stage->ops ? make_stage(w) : make_chain(w);
	if (r == 0)
		r = open_patiently(w);
	if (r == 0)
		r = worker_confine(w);
	if (r < 0)
		return r;
	worker_activity(w, ACTIVITY_WORKING, NULL);
	switch (w->stage->kind) {
	case STAGE_PRODUCER:
		return run_producer(w);
	case STAGE_STEP:
		return run_transformer(w);
	default:
		return run_consumer(w);
	}
}

_Noreturn void worker_main(const struct worker_birth *birth)
{
	struct worker *w = calloc(1, sizeof(*w));
	if (!w)
		_exit(WORKER_EXIT_CANNOT);
	w->config = birth->config;
	w->stage = birth->stage;
	w->a = birth->arena;
	w->slot = birth->slot;
	w->me = arena_worker(w->a, w->slot);
	w->channel = birth->channel;
	w->master = birth->master;
	tie_to_master(w);
	log_identity(w->stage->name, (int)birth->ordinal);
	fault_role(w->stage->name);
	set_limits(w);
	confine_birth(w);
	unit_init(w, birth->edge_number);
	const struct codec_ops *json = codec_find("json");
	if (json)
		codec_init(&w->tap_codec, json, NULL, w->a->buffer_size);
	atomic_store(&w->me->reads, w->reads);
	worker_activity(w, ACTIVITY_STARTING, NULL);
	struct link_place place = {.dir = w->config->runtime_dir,
	                           .self = w->slot,
	                           .workers = w->a->workers,
	                           .eventfds = birth->eventfds,
	                           .listens = w->listens};
	int r = link_open(&w->link, &place);
	if (r == 0)
		r = run(w);
	if (r == -ENOSPC || r == -EDQUOT || r == -EIO || r == -EROFS || r == -EMFILE ||
	    r == -ENFILE)
		worker_blameless(w, r); /* the machine's trouble, not the record's */
	const char *why = w->st.why[0] ? w->st.why : strerror(-r);
	log_error("cannot go on: %s", why);
	snprintf(w->me->why, sizeof(w->me->why), "%s", why);
	_exit(WORKER_EXIT_CANNOT); /* what is held stays: the repair counts the attempt against it
	                            */
}
