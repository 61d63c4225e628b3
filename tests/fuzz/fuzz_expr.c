/*
 * Any text as an expression: it is refused with a complaint, or it means the same both ways. The
 * first byte chooses the record.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stages/expr.h"

static const char *const records[] = {
        "\x80",
        "\x85\xa1"
        "a\x01\xa1"
        "b\xcb\x40\x04\0\0\0\0\0\0\xa1"
        "s\xa4Text\xa1"
        "u\x81\xa1"
        "c\x07\xa1"
        "l\x93\x01\xc0\x03",
};
static const size_t lengths[] = {1, 34};

static bool same(const uint8_t *a, uint32_t n, const uint8_t *b, uint32_t m)
{
	struct mp x = record_value(a, n), y = record_value(b, m);
	if (x.type != y.type)
		return false;
	switch (x.type) {
	case MP_FLOAT:
		return x.d == y.d || (x.d != x.d && y.d != y.d);
	case MP_ARRAY:
	case MP_MAP:
		return x.n <= y.n; /* Lua keeps no nil values */
	default:
		return n == m && (n == 0 || memcmp(a, b, n) == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct stage_ops ops = {.name = "fuzz", .kind = STAGE_STEP};
	struct stage st = {.ops = &ops, .now = 1700000000000000000, .max_record = 65536};
	struct complaints c = {0};
	struct record r = {0};
	const char *why;
	if (size < 1 || size > 300)
		return 0;
	char *text = strndup((const char *)data + 1, size - 1);
	struct node n = {
	        .kind = NODE_SCALAR, .scalar = NODE_STRING, .text = text, .len = strlen(text)};
	struct expr *e = expr_compile(&n, true, &c);
	if (!e != (c.count > 0))
		abort();
	/* random() and addresses differ from run to run */
	if (e && !strstr(text, "random") && !strstr(text, "uuid")) {
		int k = data[0] & 1;
		if (record_open(&r, (const uint8_t *)records[k], lengths[k], &why) != 0)
			abort();
		const uint8_t *a, *b;
		uint32_t na, nb;
		int x = expr_eval(e, &st, &r, &a, &na), y = expr_eval_lua(e, &st, &r, &b, &nb);
		if (expr_native(e) && (x != y || !same(a, na, b, nb))) {
			fprintf(stderr, "%s: %d, %d (%s)\n", text, x, y, st.why);
			abort();
		}
	}
	record_deinit(&r);
	expr_free(e);
	buf_deinit(&c.text);
	free(text);
	return 0;
}
