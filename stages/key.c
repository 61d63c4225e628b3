/*
 * Canonical keys: see key.h. The walk is flat: a container only adds its elements to the count of
 * values still to come, so nesting costs no stack.
 */
#include "stages/key.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

static void key_number(struct mp *v)
{
	double d = v->d;
	if (isnan(d)) {
		v->d = NAN;
	} else if (d >= 0 && d < 0x1p64 && d == trunc(d)) {
		v->type = MP_UINT;
		v->u = (uint64_t)d;
	} else if (d < 0 && d >= -0x1p63 && d == trunc(d)) {
		v->type = MP_INT;
		v->i = (int64_t)d;
	}
}

int key_value(struct buf *b, const uint8_t *p, const uint8_t *end)
{
	for (uint64_t left = 1; left && p; left--) {
		struct mp v;
		p = mp_read(p, end, &v);
		if (!p)
			v.type = MP_NIL;
		bool sized = v.type == MP_STR || v.type == MP_BIN || v.type == MP_EXT;
		int r = buf_room(b, MP_HEAD_MAX + (sized ? v.len : 0));
		if (r < 0)
			return r;
		if (v.type == MP_FLOAT)
			key_number(&v);
		else if (v.type == MP_ARRAY)
			left += v.n;
		else if (v.type == MP_MAP)
			left += 2 * (uint64_t)v.n;
		b->len = (size_t)(mp_write(b->p + b->len, &v) - b->p);
	}
	return 0;
}

int key_build(struct buf *b, struct record *r, const struct strings *paths, unsigned *present)
{
	static const uint8_t nil = 0xc0;
	*present = 0;
	for (size_t i = 0; i < paths->n; i++) {
		uint32_t len = 0;
		const uint8_t *val = record_path(r, paths->v[i], strlen(paths->v[i]), &len);
		if (!val || *val == nil) {
			val = &nil;
			len = 1;
		} else {
			++*present;
		}
		int rc = key_value(b, val, val + len);
		if (rc < 0)
			return rc;
	}
	return 0;
}

size_t key_name(uint8_t *out, size_t max, const uint8_t *p, size_t len)
{
	if (len < max) {
		out[0] = 'k';
		if (len)
			memcpy(out + 1, p, len);
		return len + 1;
	}
	XXH128_hash_t h = XXH3_128bits(p, len);
	XXH128_canonical_t c;
	XXH128_canonicalFromHash(&c, h);
	_Static_assert(sizeof(c) == KEY_HASHED, "XXH3-128 is 16 bytes");
	out[0] = 'h';
	memcpy(out + 1, &c, sizeof(c));
	return 1 + sizeof(c);
}
