/*
 * workers: the master and its processes, with what they take of the machine. Memory in bytes, times
 * in seconds. Figures of workers are the master's samples (once a second), its own are read when
 * asked.
 */
#include "daemon/report.h"

#include "daemon/confine.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static uint64_t own_rss(void)
{
	unsigned long long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	if (!f)
		return 0;
	if (fscanf(f, "%*u %llu", &pages) != 1)
		pages = 0;
	fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void write_master(const struct master *m, int64_t now, struct json *j)
{

	struct timespec cpu = {0};
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	json_open(j, "master", '{');
	json_int(j, "pid", getpid());
	json_text(j, "state", master_state_name(m->state));
	json_uint(j, "rss", own_rss());
	json_uint(j, "pss", watch_pss(getpid()));
	json_num(j, "cpu_s", (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
	json_num(j, "uptime_s", report_since(now, m->started));
	json_close(j, '}');
}

static void write_figures(const struct child *c, struct json *j)
{
	bool alive = c->state == CHILD_RUNNING;
	json_uint(j, "rss", alive ? c->rss : 0);
	json_uint(j, "pss", alive ? watch_pss(c->pid) : 0);
	json_uint(j, "rss_anon", alive ? c->rss_anon : 0);
	json_uint(j, "rss_peak", c->rss_peak);
	json_uint(j, "vms", alive ? c->vms : 0);
	json_num(j, "cpu_s", (double)c->cpu_ns / 1e9);
	json_uint(j, "restarts", c->restarts);
	json_uint(j, "failures", c->failures);
}

/* Names of the bits in @bits as a list. */
static void write_confined(const char *key, uint32_t bits, struct json *j)
{
	json_open(j, key, '[');
	for (unsigned i = 0; i < CONFINED_COUNT; i++)
		if (bits >> i & 1)
			json_text(j, NULL, confined_name[i]);
	json_close(j, ']');
}

static void write_worker(const struct master *m, uint32_t slot, unsigned stage, int64_t now,
                         struct json *j)
{
	const struct child *c = &m->children[slot];
	const struct config_stage *s = &m->config->stages[stage];
	const struct arena_worker *w = arena_worker(&m->arena, slot);
	bool alive = c->state == CHILD_RUNNING;
	json_open(j, NULL, '{');
	json_text(j, "stage", s->name);
	json_text(j, "kind", report_kind(s->kind));
	json_uint(j, "index", c->ordinal);
	json_uint(j, "slot", slot);
	json_int(j, "pid", alive ? c->pid : 0);
	json_text(j, "state", report_state_name(report_worker_state(m, slot)));
	json_text_max(j, "why", alive ? w->why : c->last_words, ARENA_WHY_MAX);
	json_text_max(j, "last_words", c->last_words, ARENA_WHY_MAX);
	write_figures(c, j);
	json_num(j, "uptime_s", alive ? report_since(now, c->started) : 0);
	json_num(j, "since_s",
	         report_since(now, atomic_load_explicit(&w->since, memory_order_relaxed)));
	write_confined("confined", alive ? atomic_load(&w->confined) : 0, j);
	write_confined("not_confined", alive ? atomic_load(&w->unconfined) : 0, j);
	json_uint(j, "commits", atomic_load_explicit(&w->committed.number, memory_order_relaxed));
	json_close(j, '}');
}

void report_workers(const struct master *m, struct json *j)
{
	int64_t now = master_now();
	json_open(j, NULL, '{');
	write_master(m, now, j);
	json_open(j, "workers", '[');
	for (unsigned stage = 0; stage < config_all_stages(m->config); stage++)
		for (uint32_t slot = 0; slot < m->arena.workers; slot++)
			if (report_is_worker(m, slot, stage) && !report_is_past(m, slot))
				write_worker(m, slot, stage, now, j);
	json_close(j, ']');
	json_close(j, '}');
}
