/*
 * A pattern with named groups, run over text: what matches becomes a msgpack map (PCRE2).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/buf.h"

enum capture_error {
	CAPTURE_E_OK,
	CAPTURE_E_NONE,   /* does not match */
	CAPTURE_E_TEXT,   /* the text is not UTF-8 */
	CAPTURE_E_COSTLY, /* gave up: more steps or memory than a match may take */
};

struct capture;

/* Compiles @pattern, with code when @jit and the system lets us. 0; -EINVAL: *@why (of @why_size
 * bytes) says what is wrong and where; -ENOMEM. */
int capture_new(struct capture **re, const char *pattern, bool jit, char *why, size_t why_size);
struct capture *capture_free(struct capture *re); /* returns NULL */

/* Whether matches run as machine code. */
bool capture_jit(const struct capture *re);

/* Matches @s anywhere; appends a map of the named groups that took part to @out (cleared first). */
int capture_map(struct capture *re, const uint8_t *s, size_t len, struct buf *out);
