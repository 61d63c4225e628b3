/*
 * Regular expressions (PCRE2) of conditions and of match() and capture().
 *
 * A pattern is compiled once and run by machine code where the process may make some, by the
 * interpreter where it may not (systemd's MemoryDenyWriteExecute). Steps of one match are bounded,
 * so that a pattern with nested repeats gives up on a hostile field instead of holding the worker.
 *
 * Subjects are taken as UTF-8; bytes that are not match nothing but do no harm.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct regex;

enum regex_error {
	REGEX_E_OK,
	REGEX_E_NONE,  /* does not match */
	REGEX_E_LIMIT, /* gave up: too many steps */
};

/* Compiles @pattern. NULL: @why (of @why_size bytes) says what is wrong and where, out of memory
 * too. */
struct regex *regex_new(const char *pattern, size_t len, char *why, size_t why_size);
struct regex *regex_free(struct regex *x); /* returns NULL */

/* Makes machine code for it, in the process that will run it. Failing is no error: it only is
 * slower. */
void regex_jit(struct regex *x);

/* Searches @s. 0, REGEX_E_*, -ENOMEM. Group @group's place goes to *@from and *@to when they are
 * given; a group that took no part (or is not in the pattern) gives REGEX_E_NONE. */
int regex_match(struct regex *x, const uint8_t *s, size_t len, unsigned group, size_t *from,
                size_t *to);

/* A compiled @pattern from a small table kept in this process: for patterns that are only known
 * when a record comes. NULL as regex_new. Good until the next call. */
struct regex *regex_cached(const char *pattern, size_t len, char *why, size_t why_size);
