/*
 * What sluiced does besides running: check a configuration, try a transformer on samples, look
 * into, export or repair the arena of a daemon that is stopped. Each returns an exit status (0
 * fine, 1 no, 2 used wrongly).
 *
 * This header needs no other of ours, so that main.c can use getopt (whose struct option is not
 * ours).
 */
#pragma once

#include <stdbool.h>

struct config;

/* Loads @path (NULL: the default place); prints what is wrong to stderr. NULL: it was wrong. */
struct config *offline_load(const char *path);
/* Says what the configuration comes to: stages, edges, memory by the formula. Takes @cfg. */
int offline_check(struct config *cfg);
/* Runs the steps of transformer @stage on JSON records from stdin; prints what comes out, and
 * rejects on stderr. Takes @cfg. */
int offline_try(struct config *cfg, const char *stage);
int offline_arena_check(struct config *cfg);
int offline_arena_export(struct config *cfg, const char *file);
int offline_arena_repair(struct config *cfg, bool yes);
/* The daemon itself (master.c). Takes @cfg. */
int master_run(struct config *cfg, bool until_done);
