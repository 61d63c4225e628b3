/*
 * How a unit of work becomes true: the commit protocol.
 *
 * A worker gathers inputs (CLAIMED by it), outputs (FILLING by it), new absolute figures and
 * position patches in its intent. intent_commit() makes it true by ONE store, OPEN -> COMMITTED;
 * everything after it (publish outputs, free inputs, copy values, clear) is only carried out, and
 * can be carried out again by whoever repairs the worker: each step looks whether the entry is
 * still the worker's own, and values are absolute.
 *
 * A stage with a transaction of its own has its commit point there: intent_prepare(), commit of the
 * transaction (which holds the commit's number), intent_settle(true). A crash between leaves
 * PREPARED; the worker's successor asks the stage and settles.
 *
 * Repair may only run when the worker's process is gone (reaped, or the lock of the daemon proves
 * it).
 */
#pragma once

#include "ipc/arena.h"

/* Starts the next intent: empty, figures and flags as committed. Owner only. */
struct intent *intent_begin(struct arena *a, uint32_t w);

/* Notes an input and what becomes of it. Returns false when the intent is full. */
bool intent_input(struct intent *in, struct arena_handle h, enum intent_action action,
                  uint32_t reached_record, uint32_t reached_byte, uint32_t reached_emitted);
bool intent_output(struct intent *in, struct arena_handle h);
/* Bytes [off, off+len) of the position become @data. False: no room for the patch. */
bool intent_patch(struct intent *in, uint32_t off, const void *data, uint32_t len);

void intent_commit(struct arena *a, uint32_t w);
void intent_prepare(struct arena *a, uint32_t w);
/* How a PREPARED intent ended. Undoing gives back all entries of @w. */
void intent_settle(struct arena *a, uint32_t w, bool committed);

/* How a worker ended, for the count of attempts. */
struct intent_death {
	bool counts; /* a crash or stall of its own making */
	uint32_t signal;
	uint32_t max_attempts; /* on a chunk, before its record is set aside */
};

enum intent_repair {
	INTENT_REPAIRED,
	INTENT_UNSETTLED, /* PREPARED: its successor has to settle it */
};

/* Brings all that worker @w left behind into order. Repeatable. */
enum intent_repair intent_repair(struct arena *a, uint32_t w, const struct intent_death *death);

/* True when @w owns nothing and its intent is OPEN. */
bool intent_clean(const struct arena *a, uint32_t w);

/* The sum of all commit numbers; *@still becomes false when one is being carried out. Equal sums
 * around a look mean that the ledger held still. */
uint64_t intent_commits(const struct arena *a, bool *still);
