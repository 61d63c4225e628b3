/*
 * Watching workers: once a second, whether each goes on, how much memory it has, what it has used.
 *
 * A worker that goes on changes one of three numbers in the arena: progress (every wake-up and
 * commit), the entry or the record in hand. One that changes none of them for `stall_timeout` is
 * hung, whatever it says it does: sleeping workers wake ten times a second. It is killed, and
 * replaced like one that crashed.
 */
#include "daemon/master.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ipc/log.h"

static const int64_t ABSENCE =
        3000000000; /* ns between two looks, which are meant to be a second apart */

static void check_stall(struct master *m, uint32_t slot, int64_t now)
{
	struct child *c = &m->children[slot];
	const struct arena_worker *s = arena_worker(&m->arena, slot);
	uint64_t progress = atomic_load_explicit(&s->progress, memory_order_relaxed);
	uint64_t hand = (uint64_t)atomic_load_explicit(&s->hand_entry, memory_order_relaxed) << 32 |
	                atomic_load_explicit(&s->hand_record, memory_order_relaxed);
	if (progress != c->seen_progress || hand != c->seen_hand) {
		c->seen_progress = progress;
		c->seen_hand = hand;
		c->seen_at = now;
	} else if (now - c->seen_at > m->config->stages[c->stage].stall_timeout) {
		log_warning("worker %s[%u] (pid %d) hangs: replaced",
		            m->config->stages[c->stage].name, c->ordinal, (int)c->pid);
		children_kill(m, slot, true);
	}
}

/* "Name:   123 kB" of a /proc file: bytes, 0 when it is not there. */
static uint64_t field(const char *text, const char *name)
{
	const char *p = strstr(text, name);
	unsigned long long kib = 0;
	if (!p || sscanf(p + strlen(name), " %llu", &kib) != 1)
		return 0;
	return kib * 1024;
}

static bool slurp(pid_t pid, const char *file, char *out, size_t size)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	size_t n = fread(out, 1, size - 1, f);
	out[n] = 0;
	fclose(f);
	return n > 0;
}

static void sample_process(struct child *c)
{
	char text[4096];
	if (slurp(c->pid, "status", text, sizeof(text))) {
		c->rss = field(text, "VmRSS:");
		c->rss_anon = field(text, "RssAnon:");
		c->vms = field(text, "VmSize:");
		if (c->rss > c->rss_peak)
			c->rss_peak = c->rss;
	}
	if (slurp(c->pid, "stat", text, sizeof(text))) {
		const char *p = strrchr(text, ')'); /* the name may hold anything */
		unsigned long user = 0, sys = 0;
		if (p && sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
		                &sys) == 2)
			c->cpu_ns = (user + sys) * (1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK));
	}
}

uint64_t watch_pss(pid_t pid)
{
	char text[2048];
	return slurp(pid, "smaps_rollup", text, sizeof(text)) ? field(text, "Pss:") : 0;
}

static void check_memory(struct master *m, uint32_t slot)
{
	struct child *c = &m->children[slot];
	const struct config_stage *s = &m->config->stages[c->stage];
	if (!s->memory_max || c->rss_anon <= s->memory_max || c->replace)
		return;
	log_warning("worker %s[%u] (pid %d) has %llu bytes of its own, over memory_max: replaced",
	            s->name, c->ordinal, (int)c->pid, (unsigned long long)c->rss_anon);
	c->replace = true;
	children_order(m, slot, ORDER_STOP);
}

static void take_sample(struct master *m)
{
	struct sample *row = &m->samples[(size_t)m->sample_at * m->config->n_stages];
	memset(row, 0, m->config->n_stages * sizeof(*row));
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		const struct arena_worker *s = arena_worker(&m->arena, w);
		const struct child *c = &m->children[w];
		if (!c->wanted || c->stage >= m->config->n_stages)
			continue;
		row[c->stage].records_in += s->committed.book[BOOK_records_in];
		row[c->stage].records_out += s->committed.book[BOOK_records_out];
	}
	m->sample_at = (m->sample_at + 1) % SAMPLES;
	if (m->n_samples < SAMPLES)
		m->n_samples++;
}

/* A kill that was sent and has not helped: the process hangs in the kernel, or this loop does not
 * see it end. */
const char *watch_unsound(const struct master *m, int64_t now)
{
	static const int64_t grace = 10000000000;
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		const struct child *c = &m->children[w];
		if (c->state != CHILD_RUNNING || c->stage >= m->config->n_stages)
			continue;
		if (now - c->seen_at > m->config->stages[c->stage].stall_timeout + grace)
			return "a worker stands still beyond its stall_timeout and could not be "
			       "replaced";
	}
	return NULL;
}

/* Who did not look for a while (stopped with all its workers by a terminal, a debugger or the
 * freezer of a container) knows nothing of what went on meanwhile: everybody gets his time again.
 */
static void forgive_absence(struct master *m, int64_t now)
{
	if (m->checked_at && now - m->checked_at > ABSENCE)
		for (uint32_t w = 0; w < m->arena.workers; w++)
			m->children[w].seen_at = now;
	m->checked_at = now;
}

void children_check(struct master *m, int64_t now)
{
	forgive_absence(m, now);
	for (uint32_t w = 0; w < m->arena.workers; w++) {
		struct child *c = &m->children[w];
		children_reap(m, w);
		if (c->state != CHILD_RUNNING)
			continue;
		check_stall(m, w, now);
		sample_process(c);
		check_memory(m, w);
	}
	if (m->samples)
		take_sample(m);
}
