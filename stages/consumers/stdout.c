/*
 * Consumer `stdout`: writes records to standard output, at least once.
 *
 * What a pipe took cannot be taken back, so a unit that a crash undid is written again. Within a
 * process nothing is: a unit that had to wait in the middle goes on where it stopped.
 *
 * A reader that is gone (EPIPE) ends the worker; a reader that is slow is waited for, up to
 * `timeout` at a time.
 */
#include "stages/stage.h"

#include <string.h>

enum {
	UNIT_MAX = 4 << 20,
};

struct stdout_state {
	struct buf out;
	size_t written; /* bytes of it that are out */
	bool headed;
};

static int stdout_begin(struct stage *st)
{
	struct stdout_state *s = st->state;
	s->out.len = 0;
	s->written = 0;
	return 0;
}

static int stdout_consume(struct stage *st, const uint8_t *rec, size_t len)
{
	struct stdout_state *s = st->state;
	struct codec *c = st->codec;
	size_t before = s->out.len;
	int r = 0;
	if (before >= UNIT_MAX)
		return STAGE_E_FULL;
	if (before == 0 && !s->headed && c->ops->head)
		r = c->ops->head(c, rec, len, &s->out);
	if (r == 0)
		r = c->ops->encode(c, rec, len, &s->out);
	if (r == 0)
		return STAGE_OK;
	s->out.len = before;
	if (r < 0)
		return r;
	return stage_say(st, STAGE_E_REJECT, "%s", c->why ? c->why : "cannot be written so");
}

/* Standard output may be set to not block by whoever shares it. */
static int wait_writable(struct stage *st)
{
	struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
	int64_t ms = st->timeout > 0 ? st->timeout / 1000000 : 30000;
	int n = poll(&p, 1, ms > 60000 ? 60000 : (int)ms);
	if (n < 0 && errno != EINTR)
		return err_errno();
	if (n == 0)
		return stage_say(st, STAGE_E_UNREACHABLE, "standard output takes nothing");
	return 0;
}

static int stdout_finish(struct stage *st)
{
	struct stdout_state *s = st->state;
	while (s->written < s->out.len) {
		ssize_t n = write(STDOUT_FILENO, s->out.p + s->written, s->out.len - s->written);
		if (n >= 0) {
			s->written += (size_t)n;
			s->headed = true;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == EPIPE)
			return stage_say(st, -EPIPE, "nobody reads standard output any more");
		if (errno != EAGAIN)
			return stage_say(st, STAGE_E_UNREACHABLE, "standard output: %s",
			                 strerror(errno));
		int r = wait_writable(st);
		if (r != 0)
			return r;
	}
	return STAGE_OK;
}

static void stdout_rollback(struct stage *st)
{
	stdout_begin(st);
}

static void stdout_close(struct stage *st)
{
	buf_deinit(&((struct stdout_state *)st->state)->out);
}

const struct stage_ops consumer_stdout = {
        .name = "stdout",
        .kind = STAGE_CONSUMER,
        .flags = STAGE_SINGLE | STAGE_CODEC | STAGE_OUTSIDE,
        .needs = STAGE_NEEDS_NOTHING,
        .help = "writes records to standard output, at least once",
        .example = "type: stdout\n"
                   "codec: json\n",
        .state_size = sizeof(struct stdout_state),
        .close = stdout_close,
        .consume = stdout_consume,
        .begin = stdout_begin,
        .finish = stdout_finish,
        .rollback = stdout_rollback,
};
