/*
 * Appending to the log: heads, groups, the ring's room, checkpoints. Reading it stands in
 * wal_open.c; what it is for, and why a failed write ends it, in wal.h.
 *
 * Room: entries from tail_seq on, as the last checkpoint on the disk has it, are never overwritten.
 * Moving w->need on frees nothing until a checkpoint says so, since after a loss of power the
 * search begins at the checkpoint's tail. An entry is never split over the ring's end; a group that
 * meets it is written as two groups.
 */
#include "ipc/wal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ipc/crc32c.h"
#include "ipc/err.h"
#include "ipc/fault.h"
#include "ipc/wal_disk.h"

/* ---- positions ---- */

static struct wal_position *find_position(struct wal *w, const char *stage, uint32_t ordinal)
{
	for (unsigned i = 0; i < w->positions; i++)
		if (w->position[i].stage[0] && w->position[i].ordinal == ordinal &&
		    strncmp(w->position[i].stage, stage, WAL_NAME_MAX) == 0)
			return &w->position[i];
	return NULL;
}

/* A free place, else that of a producer none of whose entries is kept: it was removed long ago. */
static struct wal_position *free_position(struct wal *w)
{
	struct wal_position *oldest = NULL;
	for (unsigned i = 0; i < w->positions; i++) {
		struct wal_position *p = &w->position[i];
		if (!p->stage[0])
			return p;
		if (p->seq < w->tail_seq && (!oldest || p->seq < oldest->seq))
			oldest = p;
	}
	return oldest;
}

struct wal_position *wal_position(struct wal *w, const char *stage, uint32_t ordinal, bool make)
{
	struct wal_position *p = find_position(w, stage, ordinal);
	if (p || !make)
		return p;
	p = free_position(w);
	if (!p)
		return NULL;
	uint8_t *bytes = p->bytes ? p->bytes : calloc(1, WAL_POSITION_MAX);
	if (!bytes)
		return NULL;
	*p = (struct wal_position){.ordinal = ordinal, .bytes = bytes};
	memset(bytes, 0, WAL_POSITION_MAX);
	memcpy(p->stage, stage, strnlen(stage, WAL_NAME_MAX - 1));
	return p;
}

int wal_set_position(struct wal *w, const char *stage, uint32_t ordinal, const void *bytes,
                     uint32_t len, uint64_t commit)
{
	struct wal_position *p = wal_position(w, stage, ordinal, true);
	if (!p || len > WAL_POSITION_MAX)
		return -ENOSPC;
	memset(p->bytes, 0, WAL_POSITION_MAX);
	memcpy(p->bytes, bytes, len);
	p->len = len;
	p->commit = commit;
	return 0;
}

void wal_apply_patches(struct wal_position *p, const uint8_t *patches, uint32_t bytes, bool fresh)
{
	if (fresh) {
		memset(p->bytes, 0, WAL_POSITION_MAX);
		p->len = 0;
	}
	for (uint32_t at = 0; bytes - at >= 8;) {
		uint32_t off, len;
		memcpy(&off, patches + at, 4);
		memcpy(&len, patches + at + 4, 4);
		if (len > bytes - at - 8 || off > WAL_POSITION_MAX || len > WAL_POSITION_MAX - off)
			return; /* not what a producer commits */
		memcpy(p->bytes + off, patches + at + 8, len);
		if (off + len > p->len)
			p->len = off + len;
		at += 8 + len;
	}
}

/* ---- room ---- */

/* Where the next entry goes, and up to where. */
struct place {
	uint64_t at, tail;
	bool empty; /* nothing is kept: the whole ring is free */
};

static struct place start_place(const struct wal *w)
{
	return (struct place){w->next_at, w->tail_at, w->next_seq == w->tail_seq};
}

/* The place of an entry of @size behind the one before it; moves @p behind it. 0: there is no room.
 */
static uint64_t place(const struct wal *w, struct place *p, uint64_t size)
{
	uint64_t at = p->at;
	if (p->empty) {
		if (size > w->ring_end - w->ring_at)
			return 0;
		if (size > w->ring_end - at)
			at = w->ring_at;
		p->tail = at; /* an empty ring begins where its first entry is */
	} else if (at >= p->tail) {
		if (size > w->ring_end - at)
			at = size < p->tail - w->ring_at ? w->ring_at : 0;
	} else if (size >= p->tail - at) { /* never up to it: that would look empty */
		at = 0;
	}
	if (at) {
		p->at = at + size;
		p->empty = false;
	}
	return at;
}

static bool is_in_line(uint32_t bytes, uint32_t patch_bytes)
{
	uint64_t plain = sizeof(struct wal_head) + patch_bytes;
	return bytes && wal_up(plain + bytes) == wal_up(plain);
}

static uint32_t head_bytes(const struct wal_item *it, bool *in_line)
{
	*in_line = is_in_line(it->bytes, it->patch_bytes);
	return (uint32_t)wal_up(sizeof(struct wal_head) + it->patch_bytes);
}

uint64_t wal_size(uint32_t bytes, uint32_t patch_bytes)
{
	return wal_up(sizeof(struct wal_head) + patch_bytes) +
	       (is_in_line(bytes, patch_bytes) ? 0 : wal_up(bytes));
}

static uint64_t entry_size(const struct wal_item *it)
{
	return wal_size(it->bytes, it->patch_bytes);
}

static uint64_t left(const struct wal *w, const struct place *p)
{
	if (p->empty)
		return w->ring_end - w->ring_at;
	return p->at >= p->tail ? w->ring_end - p->at + p->tail - w->ring_at : p->tail - p->at;
}

static bool room(const struct wal *w, unsigned n, uint32_t bytes, uint64_t reserve,
                 uint64_t reserve_entries)
{
	struct place p = start_place(w);
	if (w->next_seq - w->tail_seq + n + reserve_entries > w->cap)
		return false;
	for (unsigned i = 0; i < n; i++)
		if (!place(w, &p, WAL_HEAD_MAX + wal_up(bytes)))
			return false;
	return left(w, &p) >= reserve;
}

bool wal_room(const struct wal *w, unsigned n, uint32_t bytes)
{
	return room(w, n, bytes, w->reserve, w->reserve_entries);
}

bool wal_fits(const struct wal *w, unsigned n, uint32_t bytes)
{
	return room(w, n, bytes, 0, 0);
}

/* Bytes of the ring from the first whole entry from @seq on to the end. */
static uint64_t span(const struct wal *w, uint64_t seq)
{
	const struct wal_entry *e = NULL;
	for (; !e && seq < w->next_seq; seq++)
		e = wal_entry(w, seq);
	if (!e)
		return 0;
	return w->next_at > e->at ? w->next_at - e->at
	                          : w->ring_end - w->ring_at - (e->at - w->next_at);
}

uint64_t wal_kept(const struct wal *w)
{
	return span(w, w->tail_seq);
}

uint64_t wal_behind(const struct wal *w, uint64_t bytes)
{
	uint64_t kept = wal_kept(w), seq = w->tail_seq;
	if (kept <= bytes)
		return w->next_seq;
	while (seq < w->next_seq && kept - span(w, seq) < bytes)
		seq++;
	return seq;
}

/* ---- appending ---- */

struct run {
	struct iovec iov[2 * WAL_GROUP_MAX];
	int n;
	uint64_t at, bytes;
};

static void put_head(struct wal *w, const struct wal_item *it, uint64_t seq, uint64_t group,
                     uint64_t at, uint8_t *to, uint32_t *bytes)
{
	bool in_line;
	*bytes = head_bytes(it, &in_line);
	struct wal_head h = {.magic = WAL_ENTRY_MAGIC,
	                     .head_bytes = *bytes,
	                     .run = w->run,
	                     .seq = seq,
	                     .at = at,
	                     .group = group,
	                     .need = w->need,
	                     .commit = it->commit,
	                     .number = it->number,
	                     .ordinal = it->ordinal,
	                     .slot = it->slot,
	                     .flags = it->flags | (in_line ? WAL_INLINE : 0),
	                     .records = it->records,
	                     .bytes = it->bytes,
	                     .data_crc = it->crc,
	                     .patch_bytes = it->patch_bytes};
	memcpy(h.id, w->id, sizeof(h.id));
	memcpy(h.epoch, w->epoch, sizeof(h.epoch));
	memcpy(h.stage, it->stage, strnlen(it->stage, sizeof(h.stage) - 1));
	memset(to, 0, *bytes);
	if (it->patch_bytes)
		memcpy(to + sizeof(h), it->patches, it->patch_bytes);
	if (in_line)
		memcpy(to + sizeof(h) + it->patch_bytes, it->data, it->bytes);
	memcpy(to, &h, sizeof(h));
	h.crc = crc32c(0, to, *bytes);
	memcpy(to, &h, sizeof(h));
}

static int write_run(struct wal *w, struct run *r)
{
	if (r->n == 0)
		return 0;
	FAULT(log_write);
	ssize_t n = pwritev(w->fd, r->iov, r->n, (off_t)r->at);
	int x = n < 0 ? err_errno() : (uint64_t)n == r->bytes ? 0 : -EIO;
	if (x == 0 && !w->direct && fdatasync(w->fd) < 0)
		x = err_errno();
	FAULT(log_written);
	w->failed |= x < 0;
	*r = (struct run){0};
	return x;
}

static void add_iov(struct run *r, const void *p, uint64_t bytes)
{
	r->iov[r->n++] = (struct iovec){(void *)(uintptr_t)p, bytes};
	r->bytes += bytes;
}

static struct wal_entry *note_entry(struct wal *w, const struct wal_item *it, uint64_t seq,
                                    uint64_t at, uint64_t group)
{
	struct wal_entry *e = &w->index[seq % w->cap];
	bool in_line;
	head_bytes(it, &in_line);
	*e = (struct wal_entry){.seq = seq,
	                        .at = at,
	                        .commit = it->commit,
	                        .number = it->number,
	                        .size = (uint32_t)entry_size(it),
	                        .records = it->records,
	                        .bytes = it->bytes,
	                        .crc = it->crc,
	                        .slot = it->slot,
	                        .flags = (uint16_t)(it->flags | (in_line ? WAL_INLINE : 0)),
	                        .group = group};
	memcpy(e->epoch, w->epoch, sizeof(e->epoch));
	return e;
}

static void take_in(struct wal *w, const struct wal_item *it, struct wal_entry *e)
{
	struct wal_position *p = find_position(w, it->stage, it->ordinal);
	e->who = (uint16_t)(p - w->position);
	p->seq = e->seq;
	if (it->flags & WAL_CARRIED)
		return; /* it was taken in when it was new */
	p->commit = it->commit;
	p->number = it->number;
	wal_apply_patches(p, it->patches, it->patch_bytes, it->flags & WAL_FRESH);
}

/* Finds a place for all of them, and a position for each. */
static int plan(struct wal *w, const struct wal_item *items, unsigned n, uint64_t *at)
{
	struct place p = start_place(w);
	if (w->next_seq - w->tail_seq + n > w->cap)
		return WAL_E_FULL;
	for (unsigned i = 0; i < n; i++) {
		assert(items[i].patch_bytes <= WAL_PATCHES_MAX);
		if (!wal_position(w, items[i].stage, items[i].ordinal, true))
			return -ENOSPC;
		at[i] = place(w, &p, entry_size(&items[i]));
		if (!at[i])
			return WAL_E_FULL;
	}
	w->tail_at = p.tail;
	return 0;
}

int wal_append(struct wal *w, const struct wal_item *items, unsigned n)
{
	uint64_t at[WAL_GROUP_MAX], group = w->next_seq;
	struct run run = {0};
	assert(n && n <= WAL_GROUP_MAX);
	if (w->failed)
		return -EIO;
	int r = plan(w, items, n, at);
	if (r != 0)
		return r;
	for (unsigned i = 0; i < n; i++) {
		uint8_t *head = w->heads + (size_t)i * WAL_HEAD_MAX;
		uint64_t seq = w->next_seq + i;
		uint32_t bytes;
		if (run.n && at[i] != run.at + run.bytes) { /* the ring's end lies between */
			if ((r = write_run(w, &run)) < 0)
				return r;
			group = seq;
		}
		if (!run.n)
			run.at = at[i];
		put_head(w, &items[i], seq, group, at[i], head, &bytes);
		add_iov(&run, head, bytes);
		if (entry_size(&items[i]) > bytes)
			add_iov(&run, items[i].data, wal_up(items[i].bytes));
		note_entry(w, &items[i], seq, at[i], group);
	}
	if ((r = write_run(w, &run)) < 0)
		return r;
	for (unsigned i = 0; i < n; i++)
		take_in(w, &items[i], &w->index[(w->next_seq + i) % w->cap]);
	w->next_at = at[n - 1] + entry_size(&items[n - 1]);
	w->next_seq += n;
	return 0;
}

/* ---- repeats ---- */

struct numbered {
	uint64_t number, seq;
};

static int by_number(const void *a, const void *b)
{
	const struct numbered *x = a, *y = b;
	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

int wal_find_repeated(struct wal *w, uint64_t from, uint64_t to)
{
	uint64_t n = 0;
	struct numbered *p = calloc(to - from + 1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	for (uint64_t seq = from; seq < to; seq++)
		if (wal_entry(w, seq))
			p[n++] = (struct numbered){wal_entry(w, seq)->number, seq};
	qsort(p, n, sizeof(*p), by_number);
	for (uint64_t i = 1; i < n; i++)
		if (p[i].number == p[i - 1].number)
			w->index[p[i].seq % w->cap].flags |= WAL_REPEATED;
	free(p);
	return 0;
}

/* ---- checkpoints ---- */

static uint32_t put_positions(const struct wal *w, struct wal_checkpoint *c, uint8_t *to)
{
	uint32_t bytes = WAL_BLOCK;
	for (unsigned i = 0; i < w->positions; i++) {
		const struct wal_position *p = &w->position[i];
		uint32_t len = p->len;
		if (!p->stage[0])
			continue;
		while (len && !p->bytes[len - 1])
			len--;
		struct wal_saved *s = &c->saved[c->n++];
		*s = (struct wal_saved){.ordinal = p->ordinal,
		                        .len = len,
		                        .commit = p->commit,
		                        .number = p->number,
		                        .seq = p->seq};
		memcpy(s->stage, p->stage, sizeof(s->stage));
		memcpy(to + bytes, p->bytes, len);
		bytes += len;
	}
	return bytes;
}

/* The oldest entry that is kept: the first whole one from w->need on; but one whose records are not
 * in the figures yet has to be there to be counted. */
static void find_tail(const struct wal *w, uint64_t *seq, uint64_t *at)
{
	uint64_t from = w->need < w->figures_seq ? w->need : w->figures_seq;
	*seq = w->next_seq;
	*at = w->next_at;
	for (uint64_t s = from > w->tail_seq ? from : w->tail_seq; s < w->next_seq; s++) {
		const struct wal_entry *e = wal_entry(w, s);
		if (!e)
			continue;
		*seq = s;
		*at = e->at;
		return;
	}
}

int wal_checkpoint(struct wal *w)
{
	struct wal_checkpoint c = {.magic = WAL_CHECKPOINT_MAGIC,
	                           .generation = w->generation + 1,
	                           .run = w->run,
	                           .next_seq = w->next_seq,
	                           .next_at = w->next_at};
	if (w->failed)
		return -EIO;
	memcpy(c.id, w->id, sizeof(c.id));
	memcpy(c.figures, w->figures, sizeof(c.figures));
	c.figures_seq = w->figures_seq;
	find_tail(w, &c.tail_seq, &c.tail_at);
	memset(w->region_buf, 0, WAL_BLOCK);
	c.bytes = put_positions(w, &c, w->region_buf);
	memset(w->region_buf + c.bytes, 0, wal_up(c.bytes) - c.bytes);
	memcpy(w->region_buf, &c, sizeof(c));
	c.crc = crc32c(0, w->region_buf, c.bytes);
	memcpy(w->region_buf, &c, sizeof(c));
	struct run run = {.at = WAL_BLOCK + (c.generation & 1) * w->region};
	add_iov(&run, w->region_buf, wal_up(c.bytes));
	int r = write_run(w, &run);
	if (r < 0)
		return r;
	w->generation = c.generation;
	w->tail_seq = c.tail_seq;
	w->tail_at = c.tail_at;
	return 0;
}
