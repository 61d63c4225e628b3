/*
 * The configuration: files, sections, life and death of struct config.
 *
 * The hard idea: all files become one tree before anything is read from it. conf.d/<*.yaml> beside
 * the main file is merged in the order of the names, section by section and key by key; a key that
 * is there already is an error that names both places, so no file can silently override another.
 * From then on nobody knows about files, except that each node remembers where it stands.
 *
 * Where things lie when nothing is said: root uses /run/sluice and /var/lib/sluice; anybody else
 * XDG_RUNTIME_DIR (or /tmp/sluice-UID) and XDG_STATE_HOME (or ~/.local/state). Under systemd
 * RUNTIME_DIRECTORY and STATE_DIRECTORY come first.
 *
 * Limits: relative paths are relative to where the daemon was started. Files named inside a stage
 * (scripts, keys) are that stage's to read.
 */
#include "daemon/config_parts.h"

#include <ctype.h>
#include <glob.h>
#include <sys/stat.h>
#include <sys/un.h>

static const char *const dead_full[] = {"block", "drop", NULL};
static const char *const confine_modes[] = {"auto", "required", "off", NULL};

static const struct option arena_options[] = {
        {"size", OPTION_SIZE, offsetof(struct config, arena_size), .def = "64MiB", .min = 65536,
         .max = 1099511627776.0, .help = "shared memory for everything in flight, in all"},
        {"buffer", OPTION_SIZE, offsetof(struct config, arena_buffer), .def = "256KiB", .min = 4096,
         .max = 1073741824, .help = "bytes of one chunk, hence of the largest record"},
        {"path", OPTION_STRING, offsetof(struct config, arena_path),
         .help = "file that outlives the daemon; without it memory that does not"},
        {"sync", OPTION_BOOL, offsetof(struct config, arena_sync), .def = "false",
         .help = "survive loss of power too"},
        {"log_size", OPTION_SIZE, offsetof(struct config, arena_log_size), .min = 65536,
         .max = 17592186044416.0,
         .help = "bytes of the log that sync writes; default 4 x size; at least twice what "
                 "the arena holds, so that an output that stands still cannot fill it"},
        {"max_workers", OPTION_INT, offsetof(struct config, max_workers), .def = "16", .min = 2,
         .max = CONFIG_WORKERS_MAX, .help = "worker processes there may be, dead letters included"},
        OPTION_END,
};

static const struct option state_options[] = {
        {"path", OPTION_STRING, offsetof(struct config, state_path),
         .help = "directory for positions, offsets and what steps remember"},
        {"size", OPTION_SIZE, offsetof(struct config, state_size), .def = "256MiB", .min = 1048576,
         .max = 17592186044416.0, .help = "most that one worker's steps can remember"},
        OPTION_END,
};

static const struct option control_options[] = {
        {"socket", OPTION_STRING, offsetof(struct config, control_socket),
         .help = "where sluicectl connects"},
        OPTION_END, /* and mode: read_mode */
};

static const struct option dead_options[] = {
        {"path", OPTION_STRING, offsetof(struct config, dead_path),
         .help = "directory for records that could not be processed"},
        {"max_size", OPTION_SIZE, offsetof(struct config, dead_max_size), .def = "256MiB",
         .min = 65536, .max = 17592186044416.0, .help = "bytes they may take on disk"},
        {"full", OPTION_ENUM, offsetof(struct config, dead_full), .def = "block",
         .choices = dead_full, .help = "what happens then: wait, or drop and count"},
        OPTION_END,
};

static const struct option daemon_options[] = {
        {"runtime_dir", OPTION_STRING, offsetof(struct config, runtime_dir),
         .help = "directory for sockets; what is private lies in ipc/ below it"},
        {"stop_timeout", OPTION_DURATION, offsetof(struct config, stop_timeout), .def = "30s",
         .min = 0, .max = 86400, .help = "how long a stop may take before workers are killed"},
        {"confine", OPTION_ENUM, offsetof(struct config, confine), .def = "auto",
         .choices = confine_modes,
         .help = "auto: workers give up what their stage does not need, as far as the kernel can; "
                 "required: or do not start; off"},
        OPTION_END,
};

static const struct section {
	const char *name;
	const struct option *options; /* NULL: a section of stages */
} sections[] = {
        {"arena", arena_options},       {"state", state_options},   {"control", control_options},
        {"dead_letters", dead_options}, {"daemon", daemon_options}, {"producers", NULL},
        {"transformers", NULL},         {"consumers", NULL},
};

enum {
	N_SECTIONS = sizeof(sections) / sizeof(*sections),
};

static bool is_nothing(const struct node *n)
{
	return n->kind == NODE_SCALAR && n->scalar == NODE_NULL;
}

/* The pair of @map with @key: index of the key in items, or -1. */
static long find_key(const struct node *map, const char *key)
{
	for (size_t i = 0; i < map->n; i++)
		if (strcmp(map->items[2 * i]->text, key) == 0)
			return (long)(2 * i);
	return -1;
}

/* Adds @from's pairs to @to; a key that is there already is an error. */
static void merge_section(struct config_tree *t, struct node *to, const struct node *from,
                          struct complaints *c)
{
	for (size_t i = 0; i < from->n; i++) {
		struct node *key = from->items[2 * i];
		long there = find_key(to, key->text);
		if (there >= 0)
			complain(c, key, "\"%s\" is set twice: first at %s:%u:%u", key->text,
			         to->items[there]->file, to->items[there]->line,
			         to->items[there]->column);
		else if (yaml_add(&t->yaml, to, key, from->items[2 * i + 1]) < 0)
			complain(c, key, "out of memory");
	}
}

static void merge_file(struct config_tree *t, const struct node *file, struct complaints *c)
{
	for (size_t i = 0; i < file->n; i++) {
		struct node *key = file->items[2 * i], *value = file->items[2 * i + 1];
		long there = find_key(t->root, key->text);
		if (is_nothing(value) && !value->bad)
			continue; /* a heading without contents */
		if (there < 0) {
			struct node *copy = yaml_map(&t->yaml, value);
			if (value->kind == NODE_MAP && copy) {
				merge_section(t, copy, value, c);
				value = copy;
			}
			if (yaml_add(&t->yaml, t->root, key, value) < 0)
				complain(c, key, "out of memory");
		} else if (value->kind == NODE_MAP && t->root->items[there + 1]->kind == NODE_MAP) {
			merge_section(t, t->root->items[there + 1], value, c);
		} else {
			complain(c, value, "%s: expected a map, got %s", key->text,
			         node_describe(value));
		}
	}
}

static void read_file(struct config_tree *t, const char *path, struct complaints *c)
{
	unsigned before = c->count;
	const struct node *n = yaml_read(&t->yaml, path, c);
	if (!n && c->count > before)
		t->broken_file = true;
	if (!n || is_nothing(n))
		return;
	if (n->kind != NODE_MAP)
		complain(c, n, "expected sections such as \"producers:\", got %s",
		         node_describe(n));
	else
		merge_file(t, n, c);
}

/* The main file, then conf.d beside it. */
static void read_files(struct config *cfg, struct complaints *c)
{
	struct config_tree *t = cfg->tree;
	const char *slash = strrchr(cfg->path, '/');
	int dir = slash ? (int)(slash - cfg->path) + 1 : 0;
	glob_t found = {0};
	_cleanup_(buf_deinit) struct buf pattern = {0};
	t->root->file = cfg->path;
	read_file(t, cfg->path, c);
	/* the directory's own name may hold what glob() would take for a pattern */
	for (int i = 0; i < dir; i++)
		buf_printf(&pattern, strchr("*?[\\", cfg->path[i]) ? "\\%c" : "%c", cfg->path[i]);
	buf_add(&pattern, "conf.d/*.yaml", sizeof("conf.d/*.yaml"));
	int e = pattern.p ? glob((const char *)pattern.p, 0, NULL, &found) : GLOB_NOSPACE;
	if (e != 0 && e != GLOB_NOMATCH)
		complain(c, NULL, "%.*sconf.d: cannot be read", dir, cfg->path);
	for (size_t i = 0; e == 0 && i < found.gl_pathc; i++)
		read_file(t, found.gl_pathv[i], c);
	globfree(&found);
}

static void check_sections(const struct node *root, struct complaints *c)
{
	const char *names[N_SECTIONS];
	for (size_t i = 0; i < N_SECTIONS; i++)
		names[i] = sections[i].name;
	for (size_t i = 0; i < root->n; i++) {
		const struct node *key = root->items[2 * i], *value = root->items[2 * i + 1];
		size_t s = 0;
		while (s < N_SECTIONS && strcmp(names[s], key->text) != 0)
			s++;
		const char *near = option_nearest(key->text, names, N_SECTIONS);
		if (s == N_SECTIONS && near)
			complain(c, key, "unknown section \"%s\": did you mean \"%s\"?", key->text,
			         near);
		else if (s == N_SECTIONS)
			complain(c, key,
			         "unknown section \"%s\": known are arena, state, control, "
			         "dead_letters, daemon, producers, transformers, consumers",
			         key->text);
		else if (value->kind != NODE_MAP)
			complain(c, value, "%s: expected a map, got %s", key->text,
			         node_describe(value));
	}
}

static const struct node *section(const struct config *cfg, const char *name)
{
	const struct node *n = node_get(cfg->tree->root, name);
	return n && n->kind == NODE_MAP ? n : NULL;
}

/* Octal digits are meant whether quoted or not: a plain 0660 would be the number 660 in YAML 1.2.
 */
static void read_mode(struct config *cfg, const struct node *n, struct complaints *c)
{
	cfg->control_mode = 0660;
	if (!n)
		return;
	const char *s = n->kind == NODE_SCALAR ? n->text : "";
	s += s[0] == '0' && s[1] == 'o' ? 2 : 0;
	size_t digits = strspn(s, "01234567");
	if (digits < 3 || digits > 4 || s[digits] || (digits == 4 && *s != '0'))
		complain(c, n, "mode: expected permissions in octal such as \"0660\", got %s%s%s",
		         n->kind == NODE_SCALAR ? "\"" : "",
		         n->kind == NODE_SCALAR ? n->text : node_describe(n),
		         n->kind == NODE_SCALAR ? "\"" : "");
	else
		cfg->control_mode = (unsigned)strtoul(s, NULL, 8);
}

static void read_sections(struct config *cfg, struct complaints *c)
{
	static const char *const mode_key[] = {"mode", NULL};
	option_parse(arena_options, section(cfg, "arena"), NULL, cfg, c);
	option_parse(state_options, section(cfg, "state"), NULL, cfg, c);
	option_parse(control_options, section(cfg, "control"), mode_key, cfg, c);
	option_parse(dead_options, section(cfg, "dead_letters"), NULL, cfg, c);
	option_parse(daemon_options, section(cfg, "daemon"), NULL, cfg, c);
	read_mode(cfg, node_get(section(cfg, "control"), "mode"), c);
}

/* "@dir/@name" that lives as long as the tree; the first of a list when @dir has colons and @list.
 */
static const char *join(struct config *cfg, const char *dir, const char *name, bool list)
{
	_cleanup_(buf_deinit) struct buf path = {0};
	size_t len = list ? strcspn(dir, ":") : strlen(dir);
	if (buf_printf(&path, "%.*s%s", (int)len, dir, name) < 0)
		return NULL;
	const struct node *n = yaml_string(&cfg->tree->yaml, NULL, (const char *)path.p);
	return n ? n->text : NULL;
}

static const char *env(const char *name)
{
	const char *v = getenv(name);
	return v && *v ? v : NULL;
}

static const char *runtime_base(struct config *cfg)
{
	char tmp[64];
	if (cfg->runtime_dir)
		return cfg->runtime_dir;
	if (env("RUNTIME_DIRECTORY"))
		return join(cfg, env("RUNTIME_DIRECTORY"), "", true);
	if (geteuid() == 0)
		return "/run/sluice";
	if (env("XDG_RUNTIME_DIR"))
		return join(cfg, env("XDG_RUNTIME_DIR"), "/sluice", false);
	snprintf(tmp, sizeof(tmp), "/tmp/sluice-%u", (unsigned)geteuid());
	return join(cfg, tmp, "", false);
}

static const char *state_base(struct config *cfg)
{
	if (env("STATE_DIRECTORY"))
		return join(cfg, env("STATE_DIRECTORY"), "", true);
	if (geteuid() == 0)
		return "/var/lib/sluice";
	if (env("XDG_STATE_HOME"))
		return join(cfg, env("XDG_STATE_HOME"), "/sluice", false);
	if (env("HOME"))
		return join(cfg, env("HOME"), "/.local/state/sluice", false);
	return join(cfg, runtime_base(cfg), "/state", false);
}

static void default_paths(struct config *cfg, struct complaints *c)
{
	const char *base = runtime_base(cfg), *state = state_base(cfg);
	if (base)
		cfg->runtime_dir = join(cfg, base, "/ipc", false);
	if (base && !cfg->control_socket)
		cfg->control_socket = join(cfg, base, "/control.sock", false);
	if (state && !cfg->state_path)
		cfg->state_path = join(cfg, state, "/state", false);
	if (state && !cfg->dead_path)
		cfg->dead_path = join(cfg, state, "/dead", false);
	if (!cfg->runtime_dir || !cfg->control_socket || !cfg->state_path || !cfg->dead_path) {
		complain(c, NULL, "%s: out of memory", cfg->path);
		return;
	}
	size_t max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1,
	       len = strlen(cfg->control_socket);
	const struct node *where = node_get(section(cfg, "control"), "socket");
	if (!where)
		where = node_get(section(cfg, "daemon"), "runtime_dir");
	if (len > max)
		complain(c, where ? where : cfg->tree->root,
		         "the control socket's path has %zu bytes, at most %zu fit: %s", len, max,
		         cfg->control_socket);
}

static int by_place(const void *a, const void *b)
{
	return strverscmp(*(const char *const *)a, *(const char *const *)b);
}

/* Passes find mistakes in their own order; people read them in the order of the file. */
static void sort_lines(struct buf *text, size_t start)
{
	size_t n = 0;
	for (size_t i = start; i < text->len; i++)
		n += text->p[i] == '\n';
	char *copy = n > 1 ? strndup((char *)text->p + start, text->len - start) : NULL;
	char **lines = copy ? calloc(n, sizeof(*lines)) : NULL;
	if (lines) {
		char *p = copy;
		for (size_t i = 0; i < n; i++) {
			lines[i] = p;
			p = strchr(p, '\n');
			*p++ = '\0';
		}
		qsort(lines, n, sizeof(*lines), by_place);
		text->len = start;
		for (size_t i = 0; i < n; i++) {
			buf_add_str(text, lines[i]); /* as long as before: always room */
			buf_add_byte(text, '\n');
		}
	}
	free(lines);
	free(copy);
}

static void read_all(struct config *cfg, struct complaints *c)
{
	read_files(cfg, c);
	check_sections(cfg->tree->root, c);
	read_sections(cfg, c);
	default_paths(cfg, c);
	config_stages_read(cfg, c);
	config_graph_make(cfg, c);
	config_dead_make(cfg, c);
	config_log_sync(cfg);
	config_log_check(cfg, c);
	config_replay_make(cfg, c);
	config_check_all(cfg, c);
}

struct config *config_load(const char *path, struct complaints *c)
{
	unsigned before = c->count;
	size_t start = c->text.len;
	struct config *cfg = calloc(1, sizeof(*cfg));
	if (cfg) {
		cfg->log_stage = UINT32_MAX;
		cfg->path = strdup(path);
		cfg->tree = calloc(1, sizeof(*cfg->tree));
		if (cfg->tree)
			cfg->tree->root = yaml_map(&cfg->tree->yaml, NULL);
	}
	if (!cfg || !cfg->path || !cfg->tree || !cfg->tree->root) {
		complain(c, NULL, "%s: out of memory", path);
		return config_free(cfg);
	}
	read_all(cfg, c);
	if (c->count == before) {
		config_hash_all(cfg);
		return cfg;
	}
	sort_lines(&c->text, start);
	return config_free(cfg);
}

struct config *config_free(struct config *cfg)
{
	if (!cfg)
		return NULL;
	config_stages_free(cfg);
	for (unsigned i = 0; i < cfg->n_edges; i++)
		free(cfg->edges[i].name);
	free(cfg->edges);
	if (cfg->tree) {
		free(cfg->tree->links);
		yaml_deinit(&cfg->tree->yaml);
	}
	free(cfg->tree);
	free(cfg->path);
	free(cfg);
	return NULL;
}

const char *config_default_path(void)
{
	if (geteuid() != 0 && access("sluice.yaml", F_OK) == 0)
		return "sluice.yaml";
	return "/etc/sluice/sluice.yaml";
}

struct config_stage *config_stage(const struct config *cfg, const char *name)
{
	for (unsigned i = 0; i < config_all_stages(cfg); i++)
		if (strcmp(cfg->stages[i].name, name) == 0)
			return &cfg->stages[i];
	return NULL;
}

int64_t config_linger(const struct config *cfg, const struct config_stage *s)
{
	int64_t shortest = INT64_MAX;
	for (unsigned i = 0; i < cfg->n_stages; i++) {
		const struct config_stage *p = &cfg->stages[i];
		if (p->kind == STAGE_PRODUCER && p->pipeline == s->pipeline && p->linger < shortest)
			shortest = p->linger;
	}
	return shortest;
}
