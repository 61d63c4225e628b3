/*
 * What the files of the JSON codec share; nobody else includes this.
 *
 * json.c         the codec: windows, what to do about bad input
 * json_decode.c  one JSON value -> msgpack
 * json_string.c  strings -> msgpack
 * json_skip.c    where does this value end?
 * json_number.c  text -> number -> text
 * json_encode.c  msgpack -> JSON
 */
#pragma once

#include "ipc/buf.h"
#include "ipc/mp.h"
#include "stages/codecs/keys.h"

enum json_answer {
	JSON_OK,
	JSON_MORE,  /* the window ends inside the value */
	JSON_ROOM,  /* the room ends inside the value */
	JSON_BAD,   /* not JSON: `p` is where that was seen */
	JSON_UNFIT, /* JSON so far, but nothing a record can hold */
};

struct json_frame {
	uint32_t head; /* offset of the container's head in the output */
	uint32_t n;    /* elements, pairs */
	uint32_t map;  /* its number in `keys` */
	uint8_t is_map;
	uint8_t head_size; /* bytes kept for the head */
};

/* One value on its way. */
struct json_parse {
	const uint8_t *p;
	const uint8_t *end;
	bool last;     /* nothing follows `end` */
	uint8_t *out;  /* start of the room */
	uint8_t *o;    /* next byte to write */
	uint8_t *room; /* end of the room */
	const char *why;
	struct keys *keys;
	struct buf *text; /* for long numbers */
	uint8_t *
	        head_hint; /* MP_DEPTH_MAX bytes: head sizes of the last containers at each depth */
};

/* Reads the value at j->p (no blanks before it) into the room. json_answer or -errno. */
int json_value(struct json_parse *j);

/* The string behind the opening quote at j->p - 1: json_answer. */
int json_string_long(struct json_parse *j);

/* The number at j->p. json_answer or -errno. */
int json_number(struct json_parse *j);

/* Finds the end of the value at j->p by syntax alone: JSON_OK, JSON_MORE, JSON_BAD. Needs p, end,
 * last. */
int json_skip(struct json_parse *j);

/* Moves j->p behind the string whose opening quote is at j->p - 1, without looking at what it says.
 * *@plain: no escapes; *@ascii: no byte above 0x7f. */
int json_string_end(struct json_parse *j, bool *plain, bool *ascii);

/* Moves j->p behind one of true, false, null. */
int json_literal_end(struct json_parse *j);

/* What a number's text says, before it is a number. */
struct json_digits {
	uint64_t m; /* the first 19 significant digits */
	int64_t e;  /* decimal exponent of m */
	bool minus;
	bool whole; /* neither point nor exponent */
	bool cut;   /* there were more than 19 */
};

/* Moves j->p behind a number, checking its form. */
int json_number_end(struct json_parse *j, struct json_digits *d);

enum {
	JSON_DOUBLE_MAX = 32, /* bytes of the longest number written */
};

/* Writers of numbers: return the byte behind. json_put_double: finite numbers only. */
uint8_t *json_put_uint(uint8_t *p, uint64_t u);
uint8_t *json_put_int(uint8_t *p, int64_t i);
uint8_t *json_put_double(uint8_t *p, double d);

/* Appends the record as one line. 0, CODEC_E_REJECT with *@why, -ENOMEM. */
int json_write(struct buf *out, const uint8_t *rec, size_t len, const char **why);

static inline int json_bad(struct json_parse *j, const char *why)
{
	j->why = why;
	return JSON_BAD;
}

static inline int json_unfit(struct json_parse *j, const char *why)
{
	j->why = why;
	return JSON_UNFIT;
}

/* The window is used up inside the value. */
static inline int json_cut(struct json_parse *j)
{
	j->p = j->end;
	return j->last ? json_bad(j, "ends in the middle of a value") : JSON_MORE;
}

static inline size_t json_left(const struct json_parse *j)
{
	return (size_t)(j->end - j->p);
}

static inline size_t json_space(const struct json_parse *j)
{
	return (size_t)(j->room - j->o);
}

static inline bool json_is_blank(uint8_t c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}
