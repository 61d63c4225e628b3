/*
 * msgpack by hand: read one value, skip one value, write one value (format:
 * github.com/msgpack/msgpack, spec.md). Walking the bytes is 3 to 6 times cheaper than building
 * objects, and needs no memory.
 *
 * Readers are safe on any input: they never touch a byte at or behind `end`, nesting deeper than
 * MP_DEPTH_HELD is refused, and a length claim larger than what is left is refused before it is
 * used. Writers need room: MP_HEAD_MAX bytes for any head or scalar, plus the payload.
 *
 * What comes from outside may nest MP_DEPTH_MAX deep (the codecs see to it). Steps and dead letters
 * put it deeper, and what they put into a chunk has to be read again: so mp_skip goes further. A
 * configuration that nests 384 levels deeper still is not thought of.
 *
 * The common short forms are inline; everything else is in mp.c. Numbers are big-endian on the
 * wire.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
	MP_DEPTH_MAX = 128,  /* containers inside containers, as they come from outside */
	MP_DEPTH_HELD = 512, /* as they may stand in a chunk */
	MP_HEAD_MAX = 9,     /* bytes of the longest head or scalar */
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

/* Big-endian loads and stores at any address. */
static inline uint16_t mp_load16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t mp_load32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	v = __builtin_bswap32(v);
#endif
	return v;
}

static inline uint64_t mp_load64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	v = __builtin_bswap64(v);
#endif
	return v;
}

static inline uint8_t *mp_store16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return p + 2;
}

static inline uint8_t *mp_store32(uint8_t *p, uint32_t v)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	v = __builtin_bswap32(v);
#endif
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

static inline uint8_t *mp_store64(uint8_t *p, uint64_t v)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	v = __builtin_bswap64(v);
#endif
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

/* Bytes of the whole value for a first byte that alone says it (numbers, nil, bool, fixstr, empty
 * fixmap and fixarray, fixext); 0 for all others and for the byte that is never used (0xc1). */
extern const uint8_t mp_fixed_size[256];

/* The long forms of mp_read and mp_skip; callers use those. */
const uint8_t *mp_read_long(const uint8_t *p, const uint8_t *end, struct mp *out);
const uint8_t *mp_skip_long(const uint8_t *p, const uint8_t *end);

/* Reads the value or container head at @p. Returns the first byte behind it (behind the payload of
 * str, bin, ext; behind the head of array, map), or NULL when truncated or not msgpack. A container
 * that claims more elements than bytes are left is truncated. */
static inline const uint8_t *mp_read(const uint8_t *p, const uint8_t *end, struct mp *out)
{
	if (p >= end)
		return NULL;
	uint8_t c = *p;
	if (c < 0x80) {
		out->type = MP_UINT;
		out->u = c;
		return p + 1;
	}
	if ((c & 0xe0) == 0xa0) {
		out->type = MP_STR;
		out->p = p + 1;
		out->len = c & 0x1f;
		return out->len < (size_t)(end - p) ? p + 1 + out->len : NULL;
	}
	return mp_read_long(p, end, out);
}

/* Skips the value at @p < @end when its first byte alone says how long it is, else NULL, as when it
 * is truncated. Branches come before the table: records of a stream are alike, so that the
 * processor guesses the way and need not wait for one byte to know where the next one is. */
static inline const uint8_t *mp_skip_fixed(const uint8_t *p, const uint8_t *end)
{
	uint8_t c = *p;
	size_t n;
	if (c < 0x80)
		return p + 1;
	if ((c & 0xe0) == 0xa0)
		n = 1 + (c & 0x1fu);
	else if (c == 0xcb || c == 0xcf)
		n = 9;
	else if (c == 0xce)
		n = 5;
	else
		n = mp_fixed_size[c];
	return n && n <= (size_t)(end - p) ? p + n : NULL;
}

/* Skips one whole value with all that is in it. NULL when truncated, invalid or nested too deep. */
static inline const uint8_t *mp_skip(const uint8_t *p, const uint8_t *end)
{
	if (p >= end)
		return NULL;
	const uint8_t *next = mp_skip_fixed(p, end);
	return next ? next : mp_skip_long(p, end);
}

/* True when [p, p+len) is well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms). */
bool mp_utf8_valid(const uint8_t *p, size_t len);
/* Bytes of the well-formed character at @p, of which @len > 0 bytes are there; 0: it is none. */
size_t mp_utf8_char(const uint8_t *p, size_t len);

/* Writers: return the byte behind what they wrote; the shortest encoding is chosen. */
static inline uint8_t *mp_write_nil(uint8_t *p)
{
	*p = 0xc0;
	return p + 1;
}

static inline uint8_t *mp_write_bool(uint8_t *p, bool b)
{
	*p = b ? 0xc3 : 0xc2;
	return p + 1;
}

uint8_t *mp_write_uint_long(uint8_t *p, uint64_t u);
uint8_t *mp_write_int_long(uint8_t *p, int64_t i);

static inline uint8_t *mp_write_uint(uint8_t *p, uint64_t u)
{
	if (u >= 0x80)
		return mp_write_uint_long(p, u);
	*p = (uint8_t)u;
	return p + 1;
}

static inline uint8_t *mp_write_int(uint8_t *p, int64_t i)
{
	if (i >= 0)
		return mp_write_uint(p, (uint64_t)i);
	if (i < -32)
		return mp_write_int_long(p, i);
	*p = (uint8_t)i;
	return p + 1;
}

/* Always float64: a float32 would have to be proved exact, and saves little. */
static inline uint8_t *mp_write_float(uint8_t *p, double d)
{
	uint64_t bits;
	memcpy(&bits, &d, sizeof(bits));
	*p = 0xcb;
	return mp_store64(p + 1, bits);
}

uint8_t *mp_write_str_head_long(uint8_t *p, uint32_t len);

static inline uint8_t *mp_write_str_head(uint8_t *p, uint32_t len)
{
	if (len >= 32)
		return mp_write_str_head_long(p, len);
	*p = (uint8_t)(0xa0 | len);
	return p + 1;
}

static inline uint8_t *mp_write_str(uint8_t *p, const void *s, uint32_t len)
{
	p = mp_write_str_head(p, len);
	if (len)
		memcpy(p, s, len);
	return p + len;
}

uint8_t *mp_write_bin(uint8_t *p, const void *s, uint32_t len);
uint8_t *mp_write_ext(uint8_t *p, int8_t type, const void *s, uint32_t len);
uint8_t *mp_write_array_head(uint8_t *p, uint32_t n);
uint8_t *mp_write_map_head(uint8_t *p, uint32_t n);

/* Bytes of the head the writers choose. */
static inline uint32_t mp_str_head_size(uint32_t len)
{
	return len < 32 ? 1 : len < 256 ? 2 : len < 65536 ? 3 : 5;
}

static inline uint32_t mp_map_head_size(uint32_t n)
{
	return n < 16 ? 1 : n < 65536 ? 3 : 5;
}

/* Writes @v: a scalar, str, bin or ext whole; of array and map the head only. */
uint8_t *mp_write(uint8_t *p, const struct mp *v);
