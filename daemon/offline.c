/*
 * Checking a configuration, and trying a transformer's steps without a daemon.
 */
#include "daemon/offline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "ipc/arena.h"
#include "ipc/clock.h"
#include "stages/state.h"

struct config *offline_load(const char *path)
{
	struct complaints c = {0};
	struct config *cfg = config_load(path ? path : config_default_path(), &c);
	if (c.text.len)
		fwrite(c.text.p, 1, c.text.len, stderr);
	buf_deinit(&c.text);
	return cfg;
}

int offline_check(struct config *cfg)
{
	struct arena_geometry g = {.entries = (uint32_t)(cfg->arena_size / cfg->arena_buffer),
	                           .workers = (uint32_t)cfg->max_workers,
	                           .buffer_size = cfg->arena_buffer,
	                           .tails = cfg->log_stage != UINT32_MAX};
	unsigned workers = 0;
	for (unsigned i = 0; i < cfg->n_stages; i++)
		workers += cfg->stages[i].workers;
	printf("%s: fine: %u stages, %u edges, %u workers\n", cfg->path, cfg->n_stages,
	       cfg->n_edges, workers);
	printf("arena: %u buffers of %llu KiB and %llu KiB of ledger\n", g.entries,
	       (unsigned long long)(cfg->arena_buffer / 1024),
	       (unsigned long long)(arena_overhead(&g) / 1024));
	config_free(cfg);
	return 0;
}

/* ---- --try ---- */

struct trial {
	struct stage_host host; /* first */
	struct codec json;
	struct buf rec, line;
	const struct config_stage *stage;
	uint64_t in, out, dead;
};

static int trial_emit(struct stage_host *h, unsigned output, const struct record *r)
{
	struct trial *t = (struct trial *)h;
	t->rec.len = t->line.len = 0;
	if (buf_room(&t->rec, record_size(r)) < 0)
		return -ENOMEM;
	size_t len = record_write(r, t->rec.p);
	int x = t->json.ops->encode(&t->json, t->rec.p, len, &t->line);
	if (x < 0)
		return x;
	if (output)
		printf("%s: ", t->stage->outputs[output]);
	fwrite(t->line.p, 1, t->line.len, stdout);
	t->out++;
	return 0;
}

static int trial_reject(struct stage_host *h, const char *why, const void *input, size_t len,
                        const char *at)
{
	struct trial *t = (struct trial *)h;
	(void)input;
	(void)len;
	fprintf(stderr, "record %llu: %s%s%s\n", (unsigned long long)t->in, at ? at : "",
	        at ? ": " : "", why);
	t->dead++;
	return 0;
}

static int read_all(int fd, struct buf *b)
{
	ssize_t n;
	do {
		if (buf_room(b, 65536) < 0)
			return -ENOMEM;
		n = read(fd, b->p + b->len, b->cap - b->len);
		if (n > 0)
			b->len += (size_t)n;
	} while (n > 0);
	return n < 0 ? -errno : 0;
}

static int try_one(struct trial *t, struct chain *ch, struct record *r, const uint8_t *rec,
                   size_t len)
{
	const char *why = NULL;
	int x = record_open(r, rec, len, &why);
	if (x != 0)
		return x < 0 ? x : trial_reject(&t->host, why, rec, len, NULL);
	struct chain_outcome o = chain_run(ch, (uint32_t)t->in, r);
	if (o.answer == STAGE_E_REJECT)
		return trial_reject(&t->host, o.why, rec, len, o.step);
	return o.answer < 0 ? o.answer : 0;
}

static int try_all(struct trial *t, struct chain *ch, const struct buf *input)
{
	struct codec_window w = {.p = input->p, .end = input->p + input->len, .last = true};
	struct record r = {0};
	uint8_t *rec = malloc(t->json.max_record);
	int x = rec ? 0 : -ENOMEM;
	while (x == 0) {
		size_t len;
		int d = t->json.ops->decode(&t->json, &w, rec, t->json.max_record, &len);
		if (d == CODEC_E_END || d < 0)
			break;
		t->in++;
		if (d == CODEC_E_OK)
			x = try_one(t, ch, &r, rec, len);
		else if (d == CODEC_E_REJECT)
			x = trial_reject(&t->host, w.why, w.bad, w.bad_len, NULL);
		else
			x = -EMSGSIZE;
	}
	record_deinit(&r);
	free(rec);
	while (x == 0 && (x = chain_flush(ch)) == STAGE_E_AGAIN)
		x = 0;
	return x;
}

static int try_with(struct config *cfg, const struct config_stage *s)
{
	struct trial t = {.host = {.emit = trial_emit, .reject = trial_reject}, .stage = s};
	struct chain ch = {0};
	struct buf input = {0};
	const uint8_t epoch[16] = {0};
	char dir[] = "/tmp/sluice-try-XXXXXX";
	int64_t now = clock_realtime();
	int r = codec_init(&t.json, codec_find("json"), NULL, cfg->arena_buffer);
	struct state_env *env = NULL;
	if (r == 0 && s->stateful && mkdtemp(dir))
		r = state_env_open(&env, dir, cfg->state_size, s->n_steps, false);
	if (r == 0)
		r = chain_init(&ch, s->name, s->steps, s->n_steps, &t.host, 0, 1,
		               cfg->arena_buffer);
	ch.env = env;
	if (r == 0)
		r = chain_open(&ch);
	if (r == 0)
		r = read_all(0, &input);
	chain_chunk(&ch, now, epoch, 1);
	if (r == 0)
		r = try_all(&t, &ch, &input);
	fprintf(stderr, "%llu in, %llu out, %llu rejected\n", (unsigned long long)t.in,
	        (unsigned long long)t.out, (unsigned long long)t.dead);
	if (r < 0)
		fprintf(stderr, "sluiced: --try %s: %s\n", s->name, strerror(-r));
	chain_deinit(&ch);
	env = state_env_close(env);
	if (s->stateful) {
		char path[64];
		snprintf(path, sizeof(path), "%s/data.mdb", dir);
		unlink(path);
		snprintf(path, sizeof(path), "%s/lock.mdb", dir);
		unlink(path);
		rmdir(dir);
	}
	codec_deinit(&t.json);
	buf_deinit(&t.rec);
	buf_deinit(&t.line);
	buf_deinit(&input);
	return r < 0 ? 1 : 0;
}

int offline_try(struct config *cfg, const char *stage)
{
	const struct config_stage *s = config_stage(cfg, stage);
	int status = 2;
	if (!s || s->kind != STAGE_STEP)
		fprintf(stderr, "sluiced: --try wants the name of a transformer; %s is %s\n", stage,
		        s ? "none" : "not in the configuration");
	else
		status = try_with(cfg, s);
	config_free(cfg);
	return status;
}
