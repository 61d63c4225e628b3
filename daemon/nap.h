/*
 * How long to nap before looking for the next small chunks.
 *
 * Who waits for a chunk asks to be rung; a doorbell is five wake-ups of threads in two processes.
 * Where small chunks come at a steady pace it is cheaper to look at the clock.
 *
 * The hard idea is the beat, which all processes of a pipeline know without talking: multiples of
 * two of its lingers on the monotonic clock. A producer whose input trickles seals its chunk on the
 * beat; its readers look shortly after it, those further down a little later. So a chunk made in
 * one wake-up is there when the next stage wakes up, and a record is at the end of the pipeline at
 * most two lingers and a step for each stage after it came. A producer whose clients wait for their
 * records to be stored seals twice as often, and its readers take two chunks at once.
 *
 * Whoever slept while an edge became full held somebody up: then chunks come too fast for naps, for
 * a long while. Who finds less than the last time looks again after a step, some times: somebody
 * before it may have been late, and what comes now would wait for the next look. Who has found
 * nothing then asks to be rung, the longer the less steady the pace has been. A pipeline whose
 * linger is longer than LINGER_MAX has no naps worth having; one with less than two steps, or 0,
 * must not be late.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct nap {
	int64_t period;    /* ns from one look to the next; 0: there are no naps */
	int64_t phase;     /* ns behind a multiple of it */
	bool small;        /* the last chunk was far from full */
	bool napping;      /* the last wait was a nap */
	unsigned taken;    /* chunks since the last long nap ... */
	unsigned usual;    /* ... and since the one before it until then */
	unsigned tries;    /* short naps since then */
	unsigned doorbell; /* chunks still to be waited for with doorbells, ... */
	unsigned patience; /* ... and how many, when a nap is in vain next */
};

/* The next multiple of @period ns behind @now, CLOCK_MONOTONIC ns. */
static inline int64_t nap_beat(int64_t now, int64_t period)
{
	return (now / period + 1) * period;
}

/* For a stage @depth stages behind the producers, whose shortest linger is @linger ns. */
void nap_init(struct nap *n, int64_t linger, unsigned depth);
/* A chunk was taken; @small: far from full. */
void nap_chunk(struct nap *n, bool small);
/* After a nap: an edge that is read was full. */
void nap_full(struct nap *n);
/* How long to nap from @now (CLOCK_MONOTONIC) on, ns; 0: ask for a doorbell. */
int64_t nap_take(struct nap *n, int64_t now);
