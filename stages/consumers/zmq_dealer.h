/*
 * The acknowledged way out: a unit is one message of the protocol in zmqproto.h, sent to the router
 * of another daemon, exactly once.
 *
 * The one hard idea: the peer is the transaction. finish() only makes sure that the peer listens,
 * and notes in the position which sequence this unit will have. The host marks the unit as
 * prepared; commit() sends the message and waits for the ACK. When this process dies in between,
 * the next one asks the peer (HELLO, READY) for the last sequence it has: this unit's, then the
 * unit happened; a smaller one, then it did not, and the same sequence goes to whatever the unit is
 * when it is run again. Neither needs to know where the unit's records began or ended, because a
 * unit is never more than one message.
 *
 * The peer answers READY only when nothing of this client is half way (zmq_router.h), so the answer
 * is final.
 *
 * The routing id holds the arena's epoch: with a new arena it is a new client, that cannot be
 * mistaken for the old one's sequences.
 *
 * Limits: commit() blocks for as long as the peer takes it, up to `timeout`; then this process ends
 * and its successor asks. When the peer is killed in the middle of a message and this unit is then
 * undone and run again with its records in another order, the peer skips as many records as it has
 * of the former run: the host offers a unit's records again in the same order, so this takes a
 * poisoned record among them.
 */
#pragma once

#include "stages/stage.h"
#include "stages/zmqclient.h"

struct dealer;

/* @sock: the stage's DEALER, not connected before its id is set. 0 or -errno. */
int dealer_open(struct dealer **dealer, struct stage *st, void *sock);
struct dealer *dealer_close(struct dealer *dealer); /* returns NULL */

/* The routing id for this stage, worker and epoch; @name: what the configuration says, NULL: host
 * and stage.
 * @id: room for STAGE_WHY_MAX bytes; the result is at most 255 long. */
void dealer_id(const struct stage *st, const char *name, char *id);

/* The ops of a consumer with STAGE_TRANSACTION. @message: the unit's one message, empty: none. */
int dealer_finish(struct dealer *dealer, bool message);
int dealer_commit(struct dealer *dealer, const void *message, size_t len);
int dealer_committed(struct dealer *dealer, const struct commit_id *id);
