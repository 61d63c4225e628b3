/*
 * What sluicectl does without a daemon: checking a configuration, drawing its graph, and the
 * reference of all that can stand in one.
 *
 * Both use the daemon's own code, so they cannot disagree with it: the configuration is loaded as
 * the daemon would load it, the reference is printed from the option tables that parse it.
 */
#include <stdio.h>

#include "daemon/config.h"
#include "daemon/ctl.h"
#include "daemon/report.h"

/* ---- check ---- */

static void print_errors_json(const char *file, const struct complaints *c)
{
	_cleanup_(buf_deinit) struct buf out = {0};
	struct json j = json_on(&out);
	const char *p = (const char *)c->text.p, *end = p ? p + c->text.len : p;
	json_open(&j, NULL, '{');
	json_bool(&j, "ok", c->count == 0);
	json_text(&j, "file", file);
	json_open(&j, "errors", '[');
	while (p && p < end) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		size_t n = nl ? (size_t)(nl - p) : (size_t)(end - p);
		json_text_max(&j, NULL, p, n);
		p += n + 1;
	}
	json_close(&j, ']');
	json_close(&j, '}');
	buf_add_byte(&out, '\n');
	ctl_out(&out);
}

int ctl_check(struct ctl *ctl, int argc, char **argv)
{
	const char *file = argc > 0 ? argv[0] : ctl->config ? ctl->config : config_default_path();
	struct complaints c = {0};
	struct config *cfg = config_load(file, &c);
	int r = cfg ? CTL_FINE : CTL_NO;
	if (ctl->json)
		print_errors_json(file, &c);
	else if (cfg)
		printf("%s: fine: %u stages, %u edges, %u pipeline%s\n", file, cfg->n_stages - 1,
		       cfg->n_edges - 1, cfg->n_pipelines, cfg->n_pipelines == 1 ? "" : "s");
	else
		ctl_out(&c.text);
	config_free(cfg);
	buf_deinit(&c.text);
	return r;
}

int ctl_graph_of(struct ctl *ctl, const char *file)
{
	struct complaints c = {0};
	struct config *cfg = config_load(file, &c);
	if (!cfg) {
		ctl_out(&c.text);
		buf_deinit(&c.text);
		return CTL_NO;
	}
	ctl->in.len = 0;
	struct json j = json_on(&ctl->in);
	report_graph(cfg, &j);
	config_free(cfg);
	buf_deinit(&c.text);
	if (j.error || buf_add_byte(&ctl->in, '\0') < 0)
		return CTL_WRONG;
	ctl->line = ctl->in.len;
	return doc_parse(&ctl->store, (const char *)ctl->in.p, ctl->in.len - 1, &ctl->answer) == 0
	               ? CTL_FINE
	               : CTL_WRONG;
}

/* ---- stages ---- */

static const char *kind_word(enum stage_kind k)
{
	return k == STAGE_PRODUCER ? "producer" : k == STAGE_STEP ? "step" : "consumer";
}

/* A stage or a codec, as both are shown. */
struct entry {
	const char *kind, *name, *help, *example;
	const struct option *options;
	const char *bare;
};

static struct entry of_stage(const struct stage_ops *o)
{
	return (struct entry){kind_word(o->kind), o->name,    o->help,
	                      o->example,         o->options, o->bare};
}

static struct entry of_codec(const struct codec_ops *o)
{
	return (struct entry){"codec", o->name, o->help, NULL, o->options, NULL};
}

/* Calls @each for all of that name; NULL: for all. How many there were. */
static unsigned for_each(const char *name, void (*each)(struct entry, void *), void *arg)
{
	unsigned n = 0;
	for (enum stage_kind k = STAGE_PRODUCER; k <= STAGE_CONSUMER; k++)
		for (size_t i = 0; stage_all[i]; i++)
			if (stage_all[i]->kind == k &&
			    (!name || strcmp(stage_all[i]->name, name) == 0)) {
				each(of_stage(stage_all[i]), arg);
				n++;
			}
	for (size_t i = 0; codec_all[i]; i++)
		if (!name || strcmp(codec_all[i]->name, name) == 0) {
			each(of_codec(codec_all[i]), arg);
			n++;
		}
	return n;
}

static void row(struct entry e, void *arg)
{
	struct table *t = arg;
	table_cell(t, TABLE_PLAIN, "%s", e.kind);
	table_cell(t, TABLE_PLAIN, "%s", e.name);
	table_cell(t, TABLE_PLAIN, "%s", e.help ? e.help : "");
}

static void details(struct entry e, void *arg)
{
	struct buf *out = arg;
	if (out->len)
		buf_add_byte(out, '\n');
	buf_printf(out, "%s %s: %s\n", e.kind, e.name, e.help ? e.help : "");
	if (e.options && e.options->name) {
		buf_add_byte(out, '\n');
		option_print_text(e.options, out);
	}
	if (e.bare)
		buf_printf(out, "\nIn short `- %s: VALUE` for `- %s: {%s: VALUE}`.\n", e.name,
		           e.name, e.bare);
	if (e.example)
		buf_printf(out, "\nExample:\n\n%s", e.example);
}

static void details_json(struct entry e, void *arg)
{
	struct json *j = arg;
	_cleanup_(buf_deinit) struct buf options = {0};
	if (e.options)
		option_print_json(e.options, &options);
	json_open(j, NULL, '{');
	json_text(j, "kind", e.kind);
	json_text(j, "name", e.name);
	json_text(j, "help", e.help);
	json_text(j, "example", e.example);
	json_text(j, "bare", e.bare);
	if (options.len)
		json_raw(j, "options", options.p, options.len);
	else
		json_raw(j, "options", "[]", 2);
	json_close(j, '}');
}

static int stages_json(const char *name)
{
	_cleanup_(buf_deinit) struct buf out = {0};
	struct json j = json_on(&out);
	json_open(&j, NULL, '{');
	json_open(&j, "types", '[');
	unsigned n = for_each(name, details_json, &j);
	json_close(&j, ']');
	json_close(&j, '}');
	buf_add_byte(&out, '\n');
	ctl_out(&out);
	return n ? CTL_FINE : CTL_NO;
}

static void add_name(struct entry e, void *arg)
{
	buf_add(arg, &e.name, sizeof(e.name));
}

static int no_such_type(const char *name)
{
	_cleanup_(buf_deinit) struct buf names = {0};
	unsigned n = for_each(NULL, add_name, &names);
	const char *near = option_nearest(name, (const char *const *)(void *)names.p, n);
	ctl_say("there is no type \"%s\"%s%s%s", name,
	        near ? ": did you mean \"" : ": see sluicectl stages", near ? near : "",
	        near ? "\"?" : "");
	return CTL_NO;
}

int ctl_stages(struct ctl *ctl, int argc, char **argv)
{
	static const char *const titles[] = {"KIND", "TYPE", "WHAT IT DOES"};
	_cleanup_(buf_deinit) struct buf out = {0};
	const char *name = argc > 0 ? argv[0] : NULL;
	if (ctl->json)
		return stages_json(name);
	if (name) {
		if (for_each(name, details, &out) == 0)
			return no_such_type(name);
	} else {
		struct table t = {0};
		table_columns(&t, titles, 3);
		for_each(NULL, row, &t);
		table_print(&t, ctl->color, table_terminal_width(1), &out);
		table_deinit(&t);
	}
	ctl_out(&out);
	return CTL_FINE;
}
