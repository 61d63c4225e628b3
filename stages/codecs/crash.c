/*
 * Codec `crash`: another codec, and death on demand. Only in builds with -DSLUICE_FAULTS: a test's
 * way to a codec that dies of one input.
 *
 * It is the codec that `of` names but for a record that holds CRASH-ME: then it does what a broken
 * parser does; with CRASH-END also when it is only asked where that record ends.
 */
#ifdef SLUICE_FAULTS

# include "stages/steps/crash.h"

# include <stdio.h>
# include <string.h>

struct crash_config {
	const char *of;
};

static const struct option crash_options[] = {
        {.name = "of",
         .type = OPTION_STRING,
         .offset = offsetof(struct crash_config, of),
         .def = "lines",
         .help = "the codec that dies"},
        OPTION_END,
};

static int crash_open(struct codec *c)
{
	const struct crash_config *cf = c->config;
	const struct codec_ops *of = codec_find(cf ? cf->of : "lines");
	return of ? codec_init(c->state, of, NULL, c->max_record) : -EINVAL;
}

static void crash_close(struct codec *c)
{
	codec_deinit(c->state);
}

static void crash_reset(struct codec *c)
{
	struct codec *of = c->state;
	if (of->ops->reset)
		of->ops->reset(of);
	c->headless = of->headless;
}

static void crash_lost(struct codec *c)
{
	struct codec *of = c->state;
	if (of->ops->lost)
		of->ops->lost(of);
	c->headless = of->headless;
}

static int64_t crash_prologue(struct codec *c, const uint8_t *p, size_t len)
{
	struct codec *of = c->state;
	return of->ops->prologue ? of->ops->prologue(of, p, len) : 1;
}

static const uint8_t *end_of(struct codec *of, const struct codec_window *w)
{
	if (of->ops->behind)
		return of->ops->behind(of, w);
	const uint8_t *nl = memchr(w->p, '\n', (size_t)(w->end - w->p));
	return nl ? nl + 1 : NULL;
}

/* Dies when @mark stands in the record at w->p. */
static void die_of(struct codec *of, const struct codec_window *w, const char *mark)
{
	const uint8_t *end = end_of(of, w);
	const uint8_t *at = end ? memmem(w->p, (size_t)(end - w->p), mark, strlen(mark)) : NULL;
	if (!at)
		return;
	at += strlen(mark);
	const uint8_t *how = at;
	while (how < end && *how >= 'a' && *how <= 'z')
		how++;
	crash((const char *)at, (size_t)(how - at));
}

static const uint8_t *crash_behind(struct codec *c, const struct codec_window *w)
{
	struct codec *of = c->state;
	die_of(of, w, "CRASH-END:");
	return end_of(of, w);
}

static int crash_decode(struct codec *c, struct codec_window *w, uint8_t *out, size_t room,
                        size_t *len)
{
	struct codec *of = c->state;
	die_of(of, w, "CRASH-ME:");
	die_of(of, w, "CRASH-END:");
	return of->ops->decode(of, w, out, room, len);
}

static int crash_begin(struct codec *c, struct codec_window *w)
{
	struct codec *of = c->state;
	if (!of->ops->begin)
		return CODEC_E_OK;
	die_of(of, w, "CRASH-ME:");
	die_of(of, w, "CRASH-END:");
	return of->ops->begin(of, w);
}

static int crash_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out)
{
	struct codec *of = c->state;
	return of->ops->encode(of, rec, len, out);
}

const struct codec_ops codec_crash = {
        .name = "crash",
        .help = "another codec, and death on demand (tests only)",
        .options = crash_options,
        .config_size = sizeof(struct crash_config),
        .state_size = sizeof(struct codec),
        .open = crash_open,
        .close = crash_close,
        .reset = crash_reset,
        .begin = crash_begin,
        .lost = crash_lost,
        .has_prologue = true,
        .prologue = crash_prologue,
        .behind = crash_behind,
        .decode = crash_decode,
        .encode = crash_encode,
        .text = true,
};

#else
typedef int crash_codec_is_not_built; /* a file must not be empty */
#endif
