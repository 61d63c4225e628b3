/*
 * The SQLite consumer's table: its columns, how they grow, and the INSERT that goes with them.
 *
 * The hard idea: all changes of the schema happen inside the unit's transaction, like the rows. So
 * a unit that is undone takes its new columns with it, and what we remember of the table must go
 * too (sqlite_table_forget); and a first record that made the table and was then undone makes it
 * again.
 *
 * The statement has only columns that a record had so far: other columns of a table made by
 * somebody else keep their defaults.
 */
#include "stages/consumers/sqlite.h"

#include <string.h>

static int execute(struct stage *st, char *sql, const char *what)
{
	struct sqlite_state *s = st->state;
	if (!sql)
		return -ENOMEM;
	s->changed = true;
	int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
	sqlite3_free(sql);
	return rc == SQLITE_OK ? 0 : sqlite_answer(st, rc, what, true);
}

static void drop_statement(struct sqlite_state *s)
{
	sqlite3_finalize(s->insert);
	s->insert = NULL;
}

void sqlite_table_forget(struct sqlite_state *s)
{
	drop_statement(s);
	for (size_t i = 0; i < s->n; i++)
		free(s->columns[i].name);
	s->n = 0;
	s->binds = 0;
	s->loaded = false;
}

static bool is_key(const struct sqlite_config *cfg, const char *name)
{
	for (size_t i = 0; i < cfg->key.n; i++)
		if (sqlite3_stricmp(cfg->key.v[i], name) == 0)
			return true;
	return false;
}

/* SQLite's rule for the affinity of a declared type (sqlite.org/datatype3.html, 3.1): INTEGER, REAL
 * and NUMERIC turn text into numbers. */
static bool is_numeric(const char *type)
{
	static const char *const kept[] = {"%CHAR%", "%CLOB%", "%TEXT%", "%BLOB%"};
	if (!type || !*type)
		return false;
	if (sqlite3_strlike("%INT%", type, 0) == 0)
		return true;
	for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
		if (sqlite3_strlike(kept[i], type, 0) == 0)
			return false;
	return true;
}

static int add_known(struct stage *st, const char *name, size_t len, const char *type)
{
	struct sqlite_state *s = st->state;
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 16;
		struct sqlite_column *v = realloc(s->columns, cap * sizeof(*v));
		if (!v)
			return -ENOMEM;
		s->columns = v;
		s->cap = cap;
	}
	char *copy = strndup(name, len);
	if (!copy)
		return -ENOMEM;
	s->columns[s->n++] = (struct sqlite_column){
	        .name = copy,
	        .len = len,
	        .numeric = is_numeric(type),
	        .key = is_key(st->config, copy),
	};
	return 0;
}

int sqlite_table_load(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	sqlite3_stmt *stmt = NULL;
	int r = 0;
	sqlite_table_forget(s);
	int rc = sqlite3_prepare_v2(s->db,
	                            "SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden = 0",
	                            -1, &stmt, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_bind_text(stmt, 1, cfg->table, -1, SQLITE_STATIC);
	while (rc == SQLITE_OK && r == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		const char *name = (const char *)sqlite3_column_text(stmt, 0);
		if (!name)
			r = -ENOMEM;
		else
			r = add_known(st, name, strlen(name),
			              (const char *)sqlite3_column_text(stmt, 1));
		rc = SQLITE_OK;
	}
	if (r == 0 && rc != SQLITE_DONE)
		r = sqlite_answer(st, rc, "the table's columns", false);
	sqlite3_finalize(stmt);
	return r;
}

static int add_column(struct stage *st, const char *name, size_t len, const char *type)
{
	const struct sqlite_config *cfg = st->config;
	int r = execute(st,
	                sqlite3_mprintf("ALTER TABLE \"%w\" ADD COLUMN \"%.*w\" %s", cfg->table,
	                                (int)len, name, type),
	                "a new column");
	return r != 0 ? r : add_known(st, name, len, type);
}

static void use_column(struct sqlite_state *s, struct sqlite_column *col)
{
	if (col->bind == 0) {
		col->bind = ++s->binds;
		drop_statement(s);
	}
}

static struct sqlite_column *find_column(struct sqlite_state *s, const char *name, size_t len)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->columns[i].len == len &&
		    sqlite3_strnicmp(s->columns[i].name, name, (int)len) == 0)
			return &s->columns[i];
	return NULL;
}

static const char *const declared[] = {"", "TEXT", "INTEGER", "REAL", "NUMERIC", "BLOB"};

static int make_given(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	const struct sqlite_given *g = cfg->given;
	int r = execute(st,
	                sqlite3_mprintf("CREATE TABLE \"%w\"(\"%w\" %s)", cfg->table, g[0].name,
	                                declared[g[0].type]),
	                "CREATE TABLE");
	return r != 0 ? r : add_known(st, g[0].name, strlen(g[0].name), declared[g[0].type]);
}

int sqlite_table_given(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	int r = s->n == 0 ? make_given(st) : 0;
	for (size_t i = 0; i < cfg->n_given && r == 0; i++) {
		const struct sqlite_given *g = &cfg->given[i];
		size_t len = strlen(g->name);
		struct sqlite_column *col = find_column(s, g->name, len);
		if (!col && !cfg->create)
			return stage_say(st, STAGE_E_UNREACHABLE,
			                 "%s: table %s has no column %s (create: false)", cfg->path,
			                 cfg->table, g->name);
		if (!col)
			r = add_column(st, g->name, len, declared[g->type]);
		if (r == 0) {
			col = find_column(s, g->name, len);
			col->path = g->path;
			use_column(s, col);
		}
	}
	/* no record is to blame for what cannot be set up */
	return r == STAGE_E_REJECT ? STAGE_E_UNREACHABLE : r;
}

int sqlite_table_make(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	sqlite3_str *sql = sqlite3_str_new(s->db);
	int r = 0;
	if (s->rec.n == 0)
		r = stage_say(st, STAGE_E_REJECT, "a record without fields cannot make a table");
	sqlite3_str_appendf(sql, "CREATE TABLE \"%w\"(", cfg->table);
	for (uint32_t i = 0; i < s->rec.n; i++)
		sqlite3_str_appendf(sql, "%s\"%.*w\"", i ? "," : "", (int)s->rec.fields[i].key_len,
		                    (const char *)s->rec.fields[i].key);
	sqlite3_str_appendf(sql, ")");
	char *text = sqlite3_str_finish(sql);
	if (r != 0) {
		sqlite3_free(text);
		return r;
	}
	r = execute(st, text, "CREATE TABLE");
	for (uint32_t i = 0; i < s->rec.n && r == 0; i++)
		r = add_known(st, (const char *)s->rec.fields[i].key, s->rec.fields[i].key_len, "");
	return r;
}

int64_t sqlite_table_column(struct stage *st, const struct field *f, int *answer)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	const char *name = (const char *)f->key;
	struct sqlite_column *col = find_column(s, name, f->key_len);
	*answer = 0;
	if (!col && f->key_len && memchr(name, 0, f->key_len))
		*answer = stage_say(st, STAGE_E_REJECT, "a field's name has a NUL byte");
	else if (!col && !cfg->create)
		*answer = stage_say(st, STAGE_E_REJECT, "table %s has no column %.*s", cfg->table,
		                    (int)f->key_len, name);
	else if (!col)
		*answer = add_column(st, name, f->key_len, "");
	if (*answer != 0)
		return -1;
	if (!col)
		col = &s->columns[s->n - 1];
	use_column(s, col);
	return col - s->columns;
}

static char *insert_sql(const struct sqlite_config *cfg, const struct sqlite_state *s)
{
	sqlite3_str *sql = sqlite3_str_new(s->db);
	sqlite3_str_appendf(sql, "INSERT INTO \"%w\"(", cfg->table);
	for (int b = 1; b <= s->binds; b++)
		for (size_t i = 0; i < s->n; i++)
			if (s->columns[i].bind == b)
				sqlite3_str_appendf(sql, "%s\"%w\"", b > 1 ? "," : "",
				                    s->columns[i].name);
	sqlite3_str_appendf(sql, ") VALUES(");
	for (int b = 1; b <= s->binds; b++)
		sqlite3_str_appendf(sql, b > 1 ? ",?" : "?");
	sqlite3_str_appendf(sql, ")");
	for (size_t i = 0; i < cfg->key.n; i++)
		sqlite3_str_appendf(sql, "%s\"%w\"", i ? "," : " ON CONFLICT(", cfg->key.v[i]);
	const char *before = ") DO UPDATE SET ";
	for (size_t i = 0; i < s->n && cfg->key.n; i++) {
		if (s->columns[i].bind == 0 || s->columns[i].key)
			continue;
		sqlite3_str_appendf(sql, "%s\"%w\"=excluded.\"%w\"", before, s->columns[i].name,
		                    s->columns[i].name);
		before = ",";
	}
	if (cfg->key.n && before[0] == ')')
		sqlite3_str_appendf(sql, ") DO NOTHING");
	return sqlite3_str_finish(sql);
}

static int make_key_index(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	sqlite3_str *sql = sqlite3_str_new(s->db);
	sqlite3_str_appendf(sql, "CREATE UNIQUE INDEX IF NOT EXISTS \"sluice_key_%w\" ON \"%w\"(",
	                    cfg->table, cfg->table);
	for (size_t i = 0; i < cfg->key.n; i++)
		sqlite3_str_appendf(sql, "%s\"%w\"", i ? "," : "", cfg->key.v[i]);
	sqlite3_str_appendf(sql, ")");
	return execute(st, sqlite3_str_finish(sql), "the key's index");
}

static int prepare(struct sqlite_state *s, const char *sql)
{
	return sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s->insert, NULL);
}

int sqlite_table_prepare(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	if (s->insert)
		return 0;
	char *sql = insert_sql(cfg, s);
	if (!sql)
		return -ENOMEM;
	int rc = prepare(s, sql);
	int r = 0;
	/* an upsert needs a unique index on its key */
	if (rc == SQLITE_ERROR && cfg->key.n && cfg->create) {
		r = make_key_index(st);
		if (r == 0)
			rc = prepare(s, sql);
	}
	if (r == 0 && rc != SQLITE_OK)
		r = sqlite_answer(st, rc, "INSERT", true);
	sqlite3_free(sql);
	return r;
}
