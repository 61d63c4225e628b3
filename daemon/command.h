/*
 * The list of commands as a table, and requests: one line of words.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum command_id {
#define COMMAND(id, name, args, who, where, min, max, help, more) COMMAND_##id,
#include "daemon/commands.def"
#undef COMMAND
	COMMAND_COUNT
};

enum command_who {
	COMMAND_WHO_READ,
	COMMAND_WHO_CHANGE,
};

enum command_where {
	COMMAND_AT_SERVER,
	COMMAND_AT_CLIENT,
};

struct command {
	const char *name;
	const char *args;
	enum command_who who;
	enum command_where where;
	unsigned min, max;
	const char *help;
	const char *more;
};

extern const struct command command_all[COMMAND_COUNT];

enum {
	COMMAND_WORDS_MAX = 16,
	COMMAND_LINE_MAX = 4096, /* bytes of a request without its newline */
	COMMAND_WHY_MAX = 512,
};

/* A request, taken apart. Words lie in the line that was parsed. */
struct request {
	const struct command *command;
	char *words[COMMAND_WORDS_MAX]; /* behind the command's name */
	unsigned n;
	char why[COMMAND_WHY_MAX]; /* after a refusal */
};

/* The command whose name these words begin with (some have two words), and how many words its name
 * has; NULL. */
const struct command *command_find(char *const *words, unsigned n, unsigned *taken);

/* Takes @line (@len bytes, changed, a byte behind it is written) apart. False: refused, @rq->why
 * says why. */
bool command_parse(char *line, size_t len, struct request *rq);

/* Why user @uid may not use @c with a daemon that runs as @own; NULL: it may. */
const char *command_refusal(const struct command *c, uid_t uid, uid_t own);

/* @s as a number from @min to @max. False: it is none. */
bool command_number(const char *s, unsigned min, unsigned max, unsigned *out);
