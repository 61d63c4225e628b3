/* A new pair of CURVE keys: see zmqkey.h. */
#include "stages/zmqkey.h"

#include <zmq.h>

#include "ipc/err.h"

int zmqkey_make(char public_key[ZMQKEY_TEXT], char secret_key[ZMQKEY_TEXT])
{
	return zmq_curve_keypair(public_key, secret_key) ? err_errno() : 0;
}
