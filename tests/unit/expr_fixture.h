/*
 * What the tests of expressions share: a stage and a record to evaluate on, by the tree or by Lua,
 * and the result as text.
 */
#pragma once

#include "tests/unit/steps.h"

#include <math.h>

#include "stages/expr_tree.h"

static const struct stage_ops dummy = {.name = "dummy", .kind = STAGE_STEP};

struct expr_test {
	struct steps *s;
	struct stage st;
	struct node n;
};

static inline int setup(void **state)
{
	struct expr_test *t = calloc(1, sizeof(*t));
	t->s = steps_new();
	host_stage(t->s->host, &t->st, &dummy, NULL);
	*state = t;
	return 0;
}

static inline int teardown(void **state)
{
	struct expr_test *t = *state;
	free(t->st.state);
	steps_free(t->s);
	free(t);
	return 0;
}

static inline struct expr *compile(struct expr_test *t, const char *text, struct complaints *c)
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
static inline void show(struct expr_test *t, int answer, const uint8_t *val, uint32_t len, char *to,
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

static inline void evaluate(struct expr_test *t, struct expr *e, bool lua, char *to, size_t n)
{
	const uint8_t *val = NULL;
	uint32_t len = 0;
	int a = lua ? expr_eval_lua(e, &t->st, &t->s->r, &val, &len)
	            : expr_eval(e, &t->st, &t->s->r, &val, &len);
	show(t, a, val, len, to, n);
}

/* The record that most expressions here are about. */
static const char json[] = "{\"a\":1,\"b\":2.5,\"s\":\"Text\",\"e\":\"\",\"t\":true,\"f\":false,"
                           "\"z\":null,\"u\":{\"c\":\"DE\",\"n\":{\"x\":7}},\"l\":[1,null,3],"
                           "\"x.y\":\"dot\",\"x\":{\"y\":\"path\"},\"big\":18446744073709551615,"
                           "\"len\":\"field\",\"Installed-Size\":42,\"um\":\"\xc3\xa4\xc3\xb6\","
                           "\"min\":-9223372036854775808,\"empty\":[],\"url\":"
                           "\"https://User@Example.ORG:8080/a/b?q#f\"}";

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
