/* A new pair of CURVE keys, as Z85 text of 40 characters each. For sluicectl, which must not see
 * zmq.h. */
#pragma once

enum {
	ZMQKEY_TEXT = 41, /* bytes, with the end */
};

/* 0 or -errno (-EOPNOTSUPP: this libzmq has no CURVE). */
int zmqkey_make(char public_key[ZMQKEY_TEXT], char secret_key[ZMQKEY_TEXT]);
