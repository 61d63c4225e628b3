/*
 * Chunks that are not what was sealed: kept out of the flow, counted, told; their bytes stay for
 * inspection.
 *
 * Two ways lead there. A chunk of an earlier boot is compared with its CRC32C whenever it is
 * claimed. In the same boot memory is trusted, for looking at every byte twice would cost more than
 * all the rest; but a chunk that a worker has died on is suspect, and is then looked at in full:
 * its CRC32C where it has one, and whether its bytes are so many records. So a stray write of some
 * worker costs one more worker and the chunk, not the stage.
 *
 * What was committed of the chunk before (reached_record) is done and stays done; the rest of it is
 * set aside.
 */
#include "daemon/worker.h"

#include <stdio.h>

#include "ipc/mp.h"

/* Whether what is left of the chunk is as many records as its facts say, and nothing else. */
static bool parses(const struct arena *a, uint32_t entry)
{
	const struct arena_facts *f = &a->facts[entry];
	const uint8_t *p = arena_buffer(a, entry), *end = p + f->bytes;
	p += f->reached_byte;
	for (uint32_t i = f->reached_record; i < f->records; i++) {
		struct mp head;
		if (!mp_read(p, end, &head) || head.type != MP_MAP || !(p = mp_skip(p, end)))
			return false;
	}
	return p == end;
}

/* A worker has died on it. */
static bool suspect(const struct arena *a, uint32_t entry)
{
	return arena_word(a, entry).attempts || a->facts[entry].skip_record != ARENA_NO_RECORD;
}

bool unit_sound(const struct worker *w, uint32_t entry)
{
	if (!arena_intact(w->a, entry))
		return false;
	return !suspect(w->a, entry) || (arena_verified(w->a, entry) && parses(w->a, entry));
}

void unit_set_aside(struct worker *w, struct arena_handle h)
{
	const struct arena_facts *f = &w->a->facts[h.entry];
	struct word v = arena_word(w->a, h.entry);
	uint32_t left = f->records > f->reached_record ? f->records - f->reached_record : 0;
	log_error("chunk %llu (%u records) is torn or corrupt: set aside in entry %u",
	          (unsigned long long)atomic_load(&w->a->numbers[h.entry]), left, h.entry);
	atomic_fetch_add(&w->a->h->aside, 1);
	atomic_fetch_add(&w->a->h->aside_records, left);
	v.state = WORD_ASIDE;
	v.owner = 0;
	atomic_store_explicit(&w->a->words[h.entry], word_pack(v), memory_order_release);
}

int unit_broken(struct worker *w, const struct unit_input *in)
{
	snprintf(w->st.why, sizeof(w->st.why),
	         "chunk %llu cannot be read at record %u: its memory was overwritten",
	         (unsigned long long)atomic_load(&w->a->numbers[in->at.entry]), in->record);
	atomic_store_explicit(&w->me->hand_record, in->record, memory_order_relaxed);
	atomic_store_explicit(&w->me->hand_entry, in->at.entry, memory_order_relaxed);
	return -EBADMSG;
}
