/*
 * dead list, show, purge: the dead letters, read and removed where they lie.
 *
 * The daemon's master never touches records, so this is the client's work: the daemon (or the
 * configuration) only says where the directory is, and the file system's permissions say who may. A
 * purge first makes the file that is written now a rotated one and has the daemon reopen it; what
 * the writer still holds is tried again for a moment and then told.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "daemon/config.h"
#include "daemon/ctl.h"
#include "daemon/deadletter.h"
#include "ipc/clock.h"

enum {
	PURGE_TRIES = 40,
	PURGE_PAUSE_NS = 50000000,
};

bool ctl_dead_find(struct ctl *ctl, char *path, size_t size)
{
	static const char *const words[] = {"status"};
	struct complaints c = {0};
	bool asked = ctl_connect(ctl, true) && ctl_ask(ctl, words, 1) == CTL_FINE;
	if (asked) {
		doc_copy(doc_at(ctl->answer, "dead_letters"), path, size);
		return *path != '\0';
	}
	const char *file = ctl->config ? ctl->config : config_default_path();
	struct config *cfg = config_load(file, &c);
	if (cfg)
		snprintf(path, size, "%s", cfg->dead_path);
	else
		ctl_say("no daemon answers at %s, and %s does not say where the dead letters "
		        "are:\n%.*s",
		        ctl->tried, file, (int)c.text.len, c.text.p ? (char *)c.text.p : "");
	buf_deinit(&c.text);
	bool found = cfg != NULL;
	config_free(cfg);
	return found;
}

static bool read_duration(const char *text, int64_t *ns)
{
	struct complaints c = {0};
	const struct node n = {.kind = NODE_SCALAR,
	                       .scalar = NODE_STRING,
	                       .text = (char *)(uintptr_t)text,
	                       .len = strlen(text),
	                       .file = ""};
	bool ok = option_duration(&n, ns, &c);
	buf_deinit(&c.text);
	return ok;
}

static int64_t ago(int64_t ns)
{
	return clock_realtime() - ns;
}

int ctl_dead_failed(const char *path, int error)
{
	ctl_say("dead letters in %s: %s%s", path, strerror(-error),
	        error == -EACCES || error == -EPERM ? ": use sudo" : "");
	return CTL_NO;
}

/* ---- list, show ---- */

struct listing {
	struct ctl *ctl;
	struct table table;
	uint64_t n;
};

static int list_one(void *arg, const struct deadletter *d)
{
	struct listing *l = arg;
	l->n++;
	if (l->ctl->json) {
		printf("%.*s\n", (int)d->json_len, d->json);
		return 0;
	}
	table_cell(&l->table, TABLE_PLAIN, "%s", d->id);
	table_cell(&l->table, TABLE_PLAIN, "%.19s", d->at);
	table_cell(&l->table, TABLE_PLAIN, "%s", d->stage);
	table_cell(&l->table, d->replayed ? TABLE_DIM : TABLE_PLAIN, "%s",
	           d->replayed ? "replayed" : "open");
	table_cell(&l->table, TABLE_PLAIN, "%s", d->error);
	return 0;
}

static bool list_options(int argc, char **argv, struct deadletter_filter *f)
{
	int64_t ns;
	for (int i = 0; i < argc; i++) {
		unsigned n;
		if (strcmp(argv[i], "--open") == 0) {
			f->open_only = true;
			continue;
		}
		if (i + 1 == argc)
			return false;
		const char *value = argv[i + 1];
		if (strcmp(argv[i], "--stage") == 0)
			f->stage = value;
		else if (strcmp(argv[i], "--error") == 0)
			f->error = value;
		else if (strcmp(argv[i], "--since") == 0 && read_duration(value, &ns))
			f->since = ago(ns);
		else if (strcmp(argv[i], "-n") == 0 && command_number(value, 1, 999999999, &n))
			f->limit = n;
		else
			return false;
		i++;
	}
	return true;
}

static int print_letters(struct ctl *ctl, const char *path, const struct deadletter_filter *f)
{
	static const char *const titles[] = {"ID", "AT", "STAGE", "STATE", "ERROR"};
	struct listing l = {.ctl = ctl};
	_cleanup_(buf_deinit) struct buf out = {0};
	uint64_t bad = 0;
	table_columns(&l.table, titles, 5);
	int r = deadletter_each(path, f, &bad, list_one, &l);
	if (r == 0 && !ctl->json && l.n)
		table_print(&l.table, ctl->color, table_terminal_width(1), &out);
	if (r == 0 && !ctl->json)
		buf_printf(&out, "%llu dead letter%s in %s\n", (unsigned long long)l.n,
		           l.n == 1 ? "" : "s", path);
	if (bad)
		ctl_say("%llu lines in %s are no letters", (unsigned long long)bad, path);
	table_deinit(&l.table);
	fflush(stdout);
	return r < 0 ? ctl_dead_failed(path, r) : ctl_out(&out) ? CTL_FINE : CTL_NO;
}

int ctl_dead_list(struct ctl *ctl, int argc, char **argv)
{
	struct deadletter_filter f = {0};
	char path[4096];
	if (!list_options(argc, argv, &f))
		return ctl_used_wrongly(&command_all[COMMAND_dead_list]);
	return ctl_dead_find(ctl, path, sizeof(path)) ? print_letters(ctl, path, &f) : CTL_WRONG;
}

static int show_one(void *arg, const struct deadletter *d)
{
	(void)arg;
	printf("%.*s\n", (int)d->json_len, d->json);
	return 1; /* an id names one letter */
}

int ctl_dead_show(struct ctl *ctl, int argc, char **argv)
{
	struct deadletter_filter f = {.id = argv[0]};
	char path[4096];
	(void)argc;
	if (!ctl_dead_find(ctl, path, sizeof(path)))
		return CTL_WRONG;
	int r = deadletter_each(path, &f, NULL, show_one, NULL);
	if (r < 0)
		return ctl_dead_failed(path, r);
	if (r == 0)
		ctl_say("there is no dead letter \"%s\" in %s", argv[0], path);
	fflush(stdout);
	return r == 1 ? CTL_FINE : CTL_NO;
}

/* ---- purge ---- */

/* A file that is written now becomes one that may be purged. */
static int turn_over(struct ctl *ctl, const char *path)
{
	static const char *const words[] = {"reopen"};
	int r = deadletter_rotate(path);
	if (r < 0)
		return ctl_dead_failed(path, r);
	return ctl->fd >= 0 ? ctl_ask(ctl, words, 1) : CTL_FINE;
}

static int purge(struct ctl *ctl, const char *path, int64_t before)
{
	const struct timespec pause = {0, PURGE_PAUSE_NS};
	struct deadletter_purge done = {0}, sum = {0};
	for (unsigned tries = 0; tries < PURGE_TRIES; tries++) {
		int r = deadletter_purge(path, before, &done);
		if (r < 0)
			return ctl_dead_failed(path, r);
		sum.removed += done.removed;
		sum.kept = done.kept;
		sum.busy = done.busy;
		if (done.busy == 0)
			break;
		nanosleep(&pause, NULL);
	}
	if (ctl->json)
		printf("{\"removed\":%llu,\"kept\":%llu,\"busy\":%llu}\n",
		       (unsigned long long)sum.removed, (unsigned long long)sum.kept,
		       (unsigned long long)sum.busy);
	else
		printf("%llu removed, %llu kept\n", (unsigned long long)sum.removed,
		       (unsigned long long)sum.kept);
	if (sum.busy)
		ctl_say("the daemon still writes %llu of the files: purge again later",
		        (unsigned long long)sum.busy);
	return sum.busy ? CTL_NO : CTL_FINE;
}

int ctl_dead_purge(struct ctl *ctl, int argc, char **argv)
{
	char path[4096];
	int64_t ns = 0;
	bool all = argc == 1 && strcmp(argv[0], "--all") == 0;
	if (!all && !(argc == 2 && strcmp(argv[0], "--older") == 0 && read_duration(argv[1], &ns)))
		return ctl_used_wrongly(&command_all[COMMAND_dead_purge]);
	if (!ctl_dead_find(ctl, path, sizeof(path)))
		return CTL_WRONG;
	int r = turn_over(ctl, path);
	return r == CTL_FINE ? purge(ctl, path, all ? INT64_MAX : ago(ns)) : r;
}
