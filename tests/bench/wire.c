/*
 * Both ends of a relay, for whatever relays records from one socket to another: what goes in at a
 * steady pace and how long it takes to come out, or what comes out taken slowly.
 *
 *     wire pace IN OUT RATE COUNT          NDJSON records, RATE a second (0: as they are taken)
 *     wire drain OUT MBPS SECONDS COUNT FILE
 *                                          takes MBPS for SECONDS, then all it gets, until COUNT
 *                                          lines have come; they are written to FILE
 *     wire relay IN OUT                    libzmq's PULL to PUSH and nothing else, for comparison
 *
 * `pace` and `drain` are ready for whatever the relay gives before the relay is there; `pace`
 * begins to send when a line comes on its standard input.
 *
 * An end is a ZeroMQ endpoint, to which it connects, or `plain:PORT`: lines over TCP, IN connects
 * and OUT listens. Sender and receiver are on one machine, so there is one clock. Every record is
 * known by its id: `whole=1` says that each came once, `capitals=1` that their service had been
 * put in capitals.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum {
	SILENCE_MS = 10000, /* after which no more is expected */
	SETTLE_MS = 400,    /* for both sides to be connected */
	BLOCK = 64 << 10,
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "wire: %s: %s\n", what, zmq_strerror(errno));
	exit(1);
}

static int64_t now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void sleep_until(int64_t due)
{
	struct timespec at = {due / 1000000000, due % 1000000000};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

static int plain_port(const char *end)
{
	return strncmp(end, "plain:", 6) == 0 ? atoi(end + 6) : 0;
}

static struct sockaddr_in local(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static void *connected(void *ctx, int type, const char *end, int hwm)
{
	int linger = -1;
	void *s = zmq_socket(ctx, type);
	if (!s)
		die("socket");
	zmq_setsockopt(s, ZMQ_SNDHWM, &hwm, sizeof(hwm));
	zmq_setsockopt(s, ZMQ_RCVHWM, &hwm, sizeof(hwm));
	zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof(linger));
	if (zmq_connect(s, end) < 0)
		die(end);
	return s;
}

/* ---- where records go in ---- */

struct in {
	void *ctx, *zmq;
	int fd;
};

static struct in in_open(const char *end)
{
	struct in in = {.fd = -1};
	int one = 1, port = plain_port(end);
	if (!port) {
		in.ctx = zmq_ctx_new();
		in.zmq = connected(in.ctx, ZMQ_PUSH, end, 0);
		return in;
	}
	struct sockaddr_in to = local(port);
	in.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (in.fd < 0 || connect(in.fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		die(end);
	setsockopt(in.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return in;
}

static void in_send(struct in *in, const char *p, size_t len)
{
	if (in->zmq) {
		if (zmq_send(in->zmq, p, len, 0) < 0)
			die("send");
		return;
	}
	for (size_t at = 0; at < len;) {
		ssize_t n = write(in->fd, p + at, len - at);
		if (n < 0)
			die("write");
		at += (size_t)n;
	}
}

static void in_close(struct in *in)
{
	if (in->zmq) {
		zmq_close(in->zmq);
		zmq_ctx_term(in->ctx);
	} else {
		close(in->fd);
	}
}

/* ---- where they come out ---- */

struct out {
	void *zmq;
	zmq_msg_t msg;
	int listener, fd;
	size_t have, given;
	char buf[4 * BLOCK];
};

static void out_listen(struct out *o, const char *end)
{
	int one = 1, port = plain_port(end);
	o->listener = o->fd = -1;
	if (!port)
		return;
	struct sockaddr_in at = local(port);
	o->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(o->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (o->listener < 0 || bind(o->listener, (struct sockaddr *)&at, sizeof(at)) < 0 ||
	    listen(o->listener, 4) < 0)
		die(end);
}

static void out_open(struct out *o, const char *end, int hwm)
{
	int wait = SILENCE_MS;
	if (o->listener >= 0)
		return;
	o->zmq = connected(zmq_ctx_new(), ZMQ_PULL, end, hwm);
	zmq_setsockopt(o->zmq, ZMQ_RCVTIMEO, &wait, sizeof(wait));
	zmq_msg_init(&o->msg);
}

static bool readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return poll(&p, 1, SILENCE_MS) == 1;
}

/* Whole lines from the stream; what stands behind the last newline waits for its rest. */
static const char *out_lines(struct out *o, size_t *len)
{
	memmove(o->buf, o->buf + o->given, o->have - o->given);
	o->have -= o->given;
	o->given = 0;
	if (o->fd < 0 && readable(o->listener))
		o->fd = accept4(o->listener, NULL, NULL, SOCK_CLOEXEC);
	while (o->fd >= 0 && o->have < sizeof(o->buf) && readable(o->fd)) {
		size_t room = sizeof(o->buf) - o->have;
		ssize_t n = read(o->fd, o->buf + o->have, room < BLOCK ? room : BLOCK);
		if (n <= 0)
			break;
		o->have += (size_t)n;
		const char *nl = memrchr(o->buf, '\n', o->have);
		if (nl) {
			*len = o->given = (size_t)(nl + 1 - o->buf);
			return o->buf;
		}
	}
	return NULL;
}

/* The next lines that came; the last one of a message may lack its newline. NULL: no more come. */
static const char *out_take(struct out *o, size_t *len)
{
	if (!o->zmq)
		return out_lines(o, len);
	if (zmq_msg_recv(&o->msg, o->zmq, 0) < 0)
		return NULL;
	*len = zmq_msg_size(&o->msg);
	return zmq_msg_data(&o->msg);
}

/* ---- pace ---- */

struct seen {
	uint64_t n, count; /* with a good id, the first time; wanted */
	uint64_t odd;      /* not whole, or not the first time */
	uint64_t small;    /* good, but its service is not in capitals */
	int64_t *took;
	uint8_t *ids;
};

/* The value of a field, behind blanks and a quote. */
static const char *value(const char *p, const char *end, const char *name)
{
	const char *v = memmem(p, (size_t)(end - p), name, strlen(name));
	if (!v)
		return NULL;
	for (v += strlen(name); v < end && (*v == ' ' || *v == '"'); v++)
		;
	return v;
}

static void note(struct seen *s, const char *p, const char *end, int64_t at)
{
	const char *id = value(p, end, "\"id\":"), *t = value(p, end, "\"t\":"),
	           *service = value(p, end, "\"service\":");
	uint64_t i = id ? strtoull(id, NULL, 10) : s->count;
	if (!t || !service || i >= s->count || s->ids[i]++) {
		s->odd++;
		return;
	}
	s->small += strncmp(service, "SEARCH", 6) != 0;
	s->took[s->n++] = at - strtoll(t, NULL, 10);
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? -1 : x > y;
}

static int receive(struct out *o, const char *end, uint64_t count)
{
	struct seen s = {.count = count};
	size_t len;
	const char *p;
	int64_t last = 0;
	s.took = calloc(count, sizeof(*s.took));
	s.ids = calloc(count, 1);
	if (!s.took || !s.ids)
		die("memory");
	out_open(o, end, 0);
	while (s.n + s.odd < count && (p = out_take(o, &len))) {
		last = now();
		for (const char *stop = p + len, *nl; p < stop; p = nl + 1) {
			nl = memchr(p, '\n', (size_t)(stop - p));
			if (!nl)
				nl = stop;
			if (nl > p)
				note(&s, p, nl, last);
		}
	}
	if (!s.n)
		return 1;
	uint64_t skip = s.n / 10; /* the start: connecting, first touches */
	qsort(s.took + skip, s.n - skip, sizeof(*s.took), by_value);
	printf("received=%" PRIu64 " end_ns=%" PRId64
	       " p50_us=%.1f p99_us=%.1f max_us=%.1f whole=%d capitals=%d\n",
	       s.n, last, (double)s.took[skip + (s.n - skip) / 2] / 1e3,
	       (double)s.took[skip + (s.n - skip) * 99 / 100] / 1e3, (double)s.took[s.n - 1] / 1e3,
	       s.n == count && !s.odd, !s.small);
	return 0;
}

static void send_all(struct in *in, uint64_t rate, uint64_t count)
{
	int64_t start = now();
	for (uint64_t i = 0; i < count; i++) {
		char rec[200];
		if (rate)
			sleep_until(start + (int64_t)(i * 1000000000 / rate));
		int n = snprintf(
		        rec, sizeof(rec),
		        "{\"id\":%" PRIu64 ",\"t\":%" PRId64
		        ",\"level\":\"info\",\"service\":\"search\",\"msg\":\"request handled\"}\n",
		        i, now());
		in_send(in, rec, (size_t)n);
	}
	printf("start_ns=%" PRId64 "\n", start);
}

static int pace(const char *in_end, const char *out_end, uint64_t rate, uint64_t count)
{
	static struct out o;
	int status = 1;
	out_listen(&o, out_end);
	pid_t pid = fork();
	if (pid == 0) {
		int r = receive(&o, out_end, count);
		fflush(stdout);
		_exit(r);
	}
	int go = getchar();
	struct in in = in_open(in_end);
	if (go != '\n')
		die("standard input");
	sleep_until(now() + (int64_t)SETTLE_MS * 1000000);
	send_all(&in, rate, count);
	waitpid(pid, &status, 0);
	in_close(&in);
	return status ? 1 : 0;
}

/* ---- drain ---- */

static uint64_t write_lines(int fd, const char *p, size_t len)
{
	uint64_t lines = 0;
	for (size_t at = 0; at < len;) {
		ssize_t n = write(fd, p + at, len - at);
		if (n < 0)
			die("write");
		at += (size_t)n;
	}
	for (const char *nl = p, *end = p + len; (nl = memchr(nl, '\n', (size_t)(end - nl))); nl++)
		lines++;
	if (len && p[len - 1] != '\n') {
		lines++;
		if (write(fd, "\n", 1) != 1)
			die("write");
	}
	return lines;
}

static int drain(const char *end, double mbps, double hold, uint64_t count, const char *path)
{
	static struct out o;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	uint64_t bytes = 0, lines = 0;
	int64_t start = 0;
	size_t len;
	const char *p;
	if (fd < 0)
		die(path);
	out_listen(&o, end);
	out_open(&o, end, 4);
	while (lines < count && (p = out_take(&o, &len))) {
		start = start ? start : now();
		lines += write_lines(fd, p, len);
		bytes += len;
		double due = (double)bytes / mbps / 1e6;
		if (due < hold)
			sleep_until(start + (int64_t)(due * 1e9));
		else if ((double)(now() - start) / 1e9 < hold)
			sleep_until(start + (int64_t)(hold * 1e9));
	}
	printf("lines=%" PRIu64 " bytes=%" PRIu64 " seconds=%.3f\n", lines, bytes,
	       (double)(now() - start) / 1e9);
	return 0;
}

static int relay(const char *in, const char *out)
{
	void *ctx = zmq_ctx_new(), *a = zmq_socket(ctx, ZMQ_PULL), *b = zmq_socket(ctx, ZMQ_PUSH);
	zmq_msg_t msg;
	if (zmq_bind(a, in) < 0 || zmq_bind(b, out) < 0)
		die("bind");
	zmq_msg_init(&msg);
	while (zmq_msg_recv(&msg, a, 0) >= 0)
		zmq_msg_send(&msg, b, 0);
	return 0;
}

static uint64_t number(const char *text)
{
	return strtoull(text, NULL, 10);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (strcmp(what, "pace") == 0 && argc == 6)
		return pace(argv[2], argv[3], number(argv[4]), number(argv[5]));
	if (strcmp(what, "drain") == 0 && argc == 7)
		return drain(argv[2], strtod(argv[3], NULL), strtod(argv[4], NULL), number(argv[5]),
		             argv[6]);
	if (strcmp(what, "relay") == 0 && argc == 4)
		return relay(argv[2], argv[3]);
	fprintf(stderr, "usage: see the head of tests/bench/wire.c\n");
	return 2;
}
