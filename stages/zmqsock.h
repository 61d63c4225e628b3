/*
 * A ZeroMQ socket as a stage uses it: one context, one socket, its options from the configuration,
 * and the two side doors of a listening one: the monitor (who came, who failed) and the
 * authenticator (ZAP).
 *
 * The one hard idea: libzmq tells nobody why it dropped a connection. A message above
 * ZMQ_MAXMSGSIZE ends in the same DISCONNECTED event as a client that goes home. So each accepted
 * connection is kept as a duplicated descriptor until its DISCONNECTED event comes: when the peer
 * has not closed it by then, it was this side that threw the client out, and that is counted.
 *
 * Everything runs in the caller's thread, in zmqsock_service(). Each question to libzmq whether
 * there is news is two system calls, so busy callers use zmqsock_look().
 *
 * Limits: libzmq puts no bound on the number of parts of one multipart message, and keeps them
 * until the last one is there; a hostile client that was let in can so outgrow the memory formula.
 * CURVE decides who is let in; memory_max ends the worker that grew. Peers that speak ZMTP 1 or 2
 * (libzmq before 4.0) are refused by a listening socket: only ZMTP 3 can be asked who it is.
 */
#pragma once

#include <zmq.h>

#include "stages/stage.h"
#include "stages/zmqproto.h"

enum {
	ZMQSOCK_KEY_LEN = 41,     /* a CURVE key as Z85 text, NUL included */
	ZMQSOCK_FDS = 3,          /* entries of st->fds that zmqsock_wait fills in */
	ZMQSOCK_USER_ID_LEN = 17, /* a client key's fingerprint: 16 hexadecimal digits and a NUL */
};

/* listening: server_secret and clients; connecting: server_key and secret */
struct zmqsock_curve {
	const char *server_secret; /* file:PATH */
	const char *clients;       /* directory of public keys that are let in */
	const char *server_key;    /* Z85 text or file:PATH */
	const char *secret;        /* file:PATH */
};

struct zmqsock_config {
	struct strings listen;
	struct strings connect;
	struct zmqsock_curve curve;
	uint64_t max_message; /* bytes; 0: the caller's default */
	int64_t max_clients;  /* connections at once; 0: no bound */
	int64_t hwm;          /* messages a connection */
	bool insecure;
};

extern const struct option zmqsock_curve_options[];

/* The options every ZeroMQ stage has; @config: its config struct, @member: the struct
 * zmqsock_config in it. */
#define ZMQSOCK_OPTIONS(config, member)                                                 \
 {.name = "listen",                                                                     \
  .type = OPTION_STRINGS,                                                               \
  .offset = offsetof(config, member.listen),                                            \
  .help = "endpoints to bind: tcp://ADDRESS:PORT or ipc://PATH"},                       \
	 {.name = "connect",                                                            \
	  .type = OPTION_STRINGS,                                                       \
	  .offset = offsetof(config, member.connect),                                   \
	  .help = "endpoints to connect to (either this or listen)"},                   \
	 {.name = "curve",                                                              \
	  .type = OPTION_SUB,                                                           \
	  .offset = offsetof(config, member.curve),                                     \
	  .sub = zmqsock_curve_options,                                                 \
	  .help = "CURVE keys: encryption, and who is let in"},                         \
 {                                                                                      \
  .name = "insecure", .type = OPTION_BOOL, .offset = offsetof(config, member.insecure), \
  .def = "false", .help = "listen on other than loopback addresses without CURVE"       \
 }

/* Complains about what the table cannot say: endpoints, keys that do not go together, a door left
 * open.
 * @node: the stage's map. */
void zmqsock_check(const struct zmqsock_config *cfg, const struct node *node, struct complaints *c);

struct zmqsock_auth;

struct zmqsock_peer {
	int fd;       /* as libzmq knows it */
	int dup;      /* ours, -1 when it was closed before we saw it */
	bool greeted; /* its handshake is done */
};

struct zmqsock {
	void *ctx;
	void *sock;
	void *monitor;             /* listening and PUSH sockets only */
	struct zmqsock_auth *auth; /* listening sockets only */
	struct zmqsock_peer *peers;
	size_t n_peers, cap_peers;
	int64_t max_clients;
	bool just_failed; /* the last monitor event was a failed handshake */
	bool gathers;     /* from zmqsock_gather() until zmqsock_hand_over() was false */
	int64_t looked;   /* by zmqsock_look(), CLOCK_MONOTONIC ns */
	unsigned denied;  /* counted as refused, and their DISCONNECTED is still to come */
	struct stage *st; /* whose refused is counted up */
};

/* Stops listening; connections that are there stay. */
void zmqsock_unlisten(struct zmqsock *s, const struct zmqsock_config *cfg);
/* Opens a socket of @type (ZMQ_PULL, ...), binds or connects. @id: routing id for a DEALER, NULL:
 * none.
 * @linger: ms that close may take to send what is queued. 0; STAGE_E_UNREACHABLE with st->why
 * (address in use, key file unreadable: may come right), or -errno. zmqsock_close in every case. */
int zmqsock_open(struct zmqsock *s, struct stage *st, const struct zmqsock_config *cfg, int type,
                 const char *id);
void zmqsock_close(struct zmqsock *s);

/* The same for a PUSH socket that may have messages left: waits at most @ms until the peers have
 * taken them. False: some are not known to be taken. On ipc a libzmq that receives loses what it
 * has not read when the connection ends (libzmq issue 4660); so the connections are held open by
 * our duplicates until their kernel queues are empty. */
bool zmqsock_close_sent(struct zmqsock *s, int64_t ms);

/* Answers authentication requests and counts refused clients, until there is nothing left. 0 or
 * -errno. */
int zmqsock_service(struct zmqsock *s);
/* The same for a call that comes often: not at all when the descriptors of zmqsock_wait() have
 * nothing new and the last look is but milliseconds ago. */
int zmqsock_look(struct zmqsock *s);
/* The same while the stage waits for something else, maybe for long: what libzmq has to tell would
 * gather in memory, and nobody would be let in or kept out. An error shows again with the next
 * look. */
void zmqsock_doors(struct zmqsock *s);

/* Lets what the clients of a listening socket send over TCP gather in the kernel, up to some KiB
 * each, in place of waking libzmq's thread for each message (SO_RCVLOWAT, socket(7)), until
 * zmqsock_hand_over(). Between the two nobody may wait for the socket. Does nothing for other
 * transports, which ignore the option, and for many clients, where asking costs more than it saves.
 */
void zmqsock_gather(struct zmqsock *s);
/* Wakes libzmq's thread for what has gathered. True: it has not read all of it yet, call again. */
bool zmqsock_hand_over(struct zmqsock *s);
/* Whether there is anything of a client that was let in which libzmq has not read yet. */
bool zmqsock_in_the_kernel(const struct zmqsock *s);

/* Puts the descriptors to wait for into st->fds[0..] and sets st->n_fds. They are edge-triggered:
 * call it after a receive said EAGAIN and after zmqsock_service. */
void zmqsock_wait(const struct zmqsock *s);

/* Whether a message can be received right now. */
bool zmqsock_readable(const struct zmqsock *s);

/* Reads the key list again (SIGHUP). */
void zmqsock_reload(struct zmqsock *s);

/* Whether a key with this fingerprint (ZMQSOCK_USER_ID_LEN text) is among those let in. */
bool zmqsock_known(struct zmqsock *s, const char *fingerprint);

/* Sends @n frames as one message without waiting. 0; 1: it could not be taken now; -errno. */
int zmqsock_send(void *sock, const struct zmqproto_frame *f, size_t n);

/* Names the paths of @cfg, for stage_ops.paths. */
void zmqsock_paths(const struct zmqsock_config *cfg,
                   void (*add)(void *arg, const char *path, enum stage_path_use use), void *arg);

/* Closes a message: for _cleanup_. */
static inline void zmqsock_msg_close(zmq_msg_t *m)
{
	zmq_msg_close(m);
}

/* The key of a `file:PATH` or Z85 option. @secret: which line of a certificate is wanted
 * ("secret-key" or "public-key"); a file may also hold the bare 40 characters. 0, or -errno
 * (-EINVAL: no key in there). */
int zmqsock_key(const char *option, bool secret, char key[ZMQSOCK_KEY_LEN]);

/* zmqauth.c: the ZAP handler of a context. @clients: directory of keys, NULL: everybody within the
 * bound. */
int zmqsock_auth_open(struct zmqsock_auth **auth, void *ctx, const char *clients);
struct zmqsock_auth *zmqsock_auth_close(struct zmqsock_auth *auth); /* returns NULL */
/* Answers all waiting requests; @full: nobody else is let in now. Their number, or -errno. */
int zmqsock_auth_serve(struct zmqsock_auth *auth, bool full);
int zmqsock_auth_fd(const struct zmqsock_auth *auth);
void zmqsock_auth_load(struct zmqsock_auth *auth);
bool zmqsock_auth_known(struct zmqsock_auth *auth, const char *fingerprint);
