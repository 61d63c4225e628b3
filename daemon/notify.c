/* What is said to systemd: see notify.h. */
#include "daemon/notify.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#include "daemon/master.h"

static const int64_t SECOND = 1000000000;

enum {
	EXTEND_US = 10000000,
};

/* ---- state ---- */

static uint64_t rate_in(const struct master *m)
{
	unsigned last = (m->sample_at + SAMPLES - 1) % SAMPLES,
	         before = (last + SAMPLES - 1) % SAMPLES;
	uint64_t rate = 0;
	for (unsigned i = 0; m->n_samples >= 2 && i < m->config->n_stages; i++) {
		if (m->config->stages[i].kind != STAGE_PRODUCER)
			continue;
		uint64_t a = m->samples[(size_t)before * m->config->n_stages + i].records_in;
		uint64_t b = m->samples[(size_t)last * m->config->n_stages + i].records_in;
		rate += b > a ? b - a : 0;
	}
	return rate;
}

static unsigned workers_down(const struct master *m)
{
	unsigned n = 0;
	for (uint32_t w = 0; w < m->arena.workers; w++)
		n += m->children[w].wanted && m->children[w].state == CHILD_WAITING;
	return n;
}

static unsigned unreachable(const struct master *m)
{
	unsigned n = 0;
	for (uint32_t w = 0; w < m->arena.workers; w++)
		n += m->children[w].state == CHILD_RUNNING &&
		     atomic_load(&arena_worker(&m->arena, w)->activity) == ACTIVITY_UNREACHABLE;
	return n;
}

static void say_status(const struct master *m)
{
	char down[64] = "", outside[64] = "";
	unsigned waiting = workers_down(m), lost = unreachable(m);
	if (m->state != MASTER_RUNNING && m->state != MASTER_STARTING) {
		uint32_t left = m->arena.entries - arena_free(&m->arena);
		sd_notifyf(0, "STATUS=%s; %u chunks in flight", m->why, left);
		return;
	}
	if (waiting)
		snprintf(down, sizeof(down), "; %u workers down, to be started again", waiting);
	if (lost)
		snprintf(outside, sizeof(outside), "; %u wait for the outside", lost);
	sd_notifyf(0, "STATUS=%s%s; %llu records/s in%s%s", m->why, m->drained ? ", drained" : "",
	           (unsigned long long)rate_in(m), down, outside);
}

void notify_state(const struct master *m)
{
	if (m->state == MASTER_RUNNING)
		sd_notifyf(0, "READY=1\nSTATUS=%s", m->why);
	else if (m->state >= MASTER_DRAINING)
		sd_notifyf(0, "STOPPING=1\nSTATUS=%s", m->why);
}

void notify_reloading(void)
{
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=reloading",
	           (long long)(master_now() / 1000));
}

void notify_reloaded(const struct master *m)
{
	/* READY also when we are still starting: it ends RELOADING, and the stages' failures are
	 * known */
	sd_notifyf(0, "READY=1\nSTATUS=%s", m->why);
}

/* ---- the watchdog ---- */

/* How often to feed it, ns; 0: nobody asks. Half the limit, as sd_watchdog_enabled(3) has it, and a
 * bit. */
static int64_t watchdog_every(void)
{
	static int64_t every = -1;
	uint64_t us = 0;
	if (every < 0)
		every = sd_watchdog_enabled(0, &us) > 0 ? (int64_t)us * 1000 / 3 : 0;
	return every;
}

static void feed(const struct master *m, int64_t now)
{
	static int64_t fed;
	static bool silent;
	if (!watchdog_every() || (fed && now - fed < watchdog_every()))
		return;
	const char *why = watch_unsound(m, now);
	if (!why) {
		sd_notify(0, "WATCHDOG=1");
		fed = now;
		silent = false;
	} else if (!silent) {
		log_error("the watchdog is not fed: %s", why);
		silent = true;
	}
}

/* A long start or drain is no hang as long as this is said. */
static void extend(const struct master *m)
{
	if (m->state != MASTER_RUNNING && m->state != MASTER_ENDED)
		sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%d", EXTEND_US);
}

void notify_tick(const struct master *m, int64_t now)
{
	static int64_t said;
	feed(m, now);
	if (said && now - said < SECOND)
		return;
	said = now;
	extend(m);
	if (!m->reload)
		say_status(m);
}

/* ---- the store ---- */

int notify_stored(const char *name)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(0, &names), fd = -1;
	for (int i = 0; i < n; i++) {
		if (fd < 0 && strcmp(names[i], name) == 0)
			fd = SD_LISTEN_FDS_START + i;
		free(names[i]);
	}
	free(names);
	return fd >= 0 && fcntl(fd, F_GETFD) >= 0 ? fd : -1;
}

bool notify_store(const char *name, int fd)
{
	char text[128];
	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s", name);
	return sd_pid_notify_with_fds(0, 0, text, &fd, 1) > 0;
}

void notify_unstore(const char *name)
{
	sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}
