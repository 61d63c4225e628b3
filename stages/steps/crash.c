/*
 * Step `crash`: death on demand. Only in builds with -DSLUICE_FAULTS: a test's way to a step that
 * dies of one record among many.
 *
 * A record with the field `crash` (or what `crash: NAME` names) dies as its value says; all others
 * pass.
 */
#ifdef SLUICE_FAULTS

# include "stages/steps/crash.h"

# include <signal.h>
# include <stdlib.h>
# include <string.h>

struct crash_config {
	const char *field;
};

/* No tail call, no frame that could be left out: every turn takes its share of the stack. */
static __attribute__((noinline)) int deeper(volatile char *above, unsigned depth)
{
	volatile char frame[4096];
	frame[0] = (char)(above[0] + 1);
	int r = depth ? deeper(frame, depth + 1) : 0;
	return r + frame[0];
}

static void take_all_memory(void)
{
	enum { PIECE = 1 << 20 };
	for (;;) {
		char *p = malloc(PIECE);
		if (!p)
			abort();
		memset(p, 1, PIECE);
	}
}

void crash(const char *how, size_t len)
{
	volatile unsigned turns = 0;
	volatile char first = 0;
	if (len == 4 && memcmp(how, "segv", len) == 0)
		*(volatile int *)(uintptr_t)turns = 1;
	else if (len == 5 && memcmp(how, "abort", len) == 0)
		abort();
	else if (len == 5 && memcmp(how, "stack", len) == 0)
		deeper(&first, 1);
	else if (len == 4 && memcmp(how, "loop", len) == 0)
		for (;;)
			turns++;
	else if (len == 6 && memcmp(how, "memory", len) == 0)
		take_all_memory();
}

static int crash_transform(struct stage *st, struct record *r)
{
	const struct crash_config *c = st->config;
	const struct field *f = record_get(r, c->field, strlen(c->field));
	if (f) {
		struct mp v = record_value(f->val, f->val_len);
		if (v.type == MP_STR)
			crash((const char *)v.p, v.len);
	}
	return STAGE_OK;
}

static const struct option options[] = {
        {"field", OPTION_STRING, offsetof(struct crash_config, field), .def = "crash",
         .help = "the field that says how to die"},
        OPTION_END,
};

const struct stage_ops step_crash = {
        .name = "crash",
        .kind = STAGE_STEP,
        .help = "dies on demand (tests only)",
        .example = "- crash: {field: crash}\n",
        .options = options,
        .config_size = sizeof(struct crash_config),
        .transform = crash_transform,
};

#else
typedef int crash_step_is_not_built; /* a file must not be empty */
#endif
