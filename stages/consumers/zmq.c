/*
 * consumer `zmq`: records to ZeroMQ sockets. PUSH to whoever takes them, PUB to whoever listens,
 * DEALER to another daemon's acknowledged router (zmq_dealer.h), exactly once.
 *
 * A unit is one message: as many records as fit `message_size` and `message_records`, encoded one
 * behind the other; a record that is larger goes alone. That costs a commit a message
 * (microseconds) and makes retries and the dealer's recovery simple: there is never half a unit
 * out.
 *
 * Frames: [topic] [identity] payload. The topic is there when `topic` is set, the identity with
 * `identity: true`: "EPOCH:WORKER:NUMBER:0", the same on every attempt of the same unit, different
 * otherwise; a receiver that remembers it can drop repeats. A message of one frame is the payload.
 *
 * What each promises: DEALER exactly once. PUSH: a unit is done when the socket has taken it, so
 * what stands in the socket is lost with this process or the peer (keep `send_hwm` low), and after
 * a crash the unit in hand may come twice; without a connected peer nothing is taken. On a clean
 * end close() waits for the peer to take the rest, up to `timeout` and CLOSE_MAX_MS. PUB: who does
 * not listen or is slow misses messages.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "stages/consumers/zmq_dealer.h"
#include "stages/zmqsock.h"
#include "ipc/clock.h"

enum {
	CLOSE_MAX_MS = 10000,
	TAKEN_MAX_MS = 100, /* a peer that reads slowly is waited for so long: that is no outage */
	SERVICE_EVERY = 100 * 1000 * 1000, /* ns: doors of a listening socket */
	IDENTITY_MAX = 100,
};

enum socket_kind {
	SOCKET_PUSH,
	SOCKET_PUB,
	SOCKET_DEALER,
};

struct zmq_config {
	struct zmqsock_config sock;
	int socket; /* enum socket_kind */
	const char *topic;
	const char *id;
	bool identity;
	uint64_t message_size;
	int64_t message_records;
};

struct zmq_state {
	struct zmqsock sock;
	struct dealer *dealer;
	struct buf message;
	int64_t records; /* in message */
	bool opened;
};

static const char *const socket_names[] = {"push", "pub", "dealer", NULL};

static const struct option options[] = {
        ZMQSOCK_OPTIONS(struct zmq_config, sock),
        {.name = "socket",
         .type = OPTION_ENUM,
         .offset = offsetof(struct zmq_config, socket),
         .def = "push",
         .choices = socket_names,
         .help = "push, pub, or dealer: the acknowledged protocol, to another daemon's router"},
        {.name = "topic",
         .type = OPTION_STRING,
         .offset = offsetof(struct zmq_config, topic),
         .help = "first frame of each message; not for dealer"},
        {.name = "identity",
         .type = OPTION_BOOL,
         .offset = offsetof(struct zmq_config, identity),
         .def = "false",
         .help = "a frame before the payload that names the unit, so that repeats can be dropped"},
        {.name = "id",
         .type = OPTION_STRING,
         .offset = offsetof(struct zmq_config, id),
         .help = "dealer: beginning of the routing id; default: host and stage name"},
        {.name = "message_size",
         .type = OPTION_SIZE,
         .offset = offsetof(struct zmq_config, message_size),
         .def = "64KiB",
         .min = 1,
         .max = 1 << 28,
         .help = "bytes of a message; a record that is larger goes alone"},
        {.name = "message_records",
         .type = OPTION_INT,
         .offset = offsetof(struct zmq_config, message_records),
         .def = "0",
         .min = 0,
         .max = 1e9,
         .help = "records of a message at most; 0: as many as fit"},
        {.name = "send_hwm",
         .type = OPTION_INT,
         .offset = offsetof(struct zmq_config, sock.hwm),
         .def = "16",
         .min = 1,
         .max = 1000000,
         .help = "messages that wait in the socket, for each peer"},
        OPTION_END,
};

static void check(void *config, const struct node *node, struct complaints *c)
{
	const struct zmq_config *cfg = config;
	bool dealer = cfg->socket == SOCKET_DEALER;
	zmqsock_check(&cfg->sock, node, c);
	if (dealer && cfg->sock.listen.n)
		complain(c, node, "`socket: dealer` connects");
	if (dealer && cfg->sock.connect.n > 1)
		complain(c, node, "`socket: dealer` has one peer");
	if (dealer && (cfg->topic || cfg->identity))
		complain(c, node, "`topic` and `identity` are not for `socket: dealer`");
	if (!dealer && cfg->id)
		complain(c, node, "`id` is for `socket: dealer`");
	if (cfg->id && strlen(cfg->id) > 200)
		complain(c, node, "`id` is longer than 200 characters");
	const struct node *workers = node ? node_get(node, "workers") : NULL;
	if (workers && workers->i > 1 && cfg->sock.listen.n)
		complain(c, workers, "several workers cannot listen on one address");
}

static int64_t close_ms(const struct stage *st)
{
	int64_t ms = st->timeout / 1000000;
	return ms > CLOSE_MAX_MS ? CLOSE_MAX_MS : ms;
}

/* The dealer's id needs the arena's epoch, so the socket opens with the first unit. */
static int socket_open(struct stage *st)
{
	static const int types[] = {ZMQ_PUSH, ZMQ_PUB, ZMQ_DEALER};
	const struct zmq_config *cfg = st->config;
	struct zmq_state *z = st->state;
	char id[STAGE_WHY_MAX];
	bool dealer = cfg->socket == SOCKET_DEALER;
	if (z->opened)
		return 0;
	if (dealer)
		dealer_id(st, cfg->id, id);
	zmqsock_close(&z->sock);
	int r = zmqsock_open(&z->sock, st, &cfg->sock, types[cfg->socket], dealer ? id : NULL);
	if (r == 0 && dealer)
		r = dealer_open(&z->dealer, st, z->sock.sock);
	z->opened = r == 0;
	return r;
}

static int consumer_open(struct stage *st)
{
	const struct zmq_config *cfg = st->config;
	return cfg->socket == SOCKET_DEALER ? 0 : socket_open(st);
}

static void consumer_close(struct stage *st)
{
	const struct zmq_config *cfg = st->config;
	struct zmq_state *z = st->state;
	z->dealer = dealer_close(z->dealer);
	if (cfg->socket != SOCKET_PUSH)
		zmqsock_close(&z->sock);
	else if (!zmqsock_close_sent(&z->sock, close_ms(st)))
		log_warning("the peer did not take all messages: the last ones may be lost");
	buf_deinit(&z->message);
	*z = (struct zmq_state){0};
}

/* A listening socket has doors to watch, also while nothing is to be sent. */
static int tick(struct stage *st)
{
	struct zmq_state *z = st->state;
	if (!z->sock.monitor)
		return STAGE_OK;
	int r = zmqsock_look(&z->sock);
	st->deadline = clock_monotonic() + SERVICE_EVERY;
	return r;
}

static int begin(struct stage *st)
{
	struct zmq_state *z = st->state;
	z->message.len = 0;
	z->records = 0;
	return tick(st);
}

static int encode(struct stage *st, const uint8_t *rec, size_t len)
{
	struct zmq_state *z = st->state;
	struct codec *codec = st->codec;
	int r = 0;
	if (z->records == 0) {
		if (codec->ops->reset)
			codec->ops->reset(codec);
		if (codec->ops->head)
			r = codec->ops->head(codec, rec, len, &z->message);
	}
	return r ? r : codec->ops->encode(codec, rec, len, &z->message);
}

static int consume(struct stage *st, const uint8_t *rec, size_t len)
{
	const struct zmq_config *cfg = st->config;
	struct zmq_state *z = st->state;
	size_t before = z->message.len;
	if (cfg->message_records && z->records >= cfg->message_records)
		return STAGE_E_FULL;
	int r = encode(st, rec, len);
	bool full = r == 0 && z->records && z->message.len > cfg->message_size;
	if (r || full)
		z->message.len = before;
	if (r == CODEC_E_REJECT)
		return stage_say(st, STAGE_E_REJECT, "%s",
		                 st->codec->why ? st->codec->why : "cannot be encoded");
	if (r || full)
		return r ? r : STAGE_E_FULL;
	z->records++;
	return STAGE_OK;
}

static size_t make_identity(const struct stage *st, char *out)
{
	const struct commit_id *id = &st->commit_id;
	size_t n = 0;
	for (size_t i = 0; i < sizeof(id->epoch); i++)
		n += (size_t)snprintf(out + n, 3, "%02x", id->epoch[i]);
	return n + (size_t)snprintf(out + n, IDENTITY_MAX - n, ":%" PRIu32 ":%" PRIu64 ":0",
	                            id->worker, id->number);
}

/* Waits until a peer has room, and lets in those who knock. False: nobody had any. */
static bool wait_for_room(struct stage *st)
{
	struct zmq_state *z = st->state;
	int64_t end = clock_monotonic() + TAKEN_MAX_MS * INT64_C(1000000);
	for (;;) {
		zmq_pollitem_t item[3] = {{.socket = z->sock.sock, .events = ZMQ_POLLOUT}};
		int n = 1;
		if (z->sock.monitor)
			item[n++] =
			        (zmq_pollitem_t){.socket = z->sock.monitor, .events = ZMQ_POLLIN};
		if (z->sock.auth)
			item[n++] = (zmq_pollitem_t){.fd = zmqsock_auth_fd(z->sock.auth),
			                             .events = ZMQ_POLLIN};
		int64_t left = (end - clock_monotonic()) / 1000000;
		if (zmq_poll(item, n, left > 0 ? left : 0) > 0 && (item[0].revents & ZMQ_POLLOUT))
			return true;
		if (left <= 0 || zmqsock_service(&z->sock) < 0)
			return false;
	}
}

static int send_message(struct stage *st)
{
	const struct zmq_config *cfg = st->config;
	struct zmq_state *z = st->state;
	struct zmqproto_frame f[3];
	char identity[IDENTITY_MAX];
	size_t n = 0;
	if (cfg->topic)
		f[n++] = zmqproto_word(cfg->topic);
	if (cfg->identity)
		f[n++] = (struct zmqproto_frame){identity, make_identity(st, identity)};
	f[n++] = (struct zmqproto_frame){z->message.p, z->message.len};
	int r;
	st->n_fds = 0;
	while ((r = zmqsock_send(z->sock.sock, f, n)) > 0 && wait_for_room(st))
		;
	if (r <= 0)
		return r;
	zmqsock_wait(&z->sock); /* so that the pause ends when a peer comes or reads */
	return stage_say(st, STAGE_E_UNREACHABLE, "no peer is there that takes messages");
}

static int finish(struct stage *st)
{
	const struct zmq_config *cfg = st->config;
	struct zmq_state *z = st->state;
	int r = cfg->socket == SOCKET_DEALER ? socket_open(st) : 0;
	if (r)
		return r;
	if (cfg->socket == SOCKET_DEALER)
		return dealer_finish(z->dealer, z->records > 0);
	return z->records ? send_message(st) : STAGE_OK;
}

static int commit(struct stage *st)
{
	struct zmq_state *z = st->state;
	return z->dealer ? dealer_commit(z->dealer, z->message.p, z->message.len) : 0;
}

static void rollback(struct stage *st)
{
	struct zmq_state *z = st->state;
	z->message.len = 0;
	z->records = 0;
}

static int committed(struct stage *st, const struct commit_id *id)
{
	const struct zmq_config *cfg = st->config;
	struct zmq_state *z = st->state;
	if (cfg->socket != SOCKET_DEALER)
		return 0; /* what PUSH took may have died with its process: rather twice than never
		           */
	int r = socket_open(st);
	return r ? r : dealer_committed(z->dealer, id);
}

static void doors(struct stage *st)
{
	zmqsock_doors(&((struct zmq_state *)st->state)->sock);
}

static int consumer_reopen(struct stage *st)
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

const struct stage_ops consumer_zmq = {
        .name = "zmq",
        .kind = STAGE_CONSUMER,
        .flags = STAGE_TRANSACTION | STAGE_OUTSIDE | STAGE_CODEC,
        .needs = STAGE_NEEDS_NET | STAGE_NEEDS_FILES,
        .paths = paths,
        .help = "records to a ZeroMQ socket: PUSH, PUB, or DEALER with acknowledgement",
        .example = "next:\n"
                   "  type: zmq\n"
                   "  connect: tcp://127.0.0.1:5556\n"
                   "  socket: dealer\n"
                   "  codec: msgpack\n",
        .options = options,
        .config_size = sizeof(struct zmq_config),
        .state_size = sizeof(struct zmq_state),
        .check = check,
        .open = consumer_open,
        .close = consumer_close,
        .consume = consume,
        .tick = tick,
        .begin = begin,
        .finish = finish,
        .commit = commit,
        .rollback = rollback,
        .committed = committed,
        .doors = doors,
        .reopen = consumer_reopen,
};
