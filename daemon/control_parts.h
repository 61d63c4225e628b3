/*
 * What the files of the control socket share; nobody else includes this.
 *
 * control.c         clients: reading lines, writing answers, time-outs
 * control_listen.c  the listening socket: made, taken from systemd, removed
 * control_answer.c  what each command does
 */
#pragma once

#include <sys/socket.h>
#include <sys/stat.h>

#include "daemon/command.h"
#include "daemon/control.h"
#include "daemon/report.h"

enum {
	CONTROL_CLIENTS_MAX = 64,
	CONTROL_PENDING_MAX =
	        1048576, /* bytes of answers a client has not taken, before it is dropped */
	CONTROL_RECORD_MAX = 1048576, /* bytes of one tapped record */
	CONTROL_TAP_MAX = 1000000,    /* records of one tap */
	CONTROL_IDLE_US =
	        60 * 1000000, /* a client that neither asks nor reads for so long is dropped */
	CONTROL_RETRY_US = 1000000, /* after accept() failed for want of descriptors */
};

struct client {
	struct control *owner;
	int fd;
	uid_t uid;
	sd_event_source *io, *idle;
	char in[COMMAND_LINE_MAX + 2]; /* a line, its newline, a NUL */
	size_t in_len;
	bool said_all;  /* the client sends no more */
	bool reloading; /* it waits for the end of a reload it asked for */
	bool last;      /* close when the answers are taken */
	struct buf out;
	size_t sent; /* of out */
	/* tap */
	char tap[ARENA_NAME_MAX]; /* stage; "": none */
	unsigned tap_wanted, tapped;
	uint64_t tap_missed;
};

struct control_listen {
	int fd; /* -1: none */
	char path[108];

	bool ours; /* made by us, not handed over by systemd */
	bool kept; /* systemd keeps it: the path stays for the daemon after us */
};

struct control {
	struct master *m;
	struct control_listen listen;
	sd_event_source *accepting, *retry;
	struct client *clients[CONTROL_CLIENTS_MAX];
	unsigned n_clients;
	uint64_t refused, dropped; /* clients */
	int idle_us_for_tests;     /* 0: CONTROL_IDLE_US */
};

/* control_listen.c. 0 or -errno, logged. */
int control_listen_open(struct control_listen *l, const char *path, unsigned mode);
void control_listen_close(struct control_listen *l);

/* control_answer.c: carries a request out; its answer, a line, is added to c->out. */
void control_answer(struct control *ctl, struct client *c, struct request *rq);
void control_answer_error(struct client *c, const char *why);
/* The end of a reload, for a client that waits for it. */
void control_answer_reloaded(struct client *c, const char *why);
/* Adds the closing document of a client's tap and forgets it. */
void control_tap_end(struct control *ctl, struct client *c);
/* Asks the workers of @stage for as many records as its most demanding client still wants. */
int control_tap_ask(struct control *ctl, const char *stage, const char **why);
