/*
 * The registry: stages.def made into tables, and the few functions every stage shares.
 */
#include "stages/stage.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define STAGE(symbol) extern const struct stage_ops symbol;
#define CODEC(symbol) extern const struct codec_ops symbol;
#include "stages/stages.def"
#undef STAGE
#undef CODEC

#define STAGE(symbol) &symbol,
#define CODEC(symbol)
const struct stage_ops *const stage_all[] = {
#include "stages/stages.def"
        NULL,
};
#undef STAGE
#undef CODEC

#define STAGE(symbol)
#define CODEC(symbol) &symbol,
const struct codec_ops *const codec_all[] = {
#include "stages/stages.def"
        NULL,
};
#undef STAGE
#undef CODEC

const struct stage_ops *stage_find(enum stage_kind kind, const char *name)
{
	for (size_t i = 0; stage_all[i]; i++)
		if (stage_all[i]->kind == kind && strcmp(stage_all[i]->name, name) == 0)
			return stage_all[i];
	return NULL;
}

const struct codec_ops *codec_find(const char *name)
{
	for (size_t i = 0; codec_all[i]; i++)
		if (strcmp(codec_all[i]->name, name) == 0)
			return codec_all[i];
	return NULL;
}

int stage_say(struct stage *st, int answer, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(st->why, sizeof(st->why), fmt, ap);
	va_end(ap);
	return answer;
}
