/*
 * The life of a chunk: the word's transitions, each one atomic operation.
 *
 * The hard idea is arena_claim's second look. A scan over the words is no snapshot: entry 3 may be
 * QUEUED behind the scan's back and entry 10, filled later by the same worker, be found. So the
 * oldest chunk of one scan is only a candidate; a second scan, begun after the candidate was seen,
 * must find it the oldest too. A publisher queues in the order of its numbers, so whatever it
 * queued before the candidate is visible to that second scan. Hence: chunks of one publisher on one
 * edge are claimed in order.
 *
 * Memory order: a word is published with release and read with acquire, so whoever sees QUEUED sees
 * the bytes and facts; compare-and-swaps are acquire-release. Numbers are written before the word
 * is QUEUED and are read after it; should the entry have gone round in between, the generation
 * makes the compare-and-swap fail.
 */
#include "ipc/arena.h"

#include <assert.h>
#include <string.h>

#include "ipc/clock.h"
#include "ipc/crc32c.h"
#include "ipc/fault.h"

static uint64_t word_load(const struct arena *a, uint32_t i)
{
	return atomic_load_explicit(&a->words[i], memory_order_acquire);
}

static bool word_swap(struct arena *a, uint32_t i, uint64_t from, struct word to)
{
	return atomic_compare_exchange_strong_explicit(&a->words[i], &from, word_pack(to),
	                                               memory_order_acq_rel, memory_order_relaxed);
}

/* What a look for room finds: how full the edge is, and entries that may be taken for it. */
struct room {
	uint32_t charged;
	uint32_t entry; /* a free one; UINT32_MAX: none */
	uint64_t seen;
};

static struct room look_for_room(const struct arena *a, uint32_t edge, uint64_t used,
                                 uint32_t start)
{
	struct room room = {.entry = UINT32_MAX};
	for (uint32_t k = 0; k < a->entries; k++) {
		uint32_t i = k + start < a->entries ? k + start : k + start - a->entries;
		uint64_t v = word_load(a, i);
		struct word w = word_unpack(v);
		if (w.state != WORD_FREE) {
			room.charged += w.edge == edge && w.state != WORD_ASIDE;
			continue;
		}
		bool others = i < ARENA_EDGES_MAX && i != edge && (used >> i & 1);
		if (others || (room.entry != UINT32_MAX && i != edge))
			continue;
		room.entry = i; /* the edge's own is preferred: the common ones are for all */
		room.seen = v;
	}
	return room;
}

int arena_acquire(struct arena *a, uint32_t w, uint32_t edge, struct arena_handle *out)
{
	uint64_t used = atomic_load_explicit(&a->h->edges_used, memory_order_relaxed);
	uint32_t quota = atomic_load_explicit(&a->h->edges[edge].quota, memory_order_relaxed);
	for (;;) {
		struct room room = look_for_room(a, edge, used, (w * 7) % a->entries);
		if (room.charged >= quota || room.entry == UINT32_MAX)
			return ARENA_E_NONE;
		struct word to = word_unpack(room.seen);
		to = (struct word){WORD_FILLING, edge, w, 0, (to.gen + 1) & 0xffffff};
		FAULT(acquire_take);
		if (!word_swap(a, room.entry, room.seen, to))
			continue; /* somebody was faster: look again */
		FAULT(acquire_taken);
		/* it may still ask for what it held before, and would hold the log's tail there */
		if (atomic_load_explicit(&a->facts[room.entry].ahead, memory_order_relaxed))
			atomic_store_explicit(&a->facts[room.entry].ahead, 0, memory_order_relaxed);
		*out = (struct arena_handle){room.entry, to.gen};
		return 0;
	}
}

void arena_seal(struct arena *a, struct arena_handle h, const struct arena_facts *facts)
{
	bool sum = a->h->checked && facts->bytes;
	arena_seal_copy(a, h, facts, sum ? crc32c(0, arena_buffer(a, h.entry), facts->bytes) : 0);
}

void arena_seal_copy(struct arena *a, struct arena_handle h, const struct arena_facts *facts,
                     uint32_t crc)
{
	struct arena_facts *f = &a->facts[h.entry];
	FAULT(fill_facts);
	memcpy(f, facts, offsetof(struct arena_facts, carried_number)); /* the log's, not ours */
	f->reached_record = f->reached_byte = f->reached_emitted = 0;
	f->skip_record = ARENA_NO_RECORD;
	f->skip_signal = f->skip_attempts = 0;
	f->boot = a->h->boot;
	f->crc = crc;
	f->queued = clock_monotonic();
	uint64_t n = atomic_fetch_add_explicit(&a->h->next_number, 1, memory_order_relaxed);
	atomic_store_explicit(&a->numbers[h.entry], n, memory_order_relaxed);
}

/* The three are written one after the other, by the log's worker, maybe when the entry holds
 * another chunk already: then the number does not fit. Who reads between two of them sees the base,
 * or an earlier copy: both are lower than need be, and that is allowed. */
uint64_t arena_base(const struct arena *a, uint32_t entry)
{
	const struct arena_facts *f = &a->facts[entry];
	uint64_t number = atomic_load_explicit(&a->numbers[entry], memory_order_relaxed);
	if (atomic_load_explicit(&f->carried_number, memory_order_acquire) != number)
		return f->base;
	uint64_t seq = atomic_load_explicit(&f->carried, memory_order_acquire);
	return atomic_load_explicit(&f->carried_number, memory_order_relaxed) == number ? seq
	                                                                                : f->base;
}

void arena_ask_ahead(struct arena *a, struct arena_handle h)
{
	uint64_t number = atomic_load_explicit(&a->numbers[h.entry], memory_order_relaxed);
	atomic_store_explicit(&a->facts[h.entry].ahead, number, memory_order_release);
}

bool arena_is_ahead(const struct arena *a, uint32_t entry)
{
	uint64_t number = atomic_load_explicit(&a->numbers[entry], memory_order_relaxed);
	return atomic_load_explicit(&a->facts[entry].carried_number, memory_order_acquire) ==
	       number;
}

void arena_carried(struct arena *a, uint32_t entry, uint64_t number, uint64_t seq)
{
	struct arena_facts *f = &a->facts[entry];
	atomic_store_explicit(&f->carried_number, 0, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&f->carried, seq, memory_order_release);
	atomic_store_explicit(&f->carried_number, number, memory_order_release);
}

bool arena_intact(const struct arena *a, uint32_t entry)
{
	const struct arena_facts *f = &a->facts[entry];
	if (a->h->checked && f->boot != a->h->boot)
		return arena_verified(a, entry);
	return f->bytes <= a->buffer_size && f->reached_byte <= f->bytes;
}

bool arena_verified(const struct arena *a, uint32_t entry)
{
	const struct arena_facts *f = &a->facts[entry];
	if (f->bytes > a->buffer_size || f->reached_byte > f->bytes)
		return false;
	return !a->h->checked || crc32c(0, arena_buffer(a, entry), f->bytes) == f->crc;
}

static void put_back(struct arena *a, uint32_t w, struct arena_handle h, enum word_state from,
                     enum word_state to)
{
	struct word v = arena_word(a, h.entry);
	assert(v.state == from && v.owner == w && v.gen == h.gen);
	v.state = to;
	v.owner = 0;
	if (to == WORD_FREE)
		v.attempts = 0;
	atomic_store_explicit(&a->words[h.entry], word_pack(v), memory_order_release);
}

void arena_drop(struct arena *a, uint32_t w, struct arena_handle h)
{
	FAULT(drop_free);
	put_back(a, w, h, WORD_FILLING, WORD_FREE);
}

void arena_unclaim(struct arena *a, uint32_t w, struct arena_handle h)
{
	FAULT(unclaim);
	put_back(a, w, h, WORD_CLAIMED, WORD_QUEUED);
}

struct oldest {
	uint32_t entry;
	uint64_t seen, number;
};

static bool look_for_oldest(const struct arena *a, uint64_t edges, struct oldest *best)
{
	bool found = false;
	for (uint32_t i = 0; i < a->entries; i++) {
		uint64_t v = word_load(a, i);
		struct word w = word_unpack(v);
		if (w.state != WORD_QUEUED || w.edge >= ARENA_EDGES_MAX || !(edges >> w.edge & 1))
			continue;
		uint64_t n = atomic_load_explicit(&a->numbers[i], memory_order_acquire);
		if (!found || n < best->number)
			*best = (struct oldest){i, v, n};
		found = true;
	}
	return found;
}

int arena_claim(struct arena *a, uint32_t w, uint64_t edges, struct arena_handle *out)
{
	struct oldest candidate, again;
	if (!look_for_oldest(a, edges, &candidate))
		return ARENA_E_NONE;
	for (;;) {
		if (!look_for_oldest(a, edges, &again))
			return ARENA_E_NONE;
		if (again.entry != candidate.entry || again.seen != candidate.seen) {
			candidate = again;
			continue;
		}
		struct word to = word_unpack(candidate.seen);
		to.state = WORD_CLAIMED;
		to.owner = w;
		FAULT(claim_take);
		if (word_swap(a, candidate.entry, candidate.seen, to)) {
			FAULT(claim_taken);
			*out = (struct arena_handle){candidate.entry, to.gen};
			return 0;
		}
	}
}

bool arena_any_queued(const struct arena *a, uint64_t edges)
{
	struct oldest any;
	return look_for_oldest(a, edges, &any);
}

uint32_t arena_charged(const struct arena *a, uint32_t edge)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < a->entries; i++) {
		struct word w = arena_word(a, i);
		n += w.state != WORD_FREE && w.state != WORD_ASIDE && w.edge == edge;
	}
	return n;
}

uint32_t arena_free(const struct arena *a)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < a->entries; i++)
		n += arena_word(a, i).state == WORD_FREE;
	return n;
}
