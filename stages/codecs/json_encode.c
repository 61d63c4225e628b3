/*
 * msgpack -> JSON, one record a line.
 *
 * JSON knows less than msgpack, so some values change their form:
 *   NaN, infinities     null
 *   bin                 a string of base64 (RFC 4648, with padding)
 *   timestamp (ext -1)  a string as in RFC 3339: "2026-11-20T16:26:53.5Z" (0, 3, 6 or 9 decimals)
 *   other ext           {"ext": type, "data": base64}
 *   keys that are no strings: numbers, true, false, null as strings; others cannot be said
 *
 * Strings are escaped only where they have to be: quote, backslash, control characters.
 *
 * Invariants: the text is UTF-8 (a string that is none is refused); output that was begun for a
 * refused record is taken back.
 *
 * Limits: with more than MP_DEPTH_MAX levels a record is refused; integers are written exactly,
 * whatever the reader makes of them.
 */
#include <math.h>
#include <stdio.h>
#include <time.h>

#include "stages/codec.h"
#include "stages/codecs/json.h"

#if defined(__SSE2__)
# include <emmintrin.h>
#endif

struct write {
	struct buf *out;
	uint8_t *w;         /* next byte */
	uint8_t *room;      /* end of the room */
	const uint8_t *p;   /* next byte of the record */
	const uint8_t *end; /* of the record */
	const char *why;
};

enum {
	ESCAPE_MAX = 6, /* \u001f */
	STEP = 16,
};

static int grow(struct write *j, size_t need)
{
	j->out->len = (size_t)(j->w - j->out->p);
	int r = buf_room(j->out, need);
	if (r < 0)
		return r;
	j->w = j->out->p + j->out->len;
	j->room = j->out->p + j->out->cap;
	return 0;
}

static inline int need(struct write *j, size_t bytes)
{
	return (size_t)(j->room - j->w) >= bytes ? 0 : grow(j, bytes);
}

static int refuse(struct write *j, const char *why)
{
	j->why = why;
	return CODEC_E_REJECT;
}

static void put_text(struct write *j, const char *s, size_t len)
{
	memcpy(j->w, s, len);
	j->w += len;
}

static void put_escape(struct write *j, uint8_t c)
{
	static const char names[] = "btn\0fr"; /* 8, 9, 10, 12, 13 */
	static const char hex[] = "0123456789abcdef";
	*j->w++ = '\\';
	if (c == '"' || c == '\\') {
		*j->w++ = c;
	} else if (c >= 8 && c <= 13 && names[c - 8]) {
		*j->w++ = (uint8_t)names[c - 8];
	} else {
		put_text(j, "u00", 3);
		*j->w++ = (uint8_t)hex[c >> 4];
		*j->w++ = (uint8_t)hex[c & 15];
	}
}

static inline bool has_to_be_escaped(uint8_t c)
{
	return c < 0x20 || c == '"' || c == '\\';
}

/* Copies plain characters, STEP at a time, up to the first that has to be escaped, or the end. Room
 * for the rest of the string and one step is there. @limit: end of what may be read. */
static inline const uint8_t *copy_plain(struct write *j, const uint8_t *s, const uint8_t *end,
                                        const uint8_t *limit, unsigned *high)
{
#if defined(__SSE2__)
	while (s < end && limit - s >= STEP) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)s);
		__m128i stop = _mm_cmpeq_epi8(v, _mm_set1_epi8('"'));
		stop = _mm_or_si128(stop, _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
		stop = _mm_or_si128(stop, _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v));
		_mm_storeu_si128((__m128i *)(void *)j->w, v);
		unsigned bits = (unsigned)_mm_movemask_epi8(stop) | 1u << STEP;
		size_t n = (size_t)__builtin_ctz(bits);
		size_t left = (size_t)(end - s);
		if (n > left)
			n = left;
		*high |= (unsigned)_mm_movemask_epi8(v) & ((1u << n) - 1);
		s += n;
		j->w += n;
		if (n < STEP)
			return s;
	}
#else
	(void)limit;
#endif
	for (; s < end && !has_to_be_escaped(*s); s++) {
		*high |= *s & 0x80u;
		*j->w++ = *s;
	}
	return s;
}

static inline int put_string(struct write *j, const uint8_t *s, uint32_t len)
{
	const uint8_t *p = s;
	const uint8_t *end = s + len;
	unsigned high = 0;
	int r = need(j, (size_t)len + 2 + STEP);
	if (r < 0)
		return r;
	*j->w++ = '"';
	while ((p = copy_plain(j, p, end, j->end, &high)) < end) {
		r = need(j, (size_t)(end - p) + ESCAPE_MAX + 1 + STEP);
		if (r < 0)
			return r;
		put_escape(j, *p++);
	}
	*j->w++ = '"';
	return high && !mp_utf8_valid(s, len) ? refuse(j, "a string is not UTF-8") : 0;
}

static int put_base64(struct write *j, const uint8_t *s, uint32_t len)
{
	static const char digit[] =
	        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	int r = need(j, ((size_t)len + 2) / 3 * 4 + 2);
	if (r < 0)
		return r;
	*j->w++ = '"';
	for (uint32_t i = 0; i < len; i += 3) {
		uint32_t left = len - i;
		uint32_t v = (uint32_t)s[i] << 16;
		v |= left > 1 ? (uint32_t)s[i + 1] << 8 : 0;
		v |= left > 2 ? s[i + 2] : 0;
		*j->w++ = (uint8_t)digit[v >> 18];
		*j->w++ = (uint8_t)digit[v >> 12 & 63];
		*j->w++ = left > 1 ? (uint8_t)digit[v >> 6 & 63] : '=';
		*j->w++ = left > 2 ? (uint8_t)digit[v & 63] : '=';
	}
	*j->w++ = '"';
	return 0;
}

/* Reads msgpack's timestamp in its three sizes. */
static bool read_timestamp(const struct mp *v, int64_t *sec, uint32_t *nsec)
{
	if (v->ext != -1)
		return false;
	if (v->len == 4) {
		*sec = mp_load32(v->p);
		*nsec = 0;
	} else if (v->len == 8) {
		uint64_t u = mp_load64(v->p);
		*sec = (int64_t)(u & 0x3ffffffffu);
		*nsec = (uint32_t)(u >> 34);
	} else if (v->len == 12) {
		*nsec = mp_load32(v->p);
		*sec = (int64_t)mp_load64(v->p + 4);
	} else {
		return false;
	}
	return *nsec < 1000000000;
}

/* True when the time could be said: RFC 3339 has years 0 to 9999. */
static bool put_timestamp(struct write *j, const struct mp *v)
{
	int64_t sec;
	uint32_t nsec;
	struct tm tm;
	char s[64];
	if (!read_timestamp(v, &sec, &nsec) || sec < -62167219200 || sec > 253402300799)
		return false;
	time_t t = (time_t)sec;
	if (!gmtime_r(&t, &tm))
		return false;
	int n = snprintf(s, sizeof(s), "\"%04d-%02d-%02dT%02d:%02d:%02d", tm.tm_year + 1900,
	                 tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
	put_text(j, s, (size_t)n);
	if (nsec) {
		n = snprintf(s, sizeof(s), ".%09u", nsec);
		while (memcmp(s + n - 3, "000", 3) == 0)
			n -= 3;
		put_text(j, s, (size_t)n);
	}
	put_text(j, "Z\"", 2);
	return true;
}

static int put_ext(struct write *j, const struct mp *v)
{
	int r = need(j, 96);
	if (r < 0)
		return r;
	if (put_timestamp(j, v))
		return 0;
	put_text(j, "{\"ext\":", 7);
	j->w = json_put_int(j->w, v->ext);
	put_text(j, ",\"data\":", 8);
	r = put_base64(j, v->p, v->len);
	if (r == 0)
		r = need(j, 1);
	if (r == 0)
		*j->w++ = '}';
	return r;
}

static inline int put_scalar(struct write *j, const struct mp *v)
{
	if (v->type == MP_STR)
		return put_string(j, v->p, v->len);
	int r = need(j, JSON_DOUBLE_MAX);
	if (r < 0)
		return r;
	switch (v->type) {
	case MP_BOOL:
		put_text(j, v->b ? "true" : "false", v->b ? 4 : 5);
		return 0;
	case MP_INT:
		j->w = json_put_int(j->w, v->i);
		return 0;
	case MP_UINT:
		j->w = json_put_uint(j->w, v->u);
		return 0;
	case MP_FLOAT:
		if (isfinite(v->d)) {
			j->w = json_put_double(j->w, v->d);
			return 0;
		}
		break;
	case MP_BIN:
		return put_base64(j, v->p, v->len);
	case MP_EXT:
		return put_ext(j, v);
	default:
		break;
	}
	put_text(j, "null", 4);
	return 0;
}

/* The key at j->p with its colon. */
static inline int put_key(struct write *j)
{
	struct mp v;
	j->p = mp_read(j->p, j->end, &v);
	if (!j->p)
		return refuse(j, "truncated or invalid msgpack");
	if (v.type == MP_ARRAY || v.type == MP_MAP || v.type == MP_EXT)
		return refuse(j, "a key that is a list, a map or an ext has no form in JSON");
	bool bare = v.type != MP_STR && v.type != MP_BIN;
	int r = need(j, 2);
	if (r == 0 && bare)
		*j->w++ = '"';
	if (r == 0)
		r = put_scalar(j, &v);
	if (r == 0)
		r = need(j, 2);
	if (r != 0)
		return r;
	if (bare)
		*j->w++ = '"';
	*j->w++ = ':';
	return 0;
}

static int put_value(struct write *j, unsigned depth)
{
	struct mp v;
	j->p = mp_read(j->p, j->end, &v);
	if (!j->p)
		return refuse(j, "truncated or invalid msgpack");
	if (v.type != MP_MAP && v.type != MP_ARRAY)
		return put_scalar(j, &v);
	if (depth == MP_DEPTH_MAX)
		return refuse(j, "nested too deep");
	bool map = v.type == MP_MAP;
	int r = need(j, 2);
	if (r < 0)
		return r;
	*j->w++ = map ? '{' : '[';
	for (uint32_t i = 0; i < v.n; i++) {
		r = need(j, 2);
		if (r == 0 && i)
			*j->w++ = ',';
		if (r == 0 && map)
			r = put_key(j);
		if (r == 0)
			r = put_value(j, depth + 1);
		if (r != 0)
			return r;
	}
	r = need(j, 2);
	if (r == 0)
		*j->w++ = map ? '}' : ']';
	return r;
}

int json_write(struct buf *out, const uint8_t *rec, size_t len, const char **why)
{
	size_t before = out->len;
	struct write j = {.out = out, .p = rec, .end = rec + len};
	int r = buf_room(out, len + len / 2 + 64);
	if (r < 0)
		return r;
	j.w = out->p + out->len;
	j.room = out->p + out->cap;
	r = put_value(&j, 0);
	if (r == 0)
		r = need(&j, 1);
	if (r != 0) {
		out->len = before;
		*why = j.why;
		return r;
	}
	*j.w++ = '\n';
	out->len = (size_t)(j.w - out->p);
	return 0;
}
