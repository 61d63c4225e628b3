/*
 * The YAML reader: scalars, places, variables, refusals by hand; then the yaml-test-suite when it
 * is there
 * (../shared/data/yaml, made from github.com/yaml/yaml-test-suite): what libyaml refuses is
 * refused, what it takes has the right value or was refused on purpose.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/yaml.h"

struct loaded {
	struct yaml_tree tree;
	struct complaints c;
	struct node *root;
	char *said; /* complaints as a string */
};

static void load(struct loaded *l, const char *text, size_t len)
{
	memset(l, 0, sizeof(*l));
	l->root = yaml_parse(&l->tree, "t", text, len, &l->c);
	buf_add(&l->c.text, "", 1);
	l->said = (char *)l->c.text.p;
}

static void unload(struct loaded *l)
{
	yaml_deinit(&l->tree);
	buf_deinit(&l->c.text);
}

static void refused(const char *text, const char *said)
{
	struct loaded l;
	load(&l, text, strlen(text));
	assert_string_equal(l.said, said);
	unload(&l);
}

static void scalars(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		enum node_scalar scalar;
		int64_t i;
		double d;
	} cases[] = {
	        {"null", NODE_NULL, 0, 0},
	        {"~", NODE_NULL, 0, 0},
	        {"Null", NODE_NULL, 0, 0},
	        {"nULL", NODE_STRING, 0, 0},
	        {"true", NODE_BOOL, 1, 0},
	        {"FALSE", NODE_BOOL, 0, 0},
	        {"yes", NODE_STRING, 0, 0},
	        {"off", NODE_STRING, 0, 0},
	        {"0", NODE_INT, 0, 0},
	        {"-0", NODE_INT, 0, 0},
	        {"012", NODE_INT, 12, 12},
	        {"0o17", NODE_INT, 15, 15},
	        {"0xfF", NODE_INT, 255, 255},
	        {"+7", NODE_INT, 7, 7},
	        {"-9223372036854775808", NODE_INT, INT64_MIN, -9223372036854775808.0},
	        {"9223372036854775807", NODE_INT, INT64_MAX, 9223372036854775807.0},
	        {"1_000", NODE_STRING, 0, 0},
	        {"0b1", NODE_STRING, 0, 0},
	        {"-0x1", NODE_STRING, 0, 0},
	        {"1.5", NODE_FLOAT, 0, 1.5},
	        {".5", NODE_FLOAT, 0, .5},
	        {"5.", NODE_FLOAT, 0, 5},
	        {"1e3", NODE_FLOAT, 0, 1000},
	        {"-1.5E-1", NODE_FLOAT, 0, -.15},
	        {"-.inf", NODE_FLOAT, 0, -INFINITY},
	        {".", NODE_STRING, 0, 0},
	        {"1e", NODE_STRING, 0, 0},
	        {"1.2.3", NODE_STRING, 0, 0},
	        {"0x", NODE_STRING, 0, 0},
	        {"+", NODE_STRING, 0, 0},
	        {"inf", NODE_STRING, 0, 0},
	        {"2001-12-14", NODE_STRING, 0, 0},
	        {"12:30:45", NODE_STRING, 0, 0},
	        {"\"5\"", NODE_STRING, 0, 0},
	        {"'true'", NODE_STRING, 0, 0},
	        {"\"\"", NODE_STRING, 0, 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct loaded l;
		load(&l, cases[i].text, strlen(cases[i].text));
		assert_string_equal(l.said, "");
		if (l.root->scalar != cases[i].scalar)
			print_error("%s\n", cases[i].text);
		assert_int_equal(l.root->scalar, cases[i].scalar);
		if (l.root->scalar == NODE_BOOL)
			assert_int_equal(l.root->b, cases[i].i);
		if (l.root->scalar == NODE_INT)
			assert_true(l.root->i == cases[i].i);
		if (l.root->scalar == NODE_INT || l.root->scalar == NODE_FLOAT)
			assert_true(l.root->d == cases[i].d);
		unload(&l);
	}
}

static void big_numbers(void **state)
{
	(void)state;
	struct loaded l;
	load(&l, "18446744073709551615", 20);
	assert_int_equal(l.root->scalar, NODE_INT);
	assert_true(l.root->u == UINT64_MAX && l.root->i == INT64_MAX);
	unload(&l);
	load(&l, ".nan", 4);
	assert_true(isnan(l.root->d));
	unload(&l);
	refused("a: 18446744073709551616\n",
	        "t:1:4: no 64 bits hold the number 18446744073709551616: put it in quotes to make "
	        "it a string\n");
	refused("a: -9223372036854775809\n",
	        "t:1:4: no 64 bits hold the number -9223372036854775809: put it in quotes to make "
	        "it a string\n");
}

static void places(void **state)
{
	(void)state;
	static const char text[] = "# c\n"
	                           "a:\n"
	                           "  b: x\n"
	                           "  \"\xc3\xa4\": {c: y, d: [1, z]}\n"
	                           "  e: |\n"
	                           "    text\n";
	struct loaded l;
	load(&l, text, sizeof(text) - 1);
	assert_string_equal(l.said, "");
	const struct node *a = node_get(l.root, "a"), *u = node_get(a, "\xc3\xa4");
	assert_int_equal(a->line, 3);
	assert_int_equal(a->column, 3);
	assert_int_equal(node_get(a, "b")->column, 6);
	assert_int_equal(node_get(u, "c")->line, 4);
	assert_int_equal(node_get(u, "c")->column, 12); /* characters, not bytes */
	assert_int_equal(node_get(u, "d")->items[1]->column, 22);
	assert_true(node_get(a, "e")->quoted);
	assert_string_equal(node_get(a, "e")->text, "text\n");
	assert_string_equal(a->file, "t");
	assert_null(node_get(a, "nothing"));
	assert_null(node_get(u->items[1], "x"));
	unload(&l);
}

static void expands(const char *text, enum node_scalar scalar, const char *result)
{
	struct loaded l;
	load(&l, text, strlen(text));
	assert_string_equal(l.said, "");
	assert_string_equal(l.root->text, result);
	assert_int_equal(l.root->scalar, scalar);
	unload(&l);
}

static void variables(void **state)
{
	(void)state;
	setenv("SL_N", "42", 1);
	setenv("SL_S", "a b", 1);
	setenv("SL_AGAIN", "${SL_N} $$ {x: 1} # no", 1);
	setenv("SL_EMPTY", "", 1);
	unsetenv("SL_NO");
	expands("${SL_N}", NODE_INT, "42");
	expands("\"${SL_N}\"", NODE_STRING, "42");
	expands("'${SL_N}'", NODE_STRING, "42");
	expands("0x${SL_N}", NODE_INT, "0x42");
	expands("a${SL_S}c${SL_N}", NODE_STRING, "aa bc42");
	expands("${SL_AGAIN}", NODE_STRING, "${SL_N} $$ {x: 1} # no");
	expands("${SL_NO:-}", NODE_NULL, "");
	expands("${SL_NO:-true}", NODE_BOOL, "true");
	expands("\"${SL_NO:-true}\"", NODE_STRING, "true");
	expands("${SL_EMPTY:-7}", NODE_INT, "7");
	expands("${SL_EMPTY}", NODE_NULL, "");
	expands("${SL_NO:-a:-b}", NODE_STRING, "a:-b");
	expands("${SL_NO:-$SL_N$$}", NODE_STRING, "$SL_N$$");
	expands("$$", NODE_STRING, "$");
	expands("$${SL_N}", NODE_STRING, "${SL_N}");
	expands("$$$$x", NODE_STRING, "$$x");
	expands("^a$", NODE_STRING, "^a$");
	expands("$5 $x", NODE_STRING, "$5 $x");
	expands("|\n  ${SL_N}\n", NODE_STRING, "42\n");
	refused("a: 1\nb: [x, \"${SL_NO}\"]\n",
	        "t:2:8: environment variable SL_NO is not set, and no default is given "
	        "(${SL_NO:-default})\n");
	static const char shape[] =
	        "t:1:1: expected ${NAME} or ${NAME:-default}; a plain $ is written $$\n";
	refused("x${", shape);
	refused("x${SL_N", shape);
	refused("x${}", shape);
	refused("x${1A}", shape);
	refused("x${SL_N-1}", shape);
	refused("x${SL_N:1}", shape);
}

static void refusals(void **state)
{
	(void)state;
	refused("a: &x 1\nb: *x\n", "t:2:4: aliases are not supported (*x): write the value out\n");
	refused("a: &x 1\n", "");
	refused("a:\n  <<: {b: 1}\n",
	        "t:2:3: merge keys (<<) are not supported: write the keys out\n");
	refused("'<<': 1\n", "");
	refused("a: 1\nb: 2\na: 3\n\"a\": 4\n",
	        "t:3:1: duplicate key \"a\": it is at line 1 already\n"
	        "t:4:1: duplicate key \"a\": it is at line 1 already\n");
	refused("x: {b: 1, b: 2}\n", "t:1:11: duplicate key \"b\": it is at line 1 already\n");
	refused("a: 1\n---\nb: 1\n", "t:2:1: a second document starts here: one per file\n");
	refused("---\na: 1\n...\n", "");
	refused("a: !!str 5\n",
	        "t:1:4: tags are not supported (tag:yaml.org,2002:str): quote a value to "
	        "make it a string\n");
	refused("a: !x {b: 1}\n",
	        "t:1:4: tags are not supported (!x): quote a value to make it a string\n");
	refused("? [a]\n: 1\n", "t:1:3: a key must be a word, not a list\n");
	refused("a: {? {x: 1} : 2}\n", "t:1:7: a key must be a word, not a map\n");
	refused("a:\n  ?\n  : 1\n", "t:2:4: a key is missing before the colon\n");
	refused("\"a\\0b\": 1\n", "t:1:1: a NUL character cannot stand in a key\n");
	refused("a:\n\t- b\n", "t:2:1: a tab cannot indent: use spaces\n");
	refused("a: [1, 2\n",
	        "t:2:1: did not find expected ',' or ']' (while parsing a flow sequence "
	        "that starts at line 1)\n");
	refused("a: b: c\n", "t:1:5: mapping values are not allowed in this context\n");
	refused("a: 1\nb: \xff\n", "t:2:4: invalid leading UTF-8 octet\n");
	refused("a: \x01\n", "t:1:4: control characters are not allowed\n");
	refused("", "");
	refused("# nothing\n", "");
}

static void expressions(void **state)
{
	(void)state;
	refused("- {h: =xxh64(a, b)}\n", "t:1:7: the brackets or quotes of =xxh64(a do not "
	                                 "balance: put the expression in quotes "
	                                 "(inside { } and [ ] a comma ends a value)\n");
	refused("- {h: \"=xxh64(a, b)\"}\n", "");
	refused("- {h: =f(a .. '(')}\n", "");
	refused("- {h: ==a(}\n", "");
	refused("- h: =xxh64(a, b)\n", "");
}

static void depth(void **state)
{
	(void)state;
	char text[201];
	struct loaded l;
	memset(text, '[', 64);
	memset(text + 64, ']', 64);
	load(&l, text, 128);
	assert_string_equal(l.said, "");
	unload(&l);
	memset(text, '[', 100);
	memset(text + 100, ']', 100);
	load(&l, text, 200);
	assert_string_equal(l.said, "t:1:65: nested more than 64 deep\n");
	unload(&l);
}

static void nuls(void **state)
{
	(void)state;
	struct loaded l;
	load(&l, "\"a\\0b\"", 6);
	assert_int_equal(l.root->len, 3);
	assert_memory_equal(l.root->text, "a\0b", 4);
	unload(&l);
}

static void added(void **state)
{
	(void)state;
	struct loaded l;
	load(&l, "{a: 1, b: 2, c: 3}", 18);
	for (int i = 0; i < 100; i++) {
		char key[16];
		snprintf(key, sizeof(key), "k%d", i);
		struct node *k = yaml_string(&l.tree, l.root, key);
		assert_int_equal(yaml_add(&l.tree, l.root, k, yaml_string(&l.tree, l.root, key)),
		                 0);
	}
	assert_int_equal(l.root->n, 103);
	assert_string_equal(node_get(l.root, "c")->text, "3");
	assert_string_equal(node_get(l.root, "k0")->text, "k0");
	assert_string_equal(node_get(l.root, "k99")->text, "k99");
	unload(&l);
}

static void files(void **state)
{
	(void)state;
	struct yaml_tree t = {0};
	struct complaints c = {0};
	char path[] = "/tmp/sluice-yaml-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0 && write(fd, "a: 1\n", 5) == 5 && fchmod(fd, 0604) == 0);
	close(fd);
	struct node *n = yaml_read(&t, path, &c);
	assert_int_equal(node_get(n, "a")->i, 1);
	assert_int_equal(t.files->mode & 0777, 0604);
	assert_string_equal(n->file, path);
	unlink(path);
	assert_null(yaml_read(&t, path, &c));
	assert_null(yaml_read(&t, "/", &c));
	buf_add(&c.text, "", 1);
	char want[200];
	snprintf(want, sizeof(want),
	         "%s: cannot be read: No such file or directory\n/: cannot be read: Is a "
	         "directory\n",
	         path);
	assert_string_equal((char *)c.text.p, want);
	buf_deinit(&c.text);
	yaml_deinit(&t);
}

/* JSON, just enough to compare: each function returns the byte behind what it read, NULL when
 * different. */

static const char *blanks(const char *s)
{
	return s + strspn(s, " \t\n");
}

static unsigned hex4(const char *s)
{
	char d[5] = {s[0], s[1], s[2], s[3], 0};
	return (unsigned)strtoul(d, NULL, 16);
}

static void add_utf8(struct buf *out, unsigned u)
{
	if (u < 0x80) {
		buf_add_byte(out, (uint8_t)u);
	} else if (u < 0x800) {
		buf_add_byte(out, (uint8_t)(0xc0 | u >> 6));
		buf_add_byte(out, (uint8_t)(0x80 | (u & 63)));
	} else if (u < 0x10000) {
		buf_add_byte(out, (uint8_t)(0xe0 | u >> 12));
		buf_add_byte(out, (uint8_t)(0x80 | (u >> 6 & 63)));
		buf_add_byte(out, (uint8_t)(0x80 | (u & 63)));
	} else {
		buf_add_byte(out, (uint8_t)(0xf0 | u >> 18));
		buf_add_byte(out, (uint8_t)(0x80 | (u >> 12 & 63)));
		buf_add_byte(out, (uint8_t)(0x80 | (u >> 6 & 63)));
		buf_add_byte(out, (uint8_t)(0x80 | (u & 63)));
	}
}

static const char *json_string(const char *s, struct buf *out)
{
	static const char from[] = "ntrbf\"\\/", to[] = "\n\t\r\b\f\"\\/";
	out->len = 0;
	for (s++; *s != '"'; s++) {
		if (*s != '\\') {
			buf_add_byte(out, (uint8_t)*s);
			continue;
		}
		s++;
		if (*s == 'u') {
			unsigned u = hex4(s + 1);
			s += 4;
			if (u >= 0xd800 && u < 0xdc00) {
				u = 0x10000 + ((u - 0xd800) << 10) + (hex4(s + 3) - 0xdc00);
				s += 6;
			}
			add_utf8(out, u);
		} else {
			buf_add_byte(out, (uint8_t)to[strchr(from, *s) - from]);
		}
	}
	return s + 1;
}

static const char *same(const char *s, const struct node *n);

static const char *same_items(const char *s, const struct node *n, bool map)
{
	struct buf key = {0};
	size_t i = 0;
	s = blanks(s + 1);
	for (; s && *s != ']' && *s != '}'; i++) {
		const struct node *v = !map && i < n->n ? n->items[i] : NULL;
		if (map) {
			s = blanks(blanks(json_string(s, &key)) + 1);
			buf_add_byte(&key, 0);
			v = node_get(n, (char *)key.p);
		}
		s = v ? same(s, v) : NULL;
		if (s)
			s = blanks(s);
		if (s && *s == ',')
			s = blanks(s + 1);
	}
	buf_deinit(&key);
	return s && i == n->n ? s + 1 : NULL;
}

static const char *same(const char *s, const struct node *n)
{
	if (*s == '{' || *s == '[') {
		enum node_kind kind = *s == '{' ? NODE_MAP : NODE_SEQ;
		return n->kind == kind ? same_items(s, n, kind == NODE_MAP) : NULL;
	}
	if (n->kind != NODE_SCALAR)
		return NULL;
	if (*s == '"') {
		struct buf text = {0};
		s = json_string(s, &text);
		bool equal = n->scalar == NODE_STRING && n->len == text.len &&
		             (text.len == 0 || memcmp(n->text, text.p, text.len) == 0);
		buf_deinit(&text);
		return equal ? s : NULL;
	}
	if (*s == 'n')
		return n->scalar == NODE_NULL ? s + 4 : NULL;
	if (*s == 't')
		return n->scalar == NODE_BOOL && n->b ? s + 4 : NULL;
	if (*s == 'f')
		return n->scalar == NODE_BOOL && !n->b ? s + 5 : NULL;
	char *end;
	double d = strtod(s, &end);
	return (n->scalar == NODE_INT || n->scalar == NODE_FLOAT) && n->d == d ? end : NULL;
}

static bool on_purpose(const char *said)
{
	static const char *const reasons[] = {"aliases are not supported",
	                                      "tags are not supported",
	                                      "merge keys",
	                                      "duplicate key",
	                                      "a second document",
	                                      "a key must be a word",
	                                      "a key is missing"};
	for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
		if (strstr(said, reasons[i]))
			return true;
	return false;
}

static const char *member(const char *line, const char *name)
{
	char key[64];
	snprintf(key, sizeof(key), "\"%s\": ", name);
	const char *p = strstr(line, key);
	assert_non_null(p);
	return p + strlen(key);
}

/* libyaml 0.2.5 reads these otherwise than YAML 1.2 says: "?" directly before a word in flow style
 * is its key indicator, ":" ends an anchor's name, and a last line of blanks is no line. */
static bool libyaml_differs(const char *line)
{
	static const char *const cases[] = {"\"652Z\", \"case\": 0", "\"HM87\", \"case\": 1",
	                                    "\"Y2GN\", \"case\": 0", "\"L24T\", \"case\": 1"};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (strncmp(member(line, "id"), cases[i], strlen(cases[i])) == 0)
			return true;
	return false;
}

/* True when the case came out with a value that was compared. */
static bool suite_case(const char *line, struct buf *yaml)
{
	struct loaded l;
	json_string(member(line, "yaml"), yaml);
	load(&l, yaml->p ? (char *)yaml->p : "", yaml->len);
	bool compared = false;
	/* members in the order of the file: the last ones stand behind all text */
	const char *docs = member(line, "json_docs");
	bool accepts = strncmp(member(docs, "libyaml_accepts"), "true", 4) == 0;
	if (!accepts) {
		if (!*l.said)
			fail_msg("not refused: %.60s", line);
	} else if (*l.said) {
		if (!on_purpose(l.said))
			fail_msg("refused: %.60s\n%s", line, l.said);
	} else if (*docs == '[' && docs[1] != ']' && l.root && !libyaml_differs(line)) {
		const char *end = same(docs + 1, l.root);
		if (!end || *end != ']')
			fail_msg("another value: %.60s\n%s", line, docs);
		compared = true;
	}
	unload(&l);
	return compared;
}

static void suite(void **state)
{
	(void)state;
	const char *env = getenv("SLUICE_DATA");
	const char *const dirs[] = {env ? env : "../shared/data", "../shared/data",
	                            "../../shared/data"};
	FILE *f = NULL;
	for (size_t i = 0; i < 3 && !f; i++) {
		char path[512];
		snprintf(path, sizeof(path), "%s/yaml/yaml-test-suite.ndjson", dirs[i]);
		f = fopen(path, "re");
	}
	if (!f) {
		print_message("skipped: no yaml-test-suite here\n");
		skip();
	}
	char *line = NULL;
	size_t cap = 0;
	unsigned cases = 0, compared = 0;
	struct buf yaml = {0};
	for (; getline(&line, &cap, f) > 0; cases++)
		compared += suite_case(line, &yaml);
	print_message("%u cases, %u values compared\n", cases, compared);
	assert_true(cases > 400 && compared > 120);
	free(line);
	buf_deinit(&yaml);
	fclose(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(scalars),  cmocka_unit_test(big_numbers),
	        cmocka_unit_test(places),   cmocka_unit_test(variables),
	        cmocka_unit_test(refusals), cmocka_unit_test(expressions),
	        cmocka_unit_test(depth),    cmocka_unit_test(nuls),
	        cmocka_unit_test(added),    cmocka_unit_test(files),
	        cmocka_unit_test(suite),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
