/*
 * Where the daemon lives: its runtime directory, its lock, its arena.
 *
 * The lock is an flock on a file of its own, held by an open file that every worker inherits: it is
 * free only when the last process of the old daemon is gone, which is what makes repairing its
 * intents sound. It is never sent to systemd's fd store (a stored descriptor would keep it).
 *
 * An arena comes from, in this order: the fd store (a memfd of the daemon before us), the file
 * `arena.path`, a new memfd. Whatever was found is repaired before any worker starts.
 */
#include "daemon/master.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/carry.h"
#include "daemon/home_log.h"
#include "daemon/notify.h"
#include "ipc/err.h"
#include "ipc/fault.h"
#include "ipc/link.h"
#include "ipc/log.h"

static const char STORED_ARENA[] = "arena";

static void make_parents(const char *path)
{
	char up[4096];
	snprintf(up, sizeof(up), "%s", path);
	for (char *p = strchr(up + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = 0;
		mkdir(up, 0755); /* a failure shows when the last one is made */
		*p = '/';
	}
}

static int make_runtime_dir(const char *path)
{
	struct stat st;
	make_parents(path);
	if (strlen(path) > 90) {
		log_error(
		        "runtime_dir %s is too long: unix sockets in it would pass 107 characters",
		        path);
		return -ENAMETOOLONG;
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST) {
		int r = err_errno();
		log_error("cannot make runtime directory %s: %s", path, strerror(-r));
		return r;
	}
	if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid()) {
		log_error("runtime directory %s is not ours: remove it or set daemon.runtime_dir",
		          path);
		return -EPERM;
	}
	return 0;
}

static int take_lock(struct master *m, const char *path)
{
	struct timespec pause = {0, 20000000};
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		int r = err_errno();
		log_error("cannot open lock %s: %s", path, strerror(-r));
		return r;
	}
	/* workers of a daemon that was just killed need a moment to follow it */
	for (int tries = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; tries++) {
		if (tries == 150) {
			char pid[32] = "?";
			ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
			pid[n > 0 ? n : 0] = 0;
			pid[strcspn(pid, "\n")] = 0;
			log_error("another sluiced runs here: pid %s holds %s", pid, path);
			close(fd);
			return -EBUSY;
		}
		nanosleep(&pause, NULL);
	}
	(void)!ftruncate(fd, 0);
	(void)!dprintf(fd, "%d\n", (int)getpid());
	m->lock_fd = fd;
	return 0;
}

static int lock(struct master *m)
{
	char path[4096];
	if (m->config->arena_path)
		snprintf(path, sizeof(path), "%s.lock", m->config->arena_path);
	else
		snprintf(path, sizeof(path), "%s/lock", m->config->runtime_dir);
	return take_lock(m, path);
}

static void wanted(const struct config *cfg, struct arena_geometry *g)
{
	*g = (struct arena_geometry){.entries = (uint32_t)(cfg->arena_size / cfg->arena_buffer),
	                             .workers = (uint32_t)cfg->max_workers,
	                             .buffer_size = cfg->arena_buffer,
	                             .checked = cfg->arena_path != NULL,
	                             .tails = cfg->log_stage != UINT32_MAX};
}

static uint64_t chunks_in(const struct arena *a)
{
	return a->entries - arena_free(a);
}

static int make_new(struct master *m, int fd, const struct arena_geometry *g, const char *where)
{
	int r = arena_create(&m->arena, fd, g);
	if (r < 0) {
		log_error("cannot make an arena of %llu bytes in %s: %s",
		          (unsigned long long)arena_bytes(g), where, strerror(-r));
		return r;
	}
	return carry_load(m);
}

/* An arena in a file is made beside its place and moved there when it is whole and knows what was
 * carried over: who is killed meanwhile leaves nothing that looks like an arena, and the carried
 * figures where they were. */
static int make_file(struct master *m, const struct arena_geometry *g, const char *path)
{
	char fresh[4096];
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int r = fd < 0 ? err_errno() : 0;
	if (r < 0)
		log_error("cannot open %s: %s", fresh, strerror(-r));
	else
		r = make_new(m, fd, g, path);
	FAULT(arena_made);
	if (r == 0 && rename(fresh, path) < 0) {
		r = err_errno();
		log_error("cannot move %s to %s: %s", fresh, path, strerror(-r));
	}
	FAULT(arena_moved);
	if (r == 0) {
		carry_forget(m);
		return 0;
	}
	arena_detach(&m->arena);
	if (fd >= 0)
		close(fd);
	unlink(fresh);
	return r;
}

static const char *attach_problem(int r)
{
	switch (r) {
	case ARENA_E_LAYOUT:
		return "was made by another version of sluiced; start that version, run `sluicectl "
		       "drain`, stop it";
	case ARENA_E_CORRUPT:
		return "is no arena, or its header is damaged; see `sluiced --arena-check`";
	default:
		return strerror(-r);
	}
}

static bool same_geometry(const struct arena *a, const struct arena_geometry *g)
{
	return a->entries == g->entries && a->workers == g->workers &&
	       a->buffer_size == g->buffer_size && (a->tail_size != 0) == g->tails;
}

static void repair_all(struct master *m)
{
	arena_retire_finish(&m->arena);
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		intent_repair(&m->arena, w, NULL);
		struct arena_worker *s = arena_worker(&m->arena, w);
		atomic_store(&s->pid, 0);
		atomic_store(&s->order, ORDER_RUN);
	}
}

/* A mapping that outlived the machine's run is no evidence: the log is. */
static int rebuild(struct master *m, int fd, const struct arena_geometry *g, int problem)
{
	arena_detach(&m->arena);
	close(fd);
	return home_log_rebuild(m, g,
	                        problem ? "the arena is damaged" : "the machine was started anew");
}

/* Takes over an arena that exists. A changed geometry is fine when nothing is in flight: then what
 * it knows is saved, and ARENA_E_GEOMETRY asks for a new one. */
static int take_over(struct master *m, int fd, const struct arena_geometry *g, const char *where)
{
	int r = arena_attach(&m->arena, fd);
	bool lost = r == ARENA_E_CORRUPT || (r == 0 && m->arena.boot_changed);
	if (lost && g->tails && home_log_exists(m))
		return rebuild(m, fd, g, r);
	if (r == 0 && m->config->arena_path && !g->tails)
		home_log_leave(m, !m->arena.boot_changed);
	if (r == 0)
		arena_note_boot(&m->arena);
	if (r != 0) {
		log_error("the arena in %s %s", where, attach_problem(r));
		return r < 0 ? r : -EINVAL;
	}
	repair_all(m);
	uint64_t chunks = chunks_in(&m->arena);
	if (same_geometry(&m->arena, g)) {
		if (chunks)
			log_notice("recovered %llu chunks in flight from %s",
			           (unsigned long long)chunks, where);
		return 0;
	}
	if (chunks) {
		log_error("the arena in %s has another geometry (%u buffers of %llu bytes, %u "
		          "workers) and %llu "
		          "chunks in flight: start with the old settings and run `sluicectl "
		          "drain`, or save them "
		          "with `sluiced --arena-export`",
		          where, m->arena.entries, (unsigned long long)m->arena.buffer_size,
		          m->arena.workers, (unsigned long long)chunks);
		return -EINVAL;
	}
	r = carry_save(m); /* all that the old one still knows is there now */
	arena_detach(&m->arena);
	return r < 0 ? r : ARENA_E_GEOMETRY;
}

/* Takes over what the daemon before us left with systemd in memory, when the arena is to be a file
 * now. What is in flight cannot move; with nothing in flight positions and books do, by the carry
 * file. */
static int leave_memory(struct master *m)
{
	int fd = notify_stored(STORED_ARENA);
	if (fd < 0)
		return 0;
	int r = arena_attach(&m->arena, fd);
	if (r != 0) {
		log_error("the arena in systemd's fd store %s", attach_problem(r));
		return r < 0 ? r : -EINVAL;
	}
	repair_all(m);
	uint64_t chunks = chunks_in(&m->arena);
	if (chunks) {
		log_error("arena.path is new, and the arena in memory (systemd's fd store) has "
		          "%llu chunks in flight: "
		          "start without arena.path and run `sluicectl drain` first, or give them "
		          "up with "
		          "`systemctl stop`",
		          (unsigned long long)chunks);
		return -EINVAL;
	}
	r = carry_save(m);
	arena_detach(&m->arena);
	if (r < 0)
		return r;
	notify_unstore(STORED_ARENA);
	close(fd);
	m->arena.fd = -1;
	return 0;
}

static int open_file_arena(struct master *m, const struct arena_geometry *g)
{
	const char *path = m->config->arena_path;
	struct stat st = {0};
	int r = leave_memory(m);
	if (r < 0)
		return r;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if ((fd < 0 && errno != ENOENT) || (fd >= 0 && fstat(fd, &st) < 0)) {
		r = err_errno();
		log_error("cannot open arena.path %s: %s", path, strerror(-r));
		return r;
	}
	r = st.st_size ? take_over(m, fd, g, path) : ARENA_E_GEOMETRY;
	if (r != ARENA_E_GEOMETRY)
		return r;
	if (fd >= 0)
		close(fd);
	if (!st.st_size && g->tails && home_log_exists(m))
		return home_log_rebuild(m, g, "there is no arena");
	if (!g->tails) /* first: there may not be room for both. A log without an arena would mean a
	                  loss, though */
		unlink(path);
	return make_file(m, g, path);
}

static int open_memfd_arena(struct master *m, const struct arena_geometry *g)
{
	int fd = notify_stored(STORED_ARENA);
	if (fd >= 0) {
		int r = take_over(m, fd, g, "systemd's fd store");
		if (r == ARENA_E_GEOMETRY)
			r = make_new(m, fd, g, "systemd's fd store");
		if (r == 0)
			carry_forget(m); /* what it carries is in this arena, or older */
		m->stored = r == 0;
		return r;
	}
	fd = memfd_create("sluice-arena", MFD_CLOEXEC);
	if (fd < 0)
		return err_errno();
	int r = make_new(m, fd, g, "memory");
	if (r == 0)
		carry_forget(m);
	if (r == 0)
		m->stored = notify_store(STORED_ARENA, fd);
	return r;
}

/* A run that came to its end and was stopped in order starts afresh the next time: its producers
 * read again, its stages live again. The last thing before the end: a crash before it does not make
 * everything run twice. */
static void forget_completed(struct master *m)
{
	struct arena *a = &m->arena;
	bool whole = true, any = false;
	for (uint32_t w = 0; w < a->workers; w++) {
		const struct arena_worker *s = arena_worker(a, w);
		const struct config_stage *st =
		        s->stage[0] ? config_stage(m->config, s->stage) : NULL;
		if (!st || st->builtin)
			continue;
		any = true;
		whole &= (s->committed.flags & COMMITTED_ENDED) != 0;
	}
	if (!any || !whole || chunks_in(a))
		return;
	for (uint32_t w = 0; w < a->workers; w++) {
		struct arena_worker *s = arena_worker(a, w);
		s->committed.flags &= ~(uint64_t)COMMITTED_ENDED;
		if (s->kind == STAGE_PRODUCER) {
			s->committed.flags &= ~(uint64_t)COMMITTED_POSITION;
			memset(s->position, 0, sizeof(s->position));
		}
	}
}

/* The places that stages only ever find: state and dead letters. What cannot be made now, on a disk
 * that is not there yet, its stage asks for again and says so. */
static void make_places(const struct config *cfg)
{
	make_parents(cfg->state_path);
	make_parents(cfg->dead_path);
	if (mkdir(cfg->state_path, 0700) < 0 && errno != EEXIST)
		log_warning("cannot make state directory %s: %s", cfg->state_path, strerror(errno));
	if (mkdir(cfg->dead_path, 0750) < 0 && errno != EEXIST)
		log_warning("cannot make directory %s for dead letters: %s", cfg->dead_path,
		            strerror(errno));
}

static int make_eventfds(struct master *m)
{
	m->eventfds = calloc(m->arena.workers, sizeof(*m->eventfds));
	int r = m->eventfds ? link_eventfds_open(m->eventfds, m->arena.workers) : -ENOMEM;
	if (r == 0)
		return 0;
	log_error("cannot make doorbells for %u workers: %s", m->arena.workers, strerror(-r));
	free(m->eventfds);
	m->eventfds = NULL;
	return r;
}

static void close_eventfds(struct master *m)
{
	if (m->eventfds)
		link_eventfds_close(m->eventfds, m->arena.workers);
	free(m->eventfds);
	m->eventfds = NULL;
}

int home_open(struct master *m)
{
	struct arena_geometry g;
	m->lock_fd = -1;
	int r = make_runtime_dir(m->config->runtime_dir);
	if (r == 0)
		r = lock(m);
	if (r < 0)
		return r;
	make_places(m->config);
	wanted(m->config, &g);
	r = m->config->arena_path ? open_file_arena(m, &g) : open_memfd_arena(m, &g);
	if (r == 0)
		r = make_eventfds(m);
	if (r == 0)
		r = home_assign_edges(m);
	if (r == 0)
		r = home_settle_edges(m);
	return r == 0 && m->config->log_stage != UINT32_MAX ? home_log_prepare(m) : r;
}

bool home_persistent(const struct master *m)
{
	return m->config->arena_path != NULL;
}

void home_close(struct master *m)
{
	if (m->arena.h && m->orderly)
		forget_completed(m);
	if (m->arena.h && m->clean && !home_persistent(m))
		carry_save(m);
	int fd = m->arena.fd;
	close_eventfds(m);
	arena_detach(&m->arena);
	if (fd >= 0)
		close(fd);
	if (m->lock_fd >= 0)
		close(m->lock_fd);
	m->lock_fd = -1;
	free(m->edge_number);
	m->edge_number = NULL;
}
