/*
 * A writer of JSON documents over a growing buffer: what the control socket answers.
 *
 * Commas and nesting are the writer's business; strings are escaped and made well-formed UTF-8,
 * whatever they held, and a number that JSON cannot say (NaN, infinity) becomes null. So the result
 * is one line of valid JSON for any input, shared memory included. An out-of-memory is remembered,
 * not returned: look at `error` once, at the end.
 */
#pragma once

#include "ipc/buf.h"

struct json {
	struct buf *out;
	bool comma; /* something stands before in this container */
	int error;  /* 0 or -ENOMEM */
};

static inline struct json json_on(struct buf *out)
{
	return (struct json){.out = out};
}

/* Every call takes the key of the member it writes; NULL in lists and at the top. */
void json_open(struct json *j, const char *key, char bracket);      /* '{' or '[' */
void json_close(struct json *j, char bracket);                      /* '}' or ']' */
void json_text(struct json *j, const char *key, const char *value); /* NULL: null */
/* At most @max bytes of @value, up to a NUL: for text that lies in shared memory. */
void json_text_max(struct json *j, const char *key, const char *value, size_t max);
void json_uint(struct json *j, const char *key, uint64_t value);
void json_int(struct json *j, const char *key, int64_t value);
void json_num(struct json *j, const char *key, double value);
void json_bool(struct json *j, const char *key, bool value);
/* Text that is JSON already. */
void json_raw(struct json *j, const char *key, const void *json, size_t len);
