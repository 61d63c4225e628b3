/*
 * The producer's loop: let the stage make records, seal and commit them when it is time.
 *
 * When a chunk is sealed: when it is full (unit.c does that), and by age. While the edges are under
 * half of their quota a record waits at most `linger`, or until the next beat of the pipeline where
 * input is slow (nap.h); above, consumers are behind anyway, and chunks are let grow for up to
 * FULL_NS: else a slow consumer would drown in tiny chunks.
 */
#include "daemon/worker.h"

#include "ipc/fault.h"

enum {
	FULL_NS = 100000000,
	TRICKLE = 32,          /* records between two looks: no more is slow input */
	TOGETHER_NS = 2000000, /* slow input is left alone so long: no socket's queue fills up
	                          meanwhile */
	/* a thread of the stage's library takes in what has gathered: it needs a tenth of this for
	 * one client, and is not waited for longer */
	HAND_OVER_NS = 200000,
	AGAIN_NS = 20000, /* between two looks whether it has */
};

static const int64_t DRAIN_NS =
        2000000000; /* how long a draining producer may empty what it had taken in */

static int64_t linger(const struct worker *w)
{
	const struct unit_output *out = &w->out[0];
	for (unsigned i = 0; i < out->n_edges; i++) {
		uint32_t quota = atomic_load_explicit(&w->a->h->edges[out->edges[i]].quota,
		                                      memory_order_relaxed);
		if (arena_charged(w->a, out->edges[i]) * 2 > quota + 1)
			return w->stage->linger > FULL_NS ? w->stage->linger : FULL_NS;
	}
	return w->stage->linger;
}

static int commit_and_tell(struct worker *w)
{
	int r = unit_commit(w);
	if (r == 0 && w->stage->ops->stored) {
		FAULT(acknowledge);
		r = w->stage->ops->stored(&w->st);
	}
	return r;
}

/* Whether input comes slowly: the last two looks found little, and nobody waits outside. */
static bool trickles(struct worker *w)
{
	static uint64_t before;
	static bool little[2];
	uint64_t made = w->me->committed.book[BOOK_received] + w->book[BOOK_received];
	little[1] = little[0];
	little[0] = made - before <= TRICKLE && !w->st.pressed;
	w->st.pressed = false;
	before = made;
	return little[0] && little[1];
}

/* When a chunk that begins to linger now is due. */
static int64_t next_beat(const struct worker *w, int64_t now)
{
	int64_t period = w->stage->linger;
	if (!w->st.awaited && w->nap.period > period)
		period = w->nap.period;
	return nap_beat(now, period);
}

/* When the chunk in hand is due. @beat: see idle(). */
static int64_t due(const struct worker *w, int64_t beat)
{
	int64_t longest = linger(w);
	bool on_beat = beat > w->born && longest == w->stage->linger;
	return on_beat ? beat : w->born + longest;
}

/* Waits until what has gathered can be produced. The first piece rings. */
static int take_over(struct worker *w)
{
	int64_t until = clock_monotonic() + HAND_OVER_NS;
	int r = 0;
	for (unsigned n_fds = w->st.n_fds; r >= 0 && w->stage->ops->hand_over(&w->st); n_fds = 0) {
		int64_t left = until - clock_monotonic();
		if (left <= 0)
			break;
		if (!n_fds && left > AGAIN_NS)
			left = AGAIN_NS;
		r = worker_sleep(w, WAITING_NOT, w->st.fds, n_fds, left, NULL, NULL);
	}
	return r;
}

/* Sleeps without looking at the input, which gathers outside meanwhile where the stage can have
 * that; what has gathered is there at the end. */
static int sleep_together(struct worker *w, enum worker_waiting waiting, int64_t timeout)
{
	bool gathers =
	        w->stage->ops->gather && timeout > HAND_OVER_NS && worker_order(w) == ORDER_RUN;
	if (gathers)
		w->stage->ops->gather(&w->st);
	int r = worker_sleep(w, waiting, w->st.fds, 0, timeout, unit_log_news, NULL);
	int taken = gathers ? take_over(w) : 0;
	return r < 0 ? r : taken;
}

/* Nothing to take in: commits what is due, then sleeps until the stage or the oldest record wants
 * something. A chunk that lingers waits anyway, so what comes slowly is not looked at one by one
 * but together, when the chunk is due. And when the last chunk was of several such records, the
 * next one begins to linger at once, until the next beat of the pipeline (nap.h). */
static int idle(struct worker *w)
{
	static int64_t beat;
	bool slow = trickles(w) && w->stage->linger, several = false;
	int64_t now = clock_monotonic(), timeout = LINK_NET_NS;
	int r;
	w->lingers = 0;
	if (w->born && due(w, beat) <= now) {
		several = w->out[0].records > 1;
		if ((r = commit_and_tell(w)) < 0)
			return r;
		now = clock_monotonic();
	}
	bool together = slow && (w->born || several);
	if (w->born) {
		timeout = due(w, beat) - now;
	} else if (w->out[0].open || w->n_ranges || w->dead.records) {
		return commit_and_tell(w); /* never sleeps on an empty entry */
	} else if (together) {
		beat = next_beat(w, now);
		timeout = beat - now;
		w->lingers = now;
	}
	if (w->st.deadline && w->st.deadline - now < timeout)
		timeout = w->st.deadline - now;
	if (together && timeout > TOGETHER_NS)
		timeout = TOGETHER_NS;
	if (!w->born && !together)
		worker_activity(w, ACTIVITY_IDLE, NULL);
	enum worker_waiting waiting = w->unstored ? WAITING_LOG : WAITING_NOT;
	if (together)
		r = sleep_together(w, waiting, timeout);
	else
		r = worker_sleep(w, waiting, w->st.fds, w->st.n_fds, timeout, unit_log_news, NULL);
	worker_activity(w, ACTIVITY_WORKING, NULL);
	if (r >= 0 && w->stage->ops->stored && (!w->born || w->logged))
		return w->stage->ops->stored(&w->st);
	return r < 0 ? r : 0;
}

static int end(struct worker *w)
{
	w->ended = true;
	int r = commit_and_tell(w);
	if (r == 0)
		worker_leave(w, WORKER_EXIT_ENDED);
	return r;
}

/* Ordered to drain: takes nothing new, and goes on until what it had taken in is produced. True:
 * leave now. */
static bool drained(struct worker *w, int64_t *since, bool idle)
{
	if (!w->stage->ops->drain)
		return true;
	if (!*since) {
		*since = clock_monotonic();
		return w->stage->ops->drain(&w->st) != 0;
	}
	return idle || clock_monotonic() - *since > DRAIN_NS;
}

static int tick(struct worker *w)
{
	if (!w->stage->ops->tick || !w->st.deadline || clock_monotonic() < w->st.deadline)
		return 0;
	return w->stage->ops->tick(&w->st);
}

int run_producer(struct worker *w)
{
	if (w->me->committed.flags & COMMITTED_ENDED)
		worker_leave(w, WORKER_EXIT_ENDED);
	int64_t draining = 0;
	bool was_idle = false;
	for (;;) {
		enum worker_order o = worker_order(w);
		bool stay = o == ORDER_DRAIN && !drained(w, &draining, was_idle);
		if ((o != ORDER_RUN && !stay) || atomic_load(&w->me->reopen) != w->reopened) {
			int r = commit_and_tell(w);
			if (r < 0)
				return r;
			if (!stay)
				worker_safe_point(w);
		}
		w->st.now = clock_realtime();
		FAULT(produce);
		int r = w->stage->ops->produce(&w->st);
		was_idle = r == STAGE_E_IDLE;
		if (r == STAGE_OK) {
			r = tick(w);
			bool old = w->born && due(w, 0) <= clock_monotonic();
			/* what makes no records can set many positions, too */
			if (r >= 0 && (old || w->want_commit))
				r = commit_and_tell(w);
		} else if (r == STAGE_E_IDLE) {
			r = tick(w);
			r = r < 0 ? r : idle(w);
		} else if (r == STAGE_E_END) {
			r = end(w);
		} else if (r == STAGE_E_UNREACHABLE) {
			worker_activity(w, ACTIVITY_UNREACHABLE, w->st.why);
			r = unit_commit(w);
			worker_sleep(w, WAITING_NOT, w->st.fds, w->st.n_fds, LINK_NET_NS, NULL,
			             NULL);
		} else if (r > 0) {
			r = stage_say(&w->st, -EPROTO,
			              "produce() gave an answer it may not give: %d", r);
		}
		if (r < 0)
			return r;
	}
}
