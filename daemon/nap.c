/*
 * Naps: see nap.h.
 */
#include "daemon/nap.h"

enum {
	STEP = 100000, /* ns: more than a stage takes for a small chunk, waking up included */
	LINGER_MAX = 1000000, /* ns: for longer ones there is nothing more to be saved */
	TRIES = 4,            /* looks in vain before a doorbell is asked for */
	FAST = 16,            /* chunks in one nap: they come faster than anybody naps */
	DOORBELLS = 16, /* chunks: waited for with doorbells, at most, when naps were in vain */
	LONG = 4096,    /* the same, where they come so fast that each nap is a loss */
};

void nap_init(struct nap *n, int64_t linger, unsigned depth)
{
	*n = (struct nap){.patience = 1};
	if (linger <= 2 * STEP || linger > LINGER_MAX)
		return;
	n->period = 2 * linger;
	n->phase = depth * (int64_t)STEP % n->period;
}

void nap_chunk(struct nap *n, bool small)
{
	n->small = small;
	n->taken++;
	if (n->doorbell)
		n->doorbell--;
}

void nap_full(struct nap *n)
{
	n->napping = false;
	n->doorbell = LONG;
}

/* Until the next look; 0: no nap. What is found between a beat and the look that belongs to it
 * counts as found by that look. */
static int64_t long_nap(struct nap *n, int64_t now)
{
	if (n->napping) {
		n->patience = 1;
		n->doorbell = n->taken > FAST ? LONG : 0;
	}
	n->napping = n->period && n->small && !n->doorbell;
	int64_t left = n->period ? n->period - (now - n->phase) % n->period : 0;
	if (left >= n->phase || !n->napping) {
		n->usual = n->taken;
		n->taken = n->tries = 0;
	}
	return n->napping ? left : 0;
}

int64_t nap_take(struct nap *n, int64_t now)
{
	if (!n->napping)
		return n->taken ? long_nap(n, now) : 0;
	if (n->taken < n->usual && n->tries++ < TRIES)
		return STEP;
	if (n->taken)
		return long_nap(n, now);
	n->napping = false;
	n->doorbell = n->patience;
	n->patience = 2 * n->patience < DOORBELLS ? 2 * n->patience : DOORBELLS;
	return 0;
}
