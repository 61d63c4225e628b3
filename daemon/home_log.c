/*
 * The arena after a loss of power.
 *
 * The hard idea: an arena that was mapped when the power went is a mixture of pages of different
 * moments, and no look at it can tell which. So it is not repaired but replaced: everything that
 * counts is in the log. The new arena is made beside its place and renamed last; before that a
 * crash, or another loss of power, only makes this run once more.
 *
 * What comes from the log: each producer's position as of its last durable commit, which entries
 * the log's worker has to put back, and the books (log_books.c). What does not: the positions of
 * consumers (a file is appended to at its end), and what each stage by itself has done.
 *
 * Numbers of commits and chunks go on above the logged ones, so that what was delivered can be told
 * from what comes again.
 */
#include "daemon/home_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/run_log.h"
#include "ipc/err.h"
#include "ipc/fault.h"
#include "ipc/log.h"
#include "ipc/wal.h"

bool home_log_exists(const struct master *m)
{
	char path[4096];
	log_path(m->config, path, sizeof(path));
	return access(path, F_OK) == 0;
}

static int cannot_open(const char *path, int r)
{
	if (r == WAL_E_VERSION)
		log_error("the log %s was made by another version of sluiced", path);
	else if (r > 0)
		log_error("the log %s is damaged at its start: what it holds cannot be read; move "
		          "it away to "
		          "start without",
		          path);
	else
		log_error("cannot open the log %s: %s", path, strerror(-r));
	return r < 0 ? r : -EINVAL;
}

/* ---- making the arena anew ---- */

static const struct config_stage *producer(const struct config *cfg, const struct wal_position *p)
{
	const struct config_stage *s = config_stage(cfg, p->stage);
	return s && s->kind == STAGE_PRODUCER && p->ordinal < s->workers ? s : NULL;
}

/* A carried chunk's place is the edge it was on. Positive: it need not be put back. */
static int check_carried(const struct master *m, struct wal *wal, const struct wal_entry *e)
{
	struct log_note note;
	int r = wal_note(wal, e, &note, sizeof(note));
	if (r < 0)
		return r;
	if (r != 0 || log_note_redundant(&note, wal->need))
		return 1;
	for (unsigned i = 0; i < m->config->n_edges; i++) {
		char from[ARENA_OUTPUT_MAX];
		const char *to;
		home_edge_names(m->config, i, from, sizeof(from), &to);
		if (strncmp(from, note.from, sizeof(note.from)) == 0 &&
		    strncmp(to, note.to, sizeof(note.to)) == 0)
			return 0;
	}
	log_error("the log holds chunks of edge %.*s -> %.*s, which the configuration no longer "
	          "has: put it back and start again",
	          ARENA_OUTPUT_MAX, note.from, ARENA_NAME_MAX, note.to);
	return -EINVAL;
}

static int check_place(const struct master *m, struct wal *wal, const struct wal_entry *e)
{
	const struct wal_position *p = &wal->position[e->who];
	if (e->flags & WAL_CARRIED)
		return check_carried(m, wal, e);
	if (producer(m->config, p))
		return 0;
	log_error("the log holds chunks of producer %s, which the configuration no longer has: put "
	          "it back and start again",
	          p->stage);
	return -EINVAL;
}

/* What is to be put back must have a place. */
static int check_entries(const struct master *m, struct wal *wal, uint64_t *chunks,
                         uint64_t *records)
{
	if (wal_find_repeated(wal, wal->need, wal->next_seq) < 0)
		return -ENOMEM;
	for (uint64_t seq = wal->need; seq < wal->next_seq; seq++) {
		const struct wal_entry *e = wal_entry(wal, seq);
		if (!e || !e->records || (e->flags & WAL_REPEATED))
			continue;
		int r = check_place(m, wal, e);
		if (r < 0)
			return r;
		if (r > 0)
			continue;
		if (e->bytes > m->config->arena_buffer) {
			log_error("the log holds a chunk of %u bytes, more than arena.buffer: set "
			          "it to what it was",
			          e->bytes);
			return -EINVAL;
		}
		(*chunks)++;
		*records += e->records;
	}
	return 0;
}

static int restore_producer(struct arena *a, const struct wal_position *p)
{
	uint32_t slot;
	if (arena_worker_assign(a, p->stage, p->ordinal, &slot) != 0)
		return -ENOSPC;
	struct arena_worker *s = arena_worker(a, slot);
	s->kind = STAGE_PRODUCER;
	s->committed.flags = COMMITTED_POSITION;
	atomic_store(&s->replaying, 1);
	atomic_store(&s->committed.number, p->commit);
	memcpy(s->position, p->bytes, sizeof(s->position));
	return 0;
}

/* What stands there a second time is done: the worker could not tell once the first is gone. */
static void mark_repeated(uint8_t *bits, const struct wal *wal, const struct log_mark *m)
{
	for (uint64_t seq = m->from; seq < m->end && seq - m->from < LOG_MARK_BITS; seq++) {
		const struct wal_entry *e = wal_entry(wal, seq);
		if (e && (e->flags & WAL_REPEATED))
			log_mark_set(bits, m, seq, true);
	}
}

static int set_mark(struct arena *a, const struct wal *wal)
{
	uint32_t slot;
	struct log_mark mark = {.magic = LOG_MARK_MAGIC,
	                        .from = wal->need,
	                        .next = wal->need,
	                        .end = wal->next_seq,
	                        .first_end = wal->next_seq};
	if (arena_worker_assign(a, "log", 0, &slot) != 0)
		return -ENOSPC;
	struct arena_worker *s = arena_worker(a, slot);
	s->kind = STAGE_STEP;
	s->committed.flags = COMMITTED_POSITION;
	memcpy(s->position, &mark, sizeof(mark));
	mark_repeated(s->position + LOG_MARK_AT, wal, &mark);
	atomic_store(&a->h->replaying, mark.next < mark.end);
	return 0;
}

/* Numbers that no chunk of the log has, and from where on those of before are in doubt. */
static void set_numbers(struct arena *a, const struct wal *wal)
{
	uint64_t highest = 0, lowest = UINT64_MAX;
	for (unsigned i = 0; i < wal->positions; i++)
		if (wal->position[i].stage[0] && wal->position[i].number > highest)
			highest = wal->position[i].number;
	for (uint64_t seq = wal->tail_seq; seq < wal->next_seq; seq++) {
		const struct wal_entry *e = wal_entry(wal, seq);
		if (e && seq >= wal->need && e->number < lowest)
			lowest = e->number;
		if (e && e->number > highest)
			highest = e->number;
	}
	atomic_store(&a->h->next_number, highest + 1);
	a->h->rebuilt = 1;
	a->h->doubt_from = lowest == UINT64_MAX ? highest + 1 : lowest;
}

/* Consumers' positions are lost; that they were in the middle of something is known. */
static int mark_consumers(struct master *m)
{
	for (unsigned i = 0; i < m->config->n_stages; i++) {
		const struct config_stage *s = &m->config->stages[i];
		for (unsigned k = 0; s->kind == STAGE_CONSUMER && k < s->workers; k++) {
			uint32_t slot;
			if (arena_worker_assign(&m->arena, s->name, k, &slot) != 0)
				return -ENOSPC;
			arena_worker(&m->arena, slot)->committed.flags = COMMITTED_CUT_OFF;
		}
	}
	return 0;
}

static int restore(struct master *m, struct wal *wal)
{
	int r = set_mark(&m->arena, wal);
	if (r == 0) /* the books count entries from the last checkpoint's tail on */
		r = wal_find_repeated(wal, wal->tail_seq, wal->next_seq);
	log_books_restore(&m->arena, wal);
	for (unsigned i = 0; r == 0 && i < wal->positions; i++)
		if (wal->position[i].stage[0] && producer(m->config, &wal->position[i]))
			r = restore_producer(&m->arena, &wal->position[i]);
	if (r == 0)
		r = mark_consumers(m);
	set_numbers(&m->arena, wal);
	return r;
}

static int make_arena(struct master *m, const struct arena_geometry *g, struct wal *wal)
{
	char fresh[4096];
	const char *path = m->config->arena_path;
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	if (unlink(path) < 0 && errno != ENOENT) /* its room is needed */
		return err_errno();
	FAULT(log_rebuild);
	int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno();
	int r = arena_create(&m->arena, fd, g);
	if (r == 0)
		r = restore(m, wal);
	FAULT(log_rebuild);
	if (r == 0 && rename(fresh, path) < 0)
		r = err_errno();
	if (r < 0) {
		arena_detach(&m->arena);
		close(fd);
	}
	return r;
}

int home_log_rebuild(struct master *m, const struct arena_geometry *g, const char *why)
{
	char path[4096];
	struct wal wal;
	uint64_t chunks = 0, records = 0;
	log_path(m->config, path, sizeof(path));
	int r = wal_open(&wal, path, WAL_READ);
	if (r != 0)
		return cannot_open(path, r);
	r = check_entries(m, &wal, &chunks, &records);
	if (r == 0 && (r = make_arena(m, g, &wal)) < 0)
		log_error("cannot make the arena %s anew: %s", m->config->arena_path, strerror(-r));
	if (r == 0)
		log_notice("%s: the arena was made anew from the log: %llu chunks (%llu records) "
		           "come again%s",
		           why, (unsigned long long)chunks, (unsigned long long)records,
		           wal.torn ? "; a write that was under way was dropped: it was never "
		                      "acknowledged"
		                    : "");
	if (r == 0 && wal.damaged)
		log_error("%llu entries of the log are damaged: what they held is lost unless its "
		          "sender has it",
		          (unsigned long long)wal.damaged);
	wal_close(&wal);
	return r;
}

/* ---- making the log ---- */

static int make_log(const struct master *m, const char *path)
{
	uint64_t size = m->config->arena_log_size;
	int r = wal_create(path, size, WAL_POSITIONS_MAX);
	if (r < 0)
		log_error("cannot make the log %s of %llu bytes: %s", path,
		          (unsigned long long)size, strerror(-r));
	return r;
}

static bool edges_empty(const struct master *m)
{
	for (unsigned i = 0; i < m->config->n_edges; i++)
		if (m->config->edges[i].to == m->config->log_stage &&
		    arena_charged(&m->arena, m->edge_number[i]))
			return false;
	return true;
}

/* All producers' positions as the arena has them. */
static int put_positions(const struct master *m, struct wal *wal)
{
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		const struct arena_worker *s = arena_worker(&m->arena, w);
		const struct config_stage *st =
		        s->stage[0] ? config_stage(m->config, s->stage) : NULL;
		bool known = s->committed.flags & COMMITTED_POSITION;
		if (!st || st->kind != STAGE_PRODUCER || s->ordinal >= st->workers)
			continue;
		int r = wal_set_position(wal, s->stage, s->ordinal, s->position,
		                         known ? ARENA_POSITION_MAX : 0,
		                         atomic_load(&s->committed.number));
		if (r < 0)
			return r;
	}
	return wal_checkpoint(wal);
}

int home_log_prepare(struct master *m)
{
	char path[4096];
	struct wal wal;
	log_path(m->config, path, sizeof(path));
	int r = home_log_exists(m) ? 0 : make_log(m, path);
	if (r < 0)
		return r;
	/* with chunks on their way to the log a position is ahead of it: then the log's own are the
	 * right ones */
	if (atomic_load(&m->arena.h->replaying) || !edges_empty(m))
		return 0;
	r = wal_open(&wal, path, WAL_WRITE);
	if (r == WAL_E_VERSION && arena_free(&m->arena) == m->arena.entries) {
		r = make_log(m, path); /* nothing is in flight: it holds nothing */
		r = r < 0 ? r : wal_open(&wal, path, WAL_WRITE);
	}
	if (r != 0)
		return cannot_open(path, r);
	if (wal.ring_end - wal.ring_at != (m->config->arena_log_size + 4095) / 4096 * 4096)
		log_warning("arena.log_size has changed: %s keeps its size until it is removed, "
		            "which is safe after "
		            "a drain",
		            path);
	r = put_positions(m, &wal);
	if (r < 0)
		log_error("cannot write the log %s: %s", path, strerror(-r));
	wal_close(&wal);
	return r;
}

void home_log_leave(const struct master *m, bool trusted)
{
	char path[4096];
	log_path(m->config, path, sizeof(path));
	if (!home_log_exists(m))
		return;
	if (!trusted)
		log_warning("%s lies beside the arena: start with arena.sync to have back what it "
		            "holds",
		            path);
	else if (unlink(path) < 0)
		log_warning("cannot remove %s: %s", path, strerror(errno));
}
