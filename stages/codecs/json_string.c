/*
 * JSON strings -> msgpack strings.
 *
 * The hard idea: a msgpack string has its length in front, so the end is looked for first, 16 bytes
 * a step; what was found on the way (escapes? anything beyond ASCII?) decides how it is copied.
 * Nearly all strings are one scan and one memcpy.
 *
 * Invariants
 *  - UTF-8 is checked on the raw text: escapes are ASCII there and stand for whole characters, so
 * the result is well-formed when the raw text is;
 *  - a surrogate escape without its other half is refused: it stands for no character.
 *
 * Limits: with escapes the head is sized by the raw length, so a string within four bytes of the
 * room's end may be said not to fit although it would.
 */
#include "stages/codecs/json.h"

#if defined(__SSE2__)
# include <emmintrin.h>
#endif

#if defined(__SSE2__)
/* Bits of the 16 bytes at @p that end a plain run: quote, backslash, control characters. */
static inline unsigned special16(const uint8_t *p, unsigned *high)
{
	__m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
	__m128i quote = _mm_cmpeq_epi8(v, _mm_set1_epi8('"'));
	__m128i slash = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
	__m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
	*high = (unsigned)_mm_movemask_epi8(v);
	return (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, slash), control));
}
#endif

/* The first byte of [q, end) that ends a plain run; *@high collects bytes above 0x7f before it. */
static const uint8_t *plain_run(const uint8_t *q, const uint8_t *end, unsigned *high)
{
#if defined(__SSE2__)
	while (end - q >= 16) {
		unsigned h;
		unsigned s = special16(q, &h);
		if (s) {
			unsigned k = (unsigned)__builtin_ctz(s);
			*high |= h & ((1u << k) - 1);
			return q + k;
		}
		*high |= h;
		q += 16;
	}
#endif
	for (; q < end && *q >= 0x20 && *q != '"' && *q != '\\'; q++)
		*high |= *q & 0x80u;
	return q;
}

int json_string_end(struct json_parse *j, bool *plain, bool *ascii)
{
	const uint8_t *q = j->p;
	unsigned high = 0;
	*plain = true;
	for (;;) {
		q = plain_run(q, j->end, &high);
		if (q == j->end)
			return json_cut(j);
		if (*q == '"')
			break;
		if (*q != '\\') {
			j->p = q;
			return json_bad(j, "a control character in a string");
		}
		*plain = false;
		if (j->end - q < 2)
			return json_cut(j);
		q += 2;
	}
	*ascii = !high;
	j->p = q + 1;
	return JSON_OK;
}

static int hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four hex digits at @p, or -1. */
static int32_t hex4(const uint8_t *p, const uint8_t *end)
{
	int32_t v = 0;
	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int d = hex_digit(p[i]);
		if (d < 0)
			return -1;
		v = v << 4 | d;
	}
	return v;
}

static uint8_t *put_utf8(uint8_t *o, uint32_t c)
{
	if (c < 0x80) {
		*o++ = (uint8_t)c;
		return o;
	}
	if (c < 0x800) {
		*o++ = (uint8_t)(0xc0 | c >> 6);
	} else {
		if (c < 0x10000) {
			*o++ = (uint8_t)(0xe0 | c >> 12);
		} else {
			*o++ = (uint8_t)(0xf0 | c >> 18);
			*o++ = (uint8_t)(0x80 | (c >> 12 & 0x3f));
		}
		*o++ = (uint8_t)(0x80 | (c >> 6 & 0x3f));
	}
	*o++ = (uint8_t)(0x80 | (c & 0x3f));
	return o;
}

/* The \u escape whose digits are at @p. Returns the byte behind it, or NULL with j->why and an
 * answer in
 * *@answer. */
static const uint8_t *unicode_escape(struct json_parse *j, const uint8_t *p, const uint8_t *end,
                                     uint32_t *c, int *answer)
{
	int32_t u = hex4(p, end);
	if (u < 0) {
		*answer = json_bad(j, "\\u without four hex digits");
		return NULL;
	}
	*c = (uint32_t)u;
	p += 4;
	if (u < 0xd800 || u > 0xdfff)
		return p;
	int32_t low =
	        u < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2, end) : -1;
	if (low < 0xdc00 || low > 0xdfff) {
		*answer = json_unfit(j, "half of a surrogate pair in a string");
		return NULL;
	}
	*c = 0x10000 + (((uint32_t)u & 0x3ff) << 10 | ((uint32_t)low & 0x3ff));
	return p + 6;
}

/* What the character behind a backslash stands for; 0: nothing. */
static uint8_t short_escape(uint8_t c)
{
	switch (c) {
	case '"':
	case '\\':
	case '/':
		return c;
	case 'b':
		return '\b';
	case 'f':
		return '\f';
	case 'n':
		return '\n';
	case 'r':
		return '\r';
	case 't':
		return '\t';
	default:
		return 0;
	}
}

/* Writes what [p, end) says to *@o, at most to j->room. */
static int unescape(struct json_parse *j, const uint8_t *p, const uint8_t *end, uint8_t **o)
{
	uint8_t *w = *o;
	while (p < end) {
		unsigned high = 0;
		const uint8_t *q = plain_run(p, end, &high);
		size_t n = (size_t)(q - p);
		if ((size_t)(j->room - w) < n + 4)
			return JSON_ROOM;
		memcpy(w, p, n);
		w += n;
		p = q;
		if (p == end)
			break;
		uint8_t c = p[1];
		if (c == 'u') {
			uint32_t code;
			int r;
			q = unicode_escape(j, p + 2, end, &code, &r);
			if (!q) {
				j->p = p;
				return r;
			}
			w = put_utf8(w, code);
			p = q;
			continue;
		}
		*w = short_escape(c);
		if (!*w++) {
			j->p = p;
			return json_bad(j, "an unknown escape in a string");
		}
		p += 2;
	}
	*o = w;
	return JSON_OK;
}

static int copy_escaped(struct json_parse *j, const uint8_t *p, const uint8_t *end)
{
	uint32_t head = mp_str_head_size((uint32_t)(end - p));
	if (json_space(j) < head)
		return JSON_ROOM;
	uint8_t *body = j->o + head;
	uint8_t *e = body;
	int r = unescape(j, p, end, &e);
	if (r != JSON_OK)
		return r;
	uint32_t len = (uint32_t)(e - body);
	uint8_t *at = mp_write_str_head(j->o, len);
	if (at != body)
		memmove(at, body, len);
	j->o = at + len;
	return JSON_OK;
}

int json_string_long(struct json_parse *j)
{
	bool plain;
	bool ascii;
	const uint8_t *p = j->p;
	int r = json_string_end(j, &plain, &ascii);
	if (r != JSON_OK)
		return r;
	const uint8_t *end = j->p - 1;
	size_t len = (size_t)(end - p);
	if (len > UINT32_MAX)
		return JSON_ROOM;
	if (!ascii && !mp_utf8_valid(p, len))
		return json_unfit(j, "a string is not UTF-8");
	if (!plain) {
		r = copy_escaped(j, p, end);
		return r;
	}
	if (json_space(j) < mp_str_head_size((uint32_t)len) + len)
		return JSON_ROOM;
	j->o = mp_write_str(j->o, p, (uint32_t)len);
	return JSON_OK;
}
