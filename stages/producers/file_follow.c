/*
 * Following files through rotation: which file to read now.
 *
 * The hard idea: a mark names an inode, and finding that inode is the same work in every case:
 * after a restart, after a rename under us, after two rotations while the daemon was down. It is
 * looked for under the path, then under the path's rotated names (`path.1`, `path-20250131`, ...: a
 * dot or a dash, then digits and separators only). When it is read to its end (MARK_DONE) the next
 * one is the oldest among them that was written later than it, or else what the path leads to now.
 *
 *   open file, path leads to it             read on; size under the offset: it was cut, start at 0
 *   path leads elsewhere (renamed, removed) read on for `rotate_wait`: its writer may not know yet;
 *                                           then take a last line without newline too, and mark it
 * DONE no file open                            find the next one; none: look again when told or
 * after `poll`
 *
 * Limits
 *  - a file that is copied and cut (logrotate's copytruncate) loses what was written between our
 * last read and the cut; it is told, and only seen when the size or the first bytes show it;
 *  - rotated files that are compressed or moved to another directory are not found: told, too;
 *  - a rotated file whose modification time is set later by hand (touch) is taken for a newer one.
 */
#include "stages/producers/file.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/inotify.h>

static void close_dir(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* ---- waking ------------------------------------------------------------------------------------
 */

/* The directory of @path, as text in @dir. */
static void directory_of(const char *path, char dir[PATH_MAX])
{
	const char *slash = strrchr(path, '/');
	if (!slash)
		snprintf(dir, PATH_MAX, ".");
	else
		snprintf(dir, PATH_MAX, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

void file_follow_watch(struct stage *st)
{
	struct file_state *s = st->state;
	char dir[PATH_MAX];
	s->notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (s->notify < 0) {
		log_notice("inotify: %s: files are looked at by the clock only", strerror(errno));
		return;
	}
	for (size_t i = 0; i < s->n; i++) {
		directory_of(s->inputs[i].path, dir);
		inotify_add_watch(s->notify, dir, IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM);
	}
}

void file_follow_drain(struct stage *st)
{
	struct file_state *s = st->state;
	char events[8192];
	while (s->notify >= 0 && read(s->notify, events, sizeof(events)) > 0)
		;
}

void file_follow_wait(struct stage *st)
{
	struct file_state *s = st->state;
	const struct file_config *cfg = st->config;
	st->deadline = s->now + cfg->poll;
	for (size_t i = 0; i < s->n; i++) {
		int64_t until = s->inputs[i].rotated + cfg->rotate_wait;
		if (s->inputs[i].rotated && until < st->deadline)
			st->deadline = until;
	}
	if (s->notify >= 0) {
		st->fds[0] = (struct pollfd){.fd = s->notify, .events = POLLIN};
		st->n_fds = 1;
	}
}

static void watch_file(struct file_state *s, struct file_input *in, const char *name)
{
	in->watch = -1;
	if (s->notify >= 0)
		in->watch =
		        inotify_add_watch(s->notify, name, IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF);
}

static void let_go(struct stage *st, struct file_input *in)
{
	struct file_state *s = st->state;
	if (in->watch >= 0)
		inotify_rm_watch(s->notify, in->watch);
	file_input_close(st, in);
}

/* ---- finding -----------------------------------------------------------------------------------
 */

struct search {
	struct file_input *in;
	char name[PATH_MAX]; /* what was found */
	struct timespec after;
	struct timespec best;
	int fd; /* the found file; -1 */
	struct stat sb;
};

static int compare_times(const struct timespec *a, const struct timespec *b)
{
	if (a->tv_sec != b->tv_sec)
		return a->tv_sec < b->tv_sec ? -1 : 1;
	return a->tv_nsec < b->tv_nsec ? -1 : a->tv_nsec > b->tv_nsec;
}

/* True for the rotated names of @base: base.1, base-20250131, base.2025-01-31_12.00 */
static bool is_rotated_name(const char *name, const char *base, size_t base_len)
{
	if (strncmp(name, base, base_len) != 0)
		return false;
	const char *p = name + base_len;
	if ((*p != '.' && *p != '-') || !isdigit((unsigned char)p[1]))
		return false;
	return p[strspn(p, "0123456789.-_")] == 0;
}

/* Opens a regular file, -1 when it is none or cannot be read. */
static int open_regular(const char *name, struct stat *sb)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return -1;
	if (fstat(fd, sb) == 0 && S_ISREG(sb->st_mode))
		return fd;
	close(fd);
	errno = EINVAL;
	return -1;
}

/* Calls @look for the path and each of its rotated names until it answers true. */
static bool each_name(struct search *f, bool (*look)(struct search *f, const char *name))
{
	const char *path = f->in->path;
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	char dir[PATH_MAX];
	char name[PATH_MAX];
	if (look(f, path))
		return true;
	directory_of(path, dir);
	_cleanup_(close_dir) DIR *d = opendir(dir);
	struct dirent *e;
	while (d && (e = readdir(d))) {
		if (!is_rotated_name(e->d_name, base, strlen(base)))
			continue;
		int n = snprintf(name, sizeof(name), "%.*s%s", (int)(base - path), path, e->d_name);
		if (n < (int)sizeof(name) && look(f, name))
			return true;
	}
	return false;
}

static bool is_marked(struct search *f, const char *name)
{
	f->fd = open_regular(name, &f->sb);
	if (f->fd < 0)
		return false;
	if (file_mark_matches(&f->in->mark, f->fd, &f->sb)) {
		snprintf(f->name, sizeof(f->name), "%s", name);
		return true;
	}
	close(f->fd);
	f->fd = -1;
	return false;
}

static bool is_next(struct search *f, const char *name)
{
	struct stat sb;
	if (strcmp(name, f->in->path) == 0 || stat(name, &sb) < 0 || !S_ISREG(sb.st_mode))
		return false;
	if (compare_times(&sb.st_mtim, &f->after) <= 0 || sb.st_ino == f->in->mark.ino)
		return false;
	if (!f->name[0] || compare_times(&sb.st_mtim, &f->best) < 0) {
		snprintf(f->name, sizeof(f->name), "%s", name);
		f->best = sb.st_mtim;
	}
	return false;
}

static void tell_once(struct file_input *in, const char *what)
{
	if (!in->told)
		log_notice("%s: %s: waiting for it", in->path, what);
	in->told = true;
}

/* Begins the file @name at 0. STAGE_OK, STAGE_E_IDLE: cannot now; -errno. */
static int begin_file(struct stage *st, struct file_input *in, const char *name)
{
	struct stat sb;
	in->fd = open_regular(name, &sb);
	if (in->fd < 0) {
		tell_once(in, errno == EINVAL ? "not a regular file" : strerror(errno));
		return STAGE_E_IDLE;
	}
	watch_file(st->state, in, name);
	file_input_begin(in, &sb);
	int r = file_input_save(st, in);
	return r < 0 ? r : file_input_start(st, in, name);
}

/* The one behind a file that is done. */
static int begin_next(struct stage *st, struct file_input *in, const struct stat *done)
{
	struct search f = {.in = in, .fd = -1, .after = done->st_mtim};
	each_name(&f, is_next);
	return begin_file(st, in, f.name[0] ? f.name : in->path);
}

/* Goes on in the file the mark names, found as @f. */
static int resume_file(struct stage *st, struct file_input *in, struct search *f)
{
	bool current = strcmp(f->name, in->path) == 0;
	if (in->mark.flags & FILE_MARK_DONE && !current) {
		close(f->fd);
		return begin_next(st, in, &f->sb);
	}
	in->fd = f->fd;
	in->mark.flags &= ~(uint32_t)FILE_MARK_DONE;
	in->mark.dev = f->sb.st_dev;
	watch_file(st->state, in, f->name);
	int r = file_input_save(st, in);
	return r < 0 ? r : file_input_start(st, in, f->name);
}

static int find_file(struct stage *st, struct file_input *in)
{
	struct search f = {.in = in, .fd = -1};
	if (!(in->mark.flags & FILE_MARK_USED))
		return begin_file(st, in, in->path);
	if (each_name(&f, is_marked))
		return resume_file(st, in, &f);
	if (!(in->mark.flags & FILE_MARK_DONE) && !in->told)
		log_warning(
		        "%s: the file read up to byte %llu is gone or was replaced; what it had "
		        "behind is not read",
		        in->path, (unsigned long long)in->mark.offset);
	return begin_file(st, in, in->path);
}

/* ---- reading -----------------------------------------------------------------------------------
 */

/* The file was cut, or cut and written anew, under us. */
static int start_over(struct stage *st, struct file_input *in, const struct stat *sb)
{
	log_warning("%s was cut (copytruncate?) after byte %llu was read: what was written between "
	            "may be lost; reading it from its beginning",
	            in->path, (unsigned long long)in->mark.offset);
	file_input_begin(in, sb);
	int r = file_input_save(st, in);
	return r < 0 ? r : file_input_start(st, in, in->path);
}

/* Something may have changed since the file had nothing more: whether it is still the same one. */
static int wake_file(struct stage *st, struct file_input *in, const struct stat *sb)
{
	if (in->asleep && in->seen == (uint64_t)sb->st_size)
		return STAGE_E_IDLE;
	if ((uint64_t)sb->st_size < in->mark.offset ||
	    (in->asleep && !file_mark_matches(&in->mark, in->fd, sb)))
		return start_over(st, in, sb);
	in->asleep = false;
	if (file_input_print(in, (uint64_t)sb->st_size))
		return file_input_save(st, in);
	return STAGE_OK;
}

static bool path_leads_elsewhere(const struct file_input *in)
{
	struct stat sb;
	return stat(in->path, &sb) < 0 || sb.st_ino != in->mark.ino || sb.st_dev != in->mark.dev;
}

/* The file has nothing more now. If it was rotated and had its grace, it is done with. */
static int at_end(struct stage *st, struct file_input *in)
{
	struct file_state *s = st->state;
	const struct file_config *cfg = st->config;
	if (!path_leads_elsewhere(in)) {
		in->rotated = 0;
		return STAGE_E_IDLE;
	}
	if (!in->rotated)
		in->rotated = s->now;
	if (s->now - in->rotated < cfg->rotate_wait)
		return STAGE_E_IDLE;
	int r = file_input_read(st, in, true);
	if (r != STAGE_E_IDLE)
		return r;
	in->mark.flags |= FILE_MARK_DONE;
	if ((r = file_input_save(st, in)) < 0)
		return r;
	let_go(st, in);
	return STAGE_OK;
}

int file_follow_turn(struct stage *st, struct file_input *in)
{
	struct stat sb;
	int r = in->fd < 0 ? find_file(st, in) : STAGE_OK;
	if (r != STAGE_OK)
		return r;
	if (fstat(in->fd, &sb) < 0)
		return err_errno();
	r = wake_file(st, in, &sb);
	if (r == STAGE_OK)
		r = file_input_read(st, in, false);
	if (r != STAGE_E_IDLE)
		return r;
	in->asleep = true;
	in->seen = (uint64_t)sb.st_size;
	return at_end(st, in);
}
