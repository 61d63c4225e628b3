/*
 * A consumer that takes everything and keeps nothing: for measuring, and for outputs that somebody
 * has to read but nobody wants. What it takes is delivered, and counted as such.
 */
#include "stages/stage.h"

static int consume(struct stage *st, const uint8_t *rec, size_t len)
{
	(void)st;
	(void)rec;
	(void)len;
	return STAGE_OK;
}

static int finish(struct stage *st)
{
	(void)st;
	return STAGE_OK;
}

const struct stage_ops consumer_null = {
        .name = "null",
        .kind = STAGE_CONSUMER,
        .needs = STAGE_NEEDS_NOTHING,
        .help = "takes every record and keeps none",
        .example = "type: null\n",
        .consume = consume,
        .finish = finish,
};
