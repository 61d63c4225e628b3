/*
 * exec: a consumer that is a program; records go to its stdin.
 *
 *     type: exec
 *     command: [python3, /usr/local/lib/load.py]
 *     codec: json
 *     acknowledge: batch
 *
 * What "delivered" means is said by `acknowledge`:
 *
 *     none     the bytes are in the pipe. What the program has not read when it dies is lost.
 *     record   it answers each record with a line; a round trip each (20 to 40 us).
 *     batch    behind each batch comes an empty line (msgpack: nil); it answers that with a line.
 *
 * The answer is `ok`; `retry REASON` (offer it again, after a pause); or, to a record, `error
 * REASON` (make it a dead letter; to a batch it is like retry, until the daemon has found the
 * record).
 *
 * The hard idea: the pipe must never hold half a record of a delivery that was given up. So a
 * failed delivery ends the program, and the next one starts with a new program and the first record
 * of the batch. The program sees the end of its stdin without an end of the batch, and can undo
 * what it had begun.
 *
 * Honest limits: at least once; the program may see a batch again. With `acknowledge: none` its
 * death is noticed with the next batch.
 */
#include <string.h>

#include "stages/child.h"
#include "stages/stage.h"
#include "ipc/clock.h"

enum {
	ANSWER_MAX = 65536,
	UNSENT_MAX = 1 << 20, /* bytes kept back before the program has to take some */
};

enum exec_acknowledge {
	ACK_NONE,
	ACK_RECORD,
	ACK_BATCH,
};

static const char *const ack_names[] = {"none", "record", "batch", NULL};

static const int64_t STOP_GRACE = 5000000000;

struct exec_config {
	struct child_command command;
	int acknowledge;
};

struct exec {
	struct child child;
	size_t unit; /* bytes of this unit handed to the child's buffer */
	bool open;
	bool headed;        /* this program got the codec's head, */
	bool headed_before; /* and had it before this unit */
	bool heard;         /* the last thing that happened was an answer */
	bool proven;        /* it has acknowledged something in this process's life */
};

static const struct option exec_options[] = {
        CHILD_COMMAND(struct exec_config, command),
        {.name = "acknowledge",
         .type = OPTION_ENUM,
         .offset = offsetof(struct exec_config, acknowledge),
         .def = "none",
         .choices = ack_names,
         .help = "what the program answers: nothing, each record, each batch"},
        OPTION_END,
};

static void exec_check(void *config, const struct node *node, struct complaints *c)
{
	struct exec_config *cfg = config;
	child_check(&cfg->command, node, c);
}

static int exec_open(struct stage *st)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	child_init(&x->child, &c->command, st->name, ANSWER_MAX);
	x->open = true;
	return 0;
}

static void exec_close(struct stage *st)
{
	struct exec *x = st->state;
	if (x->open)
		child_deinit(&x->child, st->timeout < STOP_GRACE ? st->timeout : STOP_GRACE);
}

/* The delivery failed. A program that has worked before may have met a bad record: that is counted;
 * one that never did is simply not there yet. */
static int exec_failed(struct stage *st, int r)
{
	struct exec *x = st->state;
	const struct exec_config *c = st->config;
	int answer = x->proven && c->acknowledge ? STAGE_E_RETRY : STAGE_E_UNREACHABLE;
	child_failed(&x->child);
	if (r == CHILD_E_LATE)
		return stage_say(st, answer, "the program took or answered nothing for %lld ms",
		                 (long long)st->timeout / 1000000);
	if (r == CHILD_E_LONG)
		return stage_say(st, answer, "the program wrote more than %d bytes unasked",
		                 ANSWER_MAX);
	return stage_say(st, answer, "%s", x->child.why);
}

static int exec_start(struct stage *st)
{
	struct exec *x = st->state;
	int r = child_start(&x->child);
	if (r == CHILD_E_PAUSE)
		return stage_say(st, STAGE_E_UNREACHABLE, "%s; the next start is due in a moment",
		                 x->child.why[0] ? x->child.why : "the program ended");
	if (r == CHILD_E_START)
		return stage_say(st, STAGE_E_UNREACHABLE, "%s", x->child.why);
	x->headed = x->headed_before = false;
	x->unit = 0;
	return r;
}

/* One round of talking. What a program says that is to acknowledge nothing is dropped. */
static int exec_talk(struct stage *st, int64_t deadline)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	size_t n;
	int r = child_talk(&x->child, deadline);
	if (c->acknowledge == ACK_NONE && child_has(&x->child, &n))
		child_take(&x->child, n);
	return r;
}

/* Writes until at most @left bytes are unsent; the deadline counts from the last progress. 0,
 * STAGE_E_*. */
static int exec_send(struct stage *st, size_t left)
{
	struct exec *x = st->state;
	int64_t deadline = clock_monotonic() + st->timeout;
	size_t before;
	while ((before = child_unsent(&x->child)) > left) {
		int r = x->child.in < 0 ? CHILD_E_GONE : exec_talk(st, deadline);
		if (r < 0)
			return r;
		if (r)
			return exec_failed(st, r);
		if (child_unsent(&x->child) < before) {
			deadline = clock_monotonic() + st->timeout;
			stage_goes_on(st);
		}
	}
	return 0;
}

/* Waits for a line. 0 (*@p, *@len: it), STAGE_E_*, -errno. */
static int exec_hear(struct stage *st, const uint8_t **p, size_t *len)
{
	struct exec *x = st->state;
	int64_t deadline = clock_monotonic() + st->timeout;
	while (!(*p = child_line(&x->child, len))) {
		int r = child_talk(&x->child, deadline);
		if (r < 0)
			return r;
		if (r && !(*p = child_line(&x->child, len)))
			return exec_failed(st, r);
		if (*p)
			break;
	}
	return 0;
}

static bool starts(const uint8_t *p, size_t len, const char *word)
{
	size_t n = strlen(word);
	return len >= n && !memcmp(p, word, n) && (len == n || p[n] == ' ');
}

/* What a line says. Anything but one line in this language means that the program is out of step.
 */
static int exec_acknowledged(struct stage *st, const uint8_t *p, size_t len)
{
	struct exec *x = st->state;
	size_t all, word = 5;
	child_has(&x->child, &all);
	size_t n = len && p[len - 1] == '\r' ? len - 1 : len;
	bool ok = starts(p, n, "ok");
	int answer = ok ? STAGE_OK : starts(p, n, "error") ? STAGE_E_REJECT : STAGE_E_RETRY;
	if (all != len + 1 || (answer == STAGE_E_RETRY && !starts(p, n, "retry"))) {
		child_failed(&x->child);
		return stage_say(st, STAGE_E_RETRY, "the program's answer is none: %.*s",
		                 (int)(n < 80 ? n : 80), (const char *)p);
	}
	if (!ok) {
		size_t from = n > word ? word + 1 : n;
		stage_say(st, answer, "%.*s", (int)(n - from < 200 ? n - from : 200),
		          n > from ? (const char *)p + from : "the program gave no reason");
	}
	child_take(&x->child, len + 1);
	child_worked(&x->child);
	x->proven = x->heard = true;
	return answer;
}

static int exec_answered(struct stage *st)
{
	const uint8_t *p;
	size_t len;
	int r = exec_send(st, 0);
	if (!r)
		r = exec_hear(st, &p, &len);
	return r ? r : exec_acknowledged(st, p, len);
}

/* Puts the record, and what stands before the first one, into the child's buffer. */
static int exec_write(struct stage *st, const uint8_t *rec, size_t len)
{
	struct exec *x = st->state;
	struct buf *to = &x->child.to;
	const struct codec_ops *ops = st->codec->ops;
	size_t before = to->len;
	int r = !x->headed && ops->head ? ops->head(st->codec, rec, len, to) : 0;
	if (!r)
		r = ops->encode(st->codec, rec, len, to);
	if (r) {
		to->len = before;
		return r < 0 ? r : stage_say(st, STAGE_E_REJECT, "%s", st->codec->why);
	}
	x->headed = true;
	x->heard = false;
	x->unit += to->len - before;
	return 0;
}

static int exec_begin(struct stage *st)
{
	struct exec *x = st->state;
	x->unit = 0;
	x->headed_before = x->headed;
	int r = x->child.pid ? exec_talk(st, 0) : 0;
	if (r < 0)
		return r;
	size_t n;
	if (r == CHILD_E_GONE || child_has(&x->child, &n)) {
		bool well = child_stop(&x->child, 0, true);
		log_warning("%s: it is started again", x->child.why);
		if (!well)
			child_failed(&x->child);
	}
	return 0;
}

static int exec_consume(struct stage *st, const uint8_t *rec, size_t len)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	int r = x->child.pid ? 0 : exec_start(st);
	if (!r)
		r = exec_write(st, rec, len);
	if (r)
		return r;
	if (c->acknowledge == ACK_RECORD)
		return exec_answered(st);
	return child_unsent(&x->child) > UNSENT_MAX ? exec_send(st, UNSENT_MAX / 2) : 0;
}

static int exec_finish(struct stage *st)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	if (!x->unit || !x->child.pid)
		return STAGE_OK;
	if (c->acknowledge != ACK_BATCH)
		return exec_send(st, 0);
	int r = buf_add_byte(&x->child.to, st->codec->ops->text ? '\n' : 0xc0);
	if (!r)
		r = exec_answered(st);
	return r == STAGE_E_REJECT ? STAGE_E_RETRY : r;
}

/* A program that has just answered waits for the next thing; what is not written yet can be taken
 * back; else the program has to go. */
static void exec_rollback(struct stage *st)
{
	struct exec *x = st->state;
	if (child_unsent(&x->child) == x->unit) {
		x->child.to.len = x->child.to_off = 0;
		x->headed = x->headed_before;
	} else if (!x->heard || child_unsent(&x->child)) {
		child_stop(&x->child, 0, true);
	}
	x->unit = 0;
}

const struct stage_ops exec_consumer = {
        .name = "exec",
        .kind = STAGE_CONSUMER,
        .flags = STAGE_OUTSIDE | STAGE_CODEC,
        .needs = STAGE_NEEDS_EXEC,
        .help = "writes records to a program",
        .example = "type: exec\n"
                   "command: [python3, /usr/local/lib/load.py]\n"
                   "codec: json\n"
                   "acknowledge: batch\n",
        .options = exec_options,
        .config_size = sizeof(struct exec_config),
        .state_size = sizeof(struct exec),
        .check = exec_check,
        .open = exec_open,
        .close = exec_close,
        .begin = exec_begin,
        .consume = exec_consume,
        .finish = exec_finish,
        .rollback = exec_rollback,
};
