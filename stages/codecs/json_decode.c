/*
 * One JSON value -> msgpack, in a single pass, straight into the room of the chunk under
 * construction.
 *
 * The hard idea: a msgpack container has its count in front, and JSON tells it last. So a head is
 * kept free when a container begins, as wide as the last container at this depth needed, and filled
 * in when it ends. Records of a stream are alike, so the guess is nearly always right; when it is
 * wrong the container's bytes move by 2 or 4, and the result has the shortest heads in either case.
 *
 * Invariants
 *  - nesting is an explicit stack of MP_DEPTH_MAX frames: no input can use up the C stack;
 *  - nothing is written at or behind `room`, nothing read at or behind `end`;
 *  - offsets in `keys` belong to open maps only, whose bytes have not moved since.
 *
 * Limits: the window must hold the whole value; a value cut off is read again from its start.
 */
#include "stages/codecs/json.h"

#if defined(__SSE2__)
# include <emmintrin.h>
#endif

struct stack {
	unsigned depth;
	struct json_frame frames[MP_DEPTH_MAX];
};

/* Moves over blanks; false at the end of the window. */
static inline bool token(struct json_parse *j)
{
	if (j->p<j->end && * j->p> ' ')
		return true;
#if defined(__SSE2__)
	/* the long runs are indentation */
	while (j->end - j->p >= 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)j->p);
		__m128i blank = _mm_cmpeq_epi8(v, _mm_set1_epi8(' '));
		blank = _mm_or_si128(blank, _mm_cmpeq_epi8(v, _mm_set1_epi8('\n')));
		blank = _mm_or_si128(blank, _mm_cmpeq_epi8(v, _mm_set1_epi8('\t')));
		blank = _mm_or_si128(blank, _mm_cmpeq_epi8(v, _mm_set1_epi8('\r')));
		unsigned other = ~(unsigned)_mm_movemask_epi8(blank) & 0xffff;
		if (other) {
			j->p += __builtin_ctz(other);
			return true;
		}
		j->p += 16;
	}
#endif
	while (j->p < j->end && json_is_blank(*j->p))
		j->p++;
	return j->p < j->end;
}

/* The string behind the opening quote at j->p - 1; here only the short plain ones. */
static inline int string(struct json_parse *j)
{
#if defined(__SSE2__)
	if (json_left(j) >= 16 && json_space(j) >= 17) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)j->p);
		__m128i quote = _mm_cmpeq_epi8(v, _mm_set1_epi8('"'));
		__m128i slash = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
		/* signed: below a blank are the control characters and all that is not ASCII */
		__m128i odd = _mm_cmplt_epi8(v, _mm_set1_epi8(' '));
		unsigned q = (unsigned)_mm_movemask_epi8(quote);
		unsigned stop = q | (unsigned)_mm_movemask_epi8(_mm_or_si128(slash, odd));
		if (q && !((stop ^ q) & (q - 1))) {
			unsigned len = (unsigned)__builtin_ctz(q);
			*j->o = (uint8_t)(0xa0 | len);
			_mm_storeu_si128((__m128i *)(void *)(j->o + 1), v);
			j->o += 1 + len;
			j->p += len + 1;
			return JSON_OK;
		}
	}
#endif
	return json_string_long(j);
}

/* "key": at j->p, into the map @f. */
static inline int key(struct json_parse *j, const struct json_frame *f)
{
	if (!token(j))
		return json_cut(j);
	if (*j->p != '"')
		return json_bad(j, "a key has to be a string in quotes");
	j->p++;
	uint8_t *o = j->o;
	int r = string(j);
	if (r != JSON_OK)
		return r;
	uint32_t len = (uint32_t)(j->o - o) - 1;
	uint32_t off = (uint32_t)(o - j->out) + 1;
	if (len >= 32) {
		struct mp v;
		mp_read(o, j->o, &v);
		len = v.len;
		off = (uint32_t)(v.p - j->out);
	}
	r = keys_add(j->keys, j->out, f->map, off, len);
	if (r != KEYS_E_OK)
		return r < 0 ? r : json_unfit(j, "the same key twice");
	if (!token(j))
		return json_cut(j);
	if (*j->p != ':')
		return json_bad(j, "a colon has to follow a key");
	j->p++;
	return JSON_OK;
}

/* Enters the container at j->p and stands before its first element. *@empty: at its closing
 * bracket. */
static inline int enter(struct json_parse *j, struct stack *s, bool *empty)
{
	if (s->depth == MP_DEPTH_MAX)
		return json_unfit(j, "nested too deep");
	uint8_t size = j->head_hint[s->depth];
	if (json_space(j) < size)
		return JSON_ROOM;
	bool map = *j->p++ == '{';
	struct json_frame *f = &s->frames[s->depth++];
	*f = (struct json_frame){
	        .head = (uint32_t)(j->o - j->out), .is_map = map, .head_size = size};
	j->o += size;
	if (!token(j))
		return json_cut(j);
	*empty = *j->p == (map ? '}' : ']');
	if (!map || *empty)
		return JSON_OK;
	f->map = keys_map(j->keys);
	return key(j, f);
}

/* The guess was wrong: moves the container's bytes to where its head of @want bytes ends. */
static int move(struct json_parse *j, const struct json_frame *f, uint32_t want, unsigned depth)
{
	uint8_t *body = j->out + f->head + f->head_size;
	size_t len = (size_t)(j->o - body);
	if (want > f->head_size && json_space(j) < want - f->head_size)
		return JSON_ROOM;
	memmove(j->out + f->head + want, body, len);
	j->o = j->out + f->head + want + len;
	j->head_hint[depth] = (uint8_t)want;
	return JSON_OK;
}

/* Leaves the container whose closing bracket is at j->p. */
static inline int leave(struct json_parse *j, struct stack *s)
{
	const struct json_frame *f = &s->frames[--s->depth];
	uint32_t want = mp_map_head_size(f->n);
	j->p++;
	if (want != f->head_size) {
		int r = move(j, f, want, s->depth);
		if (r != JSON_OK)
			return r;
	}
	uint8_t *head = j->out + f->head;
	if (f->n < 16)
		*head = (uint8_t)((f->is_map ? 0x80 : 0x90) | f->n);
	else if (f->is_map)
		mp_write_map_head(head, f->n);
	else
		mp_write_array_head(head, f->n);
	return JSON_OK;
}

int json_literal_end(struct json_parse *j)
{
	const char *word = *j->p == 't' ? "true" : *j->p == 'f' ? "false" : "null";
	size_t len = *j->p == 'f' ? 5 : 4;
	size_t left = json_left(j);
	if (memcmp(j->p, word, left < len ? left : len) != 0)
		return json_bad(j, "this is not JSON");
	if (left < len)
		return json_cut(j);
	j->p += len;
	return JSON_OK;
}

static int literal(struct json_parse *j)
{
	uint8_t c = *j->p;
	int r = json_literal_end(j);
	if (r != JSON_OK)
		return r;
	if (j->o == j->room)
		return JSON_ROOM;
	*j->o++ = c == 't' ? 0xc3 : c == 'f' ? 0xc2 : 0xc0;
	return JSON_OK;
}

static inline int scalar(struct json_parse *j)
{
	uint8_t c = *j->p;
	if (c == '"') {
		j->p++;
		return string(j);
	}
	if (c == '-' || (c >= '0' && c <= '9'))
		return json_number(j);
	return literal(j);
}

/* Behind a value: closes what closes here. The next value is due, or the outermost one is done
 * (depth is 0 then). */
static inline int after(struct json_parse *j, struct stack *s)
{
	while (s->depth) {
		struct json_frame *f = &s->frames[s->depth - 1];
		f->n++;
		if (!token(j))
			return json_cut(j);
		uint8_t c = *j->p;
		if (c == ',') {
			j->p++;
			return f->is_map ? key(j, f) : JSON_OK;
		}
		if (c != (f->is_map ? '}' : ']'))
			return json_bad(j, f->is_map
			                           ? "a comma or a brace has to follow a value"
			                           : "a comma or a bracket has to follow a value");
		int r = leave(j, s);
		if (r != JSON_OK)
			return r;
	}
	return JSON_OK;
}

int json_value(struct json_parse *j)
{
	struct stack s;
	int r;
	s.depth = 0;
	do {
		if (!token(j))
			return json_cut(j);
		if (*j->p == '{' || *j->p == '[') {
			bool empty = false;
			r = enter(j, &s, &empty);
			if (r == JSON_OK && empty)
				r = leave(j, &s);
			if (r == JSON_OK && !empty)
				continue;
		} else {
			r = scalar(j);
		}
		if (r == JSON_OK)
			r = after(j, &s);
		if (r != JSON_OK)
			return r;
	} while (s.depth);
	return JSON_OK;
}
