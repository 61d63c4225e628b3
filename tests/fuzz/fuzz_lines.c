/*
 * Any bytes as lines, in each encoding.
 */
#include "tests/fuzz/decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct {
		const char *key;
		int encoding;
	} config = {"line", size ? (data[0] >> 2) % 3 : 0};
	fuzz_codec("lines", &config, data, size, NULL);
	return 0;
}
