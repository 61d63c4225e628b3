/*
 * Spools written, read, marked and removed.
 *
 * The hard idea: a replay has two sides that cannot commit together, a person's command, which
 * writes files, and a worker, which commits in the arena. They meet in one rename. Before it
 * nothing has happened: an unpublished file is overwritten by the next command. After it the spool
 * will be replayed, by whichever process lives to do so, and every letter in it counts as replayed;
 * the marks in the file of replayed ids only follow, and are made again by the reader, so that a
 * command killed in between loses none. The spool's id, made anew for each, ties the reader's
 * position to this very file: an old position is never taken for a new spool, and a spool that a
 * position calls done is never read again.
 *
 * Invariants
 *  - a published spool is whole and on the disk, and never changes;
 *  - marks are on the disk before the spool is removed.
 *
 * Limit: the file's owner is made that of the directory, so that the daemon may read and remove
 * what root wrote; a user who is neither can replay nothing.
 */
#include "daemon/spool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/deadletter.h"
#include "ipc/err.h"

enum {
	MARKS_AT_ONCE = 1024,
	HEAD_SIZE = 45, /* {"spool":"..."} and its newline */
};

int spool_name(const char *dir, const char *stage, char name[PATH_MAX])
{
	int n = snprintf(name, PATH_MAX, "%s/" SPOOL_PREFIX "%s.spool", dir, stage);
	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

bool spool_exists(const char *dir, const char *stage)
{
	char name[PATH_MAX];
	return spool_name(dir, stage, name) == 0 && access(name, F_OK) == 0;
}

/* ---- writing ---- */

static int write_head(FILE *f)
{
	uint8_t id[SPOOL_ID];
	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return -EIO;
	fputs("{\"spool\":\"", f);
	for (unsigned i = 0; i < SPOOL_ID; i++)
		fprintf(f, "%02x", id[i]);
	fputs("\"}\n", f);
	return ferror(f) ? -EIO : 0;
}

int spool_create(struct spool_writer *w, const char *dir, const char *stage)
{
	struct stat sb;
	int r = spool_name(dir, stage, w->name);
	if (r < 0)
		return r;
	snprintf(w->fresh, sizeof(w->fresh), "%s.new", w->name);
	w->letters = 0;
	int fd = open(w->fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd < 0)
		return err_errno();
	if (stat(dir, &sb) < 0 ||
	    (sb.st_uid != geteuid() && fchown(fd, sb.st_uid, sb.st_gid) < 0)) {
		r = err_errno();
		close(fd);
		return r;
	}
	w->f = fdopen(fd, "w");
	if (!w->f) {
		r = err_errno();
		close(fd);
		return r;
	}
	return write_head(w->f);
}

int spool_add(struct spool_writer *w, const char *line, size_t len)
{
	w->letters++;
	if (fwrite(line, 1, len, w->f) != len || fputc('\n', w->f) == EOF)
		return err_errno();
	return 0;
}

/* A rename is on the disk when its directory is. */
static int sync_directory(const char *name)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(name, '/');
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - name) + 1 : 1, slash ? name : ".");
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? err_errno() : 0;
}

int spool_publish(struct spool_writer *w)
{
	int r = fflush(w->f) != 0 || fsync(fileno(w->f)) < 0 ? err_errno() : 0;
	if (fclose(w->f) != 0 && r == 0)
		r = err_errno();
	w->f = NULL;
	if (r == 0 && rename(w->fresh, w->name) < 0)
		r = err_errno();
	if (r < 0)
		unlink(w->fresh);
	return r < 0 ? r : sync_directory(w->name);
}

void spool_abandon(struct spool_writer *w)
{
	if (!w->f)
		return;
	fclose(w->f);
	w->f = NULL;
	unlink(w->fresh);
}

/* ---- reading ---- */

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_head(struct spool *s)
{
	static const char before[] = "{\"spool\":\"", behind[] = "\"}\n";
	char head[HEAD_SIZE];
	const char *p = head + sizeof(before) - 1;
	if (fread(head, 1, sizeof(head), s->f) != sizeof(head) ||
	    memcmp(head, before, sizeof(before) - 1) != 0 ||
	    memcmp(p + 2 * SPOOL_ID, behind, sizeof(behind) - 1) != 0)
		return ferror(s->f) ? -EIO : -EBADMSG;
	for (unsigned i = 0; i < SPOOL_ID; i++, p += 2) {
		int high = hex(p[0]), low = hex(p[1]);
		if (high < 0 || low < 0)
			return -EBADMSG;
		s->id[i] = (uint8_t)(high << 4 | low);
	}
	s->start = s->offset = sizeof(head);
	return 0;
}

int spool_open(struct spool *s, const char *dir, const char *stage)
{
	*s = (struct spool){0};
	int r = spool_name(dir, stage, s->name);
	if (r < 0)
		return r;
	s->f = fopen(s->name, "re");
	if (!s->f)
		return errno == ENOENT ? SPOOL_E_NONE : err_errno();
	r = read_head(s);
	if (r < 0)
		spool_close(s);
	return r;
}

void spool_close(struct spool *s)
{
	if (s->f)
		fclose(s->f);
	s->f = NULL;
	free(s->line);
	s->line = NULL;
	s->cap = 0;
}

static int go_to(struct spool *s, uint64_t offset)
{
	if (fseeko(s->f, (off_t)offset, SEEK_SET) < 0)
		return err_errno();
	s->offset = offset;
	return 0;
}

bool spool_resume(struct spool *s, const struct spool_position *p)
{
	bool same = memcmp(p->id, s->id, SPOOL_ID) == 0 && p->offset >= s->start;
	go_to(s, same ? p->offset : s->start);
	return same && p->done;
}

int spool_next(struct spool *s, const char **line, size_t *len)
{
	ssize_t n = getline(&s->line, &s->cap, s->f);
	if (n < 0)
		return ferror(s->f) ? -EIO : SPOOL_E_END;
	s->offset += (uint64_t)n;
	*line = s->line;
	*len = (size_t)n - (s->line[n - 1] == '\n');
	s->line[*len] = '\0';
	return 0;
}

void spool_tell(const struct spool *s, bool done, struct spool_position *p)
{
	*p = (struct spool_position){.offset = s->offset, .done = done};
	memcpy(p->id, s->id, SPOOL_ID);
}

int spool_remove(const struct spool *s)
{
	return unlink(s->name) < 0 && errno != ENOENT ? err_errno() : 0;
}

/* ---- marks ---- */

struct marks {
	char *id[MARKS_AT_ONCE];
	size_t n;
};

static int put_marks(struct marks *m, const char *dir)
{
	int r = m->n ? deadletter_mark(dir, (const char *const *)m->id, m->n) : 0;
	while (m->n)
		free(m->id[--m->n]);
	return r;
}

static int mark_all(struct spool *s, const char *dir, struct deadletter_reader *rd)
{
	struct marks m = {.n = 0};
	struct deadletter d;
	const char *line;
	size_t len;
	int r;
	while ((r = spool_next(s, &line, &len)) == 0) {
		r = deadletter_parse(rd, line, len, &d);
		if (r < 0)
			break;
		if (r == 0 || d.replayed)
			continue;
		m.id[m.n] = strdup(d.id);
		if (!m.id[m.n++])
			r = -ENOMEM;
		else if (m.n == MARKS_AT_ONCE)
			r = put_marks(&m, dir);
		if (r < 0)
			break;
	}
	int marked = r < 0 ? 0 : put_marks(&m, dir);
	while (m.n)
		free(m.id[--m.n]);
	return r < 0 ? r : marked;
}

int spool_mark(struct spool *s, const char *dir)
{
	struct deadletter_reader *rd = NULL;
	int r = go_to(s, s->start);
	if (r == 0)
		r = deadletter_reader_new(&rd, dir);
	if (r == 0)
		r = mark_all(s, dir, rd);
	deadletter_reader_free(rd);
	return r < 0 ? r : go_to(s, s->start);
}
