/* The plan of confinement for one worker of a stage. */
#pragma once

#include "daemon/config.h"
#include "daemon/confine.h"

/* Fills @p (deinit it with confine_plan_deinit). Makes the stage's state directory, which has to be
 * there. */
void confine_plan_stage(struct confine_plan *p, const struct config *cfg,
                        const struct config_stage *s, unsigned ordinal);
