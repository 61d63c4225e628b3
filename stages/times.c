/*
 * Points in time from text and back.
 *
 * Own code because strptime(3) follows the locale, knows no fractions, and takes 31 February. Days
 * are counted by the algorithm of Howard Hinnant, "chrono-compatible low-level date algorithms"
 * (public domain): years begin in March, so that the leap day is the last one, and come in eras of
 * 400 years.
 *
 * Limits: no named time zones (offsets only), English names only, no week numbers.
 */
#include "stages/times.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What was read so far. */
struct fields {
	int64_t year;
	int month, day, hour, minute, second, yday, offset;
	int pm; /* -1: none, 0: am, 1: pm */
	int64_t epoch;
	bool has_epoch, has_12;
	int32_t nsec;
};

struct text_in {
	const char *p;
	const char *end;
};

static const char *const months[] = {"January",   "February", "March",    "April",
                                     "May",       "June",     "July",     "August",
                                     "September", "October",  "November", "December"};
static const char *const days[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                   "Thursday", "Friday", "Saturday"};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A number of @least to @most digits. */
static bool number(struct text_in *in, int least, int most, int *out)
{
	int n = 0, v = 0;
	while (n < most && in->p < in->end && is_digit(*in->p)) {
		v = v * 10 + (*in->p++ - '0');
		n++;
	}
	*out = v;
	return n >= least;
}

/* A name, whole or its first three letters, any case; the longer one wins. -1: none. */
static int name(struct text_in *in, const char *const *names, int n)
{
	size_t left = (size_t)(in->end - in->p);
	for (int i = 0; i < n; i++) {
		size_t len = strlen(names[i]);
		if (left >= 3 && strncasecmp(in->p, names[i], 3) == 0) {
			bool whole = left >= len && strncasecmp(in->p, names[i], len) == 0;
			in->p += whole ? len : 3;
			return i;
		}
	}
	return -1;
}

static bool zone(struct text_in *in, int *offset)
{
	int h = 0, m = 0;
	*offset = 0;
	if (in->p == in->end)
		return false;
	char sign = *in->p++;
	if (sign == 'Z' || sign == 'z')
		return true;
	if ((sign != '+' && sign != '-') || !number(in, 2, 2, &h))
		return false;
	bool colon = in->p < in->end && *in->p == ':';
	in->p += colon;
	if ((colon || (in->p < in->end && is_digit(*in->p))) && !number(in, 2, 2, &m))
		return false;
	*offset = (h * 60 + m) * (sign == '-' ? -60 : 60);
	return h <= 24 && m <= 59;
}

static bool fraction(struct text_in *in, int32_t *nsec)
{
	int n = 0;
	*nsec = 0;
	while (n < 9 && in->p < in->end && is_digit(*in->p)) {
		*nsec = *nsec * 10 + (*in->p++ - '0');
		n++;
	}
	for (int i = n; i < 9; i++)
		*nsec *= 10;
	return n > 0;
}

static bool epoch(struct text_in *in, struct fields *f)
{
	bool minus = in->p < in->end && *in->p == '-';
	int n = 0;
	for (in->p += minus; n < 18 && in->p < in->end && is_digit(*in->p); n++)
		f->epoch = f->epoch * 10 + (*in->p++ - '0');
	f->epoch = minus ? -f->epoch : f->epoch;
	f->has_epoch = true;
	return n > 0;
}

static bool year4(struct text_in *in, struct fields *f)
{
	int y;
	bool minus = in->p < in->end && *in->p == '-';
	in->p += minus;
	if (!number(in, 4, 4, &y))
		return false;
	f->year = minus ? -y : y;
	return true;
}

static bool year2(struct text_in *in, struct fields *f)
{
	int y;
	if (!number(in, 1, 2, &y))
		return false;
	f->year = y < 69 ? 2000 + y : 1900 + y;
	return true;
}

static bool half(struct text_in *in, struct fields *f)
{
	if (in->end - in->p < 2 || strncasecmp(in->p + 1, "m", 1) != 0)
		return false;
	char c = *in->p;
	f->pm = c == 'p' || c == 'P';
	in->p += 2;
	return f->pm || c == 'a' || c == 'A';
}

static bool blanks(struct text_in *in)
{
	while (in->p < in->end && is_space(*in->p))
		in->p++;
	return true;
}

static bool by_format(struct text_in *in, const char *fmt, struct fields *f);

/* One conversion. */
static bool convert(struct text_in *in, char c, struct fields *f)
{
	int n;
	switch (c) {
	case 'Y':
		return year4(in, f);
	case 'y':
		return year2(in, f);
	case 'm':
		return number(in, 1, 2, &f->month);
	case 'e':
		blanks(in);
		return number(in, 1, 2, &f->day);
	case 'd':
		return number(in, 1, 2, &f->day);
	case 'j':
		return number(in, 1, 3, &f->yday) && f->yday > 0;
	case 'I':
		f->has_12 = true;
		return number(in, 1, 2, &f->hour);
	case 'H':
		return number(in, 1, 2, &f->hour);
	case 'M':
		return number(in, 1, 2, &f->minute);
	case 'S':
		return number(in, 1, 2, &f->second);
	case 'p':
		return half(in, f);
	case 'b':
	case 'B':
	case 'h':
		n = name(in, months, 12);
		f->month = n + 1;
		return n >= 0;
	case 'a':
	case 'A':
		return name(in, days, 7) >= 0;
	case 'f':
		return fraction(in, &f->nsec);
	case 'z':
		return zone(in, &f->offset);
	case 's':
		return epoch(in, f);
	case 'D':
		return by_format(in, "%m/%d/%y", f);
	case 'F':
		return by_format(in, "%Y-%m-%d", f);
	case 'T':
		return by_format(in, "%H:%M:%S", f);
	case 'R':
		return by_format(in, "%H:%M", f);
	case 'n':
	case 't':
		return blanks(in);
	case '%':
		return in->p < in->end && *in->p++ == '%';
	default:
		return false;
	}
}

static bool by_format(struct text_in *in, const char *fmt, struct fields *f)
{
	for (; *fmt; fmt++) {
		if (*fmt == '%') {
			if (!convert(in, *++fmt, f))
				return false;
		} else if (is_space(*fmt)) {
			blanks(in);
		} else if (in->p == in->end || *in->p++ != *fmt) {
			return false;
		}
	}
	return true;
}

static bool rfc3339(struct text_in *in, struct fields *f)
{
	if (!by_format(in, "%F", f))
		return false;
	if (in->p == in->end)
		return true;
	char t = *in->p++;
	if ((t != 'T' && t != 't' && t != ' ') || !by_format(in, "%T", f))
		return false;
	if (in->p < in->end && (*in->p == '.' || *in->p == ',')) {
		in->p++;
		if (!fraction(in, &f->nsec))
			return false;
		while (in->p < in->end && is_digit(*in->p)) /* finer than we keep */
			in->p++;
	}
	return in->p == in->end || zone(in, &f->offset);
}

static int month_days(int64_t y, int m)
{
	static const int n[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
	return n[m - 1] + (m == 2 && leap);
}

/* Days since 1970-01-01 (Hinnant's days_from_civil). */
static int64_t days_of(int64_t y, int m, int d)
{
	y -= m <= 2;
	int64_t era = (y >= 0 ? y : y - 399) / 400;
	int64_t yoe = y - era * 400;
	int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static int finish(const struct fields *f, struct times *t)
{
	int hour = f->hour;
	t->nsec = f->nsec;
	t->sec = f->epoch;
	if (f->has_epoch)
		return TIMES_E_OK;
	if (f->month < 1 || f->month > 12 || f->day < 1 || f->day > month_days(f->year, f->month))
		return TIMES_E_RANGE;
	if (f->has_12 && (hour < 1 || hour > 12))
		return TIMES_E_RANGE;
	if (f->has_12)
		hour = hour % 12 + (f->pm == 1 ? 12 : 0);
	if (hour > 23 || f->minute > 59 || f->second > 60)
		return TIMES_E_RANGE;
	int64_t day = days_of(f->year, f->month, f->day);
	if (f->yday) {
		if (f->yday > 337 + month_days(f->year, 2))
			return TIMES_E_RANGE;
		day = days_of(f->year, 1, 1) + f->yday - 1;
	}
	t->sec = day * 86400 + hour * 3600 + f->minute * 60 + f->second - f->offset;
	return TIMES_E_OK;
}

int times_parse(const char *fmt, const char *s, size_t len, struct times *t)
{
	struct fields f = {.year = 1970, .month = 1, .day = 1, .pm = -1};
	struct text_in in = {s, s + len};
	bool ok = fmt ? by_format(&in, fmt, &f) : rfc3339(&in, &f);
	if (!ok || in.p != in.end)
		return TIMES_E_MATCH;
	return finish(&f, t);
}

char times_unknown(const char *fmt)
{
	for (; *fmt; fmt++)
		if (*fmt == '%') {
			fmt++;
			if (!*fmt)
				return '%';
			if (!strchr("YymdejIHMSpbBhaAfzsDFTRnt%", *fmt))
				return *fmt;
		}
	return 0;
}

/* Year, month, day of a day number (Hinnant's civil_from_days). */
static void date_of(int64_t z, int64_t *y, int *m, int *d)
{
	z += 719468;
	int64_t era = (z >= 0 ? z : z - 146096) / 146097;
	int64_t doe = z - era * 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	int64_t mp = (5 * doy + 2) / 153;
	*d = (int)(doy - (153 * mp + 2) / 5 + 1);
	*m = (int)(mp < 10 ? mp + 3 : mp - 9);
	*y = yoe + era * 400 + (*m <= 2);
}

size_t times_rfc3339(char out[40], const struct times *t)
{
	int64_t day = t->sec / 86400, y;
	int rest = (int)(t->sec % 86400), m, d;
	if (rest < 0) {
		rest += 86400;
		day--;
	}
	date_of(day, &y, &m, &d);
	if (y < 0 || y > 9999)
		return 0;
	int n = snprintf(out, 40, "%04d-%02d-%02dT%02d:%02d:%02d", (int)y, m, d, rest / 3600,
	                 rest / 60 % 60, rest % 60);
	if (t->nsec % 1000000 == 0 && t->nsec)
		n += snprintf(out + n, 40 - (size_t)n, ".%03d", t->nsec / 1000000);
	else if (t->nsec % 1000 == 0 && t->nsec)
		n += snprintf(out + n, 40 - (size_t)n, ".%06d", t->nsec / 1000);
	else if (t->nsec)
		n += snprintf(out + n, 40 - (size_t)n, ".%09d", t->nsec);
	n += snprintf(out + n, 40 - (size_t)n, "Z");
	return (size_t)n;
}
