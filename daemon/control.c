/*
 * The control socket's clients, on the master's event loop.
 *
 * The hard idea: no client can hold the daemon. Everything is non-blocking; a client's next request
 * is not even read before it has taken the answers so far; a line, the number of clients, what a
 * tap may pile up, and how long a client may be silent are all bounded. Whoever goes over a bound
 * loses its connection (a tap loses records) and is counted; nobody else notices.
 *
 * A client may end its side after its last request and still gets the answers. Another line during
 * a tap ends the tap.
 *
 * Limit: one answer is made in one go, and may be larger than CONTROL_PENDING_MAX when the
 * configuration is very large; it is sent all the same.
 */
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "daemon/control_parts.h"
#include "ipc/mp.h"

static void client_free(struct client *c)
{
	struct control *ctl = c->owner;
	char tap[ARENA_NAME_MAX];
	const char *why;
	memcpy(tap, c->tap, sizeof(tap));
	for (unsigned i = 0; i < ctl->n_clients; i++)
		if (ctl->clients[i] == c)
			ctl->clients[i] = ctl->clients[--ctl->n_clients];
	sd_event_source_disable_unref(c->io);
	sd_event_source_disable_unref(c->idle);
	/* a forked process may hold a copy of the descriptor: the client is to see the end all the
	 * same */
	shutdown(c->fd, SHUT_RDWR);
	close(c->fd);
	buf_deinit(&c->out);
	free(c);
	if (tap[0])
		control_tap_ask(ctl, tap, &why);
}

static size_t pending(const struct client *c)
{
	return c->out.len - c->sent;
}

static uint64_t idle_us(const struct client *c)
{
	int t = c->owner->idle_us_for_tests;
	return t ? (uint64_t)t : CONTROL_IDLE_US;
}

static void touch(struct client *c)
{
	sd_event_source_set_time_relative(c->idle, idle_us(c));
	sd_event_source_set_enabled(c->idle, SD_EVENT_ONESHOT);
}

static int on_idle(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct client *c = userdata;
	(void)s;
	(void)usec;
	if ((c->tap[0] || c->reloading) && pending(c) == 0) {
		touch(c); /* it waits for us, not we for it */
		return 0;
	}
	c->owner->dropped++;
	client_free(c);
	return 0;
}

/* Sends what the client takes. False: it is gone. */
static bool push(struct client *c)
{
	while (pending(c) > 0) {
		ssize_t n =
		        send(c->fd, c->out.p + c->sent, pending(c), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		c->sent += (size_t)n;
		touch(c);
	}
	c->out.len = c->sent = 0;
	if (c->out.cap > CONTROL_PENDING_MAX)
		buf_deinit(&c->out);
	return true;
}

static void handle_line(struct client *c, size_t len)
{
	struct request rq;
	char *line = c->in;
	if (c->tap[0])
		control_tap_end(c->owner, c);
	if (!command_parse(line, len, &rq))
		control_answer_error(c, rq.why);
	else
		control_answer(c->owner, c, &rq);
}

/* Answers the lines that are there, as long as the client takes the answers. False: it is gone. */
static bool handle_lines(struct client *c)
{
	char *nl;
	while (!c->last && !c->reloading && pending(c) == 0 &&
	       (nl = memchr(c->in, '\n', c->in_len))) {
		size_t len = (size_t)(nl - c->in), used = len + 1;
		handle_line(c, len);
		memmove(c->in, c->in + used, c->in_len - used);
		c->in_len -= used;
		if (!push(c))
			return false;
	}
	if (!c->last && c->in_len > COMMAND_LINE_MAX && !memchr(c->in, '\n', c->in_len)) {
		control_answer_error(c, "the line is too long");
		c->last = true;
		return push(c);
	}
	return true;
}

/* Reads what is there. False: the client is gone. */
static bool pull(struct client *c)
{
	size_t room = COMMAND_LINE_MAX + 1 - c->in_len;
	if (room == 0)
		return true;
	ssize_t n = recv(c->fd, c->in + c->in_len, room, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	c->in_len += (size_t)n;
	if (n > 0) {
		touch(c);
		return true;
	}
	c->said_all = true;
	if (c->in_len > 0 && c->in[c->in_len - 1] != '\n')
		c->in[c->in_len++] = '\n'; /* the end of what it says ends its last line too */
	return true;
}

/* Whether nothing more can come of this client. */
static bool is_done(const struct client *c)
{
	if (pending(c) > 0 || c->tap[0] || c->reloading)
		return false;
	return c->last || (c->said_all && !memchr(c->in, '\n', c->in_len));
}

static void watch(struct client *c)
{
	uint32_t want = pending(c) > 0 ? EPOLLOUT : !c->said_all && !c->last ? EPOLLIN : 0;
	sd_event_source_set_io_events(c->io, want);
}

/* After something was added for a client from outside its own event: sends it, and lets it go when
 * all is said. Lines that came meanwhile are answered from the event loop. */
static void settle(struct client *c)
{
	if (push(c) && !is_done(c)) {
		watch(c);
		if (memchr(c->in, '\n', c->in_len))
			sd_event_source_set_io_events(c->io, EPOLLOUT);
	} else {
		client_free(c);
	}
}

static int on_client(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct client *c = userdata;
	(void)s;
	(void)fd;
	bool there = !(events & (EPOLLHUP | EPOLLERR));
	if (there && (events & EPOLLIN))
		there = pull(c);
	if (there && (events & EPOLLOUT))
		there = push(c);
	if (there)
		there = handle_lines(c);
	if (!there || is_done(c))
		client_free(c);
	else
		watch(c);
	return 0;
}

/* ---- accepting ---- */

static struct client *client_new(struct control *ctl, int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	struct client *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->owner = ctl;
	c->fd = fd;
	/* a peer that cannot be known is nobody: it may read */
	c->uid = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 ? cred.uid : (uid_t)-1;
	if (sd_event_add_io(ctl->m->event, &c->io, fd, EPOLLIN, on_client, c) < 0 ||
	    sd_event_add_time_relative(ctl->m->event, &c->idle, CLOCK_MONOTONIC, idle_us(c), 0,
	                               on_idle, c) < 0) {
		sd_event_source_disable_unref(c->io);
		free(c);
		return NULL;
	}
	ctl->clients[ctl->n_clients++] = c;
	return c;
}

static void refuse(struct control *ctl, int fd)
{
	static const char why[] =
	        "{\"error\":\"too many clients are connected: try again later\"}\n";
	ctl->refused++;
	if (send(fd, why, sizeof(why) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("a refused client was gone already");
	close(fd);
}

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct control *ctl = userdata;
	(void)s;
	(void)usec;
	sd_event_source_set_enabled(ctl->accepting, SD_EVENT_ON);
	ctl->retry = sd_event_source_disable_unref(ctl->retry);
	return 0;
}

/* Out of descriptors, say: the waiting connection would wake us again and again. */
static void accept_later(struct control *ctl, int error)
{
	log_warning("control socket: cannot accept: %s", strerror(error));
	if (!ctl->retry && sd_event_add_time_relative(ctl->m->event, &ctl->retry, CLOCK_MONOTONIC,
	                                              CONTROL_RETRY_US, 0, on_retry, ctl) >= 0)
		sd_event_source_set_enabled(ctl->accepting, SD_EVENT_OFF);
}

static int on_accept(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
	struct control *ctl = userdata;
	(void)s;
	(void)events;
	int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (peer < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			accept_later(ctl, errno);
		return 0;
	}
	if (ctl->n_clients == CONTROL_CLIENTS_MAX || !client_new(ctl, peer))
		refuse(ctl, peer);
	return 0;
}

static int start_accepting(struct control *ctl)
{
	return sd_event_add_io(ctl->m->event, &ctl->accepting, ctl->listen.fd, EPOLLIN, on_accept,
	                       ctl);
}

/* ---- for the master ---- */

int control_open(struct master *m)
{
	struct control *ctl = calloc(1, sizeof(*ctl));
	if (!ctl)
		return -ENOMEM;
	ctl->m = m;
	int r = control_listen_open(&ctl->listen, m->config->control_socket,
	                            m->config->control_mode);
	if (r == 0)
		r = start_accepting(ctl);
	if (r < 0) {
		control_listen_close(&ctl->listen);
		free(ctl);
		return r;
	}
	m->control = ctl;
	return 0;
}

void control_close(struct master *m)
{
	struct control *ctl = m->control;
	if (!ctl)
		return;
	ctl->accepting = sd_event_source_disable_unref(ctl->accepting);
	ctl->retry = sd_event_source_disable_unref(ctl->retry);
	control_listen_close(&ctl->listen);
	while (ctl->n_clients > 0) {
		struct client *c = ctl->clients[0];
		if (c->tap[0])
			control_tap_end(ctl, c);
		if (c->reloading)
			control_answer_reloaded(c, "the daemon stops");
		push(c); /* what fits at once: nobody is waited for */
		client_free(c);
	}
	free(ctl);
	m->control = NULL;
}

static void end_taps_of_gone_stages(struct control *ctl)
{
	for (unsigned i = ctl->n_clients; i-- > 0;) {
		struct client *c = ctl->clients[i];
		if (!c->tap[0] || config_stage(ctl->m->config, c->tap))
			continue;
		control_tap_end(ctl, c);
		settle(c);
	}
}

int control_reconfigure(struct master *m)
{
	struct control *ctl = m->control;
	struct control_listen next;
	if (!ctl)
		return 0;
	end_taps_of_gone_stages(ctl);
	if (!ctl->listen.ours)
		return 0; /* systemd's: what it is, the unit says */
	if (strcmp(ctl->listen.path, m->config->control_socket) == 0)
		return chmod(ctl->listen.path, m->config->control_mode & 0777) < 0 ? err_errno()
		                                                                   : 0;
	int r = control_listen_open(&next, m->config->control_socket, m->config->control_mode);
	if (r < 0)
		return r; /* the old one stays */
	ctl->accepting = sd_event_source_disable_unref(ctl->accepting);
	control_listen_close(&ctl->listen);
	ctl->listen = next;
	r = start_accepting(ctl);
	if (r < 0)
		log_error("control socket %s: cannot watch it: %s", next.path, strerror(-r));
	return r;
}

void control_reloaded(struct master *m, const char *why)
{
	struct control *ctl = m->control;
	for (unsigned i = ctl ? ctl->n_clients : 0; i-- > 0;) {
		struct client *c = ctl->clients[i];
		if (!c->reloading)
			continue;
		c->reloading = false;
		control_answer_reloaded(c, why);
		settle(c);
	}
	if (!why)
		control_reconfigure(m);
}

/* ---- tap ---- */

/* A worker's bytes go to a client as a line of its own: nothing that could pass for two. */
static bool fit_for_a_line(const char *json, size_t len)
{
	if (len < 2 || len > CONTROL_RECORD_MAX || json[0] != '{')
		return false;
	while (len > 0 && json[len - 1] == '\n')
		len--;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)json[i] < 0x20)
			return false;
	return json[len - 1] == '}' && mp_utf8_valid((const uint8_t *)json, len);
}

static void give(struct client *c, const char *json, size_t len)
{
	while (json[len - 1] == '\n')
		len--;
	if (pending(c) > 0 && pending(c) + len + 1 > CONTROL_PENDING_MAX) {
		c->tap_missed++;
		return;
	}
	if (c->sent > 0 && c->sent == c->out.len)
		c->sent = c->out.len = 0;
	size_t before = c->out.len;
	if (buf_add(&c->out, json, len) < 0 || buf_add_byte(&c->out, '\n') < 0) {
		c->out.len = before;
		c->tap_missed++;
		return;
	}
	if (++c->tapped >= c->tap_wanted)
		control_tap_end(c->owner, c);
}

/* The bytes in front that were sent already are given back, so that a long tap's memory stays
 * bounded. */
static void compact(struct client *c)
{
	if (c->sent < CONTROL_PENDING_MAX / 4)
		return;
	memmove(c->out.p, c->out.p + c->sent, pending(c));
	c->out.len -= c->sent;
	c->sent = 0;
}

void control_tapped(struct master *m, uint32_t slot, const char *json, size_t len)
{
	struct control *ctl = m->control;
	if (!ctl || slot >= m->arena.workers || !fit_for_a_line(json, len))
		return;
	unsigned stage = m->children[slot].stage;
	if (stage >= m->config->n_stages)
		return;
	for (unsigned i = ctl->n_clients; i-- > 0;) {
		struct client *c = ctl->clients[i];
		if (strcmp(c->tap, m->config->stages[stage].name) != 0)
			continue;
		give(c, json, len);
		compact(c);
		settle(c);
	}
}
