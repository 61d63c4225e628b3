/*
 * Dying on purpose (only built with -DSLUICE_FAULTS): see fault.h.
 *
 * The hard idea is counting across processes that die: "the 7th passage of the whole daemon" has to
 * mean one passage, whichever worker makes it and however often the daemon was started anew. So the
 * counts lie in a small file, SLUICE_FAULT_STATE, that every process maps: a passage is one atomic
 * addition, and who draws the number that a rule names is the one that dies. The same file tells a
 * test afterwards which points each role passed, and how often.
 *
 * Invariant: a rule NAME:N fires at most once, for only one passage can draw N.
 *
 * Limit: roles are told apart by a hash of their names; two roles with the same one would share a
 * line. Without SLUICE_FAULT_STATE rules count in the process alone.
 */
#ifdef SLUICE_FAULTS

# include "ipc/fault.h"

# include <fcntl.h>
# include <signal.h>
# include <stdatomic.h>
# include <stdbool.h>
# include <stddef.h>
# include <stdint.h>
# include <stdio.h>
# include <stdlib.h>
# include <string.h>
# include <sys/mman.h>
# include <sys/random.h>
# include <unistd.h>

enum {
	RULES_MAX = 16,
	ROLES_MAX = 32,
	ROLE_NAME = 64,
};

/* The file. tests/fault/oracle.py reads it too. */
struct fault_state {
	_Atomic uint64_t drawn[RULES_MAX]; /* passages that a rule has seen */
	struct {
		_Atomic uint64_t key; /* of the name; 0: free */
		char name[ROLE_NAME];
		_Atomic uint64_t passed[64];
	} role[ROLES_MAX];
};
_Static_assert(FAULT_POINTS <= 64, "passed[] has no room");
_Static_assert(sizeof(struct fault_state) == RULES_MAX * 8 + ROLES_MAX * (8 + ROLE_NAME + 64 * 8),
               "");

struct rule {
	int point;            /* -1: any (random) */
	uint64_t at;          /* dies at this passage ... */
	double chance;        /* ... or with this probability */
	char role[ROLE_NAME]; /* "": any */
	int signal;
};

static const char *const names[] = {
# define FAULT_POINT(name) # name,
# include "ipc/fault.def"
# undef FAULT_POINT
};

static struct fault_state own, *state;
static struct rule rules[RULES_MAX];
static unsigned n_rules;
static char my_role[ROLE_NAME];
static unsigned my_line;

const char *fault_name(enum fault_point at)
{
	return at < FAULT_POINTS ? names[at] : "?";
}

static _Noreturn void refuse(const char *what, const char *text)
{
	fprintf(stderr, "fault: %s: %s\n", what, text);
	_exit(2); /* a test that injects nothing must not pass */
}

static int point_of(const char *name)
{
	for (int i = 0; i < FAULT_POINTS; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	refuse("no such point", name);
}

/* NAME:N[:ROLE[:SIGNAL]], "*" for any role. */
static void add_rule(char *text)
{
	char *part[4] = {NULL}, *rest = text;
	if (n_rules == RULES_MAX)
		refuse("too many rules", text);
	for (unsigned i = 0; i < 4 && rest; i++)
		part[i] = strsep(&rest, ":");
	if (!part[1])
		refuse("wants NAME:N", text);
	struct rule *r = &rules[n_rules++];
	*r = (struct rule){.point = -1, .signal = part[3] ? atoi(part[3]) : SIGKILL};
	if (strcmp(part[0], "random") == 0) {
		r->chance = strtod(part[1], NULL);
	} else {
		r->point = point_of(part[0]);
		r->at = strtoull(part[1], NULL, 10);
	}
	if (part[2] && strcmp(part[2], "*") != 0)
		snprintf(r->role, sizeof(r->role), "%s", part[2]);
}

static struct fault_state *map_state(void)
{
	const char *path = getenv("SLUICE_FAULT_STATE");
	if (!path)
		return &own;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || ftruncate(fd, sizeof(struct fault_state)) < 0)
		refuse("cannot open SLUICE_FAULT_STATE", path);
	void *p = mmap(NULL, sizeof(struct fault_state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		refuse("cannot map SLUICE_FAULT_STATE", path);
	close(fd);
	return p;
}

static void read_rules(void)
{
	const char *text = getenv("SLUICE_FAULT");
	char copy[1024], *rest = copy, *one;
	state = map_state();
	if (!text || !*text)
		return;
	snprintf(copy, sizeof(copy), "%s", text);
	while ((one = strsep(&rest, ",")))
		add_rule(one);
}

static uint64_t key_of(const char *name)
{
	uint64_t h = UINT64_C(14695981039346656037); /* FNV-1a */
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * UINT64_C(1099511628211);
	return h ? h : 1;
}

/* A process may die at any point here: a line is either free or has its key for good. */
static unsigned find_line(const char *role)
{
	uint64_t key = key_of(role);
	for (unsigned i = 0; i < ROLES_MAX; i++) {
		uint64_t seen = 0;
		if (atomic_compare_exchange_strong(&state->role[i].key, &seen, key) ||
		    seen == key) {
			snprintf(state->role[i].name, ROLE_NAME, "%s", role);
			return i;
		}
	}
	refuse("too many roles", role);
}

void fault_role(const char *role)
{
	if (!state)
		read_rules();
	snprintf(my_role, sizeof(my_role), "%s", role);
	my_line = find_line(role);
}

static bool lucky(double chance)
{
	static uint64_t x;
	if (!x && getrandom(&x, sizeof(x), 0) != sizeof(x))
		x = (uint64_t)getpid();
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (double)(x >> 11) / 9007199254740992.0 < chance;
}

static bool fires(const struct rule *r, _Atomic uint64_t *drawn, enum fault_point at)
{
	if (r->role[0] && strcmp(r->role, my_role) != 0)
		return false;
	if (r->point < 0)
		return lucky(r->chance);
	return r->point == (int)at && atomic_fetch_add(drawn, 1) + 1 == r->at;
}

void fault_hit(enum fault_point at)
{
	if (!my_role[0])
		return; /* before the process knows what it is: a tool, or a child between fork and
		           its role */
	atomic_fetch_add_explicit(&state->role[my_line].passed[at], 1, memory_order_relaxed);
	for (unsigned i = 0; i < n_rules; i++)
		if (fires(&rules[i], &state->drawn[i], at))
			kill(getpid(), rules[i].signal);
}

#else
typedef int fault_is_not_built; /* a file must not be empty */
#endif
