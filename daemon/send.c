/*
 * `sluicectl send`: a file or stdin, cut at record borders into messages of about 64 KiB, to a zmq
 * producer. Without --ack by PUSH: done when the last byte is with the kernel. With --ack by the
 * acknowledged protocol: done when the daemon has said of every message that it is stored.
 *
 * The one hard idea is the end of PUSH: whether the peer has what the socket took is not libzmq's
 * to say. The connection is kept open past libzmq's own close until the kernel says that nothing is
 * left in it (zmqsock_close_sent); when that does not come within --timeout, it is told.
 *
 * Progress is: PUSH: the socket took a message; --ack: a message was acknowledged. Without progress
 * for
 * --timeout it is given up and said how far it came. At the end the socket waits as long (LINGER),
 * not for ever.
 *
 * With --id NAME the messages that an interrupted run got through are not sent again: the same
 * input and options cut the same messages, and the daemon says how many of them it has. Another
 * input needs another id.
 */
#include "daemon/send.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/send_args.h"
#include "daemon/send_progress.h"
#include "daemon/split.h"
#include "ipc/clock.h"
#include "ipc/err.h"
#include "stages/zmqclient.h"
#include "stages/zmqsock.h"

enum {
	READ_BYTES = 1 << 20,
	IDLE_MS = 100, /* input that pauses this long is sent as it is */
	TICK_MS = 200, /* how often progress is looked at */
	KEEP = 256,    /* --ack: messages kept at most */
	SEND_HWM = 64, /* messages */
	ID_LEN = 256,
	STALL_MS = 5000, /* when to say that nothing moves */
};

struct sent {
	uint64_t records, bytes;
};

struct send {
	struct send_args args;
	struct split split;
	struct send_progress progress;
	struct stage st; /* what zmqsock wants of one */
	struct zmqsock sock;
	struct zmqclient client;
	struct sent kept[KEEP]; /* --ack: what message s held is at s % KEEP */
	uint64_t counted;       /* --ack: messages up to here are in progress */
	uint64_t resumed;       /* --ack: messages that were there already */
	int in;
	int64_t moved_at; /* ms: last progress */
	bool told_stall;
};

static int64_t now_ms(void)
{
	return clock_monotonic() / 1000000;
}

static int failed(struct send *s, const char *what, const char *why)
{
	send_progress_clear(&s->progress);
	fprintf(stderr, "send: %s: %s\n", what, why);
	return 1;
}

static void moved(struct send *s, uint64_t messages, uint64_t records, uint64_t bytes)
{
	s->progress.messages += messages;
	s->progress.records += records;
	s->progress.bytes += bytes;
	s->moved_at = now_ms();
	s->told_stall = false;
}

/* Called while waiting. 0, or 1 when it is time to give up. */
static int patience(struct send *s)
{
	int64_t now = now_ms(), still = now - s->moved_at;
	send_progress_show(&s->progress, now);
	if (s->args.timeout_ms && still >= s->args.timeout_ms)
		return failed(s, s->args.to,
		              s->client.heard || s->progress.messages
		                      ? "the peer stopped taking messages: given up"
		                      : "nobody is there that takes messages: given up");
	if (still >= STALL_MS && !s->told_stall && !s->args.quiet) {
		send_progress_clear(&s->progress);
		fprintf(stderr, "send: %s: nothing moves for %d s, waiting\n", s->args.to,
		        STALL_MS / 1000);
		s->told_stall = true;
	}
	return 0;
}

/* An id nobody else has, unless one was given. */
static int make_id(const struct send *s, char id[ID_LEN])
{
	uint64_t random;
	if (s->args.id) {
		snprintf(id, ID_LEN, "%s", s->args.id);
		return 0;
	}
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return err_errno();
	snprintf(id, ID_LEN, "send-%016" PRIx64, random);
	return 0;
}

static int open_socket(struct send *s)
{
	const char *to[] = {s->args.to};
	struct zmqsock_config cfg = {
	        .connect = {.v = to, .n = 1},
	        .curve = {.server_key = s->args.server_key, .secret = s->args.secret},
	        .hwm = SEND_HWM,
	};
	char id[ID_LEN];
	s->st.max_record = READ_BYTES;
	int r = make_id(s, id);
	if (r == 0)
		r = zmqsock_open(&s->sock, &s->st, &cfg, s->args.ack ? ZMQ_DEALER : ZMQ_PUSH,
		                 s->args.ack ? id : NULL);
	if (r == 0 && s->args.ack)
		r = zmqclient_init(&s->client, s->sock.sock, KEEP, 1);
	if (r > 0)
		return failed(s, s->args.to, s->st.why);
	return r < 0 ? failed(s, s->args.to, strerror(-r)) : 0;
}

static int open_input(struct send *s)
{
	struct stat sb;
	s->in = s->args.file ? open(s->args.file, O_RDONLY | O_CLOEXEC) : dup(STDIN_FILENO);
	if (s->in < 0 || fstat(s->in, &sb))
		return failed(s, s->args.file ? s->args.file : "stdin", strerror(errno));
	uint64_t total = S_ISREG(sb.st_mode) ? (uint64_t)sb.st_size : 0;
	send_progress_start(&s->progress, s->args.quiet, total, now_ms());
	s->moved_at = now_ms();
	return 0;
}

/* Counts what was acknowledged since the last time. */
static void count_acked(struct send *s)
{
	uint64_t done = s->client.acked < s->client.next - 1 ? s->client.acked : s->client.next - 1;
	for (; s->counted < done; s->counted++) {
		const struct sent *k = &s->kept[(s->counted + 1) % KEEP];
		moved(s, 1, k->records, k->bytes);
	}
}

static int ack_work(struct send *s, int ms)
{
	bool heard = s->client.heard;
	int r = zmqclient_work(&s->client, ms);
	if (r == ZMQCLIENT_E_REFUSED)
		return failed(s, s->args.to, s->client.why);
	if (r < 0 && r != -EINTR)
		return failed(s, s->args.to, zmq_strerror(-r));
	if (!heard && s->client.heard)
		s->resumed = s->client.last;
	count_acked(s);
	return patience(s);
}

static int give_ack(struct send *s, zmq_msg_t *m, const struct sent *what)
{
	int r = 0;
	/* what a former run got through has to be known before anything is numbered */
	while (r == 0 && (!s->client.heard || !zmqclient_room(&s->client)))
		r = ack_work(s, TICK_MS);
	if (r)
		return r;
	count_acked(s);
	uint64_t seq = zmqclient_submit(&s->client, m);
	s->kept[seq % KEEP] = *what;
	return ack_work(s, 0);
}

static int give_push(struct send *s, zmq_msg_t *m, const struct sent *what)
{
	while (zmq_msg_send(m, s->sock.sock, ZMQ_DONTWAIT) < 0) {
		zmq_pollitem_t item = {.socket = s->sock.sock, .events = ZMQ_POLLOUT};
		if (errno != EAGAIN && errno != EINTR)
			return failed(s, s->args.to, zmq_strerror(errno));
		zmq_poll(&item, 1, TICK_MS);
		if (patience(s))
			return 1;
	}
	moved(s, 1, what->records, what->bytes);
	send_progress_show(&s->progress, s->moved_at);
	return 0;
}

static int give(struct send *s, const struct split_piece *piece)
{
	_cleanup_(zmqsock_msg_close) zmq_msg_t m;
	struct sent what = {piece->records, piece->len};
	if (zmq_msg_init_size(&m, piece->head_len + piece->len)) {
		zmq_msg_init(&m);
		return failed(s, "memory", strerror(ENOMEM));
	}
	uint8_t *p = zmq_msg_data(&m);
	if (piece->head_len)
		memcpy(p, piece->head, piece->head_len);
	memcpy(p + piece->head_len, piece->p, piece->len);
	return s->args.ack ? give_ack(s, &m, &what) : give_push(s, &m, &what);
}

/* Waits for input. 1: it is there; 0: it pauses. */
static int input_waits(struct send *s)
{
	struct pollfd pfd = {.fd = s->in, .events = POLLIN};
	return poll(&pfd, 1, IDLE_MS) != 0;
}

static int feed(struct send *s)
{
	uint8_t *p = split_room(&s->split, READ_BYTES);
	if (!p)
		return failed(s, "memory", strerror(ENOMEM));
	ssize_t n = read(s->in, p, READ_BYTES);
	if (n < 0 && errno != EINTR)
		return failed(s, s->args.file ? s->args.file : "stdin", strerror(errno));
	if (n == 0)
		split_end(&s->split);
	if (n > 0)
		split_fed(&s->split, (size_t)n);
	return 0;
}

static int send_all(struct send *s)
{
	struct split_piece piece;
	bool flush = false;
	for (;;) {
		int r = split_next(&s->split, flush, &piece);
		if (r < 0)
			return failed(s, "memory", strerror(-r));
		if (r == SPLIT_E_END)
			return 0;
		if (r == SPLIT_E_OK) {
			r = give(s, &piece);
		} else if (input_waits(s)) {
			flush = false;
			r = feed(s);
		} else {
			flush = true;
			/* the source's silence is not the peer's */
			if (!s->args.ack || s->client.acked + 1 == s->client.next)
				s->moved_at = now_ms();
			r = s->args.ack ? ack_work(s, 0) : 0;
		}
		if (r)
			return r;
	}
}

static int finish_ack(struct send *s)
{
	int r = 0;
	while (r == 0 && s->client.acked + 1 < s->client.next)
		r = ack_work(s, TICK_MS);
	return r;
}

static int close_push(struct send *s)
{
	int64_t ms = s->args.timeout_ms ? s->args.timeout_ms : INT32_MAX;
	send_progress_clear(&s->progress);
	if (zmqsock_close_sent(&s->sock, ms))
		return 0;
	return failed(s, s->args.to, "the peer stopped taking messages: the last ones may be lost");
}

static void print_json(const struct send *s, int status, double seconds)
{
	const struct send_progress *p = &s->progress;
	printf("{\"ok\":%s,\"records\":%" PRIu64 ",\"messages\":%" PRIu64 ",\"bytes\":%" PRIu64
	       ",\"seconds\":%.3f,\"naks\":%" PRIu64 ",\"nak_records\":%" PRIu64
	       ",\"too_large\":%" PRIu64 ",\"resumed\":%" PRIu64 ",\"resent\":%" PRIu64 "}\n",
	       status == 0 ? "true" : "false", p->records, p->messages, p->bytes, seconds,
	       s->client.naks, s->client.nak_records, s->split.too_large, s->resumed,
	       s->client.resent);
}

static int report(struct send *s, int status)
{
	const struct send_progress *p = &s->progress;
	double seconds = (double)(now_ms() - p->started) / 1000;
	send_progress_clear(&s->progress);
	if (s->split.too_large)
		fprintf(stderr, "send: %" PRIu64 " records left out: larger than --max-message\n",
		        s->split.too_large);
	if (s->split.broken)
		fprintf(stderr, "send: no msgpack value or csv head found: the rest is left out\n");
	if (s->client.naks)
		fprintf(stderr, "send: %" PRIu64 " records became dead letters: %s\n",
		        s->client.nak_records, s->client.nak_why);
	if (s->split.too_large || s->split.broken || s->client.naks)
		status = 1;
	if (s->args.json)
		print_json(s, status, seconds);
	else
		printf("%" PRIu64 " records in %" PRIu64
		       " messages, %s, in %.2f s (%.0f records/s, %s/s)\n",
		       p->records, p->messages, send_progress_size((double)p->bytes), seconds,
		       seconds > 0 ? (double)p->records / seconds : 0,
		       send_progress_size(seconds > 0 ? (double)p->bytes / seconds : 0));
	return fflush(stdout) ? 1 : status;
}

static void clean(struct send *s)
{
	zmqclient_deinit(&s->client);
	zmqsock_close(&s->sock);
	split_deinit(&s->split);
	if (s->in >= 0)
		close(s->in);
}

int send_main(int argc, char **argv)
{
	_cleanup_(clean) struct send s = {.in = -1};
	int status = send_args_read(&s.args, argc, argv);
	if (status >= 0)
		return status;
	s.split = (struct split){.kind = (enum split_kind)s.args.codec,
	                         .target = (size_t)s.args.message_size,
	                         .max = (size_t)s.args.max_message};
	status = open_input(&s);
	if (status)
		return status;
	status = open_socket(&s);
	if (status)
		return status;
	status = send_all(&s);
	if (status == 0)
		status = s.args.ack ? finish_ack(&s) : close_push(&s);
	return report(&s, status);
}
