/*
 * exec: programs that work, die, hang, talk nonsense or too much, as producer, step and consumer.
 */
#include "tests/unit/rig.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "stages/child.h"
#include "ipc/clock.h"

extern const struct stage_ops exec_producer, exec_step, exec_consumer;

struct exec_rig {
	struct rig g;
	struct codec codec;
};

static void open_exec(struct exec_rig *e, const struct stage_ops *ops, const char *yaml,
                      const char *codec)
{
	memset(e, 0, sizeof(*e));
	rig_tmpdir(e->g.dir);
	e->g.host = host_new(16 << 10);
	rig_config(&e->g, ops, yaml, NULL);
	host_stage(e->g.host, &e->g.st, ops, e->g.config);
	if (codec) {
		const struct codec_ops *co = codec_find(codec);
		assert_non_null(co);
		assert_int_equal(codec_init(&e->codec, co, NULL, 16 << 10), 0);
		e->g.st.codec = &e->codec;
	}
	assert_int_equal(ops->open(&e->g.st), 0);
}

static void close_exec(struct exec_rig *e)
{
	if (e->g.st.codec)
		codec_deinit(&e->codec);
	rig_close(&e->g);
}

static int ask(struct exec_rig *e, int64_t n)
{
	rig_record(&e->g, "n", 'i', n, NULL);
	return e->g.st.ops->transform(&e->g.st, &e->g.rec);
}

static int64_t answer_n(struct exec_rig *e, const char *key)
{
	uint32_t len;
	const uint8_t *v = record_path(&e->g.rec, key, strlen(key), &len);
	assert_non_null(v);
	struct mp m = record_value(v, len);
	assert_int_equal(m.type, MP_UINT);
	return (int64_t)m.u;
}

#define PYTHON "command:\n- /usr/bin/python3\n- -uc\n- |\n"
#define LOOP \
 "  import sys, json, os, time\n  for l in sys.stdin:\n    r = json.loads(l); n = r['n']\n"

/* ---- step ---- */

static void test_step_answers(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_step,
	          PYTHON LOOP
	          "    a = [{'m': n + 1}, True, None, [{'m': 1}, {'m': 2}], 'no good', []][n % 6]\n"
	          "    print(json.dumps(a))\n",
	          NULL);
	struct test_host *h = e.g.host;
	for (int round = 0; round < 50; round++) {
		int64_t n = 6 * round;
		assert_int_equal(ask(&e, n), STAGE_OK);
		assert_int_equal(answer_n(&e, "m"), n + 1);
		assert_null(record_get(&e.g.rec, "n", 1));
		assert_int_equal(ask(&e, n + 1), STAGE_OK);
		assert_int_equal(answer_n(&e, "n"), n + 1);
		assert_int_equal(ask(&e, n + 2), STAGE_E_FILTERED);
		assert_int_equal(ask(&e, n + 3), STAGE_E_EMITTED);
		assert_int_equal(h->n, 2);
		assert_int_equal(rig_out(&e.g, 1, "m").u, 2);
		host_clear(h);
		assert_int_equal(ask(&e, n + 4), STAGE_E_REJECT);
		assert_string_equal(e.g.st.why, "exec: no good");
		assert_int_equal(ask(&e, n + 5), STAGE_E_EMITTED);
		assert_int_equal(h->n, 0);
	}
	close_exec(&e);
}

static void test_step_msgpack(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_step,
	          "format: msgpack\n" PYTHON "  import sys, msgpack\n"
	          "  u = msgpack.Unpacker(sys.stdin.buffer.raw, read_size=4096)\n"
	          "  for r in u:\n"
	          "    n = r['n']\n"
	          "    a = [{'m': n + 1}, True, None, [{'m': 1}], 'no'][n % 5]\n"
	          "    sys.stdout.buffer.write(msgpack.packb(a)); sys.stdout.buffer.flush()\n",
	          NULL);
	for (int64_t n = 0; n < 100; n += 5) {
		assert_int_equal(ask(&e, n), STAGE_OK);
		assert_int_equal(answer_n(&e, "m"), n + 1);
		assert_int_equal(ask(&e, n + 1), STAGE_OK);
		assert_int_equal(ask(&e, n + 2), STAGE_E_FILTERED);
		assert_int_equal(ask(&e, n + 3), STAGE_E_EMITTED);
		assert_int_equal(ask(&e, n + 4), STAGE_E_REJECT);
	}
	close_exec(&e);
}

/* A record that kills the program is set aside; the others are answered. */
static void test_step_dies(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_step,
	          "attempts: 2\n" PYTHON LOOP "    if n == 3: os.kill(os.getpid(), 11)\n"
	          "    if n == 4: sys.exit(7)\n"
	          "    print(l, end='')\n",
	          NULL);
	for (int64_t n = 0; n < 7; n++) {
		int r = ask(&e, n);
		if (n == 3 || n == 4) {
			assert_int_equal(r, STAGE_E_REJECT);
			assert_non_null(strstr(e.g.st.why, n == 3 ? "signal 11" : "status 7"));
		} else {
			assert_int_equal(r, STAGE_OK);
			assert_int_equal(answer_n(&e, "n"), n);
		}
	}
	close_exec(&e);
}

/* The same with the very first record: the program has proven nothing yet, but it does live
 * unasked. */
static void test_step_dies_first(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_step,
	          "attempts: 2\n" PYTHON LOOP "    if n == 0: sys.exit(1)\n"
	          "    print('true')\n",
	          NULL);
	assert_int_equal(ask(&e, 0), STAGE_E_REJECT);
	assert_int_equal(ask(&e, 1), STAGE_OK);
	close_exec(&e);
}

/* A program that is no good at all costs no records. */
static void test_step_broken(void **arg)
{
	(void)arg;
	static const char *const yaml[] = {"{command: [/nonexistent/program], attempts: 2}",
	                                   "{command: 'exit 3', attempts: 2}"};
	for (int i = 0; i < 2; i++) {
		struct exec_rig e;
		open_exec(&e, &exec_step, yaml[i], NULL);
		assert_int_equal(ask(&e, 0), -ECHILD);
		assert_non_null(strstr(e.g.st.why, i ? "status 3" : "/nonexistent/program"));
		close_exec(&e);
	}
}

static void test_step_hangs(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_step,
	          "attempts: 2\ntimeout: 500ms\n" PYTHON LOOP "    if n == 1: time.sleep(1000)\n"
	          "    print('true')\n",
	          NULL);
	assert_int_equal(ask(&e, 0), STAGE_OK);
	assert_int_equal(ask(&e, 1), STAGE_E_REJECT);
	assert_non_null(strstr(e.g.st.why, "no answer within 500 ms"));
	assert_int_equal(ask(&e, 2), STAGE_OK);
	close_exec(&e);
}

static void test_step_nonsense(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_step,
	          PYTHON LOOP
	          "    a = ['nonsense', '1', 'false', '[1]', '[{\"a\":1},null]', '1},{\"b\":2',\n"
	          "      '1}{\"b\":2', '', '{\"a\":1,\"a\":2}', 'true\\ntrue', '{\"a\":', "
	          "'\\x00'][n // 2]\n"
	          "    print('true' if n % 2 else a, end='\\n')\n",
	          NULL);
	for (int64_t n = 0; n < 24; n++) {
		int r = ask(&e, n);
		if (n % 2) {
			assert_int_equal(r, STAGE_OK);
			assert_int_equal(answer_n(&e, "n"), n);
			continue;
		}
		/* "true\ntrue" may come in two pieces: then the second is seen before the next
		 * question */
		if (n == 18 && r == STAGE_OK)
			continue;
		assert_int_equal(r, STAGE_E_REJECT);
		assert_non_null(strstr(e.g.st.why, "answer"));
	}
	assert_int_equal(e.g.host->n, 0);
	close_exec(&e);
}

static void test_step_huge(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_step,
	          "attempts: 2\n" PYTHON LOOP "    print('true' if n != 1 else 'x' * 100000000)\n",
	          NULL);
	assert_int_equal(ask(&e, 0), STAGE_OK);
	assert_int_equal(ask(&e, 1), STAGE_E_REJECT);
	assert_non_null(strstr(e.g.st.why, "longer than"));
	assert_int_equal(ask(&e, 2), STAGE_OK);
	close_exec(&e);
}

/* A record larger than a pipe, to a program that writes while it reads. */
static void test_step_large(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_step, "{command: cat}", NULL);
	static char text[300000];
	memset(text, 'x', sizeof(text) - 1);
	rig_record(&e.g, "n", 'i', (int64_t)5, "t", 's', text, NULL);
	size_t size = record_size(&e.g.rec);
	/* this host's largest record is smaller; the step does not mind */
	e.g.st.max_record = 512 << 10;
	assert_int_equal(e.g.st.ops->transform(&e.g.st, &e.g.rec), STAGE_E_REJECT);
	close_exec(&e);
	open_exec(&e, &exec_step, "{command: cat}", NULL);
	e.g.st.ops->close(&e.g.st);
	e.g.st.max_record = 512 << 10;
	assert_int_equal(e.g.st.ops->open(&e.g.st), 0);
	rig_record(&e.g, "n", 'i', (int64_t)5, "t", 's', text, NULL);
	assert_int_equal(e.g.st.ops->transform(&e.g.st, &e.g.rec), STAGE_OK);
	assert_int_equal(record_size(&e.g.rec), size);
	close_exec(&e);
}

/* ---- producer ---- */

/* Runs produce until it has ended or @n records and letters are there; it waits as the worker
 * would. */
static int produce(struct exec_rig *e, unsigned n)
{
	struct stage *st = &e->g.st;
	int64_t give_up = clock_monotonic() + 20000000000;
	while (e->g.host->n < n) {
		int r = st->ops->produce(st);
		if (r < 0 || r == STAGE_E_END)
			return r;
		assert_true(clock_monotonic() < give_up);
		if (r == STAGE_E_IDLE)
			poll(st->fds, st->n_fds, 50);
		else if (r == STAGE_E_UNREACHABLE)
			poll(NULL, 0, 20);
	}
	return 0;
}

static void test_producer(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_producer,
	          "{command: 'for i in 1 2 3; do echo \"{\\\"n\\\":$i}\"; done; echo bad; printf "
	          "\"{\\\"n\\\":9}\"; echo hello >&2'}",
	          "json");
	assert_int_equal(produce(&e, 1000), STAGE_E_END);
	assert_int_equal(e.g.host->n, 5);
	assert_int_equal(rig_out(&e.g, 2, "n").u, 3);
	assert_true(e.g.host->items[3].rejected);
	assert_int_equal(rig_out(&e.g, 4, "n").u, 9);
	assert_int_equal(e.g.st.ops->produce(&e.g.st), STAGE_E_END);
	close_exec(&e);
}

static void test_producer_restarts(void **arg)
{
	(void)arg;
	struct exec_rig e;
	char yaml[256];
	open_exec(&e, &exec_producer, "{command: 'echo \"{}\"; exit 1'}", "json");
	assert_int_equal(produce(&e, 3), 0);
	close_exec(&e);
	open_exec(&e, &exec_producer, "{command: 'echo \"{}\"', restart: true, every: 1ms}",
	          "json");
	assert_int_equal(produce(&e, 5), 0);
	close_exec(&e);
	open_exec(&e, &exec_producer, "{command: [/nonexistent]}", "json");
	assert_int_equal(e.g.st.ops->produce(&e.g.st), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(e.g.st.why, "No such file"));
	assert_int_equal(e.g.st.ops->produce(&e.g.st), STAGE_E_UNREACHABLE);
	close_exec(&e);
	/* a record that no buffer holds, then one that fits */
	snprintf(yaml, sizeof(yaml),
	         "command: \"head -c 1000000 /dev/zero | tr '\\\\0' x; echo; echo "
	         "'{\\\"n\\\":1}'\"\n");
	open_exec(&e, &exec_producer, yaml, "json");
	assert_int_equal(produce(&e, 1000), STAGE_E_END);
	unsigned n = e.g.host->n;
	assert_true(n >= 2 && e.g.host->items[0].rejected && !e.g.host->items[n - 1].rejected);
	assert_int_equal(rig_out(&e.g, n - 1, "n").u, 1);
	close_exec(&e);
}

static pid_t read_pid(const char *path)
{
	for (int i = 0; i < 1000; i++) {
		FILE *f = fopen(path, "r");
		long pid = 0;
		if (f) {
			int n = fscanf(f, "%ld\n", &pid);
			fclose(f);
			if (n == 1)
				return (pid_t)pid;
		}
		poll(NULL, 0, 10);
	}
	fail_msg("no pid in %s", path);
	return 0;
}

static bool alive(pid_t pid)
{
	char path[64], state = 'X';
	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	FILE *f = fopen(path, "r");
	if (!f)
		return false;
	int n = fscanf(f, "%*d %*s %c", &state);
	fclose(f);
	return n == 1 && state != 'Z' && state != 'X';
}

static void wait_dead(pid_t pid)
{
	for (int i = 0; i < 1000 && alive(pid); i++)
		poll(NULL, 0, 10);
	assert_false(alive(pid));
}

/* Closing takes the whole group with it. */
static void test_group(void **arg)
{
	(void)arg;
	struct exec_rig e;
	char yaml[512], path[64];
	memset(&e, 0, sizeof(e));
	snprintf(path, sizeof(path), "/tmp/sluice-test-pid-%ld", (long)getpid());
	snprintf(yaml, sizeof(yaml),
	         "command: |\n  trap '' TERM\n  sleep 1000 &\n  echo $! > %s.new; mv %s.new %s\n"
	         "  echo '{}'\n  wait; wait; sleep 1000\n",
	         path, path, path);
	open_exec(&e, &exec_producer, yaml, "json");
	assert_int_equal(produce(&e, 1), 0);
	pid_t pid = read_pid(path);
	assert_true(alive(pid));
	close_exec(&e);
	wait_dead(pid);
	unlink(path);
}

/* A killed worker takes its program with it. */
static void test_parent_killed(void **arg)
{
	(void)arg;
	char path[64], text[512];
	snprintf(path, sizeof(path), "/tmp/sluice-test-pid-%ld", (long)getpid());
	snprintf(text, sizeof(text), "echo $$ > %s.new; mv %s.new %s; exec sleep 1000", path, path,
	         path);
	const char *argv[] = {text};
	struct child_command cmd = {{argv, 1}, true};
	pid_t worker = fork();
	assert_true(worker >= 0);
	if (worker == 0) {
		struct child c;
		child_init(&c, &cmd, "test", 4096);
		if (child_start(&c) == 0)
			pause();
		_exit(1);
	}
	pid_t pid = read_pid(path);
	assert_true(alive(pid));
	kill(worker, SIGKILL);
	waitpid(worker, NULL, 0);
	wait_dead(pid);
	unlink(path);
}

/* ---- consumer ---- */

static int consume(struct exec_rig *e, int64_t n)
{
	rig_record(&e->g, "n", 'i', n, NULL);
	return e->g.st.ops->consume(&e->g.st, e->g.bytes.p, e->g.bytes.len);
}

/* Delivers 0..n-1 as one unit, as often as it takes. Returns the number of tries. */
static int deliver(struct exec_rig *e, int64_t n)
{
	const struct stage_ops *ops = e->g.st.ops;
	for (int try = 1; try < 100; try++) {
		int r = ops->begin(&e->g.st);
		for (int64_t i = 0; i < n && r == 0; i++)
			r = consume(e, i);
		if (r == 0)
			r = ops->finish(&e->g.st);
		assert_true(r >= 0);
		if (r == 0)
			return try;
		ops->rollback(&e->g.st);
		poll(NULL, 0, 10);
	}
	fail_msg("never delivered: %s", e->g.st.why);
	return 0;
}

static char *slurp(const char *path)
{
	static char text[1 << 20];
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	return text;
}

static unsigned lines(const char *s)
{
	unsigned n = 0;
	for (; *s; s++)
		n += *s == '\n';
	return n;
}

static void test_consumer_none(void **arg)
{
	(void)arg;
	struct exec_rig e;
	char yaml[200], path[64];
	snprintf(path, sizeof(path), "/tmp/sluice-test-out-%ld", (long)getpid());
	snprintf(yaml, sizeof(yaml), "{command: 'cat > %s'}", path);
	open_exec(&e, &exec_consumer, yaml, "json");
	for (int i = 0; i < 5; i++)
		assert_int_equal(deliver(&e, 10000), 1);
	close_exec(&e); /* it reads to the end */
	char *s = slurp(path);
	assert_int_equal(lines(s), 50000);
	assert_non_null(strstr(s, "{\"n\":9999}\n"));
	unlink(path);
}

static void test_consumer_record(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_consumer,
	          "acknowledge: record\n" PYTHON LOOP "    if n == 7: os._exit(1)\n"
	          "    print(['ok', 'error too odd', 'retry later on', 'what'][n] if n < 4 else "
	          "'ok')\n",
	          "json");
	e.g.st.ops->begin(&e.g.st);
	assert_int_equal(consume(&e, 0), STAGE_OK);
	assert_int_equal(consume(&e, 1), STAGE_E_REJECT);
	assert_string_equal(e.g.st.why, "too odd");
	assert_int_equal(consume(&e, 4), STAGE_OK);
	assert_int_equal(consume(&e, 2), STAGE_E_RETRY);
	assert_string_equal(e.g.st.why, "later on");
	e.g.st.ops->rollback(&e.g.st);
	e.g.st.ops->begin(&e.g.st);
	assert_int_equal(consume(&e, 5), STAGE_OK);
	assert_int_equal(consume(&e, 3), STAGE_E_RETRY);
	assert_non_null(strstr(e.g.st.why, "what"));
	e.g.st.ops->rollback(&e.g.st);
	assert_true(deliver(&e, 1) >= 1);
	assert_int_equal(consume(&e, 7), STAGE_E_RETRY);
	assert_non_null(strstr(e.g.st.why, "status 1"));
	e.g.st.ops->rollback(&e.g.st);
	assert_true(deliver(&e, 1) >= 1);
	close_exec(&e);
}

/* Batches: what was not acknowledged comes again, from its first record, to a new program. */
static void test_consumer_batch(void **arg)
{
	(void)arg;
	struct exec_rig e;
	char yaml[2000], path[64];
	snprintf(path, sizeof(path), "/tmp/sluice-test-out-%ld", (long)getpid());
	unlink(path);
	snprintf(yaml, sizeof(yaml),
	         "acknowledge: batch\n" PYTHON "  import sys, os\n"
	         "  p = '%s'\n"
	         "  batch = []\n"
	         "  for l in sys.stdin:\n"
	         "    if l != '\\n': batch.append(l); continue\n"
	         "    k = open(p + '.k').read() if os.path.exists(p + '.k') else ''\n"
	         "    open(p + '.k', 'w').write(k + 'x')\n"
	         "    if len(k) == 1: os._exit(2)\n"
	         "    if len(k) == 3: print('retry busy'); batch = []; continue\n"
	         "    open(p, 'a').writelines(batch); batch = []\n"
	         "    print('ok')\n",
	         path);
	open_exec(&e, &exec_consumer, yaml, "json");
	assert_int_equal(deliver(&e, 100), 1);
	assert_true(deliver(&e, 100) > 1);
	assert_int_equal(deliver(&e, 100), 2); /* told to retry: no new program needed */
	assert_int_equal(deliver(&e, 100), 1);
	close_exec(&e);
	assert_int_equal(lines(slurp(path)), 400);
	unlink(path);
	strcat(path, ".k");
	unlink(path);
}

static void test_consumer_broken(void **arg)
{
	(void)arg;
	struct exec_rig e;
	open_exec(&e, &exec_consumer, "{command: [/nonexistent]}", "json");
	assert_int_equal(consume(&e, 1), STAGE_E_UNREACHABLE);
	close_exec(&e);
	open_exec(&e, &exec_consumer, "{command: 'exit 1', acknowledge: record}", "json");
	assert_int_equal(consume(&e, 1), STAGE_E_UNREACHABLE);
	close_exec(&e);
	/* one that does not read */
	open_exec(&e, &exec_consumer, "{command: 'exec sleep 1000'}", "json");
	e.g.st.timeout = 300000000;
	e.g.st.ops->begin(&e.g.st);
	int r = 0;
	for (int64_t i = 0; i < 1000000 && !r; i++)
		r = consume(&e, i);
	assert_int_equal(r, STAGE_E_UNREACHABLE);
	assert_non_null(strstr(e.g.st.why, "300 ms"));
	close_exec(&e);
}

/* No descriptor and no process is left. */
static void test_no_leaks(void **arg)
{
	(void)arg;
	struct exec_rig e;
	struct stat sb;
	int before = 0, after = 0;
	for (int fd = 0; fd < 200; fd++)
		before += fstat(fd, &sb) == 0;
	for (int i = 0; i < 20; i++) {
		open_exec(&e, &exec_step, "{command: cat}", NULL);
		assert_int_equal(ask(&e, i), STAGE_OK);
		close_exec(&e);
		open_exec(&e, &exec_consumer, "{command: [/nonexistent]}", "json");
		assert_int_equal(consume(&e, 1), STAGE_E_UNREACHABLE);
		close_exec(&e);
	}
	for (int fd = 0; fd < 200; fd++)
		after += fstat(fd, &sb) == 0;
	assert_int_equal(before, after);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_step_answers),      cmocka_unit_test(test_step_msgpack),
	        cmocka_unit_test(test_step_dies),         cmocka_unit_test(test_step_dies_first),
	        cmocka_unit_test(test_step_broken),       cmocka_unit_test(test_step_hangs),
	        cmocka_unit_test(test_step_nonsense),     cmocka_unit_test(test_step_huge),
	        cmocka_unit_test(test_step_large),        cmocka_unit_test(test_producer),
	        cmocka_unit_test(test_producer_restarts), cmocka_unit_test(test_group),
	        cmocka_unit_test(test_parent_killed),     cmocka_unit_test(test_consumer_none),
	        cmocka_unit_test(test_consumer_record),   cmocka_unit_test(test_consumer_batch),
	        cmocka_unit_test(test_consumer_broken),   cmocka_unit_test(test_no_leaks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
