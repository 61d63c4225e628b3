/*
 * The replayer: a producer whose input is a spool of dead letters, each put back exactly once.
 *
 * The hard idea: the position {id of the spool, byte, done} is committed with the records made of
 * the letters before that byte, so a crash anywhere goes on right behind the last committed letter.
 * The end has to remove a file, which no commit in the arena can contain; the order makes it safe:
 *
 *     all marks on the disk
 *     letters, each committed with its position
 *     all of them delivered
 *     {done} committed
 *     file removed, ended
 *
 * Killed before {done}: the successor resumes. Killed after it: the successor sees that the
 * position calls this very spool done, and removes it without reading. Killed after the removal: it
 * finds no spool, and ends. A spool published later has another id, so that an old position means
 * nothing to it. The wait for the delivery is for the day on which the arena is lost: then the
 * letters are still there.
 *
 * Limits
 *  - the record is what the letter's JSON says. What JSON cannot hold comes back as it was written:
 *    bytes (bin) as base64 text, timestamps and other extensions as text and maps, NaN and
 *    infinities as null, keys that are no strings as strings; integers, floats and text are exact;
 *  - the record goes through all steps of its stage, also those before the one that rejected it;
 *  - where the arena itself is lost (a memory arena whose master died, a power loss), positions are
 *    lost with it, and a spool that is there is replayed from its beginning: at least once. With
 *    arena.sync what it made before is in the log, and comes from there too.
 */
#include "daemon/replay.h"

#include <string.h>

#include "daemon/deadletter.h"
#include "daemon/spool.h"

struct replay {
	struct spool spool;
	struct deadletter_reader *letters;
	bool open;     /* the spool is there */
	bool finished; /* all is delivered, and that is being committed */
	uint64_t last; /* number of the commit that has the last letter */
};

static int trouble(struct stage *st, const char *what, int r)
{
	const struct replay *s = st->state;
	return stage_say(st, r, "%s %s: %s", what, s->spool.name,
	                 r == -EBADMSG ? "it is no spool" : strerror(-r));
}

static int remove_spool(struct stage *st)
{
	struct replay *s = st->state;
	int r = spool_remove(&s->spool);
	s->open = s->finished = false;
	spool_close(&s->spool);
	return r < 0 ? trouble(st, "cannot remove", r) : 0;
}

static int replay_open(struct stage *st)
{
	const struct replay_config *cfg = st->config;
	struct replay *s = st->state;
	struct spool_position p;
	memcpy(&p, st->position, sizeof(p));
	int r = spool_open(&s->spool, cfg->letters, cfg->stage);
	if (r < 0)
		return trouble(st, "cannot read", r);
	s->open = r == 0;
	if (!s->open)
		return 0;
	if (spool_resume(&s->spool, &p))
		return remove_spool(st);
	r = spool_mark(&s->spool, cfg->letters);
	if (r == 0)
		r = deadletter_reader_new(&s->letters, cfg->letters);
	if (r < 0)
		return trouble(st, "cannot mark the letters of", r);
	spool_resume(&s->spool, &p);
	s->last = st->commit_id.number ? st->commit_id.number - 1 : 0;
	return 0;
}

static int save(struct stage *st, bool done)
{
	const struct replay *s = st->state;
	struct spool_position p;
	spool_tell(&s->spool, done, &p);
	return stage_position(st, 0, &p, sizeof(p));
}

static int put_back(struct stage *st, const struct deadletter *d)
{
	uint8_t *p;
	size_t room;
	if (!deadletter_is_record(d))
		return stage_reject(st, "the letter's input is no record", d->json, d->json_len,
		                    d->id);
	int r = stage_reserve(st, d->input_len, &p, &room);
	if (r == STAGE_E_REJECT)
		return stage_reject(st, "larger than arena.buffer", d->json, d->json_len, d->id);
	if (r < 0)
		return r;
	memcpy(p, d->input, d->input_len);
	return stage_made(st, d->input_len);
}

/* The end of the spool, as often as it takes until the last letter is where it has to go. */
static int end(struct stage *st)
{
	struct replay *s = st->state;
	if (st->host->stored(st->host, true) < s->last)
		return STAGE_E_IDLE;
	s->finished = true;
	int r = save(st, true);
	return r < 0 ? r : STAGE_E_END;
}

static int replay_produce(struct stage *st)
{
	struct replay *s = st->state;
	struct deadletter d;
	const char *line;
	size_t len;
	if (!s->open)
		return STAGE_E_END;
	int r = spool_next(&s->spool, &line, &len);
	if (r == SPOOL_E_END)
		return end(st);
	if (r == 0)
		r = deadletter_parse(s->letters, line, len, &d);
	if (r < 0)
		return trouble(st, "cannot read", r);
	r = r == 1 ? put_back(st, &d)
	           : stage_reject(st, "no dead letter", line, len, s->spool.name);
	s->last = st->commit_id.number;
	return r < 0 ? r : save(st, false);
}

static int replay_stored(struct stage *st)
{
	const struct replay *s = st->state;
	return s->open && s->finished ? remove_spool(st) : 0;
}

static void replay_close(struct stage *st)
{
	struct replay *s = st->state;
	spool_close(&s->spool);
	s->letters = deadletter_reader_free(s->letters);
}

static void replay_paths(const void *config,
                         void (*allow)(void *arg, const char *path, enum stage_path_use use),
                         void *arg)
{
	const struct replay_config *cfg = config;
	allow(arg, cfg->letters, STAGE_PATH_WRITE); /* spools are removed, marks made */
}

const struct stage_ops replay_ops = {
        .name = "replay",
        .kind = STAGE_PRODUCER,
        .flags = STAGE_SINGLE,
        .needs = STAGE_NEEDS_FILES,
        .paths = replay_paths,
        .help = "puts dead letters back",
        .config_size = sizeof(struct replay_config),
        .state_size = sizeof(struct replay),
        .open = replay_open,
        .close = replay_close,
        .produce = replay_produce,
        .stored = replay_stored,
};
