/*
 * Requests: a line of words to a command that exists, with as many words as it takes, and who may
 * use it.
 *
 * All of this is pure: no sockets, no memory but the caller's. A line comes from anybody who may
 * connect, so nothing in it is trusted: control characters (a NUL among them) are refused and not
 * repeated in the answer.
 */
#include "daemon/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stages/option.h"

#define READ   COMMAND_WHO_READ
#define CHANGE COMMAND_WHO_CHANGE
#define SERVER COMMAND_AT_SERVER
#define CLIENT COMMAND_AT_CLIENT
#define COMMAND(id, name, args, who, where, min, max, help, more) \
 [COMMAND_##id] = {name, args, who, where, min, max, help, more},
const struct command command_all[COMMAND_COUNT] = {
#include "daemon/commands.def"
};
#undef COMMAND

/* How many of @words are the command's name: 0 when they are not. */
static unsigned name_words(const struct command *c, char *const *words, unsigned n)
{
	const char *name = c->name;
	for (unsigned i = 0; i < n; i++) {
		size_t len = strlen(words[i]);
		if (len == 0 || strncmp(name, words[i], len) != 0)
			return 0;
		if (name[len] == '\0')
			return i + 1;
		if (name[len] != ' ')
			return 0;
		name += len + 1;
	}
	return 0;
}

const struct command *command_find(char *const *words, unsigned n, unsigned *taken)
{
	for (unsigned i = 0; i < COMMAND_COUNT; i++) {
		*taken = name_words(&command_all[i], words, n);
		if (*taken)
			return &command_all[i];
	}
	return NULL;
}

static bool refuse_unknown(struct request *rq, const char *word)
{
	const char *names[COMMAND_COUNT];
	for (unsigned i = 0; i < COMMAND_COUNT; i++)
		names[i] = command_all[i].name;
	const char *near = option_nearest(word, names, COMMAND_COUNT);
	if (near)
		snprintf(rq->why, sizeof(rq->why),
		         "unknown command \"%.64s\": did you mean \"%s\"?", word, near);
	else
		snprintf(rq->why, sizeof(rq->why), "unknown command \"%.64s\": see sluicectl help",
		         word);
	return false;
}

/* Splits at blanks. False: too many. */
static bool split(char *line, char **words, unsigned *n)
{
	char *save = NULL;
	*n = 0;
	for (char *w = strtok_r(line, " \t\r", &save); w; w = strtok_r(NULL, " \t\r", &save)) {
		if (*n == COMMAND_WORDS_MAX)
			return false;
		words[(*n)++] = w;
	}
	return true;
}

static bool has_control_bytes(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)line[i];
		if ((c < 0x20 && c != '\t' && c != '\r') || c == 0x7f)
			return true;
	}
	return false;
}

bool command_parse(char *line, size_t len, struct request *rq)
{
	char *words[COMMAND_WORDS_MAX];
	unsigned n, taken;
	*rq = (struct request){0};
	line[len] = '\0';
	if (has_control_bytes(line, len)) {
		snprintf(rq->why, sizeof(rq->why),
		         "a request is one line of words: control characters");
		return false;
	}
	if (!split(line, words, &n)) {
		snprintf(rq->why, sizeof(rq->why), "more than %d words", COMMAND_WORDS_MAX);
		return false;
	}
	if (n == 0) {
		snprintf(rq->why, sizeof(rq->why), "an empty request: see sluicectl help");
		return false;
	}
	rq->command = command_find(words, n, &taken);
	if (!rq->command)
		return refuse_unknown(rq, words[0]);
	rq->n = n - taken;
	memcpy(rq->words, words + taken, rq->n * sizeof(*words));
	if (rq->n >= rq->command->min && rq->n <= rq->command->max)
		return true;
	snprintf(rq->why, sizeof(rq->why), "%s: expected %s%s%s", rq->command->name,
	         rq->command->name, *rq->command->args ? " " : "", rq->command->args);
	return false;
}

const char *command_refusal(const struct command *c, uid_t uid, uid_t own)
{
	if (c->who == COMMAND_WHO_READ || uid == 0 || uid == own)
		return NULL;
	return "only root and the user the daemon runs as may change something: use sudo";
}

bool command_number(const char *s, unsigned min, unsigned max, unsigned *out)
{
	size_t n = strspn(s, "0123456789");
	if (n == 0 || n > 9 || s[n])
		return false;
	*out = (unsigned)strtoul(s, NULL, 10);
	return *out >= min && *out <= max;
}
