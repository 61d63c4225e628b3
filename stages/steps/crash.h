/* How a stage dies of its data: for tests, only in builds with -DSLUICE_FAULTS. */
#pragma once

#include "stages/stage.h"

/* Dies as @how says: segv, abort, stack, loop (for ever), memory (as much as it gets, then abort);
 * returns for anything else. */
void crash(const char *how, size_t len);
