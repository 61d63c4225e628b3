/*
 * Step `convert`: makes fields have a type.
 *
 *     convert: {Size: int, price: float, at: {type: time, format: "%d/%b/%Y:%H:%M:%S %z"}}
 *
 * The one rule: a conversion is exact or it is refused, and then the record is rejected with the
 * field and the reason. 2^53+1 is no float, 3.5 is no int, "12 " is no number, 31 February is no
 * time.
 *
 *   int     text of digits with or without a sign, -2^63 to 2^64-1; floats without a fraction;
 * booleans float   decimal text (no hex, inf, nan), rounded to the nearest double; integers a
 * double can hold bool    true/false, yes/no, on/off, t/f, y/n, 1/0 in any case; the numbers 1 and
 * 0 string  the text of a number or boolean; binary that is UTF-8; maps and arrays as JSON time
 * text by `format` (times.h; none: RFC 3339), or a number of seconds; becomes `unit`: s (default),
 * ms, us, ns: an integer, rounded down; float: seconds; rfc3339: text in UTC
 *
 * A field that is not there, or nil, is left alone. Names may be paths.
 */
#include <inttypes.h>
#include <math.h>

#include "stages/stage.h"
#include "stages/text.h"
#include "stages/times.h"

enum convert_type {
	CONVERT_INT,
	CONVERT_FLOAT,
	CONVERT_BOOL,
	CONVERT_STRING,
	CONVERT_TIME,
	CONVERT_TYPES,
};

static const char *const convert_types[] = {"int", "float", "bool", "string", "time", NULL};

enum convert_unit {
	UNIT_S,
	UNIT_MS,
	UNIT_US,
	UNIT_NS,
	UNIT_FLOAT,
	UNIT_RFC3339,
};

static const char *const convert_units[] = {"s", "ms", "us", "ns", "float", "rfc3339", NULL};

struct convert_item {
	const char *field;
	size_t field_len;
	const char *format;
	int type;
	int unit;
};

struct convert_config {
	struct convert_item *items;
	size_t n;
};

struct convert {
	struct text text;
	struct buf out;
};

/* The options of the map form. */
static const struct option convert_item_options[] = {
        {.name = "type",
         .type = OPTION_ENUM,
         .offset = offsetof(struct convert_item, type),
         .required = true,
         .choices = convert_types,
         .help = "what the field shall be"},
        {.name = "format",
         .type = OPTION_STRING,
         .offset = offsetof(struct convert_item, format),
         .help = "time: how the text reads, in strftime's letters; default: RFC 3339"},
        {.name = "unit",
         .type = OPTION_ENUM,
         .offset = offsetof(struct convert_item, unit),
         .def = "s",
         .choices = convert_units,
         .help = "time: what the field becomes"},
        OPTION_END,
};

static void convert_check_scalar(struct convert_item *it, const struct node *v,
                                 struct complaints *c)
{
	for (int i = 0; i < CONVERT_TYPES; i++)
		if (strcmp(v->text, convert_types[i]) == 0) {
			it->type = i;
			return;
		}
	const char *near = option_nearest(v->text, convert_types, CONVERT_TYPES);
	complain(c, v, "%s: expected int, float, bool, string or time, got \"%s\"%s%s%s", it->field,
	         v->text, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static void convert_check_item(struct convert_item *it, const struct node *v, struct complaints *c)
{
	if (v->kind == NODE_SCALAR) {
		convert_check_scalar(it, v, c);
		return;
	}
	if (v->kind != NODE_MAP) {
		complain(c, v, "%s: expected a type or a map, got %s", it->field, node_describe(v));
		return;
	}
	option_parse(convert_item_options, v, NULL, it, c);
	char bad = it->format ? times_unknown(it->format) : 0;
	if (bad)
		complain(c, node_get(v, "format"), "format: %%%c is not known", bad);
	if (it->type != CONVERT_TIME && (node_get(v, "format") || node_get(v, "unit")))
		complain(c, v, "%s: format and unit are for type time", it->field);
}

static void convert_check(void *config, const struct node *node, struct complaints *c)
{
	struct convert_config *cf = config;
	if (node->kind != NODE_MAP || !node->n) {
		complain(c, node, "convert: expected a map of fields and types, got %s",
		         node_describe(node));
		return;
	}
	cf->items = calloc(node->n, sizeof(*cf->items));
	if (!cf->items) {
		complain(c, node, "convert: out of memory");
		return;
	}
	for (; cf->n < node->n; cf->n++) {
		const struct node *k = node->items[2 * cf->n];
		cf->items[cf->n].field = k->text;
		cf->items[cf->n].field_len = k->len;
		convert_check_item(&cf->items[cf->n], node->items[2 * cf->n + 1], c);
	}
}

static void convert_config_free(void *config)
{
	struct convert_config *cf = config;
	free(cf->items);
}

static int convert_open(struct stage *st)
{
	struct convert *cv = st->state;
	return text_open(&cv->text, st->max_record);
}

static void convert_close(struct stage *st)
{
	struct convert *cv = st->state;
	text_close(&cv->text);
	buf_deinit(&cv->out);
}

/* Each conversion makes *@v the new value, or says why not (static text; NULL: done). */

static const char *convert_int_text(struct mp *v)
{
	const uint8_t *p = v->p, *end = p + v->len;
	bool minus = p < end && *p == '-';
	uint64_t u = 0;
	p += p < end && (*p == '-' || *p == '+');
	if (p == end)
		return "it is no whole number";
	for (; p < end; p++) {
		if (*p < '0' || *p > '9')
			return "it is no whole number";
		if (__builtin_mul_overflow(u, 10, &u) || __builtin_add_overflow(u, *p - '0', &u))
			return "it is beyond 64 bits";
	}
	if (minus && u > (uint64_t)INT64_MAX + 1)
		return "it is beyond 64 bits";
	if (minus && u)
		*v = (struct mp){.type = MP_INT, .i = -(int64_t)(u - 1) - 1};
	else
		*v = (struct mp){.type = MP_UINT, .u = u};
	return NULL;
}

static const char *convert_int(struct mp *v)
{
	switch (v->type) {
	case MP_INT:
	case MP_UINT:
		return NULL;
	case MP_BOOL:
		*v = (struct mp){.type = MP_UINT, .u = v->b};
		return NULL;
	case MP_FLOAT:
		if (!(v->d >= -0x1p63 && v->d < 0x1p64))
			return "it is beyond 64 bits";
		if (v->d != trunc(v->d))
			return "it has a fraction";
		if (v->d < 0)
			*v = (struct mp){.type = MP_INT, .i = (int64_t)v->d};
		else
			*v = (struct mp){.type = MP_UINT, .u = (uint64_t)v->d};
		return NULL;
	case MP_STR:
		return convert_int_text(v);
	default:
		return "it is neither text nor a number";
	}
}

static size_t convert_digits(const char *s, size_t n)
{
	size_t i = 0;
	while (i < n && s[i] >= '0' && s[i] <= '9')
		i++;
	return i;
}

/* [+-] digits [. digits] [e [+-] digits], at least one digit in front of the e. */
static bool convert_is_decimal(const char *s, size_t n)
{
	size_t i = n && (*s == '-' || *s == '+');
	size_t whole = convert_digits(s + i, n - i), part = 0;
	i += whole;
	if (i < n && s[i] == '.') {
		part = convert_digits(s + i + 1, n - i - 1);
		i += 1 + part;
	}
	if (!whole && !part)
		return false;
	if (i < n && (s[i] == 'e' || s[i] == 'E')) {
		i++;
		i += i < n && (s[i] == '-' || s[i] == '+');
		size_t power = convert_digits(s + i, n - i);
		if (!power)
			return false;
		i += power;
	}
	return i == n;
}

static const char *convert_float_text(struct mp *v)
{
	char s[512];
	if (v->len >= sizeof(s))
		return "it is too long for a number";
	memcpy(s, v->p, v->len);
	s[v->len] = 0;
	if (!convert_is_decimal(s, v->len))
		return "it is no number";
	double d = strtod(s, NULL);
	if (!isfinite(d))
		return "it is beyond what a float can hold";
	*v = (struct mp){.type = MP_FLOAT, .d = d};
	return NULL;
}

static const char *convert_float(struct mp *v)
{
	double d = 0;
	switch (v->type) {
	case MP_FLOAT:
		return NULL;
	case MP_INT:
		d = (double)v->i;
		if (d < -0x1p63 || (int64_t)d != v->i)
			return "a float cannot hold it exactly";
		break;
	case MP_UINT:
		d = (double)v->u;
		if (d >= 0x1p64 || (uint64_t)d != v->u)
			return "a float cannot hold it exactly";
		break;
	case MP_STR:
		return convert_float_text(v);
	default:
		return "it is neither text nor a number";
	}
	*v = (struct mp){.type = MP_FLOAT, .d = d};
	return NULL;
}

static const char *convert_bool(struct mp *v)
{
	static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "f",
	                                    "t",     "n",    "y",  "0",   "1",   NULL};
	if (v->type == MP_BOOL)
		return NULL;
	if (v->type == MP_UINT && v->u <= 1) {
		*v = (struct mp){.type = MP_BOOL, .b = v->u};
		return NULL;
	}
	for (int i = 0; v->type == MP_STR && words[i]; i++)
		if (strlen(words[i]) == v->len &&
		    strncasecmp(words[i], (const char *)v->p, v->len) == 0) {
			*v = (struct mp){.type = MP_BOOL, .b = i & 1};
			return NULL;
		}
	return "it is neither true nor false";
}

/* @t as @unit. NULL, or why not. The text of rfc3339 goes to @text. */
static const char *convert_unit(const struct times *t, int unit, char text[40], struct mp *v)
{
	static const int64_t per_second[] = {
	        [UNIT_S] = 1, [UNIT_MS] = 1000, [UNIT_US] = 1000000, [UNIT_NS] = 1000000000};
	int64_t x;
	if (unit == UNIT_FLOAT) {
		*v = (struct mp){.type = MP_FLOAT, .d = (double)t->sec + t->nsec / 1e9};
		return NULL;
	}
	if (unit == UNIT_RFC3339) {
		size_t n = times_rfc3339(text, t);
		*v = (struct mp){.type = MP_STR, .p = (const uint8_t *)text, .len = (uint32_t)n};
		return n ? NULL : "its year has no four digits";
	}
	if (__builtin_mul_overflow(t->sec, per_second[unit], &x) ||
	    __builtin_add_overflow(x, t->nsec / (1000000000 / per_second[unit]), &x))
		return "it is too far away for 64 bits of that unit";
	if (x < 0)
		*v = (struct mp){.type = MP_INT, .i = x};
	else
		*v = (struct mp){.type = MP_UINT, .u = (uint64_t)x};
	return NULL;
}

static const char *convert_time(const struct convert_item *it, char text[40], struct mp *v)
{
	struct times t = {0};
	switch (v->type) {
	case MP_STR:
		switch (times_parse(it->format, (const char *)v->p, v->len, &t)) {
		case TIMES_E_OK:
			break;
		case TIMES_E_RANGE:
			return "there is no such time";
		default:
			return "it does not read as the format says";
		}
		break;
	case MP_INT:
	case MP_UINT:
		if (v->type == MP_UINT && v->u > INT64_MAX)
			return "it is too far away";
		t.sec = v->i;
		break;
	case MP_FLOAT:
		if (!(fabs(v->d) < 1e15))
			return "it is too far away";
		t.sec = (int64_t)floor(v->d);
		t.nsec = (int32_t)((v->d - floor(v->d)) * 1e9);
		break;
	default:
		return "it is neither text nor a number";
	}
	return convert_unit(&t, it->unit, text, v);
}

/* Text of any value; lies in the state. */
static int convert_string(struct convert *cv, const uint8_t *val, uint32_t len, struct mp *v,
                          const char **why)
{
	if (v->type == MP_STR)
		return 0;
	cv->out.len = 0;
	int r = text_add(&cv->text, val, len, &cv->out, why);
	*v = (struct mp){.type = MP_STR, .p = cv->out.p, .len = (uint32_t)cv->out.len};
	return r;
}

static int convert_value(struct stage *st, const struct convert_item *it, const uint8_t *val,
                         uint32_t len, char text[40], struct mp *v)
{
	const char *why = NULL;
	int r = 0;
	switch (it->type) {
	case CONVERT_INT:
		why = convert_int(v);
		break;
	case CONVERT_FLOAT:
		why = convert_float(v);
		break;
	case CONVERT_BOOL:
		why = convert_bool(v);
		break;
	case CONVERT_TIME:
		why = convert_time(it, text, v);
		break;
	default:
		r = convert_string(st->state, val, len, v, &why);
		if (r == 0)
			why = NULL;
	}
	if (r < 0)
		return r;
	if (!why)
		return 0;
	struct mp old = record_value(val, len);
	int shown = old.type == MP_STR && mp_utf8_valid(old.p, old.len) ? (int)old.len : 0;
	return stage_say(st, STAGE_E_REJECT, "field %s cannot be %s %s: %s%s%.*s", it->field,
	                 it->type == CONVERT_INT ? "an" : "a", convert_types[it->type], why,
	                 shown ? ": " : "", shown < 60 ? shown : 0, (const char *)old.p);
}

static int convert_field(struct stage *st, struct record *r, const struct convert_item *it)
{
	uint32_t len;
	char text[40];
	const uint8_t *val = record_path(r, it->field, it->field_len, &len);
	struct mp v = record_value(val, val ? len : 0);
	if (v.type == MP_NIL)
		return 0;
	int e = convert_value(st, it, val, len, text, &v);
	if (e)
		return e;
	size_t need = MP_HEAD_MAX + (v.type == MP_STR ? v.len : 0);
	uint8_t *p = record_scratch(r, need);
	if (!p)
		return -ENOMEM;
	uint8_t *end = mp_write(p, &v);
	e = record_set_path(r, it->field, it->field_len, p, (uint32_t)(end - p));
	return e > 0 ? stage_say(st, STAGE_E_REJECT, "no way to %s", it->field) : e;
}

static int convert_transform(struct stage *st, struct record *r)
{
	const struct convert_config *cf = st->config;
	for (size_t i = 0; i < cf->n; i++) {
		int e = convert_field(st, r, &cf->items[i]);
		if (e)
			return e;
	}
	return STAGE_OK;
}

const struct stage_ops step_convert = {
        .name = "convert",
        .kind = STAGE_STEP,
        .help = "make fields have a type: int, float, bool, string, time",
        .example = "- convert:\n"
                   "    Size: int\n"
                   "    at: {type: time, format: \"%d/%b/%Y:%H:%M:%S %z\"}\n",
        .config_size = sizeof(struct convert_config),
        .state_size = sizeof(struct convert),
        .check = convert_check,
        .config_free = convert_config_free,
        .open = convert_open,
        .close = convert_close,
        .transform = convert_transform,
};
