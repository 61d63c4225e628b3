/*
 * A ZeroMQ producer in a test: its configuration from YAML, a host that commits units and can be
 * killed. What was made since the last commit goes when the producer is killed, the position with
 * it.
 */
#pragma once

#include "tests/unit/host.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/yaml.h"

enum {
	RIG_WAIT_S = 20,
};

struct rig {
	struct test_host *host;
	struct stage st;
	const struct stage_ops *ops;
	struct codec codec;
	struct yaml_tree tree;
	struct complaints complaints;
	void *config;
	unsigned committed; /* items */
	uint8_t position[STAGE_POSITION_MAX];
	bool fresh;
	uint64_t number; /* of the unit in hand */
	unsigned cut;    /* > 0: a unit ends inside reserve after so many items */
	bool hold;       /* rig_pump does not commit */
	uint64_t stored; /* what the host says, when held is set */
	bool held;
	int answer; /* of the last produce */
	char yaml[1024];
};

/* Log lines of the stage under test are of no interest here. */
__attribute__((weak, format(printf, 3, 4))) void
log_write(struct log_site *site, enum log_level level, const char *fmt, ...)
{
	(void)site;
	(void)level;
	(void)fmt;
}

static inline int64_t rig_now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static struct rig *rig_of_host; /* the one whose reserve cuts units */

static inline void rig_commit(struct rig *r)
{
	r->committed = r->host->n;
	memcpy(r->position, r->host->position, sizeof(r->position));
	r->fresh = false;
	r->host->stored = r->held ? r->stored : r->number;
	r->number++;
	r->st.commit_id.number = r->number;
}

static inline int rig_reserve(struct stage_host *h, size_t need, uint8_t **p, size_t *room)
{
	struct rig *r = rig_of_host;
	if (r->cut && r->host->n - r->committed >= r->cut)
		rig_commit(r);
	return host_reserve(h, need, p, room);
}

/* Parses @yaml; complaints are left in r->complaints. */
static inline void rig_config(struct rig *r, enum stage_kind kind, const char *yaml)
{
	static const char *const ignore[] = {"type", "codec", "workers", NULL};
	snprintf(r->yaml, sizeof(r->yaml), "%s", yaml);
	r->ops = stage_find(kind, "zmq");
	assert_non_null(r->ops);
	struct node *root = yaml_parse(&r->tree, "t", r->yaml, strlen(r->yaml), &r->complaints);
	assert_non_null(root);
	r->config = calloc(1, r->ops->config_size);
	option_parse(r->ops->options, root, ignore, r->config, &r->complaints);
	r->ops->check(r->config, root, &r->complaints);
}

static inline void rig_stage(struct rig *r)
{
	host_stage(r->host, &r->st, r->ops, r->config);
	r->st.codec = &r->codec;
	r->st.position_fresh = r->fresh;
	memset(r->st.commit_id.epoch, 7, sizeof(r->st.commit_id.epoch));
	r->st.commit_id.number = r->number;
}

static inline struct rig *rig_new(enum stage_kind kind, const char *codec, const char *yaml)
{
	struct rig *r = calloc(1, sizeof(*r));
	assert_non_null(r);
	r->host = host_new(65536);
	r->host->base.reserve = rig_reserve;
	rig_of_host = r;
	r->fresh = true;
	r->number = 1;
	rig_config(r, kind, yaml);
	if (r->complaints.count)
		fprintf(stderr, "%.*s\n", (int)r->complaints.text.len, r->complaints.text.p);
	assert_int_equal(r->complaints.count, 0);
	assert_int_equal(codec_init(&r->codec, codec_find(codec), NULL, 65536), 0);
	rig_stage(r);
	return r;
}

static inline void rig_start(struct rig *r)
{
	int answer = r->ops->open(&r->st);
	if (answer)
		fprintf(stderr, "open: %d %s\n", answer, r->st.why);
	assert_int_equal(answer, 0);
}

static inline void rig_stop(struct rig *r)
{
	r->ops->close(&r->st);
	free(r->st.state);
	r->st.state = NULL;
}

/* The process dies: all since the last commit is gone; the next one starts. */
static inline void rig_kill(struct rig *r)
{
	rig_stop(r);
	while (r->host->n > r->committed)
		free(r->host->items[--r->host->n].p);
	memcpy(r->host->position, r->position, sizeof(r->position));
	rig_stage(r);
	rig_start(r);
}

static inline void rig_free(struct rig *r)
{
	if (r->st.state)
		rig_stop(r);
	codec_deinit(&r->codec);
	option_free(r->ops->options, r->config);
	free(r->config);
	yaml_deinit(&r->tree);
	buf_deinit(&r->complaints.text);
	host_free(r->host);
	free(r);
}

/* One turn of a worker: produce, wait a little when idle, commit, stored. */
static inline void rig_pump(struct rig *r)
{
	rig_of_host = r;
	r->answer = r->ops->produce(&r->st);
	assert_in_range(r->answer, STAGE_OK, STAGE_E_IDLE);
	if (!r->hold)
		rig_commit(r);
	if (r->ops->stored)
		assert_int_equal(r->ops->stored(&r->st), 0);
	if (r->answer == STAGE_E_IDLE)
		poll(r->st.fds, r->st.n_fds, 20);
}

#define RIG_WAIT(r, condition)                            \
 do {                                                     \
  int64_t until_ = rig_now() + RIG_WAIT_S * 1000000000LL; \
  while (!(condition)) {                                  \
   assert_true(rig_now() < until_);                       \
   rig_pump(r);                                           \
  }                                                       \
 } while (0)

/* A free TCP port of 127.0.0.1. */
static inline unsigned rig_port(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	close(fd);
	return ntohs(sa.sin_port);
}

/* A plain peer: a socket of @type connected to @endpoint, with a context of its own. */
struct peer {
	void *ctx;
	void *sock;
};

static inline void peer_open(struct peer *p, int type, const char *id)
{
	int linger = 0;
	p->ctx = zmq_ctx_new();
	p->sock = zmq_socket(p->ctx, type);
	assert_non_null(p->sock);
	zmq_setsockopt(p->sock, ZMQ_LINGER, &linger, sizeof(linger));
	if (id)
		zmq_setsockopt(p->sock, ZMQ_ROUTING_ID, id, strlen(id));
}

static inline void peer_connect(struct peer *p, const char *endpoint)
{
	assert_int_equal(zmq_connect(p->sock, endpoint), 0);
}

static inline void peer_close(struct peer *p)
{
	zmq_close(p->sock);
	zmq_ctx_term(p->ctx);
	*p = (struct peer){0};
}

static inline void peer_say(struct peer *p, const char *text)
{
	assert_int_equal(zmq_send(p->sock, text, strlen(text), 0), (int)strlen(text));
}

/* Sends the frames of @text, which stand apart by '|'. */
static inline void peer_frames(struct peer *p, const char *text)
{
	for (;;) {
		size_t n = strcspn(text, "|");
		assert_int_equal(zmq_send(p->sock, text, n, text[n] ? ZMQ_SNDMORE : 0), (int)n);
		if (!text[n])
			return;
		text += n + 1;
	}
}

/* One message that is there, its frames joined by '|', or NULL. */
static inline const char *peer_hear(struct peer *p)
{
	static char text[1024];
	size_t len = 0;
	int more = 1;
	while (more) {
		size_t more_len = sizeof(more);
		int n = zmq_recv(p->sock, text + len, sizeof(text) - len - 2, ZMQ_DONTWAIT);
		if (n < 0)
			return NULL;
		len += (size_t)n;
		assert_true(len < sizeof(text) - 2);
		zmq_getsockopt(p->sock, ZMQ_RCVMORE, &more, &more_len);
		if (more)
			text[len++] = '|';
	}
	text[len] = 0;
	return text;
}

/* Turns the producer until the peer hears exactly @text next. */
static inline void rig_expect(struct rig *r, struct peer *p, const char *text)
{
	const char *heard = NULL;
	RIG_WAIT(r, (heard = peer_hear(p)) != NULL);
	assert_string_equal(heard, text);
}
