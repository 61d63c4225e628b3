/*
 * How far `sluicectl send` is: a bar on a terminal, a plain line now and then elsewhere, both on
 * stderr.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct send_progress {
	bool quiet;
	bool terminal;
	bool drawn;       /* the bar is on the screen */
	uint64_t total;   /* bytes of the input, 0: not known */
	uint64_t records; /* counted up by the owner: what was handed over, or acknowledged */
	uint64_t messages;
	uint64_t bytes;
	int64_t started, shown; /* ms */
};

/* @total: bytes of the input, 0: not known. @now: CLOCK_MONOTONIC in ms, here and below. */
void send_progress_start(struct send_progress *p, bool quiet, uint64_t total, int64_t now);

/* Shows how it stands, when it is time to. */
void send_progress_show(struct send_progress *p, int64_t now);

/* Takes the bar off the screen, so that a line can be written. */
void send_progress_clear(struct send_progress *p);

/* "12.3 MiB", into one of a few static buffers. */
const char *send_progress_size(double bytes);
