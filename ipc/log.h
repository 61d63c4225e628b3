/*
 * Log lines: structured to the systemd journal when there is one, text on stderr otherwise.
 *
 * One line at start, one at stop, otherwise a line means that something is unexpected. Every call
 * site is rate-limited (LOG_BURST lines in LOG_INTERVAL); what is held back is counted and told
 * with the next line of that site. Logging never fails and never changes errno.
 */
#pragma once

#include <stdint.h>

enum log_level {
	LOG_LEVEL_ERROR = 3, /* syslog's numbers */
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

struct log_site {
	int64_t window_start; /* CLOCK_MONOTONIC, ns */
	unsigned in_window;
	unsigned held_back;
};

/* Says who speaks: every later line of this process carries it. @stage NULL: the master; strings
 * are copied. @worker: the worker's number within its stage, -1 for none. */
void log_identity(const char *stage, int worker);

/* Lines above this level are not written. Default LOG_LEVEL_INFO. */
void log_set_level(enum log_level level);

void log_write(struct log_site *site, enum log_level level, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

#define log_at(level, ...)                     \
 do {                                          \
  static struct log_site log_site_;            \
  log_write(&log_site_, (level), __VA_ARGS__); \
 } while (0)

#define log_error(...)   log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...)  log_at(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...)    log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)
