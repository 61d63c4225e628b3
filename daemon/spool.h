/*
 * A spool: dead letters handed over for replay, in one file for each stage that takes them.
 *
 *     {"spool":"<32 hex digits>"}     names this spool for ever
 *     {"id":...,"stage":...}          the letters, as the writer wrote them
 *
 * It lies beside the letters and is called "replay:STAGE.spool", a name no stage and no letters'
 * file can have. Its appearance under that name is the commit point of a replay: from then on the
 * letters in it count as replayed, whoever is killed.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SPOOL_PREFIX "replay:"

enum {
	SPOOL_ID = 16,
};

enum spool_error {
	SPOOL_E_NONE = 1, /* there is no such spool */
	SPOOL_E_END,      /* no more letters */
};

/* The spool of @stage in the letters' directory @dir. 0 or -ENAMETOOLONG. */
int spool_name(const char *dir, const char *stage, char name[PATH_MAX]);
bool spool_exists(const char *dir, const char *stage);

/* ---- writing ---- */

struct spool_writer {
	FILE *f; /* NULL: nothing begun */
	char name[PATH_MAX];
	char fresh[PATH_MAX + 8]; /* what it is called until it is published */
	uint64_t letters;
};

/* Begins a spool; an unpublished one of somebody who died is overwritten. The caller sees to it
 * that nobody else does the same. 0 or -errno. */
int spool_create(struct spool_writer *w, const char *dir, const char *stage);
int spool_add(struct spool_writer *w, const char *line, size_t len);
/* Makes it durable and gives it its name. 0 or -errno; the writer is closed in any case. */
int spool_publish(struct spool_writer *w);
/* Forgets what was begun. Harmless when nothing was. */
void spool_abandon(struct spool_writer *w);

/* ---- reading ---- */

struct spool {
	FILE *f;
	char name[PATH_MAX];
	uint8_t id[SPOOL_ID];
	uint64_t start;  /* byte of the first letter */
	uint64_t offset; /* byte of the next one */
	char *line;
	size_t cap;
};

/* How far a reader of spools is: committed with what was made of the letters before `offset`. */
struct spool_position {
	uint8_t id[SPOOL_ID]; /* of which spool */
	uint64_t offset;
	uint64_t done; /* 1: all of it; the file may be removed */
};

/* 0, SPOOL_E_NONE, -EBADMSG (it is no spool), -errno. */
int spool_open(struct spool *s, const char *dir, const char *stage);
void spool_close(struct spool *s);
/* Goes on where @p says, or at the first letter when @p is of another spool. True: @p says that it
 * is done. */
bool spool_resume(struct spool *s, const struct spool_position *p);
/* The next letter, without its newline; valid until the next call. 0, SPOOL_E_END, -errno. */
int spool_next(struct spool *s, const char **line, size_t *len);
/* The position behind the letter read last. */
void spool_tell(const struct spool *s, bool done, struct spool_position *p);
/* Removes the file for good. 0 or -errno; gone already: 0. */
int spool_remove(const struct spool *s);
/* Marks all letters of the spool as replayed that are not marked yet, and leaves it at its first
 * letter. 0 or -errno. */
int spool_mark(struct spool *s, const char *dir);
