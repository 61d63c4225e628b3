/*
 * The JSON documents that the control socket answers with.
 *
 * The hard idea is trust: all figures come from shared memory that any worker can write, so what is
 * read here is a copy, range-checked and bounded before it is used or printed. The master answers
 * with what it finds; it never asserts on it, and never waits for it.
 *
 * report_status.c  status: states, reasons, what blocks
 * report_edges.c   its edges
 * report_stats.c   stats: figures, rates, latency
 * report_books.c   audit
 * report_procs.c   workers
 * report_graph.c   graph
 *
 * Fields that programs may rely on are named in the manual; more may stand beside them.
 */
#pragma once

#include "daemon/json_out.h"
#include "daemon/master.h"

void report_status(const struct master *m, struct json *j);
/* @samples: with the last five minutes, second by second. */
void report_stats(const struct master *m, bool samples, struct json *j);
void report_workers(const struct master *m, struct json *j);
/* False: the books never held still long enough to be read, nothing was written. */
bool report_audit(const struct master *m, struct json *j);
void report_graph(const struct config *cfg, struct json *j);

/* ---- shared by report_*.c ---- */

/* What a worker is doing, in words. */
enum report_state {
	REPORT_RUNNING,
	REPORT_BLOCKED,
	REPORT_UNREACHABLE,
	REPORT_STARTING,
	REPORT_IDLE,
	REPORT_PAUSED,
	REPORT_WAITING, /* it died; to be started again */
	REPORT_ENDED,
	REPORT_STOPPED,
	REPORT_STATES
};
const char *report_state_name(enum report_state s);
enum report_state report_worker_state(const struct master *m, uint32_t slot);
/* Whether slot @slot is a worker of config stage @stage; whether it only was one, before the stage
 * got fewer. */
bool report_is_worker(const struct master *m, uint32_t slot, unsigned stage);
bool report_is_past(const struct master *m, uint32_t slot);
const char *report_kind(enum stage_kind kind);

/* What a look over the ledger finds of an edge. */
struct report_edge {
	uint32_t charged; /* chunks: being filled, queued, being worked on */
	uint32_t queued;
	uint64_t records; /* in what is queued */
	int64_t oldest; /* CLOCK_MONOTONIC ns when the oldest queued chunk was put there; 0: none */
};
/* One pass over the ledger. @out: ARENA_EDGES_MAX, by the arena's edge number. */
void report_edges_look(const struct arena *a, struct report_edge *out);
/* The arena's number of config edge @edge, or ARENA_NO_EDGE. */
uint32_t report_edge_number(const struct master *m, unsigned edge);

/* The other way round; UINT32_MAX: no edge has it. */
unsigned report_edge_of_number(const struct master *m, uint32_t number);
/* The list "edges". */
void report_edges(const struct master *m, int64_t now, struct json *j);

/* Seconds since the monotonic time @ns; 0 for times in the future, and for none. */
double report_since(int64_t now, int64_t ns);
