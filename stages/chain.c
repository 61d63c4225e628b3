/*
 * A transformer's steps run as a chain. See chain.h.
 *
 * The hard idea: one loop, run(), carries a record from step `first` to the end. stage_emit() is
 * the same loop entered behind the emitting step, so that records made by a step and the record
 * that came in are treated alike, depth-first, without a queue. The depth of the C stack is the
 * number of steps.
 *
 * Invariants
 *  - chain->emitted counts what left for the host (records and dead letters) for the input in hand:
 * 0 means nothing came of it;
 *  - the record that came in is rejected by the host, which has its original bytes; a record that a
 * step made is rejected here, with its bytes as they were when the rejecting step saw them;
 *  - origin.ordinal of a step starts at 0 with every input record and counts what the step is
 * given, so a second attempt at the same record sees the same numbers.
 *
 * Limit: what a step emits from tick or flush has no input record; its origin carries the wall
 * clock in place of the chunk's number and UINT32_MAX as the record, so that it never equals that
 * of another run.
 */
#include "stages/chain.h"

#include "stages/state.h"
#include "ipc/clock.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

static char step_name[64];

static const char *name_step(const struct stage *st)
{
	snprintf(step_name, sizeof(step_name), "%s (step %u)", st->ops->name, st->index + 1);
	return step_name;
}

static void init_step(struct chain *ch, unsigned i, const struct chain_step *step,
                      const struct stage *common)
{
	struct stage *st = &ch->steps[i];
	*st = *common;
	st->ops = step->ops;
	st->config = step->config;
	st->chain = ch;
	st->index = i;
}

static void free_steps(struct chain *ch)
{
	for (unsigned i = 0; i < ch->n; i++)
		free(ch->steps[i].state);
	free(ch->steps);
	ch->steps = NULL;
	ch->n = 0;
}

int chain_init(struct chain *ch, const char *name, const struct chain_step *steps, unsigned n,
               struct stage_host *host, unsigned worker, unsigned workers, size_t max_record)
{
	const struct stage common = {
	        .name = name,
	        .host = host,
	        .worker = worker,
	        .workers = workers,
	        .max_record = max_record,
	};
	*ch = (struct chain){.host = host};
	ch->steps = calloc(n ? n : 1, sizeof(*ch->steps));
	if (!ch->steps)
		return -ENOMEM;
	for (ch->n = 0; ch->n < n; ch->n++) {
		assert(steps[ch->n].ops->kind == STAGE_STEP);
		init_step(ch, ch->n, &steps[ch->n], &common);
		size_t size = steps[ch->n].ops->state_size;
		ch->steps[ch->n].state = calloc(1, size ? size : 1);
		if (!ch->steps[ch->n].state) {
			free_steps(ch);
			return -ENOMEM;
		}
	}
	return 0;
}

int chain_open(struct chain *ch)
{
	for (unsigned i = 0; i < ch->n; i++) {
		struct stage *st = &ch->steps[i];
		int r = 0;
		if ((st->ops->flags & STAGE_STATEFUL) && !st->kv && ch->env)
			r = state_env_step(ch->env, i, st->ops->name, &st->kv);
		if (r == 0 && st->ops->open)
			r = st->ops->open(st);
		if (r != 0)
			return r;
		ch->opened = i + 1;
	}
	return 0;
}

void chain_deinit(struct chain *ch)
{
	for (unsigned i = 0; i < ch->n; i++)
		if (ch->steps[i].ops->close)
			ch->steps[i].ops->close(&ch->steps[i]);
	free_steps(ch);
}

static void set_origin(struct chain *ch, uint64_t chunk)
{
	ch->origin.chunk = chunk;
	for (unsigned i = 0; i < ch->n; i++)
		ch->steps[i].origin = ch->origin;
}

void chain_chunk(struct chain *ch, int64_t now, const uint8_t epoch[16], uint64_t chunk)
{
	memcpy(ch->origin.epoch, epoch, sizeof(ch->origin.epoch));
	set_origin(ch, chunk);
	for (unsigned i = 0; i < ch->n; i++) {
		ch->steps[i].now = now;
		ch->steps[i].why[0] = 0;
	}
}

/* The ordinal is counted up before a step is given a record, hence starts one below 0. */
static void begin_input(struct chain *ch, uint32_t record)
{
	ch->origin.record = record;
	ch->emitted = 0;
	ch->absorbed = false;
	for (unsigned i = 0; i < ch->n; i++) {
		ch->steps[i].origin.record = record;
		ch->steps[i].origin.ordinal = UINT32_MAX;
	}
}

static int say_too_large(struct stage *st, const struct record *r)
{
	return stage_say(st, STAGE_E_REJECT, "a record of %zu bytes is larger than a buffer",
	                 record_size(r));
}

static int emit_to_host(struct chain *ch, unsigned output, const struct record *r)
{
	int a = ch->host->emit(ch->host, output, r);
	if (a == 0)
		ch->emitted++;
	return a;
}

/* Runs @r from step @first on. *@at: the step that answered. */
static int run(struct chain *ch, unsigned first, struct record *r, struct stage **at)
{
	for (unsigned i = first; i < ch->n; i++) {
		struct stage *st = *at = &ch->steps[i];
		st->origin.ordinal++;
		if (ch->hand)
			atomic_store_explicit(ch->hand, i, memory_order_relaxed);
		int a = st->ops->transform(st, r);
		if (a != STAGE_OK)
			return a;
	}
	int a = emit_to_host(ch, 0, r);
	return a == STAGE_E_REJECT && *at ? say_too_large(*at, r) : a;
}

/* Field by field: an initializer clears the padding with stores that overlap the fields, and the
 * caller, which reads them at once, would wait until all stores before them have left the
 * processor. */
static struct chain_outcome outcome(int answer, const char *why, const char *step)
{
	struct chain_outcome o;
	o.answer = answer;
	o.why = why;
	o.step = step;
	return o;
}

struct chain_outcome chain_run(struct chain *ch, uint32_t index, struct record *r)
{
	struct stage *at = NULL;
	begin_input(ch, index);
	int a = run(ch, 0, r, &at);
	if (a == STAGE_OK || a == STAGE_E_FILTERED || a == STAGE_E_ABSORBED)
		return outcome(a, NULL, NULL);
	if (a < 0)
		return at && at->why[0] ? outcome(a, at->why, name_step(at))
		                        : outcome(a, NULL, NULL);
	if (a == STAGE_E_EMITTED) {
		if (ch->emitted > 0)
			return outcome(STAGE_OK, NULL, NULL);
		return outcome(ch->absorbed ? STAGE_E_ABSORBED : STAGE_E_FILTERED, NULL, NULL);
	}
	assert(a == STAGE_E_REJECT);
	if (!at)
		return outcome(a, "larger than a buffer", "");
	return outcome(a, at->why, name_step(at));
}

/* A record made by a step becomes a dead letter with its own bytes. */
static int reject_made(struct stage *at, const struct record *r)
{
	size_t size = record_size(r);
	_cleanup_free_ uint8_t *bytes = malloc(size ? size : 1);
	if (!bytes)
		return -ENOMEM;
	size_t len = record_write(r, bytes);
	if (at->chain)
		at->chain->emitted++;
	return stage_reject(at, at->why, bytes, len, name_step(at));
}

int stage_emit(struct stage *st, struct record *r)
{
	struct chain *ch = st->chain;
	struct stage *at = st;
	int a = ch ? run(ch, st->index + 1, r, &at) : st->host->emit(st->host, 0, r);
	if (a < 0)
		return a;
	if (a == STAGE_E_REJECT) {
		if (!ch)
			say_too_large(st, r);
		return reject_made(at, r);
	}
	if (ch && a == STAGE_E_ABSORBED)
		ch->absorbed = true;
	return 0;
}

int stage_emit_output(struct stage *st, unsigned output, struct record *r)
{
	int a = st->chain ? emit_to_host(st->chain, output, r)
	                  : st->host->emit(st->host, output, r);
	if (a == STAGE_E_REJECT) {
		say_too_large(st, r);
		return reject_made(st, r);
	}
	return a;
}

/* Timed work belongs to no input record. */
static void begin_timed(struct chain *ch)
{
	int64_t now = clock_realtime();
	set_origin(ch, (uint64_t)now);
	begin_input(ch, UINT32_MAX);
	for (unsigned i = 0; i < ch->n; i++)
		if (ch->steps[i].now < now)
			ch->steps[i].now = now;
}

int chain_tick(struct chain *ch, int64_t monotonic_now)
{
	uint64_t chunk = ch->origin.chunk;
	int answer = STAGE_OK;
	begin_timed(ch);
	for (unsigned i = 0; i < ch->n && answer == STAGE_OK; i++) {
		struct stage *st = &ch->steps[i];
		if (st->ops->tick && st->deadline && st->deadline <= monotonic_now)
			answer = st->ops->tick(st);
	}
	set_origin(ch, chunk);
	return answer;
}

int chain_flush(struct chain *ch)
{
	uint64_t chunk = ch->origin.chunk;
	int answer = STAGE_OK;
	begin_timed(ch);
	for (unsigned i = 0; i < ch->n && answer == STAGE_OK; i++) {
		struct stage *st = &ch->steps[i];
		if (st->ops->flush)
			answer = st->ops->flush(st);
	}
	set_origin(ch, chunk);
	return answer;
}

int chain_settle(struct chain *ch)
{
	int r = 0;
	for (unsigned i = 0; i < ch->n && r == 0; i++)
		if (ch->steps[i].ops->settle)
			r = ch->steps[i].ops->settle(&ch->steps[i]);
	return r;
}

int64_t chain_deadline(const struct chain *ch)
{
	int64_t first = 0;
	for (unsigned i = 0; i < ch->n; i++) {
		int64_t d = ch->steps[i].deadline;
		if (d && (!first || d < first))
			first = d;
	}
	return first;
}
