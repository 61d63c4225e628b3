/*
 * What a stage can be told: a table of options in its own file, from which parsing, error messages,
 * `sluicectl stages NAME` and the reference manual all come.
 *
 * The configuration is a tree of nodes, each knowing its place in its file. A stage's table says
 * which keys it knows; option_parse() fills the stage's config struct and complains about
 * everything that is wrong, not only the first thing. Options that hold a structure of their own
 * (filter conditions, the expressions of `set`) have type OPTION_NODE: the stage reads the node
 * itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/buf.h"

enum node_kind {
	NODE_SCALAR,
	NODE_MAP,
	NODE_SEQ,
};

/* What a plain scalar is by YAML 1.2's core schema; quoted scalars are always strings. */
enum node_scalar {
	NODE_NULL,
	NODE_BOOL,
	NODE_INT,
	NODE_FLOAT,
	NODE_STRING,
};

struct node {
	enum node_kind kind;
	enum node_scalar scalar;
	bool quoted; /* scalar: was written in quotes or as a block */
	bool b;      /* NODE_BOOL */
	int64_t i;   /* NODE_INT that fits */
	uint64_t u;  /* NODE_INT above 2^63-1: i is INT64_MAX */
	double d;    /* NODE_FLOAT, and NODE_INT too */
	char *text;  /* scalar: as written, after ${} expansion; NUL-terminated; may hold NULs */
	size_t len;  /* bytes of text */
	struct node **items; /* NODE_MAP: key, value, key, value, ...; NODE_SEQ: the elements */
	size_t n;            /* NODE_MAP: pairs; NODE_SEQ: elements */
	const char *file;    /* borrowed from the tree's owner */
	unsigned line;       /* from 1 */
	unsigned column;     /* from 1, in characters */
	bool expanded;       /* scalar: held a ${NAME} when it was read */
	bool bad; /* complained about when it was read: complain() says no more about it */
};

#define NODE_FOREACH_PAIR(map, k, v)               \
 for (size_t i_##k = 0; i_##k < (map)->n; i_##k++) \
  for (struct node *k = (map)->items[2 * i_##k], *v = (map)->items[2 * i_##k + 1]; k; k = NULL)

/* The value of @key in a map node, or NULL. */
struct node *node_get(const struct node *map, const char *key);

/* Finds out what the scalar @n is from its text and `quoted`: sets scalar, b, i, u, d. False for an
 * integer that no 64 bits hold (the scalar is a string then). */
bool node_resolve(struct node *n);

/* "a map", "a list", "a string", ...: for messages. */
const char *node_describe(const struct node *n);

/* Everything that is wrong with a configuration: one "file:line:column: message" a line. */
struct complaints {
	struct buf text;
	unsigned count;
};

/* Adds a complaint about @n. */
void complain(struct complaints *c, const struct node *n, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* Of @n names the one nearest to @word (Damerau-Levenshtein distance at most 2 and under half its
 * length), or NULL. */
const char *option_nearest(const char *word, const char *const *names, size_t n);

enum option_type {
	OPTION_BOOL,     /* bool */
	OPTION_INT,      /* int64_t, within [min, max] */
	OPTION_FLOAT,    /* double, within [min, max] */
	OPTION_STRING,   /* const char *, never empty unless the default is "" */
	OPTION_SIZE,     /* uint64_t bytes: 64KiB, 1MiB, 1GiB, or a plain number */
	OPTION_DURATION, /* int64_t nanoseconds: 5us, 5ms, 1s, 2m, 1h, 1d; 0 */
	OPTION_ENUM,     /* int: index into `choices` */
	OPTION_STRINGS,  /* struct strings: one string or a list */
	OPTION_NODE,     /* const struct node *: the stage reads it itself */
	OPTION_SUB,      /* a map with a table of its own (`sub`), laid out at `offset` */
};

struct strings {
	const char **v;
	size_t n;
};

struct option {
	const char *name;
	enum option_type type;
	size_t offset;   /* offsetof() in the config struct */
	const char *def; /* default as one would write it; NULL: none (zero / NULL / empty) */
	bool required;
	double min, max; /* for INT, FLOAT, SIZE (bytes), DURATION (seconds); both 0: no limits */
	const char *const *choices; /* ENUM: NULL-terminated */
	const struct option *sub;   /* SUB */
	const char *help;           /* one line, for people */
};

#define OPTION_END \
 {                 \
  .name = NULL     \
 }

/*
 * Fills @config (zeroed by the caller) from a map node by @table; @ignore: NULL-terminated keys
 * that somebody else reads (type, from, workers, ...), may be NULL. @map NULL: defaults only.
 * Strings are borrowed from the nodes and live as long as the tree; arrays of OPTION_STRINGS are
 * allocated and freed by option_free. Unknown keys, wrong types, values out of range and missing
 * ones are complained about.
 */
void option_parse(const struct option *table, const struct node *map, const char *const *ignore,
                  void *config, struct complaints *c);

/* Frees what option_parse allocated inside @config. */
void option_free(const struct option *table, void *config);

/* Single values, for stages that read nodes themselves. True on success, else a complaint was made.
 */
bool option_size(const struct node *n, uint64_t *bytes, struct complaints *c);
bool option_duration(const struct node *n, int64_t *ns, struct complaints *c);
bool option_strings(const struct node *n, struct strings *s, struct complaints *c);

/* Writes the reference of a table: name, type, default, help; as text columns or as JSON. */
void option_print_text(const struct option *table, struct buf *out);
void option_print_json(const struct option *table, struct buf *out);
