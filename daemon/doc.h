/*
 * A JSON document to look things up in: what sluicectl makes of the daemon's answers.
 *
 * The text goes through the json codec once and is msgpack then; a `struct doc` is a view of one
 * value in it. A missing member is a view of nothing, of which every look gives 0, "" or nothing
 * again: a client of another version than its daemon shows gaps and does not fail.
 */
#pragma once

#include "ipc/buf.h"

struct doc {
	const uint8_t *p, *end; /* one msgpack value; NULL: nothing */
};

/* Reads one JSON object. @store keeps the bytes that views lead into. 0, -EBADMSG (no JSON object),
 * -ENOMEM. */
int doc_parse(struct buf *store, const char *json, size_t len, struct doc *out);

/* The member at a dotted path. */
struct doc doc_at(struct doc d, const char *path);
bool doc_exists(struct doc d);   /* there, and not null */
uint64_t doc_uint(struct doc d); /* negative: 0 */
double doc_num(struct doc d);
bool doc_bool(struct doc d);
/* A string's bytes, not NUL-terminated; "" and 0 for anything else. */
const char *doc_text(struct doc d, size_t *len);
/* The same in the caller's @s of @size bytes: cut when long, always terminated. Returns @s. */
char *doc_copy(struct doc d, char *s, size_t size);
bool doc_is(struct doc d, const char *text);

/* Goes over the members of a map (key set) or the elements of a list (key empty):
 * for (struct doc_walk w = doc_walk(d); doc_next(&w);) ... w.key, w.value */
struct doc_walk {
	struct doc key, value;
	const uint8_t *p, *end;
	uint32_t left;
	bool map;
};
struct doc_walk doc_walk(struct doc d);
bool doc_next(struct doc_walk *w);
