/*
 * What `sluicectl send` was told on its command line. Apart from send.c because getopt and the
 * stages both have a `struct option`.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct send_args {
	const char *to, *file, *id, *server_key, *secret; /* borrowed from argv; NULL: not given */
	int codec;                                        /* enum split_kind */
	bool ack, json, quiet;
	int64_t message_size, max_message; /* bytes */
	int64_t timeout_ms;                /* 0: never */
};

/* Reads argv. -1: go on; else the exit status (0 after --help), and all that is to say was said. */
int send_args_read(struct send_args *a, int argc, char **argv);
