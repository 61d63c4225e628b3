/*
 * sluicectl: watches and steers a running sluiced.
 *
 *     sluicectl [-s SOCKET] [--json] COMMAND ...
 *
 * The commands, their arguments and all help come from commands.def. What each shows is in
 * ctl_show.c; with
 * --json it is the daemon's answer, unchanged. Exit status: 0 fine, 1 no (refused, not balanced,
 * wrong configuration), 2 used wrongly or no daemon.
 */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/ctl.h"

#include "daemon/send.h"

enum {
	AUDIT_TRIES = 50, /* while the books move */
	AUDIT_PAUSE_NS = 20000000,
};

/* ---- help ---- */

static int usage(FILE *f)
{
	fputs("usage: sluicectl [-s SOCKET | -c CONFIG] [--json] COMMAND [ARGUMENTS]\n"
	      "\n"
	      "Watches and steers a running sluiced.\n"
	      "\n",
	      f);
	for (unsigned i = 0; i < COMMAND_COUNT; i++) {
		const struct command *c = &command_all[i];
		char left[128];
		snprintf(left, sizeof(left), "%s%s%s", c->name, *c->args ? " " : "", c->args);
		if (strlen(left) <= 24)
			fprintf(f, "  %-24s  %s\n", left, c->help);
		else
			fprintf(f, "  %s\n  %-24s  %s\n", left, "", c->help);
	}
	fputs("\n"
	      "  -s, --socket SOCKET   control socket (default: $SLUICE_SOCKET, else the user's "
	      "own daemon's,\n"
	      "                        else /run/sluice/control.sock)\n"
	      "  -c, --config CONFIG   take the socket's path from this configuration\n"
	      "      --json            the daemon's answer, one JSON document a line\n"
	      "      --version         print the version\n"
	      "  -h, --help            print this, or more about a command\n"
	      "\n"
	      "Exit status: 0 fine; 1 refused, not balanced, or a wrong configuration; 2 used "
	      "wrongly, or no\n"
	      "daemon answers.\n",
	      f);
	return f == stdout ? CTL_FINE : CTL_WRONG;
}

static int help_of(const struct command *c)
{
	if (c == &command_all[COMMAND_send]) { /* has more options than a list of commands shows */
		char *words[] = {"send", "--help", NULL};
		return send_main(2, words);
	}
	printf("usage: sluicectl %s%s%s\n\n%s%s\n", c->name, *c->args ? " " : "", c->args, c->help,
	       c->who == COMMAND_WHO_CHANGE
	               ? "\n\nOnly root and the user the daemon runs as may do this."
	               : "");
	if (*c->more)
		printf("\n%s", c->more);
	return CTL_FINE;
}

static int unknown(const char *word)
{
	const char *names[COMMAND_COUNT];
	for (unsigned i = 0; i < COMMAND_COUNT; i++)
		names[i] = command_all[i].name;
	size_t len = strlen(word);
	for (unsigned i = 0; i < COMMAND_COUNT; i++) /* the first half of one */
		if (strncmp(names[i], word, len) == 0 && names[i][len] == ' ') {
			ctl_say("%s what? see sluicectl help", word);
			return CTL_WRONG;
		}
	const char *near = option_nearest(word, names, COMMAND_COUNT);
	ctl_say("unknown command \"%s\"%s%s%s", word,
	        near ? ": did you mean \"" : ": see sluicectl help", near ? near : "",
	        near ? "\"?" : "");
	return CTL_WRONG;
}

static int help(int argc, char **argv)
{
	unsigned taken;
	if (argc == 0)
		return usage(stdout);
	const struct command *c = command_find(argv, (unsigned)argc, &taken);
	return c ? help_of(c) : unknown(argv[0]);
}

/* ---- asking and showing ---- */

typedef void (*show_fn)(const struct ctl *, struct doc, struct buf *);

/* Asks for @words; shows the answer. */
static int ask_and_show(struct ctl *ctl, const char *const *words, unsigned n, show_fn show)
{
	_cleanup_(buf_deinit) struct buf out = {0};
	int r = ctl_ask(ctl, words, n);
	if (r != CTL_FINE)
		return r;
	if (ctl->json) {
		ctl_print_answer(ctl);
		return CTL_FINE;
	}
	show(ctl, ctl->answer, &out);
	return ctl_out(&out) ? CTL_FINE : CTL_NO;
}

static int status(struct ctl *ctl)
{
	static const char *const words[] = {"status"};
	return ask_and_show(ctl, words, 1, ctl_show_status);
}

static int workers(struct ctl *ctl)
{
	static const char *const words[] = {"workers"};
	return ask_and_show(ctl, words, 1, ctl_show_workers);
}

/* "paused clean", "draining" */
static void show_done(const struct ctl *ctl, struct doc d, struct buf *out)
{
	(void)ctl;
	for (struct doc_walk w = doc_walk(d); doc_next(&w);) {
		size_t n;
		const char *key = doc_text(w.key, &n);
		table_add(out, key, n, TABLE_PLAIN, false);
		const char *text = doc_text(w.value, &n);
		if (n)
			buf_add_str(out, doc_is(w.key, "note") ? ": " : " ");
		table_add(out, text, n, TABLE_PLAIN, false);
		buf_add_byte(out, '\n');
	}
}

/* While records move, the books may not hold still long enough; that passes. */
static int audit(struct ctl *ctl)
{
	static const char *const words[] = {"audit"};
	const struct timespec pause = {0, AUDIT_PAUSE_NS};
	_cleanup_(buf_deinit) struct buf out = {0};
	for (unsigned tries = 1;; tries++) {
		size_t len;
		const char *line = ctl_send(ctl, words, 1) ? ctl_line(ctl, &len) : NULL;
		if (!line || doc_parse(&ctl->store, line, len, &ctl->answer) < 0) {
			ctl_say("audit: no answer from the daemon at %s", ctl->tried);
			return CTL_WRONG;
		}
		if (!doc_bool(doc_at(ctl->answer, "moving")) || tries == AUDIT_TRIES)
			break;
		nanosleep(&pause, NULL);
	}
	char why[COMMAND_WHY_MAX];
	bool failed = doc_exists(doc_at(ctl->answer, "error"));
	if (ctl->json)
		ctl_print_answer(ctl);
	else if (failed)
		ctl_say("audit: %s", doc_copy(doc_at(ctl->answer, "error"), why, sizeof(why)));
	else
		ctl_show_audit(ctl, ctl->answer, &out);
	ctl_out(&out);
	return !failed && doc_bool(doc_at(ctl->answer, "balanced")) ? CTL_FINE : CTL_NO;
}

/* ---- stats ---- */

static int prometheus(struct ctl *ctl)
{
	static const char *const asks[][1] = {{"stats"}, {"workers"}, {"status"}};
	struct buf stores[3] = {{0}};
	struct doc docs[3];
	_cleanup_(buf_deinit) struct buf out = {0};
	int r = CTL_FINE;
	for (unsigned i = 0; i < 3 && r == CTL_FINE; i++) {
		r = ctl_ask(ctl, asks[i], 1);
		docs[i] = ctl->answer;
		stores[i] = ctl->store; /* the views lead into it */
		ctl->store = (struct buf){0};
	}
	if (r == CTL_FINE) {
		prometheus_print(docs[0], docs[1], docs[2], &out);
		r = ctl_out(&out) ? CTL_FINE : CTL_NO;
	}
	for (unsigned i = 0; i < 3; i++)
		buf_deinit(&stores[i]);
	return r;
}

static int stats_again(struct ctl *ctl, const char *const *words, unsigned n, double seconds)
{
	for (;;) {
		int r = ask_and_show(ctl, words, n, ctl_show_stats);
		if (r != CTL_FINE || seconds <= 0)
			return r;
		if (!ctl->json)
			putchar('\n');
		const struct timespec pause = {(time_t)seconds,
		                               (long)((seconds - (double)(time_t)seconds) * 1e9)};
		nanosleep(&pause, NULL);
	}
}

static bool read_seconds(const char *s, double *out)
{
	char *end;
	*out = strtod(s, &end);
	return end != s && *end == '\0' && *out >= 0.05 && *out <= 86400;
}

static int stats(struct ctl *ctl, const struct command *c, int argc, char **argv)
{
	const char *words[] = {"stats", "--samples"};
	unsigned n = 1;
	double seconds = 0;
	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--prometheus") == 0 && argc == 1)
			return prometheus(ctl);
		if (strcmp(argv[i], "--samples") == 0)
			n = 2;
		else if (strcmp(argv[i], "--watch") != 0)
			return ctl_used_wrongly(c);
		else if (i + 1 < argc && read_seconds(argv[i + 1], &seconds))
			i++;
		else
			seconds = 1;
	}
	return stats_again(ctl, words, n, seconds);
}

/* ---- tap, graph, version ---- */

static int tap(struct ctl *ctl, const char *const *words, unsigned n)
{
	size_t len;
	const char *line;
	if (!ctl_send(ctl, words, n))
		return CTL_WRONG;
	while ((line = ctl_line(ctl, &len))) {
		bool known = doc_parse(&ctl->store, line, len, &ctl->answer) == 0;
		bool end = known && doc_bool(doc_at(ctl->answer, "end")) &&
		           doc_exists(doc_at(ctl->answer, "tapped"));
		if (known && doc_exists(doc_at(ctl->answer, "error")) &&
		    !doc_exists(doc_at(ctl->answer, "tapped"))) {
			char why[COMMAND_WHY_MAX];
			if (ctl->json)
				ctl_print_answer(ctl);
			else
				ctl_say("tap: %s",
				        doc_copy(doc_at(ctl->answer, "error"), why, sizeof(why)));
			return CTL_NO;
		}
		if (!end || ctl->json)
			ctl_print_answer(ctl);
		if (end)
			return CTL_FINE;
	}
	ctl_say("tap: the daemon at %s ended the connection", ctl->tried);
	return CTL_WRONG;
}

static int graph(struct ctl *ctl, const struct command *c, int argc, char **argv)
{
	static const char *const words[] = {"graph"};
	_cleanup_(buf_deinit) struct buf out = {0};
	const char *drawing = NULL, *file = NULL;
	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--dot") == 0 || strcmp(argv[i], "--mermaid") == 0)
			drawing = argv[i] + 2;
		else if (argv[i][0] == '-' || file)
			return ctl_used_wrongly(c);
		else
			file = argv[i];
	}
	if (!file && !ctl_connect(ctl, false))
		return CTL_WRONG;
	int r = file ? ctl_graph_of(ctl, file) : ctl_ask(ctl, words, 1);
	if (r != CTL_FINE)
		return r;
	size_t n;
	const char *text = doc_text(doc_at(ctl->answer, drawing ? drawing : ""), &n);
	if (drawing)
		buf_add(&out, text, n);
	else if (ctl->json)
		ctl_print_answer(ctl);
	else
		ctl_show_graph(ctl, ctl->answer, &out);
	return ctl_out(&out) ? CTL_FINE : CTL_NO;
}

static int version(struct ctl *ctl)
{
	static const char *const words[] = {"status"};
	char daemon[64] = "";
	if (ctl_connect(ctl, true) && ctl_ask(ctl, words, 1) == CTL_FINE)
		doc_copy(doc_at(ctl->answer, "version"), daemon, sizeof(daemon));
	if (ctl->json)
		printf("{\"sluicectl\":\"%s\",\"sluiced\":%s%s%s}\n", SLUICE_VERSION,
		       *daemon ? "\"" : "", *daemon ? daemon : "null", *daemon ? "\"" : "");
	else
		printf("sluicectl %s\nsluiced %s\n", SLUICE_VERSION,
		       *daemon ? daemon : "does not answer");
	return CTL_FINE;
}

static int top(struct ctl *ctl, const struct command *c, int argc, char **argv)
{
	double seconds = 1;
	if (argc > 1 || (argc == 1 && !read_seconds(argv[0], &seconds)))
		return ctl_used_wrongly(c);
	return ctl_connect(ctl, false) ? top_run(ctl, seconds) : CTL_WRONG;
}

/* ---- which ---- */

/* The command's words are the daemon's own. */
static int ask_daemon(struct ctl *ctl, const struct command *c, int argc, char **argv)
{
	const char *words[COMMAND_WORDS_MAX] = {c->name};
	unsigned n = 1;
	size_t id = (size_t)(c - command_all);
	for (int i = 0; i < argc && n < COMMAND_WORDS_MAX; i++) {
		if (strpbrk(argv[i], " \t\r\n") || !*argv[i])
			return ctl_used_wrongly(c);
		words[n++] = argv[i];
	}
	if (id != COMMAND_stats && ((unsigned)argc < c->min || (unsigned)argc > c->max))
		return ctl_used_wrongly(c);
	if (!ctl_connect(ctl, false))
		return CTL_WRONG;
	switch (id) {
	case COMMAND_status:
		return status(ctl);
	case COMMAND_stats:
		return stats(ctl, c, argc, argv);
	case COMMAND_workers:
		return workers(ctl);
	case COMMAND_audit:
		return audit(ctl);
	case COMMAND_tap:
		return tap(ctl, words, n);
	default:
		return ask_and_show(ctl, words, n, show_done);
	}
}

static int run(struct ctl *ctl, const struct command *c, int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return help_of(c);
	if (c->where == COMMAND_AT_CLIENT && ((unsigned)argc < c->min || (unsigned)argc > c->max))
		return ctl_used_wrongly(c);
	switch (c - command_all) {
	case COMMAND_help:
		return help(argc, argv);
	case COMMAND_version:
		return version(ctl);
	case COMMAND_keygen:
		return ctl_keygen(argv[0]);
	case COMMAND_check:
		return ctl_check(ctl, argc, argv);
	case COMMAND_stages:
		return ctl_stages(ctl, argc, argv);
	case COMMAND_dead_list:
		return ctl_dead_list(ctl, argc, argv);
	case COMMAND_dead_show:
		return ctl_dead_show(ctl, argc, argv);
	case COMMAND_dead_replay:
		return ctl_dead_replay(ctl, argc, argv);
	case COMMAND_dead_purge:
		return ctl_dead_purge(ctl, argc, argv);
	case COMMAND_graph:
		return graph(ctl, c, argc, argv);
	case COMMAND_top:
		return top(ctl, c, argc, argv);
	default:
		return ask_daemon(ctl, c, argc, argv);
	}
}

/* Options in front of the command. How many words they were; -1: done, the exit status in *@status.
 */
static int global_options(struct ctl *ctl, int argc, char **argv, int *status)
{
	int i = 1;
	for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
		bool socket = strcmp(argv[i], "-s") == 0 || strcmp(argv[i], "--socket") == 0;
		bool config = strcmp(argv[i], "-c") == 0 || strcmp(argv[i], "--config") == 0;
		*status = CTL_FINE;
		if ((socket || config) && i + 1 < argc) {
			*(socket ? &ctl->socket : &ctl->config) = argv[++i];
		} else if (strcmp(argv[i], "--json") == 0) {
			ctl->json = true;
		} else if (strcmp(argv[i], "--version") == 0) {
			puts("sluicectl " SLUICE_VERSION);
			return -1;
		} else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			*status = usage(stdout);
			return -1;
		} else {
			ctl_say("%s: %s; see sluicectl --help", argv[i],
			        socket || config ? "expected a path behind it" : "unknown option");
			*status = CTL_WRONG;
			return -1;
		}
	}
	return i;
}

/* --json may stand behind the command too. */
static int take_json(struct ctl *ctl, int argc, char **argv)
{
	int kept = 0;
	for (int i = 0; i < argc; i++)
		if (strcmp(argv[i], "--json") == 0)
			ctl->json = true;
		else
			argv[kept++] = argv[i];
	return kept;
}

int main(int argc, char **argv)
{
	struct ctl ctl = {.fd = -1};
	unsigned taken = 0;
	int r = CTL_FINE;
	setlocale(LC_CTYPE, "");
	signal(SIGPIPE, SIG_DFL);
	int at = global_options(&ctl, argc, argv, &r);
	if (at < 0)
		return r;
	if (at >= argc)
		return usage(stderr);
	ctl.color = table_wants_color(1);
	const struct command *c = command_find(argv + at, (unsigned)(argc - at), &taken);
	if (!c)
		return unknown(argv[at]);
	argc -= at + (int)taken;
	argv += at + (int)taken;
	if (c == &command_all[COMMAND_send])
		return send_main(argc + 1, argv - 1);
	argc = take_json(&ctl, argc, argv);
	r = run(&ctl, c, argc, argv);
	ctl_close(&ctl);
	buf_deinit(&ctl.in);
	buf_deinit(&ctl.store);
	return r;
}
