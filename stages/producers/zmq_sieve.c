/*
 * The host that counts; see zmq_sieve.h. It passes everything on unchanged, with the real host's
 * answers.
 */
#include "stages/producers/zmq_sieve.h"

#include <stdio.h>

static struct sieve *sieve_of(struct stage_host *h)
{
	return (struct sieve *)h;
}

static int sieve_reserve(struct stage_host *h, size_t need, uint8_t **p, size_t *room)
{
	struct sieve *s = sieve_of(h);
	return s->real->reserve(s->real, need, p, room);
}

static int sieve_made(struct stage_host *h, size_t len)
{
	struct sieve *s = sieve_of(h);
	return s->real->made(s->real, len);
}

static int sieve_emit(struct stage_host *h, unsigned output, const struct record *r)
{
	struct sieve *s = sieve_of(h);
	return s->real->emit(s->real, output, r);
}

static int sieve_reject(struct stage_host *h, const char *why, const void *input, size_t len,
                        const char *at)
{
	struct sieve *s = sieve_of(h);
	if (s->bad++ == 0)
		snprintf(s->why, sizeof(s->why), "%s", why);
	return s->real->reject(s->real, why, input, len, at);
}

static int sieve_position(struct stage_host *h, uint32_t off, const void *data, uint32_t len)
{
	struct sieve *s = sieve_of(h);
	return s->real->position(s->real, off, data, len);
}

static uint64_t sieve_stored(struct stage_host *h, bool delivered)
{
	struct sieve *s = sieve_of(h);
	return s->real->stored(s->real, delivered);
}

void sieve_init(struct sieve *s)
{
	*s = (struct sieve){.base = {.reserve = sieve_reserve,
	                             .made = sieve_made,
	                             .emit = sieve_emit,
	                             .reject = sieve_reject,
	                             .position = sieve_position,
	                             .stored = sieve_stored}};
}

void sieve_on(struct sieve *s, struct stage *st)
{
	s->real = st->host;
	s->bad = 0;
	s->why[0] = 0;
	st->host = &s->base;
}

void sieve_off(struct sieve *s, struct stage *st)
{
	st->host = s->real;
	s->real = NULL;
}

void sieve_found(struct sieve *s, uint32_t bad)
{
	s->bad = bad;
	if (bad)
		snprintf(s->why, sizeof(s->why), "its dead letters say why");
}
