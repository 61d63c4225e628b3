/*
 * See regex.h. The table of regex_cached() is direct-mapped by the pattern's hash: a clash costs a
 * compile, never a wrong answer, for the pattern's text is compared.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "stages/regex.h"

#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
	REGEX_STEPS = 1000000,      /* of one match; a few milliseconds */
	REGEX_HEAP_KIB = 16 * 1024, /* of one interpreted match */
	REGEX_PATTERN_MAX = 64 * 1024,
	REGEX_CACHE = 64,
};

struct regex {
	pcre2_code *code;
	pcre2_match_data *data;
	pcre2_match_context *limits;
	char *pattern; /* only of cached ones */
	size_t pattern_len;
};

struct regex *regex_free(struct regex *x)
{
	if (!x)
		return NULL;
	pcre2_match_context_free(x->limits);
	pcre2_match_data_free(x->data);
	pcre2_code_free(x->code);
	free(x->pattern);
	free(x);
	return NULL;
}

static bool make_match_parts(struct regex *x)
{
	x->data = pcre2_match_data_create_from_pattern(x->code, NULL);
	x->limits = pcre2_match_context_create(NULL);
	if (!x->data || !x->limits)
		return false;
	pcre2_set_match_limit(x->limits, REGEX_STEPS);
	pcre2_set_heap_limit(x->limits, REGEX_HEAP_KIB);
	return true;
}

struct regex *regex_new(const char *pattern, size_t len, char *why, size_t why_size)
{
	if (len > REGEX_PATTERN_MAX) {
		snprintf(why, why_size, "the pattern is longer than %d bytes", REGEX_PATTERN_MAX);
		return NULL;
	}
	struct regex *x = calloc(1, sizeof(*x));
	int code = 0;
	PCRE2_SIZE offset = 0;
	if (x)
		x->code =
		        pcre2_compile((PCRE2_SPTR)pattern, len,
		                      PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C,
		                      &code, &offset, NULL);
	if (x && x->code && make_match_parts(x))
		return x;
	char text[160] = "out of memory";
	if (x && !x->code)
		pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof(text));
	snprintf(why, why_size, "%s (at byte %zu of the pattern)", text, (size_t)offset);
	return regex_free(x);
}

void regex_jit(struct regex *x)
{
	pcre2_jit_compile(x->code, PCRE2_JIT_COMPLETE);
}

int regex_match(struct regex *x, const uint8_t *s, size_t len, unsigned group, size_t *from,
                size_t *to)
{
	int n = pcre2_match(x->code, s, len, 0, 0, x->data, x->limits);
	if (n == PCRE2_ERROR_NOMATCH)
		return REGEX_E_NONE;
	if (n == PCRE2_ERROR_NOMEMORY)
		return -ENOMEM;
	if (n < 0)
		return REGEX_E_LIMIT;
	if (!from)
		return 0;
	const PCRE2_SIZE *at = pcre2_get_ovector_pointer(x->data);
	if (group >= (unsigned)n || at[2 * group] == PCRE2_UNSET)
		return REGEX_E_NONE;
	*from = at[2 * group];
	*to = at[2 * group + 1];
	return *to < *from ? REGEX_E_NONE : 0; /* \K in a look-ahead can turn them round */
}

struct regex *regex_cached(const char *pattern, size_t len, char *why, size_t why_size)
{
	static struct regex *table[REGEX_CACHE];
	struct regex **slot = &table[XXH3_64bits(pattern, len) % REGEX_CACHE];
	struct regex *x = *slot;
	if (x && x->pattern_len == len && memcmp(x->pattern, pattern, len) == 0)
		return x;
	x = regex_new(pattern, len, why, why_size);
	if (!x)
		return NULL;
	x->pattern = malloc(len + 1);
	if (!x->pattern) {
		snprintf(why, why_size, "out of memory");
		return regex_free(x);
	}
	memcpy(x->pattern, pattern, len);
	x->pattern_len = len;
	regex_jit(x);
	regex_free(*slot);
	*slot = x;
	return x;
}
