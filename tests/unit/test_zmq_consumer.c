/*
 * The zmq consumer and `sluicectl send` with real sockets: push, pub, and the dealer's transaction
 * with a router producer that is killed, that forgets, and that answers late.
 */
#include "tests/unit/zmq_rig.h"

#include <inttypes.h>
#include <pthread.h>
#include <sys/wait.h>

#include "daemon/send.h"

static char dir[64];
static char endpoint[128];

static struct rig *consumer(const char *more)
{
	char yaml[512];
	snprintf(yaml, sizeof(yaml), "connect: %s\n%s", endpoint, more);
	struct rig *r = rig_new(STAGE_CONSUMER, "json", yaml);
	r->st.timeout = 500000000;
	rig_start(r);
	return r;
}

static struct rig *router(const char *more)
{
	char yaml[512];
	snprintf(yaml, sizeof(yaml), "listen: %s\nsocket: router\n%s", endpoint, more);
	struct rig *r = rig_new(STAGE_PRODUCER, "json", yaml);
	rig_start(r);
	return r;
}

/* Gives {"n": @n} to the consumer. */
static int give(struct rig *r, uint64_t n)
{
	uint8_t rec[32], *p = rec;
	p = mp_write_map_head(p, 1);
	p = mp_write_str(p, "n", 1);
	p = mp_write_uint(p, n);
	return r->ops->consume(&r->st, rec, (size_t)(p - rec));
}

static int begin_with(struct rig *r, uint64_t from, uint64_t to)
{
	r->st.commit_id.number = r->number;
	assert_int_equal(r->ops->begin(&r->st), 0);
	for (uint64_t n = from; n <= to; n++)
		assert_int_equal(give(r, n), 0);
	return r->ops->finish(&r->st);
}

/* finish() again, as the host does, until the peer is there. */
static void finish_until_ok(struct rig *r, int answer)
{
	int64_t until = rig_now() + RIG_WAIT_S * 1000000000LL;
	while (answer == STAGE_E_UNREACHABLE) {
		assert_true(rig_now() < until);
		answer = r->ops->finish(&r->st);
	}
	assert_int_equal(answer, 0);
}

static void test_push(void **state)
{
	(void)state;
	struct peer p;
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/push", dir);
	struct rig *r = consumer("socket: push\nmessage_records: 3\nidentity: true\n");
	assert_int_equal(begin_with(r, 1, 2), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r->st.why, "no peer"));
	peer_open(&p, ZMQ_PULL, NULL);
	assert_int_equal(zmq_bind(p.sock, endpoint), 0);
	finish_until_ok(r, STAGE_E_UNREACHABLE);
	assert_int_equal(r->ops->commit(&r->st), 0);
	rig_commit(r);
	assert_int_equal(begin_with(r, 3, 5), 0);
	assert_int_equal(give(r, 6), STAGE_E_FULL);
	r->ops->rollback(&r->st);
	assert_int_equal(r->ops->finish(&r->st), 0); /* an empty unit sends nothing */
	const char *heard;
	while (!(heard = peer_hear(&p)))
		;
	assert_string_equal(heard, "07070707070707070707070707070707:0:1:0|{\"n\":1}\n{\"n\":2}\n");
	while (!(heard = peer_hear(&p)))
		;
	assert_string_equal(
	        heard, "07070707070707070707070707070707:0:2:0|{\"n\":3}\n{\"n\":4}\n{\"n\":5}\n");
	rig_free(r);
	assert_null(peer_hear(&p));
	peer_close(&p);
}

struct slow_reader {
	struct peer peer;
	unsigned messages;
	unsigned want;
};

static void *read_slowly(void *arg)
{
	struct slow_reader *sr = arg;
	char junk[65536];
	int timeout = 5000;
	zmq_setsockopt(sr->peer.sock, ZMQ_RCVTIMEO, &timeout, sizeof(timeout));
	while (sr->messages < sr->want && zmq_recv(sr->peer.sock, junk, sizeof(junk), 0) >= 0)
		sr->messages++;
	return NULL;
}

/* What PUSH took is read by the peer before a clean close ends. */
static void test_push_close(void **state)
{
	(void)state;
	struct slow_reader sr = {.want = 0};
	int one = 1;
	pthread_t t;
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/push2", dir);
	peer_open(&sr.peer, ZMQ_PULL, NULL);
	zmq_setsockopt(sr.peer.sock, ZMQ_RCVHWM, &one, sizeof(one));
	assert_int_equal(zmq_bind(sr.peer.sock, endpoint), 0);
	struct rig *r = consumer("socket: push\nsend_hwm: 8\nmessage_size: 4000\n");
	r->st.timeout = 10000000000;
	finish_until_ok(r, begin_with(r, 1, 100));
	sr.want = 1;
	while (sr.want < 20000 && begin_with(r, 1, 100) == 0)
		sr.want++;
	assert_true(sr.want > 20);
	assert_int_equal(pthread_create(&t, NULL, read_slowly, &sr), 0);
	rig_free(r);
	pthread_join(t, NULL);
	assert_int_equal(sr.messages, sr.want);
	peer_close(&sr.peer);
}

static void test_pub(void **state)
{
	(void)state;
	struct peer p;
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/pub", dir);
	peer_open(&p, ZMQ_SUB, NULL);
	assert_int_equal(zmq_bind(p.sock, endpoint), 0);
	zmq_setsockopt(p.sock, ZMQ_SUBSCRIBE, "t", 1);
	struct rig *r = consumer("socket: pub\ntopic: t1\n");
	const char *heard = NULL;
	int64_t until = rig_now() + RIG_WAIT_S * 1000000000LL;
	while (!heard) { /* until the subscription has arrived */
		assert_true(rig_now() < until);
		assert_int_equal(begin_with(r, 1, 1), 0);
		heard = peer_hear(&p);
	}
	assert_string_equal(heard, "t1|{\"n\":1}\n");
	rig_free(r);
	peer_close(&p);
}

/* A router producer turned by its own thread, so that the consumer can wait for it. */
struct turning {
	struct rig *r;
	pthread_t thread;
	_Atomic bool stop;
};

static void *turn(void *arg)
{
	struct turning *t = arg;
	while (!t->stop)
		rig_pump(t->r);
	return NULL;
}

static void turn_start(struct turning *t, struct rig *r)
{
	*t = (struct turning){.r = r};
	assert_int_equal(pthread_create(&t->thread, NULL, turn, t), 0);
}

static void turn_stop(struct turning *t)
{
	t->stop = true;
	pthread_join(t->thread, NULL);
}

static uint64_t number(const struct rig *r, unsigned i)
{
	struct mp v;
	const struct host_item *it = &r->host->items[i];
	const uint8_t *p = mp_read(it->p, it->p + it->len, &v);
	p = mp_read(p, it->p + it->len, &v);
	mp_read(p, it->p + it->len, &v);
	return v.u;
}

static void assert_numbers(const struct rig *r, unsigned last)
{
	assert_int_equal(r->host->n, last);
	for (unsigned i = 0; i < last; i++)
		assert_int_equal(number(r, i), i + 1);
}

static void test_dealer(void **state)
{
	(void)state;
	struct turning t;
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/dealer", dir);
	struct rig *c = consumer("socket: dealer\n");
	assert_int_equal(begin_with(c, 1, 2), STAGE_E_UNREACHABLE);
	struct rig *r = router("");
	turn_start(&t, r);
	finish_until_ok(c, STAGE_E_UNREACHABLE);
	assert_int_equal(c->ops->commit(&c->st), 0);
	rig_commit(c);
	for (unsigned n = 3; n <= 50; n++) {
		finish_until_ok(c, begin_with(c, n, n));
		assert_int_equal(c->ops->commit(&c->st), 0);
		rig_commit(c);
	}
	turn_stop(&t);
	rig_of_host = r;
	assert_numbers(r, 50);
	rig_free(c);
	rig_free(r);
}

/*
 * The consumer dies with a unit prepared, before or after the peer has it; @seen: its successor
 * finds the position of that unit already. What committed() says decides, as in the host, and the
 * units are cut anew.
 */
static void die_prepared(bool sent, bool seen, bool router_dies)
{
	struct turning t;
	struct commit_id id;
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/die%d%d%d", dir, sent, seen, router_dies);
	struct rig *r = router("");
	struct rig *c = consumer("socket: dealer\n");
	turn_start(&t, r);
	finish_until_ok(c, begin_with(c, 1, 3));
	assert_int_equal(c->ops->commit(&c->st), 0);
	rig_commit(c);
	finish_until_ok(c, begin_with(c, 4, 6));
	id = c->st.commit_id;
	if (sent)
		assert_int_equal(c->ops->commit(&c->st), 0);
	turn_stop(&t);
	if (router_dies) {
		rig_of_host = r;
		rig_kill(r);
	}
	if (seen)
		memcpy(c->position, c->host->position, sizeof(c->position));
	rig_kill(c);
	c->st.timeout = 500000000;
	assert_int_equal(c->ops->committed(&c->st, &id), STAGE_E_UNREACHABLE);
	turn_start(&t, r);
	int64_t until = rig_now() + RIG_WAIT_S * 1000000000LL;
	int in;
	while ((in = c->ops->committed(&c->st, &id)) == STAGE_E_UNREACHABLE)
		assert_true(rig_now() < until);
	assert_int_equal(in, sent);
	c->number++;
	unsigned next = sent ? 7 : 4;
	finish_until_ok(c, begin_with(c, next, next)); /* another cut than before */
	assert_int_equal(c->ops->commit(&c->st), 0);
	rig_commit(c);
	finish_until_ok(c, begin_with(c, next + 1, 9));
	assert_int_equal(c->ops->commit(&c->st), 0);
	turn_stop(&t);
	assert_numbers(r, 9);
	rig_free(c);
	rig_free(r);
}

static void test_dealer_dies(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 8; i++)
		die_prepared(i & 1, i & 2, i & 4);
}

static void test_dealer_no_answer(void **state)
{
	(void)state;
	struct turning t;
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/silent", dir);
	struct rig *r = router("ack: delivered\n");
	struct rig *c = consumer("socket: dealer\n");
	turn_start(&t, r);
	finish_until_ok(c, begin_with(c, 1, 1));
	turn_stop(&t);
	assert_int_equal(c->ops->commit(&c->st), -ETIMEDOUT);
	rig_free(c);
	rig_free(r);
}

static void test_consumer_check(void **state)
{
	(void)state;
	static const char *const bad[] = {
	        "socket: dealer\nlisten: ipc:///x\n",
	        "socket: dealer\nconnect: [ipc:///x, ipc:///y]\n",
	        "socket: dealer\nconnect: ipc:///x\ntopic: t\n",
	        "socket: push\nconnect: ipc:///x\nid: t\n",
	        "socket: push\nlisten: tcp://*:5\n",
	        "socket: push\nlisten: ipc:///x\nworkers: 2\n",
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct rig *r = calloc(1, sizeof(*r));
		rig_config(r, STAGE_CONSUMER, bad[i]);
		if (!r->complaints.count)
			fail_msg("%s", bad[i]);
		option_free(r->ops->options, r->config);
		free(r->config);
		yaml_deinit(&r->tree);
		buf_deinit(&r->complaints.text);
		free(r);
	}
}

static int run_send(const char *a, const char *b, const char *c, const char *d, const char *e)
{
	const char *argv[] = {"send", "--to", endpoint, "--quiet", a, b, c, d, e, NULL};
	int argc = 4;
	while (argv[argc])
		argc++;
	return send_main(argc, (char **)argv);
}

static void make_input(const char *path, unsigned n)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	for (unsigned i = 1; i <= n; i++)
		fprintf(f, "{\"n\":%u}\n", i);
	fclose(f);
}

static void test_send_push(void **state)
{
	(void)state;
	char path[128], yaml[256];
	struct turning t;
	snprintf(path, sizeof(path), "%s/in", dir);
	make_input(path, 3000);
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/sendpush", dir);
	snprintf(yaml, sizeof(yaml), "listen: %s\nsocket: pull\nreceive_hwm: 1\n", endpoint);
	struct rig *r = rig_new(STAGE_PRODUCER, "json", yaml);
	rig_start(r);
	turn_start(&t, r);
	assert_int_equal(run_send("--message-size", "100", path, NULL, NULL), 0);
	turn_stop(&t);
	RIG_WAIT(r, r->host->n >= 3000);
	assert_numbers(r, 3000);
	rig_free(r);
}

static void test_send_ack(void **state)
{
	(void)state;
	char path[128];
	struct turning t;
	snprintf(path, sizeof(path), "%s/in2", dir);
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/sendack", dir);
	struct rig *r = router("window: 7\n");
	turn_start(&t, r);
	make_input(path, 1000);
	assert_int_equal(run_send("--ack", "--id=job", "--message-size", "50", path), 0);
	turn_stop(&t);
	rig_of_host = r;
	rig_kill(r);
	assert_numbers(r, 1000);
	turn_start(&t, r);
	/* the same id and a longer input of the same beginning: only the rest is sent */
	make_input(path, 3000);
	assert_int_equal(run_send("--ack", "--id=job", "--message-size", "50", path), 0);
	turn_stop(&t);
	assert_int_equal(r->host->n >= 3000, 1);
	assert_int_equal(r->host->n, 3000);
	rig_free(r);
}

/* The router is killed again and again while it is sent to; nothing is lost or doubled. */
static void test_send_ack_kills(void **state)
{
	(void)state;
	char path[128];
	snprintf(path, sizeof(path), "%s/in3", dir);
	make_input(path, 4000);
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/sendkill", dir);
	struct rig *r = router("window: 20\n");
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int rc = run_send("--ack", "--message-size", "300", path, NULL);
		_exit(rc);
	}
	unsigned kills = 0;
	int status = -1;
	r->hold = true;
	r->cut = 7;
	int64_t until = rig_now() + 60 * 1000000000LL;
	while (waitpid(pid, &status, WNOHANG) == 0) {
		assert_true(rig_now() < until);
		unsigned before = r->host->n;
		rig_pump(r);
		if (kills < 5 && r->host->n > before && r->host->n > 600 * (kills + 1)) {
			kills++;
			rig_kill(r);
		}
		if (r->answer == STAGE_E_IDLE)
			rig_commit(r);
	}
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(kills, 5);
	assert_numbers(r, 4000);
	rig_free(r);
}

static void test_send_refused(void **state)
{
	(void)state;
	char path[128];
	struct turning t;
	snprintf(path, sizeof(path), "%s/in4", dir);
	FILE *f = fopen(path, "w");
	fprintf(f, "{\"n\":1}\nnonsense\n{\"n\":2}\n");
	fclose(f);
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/nobody", dir);
	assert_int_equal(run_send("--timeout", "1", path, NULL, NULL), 1);
	assert_int_equal(run_send("--timeout", "1", "--ack", path, NULL), 1);
	assert_int_equal(run_send("--codec", "yaml", path, NULL, NULL), 2);
	assert_int_equal(run_send("--id", "x", path, NULL, NULL), 2);
	assert_int_equal(run_send("--nonsense", NULL, NULL, NULL, NULL), 2);
	assert_int_equal(run_send("/nonexistent", NULL, NULL, NULL, NULL), 1);
	struct rig *r = router("");
	turn_start(&t, r);
	assert_int_equal(run_send("--ack", path, NULL, NULL, NULL), 1); /* one is a dead letter */
	turn_stop(&t);
	assert_int_equal(r->host->n, 3);
	rig_free(r);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_zmq.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_push),
	        cmocka_unit_test(test_push_close),
	        cmocka_unit_test(test_pub),
	        cmocka_unit_test(test_dealer),
	        cmocka_unit_test(test_dealer_dies),
	        cmocka_unit_test(test_dealer_no_answer),
	        cmocka_unit_test(test_consumer_check),
	        cmocka_unit_test(test_send_push),
	        cmocka_unit_test(test_send_ack),
	        cmocka_unit_test(test_send_ack_kills),
	        cmocka_unit_test(test_send_refused),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
