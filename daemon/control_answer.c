/*
 * What each command does, on the daemon's side: a table by the command's number. Each handler
 * writes one JSON document; the line's end is added for all of them.
 */
#include <string.h>
#include <unistd.h>

#include "daemon/control_parts.h"
#include "daemon/replay.h"

static void refuse(struct json *j, const char *why)
{
	json_open(j, NULL, '{');
	json_text(j, "error", why);
	json_close(j, '}');
}

void control_answer_error(struct client *c, const char *why)
{
	struct json j = json_on(&c->out);
	refuse(&j, why);
	if (j.error || buf_add_byte(&c->out, '\n') < 0)
		c->last = true;
}

/* ---- looking ---- */

static void do_status(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	(void)c;
	(void)rq;
	report_status(ctl->m, j);
}

static void do_stats(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	(void)c;
	if (rq->n == 1 && strcmp(rq->words[0], "--samples") != 0)
		refuse(j, "stats: the daemon takes --samples only; --watch and --prometheus are "
		          "sluicectl's");
	else
		report_stats(ctl->m, rq->n == 1, j);
}

static void do_workers(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	(void)c;
	(void)rq;
	report_workers(ctl->m, j);
}

static void do_graph(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	(void)c;
	(void)rq;
	report_graph(ctl->m->config, j);
}

static void do_audit(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	(void)c;
	(void)rq;
	books_attribute(ctl->m);
	if (report_audit(ctl->m, j))
		return;
	json_open(j, NULL, '{');
	json_text(j, "error", "the books did not hold still long enough to be read: ask again");
	json_bool(j, "moving", true);
	json_close(j, '}');
}

/* ---- changing ---- */

/* The answer to a change: {"@what": @value or true}, or the error. */
static void changed(struct json *j, int r, const char *what, const char *value, const char *why)
{
	char unsaid[128];
	if (r != 0 && !why) {
		snprintf(unsaid, sizeof(unsaid), "%s", r < 0 ? strerror(-r) : "not now");
		why = unsaid;
	}
	if (r != 0) {
		refuse(j, why);
		return;
	}
	json_open(j, NULL, '{');
	if (value)
		json_text(j, what, value);
	else
		json_bool(j, what, true);
	if (why && *why)
		json_text(j, "note", why);
	json_close(j, '}');
}

static bool known_stage(struct control *ctl, const char *name, struct json *j)
{
	const char *names[ARENA_EDGES_MAX + ARENA_WORKERS_MAX];
	char why[COMMAND_WHY_MAX];
	size_t n = 0;
	const struct config *cfg = ctl->m->config;
	if (config_stage(cfg, name))
		return true;
	for (unsigned i = 0; i < cfg->n_stages && n < sizeof(names) / sizeof(*names); i++)
		names[n++] = cfg->stages[i].name;
	const char *near = option_nearest(name, names, n);
	snprintf(why, sizeof(why), "there is no stage \"%.64s\"%s%s%s", name,
	         near ? ": did you mean \"" : "", near ? near : ": `status` shows them all",
	         near ? "\"?" : "");
	refuse(j, why);
	return false;
}

static void pause_or_resume(struct control *ctl, struct request *rq, struct json *j, bool pause)
{
	const char *why = NULL;
	if (!known_stage(ctl, rq->words[0], j))
		return;
	int r = master_pause(ctl->m, rq->words[0], pause, &why);
	changed(j, r, pause ? "paused" : "resumed", rq->words[0], why);
}

static void do_pause(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	(void)c;
	pause_or_resume(ctl, rq, j, true);
}

static void do_resume(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	(void)c;
	pause_or_resume(ctl, rq, j, false);
}

static void do_drain(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	const char *why = NULL;
	bool flush = rq->n == 1;
	(void)c;
	if (flush && strcmp(rq->words[0], "--flush") != 0) {
		refuse(j, "drain: expected drain, or drain --flush");
		return;
	}
	int r = master_drain(ctl->m, flush, &why);
	changed(j, r, "draining", NULL, why);
}

static void do_restart(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	const char *why = NULL;
	(void)c;
	if (!known_stage(ctl, rq->words[0], j))
		return;
	int r = master_restart(ctl->m, rq->words[0], &why);
	changed(j, r, "restarted", rq->words[0], why);
}

static void do_scale(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	const char *why = NULL;
	unsigned workers;
	(void)c;
	if (!known_stage(ctl, rq->words[0], j))
		return;
	if (!command_number(rq->words[1], 1, ARENA_WORKERS_MAX, &workers)) {
		refuse(j, "scale: expected a number of workers from 1 to 250");
		return;
	}
	int r = master_scale(ctl->m, rq->words[0], workers, &why);
	changed(j, r, "scaled", rq->words[0], why);
}

static void do_reopen(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	(void)c;
	(void)rq;
	master_reopen(ctl->m);
	changed(j, 0, "reopened", NULL, NULL);
}

static void do_replay(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	const char *why = NULL;
	(void)c;
	(void)rq;
	int r = replay_start(ctl->m, &why);
	changed(j, r, "replaying", NULL, why);
}

static void do_reload(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	const char *why = NULL;
	if (rq->n == 1 || (rq->n == 2 && strcmp(rq->words[0], "--discard") != 0)) {
		refuse(j, "reload: expected reload, or reload --discard EDGE");
		return;
	}
	master_reopen(ctl->m); /* as a hang-up signal does */
	int r = master_reload(ctl->m, rq->n == 2 ? rq->words[1] : NULL, &why);
	if (r != 0)
		changed(j, r, "reloaded", NULL, why);
	else
		c->reloading = true; /* control_reloaded() answers */
}

void control_answer_reloaded(struct client *c, const char *why)
{
	struct json j = json_on(&c->out);
	changed(&j, why != NULL, "reloaded", NULL, why);
	if (j.error || buf_add_byte(&c->out, '\n') < 0)
		c->last = true;
}

/* ---- tap ---- */

int control_tap_ask(struct control *ctl, const char *stage, const char **why)
{
	unsigned most = 0;
	for (unsigned i = 0; i < ctl->n_clients; i++) {
		const struct client *c = ctl->clients[i];
		if (strcmp(c->tap, stage) == 0 && c->tap_wanted - c->tapped > most)
			most = c->tap_wanted - c->tapped;
	}
	return master_tap(ctl->m, stage, most, why);
}

void control_tap_end(struct control *ctl, struct client *c)
{
	struct json j = json_on(&c->out);
	char stage[ARENA_NAME_MAX];
	const char *why;
	memcpy(stage, c->tap, sizeof(stage));
	c->tap[0] = '\0';
	json_open(&j, NULL, '{');
	json_uint(&j, "tapped", c->tapped);
	json_uint(&j, "missed", c->tap_missed);
	json_bool(&j, "end", true);
	json_close(&j, '}');
	if (j.error || buf_add_byte(&c->out, '\n') < 0)
		c->last = true;
	control_tap_ask(ctl, stage, &why); /* what is asked for too much is taken back */
}

/* tap STAGE, tap STAGE N, tap STAGE -n N */
static void do_tap(struct control *ctl, struct client *c, struct request *rq, struct json *j)
{
	const char *why = NULL;
	unsigned n = 10;
	if (!known_stage(ctl, rq->words[0], j))
		return;
	if ((rq->n == 3 && strcmp(rq->words[1], "-n") != 0) ||
	    (rq->n > 1 && !command_number(rq->words[rq->n - 1], 1, CONTROL_TAP_MAX, &n))) {
		refuse(j, "tap: expected tap STAGE -n N with N from 1 to 1000000");
		return;
	}
	snprintf(c->tap, sizeof(c->tap), "%s", rq->words[0]);
	c->tap_wanted = n;
	c->tapped = 0;
	c->tap_missed = 0;
	if (control_tap_ask(ctl, rq->words[0], &why) == 0)
		return;
	c->tap[0] = '\0';
	refuse(j, why ? why : "tap: not now");
}

static void (*const handlers[COMMAND_COUNT])(struct control *, struct client *, struct request *,
                                             struct json *) = {
        [COMMAND_status] = do_status, [COMMAND_stats] = do_stats,   [COMMAND_workers] = do_workers,
        [COMMAND_audit] = do_audit,   [COMMAND_tap] = do_tap,       [COMMAND_pause] = do_pause,
        [COMMAND_resume] = do_resume, [COMMAND_drain] = do_drain,   [COMMAND_reload] = do_reload,
        [COMMAND_graph] = do_graph,   [COMMAND_reopen] = do_reopen, [COMMAND_restart] = do_restart,
        [COMMAND_scale] = do_scale,   [COMMAND_replay] = do_replay,
};

void control_answer(struct control *ctl, struct client *c, struct request *rq)
{
	struct json j = json_on(&c->out);
	size_t before = c->out.len;
	const char *why = command_refusal(rq->command, c->uid, geteuid());
	size_t id = (size_t)(rq->command - command_all);
	if (why)
		refuse(&j, why);
	else if (!handlers[id])
		refuse(&j, "this is done by sluicectl itself, not by the daemon");
	else
		handlers[id](ctl, c, rq, &j);
	if (!j.error && c->out.len > before)
		j.error = buf_add_byte(&c->out, '\n');
	if (j.error) { /* half an answer is worse than none */
		c->out.len = before;
		c->last = true;
	}
}
