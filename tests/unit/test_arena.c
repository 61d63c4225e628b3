/*
 * The arena by itself: geometry, refusal of what is no arena, quotas and reserves, the order of
 * claims, the carrying out of what was committed, and what a repair counts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "ipc/crc32c.h"
#include "ipc/intent.h"

static const struct arena_geometry geometry = {
        .entries = 8, .workers = 4, .buffer_size = 8192, .checked = true};

static int make(struct arena *a)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	uint32_t e;
	assert_true(fd >= 0);
	assert_int_equal(arena_create(a, fd, &geometry), 0);
	assert_int_equal(arena_edge_assign(a, "p", "t", &e), 0);
	assert_int_equal(e, 0);
	assert_int_equal(arena_edge_assign(a, "t", "c", &e), 0);
	assert_int_equal(e, 1);
	atomic_store(&a->h->edges[0].quota, 3);
	atomic_store(&a->h->edges[1].quota, 100);
	return fd;
}

static void drop(struct arena *a, int fd)
{
	arena_detach(a);
	close(fd);
}

static struct arena_handle put(struct arena *a, uint32_t w, uint32_t edge, uint32_t records)
{
	struct arena_handle h;
	struct arena_facts f = {.records = records, .bytes = 100};
	assert_int_equal(arena_acquire(a, w, edge, &h), 0);
	memset(arena_buffer(a, h.entry), (int)records, 100);
	arena_seal(a, h, &f);
	struct intent *in = intent_begin(a, w);
	assert_true(intent_output(in, h));
	in->book[BOOK_received] += records;
	intent_commit(a, w);
	return h;
}

static void test_attach(void **state)
{
	(void)state;
	struct arena a, b;
	int fd = make(&a);
	put(&a, 0, 0, 5);
	assert_int_equal(arena_attach(&b, fd), 0);
	assert_int_equal(b.entries, 8);
	assert_int_equal(arena_charged(&b, 0), 1);
	assert_int_equal(arena_free(&b), 7);
	uint32_t e;
	assert_int_equal(arena_edge_assign(&b, "t", "c", &e), 0);
	assert_int_equal(e, 1); /* by name, not by turn */
	arena_detach(&b);
	drop(&a, fd);
}

static void test_what_is_no_arena(void **state)
{
	(void)state;
	struct arena a, b;
	int fd = make(&a);
	a.h->layout++;
	assert_int_equal(arena_attach(&b, fd), ARENA_E_LAYOUT);
	a.h->layout--;
	a.h->entries = 1000000; /* more than the file holds */
	assert_int_equal(arena_attach(&b, fd), ARENA_E_CORRUPT);
	a.h->entries = 8;
	a.h->facts_at += 64;
	assert_int_equal(arena_attach(&b, fd), ARENA_E_CORRUPT);
	a.h->facts_at -= 64;
	a.h->magic[0] = 'X';
	assert_int_equal(arena_attach(&b, fd), ARENA_E_CORRUPT);
	arena_detach(&a);
	assert_int_equal(ftruncate(fd, 100), 0);
	assert_int_equal(arena_attach(&b, fd), ARENA_E_CORRUPT);
	close(fd);
}

static void test_quota_and_reserve(void **state)
{
	(void)state;
	struct arena a;
	struct arena_handle h[8];
	int fd = make(&a);
	for (int i = 0; i < 3; i++)
		assert_int_equal(arena_acquire(&a, 0, 0, &h[i]), 0);
	assert_int_equal(arena_acquire(&a, 0, 0, &h[3]), ARENA_E_NONE); /* its quota */
	atomic_store(&a.h->edges[0].quota, 100);
	int n = 3;
	while (arena_acquire(&a, 0, 0, &h[n]) == 0)
		n++;
	assert_int_equal(n, 7); /* all but the entry that belongs to edge 1 */
	assert_int_equal(arena_acquire(&a, 1, 1, &h[7]), 0);
	assert_int_equal(h[7].entry, 1);
	assert_int_equal(arena_free(&a), 0);
	arena_drop(&a, 1, h[7]);
	assert_int_equal(arena_acquire(&a, 0, 0, &h[7]), ARENA_E_NONE);
	drop(&a, fd);
}

/* What stands in the log again is a chunk's, not its entry's: the next chunk there knows nothing of
 * it, and asks for nothing. */
static void test_base(void **state)
{
	(void)state;
	struct arena a;
	struct arena_handle h;
	struct arena_facts f = {.records = 1, .bytes = 10, .base = 7};
	int fd = make(&a);
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(arena_acquire(&a, 0, 0, &h), 0);
		assert_int_equal(atomic_load(&a.facts[h.entry].ahead), 0);
		arena_seal(&a, h, &f);
		uint64_t number = atomic_load(&a.numbers[h.entry]);
		assert_int_equal(arena_base(&a, h.entry), 7);
		assert_false(arena_is_ahead(&a, h.entry));
		arena_ask_ahead(&a, h);
		assert_int_equal(atomic_load(&a.facts[h.entry].ahead), number);
		arena_carried(&a, h.entry, number - 1, 5); /* meant for another: too late */
		assert_int_equal(arena_base(&a, h.entry), 7);
		arena_carried(&a, h.entry, number, 90 + round);
		assert_int_equal(arena_base(&a, h.entry), 90 + round);
		assert_true(arena_is_ahead(&a, h.entry));
		arena_drop(&a, 0, h);
	}
	drop(&a, fd);
}

static void test_oldest_first(void **state)
{
	(void)state;
	struct arena a;
	struct arena_handle h;
	int fd = make(&a);
	for (uint32_t i = 1; i <= 3; i++)
		put(&a, i % 2, 0, i);                              /* two publishers, alternately */
	assert_int_equal(arena_claim(&a, 2, 2, &h), ARENA_E_NONE); /* another edge */
	for (uint32_t i = 1; i <= 3; i++) {
		assert_int_equal(arena_claim(&a, 2, 1, &h), 0);
		assert_int_equal(a.facts[h.entry].records, i);
		if (i == 1) { /* given back, it is the oldest again */
			arena_unclaim(&a, 2, h);
			assert_int_equal(arena_claim(&a, 2, 3, &h), 0);
			assert_int_equal(a.facts[h.entry].records, 1);
		}
	}
	drop(&a, fd);
}

static void test_position_and_figures(void **state)
{
	(void)state;
	struct arena a;
	int fd = make(&a);
	struct intent *in = intent_begin(&a, 0);
	assert_true(intent_patch(in, 100, "hello", 5));
	assert_true(intent_patch(in, ARENA_POSITION_MAX - 3, "end", 3));
	assert_false(intent_patch(in, ARENA_POSITION_MAX - 2, "end", 3));
	assert_false(intent_patch(in, 0, "", UINT32_MAX));
	uint8_t big[ARENA_PATCHES_MAX] = {0};
	assert_false(intent_patch(in, 0, big, sizeof(big)));
	in->book[BOOK_made] = 4;
	assert_memory_equal(arena_worker(&a, 0)->position + 100, "\0\0\0\0\0", 5);
	intent_commit(&a, 0);
	assert_memory_equal(arena_worker(&a, 0)->position + 100, "hello", 5);
	assert_int_equal(arena_worker(&a, 0)->committed.book[BOOK_made], 4);
	assert_int_equal(intent_begin(&a, 0)->number, 2);
	drop(&a, fd);
}

static struct arena_handle claim_in_hand(struct arena *a, uint32_t w, uint32_t record)
{
	struct arena_handle h;
	assert_int_equal(arena_claim(a, w, 1, &h), 0);
	atomic_store(&arena_worker(a, w)->hand_entry, h.entry);
	atomic_store(&arena_worker(a, w)->hand_record, record);
	return h;
}

static void test_attempts(void **state)
{
	(void)state;
	struct arena a;
	const struct intent_death crash = {true, 11, 3}, killed = {false, 9, 3};
	int fd = make(&a);
	put(&a, 0, 0, 9);
	struct arena_handle h = {0};
	for (uint32_t i = 0; i < 3; i++) {
		h = claim_in_hand(&a, 1, 4);
		assert_int_equal(arena_word(&a, h.entry).attempts, i);
		if (i == 1) { /* a kill from outside does not count */
			intent_repair(&a, 1, &killed);
			h = claim_in_hand(&a, 1, 4);
			assert_int_equal(arena_word(&a, h.entry).attempts, i);
		}
		assert_int_equal(a.facts[h.entry].skip_record, ARENA_NO_RECORD);
		intent_repair(&a, 1, &crash);
		intent_repair(&a, 1, &crash); /* a second repairer finds nothing to do */
	}
	assert_int_equal(a.facts[h.entry].skip_record, 4);
	assert_int_equal(a.facts[h.entry].skip_signal, 11);
	/* once it got past the record, there is nothing to skip any more */
	h = claim_in_hand(&a, 1, 4);
	struct intent *in = intent_begin(&a, 1);
	assert_true(intent_input(in, h, INTENT_ADVANCE, 5, 50, 0));
	intent_commit(&a, 1);
	assert_int_equal(a.facts[h.entry].skip_record, ARENA_NO_RECORD);
	assert_int_equal(a.facts[h.entry].reached_byte, 50);
	drop(&a, fd);
}

static void test_a_wild_intent(void **state)
{
	(void)state;
	struct arena a;
	int fd = make(&a);
	struct intent *in = intent_begin(&a, 0);
	memset(in, 0xee, sizeof(*in)); /* a worker ran wild over its own slot */
	atomic_store(&in->state, INTENT_COMMITTED);
	intent_repair(&a, 0, NULL);
	assert_true(intent_clean(&a, 0));
	assert_int_equal(arena_free(&a), 8);
	in->patch_bytes = 64;
	uint32_t lie[2] = {ARENA_POSITION_MAX - 1, 4000000000u};
	memcpy(in->patches, lie, 8);
	in->n_in = in->n_out = 1;
	atomic_store(&in->state, INTENT_COMMITTED);
	intent_repair(&a, 0, NULL);
	assert_true(intent_clean(&a, 0));
	drop(&a, fd);
}

static void test_torn_chunk(void **state)
{
	(void)state;
	struct arena a;
	int fd = make(&a);
	struct arena_handle h = put(&a, 0, 0, 5);
	arena_buffer(&a, h.entry)[50] ^= 1;
	assert_true(arena_intact(&a, h.entry)); /* of this boot: memory is trusted */
	a.h->boot++;
	assert_false(arena_intact(&a, h.entry));
	arena_buffer(&a, h.entry)[50] ^= 1;
	assert_true(arena_intact(&a, h.entry));
	a.facts[h.entry].bytes = 1 << 30;
	assert_false(arena_intact(&a, h.entry));
	drop(&a, fd);
}

static void test_slots(void **state)
{
	(void)state;
	struct arena a;
	uint32_t s[4], again;
	int fd = make(&a);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(arena_worker_assign(&a, "stage", i, &s[i]), 0);
	assert_int_equal(arena_worker_assign(&a, "stage", 4, &again), ARENA_E_NONE);
	assert_int_equal(arena_worker_assign(&a, "stage", 2, &again), 0);
	assert_int_equal(again, s[2]);
	struct intent *in = intent_begin(&a, s[2]);
	intent_patch(in, 0, "x", 1);
	in->book[BOOK_delivered] = 3;
	intent_commit(&a, s[2]);
	arena_worker_retire(&a, s[2], "heir");
	assert_int_equal(arena_worker_assign(&a, "other", 0, &again), 0);
	assert_int_equal(again, s[2]);
	assert_int_equal(arena_worker(&a, again)->position[0], 0);
	assert_int_equal(intent_begin(&a, again)->number,
	                 2); /* a commit's name is never given twice */
	assert_int_equal(a.h->books[0].book[BOOK_delivered], 3);
	drop(&a, fd);
}

/* The check value of the catalogue of parametrised CRC algorithms, and RFC 3720's 32 zero bytes. */
static void test_crc32c(void **state)
{
	(void)state;
	uint8_t zero[32] = {0};
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
	assert_int_equal(crc32c(0, zero, sizeof(zero)), 0x8a9136aau);
	assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
}

static void test_histogram(void **state)
{
	(void)state;
	static struct histogram h, g;
	assert_int_equal(histogram_quantile(&h, 0.5), 0);
	for (uint64_t i = 1; i <= 1000; i++)
		histogram_add(&h, i * 1000, 1);
	for (double q = 0.1; q < 1; q += 0.1) {
		double want = q * 1000000, got = (double)histogram_quantile(&h, q);
		assert_true(got > want * 15 / 16 && got < want * 17 / 16);
	}
	histogram_add(&g, UINT64_MAX, 2);
	histogram_merge(&g, &h);
	assert_int_equal(g.count, 1002);
	assert_int_equal(g.min, 1000);
	assert_true(g.max == UINT64_MAX);
	assert_true(histogram_mean(&h) > 500000 && histogram_mean(&h) < 501000);
	assert_true(histogram_stddev(&h) > 288000 && histogram_stddev(&h) < 289000);
}

/* An edge that comes later (a reload) gets a number whose own entry is not in use by another, whose
 * reader may be dead. */
static void test_later_edge_has_its_own(void **state)
{
	(void)state;
	struct arena a;
	struct arena_handle h;
	uint32_t e;
	int fd = make(&a);
	put(&a, 0, 1, 1);
	assert_int_equal(put(&a, 0, 1, 1).entry, 2);
	assert_int_equal(arena_edge_assign(&a, "new", "c", &e), 0);
	while (arena_acquire(&a, 0, 1, &h) == 0)
		;
	assert_int_equal(arena_acquire(&a, 1, e, &h), 0);
	drop(&a, fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_attach),
	        cmocka_unit_test(test_later_edge_has_its_own),
	        cmocka_unit_test(test_what_is_no_arena),
	        cmocka_unit_test(test_quota_and_reserve),
	        cmocka_unit_test(test_base),
	        cmocka_unit_test(test_oldest_first),
	        cmocka_unit_test(test_position_and_figures),
	        cmocka_unit_test(test_attempts),
	        cmocka_unit_test(test_a_wild_intent),
	        cmocka_unit_test(test_torn_chunk),
	        cmocka_unit_test(test_slots),
	        cmocka_unit_test(test_crc32c),
	        cmocka_unit_test(test_histogram),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
