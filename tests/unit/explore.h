/*
 * The world and the scheduler of the explorer (test_explore.c, which alone includes this): the
 * arena, the coroutines over it, what outlives their deaths, and one run with its deviations.
 *
 * The fault points of the code under test call the fault_hit() that is here.
 */
#pragma once

#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmocka.h>

#ifndef SLUICE_FAULTS
# define SLUICE_FAULTS
#endif
#include "ipc/fault.h"
#include "ipc/intent.h"

enum {
	WORKERS_MAX = 5,
	MASTER = WORKERS_MAX,
	COROUTINES = WORKERS_MAX + 1,
	STACK = 65536,
	RECORDS = 4, /* that the producer makes */
	PASSAGES_MAX = 4096,
	FILE_MAX = 64,
	KILL = 100, /* action: kill the running one */
};

struct role {
	char kind;      /* p, t, c (file), s (transaction); 0: none */
	uint64_t reads; /* edges */
	uint32_t writes[2];
	unsigned n_writes;
	unsigned per_commit; /* records a commit takes of its input; 0: all */
	unsigned per_chunk;  /* producer */
	bool odd_only;       /* t: filters the even ids */
	bool gives_back;     /* t: gives the first claim back once */
};

struct scenario {
	const char *name;
	struct role role[WORKERS_MAX];
	unsigned edges;
	uint32_t quota;
	unsigned copies; /* each record arrives so many times in all, once a consumer */
	bool ordered;
	uint32_t entries; /* of the arena; 0: 5 */
};

/* ---- the world of one run ---- */

struct coroutine {
	ucontext_t ctx;
	char *stack;
	bool alive, idle, ended;
};

static struct {
	const struct scenario *sc;
	struct arena arena;
	void *memory, *clean;
	size_t size;
	struct coroutine co[COROUTINES];
	ucontext_t main;
	unsigned running;
	/* the outside: one file or table a consumer, which outlives deaths */
	unsigned file[WORKERS_MAX][FILE_MAX], file_len[WORKERS_MAX];
	uint64_t db_number[WORKERS_MAX];
	bool dead[WORKERS_MAX]; /* killed, not repaired yet */
	bool gave_back[WORKERS_MAX];
	/* the schedule */
	struct {
		unsigned passage, action;
	} deviation[16];
	unsigned n_deviations, next_deviation, passage;
	unsigned options[PASSAGES_MAX]; /* bit a coroutine that could have run, at each passage */
	uint8_t runner[PASSAGES_MAX];
	bool exploring, stopped_short;
	unsigned long events,
	        events_at_net; /* things that happened; so many when everybody waited last */
	unsigned long runs, passages_total;
	char failure[256];
} x;

static void fail_run(const char *what)
{
	if (x.failure[0])
		return;
	int n = snprintf(x.failure, sizeof(x.failure), "%s: %s; deviations:", x.sc->name, what);
	for (unsigned i = 0; i < x.n_deviations && n < 200; i++)
		n += snprintf(x.failure + n, sizeof(x.failure) - (size_t)n, " %u:%u",
		              x.deviation[i].passage, x.deviation[i].action);
}

static void check_balance(void)
{
	uint64_t in = 0, out = 0, flight = 0;
	for (unsigned w = 0; w < WORKERS_MAX; w++) {
		struct arena_worker *s = arena_worker(&x.arena, w);
		if (atomic_load(&s->intent.state) == INTENT_COMMITTED)
			return;
		const uint64_t *b = s->committed.book;
		in += b[BOOK_received] + b[BOOK_made];
		out += b[BOOK_delivered] + b[BOOK_filtered];
	}
	for (uint32_t i = 0; i < x.arena.entries; i++) {
		struct word v = arena_word(&x.arena, i);
		if (v.state == WORD_QUEUED || v.state == WORD_CLAIMED)
			flight += x.arena.facts[i].records - x.arena.facts[i].reached_record;
		if ((v.state == WORD_FILLING || v.state == WORD_CLAIMED) && v.owner >= WORKERS_MAX)
			fail_run("an entry has an owner that is not there");
	}
	if (in != out + flight)
		fail_run("the books do not balance");
}

static unsigned runnable(void)
{
	unsigned set = 0;
	for (unsigned i = 0; i < COROUTINES; i++)
		if (x.co[i].alive && !x.co[i].ended && !x.co[i].idle)
			set |= 1u << i;
	return set;
}

static void switch_to_main(void)
{
	swapcontext(&x.co[x.running].ctx, &x.main);
}

/* The master alone, killed at its nth passage (test_retire). */
static struct {
	jmp_buf out;
	unsigned left; /* passages until then; 0: not killed */
} lone;

void fault_hit(enum fault_point at)
{
	(void)at;
	if (lone.left && --lone.left == 0)
		longjmp(lone.out, 1);
	if (!x.exploring)
		return;
	check_balance();
	unsigned p = x.passage++;
	if (p >= PASSAGES_MAX) {
		fail_run("a run without end");
		switch_to_main();
		return;
	}
	x.options[p] = runnable();
	x.runner[p] = (uint8_t)x.running;
	if (x.next_deviation < x.n_deviations && x.deviation[x.next_deviation].passage == p) {
		x.stopped_short = true; /* the main context carries the deviation out */
		switch_to_main();
	}
}

static void go_idle(void)
{
	x.co[x.running].idle = true;
	switch_to_main();
}

/* Something happened: whoever waited may look again. */
static void wake_all(void)
{
	x.events++;
	for (unsigned i = 0; i < COROUTINES; i++)
		x.co[i].idle = false;
}

/* What coroutine @i does, until it has ended. */
static void body(int i);

static void start(unsigned i)
{
	struct coroutine *c = &x.co[i];
	getcontext(&c->ctx);
	c->ctx.uc_stack.ss_sp = c->stack;
	c->ctx.uc_stack.ss_size = STACK;
	c->ctx.uc_link = NULL;
	makecontext(&c->ctx, (void (*)(void))(void *)body, 1, (int)i);
	c->alive = true;
	c->idle = c->ended = false;
}

/* ---- one run ---- */

static void reset(void)
{
	/* of a slot, what a run can change: everything before the patches, and the position's first
	 * bytes */
	size_t head = offsetof(struct arena_worker, intent) + offsetof(struct intent, patches);
	memcpy(x.memory, x.clean, offsetof(struct arena_header, edges));
	for (unsigned w = 0; w < WORKERS_MAX; w++) {
		size_t at = x.arena.h->workers_at + (size_t)w * x.arena.worker_stride;
		size_t committed = offsetof(struct arena_worker, reads);
		memcpy((char *)x.memory + at + committed, (char *)x.clean + at + committed,
		       offsetof(struct arena_worker, stats) - committed);
		size_t intent = offsetof(struct arena_worker, intent);
		memcpy((char *)x.memory + at + intent, (char *)x.clean + at + intent,
		       head - intent);
		memset(arena_worker(&x.arena, w)->position, 0, 8);
	}
	size_t ledger = x.arena.h->words_at;
	memcpy((char *)x.memory + ledger, (char *)x.clean + ledger, x.arena.h->buffers_at - ledger);
	memset(x.file, 0, sizeof(x.file));
	memset(x.file_len, 0, sizeof(x.file_len));
	memset(x.db_number, 0, sizeof(x.db_number));
	memset(x.dead, 0, sizeof(x.dead));
	memset(x.gave_back, 0, sizeof(x.gave_back));
	for (unsigned i = 0; i < COROUTINES; i++) {
		x.co[i].alive = false;
		if (i == MASTER || x.sc->role[i].kind)
			start(i);
	}
	x.passage = x.next_deviation = 0;
	x.events = 1;
	x.events_at_net = 0;
}

static void kill_running(void)
{
	if (x.running != MASTER)
		x.dead[x.running] = true;
	else
		start(MASTER); /* the next master begins from the shared memory alone */
	if (x.running != MASTER)
		x.co[x.running].alive = false;
	wake_all();
}

static bool all_ended(void)
{
	for (unsigned w = 0; w < WORKERS_MAX; w++)
		if (x.sc->role[w].kind && !(x.co[w].alive && x.co[w].ended))
			return false;
	return true;
}

static void run_once(void)
{
	reset();
	x.running = 0;
	x.exploring = true;
	while (!x.failure[0] && !all_ended()) {
		unsigned set = runnable();
		if (!set && x.events == x.events_at_net) {
			fail_run("everybody waits: deadlock");
			break;
		}
		if (!set) { /* the sleep's timeout: a doorbell that rang before its worker lay down
			       is lost */
			wake_all();
			x.events_at_net = x.events;
			continue;
		}
		while (!(set >> x.running & 1))
			x.running = (x.running + 1) % COROUTINES;
		x.stopped_short = false;
		swapcontext(&x.main, &x.co[x.running].ctx);
		if (!x.stopped_short)
			continue;
		unsigned action = x.deviation[x.next_deviation++].action;
		if (action == KILL)
			kill_running();
		else
			x.running = action;
	}
	x.exploring = false;
	x.runs++;
	x.passages_total += x.passage;
}

static void prepare(const struct scenario *sc)
{
	static char stacks[COROUTINES][STACK];
	struct arena_geometry g = {.entries = sc->entries ? sc->entries : 5,
	                           .workers = WORKERS_MAX,
	                           .buffer_size = 4096};
	x.sc = sc;
	x.size = arena_bytes(&g);
	x.memory = mmap(NULL, x.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	x.clean = malloc(x.size);
	assert_true(x.memory != MAP_FAILED && x.clean);
	assert_int_equal(arena_place(&x.arena, x.memory, x.size, &g), 0);
	for (uint32_t e = 0, got; e < sc->edges; e++) {
		char name[8] = {(char)('a' + e)};
		assert_int_equal(arena_edge_assign(&x.arena, name, "z", &got), 0);
		assert_int_equal(got, e);
		atomic_store(&x.arena.h->edges[e].quota, sc->quota);
	}
	memcpy(x.clean, x.memory, x.size);
	for (unsigned i = 0; i < COROUTINES; i++)
		x.co[i].stack = stacks[i];
}
