/*
 * Keys made of a record's fields: the values at some paths, one after another, as canonical
 * msgpack.
 *
 * Canonical: equal values give equal bytes. Every number that is whole and fits 64 bits is an
 * integer in its shortest form, whether it came as 1, 1.0 or an integer of eight bytes; -0.0 is 0;
 * all NaN are one; lengths take their shortest form. A missing field is nil, like null. Maps keep
 * the order of their keys: two maps that differ only in it differ.
 */
#pragma once

#include "ipc/buf.h"
#include "ipc/record.h"
#include "stages/option.h"

enum {
	KEY_HASHED = 16, /* bytes of a hash that stands for a long key */
};

/* Appends the values of @r at @paths to @b. *@present: how many of them were there and not null. 0
 * or -ENOMEM. */
int key_build(struct buf *b, struct record *r, const struct strings *paths, unsigned *present);

/* Appends one value of well-formed msgpack [p, end) as canonical msgpack. 0 or -ENOMEM. */
int key_value(struct buf *b, const uint8_t *p, const uint8_t *end);

/* Writes to @out what names key [p, p+len) in at most @max bytes (more than KEY_HASHED): 'k' and
 * the key itself, or, when it is longer, 'h' and its XXH3-128. Returns the bytes written. Two keys
 * with one hash are not met by chance (2^-64 for four billion keys); XXH3 is no defence against
 * somebody who seeks them. */
size_t key_name(uint8_t *out, size_t max, const uint8_t *p, size_t len);
