/*
 * Making and unmaking codecs: the state of a codec belongs to its user, so two stages with the same
 * codec share nothing.
 */
#include "stages/codec.h"

#include <stdlib.h>

int codec_init(struct codec *c, const struct codec_ops *ops, const void *config, size_t max_record)
{
	*c = (struct codec){.ops = ops, .config = config, .max_record = max_record};
	c->state = calloc(1, ops->state_size ? ops->state_size : 1);
	if (!c->state)
		return -ENOMEM;
	int r = ops->open ? ops->open(c) : 0;
	if (r < 0)
		codec_deinit(c);
	return r;
}

void codec_deinit(struct codec *c)
{
	if (c->ops && c->state && c->ops->close)
		c->ops->close(c);
	free(c->state);
	*c = (struct codec){0};
}
