/*
 * Columns for people: numbers to the right, words to the left, no wider than they must be.
 *
 * Cells are filled row by row; widths are known when all are there. Text may come from outside (a
 * peer's error message): control characters are shown as '?', so no text can move a terminal's
 * cursor.
 */
#pragma once

#include "ipc/buf.h"

enum {
	TABLE_COLUMNS_MAX = 16,
};

enum table_color {
	TABLE_PLAIN,
	TABLE_GOOD,
	TABLE_WARN,
	TABLE_BAD,
	TABLE_DIM,
};

struct table_cell {
	size_t at, len; /* in text */
	size_t width;   /* in columns of a terminal */
	enum table_color color;
};

struct table {
	struct {
		const char *title;
		bool right;
	} columns[TABLE_COLUMNS_MAX];
	unsigned n_columns;
	struct buf cells; /* struct table_cell, row by row */
	struct buf text;
	int error;
};

/* Columns are named once, before the first cell. @title: static; a '>' before it: to the right. */
void table_columns(struct table *t, const char *const *titles, unsigned n);
/* Cells fill rows from left to right. */
__attribute__((format(printf, 3, 4))) void table_cell(struct table *t, enum table_color color,
                                                      const char *fmt, ...);
void table_cell_text(struct table *t, enum table_color color, const char *text, size_t len);
/* Appends the table to @out. The last column is cut to what is left of @width columns; 0: never. */
void table_print(const struct table *t, bool color, unsigned width, struct buf *out);
void table_deinit(struct table *t);

/* Appends @text, with control characters made harmless, in @color when @use is set. */
void table_add(struct buf *out, const char *text, size_t len, enum table_color color, bool use);
/* Whether to colour what goes to @fd: a terminal, and NO_COLOR is not set. */
bool table_wants_color(int fd);
/* Columns of the terminal at @fd, 0: it is none. */
unsigned table_terminal_width(int fd);
unsigned table_terminal_height(int fd);
/* Columns that UTF-8 text takes on a terminal, in the locale of the process. */
size_t table_width(const char *text, size_t len);

/* Numbers as people read them, in @s: 1234567 -> "1.23 M"; bytes by 1024: "1.18 MiB"; microseconds:
 * "1.23 ms"; seconds: "3 h 12 min". Return @s. */
enum {
	TABLE_NUMBER_MAX = 32,
};
char *table_count(char s[TABLE_NUMBER_MAX], double n);
char *table_bytes(char s[TABLE_NUMBER_MAX], double bytes);
char *table_micros(char s[TABLE_NUMBER_MAX], double us);
char *table_seconds(char s[TABLE_NUMBER_MAX], double seconds);
