/*
 * The configuration: YAML in, one checked, immutable graph out.
 *
 * config_load() reads the file and its conf.d, finds everything that is wrong in one run, and only
 * returns a configuration that can be run. The tree of nodes stays alive inside it: stages borrow
 * strings from it.
 */
#pragma once

#include "stages/stage.h"
#include "stages/chain.h"

struct retry {
	int64_t attempts;  /* answers about the data (STAGE_E_RETRY) before a unit is given up */
	int64_t base, max; /* ns */
	double factor;
	int jitter; /* enum retry_jitter */
};

enum retry_jitter {
	RETRY_JITTER_FULL,
	RETRY_JITTER_NONE,
};

enum edge_full {
	EDGE_BLOCK,
	EDGE_DROP,
};

enum confine_mode {
	CONFINE_AUTO,     /* as far as it goes; what is missing is said */
	CONFINE_REQUIRED, /* a worker that cannot be confined does not start */
	CONFINE_OFF,
};

enum on_full_dead {
	DEAD_BLOCK,
	DEAD_DROP,
};

/* One named queue from a stage's output to a stage. Index in config->edges is not the arena's
 * number. */
struct config_edge {
	unsigned from;   /* stage index */
	unsigned output; /* of that stage: 0 main, else named */
	unsigned to;     /* stage index */
	uint64_t quota;  /* chunks */
	enum edge_full full;
	char *name; /* "clean.errors->archive"; "clean->archive" */
};

struct config_stage {
	const char *name;
	enum stage_kind kind;        /* STAGE_STEP stands for a transformer */
	const struct stage_ops *ops; /* producer, consumer; NULL for a transformer */
	void *config;                /* producer, consumer */
	struct chain_step *steps;    /* transformer */
	unsigned n_steps;
	bool stateful; /* transformer: a step keeps state */
	const char *outputs[STAGE_OUTPUTS_MAX +
	                    1]; /* [0] = "" (main), then route's names; NULL-terminated */
	unsigned n_outputs;
	const struct codec_ops *codec; /* with STAGE_CODEC */
	void *codec_config;
	unsigned workers;
	int64_t max_attempts;  /* crashes on one chunk before its record is set aside */
	int64_t stall_timeout; /* ns */
	uint64_t memory_max;   /* bytes of RssAnon; 0: none */
	int64_t batch_records; /* producer: seal a chunk at this many */
	int64_t linger;        /* producer: ns */
	struct retry retry;
	int64_t timeout;         /* ns */
	int64_t give_up_after;   /* ns; 0: never */
	bool meta;               /* producer: add _meta */
	unsigned pipeline;       /* connected part of the graph it is in, from 0 */
	unsigned depth;          /* stages before it, on the longest way from a producer */
	const struct node *node; /* its map, for messages */
	uint64_t hash;        /* of everything that makes this stage what it is: reload compares */
	uint64_t source_hash; /* producer: of its own options only: an end lasts while it is the
	                         same */
	bool builtin;         /* the dead-letter writer, the log, a replayer */
	bool log;             /* the built-in log (arena.sync) */
	unsigned replay_edge; /* replayer: the edge it fills (index) */
};

struct config {
	char *path;
	/* arena */
	uint64_t arena_size, arena_buffer;
	const char *arena_path; /* NULL: memfd */
	bool arena_sync;
	uint64_t arena_log_size; /* bytes of the log's ring */
	uint64_t max_workers;
	/* state */
	const char *state_path;
	uint64_t state_size;
	/* control */
	const char *control_socket;
	unsigned control_mode;
	/* dead letters */
	const char *dead_path;
	uint64_t dead_max_size;
	enum on_full_dead dead_full;
	/* daemon */
	const char *runtime_dir; /* 0700: ipc endpoints, lock of a memfd daemon */
	int64_t stop_timeout;    /* ns */
	enum confine_mode confine;

	struct config_stage *stages; /* in topological order; the dead-letter writer is the last */
	unsigned n_stages;
	unsigned n_replays; /* behind them: see config_replay.c */
	struct config_edge
	        *edges; /* edges to the dead-letter writer included: one, from = UINT_MAX */
	unsigned n_edges;
	unsigned n_pipelines;
	unsigned dead_stage, dead_edge; /* indices of the built-in writer and its edge */
	unsigned log_stage;             /* index of the built-in log; UINT32_MAX: there is none */

	struct config_tree *tree; /* nodes and files; owned */
};

/* Loads and checks @path (its conf.d/<*.yaml> too). NULL when anything is wrong: @c says what.
 * Environment and file system are read, nothing is changed. */
struct config *config_load(const char *path, struct complaints *c);
struct config *config_free(struct config *cfg); /* returns NULL */

/* Where the configuration is when -c is not given: /etc/sluice/sluice.yaml, or ./sluice.yaml for an
 * unprivileged user when that exists. */
const char *config_default_path(void);

/* How many stages there are with the replayers, which stand behind the others. */
static inline unsigned config_all_stages(const struct config *cfg)
{
	return cfg->n_stages + cfg->n_replays;
}

/* The stage with this name, a replayer too, or NULL. */
struct config_stage *config_stage(const struct config *cfg, const char *name);
/* The shortest linger of the producers in the pipeline of @s, ns, which its beat is made of
 * (nap.h). INT64_MAX: it has none (dead letters). */
int64_t config_linger(const struct config *cfg, const struct config_stage *s);

/* The graph as text for people's tools. */
void config_graph_dot(const struct config *cfg, struct buf *out);
void config_graph_mermaid(const struct config *cfg, struct buf *out);
