/*
 * Looking things up in an answer: see doc.h. Documents are small and looked at a few times a second
 * at most, so every look-up walks.
 */
#include "daemon/doc.h"

#include "ipc/mp.h"
#include "stages/codec.h"

enum {
	DOC_ROOM = 4096, /* more than JSON text ever needs as msgpack, besides three times its
	                    length */
};

int doc_parse(struct buf *store, const char *json, size_t len, struct doc *out)
{
	const struct codec_ops *ops = codec_find("json");
	struct codec codec;
	struct codec_window w = {
	        .p = (const uint8_t *)json, .end = (const uint8_t *)json + len, .last = true};
	size_t n = 0, room = 3 * len + DOC_ROOM;
	*out = (struct doc){0};
	store->len = 0;
	if (!ops)
		return -ENOSYS;
	int r = buf_room(store, room);
	if (r == 0)
		r = codec_init(&codec, ops, NULL, room);
	if (r < 0)
		return r;
	r = ops->decode(&codec, &w, store->p, room, &n);
	codec_deinit(&codec);
	if (r != CODEC_E_OK)
		return r < 0 ? r : -EBADMSG;
	store->len = n;
	*out = (struct doc){store->p, store->p + n};
	return 0;
}

static bool read_head(struct doc d, struct mp *v, const uint8_t **after)
{
	if (!d.p)
		return false;
	*after = mp_read(d.p, d.end, v);
	return *after != NULL;
}

struct doc_walk doc_walk(struct doc d)
{
	struct doc_walk w = {.end = d.end};
	struct mp v;
	if (!read_head(d, &v, &w.p) || (v.type != MP_MAP && v.type != MP_ARRAY))
		return (struct doc_walk){0};
	w.map = v.type == MP_MAP;
	w.left = v.n;
	return w;
}

static bool take(struct doc_walk *w, struct doc *out)
{
	const uint8_t *next = mp_skip(w->p, w->end);
	*out = (struct doc){w->p, next};
	w->p = next;
	return next != NULL;
}

bool doc_next(struct doc_walk *w)
{
	if (w->left == 0)
		return false;
	w->left--;
	if ((!w->map || take(w, &w->key)) && take(w, &w->value))
		return true;
	w->left = 0;
	return false;
}

static struct doc member(struct doc d, const char *key, size_t key_len)
{
	for (struct doc_walk w = doc_walk(d); w.map && doc_next(&w);) {
		size_t n;
		const char *k = doc_text(w.key, &n);
		if (n == key_len && memcmp(k, key, n) == 0)
			return w.value;
	}
	return (struct doc){0};
}

struct doc doc_at(struct doc d, const char *path)
{
	while (*path) {
		size_t n = strcspn(path, ".");
		d = member(d, path, n);
		path += n + (path[n] == '.');
	}
	return d;
}

bool doc_exists(struct doc d)
{
	struct mp v;
	const uint8_t *after;
	return read_head(d, &v, &after) && v.type != MP_NIL;
}

double doc_num(struct doc d)
{
	struct mp v;
	const uint8_t *after;
	if (!read_head(d, &v, &after))
		return 0;
	return v.type == MP_UINT    ? (double)v.u
	       : v.type == MP_INT   ? (double)v.i
	       : v.type == MP_FLOAT ? v.d
	                            : 0;
}

uint64_t doc_uint(struct doc d)
{
	struct mp v;
	const uint8_t *after;
	if (!read_head(d, &v, &after))
		return 0;
	if (v.type == MP_FLOAT)
		return v.d >= 1 && v.d < 18446744073709551615.0 ? (uint64_t)v.d : 0;
	return v.type == MP_UINT ? v.u : 0;
}

bool doc_bool(struct doc d)
{
	struct mp v;
	const uint8_t *after;
	return read_head(d, &v, &after) && v.type == MP_BOOL && v.b;
}

const char *doc_text(struct doc d, size_t *len)
{
	struct mp v;
	const uint8_t *after;
	*len = 0;
	if (!read_head(d, &v, &after) || v.type != MP_STR)
		return "";
	*len = v.len;
	return (const char *)v.p;
}

char *doc_copy(struct doc d, char *s, size_t size)
{
	size_t n;
	const char *p = doc_text(d, &n);
	if (n >= size)
		n = size - 1;
	if (n)
		memcpy(s, p, n);
	s[n] = '\0';
	return s;
}

bool doc_is(struct doc d, const char *text)
{
	size_t n;
	const char *p = doc_text(d, &n);
	return n == strlen(text) && memcmp(p, text, n) == 0;
}
