/*
 * What the parts of the file consumer share: file.c writes units, file_open.c opens, settles and
 * changes the file, file_rotate.c knows the numbered names.
 */
#pragma once

#include <sys/stat.h>

#include "stages/stage.h"

enum {
	FILE_OUT_MAGIC = 0x534c4643,
	FILE_OUT_VERSION = 1,
	FILE_OUT_TAIL_MAX = 64,
};

struct file_out_mark {
	uint32_t magic;
	uint16_t version;
	uint16_t tail_len;
	uint64_t dev;
	uint64_t ino;
	uint64_t offset;
	uint64_t tail;     /* XXH3 of the tail_len bytes before offset */
	uint64_t rotation; /* the highest number given to a rotated file */
	int64_t opened; /* CLOCK_REALTIME ns of the file's first record, or of when it was taken */
	uint64_t reserved;
};

_Static_assert(sizeof(struct file_out_mark) == 64, "stored");

struct file_out_config {
	const char *path;
	const char *mode_text;
	unsigned mode;
	bool sync;
	uint64_t max_size;
	struct {
		uint64_t size;
		int64_t age;
		int64_t keep;
	} rotate;
};

struct file_out_state {
	int fd;                    /* -1: not open */
	struct file_out_mark now;  /* the file as it is */
	struct file_out_mark sure; /* as committed, or about to be by the unit before */
	struct buf out;            /* the unit's bytes, not yet written */
	bool anchored;             /* a commit has named this file */
	bool anchor_set;           /* finish() has put the name into the position */
	bool written;              /* this unit's bytes are in the file */
	bool newline_due;          /* the file's last line was not ended */
	bool header_due;           /* the codec does not know yet what header the file has */
	bool prune_due;
	bool reopen_due;
	bool cut_due;           /* bytes of a failed unit are still behind the end */
	uint64_t rotated_bytes; /* in the numbered files, for max_size */
	int64_t rotate_after;   /* no new attempt before this (st->now): the last rename failed */
};

/* Answers STAGE_E_UNREACHABLE with a reason that names the file. @err: errno's value. */
int file_out_unreachable(struct stage *st, const char *what, int err);

/* Opens the path. @mark: what was committed, or NULL: takes the file as it is. 0 or
 * STAGE_E_UNREACHABLE. */
int file_out_open(struct stage *st, const struct file_out_mark *mark);

void file_out_close(struct stage *st);

/* Lets the file go and takes what the path leads to now. Between units only. 0 or
 * STAGE_E_UNREACHABLE. */
int file_out_switch(struct stage *st);

/* Cuts off what a failed unit left, and sees whether another program changed the file since the
 * last unit. 0 or STAGE_E_UNREACHABLE. */
int file_out_check(struct stage *st);

/* Whether the last line before @size was not ended. */
bool file_out_line_open(const struct stage *st, int fd, uint64_t size);

/* True when the path leads to the file we write. */
bool file_out_is_current(const struct stage *st);

/* Rotates when it is due. 0: nothing due, done, or put off because it failed (the data goes on into
 * the old file); STAGE_E_UNREACHABLE: there is no file now; -errno. Between units only. */
int file_out_rotate(struct stage *st);

/* Counts the bytes in rotated files anew, for max_size. */
void file_out_count(struct stage *st);

/* Sets st->deadline to the time the file is old enough to rotate. */
void file_out_deadline(struct stage *st);
