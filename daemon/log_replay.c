/*
 * Putting back: after a loss of power the new arena is empty, and the log holds what was not
 * delivered.
 *
 * Each entry goes to its producer's readers as it did the first time, with the commit that moves
 * the mark on: so a kill in the middle neither loses nor doubles. In the books it counts as
 * received, for they began at 0. A damaged entry is counted and told, and the next one is taken.
 */
#include "daemon/log_parts.h"

#include <string.h>

/* ---- putting back ---- */

static unsigned producer_of(const struct log_run *l, const struct wal_entry *e)
{
	for (unsigned i = 0; i < l->n; i++)
		if (strcmp(l->w->config->stages[i].name, l->wal.position[e->who].stage) == 0)
			return i;
	return UINT32_MAX;
}

/* The end of this step of the replay: the mark moves on with what was published. */
static void commit_replay(struct log_run *l, struct intent *in)
{
	l->mark.next++;
	intent_patch(in, 0, &l->mark, sizeof(l->mark));
	intent_commit(log_arena(l), l->w->slot);
	unit_ring(l->w, in);
	l->n_out = 0;
	atomic_fetch_add_explicit(&l->w->me->progress, 1, memory_order_relaxed);
}

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

/* Puts back one entry into the entries taken for it. */
static int put_back(struct log_run *l, const struct wal_entry *e, const struct taken *t)
{
	struct arena *a = log_arena(l);
	struct arena_facts f = {.records = e->records,
	                        .bytes = e->bytes,
	                        .crc = e->crc,
	                        .origin_worker = log_slot_of(l, &l->wal.position[e->who]),
	                        .origin_commit = e->commit,
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
		in->book[BOOK_received] += f.records;
		in->book[BOOK_dead] += t->to == &l->w->dead ? f.records : 0;
	}
	l->last_number[e->who] = e->number;
	commit_replay(l, in);
	return 0;
}

/* An entry that a failed or killed predecessor has written before. */
static bool repeated(const struct log_run *l, const struct wal_entry *e)
{
	return e->number <= l->last_number[e->who];
}

/* Puts back the entry at the mark. Positive: there is no room for it yet. */
int log_replay_one(struct log_run *l)
{
	const struct wal_entry *e = wal_entry(&l->wal, l->mark.next);
	struct taken t = {0};
	if (!e || !e->records || e->bytes > log_arena(l)->buffer_size || repeated(l, e)) {
		commit_replay(l, intent_begin(log_arena(l), l->w->slot));
		return 0;
	}
	unsigned i = producer_of(l, e);
	if (i == UINT32_MAX) {
		snprintf(l->w->st.why, sizeof(l->w->st.why),
		         "the log holds chunks of producer %s, which the configuration no longer "
		         "has: put it back",
		         l->wal.position[e->who].stage);
		return -ENOENT;
	}
	t.to = log_destination(l, i, e->records, e->flags & WAL_LETTERS);
	if (!log_take_outputs(l, t.to, &t)) {
		l->blocked = true;
		return ARENA_E_NONE;
	}
	return put_back(l, e, &t);
}

/* Room for the entry at the mark. */
bool log_replay_room(struct log_run *l)
{
	const struct wal_entry *e = wal_entry(&l->wal, l->mark.next);
	unsigned i = e ? producer_of(l, e) : UINT32_MAX;
	struct taken t = {0};
	if (i == UINT32_MAX)
		return true;
	bool room =
	        log_take_outputs(l, log_destination(l, i, e->records, e->flags & WAL_LETTERS), &t);
	log_give_back(l, 0);
	return room;
}
