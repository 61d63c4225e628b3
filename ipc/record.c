/*
 * Records: the table of fields, the scratch memory, and edits inside nested maps.
 *
 * The hard idea, besides the table itself: a map's head counts elements and not bytes, so a change
 * deep inside a value is one splice. Everything before and behind the changed place is copied as it
 * is, and only the head of the one map that gains or loses an entry is written anew.
 *
 * Invariants
 *  - `size` is kept with every change and never computed again;
 *  - scratch blocks grow twofold and the newest is the largest, so that record_clear keeps just
 *    that one and a stream of like records settles on one block.
 *
 * Limits: keys of nested maps are taken as unique (the codecs saw to it). A value set deeper inside
 * a record than it was found may reach a nesting that the next reader refuses (MP_DEPTH_HELD), but
 * only by many such steps: what comes from outside is less deep by far.
 */
#include "ipc/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <xxhash.h>

enum {
	BLOCK_MIN = 4096,  /* bytes of the first scratch block */
	BLOOM_FIELDS = 64, /* up to here duplicates are found by bloom bits and comparing */
};

struct record_block {
	struct record_block *next;
	size_t cap;
	size_t used;
	max_align_t data[];
};

static void free_blocks(struct record_block *b)
{
	while (b) {
		struct record_block *next = b->next;
		free(b);
		b = next;
	}
}

void record_deinit(struct record *r)
{
	free_blocks(r->blocks);
	free(r->fields);
	*r = (struct record){0};
}

void record_clear(struct record *r)
{
	r->n = 0;
	r->size = 0;
	r->hint = 0;
	if (r->blocks) {
		free_blocks(r->blocks->next);
		r->blocks->next = NULL;
		r->blocks->used = 0;
	}
}

uint8_t *record_scratch(struct record *r, size_t len)
{
	struct record_block *b = r->blocks;
	if (len > SIZE_MAX / 4)
		return NULL;
	len = (len + 7) & ~(size_t)7;
	if (!b || b->cap - b->used < len) {
		size_t cap = b ? 2 * b->cap : BLOCK_MIN;
		if (cap < len)
			cap = len;
		b = malloc(sizeof(*b) + cap);
		if (!b)
			return NULL;
		*b = (struct record_block){.next = r->blocks, .cap = cap};
		r->blocks = b;
	}
	uint8_t *p = (uint8_t *)b->data + b->used;
	b->used += len;
	return p;
}

/* Makes the table large enough for @n fields. */
static int reserve_fields(struct record *r, uint32_t n)
{
	if (n <= r->cap)
		return 0;
	uint32_t cap = r->cap ? r->cap : 16;
	while (cap < n)
		cap = cap > UINT32_MAX / 2 ? UINT32_MAX : 2 * cap;
	struct field *f = reallocarray(r->fields, cap, sizeof(*f));
	if (!f)
		return -ENOMEM;
	r->fields = f;
	r->cap = cap;
	return 0;
}

static inline bool key_is(const struct field *f, const void *key, size_t len)
{
	return f->key_len == len && (len == 0 || memcmp(f->key, key, len) == 0);
}

static inline size_t field_size(const struct field *f)
{
	return mp_str_head_size(f->key_len) + (size_t)f->key_len + f->val_len;
}

/* Any function of the key does that spreads over 256 values; it is not relied on for more. */
static inline unsigned bloom_bit(const uint8_t *key, uint32_t len)
{
	uint64_t a = len;
	uint64_t b = 0;
	if (len >= 8) {
		memcpy(&a, key, 8);
		memcpy(&b, key + len - 8, 8);
	} else if (len >= 4) {
		uint32_t x;
		uint32_t y;
		memcpy(&x, key, 4);
		memcpy(&y, key + len - 4, 4);
		a = x;
		b = y;
	} else if (len) {
		a = (uint64_t)key[0] << 16 | (uint64_t)key[len >> 1] << 8 | key[len - 1];
	}
	a = (a ^ (b << 29 | b >> 35) ^ len) * 0x9e3779b97f4a7c15u;
	return (unsigned)(a >> 56);
}

/* Seeded once a process, so that nobody outside can choose keys that fall together. */
static uint64_t key_hash(const struct field *f)
{
	static uint64_t seed;
	if (!seed) {
		if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed))
			seed = (uint64_t)(uintptr_t)f * 0x9e3779b97f4a7c15u;
		seed |= 1;
	}
	return XXH3_64bits_withSeed(f->key, f->key_len, seed);
}

/* True in *@twice when two of many fields have the same key. 0 or -ENOMEM. */
static int check_many(struct record *r, bool *twice)
{
	size_t slots = 64;
	while (slots < 2 * (size_t)r->n)
		slots *= 2;
	uint32_t *table = (uint32_t *)(void *)record_scratch(r, slots * sizeof(*table));
	if (!table)
		return -ENOMEM;
	memset(table, 0, slots * sizeof(*table));
	for (uint32_t i = 0; i < r->n; i++) {
		const struct field *f = &r->fields[i];
		size_t s = key_hash(f) & (slots - 1);
		for (; table[s]; s = (s + 1) & (slots - 1)) {
			if (key_is(&r->fields[table[s] - 1], f->key, f->key_len)) {
				*twice = true;
				return 0;
			}
		}
		table[s] = i + 1;
	}
	return 0;
}

static bool among(const struct field *f, uint32_t n, const uint8_t *key, uint32_t len)
{
	for (uint32_t i = 0; i < n; i++)
		if (key_is(&f[i], key, len))
			return true;
	return false;
}

static int refuse(struct record *r, const char **why, const char *text)
{
	record_clear(r);
	*why = text;
	return RECORD_E_INVALID;
}

/* Reads @n pairs from @p into the table; NULL with *@why on bad ones. */
static const uint8_t *walk(struct record *r, const uint8_t *p, const uint8_t *end, uint32_t n,
                           const char **why)
{
	size_t size = 0;
	struct field *f = r->fields;

	for (uint32_t i = 0; i < n; i++, f++) {
		struct mp key;
		const uint8_t *val = mp_read(p, end, &key);
		if (!val || key.type != MP_STR) {
			*why = val ? "a key is not a string" : "truncated or invalid msgpack";
			return NULL;
		}
		p = mp_skip(val, end);
		if (!p) {
			*why = "truncated, invalid or too deeply nested msgpack";
			return NULL;
		}
		*f = (struct field){key.p, val, key.len, (uint32_t)(p - val)};
		size += field_size(f);
	}
	r->n = n;
	r->size = size;
	return p;
}

/* Opens the map at @p: *@next is the byte behind it. */
static int open_map(struct record *r, const uint8_t *p, const uint8_t *end, const uint8_t **next,
                    const char **why)
{
	struct mp map;
	record_clear(r);
	p = mp_read(p, end, &map);
	if (!p || map.type != MP_MAP)
		return refuse(r, why, p ? "not a map" : "truncated or invalid msgpack");
	int err = reserve_fields(r, map.n);
	if (err < 0)
		return err;
	p = walk(r, p, end, map.n, why);
	if (!p)
		return refuse(r, why, *why);
	*next = p;
	return 0;
}

int record_next(struct record *r, const uint8_t *p, const uint8_t *end, const uint8_t **next,
                const char **why)
{
	int err = open_map(r, p, end, next, why);
	if (err != 0)
		*next = mp_skip(p, end);
	return err;
}

/* True when two of the few fields have the same key. */
static bool check_few(const struct record *r)
{
	uint64_t bloom[4] = {0};
	for (uint32_t i = 0; i < r->n; i++) {
		const struct field *f = &r->fields[i];
		unsigned bit = bloom_bit(f->key, f->key_len);
		uint64_t mask = (uint64_t)1 << (bit & 63);
		if ((bloom[bit >> 6] & mask) && among(r->fields, i, f->key, f->key_len))
			return true;
		bloom[bit >> 6] |= mask;
	}
	return false;
}

int record_open(struct record *r, const uint8_t *p, size_t len, const char **why)
{
	const uint8_t *next;
	if (len > UINT32_MAX) {
		record_clear(r);
		return refuse(r, why, "larger than 4 GiB");
	}
	int err = open_map(r, p, p + len, &next, why);
	if (err != 0)
		return err;
	if (next != p + len)
		return refuse(r, why, "bytes behind the map");
	bool twice = false;
	if (r->n <= BLOOM_FIELDS)
		twice = check_few(r);
	else
		err = check_many(r, &twice);
	if (err < 0)
		return err;
	return twice ? refuse(r, why, "the same key twice") : 0;
}

int record_share(struct record *dst, const struct record *src)
{
	record_clear(dst);
	int r = reserve_fields(dst, src->n);
	if (r < 0)
		return r;
	if (src->n)
		memcpy(dst->fields, src->fields, src->n * sizeof(*src->fields));
	dst->n = src->n;
	dst->size = src->size;
	return 0;
}

size_t record_size(const struct record *r)
{
	return mp_map_head_size(r->n) + r->size;
}

static uint8_t *put(uint8_t *p, const uint8_t *from, const uint8_t *to)
{
	if (to > from)
		memcpy(p, from, (size_t)(to - from));
	return p + (to - from);
}

/* True when the field's bytes, with the head that would be written, start at @at. */
static inline bool follows(const struct field *f, const uint8_t *at)
{
	return f->key == at + 1 && f->key_len < 32 && *at == (0xa0 | f->key_len) &&
	       f->val == f->key + f->key_len;
}

size_t record_write(const struct record *r, uint8_t *p)
{
	/* an empty record may have no table at all */
	const struct field *f = r->fields, *last = r->n ? f + r->n : f;
	uint8_t *start = p;
	p = mp_write_map_head(p, r->n);
	while (f < last) {
		p = mp_write_str_head(p, f->key_len);
		const uint8_t *from = f->key;
		if (f->val != from + f->key_len) {
			p = put(p, from, from + f->key_len);
			from = f->val;
		}
		const uint8_t *end = f->val + f->val_len;
		/* fields that lie one behind the other as they were are copied as one */
		for (f++; f < last && follows(f, end); f++)
			end = f->val + f->val_len;
		p = put(p, from, end);
	}
	return (size_t)(p - start);
}

struct field *record_get(struct record *r, const char *key, size_t key_len)
{
	if (r->hint < r->n && key_is(&r->fields[r->hint], key, key_len))
		return &r->fields[r->hint++];
	for (uint32_t i = 0; i < r->n; i++) {
		if (key_is(&r->fields[i], key, key_len)) {
			r->hint = i + 1;
			return &r->fields[i];
		}
	}
	return NULL;
}

int record_set(struct record *r, const char *key, size_t key_len, const uint8_t *val,
               uint32_t val_len)
{
	struct field *f = record_get(r, key, key_len);
	if (f) {
		r->size = r->size - f->val_len + val_len;
		f->val = val;
		f->val_len = val_len;
		return 0;
	}
	if (key_len > UINT32_MAX || r->n == UINT32_MAX)
		return -ENOMEM;
	int err = reserve_fields(r, r->n + 1);
	if (err < 0)
		return err;
	f = &r->fields[r->n++];
	*f = (struct field){(const uint8_t *)key, val, (uint32_t)key_len, val_len};
	r->size += field_size(f);
	return 0;
}

static void remove_field(struct record *r, struct field *f)
{
	r->size -= field_size(f);
	r->n--;
	memmove(f, f + 1, (size_t)(r->fields + r->n - f) * sizeof(*f));
	r->hint = 0;
}

int record_rename(struct record *r, const char *from, size_t from_len, const char *to,
                  size_t to_len)
{
	struct field *f = record_get(r, from, from_len);
	if (!f)
		return RECORD_E_NONE;
	if (key_is(f, to, to_len))
		return 0;
	if (to_len > UINT32_MAX)
		return -ENOMEM;
	uint32_t at = (uint32_t)(f - r->fields);
	struct field *old = record_get(r, to, to_len);
	if (old) {
		at -= old < f;
		remove_field(r, old);
	}
	f = &r->fields[at];
	r->size -= field_size(f);
	f->key = (const uint8_t *)to;
	f->key_len = (uint32_t)to_len;
	r->size += field_size(f);
	return 0;
}

/* A place inside a value: the entry that a path ends at, or the map in which its next part is
 * missing. */
struct place {
	const uint8_t *head;    /* of the innermost map on the way */
	const uint8_t *body;    /* behind that head */
	const uint8_t *map_end; /* behind its last entry; only when the entry is missing */
	uint32_t n;             /* its entries */
	const uint8_t *key;     /* the entry; NULL: missing */
	const uint8_t *val;
	const uint8_t *val_end;
	const char *rest; /* the part of the path that is missing, or the last part */
	size_t rest_len;
};

static size_t part_len(const char *path, size_t len)
{
	const char *dot = len ? memchr(path, '.', len) : NULL;
	return dot ? (size_t)(dot - path) : len;
}

/* Looks for the entry @name of the map at @p. True when it is there. RECORD_E_INVALID: not a map.
 */
static int find_entry(const uint8_t *p, const uint8_t *end, const char *name, size_t len,
                      struct place *at)
{
	struct mp v;
	at->head = p;
	at->key = NULL;
	p = mp_read(p, end, &v);
	if (!p || v.type != MP_MAP)
		return RECORD_E_INVALID;
	at->body = p;
	at->n = v.n;
	for (uint32_t i = 0; i < at->n; i++) {
		const uint8_t *key = p;
		const uint8_t *val = mp_read(p, end, &v);
		p = val ? mp_skip(val, end) : NULL;
		if (!p)
			return RECORD_E_INVALID;
		if (v.type == MP_STR && v.len == len && (!len || memcmp(v.p, name, len) == 0)) {
			at->key = key;
			at->val = val;
			at->val_end = p;
			return 0;
		}
	}
	at->map_end = p;
	return RECORD_E_NONE;
}

/* Follows @path through the maps at [p, end). 0: found; RECORD_E_NONE: missing from at->rest on;
 * RECORD_E_INVALID: something on the way is no map. */
static int locate(const uint8_t *p, const uint8_t *end, const char *path, size_t len,
                  struct place *at)
{
	for (;;) {
		size_t part = part_len(path, len);
		at->rest = path;
		at->rest_len = len;
		int r = find_entry(p, end, path, part, at);
		if (r != 0 || part == len)
			return r;
		p = at->val;
		end = at->val_end;
		path += part + 1;
		len -= part + 1;
	}
}

const uint8_t *record_path(struct record *r, const char *path, size_t path_len, uint32_t *len)
{
	struct place at;
	struct field *f = record_get(r, path, path_len);
	if (f) {
		*len = f->val_len;
		return f->val;
	}
	size_t part = part_len(path, path_len);
	if (part == path_len || !(f = record_get(r, path, part)))
		return NULL;
	if (locate(f->val, f->val + f->val_len, path + part + 1, path_len - part - 1, &at) != 0)
		return NULL;
	*len = (uint32_t)(at.val_end - at.val);
	return at.val;
}

static void field_value(struct record *r, struct field *f, const uint8_t *val, size_t len)
{
	r->size = r->size - f->val_len + len;
	f->val = val;
	f->val_len = (uint32_t)len;
}

/* Writes @val inside a map for each part of @path: "b.c" -> "b": {"c": val}, the outermost key
 * bare. */
static uint8_t *put_nested(uint8_t *p, const char *path, size_t len, const uint8_t *val,
                           uint32_t val_len)
{
	for (;;) {
		size_t part = part_len(path, len);
		p = mp_write_str(p, path, (uint32_t)part);
		if (part == len)
			return put(p, val, val + val_len);
		p = mp_write_map_head(p, 1);
		path += part + 1;
		len -= part + 1;
	}
}

/* Room that put_nested needs at most. */
static size_t nested_room(size_t path_len, uint32_t val_len)
{
	return (path_len + 1) * (MP_HEAD_MAX + 2) + val_len;
}

/* A top-level field that is not there yet, with maps inside for the rest of the path. */
static int set_new(struct record *r, const char *path, size_t len, const uint8_t *val,
                   uint32_t val_len)
{
	size_t part = part_len(path, len);
	uint8_t *p = record_scratch(r, nested_room(len, val_len));
	if (!p)
		return -ENOMEM;
	uint8_t *e = mp_write_map_head(p, 1);
	e = put_nested(e, path + part + 1, len - part - 1, val, val_len);
	return record_set(r, path, part, p, (uint32_t)(e - p));
}

/* Puts @val at the place in field @f. */
static int splice(struct record *r, struct field *f, const struct place *at, const uint8_t *val,
                  uint32_t val_len)
{
	const uint8_t *end = f->val + f->val_len;
	uint8_t *p = record_scratch(r, f->val_len + nested_room(at->rest_len, val_len));
	if (!p)
		return -ENOMEM;
	uint8_t *e = p;
	if (at->key) {
		e = put(e, f->val, at->val);
		e = put(e, val, val + val_len);
		e = put(e, at->val_end, end);
	} else {
		e = put(e, f->val, at->head);
		e = mp_write_map_head(e, at->n + 1);
		e = put(e, at->body, at->map_end);
		e = put_nested(e, at->rest, at->rest_len, val, val_len);
		e = put(e, at->map_end, end);
	}
	field_value(r, f, p, (size_t)(e - p));
	return 0;
}

static unsigned count_dots(const char *path, size_t len)
{
	unsigned n = 0;
	for (size_t i = 0; i < len; i++)
		n += path[i] == '.';
	return n;
}

int record_set_path(struct record *r, const char *path, size_t path_len, const uint8_t *val,
                    uint32_t val_len)
{
	struct place at;
	size_t part = part_len(path, path_len);
	if (part == path_len || record_get(r, path, path_len))
		return record_set(r, path, path_len, val, val_len);
	if (count_dots(path, path_len) >= MP_DEPTH_MAX)
		return RECORD_E_INVALID;
	struct field *f = record_get(r, path, part);
	if (!f)
		return set_new(r, path, path_len, val, val_len);
	int err = locate(f->val, f->val + f->val_len, path + part + 1, path_len - part - 1, &at);
	if (err == RECORD_E_INVALID)
		return err;
	return splice(r, f, &at, val, val_len);
}

int record_remove(struct record *r, const char *path, size_t path_len)
{
	struct place at;
	struct field *f = record_get(r, path, path_len);
	if (f) {
		remove_field(r, f);
		return 0;
	}
	size_t part = part_len(path, path_len);
	if (part == path_len || !(f = record_get(r, path, part)))
		return RECORD_E_NONE;
	if (locate(f->val, f->val + f->val_len, path + part + 1, path_len - part - 1, &at) != 0)
		return RECORD_E_NONE;
	uint8_t *p = record_scratch(r, f->val_len);
	if (!p)
		return -ENOMEM;
	uint8_t *e = put(p, f->val, at.head);
	e = mp_write_map_head(e, at.n - 1);
	e = put(e, at.body, at.key);
	e = put(e, at.val_end, f->val + f->val_len);
	field_value(r, f, p, (size_t)(e - p));
	return 0;
}
