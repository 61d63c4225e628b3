/*
 * The file producer: what it reads, and that every position it sets is one to go on from.
 */
#include "tests/unit/files.h"

#include "stages/producers/file.h"

enum {
	ROOM = 4096,
};

struct run {
	struct test_host *host;
	struct stage st;
	struct codec codec;
	struct file_config config;
	const char *paths[4];
};

static char *dir;

static int make_dir(void **state)
{
	(void)state;
	dir = files_dir();
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	files_remove(dir);
	return 0;
}

static void run_make(struct run *r, const char *codec, const char *path, bool follow)
{
	const struct stage_ops *ops = stage_find(STAGE_PRODUCER, "file");
	memset(r, 0, sizeof(*r));
	r->host = host_new(ROOM);
	r->paths[0] = path;
	r->config = (struct file_config){.path = {r->paths, 1},
	                                 .follow = follow,
	                                 .read_buffer = 512,
	                                 .poll = 1000000,
	                                 .rotate_wait = 0};
	host_stage(r->host, &r->st, ops, &r->config);
	files_codec(&r->codec, codec, ROOM);
	r->st.codec = &r->codec;
}

static void run_free(struct run *r)
{
	free(r->st.state);
	files_codec_free(&r->codec);
	host_free(r->host);
}

static void run_open(struct run *r)
{
	assert_int_equal(r->st.ops->open(&r->st), 0);
}

static void run_close(struct run *r)
{
	r->st.ops->close(&r->st);
}

/* A crash: the process is gone, what was committed is @position. */
static void run_again(struct run *r, const uint8_t *position)
{
	run_close(r);
	memset(r->st.state, 0, r->st.ops->state_size);
	memmove(r->host->position, position, STAGE_POSITION_MAX);
	r->st.position_fresh = false;
	host_clear(r->host);
	run_open(r);
}

/* Until it is idle or has ended. */
static int run_all(struct run *r)
{
	for (int i = 0; i < 100000; i++) {
		int answer = r->st.ops->produce(&r->st);
		if (answer != STAGE_OK)
			return answer;
	}
	fail_msg("never idle");
	return 0;
}

/* The text of the field of a record that has only one. */
static const char *text_of(const struct host_item *it)
{
	static char text[ROOM];
	struct mp v;
	const uint8_t *end = it->p + it->len;
	const uint8_t *p = mp_read(it->p, end, &v);
	assert_true(p && v.type == MP_MAP && v.n == 1);
	p = mp_read(p, end, &v);
	assert_true(p && mp_read(p, end, &v) && v.type == MP_STR);
	snprintf(text, sizeof(text), "%.*s", (int)v.len, (const char *)v.p);
	return text;
}

static void expect(const struct run *r, unsigned n, ...)
{
	va_list ap;
	assert_int_equal(r->host->n, n);
	va_start(ap, n);
	for (unsigned i = 0; i < n; i++) {
		assert_false(r->host->items[i].rejected);
		assert_string_equal(text_of(&r->host->items[i]), va_arg(ap, const char *));
	}
	va_end(ap);
}

/* ---- read once ---------------------------------------------------------------------------------
 */

static void test_lines(void **state)
{
	(void)state;
	struct run r;
	const char *path = files_name(dir, "lines");
	files_write(path, "one\r\ntwo\n\nlast without newline");
	run_make(&r, "lines", path, false);
	run_open(&r);
	assert_int_equal(run_all(&r), STAGE_E_END);
	assert_string_equal(text_of(&r.host->items[0]), "one");
	assert_string_equal(text_of(&r.host->items[1]), "two");
	assert_string_equal(text_of(&r.host->items[r.host->n - 1]), "last without newline");
	/* a run that ended is over: the next one reads again */
	unsigned n = r.host->n;
	run_again(&r, r.host->position);
	assert_int_equal(run_all(&r), STAGE_E_END);
	assert_int_equal(r.host->n, n);
	run_close(&r);
	run_free(&r);
}

struct snapshot {
	uint8_t position[64 + 4 * 64];
	unsigned n;
};

static struct snapshot *shots;
static unsigned n_shots;
static int (*plain_reserve)(struct stage_host *h, size_t need, uint8_t **p, size_t *room);

/* A unit may end whenever room is asked for: what is set then is what a crash would find. */
static int reserve_shot(struct stage_host *h, size_t need, uint8_t **p, size_t *room)
{
	struct test_host *t = (struct test_host *)h;
	struct snapshot *s = &shots[n_shots++];
	memcpy(s->position, t->position, sizeof(s->position));
	s->n = t->n;
	return plain_reserve(h, need, p, room);
}

static int by_bytes(const void *x, const void *y)
{
	const struct host_item *a = x;
	const struct host_item *b = y;
	int r = memcmp(a->p, b->p, a->len < b->len ? a->len : b->len);
	return r ? r : (a->len > b->len) - (a->len < b->len);
}

static void sort_items(struct host_item *items, unsigned n)
{
	qsort(items, n, sizeof(*items), by_bytes);
}

/* Reads with @codec, then again from every position that a commit could have had. */
static void every_crash(const char *codec, const char *path, const char *second, bool follow)
{
	struct run whole;
	struct run rest;
	shots = calloc(20000, sizeof(*shots));
	n_shots = 0;
	run_make(&whole, codec, path, follow);
	whole.paths[1] = second;
	whole.config.path.n = second ? 2 : 1;
	plain_reserve = whole.host->base.reserve;
	whole.host->base.reserve = reserve_shot;
	run_open(&whole);
	run_all(&whole);
	assert_true(n_shots > 10);
	/* from the last to the first: sorting the end of the whole run keeps its beginning */
	for (unsigned i = n_shots; i-- > 0;) {
		run_make(&rest, codec, path, follow);
		rest.paths[1] = second;
		rest.config.path.n = whole.config.path.n;
		memcpy(rest.host->position, shots[i].position, sizeof(shots[i].position));
		rest.st.position_fresh = false;
		run_open(&rest);
		run_all(&rest);
		if (shots[i].n + rest.host->n != whole.host->n)
			print_error("%s: after %u of %u records came %u\n", codec, shots[i].n,
			            whole.host->n, rest.host->n);
		assert_int_equal(shots[i].n + rest.host->n, whole.host->n);
		/* followed files are read by turns, and the turns may fall otherwise */
		if (second && follow)
			sort_items(&whole.host->items[shots[i].n], rest.host->n);
		if (second && follow)
			sort_items(rest.host->items, rest.host->n);
		for (unsigned k = 0; k < rest.host->n; k++) {
			struct host_item *a = &whole.host->items[shots[i].n + k];
			assert_int_equal(a->len, rest.host->items[k].len);
			assert_memory_equal(a->p, rest.host->items[k].p, a->len);
		}
		run_close(&rest);
		run_free(&rest);
	}
	run_close(&whole);
	run_free(&whole);
	free(shots);
}

static void write_many(const char *path, const char *head, const char *format, int n)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(head, f);
	for (int i = 0; i < n; i++) {
		fprintf(f, format, i, i * 7);
		if (i % 10 == 3)
			fputs("}{ not a record\n", f);
	}
	fclose(f);
}

static void test_every_crash(void **state)
{
	(void)state;
	const char *a = files_name(dir, "a");
	const char *b = files_name(dir, "b");
	write_many(a, "", "{\"n\": %d, \"m\": \"%d\"}\n", 100);
	write_many(b, "", "{\"k\": %d,\r\n\"m\": \"%d\"}\r\n", 60);
	every_crash("json", a, NULL, false);
	every_crash("json", a, b, false);
	every_crash("json", a, b, true);
	every_crash("lines", a, b, false);
	write_many(a, "id,name\n", "%d,\"a \"\"name\"\" %d\"\r\n", 90);
	every_crash("csv", a, NULL, false);
	every_crash("csv", a, b, true);
	write_many(a, "", "Package: p%d\nSize: %d\n\n", 80);
	every_crash("deb822", a, NULL, false);
}

static void test_huge_line(void **state)
{
	(void)state;
	struct run r;
	const char *path = files_name(dir, "huge");
	size_t huge = 8 * ROOM + 65536 + 100000; /* more than the window may grow to */
	files_write(path, "{\"a\":\"before\"}\n{\"a\":\"");
	char *x = malloc(huge);
	memset(x, 'x', huge);
	files_put(path, O_APPEND, x, huge);
	free(x);
	files_append(path, "\"}\n{\"a\":\"behind\"}\n");
	run_make(&r, "json", path, false);
	run_open(&r);
	assert_int_equal(run_all(&r), STAGE_E_END);
	assert_int_equal(r.host->n, 3);
	assert_string_equal(text_of(&r.host->items[0]), "before");
	assert_true(r.host->items[1].rejected);
	assert_string_equal(text_of(&r.host->items[2]), "behind");
	run_close(&r);
	run_free(&r);
}

static void test_missing(void **state)
{
	(void)state;
	struct run r;
	run_make(&r, "lines", files_name(dir, "nowhere"), false);
	assert_int_equal(r.st.ops->open(&r.st), -ENOENT);
	assert_non_null(strstr(r.st.why, "nowhere"));
	run_close(&r);
	run_free(&r);
}

static void test_changed(void **state)
{
	(void)state;
	struct run r;
	const char *path = files_name(dir, "changed");
	files_write(path, "one\ntwo\nthree\n");
	run_make(&r, "lines", path, false);
	run_open(&r);
	assert_int_equal(r.st.ops->produce(&r.st), STAGE_OK);
	/* committed in the middle; meanwhile the file became another, shorter one */
	files_write(path, "four\n");
	run_again(&r, r.host->position);
	assert_int_equal(run_all(&r), STAGE_E_END);
	expect(&r, 1, "four");
	run_close(&r);
	run_free(&r);
}

static void test_pipe(void **state)
{
	(void)state;
	struct run r;
	int fds[2];
	char path[64];
	assert_int_equal(pipe(fds), 0);
	snprintf(path, sizeof(path), "/dev/fd/%d", fds[0]);
	run_make(&r, "lines", path, false);
	run_open(&r);
	assert_int_equal(write(fds[1], "one\ntw", 6), 6);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	assert_int_equal(r.st.n_fds, 1);
	expect(&r, 1, "one");
	assert_int_equal(write(fds[1], "o\nthree", 7), 7);
	close(fds[1]);
	assert_int_equal(run_all(&r), STAGE_E_END);
	expect(&r, 3, "one", "two", "three");
	run_close(&r);
	run_free(&r);
	close(fds[0]);
}

/* Real logs with CRLF and no newline at the end: 2,000 records each. */
static void test_real_logs(void **state)
{
	(void)state;
	static const char *const roots[] = {"../shared/data", "../../shared/data"};
	static const char *const logs[] = {"Linux", "Apache", "Spark"};
	const char *root = getenv("SLUICE_DATA");
	for (size_t i = 0; !root && i < 2; i++)
		root = files_there(files_name(roots[i], "logs/loghub")) ? roots[i] : NULL;
	if (!root || !files_there(files_name(root, "logs/loghub"))) {
		print_message("skipped: the data is not there\n");
		skip();
	}
	for (size_t i = 0; i < 3; i++) {
		struct run r;
		char name[64];
		snprintf(name, sizeof(name), "logs/loghub/%s/%s_2k.log", logs[i], logs[i]);
		run_make(&r, "lines", files_name(root, name), false);
		run_open(&r);
		assert_int_equal(run_all(&r), STAGE_E_END);
		assert_int_equal(r.host->n, 2000);
		for (unsigned k = 0; k < r.host->n; k++)
			assert_null(strchr(text_of(&r.host->items[k]), '\r'));
		run_close(&r);
		run_free(&r);
	}
}

/* ---- followed ----------------------------------------------------------------------------------
 */

static void test_follow(void **state)
{
	(void)state;
	struct run r;
	const char *path = files_name(dir, "log");
	run_make(&r, "lines", path, true);
	run_open(&r);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	files_write(path, "one\ntw");
	struct pollfd p = r.st.fds[0];
	assert_int_equal(poll(&p, 1, 5000), 1); /* inotify tells */
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 1, "one");
	files_append(path, "o\n");
	p = r.st.fds[0];
	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 2, "one", "two");
	run_close(&r);
	run_free(&r);
}

static void test_rename(void **state)
{
	(void)state;
	struct run r;
	const char *path = files_name(dir, "log");
	const char *old = files_name(dir, "log.1");
	files_write(path, "one\ntwo\n");
	run_make(&r, "lines", path, true);
	r.config.rotate_wait = 3600000000000;
	run_open(&r);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	assert_int_equal(rename(path, old), 0);
	files_write(path, "four\n");
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	files_append(old, "three"); /* its writer does not know yet */
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 2, "one", "two");
	files_append(old, "\n");
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 3, "one", "two", "three");
	r.config.rotate_wait = 0;
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 4, "one", "two", "three", "four");
	run_close(&r);
	run_free(&r);
}

/* Two rotations while nobody looked. */
static void test_rotated_while_down(void **state)
{
	(void)state;
	struct run r;
	uint8_t position[STAGE_POSITION_MAX];
	const char *path = files_name(dir, "log");
	files_write(path, "one\n");
	run_make(&r, "lines", path, true);
	run_open(&r);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	memcpy(position, r.host->position, sizeof(position));
	files_append(path, "two\nthr");
	struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	assert_int_equal(rename(path, files_name(dir, "log.2")), 0);
	utimensat(AT_FDCWD, files_name(dir, "log.2"), times, 0);
	files_write(files_name(dir, "log.1"), "four\n");
	times[1].tv_sec = 2000;
	utimensat(AT_FDCWD, files_name(dir, "log.1"), times, 0);
	files_write(files_name(dir, "log.other"), "never\n");
	files_write(files_name(dir, "log.3"), "older\n");
	times[1].tv_sec = 500;
	utimensat(AT_FDCWD, files_name(dir, "log.3"), times, 0);
	files_write(path, "five\n");
	run_again(&r, position);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 4, "two", "thr", "four", "five");
	/* and after another crash nothing of it comes again */
	run_again(&r, r.host->position);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 0);
	run_close(&r);
	run_free(&r);
}

static void test_copytruncate(void **state)
{
	(void)state;
	struct run r;
	const char *path = files_name(dir, "log");
	files_write(path, "one is long\ntwo\n");
	run_make(&r, "lines", path, true);
	run_open(&r);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	files_write(path, "three\n");
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 3, "one is long", "two", "three");
	/* longer than what was read: only the first bytes tell */
	files_write(path, "four is longer than three\n");
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 4, "one is long", "two", "three", "four is longer than three");
	run_close(&r);
	run_free(&r);
}

static void test_removed_and_new(void **state)
{
	(void)state;
	struct run r;
	const char *path = files_name(dir, "log");
	files_write(path, "one\npart");
	run_make(&r, "lines", path, true);
	run_open(&r);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 2, "one", "part");
	files_write(path, "two\n");
	assert_int_equal(run_all(&r), STAGE_E_IDLE);
	expect(&r, 3, "one", "part", "two");
	run_close(&r);
	run_free(&r);
}

static void test_bad_position(void **state)
{
	(void)state;
	struct run r;
	const char *path = files_name(dir, "log");
	files_write(path, "one\n");
	run_make(&r, "lines", path, false);
	memset(r.host->position, 0xa5, STAGE_POSITION_MAX);
	r.st.position_fresh = false;
	run_open(&r);
	assert_int_equal(run_all(&r), STAGE_E_END);
	expect(&r, 1, "one");
	run_close(&r);
	run_free(&r);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_lines),        TEST(test_every_crash),
	        TEST(test_huge_line),    TEST(test_missing),
	        TEST(test_changed),      TEST(test_pipe),
	        TEST(test_real_logs),    TEST(test_follow),
	        TEST(test_rename),       TEST(test_rotated_while_down),
	        TEST(test_copytruncate), TEST(test_removed_and_new),
	        TEST(test_bad_position),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
