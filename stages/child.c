/*
 * Running a program over pipes: see child.h.
 *
 * The hard idea: vfork(). The worker has threads (ZeroMQ's) and large mappings; between vfork and
 * exec the child borrows our memory and only makes system calls, with all signals blocked so that
 * no handler of ours runs in it. It can report why it could not exec by a plain store. posix_spawn
 * would do as much but cannot ask for the parent-death signal.
 *
 * Invariants: in, out, err are -1 or open; pid is 0 or a child not yet reaped.
 *
 * Honest limits: the parent-death signal reaches the program itself, not what it started in turn;
 * that finds its pipes closed. The program inherits the worker's limits (memory_max) and its user.
 * SIGPIPE is ignored in this process from the first start on.
 */
#include "stages/child.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "ipc/clock.h"
#include "ipc/err.h"
#include "ipc/log.h"

enum {
	READ_SIZE = 65536,
	LINE_MAX_BYTES = 1024, /* of stderr; longer ones are cut */
	MS = 1000000,
};

static const int64_t PAUSE_MIN = 100ll * MS, PAUSE_MAX = 30000ll * MS, TERM_GRACE = 500ll * MS;

void child_check(struct child_command *cmd, const struct node *node, struct complaints *c)
{
	const struct node *n = node ? node_get(node, "command") : NULL;
	if (!n)
		return;
	cmd->shell = n->kind == NODE_SCALAR;
	if (!cmd->argv.n || !cmd->argv.v[0][0])
		complain(c, n, "command: expected a program to run");
}

void child_init(struct child *c, const struct child_command *command, const char *name,
                size_t max_in)
{
	*c = (struct child){.command = command, .name = name, .in = -1, .out = -1, .err = -1};
	c->max_in = max_in;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void child_deinit(struct child *c, int64_t grace)
{
	child_stop(c, grace, true);
	buf_deinit(&c->to);
	buf_deinit(&c->from);
	buf_deinit(&c->line);
}

/* ---- start ---- */

/* The child's side, in borrowed memory: system calls only. */
static void become(char *const *argv, const int fds[3], pid_t parent, volatile int *error)
{
	sigset_t none;
	sigemptyset(&none);
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigaction(SIGPIPE, &dfl, NULL);
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	for (int i = 0; i < 3; i++)
		if (dup2(fds[i], i) < 0) {
			*error = errno;
			_exit(127);
		}
	syscall(SYS_close_range, 3u, ~0u, 0u);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execvp(argv[0], argv);
	*error = errno;
	_exit(127);
}

static int spawn(char *const *argv, const int fds[3], pid_t *pid)
{
	volatile int error = 0;
	pid_t parent = getpid();
	sigset_t all, old;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	pid_t p = vfork();
	if (p == 0)
		become(argv, fds, parent, &error);
	int r = p < 0 ? err_errno() : error ? -error : 0;
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (p > 0 && r < 0)
		waitpid(p, NULL, 0);
	*pid = r ? 0 : p;
	return r;
}

static int start_argv(struct child *c, const int fds[3])
{
	const struct child_command *cmd = c->command;
	size_t n = cmd->argv.n;
	_cleanup_free_ char **argv = calloc(n + 4, sizeof(*argv));
	if (!argv)
		return -ENOMEM;
	static char sh[] = "/bin/sh", minus_c[] = "-c";
	char **a = argv;
	if (cmd->shell) {
		*a++ = sh;
		*a++ = minus_c;
	}
	for (size_t i = 0; i < n; i++)
		a[i] = (char *)cmd->argv.v[i];
	return spawn(argv, fds, &c->pid);
}

/* A pipe of which neither end is 0, 1 or 2: dup2 in the child could else close one it still needs.
 */
static int safe_pipe(int p[2])
{
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_errno();
	for (int i = 0; i < 2; i++) {
		if (p[i] > 2)
			continue;
		int fd = fcntl(p[i], F_DUPFD_CLOEXEC, 3);
		if (fd < 0) {
			int r = err_errno();
			close(p[0]);
			close(p[1]);
			return r;
		}
		close(p[i]);
		p[i] = fd;
	}
	return 0;
}

/* Three pipes: [0] stdin, [1] stdout, [2] stderr. */
static int open_pipes(int p[3][2])
{
	for (int i = 0; i < 3; i++) {
		int r = safe_pipe(p[i]);
		if (!r)
			continue;
		while (i-- > 0) {
			close(p[i][0]);
			close(p[i][1]);
		}
		return r;
	}
	return 0;
}

static int start_now(struct child *c)
{
	int p[3][2];
	int r = open_pipes(p);
	if (r)
		return r;
	const int theirs[3] = {p[0][0], p[1][1], p[2][1]};
	c->in = p[0][1];
	c->out = p[1][0];
	c->err = p[2][0];
	r = start_argv(c, theirs);
	for (int i = 0; i < 3; i++)
		close(theirs[i]);
	const int ours[3] = {c->in, c->out, c->err};
	for (int i = 0; i < 3; i++)
		fcntl(ours[i], F_SETFL, O_NONBLOCK);
	if (r) {
		close_fd(&c->in);
		close_fd(&c->out);
		close_fd(&c->err);
	}
	return r;
}

static void forget_talk(struct child *c)
{
	c->to.len = c->to_off = 0;
	c->from.len = c->from_off = 0;
}

/* The pause before the next start: doubled each time, a random half of it (so that many workers do
 * not start theirs at once). */
static void count_failure(struct child *c)
{
	int64_t pause = PAUSE_MIN;
	uint32_t v = 0;
	for (unsigned i = 0; i < c->failures && pause < PAUSE_MAX; i++)
		pause *= 2;
	if (pause > PAUSE_MAX)
		pause = PAUSE_MAX;
	c->failures++;
	if (getrandom(&v, sizeof(v), GRND_NONBLOCK) < 0)
		v = 0;
	c->next_start =
	        clock_monotonic() + pause / 2 + (int64_t)((double)pause / 2 * (v / 4294967296.0));
}

int child_start(struct child *c)
{
	if (c->pid)
		return 0;
	if (clock_monotonic() < c->next_start)
		return CHILD_E_PAUSE;
	signal(SIGPIPE, SIG_IGN);
	forget_talk(c);
	c->line.len = 0;
	int r = start_now(c);
	if (!r) {
		c->why[0] = 0;
		return 0;
	}
	if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
		return r;
	snprintf(c->why, sizeof(c->why), "%.60s cannot be started: %s",
	         c->command->shell ? "/bin/sh" : c->command->argv.v[0], strerror(-r));
	count_failure(c);
	return CHILD_E_START;
}

void child_worked(struct child *c)
{
	c->failures = 0;
}

/* ---- talk ---- */

static void tell_line(struct child *c)
{
	size_t n = c->line.len;
	while (n && (c->line.p[n - 1] == '\r' || c->line.p[n - 1] == ' '))
		n--;
	for (size_t i = 0; i < n; i++)
		if (c->line.p[i] < ' ' && c->line.p[i] != '\t')
			c->line.p[i] = '?';
	if (n)
		log_notice("%s: program: %.*s", c->name, (int)n, (char *)c->line.p);
	c->line.len = 0;
}

static void read_err(struct child *c)
{
	uint8_t bytes[4096];
	ssize_t n = read(c->err, bytes, sizeof(bytes));
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		tell_line(c);
		close_fd(&c->err);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (bytes[i] == '\n')
			tell_line(c);
		else if (c->line.len < LINE_MAX_BYTES)
			buf_add_byte(&c->line, bytes[i]);
	}
}

/* 0, CHILD_E_GONE at the end, CHILD_E_LONG, -ENOMEM. */
static int read_out(struct child *c)
{
	if (c->from_off == c->from.len)
		c->from.len = c->from_off = 0;
	if (c->from.len - c->from_off >= c->max_in)
		return CHILD_E_LONG;
	if (c->from_off > READ_SIZE) {
		memmove(c->from.p, c->from.p + c->from_off, c->from.len - c->from_off);
		c->from.len -= c->from_off;
		c->from_off = 0;
	}
	int r = buf_room(&c->from, READ_SIZE);
	if (r < 0)
		return r;
	ssize_t n = read(c->out, c->from.p + c->from.len, READ_SIZE);
	if (n > 0)
		c->from.len += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		return CHILD_E_GONE;
	return 0;
}

static void write_in(struct child *c)
{
	ssize_t n = write(c->in, c->to.p + c->to_off, child_unsent(c));
	if (n > 0)
		c->to_off += (size_t)n;
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		close_fd(&c->in); /* it reads no more; whether that is an error its end or its
		                     silence tells */
	if (c->to_off == c->to.len)
		c->to.len = c->to_off = 0;
}

/* Waits for any of the three. @fds: in, out, err. */
static int wait_for(struct child *c, struct pollfd fds[3], int64_t deadline)
{
	fds[0] = (struct pollfd){child_unsent(c) ? c->in : -1, POLLOUT, 0};
	fds[1] = (struct pollfd){c->out, POLLIN, 0};
	fds[2] = (struct pollfd){c->err, POLLIN, 0};
	int64_t left = deadline ? deadline - clock_monotonic() : 0;
	if (left < 0)
		left = 0;
	struct timespec ts = {left / 1000000000, left % 1000000000};
	int n = ppoll(fds, 3, &ts, NULL);
	if (n < 0 && errno != EINTR)
		return err_errno();
	return n > 0 ? 0 : n == 0 && deadline ? CHILD_E_LATE : 0;
}

int child_talk(struct child *c, int64_t deadline)
{
	if (!c->pid || c->out < 0)
		return CHILD_E_GONE;
	struct pollfd fds[3];
	int r = wait_for(c, fds, deadline);
	if (r)
		return r;
	if (fds[2].revents)
		read_err(c);
	if (fds[0].revents)
		write_in(c);
	return fds[1].revents ? read_out(c) : 0;
}

void child_take(struct child *c, size_t len)
{
	c->from_off += len;
	if (c->from_off >= c->from.len)
		c->from.len = c->from_off = 0;
}

const uint8_t *child_line(const struct child *c, size_t *len)
{
	size_t n;
	const uint8_t *p = child_has(c, &n);
	const uint8_t *nl = p ? memchr(p, '\n', n) : NULL;
	if (!nl)
		return NULL;
	*len = (size_t)(nl - p);
	return p;
}

/* ---- stop ---- */

/* Takes away what is left of it and its group. The group goes first: once the program is reaped,
 * its number may be another's. True: it ended by itself with status 0. */
static bool reap(struct child *c)
{
	int status = 0;
	kill(-c->pid, SIGKILL);
	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	c->pid = 0;
	if (WIFEXITED(status))
		snprintf(c->why, sizeof(c->why), "the program ended with status %d",
		         WEXITSTATUS(status));
	else
		snprintf(c->why, sizeof(c->why), "the program was killed by signal %d",
		         WTERMSIG(status));
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Waits for its end until @deadline, reading what it still says: it may be waiting to be read. */
static bool ended(struct child *c, int64_t deadline)
{
	for (;;) {
		siginfo_t si = {0};
		if (waitid(P_PID, (id_t)c->pid, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid)
			return true;
		int64_t now = clock_monotonic();
		if (now >= deadline)
			return false;
		/* its end is seen by its pipes closing, or by looking again soon */
		struct pollfd fds[3];
		if (wait_for(c, fds, deadline - now < 5ll * MS ? deadline : now + 5ll * MS))
			continue;
		if (fds[2].revents)
			read_err(c);
		if (fds[1].revents && read_out(c))
			close_fd(&c->out);
	}
}

static void last_words(struct child *c)
{
	for (int i = 0; i < 64 && c->err >= 0; i++) {
		struct pollfd p = {c->err, POLLIN, 0};
		if (poll(&p, 1, 0) <= 0)
			break;
		read_err(c);
	}
	tell_line(c);
}

bool child_stop(struct child *c, int64_t grace, bool drop)
{
	bool well = false;
	if (c->pid) {
		c->to.len = c->to_off = 0;
		close_fd(&c->in);
		if (!ended(c, clock_monotonic() + grace)) {
			kill(-c->pid, SIGTERM);
			ended(c, clock_monotonic() + TERM_GRACE);
		}
		well = reap(c);
		last_words(c);
	}
	close_fd(&c->in);
	close_fd(&c->out);
	close_fd(&c->err);
	if (drop)
		forget_talk(c);
	return well;
}

void child_failed(struct child *c)
{
	child_stop(c, 0, true);
	count_failure(c);
}
