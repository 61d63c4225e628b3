/*
 * The functions of expressions: their table, time and numbers. Text is in expr_strings.c, hashes
 * are in expr_hash.c.
 *
 * The hard idea: each is written once, on struct expr_val. The tree calls it directly and Lua
 * through one wrapper (expr_lua.c), so the two ways cannot differ.
 *
 * Rules
 *  - nil in, nil out, unless the table says EXPR_NILS;
 *  - where text is wanted a number is taken as its text; anything else is a runtime error;
 *  - results that need memory take it from the record's scratch.
 */
#include "stages/expr_tree.h"

#include <math.h>
#include <string.h>
#include <time.h>

enum {
	TIME_LEN = 27, /* 2026-11-20T16:26:58.123456Z: as msgpack its head is one byte */
};

static char *digits(char *p, long v, unsigned n)
{
	for (unsigned i = n; i-- > 0; v /= 10)
		p[i] = (char)('0' + v % 10);
	return p + n;
}

/* RFC 3339 in UTC. */
static void write_time(int64_t ns, char *p)
{
	time_t s = (time_t)(ns / 1000000000 - (ns % 1000000000 < 0));
	long us = (long)((ns - (int64_t)s * 1000000000) / 1000);
	struct tm t;
	gmtime_r(&s, &t);
	p = digits(p, t.tm_year + 1900, 4);
	*p++ = '-';
	p = digits(p, t.tm_mon + 1, 2);
	*p++ = '-';
	p = digits(p, t.tm_mday, 2);
	*p++ = 'T';
	p = digits(p, t.tm_hour, 2);
	*p++ = ':';
	p = digits(p, t.tm_min, 2);
	*p++ = ':';
	p = digits(p, t.tm_sec, 2);
	*p++ = '.';
	p = digits(p, us, 6);
	*p = 'Z';
}

/* Time stands still within a chunk, so its text is made once a chunk. */
static int fn_now(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	static int64_t cached_at;
	static char cached[TIME_LEN];
	(void)args, (void)n;
	if (cached_at != env->st->now || !cached[0]) {
		write_time(env->st->now, cached);
		cached_at = env->st->now;
	}
	uint8_t *p = record_scratch(env->r, 1 + TIME_LEN);
	if (!p)
		return -ENOMEM;
	mp_write_str(p, cached, TIME_LEN);
	expr_val_str(out, p + 1, TIME_LEN);
	out->raw = p;
	out->raw_len = 1 + TIME_LEN;
	return 0;
}

static int fn_epoch(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out)
{
	(void)args, (void)n;
	expr_val_float(out, (double)env->st->now / 1e9);
	return 0;
}

/* A number, or text that reads as one; else nil. A boolean is 1 or 0. */
static void to_number(const struct expr_val *v, struct expr_val *out)
{
	*out = (struct expr_val){0};
	if (v->v.type == MP_BOOL)
		expr_val_int(out, v->v.b);
	else
		expr_fn_tonumber(NULL, v, 1, out);
}

static void to_integer(const struct expr_val *v, double (*cut)(double), struct expr_val *out)
{
	struct expr_val x;
	to_number(v, &x);
	double d = x.v.type == MP_FLOAT ? cut(x.v.d) : 0;
	if (x.v.type != MP_FLOAT)
		*out = x;
	else if (d >= -0x1p63 && d < 0x1p63)
		expr_val_int(out, (int64_t)d);
}

static int fn_int(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	(void)env, (void)n;
	to_integer(args, trunc, out);
	return 0;
}

static int fn_floor(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out)
{
	(void)env, (void)n;
	to_integer(args, floor, out);
	return 0;
}

static int fn_ceil(struct expr_env *env, const struct expr_val *args, unsigned n,
                   struct expr_val *out)
{
	(void)env, (void)n;
	to_integer(args, ceil, out);
	return 0;
}

static double as_double(const struct mp *v)
{
	return v->type == MP_FLOAT ? v->d : v->type == MP_INT ? (double)v->i : (double)v->u;
}

static int fn_float(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out)
{
	struct expr_val x;
	(void)env, (void)n;
	to_number(args, &x);
	if (x.v.type != MP_NIL)
		expr_val_float(out, as_double(&x.v));
	return 0;
}

/* With digits the result is a float: digits behind the point in decimal, halves away from 0. */
static int fn_round(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out)
{
	int64_t places;
	struct expr_val x;
	if (n == 1) {
		to_integer(args, round, out);
		return 0;
	}
	if (!expr_val_int64(&args[1], &places) || places < 0 || places > 15)
		return expr_fail(env, "round() takes 0 to 15 digits");
	to_number(args, &x);
	if (x.v.type == MP_NIL)
		return 0;
	double scale = pow(10, (double)places);
	double d = as_double(&x.v) * scale;
	expr_val_float(out, isfinite(d) ? round(d) / scale : as_double(&x.v));
	return 0;
}

static int fn_abs(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	(void)n;
	const struct mp *v = &args[0].v;
	if (!compare_is_number(v))
		return expr_fail(env, "abs() takes a number");
	if (v->type == MP_INT)
		*out = (struct expr_val){.v = {.type = MP_UINT, .u = -(uint64_t)v->i}};
	else if (v->type == MP_FLOAT)
		expr_val_float(out, fabs(v->d));
	else
		*out = args[0];
	return 0;
}

static int extreme(struct expr_env *env, const struct expr_val *args, unsigned n, int sign,
                   struct expr_val *out)
{
	const struct expr_val *best = &args[0];
	for (unsigned i = 0; i < n; i++) {
		if (!compare_is_number(&args[i].v))
			return expr_fail(env, "%s() takes numbers", sign < 0 ? "min" : "max");
		int c = compare_numbers(&args[i].v, &best->v);
		if (c == sign)
			best = &args[i];
	}
	*out = *best;
	return 0;
}

static int fn_min(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	return extreme(env, args, n, -1, out);
}

static int fn_max(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	return extreme(env, args, n, 1, out);
}

static int fn_default(struct expr_env *env, const struct expr_val *args, unsigned n,
                      struct expr_val *out)
{
	(void)env;
	for (unsigned i = 0; i < n && out->v.type == MP_NIL; i++)
		*out = args[i];
	return 0;
}

static int fn_field(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out)
{
	(void)n;
	uint32_t len = 0;
	if (args[0].v.type != MP_STR)
		return expr_fail(env, "field() takes the name of a field");
	const uint8_t *p = record_path(env->r, (const char *)args[0].v.p, args[0].v.len, &len);
	expr_val_field(out, p, len);
	return 0;
}

const struct expr_func expr_funcs[] = {
        {"now", 0, 0, 0, fn_now, "the time, RFC 3339 in UTC with microseconds (once a chunk)"},
        {"epoch", 0, 0, 0, fn_epoch, "the time in seconds since 1970"},
        {"field", 1, 1, EXPR_BASIC, fn_field,
         "the field with that name or path, however it is spelt"},
        {"default", 2, EXPR_ARGS_MAX, EXPR_NILS, fn_default, "the first argument that is not nil"},
        {"upper", 1, 1, 0, expr_fn_upper, "ASCII letters made upper case"},
        {"lower", 1, 1, 0, expr_fn_lower, "ASCII letters made lower case"},
        {"trim", 1, 1, 0, expr_fn_trim, "without blanks at both ends"},
        {"len", 1, 1, 0, expr_fn_len, "characters of a text, elements of a list or map"},
        {"substr", 2, 3, 0, expr_fn_substr,
         "substr(s, from, count): from 1; negative from the end"},
        {"replace", 3, 3, 0, expr_fn_replace, "replace(s, what, by): every plain occurrence"},
        {"split", 2, 2, 0, expr_fn_split, "split(s, separator): a list"},
        {"match", 2, 2, 0, expr_fn_match,
         "match(s, pattern): whether the regular expression is in s"},
        {"capture", 2, 3, 0, expr_fn_capture,
         "capture(s, pattern, group): that group, by default 1"},
        {"host", 1, 1, 0, expr_fn_host, "the host of a URL, without port"},
        {"urlpath", 1, 1, 0, expr_fn_urlpath, "the path of a URL"},
        {"tostring", 1, 1, EXPR_BASIC, expr_fn_tostring, "a number or boolean as text"},
        {"tonumber", 1, 1, EXPR_BASIC, expr_fn_tonumber,
         "text as a decimal number; nil when it is none"},
        {"int", 1, 1, 0, fn_int, "as an integer, cut towards 0"},
        {"float", 1, 1, 0, fn_float, "as a floating-point number"},
        {"floor", 1, 1, 0, fn_floor, "the integer not above"},
        {"ceil", 1, 1, 0, fn_ceil, "the integer not below"},
        {"round", 1, 2, 0, fn_round, "round(x): nearest integer; round(x, digits): a float"},
        {"abs", 1, 1, 0, fn_abs, "without sign"},
        {"min", 1, EXPR_ARGS_MAX, 0, fn_min, "the least of some numbers"},
        {"max", 1, EXPR_ARGS_MAX, 0, fn_max, "the greatest of some numbers"},
        {"xxh64", 1, 1, 0, expr_fn_xxh64, "XXH64 of a text, 16 hexadecimal digits"},
        {"xxh3", 1, 1, 0, expr_fn_xxh3, "XXH3 (64 bits) of a text, 16 hexadecimal digits"},
        {"md5", 1, 1, 0, expr_fn_md5, "MD5 in hexadecimal"},
        {"sha1", 1, 1, 0, expr_fn_sha1, "SHA-1 in hexadecimal"},
        {"sha256", 1, 1, 0, expr_fn_sha256, "SHA-256 in hexadecimal"},
        {"uuid", 0, 0, 0, expr_fn_uuid, "a random UUID (version 4)"},
        {0},
};

const struct expr_func *expr_func_find(const char *name, size_t len)
{
	for (const struct expr_func *f = expr_funcs; f->name; f++)
		if (strlen(f->name) == len && memcmp(f->name, name, len) == 0)
			return f;
	return NULL;
}

const char *expr_func_nearest(const char *name)
{
	const char *names[sizeof(expr_funcs) / sizeof(*expr_funcs)];
	size_t n = 0;
	for (const struct expr_func *f = expr_funcs; f->name; f++)
		names[n++] = f->name;
	return option_nearest(name, names, n);
}

int expr_func_call(const struct expr_func *f, struct expr_env *env, const struct expr_val *args,
                   unsigned n, struct expr_val *out)
{
	*out = (struct expr_val){0};
	for (unsigned i = 0; i < n && !(f->flags & EXPR_NILS); i++)
		if (args[i].v.type == MP_NIL)
			return 0;
	return f->fn(env, args, n, out);
}
