/*
 * Consumer `sqlite`: rows of a SQLite table, exactly once.
 *
 * The hard idea: the unit is a transaction of the database, and its name (epoch, worker, number) is
 * a row of the same transaction, in table sluice_commits. After a crash between finish() and the
 * daemon's own commit, committed() reads that row: the unit is in the database with all its rows,
 * or with none.
 *
 *   begin     BEGIN IMMEDIATE       consume   INSERT      finish   the name's row
 *   commit    COMMIT                rollback  ROLLBACK
 *
 * What becomes of values: integers, floats, text, binary (BLOB), nil (NULL) as they are; true and
 * false are 1 and 0; maps and lists are JSON text; an integer above 2^63-1, which SQLite has not,
 * is text with all its digits. A table made from records has columns without a type, for with one
 * SQLite would change values (text "007" in an INTEGER column becomes 7, 5 in a REAL one 5.0). Who
 * names a type in `columns` gets SQLite's conversions with it. NaN is NULL to SQLite.
 *
 * A new field becomes a new column. With `key` a row is replaced by the record with the same key:
 * columns that the record does not have become NULL.
 *
 * Limits
 *  - column names differ in more than upper and lower case, as SQLite has it: a record with fields
 * `a` and `A` is rejected;
 *  - several workers write by turns: SQLite has one writer at a time;
 *  - rows of sluice_commits of other arenas that were not heard of for 30 days are removed.
 */
#include "stages/consumers/sqlite.h"

#include <string.h>

int sqlite_answer(struct stage *st, int rc, const char *what, bool record)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	int primary = rc & 0xff;
	const char *message = s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc);
	if (primary == SQLITE_NOMEM)
		return -ENOMEM;
	bool its_fault = primary == SQLITE_CONSTRAINT || primary == SQLITE_TOOBIG ||
	                 primary == SQLITE_MISMATCH || primary == SQLITE_RANGE ||
	                 primary == SQLITE_ERROR;
	/* a transaction that the error ended took the whole unit with it */
	bool ended = s->in_unit && s->db && sqlite3_get_autocommit(s->db);
	if (record && its_fault && !ended)
		return stage_say(st, STAGE_E_REJECT, "%s: %s", what, message);
	return stage_say(st, STAGE_E_UNREACHABLE, "%s: %s: %s", cfg->path, what, message);
}

static int run(struct stage *st, sqlite3_stmt *stmt, const char *what)
{
	int rc = sqlite3_step(stmt);
	int r = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : sqlite_answer(st, rc, what, false);
	sqlite3_reset(stmt);
	return r;
}

/* ---- the unit ----------------------------------------------------------------------------------
 */

static void sqlite_rollback(struct stage *st)
{
	struct sqlite_state *s = st->state;
	if (!s->db)
		return;
	if (s->insert)
		sqlite3_reset(s->insert);
	if (!sqlite3_get_autocommit(s->db)) {
		sqlite3_step(s->rollback);
		sqlite3_reset(s->rollback);
	}
	s->in_unit = false;
	if (s->changed)
		sqlite_table_forget(s);
	s->changed = false;
}

/* The columns, as they are inside this transaction. */
static int know_table(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	if (s->loaded)
		return 0;
	int r = sqlite_table_load(st);
	if (r == 0 && s->n == 0 && !cfg->create)
		return stage_say(st, STAGE_E_UNREACHABLE, "%s: has no table %s (create: false)",
		                 cfg->path, cfg->table);
	if (r == 0 && cfg->n_given)
		r = sqlite_table_given(st);
	s->loaded = r == 0;
	return r;
}

static int sqlite_begin(struct stage *st)
{
	struct sqlite_state *s = st->state;
	int r = run(st, s->begin, "BEGIN");
	if (r != 0)
		return r;
	s->in_unit = true;
	r = know_table(st);
	if (r != 0) {
		s->changed = true;
		sqlite_rollback(st);
	}
	return r;
}

/* After an error that ended the transaction nothing may be added to what is no transaction any
 * more. */
static bool unit_is_lost(const struct sqlite_state *s)
{
	return !s->in_unit || sqlite3_get_autocommit(s->db);
}

static int say_lost(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	return stage_say(st, STAGE_E_UNREACHABLE, "%s: the transaction was undone", cfg->path);
}

static int sqlite_consume(struct stage *st, const uint8_t *rec, size_t len)
{
	struct sqlite_state *s = st->state;
	const char *why = NULL;
	if (unit_is_lost(s))
		return say_lost(st);
	int r = record_open(&s->rec, rec, len, &why);
	if (r < 0)
		return r;
	if (r != 0)
		return stage_say(st, STAGE_E_REJECT, "%s", why);
	r = sqlite_row_insert(st);
	record_clear(&s->rec);
	return r;
}

static int sqlite_finish(struct stage *st)
{
	struct sqlite_state *s = st->state;
	const struct commit_id *id = &st->commit_id;
	if (unit_is_lost(s))
		return say_lost(st);
	sqlite3_bind_blob(s->mark, 1, id->epoch, sizeof(id->epoch), SQLITE_STATIC);
	sqlite3_bind_int64(s->mark, 2, id->worker);
	sqlite3_bind_int64(s->mark, 3, (int64_t)id->number);
	return run(st, s->mark, "sluice_commits");
}

static int sqlite_commit(struct stage *st)
{
	struct sqlite_state *s = st->state;
	/* a transaction that is gone must not look committed: the successor asks committed() */
	if (unit_is_lost(s)) {
		say_lost(st);
		return -EIO;
	}
	int r = run(st, s->commit, "COMMIT");
	if (r != 0 && sqlite3_get_autocommit(s->db)) {
		log_error("%s", st->why);
		return -EIO;
	}
	if (r != 0)
		return r;
	s->in_unit = false;
	s->changed = false;
	return STAGE_OK;
}

static int sqlite_committed(struct stage *st, const struct commit_id *id)
{
	struct sqlite_state *s = st->state;
	sqlite3_bind_blob(s->find, 1, id->epoch, sizeof(id->epoch), SQLITE_STATIC);
	sqlite3_bind_int64(s->find, 2, id->worker);
	int rc = sqlite3_step(s->find);
	int r = 0;
	if (rc == SQLITE_ROW)
		r = sqlite3_column_int64(s->find, 0) == (int64_t)id->number;
	else if (rc != SQLITE_DONE)
		r = sqlite_answer(st, rc, "sluice_commits", false);
	sqlite3_reset(s->find);
	return r;
}

/* ---- the stage ---------------------------------------------------------------------------------
 */

static int execute(struct stage *st, const char *sql)
{
	struct sqlite_state *s = st->state;
	int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
	return rc == SQLITE_OK ? 0 : sqlite_answer(st, rc, "cannot be set up", false);
}

static const char *const synchronous_names[] = {"off", "normal", "full", NULL};

/* This arena's rows are never old: a transaction may be asked for after any time, and by a clock
 * that jumped. */
static int forget_others(struct stage *st)
{
	char hex[2 * sizeof(st->commit_id.epoch) + 1], sql[256];
	for (size_t i = 0; i < sizeof(st->commit_id.epoch); i++)
		snprintf(hex + 2 * i, 3, "%02x", st->commit_id.epoch[i]);
	snprintf(sql, sizeof(sql),
	         "DELETE FROM sluice_commits WHERE epoch <> x'%s' AND"
	         " at < CAST(strftime('%%s','now') AS INTEGER) - 30 * 86400",
	         hex);
	return execute(st, sql);
}

static int set_up(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	char sql[64];
	snprintf(sql, sizeof(sql), "PRAGMA synchronous=%s", synchronous_names[cfg->synchronous]);
	int r = execute(st, "PRAGMA journal_mode=WAL");
	if (r == 0)
		r = execute(st, sql);
	if (r == 0)
		r = execute(st,
		            "PRAGMA wal_autocheckpoint=4096; PRAGMA journal_size_limit=67108864;"
		            "PRAGMA cache_size=-16384");
	if (r == 0)
		r = execute(st, "CREATE TABLE IF NOT EXISTS sluice_commits(epoch BLOB,"
		                " worker INTEGER, number INTEGER, at INTEGER,"
		                " PRIMARY KEY(epoch, worker)) WITHOUT ROWID");
	return r == 0 ? forget_others(st) : r;
}

static int prepare_all(struct stage *st)
{
	struct sqlite_state *s = st->state;
	const struct {
		const char *sql;
		sqlite3_stmt **stmt;
	} all[] = {
	        {"BEGIN IMMEDIATE", &s->begin},
	        {"COMMIT", &s->commit},
	        {"ROLLBACK", &s->rollback},
	        {"INSERT OR REPLACE INTO sluice_commits(epoch, worker, number, at)"
	         " VALUES(?, ?, ?, CAST(strftime('%s','now') AS INTEGER))",
	         &s->mark},
	        {"SELECT number FROM sluice_commits WHERE epoch = ? AND worker = ?", &s->find},
	};
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		int rc = sqlite3_prepare_v3(s->db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT,
		                            all[i].stmt, NULL);
		if (rc != SQLITE_OK)
			return sqlite_answer(st, rc, "cannot be set up", false);
	}
	return 0;
}

/* Maps and lists are written by the JSON codec as configured by default. */
static int make_json(struct stage *st)
{
	struct sqlite_state *s = st->state;
	const struct codec_ops *ops = codec_find("json");
	struct complaints none = {0};
	if (!ops)
		return 0;
	s->json_config = calloc(1, ops->config_size + 1);
	if (!s->json_config)
		return -ENOMEM;
	if (ops->options)
		option_parse(ops->options, NULL, NULL, s->json_config, &none);
	buf_deinit(&none.text);
	int r = codec_init(&s->json, ops, s->json_config, st->max_record);
	s->json_made = r == 0;
	return r;
}

static void sqlite_close(struct stage *st)
{
	struct sqlite_state *s = st->state;
	sqlite_table_forget(s);
	sqlite3_finalize(s->begin);
	sqlite3_finalize(s->commit);
	sqlite3_finalize(s->rollback);
	sqlite3_finalize(s->mark);
	sqlite3_finalize(s->find);
	sqlite3_close(s->db);
	if (s->json_made)
		codec_deinit(&s->json);
	free(s->json_config);
	free(s->columns);
	free(s->shape);
	record_deinit(&s->rec);
	buf_deinit(&s->wrap);
	buf_deinit(&s->text);
	memset(s, 0, sizeof(*s));
}

static int sqlite_open(struct stage *st)
{
	const struct sqlite_config *cfg = st->config;
	struct sqlite_state *s = st->state;
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
	if (cfg->create)
		flags |= SQLITE_OPEN_CREATE;
	int rc = sqlite3_open_v2(cfg->path, &s->db, flags, NULL);
	int r = rc == SQLITE_OK ? 0 : sqlite_answer(st, rc, "cannot be opened", false);
	if (r == 0) {
		sqlite3_extended_result_codes(s->db, 1);
		sqlite3_busy_timeout(s->db, (int)(cfg->busy_timeout / 1000000));
		r = set_up(st);
	}
	if (r == 0)
		r = prepare_all(st);
	if (r == 0)
		r = make_json(st);
	if (r != 0)
		sqlite_close(st);
	return r;
}

/* ---- options -----------------------------------------------------------------------------------
 */

static const char *const type_names[] = {"any", "text", "integer", "real", "numeric", "blob", NULL};

static int type_of(const char *word)
{
	for (int i = 0; type_names[i]; i++)
		if (strcmp(word, type_names[i]) == 0)
			return i;
	return -1;
}

/* `name: integer`, `name: user.country`, `name:`, or `name: {path: ..., type: ...}` */
static void read_column(struct sqlite_given *g, const struct node *v, struct complaints *c)
{
	if (v->kind == NODE_SCALAR) {
		const char *text = v->text ? v->text : "";
		if (v->scalar == NODE_NULL || !*text)
			return;
		int type = type_of(text);
		if (type >= 0)
			g->type = (enum sqlite_type)type;
		else
			g->path = text[0] == '=' ? text + 1 : text;
		return;
	}
	for (size_t i = 0; v->kind == NODE_MAP && i < v->n; i++) {
		const struct node *key = v->items[2 * i];
		const struct node *val = v->items[2 * i + 1];
		int type = val->kind == NODE_SCALAR && val->text ? type_of(val->text) : -1;
		if (strcmp(key->text, "path") == 0 && val->kind == NODE_SCALAR && val->len)
			g->path = val->text[0] == '=' ? val->text + 1 : val->text;
		else if (strcmp(key->text, "type") == 0 && type >= 0)
			g->type = (enum sqlite_type)type;
		else
			complain(c, key,
			         "a column has `path`, and `type`: any, text, integer, real, "
			         "numeric or blob");
	}
	if (v->kind != NODE_MAP)
		complain(c, v, "a column is a type, a path, or a map of both, not %s",
		         node_describe(v));
}

static void read_columns(struct sqlite_config *cfg, struct complaints *c)
{
	const struct node *n = cfg->columns;
	if (n->kind == NODE_SCALAR || n->n == 0) {
		complain(c, n, "columns is a list of names or a map, not %s", node_describe(n));
		return;
	}
	cfg->given = calloc(n->n, sizeof(*cfg->given));
	if (!cfg->given) {
		complain(c, n, "no memory");
		return;
	}
	for (size_t i = 0; i < n->n; i++) {
		const struct node *name = n->items[n->kind == NODE_MAP ? 2 * i : i];
		struct sqlite_given *g = &cfg->given[cfg->n_given];
		if (name->kind != NODE_SCALAR || !name->len) {
			complain(c, name, "a column's name is a string, not %s",
			         node_describe(name));
			continue;
		}
		g->name = name->text;
		g->path = name->text;
		if (n->kind == NODE_MAP)
			read_column(g, n->items[2 * i + 1], c);
		cfg->n_given++;
	}
}

static void sqlite_check(void *config, const struct node *node, struct complaints *c)
{
	struct sqlite_config *cfg = config;
	if (cfg->columns)
		read_columns(cfg, c);
	for (size_t i = 0; i < cfg->key.n && cfg->n_given; i++) {
		bool found = false;
		for (size_t j = 0; j < cfg->n_given; j++)
			found |= sqlite3_stricmp(cfg->key.v[i], cfg->given[j].name) == 0;
		if (!found)
			complain(c, node_get(node, "key"), "%s is not among the columns",
			         cfg->key.v[i]);
	}
	if (cfg->table && sqlite3_strnicmp(cfg->table, "sqlite_", 7) == 0)
		complain(c, node_get(node, "table"), "names with sqlite_ are SQLite's own");
	if (cfg->table && sqlite3_stricmp(cfg->table, "sluice_commits") == 0)
		complain(c, node_get(node, "table"), "sluice_commits holds the commits");
}

static void sqlite_config_free(void *config)
{
	struct sqlite_config *cfg = config;
	free(cfg->given);
	cfg->given = NULL;
	cfg->n_given = 0;
}

static const struct option sqlite_options[] = {
        {.name = "path",
         .type = OPTION_STRING,
         .offset = offsetof(struct sqlite_config, path),
         .required = true,
         .help = "the database file"},
        {.name = "table",
         .type = OPTION_STRING,
         .offset = offsetof(struct sqlite_config, table),
         .required = true,
         .help = "the table to insert into"},
        {.name = "columns",
         .type = OPTION_NODE,
         .offset = offsetof(struct sqlite_config, columns),
         .help = "a list of fields, or {column: type or path}; left out: every field is a column"},
        {.name = "key",
         .type = OPTION_STRINGS,
         .offset = offsetof(struct sqlite_config, key),
         .help = "columns that name a row: a record with the same ones replaces it"},
        {.name = "create",
         .type = OPTION_BOOL,
         .offset = offsetof(struct sqlite_config, create),
         .def = "true",
         .help = "make the database, the table and missing columns"},
        {.name = "synchronous",
         .type = OPTION_ENUM,
         .offset = offsetof(struct sqlite_config, synchronous),
         .def = "normal",
         .choices = synchronous_names,
         .help = "full: every commit waits for the disk; normal: power loss may undo the last "
                 "ones"},
        {.name = "busy_timeout",
         .type = OPTION_DURATION,
         .offset = offsetof(struct sqlite_config, busy_timeout),
         .def = "5s",
         .max = 600,
         .help = "how long to wait for another writer before saying so"},
        OPTION_END,
};

static void paths(const void *config, void (*add)(void *, const char *, enum stage_path_use),
                  void *arg)
{
	const struct sqlite_config *cfg = config;
	add(arg, cfg->path, STAGE_PATH_WRITE);
}

const struct stage_ops consumer_sqlite = {
        .name = "sqlite",
        .kind = STAGE_CONSUMER,
        .flags = STAGE_TRANSACTION | STAGE_OUTSIDE,
        .needs = STAGE_NEEDS_FILES,
        .paths = paths,
        .help = "inserts records into a SQLite table, exactly once",
        .example = "type: sqlite\n"
                   "path: /var/lib/sluice/orders.db\n"
                   "table: orders\n"
                   "key: id\n",
        .options = sqlite_options,
        .config_size = sizeof(struct sqlite_config),
        .state_size = sizeof(struct sqlite_state),
        .check = sqlite_check,
        .config_free = sqlite_config_free,
        .open = sqlite_open,
        .close = sqlite_close,
        .consume = sqlite_consume,
        .begin = sqlite_begin,
        .finish = sqlite_finish,
        .commit = sqlite_commit,
        .rollback = sqlite_rollback,
        .committed = sqlite_committed,
};
