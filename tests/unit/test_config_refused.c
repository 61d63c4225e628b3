/*
 * Configurations that are refused: each mistake with its line, column and words.
 */
#include "tests/unit/config_fixture.h"

static void wrong_sections(void **state)
{
	(void)state;
	says("producer:\n  in: {type: generate}\n" C,
	     "s.yaml:1:1: no producer: a pipeline starts with one under \"producers:\"\n"
	     "s.yaml:1:1: unknown section \"producer\": did you mean \"producers\"?\n");
	says(P C "extra: 1\n", "s.yaml:5:1: unknown section \"extra\": known are arena, state, "
	                       "control, dead_letters, "
	                       "daemon, producers, transformers, consumers\n");
	says(P C "arena: 64MiB\n", "s.yaml:5:8: arena: expected a map, got a string\n");
	says(P C "arena: {sise: 64MiB}\n",
	     "s.yaml:5:9: unknown key \"sise\": did you mean \"size\"?\n");
	says(P C "arena: {size: 64MB}\n",
	     "s.yaml:5:15: expected a size such as 64KiB, got \"64MB\": write 64MiB\n");
	says(P C "arena: {buffer: 1KiB}\n",
	     "s.yaml:5:17: buffer: 1KiB is out of range: 4KiB to 1GiB\n");
	says(P C "arena: {sync: yes}\n",
	     "s.yaml:5:15: sync: expected true or false (here: true), got \"yes\"\n");
	says(P C "arena: {max_workers: 1000}\n",
	     "s.yaml:5:22: max_workers: 1000 is out of range: 2 to 250\n");
	says(P C "state: {path: 5}\n",
	     "s.yaml:5:15: path: expected a string, got a number (5): put it in quotes\n");
	says(P C "control: {mode: rw}\n",
	     "s.yaml:5:17: mode: expected permissions in octal such as \"0660\", got \"rw\"\n");
	says(P C "control: {mode: \"0990\"}\n",
	     "s.yaml:5:17: mode: expected permissions in octal such as \"0660\", got \"0990\"\n");
	says(P C "control: {sockets: /x}\n",
	     "s.yaml:5:11: unknown key \"sockets\": did you mean \"socket\"?\n");
	says(P C "dead_letters: {full: wait}\n",
	     "s.yaml:5:22: full: expected block or drop, got \"wait\"\n");
	says(P C "daemon: {stop_timeout: 30}\n",
	     "s.yaml:5:24: expected a duration, got 30 without a unit: write 30s or 30ms\n");
	says("[a, b]\n",
	     "s.yaml:1:1: expected sections such as \"producers:\", got a list\n"
	     "s.yaml:1:1: no consumer: a pipeline ends with one under \"consumers:\"\n"
	     "s.yaml:1:1: no producer: a pipeline starts with one under \"producers:\"\n");
	says("", "s.yaml:1:1: no consumer: a pipeline ends with one under \"consumers:\"\n"
	         "s.yaml:1:1: no producer: a pipeline starts with one under \"producers:\"\n");
	says(P "arena:\nconsumers:\n  out: {type: null}\n", "");
}

/* A step that a table describes has no short form. */
static void steps_that_are_no_maps(void **state)
{
	(void)state;
	static const char *const steps[] = {"aggregate", "parse"};
	char text[256], want[128];
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		snprintf(text, sizeof(text), P "transformers:\n  t: {steps: [{%s: \"x\"}]}\n" C,
		         steps[i]);
		snprintf(want, sizeof(want),
		         "s.yaml:4:%zu: %s: expected a map of options, got a string\n",
		         18 + strlen(steps[i]), steps[i]);
		says(text, want);
	}
	says(P "transformers:\n  t: {steps: [{lua: }]}\n" C,
	     "s.yaml:4:21: expected either `script` or `file`\n");
	says(P "transformers:\n  t: {steps: [{lua: x}]}\n" C,
	     "s.yaml:4:21: lua:1: syntax error near <eof>\n");
	says(P "transformers:\n  t: {steps: [{explode: [a]}]}\n" C,
	     "s.yaml:4:25: field: expected a string, got a list\n");
	says(P "transformers:\n  t: {steps: [{dedupe: {a: b}}]}\n" C,
	     "s.yaml:4:24: missing key \"by\": fields whose values together are the key (paths)\n"
	     "s.yaml:4:25: unknown key \"a\": known here: by, ttl, max_entries, missing\n");
}

static void wrong_types(void **state)
{
	(void)state;
	says("producers:\n  in: {type: generat}\n" C,
	     "s.yaml:2:14: unknown producer type \"generat\": did you mean \"generate\"?\n");
	says("producers:\n  in: {type: null}\n" C,
	     "s.yaml:2:14: type \"null\" is a consumer: it belongs under consumers\n");
	says(P "consumers:\n  out: {type: generate}\n",
	     "s.yaml:4:15: type \"generate\" is a producer: it belongs under producers\n");
	says("producers:\n  in: {type: [generate]}\n" C,
	     "s.yaml:2:14: type: expected a name, got a list\n");
	says("producers:\n  in: generate\n" C, "s.yaml:2:7: in: expected a map, got a string\n");
	says("producers:\n  in:\n" C, "s.yaml:2:6: in: expected a map, got nothing\n");
	says("producers:\n  - type: generate\n" C,
	     "s.yaml:1:1: no producer: a pipeline starts with one under \"producers:\"\n"
	     "s.yaml:2:3: producers: expected a map, got a list\n");
	says("producers:\n  in: {type: generate, codec: json}\n" C,
	     "s.yaml:2:31: codec: type \"generate\" takes none\n");
}

static void wrong_names(void **state)
{
	(void)state;
	says("producers:\n  in put: {type: generate}\n" C,
	     "s.yaml:2:3: the name \"in put\" cannot be: 1 to 48 of A-Z a-z 0-9 _ -\n");
	says("producers:\n  a.b: {type: generate}\n" C,
	     "s.yaml:2:3: the name \"a.b\" cannot be: 1 to 48 of A-Z a-z 0-9 _ -\n");
	says("producers:\n  dead: {type: generate}\n" C,
	     "s.yaml:2:3: the name \"dead\" is taken: the built-in writer of dead letters\n");
	says(P "consumers:\n  in: {type: null}\n", "s.yaml:4:3: the name \"in\" is taken: a stage "
	                                           "under producers at s.yaml:2:3 has it\n");
	says("producers:\n  in: {type: generate}\n  in: {type: generate}\n" C,
	     "s.yaml:3:3: duplicate key \"in\": it is at line 2 already\n");
	says("producers:\n"
	     "  a23456789012345678901234567890123456789012345678: {type: generate}\n" C,
	     "");
	says("producers:\n"
	     "  a234567890123456789012345678901234567890123456789: {type: generate}\n" C,
	     "s.yaml:2:3: the name \"a234567890123456789012345678901234567890123456789\" cannot "
	     "be: "
	     "1 to 48 of A-Z a-z 0-9 _ -\n");
}

static void wrong_options(void **state)
{
	(void)state;
	says("producers:\n  in: {type: generate, ratee: 5}\n" C,
	     "s.yaml:2:24: unknown key \"ratee\": did you mean \"rate\"?\n");
	says("producers:\n  in: {type: generate, worker: 5}\n" C,
	     "s.yaml:2:24: unknown key \"worker\": did you mean \"workers\"?\n");
	says("producers:\n  in: {type: generate, from: x}\n" C,
	     "s.yaml:2:24: unknown key \"from\": known here: rate, count, record, workers, "
	     "max_attempts, "
	     "stall_timeout, memory_max, batch, meta, type, codec\n");
	says("producers:\n  in: {type: generate, workers: 0}\n" C,
	     "s.yaml:2:33: workers: 0 is out of range: 1 to 250\n");
	says("producers:\n  in: {type: generate, batch: {record: 5}}\n" C,
	     "s.yaml:2:32: unknown key \"record\": did you mean \"records\"?\n");
	says("producers:\n  in: {type: generate, memory_max: 1MiB}\n" C,
	     "s.yaml:2:36: memory_max: 1MiB is out of range: 8MiB to 16TiB\n");
	says("producers:\n  in: {type: generate, record: [1]}\n" C,
	     "s.yaml:2:32: record: expected a map, got a list\n");
	says("producers:\n  in: {type: generate, record: {a: =sec}}\n" C,
	     "s.yaml:2:36: record: unknown placeholder \"=sec\": did you mean \"=seq\"?\n");
	says(P "consumers:\n  out: {type: null, retry: {jitter: half}}\n",
	     "s.yaml:4:37: jitter: expected full or none, got \"half\"\n");
	says(P "consumers:\n  out: {type: null, retry: {base: 2m}}\n",
	     "s.yaml:4:28: retry: base is longer than max\n");
	says(P "consumers:\n  out: {type: null, stall_timeout: 10s}\n",
	     "s.yaml:4:36: stall_timeout: must be longer than timeout (30000 ms)\n");
	says(P "consumers:\n  out: {type: null, linger: 10s}\n",
	     "s.yaml:4:21: unknown key \"linger\": known here: workers, max_attempts, "
	     "stall_timeout, "
	     "memory_max, retry, give_up_after, timeout, type, from, quota, full, codec\n");
}

static void wrong_steps(void **state)
{
	(void)state;
	says(P "transformers:\n  t: {}\n" C,
	     "s.yaml:4:6: missing key \"steps\": a list such as [{filter: ...}, {set: ...}]\n");
	says(P "transformers:\n  t: {steps: {a: 1}}\n" C,
	     "s.yaml:4:14: steps: expected a list, got a map\n");
	says(P "transformers:\n  t: {steps: [[a]]}\n" C,
	     "s.yaml:4:15: expected a step such as \"- filter: ...\", got a list\n");
	says(P "transformers:\n  t: {steps: [{}]}\n" C,
	     "s.yaml:4:15: expected a step such as \"- filter: ...\", got an empty map\n");
	says(P "transformers:\n  t:\n    steps:\n      - a: 1\n        b: 2\n" C,
	     "s.yaml:7:9: a step has one key: start a new one with \"- b:\"\n");
	says(P "transformers:\n  t: {type: x, steps: []}\n" C,
	     "s.yaml:4:7: unknown key \"type\": known here: workers, max_attempts, stall_timeout, "
	     "memory_max, from, quota, full, steps\n");
}

static void wrong_from(void **state)
{
	(void)state;
	says(P CF "inn}\n", "s.yaml:4:27: from: there is no \"inn\": did you mean \"in\"?\n");
	says(P CF "nobody}\n",
	     "s.yaml:4:27: from: there is no \"nobody\" to read from: there is in\n");
	says(P CF "[]}\n", "s.yaml:4:27: from: the list is empty\n");
	says(P CF "[in, in]}\n", "s.yaml:4:32: from: \"in\" is in the list already\n");
	says(P CF "[[in]]}\n", "s.yaml:4:28: from: expected the name of a stage, got a list\n");
	says(P CF "}\n", "s.yaml:4:27: from: expected the name of a stage, got nothing\n");
	says(P CF "out}\n", "s.yaml:4:27: from: out is a consumer: nothing comes out of it\n");
	says(P CF "in.errors}\n",
	     "s.yaml:4:27: from: in has no output \"errors\": only a transformer "
	     "with a route step has some\n");
	says(P CF "{stage: in, quotas: 4}}\n",
	     "s.yaml:4:39: unknown key \"quotas\": did you mean \"quota\"?\n");
	says(P CF "{quota: 4}}\n",
	     "s.yaml:4:27: from: missing key \"stage\": the name of the stage to read\n");
	says(P CF "{stage: in, full: wait}}\n",
	     "s.yaml:4:45: full: expected block or drop, got \"wait\"\n");
	says(P CF "in, quota: 0}\n", "s.yaml:4:38: quota: 0 is out of range: 1 to 1000000\n");
	says("producers:\n  a: {type: generate}\n  b: {type: generate}\n" C,
	     "s.yaml:5:3: out: missing key \"from\": there are several producers (a, b)\n");
	says("producers:\n  a: {type: generate}\n  b: {type: generate}\n"
	     "transformers:\n  t: {steps: []}\n" C,
	     "s.yaml:5:3: t: missing key \"from\": there are several producers (a, b)\n");
}

static void wrong_graph(void **state)
{
	(void)state;
	says("producers:\n  a: {type: generate}\n  b: {type: generate}\n" CF "a}\n",
	     "s.yaml:3:3: nobody reads from b: name it in a \"from\", or remove it\n");
	says(P "transformers:\n  t: {steps: []}\n" CF "in}\n",
	     "s.yaml:4:3: nobody reads from t: name it in a \"from\", or remove it\n");
	says(P "transformers:\n  t: {from: t, steps: []}\n" CF "[in, t]}\n",
	     "s.yaml:4:13: from: a circle: t reads t\n");
	says(P "transformers:\n"
	       "  a: {from: [in, c], steps: []}\n"
	       "  b: {from: a, steps: []}\n"
	       "  c: {from: b, steps: []}\n"
	       "  d: {from: c, steps: []}\n" C,
	     "s.yaml:4:18: from: a circle: a reads c reads b reads a\n");
	says(P, "s.yaml:1:1: no consumer: a pipeline ends with one under \"consumers:\"\n"
	        "s.yaml:2:3: nobody reads from in: name it in a \"from\", or remove it\n");
	says(C, "s.yaml:1:1: no producer: a pipeline starts with one under \"producers:\"\n");
}

static void wrong_whole(void **state)
{
	(void)state;
	says("producers:\n  in: {type: generate, workers: 2}\n" C,
	     "s.yaml:2:33: workers: type \"generate\" works with one worker only\n");
	says(P "transformers:\n  t: {steps: [], workers: 14}\n" C,
	     "s.yaml:1:1: arena.max_workers: 16 is too small: the stages have 16 workers, and 1 "
	     "writes "
	     "dead letters: set it to 17 or more\n");
	says(P "transformers:\n  t: {steps: [], workers: 13}\n" C, "");
	says("arena: {max_workers: 2}\n" P C, "s.yaml:1:22: arena.max_workers: 2 is too small: the "
	                                      "stages have 2 workers, and 1 writes "
	                                      "dead letters: set it to 3 or more\n");
	says("arena: {size: 256KiB, buffer: 64KiB}\n" P C, "");
	says("arena: {size: 192KiB, buffer: 64KiB}\n" P C,
	     "s.yaml:1:15: arena.size: 192KiB is too small: it holds 3 buffers of 64KiB, and 2 "
	     "edges need 4 (one each, 2 shared): set arena.size to 256KiB or more, or "
	     "arena.buffer lower\n");
	says(P CF "in, quota: 257}\n",
	     "s.yaml:4:38: quota: 257 is more than the 256 buffers that the arena has\n");
	says(P CF "in, quota: 256}\n", "");
	char text[256];
	snprintf(text, sizeof(text), P C "control: {socket: /%0120d}\n", 0);
	char want[400];
	snprintf(want, sizeof(want),
	         "s.yaml:5:19: the control socket's path has 121 bytes, at most 107 fit: /%0120d\n",
	         0);
	says(text, want);
}

/* Many mistakes at once, in the order of the file. */
static void all_at_once(void **state)
{
	(void)state;
	says("arena: {sizes: 1}\n"
	     "producers:\n"
	     "  in: {type: generate, rate: fast}\n"
	     "  in2: {type: generate, count: -1}\n"
	     "transformers:\n"
	     "  t: {from: inn, steps: [], workers: x}\n"
	     "consumers:\n"
	     "  out: {type: nul, from: q}\n"
	     "other: {}\n",
	     "s.yaml:1:9: unknown key \"sizes\": did you mean \"size\"?\n"
	     "s.yaml:3:30: rate: expected a number, got \"fast\"\n"
	     "s.yaml:4:32: count: -1 is out of range: 0 to 9e+18\n"
	     "s.yaml:6:13: from: there is no \"inn\": did you mean \"in\"?\n"
	     "s.yaml:6:38: workers: expected a whole number, got \"x\"\n"
	     "s.yaml:8:15: unknown consumer type \"nul\": did you mean \"null\"?\n"
	     "s.yaml:8:26: from: there is no \"q\" to read from: there is in, in2, t\n"
	     "s.yaml:9:1: unknown section \"other\": known are arena, state, control, "
	     "dead_letters, "
	     "daemon, producers, transformers, consumers\n");
}

static void secrets(void **state)
{
	(void)state;
	/* no stage here has such an option; the rule is about the key, so both are said */
	static const char text[] = P "consumers:\n  out: {type: null, db_password: hunter2}\n";
	char path[256];
	struct complaints c = {0};
	struct buf said = {0};
	put("s.yaml", text);
	snprintf(path, sizeof(path), "%s/s.yaml", dir);
	assert_int_equal(chmod(path, 0644), 0);
	assert_null(config_load(path, &c));
	clean(&c.text, &said);
	assert_non_null(
	        strstr((char *)said.p,
	               "s.yaml:4:34: db_password: a secret in a file that everybody can read: "
	               "chmod o-r s.yaml, or write file:PATH or ${NAME} instead\n"));
	assert_int_equal(chmod(path, 0640), 0);
	c.text.len = 0;
	assert_null(config_load(path, &c));
	clean(&c.text, &said);
	assert_null(strstr((char *)said.p, "everybody"));
	buf_deinit(&c.text);
	buf_deinit(&said);
	setenv("SL_PW", "x", 1);
	static const char *const fine[] = {"file:/run/pw", "${SL_PW}", "null"};
	for (size_t i = 0; i < 3; i++) {
		char other[256];
		snprintf(other, sizeof(other), P "consumers:\n  out: {type: null, token: \"%s\"}\n",
		         fine[i]);
		if (i == 2)
			strcpy(strstr(other, "\"null\""), "null}\n");
		put("s.yaml", other);
		assert_int_equal(chmod(path, 0644), 0);
		assert_null(config_load(path, &c));
		clean(&c.text, &said);
		assert_null(strstr((char *)said.p, "everybody"));
		buf_deinit(&c.text);
		buf_deinit(&said);
	}
}

static void missing_file(void **state)
{
	(void)state;
	struct complaints c = {0};
	assert_null(config_load("/nonexistent/sluice.yaml", &c));
	buf_add(&c.text, "", 1);
	assert_non_null(
	        strstr((char *)c.text.p,
	               "/nonexistent/sluice.yaml: cannot be read: No such file or directory\n"));
	buf_deinit(&c.text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(wrong_sections), cmocka_unit_test(steps_that_are_no_maps),
	        cmocka_unit_test(wrong_types),    cmocka_unit_test(wrong_names),
	        cmocka_unit_test(wrong_options),  cmocka_unit_test(wrong_steps),
	        cmocka_unit_test(wrong_from),     cmocka_unit_test(wrong_graph),
	        cmocka_unit_test(wrong_whole),    cmocka_unit_test(all_at_once),
	        cmocka_unit_test(secrets),        cmocka_unit_test(missing_file),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
