/*
 * What the files of the configuration share. Nobody else includes this.
 *
 * Order of the passes: config.c (files, sections) -> config_stage.c (each stage by itself) ->
 * config_graph.c (who reads whom; order) -> config_check.c (what only the whole can tell) ->
 * config_hash.c. Every pass goes on after mistakes, so that one run finds them all.
 */
#pragma once

#include "daemon/config.h"
#include "daemon/yaml.h"

enum {
	CONFIG_NAME_MAX = 48,     /* characters of a stage's name */
	CONFIG_WORKERS_MAX = 250, /* arena.max_workers */
	CONFIG_STAGES_MAX = 1000,
	CONFIG_COMMON_MAX = 24, /* entries of a common table, its end included */
};

/* One `from`, resolved. Indices are those of cfg->stages at the time. */
struct config_link {
	unsigned from, output, to;
	const struct node
	        *node; /* the name in `from`, or the stage's node when `from` was left out */
	const struct node *quota_node; /* where the quota was written; NULL: it is the default */
	uint64_t quota;
	enum edge_full full;
};

struct config_tree {
	struct yaml_tree yaml;
	struct node *root; /* all files merged */
	struct config_link *links;
	unsigned n_links;
	bool broken_file;  /* a file could not be read: nobody can say what is missing */
	bool broken_steps; /* a step was wrong: nobody can say which outputs there are */
	bool broken_links; /* a `from` was wrong: nobody can say who is unread or in a circle */
};

/* config_stage.c: reads all stages of the three sections into cfg->stages, in the order of the
 * files. */
void config_stages_read(struct config *cfg, struct complaints *c);
void config_stages_free(struct config *cfg);
/* The keyword of a section of stages. */
const char *config_section(enum stage_kind kind);
/* Where the name of @s stands. */
const struct node *config_place(const struct config *cfg, const struct config_stage *s);
/* The options that every stage of this kind has, less those its own table has. @out:
 * CONFIG_COMMON_MAX. */
void config_common_table(const struct config_stage *s, struct option *out);
/* Keys that no table has (type, from, ...), NULL-terminated. */
const char *const *config_structural(const struct config_stage *s);
/* Lists of names (const char *), for option_parse's @ignore. */
void config_add_name(struct buf *names, const char *name);
void config_add_names(struct buf *names, const struct option *table);
bool config_any_required(const struct option *table);
/* Complains that there is no such @what (step, producer type), with the nearest name or all of
 * them. */
void config_unknown_type(enum stage_kind kind, const struct node *n, const char *what,
                         struct complaints *c);

/* config_steps.c: the steps of a transformer from its map. */
void config_steps_read(struct config *cfg, struct config_stage *s, const struct node *map,
                       struct complaints *c);
void config_steps_free(struct config_stage *s);

/* config_dead.c: makes the built-in writer of dead letters the last stage, and its edge the last
 * edge. */
void config_dead_make(struct config *cfg, struct complaints *c);

/* config_replay.c: makes the replayers, behind all stages. */
void config_replay_make(struct config *cfg, struct complaints *c);

/* config_graph.c: resolves every `from`, checks the graph, puts cfg->stages into topological order
 * and makes edges and pipelines. */
void config_graph_make(struct config *cfg, struct complaints *c);

/* Adds a link between stages. False: no memory. */
bool config_add_link(struct config *cfg, const struct config_link *like);

/* config_log.c: with arena.sync puts the built-in log between producers and their readers; makes
 * consumers sync; checks and sets the log's size. */
void config_log_splice(struct config *cfg, struct complaints *c);
void config_log_sync(struct config *cfg);
void config_log_check(struct config *cfg, struct complaints *c);

/* config_check.c: workers, arena, quotas, secrets. Sets the default quotas. */
void config_check_all(struct config *cfg, struct complaints *c);

/* config_hash.c: fills in every stage's hash. */
void config_hash_all(struct config *cfg);
