/*
 * filter: records that fit a condition go on, the others end here (counted as filtered).
 *
 * The condition's language is in stages/condition.h.
 */
#include "stages/condition.h"

struct filter {
	struct condition *keep;
};

static void filter_check(void *config, const struct node *node, struct complaints *c)
{
	struct filter *f = config;
	f->keep = condition_compile(node, c);
}

static void filter_config_free(void *config)
{
	struct filter *f = config;
	f->keep = condition_free(f->keep);
}

static int filter_open(struct stage *st)
{
	const struct filter *f = st->config;
	return condition_open(f->keep);
}

static int filter_transform(struct stage *st, struct record *r)
{
	const struct filter *f = st->config;
	bool yes = false;
	int a = condition_true(f->keep, st, r, &yes);
	return a != 0 ? a : yes ? STAGE_OK : STAGE_E_FILTERED;
}

const struct stage_ops step_filter = {
        .name = "filter",
        .kind = STAGE_STEP,
        .help = "keeps the records that fit a condition",
        .example = "- filter: {level: {not: debug}, status: {ge: 500}}\n"
                   "- filter: \"latency > 5 and host(url) == 'example.org'\"\n",
        .config_size = sizeof(struct filter),
        .check = filter_check,
        .config_free = filter_config_free,
        .open = filter_open,
        .transform = filter_transform,
};
