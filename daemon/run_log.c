/*
 * The log's worker (arena.sync): takes what producers have committed, makes it durable, hands it
 * on.
 *
 *     claim what is queued and has room ahead -> write it as one group -> commit: publish copies,
 * free
 *
 * The hard idea: one commit point for two worlds. A chunk stays claimed on the edge to the log
 * until it is on the disk and its copies are published by one intent. Should this process die
 * before that commit, the chunk is queued again and is written once more: the log may hold it
 * twice, the readers never get it twice. Producers acknowledge what has left their edge to the log
 * (unit_log.c), so nothing is acknowledged before it is durable, and no reader sees what might not
 * survive.
 *
 * Every chunk is compared with its checksum before it is written: one that somebody has overwritten
 * would look like the torn end of the log, and what is behind it would be dropped. Its position is
 * written without its records, and it is set aside. Limit: a stray write between that look and the
 * disk's own is not seen.
 *
 * A write that fails ends this process, and with it all acknowledging; `status` says why. Its
 * successor opens the log anew: reads from the disk where it ends, begins a new run there, and
 * writes again what is still queued. It never calls the sync again that failed (see ipc/wal.h).
 *
 * A group takes chunks of all producers, but only of those whose readers have room (entries ahead
 * are taken before the write, and nobody waits holding one): a reader that stands still holds up
 * its own producer alone.
 *
 * What may be overwritten, and what is done about a chunk that nobody takes, so that a reader that
 * stands still does not fill the log: log_carry.c. Consumers count as done when they have
 * committed, for with a log they sync first.
 *
 * After a loss of power the master has made a new arena and set the mark: this worker then first
 * puts back what the log still holds (log_replay.c).
 *
 * What a step gives out of its state, and dead letters that are put back, is written before its
 * commit (log_ahead): no producer would make it anew.
 */
#include "daemon/log_parts.h"

#include <string.h>

#include "ipc/fault.h"

enum {
	LOOK_NS = 1000000,     /* between two looks at what is still needed */
	BOOKS_NS = 1000000000, /* the figures in the log are not older, when there are others */
};

/* ---- room ---- */

uint32_t log_slot_of(const struct log_run *l, const struct wal_position *p)
{
	const struct arena *a = log_arena(l);
	for (uint32_t s = 0; s < a->workers; s++) {
		const struct arena_worker *it = arena_worker(a, s);
		if (it->ordinal == p->ordinal &&
		    strncmp(it->stage, p->stage, sizeof(it->stage)) == 0)
			return s;
	}
	return UINT32_MAX;
}

int log_checkpoint(struct log_run *l)
{
	int64_t now = clock_monotonic();
	bool frees = l->wal.need > l->wal.tail_seq, old = now - l->written >= BOOKS_NS;
	l->checked = now;
	if (!frees && !old)
		return 0;
	bool news = log_books_take(l);
	if (!frees && !news)
		return 0;
	l->written = now;
	FAULT(log_trim);
	return wal_checkpoint(&l->wal);
}

/* Frees the ring's older half when it can be. */
static int trim(struct log_run *l)
{
	uint64_t ring = l->wal.ring_end - l->wal.ring_at;
	int64_t now = clock_monotonic();
	if (now - l->looked > LOOK_NS) {
		l->looked = now;
		log_move_need(l);
	}
	bool due = wal_kept(&l->wal) > ring / 2 || now - l->written >= BOOKS_NS;
	return due ? log_checkpoint(l) : 0;
}

static bool has_room(const struct log_run *l, unsigned n)
{
	return wal_room(&l->wal, n, (uint32_t)log_arena(l)->buffer_size);
}

/* Room for a whole group: by itself as long as nothing stands still. When more is needed than
 * leaves room for that, for a smaller one; for none, nothing is carried round in vain. */
static int keep_room(struct log_run *l)
{
	if (has_room(l, WAL_GROUP_MAX))
		return 0;
	log_move_need(l);
	int r = log_checkpoint(l);
	if (r < 0 || has_room(l, WAL_GROUP_MAX))
		return r;
	unsigned n = log_could_take(l);
	return !n || has_room(l, n) ? 0 : log_carry(l);
}

/* ---- gathering ---- */

void log_give_back(struct log_run *l, unsigned from)
{
	while (l->n_out > from)
		arena_drop(log_arena(l), l->w->slot, l->out[--l->n_out]);
}

/* An entry on every edge of @to, all or none; edges that drop may be missing. */
bool log_take_outputs(struct log_run *l, const struct unit_output *to, struct taken *t)
{
	struct arena *a = log_arena(l);
	t->out = l->n_out;
	t->missing = 0;
	for (unsigned i = 0; i < to->n_edges; i++) {
		uint32_t e = to->edges[i];
		if (arena_acquire(a, l->w->slot, e, &l->out[l->n_out]) == 0) {
			l->n_out++;
		} else if (atomic_load_explicit(&a->h->edges[e].drop, memory_order_relaxed)) {
			t->missing++;
		} else {
			log_give_back(l, t->out);
			atomic_store_explicit(&l->w->me->blocked_edge, e, memory_order_relaxed);
			return false;
		}
	}
	t->n_out = l->n_out - t->out;
	return true;
}

/* Where a chunk of producer @i goes; NULL: nowhere, it is a position only. */
const struct unit_output *log_destination(const struct log_run *l, unsigned i, uint32_t records,
                                          bool letters)
{
	return !records ? NULL : letters ? &l->w->dead : &l->w->out[1 + i];
}

/* Whether it can be said whose position this is. */
static bool has_position(const struct arena *a, uint32_t entry)
{
	return a->facts[entry].origin_worker < a->workers &&
	       arena_tail(a, entry)->bytes <= ARENA_PATCHES_MAX;
}

/* Takes the next chunk of producer @i. False: there is none, or no room ahead. */
static bool take(struct log_run *l, unsigned i)
{
	struct arena *a = log_arena(l);
	struct taken *t = &l->taken[l->n_taken];
	*t = (struct taken){0};
	if (arena_claim(a, l->w->slot, 1ull << l->edge[i], &t->at) != 0)
		return false;
	if (!has_position(a, t->at.entry)) {
		unit_set_aside(l->w, t->at);
		return true;
	}
	const struct arena_facts *f = &a->facts[t->at.entry];
	t->damaged = !arena_verified(a, t->at.entry);
	t->to = t->damaged ? NULL : log_destination(l, i, f->records, f->flags & FACT_LETTERS);
	bool space = !t->to || t->to->n_edges <= ARENA_EDGES_MAX - l->n_out;
	if (t->to && (!space || !log_take_outputs(l, t->to, t))) {
		arena_unclaim(a, l->w->slot, t->at);
		l->blocked |= space;
		return false;
	}
	l->n_taken++;
	stats_add(&l->w->me->stats, STAT_chunks_in, 1);
	return true;
}

static unsigned group_max(const struct log_run *l)
{
	unsigned n = WAL_GROUP_MAX;
	while (n && !has_room(l, n))
		n /= 2;
	return n;
}

/* All that is queued and has room, of each producer in turn. */
static void gather(struct log_run *l)
{
	unsigned most = group_max(l);
	l->n_taken = l->n_out = 0;
	l->blocked = false;
	l->full = most == 0;
	for (unsigned k = 0; k < l->n; k++) {
		unsigned i = (l->turn + k) % l->n;
		while (!(l->replay.behind >> i & 1) && l->n_taken < most && take(l, i))
			;
	}
	l->turn = (l->turn + 1) % l->n;
}

/* ---- writing and handing on ---- */

int log_cannot_write(struct log_run *l, int r)
{
	snprintf(l->w->st.why, sizeof(l->w->st.why),
	         "the log cannot be written: %s: nothing is acknowledged until it can",
	         strerror(-r));
	return r;
}

static int write_group(struct log_run *l)
{
	const struct arena *a = log_arena(l);
	struct wal_item items[WAL_GROUP_MAX];
	for (unsigned i = 0; i < l->n_taken; i++) {
		uint32_t entry = l->taken[i].at.entry;
		const struct arena_facts *f = &a->facts[entry];
		const struct arena_worker *s = arena_worker(a, f->origin_worker);
		const struct arena_tail *t = arena_tail(a, entry);
		items[i] = (struct wal_item){
		        .stage = s->stage,
		        .ordinal = s->ordinal,
		        .slot = f->origin_worker,
		        .commit = f->origin_commit,
		        .number = atomic_load_explicit(&a->numbers[entry], memory_order_relaxed),
		        .flags = (f->flags & FACT_LETTERS ? WAL_LETTERS : 0u) |
		                 (t->fresh ? WAL_FRESH : 0u),
		        .records = f->records,
		        .bytes = f->bytes,
		        .crc = f->crc,
		        .data = arena_buffer(a, entry),
		        .patches = t->patches,
		        .patch_bytes = t->bytes,
		};
		if (l->taken[i].damaged)
			items[i].records = items[i].bytes = items[i].crc = 0;
	}
	l->first = l->wal.next_seq;
	int r = wal_append(&l->wal, items, l->n_taken);
	return r < 0 ? log_cannot_write(l, r) : r;
}

/* Copies the chunk to its readers' entries. @p: its bytes, in none of them or in the first. */
void log_publish(struct log_run *l, struct intent *in, const struct taken *t, const uint8_t *p,
                 const struct arena_facts *f)
{
	struct arena *a = log_arena(l);
	unsigned edges = t->n_out + t->missing;
	for (unsigned i = 0; i < t->n_out; i++) {
		struct arena_handle h = l->out[t->out + i];
		if (arena_buffer(a, h.entry) != p)
			memcpy(arena_buffer(a, h.entry), p, f->bytes);
		arena_seal_copy(a, h, f, f->crc);
		intent_output(in, h);
		stats_add(&l->w->me->stats, STAT_chunks_out, 1);
	}
	in->book[BOOK_records_out] += (uint64_t)f->records * t->n_out;
	in->book[BOOK_bytes_out] += (uint64_t)f->bytes * t->n_out;
	if (t->to == &l->w->dead)
		return;
	in->book[BOOK_dropped] += (uint64_t)f->records * t->missing;
	in->book[BOOK_made] += (uint64_t)f->records * (edges - 1);
}

static void hand_on(struct log_run *l)
{
	struct arena *a = log_arena(l);
	uint32_t tell[WAL_GROUP_MAX]; /* slots of the producers */
	FAULT(log_publish);
	struct intent *in = intent_begin(a, l->w->slot);
	for (unsigned i = 0; i < l->n_taken; i++) {
		const struct taken *t = &l->taken[i];
		const struct arena_facts *from = &a->facts[t->at.entry];
		struct arena_facts f = {.records = from->records,
		                        .bytes = from->bytes,
		                        .crc = from->crc,
		                        .origin_worker = from->origin_worker,
		                        .origin_commit = from->origin_commit,
		                        .base = l->first + i,
		                        .born = from->born};
		tell[i] = f.origin_worker;
		if (t->damaged)
			continue;
		if (t->to)
			log_publish(l, in, t, arena_buffer(a, t->at.entry), &f);
		intent_input(in, t->at, INTENT_FREE, f.records, f.bytes, 0);
		in->book[BOOK_records_in] += f.records;
		in->book[BOOK_bytes_in] += f.bytes;
	}
	intent_commit(a, l->w->slot);
	for (unsigned i = 0; i < l->n_taken; i++)
		if (l->taken[i].damaged)
			unit_set_aside(l->w, l->taken[i].at);
	unit_ring(l->w, in);
	for (unsigned i = 0; i < l->n_taken; i++)
		unit_ring_one(l->w, tell[i], WAITING_LOG, 0);
	l->n_taken = l->n_out = 0;
	stats_add(&l->w->me->stats, STAT_commits, 1);
	atomic_fetch_add_explicit(&l->w->me->progress, 1, memory_order_relaxed);
}

static int one_group(struct log_run *l)
{
	int r = write_group(l);
	if (r != 0)
		return r < 0 ? r : -EIO; /* room was seen for it */
	hand_on(l);
	return trim(l);
}

/* ---- the loop ---- */

/* The input has ended, and all of it is passed on. */
static bool at_the_end(const struct log_run *l)
{
	const struct worker *w = l->w;
	return worker_order(w) == ORDER_FLUSH && !log_replaying(l) &&
	       !arena_any_queued(w->a, w->reads);
}

/* The last look before sleeping is a try: what it takes is written when it returns. */
static bool something_to_do(struct worker *w, void *arg)
{
	struct log_run *l = arg;
	enum worker_order o = worker_order(w);
	if (o == ORDER_STOP || o == ORDER_PAUSE || at_the_end(l))
		return true;
	if (log_ahead_now(l) || (log_replaying(l) && log_replay_room(l)))
		return true;
	gather(l);
	return l->n_taken > 0;
}

static void say_full(struct log_run *l)
{
	char why[ARENA_WHY_MAX];
	const struct wal_entry *e = wal_entry(&l->wal, l->wal.need);
	snprintf(why, sizeof(why), "the log is full: what came from %s is not delivered yet",
	         e ? l->wal.position[e->who].stage : "a producer");
	worker_activity(l->w, ACTIVITY_UNREACHABLE, why);
}

static int sleep_for_work(struct log_run *l)
{
	/* one that is held up by a reader listens to the others as well */
	int kinds = l->full                          ? WAITING_ROOM
	            : l->blocked || log_replaying(l) ? WAITING_ROOM | WAITING_INPUT
	                                             : WAITING_INPUT;
	if (l->full)
		say_full(l);
	else
		worker_activity(l->w,
		                l->blocked || log_replaying(l) ? ACTIVITY_BLOCKED : ACTIVITY_IDLE,
		                NULL);
	int r = worker_sleep(l->w, (enum worker_waiting)kinds, NULL, 0, LINK_NET_NS,
	                     something_to_do, l);
	return r < 0 ? r : 0;
}

/* Nothing can be taken: says to the disk what is not needed any more, then sleeps. */
static int idle(struct log_run *l)
{
	struct worker *w = l->w;
	int r = 0;
	log_move_need(l);
	if (l->full || clock_monotonic() - l->checked > LINK_NET_NS || worker_order(w) != ORDER_RUN)
		r = log_checkpoint(l);
	if (r < 0)
		return r;
	if (l->full && group_max(l))
		return 0;
	if (at_the_end(l)) {
		struct intent *in = intent_begin(w->a, w->slot);
		in->flags |= COMMITTED_ENDED;
		intent_commit(w->a, w->slot);
		worker_leave(w, WORKER_EXIT_ENDED);
	}
	return sleep_for_work(l);
}

static int obey(struct log_run *l)
{
	enum worker_order o = worker_order(l->w);
	if (o == ORDER_PAUSE || o == ORDER_STOP ||
	    atomic_load(&l->w->me->reopen) != l->w->reopened) {
		log_move_need(l);
		int r = log_checkpoint(l);
		if (r < 0)
			return r;
		worker_safe_point(l->w);
	}
	return 0;
}

static int one_step(struct log_run *l)
{
	int r = l->n_taken ? 0 : keep_room(l);
	if (r == 0 && !l->n_taken) /* else it would take the room of what is in hand */
		r = log_ahead(l);
	if (r < 0)
		return r;
	if (log_replaying(l) && !l->n_taken) {
		r = log_replay_one(l);
		if (r <= 0)
			return r;
	}
	if (!l->n_taken)
		gather(l);
	if (!l->n_taken)
		return idle(l);
	worker_activity(l->w, ACTIVITY_WORKING, NULL);
	return one_group(l);
}

/* ---- start ---- */

static const char *open_problem(int r)
{
	switch (r) {
	case WAL_E_NONE:
		return "is not there any more";
	case WAL_E_CORRUPT:
		return "is damaged at its start";
	case WAL_E_VERSION:
		return "was made by another version";
	default:
		return strerror(-r);
	}
}

static void find_edges(struct log_run *l)
{
	const struct arena_header *h = log_arena(l)->h;
	l->n = l->w->stage->n_outputs - 1;
	for (unsigned i = 0; i < l->n; i++)
		for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
			if ((l->w->reads >> e & 1) &&
			    strcmp(h->edges[e].from, l->w->config->stages[i].name) == 0)
				l->edge[i] = e;
}

/* A ring of before arena.size was raised keeps its size: then it can carry what a smaller arena
 * would hold, and what stands still holds up all when it is more. */
static void find_reserve(struct log_run *l)
{
	const struct config *cfg = l->w->config;
	struct wal *w = &l->wal;
	uint64_t group = WAL_GROUP_MAX * wal_most(cfg->arena_buffer),
	         ring = w->ring_end - w->ring_at;
	w->reserve = log_reserve(cfg);
	w->reserve_entries = cfg->arena_size / cfg->arena_buffer;
	if (ring >= log_least(cfg))
		return;
	log_warning("the log is too small for this arena: one output that stands still can "
	            "fill it; drain, stop, and remove it");
	w->reserve = ring > group ? (ring - group) / 2 : 0;
	if (w->reserve_entries > (w->cap - WAL_GROUP_MAX) / 2)
		w->reserve_entries = (w->cap - WAL_GROUP_MAX) / 2;
}

static int start(struct log_run *l)
{
	struct worker *w = l->w;
	char path[4096];
	log_path(w->config, path, sizeof(path));
	int r = wal_open(&l->wal, path, WAL_WRITE);
	if (r != 0) {
		snprintf(w->st.why, sizeof(w->st.why), "the log %.150s %s", path, open_problem(r));
		return r < 0 ? r : -EUCLEAN;
	}
	if (!l->wal.direct)
		log_notice(
		        "%s cannot be written directly here: through the page cache and fdatasync",
		        path);
	if (l->wal.damaged)
		log_error("%s: %llu entries are damaged", path, (unsigned long long)l->wal.damaged);
	memcpy(l->wal.epoch, w->a->h->epoch, sizeof(l->wal.epoch));
	memcpy(&l->mark, w->me->position, sizeof(l->mark));
	if (!(w->me->committed.flags & COMMITTED_POSITION) || l->mark.magic != LOG_MARK_MAGIC)
		l->mark = (struct log_mark){0};
	find_edges(l);
	find_reserve(l);
	r = log_replay_begin(l);
	return r < 0 ? r : log_adopt(l);
}

int run_log(struct worker *w)
{
	if (w->me->committed.flags & COMMITTED_ENDED)
		worker_leave(w, WORKER_EXIT_ENDED);
	struct log_run *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->w = w;
	int r = start(l);
	if (r == 0)
		r = worker_confine(w);
	worker_activity(w, ACTIVITY_WORKING, NULL);
	while (r >= 0) {
		r = l->n_taken ? 0 : obey(l); /* never leaves or pauses with a group in hand */
		if (r == 0)
			r = one_step(l);
	}
	return r;
}
