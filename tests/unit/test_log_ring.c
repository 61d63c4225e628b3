/*
 * The durable log's ring: what may be overwritten, what is written again, what is kept free for
 * that.
 */
#include "tests/unit/log_fixture.h"

static void the_ring_goes_round(void **state)
{
	(void)state;
	struct wal w;
	uint32_t bytes[ITEMS_MAX];
	uint64_t number = 1;
	fresh(&w, WAL_WRITE);
	for (unsigned i = 0; i < 600; i++) {
		unsigned n = 1 + (unsigned)rnd(4);
		uint32_t b = (uint32_t)rnd(20000);
		for (unsigned k = 0; k < n; k++)
			bytes[number + k] = b;
		int r = append(&w, number, n, b);
		if (r == WAL_E_FULL) {
			w.need = w.next_seq - rnd(w.next_seq - w.need + 1);
			assert_int_equal(save(&w), 0);
			continue;
		}
		assert_int_equal(r, 0);
		number += n;
		if (rnd(10) == 0)
			reopen(&w, WAL_WRITE);
		assert_int_equal(w.next_seq, number);
		uint64_t from = w.tail_seq + rnd(w.next_seq - w.tail_seq);
		assert_entry(&w, from, from, bytes[from]);
	}
	assert_true(number > 1000);
	for (uint64_t seq = w.tail_seq; seq < w.next_seq; seq++)
		assert_entry(&w, seq, seq, bytes[seq]);
	wal_close(&w);
}

static void full_changes_nothing(void **state)
{
	(void)state;
	struct wal w;
	uint64_t n = 1;
	fresh(&w, WAL_WRITE);
	while (append(&w, n, 1, 30000) == 0)
		n++;
	assert_true(n > 10);
	assert_int_equal(append(&w, n, 1, 30000), WAL_E_FULL);
	assert_false(wal_room(&w, 1, 30000));
	w.need = n / 2; /* not on the disk yet: frees nothing */
	assert_int_equal(append(&w, n, 1, 30000), WAL_E_FULL);
	reopen(&w, WAL_WRITE);
	for (uint64_t i = 1; i < n; i++)
		assert_entry(&w, i, i, 30000);
	w.need = n / 2;
	assert_int_equal(save(&w), 0);
	assert_true(wal_room(&w, 1, 30000));
	assert_int_equal(append(&w, n, 1, 30000), 0);
	reopen(&w, WAL_READ);
	for (uint64_t i = n / 2; i <= n; i++)
		assert_entry(&w, i, i, 30000);
	wal_close(&w);
}

/* Written again: its records are there, its number, its note; no position has changed. */
static void what_is_carried_is_no_new_commit(void **state)
{
	(void)state;
	struct wal w;
	struct patch patch;
	uint8_t note[200], got[200];
	for (unsigned i = 0; i < sizeof(note); i++)
		note[i] = (uint8_t)(i * 3);
	fresh(&w, WAL_WRITE);
	assert_int_equal(append(&w, 1, 2, 5000), 0); /* 1: orders, 2: orders */
	struct wal_item it = item(0, 1, 5000, &patch);
	it.flags = WAL_CARRIED;
	it.patches = note;
	it.patch_bytes = sizeof(note);
	for (unsigned again = 0; again < 2; again++) {
		if (again) { /* what follows the checkpoint, then what stands before it */
			w.need = 3;
			assert_int_equal(save(&w), 0);
			reopen(&w, WAL_WRITE);
		} else {
			assert_int_equal(wal_append(&w, &it, 1), 0);
			reopen(&w, WAL_WRITE);
			assert_int_equal(wal_note(&w, wal_entry(&w, 2), got, sizeof(got)),
			                 WAL_E_CORRUPT);
		}
		assert_entry(&w, 3, 1, 5000);
		assert_true(wal_entry(&w, 3)->flags & WAL_CARRIED);
		assert_int_equal(wal_note(&w, wal_entry(&w, 3), got, sizeof(got)), 0);
		assert_memory_equal(got, note, sizeof(note));
		assert_int_equal(wal_note(&w, wal_entry(&w, 3), got, 100), WAL_E_CORRUPT);
		struct wal_position *p = wal_position(&w, "orders", 0, false);
		assert_int_equal(p->commit, 2);
		assert_int_equal(p->number, 2);
		assert_int_equal(p->seq, 3); /* but it is not given away while the entry is there */
		assert_int_equal(p->bytes[0], 0);
		assert_int_equal(p->bytes[8], 1);
		assert_int_equal(p->bytes[16], 2);
	}
	wal_close(&w);
}

/* With a reserve there is always room for it, wherever the ring's end is. */
static void the_reserve_stays_free(void **state)
{
	(void)state;
	struct wal w;
	uint64_t n = 1;
	fresh(&w, WAL_WRITE);
	w.reserve = 10 * wal_most_carried(9000) + wal_most(9000);
	w.reserve_entries = 10;
	for (unsigned round = 0; round < 50; round++) {
		while (wal_room(&w, 1, 9000)) {
			uint32_t bytes = (uint32_t)rnd(9000);
			assert_int_equal(append(&w, n++, 1, bytes), 0);
		}
		uint64_t kept = wal_kept(&w), goal = wal_behind(&w, 60000);
		for (unsigned i = 0; i < 10; i++)
			assert_int_equal(append(&w, n++, 1, 9000), 0);
		w.need = goal;
		uint64_t now = wal_kept(&w);
		assert_int_equal(save(&w), 0);
		assert_true(now - wal_kept(&w) >= 60000);
		assert_true(wal_kept(&w) <= kept + 10 * 16384);
		w.need = w.next_seq - 12;
		assert_int_equal(save(&w), 0);
	}
	assert_int_equal(wal_behind(&w, 1 << 30), w.next_seq);
	assert_int_equal(wal_behind(&w, 0), w.tail_seq);
	wal_close(&w);
}

/* Figures are as of the last checkpoint, whichever entries came since. */
static void figures_are_kept(void **state)
{
	(void)state;
	struct wal w;
	fresh(&w, WAL_WRITE);
	assert_int_equal(w.figures_seq, 0);
	assert_int_equal(append(&w, 1, 3, 100), 0);
	for (unsigned i = 0; i < WAL_FIGURES; i++)
		w.figures[i] = 1000 + i;
	assert_int_equal(save(&w), 0);
	w.figures[0] = 1; /* not on the disk */
	assert_int_equal(append(&w, 4, 2, 100), 0);
	for (enum wal_mode mode = WAL_READ; mode <= WAL_WRITE; mode++) {
		reopen(&w, mode);
		assert_int_equal(w.figures_seq, 4);
		assert_int_equal(w.next_seq, 6);
		for (unsigned i = 0; i < WAL_FIGURES; i++)
			assert_int_equal(w.figures[i], 1000 + i);
	}
	wal_close(&w);
}

/* Opening frees nothing whose records are in no figures: the books would lack them. */
static void what_is_not_in_the_figures_is_kept(void **state)
{
	(void)state;
	struct wal w;
	fresh(&w, WAL_WRITE);
	assert_int_equal(append(&w, 1, 3, 100), 0);
	w.figures_seq = 3;
	assert_int_equal(wal_checkpoint(&w), 0);
	assert_int_equal(append(&w, 4, 2, 100), 0);
	w.need = 5;
	assert_int_equal(append(&w, 6, 1, 100), 0); /* its head says what is needed */
	for (unsigned again = 0; again < 2; again++) {
		reopen(&w, WAL_WRITE);
		assert_int_equal(w.need, 5);
		assert_int_equal(w.tail_seq, 3);
		assert_int_equal(wal_checkpoint(&w), 0);
		assert_int_equal(w.tail_seq, 3);
		assert_entry(&w, 3, 3, 100);
	}
	w.figures_seq = w.next_seq;
	assert_int_equal(wal_checkpoint(&w), 0);
	assert_int_equal(w.tail_seq, 5);
	wal_close(&w);
}

/* The place of a producer whose entries are all gone is given to another, also when that is found
 * in the log before any checkpoint says so. */
static void a_place_is_given_away_when_nothing_is_kept(void **state)
{
	(void)state;
	struct wal w;
	struct patch patch;
	fresh(&w, WAL_WRITE);                       /* with two places */
	assert_int_equal(append(&w, 1, 1, 100), 0); /* orders */
	assert_int_equal(append(&w, 3, 1, 100), 0); /* metrics */
	w.need = w.next_seq;
	assert_int_equal(save(&w), 0);
	assert_int_equal(append(&w, 4, 1, 100), 0); /* orders once more */
	struct wal_item it = item(0, 5, 100, &patch);
	it.stage = "third";
	assert_int_equal(wal_append(&w, &it, 1), 0);
	assert_null(wal_position(&w, "metrics", 0, false));
	reopen(&w, WAL_READ);
	assert_entry(&w, 3, 4, 100);
	assert_non_null(wal_position(&w, "orders", 0, false));
	assert_int_equal(wal_position(&w, "third", 0, false)->commit, 5);
	assert_null(wal_position(&w, "metrics", 0, false));
	wal_close(&w);
}

static void the_first_of_equals_counts(void **state)
{
	(void)state;
	struct wal w;
	static const uint64_t number[] = {5, 7, 5, 9, 7, 5};
	static const bool repeated[] = {false, false, true, false, true, true};
	fresh(&w, WAL_WRITE);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(append(&w, number[i], 1, 100), 0);
	assert_int_equal(wal_find_repeated(&w, 1, 7), 0);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal((wal_entry(&w, 1 + i)->flags & WAL_REPEATED) != 0, repeated[i]);
	reopen(&w, WAL_WRITE); /* it is not on the disk */
	assert_int_equal(wal_find_repeated(&w, 3, 5), 0);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(wal_entry(&w, 1 + i)->flags & WAL_REPEATED, 0);
	wal_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(the_ring_goes_round),
	        cmocka_unit_test(full_changes_nothing),
	        cmocka_unit_test(what_is_carried_is_no_new_commit),
	        cmocka_unit_test(the_reserve_stays_free),
	        cmocka_unit_test(figures_are_kept),
	        cmocka_unit_test(what_is_not_in_the_figures_is_kept),
	        cmocka_unit_test(a_place_is_given_away_when_nothing_is_kept),
	        cmocka_unit_test(the_first_of_equals_counts),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
