/*
 * Expressions: what they mean, what is refused, and the native way against Lua's on generated
 * expressions and records.
 */
#include "tests/unit/steps.h"

#include <math.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "stages/expr_tree.h"

static const struct stage_ops dummy = {.name = "dummy", .kind = STAGE_STEP};

struct expr_test {
	struct steps *s;
	struct stage st;
	struct node n;
};

static int setup(void **state)
{
	struct expr_test *t = calloc(1, sizeof(*t));
	t->s = steps_new();
	host_stage(t->s->host, &t->st, &dummy, NULL);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct expr_test *t = *state;
	free(t->st.state);
	steps_free(t->s);
	free(t);
	return 0;
}

static struct expr *compile(struct expr_test *t, const char *text, struct complaints *c)
{
	t->n = (struct node){.kind = NODE_SCALAR,
	                     .scalar = NODE_STRING,
	                     .text = (char *)text,
	                     .len = strlen(text),
	                     .file = "test",
	                     .line = 3,
	                     .column = 7};
	return expr_compile(&t->n, true, c);
}

/* The value as JSON; "nil"; "!" for a runtime error. */
static void show(struct expr_test *t, int answer, const uint8_t *val, uint32_t len, char *to,
                 size_t n)
{
	if (answer == STAGE_E_REJECT) {
		snprintf(to, n, "!");
		return;
	}
	assert_int_equal(answer, 0);
	if (!val) {
		snprintf(to, n, "nil");
		return;
	}
	struct mp v = record_value(val, len);
	if (v.type == MP_FLOAT &&
	    !isfinite(v.d)) { /* JSON has no word for them; the NaN's sign is lost */
		snprintf(to, n, "%s", isnan(v.d) ? "nan" : v.d > 0 ? "inf" : "-inf");
		return;
	}
	/* in a record, for the codec writes nothing else */
	struct record r = {0};
	assert_int_equal(record_set(&r, "v", 1, val, len), 0);
	assert_true(record_size(&r) <= sizeof(t->s->out));
	const char *json = steps_json(t->s, t->s->out, record_write(&r, t->s->out));
	snprintf(to, n, "%.*s", (int)strlen(json) - 6, json + 5);
	record_deinit(&r);
}

static void evaluate(struct expr_test *t, struct expr *e, bool lua, char *to, size_t n)
{
	const uint8_t *val = NULL;
	uint32_t len = 0;
	int a = lua ? expr_eval_lua(e, &t->st, &t->s->r, &val, &len)
	            : expr_eval(e, &t->st, &t->s->r, &val, &len);
	show(t, a, val, len, to, n);
}

/* Both ways give @want for @text on @json. */
static void expect_at(struct expr_test *t, const char *json, const char *text, const char *want,
                      int native, int line)
{
	struct complaints c = {0};
	char got[4096];
	struct expr *e = compile(t, text, &c);
	if (!e)
		fail_msg("line %d: %s", line, (char *)c.text.p);
	assert_int_equal(expr_open(e), 0);
	if (native >= 0 && expr_native(e) != native)
		fail_msg("line %d: %s: native %d", line, text, expr_native(e));
	for (int lua = 0; lua < 2; lua++) {
		steps_open(t->s, json);
		evaluate(t, e, lua, got, sizeof(got));
		if (strcmp(got, want) != 0)
			fail_msg("line %d: %s by %s: %s (%s), not %s", line, text,
			         lua ? "Lua" : "tree", got, t->st.why, want);
	}
	expr_free(e);
}

#define native(text, want) expect_at(t, json, text, want, 1, __LINE__)
#define by_lua(text, want) expect_at(t, json, text, want, 0, __LINE__)
#define either(text, want) expect_at(t, json, text, want, -1, __LINE__)

static const char json[] = "{\"a\":1,\"b\":2.5,\"s\":\"Text\",\"e\":\"\",\"t\":true,\"f\":false,"
                           "\"z\":null,\"u\":{\"c\":\"DE\",\"n\":{\"x\":7}},\"l\":[1,null,3],"
                           "\"x.y\":\"dot\",\"x\":{\"y\":\"path\"},\"big\":18446744073709551615,"
                           "\"len\":\"field\",\"Installed-Size\":42,\"um\":\"\xc3\xa4\xc3\xb6\","
                           "\"min\":-9223372036854775808,\"empty\":[],\"url\":"
                           "\"https://User@Example.ORG:8080/a/b?q#f\"}";

static void test_values(void **state)
{
	struct expr_test *t = *state;
	native("a", "1");
	native("s", "\"Text\"");
	native("missing", "nil");
	native("z", "nil");
	native("u.c", "\"DE\"");
	native("u.n.x", "7");
	native("u.n.y.z", "nil");
	native("s.x.y", "nil");
	native("x.y", "\"dot\"");
	native("u", "{\"c\":\"DE\",\"n\":{\"x\":7}}");
	native("l", "[1,null,3]");
	native("empty", "[]");
	native("big", "18446744073709551615");
	native("field('Installed-Size')", "42");
	native("Installed-Size", "nil"); /* a difference of two missing fields */
	native("nil", "nil");
	native("not z", "true");
	native("1e2", "100.0");
	native("9223372036854775808", "9.223372036854776e18");
	native("'a\\n\\'b'", "\"a\\n'b\"");
	native("len", "\"field\"");
	native("len(len)", "5");
	by_lua("l[1]", "1");
	by_lua("u['c']", "\"DE\"");
	by_lua("u .c", "\"DE\"");
	by_lua("[[long]]", "\"long\"");
	by_lua("{1, a, u.c}", "[1,1,\"DE\"]");
	by_lua("{s = a, [\"b\"] = s}", "{\"b\":\"Text\",\"s\":1}");
	by_lua("l[2] == null", "true");
	by_lua("s:upper()", "\"TEXT\"");
	by_lua("a & 3", "1");
	by_lua("0x10", "16");
	by_lua("(function(n) return n * 2 end)(a)", "2");
	by_lua("type(s)", "\"string\"");
	by_lua("math.pi > 3", "true");
	by_lua("string.format('%d-%s', a, s)", "\"1-Text\"");
	native("#l", "3");
}

static void test_operators(void **state)
{
	struct expr_test *t = *state;
	native("a + 1 == 2 and b < 3", "true");
	native("a + b", "3.5");
	native("7 // 2", "3");
	native("-7 // 2", "-4");
	native("-7 % 3", "2");
	native("7 % -3", "-2");
	native("7 / 2", "3.5");
	native("2 ^ 3 ^ 2", "512.0");
	native("-2 ^ 2", "-4.0");
	native("7 // 0", "!");
	native("1 // 0.0", "inf");
	native("min - 1", "9223372036854775807");
	native("min // -1", "-9223372036854775808");
	native("'10' + 1", "11");
	native("s .. a .. b", "\"Text12.5\"");
	native("s .. 1.0", "\"Text1.0\"");
	native("s .. 1e100", "\"Text1e+100\"");
	native("s .. big", "\"Text18446744073709551615\"");
	native("s .. t", "!");
	native("#s", "4");
	native("1 == 1.0", "true");
	native("'1' == 1", "false");
	native("t == true and f == false", "true");
	native("big > 5", "true");
	native("big == big", "true");
	native("big > 1e300", "false");
	native("'a' < 'b'", "true");
	native("'3' > '1' and '1' < '3' and 'c' >= 'a'", "true");
	native("-0.0 - 0", "0.0");
	native("a < 'b'", "!");
	native("t < 1", "!");
	native("u == u.n", "false");
	native("u == 5", "false");
	native("f or z or s", "\"Text\"");
	native("t and nil", "nil");
	native("1 < 2 == true", "true");
	native("not a == nil", "false");
	native("#u", "0");
	native("big + 1", "!");
}

/* A missing field is nil; nil in, nil out; nil is in no order. */
static void test_nil(void **state)
{
	struct expr_test *t = *state;
	native("m + 1", "nil");
	native("1 - m", "nil");
	native("-m", "nil");
	native("#m", "nil");
	native("m .. 'x'", "nil");
	native("'x' .. m", "nil");
	native("m < 1", "false");
	native("1 >= m", "false");
	native("'x' > m", "false");
	native("t < m", "false");
	native("big < m", "false");
	native("not (m < 1)", "true");
	native("m == nil", "true");
	native("upper(m)", "nil");
	native("md5(m)", "nil");
	native("default(m, z, 5)", "5");
	native("max(1, m)", "nil");
	native("m.x.y .. 'a'", "nil");
	by_lua("m[1].x .. 'a'", "nil");
}

static void test_functions(void **state)
{
	struct expr_test *t = *state;
	native("upper(s) .. lower(s)", "\"TEXTtext\"");
	native("upper(um)", "\"\xc3\xa4\xc3\xb6\"");
	native("upper(a)", "\"1\"");
	native("upper(t)", "!");
	native("trim('  a b\\t ')", "\"a b\"");
	native("trim(e)", "\"\"");
	native("len(um)", "2");
	native("len(l) + len(u)", "5");
	native("len(t)", "!");
	native("substr(s, 2)", "\"ext\"");
	native("substr(s, 2, 2)", "\"ex\"");
	native("substr(s, -2)", "\"xt\"");
	native("substr(s, -2, 1)", "\"x\"");
	native("substr(um, 2, 1)", "\"\xc3\xb6\"");
	native("substr(s, 9)", "\"\"");
	native("substr(s, 1, 0)", "\"\"");
	native("substr(s, 1, -3)", "\"\"");
	native("substr(12345, 2, 2)", "\"23\"");
	native("replace('a.b.c', '.', '--')", "\"a--b--c\"");
	native("replace(s, e, 'x')", "\"Text\"");
	native("replace('aaa', 'aa', 'b')", "\"ba\"");
	native("split('a,b,,c', ',')", "[\"a\",\"b\",\"\",\"c\"]");
	native("split(e, ',')", "[\"\"]");
	native("split(s, e)", "!");
	native("match(s, '^T.*t$')", "true");
	native("match(s, '(?i)tEXT')", "true");
	native("match(s, 'q')", "false");
	native("match(s, s .. '(')", "!");
	native("capture('id=42;', 'id=(\\\\d+)')", "\"42\"");
	native("capture('id=42;', 'x=(\\\\d+)')", "nil");
	native("capture(s, '(x)|(T)', 2)", "\"T\"");
	native("host(url)", "\"example.org\"");
	native("urlpath(url)", "\"/a/b\"");
	native("urlpath('http://x')", "\"/\"");
	native("host('http://[::1]:80/')", "\"[::1]\"");
	native("host('nothing')", "nil");
	native("tostring(a) .. tostring(t)", "\"1true\"");
	native("tostring(big)", "\"18446744073709551615\"");
	native("tonumber(' 12 ')", "12");
	native("tonumber('1.5e1')", "15.0");
	native("tonumber('0x10')", "nil");
	native("tonumber('12x')", "nil");
	native("int('7.9')", "7");
	native("int(-7.9)", "-7");
	native("int(1e300)", "nil");
	native("int(t)", "1");
	native("float(a)", "1.0");
	native("floor(-1.5)", "-2");
	native("ceil(-1.5)", "-1");
	native("round(2.5)", "3");
	native("round(2.345, 2)", "2.35");
	native("abs(min)", "9223372036854775808");
	native("min(3, a, b)", "1");
	native("max(3, a, b)", "3");
	native("max(big, 1)", "18446744073709551615");
	native("max(a, s)", "!");
	native("xxh64('abc')", "\"44bc2cf5ad770999\"");
	native("xxh64(e)", "\"ef46db3751d8e999\"");
	native("md5('abc')", "\"900150983cd24fb0d6963f7d28e17f72\"");
	native("md5(123)", "\"202cb962ac59075b964b07152d234b70\"");
	native("sha1('abc')", "\"a9993e364706816aba3e25717850c26c9cd0d89d\"");
	native("sha256(e)", "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"");
	native("md5(u)", "!");
	native("now()", "\"2023-11-14T22:13:20.000000Z\"");
	native("epoch()", "1700000000.0");
	native("len(uuid())", "36");
	native("match(uuid(), '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-')", "true");
	native("uuid() == uuid()", "false");
	by_lua("upper(l[4])", "nil");
	by_lua("len({1, 2, 3})", "3");
}

static void refuse(struct expr_test *t, const char *text, const char *why)
{
	struct complaints c = {0};
	struct expr *e = compile(t, text, &c);
	if (e)
		fail_msg("%s was taken", text);
	assert_int_equal(buf_add_byte(&c.text, 0), 0);
	if (!strstr((char *)c.text.p, why) || !strstr((char *)c.text.p, "test:3:7: "))
		fail_msg("%s: %s", text, (char *)c.text.p);
	buf_deinit(&c.text);
}

static void test_refused(void **state)
{
	struct expr_test *t = *state;
	refuse(t, "", "ends too early");
	refuse(t, "a +", "ends too early, at character 4");
	refuse(t, "a b", "expected an operator, at character 3");
	refuse(t, "upper(a", "brackets do not match");
	refuse(t, "'abc", "unfinished string");
	refuse(t, "upper()", "takes 1 to 1 arguments, not 0");
	refuse(t, "uppr(a)", "did you mean upper()?");
	refuse(t, "l[1", "']' expected");
	refuse(t, "a; os.exit()", "near");
	refuse(t, "1 return 2", "expected");
	refuse(t, "x = 5", "expected");
	refuse(t, "end", "near 'end'");
	refuse(t, "match(a, '[')", "pattern");
	refuse(t, "12abc", "malformed number");
	refuse(t, "1, 2", "");
	char deep[3000];
	memset(deep, '(', 1400);
	deep[1400] = 0;
	refuse(t, deep, "nested too deep");
}

static void test_sandbox(void **state)
{
	struct expr_test *t = *state;
	by_lua("(function() return io end)()", "nil");
	by_lua("(function() return os end)()", "nil");
	by_lua("(function() return load or dofile or require or debug or coroutine end)()", "nil");
	by_lua("(function() y = 1 end)()", "!");
	by_lua("(function() string.upper = nil end)()", "!");
	by_lua("(function() while true do end end)()", "!");
	by_lua("(function() while true do pcall(function() while true do end end) end end)()", "!");
	by_lua("('x'):rep(1e9)", "!");
	by_lua("(function() return getmetatable('').__index end)()", "!");
	by_lua("getmetatable(nil)", "false");
	/* and it still works afterwards */
	by_lua("s:upper()", "\"TEXT\"");
}

/* ---- both ways against each other ---- */

static uint64_t seed = 88172645463325252u;

static unsigned pick(unsigned n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)((seed >> 11) % n);
}

static void gen(struct buf *b, unsigned depth)
{
	static const char *const leaves[] = {"a",
	                                     "b",
	                                     "s",
	                                     "e",
	                                     "t",
	                                     "f",
	                                     "z",
	                                     "u",
	                                     "u.c",
	                                     "u.n.x",
	                                     "l",
	                                     "big",
	                                     "min",
	                                     "missing",
	                                     "x.y",
	                                     "num",
	                                     "neg",
	                                     "nan0",
	                                     "nil",
	                                     "true",
	                                     "false",
	                                     "0",
	                                     "1",
	                                     "-3",
	                                     "2.5",
	                                     "1e15",
	                                     "9007199254740993",
	                                     "9223372036854775807",
	                                     "'abc'",
	                                     "'10'",
	                                     "' 7.5 '",
	                                     "''",
	                                     "'Text'"};
	static const char *const binary[] = {"+",  "-",  "*", "/",  "//", "%",  "^",   "..",
	                                     "==", "~=", "<", "<=", ">",  ">=", "and", "or"};
	static const char *const one[] = {"upper",    "lower", "trim",  "len",   "tostring",
	                                  "tonumber", "int",   "float", "floor", "ceil",
	                                  "round",    "abs",   "xxh64", "md5",   "host"};
	static const char *const two[] = {"default", "min",   "max",  "substr",
	                                  "match",   "split", "round"};
	unsigned k = depth == 0 ? 0 : pick(10);
	if (k < 2) {
		buf_add_str(b, leaves[pick(sizeof(leaves) / sizeof(*leaves))]);
	} else if (k < 7) {
		bool brackets = pick(2);
		buf_add_str(b, brackets ? "(" : "");
		gen(b, depth - 1);
		buf_printf(b, " %s ", binary[pick(sizeof(binary) / sizeof(*binary))]);
		gen(b, depth - 1);
		buf_add_str(b, brackets ? ")" : "");
	} else if (k == 7) {
		static const char *const unary[] = {"not ", "- ", "#"};
		buf_add_str(b, unary[pick(3)]);
		gen(b, depth - 1);
	} else if (k == 8) {
		buf_printf(b, "%s(", one[pick(sizeof(one) / sizeof(*one))]);
		gen(b, depth - 1);
		buf_add_str(b, ")");
	} else {
		buf_printf(b, "%s(", two[pick(sizeof(two) / sizeof(*two))]);
		gen(b, depth - 1);
		buf_add_str(b, ", ");
		gen(b, depth - 1);
		buf_add_str(b, ")");
	}
}

static const char *const records[] = {
        json,
        "{}",
        "{\"a\":-5,\"b\":0.0,\"s\":\"5\",\"e\":\" "
        "\",\"t\":0,\"u\":null,\"num\":3,\"neg\":-0.0,\"l\":[]}",
        "{\"a\":9223372036854775807,\"b\":1e308,\"s\":\"text\",\"u\":{\"c\":5,\"n\":{\"x\":\"y\"}},"
        "\"num\":9007199254740993,\"neg\":-9007199254740993.0,\"big\":9223372036854775808}",
        "{\"a\":\"1\",\"b\":\"x\",\"s\":12,\"e\":2.25,\"t\":\"true\",\"f\":[],\"num\":1.5,\"neg\":-"
        "1}",
};

static void test_both_ways(void **state)
{
	struct expr_test *t = *state;
	const char *rounds = getenv("SLUICE_EXPR_ROUNDS");
	unsigned n = rounds ? (unsigned)atoi(rounds) : 20000, ran = 0, natively = 0, errors = 0;
	struct buf b = {0};
	for (unsigned i = 0; i < n; i++) {
		struct complaints c = {0};
		b.len = 0;
		gen(&b, 1 + pick(4));
		buf_add_byte(&b, 0);
		struct expr *e = compile(t, (char *)b.p, &c);
		buf_deinit(&c.text);
		if (!e)
			continue;
		natively += expr_native(e);
		for (size_t k = 0; k < sizeof(records) / sizeof(*records); k++, ran++) {
			char tree[8192], lua[8192];
			steps_open(t->s, records[k]);
			evaluate(t, e, false, tree, sizeof(tree));
			steps_open(t->s, records[k]);
			evaluate(t, e, true, lua, sizeof(lua));
			errors += tree[0] == '!';
			if (strcmp(tree, lua) != 0)
				fail_msg("%s on %s: tree %s, Lua %s", (char *)b.p, records[k], tree,
				         lua);
		}
		expr_free(e);
	}
	buf_deinit(&b);
	printf("  %u evaluations both ways, %u expressions native, %u errors alike\n", ran,
	       natively, errors);
	assert_true(natively > n / 2 && ran > 4 * n && errors > 0);
}

/* ---- the public vectors, where they are at hand ---- */

/* Opens a file of the shared data, or says that the test is skipped. */
static FILE *shared_file(const char *name)
{
	const char *dirs[] = {getenv("SLUICE_DATA"), "../shared/data", "../../shared/data"};
	for (int i = 0; i < 3; i++) {
		char path[4096];
		if (!dirs[i])
			continue;
		snprintf(path, sizeof(path), "%s/%s", dirs[i], name);
		FILE *f = fopen(path, "re");
		if (f)
			return f;
	}
	print_message("  SKIP: no %s\n", name);
	return NULL;
}

static size_t unhex(const char *hex, uint8_t *to)
{
	size_t n = 0;
	for (unsigned v; sscanf(hex, "%2x", &v) == 1; hex += 2)
		to[n++] = (uint8_t)v;
	return n;
}

/* NIST's short messages: Len in bits, Msg, MD. */
static unsigned digest_file(struct expr_test *t, const char *file, const char *text)
{
	FILE *f = shared_file(file);
	char line[4096], got[256];
	static uint8_t msg[4096], val[4200];
	unsigned bits = 0, n = 0;
	if (!f)
		return 0;
	struct complaints c = {0};
	struct expr *e = compile(t, text, &c);
	assert_non_null(e);
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\r\n")] = 0;
		if (sscanf(line, "Len = %u", &bits) == 1)
			continue;
		if (strncmp(line, "Msg = ", 6) == 0)
			unhex(line + 6, msg);
		if (strncmp(line, "MD = ", 5) != 0)
			continue;
		uint8_t *end = mp_write_bin(val, msg, bits / 8);
		record_clear(&t->s->r);
		assert_int_equal(record_set(&t->s->r, "s", 1, val, (uint32_t)(end - val)), 0);
		for (int lua = 0; lua < 2; lua++, n++) {
			evaluate(t, e, lua, got, sizeof(got));
			got[strlen(got) - 1] = 0;
			assert_string_equal(got + 1, line + 5);
		}
	}
	fclose(f);
	expr_free(e);
	return n;
}

static void test_vectors(void **state)
{
	struct expr_test *t = *state;
	static const char *const files[][2] = {{"hash/SHA1ShortMsg.rsp", "sha1(s)"},
	                                       {"hash/SHA256ShortMsg.rsp", "sha256(s)"}};
	for (int i = 0; i < 2; i++) {
		unsigned n = digest_file(t, files[i][0], files[i][1]);
		printf("  %s: %u digests\n", files[i][0], n);
	}
}

/* The next {...} of a file of them; text inside quotes is passed over. */
static bool next_object(FILE *f, char *to, size_t size)
{
	int depth = 0, c;
	size_t n = 0;
	bool quoted = false;
	while ((c = getc(f)) != EOF) {
		if (depth && n + 1 < size)
			to[n++] = (char)c;
		if (quoted && c == '\\') {
			c = getc(f);
			if (depth && n + 1 < size)
				to[n++] = (char)c;
		} else if (c == '"') {
			quoted = !quoted;
		} else if (!quoted && c == '{' && depth++ == 0) {
			to[n++] = '{';
		} else if (!quoted && c == '}' && --depth == 0) {
			to[n] = 0;
			return true;
		}
	}
	return false;
}

/* An http(s) URL with nothing in its host that a browser would rewrite. */
static bool plain_url(const char *url)
{
	size_t scheme = strncasecmp(url, "http://", 7) == 0    ? 7
	                : strncasecmp(url, "https://", 8) == 0 ? 8
	                                                       : 0;
	size_t n = strcspn(url + scheme, "/?#\\");
	bool letters = false;
	if (!scheme || n == 0 || strpbrk(url, "\t\r\n"))
		return false;
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)url[scheme + i];
		if (c <= ' ' || c >= 127 || strchr("%<>^|\"`{}[]", c))
			return false;
		letters = letters || ((c | 32) >= 'g' && (c | 32) <= 'z');
	}
	/* a number at the end makes it an address to browsers, written in their way */
	const char *dot = memrchr(url + scheme, '.', n);
	char last = dot ? dot[1] : url[scheme];
	return letters && !(last >= '0' && last <= '9');
}

static bool field_text(struct record *r, const char *name, char *to, size_t size)
{
	const struct field *f = record_get(r, name, strlen(name));
	struct mp v = record_value(f ? f->val : NULL, f ? f->val_len : 0);
	if (v.type != MP_STR || v.len >= size)
		return false;
	memcpy(to, v.p, v.len);
	to[v.len] = 0;
	return strlen(to) == v.len;
}

/* The web platform's URL cases: host() is the host of every plain one that browsers take. */
static void test_urls(void **state)
{
	struct expr_test *t = *state;
	FILE *f = shared_file("url/urltestdata.json");
	static char text[65536], url[4096], want[4096], got[8192];
	unsigned n = 0;
	if (!f)
		return;
	struct complaints c = {0};
	struct expr *e = compile(t, "host(input)", &c);
	assert_non_null(e);
	while (next_object(f, text, sizeof(text))) {
		size_t len;
		const char *why;
		struct codec_window w = {
		        .p = (uint8_t *)text, .end = (uint8_t *)text + strlen(text), .last = true};
		if (t->s->json.ops->decode(&t->s->json, &w, t->s->in, sizeof(t->s->in), &len) !=
		    CODEC_E_OK)
			continue; /* lone surrogates */
		assert_int_equal(record_open(&t->s->r, t->s->in, len, &why), 0);
		if (!field_text(&t->s->r, "input", url, sizeof(url)) || !plain_url(url) ||
		    !field_text(&t->s->r, "hostname", want + 1, sizeof(want) - 2))
			continue;
		want[0] = '"';
		strcat(want, "\"");
		evaluate(t, e, false, got, sizeof(got));
		if (strcmp(got, want) != 0)
			fail_msg("%s: %s, not %s", url, got, want);
		n++;
	}
	fclose(f);
	expr_free(e);
	printf("  %u plain URLs\n", n);
	assert_true(n > 50);
}

static void bench(struct expr_test *t, const char *text, bool lua)
{
	struct timespec a, b;
	struct complaints c = {0};
	struct expr *e = compile(t, text, &c);
	const int rounds = 100000;
	assert_non_null(e);
	steps_open(t->s, json);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	for (int i = 0; i < rounds; i++) {
		const uint8_t *val;
		uint32_t len;
		if (i % 1000 == 0)
			steps_open(t->s, json);
		assert_int_equal(lua ? expr_eval_lua(e, &t->st, &t->s->r, &val, &len)
		                     : expr_eval(e, &t->st, &t->s->r, &val, &len),
		                 0);
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
	printf("  %7.1f ns  %s  %s\n", ns / rounds, lua ? "Lua " : "tree", text);
	expr_free(e);
}

static void test_speed(void **state)
{
	struct expr_test *t = *state;
	static const char *const texts[] = {
	        "a",     "upper(s)", "a > 5 and s == 'x'", "s .. '-' .. a",
	        "now()", "xxh64(s)", "sha256(s)",          "host(url)"};
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		bench(t, texts[i], false);
		bench(t, texts[i], true);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_values),  T(test_operators), T(test_nil),       T(test_functions),
	        T(test_refused), T(test_sandbox),   T(test_both_ways), T(test_vectors),
	        T(test_urls),    T(test_speed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
