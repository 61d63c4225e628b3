/*
 * The steps keep, remove, rename and explode.
 */
#include "tests/unit/text.h"

static void test_remove(void **state)
{
	(void)state;
	text_step_gives("[{remove: [a, b.c, none, x.y.z]}]",
	                "{\"a\":1,\"b\":{\"c\":2,\"d\":3},\"e\":4,\"x\":5}",
	                "{\"b\":{\"d\":3},\"e\":4,\"x\":5}\n");
	text_step_gives("[{remove: a}]", "{\"a\":1}", "{}\n");
	text_step_gives("[{remove: a.b}]", "{\"a.b\":1,\"a\":{\"b\":2}}", "{\"a\":{\"b\":2}}\n");
	text_step_refused("[{remove: {a: b}}]", "expected");
	text_step_refused("[{remove: []}]", "expected");
}

static void test_keep(void **state)
{
	(void)state;
	text_step_gives("[{keep: [e, a, none]}]", "{\"a\":1,\"b\":2,\"c\":3,\"e\":[4]}",
	                "{\"a\":1,\"e\":[4]}\n");
	text_step_gives("[{keep: [u.country, id, u.geo.lat, no.such]}]",
	                "{\"u\":{\"name\":\"x\",\"country\":\"de\",\"geo\":{\"lat\":1,\"lon\":2}},"
	                "\"id\":7}",
	                "{\"id\":7,\"u\":{\"country\":\"de\",\"geo\":{\"lat\":1}}}\n");
	text_step_gives("[{keep: [u, u.a]}]", "{\"u\":{\"a\":1,\"b\":2},\"v\":1}",
	                "{\"u\":{\"a\":1,\"b\":2}}\n");
	text_step_gives("[{keep: x}]", "{\"a\":1,\"b\":2}", "{}\n");
	text_step_gives("[{keep: a.b}]", "{\"a.b\":1,\"a\":{\"b\":2}}", "{\"a.b\":1}\n");
	/* long names have longer heads: the size must stay exact */
	text_step_gives("[{keep: a}]",
	                "{\"a\":1,\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\":\"y\"}",
	                "{\"a\":1}\n");
	text_step_refused("[{keep: {a: b}}]", "expected");
}

static void test_rename(void **state)
{
	(void)state;
	text_step_gives("[{rename: {a: x, none: y}}]", "{\"a\":1,\"b\":2}", "{\"x\":1,\"b\":2}\n");
	text_step_gives("[{rename: {a: b}}]", "{\"a\":1,\"b\":2,\"c\":3}", "{\"b\":1,\"c\":3}\n");
	text_step_gives("[{rename: {a: b, b: c}}]", "{\"a\":1}", "{\"c\":1}\n");
	text_step_gives("[{rename: {s.ip: client, msg: m.text}}]",
	                "{\"s\":{\"ip\":\"::1\",\"p\":2},\"msg\":\"x\"}",
	                "{\"s\":{\"p\":2},\"client\":\"::1\",\"m\":{\"text\":\"x\"}}\n");
	text_step_gives("[{rename: {a: a}}, {rename: {s.x: s.x}}]", "{\"a\":1,\"s\":{\"x\":1}}",
	                "{\"a\":1,\"s\":{\"x\":1}}\n");
	text_step_gives("[{rename: {a: b.c}}]", "{\"a\":1,\"b\":2}",
	                "! rename: no way to b.c: something on it is no map\n");
	text_step_refused("[{rename: [a, b]}]", "expected a map of old and new names, got a list");
	text_step_refused("[{rename: {a: [b]}}]", "expected the new name of a, got a list");
	text_step_refused("[{rename: {a: ''}}]", "expected the new name of a");
}

static void test_explode_array(void **state)
{
	(void)state;
	text_step_gives("[{explode: {field: t}}]", "{\"a\":1,\"t\":[1,\"x\",{\"y\":[2]},null]}",
	                "{\"a\":1,\"t\":1}\n{\"a\":1,\"t\":\"x\"}\n{\"a\":1,\"t\":{\"y\":[2]}}\n"
	                "{\"a\":1,\"t\":null}\n");
	text_step_gives("[{explode: {field: d.t, into: one, index: n}}]",
	                "{\"d\":{\"t\":[7,8],\"k\":0},\"z\":1}",
	                "{\"d\":{\"k\":0},\"z\":1,\"one\":7,\"n\":0}\n"
	                "{\"d\":{\"k\":0},\"z\":1,\"one\":8,\"n\":1}\n");
	text_step_gives("[{explode: {field: t}}]", "{\"t\":[]}", "filtered\n");
	text_step_gives("[{explode: {field: t}}]", "{\"a\":1}", "{\"a\":1}\n");
	text_step_gives("[{explode: {field: t}}]", "{\"t\":null}", "{\"t\":null}\n");
	text_step_gives("[{explode: {field: t}}]", "{\"t\":\"a,b\"}",
	                "! explode: field t is no array\n");
	text_step_gives("[{explode: {field: t, into: a.b}}]", "{\"t\":[1],\"a\":2}",
	                "! explode: no way to a.b: something on it is no map\n");
	/* what comes behind sees each record */
	text_step_gives("[{explode: {field: t}}, {rename: {t: u}}, {explode: {field: u}}]",
	                "{\"t\":[[1,2],[],[3]]}", "{\"u\":1}\n{\"u\":2}\n{\"u\":3}\n");
}

static void test_explode_string(void **state)
{
	(void)state;
	text_step_gives("[{explode: {field: t, split: ', ', index: i}}]", "{\"t\":\"a, b,c, \"}",
	                "{\"t\":\"a\",\"i\":0}\n{\"t\":\"b,c\",\"i\":1}\n{\"t\":\"\",\"i\":2}\n");
	text_step_gives("[{explode: {field: t, split: ',', trim: true, into: x, index: i}}]",
	                "{\"t\":\" a ,,\\n b c\\r\\n, \"}",
	                "{\"x\":\"a\",\"i\":0}\n{\"x\":\"b c\",\"i\":1}\n");
	text_step_gives("[{explode: {field: t, split: ','}}]", "{\"t\":\"\"}", "filtered\n");
	text_step_gives("[{explode: {field: t, split: ',', trim: true}}]", "{\"t\":\" , \"}",
	                "filtered\n");
	text_step_gives("[{explode: {field: t, split: ','}}]", "{\"t\":5}",
	                "! explode: field t is no array and no string\n");
	text_step_gives("[{explode: {field: t, split: ','}}]", "{\"t\":[\"a,b\"]}",
	                "{\"t\":\"a,b\"}\n");
	text_step_refused("[{explode: {split: ','}}]", "field");
	text_step_refused("[{explode: {field: t, index: t}}]", "index");
	text_step_refused("[{explode: {field: t, index: a.b}}]", "index");
	text_step_refused("[{explode: {field: t, trim: true}}]", "trim");
	text_step_refused("[{explode: {feild: t}}]", "field");
}

/* All tags of Debian's index, one record each: 8,435. */
static void test_tags(void **state)
{
	(void)state;
	struct buf in = {0};
	struct text_codec deb;
	struct text_steps t;
	size_t len, tags = 0;
	if (!text_data("apt-index/sample.deb822.gz", &in))
		skip();
	text_codec_open(&deb, "deb822", NULL, 1 << 18);
	text_steps_open(&t,
	                "[{keep: [Package, Tag]}, "
	                "{explode: {field: Tag, split: ',', trim: true, into: tag}}]",
	                1 << 18);
	uint8_t *out = malloc(1 << 18);
	struct codec_window w = {.p = in.p, .end = in.p + in.len, .last = true};
	while (deb.codec.ops->decode(&deb.codec, &w, out, 1 << 18, &len) == CODEC_E_OK) {
		bool has = memmem(out, len, "\xa3Tag", 4) != NULL;
		struct chain_outcome o = text_steps_run(&t, 0, out, len, NULL);
		assert_int_equal(o.answer, STAGE_OK);
		assert_true(t.host->n >= 1);
		tags += has ? t.host->n : 0;
	}
	assert_int_equal(tags, 8435);
	free(out);
	text_steps_close(&t);
	text_codec_close(&deb);
	buf_deinit(&in);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_remove),         cmocka_unit_test(test_keep),
	        cmocka_unit_test(test_rename),         cmocka_unit_test(test_explode_array),
	        cmocka_unit_test(test_explode_string), cmocka_unit_test(test_tags),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
