/*
 * The carry file: a header, then one block a worker slot and one a line of the books, each with its
 * CRC32C, all in the byte order of the machine. Written beside and renamed, so that it is whole or
 * not there.
 */
#include "daemon/carry.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/crc32c.h"
#include "ipc/err.h"
#include "ipc/fault.h"
#include "ipc/log.h"

enum {
	CARRY_VERSION = 2,
};

struct carry_head {
	char magic[8];
	uint32_t version, books;
};

struct carry_block {
	char stage[ARENA_NAME_MAX];
	char heir[ARENA_NAME_MAX];
	uint32_t ordinal, kind;
	uint32_t is_book;      /* a line of the books: no position */
	uint32_t position_len; /* trailing zeros are left out */
	uint64_t flags;
	uint64_t source_hash;
	uint64_t book[BOOK_COUNT];
	uint32_t crc; /* of this struct with crc 0, then of the position */
	uint32_t pad;
};

static const char magic[8] = "SLCARRY";

static void path_of(const struct master *m, const char *suffix, char *out, size_t size)
{
	snprintf(out, size, "%s/carry%s", m->config->state_path, suffix);
}

static uint32_t block_crc(const struct carry_block *b, const uint8_t *position)
{
	struct carry_block copy = *b;
	copy.crc = 0;
	return crc32c(crc32c(0, &copy, sizeof(copy)), position, b->position_len);
}

static int put(FILE *f, struct carry_block *b, const uint8_t *position)
{
	b->crc = block_crc(b, position);
	if (fwrite(b, sizeof(*b), 1, f) != 1 ||
	    (b->position_len && fwrite(position, b->position_len, 1, f) != 1))
		return err_errno();
	return 0;
}

/* The next stage of the same pipeline, round and round: the arena's edges are not carried over, and
 * from whichever stage is gone at the next start the way leads to one that is there. */
static const char *next_of_pipeline(const struct config *cfg, const char *stage)
{
	const struct config_stage *s = config_stage(cfg, stage);
	if (!s || (s->builtin && s->kind == STAGE_CONSUMER))
		return NULL;
	for (unsigned i = 0, at = (unsigned)(s - cfg->stages); i < cfg->n_stages; i++) {
		const struct config_stage *o = &cfg->stages[(at + 1 + i) % cfg->n_stages];
		if (o->pipeline == s->pipeline && !o->builtin)
			return o->name;
	}
	return NULL;
}

static int put_worker(FILE *f, const struct config *cfg, const struct arena_worker *s)
{
	struct carry_block b = {.ordinal = s->ordinal, .kind = s->kind};
	uint32_t len = ARENA_POSITION_MAX;
	memcpy(b.stage, s->stage, sizeof(b.stage) - 1);
	const char *next = next_of_pipeline(cfg, b.stage);
	snprintf(b.heir, sizeof(b.heir), "%.*s", ARENA_NAME_MAX - 1, next ? next : s->heir);
	b.flags = s->committed.flags;
	b.source_hash = s->source_hash;
	memcpy(b.book, s->committed.book, sizeof(b.book));
	while (len && !s->position[len - 1])
		len--;
	b.position_len = len;
	return put(f, &b, s->position);
}

static int put_all(FILE *f, const struct config *cfg, const struct arena *a)
{
	struct carry_head head = {.version = CARRY_VERSION, .books = BOOK_COUNT};
	memcpy(head.magic, magic, sizeof(magic));
	int r = fwrite(&head, sizeof(head), 1, f) == 1 ? 0 : err_errno();
	for (uint32_t w = 0; r == 0 && w < a->workers; w++)
		if (arena_worker(a, w)->stage[0])
			r = put_worker(f, cfg, arena_worker(a, w));
	for (unsigned i = 0; r == 0 && i < ARENA_BOOKS_MAX; i++) {
		const struct arena_book *line = &a->h->books[i];
		struct carry_block b = {.is_book = 1};
		if (!line->stage[0])
			continue;
		memcpy(b.stage, line->stage, sizeof(b.stage) - 1);
		memcpy(b.heir, line->heir, sizeof(b.heir) - 1);
		memcpy(b.book, line->book, sizeof(b.book));
		r = put(f, &b, NULL);
	}
	return r;
}

int carry_save(struct master *m)
{
	char path[4096], fresh[4096];
	path_of(m, "", path, sizeof(path));
	path_of(m, ".new", fresh, sizeof(fresh));
	mkdir(m->config->state_path, 0700);
	FAULT(save);
	FILE *f = fopen(fresh, "we");
	int r = f ? put_all(f, m->config, &m->arena) : err_errno();
	if (f) {
		if (r == 0 && (fflush(f) != 0 || fsync(fileno(f)) < 0))
			r = err_errno();
		if (fclose(f) != 0 && r == 0)
			r = err_errno();
	}
	if (r == 0 && rename(fresh, path) < 0)
		r = err_errno();
	if (r < 0)
		log_error("cannot save positions and books in %s: %s", path, strerror(-r));
	return r;
}

/* One more line of the books, or more in one that is there. */
static void add_line(struct arena *a, const struct carry_block *b)
{
	for (unsigned i = 0; i < ARENA_BOOKS_MAX; i++) {
		struct arena_book *line = &a->h->books[i];
		if (line->stage[0] && strncmp(line->stage, b->stage, sizeof(line->stage)) != 0 &&
		    i + 1 < ARENA_BOOKS_MAX) /* the last gathers the rest */
			continue;
		if (!line->stage[0])
			memcpy(line->stage, b->stage, sizeof(line->stage));
		memcpy(line->heir, b->heir, sizeof(line->heir));
		for (unsigned k = 0; k < BOOK_COUNT; k++)
			line->book[k] += b->book[k];
		return;
	}
}

static void take_worker(struct master *m, const struct carry_block *b, const uint8_t *position)
{
	uint32_t slot;
	if (arena_worker_assign(&m->arena, b->stage, b->ordinal, &slot) != 0) {
		add_line(&m->arena, b);
		return;
	}
	struct arena_worker *s = arena_worker(&m->arena, slot);
	s->kind = b->kind;
	memcpy(s->heir, b->heir, sizeof(s->heir));
	s->committed.flags = b->flags;
	s->source_hash = b->source_hash;
	memcpy(s->committed.book, b->book, sizeof(b->book));
	memcpy(s->position, position, ARENA_POSITION_MAX);
}

/* The smaller of two arenas may not have a slot for everybody: stages that there are come first. */
static bool is_wanted(const struct master *m, const struct carry_block *b)
{
	const struct config_stage *s = b->is_book ? NULL : config_stage(m->config, b->stage);
	return s && b->ordinal < s->workers;
}

static bool load_block(struct master *m, FILE *f, bool wanted, bool *end)
{
	struct carry_block b;
	if (fread(&b, sizeof(b), 1, f) != 1) {
		*end = feof(f);
		return *end;
	}
	b.stage[sizeof(b.stage) - 1] = b.heir[sizeof(b.heir) - 1] = 0;
	_cleanup_free_ uint8_t *position = calloc(1, ARENA_POSITION_MAX);
	if (!position || b.position_len > ARENA_POSITION_MAX ||
	    (b.position_len && fread(position, b.position_len, 1, f) != 1) ||
	    block_crc(&b, position) != b.crc)
		return false;
	if (is_wanted(m, &b) != wanted)
		return true;
	if (b.is_book)
		add_line(&m->arena, &b);
	else
		take_worker(m, &b, position);
	return true;
}

static bool load_blocks(struct master *m, FILE *f, bool wanted)
{
	struct carry_head head;
	bool end = false;
	rewind(f);
	bool ok = fread(&head, sizeof(head), 1, f) == 1 &&
	          memcmp(head.magic, magic, sizeof(magic)) == 0 && head.version == CARRY_VERSION &&
	          head.books == BOOK_COUNT;
	while (ok && !end)
		ok = load_block(m, f, wanted, &end);
	return ok;
}

int carry_load(struct master *m)
{
	char path[4096], bad[4096];
	path_of(m, "", path, sizeof(path));
	path_of(m, ".bad", bad, sizeof(bad));
	FILE *f = fopen(path, "re");
	if (!f)
		return errno == ENOENT ? 0 : err_errno();
	bool ok = load_blocks(m, f, true) && load_blocks(m, f, false);
	fclose(f);
	if (!ok) {
		log_error("%s is damaged or of another version: kept as %s; positions start anew",
		          path, bad);
		return rename(path, bad) < 0 ? err_errno() : 0;
	}
	return 0;
}

void carry_forget(struct master *m)
{
	char path[4096];
	path_of(m, "", path, sizeof(path));
	unlink(path);
}
