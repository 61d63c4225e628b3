/* Option tables: every type, its limits, its messages; hints; the printed reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/yaml.h"

struct sub {
	int64_t depth;
	const char *need;
};

struct conf {
	bool flag;
	int64_t count;
	double ratio;
	const char *name, *empty;
	uint64_t size;
	int64_t wait;
	int mode;
	struct strings list;
	const struct node *tree;
	struct sub sub;
};

static const char *const modes[] = {"fast", "slow", "careful", NULL};

static const struct option sub_table[] = {
        {"depth", OPTION_INT, offsetof(struct sub, depth), .def = "3", .help = "how deep"},
        {"need", OPTION_STRING, offsetof(struct sub, need), .required = true, .help = "a must"},
        OPTION_END,
};

static const struct option table[] = {
        {"flag", OPTION_BOOL, offsetof(struct conf, flag), .def = "true", .help = "a flag"},
        {"count", OPTION_INT, offsetof(struct conf, count), .def = "7", .min = 1, .max = 64,
         .help = "a count"},
        {"ratio", OPTION_FLOAT, offsetof(struct conf, ratio), .def = "0.5", .min = 0, .max = 1,
         .help = "a ratio"},
        {"name", OPTION_STRING, offsetof(struct conf, name), .def = "5", .help = "a name"},
        {"empty", OPTION_STRING, offsetof(struct conf, empty), .def = "", .help = "may be empty"},
        {"size", OPTION_SIZE, offsetof(struct conf, size), .def = "64KiB", .min = 4096,
         .max = 1073741824, .help = "a size"},
        {"wait", OPTION_DURATION, offsetof(struct conf, wait), .def = "5ms", .min = 0.001,
         .max = 86400, .help = "a wait"},
        {"mode", OPTION_ENUM, offsetof(struct conf, mode), .def = "slow", .choices = modes,
         .help = "a mode"},
        {"list", OPTION_STRINGS, offsetof(struct conf, list), .def = "one", .help = "some"},
        {"tree", OPTION_NODE, offsetof(struct conf, tree), .help = "anything"},
        {"sub", OPTION_SUB, offsetof(struct conf, sub), .sub = sub_table, .help = "a map"},
        OPTION_END,
};

struct parsed {
	struct yaml_tree tree;
	struct complaints c;
	struct conf conf;
};

static void parse(struct parsed *p, const char *text)
{
	static const char *const ignore[] = {"type", "from", NULL};
	memset(p, 0, sizeof(*p));
	const struct node *n = yaml_parse(&p->tree, "t", text, strlen(text), &p->c);
	option_parse(table, n, ignore, &p->conf, &p->c);
	buf_add(&p->c.text, "", 1);
}

static void done(struct parsed *p)
{
	option_free(table, &p->conf);
	assert_null(p->conf.list.v);
	buf_deinit(&p->c.text);
	yaml_deinit(&p->tree);
}

static void says(const char *text, const char *said)
{
	struct parsed p;
	parse(&p, text);
	assert_string_equal((char *)p.c.text.p, said);
	done(&p);
}

static void defaults(void **state)
{
	(void)state;
	struct complaints c = {0};
	struct conf v = {0};
	option_parse(table, NULL, NULL, &v, &c);
	assert_int_equal(c.count, 0);
	assert_true(v.flag);
	assert_int_equal(v.count, 7);
	assert_true(v.ratio == 0.5);
	assert_string_equal(v.name, "5");
	assert_string_equal(v.empty, "");
	assert_int_equal(v.size, 65536);
	assert_int_equal(v.wait, 5000000);
	assert_int_equal(v.mode, 1);
	assert_int_equal(v.list.n, 1);
	assert_string_equal(v.list.v[0], "one");
	assert_null(v.tree);
	assert_int_equal(v.sub.depth, 3);
	option_free(table, &v);
}

static void values(void **state)
{
	(void)state;
	struct parsed p;
	parse(&p,
	      "type: x\nflag: false\ncount: 64\nratio: 1\nname: 'n'\nempty: e\nsize: 1MiB\n"
	      "wait: 2m\nmode: careful\nlist: [a, 'b']\ntree: {x: 1}\nsub: {depth: 9, need: y}\n");
	assert_string_equal((char *)p.c.text.p, "");
	assert_false(p.conf.flag);
	assert_int_equal(p.conf.count, 64);
	assert_true(p.conf.ratio == 1.0);
	assert_string_equal(p.conf.name, "n");
	assert_string_equal(p.conf.empty, "e");
	assert_int_equal(p.conf.size, 1048576);
	assert_int_equal(p.conf.wait, INT64_C(120000000000));
	assert_int_equal(p.conf.mode, 2);
	assert_int_equal(p.conf.list.n, 2);
	assert_string_equal(p.conf.list.v[1], "b");
	assert_int_equal(node_get(p.conf.tree, "x")->i, 1);
	assert_int_equal(p.conf.sub.depth, 9);
	done(&p);
}

static void sizes(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0},
	            {"5", 5},
	            {"5B", 5},
	            {"64KiB", 65536},
	            {"1GiB", 1073741824},
	            {"2TiB", 2199023255552},
	            {"\"7\"", 7},
	            {"18446744073709551615", UINT64_MAX}};
	static const struct {
		const char *text, *said;
	} bad[] = {
	        {"64KB", "t:1:1: expected a size such as 64KiB, got \"64KB\": write 64KiB\n"},
	        {"10k", "t:1:1: expected a size such as 64KiB, got \"10k\": write 10KiB\n"},
	        {"1 GB", "t:1:1: expected a size such as 64KiB, got \"1 GB\": write 1GiB\n"},
	        {"16mb", "t:1:1: expected a size such as 64KiB, got \"16mb\": write 16MiB\n"},
	        {"1.5GiB",
	         "t:1:1: expected a size such as 64KiB, 1MiB, 1GiB or bytes, got \"1.5GiB\"\n"},
	        {"-1", "t:1:1: expected a size such as 64KiB, 1MiB, 1GiB or bytes, got \"-1\"\n"},
	        {"big", "t:1:1: expected a size such as 64KiB, 1MiB, 1GiB or bytes, got \"big\"\n"},
	        {"true",
	         "t:1:1: expected a size such as 64KiB, 1MiB, 1GiB or bytes, got \"true\"\n"},
	        {"[]", "t:1:1: expected a size such as 64KiB, got a list\n"},
	        {"99999999TiB", "t:1:1: size 99999999TiB is too large\n"},
	};
	struct yaml_tree t = {0};
	struct complaints c = {0};
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		uint64_t v = 1;
		assert_true(option_size(yaml_parse(&t, "t", good[i].text, strlen(good[i].text), &c),
		                        &v, &c));
		assert_true(v == good[i].bytes);
	}
	assert_int_equal(c.count, 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		uint64_t v;
		c.text.len = 0;
		assert_false(option_size(yaml_parse(&t, "t", bad[i].text, strlen(bad[i].text), &c),
		                         &v, &c));
		buf_add(&c.text, "", 1);
		assert_string_equal((char *)c.text.p, bad[i].said);
	}
	buf_deinit(&c.text);
	yaml_deinit(&t);
}

static void durations(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t ns;
	} good[] = {{"0", 0},
	            {"0s", 0},
	            {"5us", 5000},
	            {"5ms", 5000000},
	            {"1s", 1000000000},
	            {"2m", INT64_C(120000000000)},
	            {"1h", INT64_C(3600000000000)},
	            {"1d", INT64_C(86400000000000)}};
	static const struct {
		const char *text, *said;
	} bad[] = {
	        {"5", "t:1:1: expected a duration, got 5 without a unit: write 5s or 5ms\n"},
	        {"5sec", "t:1:1: expected a duration such as 5ms, got \"5sec\": write 5s\n"},
	        {"10 minutes",
	         "t:1:1: expected a duration such as 5ms, got \"10 minutes\": write 10m\n"},
	        {"1.5s", "t:1:1: expected a duration such as 5ms, 1s, 2m or 1h, got \"1.5s\"\n"},
	        {"1h30m", "t:1:1: expected a duration such as 5ms, 1s, 2m or 1h, got \"1h30m\"\n"},
	        {"-1s", "t:1:1: expected a duration such as 5ms, 1s, 2m or 1h, got \"-1s\"\n"},
	        {"soon", "t:1:1: expected a duration such as 5ms, 1s, 2m or 1h, got \"soon\"\n"},
	        {"{a: 1}", "t:1:1: expected a duration such as 5ms, got a map\n"},
	        {"99999999999d", "t:1:1: duration 99999999999d is too long\n"},
	};
	struct yaml_tree t = {0};
	struct complaints c = {0};
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		int64_t v = 1;
		assert_true(option_duration(
		        yaml_parse(&t, "t", good[i].text, strlen(good[i].text), &c), &v, &c));
		assert_true(v == good[i].ns);
	}
	assert_int_equal(c.count, 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		int64_t v;
		c.text.len = 0;
		assert_false(option_duration(
		        yaml_parse(&t, "t", bad[i].text, strlen(bad[i].text), &c), &v, &c));
		buf_add(&c.text, "", 1);
		assert_string_equal((char *)c.text.p, bad[i].said);
	}
	buf_deinit(&c.text);
	yaml_deinit(&t);
}

static void wrong_values(void **state)
{
	(void)state;
	says("flag: yes\n", "t:1:7: flag: expected true or false (here: true), got \"yes\"\n");
	says("flag: 1\n", "t:1:7: flag: expected true or false, got \"1\"\n");
	says("flag: {}\n", "t:1:7: flag: expected true or false, got a map\n");
	says("flag:\n", "t:1:6: flag: expected true or false, got nothing\n");
	says("count: 0\n", "t:1:8: count: 0 is out of range: 1 to 64\n");
	says("count: 65\n", "t:1:8: count: 65 is out of range: 1 to 64\n");
	says("count: 1.5\n", "t:1:8: count: expected a whole number, got \"1.5\"\n");
	says("count: '5'\n", "t:1:8: count: expected a whole number, got \"5\"\n");
	says("count: 18446744073709551615\n", "t:1:8: count: 18446744073709551615 is too large\n");
	says("ratio: 1.5\n", "t:1:8: ratio: 1.5 is out of range: 0 to 1\n");
	says("ratio: .nan\n", "t:1:8: ratio: expected a number, got \".nan\"\n");
	says("name: 12\n", "t:1:7: name: expected a string, got a number (12): put it in quotes\n");
	says("name: true\n",
	     "t:1:7: name: expected a string, got true or false (true): put it in quotes\n");
	says("name: ''\n", "t:1:7: name: must not be empty\n");
	says("empty: ''\n", "");
	says("name: \"a\\0b\"\n", "t:1:7: name: a NUL character cannot stand here\n");
	says("name: [a]\n", "t:1:7: name: expected a string, got a list\n");
	says("size: 1KiB\n", "t:1:7: size: 1KiB is out of range: 4KiB to 1GiB\n");
	says("wait: 1us\n", "t:1:7: wait: 1us is out of range: 1ms to 1d\n");
	says("wait: 25h\n", "t:1:7: wait: 25h is out of range: 1ms to 1d\n");
	says("mode: crazy\n", "t:1:7: mode: expected fast, slow or careful, got \"crazy\"\n");
	says("mode: fsat\n",
	     "t:1:7: mode: expected fast, slow or careful, got \"fsat\": did you mean \"fast\"?\n");
	says("list: {}\n", "t:1:7: expected a string or a list of strings, got a map\n");
	says("list: []\n", "t:1:7: expected a string or a list of strings, got an empty list\n");
	says("list: [a, 5, '']\n", "t:1:11: expected a string, got a number (5): put it in quotes\n"
	                           "t:1:14: expected a string, got an empty one\n");
	says("[a]", "t:1:1: expected a map, got a list\n");
	says("word", "t:1:1: expected a map, got a string\n");
}

static void keys(void **state)
{
	(void)state;
	says("from: a\nname: b\ncuont: 5\n",
	     "t:3:1: unknown key \"cuont\": did you mean \"count\"?\n");
	says("fron: a\n", "t:1:1: unknown key \"fron\": did you mean \"from\"?\n");
	says("zzzzzzz: a\n",
	     "t:1:1: unknown key \"zzzzzzz\": known here: flag, count, ratio, name, "
	     "empty, size, wait, mode, list, tree, sub, type, from\n");
	says("sub: {need: x, dept: 4}\n",
	     "t:1:16: unknown key \"dept\": did you mean \"depth\"?\n");
	says("sub: {depth: 4}\n", "t:1:6: missing key \"need\": a must\n");
	says("sub:\n", "t:1:5: missing key \"need\": a must\n");
	says("sub: 5\n", "t:1:6: expected a map, got a number\n");
	says("{}", "");
	/* all at once, and a wrong value leaves the default behind */
	struct parsed p;
	parse(&p, "count: 0\nsize: x\nflagg: true\n");
	assert_int_equal(p.c.count, 3);
	assert_int_equal(p.conf.count, 7);
	assert_int_equal(p.conf.size, 65536);
	done(&p);
}

static void bad_nodes_are_quiet(void **state)
{
	(void)state;
	unsetenv("SL_NO");
	says("count: ${SL_NO}\nname: ${SL_NO}\n",
	     "t:1:8: environment variable SL_NO is not set, and no default is given "
	     "(${SL_NO:-default})\n"
	     "t:2:7: environment variable SL_NO is not set, and no default is given "
	     "(${SL_NO:-default})\n");
	says("count: 5\nname: a\ncount: ab\n",
	     "t:3:1: duplicate key \"count\": it is at line 1 already\n");
}

static void nearest(void **state)
{
	(void)state;
	static const char *const names[] = {"path", "codec", "listen", "type"};
	assert_string_equal(option_nearest("paht", names, 4), "path");
	assert_null(option_nearest("pth", (const char *const[]){"path2x"}, 1));
	assert_string_equal(option_nearest("lisen", names, 4), "listen");
	assert_string_equal(option_nearest("lsiten", names, 4), "listen");
	assert_string_equal(option_nearest("codecc", names, 4), "codec");
	assert_null(option_nearest("ty", names, 4)); /* half its length */
	assert_null(option_nearest("pa", names, 4));
	assert_null(option_nearest("listeners", names, 4));
	assert_null(option_nearest("", names, 4));
	char word[200];
	memset(word, 'a', 199);
	word[199] = '\0';
	assert_null(option_nearest(word, names, 4));
}

static void control_characters(void **state)
{
	(void)state;
	says("\"a\\nb\\e\": 1\nname: x\n", "t:1:1: unknown key \"a\\nb\\x1b\": known here: flag, "
	                                   "count, ratio, name, empty, size, "
	                                   "wait, mode, list, tree, sub, type, from\n");
}

static void printed(void **state)
{
	(void)state;
	struct buf out = {0};
	option_print_text(table, &out);
	buf_add(&out, "", 1);
	assert_non_null(strstr((char *)out.p,
	                       "size                   size             64KiB        "
	                       "a size\n"));
	assert_non_null(strstr((char *)out.p,
	                       "sub.need               string           (required)   "
	                       "a must\n"));
	assert_non_null(strstr((char *)out.p, "a mode (fast | slow | careful)\n"));
	out.len = 0;
	option_print_json(table, &out);
	/* JSON is YAML: what comes out reads back */
	struct yaml_tree t = {0};
	struct complaints c = {0};
	const struct node *n = yaml_parse(&t, "t", out.p, out.len, &c);
	assert_int_equal(c.count, 0);
	assert_int_equal(n->n, 11);
	assert_string_equal(node_get(n->items[1], "default")->text, "7");
	assert_int_equal(node_get(n->items[1], "max")->i, 64);
	assert_int_equal(node_get(n->items[7], "choices")->n, 3);
	assert_int_equal(node_get(n->items[10], "options")->n, 2);
	assert_true(node_get(node_get(n->items[10], "options")->items[1], "required")->b);
	yaml_deinit(&t);
	buf_deinit(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(defaults),
	        cmocka_unit_test(values),
	        cmocka_unit_test(sizes),
	        cmocka_unit_test(durations),
	        cmocka_unit_test(wrong_values),
	        cmocka_unit_test(keys),
	        cmocka_unit_test(bad_nodes_are_quiet),
	        cmocka_unit_test(nearest),
	        cmocka_unit_test(control_characters),
	        cmocka_unit_test(printed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
