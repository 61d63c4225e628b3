/*
 * Names of what is counted, and the histogram's arithmetic.
 */
#include "ipc/stats.h"

#include <math.h>

#define X(name, help) [BOOK_##name] = #name,
const char *const stats_book_name[BOOK_COUNT] = {BOOKS(X)};
#undef X
#define X(name, help) [BOOK_##name] = help,
const char *const stats_book_help[BOOK_COUNT] = {BOOKS(X)};
#undef X
#define X(name, help) [STAT_##name] = #name,
const char *const stats_name[STAT_COUNT] = {STATS(X)};
#undef X
#define X(name, help) [STAT_##name] = help,
const char *const stats_help[STAT_COUNT] = {STATS(X)};
#undef X

enum {
	SUB_BITS = 4,
};
_Static_assert(1 << SUB_BITS == HISTOGRAM_SUB, "");

/* Values below 16 have a bucket each; above, the top five bits of the value choose it. */
static unsigned bucket_of(uint64_t ns)
{
	if (ns < HISTOGRAM_SUB)
		return (unsigned)ns;
	unsigned octave = 63 - (unsigned)__builtin_clzll(ns) - SUB_BITS; /* 0 for 16..31 */
	unsigned at = (octave + 1) * HISTOGRAM_SUB + (unsigned)(ns >> octave & (HISTOGRAM_SUB - 1));
	return at < HISTOGRAM_BUCKETS ? at : HISTOGRAM_BUCKETS - 1;
}

/* The middle of a bucket. */
static uint64_t bucket_value(unsigned at)
{
	if (at < HISTOGRAM_SUB)
		return at;
	unsigned octave = at / HISTOGRAM_SUB - 1;
	uint64_t low = (uint64_t)(HISTOGRAM_SUB + at % HISTOGRAM_SUB) << octave;
	return low + (1ull << octave) / 2;
}

void histogram_add(struct histogram *h, uint64_t ns, uint64_t weight)
{
	if (!weight)
		return;
	if (!h->count || ns < h->min)
		h->min = ns;
	if (!h->count || ns > h->max)
		h->max = ns;
	h->count += weight;
	h->sum += (double)ns * (double)weight;
	h->sum_sq += (double)ns * (double)ns * (double)weight;
	h->bucket[bucket_of(ns)] += weight;
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
	if (!from->count)
		return;
	if (!to->count || from->min < to->min)
		to->min = from->min;
	if (!to->count || from->max > to->max)
		to->max = from->max;
	to->count += from->count;
	to->sum += from->sum;
	to->sum_sq += from->sum_sq;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		to->bucket[i] += from->bucket[i];
}

uint64_t histogram_quantile(const struct histogram *h, double q)
{
	uint64_t total = 0, seen = 0;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		total += h->bucket[i];
	if (!total)
		return 0;
	uint64_t rank = (uint64_t)ceil(q * (double)total);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= rank && seen) {
			uint64_t v = bucket_value(i);
			return v < h->min ? h->min : v > h->max ? h->max : v;
		}
	}
	return h->max;
}

double histogram_mean(const struct histogram *h)
{
	return h->count ? h->sum / (double)h->count : 0;
}

double histogram_stddev(const struct histogram *h)
{
	if (!h->count)
		return 0;
	double mean = histogram_mean(h), var = h->sum_sq / (double)h->count - mean * mean;
	return var > 0 ? sqrt(var) : 0;
}
