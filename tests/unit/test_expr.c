/*
 * Expressions: what they mean, natively and by Lua, and what is refused.
 */
#include "tests/unit/expr_fixture.h"

/* Both ways give @want for @text on the record @on. */
static void expect_at(struct expr_test *t, const char *on, const char *text, const char *want,
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
		steps_open(t->s, on);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_values),    T(test_operators), T(test_nil),
	        T(test_functions), T(test_refused),   T(test_sandbox),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
