/*
 * Feeds a server for the bench, in C over libzmq, so that the client costs as little as it can.
 *
 *     load push ENDPOINT FILE BYTES TIMES   whole lines of FILE, TIMES times over, in messages of
 *                                           up to BYTES (1: a line each)
 *     load pack ENDPOINT COUNT BYTES        msgpack records of about 100 bytes, likewise
 *     load acked ENDPOINT COUNT PER         msgpack records, PER a message, acknowledged
 *                                           (HELLO, SEND, ACK)
 *     load tcp PORT FILE                    FILE down one TCP connection
 *     load raw COUNT BYTES                  libzmq alone: `pack` and a receiver, over tcp
 *     load copy MIB                         memcpy, through 256 KiB buffers and beside the cache
 *
 * Answers one line of `name=value` words on standard output. Everything connects; servers bind.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum {
	RECORD_MAX = 160,
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, zmq_strerror(errno));
	exit(1);
}

static int64_t now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static double seconds(int64_t from)
{
	return (double)(now() - from) / 1e9;
}

static void *ctx;

static void *open_socket(int type, const char *endpoint, int hwm)
{
	int linger = -1;
	void *s = zmq_socket(ctx, type);
	if (!s)
		die("socket");
	zmq_setsockopt(s, ZMQ_SNDHWM, &hwm, sizeof(hwm));
	zmq_setsockopt(s, ZMQ_RCVHWM, &hwm, sizeof(hwm));
	zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof(linger));
	if (type == ZMQ_DEALER)
		zmq_setsockopt(s, ZMQ_ROUTING_ID, "bench", 5);
	if (zmq_connect(s, endpoint) < 0)
		die(endpoint);
	return s;
}

static void send_bytes(void *s, const void *p, size_t len, int flags)
{
	if (zmq_send(s, p, len, flags) < 0)
		die("send");
}

static void close_all(void *s)
{
	zmq_close(s);
	zmq_ctx_term(ctx);
}

/* ---- push ---- */

static const char *message_end(const char *p, const char *end, size_t most)
{
	const char *last = NULL;
	do {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		const char *next = nl ? nl + 1 : end;
		if (last && (size_t)(next - p) > most)
			return last;
		most -= (size_t)(next - p) < most ? (size_t)(next - p) : most;
		last = p = next;
	} while (p < end && most);
	return last;
}

static int push(const char *endpoint, const char *path, size_t bytes, uint64_t times)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		die(path);
	const char *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		die(path);
	void *s = open_socket(ZMQ_PUSH, endpoint, 1000);
	int64_t start = now();
	uint64_t n = 0;
	while (times--)
		for (const char *at = p, *end = p + st.st_size; at < end; n++) {
			const char *next = message_end(at, end, bytes);
			send_bytes(s, at, (size_t)(next - at), 0);
			at = next;
		}
	close_all(s);
	printf("messages=%" PRIu64 " seconds=%.4f\n", n, seconds(start));
	return 0;
}

static int tcp(unsigned port, const char *path)
{
	static char buf[256 << 10];
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = open(path, O_RDONLY | O_CLOEXEC),
	    s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ssize_t n;
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || s < 0 || connect(s, (struct sockaddr *)&to, sizeof(to)) < 0)
		die(path);
	int64_t start = now();
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t at = 0, m; at < n; at += m)
			if ((m = write(s, buf + at, (size_t)(n - at))) < 0)
				die("write");
	close(s);
	printf("seconds=%.4f\n", seconds(start));
	return 0;
}

/* ---- records of msgpack, about 100 bytes ---- */

static uint8_t *put_str(uint8_t *p, const char *s)
{
	size_t len = strlen(s);
	if (len < 32) {
		*p++ = (uint8_t)(0xa0 | len);
	} else {
		*p++ = 0xd9;
		*p++ = (uint8_t)len;
	}
	memcpy(p, s, len);
	return p + len;
}

static uint8_t *put_u64(uint8_t *p, uint64_t v)
{
	*p++ = 0xcf;
	v = __builtin_bswap64(v);
	memcpy(p, &v, 8);
	return p + 8;
}

static size_t make_record(uint8_t *at, uint64_t id)
{
	uint8_t *p = at;
	*p++ = 0x84;
	p = put_u64(put_str(p, "id"), id);
	p = put_u64(put_str(p, "ts"), 1700000000000 + id);
	p = put_str(put_str(p, "level"), "info");
	p = put_str(put_str(p, "msg"), "a record of the usual size, about one hundred bytes");
	return (size_t)(p - at);
}

static int pack(const char *endpoint, uint64_t count, size_t bytes)
{
	uint8_t *buf = malloc(bytes + RECORD_MAX);
	size_t len = 0, messages = 0;
	void *s = open_socket(ZMQ_PUSH, endpoint, 1000);
	int64_t start = now();
	for (uint64_t i = 1; buf && i <= count; i++) {
		len += make_record(buf + len, i);
		if (len + 100 < bytes && i < count)
			continue;
		send_bytes(s, buf, len, 0);
		len = 0;
		messages++;
	}
	close_all(s);
	printf("messages=%zu seconds=%.4f\n", messages, seconds(start));
	return 0;
}

/* ---- the acknowledged protocol ---- */

struct acked {
	void *s;
	uint64_t acked, window;
};

/* Takes one answer; false: none came in time. */
static bool answer(struct acked *a, bool wait)
{
	char frame[4][64] = {{0}};
	int n = 0, more = 1, nak = 0;
	size_t size = sizeof(more);
	while (more) {
		int r = zmq_recv(a->s, frame[n < 3 ? n : 3], 63, wait || n ? 0 : ZMQ_DONTWAIT);
		if (r < 0)
			return false;
		frame[n < 3 ? n : 3][r < 63 ? r : 63] = 0;
		n++;
		zmq_getsockopt(a->s, ZMQ_RCVMORE, &more, &size);
	}
	nak = strcmp(frame[0], "NAK") == 0;
	if (nak || strcmp(frame[0], "ACK") == 0)
		a->acked = strtoull(frame[1], NULL, 10);
	if (nak)
		fprintf(stderr, "load: refused: %s %s\n", frame[2], frame[3]);
	if (strcmp(frame[0], "READY") == 0) {
		a->acked = strtoull(frame[n > 3 ? 2 : 1], NULL, 10);
		a->window = strtoull(frame[n > 3 ? 3 : 2], NULL, 10);
	}
	return true;
}

static int acked(const char *endpoint, uint64_t count, unsigned per)
{
	uint8_t *buf = malloc((size_t)per * RECORD_MAX);
	struct acked a = {.s = open_socket(ZMQ_DEALER, endpoint, 0)};
	send_bytes(a.s, "HELLO", 5, ZMQ_SNDMORE);
	send_bytes(a.s, "1", 1, ZMQ_SNDMORE);
	send_bytes(a.s, "1", 1, 0);
	answer(&a, true);
	int64_t start = now();
	uint64_t sent = 0;
	for (uint64_t id = 1; buf && id <= count;) {
		char number[24];
		size_t len = 0;
		for (unsigned i = 0; i < per && id <= count; i++)
			len += make_record(buf + len, id++);
		snprintf(number, sizeof(number), "%" PRIu64, ++sent);
		send_bytes(a.s, "SEND", 4, ZMQ_SNDMORE);
		send_bytes(a.s, number, strlen(number), ZMQ_SNDMORE);
		send_bytes(a.s, buf, len, 0);
		while (sent - a.acked >= a.window / 2 && answer(&a, sent - a.acked >= a.window))
			;
	}
	while (a.acked < sent && answer(&a, true))
		;
	printf("messages=%" PRIu64 " window=%" PRIu64 " seconds=%.4f\n", sent, a.window,
	       seconds(start));
	close_all(a.s);
	return 0;
}

/* ---- limits ---- */

/* The same sender as for the daemon, and a receiver that looks at nothing. */
static int raw(uint64_t count, size_t bytes)
{
	char at[256];
	uint8_t record[RECORD_MAX];
	size_t len = sizeof(at), got = 0, all = count * make_record(record, 1);
	int pipes[2];
	if (pipe2(pipes, O_CLOEXEC) < 0)
		die("pipe");
	pid_t pid = fork(); /* before any socket: a context does not survive a fork */
	ctx = zmq_ctx_new();
	if (pid == 0) {
		if (read(pipes[0], at, sizeof(at)) <= 0)
			_exit(1);
		_exit(pack(at, count, bytes));
	}
	void *s = zmq_socket(ctx, ZMQ_PULL);
	if (zmq_bind(s, "tcp://127.0.0.1:*") < 0 ||
	    zmq_getsockopt(s, ZMQ_LAST_ENDPOINT, at, &len) < 0 || write(pipes[1], at, len) < 0)
		die("bind");
	zmq_msg_t msg;
	int64_t start = 0;
	zmq_msg_init(&msg);
	while (got < all && zmq_msg_recv(&msg, s, 0) >= 0) {
		start = start ? start : now();
		got += zmq_msg_size(&msg);
	}
	double took = seconds(start);
	waitpid(pid, NULL, 0);
	printf("rate=%.0f seconds=%.4f\n", (double)count / took, took);
	return got == all ? 0 : 1;
}

static int copy(size_t mib)
{
	static char from[256 << 10], to[256 << 10];
	size_t big = 256u << 20, n = mib << 20;
	char *a = malloc(big), *b = malloc(big);
	if (!a || !b)
		die("memory");
	memset(from, 1, sizeof(from));
	memset(a, 1, big);
	memset(b, 1, big);
	int64_t t = now();
	for (size_t i = 0; i < n; i += sizeof(from)) {
		memcpy(to, from, sizeof(from));
		__asm__ volatile("" ::"r"(to) : "memory");
	}
	double cached = (double)n / 1e6 / seconds(t);
	t = now();
	for (size_t i = 0; i < n; i += big) {
		memcpy(b, a, big);
		__asm__ volatile("" ::: "memory");
	}
	printf("cached_mb=%.0f memory_mb=%.0f\n", cached, (double)n / 1e6 / seconds(t));
	return 0;
}

static uint64_t number(char **argv, int i)
{
	return strtoull(argv[i], NULL, 10);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (strcmp(what, "raw") == 0 && argc == 4)
		return raw(number(argv, 2), number(argv, 3));
	if (strcmp(what, "copy") == 0 && argc == 3)
		return copy(number(argv, 2));
	ctx = zmq_ctx_new();
	if (strcmp(what, "push") == 0 && argc == 6)
		return push(argv[2], argv[3], number(argv, 4), number(argv, 5));
	if (strcmp(what, "tcp") == 0 && argc == 4)
		return tcp((unsigned)number(argv, 2), argv[3]);
	if (strcmp(what, "pack") == 0 && argc == 5)
		return pack(argv[2], number(argv, 3), number(argv, 4));
	if (strcmp(what, "acked") == 0 && argc == 5)
		return acked(argv[2], number(argv, 3), (unsigned)number(argv, 4));
	fprintf(stderr, "usage: see the head of tests/bench/load.c\n");
	return 2;
}
