/*
 * Points in time from text and back, by a format with strftime's letters, in the proleptic
 * Gregorian calendar, without locale and time zone database.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum times_error {
	TIMES_E_OK,
	TIMES_E_MATCH, /* the text does not look like the format */
	TIMES_E_RANGE, /* it does, but there is no such time (31 February, 25 o'clock) */
};

struct times {
	int64_t sec;  /* since 1970-01-01T00:00:00Z */
	int32_t nsec; /* 0 to 999,999,999 */
};

/*
 * Reads all of [s, s+len) by @fmt:
 *   %Y (4 digits, or - and 4)  %y (69 to 68)  %m %d %e %H %I %p %M %S %j  %b %B %h  %a %A (checked
 * for being a name, not for the day)  %f (1 to 9 digits of a fraction)  %z (Z, +hh, +hhmm, +hh:mm)
 * %s (epoch seconds)  %D = %m/%d/%y  %F = %Y-%m-%d  %T = %H:%M:%S  %R = %H:%M  %n %t and blanks
 * (any number of blanks)  %% Numbers have at most their digits and may have fewer, but for %Y.
 * Without %z it is UTC. Second 60 is the first of the next minute. @fmt NULL: RFC 3339, with T or a
 * blank between, fraction and zone optional. TIMES_E_OK, TIMES_E_MATCH, TIMES_E_RANGE.
 */
int times_parse(const char *fmt, const char *s, size_t len, struct times *t);

/* The letter of the first conversion in @fmt that times_parse does not know ('%' for a lone one at
 * the end), or 0. */
char times_unknown(const char *fmt);

/* Writes @t as RFC 3339 in UTC, with as many digits of fraction as it needs (none, 3, 6, 9). The
 * year must be 0 to 9999, else 0 is returned. Returns the length. */
size_t times_rfc3339(char out[40], const struct times *t);
