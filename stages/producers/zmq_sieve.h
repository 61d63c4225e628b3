/*
 * A host between stage_decode and the real one. It counts the dead letters of one message, and it
 * can swallow what comes through: so the records of a repeated message that are stored already are
 * counted by the very loop that counted them the first time, and vanish.
 */
#pragma once

#include "stages/stage.h"

enum {
	SIEVE_WHY_MAX = 80,
};

struct sieve {
	struct stage_host base; /* first: found from it */
	struct stage_host *real;
	uint8_t *scratch; /* where swallowed records are written */
	size_t room;
	bool swallow;
	uint32_t bad;            /* dead letters since sieve_on, swallowed ones too */
	char why[SIEVE_WHY_MAX]; /* the first one's reason */
};

/* @max_record: bytes of the largest record. 0 or -ENOMEM. */
int sieve_init(struct sieve *s, size_t max_record);
void sieve_deinit(struct sieve *s);

/* From here on @st's host is the sieve / the real one again. */
void sieve_on(struct sieve *s, struct stage *st);
void sieve_off(struct sieve *s, struct stage *st);
