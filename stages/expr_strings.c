/*
 * Functions of expressions that work on text.
 *
 * Limits: upper() and lower() know ASCII letters and leave all others as they are. Text is counted
 * in characters (code points), not in what a reader would call letters. host() and urlpath() split
 * a URL, they do not normalise it: no IDNA, no percent-decoding, no rewriting of numeric addresses.
 */
#include "stages/expr_tree.h"

#include "stages/regex.h"

#include <errno.h>
#include <math.h>
#include <string.h>

struct text {
	const uint8_t *p;
	size_t len;
};

/* The text of argument @v of @name(). 0 or EXPR_E_FAILED. @room: EXPR_NUMBER_MAX bytes. */
static int text_of(struct expr_env *env, const char *name, const struct expr_val *v, char *room,
                   struct text *t)
{
	if (expr_val_text(v, room, &t->p, &t->len))
		return 0;
	return expr_fail(env, "%s() takes text", name);
}

/* A result that is a piece of an argument: copied when the argument was a number, whose text does
 * not last. */
static int piece(struct expr_env *env, const struct expr_val *arg, const uint8_t *p, size_t len,
                 struct expr_val *out)
{
	if (arg->v.type != MP_STR) {
		uint8_t *to = record_scratch(env->r, len ? len : 1);
		if (!to)
			return -ENOMEM;
		memcpy(to, p, len);
		p = to;
	}
	expr_val_str(out, p, len);
	return 0;
}

/* Room for a text of @len bytes with its head before it. NULL: no memory. */
static uint8_t *begin_text(struct expr_env *env, size_t len, struct expr_val *out)
{
	uint8_t *p = record_scratch(env->r, MP_HEAD_MAX + len);
	if (!p)
		return NULL;
	uint8_t *body = mp_write_str_head(p, (uint32_t)len);
	expr_val_str(out, body, len);
	out->raw = p;
	out->raw_len = (uint32_t)((size_t)(body - p) + len);
	return body;
}

static int change_case(struct expr_env *env, const char *name, const struct expr_val *arg,
                       char first, struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	struct text t;
	int r = text_of(env, name, arg, room, &t);
	if (r != 0)
		return r;
	uint8_t *p = begin_text(env, t.len, out);
	if (!p)
		return -ENOMEM;
	/* without a branch, so that the compiler makes vectors of it */
	for (size_t i = 0; i < t.len; i++) {
		uint8_t c = t.p[i];
		p[i] = c ^ (uint8_t)(((uint8_t)(c - first) < 26) << 5);
	}
	return 0;
}

int expr_fn_upper(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	(void)n;
	return change_case(env, "upper", args, 'a', out);
}

int expr_fn_lower(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	(void)n;
	return change_case(env, "lower", args, 'A', out);
}

static bool blank(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(struct text *t)
{
	while (t->len && blank(t->p[0])) {
		t->p++;
		t->len--;
	}
	while (t->len && blank(t->p[t->len - 1]))
		t->len--;
}

int expr_fn_trim(struct expr_env *env, const struct expr_val *args, unsigned n,
                 struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	struct text t;
	(void)n;
	int r = text_of(env, "trim", args, room, &t);
	if (r != 0)
		return r;
	trim(&t);
	return piece(env, args, t.p, t.len, out);
}

/* Every byte that does not continue a character begins one. */
static size_t count_chars(const uint8_t *p, size_t len)
{
	size_t n = 0;
	for (size_t i = 0; i < len; i++)
		n += (p[i] & 0xc0) != 0x80;
	return n;
}

/* The byte at which character number @chars (from 0) begins, or len. */
static size_t char_offset(const uint8_t *p, size_t len, int64_t chars)
{
	size_t i = 0;
	for (; i < len; i++)
		if ((p[i] & 0xc0) != 0x80 && chars-- == 0)
			break;
	return i;
}

int expr_fn_len(struct expr_env *env, const struct expr_val *args, unsigned n, struct expr_val *out)
{
	const struct mp *v = &args[0].v;
	(void)n;
	switch (v->type) {
	case MP_STR:
		expr_val_int(out, (int64_t)count_chars(v->p, v->len));
		return 0;
	case MP_BIN:
		expr_val_int(out, v->len);
		return 0;
	case MP_ARRAY:
	case MP_MAP:
		expr_val_int(out, v->n);
		return 0;
	default:
		return expr_fail(env, "len() takes text, a list or a map");
	}
}

int expr_fn_substr(struct expr_env *env, const struct expr_val *args, unsigned n,
                   struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	struct text t;
	int64_t from, count = INT64_MAX;
	int r = text_of(env, "substr", args, room, &t);
	if (r != 0)
		return r;
	if (!expr_val_int64(&args[1], &from) || (n > 2 && !expr_val_int64(&args[2], &count)))
		return expr_fail(env, "substr() takes integers behind the text");
	if (from < 0)
		from += (int64_t)count_chars(t.p, t.len) + 1;
	if (from < 1) /* a start before the text takes from the count, as in SQL */
		count = count == INT64_MAX || count < 0 ? count : count + from - 1;
	from = from < 1 ? 0 : from - 1;
	size_t a = char_offset(t.p, t.len, from);
	size_t b = count <= 0 ? a : a + char_offset(t.p + a, t.len - a, count);
	return piece(env, args, t.p + a, b - a, out);
}

static const uint8_t *find(const struct text *in, const uint8_t *from, const struct text *what)
{
	return memmem(from, (size_t)(in->p + in->len - from), what->p, what->len);
}

static size_t count_of(const struct text *in, const struct text *what)
{
	size_t n = 0;
	for (const uint8_t *p = in->p; (p = find(in, p, what)); p += what->len)
		n++;
	return n;
}

int expr_fn_replace(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out)
{
	char room[3][EXPR_NUMBER_MAX];
	struct text t, what, by;
	(void)n;
	int r = text_of(env, "replace", &args[0], room[0], &t);
	if (r == 0)
		r = text_of(env, "replace", &args[1], room[1], &what);
	if (r == 0)
		r = text_of(env, "replace", &args[2], room[2], &by);
	if (r != 0)
		return r;
	size_t times = what.len ? count_of(&t, &what) : 0;
	if (times == 0)
		return piece(env, args, t.p, t.len, out);
	if (by.len > what.len && times > env->st->max_record / (by.len - what.len))
		return expr_fail(env, "replace(): the text is longer than a record may be");
	uint8_t *to = begin_text(env, t.len - times * what.len + times * by.len, out);
	if (!to)
		return -ENOMEM;
	const uint8_t *p = t.p;
	for (const uint8_t *q; (q = find(&t, p, &what)); p = q + what.len) {
		to = mempcpy(to, p, (size_t)(q - p));
		to = mempcpy(to, by.p, by.len);
	}
	memcpy(to, p, (size_t)(t.p + t.len - p));
	return 0;
}

int expr_fn_split(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	char room[2][EXPR_NUMBER_MAX];
	struct text t, at;
	(void)n;
	int r = text_of(env, "split", &args[0], room[0], &t);
	if (r == 0)
		r = text_of(env, "split", &args[1], room[1], &at);
	if (r != 0)
		return r;
	if (at.len == 0)
		return expr_fail(env, "split(): the separator is empty");
	size_t parts = count_of(&t, &at) + 1;
	uint8_t *to = record_scratch(env->r, MP_HEAD_MAX * (parts + 1) + t.len);
	if (!to)
		return -ENOMEM;
	uint8_t *w = mp_write_array_head(to, (uint32_t)parts);
	const uint8_t *p = t.p, *end = t.p + t.len;
	for (const uint8_t *q; (q = find(&t, p, &at)); p = q + at.len)
		w = mp_write_str(w, p, (uint32_t)(q - p));
	w = mp_write_str(w, p, (uint32_t)(end - p));
	expr_val_field(out, to, (uint32_t)(w - to));
	return 0;
}

static int search(struct expr_env *env, const char *name, const struct text *t,
                  const struct expr_val *pattern, unsigned group, struct text *found)
{
	char why[128];
	size_t from, to;
	*found = (struct text){0};
	if (pattern->v.type != MP_STR)
		return expr_fail(env, "%s(): the pattern is no text", name);
	struct regex *x =
	        regex_cached((const char *)pattern->v.p, pattern->v.len, why, sizeof(why));
	if (!x)
		return expr_fail(env, "%s(): %s", name, why);
	int r = regex_match(x, t->p, t->len, group, &from, &to);
	if (r == REGEX_E_LIMIT)
		return expr_fail(env, "%s(): the pattern takes too many steps on this text", name);
	if (r == 0)
		*found = (struct text){t->p + from, to - from};
	return r < 0 ? r : 0;
}

int expr_fn_match(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	struct text t, found;
	(void)n;
	int r = text_of(env, "match", args, room, &t);
	if (r == 0)
		r = search(env, "match", &t, &args[1], 0, &found);
	if (r == 0)
		expr_val_bool(out, found.p != NULL);
	return r;
}

int expr_fn_capture(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	struct text t, found;
	int64_t group = 1;
	if (n > 2 && (!expr_val_int64(&args[2], &group) || group < 0 || group > 1000))
		return expr_fail(env, "capture() takes the number of a group");
	int r = text_of(env, "capture", args, room, &t);
	if (r == 0)
		r = search(env, "capture", &t, &args[1], (unsigned)group, &found);
	if (r != 0 || !found.p)
		return r;
	return piece(env, args, found.p, found.len, out);
}

/* Splits scheme://authority/path. False when @t is no such URL. */
static bool split_url(struct text t, struct text *authority, struct text *rest)
{
	trim(&t);
	const uint8_t *p = t.p, *end = t.p + t.len;
	if (p == end || (uint8_t)((*p | 32) - 'a') >= 26)
		return false;
	while (p < end && ((uint8_t)((*p | 32) - 'a') < 26 || (uint8_t)(*p - '0') < 10 ||
	                   *p == '+' || *p == '-' || *p == '.'))
		p++;
	if (end - p < 3 || memcmp(p, "://", 3) != 0)
		return false;
	p += 3;
	authority->p = p;
	while (p < end && *p != '/' && *p != '?' && *p != '#' && *p != '\\')
		p++;
	authority->len = (size_t)(p - authority->p);
	rest->p = p;
	rest->len = (size_t)(end - p);
	return true;
}

/* Without user and port. */
static struct text host_of(struct text a)
{
	const uint8_t *user = memrchr(a.p, '@', a.len);
	if (user) {
		a.len -= (size_t)(user + 1 - a.p);
		a.p = user + 1;
	}
	const uint8_t *from = a.p;
	if (a.len && a.p[0] == '[') {
		from = memchr(a.p, ']', a.len);
		if (!from)
			return (struct text){a.p, 0};
	}
	const uint8_t *port = memchr(from, ':', (size_t)(a.p + a.len - from));
	if (port)
		a.len = (size_t)(port - a.p);
	return a;
}

int expr_fn_host(struct expr_env *env, const struct expr_val *args, unsigned n,
                 struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	struct text t, authority, rest;
	(void)n;
	int r = text_of(env, "host", args, room, &t);
	if (r != 0 || !split_url(t, &authority, &rest))
		return r;
	struct text host = host_of(authority);
	struct expr_val v;
	expr_val_str(&v, host.p, host.len);
	return host.len ? change_case(env, "host", &v, 'A', out) : 0;
}

int expr_fn_urlpath(struct expr_env *env, const struct expr_val *args, unsigned n,
                    struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	struct text t, authority, rest;
	(void)n;
	int r = text_of(env, "urlpath", args, room, &t);
	if (r != 0 || !split_url(t, &authority, &rest))
		return r;
	size_t len = 0;
	while (len < rest.len && rest.p[len] != '?' && rest.p[len] != '#')
		len++;
	if (len == 0)
		expr_val_str(out, "/", 1);
	else
		expr_val_str(out, rest.p, len);
	return 0;
}

int expr_fn_tostring(struct expr_env *env, const struct expr_val *args, unsigned n,
                     struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	const struct mp *v = &args[0].v;
	struct text t;
	(void)n;
	if (v->type == MP_BOOL) {
		expr_val_str(out, v->b ? "true" : "false", v->b ? 4 : 5);
		return 0;
	}
	if (v->type == MP_BIN && mp_utf8_valid(v->p, v->len)) {
		expr_val_str(out, v->p, v->len);
		return 0;
	}
	int r = text_of(env, "tostring", args, room, &t);
	return r != 0 ? r : piece(env, args, t.p, t.len, out);
}

/* Decimal, with blanks around; an integer when it is written as one and fits. */
static bool parse_number(struct text t, struct expr_val *out)
{
	char text[64], *stop;
	trim(&t);
	if (t.len == 0 || t.len >= sizeof(text))
		return false;
	for (size_t i = 0; i < t.len; i++)
		if (!memchr("0123456789+-.eE", t.p[i], 15))
			return false;
	memcpy(text, t.p, t.len);
	text[t.len] = 0;
	errno = 0;
	long long i = strtoll(text, &stop, 10);
	if (!*stop && !errno) {
		expr_val_int(out, i);
		return true;
	}
	double d = strtod(text, &stop);
	if (*stop || !isfinite(d))
		return false;
	expr_val_float(out, d);
	return true;
}

int expr_fn_tonumber(struct expr_env *env, const struct expr_val *args, unsigned n,
                     struct expr_val *out)
{
	(void)env, (void)n;
	if (compare_is_number(&args[0].v))
		*out = args[0];
	else if (args[0].v.type == MP_STR)
		parse_number((struct text){args[0].v.p, args[0].v.len}, out);
	return 0;
}
