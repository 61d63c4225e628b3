/*
 * Making the log and reading it: which checkpoint counts, where the entries are, where they end.
 *
 * From the checkpoint's tail on each entry says where the next one begins. Where none is found, the
 * search goes on over SEARCH bytes for one of a later group: that one proves that what lies between
 * is damage of something that was whole (counted, skipped). Without such proof the log ends there.
 * The last group's records are checked too, before anything of it counts.
 *
 * Limits: damage of more than SEARCH bytes in a row ends the log early, and what lies behind it is
 * not found; a damaged record of an older group is found when it is read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "ipc/crc32c.h"
#include "ipc/err.h"
#include "ipc/wal_disk.h"

const char wal_magic[8] = "SLUICEW";

enum {
	WINDOW = 256 * 1024,
	ZEROS = 1 << 20,
	SEARCH = 32 << 20,
};

/* ---- making ---- */

static void *aligned(size_t bytes)
{
	void *p = aligned_alloc(WAL_BLOCK, wal_up(bytes));
	if (p)
		memset(p, 0, wal_up(bytes));
	return p;
}

/* Written and not only allocated: the first write to an allocated block costs the file system a
 * journal entry. */
static int fill(int fd, uint64_t size)
{
	int r = -posix_fallocate(fd, 0, (off_t)size);
	_cleanup_free_ void *zeros = aligned(ZEROS);
	if (!zeros)
		return -ENOMEM;
	for (uint64_t at = 0; r == 0 && at < size; at += ZEROS)
		r = err_pwrite(fd, zeros, size - at < ZEROS ? size - at : ZEROS, (off_t)at);
	return r;
}

static int write_start(int fd, struct wal_file *f)
{
	_cleanup_free_ uint8_t *block = aligned(2 * WAL_BLOCK);
	if (!block || getrandom(f->id, sizeof(f->id), 0) != sizeof(f->id))
		return -ENOMEM;
	f->crc = crc32c(0, f, sizeof(*f));
	memcpy(block, f, sizeof(*f));
	struct wal_checkpoint c = {.magic = WAL_CHECKPOINT_MAGIC,
	                           .bytes = WAL_BLOCK,
	                           .next_seq = 1,
	                           .next_at = f->ring_at,
	                           .tail_seq = 1,
	                           .tail_at = f->ring_at};
	memcpy(c.id, f->id, sizeof(c.id));
	memcpy(block + WAL_BLOCK, &c, sizeof(c));
	c.crc = crc32c(0, block + WAL_BLOCK, WAL_BLOCK);
	memcpy(block + WAL_BLOCK, &c, sizeof(c));
	return err_pwrite(fd, block, 2 * WAL_BLOCK, 0);
}

static int sync_directory(const char *path)
{
	char dir[4096];
	const char *slash = strrchr(path, '/');
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? err_errno() : 0;
}

int wal_create(const char *path, uint64_t ring, uint32_t positions)
{
	char fresh[4096];
	struct wal_file f = {.version = WAL_VERSION, .positions = positions};
	if (positions > WAL_POSITIONS_MAX || ring < WAL_RING_MIN ||
	    snprintf(fresh, sizeof(fresh), "%s.new", path) >= (int)sizeof(fresh))
		return -EINVAL;
	memcpy(f.magic, wal_magic, sizeof(f.magic));
	f.region = WAL_BLOCK + (uint64_t)positions * WAL_POSITION_MAX;
	f.ring_at = WAL_BLOCK + 2 * f.region;
	f.ring_end = f.ring_at + wal_up(ring);
	_cleanup_close_ int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno();
	int r = fill(fd, f.ring_end);
	if (r == 0)
		r = write_start(fd, &f);
	if (r == 0 && fsync(fd) < 0)
		r = err_errno();
	if (r == 0 && rename(fresh, path) < 0)
		r = err_errno();
	if (r < 0) {
		unlink(fresh);
		return r;
	}
	return sync_directory(path);
}

/* ---- reading ---- */

struct window {
	uint8_t *p; /* WINDOW bytes and a head more */
	uint64_t at, len;
};

/* At least one block at @at, as much as there is; NULL on an error. */
static const uint8_t *look_at(struct wal *w, struct window *win, uint64_t at, uint64_t need)
{
	if (at >= win->at && at + need <= win->at + win->len)
		return win->p + (at - win->at);
	uint64_t want = w->ring_end - at < WINDOW ? w->ring_end - at : WINDOW;
	ssize_t n = want >= need ? pread(w->fd, win->p, want, (off_t)at) : -1;
	if (n < (ssize_t)need)
		return NULL;
	win->at = at;
	win->len = (uint64_t)n;
	return win->p;
}

static bool sound_head(const struct wal *w, const struct wal_head *h, uint64_t at)
{
	uint64_t end = at + h->head_bytes + (h->flags & WAL_INLINE ? 0 : wal_up(h->bytes));
	uint64_t in_line = h->flags & WAL_INLINE ? h->bytes : 0;
	return h->magic == WAL_ENTRY_MAGIC && memcmp(h->id, w->id, sizeof(h->id)) == 0 &&
	       h->at == at && h->head_bytes >= WAL_BLOCK && h->head_bytes <= WAL_HEAD_MAX &&
	       h->head_bytes % WAL_BLOCK == 0 && h->patch_bytes <= WAL_PATCHES_MAX &&
	       sizeof(*h) + h->patch_bytes + in_line <= h->head_bytes && end <= w->ring_end &&
	       h->stage[WAL_NAME_MAX - 1] == 0 && h->stage[0];
}

/* The head at @at when there is a whole one; what follows it lies behind it. */
static const uint8_t *head_at(struct wal *w, struct window *win, uint64_t at, struct wal_head *h)
{
	if (at < w->ring_at || at > w->ring_end - WAL_BLOCK || at % WAL_BLOCK)
		return NULL;
	const uint8_t *p = look_at(w, win, at, WAL_BLOCK);
	if (!p)
		return NULL;
	memcpy(h, p, sizeof(*h));
	if (!sound_head(w, h, at))
		return NULL;
	p = look_at(w, win, at, h->head_bytes);
	if (!p)
		return NULL;
	struct wal_head zero = *h;
	zero.crc = 0;
	uint32_t crc = crc32c(0, &zero, sizeof(zero));
	crc = crc32c(crc, p + sizeof(zero), h->head_bytes - sizeof(zero));
	return crc == h->crc ? p : NULL;
}

struct scan {
	struct window win;
	uint64_t seq, at; /* what is looked for */
	uint64_t run;     /* at least */
	uint64_t fixed;   /* the checkpoint's next_seq: what is before it was whole once, from it on
	                     run counts */
	uint64_t fixed_at;
	uint64_t group; /* of the last entry */
	uint64_t need;  /* as the last entry says */
	bool have_first;
	struct wal_head first; /* the one at the ring's beginning */
};

static bool expected(const struct scan *s, const struct wal_head *h)
{
	return h->seq == s->seq && (h->seq < s->fixed || h->run >= s->run);
}

/* Notes an entry whose head is in @h. False: no room to keep track of it (the file is another's
 * work). */
static bool keep(struct wal *w, struct scan *s, const struct wal_head *h)
{
	struct wal_position *p = wal_position(w, h->stage, h->ordinal, true);
	if (!p || h->seq - w->tail_seq >= w->cap)
		return false;
	struct wal_entry *e = &w->index[h->seq % w->cap];
	*e = (struct wal_entry){
	        .seq = h->seq,
	        .at = h->at,
	        .commit = h->commit,
	        .number = h->number,
	        .size = (uint32_t)(h->head_bytes + (h->flags & WAL_INLINE ? 0 : wal_up(h->bytes))),
	        .records = h->records,
	        .bytes = h->bytes,
	        .crc = h->data_crc,
	        .slot = h->slot,
	        .who = (uint16_t)(p - w->position),
	        .flags = (uint16_t)h->flags,
	        .group = h->group};
	memcpy(e->epoch, h->epoch, sizeof(e->epoch));
	if (p->seq < h->seq)
		p->seq = h->seq; /* its place is not to be given away */
	s->seq = w->next_seq = h->seq + 1;
	s->at = h->at + e->size;
	s->group = h->group;
	s->need = h->need;
	if (h->seq >= s->fixed && h->run > s->run)
		s->run = h->run;
	return true;
}

/* An entry of a later group, within SEARCH bytes: proof that what is missing before it was whole
 * once. */
static bool find_later(struct wal *w, struct scan *s, struct wal_head *h)
{
	uint64_t ring = w->ring_end - w->ring_at, at = s->at < w->ring_end ? s->at : w->ring_at;
	for (uint64_t n = 0; n < ring && n < SEARCH; n += WAL_BLOCK) {
		if (head_at(w, &s->win, at, h) && h->group > s->seq && h->seq - s->seq < w->cap &&
		    (h->seq < s->fixed || h->run >= s->run))
			return true;
		at = at + WAL_BLOCK < w->ring_end ? at + WAL_BLOCK : w->ring_at;
	}
	return false;
}

static void note_damage(struct wal *w, struct scan *s, uint64_t until)
{
	for (; s->seq < until; s->seq++, w->damaged++)
		w->index[s->seq % w->cap] = (struct wal_entry){.seq = s->seq};
	w->next_seq = s->seq;
}

/* The entry behind the last one, or at the ring's beginning when that was the last that fitted.
 * Both may be there: a torn one that was given up, and the longer one written in its stead. That
 * one has the higher run. */
static bool find_next(struct wal *w, struct scan *s, struct wal_head *h)
{
	bool behind = head_at(w, &s->win, s->at, h) && expected(s, h);
	bool round = s->have_first && expected(s, &s->first);
	if (round && (!behind || h->run < s->first.run))
		*h = s->first;
	return behind || round;
}

static void scan_entries(struct wal *w, struct scan *s)
{
	struct wal_head h;
	s->have_first = head_at(w, &s->win, w->ring_at, &s->first) != NULL;
	for (;;) {
		bool found = find_next(w, s, &h);
		if (!found && find_later(w, s, &h)) {
			note_damage(w, s, h.seq);
			found = true;
		}
		if (!found && s->seq < s->fixed) { /* the checkpoint proves what no entry does */
			note_damage(w, s, s->fixed);
			s->at = s->fixed_at;
			continue;
		}
		if (!found || !keep(w, s, &h))
			return;
	}
}

/* The records of the last group; the log ends before the first entry whose records are not there.
 */
static int check_last_group(struct wal *w, struct scan *s)
{
	_cleanup_free_ uint8_t *data = NULL;
	for (uint64_t seq = s->group > s->fixed ? s->group : s->fixed; seq < s->seq; seq++) {
		const struct wal_entry *e = wal_entry(w, seq);
		if (!e)
			continue;
		free(data);
		data = aligned(e->bytes + 1);
		int r = data ? wal_read(w, e, data) : -ENOMEM;
		if (r < 0)
			return r;
		if (r == 0)
			continue;
		s->at = e->at;
		s->seq = w->next_seq = seq;
		w->torn = true;
	}
	return 0;
}

static int apply_all(struct wal *w, struct scan *s)
{
	struct wal_head h;
	for (uint64_t seq = s->fixed; seq < s->seq; seq++) {
		const struct wal_entry *e = wal_entry(w, seq);
		const uint8_t *p = e ? head_at(w, &s->win, e->at, &h) : NULL;
		if (!e)
			continue;
		if (!p)
			return -EIO; /* it was whole a moment ago */
		struct wal_position *pos = &w->position[e->who];
		pos->seq = seq;
		if (h.flags & WAL_CARRIED)
			continue;
		pos->commit = h.commit;
		pos->number = h.number;
		wal_apply_patches(pos, p + sizeof(h), h.patch_bytes, h.flags & WAL_FRESH);
	}
	return 0;
}

/* ---- opening ---- */

static int read_checkpoint(struct wal *w, unsigned which, struct wal_checkpoint *c)
{
	ssize_t n = pread(w->fd, w->region_buf, w->region, (off_t)(WAL_BLOCK + which * w->region));
	if (n != (ssize_t)w->region)
		return n < 0 ? err_errno() : WAL_E_CORRUPT;
	memcpy(c, w->region_buf, sizeof(*c));
	if (c->magic != WAL_CHECKPOINT_MAGIC || memcmp(c->id, w->id, sizeof(c->id)) != 0 ||
	    c->bytes < WAL_BLOCK || c->bytes > w->region || c->n > w->positions)
		return WAL_E_CORRUPT;
	uint32_t crc = c->crc;
	c->crc = 0;
	memcpy(w->region_buf, c, sizeof(*c));
	return crc32c(0, w->region_buf, c->bytes) == crc ? 0 : WAL_E_CORRUPT;
}

static int take_positions(struct wal *w, const struct wal_checkpoint *c)
{
	uint64_t at = WAL_BLOCK;
	for (unsigned i = 0; i < c->n; i++) {
		const struct wal_saved *s = &c->saved[i];
		struct wal_position *p = &w->position[i];
		if (s->len > WAL_POSITION_MAX || s->len > c->bytes - at || !s->stage[0] ||
		    s->stage[WAL_NAME_MAX - 1])
			return WAL_E_CORRUPT;
		*p = (struct wal_position){.ordinal = s->ordinal,
		                           .len = s->len,
		                           .commit = s->commit,
		                           .number = s->number,
		                           .seq = s->seq,
		                           .bytes = calloc(1, WAL_POSITION_MAX)};
		if (!p->bytes)
			return -ENOMEM;
		memcpy(p->stage, s->stage, sizeof(p->stage));
		memcpy(p->bytes, w->region_buf + at, s->len);
		at += s->len;
	}
	return 0;
}

/* The younger of the two that are whole. */
static int choose_checkpoint(struct wal *w, struct wal_checkpoint *best)
{
	struct wal_checkpoint c;
	bool have = false;
	unsigned which = 0;
	for (unsigned i = 0; i < 2; i++) {
		int r = read_checkpoint(w, i, &c);
		if (r < 0)
			return r;
		if (r != 0 || (have && c.generation < best->generation))
			continue;
		*best = c;
		which = i;
		have = true;
	}
	if (!have)
		return WAL_E_CORRUPT;
	int r = read_checkpoint(w, which, &c);
	return r != 0 ? r : take_positions(w, best);
}

static int read_file_head(struct wal *w)
{
	struct wal_file f;
	_cleanup_free_ uint8_t *block = aligned(WAL_BLOCK);
	ssize_t n = block ? pread(w->fd, block, WAL_BLOCK, 0) : -1;
	if (n != WAL_BLOCK)
		return n < 0 ? err_errno() : WAL_E_CORRUPT;
	memcpy(&f, block, sizeof(f));
	if (memcmp(f.magic, wal_magic, sizeof(f.magic)) != 0)
		return WAL_E_CORRUPT;
	if (f.version != WAL_VERSION)
		return WAL_E_VERSION;
	uint32_t crc = f.crc;
	f.crc = 0;
	off_t size = lseek(w->fd, 0, SEEK_END);
	if (crc32c(0, &f, sizeof(f)) != crc || f.positions > WAL_POSITIONS_MAX || size < 0 ||
	    f.ring_end > (uint64_t)size || f.ring_end - f.ring_at < WAL_RING_MIN)
		return WAL_E_CORRUPT;
	w->positions = f.positions;
	w->region = f.region;
	w->ring_at = f.ring_at;
	w->ring_end = f.ring_end;
	memcpy(w->id, f.id, sizeof(w->id));
	return 0;
}

/* Direct and synchronous where the file system has it: a first read tells. */
static int open_file(struct wal *w, const char *path, enum wal_mode mode)
{
	int flags = (mode == WAL_READ ? O_RDONLY : O_RDWR) | O_CLOEXEC;
	_cleanup_free_ void *block = aligned(WAL_BLOCK);
	if (mode != WAL_BUFFERED) {
		w->fd = open(path, flags | O_DIRECT | O_DSYNC);
		w->direct = w->fd >= 0 && block && pread(w->fd, block, WAL_BLOCK, 0) >= 0;
		if (w->direct)
			return 0;
		if (w->fd >= 0)
			close(w->fd);
	}
	w->fd = open(path, flags);
	if (w->fd < 0)
		return errno == ENOENT ? WAL_E_NONE : err_errno();
	/* what a sync that failed has left in the page cache may not be on the disk, and would be
	 * taken for durable: so it is read from the disk */
	if (mode != WAL_READ && fdatasync(w->fd) < 0)
		return err_errno();
	int r = posix_fadvise(w->fd, 0, 0, POSIX_FADV_DONTNEED);
	return -r;
}

static int make_room(struct wal *w)
{
	uint64_t cap = (w->ring_end - w->ring_at) / WAL_BYTES_PER_ENTRY;
	w->cap = cap > 64 ? cap : 64;
	w->index = calloc(w->cap, sizeof(*w->index));
	w->heads = aligned((size_t)WAL_GROUP_MAX * WAL_HEAD_MAX);
	w->region_buf = aligned(w->region);
	return w->index && w->heads && w->region_buf ? 0 : -ENOMEM;
}

static int read_all(struct wal *w)
{
	struct wal_checkpoint c;
	int r = choose_checkpoint(w, &c);
	if (r != 0)
		return r;
	w->generation = c.generation;
	memcpy(w->figures, c.figures, sizeof(w->figures));
	w->figures_seq = c.figures_seq;
	w->tail_seq = c.tail_seq;
	w->tail_at = c.tail_at;
	w->next_seq = c.tail_seq;
	_cleanup_free_ uint8_t *window = aligned(WINDOW);
	struct scan s = {.win.p = window,
	                 .seq = c.tail_seq,
	                 .at = c.tail_at,
	                 .run = c.run,
	                 .fixed = c.next_seq,
	                 .fixed_at = c.next_at,
	                 .need = c.tail_seq};
	if (!window)
		return -ENOMEM;
	scan_entries(w, &s);
	r = check_last_group(w, &s);
	if (r == 0)
		r = apply_all(w, &s);
	w->run = s.run > c.run ? s.run : c.run;
	w->next_seq = s.seq;
	w->next_at = s.at;
	if (w->next_seq == w->tail_seq)
		w->tail_at = w->next_at;
	w->need = s.need > c.tail_seq ? s.need : c.tail_seq;
	if (w->need > w->next_seq)
		w->need = w->next_seq;
	return r;
}

int wal_open(struct wal *w, const char *path, enum wal_mode mode)
{
	*w = (struct wal){.fd = -1};
	int r = open_file(w, path, mode);
	if (r == 0)
		r = read_file_head(w);
	if (r == 0)
		r = make_room(w);
	if (r == 0)
		r = read_all(w);
	if (r == 0 && mode != WAL_READ) {
		w->run++;
		r = wal_checkpoint(w);
	}
	if (r != 0)
		wal_close(w);
	return r;
}

void wal_close(struct wal *w)
{
	if (w->fd >= 0)
		close(w->fd);
	for (unsigned i = 0; i < WAL_POSITIONS_MAX; i++)
		free(w->position[i].bytes);
	free(w->index);
	free(w->heads);
	free(w->region_buf);
	*w = (struct wal){.fd = -1};
}

/* ---- entries ---- */

const struct wal_entry *wal_entry(const struct wal *w, uint64_t seq)
{
	const struct wal_entry *e = &w->index[seq % w->cap];
	return seq >= w->tail_seq && seq < w->next_seq && e->seq == seq && e->at ? e : NULL;
}

static int read_inline(struct wal *w, const struct wal_entry *e, void *to)
{
	struct wal_head h;
	struct window win = {.p = aligned(WINDOW)};
	const uint8_t *p = win.p ? head_at(w, &win, e->at, &h) : NULL;
	int r = !win.p ? -ENOMEM : !p || h.seq != e->seq ? WAL_E_CORRUPT : 0;
	if (r == 0)
		memcpy(to, p + sizeof(h) + h.patch_bytes, e->bytes);
	free(win.p);
	return r;
}

int wal_note(struct wal *w, const struct wal_entry *e, void *to, uint32_t size)
{
	struct wal_head h;
	struct window win = {.p = aligned(WINDOW)};
	const uint8_t *p = win.p ? head_at(w, &win, e->at, &h) : NULL;
	bool there = p && h.seq == e->seq && (h.flags & WAL_CARRIED) && h.patch_bytes == size;
	int r = !win.p ? -ENOMEM : there ? 0 : WAL_E_CORRUPT;
	if (r == 0)
		memcpy(to, p + sizeof(h), size);
	free(win.p);
	return r;
}

int wal_read(struct wal *w, const struct wal_entry *e, void *to)
{
	uint64_t bytes = wal_up(e->bytes);
	int r = 0;
	if (e->flags & WAL_INLINE) {
		r = read_inline(w, e, to);
	} else if (bytes) {
		ssize_t n = pread(w->fd, to, bytes, (off_t)(e->at + e->size - bytes));
		r = n == (ssize_t)bytes ? 0 : n < 0 ? err_errno() : WAL_E_CORRUPT;
	}
	if (r == 0 && crc32c(0, to, e->bytes) != e->crc)
		r = WAL_E_CORRUPT;
	return r;
}
