/*
 * State over LMDB: what a commit holds, what a kill leaves, and a map that is never run full.
 */
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const struct commit_id id_a = {{1, 2, 3}, 4, 0, 5};
static const struct commit_id id_b = {{1, 2, 3}, 4, 0, 6};

static void put(struct state *kv, const char *k, const char *v)
{
	assert_int_equal(state_put(kv, k, strlen(k), v, strlen(v)), 0);
}

static void expect(struct state *kv, const char *k, const char *v)
{
	const uint8_t *val;
	size_t len;
	int r = state_get(kv, k, strlen(k), &val, &len);
	if (!v) {
		assert_int_equal(r, STATE_E_NONE);
		return;
	}
	assert_int_equal(r, 0);
	assert_int_equal(len, strlen(v));
	assert_memory_equal(val, v, len);
}

static struct state_env *open_env(const char *dir, uint64_t size, struct state **kv)
{
	struct state_env *env;
	assert_int_equal(state_env_open(&env, dir, size, 2, false), 0);
	assert_int_equal(state_env_step(env, 0, "dedupe", kv), 0);
	return env;
}

static void test_basics(void **arg)
{
	(void)arg;
	char dir[64], sub[80];
	rig_tmpdir(dir);
	snprintf(sub, sizeof(sub), "%s/a", dir);
	struct state *kv, *other;
	struct state_env *env = open_env(sub, 1 << 20, &kv);
	assert_int_equal(state_env_step(env, 1, "aggregate", &other), 0);
	struct stat sb;
	assert_int_equal(stat(sub, &sb), 0);
	assert_int_equal(sb.st_mode & 0777, 0700);

	assert_false(state_env_dirty(env));
	put(kv, "one", "1");
	assert_true(state_env_dirty(env));
	put(kv, "two", "2");
	expect(other, "one", NULL);
	put(other, "one", "x");
	assert_int_equal(state_env_committed(env, &id_a), 0);
	assert_int_equal(state_env_commit(env, &id_a), 0);
	assert_false(state_env_dirty(env));
	assert_int_equal(state_env_committed(env, &id_a), 1);
	assert_int_equal(state_env_committed(env, &id_b), 0);

	put(kv, "one", "uno");
	assert_int_equal(state_del(kv, "two", 3), 0);
	assert_int_equal(state_del(kv, "two", 3), STATE_E_NONE);
	expect(kv, "two", NULL);
	state_env_rollback(env);
	expect(kv, "one", "1");
	expect(kv, "two", "2");
	expect(other, "one", "x");

	uint8_t key[STATE_KEY_MAX];
	const uint8_t *val;
	size_t key_len, len;
	uint64_t n;
	assert_int_equal(state_seek(kv, "", 0, key, &key_len, &val, &len), 0);
	assert_memory_equal(key, "one", 3);
	assert_int_equal(state_seek(kv, "p", 1, key, &key_len, &val, &len), 0);
	assert_memory_equal(key, "two", 3);
	assert_int_equal(state_seek(kv, "z", 1, key, &key_len, &val, &len), STATE_E_NONE);
	assert_int_equal(state_last(kv, key, &key_len, &val, &len), 0);
	assert_memory_equal(key, "two", 3);
	assert_int_equal(state_count(kv, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(state_clear(kv), 0);
	assert_int_equal(state_count(kv, &n), 0);
	assert_int_equal(n, 0);
	put(kv, "three", "3");
	expect(other, "one", "x");
	assert_int_equal(state_env_commit(env, &id_b), 0);
	state_env_close(env);

	env = open_env(sub, 1 << 20, &kv);
	assert_int_equal(state_env_committed(env, &id_a), 0);
	assert_int_equal(state_env_committed(env, &id_b), 1);
	expect(kv, "one", NULL);
	expect(kv, "three", "3");
	state_env_close(env);
	rig_remove(sub);
	rig_remove(dir);
}

static void test_owner(void **arg)
{
	(void)arg;
	char dir[64];
	rig_tmpdir(dir);
	struct state *kv;
	struct state_env *env = open_env(dir, 1 << 20, &kv), *second = NULL;
	assert_int_equal(state_env_open(&second, dir, 1 << 20, 1, false), -EBUSY);
	assert_null(second);
	state_env_close(env);
	env = open_env(dir, 1 << 20, &kv);
	state_env_close(env);
	rig_remove(dir);
}

static void test_refused(void **arg)
{
	(void)arg;
	char dir[64], path[128];
	struct state_env *env;
	rig_tmpdir(dir);
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(write(fd, "this is not LMDB", 16), 16);
	close(fd);
	assert_int_equal(state_env_open(&env, dir, 1 << 20, 1, false), -EUCLEAN);
	assert_null(env);
	assert_int_equal(state_env_open(&env, path, 1 << 20, 1, false), -ENOTDIR);
	assert_int_equal(state_env_open(&env, dir, 1, 1, false), -EINVAL);
	rig_remove(dir);
}

/* Runs @fn in a child, waits until it has said that it is where it is to die, and kills it there.
 */
static void kill_in(const char *dir, void (*fn)(struct state_env *env, struct state *kv))
{
	int p[2];
	char c;
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct state_env *env;
		struct state *kv;
		if (state_env_open(&env, dir, 4 << 20, 1, false) ||
		    state_env_step(env, 0, "dedupe", &kv))
			_exit(1);
		fn(env, kv);
		if (write(p[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	close(p[1]);
	assert_int_equal(read(p[0], &c, 1), 1);
	close(p[0]);
	int status;
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

static void die_inside(struct state_env *env, struct state *kv)
{
	(void)env;
	for (int i = 0; i < 20000; i++)
		if (state_put(kv, &i, sizeof(i), "value", 5))
			_exit(1);
	state_put(kv, "k", 1, "new", 3);
}

static void die_behind(struct state_env *env, struct state *kv)
{
	if (state_put(kv, "k", 1, "new", 3) || state_env_commit(env, &id_b) ||
	    state_put(kv, "k", 1, "newer", 5))
		_exit(1);
}

static void test_killed(void **arg)
{
	(void)arg;
	char dir[64];
	rig_tmpdir(dir);
	struct state *kv;
	uint64_t n;
	struct state_env *env = open_env(dir, 4 << 20, &kv);
	put(kv, "k", "old");
	assert_int_equal(state_env_commit(env, &id_a), 0);
	state_env_close(env);

	for (int i = 0; i < 5; i++) {
		kill_in(dir, die_inside);
		env = open_env(dir, 4 << 20, &kv);
		assert_int_equal(state_env_committed(env, &id_a), 1);
		expect(kv, "k", "old");
		assert_int_equal(state_count(kv, &n), 0);
		assert_int_equal(n, 1);
		state_env_close(env);
	}
	kill_in(dir, die_behind);
	env = open_env(dir, 4 << 20, &kv);
	assert_int_equal(state_env_committed(env, &id_a), 0);
	assert_int_equal(state_env_committed(env, &id_b), 1);
	expect(kv, "k", "new");
	state_env_close(env);
	rig_remove(dir);
}

/* A child commits 1, 2, 3, ... and tells each number once it is committed; killed at any moment,
 * the state holds the last number told or the one behind it. */
static void test_killed_anywhere(void **arg)
{
	(void)arg;
	char dir[64];
	rig_tmpdir(dir);
	uint32_t start = 0;
	for (int round = 0; round < 12; round++) {
		int p[2];
		assert_int_equal(pipe(p), 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			struct state_env *env;
			struct state *kv;
			if (state_env_open(&env, dir, 4 << 20, 1, false) ||
			    state_env_step(env, 0, "dedupe", &kv))
				_exit(1);
			for (uint32_t i = start + 1;; i++) {
				struct commit_id id = {{9}, 1, 0, i};
				for (uint32_t j = 0; j < 50; j++) {
					uint32_t key = i * 7919 + j;
					if (state_put(kv, &key, sizeof(key) - 1, &i, sizeof(i)))
						_exit(1);
				}
				if (state_put(kv, "last", 4, &i, sizeof(i)) ||
				    state_env_commit(env, &id) || write(p[1], &i, sizeof(i)) < 0)
					_exit(1);
			}
		}
		close(p[1]);
		uint32_t told = 0, next;
		for (int i = 0; i < 40 + round && read(p[0], &next, sizeof(next)) == 4; i++)
			told = next;
		assert_true(told > start);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		while (read(p[0], &next, sizeof(next)) == sizeof(next))
			told = next;
		close(p[0]);
		struct state *kv;
		struct state_env *env = open_env(dir, 4 << 20, &kv);
		const uint8_t *val;
		size_t len;
		assert_int_equal(state_get(kv, "last", 4, &val, &len), 0);
		memcpy(&next, val, sizeof(next));
		assert_true(next == told || next == told + 1);
		struct commit_id id = {{9}, 1, 0, next};
		assert_int_equal(state_env_committed(env, &id), 1);
		start = next;
		state_env_close(env);
	}
	rig_remove(dir);
}

/* What a step remembered that is no more makes room again. */
static void test_former_step(void **arg)
{
	(void)arg;
	char dir[64];
	rig_tmpdir(dir);
	static const char *const names[] = {"dedupe", "aggregate", "cache"};
	char val[1000] = {1};
	for (int round = 0; round < 9; round++) {
		struct state_env *env;
		struct state *kv;
		uint64_t n;
		assert_int_equal(state_env_open(&env, dir, 1 << 20, 1, false), 0);
		assert_int_equal(state_env_step(env, 0, names[round % 3], &kv), 0);
		assert_int_equal(state_count(kv, &n), 0);
		assert_int_equal(n, 0);
		for (uint32_t i = 0; i < 80; i++)
			assert_int_equal(state_put(kv, &i, 4, val, sizeof(val)), 0);
		assert_int_equal(state_env_commit(env, &id_a), 0);
		state_env_close(env);
	}
	rig_remove(dir);
}

static uint32_t mix(uint32_t x)
{
	x ^= x >> 16;
	x *= 0x7feb352d;
	x ^= x >> 15;
	x *= 0x846ca68b;
	return x ^ x >> 16;
}

/* Fills a map of @size: STATE_E_FULL comes as an answer, the unit lives on, and full is no end. */
static void fill(uint64_t size, unsigned unit)
{
	char dir[64];
	rig_tmpdir(dir);
	struct state *kv;
	struct state_env *env = open_env(dir, size, &kv);
	char val[100] = {1};
	uint32_t n = 0, gone = 0;
	struct commit_id id = {.number = 1};
	int r;
	for (;; n++) {
		uint32_t key = mix(n);
		r = state_put(kv, &key, sizeof(key), val, sizeof(val));
		if (r)
			break;
		if (n % unit == unit - 1)
			assert_int_equal(state_env_commit(env, &id), 0);
	}
	assert_int_equal(r, STATE_E_FULL);
	uint64_t used, limit, rows;
	assert_int_equal(state_usage(kv, &used, &limit), 0);
	assert_true(used <= limit + 8192);
	assert_true(limit >= size / 4);
	assert_int_equal(state_count(kv, &rows), 0);
	assert_int_equal(rows, n);
	assert_true((uint64_t)n * 100 > size / 9);
	/* what is there can be replaced, again and again, all of it in one unit */
	for (int round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < n; i++) {
			uint32_t key = mix(i);
			assert_int_equal(state_put(kv, &key, 4, val, sizeof(val)), 0);
		}
		assert_int_equal(state_env_commit(env, &id), 0);
	}
	/* the oldest go, the newest come */
	for (uint32_t i = 0; i < n; i++) {
		uint32_t key = mix(n + i);
		while ((r = state_put(kv, &key, 4, val, sizeof(val))) == STATE_E_FULL) {
			uint32_t old = mix(gone++);
			assert_int_equal(state_del(kv, &old, 4), 0);
		}
		assert_int_equal(r, 0);
		if (i % unit == unit - 1)
			assert_int_equal(state_env_commit(env, &id), 0);
	}
	assert_int_equal(state_env_commit(env, &id), 0);
	assert_int_equal(state_count(kv, &rows), 0);
	assert_int_equal(rows, 2 * n - gone);
	state_env_close(env);
	char path[128];
	struct stat sb;
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	assert_int_equal(stat(path, &sb), 0);
	assert_true((uint64_t)sb.st_size <= size);
	rig_remove(dir);
}

static void test_full(void **arg)
{
	(void)arg;
	fill(1 << 20, 100);
	fill(1 << 20, 1000000);
	fill(8 << 20, 3000);
}

/* Values larger than a page need pages in a row: that they are not found spoils nothing either. */
static void test_full_large(void **arg)
{
	(void)arg;
	char dir[64];
	rig_tmpdir(dir);
	struct state *kv;
	struct state_env *env = open_env(dir, 2 << 20, &kv);
	static char val[60000];
	struct commit_id id = {.number = 1};
	unsigned full = 0;
	for (uint32_t i = 0; i < 400; i++) {
		uint32_t key = mix(i), old = mix(i - 5);
		int r = state_put(kv, &key, 4, val, 1 + mix(i) % sizeof(val));
		assert_true(r == 0 || r == STATE_E_FULL);
		full += r == STATE_E_FULL;
		r = state_del(kv, &old, 4);
		assert_true(r == 0 || r == STATE_E_NONE);
		put(kv, "always", "here");
		if (i % 7 == 0)
			assert_int_equal(state_env_commit(env, &id), 0);
	}
	assert_true(full < 200);
	static char huge[4 << 20];
	assert_int_equal(state_put(kv, "h", 1, huge, sizeof(huge)), STATE_E_FULL);
	expect(kv, "always", "here");
	assert_int_equal(state_env_commit(env, &id), 0);
	state_env_close(env);
	rig_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_basics),          cmocka_unit_test(test_owner),
	        cmocka_unit_test(test_refused),         cmocka_unit_test(test_killed),
	        cmocka_unit_test(test_killed_anywhere), cmocka_unit_test(test_full),
	        cmocka_unit_test(test_former_step),     cmocka_unit_test(test_full_large),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
