/*
 * A request line from anybody: never a crash, and either a command with as many words as it takes,
 * all of them printable and inside the line, or a reason. The reason goes into an answer, which
 * must be JSON.
 */
#include <assert.h>
#include <stdint.h>

#include "daemon/command.h"
#include "daemon/doc.h"
#include "daemon/json_out.h"

static void check_refusal(const struct request *rq)
{
	struct buf out = {0}, store = {0};
	struct json j = json_on(&out);
	struct doc d;
	assert(strnlen(rq->why, sizeof(rq->why)) < sizeof(rq->why) && rq->why[0]);
	json_open(&j, NULL, '{');
	json_text(&j, "error", rq->why);
	json_close(&j, '}');
	assert(j.error == 0 && !memchr(out.p, '\n', out.len));
	assert(doc_parse(&store, (const char *)out.p, out.len, &d) == 0);
	assert(doc_exists(doc_at(d, "error")));
	buf_deinit(&out);
	buf_deinit(&store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct request rq;
	if (size > COMMAND_LINE_MAX)
		return 0;
	char *line = malloc(size + 1);
	if (!line)
		return 0;
	if (size)
		memcpy(line, data, size);
	if (!command_parse(line, size, &rq)) {
		check_refusal(&rq);
	} else {
		assert(rq.n >= rq.command->min && rq.n <= rq.command->max);
		for (unsigned i = 0; i < rq.n; i++) {
			assert(rq.words[i] >= line && rq.words[i] < line + size && *rq.words[i]);
			assert(rq.words[i] + strlen(rq.words[i]) <= line + size);
			assert(!strpbrk(rq.words[i], " \t\r\n"));
		}
	}
	free(line);
	return 0;
}
