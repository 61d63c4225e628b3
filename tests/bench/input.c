/*
 * Writes the bench's input: NDJSON records of about 200 bytes, the same bytes for the same count.
 *
 *     input COUNT > records.ndjson
 *
 * {id, ts, level, service, msg, latency_ms, user{id,country}}, as a service's log would be. One
 * record in four is `debug`, so that a filter has something to drop; one message in sixteen has
 * escapes and one in sixteen has text beyond ASCII, because real ones do.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t seed = 88172645463325252u;

/* xorshift64 (Marsaglia, "Xorshift RNGs", 2003). */
static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static const char *pick(const char *const *from, unsigned n)
{
	return from[next() % n];
}

static void one(uint64_t id)
{
	static const char *const levels[] = {"debug", "info", "warn", "error"};
	static const char *const services[] = {"checkout", "billing", "search", "auth", "gateway"};
	static const char *const countries[] = {"DE", "FR", "US", "JP", "BR", "IN"};
	static const char *const ends[] = {"",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   "",
	                                   " said \\\"no\\\"",
	                                   " caf\xc3\xa9 \xe2\x82\xac"};
	uint64_t ms = id * 3 + next() % 3;
	printf("{\"id\":%" PRIu64 ",\"ts\":\"2026-03-%02uT%02u:%02u:%02u.%03uZ\",\"level\":\"%s\","
	       "\"service\":\"%s\",\"msg\":\"request %" PRIx64 " handled by worker %u%s\","
	       "\"latency_ms\":%u.%u%u,\"user\":{\"id\":%u,\"country\":\"%s\"}}\n",
	       id, (unsigned)(1 + ms / 86400000 % 28), (unsigned)(ms / 3600000 % 24),
	       (unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60), (unsigned)(ms % 1000),
	       pick(levels, 4), pick(services, 5), next(), (unsigned)(next() % 64), pick(ends, 16),
	       (unsigned)(next() % 900), (unsigned)(next() % 10), (unsigned)(next() % 9 + 1),
	       (unsigned)(next() % 1000000), pick(countries, 6));
}

int main(int argc, char **argv)
{
	uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
	if (!n) {
		fprintf(stderr, "usage: input COUNT > FILE\n");
		return 2;
	}
	for (uint64_t i = 1; i <= n; i++)
		one(i);
	return fflush(stdout) == 0 ? 0 : 1;
}
