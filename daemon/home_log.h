/*
 * The master's part of the log (arena.sync): it is there before a worker starts, and after a loss
 * of power the arena is made anew from it.
 */
#pragma once

#include "daemon/master.h"

/* Whether there is a log beside the arena. */
bool home_log_exists(const struct master *m);
/* Makes a new arena of geometry @g at arena.path from the log: positions and what has to be put
 * back. Whatever lies at arena.path is lost. @why: in words. 0 or -errno, logged. */
int home_log_rebuild(struct master *m, const struct arena_geometry *g, const char *why);
/* Makes the log when there is none, and lets it know the producers' positions. After
 * home_assign_edges(). 0 or -errno, logged. */
int home_log_prepare(struct master *m);
/* Without arena.sync: removes a log that holds nothing the arena does not have, or warns. */
void home_log_leave(const struct master *m, bool trusted);
