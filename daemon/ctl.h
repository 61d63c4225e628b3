/*
 * sluicectl's parts: talking to the daemon, and what each command shows.
 *
 * sluicectl.c    options, the table of commands, help
 * ctl_talk.c     the socket: connect, ask, read a line
 * ctl_show.c     answers as tables
 * ctl_local.c    what needs no daemon: check, stages, graph of a file, version
 * ctl_dead.c     dead letters
 * ctl_replay.c   dead letters put back
 * prometheus.c   stats in Prometheus' text format
 * top.c          the live view
 */
#pragma once

#include "daemon/command.h"
#include "daemon/doc.h"
#include "daemon/table.h"
#include "ipc/err.h"

enum ctl_exit {
	CTL_FINE = 0,
	CTL_NO = 1,    /* refused; the books do not balance; the configuration is wrong */
	CTL_WRONG = 2, /* used wrongly, or there is no daemon */
};

struct ctl {
	const char *socket; /* -s; NULL: found by ctl_connect */
	const char *config; /* -c, NULL: the default */
	bool json;
	bool color;
	/* the connection */
	int fd;           /* -1: none */
	char tried[4096]; /* the socket that was tried last */
	struct buf in;    /* what was read; the line handed out is at its start */
	size_t line;      /* bytes of that line, newline included */
	/* the last answer */
	struct buf store;
	struct doc answer;
};

/* ---- ctl_talk.c ---- */

/* Connects. False: there is no daemon (said on stderr, unless @quiet). */
bool ctl_connect(struct ctl *ctl, bool quiet);
void ctl_close(struct ctl *ctl);
/* Sends the words as one request. False: the connection is gone (said). */
bool ctl_send(struct ctl *ctl, const char *const *words, unsigned n);
/* Reads the next line of the answers; its text, without the newline, stays until the next call.
 * NULL: no more. */
const char *ctl_line(struct ctl *ctl, size_t *len);
/* Asks and waits for one answer, in ctl->answer. CTL_FINE, or CTL_NO when it is an error (said on
 * stderr, or printed with --json), or CTL_WRONG. */
int ctl_ask(struct ctl *ctl, const char *const *words, unsigned n);
/* The answer as it came. */
void ctl_print_answer(struct ctl *ctl);

/* Says "sluicectl: ..." on stderr. */
void ctl_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Says how @c is used. CTL_WRONG. */
int ctl_used_wrongly(const struct command *c);
/* Writes all of it to stdout. False: nobody reads it any more. */
bool ctl_out(const struct buf *text);

/* ---- ctl_show.c: an answer as text ---- */

void ctl_show_status(const struct ctl *ctl, struct doc d, struct buf *out);
void ctl_show_stats(const struct ctl *ctl, struct doc d, struct buf *out);
void ctl_show_workers(const struct ctl *ctl, struct doc d, struct buf *out);
void ctl_show_audit(const struct ctl *ctl, struct doc d, struct buf *out);
void ctl_show_graph(const struct ctl *ctl, struct doc d, struct buf *out);
enum table_color ctl_state_color(struct doc state);

/* ---- ctl_local.c ---- */

int ctl_check(struct ctl *ctl, int argc, char **argv);
/* keygen.c: a pair of CURVE keys. */
int ctl_keygen(const char *path);
int ctl_stages(struct ctl *ctl, int argc, char **argv);
/* The graph of a configuration file, as the daemon would answer it, in ctl->answer. */
int ctl_graph_of(struct ctl *ctl, const char *file);

/* ---- ctl_dead.c ---- */

int ctl_dead_list(struct ctl *ctl, int argc, char **argv);
int ctl_dead_show(struct ctl *ctl, int argc, char **argv);
int ctl_dead_purge(struct ctl *ctl, int argc, char **argv);
/* Where the letters are: the running daemon knows (ctl->answer is its status then, and ctl->fd
 * open); else the configuration. */
bool ctl_dead_find(struct ctl *ctl, char *path, size_t size);
/* Says what went wrong with the letters in @path. CTL_NO. */
int ctl_dead_failed(const char *path, int error);

/* ---- ctl_replay.c ---- */

int ctl_dead_replay(struct ctl *ctl, int argc, char **argv);

/* ---- prometheus.c, top.c ---- */

void prometheus_print(struct doc stats, struct doc workers, struct doc status, struct buf *out);
int top_run(struct ctl *ctl, double seconds);
