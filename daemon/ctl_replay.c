/*
 * dead replay: chooses letters, hands them over in spools, and has the daemon replay them.
 *
 * The hard idea: nobody may choose a letter that another replay has. Commands take turns by a lock
 * on the letters' directory; a stage that still has a spool is left out; and the look for spools
 * comes before the look for marks. A replayer marks first and removes its spool last: so a letter
 * that it has is seen in one of the two looks, whenever they happen.
 *
 * A stage's spool is published, then its letters are marked: a kill between the two leaves marks
 * that the replayer makes (spool.c). What is refused is left as it is: not handed over, not marked.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "daemon/config.h"
#include "daemon/ctl.h"
#include "daemon/deadletter.h"
#include "daemon/spool.h"

/* Why letters are not handed over; each is told once a stage, with one of them as the example. */
enum refusal {
	REFUSED_NO_STAGE, /* its stage is not configured */
	REFUSED_PRODUCER, /* its input never was a record */
	REFUSED_INPUT,    /* its input was cut, or is no record */
	REFUSED_BUSY,     /* an earlier replay to that stage is under way */
	REFUSALS,
};

struct target {
	char stage[128];
	enum refusal refusal; /* REFUSALS: it takes letters */
	uint64_t refused[REFUSALS];
	char example[REFUSALS][64];
	struct spool_writer spool;
};

struct replay {
	struct ctl *ctl;
	const char *dir;
	struct target *targets;
	size_t n_targets;
	char **wanted; /* NULL: all */
	bool *found;
	int n_wanted;
	uint64_t handed_over, before, refused;
};

/* ---- the stages ---- */

static struct target *add_target(struct replay *r, const char *stage, size_t len,
                                 enum refusal refusal)
{
	struct target *more = reallocarray(r->targets, r->n_targets + 1, sizeof(*more));
	if (!more)
		return NULL;
	r->targets = more;
	struct target *t = &more[r->n_targets++];
	memset(t, 0, sizeof(*t));
	snprintf(t->stage, sizeof(t->stage), "%.*s", (int)len, stage);
	t->refusal = refusal;
	return t;
}

/* Which stages take letters, from the daemon's status; before any letter is read. */
static int read_stages(struct replay *r)
{
	for (struct doc_walk w = doc_walk(doc_at(r->ctl->answer, "stages")); doc_next(&w);) {
		char name[128], kind[32];
		doc_copy(doc_at(w.value, "name"), name, sizeof(name));
		doc_copy(doc_at(w.value, "kind"), kind, sizeof(kind));
		if (doc_bool(doc_at(w.value, "builtin")))
			continue;
		enum refusal refusal = strcmp(kind, "producer") == 0 ? REFUSED_PRODUCER
		                       : spool_exists(r->dir, name)  ? REFUSED_BUSY
		                                                     : REFUSALS;
		if (!add_target(r, name, strlen(name), refusal))
			return -ENOMEM;
	}
	return 0;
}

/* The target of a letter's stage, which is "STAGE" or "STAGE/STEP". */
static struct target *find_target(struct replay *r, const char *stage)
{
	size_t len = strcspn(stage, "/");
	if (len >= sizeof(r->targets->stage))
		len = sizeof(r->targets->stage) - 1;
	for (size_t i = 0; i < r->n_targets; i++)
		if (strncmp(r->targets[i].stage, stage, len) == 0 &&
		    r->targets[i].stage[len] == '\0')
			return &r->targets[i];
	return add_target(r, stage, len, REFUSED_NO_STAGE);
}

/* ---- the letters ---- */

static bool is_wanted(struct replay *r, const char *id)
{
	bool wanted = !r->wanted;
	for (int i = 0; i < r->n_wanted; i++)
		if (strcmp(r->wanted[i], id) == 0)
			wanted = r->found[i] = true;
	return wanted;
}

static int refuse(struct replay *r, struct target *t, enum refusal why, const char *id)
{
	if (!t->refused[why]++)
		snprintf(t->example[why], sizeof(t->example[why]), "%s", id);
	r->refused++;
	return 0;
}

static int take_letter(void *arg, const struct deadletter *d)
{
	struct replay *r = arg;
	if (!is_wanted(r, d->id))
		return 0;
	if (d->replayed) {
		r->before++;
		return 0;
	}
	struct target *t = find_target(r, d->stage);
	if (!t)
		return -ENOMEM;
	if (t->refusal != REFUSALS)
		return refuse(r, t, t->refusal, d->id);
	if (!deadletter_is_record(d))
		return refuse(r, t, REFUSED_INPUT, d->id);
	int e = t->spool.f ? 0 : spool_create(&t->spool, r->dir, t->stage);
	return e < 0 ? e : spool_add(&t->spool, d->json, d->json_len);
}

/* The marks of a spool that may be gone already: then its replayer made them. */
static int mark(struct replay *r, const struct target *t)
{
	struct spool s;
	int e = spool_open(&s, r->dir, t->stage);
	if (e == SPOOL_E_NONE)
		return 0;
	if (e == 0)
		e = spool_mark(&s, r->dir);
	spool_close(&s);
	return e;
}

static int hand_over(struct replay *r)
{
	static const struct deadletter_filter all;
	int e = deadletter_each(r->dir, &all, NULL, take_letter, r);
	for (size_t i = 0; i < r->n_targets && e == 0; i++) {
		struct target *t = &r->targets[i];
		if (!t->spool.f)
			continue;
		e = spool_publish(&t->spool);
		if (e == 0) {
			r->handed_over += t->spool.letters;
			e = mark(r, t);
		}
	}
	for (size_t i = 0; i < r->n_targets; i++)
		spool_abandon(&r->targets[i].spool);
	return e;
}

/* ---- telling ---- */

static void tell_refusal(const struct target *t, enum refusal why)
{
	static const char *const text[REFUSALS] = {
	        [REFUSED_NO_STAGE] = "no stage is called so now",
	        [REFUSED_PRODUCER] = "it is a producer, whose input was never a record",
	        [REFUSED_INPUT] = "the input is no whole record",
	        [REFUSED_BUSY] = "an earlier replay to it is not done yet: try again then",
	};
	unsigned long long n = t->refused[why];
	if (n == 0)
		return;
	ctl_say("%llu letter%s of \"%s\" not replayed: %s%s%s%s%s", n, n == 1 ? "" : "s", t->stage,
	        text[why], why == REFUSED_BUSY ? "" : "; `sluicectl dead show ",
	        why == REFUSED_BUSY ? "" : t->example[why],
	        why == REFUSED_BUSY ? "" : "` prints the input: send it again",
	        n > 1 && why != REFUSED_BUSY ? ", and likewise the others" : "");
}

static int tell_unknown(const struct replay *r)
{
	int unknown = 0;
	for (int i = 0; i < r->n_wanted; i++)
		if (!r->found[i]) {
			ctl_say("there is no dead letter \"%s\" in %s", r->wanted[i], r->dir);
			unknown++;
		}
	return unknown;
}

static int tell(const struct replay *r)
{
	int unknown = tell_unknown(r);
	for (size_t i = 0; i < r->n_targets; i++)
		for (unsigned why = 0; why < REFUSALS; why++)
			tell_refusal(&r->targets[i], (enum refusal)why);
	if (r->ctl->json)
		printf("{\"handed_over\":%llu,\"replayed_before\":%llu,\"refused\":%llu,"
		       "\"unknown\":%d}\n",
		       (unsigned long long)r->handed_over, (unsigned long long)r->before,
		       (unsigned long long)r->refused, unknown);
	else if (r->handed_over == 0)
		printf("nothing to do: %llu replayed before, %llu refused\n",
		       (unsigned long long)r->before, (unsigned long long)r->refused);
	else
		printf("%llu handed over to be replayed, %llu replayed before, %llu refused\n",
		       (unsigned long long)r->handed_over, (unsigned long long)r->before,
		       (unsigned long long)r->refused);
	fflush(stdout);
	return r->refused || unknown ? CTL_NO : CTL_FINE;
}

/* ---- the command ---- */

static bool daemon_takes_letters(const struct ctl *ctl)
{
	if (ctl->fd < 0) {
		ctl_say("no daemon answers at %s: letters are replayed by a running one",
		        ctl->tried);
		return false;
	}
	char state[32];
	doc_copy(doc_at(ctl->answer, "state"), state, sizeof(state));
	if (doc_bool(doc_at(ctl->answer, "drained")) ||
	    (strcmp(state, "running") != 0 && strcmp(state, "starting") != 0)) {
		ctl_say("the daemon takes nothing in: it is drained or stopping");
		return false;
	}
	return true;
}

static int replay(struct replay *r)
{
	static const char *const words[] = {"replay"};
	_cleanup_close_ int lock = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int e = lock < 0 || flock(lock, LOCK_EX) < 0 ? err_errno() : read_stages(r);
	if (e == 0)
		e = hand_over(r);
	/* also when nothing is new, or when it failed half way: what was handed over is to be
	 * replayed */
	int asked = ctl_ask(r->ctl, words, 1);
	if (e < 0)
		return ctl_dead_failed(r->dir, e);
	int told = tell(r);
	return asked != CTL_FINE ? asked : told;
}

int ctl_dead_replay(struct ctl *ctl, int argc, char **argv)
{
	char dir[PATH_MAX];
	struct replay r = {.ctl = ctl, .dir = dir};
	bool all = argc == 1 && strcmp(argv[0], "--all") == 0;
	for (int i = 0; i < argc && !all; i++)
		if (argv[i][0] == '-')
			return ctl_used_wrongly(&command_all[COMMAND_dead_replay]);
	if (!ctl_dead_find(ctl, dir, sizeof(dir)) || !daemon_takes_letters(ctl))
		return CTL_WRONG;
	r.found = calloc((size_t)argc, sizeof(*r.found));
	if (!r.found)
		return CTL_NO;
	if (!all) {
		r.wanted = argv;
		r.n_wanted = argc;
	}
	int status = replay(&r);
	free(r.targets);
	free(r.found);
	return status;
}
