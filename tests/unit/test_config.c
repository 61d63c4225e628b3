/*
 * The configuration as a whole: what the graph becomes, what is left out means what, steps, routes
 * and codecs, conf.d, hashes, paths, drawings.
 */
#include "tests/unit/config_fixture.h"

static void least(void **state)
{
	(void)state;
	struct config *cfg = good(P C);
	assert_int_equal(cfg->n_stages, 3);
	assert_int_equal(cfg->n_edges, 2);
	assert_int_equal(cfg->n_pipelines, 1);
	assert_string_equal(cfg->stages[0].name, "in");
	assert_string_equal(cfg->stages[1].name, "out");
	assert_string_equal(cfg->stages[2].name, "dead");
	assert_true(cfg->stages[2].builtin);
	assert_int_equal(cfg->dead_stage, 2);
	assert_int_equal(cfg->dead_edge, 1);
	assert_string_equal(cfg->edges[0].name, "in->out");
	assert_string_equal(cfg->edges[1].name, "*->dead");
	assert_int_equal(cfg->edges[1].from, UINT32_MAX);
	assert_int_equal(cfg->edges[1].to, 2);
	assert_int_equal(cfg->edges[0].quota, 256 / 2);
	assert_int_equal(cfg->arena_size, 64 << 20);
	assert_int_equal(cfg->arena_buffer, 256 << 10);
	assert_null(cfg->arena_path);
	assert_int_equal(cfg->max_workers, 16);
	assert_int_equal(cfg->control_mode, 0660);
	assert_int_equal(cfg->dead_full, DEAD_BLOCK);
	assert_int_equal(cfg->stop_timeout, INT64_C(30000000000));
	const struct config_stage *in = config_stage(cfg, "in"), *out = config_stage(cfg, "out");
	assert_int_equal(in->workers, 1);
	assert_int_equal(in->max_attempts, 3);
	assert_int_equal(in->batch_records, 10000);
	assert_int_equal(in->linger, 1000000);
	assert_false(in->meta);
	assert_int_equal(out->retry.attempts, 5);
	assert_int_equal(out->retry.base, 1000000000);
	assert_int_equal(out->retry.max, INT64_C(60000000000));
	assert_true(out->retry.factor == 2);
	assert_int_equal(out->retry.jitter, RETRY_JITTER_FULL);
	assert_int_equal(out->timeout, INT64_C(30000000000));
	assert_int_equal(out->give_up_after, 0);
	assert_int_equal(out->stall_timeout, INT64_C(60000000000));
	assert_null(config_stage(cfg, "nobody"));
	config_free(cfg);
}

static void all_keys(void **state)
{
	(void)state;
	struct config *cfg =
	        good("arena: {size: 16MiB, buffer: 64KiB, path: /a/b, sync: false, "
	             "max_workers: 20}\n"
	             "state: {path: /s, size: 2MiB}\n"
	             "control: {socket: /c.sock, mode: 0600}\n"
	             "dead_letters: {path: /d, max_size: 1MiB, full: drop}\n"
	             "daemon: {runtime_dir: /r, stop_timeout: 5s}\n"
	             "producers:\n"
	             "  in: {type: generate, rate: 5, count: 7, record: {a: =seq}, meta: true, "
	             "batch: {records: 5, linger: 2ms}, max_attempts: 2, stall_timeout: 9s, "
	             "memory_max: 64MiB}\n"
	             "transformers:\n"
	             "  mid: {from: in, workers: 3, steps: [], quota: 9, full: drop}\n"
	             "consumers:\n"
	             "  out:\n"
	             "    type: null\n"
	             "    from: [{stage: mid, quota: 4}, in]\n"
	             "    full: drop\n"
	             "    retry: {attempts: 9, base: 2s, factor: 1.5, max: 3s, jitter: none}\n"
	             "    timeout: 2m\n"
	             "    give_up_after: 1h\n");
	assert_string_equal(cfg->arena_path, "/a/b");
	assert_false(cfg->arena_sync);
	assert_int_equal(cfg->max_workers, 20);
	assert_string_equal(cfg->state_path, "/s");
	assert_int_equal(cfg->state_size, 2 << 20);
	assert_string_equal(cfg->control_socket, "/c.sock");
	assert_int_equal(cfg->control_mode, 0600);
	assert_string_equal(cfg->dead_path, "/d");
	assert_int_equal(cfg->dead_full, DEAD_DROP);
	assert_string_equal(cfg->runtime_dir, "/r/ipc");
	assert_int_equal(cfg->stop_timeout, INT64_C(5000000000));
	const struct config_stage *in = config_stage(cfg, "in"), *out = config_stage(cfg, "out");
	assert_true(in->meta);
	assert_int_equal(in->batch_records, 5);
	assert_int_equal(in->linger, 2000000);
	assert_int_equal(in->memory_max, 64 << 20);
	assert_int_equal(out->retry.jitter, RETRY_JITTER_NONE);
	assert_int_equal(out->give_up_after, INT64_C(3600000000000));
	assert_int_equal(out->stall_timeout, INT64_C(240000000000)); /* twice the timeout */
	assert_int_equal(cfg->n_edges, 4);
	assert_string_equal(cfg->edges[0].name, "in->mid");
	assert_int_equal(cfg->edges[0].quota, 9);
	assert_int_equal(cfg->edges[0].full, EDGE_DROP);
	assert_string_equal(cfg->edges[1].name, "in->out");
	assert_int_equal(cfg->edges[1].quota, 256 / 4);
	assert_int_equal(cfg->edges[1].full, EDGE_DROP);
	assert_string_equal(cfg->edges[2].name, "mid->out");
	assert_int_equal(cfg->edges[2].quota, 4);
	assert_int_equal(cfg->edges[3].full, EDGE_DROP);
	config_free(cfg);
}

/* arena.sync: producers feed the log, their readers read the log. */
static void the_log(void **state)
{
	(void)state;
	struct config *cfg = good("arena: {size: 16MiB, path: /a, sync: true, log_size: 40MiB}\n"
	                          "producers:\n  p: {type: generate}\n  q: {type: generate}\n"
	                          "transformers:\n  t: {from: p, steps: []}\n"
	                          "consumers:\n  a: {type: null, from: [t, q], quota: 3}\n"
	                          "  b: {type: null, from: {stage: q, full: drop}}\n");
	static const char *const stages[] = {"p", "q", "log", "t", "a", "b", "dead"};
	static const char *const edges[] = {"p->log", "q->log",   "log.p->t", "log.q->a",
	                                    "t->a",   "log.q->b", "*->dead"};
	assert_int_equal(cfg->n_stages, 7);
	for (unsigned i = 0; i < 7; i++) {
		assert_string_equal(cfg->stages[i].name, stages[i]);
		assert_string_equal(cfg->edges[i].name, edges[i]);
	}
	assert_int_equal(cfg->n_edges, 7);
	assert_int_equal(cfg->log_stage, 2);
	assert_true(cfg->stages[2].log);
	assert_int_equal(cfg->stages[2].n_outputs, 3);
	assert_int_equal(cfg->n_pipelines, 1);
	assert_int_equal(cfg->edges[3].quota, 3);
	assert_int_equal(cfg->edges[5].full, EDGE_DROP);
	assert_int_equal(cfg->edges[1].full, EDGE_BLOCK);
	assert_int_equal(cfg->arena_log_size, 40 << 20);
	config_free(cfg);
	cfg = good(P C);
	assert_int_equal(cfg->log_stage, UINT32_MAX);
	config_free(cfg);
	says(P C "arena: {sync: true}\n",
	     "s.yaml:5:15: sync: needs arena.path: the log lies beside it\n");
	says("producers:\n  log: {type: generate}\n" C "arena: {sync: true, path: /a}\n",
	     "s.yaml:2:3: the name \"log\" is taken with arena.sync: the built-in log\n");
	says(P C "arena: {sync: true, path: /a, log_size: 1MiB}\n",
	     "s.yaml:5:41: log_size: 1048576 bytes are too few: 141402112 is the least for this "
	     "arena, twice what it holds and some chunks more, so that one output that stands "
	     "still cannot fill the log\n");
	/* left out it is enough, whatever the size of buffers */
	for (unsigned kib = 4; kib <= 1024; kib *= 4) {
		char text[256];
		snprintf(text, sizeof(text),
		         P C "arena: {sync: true, path: /a, size: 32MiB, buffer: %uKiB}\n", kib);
		cfg = good(text);
		uint64_t buffers = (32 << 10) / kib, chunk = ((uint64_t)kib << 10) + 4096;
		assert_true(cfg->arena_log_size >= 4 * cfg->arena_size);
		assert_true(cfg->arena_log_size > 2 * buffers * chunk + 16 * chunk);
		config_free(cfg);
	}
}

/* True (and a word) when this build lacks a stage that the test needs. */
static bool lacks(enum stage_kind kind, const char *name)
{
	if (stage_find(kind, name))
		return false;
	print_message("skipped: this build has no %s\n", name);
	return true;
}

#define T(steps) P "transformers:\n  t:\n    steps:\n" steps

static void steps(void **state)
{
	(void)state;
	if (lacks(STAGE_STEP, "dedupe") || lacks(STAGE_STEP, "keep") || lacks(STAGE_STEP, "filter"))
		skip();
	struct config *cfg = good(T("      - filter: {level: {not: debug}}\n"
	                            "      - filter: level == 'x'\n"
	                            "      - keep: [a, b]\n"
	                            "      - dedupe: {by: a}\n") C);
	const struct config_stage *t = config_stage(cfg, "t");
	assert_int_equal(t->n_steps, 4);
	assert_string_equal(t->steps[2].ops->name, "keep");
	assert_true(t->stateful);
	config_free(cfg);
	says(T("      - fitler: {a: 1}\n") C,
	     "s.yaml:6:9: unknown step \"fitler\": did you mean \"filter\"?\n");
	says(T("      - dedupe: {by: a, ttll: 5m}\n") C,
	     "s.yaml:6:25: unknown key \"ttll\": did you mean \"ttl\"?\n");
	/* a required option is missing: said once, and the step's own check is not bothered */
	says(T("      - dedupe: {}\n") C,
	     "s.yaml:6:17: missing key \"by\": fields whose values together are the key (paths)\n");
}

static void stateful(void **state)
{
	(void)state;
	if (lacks(STAGE_STEP, "dedupe"))
		skip();
	says(T("      - dedupe: {by: a}\n    workers: 2\n") C,
	     "s.yaml:7:14: workers: step \"dedupe\" remembers records, and each of 2 workers would "
	     "see "
	     "only some of them: set workers: 1\n");
}

static void routes(void **state)
{
	(void)state;
	if (lacks(STAGE_STEP, "route"))
		skip();
#define R "      - route: {errors: {level: error}, slow: t > 5}\n"
	struct config *cfg = good(T(R) "consumers:\n"
	                               "  a: {type: null}\n"
	                               "  b: {type: null, from: t.errors}\n"
	                               "  c: {type: null, from: [t.slow, t.errors]}\n");
	static const char *const edges[] = {"in->t", "t->a", "t.errors->b", "t.errors->c",
	                                    "t.slow->c"};
	const struct config_stage *t = config_stage(cfg, "t");
	assert_int_equal(t->n_outputs, 3);
	assert_string_equal(t->outputs[1], "errors");
	assert_string_equal(t->outputs[2], "slow");
	assert_null(t->outputs[3]);
	for (unsigned i = 0; i < 5; i++)
		assert_string_equal(cfg->edges[i].name, edges[i]);
	assert_int_equal(cfg->edges[4].output, 2);
	config_free(cfg);
	says(T(R) "consumers:\n  a: {type: null, from: [t, t.erors]}\n",
	     "s.yaml:8:29: from: t has no output \"erors\": did you mean \"t.errors\"?\n");
	says(T(R) "consumers:\n  a: {type: null, from: [t, t.errors]}\n",
	     "s.yaml:4:3: nobody reads the output \"t.slow\": name it in a \"from\"\n");
	says(T(R) "consumers:\n  a: {type: null, from: [t.slow, t.errors]}\n",
	     "s.yaml:4:3: nobody reads the main output of t: name it in a \"from\"\n");
	says(T("      - route: {errors: {level: error}, default: drop}\n") CF "t.errors}\n", "");
	says(T(R R) "consumers:\n  a: {type: null, from: [t, t.slow, t.errors]}\n",
	     "s.yaml:7:9: only one step of a transformer may have outputs of its own\n");
#undef R
}

static void codecs(void **state)
{
	(void)state;
	if (lacks(STAGE_PRODUCER, "file") || !codec_find("csv"))
		skip();
	struct config *cfg = good("producers:\n  in: {type: file, path: x, codec: msgpack}\n" C);
	assert_string_equal(config_stage(cfg, "in")->codec->name, "msgpack");
	assert_string_equal(cfg->stages[cfg->dead_stage].codec->name, "json");
	assert_non_null(cfg->stages[cfg->dead_stage].config);
	config_free(cfg);
	says("producers:\n  in: {type: file, path: x, codec: jsno}\n" C,
	     "s.yaml:2:36: codec: unknown codec \"jsno\": did you mean \"json\"?\n");
	says("producers:\n  in: {type: file, path: x, codec: csv, delimiter: 5}\n" C,
	     "s.yaml:2:52: delimiter: expected a string, got a number (5): put it in quotes\n");
	says("producers:\n  in: {type: file, path: x, delimiter: ';'}\n" C,
	     "s.yaml:2:29: unknown key \"delimiter\": known here: path, follow, read_buffer, poll, "
	     "rotate_wait, workers, max_attempts, stall_timeout, memory_max, batch, meta, type, "
	     "codec\n");
	says("producers:\n  in: {type: file}\n" C,
	     "s.yaml:2:7: missing key \"path\": the file to read, or a list of them; - is standard "
	     "input\n");
}

/* Every example that is shipped is taken as it is. */
static void examples(void **state)
{
	(void)state;
	static const char *const files[] = {"etc/sluice.yaml", "etc/examples/orders.yaml",
	                                    "etc/examples/logs.yaml",
	                                    "etc/examples/demo-debian.yaml"};
	static const char *const needs[] = {"zmq", "file"};
	if (lacks(STAGE_PRODUCER, needs[0]) || lacks(STAGE_PRODUCER, needs[1]) ||
	    lacks(STAGE_CONSUMER, "sqlite") || lacks(STAGE_STEP, "aggregate"))
		skip();
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		struct complaints c = {0};
		if (access(files[i], R_OK) < 0)
			skip();
		config_free(config_load(files[i], &c));
		buf_add(&c.text, "", 1);
		assert_string_equal((char *)c.text.p, "");
		buf_deinit(&c.text);
	}
}

static void defaults_of_from(void **state)
{
	(void)state;
	struct config *cfg = good("transformers:\n"
	                          "  b: {steps: []}\n"
	                          "  a: {steps: []}\n"
	                          "consumers:\n"
	                          "  y: {type: null}\n"
	                          "  x: {type: null, from: [a, in]}\n" P);
	static const char *const stages[] = {"in", "b", "a", "y", "x", "dead"};
	static const char *const edges[] = {"in->b", "b->a", "a->y", "in->x", "a->x", "*->dead"};
	assert_int_equal(cfg->n_stages, 6);
	assert_int_equal(cfg->n_edges, 6);
	for (unsigned i = 0; i < 6; i++) {
		assert_string_equal(cfg->stages[i].name, stages[i]);
		assert_string_equal(cfg->edges[i].name, edges[i]);
	}
	config_free(cfg);
}

static void order(void **state)
{
	(void)state;
	/* as in the file where that is possible; every edge leads forward */
	struct config *cfg = good("producers:\n  p: {type: generate}\n  q: {type: generate}\n"
	                          "transformers:\n"
	                          "  t1: {from: t3, steps: []}\n"
	                          "  t2: {from: p, steps: []}\n"
	                          "  t3: {from: [p, t2], steps: []}\n"
	                          "  t4: {from: q, steps: []}\n"
	                          "consumers:\n"
	                          "  c1: {type: null, from: t1}\n"
	                          "  c2: {type: null, from: t4}\n");
	static const char *const stages[] = {"p", "q", "t2", "t3", "t1", "t4", "c1", "c2", "dead"};
	static const unsigned pipelines[] = {0, 1, 0, 0, 0, 1, 0, 1, 2};
	assert_int_equal(cfg->n_stages, 9);
	for (unsigned i = 0; i < 9; i++) {
		assert_string_equal(cfg->stages[i].name, stages[i]);
		assert_int_equal(cfg->stages[i].pipeline, pipelines[i]);
	}
	assert_int_equal(cfg->n_pipelines, 2);
	for (unsigned i = 0; i + 1 < cfg->n_edges; i++) {
		assert_true(cfg->edges[i].from < cfg->edges[i].to);
		assert_true(cfg->edges[i].to <= cfg->edges[i + 1].to);
	}
	config_free(cfg);
}

static void merged_pipelines(void **state)
{
	(void)state;
	struct config *cfg = good("producers:\n  p: {type: generate}\n  q: {type: generate}\n"
	                          "consumers:\n"
	                          "  c1: {type: null, from: p}\n"
	                          "  c2: {type: null, from: [p, q]}\n");
	assert_int_equal(cfg->n_pipelines, 1);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(cfg->stages[i].pipeline, 0);
	config_free(cfg);
}

static void conf_d(void **state)
{
	(void)state;
	char path[256];
	snprintf(path, sizeof(path), "%s/conf.d", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	put("conf.d/20-b.yaml", "transformers:\n  late: {steps: []}\narena: {buffer: 64KiB}\n");
	put("conf.d/10-a.yaml", "transformers:\n  early: {steps: []}\n");
	put("conf.d/notes.txt", "[[[");
	struct config *cfg = good("arena: {size: 32MiB}\n" P C);
	assert_string_equal(cfg->edges[0].name, "in->early");
	assert_string_equal(cfg->edges[1].name, "early->late");
	assert_string_equal(cfg->edges[2].name, "late->out");
	assert_int_equal(cfg->arena_buffer, 65536);
	assert_int_equal(cfg->arena_size, 32 << 20);
	config_free(cfg);
	put("conf.d/30-c.yaml",
	    "# more\nproducers:\n  in: {type: generate}\narena: {size: 1GiB}\n");
	says("arena: {size: 32MiB}\n" P C,
	     "conf.d/30-c.yaml:3:3: \"in\" is set twice: first at s.yaml:3:3\n"
	     "conf.d/30-c.yaml:4:9: \"size\" is set twice: first at s.yaml:1:9\n");
	put("conf.d/30-c.yaml",
	    "producers: 5\nconsumers:\n  late: {type: null, from: early}\n  x: *a\n");
	says(P C, "conf.d/30-c.yaml:1:12: producers: expected a map, got a number\n"
	          "conf.d/30-c.yaml:3:3: the name \"late\" is taken: a stage under transformers at "
	          "conf.d/20-b.yaml:2:3 has it\n"
	          "conf.d/30-c.yaml:4:6: aliases are not supported (*a): write the value out\n");
	drop("conf.d/10-a.yaml");
	drop("conf.d/20-b.yaml");
	drop("conf.d/30-c.yaml");
	drop("conf.d/notes.txt");
	assert_int_equal(rmdir(path), 0);
}

static uint64_t hash_of(const char *text, const char *name)
{
	struct config *cfg = good(text);
	uint64_t h = config_stage(cfg, name)->hash;
	config_free(cfg);
	return h;
}

static void hashes(void **state)
{
	(void)state;
	static const char one[] = P "transformers:\n  t: {steps: [], workers: 2}\n" C;
	static const char same[] = "# comment\n"
	                           "producers:\n"
	                           "    in:\n"
	                           "        type: 'generate'\n"
	                           "consumers:\n"
	                           "    out:\n"
	                           "        type: null\n"
	                           "transformers:\n"
	                           "    t:\n"
	                           "        steps: []   # none\n"
	                           "        workers: 2\n";
	static const char workers[] = P "transformers:\n  t: {steps: [], workers: 3}\n" C;
	static const char rate[] = "producers:\n  in: {type: generate, rate: 5}\n"
	                           "transformers:\n  t: {steps: [], workers: 2}\n" C;
	static const char more[] =
	        P "transformers:\n  t: {steps: [], workers: 2}\n"
	          "consumers:\n  out: {type: null}\n  new: {type: null, from: t, "
	          "quota: 5}\n";
	static const char *const names[] = {"in", "t", "out", "dead"};
	for (size_t i = 0; i < 4; i++)
		assert_true(hash_of(one, names[i]) == hash_of(same, names[i]));
	assert_true(hash_of(one, "t") != hash_of(workers, "t"));
	assert_true(hash_of(one, "in") == hash_of(workers, "in"));
	assert_true(hash_of(one, "in") != hash_of(rate, "in"));
	assert_true(hash_of(one, "out") == hash_of(rate, "out"));
	assert_true(hash_of(one, "t") != hash_of(more, "t"));
	assert_true(hash_of(one, "in") == hash_of(more, "in"));
	assert_true(hash_of(one, "out") == hash_of(more, "out"));
	assert_true(hash_of(one, "dead") == hash_of(more, "dead"));
	assert_true(hash_of(one, "in") != hash_of("arena: {buffer: 512KiB}\n" P
	                                          "transformers:\n  t: "
	                                          "{steps: [], workers: 2}\n" C,
	                                          "in"));
	/* a string is no number */
	assert_true(hash_of("producers:\n  in: {type: generate, record: {a: 5}}\n" C, "in") !=
	            hash_of("producers:\n  in: {type: generate, record: {a: '5'}}\n" C, "in"));
	assert_true(hash_of("producers:\n  in: {type: generate, record: {a: 0x10}}\n" C, "in") ==
	            hash_of("producers:\n  in: {type: generate, record: {a: 16}}\n" C, "in"));
	assert_true(hash_of(P C, "dead") !=
	            hash_of(P C "dead_letters: {max_size: 1MiB}\n", "dead"));
}

static uint64_t source_of(const char *text, const char *name)
{
	struct config *cfg = good(text);
	uint64_t h = config_stage(cfg, name)->source_hash;
	config_free(cfg);
	return h;
}

/* What a producer takes in is told by its own options, not by its edges nor by how it is run. */
static void sources(void **state)
{
	(void)state;
	static const char two[] = "producers:\n  in: {type: file, path: /a, codec: json}\n"
	                          "consumers:\n  out: {type: null}\n  more: {type: null}\n";
	uint64_t one = source_of("producers:\n  in: {type: file, path: /a, codec: json}\n" C, "in");
	assert_true(one == source_of(two, "in"));
	assert_true(one == source_of("producers:\n  in: {type: file, path: /a, codec: json, "
	                             "batch: {records: 5}, meta: true}\n" C,
	                             "in"));
	assert_true(one ==
	            source_of("producers:\n  in: {codec: json, path: /a, type: file}\n" C, "in"));
	assert_true(one == source_of("arena: {buffer: 512KiB}\n"
	                             "producers:\n  in: {type: file, path: /a, codec: json}\n" C,
	                             "in"));
	assert_true(one !=
	            source_of("producers:\n  in: {type: file, path: /b, codec: json}\n" C, "in"));
	assert_true(one !=
	            source_of("producers:\n  in: {type: file, path: /a, codec: lines}\n" C, "in"));
}

static void paths(void **state)
{
	(void)state;
	unsetenv("RUNTIME_DIRECTORY");
	unsetenv("STATE_DIRECTORY");
	setenv("XDG_RUNTIME_DIR", "/xdg/run", 1);
	setenv("XDG_STATE_HOME", "/xdg/state", 1);
	struct config *cfg = good(P C);
	bool root = geteuid() == 0;
	assert_string_equal(cfg->runtime_dir, root ? "/run/sluice/ipc" : "/xdg/run/sluice/ipc");
	assert_string_equal(cfg->control_socket,
	                    root ? "/run/sluice/control.sock" : "/xdg/run/sluice/control.sock");
	assert_string_equal(cfg->state_path,
	                    root ? "/var/lib/sluice/state" : "/xdg/state/sluice/state");
	assert_string_equal(cfg->dead_path,
	                    root ? "/var/lib/sluice/dead" : "/xdg/state/sluice/dead");
	config_free(cfg);
	setenv("RUNTIME_DIRECTORY", "/run/one:/run/two", 1);
	setenv("STATE_DIRECTORY", "/var/lib/one", 1);
	cfg = good(P C);
	assert_string_equal(cfg->runtime_dir, "/run/one/ipc");
	assert_string_equal(cfg->control_socket, "/run/one/control.sock");
	assert_string_equal(cfg->state_path, "/var/lib/one/state");
	config_free(cfg);
	cfg = good(P C "daemon: {runtime_dir: /given}\n");
	assert_string_equal(cfg->runtime_dir, "/given/ipc");
	assert_string_equal(cfg->control_socket, "/given/control.sock");
	config_free(cfg);
	unsetenv("RUNTIME_DIRECTORY");
	unsetenv("STATE_DIRECTORY");
	assert_string_equal(config_default_path(), "/etc/sluice/sluice.yaml");
}

static void drawings(void **state)
{
	(void)state;
	struct config *cfg = good(P "transformers:\n  t: {steps: [], workers: 2, full: drop}\n" C);
	struct buf out = {0};
	config_graph_mermaid(cfg, &out);
	buf_add(&out, "", 1);
	assert_string_equal((char *)out.p, "flowchart LR\n"
	                                   "\ts0([\"in (generate)\"])\n"
	                                   "\ts1[\"t (transformer x2)\"]\n"
	                                   "\ts2[(\"out (null)\")]\n"
	                                   "\ts3[(\"dead (built in)\")]\n"
	                                   "\ts0 -.-> s1\n"
	                                   "\ts1 --> s2\n");
	out.len = 0;
	config_graph_dot(cfg, &out);
	buf_add(&out, "", 1);
	assert_non_null(strstr((char *)out.p, "\ts0 -> s1 [label=\"\", style=dotted];\n"));
	assert_non_null(strstr((char *)out.p, "\ts1 [shape=box, label=\"t\\ntransformer x2\"];\n"));
	buf_deinit(&out);
	config_free(cfg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(least),
	        cmocka_unit_test(all_keys),
	        cmocka_unit_test(the_log),
	        cmocka_unit_test(steps),
	        cmocka_unit_test(stateful),
	        cmocka_unit_test(routes),
	        cmocka_unit_test(codecs),
	        cmocka_unit_test(examples),
	        cmocka_unit_test(defaults_of_from),
	        cmocka_unit_test(order),
	        cmocka_unit_test(merged_pipelines),
	        cmocka_unit_test(conf_d),
	        cmocka_unit_test(hashes),
	        cmocka_unit_test(sources),
	        cmocka_unit_test(paths),
	        cmocka_unit_test(drawings),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
