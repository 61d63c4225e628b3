/*
 * Confinement, first half: privileges, limits, files. See confine.h for the order of things.
 *
 * Landlock's numbers are written out here: headers are often older than the kernel, which says at
 * run time what it knows (its ABI). What it does not know is left out, hence never claimed.
 */
#include "daemon/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/log.h"

const char *const confined_name[CONFINED_COUNT] = {
#define X(name, help) #name,
        CONFINED(X)
#undef X
};

/* ---- Landlock ---- */

enum {
	LL_CREATE = 444,
	LL_ADD_RULE = 445,
	LL_RESTRICT = 446,
	LL_VERSION_FLAG = 1,
	LL_RULE_PATH = 1,
};

#define LL_EXECUTE     (1ull << 0)
#define LL_WRITE_FILE  (1ull << 1)
#define LL_READ_FILE   (1ull << 2)
#define LL_READ_DIR    (1ull << 3)
#define LL_REMOVE_DIR  (1ull << 4)
#define LL_REMOVE_FILE (1ull << 5)
#define LL_MAKE_CHAR   (1ull << 6)
#define LL_MAKE_DIR    (1ull << 7)
#define LL_MAKE_REG    (1ull << 8)
#define LL_MAKE_SOCK   (1ull << 9)
#define LL_MAKE_FIFO   (1ull << 10)
#define LL_MAKE_BLOCK  (1ull << 11)
#define LL_MAKE_SYM    (1ull << 12)
#define LL_REFER       (1ull << 13) /* ABI 2 */
#define LL_TRUNCATE    (1ull << 14) /* ABI 3 */

#define LL_READ    (LL_READ_FILE | LL_READ_DIR)
#define LL_SOCKETS (LL_MAKE_SOCK | LL_REMOVE_FILE)
#define LL_WRITE                                                                              \
 (LL_WRITE_FILE | LL_REMOVE_DIR | LL_REMOVE_FILE | LL_MAKE_DIR | LL_MAKE_REG | LL_MAKE_SOCK | \
  LL_MAKE_FIFO | LL_MAKE_SYM | LL_REFER | LL_TRUNCATE)
#define LL_ALL       (LL_READ | LL_WRITE | LL_EXECUTE | LL_MAKE_CHAR | LL_MAKE_BLOCK)
#define LL_OF_A_FILE (LL_EXECUTE | LL_WRITE_FILE | LL_READ_FILE | LL_TRUNCATE)

#define LL_NET_TCP 3ull /* bind and connect; ABI 4 */
#define LL_SCOPES  3ull /* abstract unix sockets and signals of others; ABI 6 */

struct ll_ruleset {
	uint64_t fs, net, scoped;
};

struct ll_path {
	uint64_t allowed;
	int32_t parent;
} __attribute__((packed));

static int landlock_abi(void)
{
	long v = syscall(LL_CREATE, NULL, 0, LL_VERSION_FLAG);
	return v < 0 ? 0 : (int)v;
}

static uint64_t known_rights(int abi)
{
	uint64_t all = LL_ALL;
	if (abi < 2)
		all &= ~LL_REFER;
	if (abi < 3)
		all &= ~LL_TRUNCATE;
	return all;
}

static uint64_t rights_of(unsigned how)
{
	uint64_t r = 0;
	if (how & CONFINE_READ)
		r |= LL_READ;
	if (how & CONFINE_WRITE)
		r |= LL_WRITE | LL_READ;
	if (how & CONFINE_SOCKETS)
		r |= LL_SOCKETS;
	return r;
}

/* A path that is not there is no right lost: nothing can be opened below it. */
static int add_rule(int ruleset, const char *path, uint64_t rights)
{
	struct stat st;
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
		rights &= LL_OF_A_FILE;
	struct ll_path rule = {.allowed = rights, .parent = fd};
	long r = rights ? syscall(LL_ADD_RULE, ruleset, LL_RULE_PATH, &rule, 0) : 0;
	int e = r < 0 ? -errno : 0;
	close(fd);
	return e;
}

/* What any library may look at: clocks, locale, random bytes; and, with a network, names and
 * certificates. */
static int add_common(int ruleset, const struct confine_plan *p, uint64_t known)
{
	static const char *const all[] = {"/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom",
	                                  "/proc/sys/vm/overcommit_memory",
	                                  "/sys/devices/system/cpu"};
	static const char *const net[] = {"/etc",
	                                  "/usr",
	                                  "/lib",
	                                  "/lib64",
	                                  "/var/lib/ca-certificates",
	                                  "/run/systemd/resolve",
	                                  "/run/resolvconf"};
	int r = add_rule(ruleset, "/dev/null", (LL_READ | LL_WRITE) & known);
	for (size_t i = 0; r == 0 && i < sizeof(all) / sizeof(*all); i++)
		r = add_rule(ruleset, all[i], LL_READ & known);
	for (size_t i = 0; r == 0 && p->net && i < sizeof(net) / sizeof(*net); i++)
		r = add_rule(ruleset, net[i], LL_READ & known);
	for (unsigned i = 0; r == 0 && i < p->n_paths; i++)
		r = add_rule(ruleset, p->paths[i].path, rights_of(p->paths[i].how) & known);
	return r;
}

/* 0: confined. -ENOSYS: this kernel has no Landlock. */
static int restrict_files(const struct confine_plan *p)
{
	int abi = landlock_abi();
	if (abi == 0)
		return -ENOSYS;
	uint64_t known = known_rights(abi);
	struct ll_ruleset set = {.fs = known, .net = p->net ? 0 : LL_NET_TCP, .scoped = LL_SCOPES};
	size_t size = abi < 4 ? sizeof(set.fs) : abi < 6 ? 2 * sizeof(set.fs) : sizeof(set);
	int fd = (int)syscall(LL_CREATE, &set, size, 0);
	if (fd < 0)
		return -errno;
	int r = add_common(fd, p, known);
	if (r == 0 && syscall(LL_RESTRICT, fd, 0) < 0)
		r = -errno;
	close(fd);
	return r;
}

/* ---- paths of a plan ---- */

static void put_path(struct confine_plan *p, const char *path, unsigned how)
{
	for (unsigned i = 0; i < p->n_paths; i++)
		if (strcmp(p->paths[i].path, path) == 0) {
			p->paths[i].how |= how;
			return;
		}
	char *copy = p->n_paths < CONFINE_PATHS_MAX ? strdup(path) : NULL;
	if (!copy) {
		p->overflow = true;
		return;
	}
	p->paths[p->n_paths].path = copy;
	p->paths[p->n_paths++].how = how;
}

static void cut_to_parent(char *path)
{
	char *slash = strrchr(path, '/');
	if (!slash)
		strcpy(path, ".");
	else
		slash[slash == path] = 0;
}

static void put_nearest(struct confine_plan *p, char *path, unsigned how)
{
	struct stat st;
	while ((stat(path, &st) < 0 || !S_ISDIR(st.st_mode)) && strcmp(path, "/") &&
	       strcmp(path, "."))
		cut_to_parent(path);
	put_path(p, path, how);
}

void confine_allow(struct confine_plan *p, const char *path, unsigned how)
{
	char near[PATH_MAX], real[PATH_MAX];
	if (snprintf(near, sizeof(near), "%s", path) >= (int)sizeof(near)) {
		p->overflow = true;
		return;
	}
	put_nearest(p, near, how);
	if (realpath(path, real))
		put_nearest(p, real, how);
}

void confine_plan_deinit(struct confine_plan *p)
{
	for (unsigned i = 0; i < p->n_paths; i++)
		free(p->paths[i].path);
	p->n_paths = 0;
}

/* ---- privileges and limits ---- */

#define CAP(name) (1ull << CAP_##name)

/* Root without capabilities could not write where others own the files, nor bind low ports. */
static uint64_t capabilities_for(const struct confine_plan *p)
{
	uint64_t keep = 0;
	if (p->files || p->any_file)
		keep |= CAP(DAC_OVERRIDE) | CAP(DAC_READ_SEARCH) | CAP(FOWNER) | CAP(CHOWN);
	if (p->net)
		keep |= CAP(NET_BIND_SERVICE);
	return p->exec ? ~0ull : keep;
}

static int keep_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};
	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	/* the bounding set first: it takes CAP_SETPCAP, which goes with the rest */
	for (unsigned long c = 0; c < 64 && prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		if (!(keep >> c & 1))
			prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
	bool any = false;
	for (unsigned i = 0; i < 2; i++) {
		uint32_t mask = (uint32_t)(keep >> (32 * i));
		any |= (data[i].permitted | data[i].inheritable) & ~mask;
		data[i].permitted &= mask;
		data[i].effective &= mask;
		data[i].inheritable &= mask;
	}
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* a service without capabilities may not be let to ask */
	return any && syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

static void lower(__rlimit_resource_t what, rlim_t most)
{
	struct rlimit lim;
	if (getrlimit(what, &lim) < 0 || lim.rlim_cur <= most)
		return;
	lim.rlim_cur = most;
	if (lim.rlim_max > most)
		lim.rlim_max = most;
	setrlimit(what, &lim);
}

static void lower_limits(const struct confine_plan *p)
{
	if (p->exec)
		return; /* they would be the program's too */
	lower(RLIMIT_RTPRIO, 0);
	lower(RLIMIT_MSGQUEUE, 0);
	if (!p->net && !p->files)
		lower(RLIMIT_NOFILE, 1024); /* its doorbells' */
}

static int drop_privileges(const struct confine_plan *p)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	lower_limits(p);
	return p->exec ? 0 : keep_capabilities(capabilities_for(p));
}

uint32_t confine_early(struct confine_plan *p)
{
	uint32_t done = 0;
	int r = drop_privileges(p);
	if (r == 0)
		done |= CONFINED_BIT(privileges);
	else
		log_warning("cannot drop privileges: %s", strerror(-r));
	if (p->exec || p->any_file)
		return done; /* nothing is known of what it opens */
	if (p->overflow) {
		log_warning(
		        "too many or too long paths: the file system stays open to this worker");
		return done;
	}
	r = restrict_files(p);
	if (r == 0)
		done |= CONFINED_BIT(files);
	else if (r == -ENOSYS || r == -EOPNOTSUPP)
		log_debug("this kernel has no Landlock");
	else
		log_warning("cannot confine to its paths: %s", strerror(-r));
	return done;
}
