/*
 * The loop between a codec and a host: what every producer with a codec runs over a message or a
 * window of a file.
 *
 * The hard idea: records are decoded straight into the host's room, which may be the rest of a
 * chunk. The first try takes whatever room is left; only a record that does not fit asks for a
 * whole buffer, which ends the unit in hand. So most records cost one decode, and one in a chunk
 * costs two.
 *
 * The other one: an input that kills its decoder must be found without paying for the search while
 * nothing is wrong. So a worker only says that it decodes (a plain store); one whose predecessor
 * died doing so says what, by a hash of the input's first bytes. The master counts deaths of the
 * same; one that was enough is set aside unread. A header is taken by itself, so that it is not
 * mistaken for the record behind it.
 *
 * Invariants
 *  - `made` is told a position only behind what was made or rejected before it;
 *  - the loop ends: each turn consumes input, or asks for the largest room once.
 */
#include "stages/stage.h"

#include <stdatomic.h>
#include <xxhash.h>

enum {
	ROOM_MIN = 64,  /* bytes: asking for less would mostly try in vain */
	IDENTITY = 256, /* bytes of input that tell one record from another */
};

struct decode_run {
	struct stage *st;
	struct codec_window *w;
	const uint8_t *start; /* of the window: offsets count from here */
	const char *at;
	int (*made)(struct stage *st, void *arg, size_t consumed);
	void *arg;
};

static int tell(const struct decode_run *d)
{
	return d->made ? d->made(d->st, d->arg, (size_t)(d->w->p - d->start)) : 0;
}

static int reject(const struct decode_run *d)
{
	char at[STAGE_WHY_MAX];
	const char *name = d->at ? d->at : "input";
	size_t off = (size_t)(d->w->bad - d->start);
	if (off)
		snprintf(at, sizeof(at), "%.200s, byte %zu", name, off);
	else
		snprintf(at, sizeof(at), "%s", name);
	int r = stage_reject(d->st, d->w->why ? d->w->why : "bad input", d->w->bad, d->w->bad_len,
	                     at);
	return r < 0 ? r : tell(d);
}

/* A codec that finds the largest room too small and does not reject by itself: the input up to the
 * next line is set aside. */
static int reject_too_large(const struct decode_run *d)
{
	struct codec_window *w = d->w;
	const uint8_t *nl = memchr(w->p, '\n', (size_t)(w->end - w->p));
	char why[64];
	snprintf(why, sizeof(why), "larger than a buffer (%zu bytes)", d->st->max_record);
	w->bad = w->p;
	w->bad_len = (size_t)((nl ? nl : w->end) - w->p);
	w->why = why;
	w->p = nl ? nl + 1 : w->end;
	int r = reject(d);
	w->why = NULL;
	return r;
}

/* ---- an input that kills who decodes it ---- */

/* Names what stands at w->p, whatever was in front of it and wherever windows end (but for the last
 * IDENTITY bytes of one). */
static uint64_t identity(const struct codec_window *w)
{
	size_t n = (size_t)(w->end - w->p);
	uint64_t h = XXH3_64bits(w->p, n < IDENTITY ? n : IDENTITY);
	return h > STAGE_HAND_SOME ? h : h + STAGE_HAND_SOME + 1;
}

static void take_in_hand(struct stage *st, uint64_t what)
{
	if (st->hand)
		atomic_store_explicit(st->hand, what, memory_order_relaxed);
}

/* What the codec takes in front of the first record. */
static int begin(const struct decode_run *d)
{
	struct stage *st = d->st;
	if (!st->codec->ops->begin)
		return CODEC_E_OK;
	take_in_hand(st, st->poison_count ? identity(d->w) : STAGE_HAND_SOME);
	int r = st->codec->ops->begin(st->codec, d->w);
	if (r >= 0)
		take_in_hand(st, STAGE_HAND_NONE);
	return r;
}

static int decode(const struct decode_run *d, uint8_t *p, size_t room, size_t *len)
{
	struct stage *st = d->st;
	take_in_hand(st, st->poison_count ? identity(d->w) : STAGE_HAND_SOME);
	int r = st->codec->ops->decode(st->codec, d->w, p, room, len);
	if (r >= 0) /* else it stays: whoever cannot go on with this input has died of it */
		take_in_hand(st, STAGE_HAND_NONE);
	return r;
}

static bool is_poison(const struct decode_run *d)
{
	const struct stage *st = d->st;
	return st->poison_count && st->poison_count >= st->max_attempts &&
	       identity(d->w) == st->poison_input;
}

/* Behind the input at w->p: the record where the codec can tell its end, else the line. Who looked
 * for that end may have died of it, too: then it is the line. NULL: not in this window. */
static const uint8_t *behind_poison(const struct decode_run *d)
{
	struct stage *st = d->st;
	const struct codec_window *w = d->w;
	const struct codec_ops *ops = st->codec->ops;
	if (ops->behind && st->poison_count <= st->max_attempts) {
		take_in_hand(st, identity(w));
		const uint8_t *p = ops->behind(st->codec, w);
		take_in_hand(st, STAGE_HAND_NONE);
		return p;
	}
	const uint8_t *nl = memchr(w->p, '\n', (size_t)(w->end - w->p));
	return nl ? nl + 1 : NULL;
}

/* Sets the input at w->p aside without looking into it. Positive: its end is not here yet. */
static int reject_poison(const struct decode_run *d)
{
	struct stage *st = d->st;
	struct codec_window *w = d->w;
	const uint8_t *behind = behind_poison(d);
	char why[STAGE_WHY_MAX];
	if (!behind && !w->last)
		return CODEC_E_MORE;
	snprintf(why, sizeof(why), "it killed the worker that decoded it %u times: %s",
	         st->poison_count,
	         st->poison_signal ? strsignal((int)st->poison_signal) : "no signal");
	w->bad = w->p;
	w->p = behind ? behind : w->end;
	w->bad_len = (size_t)(w->p - w->bad);
	w->bad_len -= st->codec->ops->text && w->bad_len && w->p[-1] == '\n';
	w->why = why;
	if (st->codec->ops->lost)
		st->codec->ops->lost(st->codec);
	st->poison_in_hand = true;
	int r = reject(d);
	st->poison_in_hand = false;
	w->why = NULL;
	return r;
}

/* A header or a record, which gets a second try in the largest room. CODEC_E_* or -errno; *@len:
 * bytes of the record, 0: it was a header. */
static int decode_one(const struct decode_run *d, size_t *len)
{
	struct stage *st = d->st;
	uint8_t *p;
	size_t room;
	const uint8_t *from = d->w->p;
	/* before the codec looks at anything: it commits what must be done with, should this one
	 * kill */
	int r = stage_reserve(st, ROOM_MIN, &p, &room);
	if (r < 0)
		return r;
	int b = begin(d);
	if (b != CODEC_E_OK || d->w->p != from)
		return b;
	r = r > 0 ? CODEC_E_ROOM : decode(d, p, room, len);
	if (r != CODEC_E_ROOM)
		return r;
	r = stage_reserve(st, st->max_record, &p, &room);
	if (r < 0)
		return r;
	return r > 0 ? CODEC_E_ROOM : decode(d, p, room, len);
}

int stage_decode(struct stage *st, struct codec_window *w, const char *at,
                 int (*made)(struct stage *st, void *arg, size_t consumed), void *arg)
{
	struct decode_run d = {st, w, w->p, at, made, arg};
	/* nothing to read is no reason to ask for room, which may end a unit */
	while (w->p < w->end) {
		size_t len = 0;
		if (is_poison(&d)) {
			int p = reject_poison(&d);
			if (p != 0)
				return p < 0 ? p : 0;
			continue;
		}
		int r = decode_one(&d, &len);
		if (r < 0)
			return r;
		switch (r) {
		case CODEC_E_OK:
			r = len ? stage_made(st, len) : 0;
			if (r >= 0 && len)
				r = tell(&d);
			break;
		case CODEC_E_REJECT:
			r = reject(&d);
			break;
		case CODEC_E_ROOM:
			r = reject_too_large(&d);
			break;
		default:
			return 0;
		}
		if (r < 0)
			return r;
	}
	return 0;
}
