/*
 * msgpack by hand: read one value, skip one value, write one value (format: github.com/msgpack/msgpack,
 * spec.md). Walking the bytes is 3 to 6 times cheaper than building objects, and needs no memory.
 *
 * Readers are safe on any input: they never touch a byte at or behind `end`, nesting deeper than
 * MP_DEPTH_MAX is refused, and a length claim larger than what is left is refused before it is used.
 * Writers need room: MP_HEAD_MAX bytes for any head or scalar, plus the payload.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	MP_DEPTH_MAX = 128, /* containers inside containers */
	MP_HEAD_MAX = 9,    /* bytes of the longest head or scalar */
};

enum mp_type {
	MP_NIL,
	MP_BOOL,
	MP_INT,   /* negative: .i */
	MP_UINT,  /* 0 and up: .u, whatever the encoding was */
	MP_FLOAT, /* .d; float32 is widened */
	MP_STR,   /* .p, .len */
	MP_BIN,   /* .p, .len */
	MP_ARRAY, /* .n elements follow */
	MP_MAP,   /* .n pairs follow */
	MP_EXT,   /* .ext, .p, .len */
};

struct mp {
	enum mp_type type;
	int8_t ext;
	union {
		bool b;
		int64_t i;
		uint64_t u;
		double d;
		struct {
			const uint8_t *p;
			uint32_t len;
		};
		uint32_t n;
	};
};

/* Reads the value or container head at @p. Returns the first byte behind it (behind the payload of str,
 * bin, ext; behind the head of array, map), or NULL when truncated or not msgpack. */
const uint8_t *mp_read(const uint8_t *p, const uint8_t *end, struct mp *out);

/* Skips one whole value with all that is in it. NULL when truncated, invalid or nested too deep. */
const uint8_t *mp_skip(const uint8_t *p, const uint8_t *end);

/* True when [p, p+len) is well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms). */
bool mp_utf8_valid(const uint8_t *p, size_t len);

/* Writers: return the byte behind what they wrote; the shortest encoding is chosen. */
uint8_t *mp_write_nil(uint8_t *p);
uint8_t *mp_write_bool(uint8_t *p, bool b);
uint8_t *mp_write_int(uint8_t *p, int64_t i);
uint8_t *mp_write_uint(uint8_t *p, uint64_t u);
uint8_t *mp_write_float(uint8_t *p, double d);
uint8_t *mp_write_str(uint8_t *p, const void *s, uint32_t len);
uint8_t *mp_write_bin(uint8_t *p, const void *s, uint32_t len);
uint8_t *mp_write_str_head(uint8_t *p, uint32_t len);
uint8_t *mp_write_array_head(uint8_t *p, uint32_t n);
uint8_t *mp_write_map_head(uint8_t *p, uint32_t n);
/* Writes @v: a scalar, str, bin or ext whole; of array and map the head only. */
uint8_t *mp_write(uint8_t *p, const struct mp *v);
