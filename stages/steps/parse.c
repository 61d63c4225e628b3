/*
 * Step `parse`: takes a text out of a field and puts what it says into the record.
 *
 *     parse: {field: message, format: json}                        {...} in the text becomes fields
 *     parse: {field: line, pattern: '^(?<ip>\S+) (?<rest>.*)$'}    format: regex
 *     parse: {field: line, format: csv, columns: [a, b], delimiter: ";", into: row}
 *
 * The formats are the codecs and `regex` (PCRE2; matches anywhere; groups that took no part give no
 * field). Without `into` the parsed fields become fields of the record, replacing those of the same
 * name; with it they stand in a map there. The text itself is taken away unless `keep_original` is
 * set. A text that cannot be parsed, or holds more than one record, rejects the record; so does a
 * missing field.
 *
 * The one idea: what is parsed lies in a buffer of this step until the next record comes, and the
 * record points into it: nothing is copied twice. That is safe because a record has left the chain,
 * or was written into the state of a step behind, before this step sees another one.
 *
 * Options of the format itself (columns, delimiter, ...) stand beside the others; they are read by
 * the codec's own table.
 */
#include "stages/codecs/csv.h"
#include "stages/stage.h"
#include "stages/steps/capture.h"

struct parse_config {
	const char *field;
	const char *format;
	const char *pattern;
	const char *into;
	bool keep_original;
	const struct node *of_codec[6]; /* read by the codec's own table */
	/* made by check */
	const struct codec_ops *codec; /* NULL: regex */
	void *codec_config;
};

#define PARSE_CODEC_OPTION(i, n, h)                                                               \
 {                                                                                                \
  .name = n, .type = OPTION_NODE, .offset = offsetof(struct parse_config, of_codec[i]), .help = h \
 }

static const struct option parse_options[] = {
        {.name = "field",
         .type = OPTION_STRING,
         .offset = offsetof(struct parse_config, field),
         .required = true,
         .help = "where the text is (may be a path)"},
        {.name = "format",
         .type = OPTION_STRING,
         .offset = offsetof(struct parse_config, format),
         .help = "a codec (json, csv, ...) or regex; default: regex with a pattern, else json"},
        {.name = "pattern",
         .type = OPTION_STRING,
         .offset = offsetof(struct parse_config, pattern),
         .help = "regex: a Perl-compatible pattern with named groups"},
        {.name = "into",
         .type = OPTION_STRING,
         .offset = offsetof(struct parse_config, into),
         .help = "where to put a map of what was parsed (may be a path); default: the record "
                 "itself"},
        {.name = "keep_original",
         .type = OPTION_BOOL,
         .offset = offsetof(struct parse_config, keep_original),
         .def = "false",
         .help = "leave the text in its field"},
        PARSE_CODEC_OPTION(0, "columns", "csv: the names of the fields"),
        PARSE_CODEC_OPTION(1, "delimiter", "csv: the character between fields"),
        PARSE_CODEC_OPTION(2, "quote", "csv: the character around fields"),
        PARSE_CODEC_OPTION(3, "comments", "deb822: skip lines that begin with #"),
        PARSE_CODEC_OPTION(4, "dots", "deb822: a line of one dot is an empty line"),
        PARSE_CODEC_OPTION(5, "encoding", "lines: utf8, latin1 or bytes"),
        OPTION_END,
};

static const char *const parse_own[] = {"field", "format",        "pattern",
                                        "into",  "keep_original", NULL};

struct parse {
	struct codec codec;
	struct capture *capture;
	struct buf out;
};

static void parse_check_regex(struct parse_config *cf, const struct node *node,
                              struct complaints *c)
{
	struct capture *re = NULL;
	char why[160];
	if (!cf->pattern) {
		complain(c, node, "parse: format regex needs a pattern");
		return;
	}
	int r = capture_new(&re, cf->pattern, false, why, sizeof(why));
	if (r < 0)
		complain(c, node_get(node, "pattern"), "pattern: %s",
		         r == -EINVAL ? why : strerror(-r));
	capture_free(re);
	for (size_t i = 0; i < sizeof(cf->of_codec) / sizeof(*cf->of_codec); i++)
		if (cf->of_codec[i])
			complain(c, cf->of_codec[i], "parse: not an option of format regex");
}

static void parse_check_codec(struct parse_config *cf, const struct node *node,
                              struct complaints *c)
{
	const struct option none[] = {OPTION_END};
	cf->codec = codec_find(cf->format);
	if (!cf->codec) {
		complain(c, node_get(node, "format"), "format: no codec %s, and not regex",
		         cf->format);
		return;
	}
	if (cf->pattern)
		complain(c, node_get(node, "pattern"), "pattern: only with format regex");
	if (cf->codec->config_size) {
		cf->codec_config = calloc(1, cf->codec->config_size);
		if (!cf->codec_config) {
			complain(c, node, "parse: out of memory");
			return;
		}
	}
	option_parse(cf->codec->options ? cf->codec->options : none, node, parse_own,
	             cf->codec_config, c);
	if (cf->codec == &codec_csv) {
		struct csv_config *csv = cf->codec_config;
		csv->header = false; /* a text in a field has none */
		if (!csv->columns.n)
			complain(c, node, "parse: format csv needs columns");
	}
	if (cf->codec->check)
		cf->codec->check(cf->codec_config, node, c);
}

static void parse_check(void *config, const struct node *node, struct complaints *c)
{
	struct parse_config *cf = config;
	if (!cf->format)
		cf->format = cf->pattern ? "regex" : "json";
	if (strcmp(cf->format, "regex") == 0)
		parse_check_regex(cf, node, c);
	else
		parse_check_codec(cf, node, c);
}

static void parse_config_free(void *config)
{
	struct parse_config *cf = config;
	if (cf->codec_config && cf->codec->options)
		option_free(cf->codec->options, cf->codec_config);
	free(cf->codec_config);
}

static int parse_open(struct stage *st)
{
	const struct parse_config *cf = st->config;
	struct parse *ps = st->state;
	char why[160];
	if (cf->codec)
		return codec_init(&ps->codec, cf->codec, cf->codec_config, st->max_record);
	return capture_new(&ps->capture, cf->pattern, true, why, sizeof(why));
}

static void parse_close(struct stage *st)
{
	struct parse *ps = st->state;
	if (ps->codec.ops)
		codec_deinit(&ps->codec);
	ps->capture = capture_free(ps->capture);
	buf_deinit(&ps->out);
}

/* Decodes the one record of @w into the buffer, which grows until it fits. */
static int parse_decode_one(struct parse *ps, struct codec_window *w, size_t max)
{
	for (;;) {
		size_t len, room = ps->out.cap < max ? ps->out.cap : max;
		int r = ps->codec.ops->decode(&ps->codec, w, ps->out.p, room, &len);
		if (r != CODEC_E_ROOM || room >= max) {
			ps->out.len = r == CODEC_E_OK ? len : 0;
			return r;
		}
		r = buf_room(&ps->out, ps->out.cap + 1);
		if (r < 0)
			return r;
	}
}

static int parse_codec(struct stage *st, const uint8_t *s, size_t len)
{
	const struct parse_config *cf = st->config;
	struct parse *ps = st->state;
	struct codec_window w = {.p = s, .end = s + len, .last = true};
	uint8_t rest[16];
	size_t ignored;
	ps->out.len = 0;
	int r = buf_room(&ps->out, 4096);
	if (r < 0)
		return r;
	if (ps->codec.ops->reset)
		ps->codec.ops->reset(&ps->codec);
	r = parse_decode_one(ps, &w, st->max_record);
	if (r < 0)
		return r;
	if (r == CODEC_E_REJECT)
		return stage_say(st, STAGE_E_REJECT, "field %s is no %s: %s", cf->field, cf->format,
		                 w.why);
	if (r != CODEC_E_OK)
		return stage_say(st, STAGE_E_REJECT, "field %s: %s", cf->field,
		                 r == CODEC_E_ROOM ? "too large" : "no record in it");
	r = ps->codec.ops->decode(&ps->codec, &w, rest, sizeof(rest), &ignored);
	if (r < 0)
		return r;
	return r == CODEC_E_END ? 0
	                        : stage_say(st, STAGE_E_REJECT,
	                                    "field %s: more than one record in it", cf->field);
}

static int parse_regex(struct stage *st, const uint8_t *s, size_t len)
{
	const struct parse_config *cf = st->config;
	struct parse *ps = st->state;
	int r = capture_map(ps->capture, s, len, &ps->out);
	switch (r) {
	case CAPTURE_E_NONE:
		return stage_say(st, STAGE_E_REJECT, "field %s does not match the pattern",
		                 cf->field);
	case CAPTURE_E_TEXT:
		return stage_say(st, STAGE_E_REJECT, "field %s is not UTF-8", cf->field);
	case CAPTURE_E_COSTLY:
		return stage_say(st, STAGE_E_REJECT,
		                 "field %s: matching the pattern takes too many steps", cf->field);
	default:
		return r;
	}
}

/* Makes the fields of the parsed map fields of the record. */
static int parse_spread(const struct buf *map, struct record *r)
{
	const uint8_t *end = map->p + map->len;
	struct mp head, k;
	const uint8_t *p = mp_read(map->p, end, &head);
	for (uint32_t i = 0; p && i < head.n; i++) {
		const uint8_t *val = mp_read(p, end, &k);
		p = val && k.type == MP_STR ? mp_skip(val, end) : NULL;
		if (!p)
			break;
		int e = record_set(r, (const char *)k.p, k.len, val, (uint32_t)(p - val));
		if (e)
			return e;
	}
	return p ? 0 : -EINVAL;
}

static int parse_place(struct stage *st, struct record *r)
{
	const struct parse_config *cf = st->config;
	struct parse *ps = st->state;
	int e = 0;
	if (!cf->keep_original)
		e = record_remove(r, cf->field, strlen(cf->field));
	if (e < 0)
		return e;
	if (!cf->into)
		return parse_spread(&ps->out, r);
	e = record_set_path(r, cf->into, strlen(cf->into), ps->out.p, (uint32_t)ps->out.len);
	if (e > 0)
		return stage_say(st, STAGE_E_REJECT,
		                 "parse: no way to %s: something on it is no map", cf->into);
	return e;
}

static int parse_transform(struct stage *st, struct record *r)
{
	const struct parse_config *cf = st->config;
	uint32_t len;
	const uint8_t *val = record_path(r, cf->field, strlen(cf->field), &len);
	struct mp v = record_value(val, val ? len : 0);
	if (!val)
		return stage_say(st, STAGE_E_REJECT, "no field %s to parse", cf->field);
	if (v.type != MP_STR && v.type != MP_BIN)
		return stage_say(st, STAGE_E_REJECT, "field %s is no text", cf->field);
	int e = cf->codec ? parse_codec(st, v.p, v.len) : parse_regex(st, v.p, v.len);
	return e ? e : parse_place(st, r);
}

const struct stage_ops step_parse = {
        .name = "parse",
        .kind = STAGE_STEP,
        .help = "make fields out of a text: json, csv, a pattern, ...",
        .example = "- parse: {field: message, format: json, into: body}\n"
                   "- parse: {field: line, pattern: '^(?<ip>\\S+) (?<user>\\S+) (?<rest>.*)$'}\n"
                   "- parse: {field: line, format: csv, columns: [id, name], delimiter: \";\"}\n",
        .options = parse_options,
        .config_size = sizeof(struct parse_config),
        .state_size = sizeof(struct parse),
        .check = parse_check,
        .config_free = parse_config_free,
        .open = parse_open,
        .close = parse_close,
        .transform = parse_transform,
};
