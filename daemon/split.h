/*
 * Cuts a stream of text or msgpack into messages at the borders of its records, without decoding
 * it.
 *
 * A border is, by codec: json: a newline with '{' behind it (so a value may span lines that are
 * indented); lines: a newline; csv: a newline outside quotes, and the first line goes in front of
 * every message; deb822: an empty line; msgpack: the end of a value. What stands between two
 * borders is a record here, be it good or bad: judging is the receiver's business.
 *
 * Limit: a json value with '{' in the first column of a line inside it is cut there; the receiver
 * will then find two bad records. A record larger than `max` is left out and counted.
 */
#pragma once

#include "ipc/buf.h"

enum split_kind {
	SPLIT_JSON,
	SPLIT_LINES,
	SPLIT_CSV,
	SPLIT_DEB822,
	SPLIT_MSGPACK,
};

enum split_error {
	SPLIT_E_OK,
	SPLIT_E_MORE, /* split_room, read into it, split_fed; or split_end */
	SPLIT_E_END,
};

struct split {
	enum split_kind kind;
	size_t target; /* bytes a message should have at most, unless one record has more */
	size_t max;    /* bytes a message must not exceed */
	struct buf in;
	size_t off; /* start of what is not cut yet */
	bool ended;
	bool flush;      /* of the call in hand */
	struct buf head; /* csv: the first line */
	bool has_head;
	uint64_t too_large;
	bool skipping; /* inside a record that is too large */
	bool quoted;   /* skipping: inside quotes (csv) */
	bool broken; /* no msgpack value, or csv head, ends within `max` bytes: the rest is given up
	              */
};

struct split_piece {
	const uint8_t *head; /* goes in front; may be empty */
	size_t head_len;
	const uint8_t *p;
	size_t len;
	uint64_t records;
};

/* The kind named like a codec, or -1. */
int split_kind_find(const char *name);

/* Room for at least @want bytes of input: NULL when there is no memory; then @n bytes of it were
 * filled / nothing follows. */
uint8_t *split_room(struct split *s, size_t want);
void split_fed(struct split *s, size_t n);
void split_end(struct split *s);

/* The next message; it points into the input and holds until the next call. @flush: a small one
 * will do, if it is whole. SPLIT_E_* or -ENOMEM. */
int split_next(struct split *s, bool flush, struct split_piece *out);

void split_deinit(struct split *s);
