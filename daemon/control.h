/*
 * The control socket: a unix stream socket, one request a line, one JSON document a line as answer.
 *
 * Reading is for everybody whom the socket's mode lets in; changing is for root and the daemon's
 * own user (peer credentials). A slow or silent client never holds the daemon: answers are buffered
 * up to a bound, then the client is dropped; so is one that says nothing for a while. Commands
 * stand in ONE list, commands.def, from which the server's table, sluicectl's help and the
 * completions come.
 */
#pragma once

#include "daemon/master.h"

/* Listens on config->control_socket (or takes systemd's), with config->control_mode. 0 or -errno,
 * logged. */
int control_open(struct master *m);
void control_close(struct master *m);
/* A worker sent a record that a client taps: one JSON object. */
void control_tapped(struct master *m, uint32_t slot, const char *json, size_t len);
/* After a reload: listen elsewhere if the configuration says so. */
int control_reconfigure(struct master *m);
/* A reload has ended: @why NULL when the new configuration runs. Answers whoever asked for it. */
void control_reloaded(struct master *m, const char *why);
