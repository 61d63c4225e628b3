/*
 * Confinement, second half: system calls.
 *
 * A list of what is allowed, by group; all else answers EPERM, so that a library that only tries
 * something goes on without it. The filter is put on all threads at once.
 *
 * Stages that run programs cannot have such a list (a filter is inherited by the program): they get
 * a list of what is refused instead.
 *
 * Limit: filters see numbers, not strings: which files may be opened is Landlock's part. Without
 * it, a stage that needs no files cannot open any.
 */
#include "daemon/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "ipc/log.h"

#define N(list) (sizeof(list) / sizeof(*(list)))

/* Memory, time, waiting, the descriptors it has, itself. */
#pragma GCC diagnostic ignored \
        "-Wmissing-field-initializers" /* libseccomp's SCMP_A0() leaves one out */

static const char *const base_calls[] = {
        "access",
        "arch_prctl",
        "brk",
        "capget",
        "clock_getres",
        "clock_gettime",
        "clock_nanosleep",
        "close",
        "close_range",
        "copy_file_range",
        "dup",
        "dup2",
        "dup3",
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "eventfd",
        "eventfd2",
        "exit",
        "exit_group",
        "faccessat",
        "faccessat2",
        "fadvise64",
        "fallocate",
        "fcntl",
        "fdatasync",
        "flock",
        "fstat",
        "fstat64",
        "fstatfs",
        "fsync",
        "ftruncate",
        "futex",
        "futex_waitv",
        "get_robust_list",
        "getcpu",
        "getcwd",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getrandom",
        "getrlimit",
        "getrusage",
        "gettid",
        "gettimeofday",
        "getuid",
        "ioctl",
        "lseek",
        "lstat",
        "madvise",
        "membarrier",
        "memfd_create",
        "mincore",
        "mremap",
        "msync",
        "munmap",
        "nanosleep",
        "newfstatat",
        "pause",
        "pipe",
        "pipe2",
        "poll",
        "ppoll",
        "prctl",
        "pread64",
        "preadv",
        "preadv2",
        "prlimit64",
        "pselect6",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readlink",
        "readlinkat",
        "readv",
        "restart_syscall",
        "rseq",
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getaffinity",
        "sched_getparam",
        "sched_getscheduler",
        "sched_yield",
        "select",
        "sendfile",
        "set_robust_list",
        "set_tid_address",
        "setrlimit",
        "sigaltstack",
        "splice",
        "stat",
        "statfs",
        "statx",
        "sync_file_range",
        "sysinfo",
        "tgkill",
        "time",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_settime",
        "times",
        "umask",
        "uname",
        "write",
        "writev",
};

static const char *const unix_calls[] = {
        "accept",     "accept4", "bind",       "connect",  "getpeername", "getsockname",
        "getsockopt", "listen",  "recvfrom",   "recvmmsg", "recvmsg",     "sendmmsg",
        "sendmsg",    "sendto",  "setsockopt", "shutdown",
};

static const char *const file_calls[] = {
        "chdir",
        "chmod",
        "chown",
        "creat",
        "fchmod",
        "fchmodat",
        "fchown",
        "fchownat",
        "fgetxattr",
        "flistxattr",
        "fsetxattr",
        "getxattr",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "link",
        "linkat",
        "mkdir",
        "mkdirat",
        "open",
        "openat",
        "openat2",
        "rename",
        "renameat",
        "renameat2",
        "rmdir",
        "symlink",
        "symlinkat",
        "syncfs",
        "truncate",
        "unlink",
        "unlinkat",
        "utime",
        "utimensat",
        "utimes",
};

/* What no program of a pipeline has to do: refused to stages that run programs. */
static const char *const never_calls[] = {
        "acct",
        "add_key",
        "adjtimex",
        "bpf",
        "clock_adjtime",
        "clock_settime",
        "delete_module",
        "finit_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "init_module",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "pivot_root",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "quotactl",
        "reboot",
        "request_key",
        "setdomainname",
        "sethostname",
        "setns",
        "settimeofday",
        "swapoff",
        "swapon",
        "syslog",
        "umount2",
        "unshare",
        "userfaultfd",
};

/* A call this architecture does not have is no loss. */
static int rule(scmp_filter_ctx f, uint32_t action, const char *name)
{
	int nr = seccomp_syscall_resolve_name(name);
	if (nr == __NR_SCMP_ERROR)
		return 0;
	int r = seccomp_rule_add(f, action, nr, 0);
	return r == -EDOM ? 0 : r;
}

static int rules(scmp_filter_ctx f, uint32_t action, const char *const *names, size_t n)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = rule(f, action, names[i]);
	return r;
}

static int allow_sockets(scmp_filter_ctx f, bool net)
{
	static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
	int r = rules(f, SCMP_ACT_ALLOW, unix_calls, N(unix_calls));
	for (size_t i = 0; r == 0 && i < (net ? N(families) : 1); i++) {
		struct scmp_arg_cmp is = SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i], 0);
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, is);
	}
	struct scmp_arg_cmp pair = SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0);
	return r ? r : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1, pair);
}

/* Opening for reading and removing one's doorbell, where Landlock says what. */
static int allow_reading(scmp_filter_ctx f)
{
	static const char *const remove[] = {"unlink", "unlinkat"};
	const scmp_datum_t writes = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC;
	struct scmp_arg_cmp at = SCMP_A2(SCMP_CMP_MASKED_EQ, writes, 0);
	struct scmp_arg_cmp plain = SCMP_A1(SCMP_CMP_MASKED_EQ, writes, 0);
	int r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, at);
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(open), 1, plain);
	return r ? r : rules(f, SCMP_ACT_ALLOW, remove, N(remove));
}

/* New code pages: only where a library may be loaded late (name service of a network stage). */
static int allow_mapping(scmp_filter_ctx f, bool code)
{
	const scmp_datum_t mask = code ? 0 : PROT_EXEC;
	struct scmp_arg_cmp prot = SCMP_A2(SCMP_CMP_MASKED_EQ, mask, 0);
	int r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, prot);
	return r ? r : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, prot);
}

/* Threads but no processes. clone3 hides its flags in memory: "not there" makes the C library use
 * clone. */
static int allow_threads(scmp_filter_ctx f)
{
	struct scmp_arg_cmp thread = SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD);
	int r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, thread);
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	struct scmp_arg_cmp me = SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0);
	return r ? r : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(kill), 1, me);
}

static int fill(scmp_filter_ctx f, const struct confine_plan *p, bool landlocked)
{
	if (p->exec)
		return rules(f, SCMP_ACT_ERRNO(EPERM), never_calls, N(never_calls));
	bool files = p->files || p->any_file;
	int r = rules(f, SCMP_ACT_ALLOW, base_calls, N(base_calls));
	if (r == 0)
		r = allow_sockets(f, p->net);
	if (r == 0)
		r = allow_threads(f);
	if (r == 0)
		r = allow_mapping(f, p->net || p->any_file);
	if (r == 0 && files)
		r = rules(f, SCMP_ACT_ALLOW, file_calls, N(file_calls));
	else if (r == 0 && landlocked)
		r = allow_reading(f);
	return r;
}

static int load_filter(const struct confine_plan *p, bool landlocked)
{
	scmp_filter_ctx f = seccomp_init(p->exec ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM));
	if (!f)
		return -ENOMEM;
	int r = fill(f, p, landlocked);
	if (r == 0)
		r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0) /* the mitigation would cost every call and protects nothing here: no foreign
	               code runs */
		(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_SSB, 1);
	if (r == 0)
		(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r;
}

uint32_t confine_late(struct confine_plan *p, uint32_t early)
{
	bool landlocked = (early & CONFINED_BIT(files)) != 0;
	tzset(); /* reads its file, which may be out of reach from here on */
	int r = load_filter(p, landlocked);
	if (r < 0) {
		log_warning("cannot confine system calls: %s", strerror(-r));
		return early;
	}
	early |= CONFINED_BIT(calls);
	if (!p->exec)
		early |= CONFINED_BIT(exec);
	if (!p->exec && !p->net)
		early |= CONFINED_BIT(network);
	if (!p->exec && !p->files && !p->any_file)
		early |= CONFINED_BIT(files); /* by Landlock, or because nothing can be opened */
	return early;
}
