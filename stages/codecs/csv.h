/*
 * What the two halves of the csv codec share.
 */
#pragma once

#include "stages/codecs/window.h"
#include "stages/text.h"

enum {
	CSV_COLUMNS_MAX = 4096,
};

struct csv_config {
	const char *delimiter;
	const char *quote;
	bool header;
	struct strings columns;
};

/* A field of the row in hand, where it lies in the window: without quotes around it. */
struct csv_span {
	const uint8_t *p;
	uint32_t len;
	uint32_t escapes; /* doubled quotes inside */
};

/* The name of a column, inside csv->keys: its msgpack string, and its characters at the end of
 * that. */
struct csv_name {
	uint32_t off;
	uint32_t len; /* with head */
	uint32_t chars;
};

enum csv_phase {
	CSV_START,  /* nothing of this input was read */
	CSV_HEADER, /* behind a byte order mark, if any */
	CSV_ROWS,
};

struct csv {
	uint8_t delimiter, quote;
	bool named; /* the columns are known */
	bool fixed; /* ... from the configuration */
	bool skip;  /* inside the rest of a line that was rejected */
	enum csv_phase phase;
	struct csv_span *spans; /* of the row in hand: CSV_COLUMNS_MAX */
	struct csv_name *names; /* of the columns: CSV_COLUMNS_MAX */
	uint32_t n_names;
	struct buf keys;
	const char *broken; /* there is no usable header: every row is rejected for this reason */
	uint64_t line;      /* of the input, from 1; 0: not known */
	char why[160];
	char broken_why[160];
	struct text text;
	struct buf value;
};

extern const struct option csv_options[];

/* NULL configuration: the defaults. */
const struct csv_config *csv_config(const struct codec *c);
/* The character that an option names, or 0. */
uint8_t csv_char(const char *s);
/* What the options' table cannot say. */
void csv_check(const void *config, const struct node *node, struct complaints *c);

/* Adds a column; its name is copied. 0, CODEC_E_REJECT (twice, or too many: st->why), -ENOMEM. */
int csv_add_name(struct csv *st, const uint8_t *name, size_t len);

static inline bool csv_name_is(const struct csv *st, uint32_t i, const uint8_t *key, size_t len)
{
	const struct csv_name *n = &st->names[i];
	return n->chars == len && memcmp(st->keys.p + n->off + n->len - len, key, len) == 0;
}

extern const struct codec_ops codec_csv;

int csv_head(struct codec *c, const uint8_t *rec, size_t len, struct buf *out);
int csv_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out);
