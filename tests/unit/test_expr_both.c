/*
 * Expressions, the native way against Lua's: the same results on generated expressions and records,
 * and the time that each takes.
 */
#include "tests/unit/expr_fixture.h"

#include <time.h>

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
	                                     "null.x",
	                                     "math.pi.x",
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
        "{\"null\":{\"x\":3},\"math\":{\"pi\":{\"x\":\"p\"}},\"a\":1}",
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_both_ways),
	        T(test_speed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
