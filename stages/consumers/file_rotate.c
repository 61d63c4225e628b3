/*
 * Rotation of an output file by one rename to a number that was never used before.
 *
 * The hard idea: shifting names (.1 to .2, .2 to .3, ...) takes many renames, and a crash among
 * them leaves a state that must be understood. A number that only grows takes one rename, which
 * happened or did not; whoever knows the inode (the committed position does) can tell which.
 *
 * Invariants
 *  - no rename overwrites a file (RENAME_NOREPLACE);
 *  - only names of PATH, a dot and six or more digits are ever counted or removed.
 *
 * Limit: file systems without RENAME_NOREPLACE (some network ones) get link() and unlink() instead.
 */
#include "stages/consumers/file_rotate.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ipc/err.h"
#include "ipc/log.h"

enum {
	DIGITS_MIN = 6,
	TRIES = 1000,
};

static void close_dir(DIR **d)
{
	if (*d)
		closedir(*d);
}

static const char *base_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* Opens the directory @path lies in. */
static int open_directory(const char *path)
{
	char dir[PATH_MAX];
	int len = (int)(base_of(path) - path);
	if (snprintf(dir, sizeof(dir), "%.*s.", len, path) >= (int)sizeof(dir)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static DIR *list_directory(const char *path)
{
	int fd = open_directory(path);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (fd >= 0 && !d)
		close(fd);
	return d;
}

/* The number of a rotated file's name, 0 when it is none. */
static uint64_t number_of(const char *name, const char *base)
{
	size_t len = strlen(base);
	if (strncmp(name, base, len) != 0 || name[len] != '.')
		return 0;
	const char *digits = name + len + 1;
	size_t n = strspn(digits, "0123456789");
	if (n < DIGITS_MIN || n > 18 || digits[n] != 0)
		return 0;
	return strtoull(digits, NULL, 10);
}

static int add_file(struct file_rotated_list *list, size_t *cap, struct file_rotated f)
{
	if (list->n == *cap) {
		size_t more = *cap ? *cap * 2 : 16;
		struct file_rotated *v = realloc(list->v, more * sizeof(*v));
		if (!v)
			return -ENOMEM;
		list->v = v;
		*cap = more;
	}
	list->v[list->n++] = f;
	return 0;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = ((const struct file_rotated *)a)->number;
	uint64_t y = ((const struct file_rotated *)b)->number;
	return x < y ? -1 : x > y;
}

int file_rotate_list(const char *path, struct file_rotated_list *list)
{
	size_t cap = 0;
	*list = (struct file_rotated_list){0};
	_cleanup_(close_dir) DIR *d = list_directory(path);
	if (!d)
		return FILE_ROTATE_E_FAILED;
	for (struct dirent *e; (e = readdir(d));) {
		struct stat sb;
		uint64_t number = number_of(e->d_name, base_of(path));
		if (number == 0 || fstatat(dirfd(d), e->d_name, &sb, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !S_ISREG(sb.st_mode))
			continue;
		int r = add_file(list, &cap, (struct file_rotated){number, (uint64_t)sb.st_size});
		if (r < 0) {
			file_rotate_list_deinit(list);
			return r;
		}
	}
	if (list->n)
		qsort(list->v, list->n, sizeof(*list->v), by_number);
	return 0;
}

void file_rotate_list_deinit(struct file_rotated_list *list)
{
	free(list->v);
	*list = (struct file_rotated_list){0};
}

uint64_t file_rotate_total(const struct file_rotated_list *list)
{
	uint64_t total = 0;
	for (size_t i = 0; i < list->n; i++)
		total += list->v[i].size;
	return total;
}

void file_rotate_name(const char *path, uint64_t number, char *name, size_t size)
{
	snprintf(name, size, "%s.%06" PRIu64, path, number);
}

static int rename_new(const char *from, const char *to)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	/* after a crash between the two the file has both names: the inode still tells */
	return link(from, to) < 0 ? -1 : unlink(from);
}

int file_rotate_rename(const char *path, uint64_t *last)
{
	struct file_rotated_list list;
	char name[PATH_MAX];
	int r = file_rotate_list(path, &list);
	if (r != 0)
		return r;
	uint64_t number = list.n ? list.v[list.n - 1].number : 0;
	file_rotate_list_deinit(&list);
	if (number < *last)
		number = *last;
	for (int i = 0; i < TRIES; i++) {
		file_rotate_name(path, ++number, name, sizeof(name));
		if (rename_new(path, name) == 0) {
			*last = number;
			return 0;
		}
		if (errno != EEXIST)
			break;
	}
	return FILE_ROTATE_E_FAILED;
}

void file_rotate_prune(const char *path, uint64_t keep)
{
	struct file_rotated_list list;
	char name[PATH_MAX];
	if (file_rotate_list(path, &list) != 0)
		return;
	for (size_t i = 0; i + keep < list.n; i++) {
		file_rotate_name(path, list.v[i].number, name, sizeof(name));
		if (unlink(name) < 0 && errno != ENOENT)
			log_warning("%s: cannot be removed: %s", name, strerror(errno));
	}
	file_rotate_list_deinit(&list);
}

int file_rotate_find(const char *path, uint64_t ino)
{
	const char *base = base_of(path);
	size_t len = strlen(base);
	_cleanup_(close_dir) DIR *d = list_directory(path);
	for (struct dirent *e; d && (e = readdir(d));) {
		struct stat sb;
		if (strncmp(e->d_name, base, len) != 0 ||
		    (e->d_name[len] != '.' && e->d_name[len] != '-'))
			continue;
		if (fstatat(dirfd(d), e->d_name, &sb, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !S_ISREG(sb.st_mode) || sb.st_ino != ino)
			continue;
		return openat(dirfd(d), e->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	}
	return -1;
}

int file_rotate_sync_dir(const char *path)
{
	_cleanup_close_ int fd = open_directory(path);
	if (fd < 0 || fsync(fd) < 0)
		return err_errno();
	return 0;
}
