/*
 * Dead letters put back: `sluicectl dead replay`.
 *
 *   ctl_replay.c    the command: chooses letters, writes spools, asks the daemon
 *   spool.c         the file between the two
 *   replay.c        the daemon's master: starts a replayer where a spool lies, and ends it
 *   replay_stage.c  the replayer: a producer that reads its spool
 */
#pragma once

#include "daemon/master.h"

/* What a replayer is configured with. */
struct replay_config {
	const char *letters; /* the dead letters' directory */
	const char *stage;   /* whose letters */
};

extern const struct stage_ops replay_ops;

/* Starts a replayer for each stage that has a spool and none running. At the start of the daemon,
 * after a reload, by command. Positive with @why: letters wait, and why. */
int replay_start(struct master *m, const char **why);
/* Whether a stage is a replayer that has work: one that feeds the stage with index @stage. */
bool replay_feeds(const struct master *m, unsigned stage);
/* Whether any replayer has work. */
bool replay_active(const struct master *m);
/* Whether a replayer that has not left fills the edge with index @edge. */
bool replay_fills(const struct master *m, unsigned edge);
/* A replayer's process has ended: gives its slot back, or starts it again when a new spool came. */
void replay_child_gone(struct master *m, uint32_t slot);
/* Whether the slot's position is needed: its spool is not finished. */
bool replay_holds(const struct master *m, uint32_t slot);
/* Gives a finished replayer's slot back. False: the slot is no replayer's. */
bool replay_retire(struct master *m, uint32_t slot);
/* Why @next cannot take the place of the configuration while letters wait in spools; NULL: it can.
 */
const char *replay_refusal(const struct master *m, const struct config *next);
