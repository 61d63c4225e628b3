/*
 * What the two halves of the file producer share: file.c reads, file_follow.c finds the file to
 * read.
 *
 * The position is one head and one mark a path. A mark names an inode, not a name: files are
 * renamed under us. It is written with every record, and so always says where the next record
 * starts.
 */
#pragma once

#include <sys/stat.h>

#include "stages/stage.h"

enum {
	FILE_INPUTS_MAX = 100, /* all their marks fit one commit */
	FILE_PRINT_MAX = 256,  /* first bytes of a file that go into its fingerprint */
	FILE_MAGIC = 0x534c4650,
	FILE_VERSION = 1,
};

enum file_mark_flags {
	FILE_MARK_USED = 1, /* names a file; else the path's next file starts at 0 */
	FILE_MARK_DONE = 2, /* that file was read to its end */
	FILE_MARK_SKIP = 4, /* inside a record that is too long: go on behind the next newline */
	FILE_MARK_HEADLESS = 8, /* its header was passed over: it must not be read again */
};

struct file_head {
	uint32_t magic;
	uint16_t version;
	uint16_t marks;
	uint8_t epoch[16]; /* the arena these marks were made under */
	uint8_t reserved[40];
};

struct file_mark {
	uint64_t path_hash;
	uint64_t dev;
	uint64_t ino;
	uint64_t offset;
	uint64_t print; /* XXH3 of the first print_len bytes: tells a reused inode number */
	uint32_t print_len;
	uint32_t flags;
	uint64_t reserved[2];
};

_Static_assert(sizeof(struct file_head) == 64, "stored");
_Static_assert(sizeof(struct file_mark) == 64, "stored");

struct file_position {
	struct file_head head;
	struct file_mark marks[FILE_INPUTS_MAX];
};

_Static_assert(sizeof(struct file_position) <= 8192, "a commit takes no more at once");

struct file_config {
	struct strings path;
	bool follow;
	uint64_t read_buffer;
	int64_t poll;        /* ns */
	int64_t rotate_wait; /* ns */
};

struct file_input {
	const char *path;
	int fd;                /* -1: not open */
	int watch;             /* inotify's number for the open file, -1: none */
	struct file_mark mark; /* what the position says, or will say with the next record */
	struct codec codec;    /* its own: several followed files are read by turns */
	bool codec_made;
	bool stream; /* pipe, terminal, socket: no position */
	bool asleep; /* nothing whole to read when last looked, at this size: */
	uint64_t seen;
	int64_t rotated; /* CLOCK_MONOTONIC ns when the path was first seen to lead elsewhere; 0 */
	bool told;       /* said once why it cannot be opened */
};

struct file_state {
	struct file_input *inputs;
	size_t n;
	size_t turn; /* whose turn it is */
	uint8_t *window;
	size_t window_size;
	size_t window_max;
	size_t held; /* stream: bytes of an unfinished record at the window's start */
	uint64_t streamed;
	int notify; /* inotify; -1: none, poll only */
	bool started;
	int64_t now; /* CLOCK_MONOTONIC ns of this call */
};

/* file.c */

/* Starts reading the opened @in->fd, named @name for messages, at mark.offset: brings the codec to
 * where it must be. 0 or -errno. */
int file_input_start(struct stage *st, struct file_input *in, const char *name);
/* Writes the whole mark into the position. 0 or -errno. */
int file_input_save(struct stage *st, struct file_input *in);
/* Reads one window. STAGE_OK: something was read; STAGE_E_IDLE: no whole record there; -errno.
 * @final: nothing will be added behind the file's end. */
int file_input_read(struct stage *st, struct file_input *in, bool final);
void file_input_close(struct stage *st, struct file_input *in);
/* Makes @in's mark name the open file @sb at its beginning. */
void file_input_begin(struct file_input *in, const struct stat *sb);
/* Takes more of the file's first bytes into the fingerprint when there are more now. True: it
 * changed. */
bool file_input_print(struct file_input *in, uint64_t size);
/* True when @fd starts with the bytes the mark's fingerprint was made of. */
bool file_mark_matches(const struct file_mark *m, int fd, const struct stat *sb);

/* file_follow.c */

/* One turn of a followed file. STAGE_OK: something was read; STAGE_E_IDLE; -errno. */
int file_follow_turn(struct stage *st, struct file_input *in);
/* Starts inotify on the directories. Failure is no error: then files are looked at every `poll`. */
void file_follow_watch(struct stage *st);
/* Forgets pending events; called before the files are looked at, so that none is missed. */
void file_follow_drain(struct stage *st);
/* Says what to wait for. */
void file_follow_wait(struct stage *st);
