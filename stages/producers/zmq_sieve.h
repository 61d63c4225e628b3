/*
 * A host between stage_decode and the real one. It counts the dead letters of one message, and
 * keeps the first one's reason.
 */
#pragma once

#include "stages/stage.h"

enum {
	SIEVE_WHY_MAX = 80,
};

struct sieve {
	struct stage_host base; /* first: found from it */
	struct stage_host *real;
	uint32_t bad;            /* dead letters since sieve_on */
	char why[SIEVE_WHY_MAX]; /* the first one's reason */
};

void sieve_init(struct sieve *s);

/* From here on @st's host is the sieve / the real one again. */
void sieve_on(struct sieve *s, struct stage *st);
void sieve_off(struct sieve *s, struct stage *st);
/* Dead letters that a former process made of this message. */
void sieve_found(struct sieve *s, uint32_t bad);
