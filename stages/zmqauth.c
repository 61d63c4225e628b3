/*
 * Who may come in: CURVE keys from files, and the authenticator libzmq asks over inproc (ZAP, RFC
 * 27).
 *
 * The list of clients is a directory: each file in it holds one public key, either the bare 40
 * characters of Z85 or a certificate as czmq and pyzmq write it (`public-key = "..."`). It is read
 * again when the directory has changed, so a client is added by putting a file there. What the
 * daemon knows a client by afterwards is its key's fingerprint, the first 8 bytes of SHA-256, as
 * ZAP user id.
 *
 * Invariant: each request that is received gets exactly one answer, also a malformed one. Without a
 * directory everybody is let in while there is room; with one nobody is who is not on the list,
 * also when the directory cannot be read.
 */
#include "stages/zmqsock.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define ZAP_ENDPOINT "inproc://zeromq.zap.01"

enum {
	KEY_FILE_MAX = 4096,
	KEY_BYTES = 32,
	ZAP_FRAMES = 7, /* version, request, domain, address, identity, mechanism, key */
	ZAP_FRAME_MAX = 256,
};

struct key {
	uint8_t key[KEY_BYTES];
	char fingerprint[ZMQSOCK_USER_ID_LEN];
};

struct zmqsock_auth {
	void *sock;
	char *dir;
	struct timespec changed; /* of the directory, when it was read */
	struct key *keys;
	size_t n, cap;
};

static bool z85(const char *p, size_t len)
{
	static const char alphabet[] =
	        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	        ".-:+=^!/*?&<>()[]{}@%$#";
	return len == ZMQSOCK_KEY_LEN - 1 && strspn(p, alphabet) >= len;
}

/* The quoted value behind `name =` in a certificate. */
static const char *certificate_key(const char *text, const char *name)
{
	const char *p = strstr(text, name);
	if (!p)
		return NULL;
	p += strlen(name);
	p += strspn(p, " \t");
	if (*p++ != '=')
		return NULL;
	p += strspn(p, " \t");
	return *p == '"' && strcspn(p + 1, "\"") == ZMQSOCK_KEY_LEN - 1 ? p + 1 : NULL;
}

static int key_of_text(const char *text, const char *name, char key[ZMQSOCK_KEY_LEN])
{
	const char *p = text + strspn(text, " \t\r\n");
	size_t len = strcspn(p, " \t\r\n");
	if (!z85(p, len))
		p = certificate_key(text, name);
	if (!p || !z85(p, ZMQSOCK_KEY_LEN - 1))
		return -EINVAL;
	memcpy(key, p, ZMQSOCK_KEY_LEN - 1);
	key[ZMQSOCK_KEY_LEN - 1] = 0;
	return 0;
}

static int key_of_file(int dir, const char *path, const char *name, bool secret,
                       char key[ZMQSOCK_KEY_LEN])
{
	char text[KEY_FILE_MAX + 1];
	_cleanup_close_ int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return err_errno();
	struct stat sb;
	if (fstat(fd, &sb) < 0)
		return err_errno();
	if (secret && (sb.st_mode & S_IRWXO)) {
		log_error("%s: a secret key that others can use is none: chmod o= it, and make a "
		          "new one",
		          path);
		return -EACCES;
	}
	ssize_t n = read(fd, text, KEY_FILE_MAX);
	if (n < 0)
		return err_errno();
	text[n] = 0;
	int r = key_of_text(text, name, key);
	explicit_bzero(text, sizeof(text));
	return r;
}

int zmqsock_key(const char *option, bool secret, char key[ZMQSOCK_KEY_LEN])
{
	const char *name = secret ? "secret-key" : "public-key";
	if (strncmp(option, "file:", 5) == 0)
		return key_of_file(AT_FDCWD, option + 5, name, secret, key);
	return key_of_text(option, name, key);
}

static int fingerprint(const uint8_t *key, char out[ZMQSOCK_USER_ID_LEN])
{
	uint8_t hash[EVP_MAX_MD_SIZE];
	if (!EVP_Digest(key, KEY_BYTES, hash, NULL, EVP_sha256(), NULL))
		return -EIO;
	for (unsigned i = 0; i < (ZMQSOCK_USER_ID_LEN - 1) / 2; i++)
		snprintf(out + 2 * (size_t)i, 3, "%02x", hash[i]);
	return 0;
}

static void auth_add(struct zmqsock_auth *a, const char *text)
{
	if (a->n == a->cap) {
		size_t cap = a->cap ? 2 * a->cap : 16;
		struct key *keys = realloc(a->keys, cap * sizeof(*keys));
		if (!keys)
			return;
		a->keys = keys;
		a->cap = cap;
	}
	struct key *k = &a->keys[a->n];
	if (zmq_z85_decode(k->key, text) && fingerprint(k->key, k->fingerprint) == 0)
		a->n++;
}

static void close_dir(DIR **d)
{
	if (*d)
		closedir(*d);
}

void zmqsock_auth_load(struct zmqsock_auth *a)
{
	if (!a->dir)
		return;
	a->n = 0;
	_cleanup_(close_dir) DIR *d = opendir(a->dir);
	struct stat sb;
	if (!d || fstat(dirfd(d), &sb)) {
		log_warning("curve: %s: %s: no client is let in", a->dir, strerror(errno));
		return;
	}
	a->changed = sb.st_mtim;
	for (struct dirent *e; (e = readdir(d));) {
		char key[ZMQSOCK_KEY_LEN];
		if (e->d_name[0] == '.')
			continue;
		if (key_of_file(dirfd(d), e->d_name, "public-key", false, key) == 0)
			auth_add(a, key);
		else
			log_warning("curve: %s/%s: no public key in it", a->dir, e->d_name);
	}
}

static void auth_refresh(struct zmqsock_auth *a)
{
	struct stat sb;
	if (stat(a->dir, &sb) || sb.st_mtim.tv_sec != a->changed.tv_sec ||
	    sb.st_mtim.tv_nsec != a->changed.tv_nsec)
		zmqsock_auth_load(a);
}

int zmqsock_auth_open(struct zmqsock_auth **auth, void *ctx, const char *clients)
{
	struct zmqsock_auth *a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	*auth = a;
	a->dir = clients ? strdup(clients) : NULL;
	a->sock = zmq_socket(ctx, ZMQ_REP);
	if ((clients && !a->dir) || !a->sock)
		return err_errno();
	int linger = 0;
	if (zmq_setsockopt(a->sock, ZMQ_LINGER, &linger, sizeof(linger)) ||
	    zmq_bind(a->sock, ZAP_ENDPOINT))
		return err_errno();
	zmqsock_auth_load(a);
	return 0;
}

struct zmqsock_auth *zmqsock_auth_close(struct zmqsock_auth *a)
{
	if (a) {
		if (a->sock)
			zmq_close(a->sock);
		free(a->dir);
		free(a->keys);
		free(a);
	}
	return NULL;
}

int zmqsock_auth_fd(const struct zmqsock_auth *a)
{
	int fd = -1;
	size_t len = sizeof(fd);
	return zmq_getsockopt(a->sock, ZMQ_FD, &fd, &len) ? -1 : fd;
}

bool zmqsock_auth_known(struct zmqsock_auth *a, const char *fp)
{
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->keys[i].fingerprint, fp) == 0)
			return true;
	return false;
}

struct request {
	char frame[ZAP_FRAMES][ZAP_FRAME_MAX];
	size_t len[ZAP_FRAMES];
	unsigned n;
};

/* 0: a request is there; 1: none; -errno. */
static int receive(void *sock, struct request *rq)
{
	int more = 1;
	size_t more_len = sizeof(more);
	rq->n = 0;
	while (more) {
		char junk[1];
		bool room = rq->n < ZAP_FRAMES;
		int n = zmq_recv(sock, room ? rq->frame[rq->n] : junk, room ? ZAP_FRAME_MAX : 1,
		                 ZMQ_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 1 : err_errno();
		if (room)
			rq->len[rq->n++] = (size_t)n;
		if (zmq_getsockopt(sock, ZMQ_RCVMORE, &more, &more_len))
			return err_errno();
	}
	return 0;
}

static const char *judge(struct zmqsock_auth *a, const struct request *rq,
                         char user[static ZMQSOCK_USER_ID_LEN])
{
	user[0] = 0;
	if (!a->dir)
		return "200";
	if (rq->n < ZAP_FRAMES || rq->len[5] != 5 || memcmp(rq->frame[5], "CURVE", 5) != 0 ||
	    rq->len[6] != KEY_BYTES)
		return "400";
	auth_refresh(a);
	for (size_t i = 0; i < a->n; i++)
		if (memcmp(a->keys[i].key, rq->frame[6], KEY_BYTES) == 0) {
			memcpy(user, a->keys[i].fingerprint, ZMQSOCK_USER_ID_LEN);
			return "200";
		}
	return "400";
}

int zmqsock_auth_serve(struct zmqsock_auth *a, bool full)
{
	struct request rq;
	int r, n = 0;
	for (; (r = receive(a->sock, &rq)) == 0; n++) {
		char user[ZMQSOCK_USER_ID_LEN] = "";
		/* 300 is "not now": libzmq closes the connection, and the client tries again later
		 */
		const char *status = full ? "300" : judge(a, &rq, user);
		struct zmqproto_frame reply[] = {
		        zmqproto_word("1.0"),
		        {rq.frame[1], rq.n > 1 && rq.len[1] <= ZAP_FRAME_MAX ? rq.len[1] : 0},
		        zmqproto_word(status),
		        zmqproto_word(*status == '2' ? "OK" : "refused"),
		        zmqproto_word(user),
		        zmqproto_word(""),
		};
		r = zmqsock_send(a->sock, reply, sizeof(reply) / sizeof(*reply));
		if (r < 0)
			return r;
	}
	return r < 0 ? r : n;
}
