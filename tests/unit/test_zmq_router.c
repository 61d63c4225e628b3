/*
 * The zmq producer's router protocol with real sockets: repeats, gaps, windows, kills in every
 * place, identities, and messages that are none.
 */
#include "tests/unit/zmq_producer_rig.h"

static void test_router(void **state)
{
	(void)state;
	struct rig *r = start("socket: router\nwindow: 4\n");
	struct peer p;
	peer_open(&p, ZMQ_DEALER, "client");
	peer_connect(&p, endpoint);
	peer_frames(&p, "HELLO|1|1");
	rig_expect(r, &p, "READY|1|0|4");
	peer_frames(&p, "SEND|1|{\"n\":1}\n{\"n\":2}");
	rig_expect(r, &p, "ACK|1");
	peer_frames(&p, "SEND|2|{\"n\":3}\nnonsense\n{\"n\":4}");
	RIG_WAIT(r, r->host->n >= 5);
	const char *heard = NULL;
	RIG_WAIT(r, (heard = peer_hear(&p)));
	assert_memory_equal(heard, "NAK|2|1|", 8);
	/* repeats are acknowledged, and nothing of them is made */
	peer_frames(&p, "SEND|1|{\"n\":1}\n{\"n\":2}");
	rig_expect(r, &p, "ACK|2");
	/* a gap is answered with where to go on */
	peer_frames(&p, "SEND|4|{\"n\":9}");
	rig_expect(r, &p, "READY|1|2|4");
	peer_frames(&p, "SEND|3|");
	rig_expect(r, &p, "ACK|3");
	assert_int_equal(r->host->n, 5);
	assert_int_equal(r->st.refused, 0);
	peer_close(&p);
	rig_free(r);
}

static void test_router_ack_waits(void **state)
{
	(void)state;
	struct rig *r = start("socket: router\nwindow: 2\nack: delivered\n");
	struct peer p;
	peer_open(&p, ZMQ_DEALER, "client");
	peer_connect(&p, endpoint);
	peer_frames(&p, "HELLO|1|1");
	rig_expect(r, &p, "READY|1|0|2");
	r->held = true;
	r->stored = 0;
	for (unsigned i = 1; i <= 3; i++) {
		char text[64];
		snprintf(text, sizeof(text), "SEND|%u|{\"n\":%u}", i, i);
		peer_frames(&p, text);
	}
	RIG_WAIT(r, r->host->n == 2);
	/* the third is past the window: dropped; a message of another client shows that it was
	 * looked at */
	struct peer other;
	peer_open(&other, ZMQ_DEALER, "other");
	peer_connect(&other, endpoint);
	peer_frames(&other, "SEND|1|x");
	rig_expect(r, &other, "READY|1|0|2");
	assert_null(peer_hear(&p));
	assert_int_equal(r->host->n, 2);
	r->held = false;
	rig_expect(r, &p, "ACK|2");
	rig_expect(r, &p, "READY|1|2|2");
	peer_frames(&p, "SEND|3|{\"n\":3}");
	rig_expect(r, &p, "ACK|3");
	assert_numbers(r, 3);
	peer_close(&other);
	peer_close(&p);
	rig_free(r);
}

/* After a restart who waits in silence is told where to go on, once, and may. */
static void test_router_greets(void **state)
{
	(void)state;
	struct rig *r = start("socket: router\nwindow: 1\n");
	struct peer p, stranger;
	peer_open(&p, ZMQ_DEALER, "client");
	peer_connect(&p, endpoint);
	peer_frames(&p, "HELLO|1|1");
	rig_expect(r, &p, "READY|1|0|1");
	peer_frames(&p, "SEND|1|{\"n\":1}");
	rig_expect(r, &p, "ACK|1");
	rig_kill(r);
	peer_open(&stranger, ZMQ_DEALER, "stranger");
	peer_connect(&stranger, endpoint);
	rig_expect(r, &p, "READY|1|1|1");
	peer_frames(&p, "SEND|2|{\"n\":2}");
	rig_expect(r, &p, "ACK|2");
	peer_frames(&stranger, "HELLO|1|1");
	rig_expect(r, &stranger, "READY|1|0|1");
	assert_null(peer_hear(&p));
	assert_numbers(r, 2);
	peer_close(&p);
	peer_close(&stranger);
	rig_free(r);
}

static void test_router_resume(void **state)
{
	(void)state;
	struct rig *r = start("socket: router\n");
	struct peer p;
	peer_open(&p, ZMQ_DEALER, "client");
	peer_connect(&p, endpoint);
	peer_frames(&p, "SEND|7|{\"n\":1}");
	rig_expect(r, &p, "READY|1|0|256");
	/* unknown so far: its word becomes the base */
	peer_frames(&p, "HELLO|1|8");
	rig_expect(r, &p, "READY|1|7|256");
	peer_frames(&p, "SEND|8|{\"n\":1}");
	rig_expect(r, &p, "ACK|8");
	/* killed after it took message 9 and before the commit */
	r->hold = true;
	peer_frames(&p, "SEND|9|{\"n\":2}");
	RIG_WAIT(r, r->host->n == 2);
	assert_null(peer_hear(&p));
	r->hold = false;
	rig_kill(r);
	assert_int_equal(r->host->n, 1);
	/* the connection comes back by itself; without HELLO the message is dropped */
	peer_frames(&p, "SEND|9|{\"n\":2}");
	rig_expect(r, &p, "READY|1|8|256");
	peer_frames(&p, "SEND|9|{\"n\":2}");
	rig_expect(r, &p, "ACK|9");
	peer_close(&p);
	/* the client itself comes anew, with the same id */
	peer_open(&p, ZMQ_DEALER, "client");
	peer_connect(&p, endpoint);
	peer_frames(&p, "HELLO|1|1");
	rig_expect(r, &p, "READY|1|9|256");
	assert_numbers(r, 2);
	peer_close(&p);
	rig_free(r);
}

/* A message of seven inputs, some bad, is cut by commits every @cut of them; then the process dies.
 */
static void split_and_kill(unsigned cut)
{
	static const char message[] = "SEND|1|{\"n\":1}\n{\"n\":2}\nbad\n{\"n\":3}\n{bad}\n"
	                              "{\"n\":4}\n{\"n\":5}";
	struct rig *r = start("socket: router\n");
	struct peer p;
	peer_open(&p, ZMQ_DEALER, "client");
	peer_connect(&p, endpoint);
	peer_frames(&p, "HELLO|1|1");
	rig_expect(r, &p, "READY|1|0|256");
	r->hold = true;
	r->cut = cut;
	peer_frames(&p, message);
	RIG_WAIT(r, r->host->n >= 7);
	assert_int_equal(r->host->n, 7);
	unsigned kept = 6 / cut * cut; /* a unit ends when room for the next record is asked for */
	assert_int_equal(r->committed, kept);
	rig_kill(r);
	assert_int_equal(r->host->n, kept);
	r->hold = false;
	r->cut = 0;
	peer_frames(&p, "HELLO|1|1");
	rig_expect(r, &p, "READY|1|0|256");
	peer_frames(&p, message);
	const char *heard = NULL;
	RIG_WAIT(r, (heard = peer_hear(&p)));
	assert_memory_equal(heard, "NAK|1|2|", 8);
	assert_int_equal(r->host->n, 7);
	unsigned n = 0, bad = 0;
	for (unsigned i = 0; i < 7; i++) {
		if (r->host->items[i].rejected)
			bad++;
		else
			assert_int_equal(number(r, i), ++n);
	}
	assert_int_equal(n, 5);
	assert_int_equal(bad, 2);
	peer_close(&p);
	rig_free(r);
}

static void test_router_split(void **state)
{
	(void)state;
	for (unsigned cut = 1; cut <= 8; cut++)
		split_and_kill(cut);
}

static void test_router_ids(void **state)
{
	(void)state;
	struct rig *r = start("socket: router\nmax_clients: 2\n");
	struct peer a, b, c, none;
	char longid[201];
	memset(longid, 'x', 200);
	longid[200] = 0;
	peer_open(&none, ZMQ_DEALER, NULL);
	peer_connect(&none, endpoint);
	peer_frames(&none, "HELLO|1|1");
	rig_expect(r, &none, "ERROR|set a routing id: one made by libzmq cannot be resumed");
	assert_int_equal(r->st.refused, 1);
	peer_close(&none);
	peer_open(&a, ZMQ_DEALER, longid);
	peer_connect(&a, endpoint);
	peer_frames(&a, "HELLO|1|1");
	rig_expect(r, &a, "READY|1|0|256");
	peer_frames(&a, "SEND|1|{\"n\":1}");
	rig_expect(r, &a, "ACK|1");
	peer_close(&a);
	longid[199] = 'y'; /* another client */
	peer_open(&b, ZMQ_DEALER, longid);
	peer_connect(&b, endpoint);
	peer_frames(&b, "HELLO|1|1");
	rig_expect(r, &b, "READY|1|0|256");
	peer_frames(&b, "SEND|1|{\"n\":2}");
	rig_expect(r, &b, "ACK|1");
	peer_close(&b);
	/* the third makes the oldest forgotten, also after a kill */
	peer_open(&c, ZMQ_DEALER, "c");
	peer_connect(&c, endpoint);
	peer_frames(&c, "HELLO|1|1");
	rig_expect(r, &c, "READY|1|0|256");
	peer_close(&c);
	rig_kill(r);
	peer_open(&b, ZMQ_DEALER, longid);
	peer_connect(&b, endpoint);
	peer_frames(&b, "HELLO|1|2");
	rig_expect(r, &b, "READY|1|1|256");
	peer_close(&b);
	longid[199] = 'x';
	peer_open(&a, ZMQ_DEALER, longid);
	peer_connect(&a, endpoint);
	peer_frames(&a, "HELLO|1|2");
	rig_expect(r, &a, "READY|1|1|256"); /* forgotten: its word was taken */
	peer_frames(&a, "SEND|1|{\"n\":9}");
	rig_expect(r, &a, "ACK|1");
	assert_numbers(r, 2);
	peer_close(&a);
	rig_free(r);
}

static void test_router_hostile(void **state)
{
	(void)state;
	static const char *const bad[] = {
	        "",
	        "HELLO",
	        "HELLO|1",
	        "HELLO|2|1",
	        "HELLO|1|0",
	        "HELLO|1|-1",
	        "HELLO|1|1|1",
	        "HELLO|1|18446744073709551616",
	        "SEND|x|{}",
	        "SEND|1",
	        "SEND||",
	        "SEND|0|{}",
	        "SEND|1|{}|{}|{}|{}|{}|{}",
	        "READY|1|0|1",
	        "|HELLO|1|1",
	        "hello|1|1",
	};
	struct rig *r = start("socket: router\n");
	struct peer p;
	peer_open(&p, ZMQ_DEALER, "client");
	peer_connect(&p, endpoint);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		const char *heard = NULL;
		peer_frames(&p, bad[i]);
		RIG_WAIT(r, (heard = peer_hear(&p)));
		if (strncmp(heard, "ERROR|", 6) != 0)
			fail_msg("%s: %s", bad[i], heard);
	}
	assert_int_equal(r->st.refused, sizeof(bad) / sizeof(*bad));
	peer_frames(&p, "HELLO|1|18446744073709551615");
	rig_expect(r, &p, "READY|1|18446744073709551614|256");
	peer_frames(&p, "SEND|18446744073709551615|{\"n\":1}");
	rig_expect(r, &p, "ACK|18446744073709551615");
	assert_numbers(r, 1);
	peer_close(&p);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_router),         cmocka_unit_test(test_router_ack_waits),
	        cmocka_unit_test(test_router_greets),  cmocka_unit_test(test_router_resume),
	        cmocka_unit_test(test_router_split),   cmocka_unit_test(test_router_ids),
	        cmocka_unit_test(test_router_hostile),
	};
	return cmocka_run_group_tests(tests, producer_setup, producer_teardown);
}
