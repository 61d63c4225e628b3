/*
 * What `aggregate` is told.
 */
#pragma once

#include "stages/option.h"
#include "stages/steps/aggregate_num.h"

enum {
	COMPUTE_MAX = 64, /* computed fields */
};

struct compute {
	const char *name; /* of the field it makes */
	enum agg_fn fn;
	const char *path; /* NULL: count() */
	size_t path_len;
};

struct aggregate_config {
	struct strings by;
	const struct node *compute;
	int64_t window; /* ns; 0: none */
	const char *stamp;
	int64_t max_keys;
	struct compute *ops; /* made of `compute` */
	unsigned n;
	char *paths; /* their text */
};

extern const struct option aggregate_options[];

/* Reads `compute`. The names and `by` are borrowed from the nodes. */
void aggregate_check(void *config, const struct node *node, struct complaints *c);
void aggregate_config_free(void *config);

/* A hash of all that decides what a group in the state looks like. */
uint64_t aggregate_shape(const struct aggregate_config *c);
