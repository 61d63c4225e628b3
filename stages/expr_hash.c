/*
 * Functions of expressions that hash, and uuid(). Digests are lower-case hexadecimal.
 *
 * MD5 and SHA come from libcrypto, whose contexts are made once a process: per record nothing is
 * allocated. Text and binary values are hashed as their bytes, numbers as their text.
 */
#include "stages/expr_tree.h"

#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

static void hex(const uint8_t *b, size_t n, uint8_t *to)
{
	static const char digit[] = "0123456789abcdef";
	for (size_t i = 0; i < n; i++) {
		*to++ = (uint8_t)digit[b[i] >> 4];
		*to++ = (uint8_t)digit[b[i] & 15];
	}
}

static int hex_result(struct expr_env *env, const uint8_t *b, size_t n, struct expr_val *out)
{
	uint8_t *p = record_scratch(env->r, MP_HEAD_MAX + 2 * n);
	if (!p)
		return -ENOMEM;
	uint8_t *body = mp_write_str_head(p, (uint32_t)(2 * n));
	hex(b, n, body);
	expr_val_str(out, body, 2 * n);
	out->raw = p;
	out->raw_len = (uint32_t)((size_t)(body - p) + 2 * n);
	return 0;
}

static int input(struct expr_env *env, const char *name, const struct expr_val *v, char *room,
                 const uint8_t **p, size_t *len)
{
	if (v->v.type == MP_BIN) {
		*p = v->v.p;
		*len = v->v.len;
		return 0;
	}
	if (expr_val_text(v, room, p, len))
		return 0;
	return expr_fail(env, "%s() takes text, bytes or a number", name);
}

static int xxh(struct expr_env *env, const char *name, const struct expr_val *v,
               XXH64_hash_t (*hash)(const uint8_t *, size_t), struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	const uint8_t *p;
	size_t len;
	XXH64_canonical_t b;
	int r = input(env, name, v, room, &p, &len);
	if (r != 0)
		return r;
	XXH64_canonicalFromHash(&b, hash(p, len));
	return hex_result(env, b.digest, sizeof(b.digest), out);
}

static XXH64_hash_t xxh64_of(const uint8_t *p, size_t len)
{
	return XXH64(p, len, 0);
}

static XXH64_hash_t xxh3_of(const uint8_t *p, size_t len)
{
	return XXH3_64bits(p, len);
}

int expr_fn_xxh64(struct expr_env *env, const struct expr_val *args, unsigned n,
                  struct expr_val *out)
{
	(void)n;
	return xxh(env, "xxh64", args, xxh64_of, out);
}

int expr_fn_xxh3(struct expr_env *env, const struct expr_val *args, unsigned n,
                 struct expr_val *out)
{
	(void)n;
	return xxh(env, "xxh3", args, xxh3_of, out);
}

/* One digest of libcrypto, fetched on first use. */
struct digest {
	const char *name;
	const char *algorithm;
	EVP_MD *md;
	EVP_MD_CTX *ctx;
};

static bool digest_ready(struct digest *d)
{
	if (!d->md)
		d->md = EVP_MD_fetch(NULL, d->algorithm, NULL);
	if (!d->ctx)
		d->ctx = EVP_MD_CTX_new();
	return d->md && d->ctx;
}

static int digest(struct expr_env *env, struct digest *d, const struct expr_val *v,
                  struct expr_val *out)
{
	char room[EXPR_NUMBER_MAX];
	uint8_t b[EVP_MAX_MD_SIZE];
	const uint8_t *p;
	size_t len;
	unsigned n = 0;
	int r = input(env, d->name, v, room, &p, &len);
	if (r != 0)
		return r;
	if (!digest_ready(d) || !EVP_DigestInit_ex2(d->ctx, d->md, NULL) ||
	    !EVP_DigestUpdate(d->ctx, p, len) || !EVP_DigestFinal_ex(d->ctx, b, &n))
		return expr_fail(env, "%s() is not offered by libcrypto here", d->name);
	return hex_result(env, b, n, out);
}

int expr_fn_md5(struct expr_env *env, const struct expr_val *args, unsigned n, struct expr_val *out)
{
	static struct digest d = {.name = "md5", .algorithm = "MD5"};
	(void)n;
	return digest(env, &d, args, out);
}

int expr_fn_sha1(struct expr_env *env, const struct expr_val *args, unsigned n,
                 struct expr_val *out)
{
	static struct digest d = {.name = "sha1", .algorithm = "SHA1"};
	(void)n;
	return digest(env, &d, args, out);
}

int expr_fn_sha256(struct expr_env *env, const struct expr_val *args, unsigned n,
                   struct expr_val *out)
{
	static struct digest d = {.name = "sha256", .algorithm = "SHA256"};
	(void)n;
	return digest(env, &d, args, out);
}

/* Random bytes come by the page: one system call for 64 identifiers. Only workers evaluate, and
 * they do so after the fork, so no two processes share a page. */
static int random_bytes(uint8_t *to, size_t len)
{
	static uint8_t page[1024];
	static size_t left;
	if (left < len) {
		if (getrandom(page, sizeof(page), 0) != (ssize_t)sizeof(page))
			return err_errno();
		left = sizeof(page);
	}
	left -= len;
	memcpy(to, page + left, len);
	return 0;
}

int expr_fn_uuid(struct expr_env *env, const struct expr_val *args, unsigned n,
                 struct expr_val *out)
{
	static const uint8_t part[] = {4, 2, 2, 2, 6};
	uint8_t b[16];
	(void)args, (void)n;
	int r = random_bytes(b, sizeof(b));
	if (r < 0)
		return r;
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
	uint8_t *to = record_scratch(env->r, 36);
	if (!to)
		return -ENOMEM;
	uint8_t *p = to;
	for (unsigned i = 0, at = 0; i < sizeof(part); at += part[i++]) {
		if (i)
			*p++ = '-';
		hex(b + at, part[i], p);
		p += 2 * part[i];
	}
	expr_val_str(out, to, 36);
	return 0;
}
