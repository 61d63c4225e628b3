/*
 * The zmq producer with real sockets: pull, sub, peers that mean no good or have no key, and what
 * its options say. The router's protocol is test_zmq_router's.
 */
#include "tests/unit/zmq_producer_rig.h"

#include <sys/stat.h>

static void test_pull(void **state)
{
	(void)state;
	struct rig *r = start("socket: pull\n");
	struct peer p;
	peer_open(&p, ZMQ_PUSH, NULL);
	peer_connect(&p, endpoint);
	peer_say(&p, "{\"n\":1}");
	peer_say(&p, "");
	peer_frames(&p, "{\"n\":2}\n{\"n\":3}|{\"n\":4}");
	peer_say(&p, "{\"n\":5} nonsense\n{\"n\":6}");
	RIG_WAIT(r, r->host->n >= 7);
	assert_true(r->host->items[5].rejected);
	assert_non_null(strstr(r->host->items[5].at, "message 5"));
	assert_int_equal(number(r, 4), 5);
	assert_int_equal(number(r, 6), 6);
	peer_close(&p);
	rig_free(r);
}

static void test_pull_many(void **state)
{
	(void)state;
	struct rig *r = start("socket: pull\nreceive_hwm: 2\n");
	struct peer p;
	unsigned sent = 0;
	peer_open(&p, ZMQ_PUSH, NULL);
	peer_connect(&p, endpoint);
	while (r->host->n < 3000) {
		char text[32];
		snprintf(text, sizeof(text), "{\"n\":%u}", sent + 1);
		if (sent < 3000 && zmq_send(p.sock, text, strlen(text), ZMQ_DONTWAIT) >= 0)
			sent++;
		else
			rig_pump(r);
	}
	assert_numbers(r, 3000);
	peer_close(&p);
	rig_free(r);
}

static void test_sub(void **state)
{
	(void)state;
	char yaml[256];
	struct peer p;
	peer_open(&p, ZMQ_XPUB, NULL);
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/pub", dir);
	assert_int_equal(zmq_bind(p.sock, endpoint), 0);
	snprintf(yaml, sizeof(yaml), "connect: %s\nsocket: sub\nsubscribe: [a]\n", endpoint);
	struct rig *r = rig_new(STAGE_PRODUCER, "json", yaml);
	rig_start(r);
	rig_expect(r, &p, "\001a");
	peer_frames(&p, "a.x|{\"n\":1}|{\"n\":2}");
	peer_frames(&p, "b.x|{\"n\":9}");
	peer_frames(&p, "a|{\"n\":3}");
	RIG_WAIT(r, r->host->n >= 3);
	assert_numbers(r, 3);
	rig_free(r);
	peer_close(&p);
}

static int raw_connect(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	sa.sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void test_garbage(void **state)
{
	(void)state;
	static const char *const kinds[] = {"pull", "router"};
	for (unsigned k = 0; k < 2; k++) {
		char yaml[64], junk[4096];
		snprintf(yaml, sizeof(yaml), "socket: %s\n", kinds[k]);
		struct rig *r = start_tcp(yaml);
		for (size_t i = 0; i < sizeof(junk); i++)
			junk[i] = (char)(i * 7919 >> 3);
		int http = raw_connect(), noise = raw_connect(), greeting = raw_connect();
		assert_true(write(http, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27) == 27);
		assert_true(write(noise, junk, sizeof(junk)) > 0);
		assert_true(write(greeting, "\xff\0\0\0\0\0\0\0\1\x7f\3\0XXXX", 16) == 16);
		close(greeting);
		RIG_WAIT(r, r->st.refused >= 3);
		assert_int_equal(r->st.refused, 3);
		assert_int_equal(r->host->n, 0);
		close(http);
		close(noise);
		rig_free(r);
	}
}

static void test_too_large(void **state)
{
	(void)state;
	struct rig *r = start_tcp("socket: pull\nmax_message: 1000\n");
	struct peer p, q;
	char *big = calloc(1, 100000);
	peer_open(&q, ZMQ_PUSH, NULL);
	peer_connect(&q, endpoint);
	peer_say(&q, "{\"n\":1}");
	RIG_WAIT(r, r->host->n == 1);
	peer_close(&q); /* goes in peace: not counted */
	peer_open(&p, ZMQ_PUSH, NULL);
	peer_connect(&p, endpoint);
	assert_true(zmq_send(p.sock, big, 100000, 0) > 0);
	RIG_WAIT(r, r->st.refused);
	assert_int_equal(r->st.refused, 1);
	/* it may come back with something better */
	peer_say(&p, "{\"n\":2}");
	RIG_WAIT(r, r->host->n == 2);
	assert_int_equal(r->st.refused, 1);
	peer_close(&p);
	free(big);
	rig_free(r);
}

static void test_max_clients(void **state)
{
	(void)state;
	struct rig *r = start_tcp("socket: pull\nmax_clients: 1\n");
	struct peer a, b;
	peer_open(&a, ZMQ_PUSH, NULL);
	peer_connect(&a, endpoint);
	peer_say(&a, "{\"n\":1}");
	RIG_WAIT(r, r->host->n == 1);
	peer_open(&b, ZMQ_PUSH, NULL);
	peer_connect(&b, endpoint);
	peer_say(&b, "{\"n\":2}");
	RIG_WAIT(r, r->st.refused >= 1);
	assert_int_equal(r->host->n, 1);
	peer_close(&a);
	RIG_WAIT(r, r->host->n == 2);
	peer_close(&b);
	rig_free(r);
}

static void write_file(const char *name, const char *text)
{
	char path[160];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fchmod(fileno(f), 0600);
	fputs(text, f);
	fclose(f);
}

static void curve_peer(struct peer *p, const char *id, const char *server, const char *public,
                       const char *secret)
{
	peer_open(p, ZMQ_DEALER, id);
	zmq_setsockopt(p->sock, ZMQ_CURVE_SERVERKEY, server, 40);
	zmq_setsockopt(p->sock, ZMQ_CURVE_PUBLICKEY, public, 40);
	zmq_setsockopt(p->sock, ZMQ_CURVE_SECRETKEY, secret, 40);
	peer_connect(p, endpoint);
	peer_frames(p, "HELLO|1|1");
}

static void test_curve(void **state)
{
	(void)state;
	char sp[41], ss[41], ap[41], as[41], bp[41], bs[41], text[256], yaml[512];
	struct peer a, b;
	if (!zmq_has("curve"))
		skip();
	zmq_curve_keypair(sp, ss);
	zmq_curve_keypair(ap, as);
	zmq_curve_keypair(bp, bs);
	snprintf(text, sizeof(text), "%s/clients", dir);
	assert_true(mkdir(text, 0700) == 0);
	write_file("secret", ss);
	snprintf(text, sizeof(text), "%s\n", ap);
	write_file("clients/a", text);
	write_file("clients/junk", "no key");
	snprintf(yaml, sizeof(yaml),
	         "socket: router\ncurve: {server_secret: 'file:%s/secret', clients: %s/clients}\n",
	         dir, dir);
	struct rig *r = start_tcp(yaml);
	curve_peer(&b, "id", sp, bp, bs);
	RIG_WAIT(r, r->st.refused >= 1);
	assert_null(peer_hear(&b));
	peer_close(&b);
	curve_peer(&a, "id", sp, ap, as);
	rig_expect(r, &a, "READY|1|0|256");
	/* a key is added while running, as a certificate; the id stays the first one's */
	snprintf(text, sizeof(text), "curve\n    public-key = \"%s\"\n", bp);
	write_file("clients/b", text);
	curve_peer(&b, "id", sp, bp, bs);
	rig_expect(r, &b, "ERROR|this routing id belongs to another key");
	peer_close(&b);
	curve_peer(&b, "id2", sp, bp, bs);
	rig_expect(r, &b, "READY|1|0|256");
	peer_close(&b);
	peer_close(&a);
	/* revoked: who is let in may have the id */
	snprintf(text, sizeof(text), "%s/clients/a", dir);
	unlink(text);
	rig_kill(r);
	curve_peer(&b, "id", sp, bp, bs);
	rig_expect(r, &b, "READY|1|0|256");
	peer_close(&b);
	rig_free(r);
}

/* What is complained about in @yaml has @want in it; NULL: nothing is. */
static void complains(const char *yaml, const char *want)
{
	struct rig *r = calloc(1, sizeof(*r));
	rig_config(r, STAGE_PRODUCER, yaml);
	buf_add(&r->complaints.text, "", 1);
	const char *said = (const char *)r->complaints.text.p;
	if (!want && r->complaints.count)
		fail_msg("%s: %s", yaml, said);
	if (want && !strstr(said, want))
		fail_msg("%s: %s", yaml, said);
	option_free(r->ops->options, r->config);
	free(r->config);
	yaml_deinit(&r->tree);
	buf_deinit(&r->complaints.text);
	free(r);
}

static void test_check(void **state)
{
	(void)state;
	complains("listen: tcp://127.0.0.1:5555\n", NULL);
	complains("listen: [\"tcp://[::1]:5555\", ipc:///x]\n", NULL);
	complains("listen: tcp://*:5555\ninsecure: true\n", NULL);
	complains("connect: tcp://example.org:5555\n", NULL);
	complains("listen: tcp://0.0.0.0:1\ncurve: {server_secret: 'file:x', clients: d}\n", NULL);
	complains("codec: json\n", "one of `listen` and `connect`");
	complains("listen: ipc:///x\nconnect: ipc:///y\n", "not both");
	complains("listen: tcp://*:5555\n", "reachable from outside");
	complains("listen: tcp://0.0.0.0:5555\n", "reachable from outside");
	complains("listen: [ipc:///x, \"tcp://[::]:5555\"]\n", "reachable from outside");
	complains("listen: tcp://127.0.0.1\n", "ADDRESS:PORT");
	complains("listen: tcp://127.0.0.1:http\n", "port");
	complains("listen: pgm://x\n", "tcp://ADDRESS:PORT or ipc://PATH");
	complains("listen: tcp://127.0.0.1:1\nwindow: 3\n", "socket: router");
	complains("listen: tcp://127.0.0.1:1\nsubscribe: a\n", "socket: sub");
	complains("listen: tcp://127.0.0.1:1\ncurve: {server_secret: x}\n", "clients");
	complains(
	        "listen: ipc:///123456789012345678901234567890123456789012345678901234567890123456"
	        "789012345678901234567890123456789012345678901234567890\n",
	        "107");
}

static void test_refuses_file(void **state)
{
	(void)state;
	char yaml[256];
	write_file("precious", "data");
	snprintf(yaml, sizeof(yaml), "listen: ipc://%s/precious\n", dir);
	struct rig *r = rig_new(STAGE_PRODUCER, "json", yaml);
	assert_int_equal(r->ops->open(&r->st), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r->st.why, "something else"));
	char path[160];
	snprintf(path, sizeof(path), "%s/precious", dir);
	assert_int_equal(access(path, F_OK), 0);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_pull),         cmocka_unit_test(test_pull_many),
	        cmocka_unit_test(test_sub),          cmocka_unit_test(test_garbage),
	        cmocka_unit_test(test_too_large),    cmocka_unit_test(test_max_clients),
	        cmocka_unit_test(test_curve),        cmocka_unit_test(test_check),
	        cmocka_unit_test(test_refuses_file),
	};
	return cmocka_run_group_tests(tests, producer_setup, producer_teardown);
}
