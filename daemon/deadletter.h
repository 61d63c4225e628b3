/*
 * Dead letters as people handle them: listed, shown, marked as replayed, purged.
 *
 * The letters are JSON lines {id, at, stage, error, input, position, attempts} that the built-in
 * file consumer writes: DIR/dead.jsonl and its rotated files DIR/dead.jsonl.000001, ... All
 * functions take the directory (`dead_letters: path`) or the file itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/buf.h"

#define DEADLETTER_FILE     "dead.jsonl"
#define DEADLETTER_REPLAYED "replayed" /* beside it: one id a line */

/* One letter. Everything lives until the callback returns; texts are NUL-terminated, "" when
 * missing. */
struct deadletter {
	const char *id;
	const char *at;    /* RFC 3339 */
	const char *stage; /* of the record's last stage, "STAGE" or "STAGE/STEP" */
	const char *error;
	const char *position;
	int64_t time; /* `at` in ns since 1970, 0 when it cannot be read */
	uint64_t attempts;
	const uint8_t *input; /* as one msgpack value; NULL: none */
	uint32_t input_len;
	const char *json; /* the line, without its end */
	size_t json_len;
	bool replayed;
};

/* What to look at; zeroed: everything. */
struct deadletter_filter {
	const char *id;    /* this one */
	const char *stage; /* this stage, or this STAGE/STEP */
	const char *error; /* errors that have this text in them */
	int64_t since;     /* ns: not older */
	int64_t before;    /* ns: older; 0: no limit */
	bool open_only;    /* not the replayed ones */
	uint64_t limit;    /* at most so many; 0: all */
};

/* Calls @each for the letters, oldest first, until it answers other than 0, which is returned then.
 * A line that is no letter is passed over and counted in *@bad (may be NULL). 0 or -errno; no
 * letters: 0. */
int deadletter_each(const char *path, const struct deadletter_filter *f, uint64_t *bad,
                    int (*each)(void *arg, const struct deadletter *d), void *arg);

/* Reads single lines. Which letters were replayed is what the file at @path says now. 0 or -errno.
 */
struct deadletter_reader;
int deadletter_reader_new(struct deadletter_reader **out, const char *path);
struct deadletter_reader *deadletter_reader_free(struct deadletter_reader *rd); /* returns NULL */
/* 1: @line is a letter, @d lives until the next call; 0: it is none; -errno. */
int deadletter_parse(struct deadletter_reader *rd, const char *line, size_t len,
                     struct deadletter *d);

/* Whether the input is a whole record: not bytes that were none, nor one that was cut. */
bool deadletter_is_record(const struct deadletter *d);

/* Marks letters as replayed, durably; call it when what was made of them is stored. 0 or -errno. */
int deadletter_mark(const char *path, const char *const *ids, size_t n);

/* Makes the file that is written now a rotated one, so that it can be purged. Then the writer must
 * be told to reopen (reload), if it runs. 0 or -errno; no file or an empty one: 0. */
int deadletter_rotate(const char *path);

struct deadletter_purge {
	uint64_t removed; /* letters */
	uint64_t kept;    /* letters not old enough */
	uint64_t busy;    /* files still held by the writer: purge again when it has reopened */
};

/* Removes letters older than @before (ns; INT64_MAX: all) from the rotated files. The file that is
 * written now is never touched. 0 or -errno. */
int deadletter_purge(const char *path, int64_t before, struct deadletter_purge *result);
