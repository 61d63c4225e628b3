/*
 * One record's way into a row: fields to columns, values to what SQLite has.
 *
 * The hard idea: records of one stream have the same fields in the same order, nearly always. So
 * the columns of the previous record's fields are tried first, one comparison each; only where they
 * differ is the column searched for.
 *
 * Bound text and binary lie in the record itself, which outlives the step: nothing is copied but
 * JSON.
 */
#include "stages/consumers/sqlite.h"

#include <inttypes.h>
#include <string.h>

/* JSON text of a map, list or extension at [val, val+len). Returns a place in s->text. */
static int as_json(struct stage *st, const uint8_t *val, uint32_t len, struct mp v,
                   const char **text, size_t *text_len)
{
	struct sqlite_state *s = st->state;
	static const uint8_t head[] = {0x81, 0xa1,
	                               'v'}; /* the codec writes maps only: {"v": value} */
	bool wrapped = v.type != MP_MAP;
	if (!s->json_made)
		return stage_say(st, STAGE_E_REJECT, "no JSON codec for a nested value");
	s->wrap.len = 0;
	s->text.len = 0;
	int r = wrapped ? buf_add(&s->wrap, head, sizeof(head)) : 0;
	if (r == 0)
		r = buf_add(&s->wrap, val, len);
	if (r == 0)
		r = s->json.ops->encode(&s->json, s->wrap.p, s->wrap.len, &s->text);
	if (r == CODEC_E_REJECT)
		return stage_say(st, STAGE_E_REJECT, "%s", s->json.why ? s->json.why : "no JSON");
	if (r < 0)
		return r;
	const char *p = (const char *)s->text.p;
	size_t n = s->text.len;
	while (n && p[n - 1] == '\n')
		n--;
	if (wrapped) {
		const char *colon = memchr(p, ':', n);
		size_t skip = (size_t)(colon - p) + 1;
		p += skip;
		n -= skip + 1;
	}
	*text = p;
	*text_len = n;
	return 0;
}

static int bind_uint(struct stage *st, const struct sqlite_column *col, uint64_t u)
{
	struct sqlite_state *s = st->state;
	char digits[24];
	if (u <= INT64_MAX)
		return sqlite3_bind_int64(s->insert, col->bind, (int64_t)u);
	if (col->numeric)
		return -1;
	int n = snprintf(digits, sizeof(digits), "%" PRIu64, u);
	return sqlite3_bind_text(s->insert, col->bind, digits, n, SQLITE_TRANSIENT);
}

static int bind_nested(struct stage *st, const struct sqlite_column *col, const uint8_t *val,
                       uint32_t len, struct mp v)
{
	struct sqlite_state *s = st->state;
	const char *text = NULL;
	size_t n = 0;
	int r = as_json(st, val, len, v, &text, &n);
	if (r != 0)
		return r;
	int rc = sqlite3_bind_text(s->insert, col->bind, text, (int)n, SQLITE_TRANSIENT);
	return rc == SQLITE_OK ? 0 : sqlite_answer(st, rc, col->name, true);
}

/* Binds a value to its column. 0, STAGE_E_REJECT, ... */
static int bind_value(struct stage *st, const struct sqlite_column *col, const uint8_t *val,
                      uint32_t len)
{
	sqlite3_stmt *stmt = ((struct sqlite_state *)st->state)->insert;
	struct mp v = record_value(val, len);
	int rc = SQLITE_OK;
	switch (v.type) {
	case MP_NIL:
		rc = sqlite3_bind_null(stmt, col->bind);
		break;
	case MP_BOOL:
		rc = sqlite3_bind_int(stmt, col->bind, v.b);
		break;
	case MP_INT:
		rc = sqlite3_bind_int64(stmt, col->bind, v.i);
		break;
	case MP_UINT:
		rc = bind_uint(st, col, v.u);
		if (rc == -1)
			return stage_say(st, STAGE_E_REJECT,
			                 "%" PRIu64 " does not fit a numeric column (%s)", v.u,
			                 col->name);
		break;
	case MP_FLOAT:
		rc = sqlite3_bind_double(stmt, col->bind, v.d);
		break;
	case MP_STR:
		rc = sqlite3_bind_text(stmt, col->bind, (const char *)v.p, (int)v.len,
		                       SQLITE_STATIC);
		break;
	case MP_BIN:
		rc = v.len ? sqlite3_bind_blob(stmt, col->bind, v.p, (int)v.len, SQLITE_STATIC)
		           : sqlite3_bind_zeroblob(stmt, col->bind, 0);
		break;
	case MP_ARRAY:
	case MP_MAP:
	case MP_EXT:
		return bind_nested(st, col, val, len, v);
	}
	return rc == SQLITE_OK ? 0 : sqlite_answer(st, rc, col->name, true);
}

static bool is_column(const struct sqlite_state *s, uint32_t i, const struct field *f)
{
	if (i >= s->shape_cap || s->shape[i] >= s->n)
		return false;
	const struct sqlite_column *col = &s->columns[s->shape[i]];
	return col->len == f->key_len && col->bind > 0 &&
	       memcmp(col->name, f->key, f->key_len) == 0;
}

static int shape_room(struct sqlite_state *s, uint32_t n)
{
	if (n <= s->shape_cap)
		return 0;
	uint32_t *p = realloc(s->shape, n * sizeof(*p));
	if (!p)
		return -ENOMEM;
	memset(p + s->shape_cap, 0xff, (n - s->shape_cap) * sizeof(*p));
	s->shape = p;
	s->shape_cap = n;
	return 0;
}

/* Finds, or adds, the column of each field: s->shape. Before anything is bound, for a new column
 * makes a new statement. */
static int match_columns(struct stage *st)
{
	struct sqlite_state *s = st->state;
	int r = shape_room(s, s->rec.n);
	for (uint32_t i = 0; i < s->rec.n && r == 0; i++) {
		const struct field *f = &s->rec.fields[i];
		if (is_column(s, i, f))
			continue;
		int64_t col = sqlite_table_column(st, f, &r);
		if (col >= 0)
			s->shape[i] = (uint32_t)col;
	}
	return r;
}

static int bind_column(struct stage *st, struct sqlite_column *col, const uint8_t *val,
                       uint32_t len)
{
	struct sqlite_state *s = st->state;
	if (col->row == s->row)
		return stage_say(st, STAGE_E_REJECT,
		                 "two fields are the column %s, to which case is the same",
		                 col->name);
	col->row = s->row;
	return bind_value(st, col, val, len);
}

static int bind_fields(struct stage *st)
{
	struct sqlite_state *s = st->state;
	int r = 0;
	for (uint32_t i = 0; i < s->rec.n && r == 0; i++)
		r = bind_column(st, &s->columns[s->shape[i]], s->rec.fields[i].val,
		                s->rec.fields[i].val_len);
	return r;
}

static int bind_given(struct stage *st)
{
	struct sqlite_state *s = st->state;
	int r = 0;
	for (size_t i = 0; i < s->n && r == 0; i++) {
		struct sqlite_column *col = &s->columns[i];
		uint32_t len = 0;
		if (!col->path)
			continue;
		const uint8_t *val = record_path(&s->rec, col->path, strlen(col->path), &len);
		if (val)
			r = bind_column(st, col, val, len);
	}
	return r;
}

/* A row without its key would never be found again: NULLs are all different to SQLite. */
static int check_key(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	for (size_t i = 0; i < cfg->key.n; i++) {
		const char *path = cfg->key.v[i];
		uint32_t len = 0;
		for (size_t j = 0; j < cfg->n_given; j++)
			if (sqlite3_stricmp(cfg->given[j].name, path) == 0)
				path = cfg->given[j].path;
		const uint8_t *val = record_path(&s->rec, path, strlen(path), &len);
		if (!val || record_value(val, len).type == MP_NIL)
			return stage_say(st, STAGE_E_REJECT, "no key: field %s", path);
	}
	return 0;
}

static int prepare_row(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	int r = check_key(st);
	if (r == 0 && s->n == 0)
		r = sqlite_table_make(st);
	if (r == 0 && cfg->n_given == 0)
		r = match_columns(st);
	if (r == 0 && s->binds == 0)
		r = stage_say(st, STAGE_E_REJECT, "a record without fields makes no row");
	return r != 0 ? r : sqlite_table_prepare(st);
}

int sqlite_row_insert(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	int r = prepare_row(st);
	if (r != 0)
		return r;
	s->row++;
	if (cfg->n_given || (int)s->rec.n != s->binds)
		sqlite3_clear_bindings(s->insert);
	r = cfg->n_given ? bind_given(st) : bind_fields(st);
	if (r != 0)
		return r;
	int rc = sqlite3_step(s->insert);
	r = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : sqlite_answer(st, rc, cfg->table, true);
	sqlite3_reset(s->insert);
	return r;
}
