/*
 * How long to nap before looking for the next small chunk.
 *
 * Who waits for a chunk asks to be rung; a doorbell is five wake-ups of threads in two processes.
 * Where small chunks come at a steady pace it is cheaper to sleep until the next one is due: one
 * wake-up, and nobody has to ring. A napper that finds its chunk naps a little shorter next time;
 * one that comes too early naps on in short steps, and longer next time; so most naps end shortly
 * after a chunk came. After some steps in vain the pace was no pace: the next chunks are waited
 * for with doorbells again.
 *
 * Invariant: a nap is never longer than `most`, which is what the producers' linger allows, so a
 * chunk is at most that late at each stage. 0: there are no naps.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct nap {
	int64_t most;      /* ns: from one chunk to the next, in naps */
	int64_t length;    /* ns: of the first nap after a chunk */
	int64_t left;      /* ns: until a doorbell is asked for */
	unsigned doorbell; /* chunks still to be waited for with doorbells */
	bool napped;       /* the last wait was a nap, and ... */
	bool found;        /* ... a chunk was there */
	bool early;        /* the first nap for the chunk that is to come was too short */
};

/* For a stage behind producers whose shortest linger is @linger ns. */
void nap_init(struct nap *n, int64_t linger);
/* A chunk was taken; @small: far from full. */
void nap_chunk(struct nap *n, bool small);
/* How long to nap now, ns; 0: ask for a doorbell. */
int64_t nap_take(struct nap *n);
