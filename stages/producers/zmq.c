/*
 * producer `zmq`: records from ZeroMQ sockets. PULL and SUB take messages as they come; ROUTER
 * speaks the acknowledged protocol (zmq_router.h).
 *
 * The one hard idea is when to stop. ZMQ_FD is edge-triggered: it tells of news since the socket
 * was last used, not of messages that are waiting. So IDLE is answered only when the socket itself
 * said, after the last use of any kind, that nothing is there; and a use between two calls (an ACK
 * sent from stored()) rings a descriptor of our own when it has eaten the news.
 *
 * A call of produce() takes at most TAKE_MESSAGES or TAKE_BYTES, so that the worker can seal chunks
 * and listen to its master meanwhile. When the pipeline is full, stage_decode() waits inside,
 * nothing is received, ZeroMQ's high-water mark fills and the upstream blocks. The message in hand
 * is kept until all of it is made.
 *
 * PULL: each part of a multipart message is a message of its own. SUB: the first part of several is
 * the topic. Empty messages hold no record and are nothing.
 *
 * Limits: what stands in the sockets of PULL and SUB is lost with the process. zmqsock.h has more.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "stages/producers/zmq_clients.h"
#include "stages/producers/zmq_router.h"
#include "stages/zmqsock.h"
#include "ipc/clock.h"

enum {
	TAKE_MESSAGES = 256,
	TAKE_BYTES = 1 << 20,
	NUMBER_MAX = 20, /* digits of a message's number */
};

enum socket_kind {
	SOCKET_PULL,
	SOCKET_SUB,
	SOCKET_ROUTER,
};

struct zmq_config {
	struct zmqsock_config sock;
	int socket; /* enum socket_kind */
	struct strings subscribe;
	int ack; /* 1: delivered */
	int64_t window;
};

struct zmq_state {
	struct zmqsock sock;
	struct router *router;
	zmq_msg_t msg;
	bool msg_open;
	bool behind; /* the part in hand is not the first of its message */
	bool drains;
	int again_fd; /* router: eventfd + 1, readable when produce() has to look again */
	bool again;
	char at[sizeof("message ") + NUMBER_MAX]; /* the number of the message in hand, as text */
};

static const char *const socket_names[] = {"pull", "sub", "router", NULL};
static const char *const ack_names[] = {"stored", "delivered", NULL};

static const struct option options[] = {
        ZMQSOCK_OPTIONS(struct zmq_config, sock),
        {.name = "socket",
         .type = OPTION_ENUM,
         .offset = offsetof(struct zmq_config, socket),
         .def = "pull",
         .choices = socket_names,
         .help = "pull, sub, or router: the acknowledged protocol"},
        {.name = "subscribe",
         .type = OPTION_STRINGS,
         .offset = offsetof(struct zmq_config, subscribe),
         .help = "sub: topics, as beginnings of the first frame; default: all"},
        {.name = "max_message",
         .type = OPTION_SIZE,
         .offset = offsetof(struct zmq_config, sock.max_message),
         .min = 64,
         .max = 1 << 30,
         .help = "a larger message costs its sender the connection; default: the buffer's size"},
        {.name = "max_clients",
         .type = OPTION_INT,
         .offset = offsetof(struct zmq_config, sock.max_clients),
         .def = "100",
         .min = 1,
         .max = CLIENTS_MAX,
         .help = "connections at once; router: also the ids that are remembered"},
        {.name = "receive_hwm",
         .type = OPTION_INT,
         .offset = offsetof(struct zmq_config, sock.hwm),
         .def = "100",
         .min = 1,
         .max = 1000000,
         .help = "messages that wait in the socket, for each client"},
        {.name = "ack",
         .type = OPTION_ENUM,
         .offset = offsetof(struct zmq_config, ack),
         .def = "stored",
         .choices = ack_names,
         .help = "router: acknowledge what is stored here, or what the consumers have delivered"},
        {.name = "window",
         .type = OPTION_INT,
         .offset = offsetof(struct zmq_config, window),
         .def = "256",
         .min = 1,
         .max = 1000000,
         .help = "router: messages a client may have unacknowledged"},
        OPTION_END,
};

static void only_for(const struct node *node, const char *key, const char *socket,
                     struct complaints *c)
{
	const struct node *n = node ? node_get(node, key) : NULL;
	if (n)
		complain(c, n, "`%s` is for `socket: %s`", key, socket);
}

static void check(void *config, const struct node *node, struct complaints *c)
{
	const struct zmq_config *cfg = config;
	zmqsock_check(&cfg->sock, node, c);
	if (cfg->socket != SOCKET_SUB)
		only_for(node, "subscribe", "sub", c);
	if (cfg->socket != SOCKET_ROUTER) {
		only_for(node, "ack", "router", c);
		only_for(node, "window", "router", c);
	}
}

static int subscribe(struct zmq_state *z, const struct strings *topics)
{
	if (!topics->n)
		return zmq_setsockopt(z->sock.sock, ZMQ_SUBSCRIBE, "", 0) ? err_errno() : 0;
	for (size_t i = 0; i < topics->n; i++) {
		const char *t = topics->v[i];
		if (zmq_setsockopt(z->sock.sock, ZMQ_SUBSCRIBE, t, strlen(t)))
			return err_errno();
	}
	return 0;
}

static int open_router(struct stage *st)
{
	const struct zmq_config *cfg = st->config;
	struct zmq_state *z = st->state;
	struct router_config rc = {
	        .delivered = cfg->ack,
	        .keys = cfg->sock.curve.server_secret,
	        .window = (uint64_t)cfg->window,
	        .max_clients = (unsigned)cfg->sock.max_clients,
	};
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (fd < 0)
		return err_errno();
	z->again_fd = fd + 1;
	st->awaited = true;
	return router_open(&z->router, st, &z->sock, &rc);
}

static int producer_open(struct stage *st)
{
	static const int types[] = {ZMQ_PULL, ZMQ_SUB, ZMQ_ROUTER};
	const struct zmq_config *cfg = st->config;
	struct zmq_state *z = st->state;
	strcpy(z->at, "message 0");
	zmq_msg_init(&z->msg);
	z->msg_open = true;
	int r = cfg->socket == SOCKET_ROUTER ? open_router(st) : 0;
	if (r == 0)
		r = zmqsock_open(&z->sock, st, &cfg->sock, types[cfg->socket], NULL);
	if (r == 0 && cfg->socket == SOCKET_SUB)
		r = subscribe(z, &cfg->subscribe);
	return r;
}

static void producer_close(struct stage *st)
{
	struct zmq_state *z = st->state;
	z->router = router_close(z->router);
	if (z->msg_open)
		zmq_msg_close(&z->msg);
	zmqsock_close(&z->sock);
	if (z->again_fd)
		close(z->again_fd - 1);
	*z = (struct zmq_state){0};
}

/* Counts in decimal digits, as a car does: writing the number anew would cost more than a small
 * message. */
static void count_message(char *at)
{
	char *digits = at + sizeof("message ") - 1;
	size_t n = strlen(digits), i = n;
	while (i > 0 && digits[i - 1] == '9')
		digits[--i] = '0';
	if (i > 0) {
		digits[i - 1]++;
	} else if (n < NUMBER_MAX) {
		memmove(digits + 1, digits, n + 1);
		digits[0] = '1';
	}
}

static int take_plain(struct stage *st, bool topic)
{
	struct zmq_state *z = st->state;
	struct codec_window w = {.p = zmq_msg_data(&z->msg), .last = true};
	w.end = w.p + zmq_msg_size(&z->msg);
	count_message(z->at);
	if (topic || w.p == w.end)
		return 0;
	if (st->codec->ops->reset)
		st->codec->ops->reset(st->codec);
	return stage_decode(st, &w, z->at, NULL, NULL);
}

static bool is_topic(struct zmq_state *z, const struct zmq_config *cfg)
{
	bool first = !z->behind;
	z->behind = zmq_msg_more(&z->msg);
	return cfg->socket == SOCKET_SUB && first && z->behind;
}

static int take(struct stage *st, size_t *bytes)
{
	struct zmq_state *z = st->state;
	if (z->router)
		return router_take(z->router, &z->msg, bytes);
	*bytes = zmq_msg_size(&z->msg);
	return take_plain(st, is_topic(z, st->config));
}

static int idle(struct stage *st)
{
	struct zmq_state *z = st->state;
	if (z->router &&
	    zmqsock_readable(&z->sock)) /* it may have answered since it found nothing */
		return STAGE_OK;
	if (z->drains && zmqsock_in_the_kernel(&z->sock)) {
		poll(NULL, 0, 1); /* libzmq's thread is about to read it */
		return STAGE_OK;
	}
	st->deadline = z->router ? router_deadline(z->router) : 0;
	zmqsock_wait(&z->sock);
	if (z->again_fd)
		st->fds[st->n_fds++] = (struct pollfd){.fd = z->again_fd - 1, .events = POLLIN};
	return STAGE_E_IDLE;
}

static void hush(struct zmq_state *z)
{
	uint64_t n;
	if (z->again && read(z->again_fd - 1, &n, sizeof(n)) > 0)
		z->again = false;
}

/* 1: took one; 0: nothing is there; -errno. */
static int receive(struct stage *st, size_t *bytes)
{
	struct zmq_state *z = st->state;
	while (zmq_msg_recv(&z->msg, z->sock.sock, ZMQ_DONTWAIT) < 0) {
		if (errno == EAGAIN)
			return 0;
		if (errno != EINTR)
			return err_errno();
	}
	int r = take(st, bytes);
	return r < 0 ? r : 1;
}

static int produce(struct stage *st)
{
	struct zmq_state *z = st->state;
	size_t total = 0, bytes = 0;
	hush(z);
	int r = zmqsock_look(&z->sock);
	if (r < 0)
		return r;
	r = 1;
	unsigned n = 0;
	for (; r > 0 && n < TAKE_MESSAGES && total < TAKE_BYTES && !st->crowded; n++) {
		r = receive(st, &bytes);
		total += bytes;
	}
	if (r < 0)
		return r;
	st->pressed |= 2 * (int64_t)n > ((const struct zmq_config *)st->config)->sock.hwm;
	bool empty = r == 0;
	r = z->router ? router_answer(z->router) : 0;
	if (r < 0)
		return r;
	return empty ? idle(st) : STAGE_OK;
}

static int stored(struct stage *st)
{
	struct zmq_state *z = st->state;
	if (!z->router)
		return 0;
	int r = router_answer(z->router);
	if (r == 0 && !z->again && zmqsock_readable(&z->sock)) {
		uint64_t one = 1;
		z->again = write(z->again_fd - 1, &one, sizeof(one)) > 0;
	}
	return r;
}

/* New clients find nobody; what is in the socket is still taken. A router need not: its clients
 * send again what was not acknowledged. */
static int producer_drain(struct stage *st)
{
	struct zmq_state *z = st->state;
	if (z->router)
		return STAGE_E_END;
	zmqsock_unlisten(&z->sock, &((const struct zmq_config *)st->config)->sock);
	z->drains = true;
	return STAGE_OK;
}

static void doors(struct stage *st)
{
	zmqsock_doors(&((struct zmq_state *)st->state)->sock);
}

static void gather(struct stage *st)
{
	zmqsock_gather(&((struct zmq_state *)st->state)->sock);
}

static bool hand_over(struct stage *st)
{
	return zmqsock_hand_over(&((struct zmq_state *)st->state)->sock);
}

static int producer_reopen(struct stage *st)
{
	zmqsock_reload(&((struct zmq_state *)st->state)->sock);
	return 0;
}

static void paths(const void *config, void (*add)(void *, const char *, enum stage_path_use),
                  void *arg)
{
	const struct zmq_config *cfg = config;
	zmqsock_paths(&cfg->sock, add, arg);
}

const struct stage_ops producer_zmq = {
        .name = "zmq",
        .kind = STAGE_PRODUCER,
        .flags = STAGE_SINGLE | STAGE_CODEC,
        .needs = STAGE_NEEDS_NET | STAGE_NEEDS_FILES,
        .paths = paths,
        .help = "records from a ZeroMQ socket: PULL, SUB, or ROUTER with acknowledgement",
        .example = "orders:\n"
                   "  type: zmq\n"
                   "  listen: tcp://127.0.0.1:5555\n"
                   "  socket: router\n"
                   "  codec: json\n",
        .options = options,
        .config_size = sizeof(struct zmq_config),
        .state_size = sizeof(struct zmq_state),
        .check = check,
        .open = producer_open,
        .close = producer_close,
        .produce = produce,
        .stored = stored,
        .drain = producer_drain,
        .doors = doors,
        .gather = gather,
        .hand_over = hand_over,
        .reopen = producer_reopen,
};
