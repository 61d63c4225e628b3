/*
 * Option tables: a stage says what it can be told, this file reads it, checks it and complains.
 *
 * The hard idea: defaults take the same way as what people write. A default is text; it becomes a
 * node and goes through the parser of its type, so that a default can never be something that
 * nobody could write, and the manual shows it as it is. A default that does not parse is a bug and
 * asserts.
 *
 * Invariants
 *  - after option_parse every field holds a valid value, a default, or zero: a wrong value leaves
 * the default behind, so that later checks can go on and find more;
 *  - each mistake is said once, at its own place.
 *
 * A complaint is one line: control characters in it are written as escapes.
 */
#include "stages/option.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/err.h"

enum {
	COMPLAINTS_MAX = 1000, /* lines; more are only counted */
	NEAREST_MAX = 64,      /* characters of a word that is compared */
};

static void add_line(struct buf *out, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] == '\n')
			buf_add_str(out, "\\n");
		else if (p[i] < 0x20 || p[i] == 0x7f)
			buf_printf(out, "\\x%02x", p[i]);
		else
			buf_add_byte(out, p[i]);
	buf_add_byte(out, '\n');
}

void complain(struct complaints *c, const struct node *n, const char *fmt, ...)
{
	if (n && n->bad)
		return;
	if (c->count++ >= COMPLAINTS_MAX)
		return;
	_cleanup_(buf_deinit) struct buf line = {0};
	if (n)
		buf_printf(&line, "%s:%u:%u: ", n->file ? n->file : "-", n->line, n->column);
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	buf_add_str(&line, text);
	add_line(&c->text, line.p, line.len);
}

/* Optimal string alignment: insert, delete, replace, swap two neighbours (G. Navarro, "A guided
 * tour to approximate string matching", 2001). Both at most NEAREST_MAX characters. */
static size_t distance(const char *a, size_t na, const char *b, size_t nb)
{
	size_t rows[3][NEAREST_MAX + 1];
	for (size_t j = 0; j <= nb; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t *row = rows[i % 3], *up = rows[(i - 1) % 3], *up2 = rows[(i + 1) % 3];
		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t best = up[j - 1] + (a[i - 1] != b[j - 1]);
			if (up[j] + 1 < best)
				best = up[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    up2[j - 2] + 1 < best)
				best = up2[j - 2] + 1;
			row[j] = best;
		}
	}
	return rows[na % 3][nb];
}

const char *option_nearest(const char *word, const char *const *names, size_t n)
{
	const char *best = NULL;
	size_t len = strlen(word), best_d = 3;
	if (len > NEAREST_MAX)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		size_t other = strlen(names[i]);
		if (other > NEAREST_MAX)
			continue;
		size_t d = distance(word, len, names[i], other);
		if (d < best_d && 2 * d < len) {
			best = names[i];
			best_d = d;
		}
	}
	return best;
}

static bool expected(const struct option *o, const struct node *n, const char *what,
                     struct complaints *c)
{
	if (n->kind == NODE_SCALAR && n->scalar != NODE_NULL)
		complain(c, n, "%s: expected %s, got \"%s\"", o->name, what, n->text);
	else
		complain(c, n, "%s: expected %s, got %s", o->name, what, node_describe(n));
	return false;
}

static void print_limit(char *out, size_t size, enum option_type type, double v)
{
	static const char *const bytes[] = {"", "KiB", "MiB", "GiB", "TiB"};
	unsigned u = 0;
	if (type == OPTION_SIZE) {
		for (; u < 4 && v >= 1024 && fmod(v, 1024) == 0; u++)
			v /= 1024;
		snprintf(out, size, "%.0f%s", v, bytes[u]);
	} else if (type == OPTION_DURATION) {
		if (v >= 86400 && fmod(v, 86400) == 0)
			snprintf(out, size, "%.0fd", v / 86400);
		else if (v >= 3600 && fmod(v, 3600) == 0)
			snprintf(out, size, "%.0fh", v / 3600);
		else if (v >= 1 || v == 0)
			snprintf(out, size, "%.0fs", v);
		else if (v >= 0.001)
			snprintf(out, size, "%.0fms", v * 1e3);
		else
			snprintf(out, size, "%.0fus", v * 1e6);
	} else {
		snprintf(out, size, "%.15g", v);
	}
}

/* A maximum that is not above the minimum is none. */
static bool in_range(const struct option *o, const struct node *n, double v, struct complaints *c)
{
	char min[40], max[40];
	if (o->min == 0 && o->max == 0)
		return true;
	bool open = o->max < o->min || isinf(o->max);
	if (v >= o->min && (open || v <= o->max))
		return true;
	print_limit(min, sizeof(min), o->type, o->min);
	print_limit(max, sizeof(max), o->type, o->max);
	if (open)
		complain(c, n, "%s: %s is too small: at least %s", o->name, n->text, min);
	else
		complain(c, n, "%s: %s is out of range: %s to %s", o->name, n->text, min, max);
	return false;
}

static bool parse_bool(const struct option *o, const struct node *n, bool *out,
                       struct complaints *c)
{
	static const char *const yes[] = {"yes", "on", "Yes", "On", "YES", "ON"};
	if (n->kind != NODE_SCALAR || n->scalar != NODE_BOOL) {
		for (size_t i = 0; n->kind == NODE_SCALAR && i < 6; i++)
			if (strcmp(n->text, yes[i]) == 0)
				return expected(o, n, "true or false (here: true)", c);
		return expected(o, n, "true or false", c);
	}
	*out = n->b;
	return true;
}

static bool parse_int(const struct option *o, const struct node *n, int64_t *out,
                      struct complaints *c)
{
	if (n->kind != NODE_SCALAR || n->scalar != NODE_INT)
		return expected(o, n, "a whole number", c);
	if (n->u > INT64_MAX) {
		complain(c, n, "%s: %s is too large", o->name, n->text);
		return false;
	}
	if (!in_range(o, n, (double)n->i, c))
		return false;
	*out = n->i;
	return true;
}

static bool parse_float(const struct option *o, const struct node *n, double *out,
                        struct complaints *c)
{
	if (n->kind != NODE_SCALAR || (n->scalar != NODE_INT && n->scalar != NODE_FLOAT) ||
	    !isfinite(n->d))
		return expected(o, n, "a number", c);
	if (!in_range(o, n, n->d, c))
		return false;
	*out = n->d;
	return true;
}

static bool parse_string(const struct option *o, const struct node *n, const char **out,
                         struct complaints *c)
{
	if (n->kind != NODE_SCALAR || n->scalar == NODE_NULL)
		return expected(o, n, "a string", c);
	if (n->scalar != NODE_STRING)
		complain(c, n, "%s: expected a string, got %s (%s): put it in quotes", o->name,
		         node_describe(n), n->text);
	else if (n->len == 0 && !(o->def && !*o->def))
		complain(c, n, "%s: must not be empty", o->name);
	else if (strlen(n->text) != n->len)
		complain(c, n, "%s: a NUL character cannot stand here", o->name);
	else {
		*out = n->text;
		return true;
	}
	return false;
}

static bool parse_enum(const struct option *o, const struct node *n, int *out, struct complaints *c)
{
	size_t count = 0;
	while (o->choices[count])
		count++;
	if (n->kind != NODE_SCALAR)
		return expected(o, n, "a word", c);
	for (size_t i = 0; i < count; i++)
		if (strcmp(n->text, o->choices[i]) == 0) {
			*out = (int)i;
			return true;
		}
	_cleanup_(buf_deinit) struct buf all = {0};
	for (size_t i = 0; i < count; i++)
		buf_printf(&all, "%s%s",
		           i == 0          ? ""
		           : i + 1 < count ? ", "
		                           : " or ",
		           o->choices[i]);
	const char *near = option_nearest(n->text, o->choices, count);
	complain(c, n, "%s: expected %.*s, got \"%s\"%s%s%s", o->name, (int)all.len,
	         (const char *)all.p, n->text, near ? ": did you mean \"" : "", near ? near : "",
	         near ? "\"?" : "");
	return false;
}

static bool parse_size(const struct option *o, const struct node *n, uint64_t *out,
                       struct complaints *c)
{
	uint64_t v;
	if (!option_size(n, &v, c) || !in_range(o, n, (double)v, c))
		return false;
	*out = v;
	return true;
}

static bool parse_duration(const struct option *o, const struct node *n, int64_t *out,
                           struct complaints *c)
{
	int64_t v;
	if (!option_duration(n, &v, c) || !in_range(o, n, (double)v / 1e9, c))
		return false;
	*out = v;
	return true;
}

static bool parse_strings(const struct node *n, struct strings *out, struct complaints *c)
{
	struct strings s;
	if (!option_strings(n, &s, c))
		return false;
	free(out->v);
	*out = s;
	return true;
}

/* Stores the value of @n at @at. False after a complaint; *at is untouched then. */
static bool parse_value(const struct option *o, const struct node *n, void *at,
                        struct complaints *c)
{
	if (n->bad)
		return false;
	switch (o->type) {
	case OPTION_BOOL:
		return parse_bool(o, n, at, c);
	case OPTION_INT:
		return parse_int(o, n, at, c);
	case OPTION_FLOAT:
		return parse_float(o, n, at, c);
	case OPTION_STRING:
		return parse_string(o, n, at, c);
	case OPTION_SIZE:
		return parse_size(o, n, at, c);
	case OPTION_DURATION:
		return parse_duration(o, n, at, c);
	case OPTION_ENUM:
		return parse_enum(o, n, at, c);
	case OPTION_STRINGS:
		return parse_strings(n, at, c);
	case OPTION_NODE:
		*(const struct node **)at = n;
		return true;
	case OPTION_SUB:
		break;
	}
	return false;
}

static void set_default(const struct option *o, void *at)
{
	_cleanup_(buf_deinit) struct buf text = {0};
	if (!o->def || o->type == OPTION_NODE)
		return;
	struct complaints c = {0};
	struct node n = {
	        .kind = NODE_SCALAR,
	        .quoted = o->type == OPTION_STRING || o->type == OPTION_STRINGS,
	        .text = (char *)o->def,
	        .len = strlen(o->def),
	        .file = "default",
	};
	node_resolve(&n);
	bool good = parse_value(o, &n, at, &c);
	buf_deinit(&c.text);
	assert(good && "an option's default must be something one can write");
}

static bool known(const struct option *table, const char *const *ignore, const char *key)
{
	for (; table && table->name; table++)
		if (strcmp(table->name, key) == 0)
			return true;
	for (; ignore && *ignore; ignore++)
		if (strcmp(*ignore, key) == 0)
			return true;
	return false;
}

static void unknown_key(const struct option *table, const char *const *ignore,
                        const struct node *key, struct complaints *c)
{
	const char *names[256];
	size_t n = 0;
	for (; table && table->name && n < 256; table++)
		names[n++] = table->name;
	for (; ignore && *ignore && n < 256; ignore++)
		names[n++] = *ignore;
	const char *near = option_nearest(key->text, names, n);
	if (near) {
		complain(c, key, "unknown key \"%s\": did you mean \"%s\"?", key->text, near);
		return;
	}
	_cleanup_(buf_deinit) struct buf all = {0};
	for (size_t i = 0; i < n; i++)
		buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
	complain(c, key, "unknown key \"%s\": known here: %.*s", key->text, (int)all.len,
	         all.p ? (const char *)all.p : "");
}

static void check_keys(const struct option *table, const struct node *map,
                       const char *const *ignore, struct complaints *c)
{
	for (size_t i = 0; i < map->n; i++)
		if (!known(table, ignore, map->items[2 * i]->text))
			unknown_key(table, ignore, map->items[2 * i], c);
}

static bool is_nothing(const struct node *n)
{
	return n && n->kind == NODE_SCALAR && n->scalar == NODE_NULL;
}

static void parse_one(const struct option *o, const struct node *n, void *at, struct complaints *c)
{
	if (o->type == OPTION_SUB) {
		option_parse(o->sub, n, NULL, at, c);
		return;
	}
	set_default(o, at);
	if (n)
		parse_value(o, n, at, c);
}

void option_parse(const struct option *table, const struct node *map, const char *const *ignore,
                  void *config, struct complaints *c)
{
	const struct node *place = map;
	bool empty = is_nothing(map);
	if (map && map->kind != NODE_MAP) {
		if (!empty)
			complain(c, map, "expected a map, got %s", node_describe(map));
		map = NULL;
	}
	if (map)
		check_keys(table, map, ignore, c);
	for (const struct option *o = table; o && o->name; o++) {
		const struct node *n = node_get(map, o->name);
		parse_one(o, n, (char *)config + o->offset, c);
		if (!n && o->required && (map || empty))
			complain(c, place, "missing key \"%s\": %s", o->name,
			         o->help ? o->help : "");
	}
}

void option_free(const struct option *table, void *config)
{
	for (; table && table->name; table++) {
		void *at = (char *)config + table->offset;
		if (table->type == OPTION_SUB) {
			option_free(table->sub, at);
		} else if (table->type == OPTION_STRINGS) {
			struct strings *s = at;
			free(s->v);
			*s = (struct strings){0};
		}
	}
}
