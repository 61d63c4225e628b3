/*
 * A transformer's steps, run over one record after another.
 *
 * A record goes through the steps depth-first: transform() of step i, then i+1, ... until the last
 * one's result is emitted to the host. A step that makes several (explode) calls stage_emit, which
 * runs the rest of the chain for each. Stateful steps share one state (state.h) that commits with
 * the unit.
 */
#pragma once

#include "stages/stage.h"

struct state_env;

struct chain_step {
	const struct stage_ops *ops;
	const void *config;
};

struct chain {
	struct stage *steps; /* n of them */
	unsigned n;
	unsigned opened; /* so many of them; the next one has failed, or there is none */
	struct stage_host *host;
	struct state_env *env;  /* set by the owner before chain_open when a step is STAGE_STATEFUL,
	                           else NULL */
	_Atomic uint32_t *hand; /* set by the owner, may be NULL: where the index of the step at
	                           work is noted */
	struct origin origin;   /* of the input record in hand (ordinal unused) */
	uint32_t emitted; /* records emitted or rejected so far for the input record in hand */
	bool absorbed;    /* a record made of the one in hand went into a step's state */
};

/* What became of an input record: STAGE_OK (it left the chain, or others made of it did; see
 * chain->emitted), STAGE_E_FILTERED, STAGE_E_ABSORBED, STAGE_E_REJECT (*why, *step: static until
 * the next call), or -errno (*why, *step: the same, or NULL). */
struct chain_outcome {
	int answer;
	const char *why;
	const char *step;
};

/* @name: the transformer's; @worker, @workers, @max_record go to each step. 0 or -errno. */
int chain_init(struct chain *ch, const char *name, const struct chain_step *steps, unsigned n,
               struct stage_host *host, unsigned worker, unsigned workers, size_t max_record);
int chain_open(struct chain *ch);
void chain_deinit(struct chain *ch);

/* Sets the time steps see (CLOCK_REALTIME ns) and the chunk their origin names. Once a chunk. */
void chain_chunk(struct chain *ch, int64_t now, const uint8_t epoch[16], uint64_t chunk);

/* Runs record number @index of the chunk. The record is used up. */
struct chain_outcome chain_run(struct chain *ch, uint32_t index, struct record *r);

/* Runs tick of the steps whose deadline has passed / flush of all, first to last. STAGE_OK,
 * STAGE_E_AGAIN (commit, then call again), -errno. */
int chain_tick(struct chain *ch, int64_t monotonic_now);
int chain_flush(struct chain *ch);

/* The unit is about to be committed: steps put what they hold in memory into their state. 0 or
 * -errno. */
int chain_settle(struct chain *ch);

/* The earliest deadline of a step (CLOCK_MONOTONIC ns), 0: none. */
int64_t chain_deadline(const struct chain *ch);
