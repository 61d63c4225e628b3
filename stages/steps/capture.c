/*
 * A pattern with named groups, by PCRE2.
 *
 * The one idea: the keys are written as msgpack once, when the pattern is compiled; a match only
 * copies them and the pieces of text behind them.
 *
 * Patterns run as machine code where the system allows pages that can be written and run, else by
 * PCRE2's interpreter, with the same results. A pattern that backtracks without end must not hold a
 * worker: a match takes at most MATCH_LIMIT steps and HEAP_LIMIT memory, then the text is refused.
 * The text must be UTF-8: it is checked here once, so PCRE2 need not.
 *
 * Limit: \C (a single byte) is refused, for it could cut characters in two.
 */
#include "stages/steps/capture.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "ipc/err.h"
#include "ipc/mp.h"

enum {
	MATCH_LIMIT = 2000000,
	HEAP_LIMIT = 16384, /* KiB */
	STACK_START = 32768,
	STACK_MAX = 1048576,
};

struct capture_group {
	uint32_t number;
	uint32_t off; /* of its key in `keys` */
	uint32_t len;
};

struct capture {
	pcre2_code *code;
	pcre2_match_data *match;
	pcre2_match_context *context;
	pcre2_jit_stack *stack;
	struct capture_group *groups;
	uint32_t n;
	struct buf keys;
	bool jit;
};

struct capture *capture_free(struct capture *re)
{
	if (!re)
		return NULL;
	pcre2_code_free(re->code);
	pcre2_match_data_free(re->match);
	pcre2_match_context_free(re->context);
	pcre2_jit_stack_free(re->stack);
	buf_deinit(&re->keys);
	free(re->groups);
	free(re);
	return NULL;
}

static void capture_free_p(struct capture **re)
{
	capture_free(*re);
}

/* Reads PCRE2's table of names: two bytes of number, the name, a NUL. */
static int capture_names(struct capture *re)
{
	PCRE2_SPTR table;
	uint32_t size;
	pcre2_pattern_info(re->code, PCRE2_INFO_NAMECOUNT, &re->n);
	pcre2_pattern_info(re->code, PCRE2_INFO_NAMEENTRYSIZE, &size);
	pcre2_pattern_info(re->code, PCRE2_INFO_NAMETABLE, &table);
	re->groups = calloc(re->n + 1, sizeof(*re->groups));
	if (!re->groups)
		return -ENOMEM;
	for (uint32_t i = 0; i < re->n; i++, table += size) {
		const char *name = (const char *)table + 2;
		size_t len = strlen(name);
		struct capture_group *g = &re->groups[i];
		int r = buf_room(&re->keys, len + MP_HEAD_MAX);
		if (r < 0)
			return r;
		uint8_t *at = re->keys.p + re->keys.len;
		uint8_t *end = mp_write_str(at, name, (uint32_t)len);
		*g = (struct capture_group){.number = (uint32_t)(table[0] << 8 | table[1]),
		                            .off = (uint32_t)re->keys.len,
		                            .len = (uint32_t)(end - at)};
		re->keys.len += g->len;
	}
	return 0;
}

/* The order in which groups stand in the pattern, not that of their names. */
static int capture_by_number(const void *a, const void *b)
{
	const struct capture_group *x = a, *y = b;
	return x->number < y->number ? -1 : x->number > y->number;
}

static int capture_compile(struct capture *re, const char *pattern, char *why, size_t why_size)
{
	int code;
	PCRE2_SIZE at;
	PCRE2_UCHAR text[128];
	re->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
	                         PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
	if (re->code)
		return 0;
	pcre2_get_error_message(code, text, sizeof(text));
	snprintf(why, why_size, "%s, at character %zu", (const char *)text, at + 1);
	return -EINVAL;
}

static void capture_make_jit(struct capture *re)
{
	if (pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE) != 0)
		return;
	re->stack = pcre2_jit_stack_create(STACK_START, STACK_MAX, NULL);
	if (re->stack)
		pcre2_jit_stack_assign(re->context, NULL, re->stack);
	re->jit = true;
}

int capture_new(struct capture **out, const char *pattern, bool jit, char *why, size_t why_size)
{
	_cleanup_(capture_free_p) struct capture *re = calloc(1, sizeof(*re));
	if (!re)
		return -ENOMEM;
	int r = capture_compile(re, pattern, why, why_size);
	if (r == 0)
		r = capture_names(re);
	if (r < 0)
		return r;
	qsort(re->groups, re->n, sizeof(*re->groups), capture_by_number);
	if (!re->n) {
		snprintf(why, why_size, "no named group, as in (?<name>...)");
		return -EINVAL;
	}
	re->match = pcre2_match_data_create_from_pattern(re->code, NULL);
	re->context = pcre2_match_context_create(NULL);
	if (!re->match || !re->context)
		return -ENOMEM;
	pcre2_set_match_limit(re->context, MATCH_LIMIT);
	pcre2_set_heap_limit(re->context, HEAP_LIMIT);
	if (jit)
		capture_make_jit(re);
	*out = re;
	re = NULL;
	return 0;
}

bool capture_jit(const struct capture *re)
{
	return re->jit;
}

static int capture_match(struct capture *re, const uint8_t *s, size_t len)
{
	uint32_t options = PCRE2_NO_UTF_CHECK;
	int n = pcre2_match(re->code, s, len, 0, options, re->match, re->context);
	if (n == PCRE2_ERROR_JIT_STACKLIMIT)
		n = pcre2_match(re->code, s, len, 0, options | PCRE2_NO_JIT, re->match,
		                re->context);
	if (n == PCRE2_ERROR_NOMATCH)
		return CAPTURE_E_NONE;
	if (n == PCRE2_ERROR_NOMEMORY)
		return -ENOMEM;
	return n < 0 ? CAPTURE_E_COSTLY : CAPTURE_E_OK;
}

/* Whether group @g took part; then where. */
static bool capture_took(const struct capture *re, const PCRE2_SIZE *v,
                         const struct capture_group *g)
{
	return g->number < pcre2_get_ovector_count(re->match) &&
	       v[2 * (size_t)g->number] != PCRE2_UNSET &&
	       v[2 * (size_t)g->number + 1] >= v[2 * (size_t)g->number];
}

/* With (?J) two groups may share a name: the first that took part counts. */
static bool capture_shadowed(const struct capture *re, const PCRE2_SIZE *v, uint32_t i)
{
	const struct capture_group *g = &re->groups[i];
	for (uint32_t j = 0; j < i; j++) {
		const struct capture_group *h = &re->groups[j];
		if (h->len == g->len &&
		    memcmp(re->keys.p + h->off, re->keys.p + g->off, g->len) == 0 &&
		    capture_took(re, v, h))
			return true;
	}
	return false;
}

int capture_map(struct capture *re, const uint8_t *s, size_t len, struct buf *out)
{
	out->len = 0;
	if (!mp_utf8_valid(s, len))
		return CAPTURE_E_TEXT;
	int r = capture_match(re, s, len);
	if (r)
		return r;
	const PCRE2_SIZE *v = pcre2_get_ovector_pointer(re->match);
	size_t need = MP_HEAD_MAX + re->keys.len;
	uint32_t n = 0;
	for (uint32_t i = 0; i < re->n; i++) {
		const struct capture_group *g = &re->groups[i];
		if (!capture_took(re, v, g) || capture_shadowed(re, v, i))
			continue;
		need += v[2 * g->number + 1] - v[2 * g->number] + MP_HEAD_MAX;
		n++;
	}
	r = buf_room(out, need);
	if (r < 0)
		return r;
	uint8_t *o = mp_write_map_head(out->p, n);
	for (uint32_t i = 0; i < re->n; i++) {
		const struct capture_group *g = &re->groups[i];
		if (!capture_took(re, v, g) || capture_shadowed(re, v, i))
			continue;
		size_t from = v[2 * g->number], to = v[2 * g->number + 1];
		memcpy(o, re->keys.p + g->off, g->len);
		o = mp_write_str(o + g->len, s + from, (uint32_t)(to - from));
	}
	out->len = (size_t)(o - out->p);
	return CAPTURE_E_OK;
}
