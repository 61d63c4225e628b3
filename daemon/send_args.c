/*
 * Command line of `sluicectl send`; see send_args.h. Everything wrong is said on stderr with status
 * 2 before anything is opened.
 */
#include "daemon/send_args.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/split.h"

static const char help_text[] =
        "usage: sluicectl send --to ENDPOINT [options] [FILE]\n"
        "Sends the records of FILE (or stdin) to a zmq producer.\n"
        "\n"
        "  --to ENDPOINT       tcp://HOST:PORT or ipc://PATH of the producer\n"
        "  --codec CODEC       json (default), lines, csv, deb822, msgpack: where records end\n"
        "  --ack               acknowledged, for `socket: router`; without it for `socket: pull`\n"
        "  --id NAME           with --ack: go on where an interrupted run with this id and the "
        "same\n"
        "                      input ended\n"
        "  --message-size N    bytes of a message (default 65536)\n"
        "  --max-message N     larger records are left out and counted (default 262144)\n"
        "  --timeout SECONDS   give up when nothing moves for so long (default 30; 0: never)\n"
        "  --server-key KEY    CURVE: the daemon's public key, or file:PATH of it\n"
        "  --secret file:PATH  CURVE: the own secret key\n"
        "  --json              the summary as JSON on stdout\n"
        "  --quiet             no progress\n"
        "  --help              this text\n"
        "\n"
        "Exit status: 0 all was taken; 1 it was not, or records became dead letters; 2 wrong "
        "usage.\n";

enum flag {
	FLAG_TO = 1,
	FLAG_CODEC,
	FLAG_ACK,
	FLAG_ID,
	FLAG_SIZE,
	FLAG_MAX,
	FLAG_TIMEOUT,
	FLAG_SERVER_KEY,
	FLAG_SECRET,
	FLAG_JSON,
	FLAG_QUIET,
	FLAG_HELP,
};

static const struct option flags[] = {
        {"to", required_argument, NULL, FLAG_TO},
        {"codec", required_argument, NULL, FLAG_CODEC},
        {"ack", no_argument, NULL, FLAG_ACK},
        {"id", required_argument, NULL, FLAG_ID},
        {"message-size", required_argument, NULL, FLAG_SIZE},
        {"max-message", required_argument, NULL, FLAG_MAX},
        {"timeout", required_argument, NULL, FLAG_TIMEOUT},
        {"server-key", required_argument, NULL, FLAG_SERVER_KEY},
        {"secret", required_argument, NULL, FLAG_SECRET},
        {"json", no_argument, NULL, FLAG_JSON},
        {"quiet", no_argument, NULL, FLAG_QUIET},
        {"help", no_argument, NULL, FLAG_HELP},
        {NULL, 0, NULL, 0},
};

static int wrong(const char *what, const char *arg)
{
	fprintf(stderr, "send: %s%s (see sluicectl send --help)\n", what, arg);
	return 2;
}

static bool number(const char *text, int64_t min, int64_t max, int64_t *out)
{
	char *end;
	errno = 0;
	long long v = strtoll(text, &end, 10);
	if (errno || end == text || *end || v < min || v > max)
		return false;
	*out = v;
	return true;
}

static bool take_text(struct send_args *a, int flag)
{
	switch (flag) {
	case FLAG_TO:
		a->to = optarg;
		return true;
	case FLAG_ID:
		a->id = optarg;
		return *optarg && strlen(optarg) <= 255;
	case FLAG_SERVER_KEY:
		a->server_key = optarg;
		return true;
	case FLAG_SECRET:
		a->secret = optarg;
		return true;
	case FLAG_CODEC:
		a->codec = split_kind_find(optarg);
		return a->codec >= 0;
	case FLAG_SIZE:
		return number(optarg, 1, 1 << 28, &a->message_size);
	case FLAG_MAX:
		return number(optarg, 1, 1 << 28, &a->max_message);
	case FLAG_TIMEOUT:
		if (!number(optarg, 0, 1000000, &a->timeout_ms))
			return false;
		a->timeout_ms *= 1000;
		return true;
	default:
		return false;
	}
}

static bool take_switch(struct send_args *a, int flag)
{
	bool *s = flag == FLAG_ACK     ? &a->ack
	          : flag == FLAG_JSON  ? &a->json
	          : flag == FLAG_QUIET ? &a->quiet
	                               : NULL;
	if (s)
		*s = true;
	return s;
}

static int check(struct send_args *a)
{
	if (!a->to)
		return wrong("--to ENDPOINT is needed", "");
	if (a->id && !a->ack)
		return wrong("--id goes with --ack", "");
	if (!a->server_key != !a->secret)
		return wrong("--server-key and --secret go together", "");
	if (a->message_size > a->max_message)
		a->message_size = a->max_message;
	return -1;
}

int send_args_read(struct send_args *a, int argc, char **argv)
{
	*a = (struct send_args){.codec = SPLIT_JSON,
	                        .message_size = 65536,
	                        .max_message = 262144,
	                        .timeout_ms = 30000};
	optind = 0;
	opterr = 0;
	int flag;
	while ((flag = getopt_long(argc, argv, "", flags, NULL)) != -1) {
		if (flag == FLAG_HELP) {
			fputs(help_text, stdout);
			return 0;
		}
		if (flag == '?')
			return wrong("not understood: ", argv[optind - 1]);
		if (!take_switch(a, flag) && !take_text(a, flag))
			return wrong("not a good value: ", optarg);
	}
	if (argc - optind > 1)
		return wrong("one FILE at most, not also ", argv[optind + 1]);
	a->file = optind < argc && strcmp(argv[optind], "-") != 0 ? argv[optind] : NULL;
	return check(a);
}
