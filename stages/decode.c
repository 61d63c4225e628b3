/*
 * The loop between a codec and a host: what every producer with a codec runs over a message or a
 * window of a file.
 *
 * The hard idea: records are decoded straight into the host's room, which may be the rest of a
 * chunk. The first try takes whatever room is left; only a record that does not fit asks for a
 * whole buffer, which ends the unit in hand. So most records cost one decode, and one in a chunk
 * costs two.
 *
 * Invariants
 *  - `made` is told a position only behind what was made or rejected before it;
 *  - the loop ends: each turn consumes input, or asks for the largest room once.
 */
#include "stages/stage.h"

enum {
	ROOM_MIN = 64, /* bytes: asking for less would mostly try in vain */
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

/* One call of the codec, with a second one in the largest room. CODEC_E_* or -errno; *@len: bytes.
 */
static int decode_one(const struct decode_run *d, size_t *len)
{
	struct stage *st = d->st;
	uint8_t *p;
	size_t room;
	int r = stage_reserve(st, ROOM_MIN, &p, &room);
	if (r < 0)
		return r;
	r = r > 0 ? CODEC_E_ROOM : st->codec->ops->decode(st->codec, d->w, p, room, len);
	if (r != CODEC_E_ROOM)
		return r;
	r = stage_reserve(st, st->max_record, &p, &room);
	if (r < 0)
		return r;
	return r > 0 ? CODEC_E_ROOM : st->codec->ops->decode(st->codec, d->w, p, room, len);
}

int stage_decode(struct stage *st, struct codec_window *w, const char *at,
                 int (*made)(struct stage *st, void *arg, size_t consumed), void *arg)
{
	struct decode_run d = {st, w, w->p, at, made, arg};
	for (;;) {
		size_t len = 0;
		int r = decode_one(&d, &len);
		if (r < 0)
			return r;
		switch (r) {
		case CODEC_E_OK:
			r = stage_made(st, len);
			if (r >= 0)
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
}
