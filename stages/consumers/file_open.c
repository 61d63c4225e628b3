/*
 * The output file as such: opening it, finding out what of it is ours, changing it.
 *
 * What a mark promises and what open() makes of each state of the directory stands in file.c. Here
 * is how: a file is SETTLED when it is the one the mark names (cut back to the mark, when the bytes
 * before the mark are still those we wrote) and TAKEN otherwise (appended to from its end, once a
 * commit has named it). Nothing is ever cut from a file that was only taken.
 */
#include "stages/consumers/file.h"
#include "stages/consumers/file_rotate.h"
#include "ipc/clock.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <xxhash.h>

/* A rename that failed is tried again after so many ns. */
#define RETRY_AFTER 60000000000

/* All of these pass when somebody mends the file system. */
int file_out_unreachable(struct stage *st, const char *what, int err)
{
	const struct file_out_config *cfg = st->config;
	return stage_say(st, STAGE_E_UNREACHABLE, "%s: %s: %s", cfg->path, what, strerror(err));
}

static int read_tail(int fd, uint64_t offset, uint32_t len, uint64_t *hash)
{
	uint8_t tail[FILE_OUT_TAIL_MAX];
	if (len > FILE_OUT_TAIL_MAX || len > offset ||
	    pread(fd, tail, len, (off_t)(offset - len)) != (ssize_t)len)
		return -1;
	*hash = XXH3_64bits(tail, len);
	return 0;
}

/* True when the bytes before the mark are those that were there when it was made. */
static bool tail_matches(int fd, const struct file_out_mark *m)
{
	uint64_t hash = 0;
	if (m->tail_len == 0)
		return m->offset == 0;
	return read_tail(fd, m->offset, m->tail_len, &hash) == 0 && hash == m->tail;
}

/* Whether the last byte before the end is one of a line that nobody ended. */
bool file_out_line_open(const struct stage *st, int fd, uint64_t size)
{
	char c = '\n';
	return st->codec->ops->text && size > 0 && pread(fd, &c, 1, (off_t)size - 1) == 1 &&
	       c != '\n';
}

void file_out_deadline(struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	const struct file_out_state *s = st->state;
	st->deadline = 0;
	if (cfg->rotate.age == 0 || s->fd < 0)
		return;
	int64_t left = s->now.opened + cfg->rotate.age - clock_realtime();
	if (left < 1000000000)
		left = 1000000000;
	st->deadline = clock_monotonic() + left;
}

/* Cuts off a line whose end the loss of power has taken: its unit was not committed, so its record
 * comes again. */
static int cut_open_line(struct stage *st, struct stat *sb)
{
	const struct file_out_config *cfg = st->config;
	const struct file_out_state *s = st->state;
	uint64_t end = (uint64_t)sb->st_size;
	char part[4096];
	while (end > 0) {
		size_t len = end < sizeof(part) ? (size_t)end : sizeof(part);
		if (pread(s->fd, part, len, (off_t)(end - len)) != (ssize_t)len)
			return file_out_unreachable(st, "cannot be read", errno);
		const char *last = memrchr(part, '\n', len);
		end = last ? end - len + (uint64_t)(last - part) + 1 : end - len;
		if (last)
			break;
	}
	if (end == (uint64_t)sb->st_size)
		return 0;
	log_notice("%s: the machine lost its power in the middle of a line: its %lld bytes are cut "
	           "off, the record "
	           "comes again",
	           cfg->path, (long long)sb->st_size - (long long)end);
	if (ftruncate(s->fd, (off_t)end) < 0)
		return file_out_unreachable(st, "cannot be cut to its last whole line", errno);
	sb->st_size = (off_t)end;
	return 0;
}

/* Takes the open file as it is: appends at its end, once a commit has named it. */
static void take_file(struct stage *st, const struct stat *sb)
{
	struct file_out_state *s = st->state;
	uint64_t size = (uint64_t)sb->st_size;
	uint16_t tail_len = (uint16_t)(size < FILE_OUT_TAIL_MAX ? size : FILE_OUT_TAIL_MAX);
	s->now = (struct file_out_mark){
	        .magic = FILE_OUT_MAGIC,
	        .version = FILE_OUT_VERSION,
	        .tail_len = tail_len,
	        .dev = sb->st_dev,
	        .ino = sb->st_ino,
	        .offset = size,
	        .rotation = s->now.rotation,
	        .opened = clock_realtime(),
	};
	if (tail_len && read_tail(s->fd, size, tail_len, &s->now.tail) < 0)
		s->now.tail_len = 0;
	s->newline_due = file_out_line_open(st, s->fd, size);
	s->anchored = false;
	s->anchor_set = false;
}

enum cut {
	CUT_DONE,
	CUT_FOREIGN, /* these are not the bytes we wrote: untouched */
	CUT_FAILED,
};

/* Cuts off what was never committed. */
static enum cut cut_to_mark(int fd, const struct file_out_mark *m, uint64_t size)
{
	if (size < m->offset || !tail_matches(fd, m))
		return CUT_FOREIGN;
	if (size > m->offset && ftruncate(fd, (off_t)m->offset) < 0)
		return CUT_FAILED;
	return CUT_DONE;
}

/* Goes on in the file the mark names, or takes it as it is when somebody else changed it. */
static int settle_file(struct stage *st, const struct file_out_mark *mark, const struct stat *sb)
{
	const struct file_out_config *cfg = st->config;
	struct file_out_state *s = st->state;
	enum cut cut = cut_to_mark(s->fd, mark, (uint64_t)sb->st_size);
	if (cut == CUT_FAILED)
		return file_out_unreachable(st, "cannot be cut to its committed end", errno);
	if (cut == CUT_FOREIGN) {
		log_warning("%s: has %lld bytes and not what was written up to byte %" PRIu64
		            ": somebody changed it; goes on at its end",
		            cfg->path, (long long)sb->st_size, mark->offset);
		take_file(st, sb);
		return 0;
	}
	s->now = *mark;
	s->anchored = s->now.dev == sb->st_dev;
	s->now.dev = sb->st_dev;
	s->newline_due = file_out_line_open(st, s->fd, s->now.offset);
	return 0;
}

/* The file was renamed before its last unit was committed, or after. */
static int settle_moved(struct stage *st, const struct file_out_mark *mark)
{
	const struct file_out_config *cfg = st->config;
	struct stat sb;
	_cleanup_close_ int fd = file_rotate_find(cfg->path, mark->ino);
	if (fd < 0 || fstat(fd, &sb) < 0) {
		log_warning("%s: the file written up to byte %" PRIu64
		            " is not beside it any more: "
		            "what a crash may have left behind that byte cannot be cut off",
		            cfg->path, mark->offset);
		return 0;
	}
	enum cut cut = cut_to_mark(fd, mark, (uint64_t)sb.st_size);
	if (cut == CUT_FAILED)
		return file_out_unreachable(st, "the file renamed from it cannot be cut", errno);
	if (cut == CUT_FOREIGN)
		log_warning("%s: the file renamed from it was changed; left as it is", cfg->path);
	return 0;
}

/* One directory is made when it is missing; more would hide a wrong path. */
static void make_directory(const char *path)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	if (slash && slash != path &&
	    snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path) < (int)sizeof(dir))
		mkdir(dir, 0750);
}

/* Opens the path into @s->fd. 0 or STAGE_E_UNREACHABLE, then nothing is open. */
static int open_path(struct stage *st, struct stat *sb)
{
	const struct file_out_config *cfg = st->config;
	int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	_cleanup_close_ int fd = open(cfg->path, flags, (mode_t)cfg->mode);
	if (fd < 0 && errno == ENOENT) {
		make_directory(cfg->path);
		fd = open(cfg->path, flags, (mode_t)cfg->mode);
	}
	if (fd < 0)
		return file_out_unreachable(st, "cannot be opened", errno);
	if (fstat(fd, sb) < 0)
		return file_out_unreachable(st, "cannot be read", errno);
	if (!S_ISREG(sb->st_mode))
		return stage_say(st, STAGE_E_UNREACHABLE, "%s: not a regular file", cfg->path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return stage_say(st, STAGE_E_UNREACHABLE, "%s: another process writes it",
		                 cfg->path);
	if (cfg->sync && file_rotate_sync_dir(cfg->path) < 0)
		return file_out_unreachable(st, "its directory cannot be synced", errno);
	((struct file_out_state *)st->state)->fd = err_take_fd(&fd);
	return 0;
}

int file_out_open(struct stage *st, const struct file_out_mark *mark)
{
	struct file_out_state *s = st->state;
	struct stat sb;
	int r = open_path(st, &sb);
	if (r == 0 && mark)
		r = sb.st_ino == mark->ino ? settle_file(st, mark, &sb) : settle_moved(st, mark);
	if (r == 0 && st->cut_off && st->codec->ops->text)
		r = cut_open_line(st, &sb);
	if (r == 0 && (!mark || sb.st_ino != mark->ino))
		take_file(st, &sb);
	if (r != 0) {
		file_out_close(st);
		return r;
	}
	s->written = false;
	s->cut_due = false;
	s->header_due = s->now.offset > 0 && st->codec->ops->has_prologue;
	s->sure = s->now;
	file_out_deadline(st);
	return 0;
}

void file_out_close(struct stage *st)
{
	struct file_out_state *s = st->state;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

void file_out_count(struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	struct file_out_state *s = st->state;
	struct file_rotated_list list;
	if (cfg->max_size == 0 || file_rotate_list(cfg->path, &list) != 0)
		return;
	s->rotated_bytes = file_rotate_total(&list);
	file_rotate_list_deinit(&list);
}

int file_out_check(struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	struct file_out_state *s = st->state;
	struct stat sb;
	if (s->cut_due && ftruncate(s->fd, (off_t)s->now.offset) < 0)
		return file_out_unreachable(st, "cannot be cut back", errno);
	s->cut_due = false;
	if (fstat(s->fd, &sb) < 0)
		return file_out_unreachable(st, "cannot be read", errno);
	if ((uint64_t)sb.st_size == s->now.offset)
		return 0;
	log_warning("%s: has %lld bytes, not %" PRIu64
	            ": another program %s it; goes on at its end",
	            cfg->path, (long long)sb.st_size, s->now.offset,
	            (uint64_t)sb.st_size < s->now.offset ? "cut" : "wrote to");
	take_file(st, &sb);
	s->sure = s->now;
	return 0;
}

bool file_out_is_current(const struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	const struct file_out_state *s = st->state;
	struct stat sb;
	return s->fd >= 0 && stat(cfg->path, &sb) == 0 && sb.st_ino == s->now.ino &&
	       sb.st_dev == s->now.dev;
}

int file_out_switch(struct stage *st)
{
	file_out_close(st);
	return file_out_open(st, NULL);
}

static bool rotation_due(const struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	const struct file_out_state *s = st->state;
	if (s->now.offset == 0 || clock_realtime() < s->rotate_after)
		return false;
	return (cfg->rotate.size && s->now.offset >= cfg->rotate.size) ||
	       (cfg->rotate.age && clock_realtime() - s->now.opened >= cfg->rotate.age);
}

int file_out_rotate(struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	struct file_out_state *s = st->state;
	if (!s->anchored || !rotation_due(st))
		return 0;
	if (file_out_is_current(st)) {
		int r = file_rotate_rename(cfg->path, &s->now.rotation);
		if (r < 0)
			return r;
		if (r != 0) {
			log_warning("%s: cannot be rotated: %s; goes on in it", cfg->path,
			            strerror(errno));
			s->rotate_after = clock_realtime() + RETRY_AFTER;
			return 0;
		}
	}
	s->prune_due = cfg->rotate.keep > 0;
	int r = file_out_switch(st);
	file_out_count(st);
	return r;
}
