/*
 * Any bytes as deb822; what was read and can be written reads back as the same.
 */
#include "tests/fuzz/decode.h"

#include "stages/codecs/deb822.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void again(struct codec *c, const uint8_t *p, size_t len)
{
	struct codec w;
	struct buf out = {0};
	MUST(codec_init(&w, c->ops, c->config, 2 * len + 64) == 0);
	int r = w.ops->encode(&w, p, len, &out);
	MUST(r == 0 || (r == CODEC_E_REJECT && !out.len && w.why));
	if (r == 0)
		fuzz_back("deb822", c->config, &out, p, len);
	codec_deinit(&w);
	buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned how = size ? data[0] >> 2 : 0;
	struct deb822_config config = {.comments = how & 1, .dots = how & 2};
	fuzz_codec("deb822", &config, data, size, again);
	return 0;
}
