/*
 * YAML text to a tree of struct node (stages/option.h), on libyaml's events.
 */
#pragma once

#include "stages/option.h"

struct yaml_block;

struct yaml_file {
	struct yaml_file *next;
	char *name;    /* as given; nodes point here */
	unsigned mode; /* st_mode; 0 for text from memory */
};

/* Owner of nodes, their texts and file names. Zeroed: empty. */
struct yaml_tree {
	struct yaml_block *blocks;
	struct yaml_file *files; /* the latest first */
};

enum {
	YAML_DEPTH_MAX = 64,        /* containers inside containers */
	YAML_FILE_MAX = 4194304,    /* bytes of one file */
	YAML_EXPANDED_MAX = 1048576 /* bytes of one scalar with its variables filled in */
};

/* Parses @len bytes as one YAML document; @name is for messages. Environment variables are filled
 * in. Returns the root, owned by @t; NULL when the text is no YAML, or is empty (no complaint
 * then). Other mistakes are complained about, and the tree holds what makes sense of them. */
struct node *yaml_parse(struct yaml_tree *t, const char *name, const void *data, size_t len,
                        struct complaints *c);

/* The same for the file at @path. A file that cannot be read is complained about. */
struct node *yaml_read(struct yaml_tree *t, const char *path, struct complaints *c);

/* Nodes that no file holds: an empty map, a string, and a pair added to a map. @file and @text are
 * copied or borrowed from the tree. NULL / -ENOMEM: no memory. */
struct node *yaml_map(struct yaml_tree *t, const struct node *place);
struct node *yaml_string(struct yaml_tree *t, const struct node *place, const char *text);
int yaml_add(struct yaml_tree *t, struct node *map, struct node *key, struct node *value);

/* Frees everything; the tree is empty then. */
void yaml_deinit(struct yaml_tree *t);
