/*
 * The durable log's file: format, ring, torn and damaged entries, and a model of what a disk may
 * hold after a loss of power: the file as it was at the last completed write, with any subset of
 * the later write's sectors.
 */
#include "tests/unit/log_fixture.h"

static uint8_t *image(size_t *size)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	uint8_t *p = malloc((size_t)st.st_size);
	assert_int_equal(pread(fd, p, (size_t)st.st_size, 0), st.st_size);
	close(fd);
	*size = (size_t)st.st_size;
	return p;
}

static void put(const char *to, const uint8_t *p, size_t size, off_t at)
{
	int fd = open(to, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, p, size, at), (ssize_t)size);
	close(fd);
}

/* ---- the file ---- */

static void what_is_written_is_read(void **state)
{
	(void)state;
	for (int mode = WAL_WRITE; mode <= WAL_BUFFERED; mode++) {
		struct wal w;
		uint32_t sizes[] = {0, 1, 100, 3800, 4096, 5000, 65536};
		fresh(&w, (enum wal_mode)mode);
		assert_int_equal(w.next_seq, 1);
		for (unsigned i = 0; i < 7; i++)
			assert_int_equal(append(&w, 1 + i, 1, sizes[i]), 0);
		assert_int_equal(append(&w, 8, 3, 200), 0);
		reopen(&w, WAL_READ);
		assert_int_equal(w.next_seq, 11);
		assert_int_equal(w.damaged, 0);
		for (unsigned i = 0; i < 7; i++)
			assert_entry(&w, 1 + i, 1 + i, sizes[i]);
		for (unsigned i = 7; i < 10; i++)
			assert_entry(&w, 1 + i, 1 + i, 200);
		struct wal_position *p = wal_position(&w, "orders", 0, false);
		uint64_t value;
		memcpy(&value, p->bytes + 8 * 10, 8);
		assert_int_equal(value, 10);
		assert_int_equal(p->commit, 10);
		assert_null(wal_position(&w, "nobody", 0, false));
		wal_close(&w);
	}
}

static void positions_outlive_their_entries(void **state)
{
	(void)state;
	struct wal w;
	uint64_t value;
	fresh(&w, WAL_WRITE);
	assert_int_equal(wal_set_position(&w, "orders", 0, "base", 4, 0), 0);
	assert_int_equal(append(&w, 1, 1, 100), 0);
	w.need = w.next_seq;
	assert_int_equal(save(&w), 0);
	assert_null(wal_entry(&w, 1));
	reopen(&w, WAL_WRITE);
	struct wal_position *p = wal_position(&w, "orders", 0, false);
	assert_memory_equal(p->bytes, "base", 4);
	memcpy(&value, p->bytes + 8, 8);
	assert_int_equal(value, 1);
	struct patch patch;
	struct wal_item it = item(0, 2, 50, &patch);
	it.flags = WAL_FRESH;
	assert_int_equal(wal_append(&w, &it, 1), 0);
	reopen(&w, WAL_READ);
	p = wal_position(&w, "orders", 0, false);
	assert_int_equal(p->bytes[0], 0); /* what was known before is void */
	memcpy(&value, p->bytes + 16, 8);
	assert_int_equal(value, 2);
	wal_close(&w);
}

/* The second group cut at every sector: the first is there, and of the second a beginning. */
static void torn_at_every_sector(void **state)
{
	(void)state;
	struct wal w;
	size_t size;
	fresh(&w, WAL_WRITE);
	assert_int_equal(append(&w, 1, 2, 3000), 0);
	uint64_t from = w.next_at;
	uint8_t *before = image(&size);
	assert_int_equal(append(&w, 3, 3, 6000), 0);
	uint64_t to = w.next_at;
	uint8_t *after = image(&size);
	wal_close(&w);
	uint64_t last = 0;
	for (uint64_t cut = from; cut <= to; cut += SECTOR) {
		put(path, before, size, 0);
		put(path, after + from, cut - from, (off_t)from);
		assert_int_equal(wal_open(&w, path, WAL_READ), 0);
		assert_int_equal(w.damaged, 0);
		assert_in_range(w.next_seq, 3, 6);
		assert_true(w.next_seq >= last);
		last = w.next_seq;
		for (uint64_t seq = 1; seq < w.next_seq; seq++)
			assert_entry(&w, seq, seq, seq < 3 ? 3000 : 6000);
		wal_close(&w);
	}
	assert_int_equal(last, 6);
	free(before);
	free(after);
}

/* A torn end is written over; what is left of it behind the new end must not come back. */
static void an_abandoned_end_stays_so(void **state)
{
	(void)state;
	struct wal w;
	size_t size;
	fresh(&w, WAL_WRITE);
	assert_int_equal(append(&w, 1, 1, 3000), 0);
	uint64_t from = w.next_at;
	uint8_t *before = image(&size);
	assert_int_equal(append(&w, 2, 3, 6000), 0);
	wal_close(&w);
	put(path, before + from, 4096, (off_t)from); /* the group's first head never arrived */
	assert_int_equal(wal_open(&w, path, WAL_WRITE), 0);
	assert_int_equal(w.next_seq, 2);
	assert_int_equal(append(&w, 20, 1, 6000),
	                 0); /* as long as the torn one: the next lies right behind it */
	reopen(&w, WAL_READ);
	assert_int_equal(w.next_seq, 3);
	assert_entry(&w, 2, 20, 6000);
	assert_int_equal(w.damaged, 0);
	wal_close(&w);
	free(before);
}

/* The same where the ring ends: what is written instead is longer, and goes to the ring's
 * beginning. */
static void an_abandoned_end_at_the_rings_end(void **state)
{
	(void)state;
	struct wal w;
	uint64_t n = 1;
	uint8_t x = 0xa5;
	fresh(&w, WAL_WRITE);
	while (w.ring_end - w.next_at > 40000)
		assert_int_equal(append(&w, n++, 1, 9000), 0);
	w.need = w.next_seq - 1;
	assert_int_equal(save(&w), 0);
	assert_int_equal(append(&w, n, 1, 5000), 0);
	put(path, &x, 1,
	    (off_t)wal_entry(&w, n)->at + 4096 + 100); /* its head arrived, its records did not */
	reopen(&w, WAL_WRITE);
	assert_int_equal(w.next_seq, n);
	assert_int_equal(append(&w, n, 1, 50000), 0);
	assert_int_equal(wal_entry(&w, n)->at, w.ring_at);
	assert_int_equal(save(&w), 0);
	reopen(&w, WAL_READ);
	assert_int_equal(w.next_seq, n + 1);
	assert_entry(&w, n, n, 50000);
	assert_int_equal(w.damaged, 0);
	wal_close(&w);
}

static void damage_in_the_middle_is_counted(void **state)
{
	(void)state;
	struct wal w;
	static _Alignas(WAL_BLOCK) uint8_t got[CHUNK];
	fresh(&w, WAL_WRITE);
	for (unsigned i = 1; i <= 5; i++)
		assert_int_equal(append(&w, i, 1, 6000), 0);
	uint64_t head = wal_entry(&w, 2)->at, data = wal_entry(&w, 4)->at + 4096 + 77;
	uint8_t x = 0xa5;
	put(path, &x, 1, (off_t)head + 50);
	put(path, &x, 1, (off_t)data);
	reopen(&w, WAL_WRITE);
	assert_int_equal(w.next_seq, 6);
	assert_int_equal(w.damaged, 1);
	assert_null(wal_entry(&w, 2));
	assert_entry(&w, 3, 3, 6000);
	assert_int_equal(wal_read(&w, wal_entry(&w, 4), got), WAL_E_CORRUPT);
	assert_entry(&w, 5, 5, 6000);
	assert_int_equal(append(&w, 6, 1, 100), 0);
	assert_entry(&w, 6, 6, 100);
	wal_close(&w);
}

static void one_checkpoint_may_be_torn(void **state)
{
	(void)state;
	struct wal w;
	fresh(&w, WAL_WRITE);
	for (unsigned i = 1; i <= 4; i++) {
		assert_int_equal(append(&w, i, 1, 500), 0);
		assert_int_equal(save(&w), 0);
	}
	off_t newest = (off_t)(WAL_BLOCK + (w.generation & 1) * w.region);
	uint8_t x = 0xa5;
	put(path, &x, 1, newest + 100);
	reopen(&w, WAL_READ);
	assert_int_equal(w.next_seq, 5);
	for (uint64_t i = 1; i <= 4; i++)
		assert_entry(&w, i, i, 500);
	wal_close(&w);
	put(path, &x, 1, (off_t)(WAL_BLOCK + 100));
	put(path, &x, 1, (off_t)(WAL_BLOCK + w.region + 100));
	newest = newest == WAL_BLOCK ? (off_t)WAL_BLOCK + 1 : newest;
	put(path, &x, 1, (off_t)WAL_BLOCK);
	int r = wal_open(&w, path, WAL_READ);
	if (r == 0) { /* one of the two places was outside the first region: hit both heads */
		put(path, &x, 1, (off_t)(WAL_BLOCK + w.region));
		wal_close(&w);
		r = wal_open(&w, path, WAL_READ);
	}
	assert_int_equal(r, WAL_E_CORRUPT);
}

static void a_failed_write_is_the_end(void **state)
{
	(void)state;
	struct wal w;
	fresh(&w, WAL_WRITE);
	assert_int_equal(append(&w, 1, 1, 100), 0);
	int writable = w.fd;
	w.fd = open(path, O_RDONLY);
	assert_int_equal(append(&w, 2, 1, 100), -EBADF);
	close(w.fd);
	w.fd = writable;
	assert_int_equal(append(&w, 2, 1, 100), -EIO); /* although it would work again */
	assert_int_equal(wal_checkpoint(&w), -EIO);
	reopen(&w, WAL_WRITE);
	assert_int_equal(w.next_seq, 2);
	assert_int_equal(append(&w, 2, 1, 100), 0);
	wal_close(&w);
}

static void other_files_are_refused(void **state)
{
	(void)state;
	struct wal w;
	uint8_t junk[8192];
	unlink(path);
	assert_int_equal(wal_open(&w, path, WAL_READ), WAL_E_NONE);
	for (unsigned i = 0; i < sizeof(junk); i++)
		junk[i] = (uint8_t)rnd(256);
	for (size_t size = 0; size <= sizeof(junk); size += 4096) {
		unlink(path);
		put(path, junk, size, 0);
		assert_int_equal(wal_open(&w, path, WAL_READ), WAL_E_CORRUPT);
	}
	unlink(path);
	assert_int_equal(wal_create(path, RING, 2), 0);
	assert_int_equal(truncate(path, 300000), 0);
	assert_int_equal(wal_open(&w, path, WAL_READ), WAL_E_CORRUPT);
	assert_int_equal(wal_create(path, 1, 2), -EINVAL);
	assert_int_equal(wal_create("/nowhere/at/all", RING, 2), -ENOENT);
}

/* ---- the model ---- */

struct model {
	uint64_t next_seq, need;    /* of what is durable */
	uint64_t number[ITEMS_MAX]; /* by seq */
	uint32_t bytes[ITEMS_MAX];
};

static void assert_positions(const struct wal *w, const struct model *m, uint64_t next_seq)
{
	uint8_t want[2][PLACE] = {0};
	for (uint64_t seq = 1; seq < next_seq; seq++) {
		uint64_t n = m->number[seq];
		memcpy(want[n % 3 ? 0 : 1] + 8 * (n % (PLACE / 8)), &n, 8);
	}
	for (unsigned i = 0; i < 2; i++) {
		const struct wal_position *p = &w->position[i];
		if (p->stage[0])
			assert_memory_equal(p->bytes, want[p->stage[0] == 'o' ? 0 : 1], PLACE);
	}
}

/* A disk after a loss of power in the middle of one write: any of its sectors may have arrived. A
 * group that meets the ring's end is two writes, and the second (below @split) begins when the
 * first is done. */
static void lose_power(const uint8_t *before, const uint8_t *after, size_t size, size_t split)
{
	unsigned share = (unsigned)rnd(5);
	bool second = rnd(2);
	put(path, before, size, 0);
	for (size_t at = 0; at < size; at += SECTOR) {
		bool sure = split && second && at >= split, none = split && !second && at < split;
		if (memcmp(before + at, after + at, SECTOR) != 0 &&
		    (sure || (!none && rnd(4) < share)))
			put(path, after + at, SECTOR, (off_t)at);
	}
}

/* All that was acknowledged is there; of the group in flight a beginning at most. */
static void check_after(struct wal *w, struct model *m, uint64_t flight_end)
{
	assert_int_equal(wal_open(w, path, WAL_WRITE), 0);
	assert_int_equal(w->damaged, 0);
	assert_in_range(w->next_seq, m->next_seq, flight_end);
	for (uint64_t seq = m->need; seq < w->next_seq; seq++)
		assert_entry(w, seq, m->number[seq], m->bytes[seq]);
	assert_true(w->need <= m->need);
	assert_positions(w, m, w->next_seq);
	m->next_seq = w->next_seq;
	m->need = w->need;
}

static void one_life(unsigned losses)
{
	struct wal w;
	size_t size;
	static struct model m;
	uint64_t number = 1;
	memset(&m, 0, sizeof(m));
	m.next_seq = m.need = 1;
	fresh(&w, WAL_WRITE);
	for (unsigned lost = 0; lost < losses && m.next_seq < ITEMS_MAX - WAL_GROUP_MAX;) {
		unsigned n = 1 + (unsigned)rnd(5);
		uint32_t bytes = (uint32_t)(rnd(4) ? rnd(9000) : rnd(200));
		uint64_t end = w.next_seq, at = w.next_at;
		bool lose = rnd(3) == 0;
		uint8_t *before = lose ? image(&size) : NULL;
		if (rnd(4) == 0 || !wal_room(&w, n, bytes)) {
			w.need += rnd(w.next_seq - w.need + 1);
			m.need = w.need;
			assert_int_equal(save(&w), 0);
		} else {
			for (unsigned i = 0; i < n; i++) {
				m.number[end + i] = number + i;
				m.bytes[end + i] = bytes;
			}
			assert_int_equal(append(&w, number, n, bytes), 0);
			number += n;
			end += n;
		}
		if (lose) {
			uint8_t *after = image(&size);
			size_t split = w.next_at < at ? at : 0;
			wal_close(&w);
			lose_power(before, after, size, split);
			check_after(&w, &m, end);
			free(after);
			lost++;
		} else {
			m.next_seq = end;
		}
		free(before);
	}
	wal_close(&w);
}

static void nothing_acknowledged_is_missing(void **state)
{
	(void)state;
	const char *times = getenv("LOG_LOSSES");
	unsigned losses = times ? (unsigned)atoi(times) : 3000;
	for (unsigned done = 0; done < losses; done += 300)
		one_life(300);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_is_written_is_read),
	        cmocka_unit_test(positions_outlive_their_entries),
	        cmocka_unit_test(torn_at_every_sector),
	        cmocka_unit_test(an_abandoned_end_stays_so),
	        cmocka_unit_test(an_abandoned_end_at_the_rings_end),
	        cmocka_unit_test(damage_in_the_middle_is_counted),
	        cmocka_unit_test(one_checkpoint_may_be_torn),
	        cmocka_unit_test(a_failed_write_is_the_end),
	        cmocka_unit_test(other_files_are_refused),
	        cmocka_unit_test(nothing_acknowledged_is_missing),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
