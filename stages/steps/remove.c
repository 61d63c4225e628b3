/*
 * Step `remove`: takes fields away. `remove: [password, user.email]`, or one name.
 *
 * A name may be a path into nested maps. A field that is not there is no error.
 */
#include "stages/stage.h"

struct remove_config {
	struct strings fields;
};

static void remove_check(void *config, const struct node *node, struct complaints *c)
{
	struct remove_config *cf = config;
	if (option_strings(node, &cf->fields, c) && !cf->fields.n)
		complain(c, node, "remove: expected at least one field");
}

static void remove_config_free(void *config)
{
	struct remove_config *cf = config;
	free(cf->fields.v);
}

static int remove_transform(struct stage *st, struct record *r)
{
	const struct remove_config *cf = st->config;
	for (size_t i = 0; i < cf->fields.n; i++) {
		int e = record_remove(r, cf->fields.v[i], strlen(cf->fields.v[i]));
		if (e < 0)
			return e;
	}
	return STAGE_OK;
}

const struct stage_ops step_remove = {
        .name = "remove",
        .kind = STAGE_STEP,
        .help = "take fields away",
        .example = "- remove: [password, user.email]\n",
        .config_size = sizeof(struct remove_config),
        .check = remove_check,
        .config_free = remove_config_free,
        .transform = remove_transform,
};
