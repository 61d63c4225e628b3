/*
 * Frames of the acknowledged protocol, read and checked. A message is a row of a table: its first
 * word, how many frames it has and what each of the others is. Everything comes from outside: what
 * does not fit a row is refused with a reason and nothing of it is used.
 */
#include "stages/zmqproto.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum place {
	PLACE_NONE,
	PLACE_VERSION,
	PLACE_SEQUENCE, /* from 1 */
	PLACE_LAST,     /* a sequence, or 0 for none yet */
	PLACE_COUNT,
	PLACE_TEXT,
};

struct shape {
	const char *word;
	enum zmqproto_kind kind;
	unsigned n; /* frames */
	enum place place[ZMQPROTO_FRAMES_MAX];
	const char *wrong; /* said when the number of frames differs */
};

static const struct shape requests[] = {
        {"SEND",
         ZMQPROTO_SEND,
         3,
         {PLACE_NONE, PLACE_SEQUENCE, PLACE_TEXT},
         "SEND has 3 frames: SEND, sequence, payload"},
        {"HELLO",
         ZMQPROTO_HELLO,
         3,
         {PLACE_NONE, PLACE_VERSION, PLACE_SEQUENCE},
         "HELLO has 3 frames: HELLO, 1, next sequence"},
};

static const struct shape answers[] = {
        {"ACK", ZMQPROTO_ACK, 2, {PLACE_NONE, PLACE_SEQUENCE}, "ACK has 2 frames: ACK, sequence"},
        {"READY",
         ZMQPROTO_READY,
         4,
         {PLACE_NONE, PLACE_VERSION, PLACE_LAST, PLACE_COUNT},
         "READY has 4 frames: READY, 1, last sequence, window"},
        {"NAK",
         ZMQPROTO_NAK,
         4,
         {PLACE_NONE, PLACE_SEQUENCE, PLACE_COUNT, PLACE_TEXT},
         "NAK has 4 frames: NAK, sequence, count, reason"},
        {"ERROR", ZMQPROTO_ERROR, 2, {PLACE_NONE, PLACE_TEXT}, "ERROR has 2 frames: ERROR, reason"},
};

static bool number(const struct zmqproto_frame *f, uint64_t *out)
{
	const uint8_t *p = f->p;
	uint64_t v = 0;
	if (f->len == 0 || f->len >= ZMQPROTO_NUMBER_MAX)
		return false;
	for (size_t i = 0; i < f->len; i++) {
		unsigned digit = (unsigned)p[i] - '0';
		if (digit > 9 || __builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, digit, &v))
			return false;
	}
	*out = v;
	return true;
}

static const char *fill(const struct zmqproto_frame *f, enum place place, struct zmqproto *out)
{
	switch (place) {
	case PLACE_NONE:
		return NULL;
	case PLACE_VERSION:
		return f->len == 1 && *(const char *)f->p == '1' ? NULL
		                                                 : "the protocol's version is 1";
	case PLACE_SEQUENCE:
		return number(f, &out->sequence) && out->sequence
		               ? NULL
		               : "a sequence is a decimal number from 1";
	case PLACE_LAST:
		return number(f, &out->sequence) ? NULL : "a sequence is a decimal number";
	case PLACE_COUNT:
		return number(f, &out->count) ? NULL : "a count is a decimal number";
	case PLACE_TEXT:
		out->text = *f;
		return NULL;
	}
	return "bad frame";
}

static int parse(const struct shape *shapes, size_t n_shapes, const struct zmqproto_frame *f,
                 size_t n, struct zmqproto *out, const char **why)
{
	*why = "the first frame is no word of the protocol";
	for (size_t s = 0; n && s < n_shapes; s++) {
		const struct shape *sh = &shapes[s];
		size_t len = strlen(sh->word);
		if (f[0].len != len || memcmp(f[0].p, sh->word, len) != 0)
			continue;
		*why = sh->wrong;
		if (n != sh->n)
			return ZMQPROTO_E_BAD;
		*out = (struct zmqproto){.kind = sh->kind};
		for (size_t i = 1; i < n; i++) {
			*why = fill(&f[i], sh->place[i], out);
			if (*why)
				return ZMQPROTO_E_BAD;
		}
		return ZMQPROTO_E_OK;
	}
	return ZMQPROTO_E_BAD;
}

int zmqproto_request(const struct zmqproto_frame *f, size_t n, struct zmqproto *out,
                     const char **why)
{
	return parse(requests, sizeof(requests) / sizeof(*requests), f, n, out, why);
}

int zmqproto_answer(const struct zmqproto_frame *f, size_t n, struct zmqproto *out,
                    const char **why)
{
	return parse(answers, sizeof(answers) / sizeof(*answers), f, n, out, why);
}

struct zmqproto_frame zmqproto_number(char *text, uint64_t number)
{
	int n = snprintf(text, ZMQPROTO_NUMBER_MAX, "%" PRIu64, number);
	return (struct zmqproto_frame){text, (size_t)n};
}

struct zmqproto_frame zmqproto_word(const char *word)
{
	return (struct zmqproto_frame){word, strlen(word)};
}
