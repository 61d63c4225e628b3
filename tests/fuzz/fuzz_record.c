/*
 * Any bytes as a record, then edits that the bytes behind it choose: sizes stay exact and the
 * result is well-formed each time. The first byte says how long the record is.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/record.h"

static void check(const struct record *r)
{
	size_t size = record_size(r);
	uint8_t *out = malloc(size);
	struct record again = {0};
	const char *why;
	assert(record_write(r, out) == size);
	int answer = record_open(&again, out, size, &why);
	/* a value that was set too deep is refused by the next reader, as told */
	assert(answer == 0 || strstr(why, "deep"));
	assert(answer != 0 || again.n == r->n);
	record_deinit(&again);
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const paths[] = {"a", "b", "a.b", "a.b.c", "b.a",
	                                    "",  ".", "a.",  "..a",   "c"};
	static const uint8_t one[] = {1};
	struct record r = {0};
	const char *why;
	if (size < 1)
		return 0;
	size_t len = data[0] < size - 1 ? data[0] : size - 1;
	uint8_t *copy = malloc(len + 1);
	memcpy(copy, data + 1, len);
	if (record_open(&r, copy, len, &why) == 0) {
		check(&r);
		for (const uint8_t *p = data + 1 + len; p + 1 < data + size; p += 2) {
			const char *path = paths[p[0] % 10];
			const char *to = paths[p[1] % 10];
			uint32_t n;
			const uint8_t *v = record_path(&r, to, strlen(to), &n);
			if (p[0] < 80)
				record_remove(&r, path, strlen(path));
			else if (p[0] < 110)
				record_rename(&r, path, strlen(path), to, strlen(to));
			else if (v && n < 4096)
				record_set_path(&r, path, strlen(path), v, n);
			else
				record_set_path(&r, path, strlen(path), one, 1);
			check(&r);
			if (record_size(&r) > 1 << 20)
				break;
		}
	}
	record_deinit(&r);
	free(copy);
	return 0;
}
