/*
 * The file consumer: bytes exactly once, whatever moment the process dies at.
 *
 * The stage runs in a child that ends itself before or after the n-th change it makes to the file
 * system or to the committed position, for every n there is, and again in the run that recovers.
 * What then stands in the files must be every record once, in order.
 */
#include "tests/unit/files.h"

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "stages/consumers/file.h"
#include "stages/consumers/file_rotate.h"

enum {
	ROOM = 4096,
	CRASHED = 9,
};

static char *dir;

/* ---- crashes -----------------------------------------------------------------------------------
 */

static int countdown; /* events until the end of this process; 0: none is set */
static int fail_with; /* errno of the next pwrite; 0: it works */
static bool plant;    /* the next target of a rename is made by somebody else just before */

static void event(void)
{
	if (countdown && --countdown == 0)
		_exit(CRASHED);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
	event();
	if (plant)
		files_write(to, "somebody else's");
	plant = false;
	int r = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
	event();
	return r;
}

int ftruncate(int fd, off_t len)
{
	event();
	int r = (int)syscall(SYS_ftruncate, fd, len);
	event();
	return r;
}

int unlink(const char *path)
{
	event();
	int r = (int)syscall(SYS_unlink, path);
	event();
	return r;
}

ssize_t pwrite(int fd, const void *p, size_t len, off_t off)
{
	event();
	if (fail_with) {
		syscall(SYS_pwrite64, fd, p, len / 2, off);
		errno = fail_with;
		return -1;
	}
	size_t half = len / 2;
	if (half)
		syscall(SYS_pwrite64, fd, p, half, off);
	event();
	ssize_t n = (ssize_t)syscall(SYS_pwrite64, fd, p, len, off);
	event();
	return n;
}

/* ---- a worker of two buffers -------------------------------------------------------------------
 */

struct shared {
	uint8_t position[64];
	bool fresh;
	unsigned next; /* first record that is not committed */
};

struct run {
	struct test_host *host;
	struct stage st;
	struct codec codec;
	struct file_out_config config;
	struct shared *shared;
};

static struct file_out_config config_of(const char *path)
{
	return (struct file_out_config){.path = path, .mode_text = "0640", .mode = 0640};
}

static void run_make(struct run *r, const char *codec, struct shared *shared,
                     struct file_out_config config)
{
	memset(r, 0, sizeof(*r));
	r->host = host_new(ROOM);
	r->config = config;
	r->shared = shared;
	host_stage(r->host, &r->st, stage_find(STAGE_CONSUMER, "file"), &r->config);
	files_codec(&r->codec, codec, ROOM);
	r->st.codec = &r->codec;
	memcpy(r->host->position, shared->position, sizeof(shared->position));
	r->st.position_fresh = shared->fresh;
}

static void run_free(struct run *r)
{
	r->st.ops->close(&r->st);
	free(r->st.state);
	files_codec_free(&r->codec);
	host_free(r->host);
}

static size_t make_record(uint8_t *p, unsigned i)
{
	uint8_t *o = mp_write_map_head(p, 2);
	o = mp_write_str(o, "n", 1);
	o = mp_write_uint(o, i);
	o = mp_write_str(o, "t", 1);
	o = mp_write_str(o, "some text", 9);
	return (size_t)(o - p);
}

static void commit(struct run *r, unsigned next)
{
	event();
	memcpy(r->shared->position, r->host->position, sizeof(r->shared->position));
	r->shared->fresh = false;
	r->shared->next = next;
	event();
}

/* Units of at most @per_unit records, to record @end. 0, or what the stage answered. */
static int deliver(struct run *r, unsigned end, unsigned per_unit)
{
	const struct stage_ops *ops = r->st.ops;
	uint8_t rec[64];
	for (int idle = 0; r->shared->next < end && idle < 10; idle++) {
		unsigned i = r->shared->next;
		int answer = ops->begin(&r->st);
		while (answer == 0 && i < end && i - r->shared->next < per_unit) {
			answer = ops->consume(&r->st, rec, make_record(rec, i));
			i += answer == 0;
		}
		if (answer != 0 && answer != STAGE_E_FULL)
			return answer;
		answer = ops->finish(&r->st);
		if (answer != 0)
			return answer;
		if (i > r->shared->next)
			idle = 0;
		commit(r, i);
	}
	assert_int_equal(r->shared->next, end);
	return 0;
}

/* ---- what is in the files ----------------------------------------------------------------------
 */

static unsigned check_text(char *text, unsigned next, bool csv)
{
	char line[64];
	for (char *p = text; *p;) {
		char *nl = strchr(p, '\n');
		assert_non_null(nl);
		*nl = 0;
		if (csv)
			snprintf(line, sizeof(line), p == text ? "n,t" : "%u,some text", next);
		else
			snprintf(line, sizeof(line), "{\"n\":%u,\"t\":\"some text\"}", next);
		assert_string_equal(p, line);
		if (!csv || p != text)
			next++;
		p = nl + 1;
	}
	return next;
}

/* Every record below @end once, over the rotated files and the last one. */
static void check_files(const char *path, unsigned end, bool csv)
{
	struct file_rotated_list list;
	char name[PATH_MAX];
	unsigned next = 0;
	assert_int_equal(file_rotate_list(path, &list), 0);
	for (size_t i = 0; i < list.n; i++) {
		file_rotate_name(path, list.v[i].number, name, sizeof(name));
		next = check_text(files_read(name), next, csv);
	}
	file_rotate_list_deinit(&list);
	next = check_text(files_read(path), next, csv);
	assert_int_equal(next, end);
}

static int make_dir(void **state)
{
	(void)state;
	dir = files_dir();
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	countdown = 0;
	files_remove(dir);
	return 0;
}

static struct shared *make_shared(void)
{
	struct shared *s =
	        mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(s != MAP_FAILED);
	s->fresh = true;
	return s;
}

/* One worker's life in a child that ends at event number @n (0: never). True: it ended early. */
static bool live(const char *codec, struct shared *shared, struct file_out_config config,
                 unsigned end, int n)
{
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct run r;
		countdown = n;
		run_make(&r, codec, shared, config);
		int answer = r.st.ops->open(&r.st);
		if (answer == 0)
			answer = deliver(&r, end, 3);
		_exit(answer ? 1 : 0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == CRASHED);
	return WEXITSTATUS(status) == CRASHED;
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static void every_crash(const char *codec, uint64_t rotate_size)
{
	const char *path = files_name(dir, "out");
	struct file_out_config config = config_of(path);
	bool csv = strcmp(codec, "csv") == 0;
	config.rotate.size = rotate_size;
	int n = 1;
	for (bool crashed = true; crashed; n++) {
		struct shared *s = make_shared();
		crashed = live(codec, s, config, 20, n);
		live(codec, s, config, 20, 1 + n % 7); /* the recovery may die too */
		live(codec, s, config, 20, 1 + n % 11);
		live(codec, s, config, 23, 0);
		check_files(path, 23, csv);
		munmap(s, sizeof(*s));
		files_remove(dir);
		assert_int_equal(mkdir(dir, 0700), 0);
	}
	assert_true(n > 20); /* there were events to crash at */
}

static void test_every_crash(void **state)
{
	(void)state;
	every_crash("json", 0);
	every_crash("json", 100);
	every_crash("csv", 60);
}

static void test_rollback(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	uint8_t rec[64];
	const char *path = files_name(dir, "out");
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 3, 2), 0);
	/* written, and undone */
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	assert_int_equal(r.st.ops->consume(&r.st, rec, make_record(rec, 99)), 0);
	assert_int_equal(r.st.ops->finish(&r.st), 0);
	assert_non_null(strstr(files_read(path), "99"));
	r.st.ops->rollback(&r.st);
	check_files(path, 3, false);
	assert_int_equal(deliver(&r, 6, 2), 0);
	check_files(path, 6, false);
	run_free(&r);
}

static void test_failed_write(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 3, 2), 0);
	fail_with = EIO;
	assert_int_equal(deliver(&r, 5, 2), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r.st.why, path));
	check_files(path, 3, false); /* nothing half written is left */
	fail_with = 0;
	r.st.ops->rollback(&r.st);
	assert_int_equal(deliver(&r, 5, 2), 0);
	check_files(path, 5, false);
	run_free(&r);
}

static void test_disk_full(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	char path[PATH_MAX];
	if (geteuid() != 0 || mount("none", dir, "tmpfs", 0, "size=64k") < 0) {
		print_message("skipped: a small file system cannot be mounted here\n");
		skip();
	}
	snprintf(path, sizeof(path), "%s/out", dir);
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	int answer = deliver(&r, 10000, 100);
	assert_int_equal(answer, STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r.st.why, strerror(ENOSPC)));
	r.st.ops->rollback(&r.st);
	check_files(path, s.next, false);
	assert_true(s.next > 100);
	files_append(files_name(dir, "x"), "");
	assert_int_equal(deliver(&r, 10000, 1), STAGE_E_UNREACHABLE);
	r.st.ops->rollback(&r.st);
	assert_int_equal(mount("none", dir, "tmpfs", MS_REMOUNT, "size=4m"), 0);
	assert_int_equal(deliver(&r, 10000, 100), 0);
	check_files(path, 10000, false);
	run_free(&r);
	assert_int_equal(umount(dir), 0);
}

/* What stood there before is kept, and its last line ended. */
static void test_existing(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	files_write(path, "not ours");
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 1, 1), 0);
	assert_string_equal(files_read(path), "not ours\n{\"n\":0,\"t\":\"some text\"}\n");
	run_free(&r);
}

/* The inode number is ours, its content is not: nothing is cut. */
static void test_replaced(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 1, 1), 0);
	run_free(&r);
	files_write(path, "somebody else wrote this, longer than what was there\n");
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 2, 1), 0);
	assert_string_equal(files_read(path),
	                    "somebody else wrote this, longer than what was there\n"
	                    "{\"n\":1,\"t\":\"some text\"}\n");
	run_free(&r);
}

static void test_truncated_while_running(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	run_make(&r, "csv", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 2, 1), 0);
	files_write(path, "");
	assert_int_equal(deliver(&r, 3, 1), 0);
	assert_string_equal(files_read(path), "n,t\n2,some text\n");
	files_append(path, "by hand\n");
	assert_int_equal(deliver(&r, 4, 1), 0);
	assert_string_equal(files_read(path), "n,t\n2,some text\nby hand\n3,some text\n");
	run_free(&r);
}

static void test_logrotate(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	const char *old = files_name(dir, "out.1");
	uint8_t rec[64];
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 1, 1), 0);
	assert_int_equal(rename(path, old), 0);
	assert_int_equal(deliver(&r, 2, 1), 0); /* not told yet */
	assert_int_equal(r.st.ops->reopen(&r.st), 0);
	assert_int_equal(deliver(&r, 3, 1), 0);
	assert_string_equal(files_read(old), "{\"n\":0,\"t\":\"some text\"}\n"
	                                     "{\"n\":1,\"t\":\"some text\"}\n");
	assert_string_equal(files_read(path), "{\"n\":2,\"t\":\"some text\"}\n");
	/* moved while a unit was open, and then the process died */
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	assert_int_equal(r.st.ops->consume(&r.st, rec, make_record(rec, 3)), 0);
	assert_int_equal(r.st.ops->finish(&r.st), 0);
	assert_int_equal(rename(path, old), 0);
	run_free(&r);
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 4, 1), 0);
	assert_string_equal(files_read(old), "{\"n\":2,\"t\":\"some text\"}\n");
	assert_string_equal(files_read(path), "{\"n\":3,\"t\":\"some text\"}\n");
	run_free(&r);
}

static void test_keep(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	struct file_rotated_list list;
	const char *path = files_name(dir, "out");
	struct file_out_config config = config_of(path);
	config.rotate.size = 1;
	config.rotate.keep = 2;
	files_write(files_name(dir, "out.1"), "logrotate's, not ours");
	files_write(files_name(dir, "out.000007"), "there before");
	run_make(&r, "json", &s, config);
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 6, 1), 0);
	assert_int_equal(file_rotate_list(path, &list), 0);
	assert_int_equal(list.n, 2);
	assert_int_equal(list.v[1].number, 12);
	file_rotate_list_deinit(&list);
	assert_string_equal(files_read(files_name(dir, "out.000012")),
	                    "{\"n\":4,\"t\":\"some text\"}\n");
	assert_true(files_there(files_name(dir, "out.1")));
	run_free(&r);
}

static void test_number_taken(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	struct file_out_config config = config_of(path);
	config.rotate.size = 1;
	run_make(&r, "json", &s, config);
	assert_int_equal(r.st.ops->open(&r.st), 0);
	plant = true;
	assert_int_equal(deliver(&r, 2, 1), 0);
	assert_false(plant);
	assert_string_equal(files_read(files_name(dir, "out.000001")), "somebody else's");
	assert_string_equal(files_read(files_name(dir, "out.000002")),
	                    "{\"n\":0,\"t\":\"some text\"}\n");
	run_free(&r);
}

static void test_age(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	struct file_out_config config = config_of(path);
	config.rotate.age = 3600000000000;
	run_make(&r, "json", &s, config);
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 1, 1), 0);
	assert_int_equal(r.st.ops->tick(&r.st), 0);
	assert_false(files_there(files_name(dir, "out.000001")));
	assert_true(r.st.deadline > 0);
	((struct file_out_state *)r.st.state)->now.opened -= config.rotate.age;
	assert_int_equal(r.st.ops->begin(&r.st), 0); /* the commit before is done */
	assert_int_equal(r.st.ops->tick(&r.st), 0);
	assert_true(files_there(files_name(dir, "out.000001")));
	assert_int_equal(deliver(&r, 2, 1), 0);
	check_files(path, 2, false);
	run_free(&r);
}

static void test_max_size(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	struct file_out_config config = config_of(path);
	config.max_size = 100;
	config.rotate.size = 50;
	run_make(&r, "json", &s, config);
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 10, 1), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r.st.why, "max_size"));
	assert_int_equal(s.next, 4);
	r.st.ops->rollback(&r.st);
	assert_int_equal(unlink(files_name(dir, "out.000001")), 0); /* somebody made room */
	assert_int_equal(deliver(&r, 5, 1), 0);
	run_free(&r);
}

static void test_two_writers(void **state)
{
	(void)state;
	struct run a;
	struct run b;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	run_make(&a, "json", &s, config_of(path));
	run_make(&b, "json", &s, config_of(path));
	assert_int_equal(a.st.ops->open(&a.st), 0);
	assert_int_equal(b.st.ops->open(&b.st), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(b.st.why, "another process"));
	run_free(&a);
	assert_int_equal(b.st.ops->open(&b.st), 0);
	run_free(&b);
}

static void test_csv_goes_on(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "out");
	files_write(path, "t,n\nbefore,7\n");
	run_make(&r, "csv", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), 0);
	assert_int_equal(deliver(&r, 1, 1), 0);
	assert_string_equal(files_read(path), "t,n\nbefore,7\nsome text,0\n");
	run_free(&r);
}

static void test_directory_missing(void **state)
{
	(void)state;
	struct run r;
	struct shared s = {.fresh = true};
	const char *path = files_name(dir, "a/b/out");
	run_make(&r, "json", &s, config_of(path));
	assert_int_equal(r.st.ops->open(&r.st), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r.st.why, path));
	assert_int_equal(mkdir(files_name(dir, "a"), 0700), 0);
	assert_int_equal(r.st.ops->open(&r.st), 0);
	run_free(&r);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_every_crash),
	        TEST(test_rollback),
	        TEST(test_failed_write),
	        TEST(test_disk_full),
	        TEST(test_existing),
	        TEST(test_replaced),
	        TEST(test_truncated_while_running),
	        TEST(test_logrotate),
	        TEST(test_keep),
	        TEST(test_number_taken),
	        TEST(test_age),
	        TEST(test_max_size),
	        TEST(test_two_writers),
	        TEST(test_csv_goes_on),
	        TEST(test_directory_missing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
