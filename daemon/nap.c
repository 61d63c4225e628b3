/*
 * Naps: see nap.h. The figures below were chosen by simulation (tests/unit/test_nap.c): 1.1 to 1.2
 * wake-ups a chunk, 0.1 to 0.2 ms late.
 */
#include "daemon/nap.h"

enum {
	STEP = 100000,        /* ns */
	LINGER_MAX = 1000000, /* ns: for longer ones there is nothing more to be saved */
	DOORBELLS = 16,
};

void nap_init(struct nap *n, int64_t linger)
{
	if (linger > LINGER_MAX)
		linger = LINGER_MAX;
	*n = (struct nap){.most = linger > STEP ? linger + linger / 2 : 0};
	n->length = n->most / 2;
}

void nap_chunk(struct nap *n, bool small)
{
	bool several = n->napped && n->found; /* the first of them waited long */
	if (n->napped)
		n->length -= n->length / (several ? 8 : 64);
	if (several && n->length < STEP)
		n->doorbell = DOORBELLS; /* they come faster than anybody naps */
	n->found = true;
	if (n->doorbell)
		n->doorbell--;
	n->left = small && !n->doorbell ? n->most : 0;
}

int64_t nap_take(struct nap *n)
{
	int64_t t = STEP;
	n->napped = n->left > 0;
	if (!n->napped)
		return 0;
	if (n->found) {
		t = n->length > STEP ? n->length : STEP;
		n->early = false;
	} else if (!n->early && n->length + STEP < n->most) {
		n->length += STEP; /* once: one chunk that is late says little */
		n->early = true;
	}
	n->found = false;
	n->left -= t;
	if (n->left <= 0)
		n->doorbell = DOORBELLS;
	return t;
}
