/*
 * The books in the log: so that they go on when the arena is made anew.
 *
 * Each checkpoint holds the sums of all figures as of one look at a ledger that held still, with
 * what was received counted up to a certain entry (wal->figures_seq): chunks that are not durable
 * yet are left out. Entries from that one on say
 * themselves how many records they have. So whoever reads the log knows exactly how many records
 * were received that are durable; everything else as of the last checkpoint, which is at most
 * about a second old while anything changes.
 *
 * After a loss of power (log_books_restore, in the master) `received` is what it was. The two sides
 * then differ by what was in flight at the checkpoint and what happened since. That is booked so
 * that they balance: what was received and is on no other side counts as delivered, and what is put
 * back counts as made when it is. Dead letters that were not written are taken off, for they come
 * again as well.
 */
#include "daemon/log_parts.h"

#include <string.h>

_Static_assert((int)BOOK_letters < (int)WAL_FIGURES, "they are the first of the figures");

/* ---- the log's worker ---- */

static void add_up(const struct arena *a, uint64_t *sum)
{
	for (uint32_t w = 0; w < a->workers; w++)
		for (unsigned k = 0; arena_worker(a, w)->stage[0] && k <= BOOK_letters; k++)
			sum[k] += arena_worker(a, w)->committed.book[k];
	for (unsigned i = 0; i < ARENA_BOOKS_MAX; i++)
		for (unsigned k = 0; a->h->books[i].stage[0] && k <= BOOK_letters; k++)
			sum[k] += a->h->books[i].book[k];
}

/* Records that are received and not in the log. */
static uint64_t not_durable(const struct log_run *l)
{
	const struct arena *a = log_arena(l);
	uint64_t n = 0;
	for (uint32_t i = 0; i < a->entries; i++) {
		struct word v = arena_word(a, i);
		bool there = v.state == WORD_QUEUED || v.state == WORD_CLAIMED;
		if (there && (l->w->reads >> v.edge & 1) && !arena_is_ahead(a, i))
			n += a->facts[i].records;
	}
	return n;
}

/* One look. False: the ledger did not hold still. */
static bool look(const struct log_run *l, uint64_t *sum, uint64_t *commits)
{
	bool still = true;
	memset(sum, 0, WAL_FIGURES * sizeof(*sum));
	*commits = intent_commits(log_arena(l), &still);
	add_up(log_arena(l), sum);
	uint64_t waiting = not_durable(l);
	sum[BOOK_received] -= waiting < sum[BOOK_received] ? waiting : sum[BOOK_received];
	return intent_commits(log_arena(l), &still) == *commits && still;
}

uint64_t log_books_since(const struct wal *w)
{
	uint64_t n = 0, seq = w->figures_seq > w->tail_seq ? w->figures_seq : w->tail_seq;
	for (; seq < w->next_seq; seq++) {
		const struct wal_entry *e = wal_entry(w, seq);
		if (e && !(e->flags & (WAL_CARRIED | WAL_REPEATED)))
			n += e->records;
	}
	return n;
}

bool log_books_take(struct log_run *l)
{
	struct wal *w = &l->wal;
	uint64_t sum[WAL_FIGURES], commits = 0;
	bool still = false;
	for (unsigned tries = 0; tries < 16 && !still; tries++)
		still = look(l, sum, &commits);
	if (still) {
		memcpy(w->figures, sum, sizeof(sum));
	} else {
		w->figures[BOOK_received] += log_books_since(w);
	}
	w->figures_seq = w->next_seq;
	bool news = commits != l->booked;
	l->booked = commits;
	return news;
}

/* ---- the master, after a loss of power ---- */

void log_books_restore(struct arena *a, const struct wal *w)
{
	struct arena_book *line = &a->h->books[0];
	uint64_t *b = line->book;
	memcpy(line->stage, "log", sizeof("log"));
	memcpy(b, w->figures, (BOOK_letters + 1) * sizeof(*b));
	b[BOOK_received] += log_books_since(w);
	b[BOOK_dead] = b[BOOK_letters];
	uint64_t in = b[BOOK_received] + b[BOOK_made] + b[BOOK_replayed];
	uint64_t out = b[BOOK_delivered] + b[BOOK_filtered] + b[BOOK_absorbed] + b[BOOK_dead] +
	               b[BOOK_dropped];
	if (in > out)
		b[BOOK_delivered] += in - out;
	else
		b[BOOK_made] += out - in;
}
