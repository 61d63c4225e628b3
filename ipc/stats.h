/*
 * What is counted, in two lists, each from which enum, names and help come.
 *
 * BOOKS are exact: they ride in the intents and survive any kill. STATS are for looking: each is
 * written by one process with plain relaxed stores and read without locks; a dead worker's last
 * moments may be missing.
 *
 * The histogram is log-linear: 16 buckets an octave (error at most 1/16 of the value), from 1 to
 * 2^44 ns, one array of counts: two histograms add up bucket by bucket. (The idea is Gil Tene's
 * HdrHistogram.)
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The conservation law, per pipeline:
 * received + made + replayed = delivered + filtered + absorbed + dead + dropped + in flight */
#define BOOKS(X)                                                                    \
 X(received, "records taken in by producers, bad ones included")                    \
 X(made, "records made of others: copies for further readers, explode, aggregates") \
 X(replayed, "dead letters put back")                                               \
 X(delivered, "records delivered by consumers")                                     \
 X(filtered, "records dropped on purpose")                                          \
 X(absorbed, "records that went into an aggregate")                                 \
 X(dead, "records that became dead letters")                                        \
 X(dropped, "records dropped by an edge's policy or a reload's --discard")          \
 X(letters, "dead letters written by the dead-letter writer")                       \
 X(records_in, "records taken from edges and from outside")                         \
 X(records_out, "records put on edges and delivered")                               \
 X(bytes_in, "bytes taken from edges and from outside")                             \
 X(bytes_out, "bytes put on edges and delivered")

enum book {
#define X(name, help) BOOK_##name,
	BOOKS(X)
#undef X
	        BOOK_COUNT
};

#define STATS(X)                                                  \
 X(chunks_in, "chunks claimed")                                   \
 X(chunks_out, "chunks put on edges")                             \
 X(commits, "units committed")                                    \
 X(retries, "deliveries tried again")                             \
 X(errors_data, "records rejected, whatever became of them")      \
 X(errors_peer, "times the outside was not reachable or refused") \
 X(refused, "clients and messages refused")                       \
 X(rings, "doorbells sent")                                       \
 X(wakeups, "times the worker was woken")                         \
 X(busy_ns, "time spent working")                                 \
 X(idle_ns, "time spent waiting for input")                       \
 X(blocked_ns, "time spent waiting for room")

enum stats_item {
#define X(name, help) STAT_##name,
	STATS(X)
#undef X
	        STAT_COUNT
};

extern const char *const stats_book_name[BOOK_COUNT];
extern const char *const stats_book_help[BOOK_COUNT];
extern const char *const stats_name[STAT_COUNT];
extern const char *const stats_help[STAT_COUNT];

enum {
	HISTOGRAM_SUB = 16, /* buckets an octave */
	HISTOGRAM_OCTAVES = 41,
	HISTOGRAM_BUCKETS = HISTOGRAM_SUB * (HISTOGRAM_OCTAVES + 1),
};

struct histogram {
	uint64_t count;
	uint64_t min, max; /* ns; meaningless when count is 0 */
	double sum, sum_sq;
	uint64_t bucket[HISTOGRAM_BUCKETS];
};

/* Adds @weight values of @ns. */
void histogram_add(struct histogram *h, uint64_t ns, uint64_t weight);
/* Adds what @from holds to @to. @from may be changing: the result is as good as a look can be. */
void histogram_merge(struct histogram *to, const struct histogram *from);
/* The value below which @q (0..1) of all lie, in ns; 0 when empty. */
uint64_t histogram_quantile(const struct histogram *h, double q);
double histogram_mean(const struct histogram *h);
double histogram_stddev(const struct histogram *h);

/* One worker's block. One writer. */
struct stats_block {
	_Atomic uint64_t v[STAT_COUNT];
	struct histogram latency; /* consumers: from the producer's taking to the delivery; others:
	                             queue + work */
	struct histogram work;    /* ns a record, by chunk */
};

static inline void stats_add(struct stats_block *s, enum stats_item what, uint64_t n)
{
	uint64_t v = atomic_load_explicit(&s->v[what], memory_order_relaxed);
	atomic_store_explicit(&s->v[what], v + n, memory_order_relaxed);
}

static inline uint64_t stats_get(const struct stats_block *s, enum stats_item what)
{
	return atomic_load_explicit(&s->v[what], memory_order_relaxed);
}
