/*
 * The model check: the real arena and intent code, under every interleaving and every death.
 *
 * Workers, and the master that repairs, are coroutines over one small arena. Each fault point in
 * the code is a place where the explorer may let another one go on, or kill the one that runs: it
 * is never resumed, the master repairs it (and may be killed doing so, at each of its own steps,
 * and begin again), and a successor takes its place. A run is named by its deviations from "go on":
 * {passage, action}; runs are enumerated depth-first with at most PREEMPTIONS switches and KILLS
 * deaths (context bounding: Musuvathi and Qadeer, PLDI 2007), each from a fresh arena.
 *
 * Checked at every passage of every run: the books balance unless an intent is COMMITTED; no entry
 * is owned by a slot that is not there. At the end of every run: each record arrived exactly once,
 * in order where one worker feeds one reader, all entries are FREE, all intents OPEN. No run may
 * come to a stop.
 *
 * EXPLORE_PREEMPTIONS and EXPLORE_KILLS in the environment widen the search (`make torture`).
 */
#include "tests/unit/explore.h"

static const struct scenario scenarios[] = {
        {"line",
         {{'p', 0, {0}, 1, 0, 1, false, false},
          {'t', 1, {1}, 1, 0, 0, false, false},
          {'c', 2, {0}, 0, 0, 0, false, false}},
         2,
         2,
         1,
         true,
         0},
        {"quota of one",
         {{'p', 0, {0}, 1, 0, 1, false, false},
          {'t', 1, {1}, 1, 0, 0, false, false},
          {'c', 2, {0}, 0, 0, 0, false, false}},
         2,
         1,
         1,
         true,
         0},
        {"two workers",
         {{'p', 0, {0}, 1, 0, 1, false, false},
          {'t', 1, {1}, 1, 0, 0, false, false},
          {'t', 1, {1}, 1, 0, 0, false, true},
          {'c', 2, {0}, 0, 0, 0, false, false}},
         2,
         2,
         1,
         false,
         0},
        {"only the reserve",
         {{'p', 0, {0}, 1, 0, 1, false, false},
          {'t', 1, {1}, 1, 0, 0, false, false},
          {'t', 1, {1}, 1, 0, 0, false, false},
          {'c', 2, {0}, 0, 0, 0, false, false}},
         2,
         9,
         1,
         false,
         2},
        {"transaction",
         {{'p', 0, {0}, 1, 0, 2, false, false}, {'s', 1, {0}, 0, 0, 0, false, false}},
         1,
         2,
         1,
         true,
         0},
        {"fan-out, in parts",
         {{'p', 0, {0}, 1, 0, 2, false, false},
          {'t', 1, {1, 2}, 2, 1, 0, false, false},
          {'c', 2, {0}, 0, 0, 0, false, false},
          {'s', 4, {0}, 0, 1, 0, false, false}},
         3,
         1,
         2,
         true,
         0},
        {"filter to nothing",
         {{'p', 0, {0}, 1, 0, 1, false, false},
          {'t', 1, {1}, 1, 0, 0, true, false},
          {'c', 2, {0}, 0, 0, 0, false, false}},
         2,
         2,
         1,
         true,
         0},
};

/* ---- the workers ---- */

static unsigned *ids(uint32_t entry)
{
	return (unsigned *)(void *)arena_buffer(&x.arena, entry);
}

/* Room on all @role's edges, or none held: waiting with a FILLING entry would be a deadlock. */
static bool acquire_all(unsigned w, const struct role *role, struct arena_handle *out)
{
	for (unsigned i = 0; i < role->n_writes; i++)
		if (arena_acquire(&x.arena, w, role->writes[i], &out[i]) != 0) {
			while (i-- > 0)
				arena_drop(&x.arena, w, out[i]);
			return false;
		}
	return true;
}

static void seal(struct arena_handle h, unsigned records)
{
	struct arena_facts f = {.records = records, .bytes = records * 4, .born = 1};
	arena_seal(&x.arena, h, &f);
}

static void produce(unsigned w, const struct role *role)
{
	struct arena_worker *me = arena_worker(&x.arena, w);
	while (me->committed.book[BOOK_received] < RECORDS) {
		struct arena_handle h;
		if (!acquire_all(w, role, &h)) {
			go_idle();
			continue;
		}
		struct intent *in = intent_begin(&x.arena, w);
		for (unsigned i = 0; i < role->per_chunk; i++)
			ids(h.entry)[i] = (unsigned)in->book[BOOK_received] + i;
		seal(h, role->per_chunk);
		in->book[BOOK_received] += role->per_chunk;
		if (in->book[BOOK_received] == RECORDS)
			in->flags |= COMMITTED_ENDED;
		intent_output(in, h);
		intent_commit(&x.arena, w);
		wake_all();
	}
}

static bool feeders_ended(const struct role *role)
{
	for (uint32_t i = 0; i < x.arena.entries; i++) {
		struct word v = arena_word(&x.arena, i);
		if (v.state != WORD_FREE && (role->reads >> v.edge & 1))
			return false;
	}
	for (unsigned w = 0; w < WORKERS_MAX; w++) {
		const struct role *r = &x.sc->role[w];
		for (unsigned i = 0; i < r->n_writes; i++)
			if ((role->reads >> r->writes[i] & 1) && r->kind &&
			    !(arena_worker(&x.arena, w)->committed.flags & COMMITTED_ENDED))
				return false;
	}
	return true;
}

/* The end of the stage, committed like everything else. */
static void end(unsigned w)
{
	struct intent *in = intent_begin(&x.arena, w);
	in->flags |= COMMITTED_ENDED;
	intent_commit(&x.arena, w);
	wake_all();
}

/* Claims, or waits, or returns false at the end. */
static bool next_input(unsigned w, const struct role *role, struct arena_handle *in)
{
	while (arena_claim(&x.arena, w, role->reads, in) != 0) {
		if (feeders_ended(role))
			return false;
		go_idle();
	}
	struct arena_worker *me = arena_worker(&x.arena, w);
	atomic_store(&me->hand_entry, in->entry);
	atomic_store(&me->hand_record, 0);
	return true;
}

static unsigned transform_part(unsigned w, const struct role *role, struct arena_handle input,
                               const struct arena_handle *out, unsigned from, unsigned n)
{
	unsigned kept = 0;
	for (unsigned i = from; i < from + n; i++) {
		unsigned id = ids(input.entry)[i];
		if (role->odd_only && id % 2 == 0)
			continue;
		for (unsigned k = 0; k < role->n_writes; k++)
			ids(out[k].entry)[kept] = id;
		kept++;
	}
	struct intent *in = intent_begin(&x.arena, w);
	bool whole = from + n == x.arena.facts[input.entry].records;
	intent_input(in, input, whole ? INTENT_FREE : INTENT_ADVANCE, from + n, (from + n) * 4, 0);
	for (unsigned k = 0; k < role->n_writes; k++) {
		if (!kept) {
			arena_drop(&x.arena, w, out[k]);
			continue;
		}
		seal(out[k], kept);
		intent_output(in, out[k]);
	}
	in->book[BOOK_filtered] += n - kept;
	in->book[BOOK_made] += (uint64_t)kept * (role->n_writes - 1);
	intent_commit(&x.arena, w);
	wake_all();
	return n;
}

static void transform(unsigned w, const struct role *role)
{
	struct arena_handle input, out[2];
	while (next_input(w, role, &input)) {
		if (role->gives_back && !x.gave_back[w]) {
			x.gave_back[w] = true;
			arena_unclaim(&x.arena, w, input);
			wake_all();
			continue;
		}
		unsigned total = x.arena.facts[input.entry].records;
		for (unsigned at = x.arena.facts[input.entry].reached_record; at < total;) {
			while (!acquire_all(w, role, out))
				go_idle();
			unsigned n = role->per_commit ? role->per_commit : total - at;
			at += transform_part(w, role, input, out, at, n);
		}
	}
	end(w);
}

/* The committed length of the consumer's file. */
static uint32_t file_offset(unsigned w)
{
	uint32_t n;
	memcpy(&n, arena_worker(&x.arena, w)->position, 4);
	return n;
}

static void consume_into_file(unsigned w, struct arena_handle input, unsigned from, unsigned n,
                              bool whole)
{
	uint32_t at = file_offset(w);
	FAULT(deliver);
	for (unsigned i = 0; i < n; i++) {
		x.file[w][at + i] = ids(input.entry)[from + i];
		x.file_len[w] = at + i + 1;
		FAULT(delivered);
	}
	at += n;
	struct intent *in = intent_begin(&x.arena, w);
	intent_input(in, input, whole ? INTENT_FREE : INTENT_ADVANCE, from + n, 0, 0);
	intent_patch(in, 0, &at, 4);
	in->book[BOOK_delivered] += n;
	intent_commit(&x.arena, w);
	wake_all();
}

static void consume_into_table(unsigned w, struct arena_handle input, unsigned from, unsigned n,
                               bool whole)
{
	struct intent *in = intent_begin(&x.arena, w);
	intent_input(in, input, whole ? INTENT_FREE : INTENT_ADVANCE, from + n, 0, 0);
	in->book[BOOK_delivered] += n;
	intent_prepare(&x.arena, w);
	for (unsigned i = 0; i < n; i++) /* one transaction: nobody can die inside it */
		x.file[w][x.file_len[w]++] = ids(input.entry)[from + i];
	x.db_number[w] = in->number;
	FAULT(commit_transaction);
	intent_settle(&x.arena, w, true);
	wake_all();
}

static void consume(unsigned w, const struct role *role)
{
	struct arena_worker *me = arena_worker(&x.arena, w);
	struct arena_handle input;
	if (role->kind == 'c')
		x.file_len[w] = file_offset(w); /* cut back to what is committed */
	if (atomic_load(&me->intent.state) == INTENT_PREPARED) {
		intent_settle(&x.arena, w, x.db_number[w] == me->intent.number);
		intent_repair(&x.arena, w, NULL);
		wake_all();
	}
	while (next_input(w, role, &input)) {
		unsigned total = x.arena.facts[input.entry].records;
		unsigned at = x.arena.facts[input.entry].reached_record;
		while (at < total) {
			unsigned n = role->per_commit ? role->per_commit : total - at;
			(role->kind == 'c' ? consume_into_file
			                   : consume_into_table)(w, input, at, n, at + n == total);
			at += n;
		}
	}
	end(w);
}

static void master(void)
{
	for (;;) {
		bool any = false;
		for (unsigned w = 0; w < WORKERS_MAX; w++) {
			if (!x.dead[w])
				continue;
			any = true;
			struct intent_death d = {true, 11, 200};
			FAULT(reap);
			intent_repair(&x.arena, w, &d);
			x.dead[w] = false;
			start(w);
			wake_all();
		}
		if (!any)
			go_idle();
	}
}

static void body(int i)
{
	const struct role *r = &x.sc->role[i < WORKERS_MAX ? i : 0];
	if (i == MASTER)
		master();
	else if (arena_worker(&x.arena, (unsigned)i)->committed.flags & COMMITTED_ENDED)
		; /* it had ended already */
	else if (r->kind == 'p')
		produce((unsigned)i, r);
	else if (r->kind == 't')
		transform((unsigned)i, r);
	else
		consume((unsigned)i, r);
	x.co[i].ended = true;
	wake_all();
	switch_to_main();
}

/* ---- all runs ---- */

static void check_file(unsigned w)
{
	unsigned seen[RECORDS] = {0};
	unsigned len = x.sc->role[w].kind == 'c' ? file_offset(w) : x.file_len[w];
	for (unsigned i = 0; i < len; i++) {
		unsigned id = x.file[w][i];
		if (id >= RECORDS || seen[id]++)
			fail_run("a record arrived twice, or was never made");
		if (x.sc->ordered && i && id < x.file[w][i - 1])
			fail_run("order was not kept");
	}
	bool odd_only = false;
	for (unsigned i = 0; i < WORKERS_MAX; i++)
		odd_only |= x.sc->role[i].odd_only;
	if (len != (odd_only ? RECORDS / 2 : RECORDS))
		fail_run("a record was lost");
}

static void check_end(void)
{
	check_balance();
	for (uint32_t i = 0; i < x.arena.entries; i++)
		if (arena_word(&x.arena, i).state != WORD_FREE)
			fail_run("an entry leaked");
	for (unsigned w = 0; w < WORKERS_MAX; w++) {
		if (!intent_clean(&x.arena, w))
			fail_run("an intent was left");
		if (x.sc->role[w].kind == 'c' || x.sc->role[w].kind == 's')
			check_file(w);
	}
}

/* Runs with the deviations so far, then with each one more behind the last. */
static void explore(unsigned preemptions, unsigned kills)
{
	run_once();
	if (!x.failure[0])
		check_end();
	if (x.failure[0] || (!preemptions && !kills) || x.n_deviations == 16)
		return;
	unsigned from = x.n_deviations ? x.deviation[x.n_deviations - 1].passage + 1 : 0;
	unsigned n = x.passage;
	unsigned *options = malloc(n * sizeof(*options) + 1);
	uint8_t *runner = malloc(n + 1);
	assert_non_null(options);
	assert_non_null(runner);
	memcpy(options, x.options, n * sizeof(*options));
	memcpy(runner, x.runner, n);
	for (unsigned p = from; p < n && !x.failure[0]; p++)
		for (unsigned act = 0; act <= COROUTINES && !x.failure[0]; act++) {
			bool kill = act == COROUTINES;
			if (kill ? !kills
			         : !preemptions || act == runner[p] || !(options[p] >> act & 1))
				continue;
			x.deviation[x.n_deviations].passage = p;
			x.deviation[x.n_deviations++].action = kill ? KILL : act;
			explore(preemptions - !kill, kills - kill);
			x.n_deviations--;
		}
	free(runner);
	free(options);
}

static unsigned bound(const char *name, unsigned def)
{
	const char *v = getenv(name);
	return v ? (unsigned)atoi(v) : def;
}

static void explore_scenario(const struct scenario *sc, unsigned preemptions, unsigned kills)
{
	prepare(sc);
	x.runs = x.passages_total = 0;
	x.n_deviations = 0;
	explore(preemptions, kills);
	printf("%-20s %u switches, %u deaths: %lu runs, %lu passages\n", sc->name, preemptions,
	       kills, x.runs, x.passages_total);
	if (x.failure[0])
		fail_msg("%s", x.failure);
	assert_true(x.runs > 100);
	munmap(x.memory, x.size);
	free(x.clean);
}

static void test_all_interleavings(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
		explore_scenario(&scenarios[i], bound("EXPLORE_PREEMPTIONS", 2), 0);
}

static void test_two_deaths(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
		explore_scenario(&scenarios[i], 0, bound("EXPLORE_KILLS", 2));
}

static void test_switch_and_death(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
		explore_scenario(&scenarios[i], 1, 1);
}

static uint64_t figure(enum book which)
{
	uint64_t n = 0;
	for (unsigned w = 0; w < WORKERS_MAX; w++)
		n += arena_worker(&x.arena, w)->committed.book[which];
	for (unsigned i = 0; i < ARENA_BOOKS_MAX; i++)
		n += x.arena.h->books[i].book[which];
	return n;
}

static void set_aside(uint32_t entry)
{
	struct word v = arena_word(&x.arena, entry);
	v.state = WORD_ASIDE;
	v.owner = ARENA_SAVED;
	atomic_store(&x.arena.words[entry], word_pack(v));
}

static uint64_t aside_figure(void)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < ARENA_BOOKS_MAX; i++)
		if (arena_line_is_aside(&x.arena.h->books[i]))
			n += x.arena.h->books[i].book[BOOK_dropped];
	return n;
}

/* A slot is retired, a chunk discarded, and one that was set aside put away; the master dies at its
 * nth step, the next one goes on. */
static bool retire_dying_at(unsigned n)
{
	uint32_t slot;
	struct arena_handle h, torn;
	volatile bool died = false;
	assert_int_equal(arena_worker_assign(&x.arena, "gone", 0, &slot), 0);
	arena_worker(&x.arena, slot)->committed.book[BOOK_received] = 7;
	assert_int_equal(arena_acquire(&x.arena, slot, 0, &h), 0);
	seal(h, 3);
	struct intent *in = intent_begin(&x.arena, slot);
	intent_output(in, h);
	intent_commit(&x.arena, slot);
	assert_int_equal(arena_acquire(&x.arena, slot, 1, &torn), 0);
	set_aside(torn.entry);
	lone.left = n;
	if (setjmp(lone.out) == 0) {
		arena_discard(&x.arena, h.entry, "reader");
		arena_put_away(&x.arena, torn.entry, "reader", 5);
		arena_worker_retire(&x.arena, slot, "heir");
	} else {
		died = true;
		lone.left = 0;
		arena_retire_finish(&x.arena);
		if (arena_word(&x.arena, h.entry).state == WORD_QUEUED)
			arena_discard(&x.arena, h.entry, "reader");
		if (arena_word(&x.arena, torn.entry).state == WORD_ASIDE)
			arena_put_away(&x.arena, torn.entry, "reader", 5);
		if (arena_worker(&x.arena, slot)->stage[0])
			arena_worker_retire(&x.arena, slot, "heir");
	}
	lone.left = 0;
	assert_int_equal(figure(BOOK_received), 7);
	assert_int_equal(figure(BOOK_dropped), 3 + 5);
	assert_int_equal(aside_figure(), 5);
	assert_int_equal(arena_word(&x.arena, h.entry).state, WORD_FREE);
	assert_int_equal(arena_word(&x.arena, torn.entry).state, WORD_FREE);
	assert_int_equal(arena_worker(&x.arena, slot)->stage[0], 0);
	return died;
}

static void test_retire(void **state)
{
	(void)state;
	unsigned n = 1;
	bool died = true;
	for (; died; n++) {
		prepare(&scenarios[0]);
		died = retire_dying_at(n);
		munmap(x.memory, x.size);
		free(x.clean);
	}
	assert_true(n > 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_retire),
	        cmocka_unit_test(test_all_interleavings),
	        cmocka_unit_test(test_two_deaths),
	        cmocka_unit_test(test_switch_and_death),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
