/*
 * What the parts of the SQLite consumer share: sqlite.c has the unit and its transaction,
 * sqlite_table.c the table, its columns and the statement, sqlite_row.c one record's way into it.
 */
#pragma once

#include <sqlite3.h>

#include "stages/stage.h"

enum sqlite_type {
	SQLITE_TYPE_ANY, /* declared without a type: every value is kept as it came */
	SQLITE_TYPE_TEXT,
	SQLITE_TYPE_INTEGER,
	SQLITE_TYPE_REAL,
	SQLITE_TYPE_NUMERIC,
	SQLITE_TYPE_BLOB,
};

/* A column named in the configuration. */
struct sqlite_given {
	const char *name; /* borrowed from the node */
	const char *path; /* of the value in the record */
	enum sqlite_type type;
};

struct sqlite_config {
	const char *path;
	const char *table;
	const struct node *columns;
	struct strings key;
	bool create;
	int synchronous;
	int64_t busy_timeout; /* ns */
	struct sqlite_given *given;
	size_t n_given;
};

struct sqlite_column {
	char *name; /* owned */
	size_t len;
	const char *path; /* with given columns: where the value stands; else NULL: the field of
	                     this name */
	int bind;         /* number in the statement, from 1; 0: not in it */
	bool numeric;     /* SQLite turns text that looks like a number into one here */
	bool key;
	uint64_t row; /* the last row that had a value for it */
};

struct sqlite_state {
	sqlite3 *db;
	sqlite3_stmt *begin;
	sqlite3_stmt *commit;
	sqlite3_stmt *rollback;
	sqlite3_stmt *mark;
	sqlite3_stmt *find;
	sqlite3_stmt *insert; /* NULL: to be prepared */
	struct sqlite_column *columns;
	size_t n;
	size_t cap;
	int binds;       /* columns in the statement */
	uint32_t *shape; /* shape[i]: the column of the previous record's field i */
	size_t shape_cap;
	uint64_t row; /* counts rows, for sqlite_column.row */
	bool in_unit; /* BEGIN was done, neither COMMIT nor ROLLBACK yet */
	bool loaded;  /* columns say what the table has */
	bool changed; /* this unit has changed the schema */
	struct record rec;
	struct codec json;
	void *json_config;
	bool json_made;
	struct buf wrap;
	struct buf text;
};

/* sqlite.c: turns an error of SQLite into an answer with a reason: STAGE_E_REJECT when it is the
 * record's (only where @record), STAGE_E_UNREACHABLE, or -ENOMEM. */
int sqlite_answer(struct stage *st, int rc, const char *what, bool record);

/* sqlite_table.c. All: 0, STAGE_E_REJECT, STAGE_E_UNREACHABLE, -errno. */

/* Reads what columns the table has. None: s->n is 0. */
int sqlite_table_load(struct stage *st);
/* Makes the table and what it lacks of the given columns. Only with given columns. */
int sqlite_table_given(struct stage *st);
/* Makes the table for the fields of s->rec. */
int sqlite_table_make(struct stage *st);
/* The number of the column for field @f, added when missing, -1 after an answer was put in
 * *@answer. */
int64_t sqlite_table_column(struct stage *st, const struct field *f, int *answer);
/* Prepares the statement when there is none. */
int sqlite_table_prepare(struct stage *st);
/* Forgets columns and statement: they are read again. */
void sqlite_table_forget(struct sqlite_state *s);

/* sqlite_row.c: inserts s->rec, which is open. Like consume. */
int sqlite_row_insert(struct stage *st);
