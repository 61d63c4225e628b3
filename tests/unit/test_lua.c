/*
 * The lua step and its box: values there and back, what a script may return, and everything a
 * script might try to get out, to stay for ever or to eat all memory.
 */
#include "tests/unit/steps.h"

#include <time.h>

/* A configuration whose process() has this body. */
static const char *script(const char *body, const char *more)
{
	static char text[8192];
	int n = snprintf(text, sizeof(text), "%sscript: |\n  function process(record)\n", more);
	for (const char *p = body; *p;) {
		int len = (int)strcspn(p, "\n");
		n += snprintf(text + n, sizeof(text) - (size_t)n, "    %.*s\n", len, p);
		p += len + (p[len] == '\n');
	}
	snprintf(text + n, sizeof(text) - (size_t)n, "  end\n");
	return text;
}

static void start(struct steps *s, const char *body)
{
	steps_start(s, "lua", script(body, ""));
}

static void test_values(void **state)
{
	struct steps *s = *state;
	static const char same[] =
	        "{\"z\":1,\"a\":\"x\",\"n\":null,\"l\":[],\"m\":{},\"big\":18446744073709551615,"
	        "\"f\":1.0,\"neg\":-5,\"nest\":{\"k\":[1,null,{\"y\":null,\"b\":[[]]}],\"a\":true}"
	        "}";
	start(s, "return record");
	steps_expect(s, same, same);
	steps_expect(s, "{}", "{}");
	start(s, "record.nest.k[3].q = 7\nrecord.a = nil\nrecord.c = 'new'\nrecord.b = {1, "
	         "2}\nreturn record");
	steps_expect(
	        s, same,
	        "{\"z\":1,\"n\":null,\"l\":[],\"m\":{},\"big\":18446744073709551615,\"f\":1.0,"
	        "\"neg\":-5,\"nest\":{\"k\":[1,null,{\"y\":null,\"b\":[[]],\"q\":7}],\"a\":true},"
	        "\"b\":[1,2],\"c\":\"new\"}");
	start(s, "return {copy = record.l, map = {}, list = array{}, big = record.big, [5] = 1.5}");
	steps_expect(s, same,
	             "{\"5\":1.5,\"big\":18446744073709551615,\"copy\":[],\"list\":[],\"map\":{}}");
	start(s, "record.t = tostring(record.big) .. (record.big > 1 and 'y' or 'n')\n"
	         "record.eq = record.big == record.big2\nreturn record");
	steps_expect(s, "{\"big\":18446744073709551615,\"big2\":18446744073709551615}",
	             "{\"big\":18446744073709551615,\"big2\":18446744073709551615,"
	             "\"eq\":true,\"t\":\"18446744073709551615y\"}");
	start(s, "record.l[1] = null\nrecord.h = upper(host(record.u))\nrecord.at = now()\nreturn "
	         "record");
	steps_expect(s, "{\"l\":[5],\"u\":\"http://a.b/c\"}",
	             "{\"l\":[null],\"u\":\"http://a.b/c\",\"at\":\"2023-11-14T22:13:20.000000Z\","
	             "\"h\":\"A.B\"}");
}

/* Bytes, not only meanings, come back as they were. */
static void test_identical(void **state)
{
	struct steps *s = *state;
	/* a long key head, a float64, bytes, an integer wider than needed, a float32 */
	static const uint8_t in[] = {0x84, 0xd9, 1,    'a', 0xcb, 0x3f, 0xf0, 0, 0,    0,   0,
	                             0,    0,    0xa1, 'b', 0xc4, 2,    0xff, 0, 0xa1, 'c', 0xcd,
	                             0,    7,    0xa1, 'd', 0xca, 0x3f, 0x80, 0, 0};
	const char *why;
	start(s, "return record");
	assert_int_equal(record_open(&s->r, in, sizeof(in), &why), 0);
	assert_int_equal(s->st.ops->transform(&s->st, &s->r), STAGE_OK);
	size_t n = record_write(&s->r, s->out);
	/* but for the head of the key, which record_write chooses */
	assert_int_equal(n, sizeof(in) - 1);
	assert_memory_equal(s->out + 2 + 1, in + 4, n - 3);
}

static void test_results(void **state)
{
	struct steps *s = *state;
	start(s, "if record.x then return record end");
	assert_int_equal(steps_run(s, "{}"), STAGE_E_FILTERED);
	assert_int_equal(steps_run(s, "{\"x\":1}"), STAGE_OK);
	start(s, "return {record, {y = 2}, {y = 3}}");
	assert_int_equal(steps_run(s, "{\"z\":1,\"a\":null}"), STAGE_E_EMITTED);
	assert_int_equal(s->host->n, 3);
	assert_string_equal(steps_json(s, s->host->items[0].p, s->host->items[0].len),
	                    "{\"z\":1,\"a\":null}");
	assert_string_equal(steps_json(s, s->host->items[2].p, s->host->items[2].len), "{\"y\":3}");
	start(s, "return {}");
	assert_int_equal(steps_run(s, "{\"z\":1}"), STAGE_E_EMITTED);
	assert_int_equal(s->host->n, 0);
	start(s, "for k in pairs(record) do record[k] = nil end return record");
	steps_expect(s, "{\"z\":1}", "{}");
	start(s, "n = (n or 0) + 1\nrecord.n = n\nreturn record");
	steps_expect(s, "{}", "{\"n\":1}");
	steps_expect(s, "{}", "{\"n\":2}");
}

static void rejects_at(struct steps *s, const char *body, const char *why, int line)
{
	/* fewer than by default: the test is to be over soon */
	steps_start(s, "lua", script(body, "instructions: 2000000\n"));
	int a = steps_run(s, "{\"s\":\"text\",\"l\":[1,2]}");
	if (a != STAGE_E_REJECT)
		fail_msg("line %d: answer %d", line, a);
	if (!strstr(s->st.why, why))
		fail_msg("line %d: %s", line, s->st.why);
	assert_int_equal(s->host->n, 0);
	/* the box is usable afterwards: the same again */
	assert_int_equal(steps_run(s, "{}"), STAGE_E_REJECT);
}

#define rejects(s, body, why) rejects_at(s, body, why, __LINE__)

static void test_errors(void **state)
{
	struct steps *s = *state;
	rejects(s, "local x = 1\nerror('no ' .. x)", "lua:3: no 1");
	rejects(s, "return record.nothing.x", "attempt to index a nil value");
	rejects(s, "return 5", "returned a number");
	rejects(s, "return {{a = 1}, 5}", "element 2 of the list is a number");
	rejects(s, "return {f = print or tostring}", "function is no value");
	rejects(s, "local t = {} t.t = t return t", "nested deeper");
	rejects(s, "return {[1.5] = 1}", "neither text nor an integer");
	rejects(s, "return {x = {[5] = 1, ['5'] = 2}}", "twice");
	rejects(s, "error({})", "an error without text");
	rejects(s, "error(setmetatable({}, {__tostring = function() return 'x' end}))",
	        "without text");
	/* a tree of tables that share is larger than it looks */
	rejects(s, "local t = {'x'} for i = 1, 60 do t = {a = t, b = t} end return t", "");
}

static void test_endless(void **state)
{
	struct steps *s = *state;
	rejects(s, "while true do end", "too many instructions");
	rejects(s, "while true do pcall(function() while true do end end) end",
	        "too many instructions");
	rejects(s, "local function f() pcall(f) return f() end return f()",
	        "too many instructions");
	rejects(s, "while true do pcall(error) end", "too many instructions");
	rejects(s, "return {x = ('x'):rep(1e9)}", "too large");
	rejects(s, "while true do local t = (''):rep(1e18) end", "too many instructions");
	rejects(s, "local a = ('a'):rep(1e5) return {x = a:find('.-.-.-.-.-b')}",
	        "too many instructions");
	rejects(s, "return {x = string.gsub(('a'):rep(3e4), '.-.-.-b', '')}",
	        "too many instructions");
	rejects(s, "for _ in string.gmatch(('a'):rep(1e5), '(.-)(.-)(.-)b') do end", "too many");
	rejects(s, "table.move({}, 1, 2^53, 2)", "too many instructions");
	rejects(s,
	        "table.concat(setmetatable({}, {__index = function() return '' end}), '', 1, 2^53)",
	        "too many instructions");
	rejects(s, "table.insert(setmetatable({}, {__len = function() return 2^53 end}), 1, 1)",
	        "__len");
	rejects(s, "table.sort(setmetatable({}, {__len = function() return 2^30 end}))", "__len");
	rejects(s, "setmetatable({}, {__gc = function() while true do end end})", "__gc");
	rejects(s,
	        "local x <close> = setmetatable({}, {__close = function() while true do end end})",
	        "too many instructions");
	rejects(s,
	        "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) return "
	        "t[1]",
	        "");
	rejects(s, "return load('return 1')()", "nil value");
	rejects(s, "local s = ('x'):rep(3e7) while true do local t = s .. 'y' end",
	        "too many instructions");
	rejects(s,
	        "local t = {} for i = 1, 1e5 do t[i] = 'x' .. i end while true do table.concat(t) "
	        "end",
	        "too many instructions");
}

static void test_memory(void **state)
{
	struct steps *s = *state;
	rejects(s, "local t = {} for i = 1, 1e9 do t[i] = {} end", "");
	rejects(s, "local s = 'x' while true do s = s .. s end", "");
	rejects(s,
	        "local t = {} while true do pcall(function() t[#t + 1] = ('x'):rep(1e6) end) end",
	        "");
	rejects(s, "local function f(...) return f(1, ...) end f()", "");
	/* a small box, and room in it again once the bomb is gone */
	steps_start(s, "lua",
	            script("if record.bomb then local t = {} for i = 1, 1e6 do t[i] = {} end end\n"
	                   "record.ok = ('x'):rep(1e5):len()\nreturn record",
	                   "memory: 2MiB\n"));
	assert_int_equal(steps_run(s, "{\"bomb\":1}"), STAGE_E_REJECT);
	assert_non_null(strstr(s->st.why, "bytes of memory"));
	steps_expect(s, "{}", "{\"ok\":100000}");
	steps_start(s, "lua",
	            script("for i = 1, 5000 do end return record", "instructions: 2000\n"));
	assert_int_equal(steps_run(s, "{}"), STAGE_E_REJECT);
}

static void test_escapes(void **state)
{
	struct steps *s = *state;
	static const char *const gone[] = {"io",      "os",        "debug",          "package",
	                                   "require", "load",      "loadstring",     "loadfile",
	                                   "dofile",  "coroutine", "collectgarbage", "print",
	                                   "warn",    "xpcall",    "string.dump",    "string.pack",
	                                   "_G.io",   "_G.load",   "_ENV.os",        "_G._LOADED"};
	for (size_t i = 0; i < sizeof(gone) / sizeof(*gone); i++) {
		char body[128];
		snprintf(body, sizeof(body), "record.gone = %s == nil return record", gone[i]);
		start(s, body);
		steps_expect(s, "{}", "{\"gone\":true}");
	}
	start(s, "record.m = getmetatable('') == false return record");
	steps_expect(s, "{}", "{\"m\":true}");
	rejects(s, "getmetatable('').__index.upper = nil", "index a boolean");
	rejects(s, "setmetatable('', {})", "table expected");
	rejects(s, "return {b = getmetatable(record.l).__name .. 1 .. nil}", "nil value");
	/* bytecode is not taken, whoever offers it */
	steps_refuse(s, "lua", "{script: \"\\eLua\"}", "binary");
}

static void test_patterns(void **state)
{
	struct steps *s = *state;
	start(s, "local r = {}\n"
	         "r.a = {('hello world'):find('o w')}\n"
	         "r.b = {('key = value'):match('^(%w+)%s*=%s*(%w+)$')}\n"
	         "r.c = {('hello'):gsub('l', 'L')}\n"
	         "r.d = {('abc'):gsub('%w', '%0%0')}\n"
	         "r.e = {('hello world'):gsub('o', {o = '0'})}\n"
	         "r.f = {('abc'):gsub('', '-')}\n"
	         "r.g = {('f(a(b)c)d'):match('%b()')}\n"
	         "r.h = {('THE (quick) fox'):find('%f[%a]%a+%f[%A]', 5)}\n"
	         "r.i = {('x=1, y=2'):gsub('(%w)=(%w)', '%2=%1')}\n"
	         "r.j = {('abab'):match('(ab)%1')}\n"
	         "r.k = {('  trim '):match('^%s*(.-)%s*$')}\n"
	         "r.l = {('a.b'):find('.', 1, true)}\n"
	         "r.m = {('abc'):find('b()')}\n"
	         "r.n = {('a-b]c'):gsub('[]-]', '_')}\n"
	         "r.o = {('2026-11-20'):match('(%d+)-(%d+)-(%d+)')}\n"
	         "r.p = {}\n"
	         "for k, v in ('a=1,b=2'):gmatch('(%w)=(%w)') do r.p[#r.p + 1] = k .. v end\n"
	         "r.q = {('abc'):gsub('b*', 'x')}\n"
	         "r.r = {('aaa'):gsub('a', 'b', 2)}\n"
	         "r.s = {('abc'):find('', 10) == nil, ('abc'):find('', 4)}\n"
	         "r.t = {('[x]'):match('[[]x[]]'), ('^'):match('[%^]'), ('äx'):match('[^a]')}\n"
	         "r.u = {('hello'):gsub('(l)(l)', function(a, b) return a:upper() .. b end)}\n"
	         "r.t[3] = nil\n"
	         "return r");
	steps_expect(
	        s, "{}",
	        "{\"a\":[5,7],\"b\":[\"key\",\"value\"],\"c\":[\"heLLo\",2],\"d\":[\"aabbcc\",3],"
	        "\"e\":[\"hell0 w0rld\",2],\"f\":[\"-a-b-c-\",4],\"g\":[\"(a(b)c)\"],\"h\":[6,10],"
	        "\"i\":[\"1=x, 2=y\",2],\"j\":[\"ab\"],\"k\":[\"trim\"],\"l\":[2,2],\"m\":[2,2,3],"
	        "\"n\":[\"a_b_c\",2],\"o\":[\"2026\",\"11\",\"20\"],\"p\":[\"a1\",\"b2\"],"
	        "\"q\":[\"xaxcx\",3],\"r\":[\"bba\",2],\"s\":[true,4,3],\"t\":[\"[x]\",\"^\"],"
	        "\"u\":[\"heLlo\",1]}");
	rejects(s, "return ('x'):find('[a')", "missing ']'");
	rejects(s, "return ('x'):find('%')", "ends with '%'");
	rejects(s, "return ('x'):find('(x')", "unfinished capture");
	rejects(s, "return ('x'):find('x)')", "invalid pattern capture");
	rejects(s, "return ('x'):gsub('x', '%9')", "invalid capture index");
	rejects(s, "return ('x'):rep(50):find(('(x'):rep(40))", "too many captures");
	rejects(s, "return ('x'):rep(1000):find(('x?'):rep(1000))", "too complex");
}

static void test_refused(void **state)
{
	struct steps *s = *state;
	steps_refuse(s, "lua", "{}", "either `script` or `file`");
	steps_refuse(s, "lua", "{script: x, file: y}", "either `script` or `file`");
	steps_refuse(s, "lua", "{script: \"function process(\"}", "lua:1:");
	steps_refuse(s, "lua", "{script: \"x = 1\"}", "does not define a function process");
	steps_refuse(s, "lua", "{script: \"while true do end\"}", "too many instructions");
	steps_refuse(s, "lua", "{file: /nonexistent/x.lua}", "No such file");
	steps_refuse(s, "lua", "{script: \"x = 1\", memory: 1}", "");
	steps_start(s, "lua", "{script: \"function f(r) r.x = 1 return r end\", function: f}");
	steps_expect(s, "{}", "{\"x\":1}");
}

static void bench(struct steps *s, const char *body)
{
	struct timespec a, b;
	const char *why;
	const int rounds = 50000;
	start(s, body);
	steps_open(s, "{\"time\":\"2026-11-20T10:00:00Z\",\"service\":\"shop\",\"level\":\"info\","
	              "\"latency\":7.5,\"msg\":\"order 4711 was taken\"}");
	static uint8_t in[4096];
	size_t len = record_write(&s->r, in);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	for (int i = 0; i < rounds; i++) {
		assert_int_equal(record_open(&s->r, in, len, &why), 0);
		assert_int_equal(s->st.ops->transform(&s->st, &s->r), STAGE_OK);
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
	printf("  %7.1f ns  %s\n", ns / rounds, body);
}

static void test_speed(void **state)
{
	struct steps *s = *state;
	bench(s, "return record");
	bench(s, "record.service = record.service:upper() return record");
	bench(s, "record.id = record.msg:match('order (%d+)') return record");
}

static int setup(void **state)
{
	*state = steps_new();
	return 0;
}

static int teardown(void **state)
{
	steps_free(*state);
	return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_values),  T(test_identical), T(test_results), T(test_errors),
	        T(test_endless), T(test_memory),    T(test_escapes), T(test_patterns),
	        T(test_refused), T(test_speed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
