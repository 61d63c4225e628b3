/*
 * exec: a producer that is a program; what it writes to its stdout are the records.
 *
 *     type: exec
 *     command: journalctl -f -o json
 *     codec: json
 *
 * The program runs for as long as it likes. When it ends well (status 0), so does the producer, or
 * with `restart: true` it is run again after `every`; when it fails, it is run again after a pause
 * that doubles from 0.1 s to 30 s and starts anew once it has run for 10 s. Its stderr goes to the
 * log. It is not read while the pipeline is full, so that it waits in its own write: back-pressure
 * reaches it.
 *
 * Honest limits: at most once. A program cannot be told to go back, so what was read from it and
 * not yet committed when the worker is killed is lost (what is committed is not), and a new worker
 * starts a new program.
 */
#include <string.h>

#include "stages/child.h"
#include "stages/stage.h"
#include "ipc/clock.h"

enum {
	LINE_FACTOR = 4, /* bytes of one record's text, in largest records */
	LINE_EXTRA = 65536,
	SHOWN_MAX = 4096, /* bytes of too long a record in its dead letter */
};

static const int64_t STOP_GRACE = 1000000000, RAN_WELL = 10000000000;

struct exec_config {
	struct child_command command;
	bool restart;
	int64_t every;
};

struct exec {
	struct child child;
	int64_t started;
	bool open;
	bool running;
	bool skipping; /* the rest of too long a line */
	bool ended;
};

static const struct option exec_options[] = {
        CHILD_COMMAND(struct exec_config, command),
        {.name = "restart",
         .type = OPTION_BOOL,
         .offset = offsetof(struct exec_config, restart),
         .def = "false",
         .help = "run it again when it has ended well"},
        {.name = "every",
         .type = OPTION_DURATION,
         .offset = offsetof(struct exec_config, every),
         .def = "1s",
         .help = "with restart: the pause between its end and the next run"},
        OPTION_END,
};

static void exec_check(void *config, const struct node *node, struct complaints *c)
{
	struct exec_config *cfg = config;
	child_check(&cfg->command, node, c);
}

static size_t line_max(const struct stage *st)
{
	return st->max_record * LINE_FACTOR + LINE_EXTRA;
}

static int exec_open(struct stage *st)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	/* what was read and cannot be a record is refused before the buffer is full */
	child_init(&x->child, &c->command, st->name, 2 * line_max(st));
	x->open = true;
	return 0;
}

static void exec_close(struct stage *st)
{
	struct exec *x = st->state;
	if (x->open)
		child_deinit(&x->child, 0);
}

/* 0: it runs; STAGE_E_*; -errno. */
static int exec_start(struct stage *st)
{
	struct exec *x = st->state;
	int r = child_start(&x->child);
	if (r == CHILD_E_PAUSE && x->child.failures)
		return stage_say(st, STAGE_E_UNREACHABLE, "%s", x->child.why);
	if (r == CHILD_E_PAUSE) {
		st->deadline = x->child.next_start;
		st->n_fds = 0;
		return STAGE_E_IDLE;
	}
	if (r == CHILD_E_START)
		return stage_say(st, STAGE_E_UNREACHABLE, "%s", x->child.why);
	if (r < 0)
		return r;
	x->running = true;
	x->skipping = false;
	x->started = clock_monotonic();
	if (st->codec->ops->reset)
		st->codec->ops->reset(st->codec);
	return 0;
}

static const char *exec_at(struct stage *st, char at[STAGE_WHY_MAX])
{
	const struct exec_config *c = st->config;
	snprintf(at, STAGE_WHY_MAX, "output of %.200s", c->command.argv.v[0]);
	return at;
}

/* Drops up to the end of a line that was too long. */
static void exec_skip(struct exec *x)
{
	size_t n, line;
	if (!x->skipping || !child_has(&x->child, &n))
		return;
	if (child_line(&x->child, &line)) {
		child_take(&x->child, line + 1);
		x->skipping = false;
	} else {
		child_take(&x->child, n);
	}
}

/* Something that is longer than any record: its head becomes a dead letter. In a binary codec no
 * place is known at which to go on, so the program is replaced. */
static int exec_too_long(struct stage *st, const uint8_t *p, size_t n)
{
	struct exec *x = st->state;
	char why[64], at[STAGE_WHY_MAX];
	snprintf(why, sizeof(why), "longer than %zu bytes", line_max(st));
	int r = stage_reject(st, why, p, n < SHOWN_MAX ? n : SHOWN_MAX, exec_at(st, at));
	if (r < 0)
		return r;
	if (st->codec->ops->text) {
		child_take(&x->child, n);
		x->skipping = true;
	} else {
		child_failed(&x->child);
		x->running = false;
	}
	return 0;
}

static int exec_decode(struct stage *st, bool last)
{
	struct exec *x = st->state;
	char at[STAGE_WHY_MAX];
	size_t n;
	exec_skip(x);
	const uint8_t *p = child_has(&x->child, &n);
	if (!p || x->skipping)
		return 0;
	struct codec_window w = {.p = p, .end = p + n, .last = last};
	int r = stage_decode(st, &w, exec_at(st, at), NULL, NULL);
	if (r < 0)
		return r;
	child_take(&x->child, (size_t)(w.p - p));
	p = child_has(&x->child, &n);
	if (last)
		child_take(&x->child, n);
	else if (p && n > line_max(st))
		return exec_too_long(st, p, n);
	return 0;
}

static int exec_ended(struct stage *st)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	bool well = child_stop(&x->child, STOP_GRACE, true);
	x->running = false;
	if (clock_monotonic() - x->started >= RAN_WELL)
		child_worked(&x->child);
	if (!well) {
		log_warning("%s: it is run again", x->child.why);
		child_failed(&x->child);
		return STAGE_OK;
	}
	child_worked(&x->child);
	x->child.next_start = clock_monotonic() + c->every;
	x->ended = !c->restart;
	return STAGE_OK;
}

static void exec_wait(struct stage *st)
{
	struct exec *x = st->state;
	st->deadline = 0;
	st->n_fds = 0;
	const int fds[2] = {x->child.out, x->child.err};
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			st->fds[st->n_fds++] = (struct pollfd){fds[i], POLLIN, 0};
}

static int exec_produce(struct stage *st)
{
	struct exec *x = st->state;
	if (x->ended)
		return STAGE_E_END;
	int r = x->running ? 0 : exec_start(st);
	if (r)
		return r;
	size_t before, after;
	child_has(&x->child, &before);
	r = child_talk(&x->child, 0);
	if (r < 0)
		return r;
	child_has(&x->child, &after);
	stage_read_pipe(st, after - before);
	int d = after > before || r == CHILD_E_GONE ? exec_decode(st, r == CHILD_E_GONE) : 0;
	if (d < 0)
		return d;
	if (r == CHILD_E_GONE)
		return exec_ended(st);
	exec_wait(st);
	return after > before ? STAGE_OK : STAGE_E_IDLE;
}

const struct stage_ops exec_producer = {
        .name = "exec",
        .kind = STAGE_PRODUCER,
        .flags = STAGE_SINGLE | STAGE_OUTSIDE | STAGE_CODEC,
        .needs = STAGE_NEEDS_EXEC,
        .help = "runs a program; what it writes are the records",
        .example = "type: exec\n"
                   "command: [journalctl, -f, -o, json]\n"
                   "codec: json\n",
        .options = exec_options,
        .config_size = sizeof(struct exec_config),
        .state_size = sizeof(struct exec),
        .check = exec_check,
        .open = exec_open,
        .close = exec_close,
        .produce = exec_produce,
};
