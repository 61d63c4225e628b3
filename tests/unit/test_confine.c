/*
 * Confinement, by trying: for each kind of stage a process is confined as its worker would be and
 * then does what is forbidden and what is needed. Also prints what confining costs a worker at its
 * start.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "daemon/confine_stage.h"
#include "stages/regex.h"

static const char yaml[] = "arena: {size: 4MiB, buffer: 64KiB}\n"
                           "state: {path: %1$s/state, size: 1MiB}\n"
                           "control: {socket: %1$s/c.sock}\n"
                           "dead_letters: {path: %1$s/dead}\n"
                           "daemon: {runtime_dir: %1$s/run}\n"
                           "producers:\n"
                           "  gen: {type: generate, count: 1}\n"
                           "  in: {type: file, path: %1$s/in/x, codec: lines}\n"
                           "  net: {type: zmq, listen: \"tcp://127.0.0.1:5999\", codec: json}\n"
                           "transformers:\n"
                           "  plain: {from: [gen, in, net], steps: [{set: {a: 1}}]}\n"
                           "  memory: {from: plain, steps: [{dedupe: {by: [a]}}]}\n"
                           "  prog: {from: memory, steps: [{exec: {command: [cat]}}]}\n"
                           "consumers:\n"
                           "  out: {from: prog, type: file, path: %1$s/out/o.ndjson, codec: json}\n"
                           "  db: {from: prog, type: sqlite, path: %1$s/out/o.db, table: t}\n";

static char dir[64];
static struct config *cfg;

static void path(char *out, const char *tail)
{
	snprintf(out, 256, "%s/%s", dir, tail);
}

static int setup(void **state)
{
	static const char *const parts[] = {"in", "out", "run", "else"};
	char file[256], text[4096];
	(void)state;
	strcpy(dir, "/tmp/slcXXXXXX");
	if (!mkdtemp(dir))
		return -1;
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		path(file, parts[i]);
		mkdir(file, 0755);
	}
	path(file, "in/x");
	close(open(file, O_CREAT | O_WRONLY, 0644));
	path(file, "else/s");
	close(open(file, O_CREAT | O_WRONLY, 0644));
	path(file, "run/ipc");
	mkdir(file, 0700);
	path(file, "sluice.yaml");
	snprintf(text, sizeof(text), yaml, dir);
	FILE *f = fopen(file, "w");
	fputs(text, f);
	fclose(f);
	struct complaints c = {0};
	cfg = config_load(file, &c);
	if (!cfg)
		fprintf(stderr, "%.*s", (int)c.text.len, (char *)c.text.p);
	buf_deinit(&c.text);
	return cfg ? 0 : -1;
}

static int teardown(void **state)
{
	char command[128];
	(void)state;
	config_free(cfg);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

/* ---- what is tried: each returns 0 or an errno ---- */

static int opens(const char *file, int flags)
{
	int fd = open(file, flags | O_CLOEXEC, 0600);
	int r = fd < 0 ? errno : 0;
	if (fd >= 0)
		close(fd);
	return r;
}

static int opens_below(const char *tail, int flags)
{
	char file[256];
	path(file, tail);
	return opens(file, flags);
}

static int sockets(int family)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r = fd < 0 ? errno : 0;
	if (fd >= 0)
		close(fd);
	return r;
}

/* vfork is a call of its own; clone3 is what posix_spawn uses first. 0: a program ran. */
static int executes(void)
{
	char *argv[] = {"/bin/true", NULL}, *envp[] = {NULL};
	int pipes[2], said = 0;
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return errno;
	pid_t pid = fork();
	if (pid < 0)
		return errno;
	if (pid == 0) {
		execve(argv[0], argv, envp);
		int e = errno;
		(void)!write(pipes[1], &e, sizeof(e));
		_exit(1);
	}
	close(pipes[1]);
	ssize_t n = read(pipes[0], &said, sizeof(said));
	waitpid(pid, NULL, 0);
	return n == (ssize_t)sizeof(said) ? said : 0;
}

/* In this very process: it is gone when it works. */
static int executes_itself(void)
{
	char *argv[] = {"/bin/true", NULL}, *envp[] = {NULL};
	execve(argv[0], argv, envp);
	return errno;
}

static int traces(void)
{
	return ptrace(PTRACE_ATTACH, getppid(), NULL, NULL) < 0 ? errno : 0;
}

static int signals_parent(void)
{
	return kill(getppid(), 0) < 0 ? errno : 0;
}

static void *nothing(void *arg)
{
	return arg;
}

static int threads(void)
{
	pthread_t t;
	int r = pthread_create(&t, NULL, nothing, NULL);
	if (r == 0)
		pthread_join(t, NULL);
	return r;
}

static int allocates(void)
{
	void *p = malloc(64 << 20);
	if (!p)
		return ENOMEM;
	memset(p, 1, 64 << 20);
	free(p);
	return 0;
}

static int maps_code(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p == MAP_FAILED ? errno : 0;
}

static int binds_doorbell(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%.64s/run/ipc/bell", dir);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	int r = bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || unlink(sa.sun_path) < 0 ? errno
	                                                                                    : 0;
	close(fd);
	return r;
}

/* ---- the process that tries ---- */

enum {
	TRY_PASSWD,
	TRY_READ_ELSE,
	TRY_WRITE_ELSE,
	TRY_WRITE_OUT,
	TRY_READ_IN,
	TRY_WRITE_STATE,
	TRY_INET,
	TRY_PACKET,
	TRY_EXEC,
	TRY_PTRACE,
	TRY_SIGNAL,
	TRY_THREAD,
	TRY_MEMORY,
	TRY_CODE,
	TRY_BELL,
	TRY_BITS,
	TRY_MISSING,
	TRIES,
};

static void try_all(int *r)
{
	r[TRY_PASSWD] = opens("/etc/passwd", O_RDONLY);
	r[TRY_READ_ELSE] = opens_below("else/s", O_RDONLY);
	r[TRY_WRITE_ELSE] = opens_below("else/f", O_RDWR | O_CREAT);
	r[TRY_WRITE_OUT] = opens_below("out/f", O_RDWR | O_CREAT);
	r[TRY_READ_IN] = opens_below("in/x", O_RDONLY);
	r[TRY_WRITE_STATE] = opens_below("state/memory.0/f", O_RDWR | O_CREAT);
	r[TRY_INET] = sockets(AF_INET);
	r[TRY_PACKET] = sockets(AF_PACKET);
	r[TRY_EXEC] = executes();
	r[TRY_PTRACE] = traces();
	r[TRY_SIGNAL] = signals_parent();
	r[TRY_THREAD] = threads();
	r[TRY_MEMORY] = allocates();
	r[TRY_CODE] = maps_code();
	r[TRY_BELL] = binds_doorbell();
}

static void try_as(const char *stage, int *r)
{
	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		struct confine_plan p;
		confine_plan_stage(&p, cfg, config_stage(cfg, stage), 0);
		uint32_t done = confine_late(&p, confine_early(&p));
		try_all(r);
		r[TRY_BITS] = (int)done;
		r[TRY_MISSING] = (int)(p.want & ~done);
		(void)!write(pipes[1], r, TRIES * sizeof(*r));
		_exit(0);
	}
	close(pipes[1]);
	assert_int_equal(read(pipes[0], r, TRIES * sizeof(*r)), TRIES * sizeof(*r));
	close(pipes[0]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static bool have_landlock(void)
{
	return syscall(444, NULL, 0, 1) > 0;
}

#define REFUSED(v) assert_true((v) == EACCES || (v) == EPERM || (v) == EAFNOSUPPORT)

static void check_common(const int *r)
{
	assert_int_equal(r[TRY_THREAD], 0);
	assert_int_equal(r[TRY_MEMORY], 0);
	REFUSED(r[TRY_PTRACE]);
}

/* What no stage but one that runs programs may do. */
static void check_closed(const int *r)
{
	check_common(r);
	REFUSED(r[TRY_EXEC]);
	REFUSED(r[TRY_PACKET]);
	REFUSED(r[TRY_SIGNAL]);
	assert_int_equal(r[TRY_BELL], 0);
	if (have_landlock()) {
		REFUSED(r[TRY_READ_ELSE]);
		REFUSED(r[TRY_WRITE_ELSE]);
		if (r[TRY_INET]) /* names are looked up in /etc */
			REFUSED(r[TRY_PASSWD]);
		assert_int_equal(r[TRY_MISSING], 0);
	}
}

static void test_transformer(void **state)
{
	int r[TRIES] = {0};
	(void)state;
	try_as("plain", r);
	check_closed(r);
	REFUSED(r[TRY_INET]);
	REFUSED(r[TRY_WRITE_OUT]);
	REFUSED(r[TRY_WRITE_STATE]);
	REFUSED(r[TRY_READ_IN]);
	REFUSED(r[TRY_CODE]);
	assert_int_equal(r[TRY_BITS], (1 << CONFINED_COUNT) - 1);
}

static void test_stateful(void **state)
{
	int r[TRIES] = {0};
	(void)state;
	try_as("memory", r);
	check_closed(r);
	REFUSED(r[TRY_INET]);
	assert_int_equal(r[TRY_WRITE_STATE], 0);
	if (have_landlock())
		REFUSED(r[TRY_WRITE_OUT]);
}

static void test_generator(void **state)
{
	int r[TRIES] = {0};
	(void)state;
	try_as("gen", r);
	check_closed(r);
	REFUSED(r[TRY_INET]);
	REFUSED(r[TRY_READ_IN]);
}

static void test_file_producer(void **state)
{
	int r[TRIES] = {0};
	(void)state;
	try_as("in", r);
	check_closed(r);
	REFUSED(r[TRY_INET]);
	assert_int_equal(r[TRY_READ_IN], 0);
	if (have_landlock())
		REFUSED(r[TRY_WRITE_OUT]);
}

static void test_net_producer(void **state)
{
	int r[TRIES] = {0};
	(void)state;
	try_as("net", r);
	check_closed(r);
	assert_int_equal(r[TRY_INET], 0);
	if (have_landlock())
		REFUSED(r[TRY_WRITE_OUT]);
}

static void check_writer(const char *stage)
{
	int r[TRIES] = {0};
	try_as(stage, r);
	check_closed(r);
	REFUSED(r[TRY_INET]);
	assert_int_equal(r[TRY_WRITE_OUT], 0);
	if (have_landlock())
		REFUSED(r[TRY_READ_IN]);
}

static void test_file_consumers(void **state)
{
	(void)state;
	check_writer("out");
	check_writer("db");
}

static void test_dead_letters(void **state)
{
	int r[TRIES] = {0};
	(void)state;
	try_as(cfg->stages[cfg->dead_stage].name, r);
	check_closed(r);
	REFUSED(r[TRY_INET]);
}

/* May run programs, but neither gain privileges nor do what no pipeline does. */
static void test_exec(void **state)
{
	int r[TRIES] = {0};
	(void)state;
	try_as("prog", r);
	check_common(r);
	assert_int_equal(r[TRY_EXEC], 0);
	assert_int_equal(r[TRY_INET], 0);
	assert_int_equal(r[TRY_BITS], CONFINED_BIT(privileges) | CONFINED_BIT(calls));
	assert_int_equal(r[TRY_MISSING], 0);
}

/* fork is refused already; so is execve alone. */
static void test_execve_alone(void **state)
{
	int status;
	(void)state;
	pid_t pid = fork();
	if (pid == 0) {
		struct confine_plan p;
		confine_plan_stage(&p, cfg, config_stage(cfg, "out"), 0);
		confine_late(&p, confine_early(&p));
		_exit(executes_itself() == EPERM ? 42 : 43);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
}

/* A thread that was there before the system calls were confined is confined too. */
static void *open_in_thread(void *arg)
{
	int *pipes = arg;
	char c;
	(void)!read(pipes[0], &c, 1);
	return (void *)(intptr_t)sockets(AF_INET);
}

static void test_earlier_thread(void **state)
{
	int status, pipes[2];
	(void)state;
	assert_int_equal(pipe(pipes), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct confine_plan p;
		pthread_t t;
		void *said;
		confine_plan_stage(&p, cfg, config_stage(cfg, "plain"), 0);
		uint32_t early = confine_early(&p);
		pthread_create(&t, NULL, open_in_thread, pipes);
		confine_late(&p, early);
		(void)!write(pipes[1], "x", 1);
		pthread_join(t, &said);
		_exit(said == (void *)(intptr_t)EPERM ? 42 : 43);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 42);
}

/* Where code pages may not be written, patterns are matched without being compiled to code. */
static void test_regex_without_code_pages(void **state)
{
	int status;
	(void)state;
	pid_t pid = fork();
	if (pid == 0) {
		struct confine_plan p;
		confine_plan_stage(&p, cfg, config_stage(cfg, "plain"), 0);
		confine_late(&p, confine_early(&p));
		char why[256] = "";
		struct regex *re = regex_new("^a(b+)c$", 8, why, sizeof(why));
		if (!re)
			_exit(44);
		regex_jit(re);
		int yes = regex_match(re, (const uint8_t *)"abbbc", 5, 0, NULL, NULL);
		int no = regex_match(re, (const uint8_t *)"abbb", 4, 0, NULL, NULL);
		_exit(yes == REGEX_E_OK && no == REGEX_E_NONE ? 42 : 43);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 42);
}

static void test_cost(void **state)
{
	enum { ROUNDS = 20 };
	int64_t ns = 0;
	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		int pipes[2];
		int64_t one = 0;
		assert_int_equal(pipe(pipes), 0);
		pid_t pid = fork();
		if (pid == 0) {
			struct timespec a, b;
			struct confine_plan p;
			clock_gettime(CLOCK_MONOTONIC, &a);
			confine_plan_stage(&p, cfg, config_stage(cfg, "out"), 0);
			confine_late(&p, confine_early(&p));
			clock_gettime(CLOCK_MONOTONIC, &b);
			one = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
			(void)!write(pipes[1], &one, sizeof(one));
			_exit(0);
		}
		close(pipes[1]);
		assert_int_equal(read(pipes[0], &one, sizeof(one)), sizeof(one));
		close(pipes[0]);
		waitpid(pid, NULL, 0);
		ns += one;
	}
	printf("confining a worker costs %.2f ms\n", (double)ns / ROUNDS / 1e6);
	assert_true(ns / ROUNDS < 100000000); /* a slip of two orders of magnitude */
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_transformer),
	        cmocka_unit_test(test_stateful),
	        cmocka_unit_test(test_generator),
	        cmocka_unit_test(test_file_producer),
	        cmocka_unit_test(test_net_producer),
	        cmocka_unit_test(test_file_consumers),
	        cmocka_unit_test(test_dead_letters),
	        cmocka_unit_test(test_exec),
	        cmocka_unit_test(test_execve_alone),
	        cmocka_unit_test(test_earlier_thread),
	        cmocka_unit_test(test_regex_without_code_pages),
	        cmocka_unit_test(test_cost),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
