/*
 * What may be overwritten, and carrying forward what stands in the way of it.
 *
 * The hard idea: a chunk in the arena knows its base, the oldest entry of the log that is needed to
 * make it anew (arena_base). The tail may go up to the lowest base. A chunk that nobody takes would
 * hold it there for ever; when the ring runs short of room such chunks are therefore written again
 * at its head, straight from the arena, and the new entry becomes their base. They are those with a
 * base in the oldest part of the ring, lowest first, so that the tail can follow. Nothing is
 * written again while the ring has room, which it has as long as nothing stands still.
 *
 * Each copy has its chunk's number, the edge it stands on, and the base it had. A worker killed
 * between the copy and arena_carried() is followed by one that finds the copy by its number
 * (log_adopt); and after a loss of power a copy whose old base is still in the log is not put back,
 * for what it was made of is (log_replay.c). Entries that wait to be put back then, for want of
 * room, are read from the log and carried in the same way.
 *
 * The chunk may be taken, changed, freed and its entry filled anew while it is copied: so it is
 * copied into private memory first, and counts only when the entry's generation is the same
 * afterwards and the checksum is right. Whether it is gone when the copy is on the disk does not
 * matter: a copy that nobody needs is passed over by the tail like any other entry.
 *
 * Room: all that the arena can hold fits into the reserve (log_reserve), and no chunk is written
 * twice before the tail has moved. What waits to be put back has no reserve of its own: when all
 * that is needed leaves no room for anything else, nothing is carried, and the log is full until a
 * reader takes something (log_could_take). So is a log of before arena.size was raised. What is
 * oldest goes first, whichever it is, so that each copy frees what it was made of; only of chunks
 * with the same base none is freed before all are copied. If the power fails in the middle of such
 * a row, the copies made so far take room that the same row would lack. But it is not the same:
 * what they were made of is put back and, room being short, carried before much has come of it, and
 * what comes later has the new base. Limit: no more may be made of it in that moment than a group's
 * room holds.
 *
 * A chunk whose bytes are not what was sealed cannot be carried, and does not hold the tail: it is
 * set aside.
 */
#include "daemon/log_parts.h"

#include <stdlib.h>
#include <string.h>

#include "ipc/crc32c.h"
#include "ipc/fault.h"
#include "ipc/log.h"

enum {
	COPIES_BYTES = 1 << 20, /* copied before one write, when that is more than one */
};

struct live {
	uint64_t base, number;
	uint32_t entry;
	struct word seen; /* when it was copied */
};

struct copies {
	uint8_t *bytes;
	uint64_t stride;
	unsigned most, n;
	struct live of[WAL_GROUP_MAX];
	struct log_note note[WAL_GROUP_MAX];
	struct wal_item item[WAL_GROUP_MAX];
};

static bool is_live(struct word v)
{
	return v.state == WORD_QUEUED || v.state == WORD_CLAIMED;
}

/* Its owner waits for it to be in the log before the commit (unit_log.c). */
static bool is_asked(const struct arena *a, uint32_t i, struct word v)
{
	return v.state == WORD_FILLING &&
	       atomic_load_explicit(&a->facts[i].ahead, memory_order_acquire) ==
	               atomic_load_explicit(&a->numbers[i], memory_order_relaxed);
}

/* What needs its base: it is there, or will be with its owner's commit. */
static bool counts(const struct arena *a, uint32_t i)
{
	struct word v = arena_word(a, i);
	return is_live(v) || is_asked(a, i, v);
}

/* ---- what is needed ---- */

/* The lowest base. False: the ledger did not hold still. */
static bool lowest_base(const struct arena *a, uint64_t *lowest)
{
	bool still = true;
	uint64_t before = intent_commits(a, &still);
	*lowest = UINT64_MAX;
	for (uint32_t i = 0; i < a->entries; i++) {
		uint64_t base = counts(a, i) ? arena_base(a, i) : 0;
		if (base && base < *lowest)
			*lowest = base;
	}
	return intent_commits(a, &still) == before && still;
}

void log_move_need(struct log_run *l)
{
	uint64_t end = log_replaying(l) ? l->mark.next : l->wal.next_seq, lowest = 0;
	bool still = false;
	for (unsigned tries = 0; tries < 16 && !still; tries++)
		still = lowest_base(log_arena(l), &lowest);
	if (!still)
		return; /* too lively: the next look will tell */
	if (end > lowest)
		end = lowest;
	if (end > l->wal.need)
		l->wal.need = end;
}

/* Bytes and entries that all that is needed takes when it is written again. */
static uint64_t needed(struct log_run *l, uint64_t *n)
{
	const struct arena *a = log_arena(l);
	uint64_t bytes = log_replay_needs(l, n);
	for (uint32_t i = 0; i < a->entries; i++) {
		if (!counts(a, i) || !arena_base(a, i))
			continue;
		uint64_t has = a->facts[i].bytes;
		has = has < a->buffer_size ? has : a->buffer_size;
		bytes += wal_size((uint32_t)has, sizeof(struct log_note));
		++*n;
	}
	return bytes;
}

unsigned log_could_take(struct log_run *l)
{
	const struct wal *w = &l->wal;
	uint64_t most = wal_most(log_arena(l)->buffer_size), n = WAL_GROUP_MAX, kept = 0;
	/* one more for the ring's end */
	uint64_t bytes = needed(l, &kept) + w->reserve + most, ring = w->ring_end - w->ring_at;
	while (n && (bytes + n * most > ring || kept + w->reserve_entries + n > w->cap))
		n /= 2;
	return (unsigned)n;
}

/* ---- copying ---- */

/* The chunks with a base before @goal, as many as can be copied at once: the lowest ones, sorted.
 */
static void choose(const struct arena *a, uint64_t goal, struct copies *c)
{
	c->n = 0;
	for (uint32_t i = 0; i < a->entries; i++) {
		uint64_t base = counts(a, i) ? arena_base(a, i) : 0;
		unsigned at = c->n;
		if (!base || base >= goal || (at == c->most && base >= c->of[at - 1].base))
			continue;
		at = at == c->most ? at - 1 : c->n++;
		for (; at && c->of[at - 1].base > base; at--)
			c->of[at] = c->of[at - 1];
		c->of[at] = (struct live){.base = base, .entry = i};
	}
}

/* The producer it came of; what came of none, or of one that is gone, is the log's. */
static void name_origin(const struct log_run *l, const struct arena_facts *f, struct wal_item *item)
{
	const struct arena *a = log_arena(l);
	const struct arena_worker *s =
	        f->origin_worker < a->workers ? arena_worker(a, f->origin_worker) : NULL;
	const struct config_stage *st =
	        s && s->stage[0] ? config_stage(l->w->config, s->stage) : NULL;
	item->stage = "log";
	if (!st || st->kind != STAGE_PRODUCER || st->builtin)
		return;
	item->stage = st->name;
	item->ordinal = s->ordinal;
	item->slot = f->origin_worker;
	item->commit = f->origin_commit;
}

static uint32_t kind_of(const struct log_run *l, const struct arena_facts *f, uint32_t edge)
{
	return (l->w->reads >> edge & 1 ? WAL_AGAIN : 0u) |
	       (f->flags & FACT_LETTERS ? WAL_LETTERS : 0u);
}

/* What is written of chunk @from, whose bytes are number @k of @c. */
static void describe(const struct log_run *l, const struct live *from, bool asked, struct copies *c,
                     unsigned k)
{
	const struct arena *a = log_arena(l);
	const struct arena_facts *f = &a->facts[from->entry];
	const struct arena_edge *edge = &a->h->edges[from->seen.edge];
	/* what is asked for cannot be made anew: it has no base but itself */
	c->note[k] = (struct log_note){.base = asked ? 0 : arena_base(a, from->entry)};
	memcpy(c->note[k].from, edge->from, sizeof(c->note[k].from));
	memcpy(c->note[k].to, edge->to, sizeof(c->note[k].to));
	c->item[k] = (struct wal_item){.number = from->number,
	                               .flags = WAL_CARRIED | kind_of(l, f, from->seen.edge),
	                               .records = f->records,
	                               .bytes = f->bytes,
	                               .crc = f->crc,
	                               .data = c->bytes + k * c->stride,
	                               .patches = &c->note[k],
	                               .patch_bytes = sizeof(c->note[k])};
	name_origin(l, f, &c->item[k]);
}

enum copied {
	COPIED,
	MOVED,   /* it is not what it was */
	DAMAGED, /* its bytes are not what was sealed */
};

/* Takes a copy of chunk @from as number @k of @c. */
static enum copied copy(const struct log_run *l, struct live from, struct copies *c, unsigned k)
{
	const struct arena *a = log_arena(l);
	struct word v = arena_word(a, from.entry);
	uint8_t *p = c->bytes + k * c->stride;
	uint32_t bytes = a->facts[from.entry].bytes, crc = a->facts[from.entry].crc;
	bool asked = is_asked(a, from.entry, v);
	bool sound = v.edge < ARENA_EDGES_MAX && bytes <= a->buffer_size;
	from.seen = v;
	from.number = atomic_load_explicit(&a->numbers[from.entry], memory_order_relaxed);
	c->of[k] = from;
	if (!asked && !is_live(v))
		return MOVED;
	if (sound) {
		describe(l, &from, asked, c, k);
		c->item[k].bytes = bytes; /* no other than was looked at */
		memcpy(p, arena_buffer(a, from.entry), bytes);
		memset(p + bytes, 0, c->stride - bytes);
		sound = crc32c(0, p, bytes) == crc;
	}
	atomic_thread_fence(memory_order_acquire);
	struct word after = arena_word(a, from.entry);
	if ((!is_live(after) && !asked) || after.gen != v.gen)
		return MOVED;
	return sound ? COPIED : DAMAGED;
}

/* Somebody has overwritten @damaged; it must not hold the tail for ever. Queued, it is set aside
 * here as it would be when claimed. Whoever holds it is left to find out, but the log does not keep
 * for it what it came of. */
static void let_go(struct log_run *l, const struct live *damaged)
{
	struct arena *a = log_arena(l);
	struct word mine = damaged->seen;
	uint64_t seen = word_pack(damaged->seen);
	mine.state = WORD_CLAIMED;
	mine.owner = l->w->slot;
	if (damaged->seen.state == WORD_QUEUED) {
		if (atomic_compare_exchange_strong(&a->words[damaged->entry], &seen,
		                                   word_pack(mine)))
			unit_set_aside(l->w, (struct arena_handle){damaged->entry, mine.gen});
	} else if (damaged->seen.state == WORD_CLAIMED) {
		log_error("chunk %llu was overwritten while it was worked on: the log keeps it no "
		          "longer",
		          (unsigned long long)damaged->number);
		arena_carried(a, damaged->entry, damaged->number, 0);
	} /* FILLING: who waits for it sees to it (unit_log.c) */
}

/* Writes what was chosen. Positive: there was nothing left of it, or there is no room. */
static int write_copies(struct log_run *l, struct copies *c)
{
	unsigned n = 0;
	for (unsigned i = 0; i < c->n; i++) {
		enum copied how = copy(l, c->of[i], c, n);
		n += how == COPIED;
		if (how == DAMAGED)
			let_go(l, &c->of[n]);
	}
	if (!n)
		return ARENA_E_NONE;
	uint64_t seq = l->wal.next_seq;
	FAULT(log_carry);
	int r = wal_append(&l->wal, c->item, n);
	if (r != 0)
		return r < 0 ? log_cannot_write(l, r) : r;
	FAULT(log_carried);
	for (unsigned i = 0; i < n; i++)
		arena_carried(log_arena(l), c->of[i].entry, c->of[i].number, seq + i);
	return 0;
}

/* Reads entry @e, which waits to be put back, as number @k of @c. */
static int read_back(struct log_run *l, const struct wal_entry *e, struct copies *c, unsigned k)
{
	const struct wal_position *p = &l->wal.position[e->who];
	bool carried = e->flags & WAL_CARRIED;
	struct log_note *note = &c->note[k];
	*note = (struct log_note){0};
	int r = carried ? wal_note(&l->wal, e, note, sizeof(*note)) : 0;
	if (r == 0)
		r = wal_read(&l->wal, e, c->bytes + k * c->stride);
	note->base = c->of[k].base = e->seq;
	c->item[k] = (struct wal_item){.stage = p->stage,
	                               .ordinal = p->ordinal,
	                               .slot = e->slot,
	                               .commit = e->commit,
	                               .number = e->number,
	                               .flags = (e->flags & (WAL_LETTERS | WAL_AGAIN)) |
	                                        WAL_CARRIED | (carried ? 0u : WAL_AGAIN),
	                               .records = e->records,
	                               .bytes = e->bytes,
	                               .crc = e->crc,
	                               .data = c->bytes + k * c->stride,
	                               .patches = note,
	                               .patch_bytes = sizeof(*note)};
	return r;
}

/* The first entry that waits to be put back; @goal: there is none before it. */
static uint64_t first_waiting(struct log_run *l, uint64_t goal)
{
	uint64_t s = l->mark.next;
	while (s < goal && !log_replay_waits(l, s))
		s++;
	return s < goal ? s : goal;
}

/* Writes again what waits to be put back and stands before @goal, a group of it. Positive: there is
 * no more, or no room. */
static int carry_waiting(struct log_run *l, uint64_t goal, struct copies *c)
{
	uint64_t seq[WAL_GROUP_MAX], first = l->wal.next_seq;
	unsigned n = 0;
	for (uint64_t s = l->mark.next; s < goal && n < c->most; s++) {
		if (!log_replay_waits(l, s))
			continue;
		int r = read_back(l, wal_entry(&l->wal, s), c, n);
		if (r < 0)
			return r;
		if (r > 0)
			log_replay_damaged(l, wal_entry(&l->wal, s));
		else
			seq[n++] = s;
	}
	if (!n)
		return ARENA_E_NONE;
	if (!log_replay_can_move(l, n))
		return WAL_E_FULL;
	FAULT(log_carry);
	int r = wal_append(&l->wal, c->item, n);
	if (r != 0)
		return r < 0 ? log_cannot_write(l, r) : r;
	FAULT(log_carried);
	log_replay_moved(l, seq, n, first);
	return 0;
}

static int make_copies(struct log_run *l, struct copies *c)
{
	c->stride = (log_arena(l)->buffer_size + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK;
	c->most = COPIES_BYTES / c->stride < WAL_GROUP_MAX ? (unsigned)(COPIES_BYTES / c->stride)
	                                                   : WAL_GROUP_MAX;
	c->most += c->most == 0;
	c->bytes = aligned_alloc(WAL_BLOCK, c->most * c->stride);
	return c->bytes ? 0 : -ENOMEM;
}

/* The next group: always what is oldest, so that the tail can follow and the room lasts. */
static int carry_group(struct log_run *l, uint64_t goal, struct copies *c)
{
	uint64_t waits = first_waiting(l, goal);
	choose(log_arena(l), goal, c);
	while (c->n > 1 && c->of[c->n - 1].base > waits)
		c->n--;
	uint64_t lowest = c->n ? c->of[0].base : goal;
	int r = waits < lowest ? carry_waiting(l, lowest, c)
	        : c->n         ? write_copies(l, c)
	                       : ARENA_E_NONE;
	log_move_need(l);
	if (r == WAL_E_FULL && l->wal.need > l->wal.tail_seq)
		r = log_checkpoint(l);
	return r;
}

int log_carry(struct log_run *l)
{
	uint64_t group = WAL_GROUP_MAX * wal_most(log_arena(l)->buffer_size);
	uint64_t goal = wal_behind(&l->wal, l->wal.reserve + group);
	struct copies c = {0};
	int r = make_copies(l, &c);
	if (r == 0)
		do
			r = carry_group(l, goal, &c);
		while (r == 0 && worker_order(l->w) == ORDER_RUN);
	free(c.bytes);
	return r < 0 ? r : log_checkpoint(l);
}

/* ---- before a commit ---- */

static bool asked_for(const struct log_run *l)
{
	const struct arena *a = log_arena(l);
	for (uint32_t i = 0; i < a->entries; i++)
		if (is_asked(a, i, arena_word(a, i)) && !arena_is_ahead(a, i))
			return true;
	return false;
}

/* While entries wait to be put back the tail may stand still: then the reserve is for this. */
static bool room_ahead(const struct log_run *l, unsigned n)
{
	uint32_t bytes = (uint32_t)log_arena(l)->buffer_size;
	return log_replaying(l) ? wal_fits(&l->wal, n, bytes) : wal_room(&l->wal, n, bytes);
}

bool log_ahead_now(const struct log_run *l)
{
	return asked_for(l) && room_ahead(l, 1);
}

static void choose_asked(const struct arena *a, struct copies *c)
{
	c->n = 0;
	for (uint32_t i = 0; i < a->entries && c->n < c->most; i++)
		if (is_asked(a, i, arena_word(a, i)) && !arena_is_ahead(a, i))
			c->of[c->n++] = (struct live){.entry = i};
}

int log_ahead(struct log_run *l)
{
	const struct arena *a = log_arena(l);
	struct copies c = {0};
	if (!asked_for(l))
		return 0;
	int r = make_copies(l, &c);
	for (bool more = true; r == 0 && more;) {
		choose_asked(a, &c);
		more = c.n == c.most;
		while (c.n && !room_ahead(l, c.n))
			c.n--;
		r = c.n ? write_copies(l, &c) : ARENA_E_NONE;
		for (unsigned i = 0; r == 0 && i < c.n; i++)
			unit_ring_one(l->w, arena_word(a, c.of[i].entry).owner, WAITING_LOG, 0);
	}
	free(c.bytes);
	return r < 0 ? r : 0;
}

/* ---- after a predecessor's death ---- */

static int by_number(const void *a, const void *b)
{
	const struct live *x = a, *y = b;
	return x->number < y->number ? -1 : x->number > y->number;
}

int log_adopt(struct log_run *l)
{
	struct arena *a = log_arena(l);
	_cleanup_free_ struct live *live = calloc(a->entries, sizeof(*live));
	size_t n = 0;
	if (!live)
		return -ENOMEM;
	for (uint32_t i = 0; i < a->entries; i++)
		if (counts(a, i))
			live[n++] =
			        (struct live){.number = atomic_load(&a->numbers[i]), .entry = i};
	qsort(live, n, sizeof(*live), by_number);
	for (uint64_t seq = l->wal.tail_seq; n && seq < l->wal.next_seq; seq++) {
		const struct wal_entry *e = wal_entry(&l->wal, seq);
		if (!e || memcmp(e->epoch, a->h->epoch, sizeof(e->epoch)) != 0)
			continue;
		struct live key = {.number = e->number};
		const struct live *found = bsearch(&key, live, n, sizeof(*live), by_number);
		if (found)
			arena_carried(a, found->entry, e->number, seq);
	}
	return 0;
}
