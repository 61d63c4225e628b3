/*
 * Opening, watching and closing a stage's ZeroMQ socket; see zmqsock.h for the idea.
 *
 * A listening socket always has an authentication domain, also without CURVE: so libzmq asks before
 * it lets anybody in (that is where max_clients is kept) and refuses what does not speak ZMTP 3, an
 * HTTP client for one, instead of taking its bytes for messages.
 *
 * Invariants: `peers` holds one entry for each connection accepted and not yet disconnected, as far
 * as the monitor has told; every duplicated descriptor in it is closed when the entry goes. A bind
 * never removes anything but a socket from the file system (libzmq itself unlinks whatever is at an
 * ipc path).
 */
#include "stages/zmqsock.h"
#include "ipc/clock.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define MONITOR_ENDPOINT "inproc://monitor"

enum {
	LOOK_EVERY = 10 * 1000 * 1000, /* ns */
	GATHER_BYTES = 16384,          /* of one client: more at once is worth a wake-up */
	GATHER_PEERS = 8,
};

static int set_int(void *sock, int option, int value)
{
	return zmq_setsockopt(sock, option, &value, sizeof(value)) ? err_errno() : 0;
}

static int zmq_room(int64_t n)
{
	return n > INT32_MAX ? INT32_MAX : (int)n;
}

static int set_common(struct zmqsock *s, const struct zmqsock_config *cfg, const char *id)
{
	uint64_t limit =
	        cfg->max_message ? cfg->max_message : (s->st->max_record + 4095) & ~4095ULL;
	int64_t max = limit > INT64_MAX ? INT64_MAX : (int64_t)limit;
	int r = 0;
	if (zmq_setsockopt(s->sock, ZMQ_MAXMSGSIZE, &max, sizeof(max)) ||
	    (id && zmq_setsockopt(s->sock, ZMQ_ROUTING_ID, id, strlen(id))))
		return err_errno();
	/* IMMEDIATE: nothing is taken for a peer that is not there */
	const int options[][2] = {
	        {ZMQ_LINGER, 0},
	        {ZMQ_IPV6, 1},
	        {ZMQ_TCP_KEEPALIVE, 1},
	        {ZMQ_RCVHWM, zmq_room(cfg->hwm)},
	        {ZMQ_SNDHWM, zmq_room(cfg->hwm)},
	        {ZMQ_IMMEDIATE, cfg->connect.n > 0},
	        {ZMQ_RECONNECT_IVL, 100},
	        {ZMQ_RECONNECT_IVL_MAX, 2000},
	};
	for (size_t i = 0; r == 0 && i < sizeof(options) / sizeof(*options); i++)
		r = set_int(s->sock, options[i][0], options[i][1]);
	return r;
}

static int set_text(void *sock, int option, const char *text)
{
	return zmq_setsockopt(sock, option, text, strlen(text)) ? err_errno() : 0;
}

static int key_trouble(struct zmqsock *s, const char *which, int r)
{
	return stage_say(s->st, STAGE_E_UNREACHABLE, "curve: %s: %s", which,
	                 r == -EINVAL ? "no key in it" : strerror(-r));
}

static int set_curve_server(struct zmqsock *s, const struct zmqsock_curve *curve)
{
	char secret[ZMQSOCK_KEY_LEN];
	int r = zmqsock_key(curve->server_secret, true, secret);
	if (r < 0)
		return key_trouble(s, "server_secret", r);
	r = set_int(s->sock, ZMQ_CURVE_SERVER, 1);
	if (r == 0)
		r = set_text(s->sock, ZMQ_CURVE_SECRETKEY, secret);
	explicit_bzero(secret, sizeof(secret));
	return r;
}

static int set_curve_client(struct zmqsock *s, const struct zmqsock_curve *curve)
{
	char secret[ZMQSOCK_KEY_LEN], public[ZMQSOCK_KEY_LEN], server[ZMQSOCK_KEY_LEN];
	int r = zmqsock_key(curve->server_key, false, server);
	if (r < 0)
		return key_trouble(s, "server_key", r);
	r = zmqsock_key(curve->secret, true, secret);
	if (r < 0)
		return key_trouble(s, "secret", r);
	if (zmq_curve_public(public, secret))
		r = err_errno();
	if (r == 0)
		r = set_text(s->sock, ZMQ_CURVE_SERVERKEY, server);
	if (r == 0)
		r = set_text(s->sock, ZMQ_CURVE_PUBLICKEY, public);
	if (r == 0)
		r = set_text(s->sock, ZMQ_CURVE_SECRETKEY, secret);
	explicit_bzero(secret, sizeof(secret));
	return r;
}

static int open_monitor(struct zmqsock *s)
{
	int events = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED |
	             ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
	             ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
	if (zmq_socket_monitor(s->sock, MONITOR_ENDPOINT, events))
		return err_errno();
	s->monitor = zmq_socket(s->ctx, ZMQ_PAIR);
	if (!s->monitor)
		return err_errno();
	int r = set_int(s->monitor, ZMQ_LINGER, 0);
	if (r == 0)
		r = set_int(s->monitor, ZMQ_RCVHWM, 0);
	if (r == 0 && zmq_connect(s->monitor, MONITOR_ENDPOINT))
		r = err_errno();
	return r;
}

/* Before bind, or the first client would slip by. */
static int open_auth(struct zmqsock *s, const struct zmqsock_config *cfg)
{
	int r = zmqsock_auth_open(&s->auth, s->ctx, cfg->curve.clients);
	return r < 0 ? r : set_text(s->sock, ZMQ_ZAP_DOMAIN, "sluice");
}

static const char *ipc_path(const char *endpoint)
{
	bool path = strncmp(endpoint, "ipc://", 6) == 0 && endpoint[6] != '@';
	return path ? endpoint + 6 : NULL;
}

static int listen_on(struct zmqsock *s, const char *endpoint)
{
	const char *path = ipc_path(endpoint);
	struct stat sb;
	if (path && lstat(path, &sb) == 0 && !S_ISSOCK(sb.st_mode))
		return stage_say(s->st, STAGE_E_UNREACHABLE,
		                 "%s: there is something else than a socket", endpoint);
	if (zmq_bind(s->sock, endpoint))
		return stage_say(s->st, STAGE_E_UNREACHABLE, "listen %s: %s", endpoint,
		                 zmq_strerror(errno));
	return 0;
}

static int attach(struct zmqsock *s, const struct zmqsock_config *cfg)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < cfg->listen.n; i++)
		r = listen_on(s, cfg->listen.v[i]);
	for (size_t i = 0; r == 0 && i < cfg->connect.n; i++)
		if (zmq_connect(s->sock, cfg->connect.v[i]))
			r = stage_say(s->st, STAGE_E_UNREACHABLE, "connect %s: %s",
			              cfg->connect.v[i], zmq_strerror(errno));
	return r;
}

void zmqsock_unlisten(struct zmqsock *s, const struct zmqsock_config *cfg)
{
	for (size_t i = 0; i < cfg->listen.n; i++)
		zmq_unbind(s->sock,
		           cfg->listen.v[i]); /* a wildcard stays: nobody can know its name */
}

int zmqsock_open(struct zmqsock *s, struct stage *st, const struct zmqsock_config *cfg, int type,
                 const char *id)
{
	*s = (struct zmqsock){.st = st, .max_clients = cfg->max_clients};
	s->ctx = zmq_ctx_new();
	if (!s->ctx)
		return err_errno();
	s->sock = zmq_socket(s->ctx, type);
	if (!s->sock)
		return err_errno();
	int r = set_common(s, cfg, id);
	if (r == 0 && cfg->curve.server_secret)
		r = set_curve_server(s, &cfg->curve);
	else if (r == 0 && cfg->curve.server_key)
		r = set_curve_client(s, &cfg->curve);
	if (r == 0 && cfg->listen.n)
		r = open_auth(s, cfg);
	if (r == 0 && (cfg->listen.n || type == ZMQ_PUSH))
		r = open_monitor(s);
	if (r == 0 && type == ZMQ_ROUTER)
		r = set_int(s->sock, ZMQ_ROUTER_HANDOVER, 1);
	if (r == 0 && type == ZMQ_ROUTER) /* says who is not there */
		r = set_int(s->sock, ZMQ_ROUTER_MANDATORY, 1);
	return r ? r : attach(s, cfg);
}

static void peer_drop(struct zmqsock *s, size_t i)
{
	if (s->peers[i].dup >= 0)
		close(s->peers[i].dup);
	memmove(&s->peers[i], &s->peers[i + 1], (--s->n_peers - i) * sizeof(*s->peers));
}

static int peer_add(struct zmqsock *s, int fd)
{
	if (s->n_peers == s->cap_peers) {
		size_t cap = s->cap_peers ? 2 * s->cap_peers : 16;
		struct zmqsock_peer *p = realloc(s->peers, cap * sizeof(*p));
		if (!p)
			return -ENOMEM;
		s->peers = p;
		s->cap_peers = cap;
	}
	s->peers[s->n_peers++] = (struct zmqsock_peer){fd, fcntl(fd, F_DUPFD_CLOEXEC, 3), false};
	return 0;
}

/* Whether the peer still wants the connection: then it was not the peer that ended it. */
static bool peer_open(int dup)
{
	char byte;
	ssize_t n = recv(dup, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
}

/* Whether the end of this connection is a refusal that was not counted yet. */
static bool was_refused(struct zmqsock *s, const struct zmqsock_peer *p)
{
	if (p->greeted)
		return p->dup >= 0 && peer_open(p->dup);
	if (s->denied) {
		s->denied--;
		return false;
	}
	return !s->just_failed;
}

static void peer_gone(struct zmqsock *s, int fd)
{
	for (size_t i = 0; i < s->n_peers; i++) {
		if (s->peers[i].fd != fd)
			continue;
		s->st->refused += was_refused(s, &s->peers[i]);
		peer_drop(s, i);
		return;
	}
}

/* The event does not say whose handshake it was: the one that waits longest is the best guess. */
static void peer_greeted(struct zmqsock *s)
{
	for (size_t i = 0; i < s->n_peers; i++)
		if (!s->peers[i].greeted) {
			s->peers[i].greeted = true;
			return;
		}
}

static int monitor_event(struct zmqsock *s, uint16_t event, uint32_t value)
{
	bool failed = false;
	int r = 0;
	switch (event) {
	case ZMQ_EVENT_ACCEPTED:
	case ZMQ_EVENT_CONNECTED:
		r = peer_add(s, (int)value);
		break;
	case ZMQ_EVENT_DISCONNECTED:
		peer_gone(s, (int)value);
		break;
	case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
		peer_greeted(s);
		break;
	case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
		failed = true;
		s->st->refused += !s->just_failed && !s->denied;
		break;
	default: /* the other failed handshakes: one client may cause two events, then a
	            DISCONNECTED */
		failed = true;
		s->st->refused += !s->just_failed;
		break;
	}
	s->just_failed = failed;
	return r;
}

static int drain_monitor(struct zmqsock *s)
{
	for (;;) {
		struct {
			uint16_t event;
			uint32_t value;
		} __attribute__((packed)) head;
		char endpoint[1];
		int n = zmq_recv(s->monitor, &head, sizeof(head), ZMQ_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : err_errno();
		zmq_recv(s->monitor, endpoint, sizeof(endpoint), ZMQ_DONTWAIT);
		int r = n == sizeof(head) ? monitor_event(s, head.event, head.value) : 0;
		if (r < 0)
			return r;
	}
}

/* libzmq does not always close a connection that was told "not now", and then the client waits for
 * ever. A connection that breaks makes it try again. */
static void break_waiting(struct zmqsock *s)
{
	for (size_t i = 0; i < s->n_peers; i++) {
		struct zmqsock_peer *p = &s->peers[i];
		if (!p->greeted && p->dup >= 0)
			shutdown(p->dup, SHUT_RDWR);
	}
}

int zmqsock_service(struct zmqsock *s)
{
	if (!s->monitor)
		return 0;
	int r = drain_monitor(s);
	if (r < 0)
		return r;
	/* the one that asks has been accepted, and so counts already */
	bool full = s->max_clients && s->n_peers > (size_t)s->max_clients;
	r = s->auth ? zmqsock_auth_serve(s->auth, full) : 0;
	if (r > 0 && full) {
		s->denied += (unsigned)r;
		break_waiting(s);
	}
	return r < 0 ? r : 0;
}

int zmqsock_look(struct zmqsock *s)
{
	int64_t now = clock_monotonic();
	bool news = false;
	for (unsigned i = 1; i < s->st->n_fds; i++)
		news |= s->st->fds[i].revents != 0;
	if (!s->monitor || (!news && now - s->looked < LOOK_EVERY))
		return 0;
	s->looked = now;
	return zmqsock_service(s);
}

void zmqsock_doors(struct zmqsock *s)
{
	if (s->monitor)
		(void)zmqsock_look(s);
}

static bool in_the_kernel(const struct zmqsock_peer *p)
{
	int n = 0;
	return ioctl(p->dup, SIOCINQ, &n) == 0 && n > 0;
}

/* Who has not been let in yet may have to wait with what it sends behind its greeting. */
bool zmqsock_in_the_kernel(const struct zmqsock *s)
{
	for (size_t i = 0; i < s->n_peers; i++)
		if (s->peers[i].greeted && in_the_kernel(&s->peers[i]))
			return true;
	return false;
}

static void set_low_water(const struct zmqsock_peer *p, int bytes)
{
	setsockopt(p->dup, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
}

void zmqsock_gather(struct zmqsock *s)
{
	if (s->n_peers > GATHER_PEERS)
		return;
	s->gathers = true;
	/* the thread has not come round to the others: with a mark above what is there it would
	 * pass them over */
	for (size_t i = 0; i < s->n_peers; i++)
		if (s->peers[i].greeted && !in_the_kernel(&s->peers[i]))
			set_low_water(&s->peers[i], GATHER_BYTES);
}

bool zmqsock_hand_over(struct zmqsock *s)
{
	if (!s->gathers)
		return false;
	for (size_t i = 0; i < s->n_peers; i++)
		set_low_water(&s->peers[i], 1);
	return s->gathers = zmqsock_in_the_kernel(s);
}

static void shut(struct zmqsock *s)
{
	if (s->monitor)
		zmq_close(s->monitor);
	if (s->sock)
		zmq_close(s->sock);
	s->auth = zmqsock_auth_close(s->auth);
	while (s->ctx && zmq_ctx_term(s->ctx) && errno == EINTR)
		;
	s->monitor = s->sock = s->ctx = NULL;
}

void zmqsock_close(struct zmqsock *s)
{
	shut(s);
	while (s->n_peers)
		peer_drop(s, s->n_peers - 1);
	free(s->peers);
	*s = (struct zmqsock){0};
}

static int64_t now_ms(void)
{
	return clock_monotonic() / 1000000;
}

/* Until the peer has read (ipc) or its kernel has confirmed (tcp) what was written. Nothing tells
 * of it but asking. */
static bool wait_taken(int fd, int64_t until)
{
	int left = 0;
	if (fd < 0)
		return true;
	while (ioctl(fd, SIOCOUTQ, &left) == 0 && left > 0) {
		struct pollfd gone = {.fd = fd};
		if (now_ms() >= until || poll(&gone, 1, 2) > 0)
			return false;
	}
	/* a heartbeat left unread would make close() reset the connection */
	char junk[256];
	while (recv(fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		;
	return true;
}

bool zmqsock_close_sent(struct zmqsock *s, int64_t ms)
{
	int64_t until = now_ms() + ms;
	bool taken = true;
	if (s->sock && s->monitor && drain_monitor(s) == 0) {
		set_int(s->sock, ZMQ_LINGER, zmq_room(ms));
		shut(s);
		taken = now_ms() < until;
		for (size_t i = 0; i < s->n_peers; i++)
			taken = wait_taken(s->peers[i].dup, until) && taken;
	}
	zmqsock_close(s);
	return taken;
}

static int fd_of(void *sock)
{
	int fd = -1;
	size_t len = sizeof(fd);
	return zmq_getsockopt(sock, ZMQ_FD, &fd, &len) ? -1 : fd;
}

void zmqsock_wait(const struct zmqsock *s)
{
	struct stage *st = s->st;
	st->n_fds = 0;
	st->fds[st->n_fds++] = (struct pollfd){.fd = fd_of(s->sock), .events = POLLIN};
	if (!s->monitor)
		return;
	st->fds[st->n_fds++] = (struct pollfd){.fd = fd_of(s->monitor), .events = POLLIN};
	if (s->auth)
		st->fds[st->n_fds++] =
		        (struct pollfd){.fd = zmqsock_auth_fd(s->auth), .events = POLLIN};
}

bool zmqsock_readable(const struct zmqsock *s)
{
	int events = 0;
	size_t len = sizeof(events);
	return zmq_getsockopt(s->sock, ZMQ_EVENTS, &events, &len) == 0 && (events & ZMQ_POLLIN);
}

void zmqsock_reload(struct zmqsock *s)
{
	if (s->auth)
		zmqsock_auth_load(s->auth);
}

bool zmqsock_known(struct zmqsock *s, const char *fingerprint)
{
	return s->auth && zmqsock_auth_known(s->auth, fingerprint);
}

int zmqsock_send(void *sock, const struct zmqproto_frame *f, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int flags = ZMQ_DONTWAIT | (i + 1 < n ? ZMQ_SNDMORE : 0);
		while (zmq_send(sock, f[i].p, f[i].len, flags) < 0) {
			if (errno == EINTR)
				continue;
			return errno == EAGAIN || errno == EHOSTUNREACH ? 1 : err_errno();
		}
	}
	return 0;
}

static void key_path(const char *option, void (*add)(void *, const char *, enum stage_path_use),
                     void *arg)
{
	if (option && strncmp(option, "file:", 5) == 0)
		add(arg, option + 5, STAGE_PATH_READ);
}

void zmqsock_paths(const struct zmqsock_config *cfg,
                   void (*add)(void *arg, const char *path, enum stage_path_use use), void *arg)
{
	for (size_t i = 0; i < cfg->listen.n; i++) {
		const char *path = ipc_path(cfg->listen.v[i]);
		if (path)
			add(arg, path, STAGE_PATH_WRITE);
	}
	key_path(cfg->curve.server_secret, add, arg);
	key_path(cfg->curve.secret, add, arg);
	key_path(cfg->curve.server_key, add, arg);
	if (cfg->curve.clients)
		add(arg, cfg->curve.clients, STAGE_PATH_READ);
}
