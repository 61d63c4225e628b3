/*
 * exec: a step that is a program in any language.
 *
 *     exec: {command: [python3, /usr/local/lib/enrich.py], timeout: 5s}
 *
 * The program reads one record a line (JSON) from its stdin and writes exactly one line for each,
 * at once (it must not hold back its output):
 *
 *     {...}            the record that takes the place of the input
 *     true             the input goes on unchanged
 *     null             the input is filtered
 *     [{...}, {...}]   several records take its place (none: filtered)
 *     "reason"         the input becomes a dead letter with this reason
 *
 * With `format: msgpack` the same five, as msgpack values back to back.
 *
 * The hard idea: to stay in step. One question is under way at a time, so an answer can only belong
 * to it. A program that says anything unasked, answers twice or not in this language is out of
 * step; nothing it says can be trusted any more, so the record is set aside and the program
 * replaced.
 *
 * A record on which the program dies or is silent for `timeout` is tried again with a new program,
 * `attempts` times in all; then it is a dead letter. Unless the program is no good for anything: if
 * it has never answered, the last attempt waits a second before asking, and a program that ends
 * even so is not the record's fault: the step gives up, and the worker's restarts show why.
 *
 * Honest limits: a round trip a record, 20 to 40 us and two context switches, because a chain runs
 * record by record; one bad record can hold the step for `attempts` times a pause of up to 30 s and
 * the timeout; one such time has to stay below the stage's stall_timeout. What a program does
 * besides answering is done again when a record is run again. An unasked answer in right form that
 * arrives after the next question was sent is taken for its answer.
 */
#include "stages/child.h"

#include <string.h>

#include "stages/stage.h"
#include "ipc/clock.h"

enum {
	ANSWER_FACTOR = 8, /* bytes of an answer, in largest records */
	ANSWER_EXTRA = 65536,
	WRAP_MAX = 16,
	SHOWN_MAX = 80, /* bytes of a wrong answer in the reason */
};

enum exec_format {
	FORMAT_JSON,
	FORMAT_MSGPACK,
};

static const char *const format_names[] = {"json", "msgpack", NULL};

static const int64_t PROBE = 1000000000, STOP_GRACE = 200000000;

struct exec_config {
	struct child_command command;
	int format;
	int64_t timeout;
	int64_t attempts;
};

struct exec {
	struct child child;
	struct codec codec;
	struct buf record; /* the question as msgpack */
	struct buf question;
	struct buf wrapped; /* the answer as the value of a map: codecs read maps only */
	struct buf answer;  /* as msgpack */
	struct record made;
	bool proven; /* it has answered something in this process's life */
	bool open;
};

static const struct option exec_options[] = {
        CHILD_COMMAND(struct exec_config, command),
        {.name = "format",
         .type = OPTION_ENUM,
         .offset = offsetof(struct exec_config, format),
         .def = "json",
         .choices = format_names,
         .help = "what it reads and writes"},
        {.name = "timeout",
         .type = OPTION_DURATION,
         .offset = offsetof(struct exec_config, timeout),
         .def = "10s",
         .min = 0.001,
         .max = 86400,
         .help = "time for one answer; then it is killed"},
        {.name = "attempts",
         .type = OPTION_INT,
         .offset = offsetof(struct exec_config, attempts),
         .def = "3",
         .min = 1,
         .max = 100,
         .help = "programs a record may kill or keep silent before it is a dead letter"},
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
	if (x->open)
		return 0;
	const struct codec_ops *ops = codec_find(format_names[c->format]);
	if (!ops)
		return -ENOSYS;
	size_t max = st->max_record * ANSWER_FACTOR + ANSWER_EXTRA;
	int r = codec_init(&x->codec, ops, NULL, max);
	if (r < 0)
		return r;
	child_init(&x->child, &c->command, "exec", max);
	x->open = true;
	return 0;
}

static void exec_close(struct stage *st)
{
	struct exec *x = st->state;
	if (!x->open)
		return;
	child_deinit(&x->child, STOP_GRACE);
	codec_deinit(&x->codec);
	buf_deinit(&x->record);
	buf_deinit(&x->question);
	buf_deinit(&x->wrapped);
	buf_deinit(&x->answer);
	record_deinit(&x->made);
	x->open = false;
}

static int exec_question(struct stage *st, const struct record *r)
{
	struct exec *x = st->state;
	x->record.len = x->question.len = 0;
	int rc = buf_room(&x->record, record_size(r));
	if (rc < 0)
		return rc;
	x->record.len = record_write(r, x->record.p);
	rc = x->codec.ops->encode(&x->codec, x->record.p, x->record.len, &x->question);
	if (rc == CODEC_E_REJECT)
		return stage_say(st, STAGE_E_REJECT, "exec: %s", x->codec.why);
	return rc;
}

/* Waits out the pause and starts the program. 0, CHILD_E_START, -errno. */
static int exec_start(struct stage *st)
{
	struct exec *x = st->state;
	int r;
	while ((r = child_start(&x->child)) == CHILD_E_PAUSE) {
		int64_t left = x->child.next_start - clock_monotonic();
		struct timespec ts = {left / 1000000000, left % 1000000000};
		if (left > 0)
			ppoll(NULL, 0, &ts, NULL);
	}
	return r;
}

/* A program that is running and has nothing to say. 0, CHILD_E_*, -errno. */
static int exec_ready(struct stage *st)
{
	struct exec *x = st->state;
	struct child *c = &x->child;
	size_t n;
	int r = c->pid ? child_talk(c, 0) : 0;
	if (r < 0)
		return r;
	if (r == CHILD_E_GONE && !child_stop(c, 0, true)) {
		log_warning("exec: %s: it is started again", c->why);
		child_failed(c);
	} else if (child_has(c, &n)) {
		log_warning("exec: the program said something unasked: it is replaced");
		child_failed(c);
	}
	return exec_start(st);
}

/* The bytes of a whole answer that has arrived, or NULL. *@end: what ends it. */
static const uint8_t *exec_answer(struct stage *st, size_t *len, size_t *end)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	*end = c->format == FORMAT_JSON;
	if (c->format == FORMAT_JSON)
		return child_line(&x->child, len);
	const uint8_t *p = child_has(&x->child, len);
	const uint8_t *behind = p ? mp_skip(p, p + *len) : NULL;
	if (!behind)
		return NULL;
	*len = (size_t)(behind - p);
	return p;
}

/* Asks and waits. 0: the answer is in the child's buffer; CHILD_E_*, -errno. */
static int exec_ask(struct stage *st)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	int r = buf_add(&x->child.to, x->question.p, x->question.len);
	int64_t deadline = clock_monotonic() + c->timeout;
	size_t len, end;
	while (!r) {
		if (exec_answer(st, &len, &end))
			return 0;
		r = child_talk(&x->child, deadline);
	}
	/* its last words may be the answer */
	return r == CHILD_E_GONE && exec_answer(st, &len, &end) ? 0 : r;
}

static int exec_wrap(struct stage *st, const uint8_t *p, size_t len)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	x->wrapped.len = 0;
	int r = buf_room(&x->wrapped, len + WRAP_MAX);
	if (r < 0)
		return r;
	buf_add_str(&x->wrapped, c->format == FORMAT_JSON ? "{\"a\":"
	                                                  : "\x81\xa1"
	                                                    "a");
	buf_add(&x->wrapped, p, len);
	if (c->format == FORMAT_JSON)
		buf_add_str(&x->wrapped, "}\n");
	return 0;
}

/* Reads the answer as msgpack into x->answer; *@val, *@val_len: the value. 0, CODEC_E_REJECT,
 * -errno. */
static int exec_read(struct stage *st, const uint8_t **val, uint32_t *val_len)
{
	struct exec *x = st->state;
	size_t len;
	struct codec_window w = {
	        .p = x->wrapped.p, .end = x->wrapped.p + x->wrapped.len, .last = true};
	/* msgpack takes at most the room of the text it is said in, but for short numbers: 1 byte
	 * to 9 */
	int r = buf_room(&x->answer, 9 * x->wrapped.len + WRAP_MAX);
	if (r < 0)
		return r;
	if (x->codec.ops->reset)
		x->codec.ops->reset(&x->codec);
	r = x->codec.ops->decode(&x->codec, &w, x->answer.p, x->answer.cap, &len);
	if (r < 0)
		return r;
	const char *why;
	if (r != CODEC_E_OK || record_open(&x->made, x->answer.p, len, &why) || x->made.n != 1)
		return CODEC_E_REJECT;
	uint8_t spare[16];
	size_t ignored;
	/* `1} {"b":2` would be two */
	if (x->codec.ops->decode(&x->codec, &w, spare, sizeof(spare), &ignored) != CODEC_E_END)
		return CODEC_E_REJECT;
	*val = x->made.fields[0].val;
	*val_len = x->made.fields[0].val_len;
	return 0;
}

static int exec_emit(struct stage *st, const uint8_t *p, const uint8_t *end, uint32_t n)
{
	struct exec *x = st->state;
	const uint8_t *q = p;
	for (uint32_t i = 0; i < n; i++) {
		struct mp v;
		if (!mp_read(q, end, &v) || v.type != MP_MAP)
			return CODEC_E_REJECT;
		q = mp_skip(q, end);
	}
	for (uint32_t i = 0; i < n; i++, p = q) {
		const char *why;
		q = mp_skip(p, end);
		int r = record_open(&x->made, p, (size_t)(q - p), &why);
		if (!r)
			r = stage_emit(st, &x->made);
		if (r)
			return r < 0 ? r : -EPROTO;
	}
	return STAGE_E_EMITTED;
}

/* Does what the answer says. STAGE_*; CODEC_E_REJECT is told by *@wrong. */
static int exec_obey(struct stage *st, struct record *r, bool *wrong)
{
	const uint8_t *val;
	uint32_t len;
	const char *why;
	int rc = exec_read(st, &val, &len);
	if (rc < 0)
		return rc;
	*wrong = rc > 0;
	if (*wrong)
		return 0;
	struct mp v;
	const uint8_t *in = mp_read(val, val + len, &v);
	switch (v.type) {
	case MP_NIL:
		return STAGE_E_FILTERED;
	case MP_STR:
		return stage_say(st, STAGE_E_REJECT, "exec: %.*s", (int)(v.len < 200 ? v.len : 200),
		                 (const char *)v.p);
	case MP_MAP:
		rc = record_open(r, val, len, &why);
		return rc > 0 ? -EPROTO : rc;
	case MP_ARRAY:
		rc = exec_emit(st, in, val + len, v.n);
		*wrong = rc == CODEC_E_REJECT;
		return rc;
	case MP_BOOL:
		*wrong = !v.b;
		return STAGE_OK;
	default:
		*wrong = true;
		return STAGE_OK;
	}
}

static int exec_wrong(struct stage *st, const uint8_t *p, size_t len)
{
	struct exec *x = st->state;
	char shown[SHOWN_MAX + 1];
	size_t n = len < SHOWN_MAX ? len : SHOWN_MAX;
	for (size_t i = 0; i < n; i++)
		shown[i] = p[i] >= ' ' && p[i] < 127 ? (char)p[i] : '?';
	shown[n] = 0;
	stage_say(st, STAGE_E_REJECT, "exec: the program's answer is none: %s", shown);
	child_failed(&x->child);
	return STAGE_E_REJECT;
}

static int exec_take(struct stage *st, struct record *r)
{
	struct exec *x = st->state;
	size_t len, end;
	bool wrong = false;
	const uint8_t *p = exec_answer(st, &len, &end);
	int rc = exec_wrap(st, p, len);
	if (rc < 0)
		return rc;
	if (len + end < x->child.from.len - x->child.from_off) {
		child_failed(&x->child);
		return stage_say(st, STAGE_E_REJECT, "exec: the program gave more than one answer");
	}
	rc = exec_obey(st, r, &wrong);
	if (rc >= 0 && wrong)
		return exec_wrong(st, p, len);
	child_take(&x->child, len + end);
	child_worked(&x->child);
	x->proven = true;
	return rc;
}

/* What a failed attempt has to say, in st->why; the program is gone then. */
static void exec_failure(struct stage *st, int r)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	if (r != CHILD_E_START)
		child_failed(&x->child);
	if (r == CHILD_E_LATE)
		stage_say(st, 0, "exec: no answer within %lld ms", (long long)c->timeout / 1000000);
	else if (r == CHILD_E_LONG)
		stage_say(st, 0, "exec: the answer is longer than %zu bytes", x->child.max_in);
	else
		stage_say(st, 0, "exec: %s", x->child.why);
	log_warning("%s", st->why);
}

/* Whether the program lives without being asked. 0, CHILD_E_GONE, -errno. */
static int exec_probe(struct stage *st)
{
	struct exec *x = st->state;
	int64_t until = clock_monotonic() + PROBE;
	int r;
	do
		r = child_talk(&x->child, until);
	while (r == 0);
	return r == CHILD_E_LATE ? 0 : r;
}

/* One attempt. 0: there is an answer; CHILD_E_*; -errno. */
static int exec_attempt(struct stage *st, bool last)
{
	struct exec *x = st->state;
	int r = exec_ready(st);
	if (!r && last && !x->proven) {
		r = exec_probe(st);
		if (r == CHILD_E_GONE) {
			exec_failure(st, r);
			return -ECHILD;
		}
	}
	return r ? r : exec_ask(st);
}

static int exec_transform(struct stage *st, struct record *rec)
{
	const struct exec_config *c = st->config;
	struct exec *x = st->state;
	int r = exec_question(st, rec);
	if (r)
		return r;
	for (int64_t i = 1; i <= c->attempts; i++) {
		stage_goes_on(st);
		r = exec_attempt(st, i == c->attempts);
		if (r == 0)
			return exec_take(st, rec);
		if (r < 0) {
			if (r == -ECHILD)
				log_error("%s, without being asked anything", st->why);
			return r;
		}
		exec_failure(st, r);
	}
	if (r == CHILD_E_START && !x->proven)
		return -ECHILD;
	return STAGE_E_REJECT;
}

const struct stage_ops exec_step = {
        .name = "exec",
        .kind = STAGE_STEP,
        .needs = STAGE_NEEDS_EXEC,
        .help = "asks a program about each record",
        .example = "steps:\n"
                   "  - exec: {command: [python3, /usr/local/lib/enrich.py], timeout: 5s}\n",
        .bare = "command",
        .options = exec_options,
        .config_size = sizeof(struct exec_config),
        .state_size = sizeof(struct exec),
        .check = exec_check,
        .open = exec_open,
        .close = exec_close,
        .transform = exec_transform,
};
