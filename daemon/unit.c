/*
 * A unit: what a worker commits as one. Outputs are filled in place in the arena; inputs are noted
 * with how far they got; figures and position are gathered in private memory and go into the intent
 * at the commit.
 *
 * Two rules keep the graph free of deadlock (see arena.h):
 *  - the edges of one output are taken all or none, in ascending order;
 *  - nobody sleeps for room while holding a FILLING entry: what is there is committed first, even
 * in the middle of a record. The input then says how many emissions of that record are done
 * (`emitted`), and whoever goes on with it, this worker or a successor, leaves them out.
 */
#include "daemon/worker.h"

#include <assert.h>
#include <string.h>

#include "ipc/fault.h"
#include "stages/state.h"

static uint32_t max_record(const struct worker *w)
{
	return (uint32_t)w->a->buffer_size;
}

/* Puts dead letters back: what it makes was received once before, and is never dropped for want of
 * room. */
static bool is_replayer(const struct worker *w)
{
	return w->stage->builtin && w->stage->kind == STAGE_PRODUCER;
}

/* ---- outputs ---- */

static void give_up_output(struct worker *w, struct unit_output *out, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!out->missing[i])
			arena_drop(w->a, w->slot, out->at[i]);
}

void unit_give_up(struct worker *w, struct unit_output *out)
{
	give_up_output(w, out, out->n_edges);
	out->open = false;
}

/* Takes an entry on every edge that blocks; one that drops may be missing. */
bool unit_try_open(struct worker *w, struct unit_output *out)
{
	out->p = NULL;
	for (unsigned i = 0; i < out->n_edges; i++) {
		uint32_t e = out->edges[i];
		out->missing[i] = arena_acquire(w->a, w->slot, e, &out->at[i]) != 0;
		if (!out->missing[i]) {
			if (!out->p)
				out->p = arena_buffer(w->a, out->at[i].entry);
		} else if (is_replayer(w) ||
		           !atomic_load_explicit(&w->a->h->edges[e].drop, memory_order_relaxed)) {
			give_up_output(w, out, i);
			return false;
		}
	}
	if (!out->p) { /* every edge is full and drops: the records still have to be counted */
		if (!out->nowhere)
			out->nowhere = malloc(w->a->buffer_size);
		if (!out->nowhere) {
			give_up_output(w, out, out->n_edges);
			return false;
		}
		out->p = out->nowhere;
	}
	out->open = true;
	out->used = out->records = 0;
	return true;
}

static bool open_now(struct worker *w, void *arg)
{
	return unit_try_open(w, arg);
}

/* The edge to name when @out cannot be opened: the fullest against its quota. */
static uint32_t blocking_edge(const struct worker *w, const struct unit_output *out)
{
	for (unsigned i = 0; i < out->n_edges; i++) {
		const struct arena_edge *e = &w->a->h->edges[out->edges[i]];
		if (arena_charged(w->a, out->edges[i]) >= atomic_load(&e->quota))
			return out->edges[i];
	}
	return out->edges[0];
}

/* A producer ordered to drain may have much in hand that was read but not made (a buffer of a
 * file): it need not be, if the next one finds it again from the position that was just committed.
 */
static void leave_draining(struct worker *w)
{
	if (w->st.resumes && worker_order(w) == ORDER_DRAIN)
		worker_leave(w, WORKER_EXIT_STOPPED);
}

int unit_open(struct worker *w, struct unit_output *out)
{
	if (out->open || unit_try_open(w, out))
		return 0;
	int r = unit_commit(w);
	return r < 0 ? r : unit_wait_open(w, out);
}

int unit_wait_open(struct worker *w, struct unit_output *out)
{
	while (!out->open && !unit_try_open(w, out)) {
		atomic_store_explicit(&w->me->blocked_edge, blocking_edge(w, out),
		                      memory_order_relaxed);
		worker_activity(w, ACTIVITY_BLOCKED, NULL);
		if (worker_order(w) == ORDER_STOP)
			worker_leave(w, WORKER_EXIT_STOPPED);
		leave_draining(w);
		worker_sleep(w, WAITING_ROOM, NULL, 0, LINK_NET_NS, open_now, out);
	}
	worker_activity(w, ACTIVITY_WORKING, NULL);
	return 0;
}

int unit_room(struct worker *w, struct unit_output *out, size_t need)
{
	if (need > max_record(w))
		return STAGE_E_REJECT;
	uint64_t most = w->stage->kind == STAGE_PRODUCER ? (uint64_t)w->stage->batch_records : 0;
	bool full =
	        out->open && (max_record(w) - out->used < need || (most && out->records >= most));
	if (full || w->want_commit) {
		int r = unit_commit(w);
		if (r < 0)
			return r;
		leave_draining(w);
	}
	return unit_open(w, out);
}

/* A record of @len bytes was written at the end of @out. */
static void note_record(struct worker *w, struct unit_output *out, size_t len)
{
	out->used += (uint32_t)len;
	out->records++;
	if (!w->born)
		w->born = w->lingers ? w->lingers : clock_monotonic();
	w->lingers = 0; /* it is this chunk's alone */
	for (unsigned i = 0; i < out->n_edges; i++) {
		w->book[BOOK_dropped] += out->missing[i];
		w->book[BOOK_records_out] += !out->missing[i];
	}
	w->book[BOOK_bytes_out] += len;
}

/* ---- what stages call ---- */

static int host_reserve(struct stage_host *h, size_t need, uint8_t **p, size_t *room)
{
	struct worker *w = (struct worker *)h;
	int r = unit_room(w, &w->out[0], need);
	if (r != 0)
		return r;
	*p = w->out[0].p + w->out[0].used;
	*room = max_record(w) - w->out[0].used;
	return 0;
}

static int host_made(struct stage_host *h, size_t len)
{
	struct worker *w = (struct worker *)h;
	struct unit_output *out = &w->out[0];
	assert(out->open && len <= max_record(w) - out->used);
	if (atomic_load_explicit(&w->me->tap, memory_order_relaxed))
		worker_tap(w, out->p + out->used, len);
	note_record(w, out, len);
	w->book[is_replayer(w) ? BOOK_replayed : BOOK_received]++;
	w->book[BOOK_records_in]++;
	w->book[BOOK_bytes_in] += len;
	w->book[BOOK_made] += out->n_edges - 1;
	return 0;
}

/* True when this emission was done by an earlier unit of the same record. */
static bool done_before(struct worker *w)
{
	return w->in_record && w->emitted < w->emitted_before;
}

static int host_emit(struct stage_host *h, unsigned output, const struct record *rec)
{
	struct worker *w = (struct worker *)h;
	if (done_before(w)) {
		w->emitted++;
		return 0;
	}
	struct unit_output *out = &w->out[output < w->n_out ? output : 0];
	size_t size = record_size(rec);
	int r = unit_room(w, out, size);
	if (r != 0)
		return r;
	size_t len = record_write(rec, out->p + out->used);
	if (atomic_load_explicit(&w->me->tap, memory_order_relaxed))
		worker_tap(w, out->p + out->used, len);
	note_record(w, out, len);
	w->emitted++;
	w->emitted_here += out->n_edges;
	return 0;
}

static int host_reject(struct stage_host *h, const char *why, const void *input, size_t len,
                       const char *at)
{
	struct worker *w = (struct worker *)h;
	bool producer = w->stage->kind == STAGE_PRODUCER;
	if (done_before(w)) {
		w->emitted++;
		return 0;
	}
	/* a step hands over what it had: a record */
	uint32_t attempts = w->st.poison_in_hand ? w->st.poison_count : 1;
	int r = unit_letter(w, why, NULL, input, len, !producer, at, attempts);
	if (r < 0)
		return r;
	if (producer) {
		/* what comes behind it may kill, too: then this one must be done with */
		w->want_commit |= w->st.poison_in_hand;
		w->book[is_replayer(w) ? BOOK_replayed : BOOK_received]++;
		w->book[BOOK_records_in]++;
		w->book[BOOK_bytes_in] += len;
	} else {
		w->emitted++;
		w->emitted_here++;
	}
	return 0;
}

static int host_position(struct stage_host *h, uint32_t off, const void *data, uint32_t len)
{
	struct worker *w = (struct worker *)h;
	if (off > ARENA_POSITION_MAX || len > ARENA_POSITION_MAX - off)
		return -EINVAL;
	memcpy(w->position + off, data, len);
	for (unsigned i = 0; i < w->n_ranges; i++)
		if (w->ranges[i].off == off && w->ranges[i].len == len)
			return 0;
	if (w->n_ranges == UNIT_RANGES_MAX || w->range_bytes + len + 8 > ARENA_PATCHES_MAX)
		return -ENOBUFS; /* want_commit, below, was not heeded for very long */
	w->ranges[w->n_ranges].off = off;
	w->ranges[w->n_ranges++].len = len;
	w->range_bytes += len + 8;
	w->st.crowded = w->n_ranges > UNIT_RANGES_MAX / 2 || w->range_bytes > ARENA_PATCHES_MAX / 2;
	w->want_commit |= w->st.crowded;
	return 0;
}

static uint64_t host_stored(struct stage_host *h, bool delivered)
{
	return unit_stored((struct worker *)h, delivered);
}

void unit_init(struct worker *w, const uint32_t *edge_number)
{
	const struct config *cfg = w->config;
	unsigned me = (unsigned)(w->stage - cfg->stages);
	w->host = (struct stage_host){host_reserve, host_made,     host_emit,
	                              host_reject,  host_position, host_stored};
	w->n_out = w->stage->n_outputs ? w->stage->n_outputs : 1;
	for (unsigned i = 0; i < cfg->n_edges; i++) {
		const struct config_edge *e = &cfg->edges[i];
		if (e->to == me)
			w->reads |= 1ull << edge_number[i];
		if (e->from != me)
			continue;
		struct unit_output *out = &w->out[e->output];
		unsigned at = out->n_edges++;
		for (; at && out->edges[at - 1] > edge_number[i]; at--)
			out->edges[at] = out->edges[at - 1];
		out->edges[at] = edge_number[i];
	}
	if (is_replayer(w)) { /* an edge that others fill too */
		w->out[0].edges[0] = edge_number[w->stage->replay_edge];
		w->out[0].n_edges = 1;
	}
	w->dead.edges[0] = w->dead_edge = edge_number[cfg->dead_edge];
	w->dead.n_edges = 1;
	int64_t linger = config_linger(cfg, w->stage);
	/* its own, or a reload that changes another producer's would have to replace it */
	bool producer = w->stage->kind == STAGE_PRODUCER;
	nap_init(&w->nap, producer ? w->stage->linger : linger, w->stage->depth);
	w->listens = linger ? LINK_ZMQ : LINK_EVENTFD;
	unit_log_init(w);
	memcpy(w->position, w->me->position, sizeof(w->position));
}

/* ---- inputs ---- */

int unit_claim(struct worker *w)
{
	struct arena_handle h;
	if (w->n_in == ARENA_INPUTS_MAX)
		return ARENA_E_NONE;
	for (;;) {
		if (arena_claim(w->a, w->slot, w->reads, &h) != 0)
			return ARENA_E_NONE;
		if (unit_sound(w, h.entry))
			break;
		unit_set_aside(w, h);
	}
	const struct arena_facts *f = &w->a->facts[h.entry];
	if (w->n_in && f->origin_worker != w->origin_worker) {
		arena_unclaim(w->a, w->slot, h); /* one origin a unit: what comes of it names one */
		return ARENA_E_NONE;
	}
	struct unit_input *in = &w->in[w->n_in++];
	*in = (struct unit_input){.at = h,
	                          .from_record = f->reached_record,
	                          .from_byte = f->reached_byte,
	                          .from_emitted = f->reached_emitted,
	                          .record = f->reached_record,
	                          .byte = f->reached_byte,
	                          .records = f->records,
	                          .bytes = f->bytes};
	if (w->n_in == 1) {
		w->origin_worker = f->origin_worker;
		w->origin_commit = f->origin_commit;
		w->born = f->born;
	} else {
		w->origin_commit =
		        f->origin_commit < w->origin_commit ? f->origin_commit : w->origin_commit;
		w->born = f->born && f->born < w->born ? f->born : w->born;
	}
	nap_chunk(&w->nap, f->bytes < w->a->buffer_size / 4);
	atomic_store_explicit(&w->me->hand_entry, h.entry, memory_order_relaxed);
	stats_add(&w->me->stats, STAT_chunks_in, 1);
	return 0;
}

/* ---- commit ---- */

bool unit_pending(const struct worker *w)
{
	if (w->n_in &&
	    (w->in[0].done || w->in[0].record != w->in[0].from_record || w->emitted_here))
		return true;
	if (w->n_ranges || w->ended || w->dead.records)
		return true;
	for (unsigned i = 0; i < w->n_out; i++)
		if (w->out[i].records)
			return true;
	for (unsigned i = 0; i < BOOK_COUNT; i++)
		if (w->book[i])
			return true;
	return false;
}

/* What is needed of the log to make anew what comes of the inputs. */
static uint64_t base_of_inputs(const struct worker *w)
{
	uint64_t lowest = 0;
	for (unsigned i = 0; i < w->n_in; i++) {
		uint64_t base = arena_base(w->a, w->in[i].at.entry);
		if (base && (!lowest || base < lowest))
			lowest = base;
	}
	return lowest;
}

static void seal_output(struct worker *w, struct intent *in, struct unit_output *out)
{
	struct arena_facts f = {.records = out->records,
	                        .bytes = out->used,
	                        .origin_worker = w->origin_worker,
	                        .origin_commit = w->origin_commit,
	                        .base = base_of_inputs(w),
	                        .born = w->born};
	if (w->stage->kind == STAGE_PRODUCER) {
		f.origin_worker = w->slot;
		f.origin_commit = in->number;
		f.flags = w->logged && out == &w->dead ? FACT_LETTERS : 0;
	}
	for (unsigned i = 0; i < out->n_edges; i++) {
		if (out->missing[i])
			continue;
		uint8_t *p = arena_buffer(w->a, out->at[i].entry);
		if (p != out->p)
			memcpy(p, out->p, out->used);
		arena_seal(w->a, out->at[i], &f);
		bool fits = intent_output(in, out->at[i]);
		assert(fits);
		stats_add(&w->me->stats, STAT_chunks_out, 1);
	}
}

static void close_output(struct worker *w, struct intent *in, struct unit_output *out)
{
	if (!out->open)
		return;
	if (out->records || (w->bare && out == &w->out[0]))
		seal_output(w, in, out);
	else
		give_up_output(w, out, out->n_edges);
	out->open = false;
	out->used = out->records =
	        0; /* what is not open holds nothing: else a unit would seem pending for ever */
}

static void note_inputs(struct worker *w, struct intent *in)
{
	for (unsigned i = 0; i < w->n_in; i++) {
		const struct unit_input *it = &w->in[i];
		uint32_t emitted = it->done ? 0 : w->in_record ? w->emitted : 0;
		if (!it->done && it->record == it->from_record && emitted == it->from_emitted)
			continue; /* stays as it is */
		bool fits = intent_input(in, it->at, it->done ? INTENT_FREE : INTENT_ADVANCE,
		                         it->record, it->byte, emitted);
		assert(fits);
		w->book[BOOK_records_in] += it->record - it->from_record;
		w->book[BOOK_bytes_in] += it->byte - it->from_byte;
	}
}

static int carry_out(struct worker *w, struct intent *in)
{
	struct commit_id id = {.worker = w->slot, .number = in->number};
	int r = 0;
	memcpy(id.epoch, w->a->h->epoch, sizeof(id.epoch));
	bool stage_commits = w->prepared && (w->stage->ops->flags & STAGE_TRANSACTION);
	bool state_commits = w->state && state_env_dirty(w->state);
	if (!stage_commits && !state_commits) {
		intent_commit(w->a, w->slot);
		return 0;
	}
	intent_prepare(w->a, w->slot);
	r = stage_commits ? w->stage->ops->commit(&w->st) : state_env_commit(w->state, &id);
	if (r != 0) /* whether it is in is for the successor to find out */
		return r < 0 ? r : -EIO;
	FAULT(commit_transaction);
	intent_settle(w->a, w->slot, true);
	return 0;
}

void unit_ring_one(struct worker *w, uint32_t slot, uint32_t kinds, uint32_t entry)
{
	struct arena_worker *s = arena_worker(w->a, slot);
	uint32_t seen = atomic_load_explicit(&s->waiting, memory_order_relaxed);
	if (!(seen & kinds) || !atomic_compare_exchange_strong(&s->waiting, &seen, WAITING_NOT))
		return;
	link_ring(w->link, slot, seen & WAITING_BY_EVENTFD ? LINK_EVENTFD : LINK_ZMQ, entry);
	stats_add(&w->me->stats, STAT_rings, 1);
}

/* Wakes one sleeping reader for each chunk put out, and whoever waits for the room that was made.
 */
void unit_ring(struct worker *w, const struct intent *in)
{
	atomic_thread_fence(
	        memory_order_seq_cst); /* against worker_sleep: they set waiting, then look */
	bool freed = false;
	for (unsigned i = 0; i < in->n_in; i++)
		freed |= in->in[i].action == INTENT_FREE;
	unsigned left = in->n_out;
	for (uint32_t s = 0; s < w->a->workers && (left || freed); s++) {
		struct arena_worker *it = arena_worker(w->a, s);
		uint32_t waiting = atomic_load_explicit(&it->waiting, memory_order_relaxed);
		if (freed && (waiting & WAITING_ROOM))
			unit_ring_one(w, s, WAITING_ROOM, 0);
		if (!left || !(waiting & WAITING_INPUT))
			continue;
		uint64_t reads = atomic_load_explicit(&it->reads, memory_order_relaxed);
		for (unsigned i = 0; i < in->n_out; i++) {
			struct word v = arena_word(w->a, in->out[i].entry);
			if (v.state == WORD_QUEUED && v.edge < ARENA_EDGES_MAX &&
			    (reads >> v.edge & 1)) {
				unit_ring_one(w, s, WAITING_INPUT, in->out[i].entry);
				left--;
				break;
			}
		}
	}
}

static void note_latency(struct worker *w)
{
	int64_t now = clock_monotonic();
	for (unsigned i = 0; i < w->n_in; i++) {
		const struct arena_facts *f = &w->a->facts[w->in[i].at.entry];
		int64_t from = w->stage->kind == STAGE_CONSUMER ? f->born : f->queued;
		if (w->in[i].done && from > 0 && now > from)
			histogram_add(&w->me->stats.latency, (uint64_t)(now - from),
			              w->in[i].records);
	}
}

/* The next unit: a chunk that is not done stays its first input. */
static void start_over(struct worker *w)
{
	struct unit_input last = {0};
	bool stays = w->n_in && !w->in[w->n_in - 1].done;
	if (stays) {
		last = w->in[w->n_in - 1];
		last.from_record = last.record;
		last.from_byte = last.byte;
		last.from_emitted = w->in_record ? w->emitted : 0;
	}
	memset(w->book, 0, sizeof(w->book));
	w->n_in = stays;
	w->n_ranges = 0;
	w->range_bytes = 0;
	w->want_commit = w->prepared = w->bare = w->st.crowded = false;
	w->emitted_here = 0;
	if (stays) {
		w->in[0] = last;
	} else {
		w->born = 0;
		w->origin_worker =
		        UINT32_MAX; /* what timed work makes comes of no producer's commit */
		w->origin_commit = 0;
	}
}

int unit_commit(struct worker *w)
{
	if (!unit_pending(w)) {
		for (unsigned i = 0; i < w->n_out; i++)
			close_output(w, NULL, &w->out[i]);
		close_output(w, NULL, &w->dead);
		return 0;
	}
	int r = w->stage->ops ? unit_log_carrier(w) : chain_settle(&w->chain);
	if (r < 0)
		return worker_blameless(w, r);
	/* the record in hand is still in flight (or there is none: timed work): what was emitted,
	 * was made */
	w->book[BOOK_made] += w->emitted_here;
	struct intent *in = intent_begin(w->a, w->slot);
	for (unsigned i = 0; i < w->n_out; i++)
		close_output(w, in, &w->out[i]);
	close_output(w, in, &w->dead);
	note_inputs(w, in);
	for (unsigned i = 0; i < BOOK_COUNT; i++)
		in->book[i] += w->book[i];
	for (unsigned i = 0; i < w->n_ranges; i++) {
		bool fits = intent_patch(in, w->ranges[i].off, w->position + w->ranges[i].off,
		                         w->ranges[i].len);
		assert(fits);
	}
	unit_log_patches(w, in);
	if (w->ended)
		in->flags |= COMMITTED_ENDED;
	note_latency(w);
	r = unit_log_ahead(w, in);
	if (r == 0)
		r = carry_out(w, in);
	if (r < 0)
		return worker_blameless(w, r);
	unit_ring(w, in);
	stats_add(&w->me->stats, STAT_commits, 1);
	atomic_fetch_add_explicit(&w->me->progress, 1, memory_order_relaxed);
	start_over(w);
	if (!w->n_in)
		atomic_store_explicit(&w->me->hand_entry, ARENA_NO_RECORD, memory_order_relaxed);
	w->st.commit_id.number = in->number + 1;
	return 0;
}

void unit_rewind(struct worker *w)
{
	memset(w->book, 0, sizeof(w->book));
	w->n_ranges = 0;
	w->range_bytes = 0;
	memcpy(w->position, w->me->position, sizeof(w->position));
	if (w->dead.open) /* the next try may be long in coming, and others have letters, too */
		unit_give_up(w, &w->dead);
	w->dead.used = w->dead.records = 0;
	for (unsigned i = 0; i < w->n_in; i++) {
		w->in[i].record = w->in[i].from_record;
		w->in[i].byte = w->in[i].from_byte;
		w->in[i].done = false;
	}
}
