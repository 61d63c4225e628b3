/*
 * Making and attaching the mapping, and the names in its header (master only).
 *
 * The file is allocated in full before it is mapped: a page that cannot be had later would be a
 * SIGBUS in whichever worker touched it. With ARENA_GUARD (sanitizer builds) an inaccessible page
 * follows each buffer, so that an overrun faults where it happens.
 */
#include "ipc/arena.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/err.h"
#include "ipc/fault.h"

static const char magic[8] = "SLUICE\n";

enum {
	PAGE = 4096,
#ifdef ARENA_GUARD
	GUARD = PAGE,
#else
	GUARD = 0,
#endif
};

static uint64_t up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

static void lay_out(struct arena_header *h, const struct arena_geometry *g)
{
	h->layout = ARENA_LAYOUT;
	h->header_size = sizeof(*h);
	h->entries = g->entries;
	h->workers = g->workers;
	h->worker_stride = (uint32_t)up(sizeof(struct arena_worker), PAGE);
	h->checked = g->checked;
	h->buffer_size = g->buffer_size;
	h->tail_size = g->tails ? ARENA_TAIL : 0;
	h->buffer_stride = up(g->buffer_size, PAGE) + h->tail_size + GUARD;
	h->workers_at = up(sizeof(*h), PAGE);
	h->words_at = h->workers_at + (uint64_t)h->workers * h->worker_stride;
	h->numbers_at = up(h->words_at + 8ull * h->entries, 64);
	h->facts_at = up(h->numbers_at + 8ull * h->entries, 128);
	h->buffers_at = up(h->facts_at + sizeof(struct arena_facts) * h->entries, PAGE);
	h->total_size = h->buffers_at + h->buffer_stride * h->entries;
}

uint64_t arena_bytes(const struct arena_geometry *g)
{
	struct arena_header *h = calloc(1, sizeof(*h));
	assert(h);
	lay_out(h, g);
	uint64_t n = h->total_size;
	free(h);
	return n;
}

uint64_t arena_overhead(const struct arena_geometry *g)
{
	return arena_bytes(g) - (up(g->buffer_size, PAGE) + GUARD) * g->entries;
}

static void boot_id(uint8_t out[16])
{
	char text[64] = "";
	const char *path = "/proc/sys/kernel/random/boot_id";
#ifdef SLUICE_FAULTS
	if (getenv("SLUICE_BOOT_ID")) /* a file with another one: a test's loss of power */
		path = getenv("SLUICE_BOOT_ID");
#endif
	memset(out, 0, 16);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 36)
		return;
	unsigned n = 0;
	for (const char *p = text; *p && n < 32; p++) {
		unsigned v = *p >= '0' && *p <= '9'   ? (unsigned)(*p - '0')
		             : *p >= 'a' && *p <= 'f' ? (unsigned)(*p - 'a') + 10
		                                      : 16;
		if (v > 15)
			continue;
		out[n / 2] = (uint8_t)(out[n / 2] << 4 | v);
		n++;
	}
}

static void take_view(struct arena *a, void *base)
{
	struct arena_header *h = base;
	uint8_t *p = base;
	a->h = h;
	a->size = h->total_size;
	a->entries = h->entries;
	a->workers = h->workers;
	a->worker_stride = h->worker_stride;
	a->buffer_size = h->buffer_size;
	a->buffer_stride = h->buffer_stride;
	a->tail_size = h->tail_size;
	a->workers_at = p + h->workers_at;
	a->words = (_Atomic uint64_t *)(void *)(p + h->words_at);
	a->numbers = (_Atomic uint64_t *)(void *)(p + h->numbers_at);
	a->facts = (struct arena_facts *)(void *)(p + h->facts_at);
	a->buffers = p + h->buffers_at;
}

static int guard_buffers(const struct arena *a)
{
	for (uint32_t i = 0; GUARD > 0 && i < a->entries; i++)
		if (mprotect(arena_buffer(a, i) + a->buffer_stride - PAGE, PAGE, PROT_NONE) < 0)
			return err_errno();
	return 0;
}

static int fill_header(struct arena_header *h)
{
	if (getrandom(h->epoch, sizeof(h->epoch), 0) != sizeof(h->epoch))
		return err_errno();
	h->epoch[6] = (uint8_t)((h->epoch[6] & 0x0f) | 0x40); /* a version 4 UUID, RFC 9562 */
	h->epoch[8] = (uint8_t)((h->epoch[8] & 0x3f) | 0x80);
	boot_id(h->boot_id);
	h->boot = 1;
	atomic_store(&h->next_number, 1);
	return 0;
}

int arena_place(struct arena *a, void *memory, size_t size, const struct arena_geometry *g)
{
	*a = (struct arena){.fd = -1};
	struct arena_header *h = memory;
	lay_out(h, g);
	if (h->total_size > size)
		return -ENOSPC;
	int r = fill_header(h);
	if (r < 0)
		return r;
	take_view(a, memory);
	for (uint32_t w = 0; w < a->workers; w++)
		atomic_store(&arena_worker(a, w)->hand_entry, ARENA_NO_RECORD);
	memcpy(h->magic, magic, sizeof(magic)); /* last: a half-made arena has none */
	return 0;
}

static int map(int fd, size_t size, int flags, void **base)
{
	*base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	return *base == MAP_FAILED ? err_errno() : 0;
}

int arena_create(struct arena *a, int fd, const struct arena_geometry *g)
{
	void *base = NULL;
	uint64_t size = arena_bytes(g);
	int r = ftruncate(fd, 0) < 0 ? err_errno() : 0;
	if (r == 0) {
		r = -posix_fallocate(fd, 0, (off_t)size);
		if (r == 0)
			r = map(fd, size, MAP_SHARED, &base);
	}
	if (r < 0) {
		(void)!ftruncate(fd, 0);
		return r;
	}
	r = arena_place(a, base, size, g);
	if (r == 0)
		r = guard_buffers(a);
	if (r < 0) {
		munmap(base, size);
		return r;
	}
	a->fd = fd;
	return 0;
}

static bool plausible(const struct arena_header *h, uint64_t file_size)
{
	struct arena_geometry g = {h->entries, h->workers, h->buffer_size, h->checked != 0,
	                           h->tail_size != 0};
	if (!g.entries || !g.workers || g.workers > ARENA_WORKERS_MAX || !g.buffer_size ||
	    g.entries > file_size / 64 || g.buffer_size > file_size)
		return false;
	struct arena_header *want = calloc(1, sizeof(*want));
	if (!want)
		return false;
	lay_out(want, &g);
	bool same = want->total_size == h->total_size && want->buffers_at == h->buffers_at &&
	            want->facts_at == h->facts_at && want->numbers_at == h->numbers_at &&
	            want->words_at == h->words_at && want->workers_at == h->workers_at &&
	            want->worker_stride == h->worker_stride && want->tail_size == h->tail_size &&
	            want->buffer_stride == h->buffer_stride && h->total_size <= file_size;
	free(want);
	return same;
}

static bool boot_differs(const struct arena_header *h)
{
	uint8_t now[16];
	boot_id(now);
	return memcmp(now, h->boot_id, sizeof(now)) != 0;
}

void arena_note_boot(struct arena *a)
{
	if (!boot_differs(a->h))
		return;
	boot_id(a->h->boot_id);
	a->h->boot++;
}

static int check_header(const struct arena_header *h, uint64_t file_size)
{
	if (memcmp(h->magic, magic, sizeof(magic)) != 0)
		return ARENA_E_CORRUPT;
	if (h->layout != ARENA_LAYOUT || h->header_size != sizeof(*h))
		return ARENA_E_LAYOUT;
	return plausible(h, file_size) ? 0 : ARENA_E_CORRUPT;
}

static int attach(struct arena *a, int fd, int flags)
{
	struct stat st;
	void *base;
	*a = (struct arena){.fd = -1};
	if (fstat(fd, &st) < 0)
		return err_errno();
	if ((uint64_t)st.st_size < sizeof(struct arena_header))
		return ARENA_E_CORRUPT;
	int r = map(fd, (size_t)st.st_size, flags, &base);
	if (r < 0)
		return r;
	r = check_header(base, (uint64_t)st.st_size);
	if (r != 0) {
		munmap(base, (size_t)st.st_size);
		return r;
	}
	take_view(a, base);
	a->size = (size_t)st.st_size;
	a->fd = fd;
	a->boot_changed = boot_differs(a->h);
	return guard_buffers(a);
}

int arena_attach(struct arena *a, int fd)
{
	return attach(a, fd, MAP_SHARED);
}

int arena_look(struct arena *a, int fd)
{
	return attach(a, fd, MAP_PRIVATE);
}

void arena_detach(struct arena *a)
{
	if (a->h)
		munmap(a->h, a->size);
	*a = (struct arena){.fd = -1};
}

static void put_name(char *to, size_t size, const char *name)
{
	size_t len = strnlen(name, size - 1);
	memset(to, 0, size);
	memcpy(to, name, len);
}

int arena_edge_assign(struct arena *a, const char *from, const char *to, uint32_t *edge)
{
	uint64_t used = atomic_load(&a->h->edges_used);
	uint32_t free_one = ARENA_NO_EDGE;
	bool own_free = false;
	for (uint32_t e = 0; e < ARENA_EDGES_MAX && e < a->entries; e++) {
		struct arena_edge *it = &a->h->edges[e];
		if (!(used >> e & 1)) {
			if (arena_charged(a, e))
				continue;
			/* one whose own entry is free: else the new edge would depend on whose
			 * chunk is in it */
			bool own = arena_word(a, e).state == WORD_FREE;
			if (free_one == ARENA_NO_EDGE || (own && !own_free))
				free_one = e;
			own_free |= own;
		} else if (strncmp(it->from, from, sizeof(it->from)) == 0 &&
		           strncmp(it->to, to, sizeof(it->to)) == 0) {
			*edge = e;
			return 0;
		}
	}
	if (free_one == ARENA_NO_EDGE)
		return ARENA_E_NONE;
	struct arena_edge *it = &a->h->edges[free_one];
	put_name(it->from, sizeof(it->from), from);
	put_name(it->to, sizeof(it->to), to);
	atomic_store(&it->quota, 1);
	atomic_store(&it->drop, 0);
	atomic_store(&it->discard, 0);
	atomic_store(&a->h->edges_used, used | 1ull << free_one);
	*edge = free_one;
	return 0;
}

void arena_edge_remove(struct arena *a, uint32_t edge)
{
	atomic_fetch_and(&a->h->edges_used, ~(1ull << edge));
}

static void clear_slot(struct arena_worker *s)
{
	uint64_t number = atomic_load(&s->committed.number); /* never goes back: see commit ids */
	memset(&s->committed, 0, sizeof(s->committed));
	atomic_store(&s->committed.number, number);
	memset(&s->stats, 0, sizeof(s->stats));
	memset(s->position, 0, sizeof(s->position));
	memset(s->why, 0, sizeof(s->why));
	memset(s->heir, 0, sizeof(s->heir));
	s->poison_input = 0;
	s->poison_count = s->poison_signal = 0;
	atomic_store(&s->order, 0);
	atomic_store(&s->activity, 0);
	atomic_store(&s->reopen, 0);
	atomic_store(&s->tap, 0);
}

int arena_worker_assign(struct arena *a, const char *stage, uint32_t ordinal, uint32_t *slot)
{
	uint32_t free_one = UINT32_MAX;
	for (uint32_t w = 0; w < a->workers; w++) {
		struct arena_worker *s = arena_worker(a, w);
		if (!s->stage[0]) {
			if (free_one == UINT32_MAX && atomic_load(&s->intent.state) == INTENT_OPEN)
				free_one = w;
		} else if (s->ordinal == ordinal &&
		           strncmp(s->stage, stage, sizeof(s->stage)) == 0) {
			*slot = w;
			return 0;
		}
	}
	if (free_one == UINT32_MAX)
		return ARENA_E_NONE;
	struct arena_worker *s = arena_worker(a, free_one);
	clear_slot(s);
	s->ordinal = ordinal;
	put_name(s->stage, sizeof(s->stage), stage);
	*slot = free_one;
	return 0;
}

static struct arena_book *book_line(struct arena *a, const char *stage)
{
	for (uint32_t i = 0; i < ARENA_BOOKS_MAX; i++) {
		struct arena_book *b = &a->h->books[i];
		if (!b->stage[0] || strncmp(b->stage, stage, sizeof(b->stage)) == 0)
			return b;
	}
	return &a->h->books[ARENA_BOOKS_MAX - 1]; /* the last line gathers the rest */
}

static struct arena_book *begin_retire(struct arena *a, const char *stage)
{
	struct arena_book *b = book_line(a, stage);
	FAULT(retire_intent);
	if (!b->stage[0])
		put_name(b->stage, sizeof(b->stage), stage);
	a->h->retire.line = (uint32_t)(b - a->h->books);
	memcpy(a->h->retire.book, b->book, sizeof(b->book));
	return b;
}

int arena_worker_retire(struct arena *a, uint32_t slot, const char *heir)
{
	return arena_worker_retire_as(a, slot, arena_worker(a, slot)->stage, heir);
}

int arena_worker_retire_as(struct arena *a, uint32_t slot, const char *stage, const char *heir)
{
	const struct arena_worker *s = arena_worker(a, slot);
	struct arena_book *b = begin_retire(a, stage);
	put_name(b->heir, sizeof(b->heir), heir ? heir : "");
	a->h->retire.slot = slot;
	for (unsigned i = 0; i < BOOK_COUNT; i++)
		a->h->retire.book[i] += s->committed.book[i];
	atomic_store_explicit(&a->h->retire.state, RETIRE_SLOT, memory_order_release);
	arena_retire_finish(a);
	return 0;
}

static void commit_discard(struct arena *a, uint32_t entry, uint64_t records)
{
	a->h->retire.slot = entry;
	a->h->retire.gen = arena_word(a, entry).gen;
	a->h->retire.book[BOOK_dropped] += records;
	atomic_store_explicit(&a->h->retire.state, RETIRE_DISCARD, memory_order_release);
	arena_retire_finish(a);
}

uint64_t arena_discard(struct arena *a, uint32_t entry, const char *stage)
{
	const struct arena_facts *f = &a->facts[entry];
	uint64_t n = arena_left(f);
	begin_retire(a, stage);
	commit_discard(a, entry, n);
	return n;
}

static const char aside_prefix[] = "aside:"; /* no stage's name has a colon */

void arena_put_away(struct arena *a, uint32_t entry, const char *stage, uint64_t records)
{
	char name[ARENA_NAME_MAX + sizeof(aside_prefix)];
	snprintf(name, sizeof(name), "%s%.*s", aside_prefix, ARENA_NAME_MAX - 1, stage);
	name[ARENA_NAME_MAX - 1] = 0;
	struct arena_book *b = begin_retire(a, name);
	if (arena_line_is_aside(b)) /* not the last one, which gathers the rest */
		put_name(b->heir, sizeof(b->heir), stage);
	commit_discard(a, entry, records);
}

bool arena_line_is_aside(const struct arena_book *line)
{
	return strncmp(line->stage, aside_prefix, sizeof(aside_prefix) - 1) == 0;
}

static void free_slot(struct arena *a, uint32_t slot)
{
	if (slot >= a->workers)
		return;
	struct arena_worker *s = arena_worker(a, slot);
	memset(s->committed.book, 0, sizeof(s->committed.book));
	s->stage[0] = 0;
}

static void free_entry(struct arena *a, uint32_t entry, uint32_t gen)
{
	if (entry >= a->entries)
		return;
	struct word v = arena_word(a, entry);
	if ((v.state != WORD_QUEUED && v.state != WORD_ASIDE) || v.gen != gen)
		return;
	v.state = WORD_FREE;
	v.owner = 0;
	v.attempts = 0;
	atomic_store_explicit(&a->words[entry], word_pack(v), memory_order_release);
}

void arena_retire_finish(struct arena *a)
{
	uint32_t state = atomic_load_explicit(&a->h->retire.state, memory_order_acquire);
	uint32_t line = a->h->retire.line;
	if ((state != RETIRE_SLOT && state != RETIRE_DISCARD) || line >= ARENA_BOOKS_MAX)
		return;
	FAULT(retire_book);
	memcpy(a->h->books[line].book, a->h->retire.book, sizeof(a->h->retire.book));
	FAULT(retire_clear);
	if (state == RETIRE_SLOT)
		free_slot(a, a->h->retire.slot);
	else
		free_entry(a, a->h->retire.slot, a->h->retire.gen);
	atomic_store_explicit(&a->h->retire.state, RETIRE_NONE, memory_order_release);
}
