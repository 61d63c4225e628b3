/*
 * Expressions against public test vectors, where they are at hand: NIST's for the digests, the web
 * platform's for host().
 */
#include "tests/unit/expr_fixture.h"

#include <strings.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(test_vectors),
	        T(test_urls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
