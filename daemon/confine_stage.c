/*
 * What a stage of the configuration needs, as a plan for its confinement.
 *
 * A stage says it by `needs` and `paths` (stages/stage.h). One that says nothing gets by its kind:
 * a step nothing, unless it talks to the outside; a producer or consumer network and files, since
 * it cannot be known which.
 */
#include "daemon/confine_stage.h"

#include "daemon/run_log.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void allow(void *arg, const char *path, enum stage_path_use use)
{
	confine_allow(arg, path, use == STAGE_PATH_WRITE ? CONFINE_WRITE : CONFINE_READ);
}

static void add_needs(struct confine_plan *p, const struct stage_ops *ops, const void *config)
{
	unsigned needs = ops->needs;
	if (!needs && (ops->kind != STAGE_STEP || (ops->flags & STAGE_OUTSIDE)))
		needs = STAGE_NEEDS_NET | STAGE_NEEDS_FILES;
	p->net |= (needs & STAGE_NEEDS_NET) != 0;
	p->exec |= (needs & STAGE_NEEDS_EXEC) != 0;
	p->files |= (needs & STAGE_NEEDS_FILES) != 0;
	if (ops->paths)
		ops->paths(config, allow, p);
	else
		p->any_file |= (needs & STAGE_NEEDS_FILES) != 0;
}

static void add_state(struct confine_plan *p, const struct config *cfg,
                      const struct config_stage *s, unsigned ordinal)
{
	char path[512];
	mkdir(cfg->state_path, 0700); /* it has to be there to be allowed */
	snprintf(path, sizeof(path), "%s/%s.%u", cfg->state_path, s->name, ordinal);
	mkdir(path, 0700);
	confine_allow(p, path, CONFINE_WRITE);
	p->files = true; /* LMDB opens, locks and grows its files as it likes */
}

static void add_log(struct confine_plan *p, const struct config *cfg)
{
	char path[4096];
	log_path(cfg, path, sizeof(path));
	confine_allow(p, path, CONFINE_WRITE);
	p->files = true;
}

void confine_plan_stage(struct confine_plan *p, const struct config *cfg,
                        const struct config_stage *s, unsigned ordinal)
{
	memset(p, 0, sizeof(*p));
	if (s->builtin)
		mkdir(cfg->dead_path, 0750); /* else its nearest parent would be allowed */
	if (s->ops)
		add_needs(p, s->ops, s->config);
	for (unsigned i = 0; i < s->n_steps; i++)
		add_needs(p, s->steps[i].ops, s->steps[i].config);
	if (s->stateful)
		add_state(p, cfg, s, ordinal);
	if (s->log)
		add_log(p, cfg);
	confine_allow(p, cfg->runtime_dir, CONFINE_SOCKETS);
	p->want = CONFINED_BIT(privileges) | CONFINED_BIT(calls);
	if (p->exec)
		return;
	p->want |= CONFINED_BIT(exec);
	p->want |= p->net ? 0 : CONFINED_BIT(network);
	p->want |= p->any_file ? 0 : CONFINED_BIT(files);
}
