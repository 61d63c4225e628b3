/*
 * A pattern with named groups, run over text: what matches becomes a msgpack map (PCRE2).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/buf.h"

enum regex_error {
	REGEX_E_OK,
	REGEX_E_NONE,   /* does not match */
	REGEX_E_TEXT,   /* the text is not UTF-8 */
	REGEX_E_COSTLY, /* gave up: more steps or memory than a match may take */
};

struct regex;

/* Compiles @pattern, with code when @jit and the system lets us. 0; -EINVAL: *@why (of @why_size
 * bytes) says what is wrong and where; -ENOMEM. */
int regex_new(struct regex **re, const char *pattern, bool jit, char *why, size_t why_size);
struct regex *regex_free(struct regex *re); /* returns NULL */

/* Whether matches run as machine code. */
bool regex_jit(const struct regex *re);

/* Matches @s anywhere; appends a map of the named groups that took part to @out (cleared first). */
int regex_map(struct regex *re, const uint8_t *s, size_t len, struct buf *out);
