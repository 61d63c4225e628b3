/*
 * What a ZeroMQ stage's configuration must be, beyond the types of its options: endpoints that
 * exist, one way to attach, keys that go together, and no door left open to the network without
 * saying so.
 *
 * An address counts as loopback when it says so itself (127.x.x.x, [::1], localhost, the interface
 * lo): names are not resolved, for the answer could be another one when the worker binds.
 */
#include "stages/zmqsock.h"

#include <string.h>
#include <sys/un.h>

const struct option zmqsock_curve_options[] = {
        {.name = "server_secret",
         .type = OPTION_STRING,
         .offset = offsetof(struct zmqsock_curve, server_secret),
         .help = "listening: file:PATH of the secret key"},
        {.name = "clients",
         .type = OPTION_STRING,
         .offset = offsetof(struct zmqsock_curve, clients),
         .help = "listening: directory with the public keys that are let in, one a file"},
        {.name = "server_key",
         .type = OPTION_STRING,
         .offset = offsetof(struct zmqsock_curve, server_key),
         .help = "connecting: the server's public key, or file:PATH of it"},
        {.name = "secret",
         .type = OPTION_STRING,
         .offset = offsetof(struct zmqsock_curve, secret),
         .help = "connecting: file:PATH of the own secret key"},
        OPTION_END,
};

static bool starts(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

static bool loopback(const char *endpoint)
{
	if (!starts(endpoint, "tcp://"))
		return true;
	const char *host = endpoint + 6;
	return starts(host, "127.") || starts(host, "[::1]:") || starts(host, "localhost:") ||
	       starts(host, "lo:");
}

/* What is wrong with it, or NULL. */
static const char *endpoint_wrong(const char *e, bool listen)
{
	if (starts(e, "ipc://")) {
		if (!e[6])
			return "ipc:// needs a path";
		return strlen(e + 6) < sizeof(((struct sockaddr_un *)0)->sun_path)
		               ? NULL
		               : "the path is longer than the 107 characters the kernel takes";
	}
	if (!starts(e, "tcp://"))
		return "an endpoint is tcp://ADDRESS:PORT or ipc://PATH";
	const char *port = strrchr(e, ':') + 1;
	if (port < e + 7 || !*port)
		return "tcp:// needs ADDRESS:PORT";
	bool wild = strcmp(port, "*") == 0;
	if (wild ? !listen : strspn(port, "0123456789") != strlen(port) || strlen(port) > 5)
		return "the port is a number from 1 to 65535";
	return NULL;
}

static const struct node *node_of(const struct node *map, const char *key, size_t i)
{
	const struct node *n = map ? node_get(map, key) : NULL;
	if (n && n->kind == NODE_SEQ && i < n->n)
		return n->items[i];
	return n ? n : map;
}

static void check_endpoints(const struct strings *s, const char *key, const struct node *node,
                            struct complaints *c)
{
	for (size_t i = 0; i < s->n; i++) {
		const char *wrong = endpoint_wrong(s->v[i], strcmp(key, "listen") == 0);
		if (wrong)
			complain(c, node_of(node, key, i), "%s: %s", s->v[i], wrong);
	}
}

static void check_open_door(const struct zmqsock_config *cfg, const struct node *node,
                            struct complaints *c)
{
	if (cfg->insecure || cfg->curve.server_secret)
		return;
	for (size_t i = 0; i < cfg->listen.n; i++)
		if (!loopback(cfg->listen.v[i]))
			complain(c, node_of(node, "listen", i),
			         "%s is reachable from outside: give `curve:` keys, or say "
			         "`insecure: true`",
			         cfg->listen.v[i]);
}

static void check_curve(const struct zmqsock_config *cfg, const struct node *node,
                        struct complaints *c)
{
	const struct zmqsock_curve *k = &cfg->curve;
	const struct node *at = node_of(node, "curve", 0);
	bool any = k->server_secret || k->clients || k->server_key || k->secret;
	if (any && cfg->listen.n && (!k->server_secret || !k->clients))
		complain(c, at, "to listen, `curve` needs server_secret and clients");
	if (any && cfg->connect.n && (!k->server_key || !k->secret))
		complain(c, at, "to connect, `curve` needs server_key and secret");
	if (any && cfg->listen.n && (k->server_key || k->secret))
		complain(c, at, "server_key and secret are for `connect`");
	if (any && cfg->connect.n && (k->server_secret || k->clients))
		complain(c, at, "server_secret and clients are for `listen`");
	if (any && !zmq_has("curve"))
		complain(c, at, "this libzmq was built without CURVE");
}

void zmqsock_check(const struct zmqsock_config *cfg, const struct node *node, struct complaints *c)
{
	if (!cfg->listen.n && !cfg->connect.n)
		complain(c, node, "one of `listen` and `connect` is needed");
	if (cfg->listen.n && cfg->connect.n)
		complain(c, node_of(node, "connect", 0), "either `listen` or `connect`, not both");
	check_endpoints(&cfg->listen, "listen", node, c);
	check_endpoints(&cfg->connect, "connect", node, c);
	check_open_door(cfg, node, c);
	check_curve(cfg, node, c);
}
