/*
 * A record: one msgpack map with string keys, seen as a table of its top-level fields.
 *
 * The hard idea: a step never rewrites bytes. record_open() walks the map once and notes where each
 * key and value lies; steps then add, replace, drop or rename entries of that table; record_write()
 * puts the result together once, at the end of the chain. Values that a step makes live in the
 * record's scratch memory, which is reused from record to record: no allocation per record.
 *
 * Invariants
 *  - every key and value pointer leads into the opened bytes, the scratch, or memory that the
 * setter promised to keep until the record is written (literals of the configuration);
 *  - keys are unique; `size` is the exact number of bytes record_write() will produce.
 *
 * A path ("user.country") leads through nested maps. A top-level key that itself contains the dots
 * wins.
 */
#pragma once

#include "ipc/mp.h"

enum record_error {
	RECORD_E_OK,
	RECORD_E_INVALID, /* not one msgpack map with string keys, or a key twice: *why says which
	                   */
	RECORD_E_NONE,    /* no such field */
	RECORD_E_ROOM,    /* does not fit */
};

struct field {
	const uint8_t *key; /* the key's characters, without msgpack head */
	const uint8_t *val; /* the value as msgpack bytes, head included */
	uint32_t key_len;
	uint32_t val_len;
};

struct record_block;

struct record {
	struct field *fields;
	uint32_t n;
	uint32_t cap;
	size_t size; /* bytes of all keys and values with their heads, map head apart */
	struct record_block *blocks; /* scratch: a list of blocks, the first one in use */
	uint32_t hint; /* where record_get looks first (fields come in the same order) */
};

/* Frees the table and the scratch; a zeroed record is a valid empty one. */
void record_deinit(struct record *r);

/* Forgets all fields and the scratch; keeps the memory. */
void record_clear(struct record *r);

/* Opens the map at [p, p+len); trailing bytes are an error. The bytes must stay until the record is
 * written or cleared. 0, RECORD_E_INVALID (@why: a static text), -ENOMEM. */
int record_open(struct record *r, const uint8_t *p, size_t len, const char **why);

/* Opens the next record of a chunk, at @p < @end, and says where it ends in *@next (set also with
 * RECORD_E_INVALID when the bytes are one msgpack value, else NULL). A key that stands twice is not
 * looked for: whoever put the record into the chunk did. */
int record_next(struct record *r, const uint8_t *p, const uint8_t *end, const uint8_t **next,
                const char **why);

/* @dst becomes a copy of @src that shares its bytes: both must be gone before the bytes are. */
int record_share(struct record *dst, const struct record *src);

/* Bytes that record_write() will need. */
size_t record_size(const struct record *r);

/* Writes the record. Returns the number of bytes; @p must have record_size() of room. */
size_t record_write(const struct record *r, uint8_t *p);

/* The field with this very name, or NULL. The pointer holds until the next change of the record. */
struct field *record_get(struct record *r, const char *key, size_t key_len);

/* The value at a dotted path as msgpack bytes, or NULL. *@len: its bytes. */
const uint8_t *record_path(struct record *r, const char *path, size_t path_len, uint32_t *len);

/* Sets a top-level field to msgpack bytes that stay valid (see the invariants); adds it at the end
 * when new. 0 or -ENOMEM. @key must stay valid likewise. */
int record_set(struct record *r, const char *key, size_t key_len, const uint8_t *val,
               uint32_t val_len);

/* Sets the value at a dotted path: makes maps on the way where nothing is. 0; RECORD_E_INVALID when
 * a value on the way is no map; -ENOMEM. */
int record_set_path(struct record *r, const char *path, size_t path_len, const uint8_t *val,
                    uint32_t val_len);

/* Removes what is at the path. 0 or RECORD_E_NONE. Order of the other fields is kept. */
int record_remove(struct record *r, const char *path, size_t path_len);

/* Renames a top-level field in its place; a field that had the new name is removed. 0,
 * RECORD_E_NONE, -ENOMEM. @to must stay valid. */
int record_rename(struct record *r, const char *from, size_t from_len, const char *to,
                  size_t to_len);

/* @len bytes of scratch that live until the record is cleared or opened anew. NULL: no memory. */
uint8_t *record_scratch(struct record *r, size_t len);

/* Reads msgpack bytes known to be one value (a field's). */
static inline struct mp record_value(const uint8_t *val, uint32_t len)
{
	struct mp v = {.type = MP_NIL};
	if (val)
		mp_read(val, val + len, &v);
	return v;
}
