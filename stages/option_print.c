/*
 * Option tables as text: what `sluicectl stages NAME` shows and the reference manual is made of.
 *
 * Text is in columns (name, type, default, help); options of a map within the stage's map are
 * written "retry.base". JSON is one list of objects {"name", "type", "default", "required", "help",
 * ...}.
 */
#include "stages/option.h"

static const char *const type_names[] = {
        [OPTION_BOOL] = "true or false", [OPTION_INT] = "number",
        [OPTION_FLOAT] = "number",       [OPTION_STRING] = "string",
        [OPTION_SIZE] = "size",          [OPTION_DURATION] = "duration",
        [OPTION_ENUM] = "choice",        [OPTION_STRINGS] = "string or list",
        [OPTION_NODE] = "see below",     [OPTION_SUB] = "map",
};

static void add_choices(const struct option *o, struct buf *out, const char *between)
{
	for (size_t i = 0; o->choices && o->choices[i]; i++)
		buf_printf(out, "%s%s", i ? between : "", o->choices[i]);
}

static void print_text(const struct option *table, const char *prefix, struct buf *out)
{
	for (const struct option *o = table; o && o->name; o++) {
		char name[128];
		snprintf(name, sizeof(name), "%s%s", prefix, o->name);
		if (o->type == OPTION_SUB) {
			buf_printf(out, "%-22s %-16s %-12s %s\n", name, "map", "",
			           o->help ? o->help : "");
			snprintf(name, sizeof(name), "%s%s.", prefix, o->name);
			print_text(o->sub, name, out);
			continue;
		}
		buf_printf(out, "%-22s %-16s %-12s %s", name, type_names[o->type],
		           o->required         ? "(required)"
		           : o->def && *o->def ? o->def
		                               : "-",
		           o->help ? o->help : "");
		if (o->type == OPTION_ENUM) {
			buf_add_str(out, " (");
			add_choices(o, out, " | ");
			buf_add_str(out, ")");
		}
		buf_add_byte(out, '\n');
	}
}

void option_print_text(const struct option *table, struct buf *out)
{
	print_text(table, "", out);
}

static void json_string(struct buf *out, const char *s)
{
	buf_add_byte(out, '"');
	for (; *s; s++)
		if (*s == '"' || *s == '\\')
			buf_printf(out, "\\%c", *s);
		else if ((unsigned char)*s < 0x20)
			buf_printf(out, "\\u%04x", (unsigned char)*s);
		else
			buf_add_byte(out, (uint8_t)*s);
	buf_add_byte(out, '"');
}

static void json_member(struct buf *out, const char *name, const char *value)
{
	buf_printf(out, ",\"%s\":", name);
	if (value)
		json_string(out, value);
	else
		buf_add_str(out, "null");
}

static void json_choices(const struct option *o, struct buf *out)
{
	buf_add_str(out, ",\"choices\":[");
	for (size_t i = 0; o->choices[i]; i++) {
		if (i)
			buf_add_byte(out, ',');
		json_string(out, o->choices[i]);
	}
	buf_add_byte(out, ']');
}

void option_print_json(const struct option *table, struct buf *out)
{
	buf_add_byte(out, '[');
	for (const struct option *o = table; o && o->name; o++) {
		if (o != table)
			buf_add_byte(out, ',');
		buf_add_str(out, "{\"name\":");
		json_string(out, o->name);
		json_member(out, "type", type_names[o->type]);
		json_member(out, "default", o->def);
		buf_printf(out, ",\"required\":%s", o->required ? "true" : "false");
		if (o->type != OPTION_SUB && (o->min != 0 || o->max != 0))
			buf_printf(out, ",\"min\":%.15g", o->min);
		if (o->type != OPTION_SUB && o->max > o->min && o->max < 1e300)
			buf_printf(out, ",\"max\":%.15g", o->max);
		if (o->type == OPTION_ENUM)
			json_choices(o, out);
		if (o->type == OPTION_SUB) {
			buf_add_str(out, ",\"options\":");
			option_print_json(o->sub, out);
		}
		json_member(out, "help", o->help);
		buf_add_byte(out, '}');
	}
	buf_add_byte(out, ']');
}
