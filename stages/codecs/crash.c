/*
 * Codec `crash`: lines, and death on demand. Only in builds with -DSLUICE_FAULTS: a test's way to a
 * codec that dies of one input.
 *
 * It is `lines` but for a line that holds CRASH-ME: then it does what a broken parser does.
 */
#ifdef SLUICE_FAULTS

# include "stages/steps/crash.h"

# include <string.h>

static int crash_open(struct codec *c)
{
	return codec_init(c->state, codec_find("lines"), NULL, c->max_record);
}

static void crash_close(struct codec *c)
{
	codec_deinit(c->state);
}

static void crash_reset(struct codec *c)
{
	struct codec *lines = c->state;
	lines->ops->reset(lines);
}

static int crash_decode(struct codec *c, struct codec_window *w, uint8_t *out, size_t room,
                        size_t *len)
{
	static const char mark[] = "CRASH-ME:";
	struct codec *lines = c->state;
	const uint8_t *nl = memchr(w->p, '\n', (size_t)(w->end - w->p));
	const uint8_t *at = nl ? memmem(w->p, (size_t)(nl - w->p), mark, strlen(mark)) : NULL;
	if (at)
		crash((const char *)at + strlen(mark), (size_t)(nl - at) - strlen(mark));
	return lines->ops->decode(lines, w, out, room, len);
}

static int crash_encode(struct codec *c, const uint8_t *rec, size_t len, struct buf *out)
{
	struct codec *lines = c->state;
	return lines->ops->encode(lines, rec, len, out);
}

const struct codec_ops codec_crash = {
        .name = "crash",
        .help = "lines, and death on demand (tests only)",
        .state_size = sizeof(struct codec),
        .open = crash_open,
        .close = crash_close,
        .reset = crash_reset,
        .decode = crash_decode,
        .encode = crash_encode,
        .text = true,
};

#else
typedef int crash_codec_is_not_built; /* a file must not be empty */
#endif
