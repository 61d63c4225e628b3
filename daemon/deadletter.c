/*
 * Reading and purging dead letters beside a writer that may be running.
 *
 * The hard idea: the writer owns its file exactly (it cuts it back after a crash, and notices when
 * its length is not what it left), so nobody else may change it. Only rotated files are purged:
 * rewritten without the old letters, or removed; and of those only the ones whose lock the writer
 * does not hold, for between a rename and its reopening it still writes into the renamed one.
 *
 * Which letters were replayed stands in a file of its own that only grows, one id a line; it is
 * removed when a purge leaves no letter.
 *
 * Limits
 *  - a letter is seen as soon as its line is complete, a moment before its unit is committed;
 *  - a line at the end without its newline is being written: it is not looked at.
 */
#include "daemon/deadletter.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "ipc/err.h"
#include "ipc/log.h"
#include "ipc/record.h"
#include "stages/codec.h"
#include "stages/consumers/file_rotate.h"
#include "stages/times.h"

enum {
	LETTER_MAX = 64 << 20, /* bytes of a letter as msgpack; more is no letter of ours */
};

static void close_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

/* The file letters are written to: @path itself, or in the directory @path. */
static int find_file(const char *path, char file[PATH_MAX])
{
	struct stat sb;
	bool dir = stat(path, &sb) < 0 || S_ISDIR(sb.st_mode);
	int n = snprintf(file, PATH_MAX, dir ? "%s/" DEADLETTER_FILE : "%s", path);
	return n + FILE_ROTATE_SUFFIX < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* The name of the file of replayed ids, for the letters' file @file. */
static int replayed_name(const char *file, char name[PATH_MAX])
{
	const char *slash = strrchr(file, '/');
	int dir = slash ? (int)(slash - file) + 1 : 0;
	int n = snprintf(name, PATH_MAX, "%.*s" DEADLETTER_REPLAYED, dir, file);
	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* ---- the replayed ids --------------------------------------------------------------------------
 */

struct ids {
	struct buf text; /* all lines, with NULs for newlines */
	const char **v;  /* sorted */
	size_t n;
};

static void ids_deinit(struct ids *ids)
{
	buf_deinit(&ids->text);
	free(ids->v);
}

static int compare_ids(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int read_all(const char *name, struct buf *b)
{
	_cleanup_close_ int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_errno();
	for (;;) {
		if (buf_room(b, 65536) < 0)
			return -ENOMEM;
		ssize_t n = read(fd, b->p + b->len, 65536);
		if (n < 0)
			return err_errno();
		if (n == 0)
			return 0;
		b->len += (size_t)n;
	}
}

static int ids_load(const char *file, struct ids *ids)
{
	char name[PATH_MAX];
	int r = replayed_name(file, name);
	if (r == 0)
		r = read_all(name, &ids->text);
	while (r == 0 && ids->text.len && ids->text.p[ids->text.len - 1] != '\n')
		ids->text.len--; /* half an id */
	if (r == 0)
		r = buf_add_byte(&ids->text, '\n');
	if (r < 0)
		return r;
	char *p = (char *)ids->text.p;
	size_t lines = 0;
	for (size_t i = 0; i < ids->text.len; i++)
		lines += p[i] == '\n';
	ids->v = calloc(lines, sizeof(*ids->v));
	if (!ids->v)
		return -ENOMEM;
	for (char *end; p < (char *)ids->text.p + ids->text.len; p = end + 1) {
		end = memchr(p, '\n', (size_t)((char *)ids->text.p + ids->text.len - p));
		*end = 0;
		if (*p)
			ids->v[ids->n++] = p;
	}
	qsort(ids->v, ids->n, sizeof(*ids->v), compare_ids);
	return 0;
}

static bool ids_have(const struct ids *ids, const char *id)
{
	return bsearch(&id, ids->v, ids->n, sizeof(*ids->v), compare_ids) != NULL;
}

/* A file that root made is the daemon's too: both add to it. */
static void own_like_directory(int fd, const char *name)
{
	char dir[PATH_MAX];
	struct stat sb;
	const char *slash = strrchr(name, '/');
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - name) + 1 : 1, slash ? name : ".");
	if (geteuid() == 0 && stat(dir, &sb) == 0 && fchown(fd, sb.st_uid, sb.st_gid) < 0)
		log_debug("%s: keeps its owner", name);
}

/* Who was killed while it marked may have left half an id, which could read as another's. */
static int cut_torn_line(int fd)
{
	char tail[4096];
	off_t end = lseek(fd, 0, SEEK_END),
	      from = end > (off_t)sizeof(tail) ? end - (off_t)sizeof(tail) : 0;
	ssize_t n = end > 0 ? pread(fd, tail, (size_t)(end - from), from) : 0;
	if (end < 0 || n < 0)
		return err_errno();
	while (n > 0 && tail[n - 1] != '\n')
		n--;
	return from + n < end && ftruncate(fd, from + n) < 0 ? err_errno() : 0;
}

int deadletter_mark(const char *path, const char *const *ids, size_t n)
{
	char file[PATH_MAX];
	char name[PATH_MAX];
	_cleanup_(buf_deinit) struct buf b = {0};
	int r = find_file(path, file);
	if (r == 0)
		r = replayed_name(file, name);
	for (size_t i = 0; i < n && r == 0; i++)
		r = buf_printf(&b, "%s\n", ids[i]);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open(name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return err_errno();
	own_like_directory(fd, name);
	r = cut_torn_line(fd);
	if (r < 0)
		return r;
	for (size_t done = 0; done < b.len;) {
		ssize_t k = write(fd, b.p + done, b.len - done);
		if (k < 0)
			return err_errno();
		done += (size_t)k;
	}
	return fsync(fd) < 0 ? err_errno() : 0;
}

/* ---- one letter --------------------------------------------------------------------------------
 */

/* What reading letters needs, reused from line to line. */
struct deadletter_reader {
	struct codec codec;
	void *codec_config;
	struct buf msgpack;
	struct buf texts;
	struct record rec;
	struct ids replayed;
};

static void reader_deinit(struct deadletter_reader *rd)
{
	if (rd->codec.ops)
		codec_deinit(&rd->codec);
	free(rd->codec_config);
	buf_deinit(&rd->msgpack);
	buf_deinit(&rd->texts);
	record_deinit(&rd->rec);
	ids_deinit(&rd->replayed);
}

static int reader_init(struct deadletter_reader *rd, const char *file)
{
	const struct codec_ops *ops = codec_find("json");
	struct complaints none = {0};
	if (!ops)
		return -ENOSYS;
	rd->codec_config = calloc(1, ops->config_size + 1);
	if (!rd->codec_config)
		return -ENOMEM;
	if (ops->options)
		option_parse(ops->options, NULL, NULL, rd->codec_config, &none);
	buf_deinit(&none.text);
	int r = codec_init(&rd->codec, ops, rd->codec_config, LETTER_MAX);
	return r < 0 ? r : ids_load(file, &rd->replayed);
}

/* Copies a text field; returns its offset in rd->texts, for the buffer may move. -errno. */
static int64_t take_text(struct deadletter_reader *rd, const char *key)
{
	struct field *f = record_get(&rd->rec, key, strlen(key));
	struct mp v = record_value(f ? f->val : NULL, f ? f->val_len : 0);
	size_t at = rd->texts.len;
	int r = 0;
	if (v.type == MP_STR)
		r = buf_add(&rd->texts, v.p, v.len);
	if (r == 0)
		r = buf_add_byte(&rd->texts, 0);
	return r < 0 ? r : (int64_t)at;
}

static int64_t time_of(const char *at)
{
	struct times t;
	if (times_parse(NULL, at, strlen(at), &t) != TIMES_E_OK)
		return 0;
	return t.sec * 1000000000 + t.nsec;
}

static int take_fields(struct deadletter_reader *rd, struct deadletter *d)
{
	static const char *const keys[] = {"id", "at", "stage", "error", "position"};
	const char **const texts[] = {&d->id, &d->at, &d->stage, &d->error, &d->position};
	int64_t at[5];
	rd->texts.len = 0;
	for (size_t i = 0; i < 5; i++)
		if ((at[i] = take_text(rd, keys[i])) < 0)
			return (int)at[i];
	for (size_t i = 0; i < 5; i++)
		*texts[i] = (const char *)rd->texts.p + at[i];
	struct field *f = record_get(&rd->rec, "attempts", 8);
	struct mp v = record_value(f ? f->val : NULL, f ? f->val_len : 0);
	d->attempts = v.type == MP_UINT ? v.u : 0;
	f = record_get(&rd->rec, "input", 5);
	d->input = f ? f->val : NULL;
	d->input_len = f ? f->val_len : 0;
	d->time = time_of(d->at);
	d->replayed = ids_have(&rd->replayed, d->id);
	return 0;
}

/* Reads one line. 1: it is a letter; 0: it is none; -errno. */
static int read_letter(struct deadletter_reader *rd, const char *line, size_t len,
                       struct deadletter *d)
{
	struct codec_window w = {
	        .p = (const uint8_t *)line,
	        .end = (const uint8_t *)line + len,
	        .last = true,
	};
	const char *why;
	size_t n = 0;
	int r = CODEC_E_ROOM;
	for (size_t room = len + 1024; r == CODEC_E_ROOM && room < LETTER_MAX; room *= 2) {
		rd->msgpack.len = 0;
		if (buf_room(&rd->msgpack, room) < 0)
			return -ENOMEM;
		r = rd->codec.ops->decode(&rd->codec, &w, rd->msgpack.p, rd->msgpack.cap, &n);
	}
	if (r != CODEC_E_OK)
		return r < 0 ? r : 0;
	r = record_open(&rd->rec, rd->msgpack.p, n, &why);
	if (r != 0)
		return r < 0 ? r : 0;
	*d = (struct deadletter){.json = line, .json_len = len};
	r = take_fields(rd, d);
	return r < 0 ? r : d->id[0] != 0;
}

int deadletter_reader_new(struct deadletter_reader **out, const char *path)
{
	char file[PATH_MAX];
	struct deadletter_reader *rd = calloc(1, sizeof(*rd));
	int r = rd ? find_file(path, file) : -ENOMEM;
	if (r == 0)
		r = reader_init(rd, file);
	if (r < 0)
		rd = deadletter_reader_free(rd);
	*out = rd;
	return r;
}

struct deadletter_reader *deadletter_reader_free(struct deadletter_reader *rd)
{
	if (rd)
		reader_deinit(rd);
	free(rd);
	return NULL;
}

int deadletter_parse(struct deadletter_reader *rd, const char *line, size_t len,
                     struct deadletter *d)
{
	return read_letter(rd, line, len, d);
}

bool deadletter_is_record(const struct deadletter *d)
{
	return d->input && record_value(d->input, d->input_len).type == MP_MAP;
}

/* ---- all letters -------------------------------------------------------------------------------
 */

static bool stage_matches(const char *stage, const char *wanted)
{
	size_t n = strlen(wanted);
	return strncmp(stage, wanted, n) == 0 && (stage[n] == 0 || stage[n] == '/');
}

static bool matches(const struct deadletter_filter *f, const struct deadletter *d)
{
	return (!f->id || strcmp(f->id, d->id) == 0) &&
	       (!f->stage || stage_matches(d->stage, f->stage)) &&
	       (!f->error || strstr(d->error, f->error)) && d->time >= f->since &&
	       (f->before == 0 || d->time < f->before) && !(f->open_only && d->replayed);
}

struct walk {
	struct deadletter_reader reader;
	const struct deadletter_filter *filter;
	uint64_t *bad;
	uint64_t found;
	bool ended;
	int (*each)(void *arg, const struct deadletter *d);
	int (*other)(void *arg, const char *line, size_t len); /* one that is no letter; optional */
	void *arg;
};

static int walk_line(struct walk *k, const char *line, size_t len)
{
	struct deadletter d;
	int r = read_letter(&k->reader, line, len, &d);
	if (r == 0 && len && k->bad)
		++*k->bad;
	if (r == 0 && len && k->other)
		return k->other(k->arg, line, len);
	if (r <= 0 || !matches(k->filter, &d))
		return r < 0 ? r : 0;
	r = k->each(k->arg, &d);
	k->ended = r != 0 || (k->filter->limit && ++k->found == k->filter->limit);
	return r;
}

/* Every whole line of one file. */
static int walk_file(struct walk *k, const char *name)
{
	_cleanup_free_ char *line = NULL;
	size_t cap = 0;
	_cleanup_(close_file) FILE *f = fopen(name, "re");
	int r = 0;
	if (!f)
		return errno == ENOENT ? 0 : err_errno();
	while (r == 0 && !k->ended) {
		ssize_t n = getline(&line, &cap, f);
		if (n > 0 && line[n - 1] == '\n') {
			line[n - 1] = 0;
			r = walk_line(k, line, (size_t)n - 1);
		} else {
			r = n > 0 && k->other ? k->other(k->arg, line, (size_t)n) : 0;
			break;
		}
	}
	return r == 0 && ferror(f) ? -EIO : r;
}

/* Finds the newest letters of @path (@file: PATH_MAX bytes) and the rotated ones; none are no
 * error. */
static int walk_begin(struct walk *k, const char *path, char *file, struct file_rotated_list *list)
{
	int r = find_file(path, file);
	if (r < 0)
		return r;
	r = reader_init(&k->reader, file);
	if (r == 0 && (r = file_rotate_list(file, list)) == FILE_ROTATE_E_FAILED)
		r = errno == ENOENT ? 0 : err_errno();
	return r;
}

int deadletter_each(const char *path, const struct deadletter_filter *f, uint64_t *bad,
                    int (*each)(void *arg, const struct deadletter *d), void *arg)
{
	struct walk k = {.filter = f, .bad = bad, .each = each, .arg = arg};
	struct file_rotated_list list = {0};
	char file[PATH_MAX];
	char name[PATH_MAX];
	int r = walk_begin(&k, path, file, &list);
	for (size_t i = 0; i < list.n && r == 0 && !k.ended; i++) {
		file_rotate_name(file, list.v[i].number, name, sizeof(name));
		r = walk_file(&k, name);
	}
	if (r == 0 && !k.ended)
		r = walk_file(&k, file);
	file_rotate_list_deinit(&list);
	reader_deinit(&k.reader);
	return r;
}

/* ---- purging -----------------------------------------------------------------------------------
 */

int deadletter_rotate(const char *path)
{
	char file[PATH_MAX];
	struct stat sb;
	uint64_t last = 0;
	int r = find_file(path, file);
	if (r < 0)
		return r;
	if (stat(file, &sb) < 0)
		return errno == ENOENT ? 0 : err_errno();
	if (sb.st_size == 0)
		return 0;
	r = file_rotate_rename(file, &last);
	return r == FILE_ROTATE_E_FAILED ? err_errno() : r;
}

struct purge {
	FILE *out;
	int64_t before;
	uint64_t removed;
	uint64_t kept;
};

/* What has no time that can be read (@time 0) goes only with all. */
static int keep_young(struct purge *p, int64_t time, const char *line, size_t len)
{
	if (p->before == INT64_MAX || (time && time < p->before)) {
		p->removed++;
		return 0;
	}
	p->kept++;
	fwrite(line, 1, len, p->out);
	fputc('\n', p->out);
	return ferror(p->out) ? -EIO : 0;
}

static int purge_letter(void *arg, const struct deadletter *d)
{
	return keep_young(arg, d->time, d->json, d->json_len);
}

static int purge_other(void *arg, const char *line, size_t len)
{
	return keep_young(arg, 0, line, len);
}

/* Writes what stays of @name beside it, then takes its place. */
static int rewrite(struct walk *k, struct purge *p, const char *name, const struct stat *sb)
{
	char aside[PATH_MAX];
	if (snprintf(aside, sizeof(aside), "%s.purge", name) >= (int)sizeof(aside))
		return -ENAMETOOLONG;
	int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	if (fd >= 0 && fchown(fd, sb->st_uid, sb->st_gid) < 0)
		log_debug("%s: keeps its new owner", aside);
	p->out = fd < 0 ? NULL : fdopen(fd, "w");
	if (!p->out)
		return err_errno();
	int r = walk_file(k, name);
	if (r == 0 && (fflush(p->out) != 0 || fsync(fd) < 0))
		r = err_errno();
	if (fclose(p->out) != 0 && r == 0)
		r = err_errno();
	if (r == 0 && p->removed)
		r = (p->kept ? rename(aside, name) : unlink(name)) < 0 ? err_errno() : 0;
	unlink(aside); /* gone already when it took the place */
	return r;
}

static int purge_file(struct walk *k, const char *name, int64_t before,
                      struct deadletter_purge *result)
{
	struct purge p = {.before = before};
	struct stat sb;
	_cleanup_close_ int lock = open(name, O_RDONLY | O_CLOEXEC);
	if (lock < 0 || fstat(lock, &sb) < 0)
		return errno == ENOENT ? 0 : err_errno();
	if (flock(lock, LOCK_EX | LOCK_NB) < 0) {
		result->busy++;
		return 0;
	}
	k->arg = &p;
	int r = rewrite(k, &p, name, &sb);
	k->arg = NULL; /* it outlives us */
	result->removed += p.removed;
	result->kept += p.kept;
	return r;
}

/* Without letters nothing has to be remembered of them. */
static void forget_replayed(const char *file)
{
	char name[PATH_MAX];
	struct stat sb;
	if ((stat(file, &sb) < 0 || sb.st_size == 0) && replayed_name(file, name) == 0)
		unlink(name);
}

int deadletter_purge(const char *path, int64_t before, struct deadletter_purge *result)
{
	static const struct deadletter_filter all;
	struct walk k = {.filter = &all, .each = purge_letter, .other = purge_other};
	struct file_rotated_list list = {0};
	char file[PATH_MAX];
	char name[PATH_MAX];
	*result = (struct deadletter_purge){0};
	int r = walk_begin(&k, path, file, &list);
	for (size_t i = 0; i < list.n && r == 0; i++) {
		file_rotate_name(file, list.v[i].number, name, sizeof(name));
		r = purge_file(&k, name, before, result);
	}
	if (r == 0 && !result->kept && !result->busy)
		forget_replayed(file);
	file_rotate_list_deinit(&list);
	reader_deinit(&k.reader);
	return r;
}
