/*
 * The transformer's loop: claim the oldest chunk, run each record through the chain, commit.
 *
 * A unit takes further chunks as long as some are queued and the outputs have stayed small, so that
 * a filter that keeps little makes few chunks. A unit may end in the middle of a record (unit.c):
 * `emitted` says how far it was.
 */
#include "daemon/worker.h"

#include <stdio.h>
#include <string.h>

#include "ipc/fault.h"
#include "stages/state.h"

static bool outputs_small(const struct worker *w)
{
	for (unsigned i = 0; i < w->n_out; i++)
		if (w->out[i].used > w->a->buffer_size / 4)
			return false;
	return w->dead.used <= w->a->buffer_size / 4;
}

/* The books for one record that is done. */
static void account(struct worker *w, int answer)
{
	if (w->emitted_here)
		w->book[BOOK_made] += w->emitted_here - 1;
	else if (answer == STAGE_E_ABSORBED)
		w->book[BOOK_absorbed]++;
	else
		w->book[BOOK_filtered]++;
	w->emitted_here = 0;
}

static int set_aside_poison(struct worker *w, const struct arena_facts *f, const uint8_t *p,
                            size_t len)
{
	char why[STAGE_WHY_MAX];
	const char *step = NULL;
	if (f->skip_step < w->stage->n_steps)
		step = w->stage->steps[f->skip_step].ops->name;
	snprintf(why, sizeof(why), "it killed its worker %u times: %s", f->skip_attempts,
	         f->skip_signal ? strsignal((int)f->skip_signal) : "no signal");
	int r = unit_letter(w, why, step, p, len, true, NULL, f->skip_attempts);
	w->emitted_here++; /* one letter for one record */
	return r;
}

/* One record at @p: *@next is set to the byte behind it. */
static int one_record(struct worker *w, struct unit_input *in, struct record *rec, const uint8_t *p,
                      const uint8_t *end, const uint8_t **next)
{
	const struct arena_facts *f = &w->a->facts[in->at.entry];
	const char *why = NULL;
	struct chain_outcome out = {.answer = STAGE_OK};
	w->in_record = true;
	w->emitted = 0;
	w->emitted_before = in->record == in->from_record ? in->from_emitted : 0;
	int r = record_next(rec, p, end, next, &why);
	if (!*next)
		return unit_broken(w, in); /* it was checked when it was made */
	size_t len = (size_t)(*next - p);
	if (in->record == f->skip_record) {
		r = set_aside_poison(w, f, p, len);
		w->want_commit = true; /* what comes behind it starts with a clean count */
	} else if (r != 0) {
		r = r < 0 ? r : unit_letter(w, why, NULL, p, len, false, NULL, 1);
		w->emitted_here++;
	} else {
		out = chain_run(&w->chain, in->record, rec);
		if (out.answer == STAGE_E_REJECT) {
			r = unit_letter(w, out.why, out.step, p, len, true, NULL, 1);
			w->emitted_here++;
		} else if (out.answer < 0) {
			r = out.answer;
			if (out.why)
				snprintf(w->st.why, sizeof(w->st.why), "%s: %s", out.step, out.why);
		}
	}
	w->in_record = false;
	if (r == 0)
		account(w, out.answer);
	return r;
}

static int one_chunk(struct worker *w, struct unit_input *in, struct record *rec)
{
	uint8_t *p = arena_buffer(w->a, in->at.entry);
	const uint8_t *end = p + in->bytes;
	chain_chunk(&w->chain, clock_realtime(), w->a->h->epoch,
	            atomic_load(&w->a->numbers[in->at.entry]));
	int64_t from = clock_monotonic();
	uint32_t n = in->records - in->record;
	while (in->record < in->records) {
		const uint8_t *next;
		atomic_store_explicit(&w->me->hand_record, in->record, memory_order_relaxed);
		int r = one_record(w, in, rec, p + in->byte, end, &next);
		if (r < 0)
			return r;
		in = &w->in[w->n_in - 1]; /* a commit inside moved it to the front */
		in->record++;
		in->byte = (uint32_t)(next - p);
		if (w->want_commit && in->record < in->records && (r = unit_commit(w)) < 0)
			return r;
		in = &w->in[w->n_in - 1];
	}
	if (in->byte != in->bytes)
		return unit_broken(w, in);
	in->done = true;
	if (n)
		histogram_add(&w->me->stats.work, (uint64_t)(clock_monotonic() - from) / n, n);
	return 0;
}

/* Runs the chain's timed work or its flush, committing between the parts. */
static int timed(struct worker *w, bool flush)
{
	w->in_record = false;
	for (;;) {
		chain_chunk(&w->chain, clock_realtime(), w->a->h->epoch, 0);
		int r = flush ? chain_flush(&w->chain) : chain_tick(&w->chain, clock_monotonic());
		if (r < 0)
			return r;
		w->ended = flush && r == STAGE_OK;
		int c = unit_commit(w);
		if (c < 0 || r == STAGE_OK)
			return c;
	}
}

static int idle(struct worker *w)
{
	int r = unit_commit(w);
	if (r < 0)
		return r;
	int64_t now = clock_monotonic(), deadline = chain_deadline(&w->chain);
	if (deadline && deadline <= now)
		return timed(w, false);
	if (worker_order(w) == ORDER_FLUSH) {
		r = timed(w, true);
		if (r == 0)
			worker_leave(w, WORKER_EXIT_ENDED);
		return r;
	}
	int64_t timeout = deadline && deadline - now < LINK_NET_NS ? deadline - now : LINK_NET_NS;
	r = worker_wait_input(w, NULL, 0, timeout);
	return r < 0 ? r : 0;
}

int run_transformer(struct worker *w)
{
	struct record rec = {0};
	if (w->me->committed.flags & COMMITTED_ENDED)
		worker_leave(w, WORKER_EXIT_ENDED);
	for (;;) {
		int r;
		enum worker_order o = worker_order(w);
		if (o == ORDER_PAUSE || o == ORDER_STOP) {
			if ((r = unit_commit(w)) < 0)
				return r;
			worker_safe_point(w);
		}
		if (w->n_in && !outputs_small(w))
			r = ARENA_E_NONE;
		else
			r = unit_claim(w);
		if (r == 0) {
			r = one_chunk(w, &w->in[w->n_in - 1], &rec);
			int64_t deadline = chain_deadline(&w->chain);
			if (r == 0 && deadline && deadline <= clock_monotonic())
				r = timed(w, false);
		} else {
			r = w->n_in ? unit_commit(w) : idle(w);
		}
		if (r < 0)
			return r;
	}
}
