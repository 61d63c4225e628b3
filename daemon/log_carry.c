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
 * twice before the tail has moved. Limit: of chunks with the same base none is freed before all are
 * copied; if the power fails in the middle of such a row, the copies made so far take room that its
 * repetition lacks, and the log may then wait for that reader after all.
 */
#include "daemon/log_parts.h"

#include <stdlib.h>
#include <string.h>

#include "ipc/crc32c.h"
#include "ipc/fault.h"

enum {
	COPIES_BYTES = 1 << 20, /* copied before one write, when that is more than one */
};

struct live {
	uint64_t base, number;
	uint32_t entry;
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

/* Takes a copy of chunk @from as number @k of @c. False: it moved meanwhile. */
static bool copy(const struct log_run *l, struct live from, struct copies *c, unsigned k)
{
	const struct arena *a = log_arena(l);
	struct word v = arena_word(a, from.entry);
	const struct arena_facts *f = &a->facts[from.entry];
	uint8_t *p = c->bytes + k * c->stride;
	struct wal_item *item = &c->item[k];
	uint32_t bytes = f->bytes;
	bool asked = is_asked(a, from.entry, v);
	if (!(asked || is_live(v)) || v.edge >= ARENA_EDGES_MAX || bytes > a->buffer_size)
		return false;
	from.number = atomic_load_explicit(&a->numbers[from.entry], memory_order_relaxed);
	/* what is asked for cannot be made anew: it has no base but itself */
	c->note[k] = (struct log_note){.base = asked ? 0 : arena_base(a, from.entry)};
	memcpy(c->note[k].from, a->h->edges[v.edge].from, sizeof(c->note[k].from));
	memcpy(c->note[k].to, a->h->edges[v.edge].to, sizeof(c->note[k].to));
	*item = (struct wal_item){.number = from.number,
	                          .flags = WAL_CARRIED | kind_of(l, f, v.edge),
	                          .records = f->records,
	                          .bytes = bytes,
	                          .crc = f->crc,
	                          .data = p,
	                          .patches = &c->note[k],
	                          .patch_bytes = sizeof(c->note[k])};
	name_origin(l, f, item);
	memcpy(p, arena_buffer(a, from.entry), bytes);
	memset(p + bytes, 0, c->stride - bytes);
	atomic_thread_fence(memory_order_acquire);
	struct word after = arena_word(a, from.entry);
	c->of[k] = from;
	return (is_live(after) || asked) && after.gen == v.gen && crc32c(0, p, bytes) == item->crc;
}

/* Writes what was chosen. Positive: there was nothing left of it, or there is no room. */
static int write_copies(struct log_run *l, struct copies *c)
{
	unsigned n = 0;
	for (unsigned i = 0; i < c->n; i++)
		n += copy(l, c->of[i], c, n);
	if (!n)
		return ARENA_E_NONE;
	uint64_t seq = l->wal.next_seq;
	FAULT(log_carry);
	int r = wal_append(&l->wal, c->item, n);
	if (r < 0)
		return log_cannot_write(l, r);
	FAULT(log_carried);
	for (unsigned i = 0; r == 0 && i < n; i++)
		arena_carried(log_arena(l), c->of[i].entry, c->of[i].number, seq + i);
	return r;
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
	FAULT(log_carry);
	int r = wal_append(&l->wal, c->item, n);
	if (r < 0)
		return log_cannot_write(l, r);
	FAULT(log_carried);
	return r > 0 ? r : log_replay_moved(l, seq, n, first);
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

/* The next group: what waits to be put back, then what is in the arena. */
static int carry_group(struct log_run *l, uint64_t goal, struct copies *c)
{
	int r = carry_waiting(l, goal, c);
	if (r == ARENA_E_NONE) {
		choose(log_arena(l), goal, c);
		r = c->n ? write_copies(l, c) : ARENA_E_NONE;
	}
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
	while (r == 0)
		r = carry_group(l, goal, &c);
	free(c.bytes);
	return r < 0 ? r : log_checkpoint(l);
}

/* ---- before a commit ---- */

bool log_ahead_asked(const struct log_run *l)
{
	const struct arena *a = log_arena(l);
	for (uint32_t i = 0; i < a->entries; i++)
		if (is_asked(a, i, arena_word(a, i)) && !arena_is_ahead(a, i))
			return true;
	return false;
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
	if (!log_ahead_asked(l))
		return 0;
	int r = make_copies(l, &c);
	for (bool more = true; r == 0 && more;) {
		choose_asked(a, &c);
		/* while entries wait to be put back the tail may stand still: then the reserve is
		 * for this */
		bool room = wal_room(&l->wal, c.n, (uint32_t)a->buffer_size) || log_replaying(l);
		more = c.n == c.most;
		r = c.n && room ? write_copies(l, &c) : ARENA_E_NONE;
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
