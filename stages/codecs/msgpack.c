/*
 * The msgpack codec: maps back to back. What is well-formed is copied through as it is, byte for
 * byte.
 *
 * The hard idea: one walk checks everything (form, nesting, UTF-8, unique string keys at every
 * level) and tells "the window ends here" from "this is wrong", which mp_skip has no need to. A
 * stack of elements still to come stands for the recursion.
 *
 * Invariants
 *  - every value is looked at before it is copied; nothing behind a claim that the window cannot
 *    hold;
 *  - a map or list that claims more elements than a record has bytes is refused at once.
 *
 * Limits: msgpack cannot be taken up again in the middle: behind a byte that is wrong the rest of
 * the message is rejected as one; of a stream, all that ever follows (in pieces). A value that is
 * well-formed but no record (not a map, a key twice) is rejected alone.
 */
#include <stdio.h>

#include "stages/codec.h"
#include "stages/codecs/keys.h"

enum walk_answer {
	WALK_OK,
	WALK_CUT,   /* the window ends inside the value */
	WALK_BAD,   /* not msgpack: `p` is where */
	WALK_LARGE, /* more than a record can hold */
};

struct msgpack_state {
	struct keys keys;
	bool broken; /* the rest of this stream is rejected */
	char why[96];
};

struct frame {
	uint64_t left; /* values still to come, keys too */
	uint32_t map;  /* its number in `keys` */
	bool is_map;
};

struct walk {
	const uint8_t *start;
	const uint8_t *p;
	const uint8_t *end;
	size_t max;
	struct keys *keys;
	const char *why;   /* WALK_BAD */
	const char *unfit; /* well-formed, but no record because of this; the first reason */
	unsigned depth;
	struct frame frames[MP_DEPTH_MAX];
};

static void unfit(struct walk *w, const char *why)
{
	if (!w->unfit)
		w->unfit = why;
}

/* Bytes of the head at @p, length field and ext type included; 0: no such head. */
static size_t head_size(uint8_t c)
{
	static const uint8_t from_c0[32] = {1, 0, 1, 1, 2, 3, 5, 3, 4, 6, 5, 9, 2, 3, 5, 9,
	                                    2, 3, 5, 9, 2, 2, 2, 2, 2, 2, 3, 5, 3, 5, 3, 5};
	return c < 0xc0 || c >= 0xe0 ? 1 : from_c0[c - 0xc0];
}

/* Elements that the container head at @p claims (pairs count as two); payload bytes otherwise. */
static uint64_t claim(const uint8_t *p)
{
	switch (p[0]) {
	case 0x80 ... 0x8f:
		return 2u * (p[0] & 15u);
	case 0x90 ... 0x9f:
		return p[0] & 15u;
	case 0xa0 ... 0xbf:
		return p[0] & 31u;
	case 0xc4:
	case 0xc7:
	case 0xd9:
		return p[1];
	case 0xc5:
	case 0xc8:
	case 0xda:
	case 0xdc:
		return mp_load16(p + 1);
	case 0xc6:
	case 0xc9:
	case 0xdb:
	case 0xdd:
		return mp_load32(p + 1);
	case 0xd4 ... 0xd8:
		return (uint64_t)1 << (p[0] - 0xd4);
	case 0xde:
		return 2 * (uint64_t)mp_load16(p + 1);
	case 0xdf:
		return 2 * (uint64_t)mp_load32(p + 1);
	default:
		return 0;
	}
}

static bool is_container(uint8_t c)
{
	return (c >= 0x80 && c < 0xa0) || (c >= 0xdc && c < 0xe0);
}

static bool is_map(uint8_t c)
{
	return (c >= 0x80 && c < 0x90) || c == 0xde || c == 0xdf;
}

static bool is_str(uint8_t c)
{
	return (c >= 0xa0 && c < 0xc0) || (c >= 0xd9 && c <= 0xdb);
}

static int bad(struct walk *w, const char *why)
{
	w->why = why;
	return WALK_BAD;
}

/* Enters the container whose head of @head bytes is at w->p. */
static int enter(struct walk *w, size_t head, uint64_t n)
{
	bool map = is_map(*w->p);
	if (w->depth == MP_DEPTH_MAX)
		return bad(w, "nested too deep");
	w->p += head;
	if (n == 0)
		return WALK_OK;
	w->frames[w->depth++] = (struct frame){
	        .left = n, .is_map = map, .map = map && !w->unfit ? keys_map(w->keys) : 0};
	return WALK_OK;
}

/* A string of @len bytes behind w->p's head; as a key when @map is one. */
static inline int check_str(struct walk *w, const uint8_t *s, uint32_t len,
                            const struct frame *key_of)
{
	if (w->unfit)
		return 0;
	if (!mp_utf8_valid(s, len))
		unfit(w, "a string is not UTF-8");
	if (!key_of)
		return 0;
	int r = keys_add(w->keys, w->start, key_of->map, (uint32_t)(s - w->start), len);
	if (r == KEYS_E_TWICE)
		unfit(w, "the same key twice");
	return r < 0 ? r : 0;
}

/* One value, or the head of a container. walk_answer or -errno. */
static inline int step(struct walk *w, const struct frame *key_of)
{
	size_t left = (size_t)(w->end - w->p);
	if (!left)
		return WALK_CUT;
	uint8_t c = *w->p;
	/* nearly everything is a number, a short string, true, false or nil */
	size_t short_size = mp_fixed_size[c];
	if (short_size && short_size <= left && (c & 0xe0) != 0x80) {
		const uint8_t *p = w->p + 1;
		w->p += short_size;
		if ((c & 0xe0) == 0xa0)
			return check_str(w, p, c & 31, key_of);
		if (key_of)
			unfit(w, "a key is not a string");
		return WALK_OK;
	}
	size_t head = head_size(c);
	if (!head)
		return bad(w, "a byte that msgpack does not have (0xc1)");
	if (left < head)
		return WALK_CUT;
	uint64_t n = claim(w->p);
	if (n > w->max)
		return WALK_LARGE;
	bool str = is_str(c);
	if (key_of && !str)
		unfit(w, "a key is not a string");
	if (is_container(c))
		return enter(w, head, n);
	if (left - head < n)
		return WALK_CUT;
	const uint8_t *payload = w->p + head;
	w->p = payload + n;
	return str ? check_str(w, payload, (uint32_t)n, key_of) : WALK_OK;
}

/* Walks one whole value from w->p. */
static int walk(struct walk *w)
{
	do {
		struct frame *f = w->depth ? &w->frames[w->depth - 1] : NULL;
		const struct frame *key_of = f && f->is_map && !(f->left & 1) ? f : NULL;
		if (f)
			f->left--;
		int r = step(w, key_of);
		if (r != WALK_OK)
			return r;
		if ((size_t)(w->p - w->start) > w->max)
			return WALK_LARGE;
		while (w->depth && !w->frames[w->depth - 1].left)
			w->depth--;
	} while (w->depth);
	return WALK_OK;
}

static int msgpack_open(struct codec *c)
{
	struct msgpack_state *s = c->state;
	return keys_init(&s->keys);
}

static void msgpack_close(struct codec *c)
{
	struct msgpack_state *s = c->state;
	keys_deinit(&s->keys);
}

static void msgpack_reset(struct codec *c)
{
	struct msgpack_state *s = c->state;
	s->broken = false;
}

static int reject(struct codec_window *w, const uint8_t *to, const char *why)
{
	w->bad = w->p;
	w->bad_len = (size_t)(to - w->p);
	w->why = why;
	w->p = to;
	return CODEC_E_REJECT;
}

/* The rest of the message cannot be understood any more. */
static int reject_rest(struct codec *c, struct codec_window *w, const char *why)
{
	struct msgpack_state *s = c->state;
	s->broken = !w->last;
	return reject(w, w->end, why);
}

static const char *no_record(uint8_t c)
{
	if (is_str(c))
		return "not a record: a string";
	if (is_container(c))
		return "not a record: an array";
	if (c == 0xc0)
		return "not a record: nil";
	if (c == 0xc2 || c == 0xc3)
		return "not a record: a boolean";
	if (c >= 0xc4 && c <= 0xc6)
		return "not a record: binary";
	if ((c >= 0xc7 && c <= 0xc9) || (c >= 0xd4 && c <= 0xd8))
		return "not a record: an ext";
	return "not a record: a number";
}

/* A well-formed value up to @to. */
static int take(struct codec_window *w, const struct walk *wk, uint8_t *out, size_t room,
                size_t *len)
{
	size_t n = (size_t)(wk->p - w->p);
	if (!is_map(*w->p))
		return reject(w, wk->p, no_record(*w->p));
	if (wk->unfit)
		return reject(w, wk->p, wk->unfit);
	if (n > room)
		return CODEC_E_ROOM;
	memcpy(out, w->p, n);
	*len = n;
	w->p = wk->p;
	return CODEC_E_OK;
}

/* Longer than a record may be: skipped when its end can be found in the window. */
static int too_large(struct codec *c, struct codec_window *w)
{
	struct msgpack_state *s = c->state;
	snprintf(s->why, sizeof(s->why), "larger than a buffer (%zu bytes)", c->max_record);
	const uint8_t *to = mp_skip(w->p, w->end);
	return to ? reject(w, to, s->why) : reject_rest(c, w, s->why);
}

static int msgpack_decode(struct codec *c, struct codec_window *w, uint8_t *out, size_t room,
                          size_t *len)
{
	struct msgpack_state *s = c->state;
	if (w->p == w->end)
		return CODEC_E_END;
	if (s->broken)
		return reject_rest(c, w, "behind bytes that are not msgpack");
	struct walk wk;
	wk.start = wk.p = w->p;
	wk.end = w->end;
	wk.max = c->max_record < UINT32_MAX ? c->max_record : UINT32_MAX;
	wk.keys = &s->keys;
	wk.unfit = NULL;
	wk.depth = 0;
	keys_begin(&s->keys);
	int r = walk(&wk);
	switch (r) {
	case WALK_OK:
		return take(w, &wk, out, room, len);
	case WALK_CUT:
		return w->last ? reject_rest(c, w, "ends in the middle of a value") : CODEC_E_MORE;
	case WALK_LARGE:
		return too_large(c, w);
	case WALK_BAD:
		return reject_rest(c, w, wk.why);
	default:
		return r;
	}
}

static int msgpack_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out)
{
	(void)c;
	return buf_add(out, rec, len);
}

static const uint8_t *msgpack_behind(struct codec *c, const struct codec_window *w)
{
	const uint8_t *p = w->p, *end = w->end;
	(void)c;
	return mp_skip(p, end);
}

const struct codec_ops codec_msgpack = {
        .name = "msgpack",
        .help = "msgpack maps, back to back",
        .state_size = sizeof(struct msgpack_state),
        .open = msgpack_open,
        .close = msgpack_close,
        .reset = msgpack_reset,
        .behind = msgpack_behind,
        .decode = msgpack_decode,
        .encode = msgpack_encode,
};
