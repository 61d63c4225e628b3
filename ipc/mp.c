/*
 * The long forms of reading, skipping and writing msgpack, and UTF-8 validation.
 *
 * The hard idea of skipping: nesting is a small stack of "elements still to come", so that depth
 * costs no recursion, and most elements cost one table look-up (mp_fixed_size).
 *
 * Invariants
 *  - no byte at or behind `end` is read, whatever lengths the input claims;
 *  - an element takes at least one byte, so a container that claims more elements than bytes are
 *    left is refused at its head: work is bounded by the input's size, never by its claims.
 *
 * Limits: mp_skip does not look into strings; who needs UTF-8 checked calls mp_utf8_valid.
 */
#include "ipc/mp.h"

#if defined(__SSE2__)
# include <emmintrin.h>
#endif

#define X8(n)  n, n, n, n, n, n, n, n
#define X16(n) X8(n), X8(n)

/* clang-format off */
const uint8_t mp_fixed_size[256] = {
	X16(1), X16(1), X16(1), X16(1), X16(1), X16(1), X16(1), X16(1), /* 0x00: positive fixint */
	1, 0, 0, 0, 0, 0, 0, 0, X8(0),                                  /* 0x80: fixmap */
	1, 0, 0, 0, 0, 0, 0, 0, X8(0),                                  /* 0x90: fixarray */
	1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,          /* 0xa0: fixstr */
	17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
	1, 0, 1, 1, /* nil, never used, false, true */
	0, 0, 0,    /* bin */
	0, 0, 0,    /* ext */
	5, 9,       /* float */
	2, 3, 5, 9, /* uint */
	2, 3, 5, 9, /* int */
	3, 4, 6, 10, 18, /* fixext */
	0, 0, 0,    /* str */
	0, 0,       /* array */
	0, 0,       /* map */
	X16(1), X16(1), /* 0xe0: negative fixint */
};
/* clang-format on */

static const uint8_t *read_int(const uint8_t *p, int64_t i, struct mp *out, size_t bytes)
{
	out->type = i < 0 ? MP_INT : MP_UINT;
	out->i = i;
	return p + bytes;
}

static const uint8_t *read_uint(const uint8_t *p, uint64_t u, struct mp *out, size_t bytes)
{
	out->type = MP_UINT;
	out->u = u;
	return p + bytes;
}

static const uint8_t *read_float(const uint8_t *p, struct mp *out)
{
	out->type = MP_FLOAT;
	if (*p == 0xca) {
		uint32_t bits = mp_load32(p + 1);
		float f;
		memcpy(&f, &bits, sizeof(f));
		out->d = (double)f;
		return p + 5;
	}
	uint64_t bits = mp_load64(p + 1);
	memcpy(&out->d, &bits, sizeof(bits));
	return p + 9;
}

static const uint8_t *read_fixed(const uint8_t *p, struct mp *out)
{
	uint8_t c = *p++;
	switch (c) {
	case 0xc0:
		out->type = MP_NIL;
		return p;
	case 0xc2:
	case 0xc3:
		out->type = MP_BOOL;
		out->b = c & 1;
		return p;
	case 0xca:
	case 0xcb:
		return read_float(p - 1, out);
	case 0xcc:
		return read_uint(p, p[0], out, 1);
	case 0xcd:
		return read_uint(p, mp_load16(p), out, 2);
	case 0xce:
		return read_uint(p, mp_load32(p), out, 4);
	case 0xcf:
		return read_uint(p, mp_load64(p), out, 8);
	case 0xd0:
		return read_int(p, (int8_t)p[0], out, 1);
	case 0xd1:
		return read_int(p, (int16_t)mp_load16(p), out, 2);
	case 0xd2:
		return read_int(p, (int32_t)mp_load32(p), out, 4);
	case 0xd3:
		return read_int(p, (int64_t)mp_load64(p), out, 8);
	default:
		return read_int(p, (int8_t)c, out, 0);
	}
}

/* Reads the length of @bytes bytes at @p; false when they are not all there. */
static bool read_length(const uint8_t **p, const uint8_t *end, size_t bytes, uint32_t *len)
{
	if ((size_t)(end - *p) < bytes)
		return false;
	*len = bytes == 1 ? **p : bytes == 2 ? mp_load16(*p) : mp_load32(*p);
	*p += bytes;
	return true;
}

static const uint8_t *read_payload(const uint8_t *p, const uint8_t *end, enum mp_type type,
                                   size_t bytes, struct mp *out)
{
	uint32_t len = 0;
	if (!read_length(&p, end, bytes, &len) || len > (size_t)(end - p))
		return NULL;
	out->type = type;
	out->p = p;
	out->len = len;
	return p + len;
}

static const uint8_t *read_ext(const uint8_t *p, const uint8_t *end, uint32_t len, struct mp *out)
{
	if (p >= end || len > (size_t)(end - p - 1))
		return NULL;
	out->type = MP_EXT;
	out->ext = (int8_t)p[0];
	out->p = p + 1;
	out->len = len;
	return p + 1 + len;
}

static const uint8_t *read_ext_long(const uint8_t *p, const uint8_t *end, size_t bytes,
                                    struct mp *out)
{
	uint32_t len = 0;
	return read_length(&p, end, bytes, &len) ? read_ext(p, end, len, out) : NULL;
}

static const uint8_t *read_container(const uint8_t *p, const uint8_t *end, enum mp_type type,
                                     uint32_t n, struct mp *out)
{
	uint64_t least = type == MP_MAP ? 2 * (uint64_t)n : n;
	if (least > (size_t)(end - p))
		return NULL;
	out->type = type;
	out->n = n;
	return p;
}

static const uint8_t *read_container_long(const uint8_t *p, const uint8_t *end, enum mp_type type,
                                          size_t bytes, struct mp *out)
{
	uint32_t n = 0;
	return read_length(&p, end, bytes, &n) ? read_container(p, end, type, n, out) : NULL;
}

/* @p: behind the first byte @c, which is none that mp_fixed_size knows, or one it knows as whole
 * but carries a payload or a count. */
static const uint8_t *read_sized(uint8_t c, const uint8_t *p, const uint8_t *end, struct mp *out)
{
	switch (c) {
	case 0x80 ... 0x8f:
		return read_container(p, end, MP_MAP, c & 15, out);
	case 0x90 ... 0x9f:
		return read_container(p, end, MP_ARRAY, c & 15, out);
	case 0xc4 ... 0xc6:
		return read_payload(p, end, MP_BIN, (size_t)1 << (c - 0xc4), out);
	case 0xc7 ... 0xc9:
		return read_ext_long(p, end, (size_t)1 << (c - 0xc7), out);
	case 0xd4 ... 0xd8:
		return read_ext(p, end, (uint32_t)1 << (c - 0xd4), out);
	case 0xd9 ... 0xdb:
		return read_payload(p, end, MP_STR, (size_t)1 << (c - 0xd9), out);
	case 0xdc ... 0xdd:
		return read_container_long(p, end, MP_ARRAY, (size_t)2 << (c - 0xdc), out);
	case 0xde ... 0xdf:
		return read_container_long(p, end, MP_MAP, (size_t)2 << (c - 0xde), out);
	default:
		return NULL;
	}
}

const uint8_t *mp_read_long(const uint8_t *p, const uint8_t *end, struct mp *out)
{
	uint8_t c = *p;
	if (c < 0xc0 || (c >= 0xd4 && c <= 0xdf) || (c >= 0xc4 && c <= 0xc9) || c == 0xc1)
		return read_sized(c, p + 1, end, out);
	if (mp_fixed_size[c] > (size_t)(end - p))
		return NULL;
	return read_fixed(p, out);
}

const uint8_t *mp_skip_long(const uint8_t *p, const uint8_t *end)
{
	uint64_t left[MP_DEPTH_HELD]; /* of the containers around the innermost one */
	uint64_t now = 1;             /* elements still to come in the innermost one */
	unsigned depth = 0;

	for (;;) {
		if (p >= end)
			return NULL;
		const uint8_t *next = (*p & 0xe0) == 0x80 ? NULL : mp_skip_fixed(p, end);
		if (!next) {
			struct mp v;
			next = mp_read_long(p, end, &v);
			if (!next)
				return NULL;
			if (v.type == MP_MAP || v.type == MP_ARRAY) {
				if (depth == MP_DEPTH_HELD)
					return NULL;
				if (v.n) {
					left[depth++] = now;
					now = v.type == MP_MAP ? 2 * (uint64_t)v.n : v.n;
					p = next;
					continue;
				}
			}
		}
		p = next;
		while (--now == 0) {
			if (!depth)
				return p;
			now = left[--depth];
		}
	}
}

/* Length of the well-formed sequence that starts with the non-ASCII byte at @p, or 0. The ranges
 * are those of RFC 3629, section 4. */
static inline size_t utf8_sequence(const uint8_t *p, size_t left)
{
	uint8_t c = p[0];
	if (c < 0xc2 || c > 0xf4 || left < 2)
		return 0;
	if (c < 0xe0)
		return (p[1] & 0xc0) == 0x80 ? 2 : 0;
	if (left < 3 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80)
		return 0;
	if (c < 0xf0) {
		if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f))
			return 0;
		return 3;
	}
	if (left < 4 || (p[3] & 0xc0) != 0x80)
		return 0;
	if ((c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f))
		return 0;
	return 4;
}

size_t mp_utf8_char(const uint8_t *p, size_t len)
{
	return p[0] < 0x80 ? 1 : utf8_sequence(p, len);
}

/* Bytes of pure ASCII at the front of [p, p+len), in steps of 16 or 8: a lower bound. */
static inline size_t utf8_ascii(const uint8_t *p, size_t len)
{
	size_t i = 0;
#if defined(__SSE2__)
	for (; len - i >= 16; i += 16)
		if (_mm_movemask_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + i))))
			return i;
#endif
	for (; len - i >= 8; i += 8) {
		uint64_t v;
		memcpy(&v, p + i, sizeof(v));
		if (v & 0x8080808080808080u)
			return i;
	}
	return i;
}

/* Whether a string of less than 16 bytes is all ASCII: two loads that overlap see all of it. */
static inline bool utf8_short_ascii(const uint8_t *p, size_t len)
{
	if (len >= 8) {
		uint64_t a;
		uint64_t b;
		memcpy(&a, p, sizeof(a));
		memcpy(&b, p + len - sizeof(b), sizeof(b));
		return !((a | b) & 0x8080808080808080u);
	}
	if (len >= 4) {
		uint32_t a;
		uint32_t b;
		memcpy(&a, p, sizeof(a));
		memcpy(&b, p + len - sizeof(b), sizeof(b));
		return !((a | b) & 0x80808080u);
	}
	return len == 0 || !((p[0] | p[len / 2] | p[len - 1]) & 0x80);
}

bool mp_utf8_valid(const uint8_t *p, size_t len)
{
	if (len < 16 && utf8_short_ascii(p, len))
		return true;
	size_t i = utf8_ascii(p, len);
	while (i < len) {
		if (p[i] < 0x80) {
			i++;
			/* after a run of other script, a blank is seldom the start of much ASCII */
			if (len - i >= 8 && p[i] < 0x80)
				i += utf8_ascii(p + i, len - i);
			continue;
		}
		size_t n = utf8_sequence(p + i, len - i);
		if (!n)
			return false;
		i += n;
	}
	return true;
}

uint8_t *mp_write_uint_long(uint8_t *p, uint64_t u)
{
	if (u <= 0xff) {
		p[0] = 0xcc;
		p[1] = (uint8_t)u;
		return p + 2;
	}
	if (u <= 0xffff) {
		*p = 0xcd;
		return mp_store16(p + 1, (uint16_t)u);
	}
	if (u <= 0xffffffff) {
		*p = 0xce;
		return mp_store32(p + 1, (uint32_t)u);
	}
	*p = 0xcf;
	return mp_store64(p + 1, u);
}

uint8_t *mp_write_int_long(uint8_t *p, int64_t i)
{
	if (i >= INT8_MIN) {
		p[0] = 0xd0;
		p[1] = (uint8_t)i;
		return p + 2;
	}
	if (i >= INT16_MIN) {
		*p = 0xd1;
		return mp_store16(p + 1, (uint16_t)i);
	}
	if (i >= INT32_MIN) {
		*p = 0xd2;
		return mp_store32(p + 1, (uint32_t)i);
	}
	*p = 0xd3;
	return mp_store64(p + 1, (uint64_t)i);
}

/* A head byte with a length of 1, 2 or 4 bytes behind it: @base, @base + 1, @base + 2. */
static uint8_t *write_length(uint8_t *p, uint8_t base, uint32_t len)
{
	if (len <= 0xff) {
		p[0] = base;
		p[1] = (uint8_t)len;
		return p + 2;
	}
	if (len <= 0xffff) {
		*p = (uint8_t)(base + 1);
		return mp_store16(p + 1, (uint16_t)len);
	}
	*p = (uint8_t)(base + 2);
	return mp_store32(p + 1, len);
}

uint8_t *mp_write_str_head_long(uint8_t *p, uint32_t len)
{
	return write_length(p, 0xd9, len);
}

uint8_t *mp_write_bin(uint8_t *p, const void *s, uint32_t len)
{
	p = write_length(p, 0xc4, len);
	if (len)
		memcpy(p, s, len);
	return p + len;
}

uint8_t *mp_write_ext(uint8_t *p, int8_t type, const void *s, uint32_t len)
{
	if (len <= 16 && len && (len & (len - 1)) == 0)
		*p++ = (uint8_t)(0xd4 + __builtin_ctz(len));
	else
		p = write_length(p, 0xc7, len);
	*p++ = (uint8_t)type;
	if (len)
		memcpy(p, s, len);
	return p + len;
}

static uint8_t *write_container(uint8_t *p, uint8_t fix, uint8_t base, uint32_t n)
{
	if (n < 16) {
		*p = (uint8_t)(fix | n);
		return p + 1;
	}
	if (n <= 0xffff) {
		*p = base;
		return mp_store16(p + 1, (uint16_t)n);
	}
	*p = (uint8_t)(base + 1);
	return mp_store32(p + 1, n);
}

uint8_t *mp_write_array_head(uint8_t *p, uint32_t n)
{
	return write_container(p, 0x90, 0xdc, n);
}

uint8_t *mp_write_map_head(uint8_t *p, uint32_t n)
{
	return write_container(p, 0x80, 0xde, n);
}

uint8_t *mp_write(uint8_t *p, const struct mp *v)
{
	switch (v->type) {
	case MP_NIL:
		return mp_write_nil(p);
	case MP_BOOL:
		return mp_write_bool(p, v->b);
	case MP_INT:
		return mp_write_int(p, v->i);
	case MP_UINT:
		return mp_write_uint(p, v->u);
	case MP_FLOAT:
		return mp_write_float(p, v->d);
	case MP_STR:
		return mp_write_str(p, v->p, v->len);
	case MP_BIN:
		return mp_write_bin(p, v->p, v->len);
	case MP_ARRAY:
		return mp_write_array_head(p, v->n);
	case MP_MAP:
		return mp_write_map_head(p, v->n);
	case MP_EXT:
		return mp_write_ext(p, v->ext, v->p, v->len);
	}
	return p;
}
