/*
 * The acknowledged protocol over ZeroMQ, as frames: reading and checking them, nothing else. Pure
 * functions; the router producer, the dealer consumer and `sluicectl send` share them.
 *
 *   client -> HELLO, 1, <next sequence>     daemon -> READY, 1, <last sequence stored>, <window>
 *   client -> SEND, <sequence>, <payload>   daemon -> ACK, <sequence>
 *                                           daemon -> NAK, <sequence>, <k>, <reason>
 *                                           daemon -> ERROR, <reason>
 *
 * All frames but the payload are ASCII; numbers are decimal, without sign, at most 2^64-1. ERROR
 * says that the daemon will never take what this client sends (bad routing id, id of another key,
 * no protocol).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum {
	ZMQPROTO_FRAMES_MAX = 4,  /* frames of the longest message, routing id apart */
	ZMQPROTO_NUMBER_MAX = 21, /* bytes of a number as text, NUL included */
	ZMQPROTO_REASON_MAX = 200,
};

struct zmqproto_frame {
	const void *p;
	size_t len;
};

enum zmqproto_kind {
	ZMQPROTO_HELLO,
	ZMQPROTO_SEND,
	ZMQPROTO_READY,
	ZMQPROTO_ACK,
	ZMQPROTO_NAK,
	ZMQPROTO_ERROR,
};

struct zmqproto {
	enum zmqproto_kind kind;
	uint64_t sequence; /* HELLO: the next one; READY: the last stored; SEND, ACK, NAK: the
	                      message's */
	uint64_t count;    /* READY: window; NAK: dead letters */
	struct zmqproto_frame text; /* SEND: the payload; NAK, ERROR: the reason */
};

enum zmqproto_error {
	ZMQPROTO_E_OK,
	ZMQPROTO_E_BAD, /* not a message of this protocol: *why, a static text, says what is wrong
	                 */
};

/* What a client may say: HELLO, SEND. @f: the frames behind the routing id. The result points into
 * @f. */
int zmqproto_request(const struct zmqproto_frame *f, size_t n, struct zmqproto *out,
                     const char **why);

/* What the daemon may say: READY, ACK, NAK, ERROR. */
int zmqproto_answer(const struct zmqproto_frame *f, size_t n, struct zmqproto *out,
                    const char **why);

/* @text (ZMQPROTO_NUMBER_MAX bytes) becomes the number as a frame. */
struct zmqproto_frame zmqproto_number(char *text, uint64_t number);

/* A NUL-terminated text as a frame. */
struct zmqproto_frame zmqproto_word(const char *word);
