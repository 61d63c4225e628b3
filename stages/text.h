/*
 * A field's value as plain text, for codecs and steps whose world is text: csv, deb822, convert.
 *
 * Strings are themselves, integers decimal, floats the shortest text that reads back as the same
 * number (always with a point or an exponent), booleans true and false, nil nothing. Maps and
 * arrays become JSON text when there is a JSON codec. Binary becomes text when it is UTF-8. All
 * else is refused.
 */
#pragma once

#include "stages/codec.h"

enum text_error {
	TEXT_E_OK,
	TEXT_E_REFUSED, /* the value has no text: *why says what it is */
};

/* What writing nested values needs. By value; a zeroed one refuses nested values. */
struct text {
	struct codec json;
	void *json_config;
	struct buf in, out;
};

/* Makes @t able to write nested values of at most @max_record bytes. 0 or -errno. */
int text_open(struct text *t, size_t max_record);
void text_close(struct text *t);

/* Appends the msgpack value [val, val+len) as text. 0, TEXT_E_REFUSED (*@why: static text),
 * -ENOMEM. */
int text_add(struct text *t, const uint8_t *val, uint32_t len, struct buf *out, const char **why);

/* Writes a finite @d as the shortest decimal that reads back as @d. Returns its length, below 32.
 */
size_t text_float(char out[32], double d);
