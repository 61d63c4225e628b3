/*
 * Chunks that are not what was sealed: kept out of the flow, counted, told; their bytes are saved
 * for inspection.
 *
 * Two ways lead there. A chunk of an earlier boot is compared with its CRC32C whenever it is
 * claimed. In the same boot memory is trusted, for looking at every byte twice would cost more than
 * all the rest; but a chunk that a worker has died on is suspect, and is then looked at in full:
 * its CRC32C where it has one, and whether its bytes are so many records. So a stray write of some
 * worker costs one more worker and the chunk, not the stage.
 *
 * A chunk that kept its entry for good would take room from all: the entry may be the one that an
 * edge owns, without which it may never get another. So the writer of dead letters, which may write
 * files, saves the bytes beside the letters and says so in the word; then the master frees the
 * entry and keeps the count (aside.c). Bytes that cannot be saved are given up, for a full disk
 * must not stop a pipeline; and the files are a ring of ASIDE_FILES, for they must not fill one.
 *
 * What was committed of the chunk before (reached_record) is done and stays done; the rest of it is
 * set aside.
 */
#include "daemon/worker.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ipc/err.h"
#include "ipc/mp.h"

enum {
	ASIDE_FILES = 32,
	LOOK_NS = 100000000, /* how often for chunks that are to be saved */
};

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
	uint32_t left = arena_left(f);
	log_error("chunk %llu (%u records) is torn or corrupt: set aside in entry %u",
	          (unsigned long long)atomic_load(&w->a->numbers[h.entry]), left, h.entry);
	atomic_fetch_add(&w->a->h->aside, 1);
	atomic_fetch_add(&w->a->h->aside_records, left);
	v.state = WORD_ASIDE;
	v.owner = 0;
	atomic_store_explicit(&w->a->words[h.entry], word_pack(v), memory_order_release);
}

/* ---- the writer of dead letters ---- */

/* A crash between this and the word only makes it write the same file again. */
static void save(const struct worker *w, uint32_t entry)
{
	char name[4096], fresh[4096 + 8];
	const struct arena_facts *f = &w->a->facts[entry];
	unsigned long long number = atomic_load(&w->a->numbers[entry]);
	size_t len = f->bytes < w->a->buffer_size ? f->bytes : w->a->buffer_size;
	snprintf(name, sizeof(name), "%s/aside.%llu", w->config->dead_path, number % ASIDE_FILES);
	snprintf(fresh, sizeof(fresh), "%s.new", name);
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	int r = fd < 0 ? err_errno() : err_pwrite(fd, arena_buffer(w->a, entry), len, 0);
	if (fd >= 0)
		close(fd);
	if (r == 0 && rename(fresh, name) < 0)
		r = err_errno();
	if (r == 0) {
		log_notice("the bytes of chunk %llu are in %s", number, name);
		return;
	}
	log_error("the bytes of chunk %llu cannot be saved to %s: %s", number, name, strerror(-r));
	unlink(fresh);
}

void unit_save_aside(struct worker *w)
{
	static int64_t looked;
	int64_t now = clock_monotonic();
	if (now - looked < LOOK_NS)
		return;
	looked = now;
	for (uint32_t i = 0; i < w->a->entries; i++) {
		struct word v = arena_word(w->a, i);
		if (v.state != WORD_ASIDE || v.owner == ARENA_SAVED)
			continue;
		save(w, i);
		v.owner = ARENA_SAVED;
		atomic_store_explicit(&w->a->words[i], word_pack(v), memory_order_release);
	}
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
