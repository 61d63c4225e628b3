/*
 * Single values of the configuration: what a scalar is, sizes, durations, lists of strings.
 *
 * The hard idea: one place decides what a plain scalar means. The rules are YAML 1.2's core schema
 * (yaml.org/spec/1.2.2, section 10.3.2), so `no`, `on`, `012` and `1_000` are not what YAML 1.1
 * made of them: the first two are strings, the third is the decimal number 12, the last a string.
 * Sizes and durations are strings with a unit that is never guessed: "64KB" and "5" (seconds?
 * milliseconds?) are refused, with what was probably meant.
 *
 * Limits: sizes and durations are whole numbers of one unit ("1500ms", not "1.5s"; no "1h30m").
 */
#include "stages/option.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct node *node_get(const struct node *map, const char *key)
{
	if (!map || map->kind != NODE_MAP)
		return NULL;
	for (size_t i = 0; i < map->n; i++)
		if (strcmp(map->items[2 * i]->text, key) == 0)
			return map->items[2 * i + 1];
	return NULL;
}

const char *node_describe(const struct node *n)
{
	static const char *const scalars[] = {
	        [NODE_NULL] = "nothing",   [NODE_BOOL] = "true or false", [NODE_INT] = "a number",
	        [NODE_FLOAT] = "a number", [NODE_STRING] = "a string",
	};
	if (n->kind == NODE_SCALAR)
		return scalars[n->scalar];
	return n->kind == NODE_MAP ? "a map" : "a list";
}

static bool one_of(const char *s, const char *const *words)
{
	for (; *words; words++)
		if (strcmp(s, *words) == 0)
			return true;
	return false;
}

/* True when @s is an integer by the core schema; *fits: and 64 bits hold it. */
static bool resolve_int(struct node *n, const char *s, bool *fits)
{
	bool negative = *s == '-';
	int base = 10;
	const char *digits = s + (*s == '-' || *s == '+');
	const char *set = "0123456789";
	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'o')) {
		base = s[1] == 'x' ? 16 : 8;
		set = base == 16 ? "0123456789abcdefABCDEF" : "01234567";
		digits = s + 2;
	}
	if (!*digits || digits[strspn(digits, set)])
		return false;
	errno = 0;
	uintmax_t u = strtoumax(digits, NULL, base);
	*fits = errno == 0 && (!negative || u <= (uintmax_t)INT64_MAX + 1);
	if (!*fits)
		return true;
	n->scalar = NODE_INT;
	if (negative) {
		n->i = u ? -(int64_t)(u - 1) - 1 : 0;
		n->u = 0;
		n->d = (double)n->i;
	} else {
		n->i = u > INT64_MAX ? INT64_MAX : (int64_t)u;
		n->u = u;
		n->d = (double)u;
	}
	return true;
}

/* [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )? */
static bool is_float(const char *s)
{
	s += *s == '-' || *s == '+';
	size_t whole = strspn(s, "0123456789"), part = 0;
	s += whole;
	if (*s == '.') {
		part = strspn(s + 1, "0123456789");
		s += 1 + part;
	}
	if (whole + part == 0)
		return false;
	if (*s == 'e' || *s == 'E') {
		s++;
		s += *s == '-' || *s == '+';
		size_t power = strspn(s, "0123456789");
		if (power == 0)
			return false;
		s += power;
	}
	return *s == '\0';
}

static bool resolve_float(struct node *n, const char *s)
{
	static const char *const inf[] = {".inf", ".Inf", ".INF", NULL};
	static const char *const nan[] = {".nan", ".NaN", ".NAN", NULL};
	if (one_of(s + (*s == '-' || *s == '+'), inf))
		n->d = *s == '-' ? -INFINITY : INFINITY;
	else if (one_of(s, nan))
		n->d = NAN;
	else if (is_float(s))
		n->d = strtod(s, NULL);
	else
		return false;
	n->scalar = NODE_FLOAT;
	return true;
}

bool node_resolve(struct node *n)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
	static const char *const yes[] = {"true", "True", "TRUE", NULL};
	static const char *const no[] = {"false", "False", "FALSE", NULL};
	n->scalar = NODE_STRING;
	if (n->quoted || strlen(n->text) != n->len)
		return true;
	if (one_of(n->text, nulls)) {
		n->scalar = NODE_NULL;
		return true;
	}
	n->b = one_of(n->text, yes);
	if (n->b || one_of(n->text, no)) {
		n->scalar = NODE_BOOL;
		return true;
	}
	bool fits = true;
	if (!resolve_int(n, n->text, &fits))
		resolve_float(n, n->text);
	return fits;
}

struct unit {
	const char *name;
	uint64_t factor;
};

/* A whole number and one of @units directly behind it. 0: done; 1: no number in front; 2: the unit
 * is not known (*rest: where it starts); 3: too large. */
static int with_unit(const char *s, const struct unit *units, uint64_t *out, const char **rest)
{
	size_t digits = strspn(s, "0123456789");
	if (digits == 0)
		return 1;
	*rest = s + digits;
	errno = 0;
	uintmax_t v = strtoumax(s, NULL, 10);
	for (; units->name; units++)
		if (strcmp(*rest, units->name) == 0)
			return errno || __builtin_mul_overflow(v, units->factor, out) ? 3 : 0;
	return 2;
}

static const struct unit sizes[] = {
        {"", 1},
        {"B", 1},
        {"KiB", UINT64_C(1) << 10},
        {"MiB", UINT64_C(1) << 20},
        {"GiB", UINT64_C(1) << 30},
        {"TiB", UINT64_C(1) << 40},
        {NULL, 0},
};

static const struct unit durations[] = {
        {"ns", 1},
        {"us", 1000},
        {"ms", 1000000},
        {"s", 1000000000},
        {"m", UINT64_C(60000000000)},
        {"h", UINT64_C(3600000000000)},
        {"d", UINT64_C(86400000000000)},
        {NULL, 0},
};

/* A scalar that may carry a number with a unit: whole numbers and strings. */
static bool unit_text(const struct node *n)
{
	return n->kind == NODE_SCALAR && (n->scalar == NODE_INT || n->scalar == NODE_STRING) &&
	       strlen(n->text) == n->len;
}

static void size_hint(const struct node *n, const char *rest, struct complaints *c)
{
	rest += strspn(rest, " ");
	static const char letters[] = "kmgt";
	static const char *const right[] = {"KiB", "MiB", "GiB", "TiB"};
	const char *l = *rest ? strchr(letters, *rest | 0x20) : NULL;
	int digits = (int)strspn(n->text, "0123456789");
	if (l && digits < 20)
		complain(c, n, "expected a size such as 64KiB, got \"%s\": write %.*s%s", n->text,
		         digits, n->text, right[l - letters]);
	else
		complain(c, n, "expected a size such as 64KiB, 1MiB, 1GiB or bytes, got \"%s\"",
		         n->text);
}

bool option_size(const struct node *n, uint64_t *bytes, struct complaints *c)
{
	const char *rest = "";
	int r = unit_text(n) ? with_unit(n->text, sizes, bytes, &rest) : 1;
	if (r == 0)
		return true;
	if (r == 2)
		size_hint(n, rest, c);
	else if (r == 3)
		complain(c, n, "size %s is too large", n->text);
	else if (n->kind == NODE_SCALAR)
		complain(c, n, "expected a size such as 64KiB, 1MiB, 1GiB or bytes, got \"%s\"",
		         n->text);
	else
		complain(c, n, "expected a size such as 64KiB, got %s", node_describe(n));
	return false;
}

static void duration_hint(const struct node *n, const char *rest, struct complaints *c)
{
	static const struct {
		const char *wrong, *right;
	} known[] = {{"sec", "s"},    {"second", "s"},  {"seconds", "s"}, {"min", "m"},
	             {"minute", "m"}, {"minutes", "m"}, {"hour", "h"},    {"hours", "h"},
	             {"day", "d"},    {"days", "d"},    {"msec", "ms"},   {"usec", "us"},
	             {"M", "m"},      {"S", "s"},       {"H", "h"}};
	int digits = (int)strspn(n->text, "0123456789");
	if (*rest == '\0') {
		complain(c, n, "expected a duration, got %s without a unit: write %ss or %sms",
		         n->text, n->text, n->text);
		return;
	}
	const char *unit = rest + strspn(rest, " ");
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (strcmp(unit, known[i].wrong) == 0) {
			complain(c, n, "expected a duration such as 5ms, got \"%s\": write %.*s%s",
			         n->text, digits, n->text, known[i].right);
			return;
		}
	complain(c, n, "expected a duration such as 5ms, 1s, 2m or 1h, got \"%s\"", n->text);
}

bool option_duration(const struct node *n, int64_t *ns, struct complaints *c)
{
	const char *rest = "";
	uint64_t v = 0;
	int r = unit_text(n) ? with_unit(n->text, durations, &v, &rest) : 1;
	if (r == 2 && *rest == '\0' && strspn(n->text, "0") == n->len)
		r = 0;
	if (r == 0 && v > INT64_MAX)
		r = 3;
	if (r == 0) {
		*ns = (int64_t)v;
		return true;
	}
	if (r == 2)
		duration_hint(n, rest, c);
	else if (r == 3)
		complain(c, n, "duration %s is too long", n->text);
	else if (n->kind == NODE_SCALAR)
		complain(c, n, "expected a duration such as 5ms, 1s, 2m or 1h, got \"%s\"",
		         n->text);
	else
		complain(c, n, "expected a duration such as 5ms, got %s", node_describe(n));
	return false;
}

static bool string_item(const struct node *n, struct complaints *c)
{
	if (n->kind != NODE_SCALAR || n->scalar == NODE_NULL)
		complain(c, n, "expected a string, got %s", node_describe(n));
	else if (n->scalar != NODE_STRING)
		complain(c, n, "expected a string, got %s (%s): put it in quotes", node_describe(n),
		         n->text);
	else if (n->len == 0)
		complain(c, n, "expected a string, got an empty one");
	else if (strlen(n->text) != n->len)
		complain(c, n, "a NUL character cannot stand here");
	else
		return !n->bad;
	return false;
}

bool option_strings(const struct node *n, struct strings *s, struct complaints *c)
{
	const bool list = n->kind == NODE_SEQ;
	size_t count = list ? n->n : 1;
	*s = (struct strings){0};
	if (n->kind == NODE_MAP || count == 0) {
		complain(c, n, "expected a string or a list of strings, got %s",
		         count ? "a map" : "an empty list");
		return false;
	}
	const char **v = calloc(count, sizeof(*v));
	if (!v) {
		complain(c, n, "out of memory");
		return false;
	}
	bool good = true;
	for (size_t i = 0; i < count; i++) {
		const struct node *item = list ? n->items[i] : n;
		good = string_item(item, c) && good;
		v[i] = item->kind == NODE_SCALAR ? item->text : NULL;
	}
	if (!good) {
		free(v);
		return false;
	}
	s->v = v;
	s->n = count;
	return true;
}
