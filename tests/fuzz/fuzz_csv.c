/*
 * Any bytes as csv; what was read is written and read again.
 */
#include "tests/fuzz/decode.h"

#include "stages/codecs/csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *columns[] = {"a", "b"};

static void again(struct codec *c, const uint8_t *p, size_t len)
{
	static const struct csv_config config = {.delimiter = ";", .quote = "'", .header = true};
	struct codec w;
	struct buf out = {0};
	(void)c;
	MUST(codec_init(&w, &codec_csv, &config, 2 * len + 64) == 0);
	MUST(w.ops->head(&w, p, len, &out) == 0);
	MUST(w.ops->encode(&w, p, len, &out) == 0);
	fuzz_back("csv", &config, &out, p, len);
	codec_deinit(&w);
	buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned how = size ? data[0] >> 2 : 0;
	struct csv_config config = {.delimiter = ",", .quote = "\"", .header = !(how & 1)};
	if (how & 2)
		config.columns = (struct strings){columns, 2};
	fuzz_codec("csv", &config, data, size, again);
	if (size > 2) {
		struct codec c;
		MUST(codec_init(&c, &codec_csv, &config, 256) == 0);
		int64_t n = c.ops->prologue(&c, data + 2, size - 2);
		MUST(n >= 0 && n <= (int64_t)size - 2);
		codec_deinit(&c);
	}
	return 0;
}
