/*
 * What the two halves of the deb822 codec share.
 */
#pragma once

#include "stages/codecs/window.h"
#include "stages/text.h"

enum {
	DEB822_FIELDS_MAX = 1024, /* of one paragraph */
};

struct deb822_config {
	bool comments;
	bool dots;
};

/* One field of the paragraph in hand, where it lies in the window. */
struct deb822_field {
	const uint8_t *key;
	const uint8_t *first; /* what stands behind the colon, without blanks around it */
	const uint8_t *more;  /* first continuation line, NULL: none */
	const uint8_t *end;   /* behind the last line */
	uint32_t key_len;
	uint32_t first_len;
	uint32_t val_len; /* of the joined value */
};

struct deb822 {
	struct deb822_field fields[DEB822_FIELDS_MAX];
	unsigned n;
	uint64_t seen;   /* bloom filter of the keys */
	const char *bad; /* what is wrong with the paragraph in hand */
	bool skip;       /* inside the rest of a paragraph that was rejected */
	bool skip_blank; /* ... where the line in hand has been blank so far */
	char why[128];
	struct text text;
	struct buf value;
};

static inline bool deb822_blank(uint8_t c)
{
	return c == ' ' || c == '\t';
}

/* Characters of a field name: printable ASCII without blank and colon. */
static inline bool deb822_key_char(uint8_t c)
{
	return c > ' ' && c < 0x7f && c != ':';
}

const struct deb822_config *deb822_config(const struct codec *c);
/* Whether the paragraph in hand has this key already. The filter answers for nearly all. */
bool deb822_repeated(struct deb822 *st, const struct deb822_field *f);
int deb822_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out);
