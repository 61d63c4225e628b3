/*
 * The limit to hold sluice against: the same jobs by hand, one thread, one process, no promises.
 *
 *     loop lines IN OUT           lines through untouched
 *     loop clean IN OUT           parse, drop debug, add processed_at and hash, upper-case service,
 * write loop check FILE - N         what FILE holds: its records and a sum over their fields, for
 * comparing loop serve ENDPOINT OUT N   `clean` over a ZeroMQ PULL, until N records came
 *
 * It knows the shape of its records: flat scans for the fields it needs, everything else is copied
 * as it stands. It does not check UTF-8, numbers, duplicate keys or nesting, and a crash loses what
 * it holds.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include <zmq.h>

enum {
	BLOCK = 256 << 10,
	EXTRA = 256, /* bytes a record may grow by */
};

static char out[2 * BLOCK + EXTRA];
static size_t used;
static int out_fd;
static char stamp[32];
static size_t stamp_len;

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static void flush(void)
{
	for (size_t at = 0; at < used;) {
		ssize_t n = write(out_fd, out + at, used - at);
		if (n < 0)
			die("write");
		at += (size_t)n;
	}
	used = 0;
}

static void put(const char *p, size_t len)
{
	memcpy(out + used, p, len);
	used += len;
}

static void note_time(void)
{
	struct timespec ts;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	size_t n = strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	stamp_len =
	        n + (size_t)snprintf(stamp + n, sizeof(stamp) - n, ".%06ldZ", ts.tv_nsec / 1000);
}

/* The string value behind @name; its end is *@end. The escapes stay: one that is needed plain is
 * undone. */
static const char *value(const char *p, const char *limit, const char *name, const char **end)
{
	const char *v = memmem(p, (size_t)(limit - p), name, strlen(name));
	if (!v)
		return NULL;
	v += strlen(name);
	for (*end = v; *end < limit && **end != '"'; (*end)++)
		*end += **end == '\\';
	return v;
}

static uint64_t hash_of(const char *p, const char *end)
{
	static char plain[BLOCK];
	size_t n = 0;
	if (!memchr(p, '\\', (size_t)(end - p)))
		return XXH64(p, (size_t)(end - p), 0);
	for (; p < end; p++) {
		p += *p == '\\'; /* \" and \\ are all there is here */
		plain[n++] = *p;
	}
	return XXH64(plain, n, 0);
}

static void hex(uint64_t v, char *to)
{
	for (int i = 15; i >= 0; i--, v >>= 4)
		to[i] = "0123456789abcdef"[v & 15];
}

/* One record without its newline. */
static void clean(const char *p, const char *end)
{
	const char *level_end, *service_end, *msg_end;
	const char *level = value(p, end, "\"level\":\"", &level_end);
	const char *service = level ? value(level_end, end, "\"service\":\"", &service_end) : NULL;
	const char *msg = service ? value(service_end, end, "\"msg\":\"", &msg_end) : NULL;
	char digest[16];
	if (!msg || (level_end - level == 5 && memcmp(level, "debug", 5) == 0))
		return;
	hex(hash_of(msg, msg_end), digest);
	put(p, (size_t)(service - p));
	for (; service < service_end; service++)
		out[used++] = *service >= 'a' && *service <= 'z' ? (char)(*service - 32) : *service;
	put(service_end, (size_t)(end - service_end) - 1);
	put(",\"processed_at\":\"", 17);
	put(stamp, stamp_len);
	put("\",\"hash\":\"", 10);
	put(digest, sizeof(digest));
	put("\"}\n", 3);
}

/* All whole lines of [p, p+len). Returns the bytes used. */
static size_t clean_lines(const char *p, size_t len, uint64_t *records)
{
	const char *start = p, *end = p + len, *nl;
	note_time();
	while ((nl = memchr(p, '\n', (size_t)(end - p)))) {
		if (used + (size_t)(nl - p) + EXTRA > BLOCK)
			flush();
		clean(p, nl);
		(*records)++;
		p = nl + 1;
	}
	return (size_t)(p - start);
}

/* Copies whole lines, one by one: what a loop over lines that does nothing costs. */
static size_t copy_lines(const char *p, size_t len, uint64_t *records)
{
	const char *start = p, *end = p + len, *nl;
	while ((nl = memchr(p, '\n', (size_t)(end - p)))) {
		if (used + (size_t)(nl + 1 - p) > BLOCK)
			flush();
		put(p, (size_t)(nl + 1 - p));
		(*records)++;
		p = nl + 1;
	}
	return (size_t)(p - start);
}

static uint64_t file(const char *path,
                     size_t (*lines)(const char *p, size_t len, uint64_t *records))
{
	static char in[BLOCK];
	uint64_t records = 0;
	size_t have = 0;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	while ((n = read(fd, in + have, sizeof(in) - have)) > 0) {
		have += (size_t)n;
		size_t done = lines(in, have, &records);
		memmove(in, in + done, have - done);
		have -= done;
	}
	close(fd);
	return records;
}

static uint64_t serve(const char *endpoint, uint64_t count)
{
	void *ctx = zmq_ctx_new(), *s = zmq_socket(ctx, ZMQ_PULL);
	uint64_t records = 0;
	zmq_msg_t msg;
	if (zmq_bind(s, endpoint) < 0)
		die(endpoint);
	zmq_msg_init(&msg);
	while (records < count && zmq_msg_recv(&msg, s, 0) >= 0)
		clean_lines(zmq_msg_data(&msg), zmq_msg_size(&msg), &records);
	return records;
}

/* ---- check ---- */

/* The value of @name as text, with or without a blank after the colon; quotes are left out. */
static size_t field(const char *p, const char *limit, const char *name, char *to, size_t room)
{
	const char *v = memmem(p, (size_t)(limit - p), name, strlen(name));
	size_t n = 0;
	if (!v)
		return 0;
	for (v += strlen(name); v < limit && (*v == ' ' || *v == '"'); v++)
		;
	for (; v < limit && n + 1 < room && *v != '"' && *v != ',' && *v != '}'; v++)
		to[n++] = *v;
	to[n++] = '|';
	return n;
}

static uint64_t sum;

/* The sum does not depend on the order. */
static size_t check_lines(const char *p, size_t len, uint64_t *records)
{
	static const char *const names[] = {"\"ts\":", "\"level\":", "\"service\":"};
	const char *start = p, *end = p + len, *nl;
	while ((nl = memchr(p, '\n', (size_t)(end - p)))) {
		char text[256];
		size_t n = 0;
		for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
			n += field(p, nl, names[i], text + n, sizeof(text) / 3);
		sum += XXH64(text, n, 0);
		(*records)++;
		p = nl + 1;
	}
	return (size_t)(p - start);
}

static int check(const char *path)
{
	uint64_t n = file(path, check_lines);
	printf("%llu %016llx\n", (unsigned long long)n, (unsigned long long)sum);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t n = 0;
	if (argc < 4) {
		fprintf(stderr, "usage: loop lines|clean IN OUT | loop serve ENDPOINT OUT N\n");
		return 2;
	}
	if (strcmp(argv[1], "check") == 0)
		return check(argv[2]);
	out_fd = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (out_fd < 0)
		die(argv[3]);
	if (strcmp(argv[1], "lines") == 0)
		n = file(argv[2], copy_lines);
	else if (strcmp(argv[1], "clean") == 0)
		n = file(argv[2], clean_lines);
	else if (argc == 5)
		n = serve(argv[2], strtoull(argv[4], NULL, 10));
	flush();
	fprintf(stderr, "%llu records\n", (unsigned long long)n);
	return n ? 0 : 1;
}
