/*
 * What must outlive an arena: positions, client sequences, output offsets, the books. Saved by
 * stage name into `state.path`/carry at a clean end of a daemon whose arena goes with it, or before
 * an arena is made anew with another geometry; loaded when an arena is made, and removed when that
 * is in its place. After a crash that took a memory arena there is no such file: stages then find
 * no position and begin as new ones.
 */
#pragma once

#include "daemon/master.h"

/* 0 or -errno (logged). */
int carry_save(struct master *m);
/* 0 (also when there is nothing), or -errno (logged: a damaged file is kept aside as carry.bad). */
int carry_load(struct master *m);
/* Removes the file: an arena that was kept has all of it. */
void carry_forget(struct master *m);
