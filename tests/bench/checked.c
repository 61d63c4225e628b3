/*
 * The same job as `loop clean` by a library: yajl parses and checks every value (syntax, UTF-8),
 * and writes it again. What a careful C programmer would write in an afternoon; one thread, no
 * promises.
 *
 *     checked IN OUT
 *
 * Limits: duplicate keys pass, and a value that is wrong ends it.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include <yajl/yajl_gen.h>
#include <yajl/yajl_parse.h>

enum {
	BLOCK = 256 << 10,
};

enum key {
	KEY_OTHER,
	KEY_LEVEL,
	KEY_SERVICE,
	KEY_MSG,
};

static yajl_gen gen;
static int out_fd;
static unsigned depth;
static enum key key;
static bool drop;
static uint64_t hash, records;
static char out[2 * BLOCK], stamp[40];
static size_t used;

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

static void put_text(const char *text)
{
	yajl_gen_string(gen, (const unsigned char *)text, strlen(text));
}

static int on_string(void *ctx, const unsigned char *p, size_t len)
{
	char up[BLOCK];
	(void)ctx;
	if (key == KEY_LEVEL)
		drop = len == 5 && memcmp(p, "debug", 5) == 0;
	if (key == KEY_MSG)
		hash = XXH64(p, len, 0);
	if (key != KEY_SERVICE || len > sizeof(up))
		return yajl_gen_string(gen, p, len) == yajl_gen_status_ok;
	for (size_t i = 0; i < len; i++)
		up[i] = p[i] >= 'a' && p[i] <= 'z' ? (char)(p[i] - 32) : (char)p[i];
	return yajl_gen_string(gen, (unsigned char *)up, len) == yajl_gen_status_ok;
}

static int on_number(void *ctx, const char *p, size_t len)
{
	(void)ctx;
	return yajl_gen_number(gen, p, len) == yajl_gen_status_ok;
}

static int on_bool(void *ctx, int v)
{
	(void)ctx;
	return yajl_gen_bool(gen, v) == yajl_gen_status_ok;
}

static int on_null(void *ctx)
{
	(void)ctx;
	return yajl_gen_null(gen) == yajl_gen_status_ok;
}

static int on_key(void *ctx, const unsigned char *p, size_t len)
{
	static const char *const names[] = {
	        [KEY_LEVEL] = "level", [KEY_SERVICE] = "service", [KEY_MSG] = "msg"};
	(void)ctx;
	key = KEY_OTHER;
	for (enum key k = KEY_LEVEL; depth == 1 && k <= KEY_MSG; k++)
		if (strlen(names[k]) == len && memcmp(names[k], p, len) == 0)
			key = k;
	return yajl_gen_string(gen, p, len) == yajl_gen_status_ok;
}

static int on_open(void *ctx)
{
	(void)ctx;
	depth++;
	return yajl_gen_map_open(gen) == yajl_gen_status_ok;
}

static void end_record(void)
{
	const unsigned char *p;
	size_t len;
	yajl_gen_get_buf(gen, &p, &len);
	if (!drop) {
		if (used + len + 1 > sizeof(out))
			flush();
		memcpy(out + used, p, len);
		used += len;
		out[used++] = '\n';
	}
	yajl_gen_clear(gen);
	yajl_gen_reset(gen, NULL);
	drop = false;
	records++;
}

static int on_close(void *ctx)
{
	char digest[17];
	(void)ctx;
	if (--depth)
		return yajl_gen_map_close(gen) == yajl_gen_status_ok;
	snprintf(digest, sizeof(digest), "%016llx", (unsigned long long)hash);
	put_text("processed_at");
	put_text(stamp);
	put_text("hash");
	put_text(digest);
	yajl_gen_map_close(gen);
	end_record();
	return 1;
}

static int on_array(void *ctx)
{
	(void)ctx;
	return yajl_gen_array_open(gen) == yajl_gen_status_ok;
}

static int on_array_end(void *ctx)
{
	(void)ctx;
	return yajl_gen_array_close(gen) == yajl_gen_status_ok;
}

static void note_time(void)
{
	struct timespec ts;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	size_t n = strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(stamp + n, sizeof(stamp) - n, ".%06ldZ", ts.tv_nsec / 1000);
}

int main(int argc, char **argv)
{
	static const yajl_callbacks calls = {
	        .yajl_null = on_null,
	        .yajl_boolean = on_bool,
	        .yajl_number = on_number,
	        .yajl_string = on_string,
	        .yajl_start_map = on_open,
	        .yajl_map_key = on_key,
	        .yajl_end_map = on_close,
	        .yajl_start_array = on_array,
	        .yajl_end_array = on_array_end,
	};
	static unsigned char in[BLOCK];
	ssize_t n = 0;
	int fd = argc == 3 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
	out_fd = fd < 0 ? -1 : open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (out_fd < 0)
		die("checked IN OUT");
	gen = yajl_gen_alloc(NULL);
	yajl_handle parser = yajl_alloc(&calls, NULL, NULL);
	yajl_config(parser, yajl_allow_multiple_values, 1);
	while ((n = read(fd, in, sizeof(in))) > 0) {
		note_time();
		if (yajl_parse(parser, in, (size_t)n) != yajl_status_ok)
			die("not JSON");
	}
	if (yajl_complete_parse(parser) != yajl_status_ok)
		die("not JSON to its end");
	flush();
	fprintf(stderr, "%llu records\n", (unsigned long long)records);
	yajl_free(parser);
	yajl_gen_free(gen);
	return records ? 0 : 1;
}
