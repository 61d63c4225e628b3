/*
 * Log lines to the journal or to stderr.
 *
 * Under systemd, stderr is a stream to the journal and $JOURNAL_STREAM names it (device:inode):
 * when it is the same as our stderr, lines go by the native protocol with fields. Everywhere else
 * they are text.
 */
#include "ipc/log.h"
#include "ipc/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

enum {
	LOG_BURST = 10,
	LINE_MAX_BYTES = 4096,
};
static const int64_t LOG_INTERVAL = 5000000000; /* ns */

static struct {
	char stage[64];
	int worker;
	enum log_level level;
} self = {"", -1, LOG_LEVEL_INFO};

void log_identity(const char *stage, int worker)
{
	snprintf(self.stage, sizeof(self.stage), "%s", stage ? stage : "");
	self.worker = worker;
}

void log_set_level(enum log_level level)
{
	self.level = level;
}

static bool to_journal(void)
{
	static int known = -1;
	if (known >= 0)
		return known;
	const char *stream = getenv("JOURNAL_STREAM");
	struct stat st;
	unsigned long long dev, ino;
	known = stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(2, &st) == 0 &&
	        st.st_dev == dev && st.st_ino == ino;
	return known;
}

/* False: this site has said enough for now. */
static bool may_speak(struct log_site *site)
{
	int64_t now = clock_monotonic();
	if (now - site->window_start > LOG_INTERVAL) {
		site->window_start = now;
		site->in_window = 0;
	}
	if (site->in_window >= LOG_BURST) {
		site->held_back++;
		return false;
	}
	site->in_window++;
	return true;
}

static void write_text(enum log_level level, const char *line)
{
	static const char *const word[] = {"", "", "", "error: ", "warning: ", "", "", "debug: "};
	char out[LINE_MAX_BYTES + 128], who[96] = "";
	if (self.stage[0])
		snprintf(who, sizeof(who), " %s[%d]", self.stage, self.worker);
	int n = snprintf(out, sizeof(out), "sluiced%s: %s%s\n", who, word[level], line);
	if (n >= (int)sizeof(out))
		n = (int)sizeof(out) - 1;
	(void)!write(2, out, (size_t)n); /* one write: lines of several processes do not mix */
}

/* MESSAGE_ID by level: an administrator's filter for "a stage is in trouble". */
static const char *message_id(enum log_level level)
{
	return level <= LOG_LEVEL_ERROR     ? "MESSAGE_ID=5a2d1f4f6d0b4a0f9d0c3b3f1c8e0a01"
	       : level == LOG_LEVEL_WARNING ? "MESSAGE_ID=5a2d1f4f6d0b4a0f9d0c3b3f1c8e0a02"
	                                    : "MESSAGE_ID=5a2d1f4f6d0b4a0f9d0c3b3f1c8e0a03";
}

static void write_journal(enum log_level level, const char *line)
{
	if (self.stage[0])
		sd_journal_send("MESSAGE=%s: %s", self.stage, line, "PRIORITY=%i", (int)level,
		                message_id(level), "SYSLOG_IDENTIFIER=sluiced", "SLUICE_STAGE=%s",
		                self.stage, "SLUICE_WORKER=%i", self.worker, NULL);
	else
		sd_journal_send("MESSAGE=%s", line, "PRIORITY=%i", (int)level, message_id(level),
		                "SYSLOG_IDENTIFIER=sluiced", NULL);
}

void log_write(struct log_site *site, enum log_level level, const char *fmt, ...)
{
	if (level > self.level)
		return;
	int saved = errno;
	if (!may_speak(site)) {
		errno = saved;
		return;
	}
	char line[LINE_MAX_BYTES];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (site->held_back && n >= 0 && n < (int)sizeof(line) - 64) {
		snprintf(line + n, sizeof(line) - (size_t)n, " (%u more like this were held back)",
		         site->held_back);
		site->held_back = 0;
	}
	if (to_journal())
		write_journal(level, line);
	else
		write_text(level, line);
	errno = saved;
}
