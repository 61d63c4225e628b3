/*
 * The numbered files beside an output file: PATH.000001, PATH.000002, ... The highest number is the
 * newest.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

enum file_rotate_error {
	FILE_ROTATE_E_OK,
	FILE_ROTATE_E_FAILED, /* errno says why; nothing was renamed */
};

struct file_rotated {
	uint64_t number;
	uint64_t size;
};

struct file_rotated_list {
	struct file_rotated *v; /* oldest first */
	size_t n;
};

/* All numbered files of @path. 0, FILE_ROTATE_E_FAILED (the directory cannot be read), -ENOMEM. The
 * list is the caller's to free with file_rotate_list_deinit. */
int file_rotate_list(const char *path, struct file_rotated_list *list);
void file_rotate_list_deinit(struct file_rotated_list *list);

/* Bytes in all of them. */
uint64_t file_rotate_total(const struct file_rotated_list *list);

/* The name of one, in @name (at least strlen(path) + FILE_ROTATE_SUFFIX bytes). */
enum {
	FILE_ROTATE_SUFFIX = 24,
};
void file_rotate_name(const char *path, uint64_t number, char *name, size_t size);

/* Renames @path to the next number: above every one there is, and above *@last, which it becomes.
 * Never overwrites. 0, FILE_ROTATE_E_FAILED, -ENOMEM. */
int file_rotate_rename(const char *path, uint64_t *last);

/* Removes all but the newest @keep. A file that cannot be removed stays, and is told. */
void file_rotate_prune(const char *path, uint64_t keep);

/* Opens the file with inode @ino that stands beside @path under a name that starts with PATH and a
 * dot or a dash, for reading and writing. Its descriptor, or -1: there is none. */
int file_rotate_find(const char *path, uint64_t ino);

/* Makes a rename or a new name in the directory of @path durable. 0 or -errno. */
int file_rotate_sync_dir(const char *path);
