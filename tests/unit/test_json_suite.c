/*
 * The JSON codec on input that others wrote: the public parsing suite by its files' names, and real
 * files with known answers. Skipped where they are not at hand (SLUICE_DATA, or ../shared/data).
 */
#include "tests/unit/json_fixture.h"

#include <dirent.h>
#include <unistd.h>

static char *data_path(const char *name, char *path, size_t size)
{
	const char *dirs[] = {getenv("SLUICE_DATA"), "../shared/data", "../../shared/data"};
	for (size_t i = 0; i < 3; i++) {
		if (!dirs[i])
			continue;
		snprintf(path, size, "%s/%s", dirs[i], name);
		if (access(path, R_OK) == 0)
			return path;
	}
	print_message("%s is not here: skipped\n", name);
	skip();
	return NULL;
}

/* Reads a file, packed or not. */
static void slurp(const char *path, struct buf *b)
{
	char command[6000];
	snprintf(command, sizeof(command), "gzip -dcf '%s'", path);
	FILE *f = popen(command, "r");
	assert_non_null(f);
	b->len = 0;
	for (size_t n = 1; n; b->len += n) {
		assert_int_equal(buf_room(b, 65536), 0);
		n = fread(b->p + b->len, 1, 65536, f);
	}
	assert_int_equal(pclose(f), 0);
}

/* @name's first letter says what has to happen. Returns whether it was taken. */
static void suite_case(struct fixture *f, const char *name, const struct buf *b)
{
	unsigned records = 0;
	unsigned not_record = 0;
	unsigned other = 0;
	feed(f, b->p, b->len);
	for (unsigned i = 0; i < f->host->n; i++) {
		const struct host_item *it = &f->host->items[i];
		if (!it->rejected)
			records++;
		else if (strncmp(it->why, "not a record: ", 14) == 0)
			not_record++;
		else
			other++;
	}
	const uint8_t *p = b->p;
	size_t left = b->len;
	for (; left && strchr(" \t\r\n", *p); left--)
		p++;
	bool duplicate = strstr(name, "duplicated_key") != NULL;
	bool fine = true;
	if (*name == 'y' && duplicate)
		fine = records == 0 && other == 1;
	else if (*name == 'y' && *p == '{')
		fine = records == 1 && not_record == 0 && other == 0;
	else if (*name == 'y')
		fine = records == 0 && not_record == 1 && other == 0;
	else if (*name == 'n')
		/* several values are well-formed here, one behind the other */
		fine = other > 0 || records + not_record > 1 || f->host->n == 0;
	if (!fine)
		fail_msg("%s: %u records, %u other values, %u refused", name, records, not_record,
		         other);
}

static void test_json_test_suite(void **state)
{
	(void)state;
	char dir[4096];
	char path[5000];
	struct fixture f;
	struct buf b = {0};
	unsigned n = 0;
	data_path("json/JSONTestSuite/test_parsing", dir, sizeof(dir));
	DIR *d = opendir(dir);
	assert_non_null(d);
	setup_room(&f, ROOM);
	for (struct dirent *e; (e = readdir(d));) {
		if (!strstr(e->d_name, ".json"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		slurp(path, &b);
		suite_case(&f, e->d_name, &b);
		n++;
	}
	assert_int_equal(n, 318);
	closedir(d);
	buf_deinit(&b);
	teardown(&f);
}

/* Decodes, encodes, decodes: the same bytes. Leaves the first record in f. */
static void round_trip(struct fixture *f, const struct buf *text)
{
	struct buf line = {0};
	feed(f, text->p, text->len);
	unsigned n = f->host->n;
	for (unsigned i = 0; i < n; i++) {
		struct host_item *it = &f->host->items[i];
		struct fixture again;
		assert_false(it->rejected);
		encode(f, it, &line);
		setup_room(&again, f->host->room);
		feed(&again, line.p, line.len - 1);
		assert_int_equal(again.host->n, 1);
		assert_false(again.host->items[0].rejected);
		assert_int_equal(again.host->items[0].len, it->len);
		assert_memory_equal(again.host->items[0].p, it->p, it->len);
		teardown(&again);
	}
	buf_deinit(&line);
}

static uint64_t get_uint(const uint8_t *p, const uint8_t *end, const char *path)
{
	struct record r = {0};
	const char *why;
	uint32_t len = 0;
	assert_int_equal(record_open(&r, p, (size_t)(end - p), &why), 0);
	const uint8_t *v = record_path(&r, path, strlen(path), &len);
	struct mp m = record_value(v, len);
	record_deinit(&r);
	assert_int_equal(m.type, MP_UINT);
	return m.u;
}

static void test_twitter(void **state)
{
	(void)state;
	char path[4096];
	struct fixture f;
	struct buf b = {0};
	data_path("json/real/twitter.json", path, sizeof(path));
	slurp(path, &b);
	setup_room(&f, 4 << 20);
	round_trip(&f, &b);
	assert_int_equal(f.host->n, 1);
	struct record r = {0};
	const char *why;
	uint32_t len = 0;
	assert_int_equal(record_open(&r, f.host->items[0].p, f.host->items[0].len, &why), 0);
	const uint8_t *p = record_path(&r, "statuses", 8, &len);
	const uint8_t *end = p + len;
	struct mp v;
	p = mp_read(p, end, &v);
	assert_int_equal(v.n, 100);
	uint64_t retweets = 0;
	uint64_t max_id = 0;
	for (uint32_t i = 0; i < 100; i++) {
		const uint8_t *next = mp_skip(p, end);
		uint64_t id = get_uint(p, next, "id");
		retweets += get_uint(p, next, "retweet_count");
		max_id = id > max_id ? id : max_id;
		p = next;
	}
	assert_int_equal(retweets, 7122);
	assert_true(max_id == 505874924095815681u);
	record_deinit(&r);
	buf_deinit(&b);
	teardown(&f);
}

static void test_citm(void **state)
{
	(void)state;
	char path[4096];
	struct fixture f;
	struct buf b = {0};
	data_path("json/real/citm_catalog.json.gz", path, sizeof(path));
	slurp(path, &b);
	setup_room(&f, 4 << 20);
	round_trip(&f, &b);
	struct record r = {0};
	const char *why;
	uint32_t len = 0;
	uint64_t sum = 0;
	unsigned prices = 0;
	assert_int_equal(record_open(&r, f.host->items[0].p, f.host->items[0].len, &why), 0);
	const uint8_t *p = record_path(&r, "performances", 12, &len);
	const uint8_t *end = p + len;
	struct mp v;
	p = mp_read(p, end, &v);
	assert_int_equal(v.n, 243);
	for (uint32_t i = 0; i < 243; i++) {
		struct record perf = {0};
		const uint8_t *next = mp_skip(p, end);
		assert_int_equal(record_open(&perf, p, (size_t)(next - p), &why), 0);
		const uint8_t *q = record_path(&perf, "prices", 6, &len);
		const uint8_t *q_end = q + len;
		q = mp_read(q, q_end, &v);
		for (uint32_t k = v.n; k; k--, prices++) {
			const uint8_t *q_next = mp_skip(q, q_end);
			sum += get_uint(q, q_next, "amount");
			q = q_next;
		}
		record_deinit(&perf);
		p = next;
	}
	assert_int_equal(prices, 907);
	assert_int_equal(sum, 42356300);
	record_deinit(&r);
	buf_deinit(&b);
	teardown(&f);
}

static void test_apt_index(void **state)
{
	(void)state;
	char path[4096];
	struct codec c;
	struct buf b = {0};
	struct buf line = {0};
	static uint8_t room[ROOM];
	size_t len = 0;
	unsigned n = 0;
	uint64_t sum = 0;
	data_path("apt-index/sample.ndjson.gz", path, sizeof(path));
	slurp(path, &b);
	assert_int_equal(codec_init(&c, codec_find("json"), NULL, ROOM), 0);
	struct codec_window w = {.p = b.p, .end = b.p + b.len, .last = true};
	for (int r; (r = c.ops->decode(&c, &w, room, ROOM, &len)) != CODEC_E_END; n++) {
		assert_int_equal(r, CODEC_E_OK);
		sum += get_uint(room, room + len, "Size");
	}
	assert_int_equal(n, 4898);
	assert_true(sum == 9164180768u);
	buf_deinit(&b);
	buf_deinit(&line);
	codec_deinit(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_json_test_suite),
	        cmocka_unit_test(test_twitter),
	        cmocka_unit_test(test_citm),
	        cmocka_unit_test(test_apt_index),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
