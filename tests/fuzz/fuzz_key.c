/*
 * Keys and numbers from any msgpack: canonical bytes are well-formed, and canonical again; a number
 * that is taken can be added.
 */
#include <assert.h>

#include "stages/key.h"
#include "stages/steps/aggregate_num.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *end = mp_skip(data, data + size);
	if (!end)
		return 0;
	struct buf a = {0}, b = {0};
	if (key_value(&a, data, end) < 0 || key_value(&b, a.p, a.p + a.len) < 0)
		return 0;
	assert(mp_skip(a.p, a.p + a.len) == a.p + a.len);
	assert(a.len == b.len && !memcmp(a.p, b.p, a.len));
	assert(a.len <= 2 * size); /* a short float becomes a long one */
	struct mp v;
	struct agg_num n;
	uint8_t out[MP_HEAD_MAX];
	if (mp_read(data, end, &v) && agg_num(&v, &n)) {
		for (int fn = AGG_COUNT; fn <= AGG_MEAN; fn++) {
			struct agg_acc acc = {0};
			for (int i = 0; i < 3; i++)
				agg_add(&acc, (enum agg_fn)fn, &n);
			uint8_t *p = agg_result(out, (enum agg_fn)fn, &acc);
			assert(mp_skip(out, p) == p);
		}
	}
	buf_deinit(&a);
	buf_deinit(&b);
	return 0;
}
