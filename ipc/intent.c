/*
 * The commit protocol and its repair.
 *
 * Invariants (the explorer in tests/unit/test_explore.c checks them at every interleaving and every
 * death): I1 an entry is owned by at most one worker, and a word changes owner only by its owner,
 * by compare-and- swap from FREE or QUEUED, or by the repairer of a gone owner; I2 before COMMITTED
 * nothing outside the worker's own entries has changed: undoing is giving back; I3 after COMMITTED
 * every step is conditional on the word (owner and generation) or writes an absolute value:
 * carrying out twice is carrying out once; I4 the intent is cleared last, so a slot with an OPEN
 * intent and no entries has nothing to repair.
 *
 * Order inside apply(): outputs are published before inputs are freed, so that whoever scans for
 * the descendants of a chunk sees at least one of the two.
 */
#include "ipc/intent.h"

#include <assert.h>
#include <string.h>

#include "ipc/fault.h"

struct intent *intent_begin(struct arena *a, uint32_t w)
{
	struct arena_worker *me = arena_worker(a, w);
	struct intent *in = &me->intent;
	assert(atomic_load_explicit(&in->state, memory_order_relaxed) == INTENT_OPEN);
	in->n_in = in->n_out = in->patch_bytes = 0;
	in->number = atomic_load_explicit(&me->committed.number, memory_order_relaxed) + 1;
	in->flags = me->committed.flags;
	memcpy(in->book, me->committed.book, sizeof(in->book));
	return in;
}

bool intent_input(struct intent *in, struct arena_handle h, enum intent_action action,
                  uint32_t reached_record, uint32_t reached_byte, uint32_t reached_emitted)
{
	if (in->n_in == ARENA_INPUTS_MAX)
		return false;
	in->in[in->n_in++] = (struct intent_in){h.entry,        h.gen,        action,
	                                        reached_record, reached_byte, reached_emitted};
	return true;
}

bool intent_output(struct intent *in, struct arena_handle h)
{
	if (in->n_out == ARENA_EDGES_MAX)
		return false;
	in->out[in->n_out++] = (struct intent_out){h.entry, h.gen};
	return true;
}

bool intent_patch(struct intent *in, uint32_t off, const void *data, uint32_t len)
{
	uint32_t need = 8 + len;
	if (len > ARENA_PATCHES_MAX || off > ARENA_POSITION_MAX - len ||
	    need > ARENA_PATCHES_MAX - in->patch_bytes)
		return false;
	uint8_t *p = in->patches + in->patch_bytes;
	memcpy(p, &off, 4);
	memcpy(p + 4, &len, 4);
	memcpy(p + 8, data, len);
	in->patch_bytes += need;
	in->flags |= COMMITTED_POSITION;
	return true;
}

/* The word of @entry when @w holds it in @state and this generation: only then may it be changed.
 */
static bool holds(const struct arena *a, uint32_t w, uint32_t entry, uint32_t gen,
                  enum word_state state, struct word *out)
{
	if (entry >= a->entries)
		return false;
	*out = arena_word(a, entry);
	return out->state == state && out->owner == w && out->gen == gen;
}

static void word_store(struct arena *a, uint32_t entry, struct word v)
{
	atomic_store_explicit(&a->words[entry], word_pack(v), memory_order_release);
}

static void apply_outputs(struct arena *a, uint32_t w, const struct intent *in)
{
	uint32_t n = in->n_out <= ARENA_EDGES_MAX ? in->n_out : 0;
	for (uint32_t i = 0; i < n; i++) {
		struct word v;
		if (!holds(a, w, in->out[i].entry, in->out[i].gen, WORD_FILLING, &v))
			continue;
		v.state = WORD_QUEUED;
		v.owner = 0;
		FAULT(apply_publish);
		word_store(a, in->out[i].entry, v);
	}
}

static void apply_inputs(struct arena *a, uint32_t w, const struct intent *in)
{
	uint32_t n = in->n_in <= ARENA_INPUTS_MAX ? in->n_in : 0;
	for (uint32_t i = 0; i < n; i++) {
		const struct intent_in *it = &in->in[i];
		struct word v;
		if (!holds(a, w, it->entry, it->gen, WORD_CLAIMED, &v))
			continue;
		if (it->action == INTENT_ADVANCE) {
			struct arena_facts *f = &a->facts[it->entry];
			FAULT(apply_advance);
			if (f->skip_record != ARENA_NO_RECORD &&
			    it->reached_record > f->skip_record)
				f->skip_record = ARENA_NO_RECORD;
			f->reached_record = it->reached_record;
			f->reached_byte = it->reached_byte;
			f->reached_emitted = it->reached_emitted;
			v.attempts = 0; /* it got further: what comes is another matter */
		} else {
			v = (struct word){WORD_FREE, v.edge, 0, 0, v.gen};
		}
		FAULT(apply_input);
		word_store(a, it->entry, v);
	}
}

static void apply_patches(struct arena_worker *me, const struct intent *in)
{
	uint32_t at = 0, end = in->patch_bytes <= ARENA_PATCHES_MAX ? in->patch_bytes : 0;
	while (at + 8 <= end) {
		uint32_t off, len;
		memcpy(&off, in->patches + at, 4);
		memcpy(&len, in->patches + at + 4, 4);
		if (len > end - at - 8 || off > ARENA_POSITION_MAX ||
		    len > ARENA_POSITION_MAX - off)
			return; /* not what intent_patch writes */
		FAULT(apply_position);
		memcpy(me->position + off, in->patches + at + 8, len);
		at += 8 + len;
	}
}

/* A new state has to be there before anything that is written after it: for whoever repairs, should
 * the process end in between, and for whoever reads the figures (books.c), to see that they are
 * being changed. A release store alone holds back only what comes before it. */
static void state_store(struct intent *in, enum intent_state state)
{
	atomic_store_explicit(&in->state, state, memory_order_release);
	atomic_thread_fence(memory_order_release);
}

/* Carries out a COMMITTED intent: by its worker, or again by whoever repairs it. */
static void apply(struct arena *a, uint32_t w)
{
	struct arena_worker *me = arena_worker(a, w);
	struct intent *in = &me->intent;
	apply_outputs(a, w, in);
	apply_inputs(a, w, in);
	apply_patches(me, in);
	FAULT(apply_values);
	memcpy(me->committed.book, in->book, sizeof(in->book));
	me->committed.flags = in->flags;
	FAULT(apply_number);
	atomic_store_explicit(&me->committed.number, in->number, memory_order_release);
	FAULT(apply_clear);
	state_store(in, INTENT_OPEN);
}

void intent_commit(struct arena *a, uint32_t w)
{
	struct intent *in = &arena_worker(a, w)->intent;
	FAULT(commit_intent);
	state_store(in, INTENT_COMMITTED);
	FAULT(commit_done);
	apply(a, w);
}

void intent_prepare(struct arena *a, uint32_t w)
{
	FAULT(commit_prepare);
	state_store(&arena_worker(a, w)->intent, INTENT_PREPARED);
	FAULT(commit_prepared);
}

static void mark_poison(struct arena *a, uint32_t entry, const struct arena_worker *me,
                        const struct intent_death *death, uint32_t attempts)
{
	struct arena_facts *f = &a->facts[entry];
	FAULT(repair_skip);
	f->skip_signal = death->signal;
	f->skip_attempts = attempts;
	f->skip_step = atomic_load_explicit(&me->hand_step, memory_order_relaxed);
	f->skip_record = atomic_load_explicit(&me->hand_record, memory_order_relaxed);
}

/* Gives back one entry of a gone worker. */
static void give_back(struct arena *a, uint32_t w, uint32_t entry, struct word v,
                      const struct intent_death *death)
{
	const struct arena_worker *me = arena_worker(a, w);
	if (v.state == WORD_FILLING) {
		v = (struct word){WORD_FREE, v.edge, 0, 0, v.gen};
	} else {
		bool in_hand = atomic_load_explicit(&me->hand_entry, memory_order_relaxed) == entry;
		if (death && death->counts && in_hand && v.attempts < 0xff)
			v.attempts++;
		if (death && death->counts && in_hand && v.attempts >= death->max_attempts) {
			mark_poison(a, entry, me, death, v.attempts);
			v.attempts = 0;
		}
		v.state = WORD_QUEUED;
		v.owner = 0;
	}
	FAULT(repair_word);
	word_store(a, entry, v);
}

static void give_back_all(struct arena *a, uint32_t w, const struct intent_death *death)
{
	for (uint32_t i = 0; i < a->entries; i++) {
		struct word v = arena_word(a, i);
		if ((v.state == WORD_FILLING || v.state == WORD_CLAIMED) && v.owner == w)
			give_back(a, w, i, v, death);
	}
}

void intent_settle(struct arena *a, uint32_t w, bool committed)
{
	struct intent *in = &arena_worker(a, w)->intent;
	assert(atomic_load_explicit(&in->state, memory_order_relaxed) == INTENT_PREPARED);
	FAULT(settle_choose);
	state_store(in, committed ? INTENT_COMMITTED : INTENT_OPEN);
	if (committed) {
		FAULT(commit_done);
		apply(a, w);
	}
}

enum intent_repair intent_repair(struct arena *a, uint32_t w, const struct intent_death *death)
{
	struct arena_worker *me = arena_worker(a, w);
	FAULT(repair_start);
	uint32_t state = atomic_load_explicit(&me->intent.state, memory_order_acquire);
	if (state == INTENT_PREPARED)
		return INTENT_UNSETTLED;
	if (state == INTENT_COMMITTED)
		apply(a, w);
	else if (state != INTENT_OPEN)
		atomic_store_explicit(&me->intent.state, INTENT_OPEN, memory_order_release);
	give_back_all(a, w, death);
	FAULT(repair_done);
	atomic_store_explicit(&me->hand_entry, ARENA_NO_RECORD, memory_order_relaxed);
	atomic_store_explicit(&me->waiting, 0, memory_order_relaxed);
	return INTENT_REPAIRED;
}

bool intent_clean(const struct arena *a, uint32_t w)
{
	if (atomic_load_explicit(&arena_worker(a, w)->intent.state, memory_order_acquire) !=
	    INTENT_OPEN)
		return false;
	for (uint32_t i = 0; i < a->entries; i++) {
		struct word v = arena_word(a, i);
		if ((v.state == WORD_FILLING || v.state == WORD_CLAIMED) && v.owner == w)
			return false;
	}
	return true;
}

uint64_t intent_commits(const struct arena *a, bool *still)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < a->workers; i++) {
		const struct arena_worker *s = arena_worker(a, i);
		if (atomic_load_explicit(&s->intent.state, memory_order_acquire) ==
		    INTENT_COMMITTED)
			*still = false;
		sum += atomic_load_explicit(&s->committed.number, memory_order_acquire);
	}
	return sum;
}
