/*
 * The consumer's loop: claim chunks, offer each record to the stage, deliver, commit.
 *
 * A try is the whole unit: begin, consume each record, finish. When the outside fails, everything
 * since begin is rolled back and tried again after a pause; "unreachable" for ever, an answer about
 * the data so many times as `retry.attempts` says. Then the unit is cut down to single records, so
 * that the one which is refused is found and becomes a dead letter, and the others pass.
 *
 * With `give_up_after` an unreachable peer is tried for so long only. That holds for a stage that
 * cannot even be opened, too: then the loop does not run yet, and the worker gives up here what has
 * waited so long.
 */
#include "daemon/worker.h"

#include <string.h>
#include <sys/random.h>

#include "ipc/fault.h"

struct pace {
	unsigned attempts; /* of this unit, that the outside answered */
	unsigned pauses;   /* since the last success: the exponent of the back-off */
	bool single;       /* one record a unit, until this input is done */
	int64_t since;     /* monotonic ns of the first failure of this row */
	bool told;         /* that nobody is reachable */
};

static const int64_t OUTAGE = 1000000000; /* ns without a peer that are worth a line in the log */

static int say_no(struct worker *w, struct unit_input *in, const uint8_t *p, size_t len,
                  const char *why, uint32_t attempts)
{
	(void)in;
	return unit_letter(w, why, NULL, p, len, true, NULL, attempts);
}

/* Offers the records of one input. STAGE_OK: all; STAGE_E_FULL: the unit ends before the one `in`
 * stands at. */
static int offer(struct worker *w, struct unit_input *in, const struct pace *pace, bool give_up,
                 uint32_t *taken)
{
	uint8_t *p = arena_buffer(w->a, in->at.entry);
	const struct arena_facts *f = &w->a->facts[in->at.entry];
	while (in->record < in->records) {
		const uint8_t *rec = p + in->byte, *next = mp_skip(rec, p + in->bytes);
		if (!next)
			return unit_broken(w, in);
		size_t len = (size_t)(next - rec);
		if (pace->single && *taken)
			return STAGE_E_FULL;
		atomic_store_explicit(&w->me->hand_record, in->record, memory_order_relaxed);
		atomic_store_explicit(&w->me->hand_entry, in->at.entry, memory_order_relaxed);
		bool poison = in->record == f->skip_record;
		int r = poison || give_up ? STAGE_E_REJECT
		                          : w->stage->ops->consume(&w->st, rec, len);
		if (r == STAGE_E_REJECT) {
			if (!unit_letter_fits(w, len)) {
				if (*taken)
					return STAGE_E_FULL;
				if ((r = unit_open(w, &w->dead)) < 0) /* waits with nothing taken */
					return r;
			}
			char why[STAGE_WHY_MAX];
			if (poison)
				snprintf(why, sizeof(why), "it killed its worker %u times: %s",
				         f->skip_attempts, strsignal((int)f->skip_signal));
			r = say_no(w, in, rec, len, poison ? why : w->st.why,
			           poison ? f->skip_attempts : pace->attempts + 1);
		} else if (r == STAGE_OK) {
			w->book[w->stage->builtin ? BOOK_letters : BOOK_delivered]++;
			w->book[BOOK_records_out]++;
			w->book[BOOK_bytes_out] += len;
		}
		if (r != 0)
			return r;
		in->record++;
		in->byte = (uint32_t)(next - p);
		(*taken)++;
		if (poison)
			return STAGE_E_FULL;
	}
	if (in->byte != in->bytes)
		return unit_broken(w, in);
	in->done = true;
	return 0;
}

/* One try of the unit. STAGE_OK: delivered or ready to commit; RETRY, UNREACHABLE; -errno. */
static int try_unit(struct worker *w, struct pace *pace, bool give_up)
{
	uint32_t taken = 0;
	int r = 0;
	w->st.now = clock_realtime();
	/* what is given up goes to the dead letters: the stage, which may still be out of reach,
	 * has no part in it */
	if (!give_up && w->stage->ops->begin && (r = w->stage->ops->begin(&w->st)) < 0)
		return worker_blameless(w, r);
	unsigned i = 0;
	for (; r == 0 && i < w->n_in; i++)
		r = offer(w, &w->in[i], pace, give_up, &taken);
	if (r ==
	    STAGE_E_FULL) { /* ends here: inputs behind the one that is not done were not begun */
		while (w->n_in > i)
			arena_unclaim(w->a, w->slot, w->in[--w->n_in].at);
		r = 0;
	}
	FAULT(deliver);
	if (r == 0 && !give_up && w->stage->ops->finish && (r = w->stage->ops->finish(&w->st)) < 0)
		return worker_blameless(w, r);
	w->prepared = r == STAGE_OK && !give_up;
	FAULT(delivered);
	return r;
}

static double random_share(void)
{
	uint32_t v = 0;
	(void)!getrandom(&v, sizeof(v), 0);
	return (double)v / 4294967296.0;
}

/* The pause before try number n: base * factor^n, at most max; with full jitter a random share of
 * it (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). */
static int64_t back_off(const struct retry *retry, unsigned n)
{
	double ns = (double)retry->base;
	for (unsigned i = 0; i < n && ns < (double)retry->max; i++)
		ns *= retry->factor;
	if (ns > (double)retry->max)
		ns = (double)retry->max;
	if (retry->jitter == RETRY_JITTER_FULL)
		ns *= random_share();
	return (int64_t)ns;
}

/* One line for an outage, however often it is tried; a peer that is only slow is none. */
static void tell(struct worker *w, struct pace *pace, int answer)
{
	if (answer != STAGE_E_UNREACHABLE) {
		log_warning("tried again: %s", w->st.why);
	} else if (!pace->told && clock_monotonic() - pace->since >= OUTAGE) {
		log_warning("not reachable: %s", w->st.why);
		pace->told = true;
	}
}

/* Ends early when a descriptor says that the outside has moved. */
static void pause_before_next(struct worker *w, struct pace *pace, int answer)
{
	int64_t end = clock_monotonic() + back_off(&w->stage->retry, pace->pauses++);
	bool moved = false;
	if (!pace->since)
		pace->since = clock_monotonic();
	stats_add(&w->me->stats, STAT_retries, 1);
	if (answer == STAGE_E_UNREACHABLE)
		stats_add(&w->me->stats, STAT_errors_peer, 1);
	tell(w, pace, answer);
	do {
		worker_activity(w, ACTIVITY_UNREACHABLE, w->st.why);
		enum worker_order o = worker_order(w);
		if (o == ORDER_STOP || o == ORDER_PAUSE)
			break;
		int64_t left = end - clock_monotonic();
		int r = worker_sleep(w, WAITING_NOT, w->st.fds, w->st.n_fds,
		                     left < LINK_NET_NS ? left : LINK_NET_NS, NULL, NULL);
		moved = r > 0 && answer == STAGE_E_UNREACHABLE;
	} while (!moved && clock_monotonic() < end);
}

/* What to do about a failed try. True: give the (single) record up as a dead letter. */
static bool after_failure(struct worker *w, struct pace *pace, int answer)
{
	const struct config_stage *s = w->stage;
	if (w->stage->ops->rollback)
		w->stage->ops->rollback(&w->st);
	unit_rewind(w);
	bool patience_over = s->give_up_after && pace->since &&
	                     clock_monotonic() - pace->since > s->give_up_after;
	if (answer == STAGE_E_RETRY && ++pace->attempts >= (unsigned)s->retry.attempts) {
		if (pace->single || (w->n_in == 1 && w->in[0].records - w->in[0].record == 1))
			return true;
		pace->single = true;
		pace->attempts = 0;
	}
	if (patience_over)
		return true;
	pause_before_next(w, pace, answer);
	return false;
}

static int deliver_unit(struct worker *w, struct pace *pace)
{
	bool give_up = false;
	int64_t from = clock_monotonic();
	for (;;) {
		enum worker_order o = worker_order(w);
		if (o == ORDER_STOP || o == ORDER_PAUSE) {
			if (pace->pauses) /* in the middle of a failing delivery: give it back */
				return ARENA_E_NONE;
		}
		int r = try_unit(w, pace, give_up);
		if (r < 0)
			return r;
		if (r == STAGE_OK)
			break;
		give_up = after_failure(w, pace, r);
	}
	uint64_t n = w->book[BOOK_delivered] + w->book[BOOK_letters];
	if (n)
		histogram_add(&w->me->stats.work, (uint64_t)(clock_monotonic() - from) / n, n);
	worker_activity(w, ACTIVITY_WORKING, NULL);
	bool last_done = w->in[w->n_in - 1].done;
	int r = unit_commit(w);
	pace->attempts = pace->pauses = 0;
	pace->since = 0;
	pace->told = false;
	if (last_done)
		pace->single = false;
	return r;
}

static int timed(struct worker *w)
{
	if (!w->stage->ops->tick || !w->st.deadline || clock_monotonic() < w->st.deadline)
		return 0;
	w->st.now = clock_realtime();
	int r = w->stage->ops->tick(&w->st);
	return r < 0 ? r : unit_commit(w);
}

static int idle(struct worker *w)
{
	int r = unit_commit(w); /* gives back an entry opened for letters */
	if (r == 0)
		r = timed(w);
	if (r < 0)
		return r;
	if (worker_order(w) == ORDER_FLUSH) {
		if (w->stage->ops->flush && (r = w->stage->ops->flush(&w->st)) < 0)
			return r;
		w->ended = true;
		r = unit_commit(w);
		if (r == 0)
			worker_leave(w, WORKER_EXIT_ENDED);
		return r;
	}
	int64_t now = clock_monotonic(), timeout = LINK_NET_NS;
	if (w->st.deadline && w->st.deadline - now < timeout)
		timeout = w->st.deadline - now;
	r = worker_wait_input(w, w->st.fds, w->st.n_fds, timeout);
	return r < 0 ? r : 0;
}

static void give_all_back(struct worker *w)
{
	while (w->n_in)
		arena_unclaim(w->a, w->slot, w->in[--w->n_in].at);
}

/* Takes what is queued while it is little: one delivery for many small chunks. */
static int gather(struct worker *w, struct pace *pace)
{
	uint64_t bytes = 0;
	if (!w->n_in && unit_claim(w) != 0)
		return ARENA_E_NONE;
	/* a chunk that has killed a worker goes on record by record: a crash in finish() then names
	 * one */
	if (arena_word(w->a, w->in[0].at.entry).attempts)
		pace->single = true;
	if (pace->single)
		return 0;
	for (unsigned i = 0; i < w->n_in; i++)
		bytes += w->in[i].bytes - w->in[i].byte;
	while (bytes < w->a->buffer_size / 2 && unit_claim(w) == 0) {
		const struct unit_input *last = &w->in[w->n_in - 1];
		if (arena_word(w->a, last->at.entry).attempts) {
			/* not in one unit with others: the next crash would be laid to the wrong
			 * one again */
			arena_unclaim(w->a, w->slot, last->at);
			w->n_in--;
			break;
		}
		bytes += last->bytes - last->byte;
	}
	return 0;
}

/* Ages of an earlier boot are not known: old enough. */
static bool waited(const struct worker *w, uint32_t entry)
{
	const struct arena_facts *f = &w->a->facts[entry];
	return f->boot != w->a->h->boot || clock_monotonic() - f->queued >= w->stage->give_up_after;
}

int consumer_give_up(struct worker *w)
{
	struct pace pace = {0};
	int r = 0;
	while (r == 0 && (worker_order(w) == ORDER_RUN || worker_order(w) == ORDER_FLUSH)) {
		if (!w->n_in && unit_claim(w) != 0)
			break;
		if (!waited(w, w->in[0].at.entry))
			break;
		r = try_unit(w, &pace, true);
		r = r < 0 ? r : unit_commit(w);
	}
	if (r < 0)
		return r;
	give_all_back(w);
	if (worker_order(w) == ORDER_FLUSH && !arena_any_queued(w->a, w->reads))
		w->ended = true;
	r = unit_commit(w);
	if (r == 0 && w->ended)
		worker_leave(w, WORKER_EXIT_ENDED);
	return r;
}

int run_consumer(struct worker *w)
{
	struct pace pace = {0};
	if (w->me->committed.flags & COMMITTED_ENDED)
		worker_leave(w, WORKER_EXIT_ENDED);
	for (;;) {
		enum worker_order o = worker_order(w);
		int r;
		if (w->stage->builtin)
			unit_save_aside(w);
		if (o == ORDER_PAUSE || o == ORDER_STOP ||
		    atomic_load(&w->me->reopen) != w->reopened) {
			give_all_back(w);
			if ((r = unit_commit(w)) < 0)
				return r;
			worker_safe_point(w);
		}
		r = timed(w); /* here, too: under steady load it is never idle */
		if (r == 0)
			r = gather(w, &pace) == 0 ? deliver_unit(w, &pace) : idle(w);
		if (r < 0)
			return r;
	}
}
