/*
 * Putting back: after a loss of power the new arena is empty, and the log holds what was not
 * delivered.
 *
 * Each entry goes to its producer's readers as it did the first time, with the commit that notes it
 * as done: so a kill in the middle neither loses nor doubles. One that was carried forward goes to
 * the edge it was on, unless what it was made of is put back as well: then it would come twice. In
 * the books it counts as made: it was received once before (log_books.c). A damaged entry is
 * counted and told, and the next one is taken.
 *
 * An output that stands still must not hold up the others here either: an entry for which there is
 * no room is passed over, and with it all later ones that go to one of its edges, so that each edge
 * keeps its order. Which entries are done is therefore noted bit by bit behind the mark
 * (run_log.h). When none can be put back, the chunks of those producers are taken that wait for
 * nothing here, and entries that wait are carried forward like chunks in the arena (log_carry.c).
 *
 * What stands in the log twice, because a worker was killed when it was written and nobody had been
 * told, is noted as done by the master when it sets the mark (home_log.c). This worker may be
 * killed and look anew when the first of the two was put back, delivered, and overwritten: it could
 * not tell.
 *
 * Limit: what is more than LOG_MARK_BITS entries behind the first that waits, waits too, and comes
 * twice when it stands there twice (a log of 4 GiB or more).
 */
#include "daemon/log_parts.h"

#include <stdlib.h>
#include <string.h>

enum {
	AGAIN_NS = 2000000, /* between two looks for room when there was none */
	STEP = 4096, /* entries that the mark moves in one commit: their bits fit an intent */
};

enum { /* log_run.replay.edge: what is known of where an entry goes */
       EDGE_UNKNOWN,
       EDGE_FIRST, /* edge 0, and so on */
       EDGE_NOWHERE = 255,
};

/* ---- where to ---- */

static unsigned producer_of(const struct log_run *l, const struct wal_entry *e)
{
	for (unsigned i = 0; i < l->n; i++)
		if (strcmp(l->w->config->stages[i].name, l->wal.position[e->who].stage) == 0)
			return i;
	return UINT32_MAX;
}

static uint32_t find_edge(const struct arena *a, const struct log_note *n)
{
	uint64_t used = atomic_load(&a->h->edges_used);
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
		if ((used >> e & 1) &&
		    strncmp(a->h->edges[e].from, n->from, ARENA_OUTPUT_MAX) == 0 &&
		    strncmp(a->h->edges[e].to, n->to, ARENA_NAME_MAX) == 0)
			return e;
	return ARENA_NO_EDGE;
}

static int to_producers_readers(struct log_run *l, const struct wal_entry *e,
                                const struct unit_output **to)
{
	unsigned i = producer_of(l, e);
	if (i != UINT32_MAX) {
		*to = log_destination(l, i, e->records, e->flags & WAL_LETTERS);
		return 0;
	}
	snprintf(l->w->st.why, sizeof(l->w->st.why),
	         "the log holds chunks of producer %s, which the configuration no longer has: put "
	         "it back",
	         l->wal.position[e->who].stage);
	return -ENOENT;
}

/* Reads from the note where a carried entry goes. */
static int read_edge(struct log_run *l, const struct wal_entry *e, uint8_t *known)
{
	struct log_note note;
	int r = wal_note(&l->wal, e, &note, sizeof(note));
	if (r < 0)
		return r;
	*known = EDGE_NOWHERE;
	if (r != 0 || (e->seq < l->mark.first_end && log_note_redundant(&note, l->mark.from)))
		return 0;
	uint32_t edge = e->flags & WAL_AGAIN ? 0 : find_edge(log_arena(l), &note);
	if (edge == ARENA_NO_EDGE) {
		snprintf(l->w->st.why, sizeof(l->w->st.why),
		         "the log holds chunks of edge %.60s -> %.60s, which the configuration no "
		         "longer has: put it back",
		         note.from, note.to);
		return -ENOENT;
	}
	*known = (uint8_t)(EDGE_FIRST + edge);
	return 0;
}

static int to_its_edge(struct log_run *l, const struct wal_entry *e, const struct unit_output **to)
{
	uint8_t *known = &l->replay.edge[e->seq % l->wal.cap];
	int r = *known == EDGE_UNKNOWN ? read_edge(l, e, known) : 0;
	if (r < 0 || *known == EDGE_NOWHERE)
		return r;
	if (e->flags & WAL_AGAIN)
		return to_producers_readers(l, e, to);
	l->back.edges[0] = (uint32_t)*known - EDGE_FIRST;
	l->back.n_edges = 1;
	*to = l->back.edges[0] == l->w->dead_edge ? &l->w->dead : &l->back;
	return 0;
}

/* Where the entry goes; NULL: nowhere. */
static int destination(struct log_run *l, const struct wal_entry *e, const struct unit_output **to)
{
	*to = NULL;
	if (!e || !e->records || e->bytes > log_arena(l)->buffer_size)
		return 0;
	return e->flags & WAL_CARRIED ? to_its_edge(l, e, to) : to_producers_readers(l, e, to);
}

/* ---- what is done ---- */

static bool is_done(const struct log_run *l, uint64_t seq)
{
	uint64_t bit = log_mark_bit(&l->mark, seq);
	return seq < l->mark.next || (l->replay.done[bit / 8] >> bit % 8 & 1);
}

static void set_done(struct log_run *l, uint64_t seq, bool done)
{
	log_mark_set(l->replay.done, &l->mark, seq, done);
}

/* The bits of entries [@from, @to), which are not more than a few thousand. */
static void patch_bits(const struct log_run *l, struct intent *in, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t bit = log_mark_bit(&l->mark, from), left = LOG_MARK_BITS - bit;
		uint64_t n = to - from < left ? to - from : left;
		uint32_t first = (uint32_t)(bit / 8), last = (uint32_t)((bit + n - 1) / 8);
		intent_patch(in, LOG_MARK_AT + first, l->replay.done + first, last - first + 1);
		from += n;
	}
}

/* Moves the mark over what is done; a bit behind it may be used again for a later entry. */
static void move_mark(struct log_run *l, struct intent *in)
{
	uint64_t from = l->mark.next, most = from + STEP;
	while (l->mark.next < l->mark.end && l->mark.next < most && is_done(l, l->mark.next)) {
		set_done(l, l->mark.next, false);
		l->mark.next++;
	}
	patch_bits(l, in, from, l->mark.next);
	intent_patch(in, 0, &l->mark, sizeof(l->mark));
}

static void commit(struct log_run *l, struct intent *in)
{
	move_mark(l, in);
	intent_commit(log_arena(l), l->w->slot);
	unit_ring(l->w, in);
	l->n_out = 0;
	atomic_fetch_add_explicit(&l->w->me->progress, 1, memory_order_relaxed);
}

/* The end of this step of the replay: entry @seq is done with what was published. */
static void commit_done(struct log_run *l, struct intent *in, uint64_t seq)
{
	set_done(l, seq, true);
	patch_bits(l, in, seq, seq + 1);
	commit(l, in);
}

/* ---- putting back ---- */

static void count_damaged(struct log_run *l, const struct wal_entry *e)
{
	struct arena *a = log_arena(l);
	log_error("the log's entry %llu (%u records of %s) is damaged: set aside, it is lost "
	          "unless its sender "
	          "has it",
	          (unsigned long long)e->seq, e->records, l->wal.position[e->who].stage);
	atomic_fetch_add(&a->h->aside, 1);
	atomic_fetch_add(&a->h->aside_records, e->records);
}

void log_replay_damaged(struct log_run *l, const struct wal_entry *e)
{
	count_damaged(l, e);
	commit_done(l, intent_begin(log_arena(l), l->w->slot), e->seq);
}

/* Puts back one entry into the entries taken for it. */
static int put_back(struct log_run *l, const struct wal_entry *e, const struct taken *t)
{
	struct arena *a = log_arena(l);
	struct arena_facts f = {.records = e->records,
	                        .bytes = e->bytes,
	                        .crc = e->crc,
	                        .origin_worker = log_slot_of(l, &l->wal.position[e->who]),
	                        .origin_commit = e->commit,
	                        .base = e->seq,
	                        .born = clock_monotonic()};
	struct intent *in = intent_begin(a, l->w->slot);
	uint8_t *p = t->n_out ? arena_buffer(a, l->out[t->out].entry) : NULL;
	int r = p ? wal_read(&l->wal, e, p) : 0;
	if (r < 0)
		return r;
	if (r != 0) {
		count_damaged(l, e);
		log_give_back(l, 0);
	} else {
		log_publish(l, in, t, p, &f);
		in->book[BOOK_made] += f.records;
		in->book[BOOK_dead] += t->to == &l->w->dead ? f.records : 0;
	}
	commit_done(l, in, e->seq);
	return 0;
}

static uint64_t edges_of(const struct unit_output *to)
{
	uint64_t edges = 0;
	for (unsigned i = 0; i < to->n_edges; i++)
		edges |= 1ull << to->edges[i];
	return edges;
}

/* The next entry that can be put back, with what it goes to taken (t->to NULL: it goes nowhere).
 * Positive: there is none until room is made. */
static int find_next(struct log_run *l, struct taken *t)
{
	uint64_t end = l->mark.next + LOG_MARK_BITS;
	for (end = end < l->mark.end ? end : l->mark.end; l->replay.at < end; l->replay.at++) {
		*t = (struct taken){0};
		if (is_done(l, l->replay.at))
			continue;
		int r = destination(l, wal_entry(&l->wal, l->replay.at), &t->to);
		if (r < 0 || !t->to)
			return r;
		uint64_t edges = edges_of(t->to);
		if ((edges & l->replay.waiting) == 0 && log_take_outputs(l, t->to, t))
			return 0;
		l->replay.waiting |= edges;
	}
	l->replay.at = l->mark.next;
	l->replay.waiting = 0;
	return ARENA_E_NONE;
}

/* Which producers still wait for something to be put back. */
static void look_behind(struct log_run *l)
{
	struct arena *a = log_arena(l);
	l->replay.behind = 0;
	for (uint64_t seq = l->mark.next; seq < l->mark.end; seq++) {
		const struct wal_entry *e = is_done(l, seq) ? NULL : wal_entry(&l->wal, seq);
		unsigned i = e ? producer_of(l, e) : UINT32_MAX;
		if (i != UINT32_MAX)
			l->replay.behind |= 1ull << i;
	}
	for (uint32_t s = 0; s < a->workers; s++)
		for (unsigned i = 0; i < l->n; i++)
			if (!(l->replay.behind >> i & 1) &&
			    strcmp(arena_worker(a, s)->stage, l->w->config->stages[i].name) == 0)
				atomic_store_explicit(&arena_worker(a, s)->replaying, 0,
				                      memory_order_release);
	if (!log_replaying(l))
		atomic_store_explicit(&a->h->replaying, 0, memory_order_release);
}

int log_replay_one(struct log_run *l)
{
	struct taken t;
	if (clock_monotonic() < l->replay.again)
		return ARENA_E_NONE;
	int r = find_next(l, &t);
	if (r < 0)
		return r;
	if (r > 0) {
		l->replay.again = clock_monotonic() + AGAIN_NS;
		look_behind(l);
		return r;
	}
	const struct wal_entry *e = wal_entry(&l->wal, l->replay.at);
	if (t.to)
		r = put_back(l, e, &t);
	else
		commit_done(l, intent_begin(log_arena(l), l->w->slot), l->replay.at);
	if (l->replay.at < l->mark.next)
		l->replay.at = l->mark.next;
	if (!log_replaying(l)) {
		look_behind(l);
		log_notice("all that the log held has been put back");
	}
	return r;
}

bool log_replay_room(struct log_run *l)
{
	struct taken t;
	if (clock_monotonic() < l->replay.again)
		return false;
	int r = find_next(l, &t);
	log_give_back(l, 0);
	l->replay.at = l->mark.next;
	l->replay.waiting = 0;
	return r <= 0;
}

/* ---- carried meanwhile ---- */

bool log_replay_waits(struct log_run *l, uint64_t seq)
{
	const struct unit_output *to;
	return log_replaying(l) && seq < l->mark.end && !is_done(l, seq) &&
	       seq - l->mark.next < LOG_MARK_BITS &&
	       destination(l, wal_entry(&l->wal, seq), &to) == 0 && to;
}

uint64_t log_replay_needs(struct log_run *l, uint64_t *n)
{
	const struct unit_output *to;
	uint64_t bytes = 0;
	for (uint64_t seq = l->mark.next; seq < l->mark.end; seq++) {
		if (is_done(l, seq))
			continue;
		const struct wal_entry *e = wal_entry(&l->wal, seq);
		if (destination(l, e, &to) != 0 || !to)
			continue;
		bytes += wal_size(e->bytes, sizeof(struct log_note));
		++*n;
	}
	return bytes;
}

/* Entries up to @to that are none of ours count as done. */
static void extend(struct log_run *l, uint64_t to)
{
	while (l->mark.end < to) {
		struct intent *in = intent_begin(log_arena(l), l->w->slot);
		uint64_t from = l->mark.end;
		for (; l->mark.end < to && l->mark.end < from + STEP; l->mark.end++)
			set_done(l, l->mark.end, true);
		patch_bits(l, in, from, l->mark.end);
		commit(l, in);
	}
}

bool log_replay_can_move(const struct log_run *l, unsigned n)
{
	return l->wal.next_seq + n - l->mark.next <= LOG_MARK_BITS;
}

void log_replay_moved(struct log_run *l, const uint64_t *seq, unsigned n, uint64_t first)
{
	extend(l, first);
	struct intent *in = intent_begin(log_arena(l), l->w->slot);
	for (unsigned i = 0; i < n; i++) {
		l->replay.edge[(first + i) % l->wal.cap] = EDGE_UNKNOWN;
		set_done(l, seq[i], true);
		patch_bits(l, in, seq[i], seq[i] + 1);
	}
	l->mark.end = first + n;
	commit(l, in);
}

/* ---- start ---- */

int log_replay_begin(struct log_run *l)
{
	if (!log_replaying(l)) {
		look_behind(l);
		return 0;
	}
	l->replay.done = malloc(LOG_MARK_BYTES);
	l->replay.edge = calloc(l->wal.cap, 1);
	if (!l->replay.done || !l->replay.edge)
		return -ENOMEM;
	memcpy(l->replay.done, l->w->me->position + LOG_MARK_AT, LOG_MARK_BYTES);
	l->replay.behind = UINT64_MAX;
	l->replay.at = l->mark.next;
	return 0;
}
