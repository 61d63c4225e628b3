/*
 * The documents: that the fields programs rely on are there with the right figures, that any bytes
 * in shared memory give valid JSON, and that broken numbers there harm nothing.
 */
#include "master_rig.h"

#include <math.h>

#include "daemon/ctl.h"

/* What was written, as a document; it must be one. */
struct seen {
	struct buf text, store;
	struct doc d;
};

static void understand(struct seen *s, const struct json *j)
{
	assert_int_equal(j->error, 0);
	if (doc_parse(&s->store, (const char *)s->text.p, s->text.len, &s->d) != 0)
		fail_msg("no JSON object: %.*s", (int)s->text.len, (char *)s->text.p);
	assert_null(memchr(s->text.p, '\n', s->text.len));
}

static void seen_free(struct seen *s)
{
	buf_deinit(&s->text);
	buf_deinit(&s->store);
}

static struct seen status_of(struct rig *r)
{
	struct seen s = {0};
	struct json j = json_on(&s.text);
	report_status(&r->m, &j);
	understand(&s, &j);
	return s;
}

static struct seen stats_of(struct rig *r, bool samples)
{
	struct seen s = {0};
	struct json j = json_on(&s.text);
	report_stats(&r->m, samples, &j);
	understand(&s, &j);
	return s;
}

/* The element of a list whose member @key is @value. */
static struct doc find(struct doc list, const char *key, const char *value)
{
	for (struct doc_walk w = doc_walk(list); doc_next(&w);)
		if (doc_is(doc_at(w.value, key), value))
			return w.value;
	fail_msg("no element with %s %s", key, value);
	return (struct doc){0};
}

static void assert_doc(struct doc d, const char *text)
{
	char s[1024];
	assert_string_equal(doc_copy(d, s, sizeof(s)), text);
}

/* ---- json_out, doc ---- */

static void json_escapes(void **state)
{
	(void)state;
	struct seen s = {0};
	struct json j = json_on(&s.text);
	json_open(&j, NULL, '{');
	json_text(&j, "a",
	          "quote \" slash \\ tab \t nl \n esc \033 del \177 nel \xc2\x85 eur \xe2\x82\xac");
	json_text_max(&j, "b", "abcdef", 3);
	json_text(&j, "bad", "x\xff\xc3y\xed\xa0\x80\xf0\x9f");
	json_num(&j, "nan", NAN);
	json_num(&j, "half", 0.5);
	json_uint(&j, "max", UINT64_MAX);
	json_int(&j, "neg", -5);
	json_text(&j, "null", NULL);
	json_open(&j, "list", '[');
	json_bool(&j, NULL, true);
	json_open(&j, NULL, '{');
	json_close(&j, '}');
	json_close(&j, ']');
	json_close(&j, '}');
	understand(&s, &j);
	assert_doc(
	        doc_at(s.d, "a"),
	        "quote \" slash \\ tab \t nl \n esc \033 del \177 nel \xc2\x85 eur \xe2\x82\xac");
	assert_null(memchr(s.text.p, '\033', s.text.len));
	assert_doc(doc_at(s.d, "b"), "abc");
	assert_doc(doc_at(s.d, "bad"), "x\xef\xbf\xbd\xef\xbf\xbdy\xef\xbf\xbd\xef\xbf\xbd\xef\xbf"
	                               "\xbd\xef\xbf\xbd\xef\xbf\xbd");
	assert_false(doc_exists(doc_at(s.d, "nan")));
	assert_true(doc_num(doc_at(s.d, "half")) == 0.5);
	assert_true(doc_uint(doc_at(s.d, "max")) == UINT64_MAX);
	assert_true(doc_num(doc_at(s.d, "neg")) == -5);
	assert_int_equal(doc_uint(doc_at(s.d, "neg")), 0);
	assert_false(doc_exists(doc_at(s.d, "null")));
	assert_false(doc_exists(doc_at(s.d, "list.x.y")));
	seen_free(&s);
}

static void doc_refuses_what_is_no_object(void **state)
{
	(void)state;
	const char *const bad[] = {"", "[1]", "7", "{", "{\"a\":}", "hello"};
	struct buf store = {0};
	struct doc d;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_not_equal(doc_parse(&store, bad[i], strlen(bad[i]), &d), 0);
	buf_deinit(&store);
}

/* ---- status ---- */

static void status_has_what_is_promised(void **state)
{
	struct rig *r = *state;
	struct seen s = status_of(r);
	assert_doc(doc_at(s.d, "state"), "running");
	struct doc mid = find(doc_at(s.d, "stages"), "name", "mid");
	assert_doc(doc_at(mid, "kind"), "transformer");
	assert_doc(doc_at(mid, "state"), "running");
	assert_true(doc_exists(doc_at(mid, "why")));
	assert_int_equal(doc_uint(doc_at(mid, "workers")), 2);
	assert_doc(doc_at(find(doc_at(s.d, "stages"), "name", "in"), "kind"), "producer");
	assert_doc(doc_at(find(doc_at(s.d, "stages"), "name", "dead"), "kind"), "consumer");
	struct doc e = find(doc_at(s.d, "edges"), "name", "*->dead");
	assert_doc(doc_at(e, "from"), "*");
	assert_doc(doc_at(e, "policy"), "block");
	assert_false(doc_exists(doc_at(s.d, "reload_error")));
	seen_free(&s);
	snprintf(r->m.reload_error, sizeof(r->m.reload_error), "a:1:1: bad\nb:2:2: worse");
	s = status_of(r);
	assert_doc(doc_at(s.d, "reload_error"), "a:1:1: bad\nb:2:2: worse");
	seen_free(&s);
}

static void set(struct arena_worker *w, enum worker_activity a, int64_t since)
{
	atomic_store(&w->activity, a);
	atomic_store(&w->since, since);
}

static void state_follows_the_workers(void **state)
{
	struct rig *r = *state;
	static const struct {
		enum worker_activity a;
		const char *name;
	} cases[] = {
	        {ACTIVITY_STARTING, "starting"}, {ACTIVITY_WORKING, "running"},
	        {ACTIVITY_IDLE, "idle"},         {ACTIVITY_UNREACHABLE, "unreachable"},
	        {ACTIVITY_PAUSED, "paused"},     {ACTIVITY_ENDED, "ended"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		set(rig_of(r, RIG_OUT, 0), cases[i].a, r->now - 1000000000);
		struct seen s = status_of(r);
		struct doc out = find(doc_at(s.d, "stages"), "name", "out");
		assert_doc(doc_at(out, "state"), cases[i].name);
		assert_true(fabs(doc_num(doc_at(out, "since_s")) - 1) < 1e-6);
		seen_free(&s);
	}
}

static void a_dead_worker_is_named_beside_a_live_one(void **state)
{
	struct rig *r = *state;
	struct child *c = &r->children[rig_slot(r, RIG_MID, 1)];
	c->state = CHILD_WAITING;
	c->failures = 3;
	c->restarts = 7;
	snprintf(c->last_words, sizeof(c->last_words), "killed by Segmentation fault");
	struct seen s = status_of(r);
	struct doc mid = find(doc_at(s.d, "stages"), "name", "mid");
	char why[1024];
	doc_copy(doc_at(mid, "why"), why, sizeof(why));
	assert_doc(doc_at(mid, "state"), "running");
	assert_non_null(strstr(why, "1 of 2 workers down"));
	assert_non_null(strstr(why, "Segmentation fault"));
	assert_non_null(strstr(why, "3 times in a row"));
	assert_int_equal(doc_uint(doc_at(mid, "restarts")), 7);
	seen_free(&s);
	r->children[rig_slot(r, RIG_MID, 0)].state = CHILD_WAITING;
	s = status_of(r);
	assert_doc(doc_at(find(doc_at(s.d, "stages"), "name", "mid"), "state"), "waiting");
	seen_free(&s);
}

/* in waits for mid, which waits for out, whose disk is full. */
static void a_jam_leads_to_its_beginning(void **state)
{
	struct rig *r = *state;
	struct arena_worker *out = rig_of(r, RIG_OUT, 0);
	set(rig_of(r, RIG_IN, 0), ACTIVITY_BLOCKED, r->now - 2500000000);
	atomic_store(&rig_of(r, RIG_IN, 0)->blocked_edge, r->edge_number[0]);
	for (unsigned i = 0; i < 2; i++) {
		set(rig_of(r, RIG_MID, i), ACTIVITY_BLOCKED, r->now - 3000000000);
		atomic_store(&rig_of(r, RIG_MID, i)->blocked_edge, r->edge_number[1]);
	}
	set(out, ACTIVITY_UNREACHABLE, r->now - 4000000000);
	snprintf(out->why, sizeof(out->why), "No space left on device");
	struct seen s = status_of(r);
	struct doc in = find(doc_at(s.d, "stages"), "name", "in"), b = doc_at(in, "blocked");
	assert_doc(doc_at(in, "state"), "blocked");
	assert_doc(doc_at(b, "edge"), "in->mid");
	assert_doc(doc_at(b, "reader"), "mid");
	assert_doc(doc_at(b, "reader_why"), "mid is blocked on mid->out");
	assert_doc(doc_at(b, "root"), "out");
	assert_doc(doc_at(b, "root_why"), "out is unreachable: No space left on device");
	assert_true(fabs(doc_num(doc_at(b, "since_s")) - 2.5) < 1e-6);
	struct doc mid = find(doc_at(s.d, "stages"), "name", "mid");
	assert_doc(doc_at(mid, "blocked.reader_why"),
	           "out is unreachable: No space left on device");
	seen_free(&s);
}

/* Whatever a worker writes into its place, status answers in valid JSON. */
static void broken_shared_memory_harms_nothing(void **state)
{
	struct rig *r = *state;
	for (uint32_t slot = 0; slot < RIG_WORKERS; slot++) {
		struct arena_worker *w = arena_worker(&r->m.arena, slot);
		memset(w->why, 0xff, sizeof(w->why)); /* no NUL, no UTF-8 */
		atomic_store(&w->activity, slot % 2 ? 0xdeadbeef : ACTIVITY_BLOCKED);
		atomic_store(&w->blocked_edge, slot == 0 ? UINT32_MAX : slot * 77);
		atomic_store(&w->since, slot % 2 ? INT64_MAX : INT64_MIN);
		memset(&w->stats, 0xff, sizeof(w->stats)); /* NaN sums */
		memset(&w->committed, 0xff, sizeof(w->committed));
	}
	for (uint32_t i = 0; i < r->m.arena.entries; i++) {
		atomic_store(&r->m.arena.words[i], 0xffffffffffffffffu - i);
		memset(&r->m.arena.facts[i], 0xff, sizeof(r->m.arena.facts[i]));
	}
	memset(r->m.arena.h->books, 0xff, sizeof(r->m.arena.h->books));
	struct seen s = status_of(r);
	seen_free(&s);
	s = stats_of(r, true);
	seen_free(&s);
	struct json j = json_on(&s.text);
	report_workers(&r->m, &j);
	understand(&s, &j);
	seen_free(&s);
}

/* A reader that names an edge leading back to itself must not send status round and round. */
static void a_lying_circle_ends(void **state)
{
	struct rig *r = *state;
	set(rig_of(r, RIG_IN, 0), ACTIVITY_BLOCKED, 1);
	atomic_store(&rig_of(r, RIG_IN, 0)->blocked_edge, r->edge_number[0]);
	for (unsigned i = 0; i < 2; i++) {
		set(rig_of(r, RIG_MID, i), ACTIVITY_BLOCKED, 1);
		atomic_store(&rig_of(r, RIG_MID, i)->blocked_edge,
		             r->edge_number[0]); /* its own input */
	}
	struct seen s = status_of(r);
	assert_doc(doc_at(find(doc_at(s.d, "stages"), "name", "in"), "blocked.root"), "mid");
	seen_free(&s);
}

/* ---- edges, stats ---- */

static void fill(struct rig *r, unsigned edge, uint32_t records)
{
	struct arena_handle h;
	uint32_t slot = rig_slot(r, RIG_IN, 0);
	assert_int_equal(arena_acquire(&r->m.arena, slot, r->edge_number[edge], &h), 0);
	const struct arena_facts f = {.records = records, .bytes = records};
	arena_seal(&r->m.arena, h, &f);
	r->m.arena.facts[h.entry].queued = r->now - 5000000000;
	struct word w = arena_word(&r->m.arena, h.entry);
	w.state = WORD_QUEUED;
	atomic_store(&r->m.arena.words[h.entry], word_pack(w));
}

static void edges_are_counted(void **state)
{
	struct rig *r = *state;
	for (unsigned i = 0; i < 4; i++)
		fill(r, 0, 100);
	fill(r, 1, 7);
	struct seen s = status_of(r);
	struct doc e = find(doc_at(s.d, "edges"), "name", "in->mid");
	assert_int_equal(doc_uint(doc_at(e, "queued")), 4);
	assert_int_equal(doc_uint(doc_at(e, "quota")), 4);
	assert_int_equal(doc_uint(doc_at(e, "records")), 400);
	assert_true(doc_bool(doc_at(e, "full")));
	assert_true(fabs(doc_num(doc_at(e, "oldest_s")) - 5) < 1e-6);
	e = find(doc_at(s.d, "edges"), "name", "mid->out");
	assert_int_equal(doc_uint(doc_at(e, "queued")), 1);
	assert_false(doc_bool(doc_at(e, "full")));
	seen_free(&s);
	s = stats_of(r, false);
	assert_int_equal(doc_uint(doc_at(s.d, "stages.mid.queue.chunks")), 4);
	assert_int_equal(doc_uint(doc_at(s.d, "stages.out.queue.records")), 7);
	assert_int_equal(doc_uint(doc_at(s.d, "arena.buffers")), 16);
	assert_int_equal(doc_uint(doc_at(s.d, "arena.free")), 11);
	seen_free(&s);
}

static void stats_add_up_workers_and_their_predecessors(void **state)
{
	struct rig *r = *state;
	struct arena_worker *a = rig_of(r, RIG_MID, 0), *b = rig_of(r, RIG_MID, 1);
	a->committed.book[BOOK_records_in] = 1000;
	b->committed.book[BOOK_records_in] = 500;
	snprintf(r->m.arena.h->books[3].stage, ARENA_NAME_MAX, "mid");
	r->m.arena.h->books[3].book[BOOK_records_in] = 70;
	b->committed.book[BOOK_filtered] = 3;
	stats_add(&a->stats, STAT_retries, 2);
	stats_add(&a->stats, STAT_busy_ns, 3000);
	stats_add(&b->stats, STAT_idle_ns, 1000);
	histogram_add(&a->stats.latency, 1000000, 99);
	histogram_add(&b->stats.latency, 9000000, 1);
	struct seen s = stats_of(r, false);
	struct doc mid = doc_at(s.d, "stages.mid");
	static const char *const promised[] = {
	        "records_in",        "records_out",       "bytes_in",
	        "bytes_out",         "filtered",          "dead",
	        "retries",           "latency_us.median", "latency_us.p90",
	        "latency_us.p99",    "latency_us.p999",   "latency_us.mean",
	        "latency_us.stddev", "latency_us.count"};
	for (size_t i = 0; i < sizeof(promised) / sizeof(*promised); i++)
		if (!doc_exists(doc_at(mid, promised[i])))
			fail_msg("%s is missing", promised[i]);
	assert_int_equal(doc_uint(doc_at(mid, "records_in")), 1570);
	assert_int_equal(doc_uint(doc_at(mid, "filtered")), 3);
	assert_int_equal(doc_uint(doc_at(mid, "retries")), 2);
	assert_true(fabs(doc_num(doc_at(mid, "share.busy")) - 0.75) < 1e-9);
	assert_int_equal(doc_uint(doc_at(mid, "latency_us.count")), 100);
	assert_true(fabs(doc_num(doc_at(mid, "latency_us.min")) - 1000) < 1e-6);
	assert_true(fabs(doc_num(doc_at(mid, "latency_us.max")) - 9000) < 1e-6);
	assert_true(fabs(doc_num(doc_at(mid, "latency_us.median")) - 1000) < 70);
	assert_true(fabs(doc_num(doc_at(mid, "latency_us.mean")) - 1080) < 1e-6);
	seen_free(&s);
}

/* The ring has gone round: 400 samples, 100 records a second, then 300 in the last one. */
static void rates_come_from_the_ring(void **state)
{
	struct rig *r = *state;
	uint64_t total = 0;
	struct seen s = stats_of(r, false);
	assert_true(doc_num(doc_at(s.d, "stages.in.rate.1s.in")) == 0);
	seen_free(&s);
	for (unsigned i = 0; i < 400; i++) {
		total += i == 399 ? 300 : 100;
		r->samples[r->m.sample_at * RIG_STAGES + RIG_IN].records_in = total;
		r->m.sample_at = (r->m.sample_at + 1) % SAMPLES;
		r->m.n_samples += r->m.n_samples < SAMPLES;
	}
	s = stats_of(r, true);
	assert_true(doc_num(doc_at(s.d, "stages.in.rate.1s.in")) == 300);
	assert_true(doc_num(doc_at(s.d, "stages.in.rate.10s.in")) == 120);
	assert_true(fabs(doc_num(doc_at(s.d, "stages.in.rate.60s.in")) - 6200.0 / 60) < 1e-6);
	unsigned n = 0;
	uint64_t last = 0;
	for (struct doc_walk w = doc_walk(doc_at(s.d, "stages.in.samples")); doc_next(&w); n++) {
		struct doc_walk pair = doc_walk(w.value);
		assert_true(doc_next(&pair));
		assert_true(doc_uint(pair.value) > last);
		last = doc_uint(pair.value);
	}
	assert_int_equal(n, SAMPLES);
	assert_int_equal(last, total);
	seen_free(&s);
}

/* ---- workers, audit, prometheus ---- */

static void workers_are_listed(void **state)
{
	struct rig *r = *state;
	struct seen s = {0};
	struct json j = json_on(&s.text);
	struct child *c = &r->children[rig_slot(r, RIG_OUT, 0)];
	c->rss = 4096000;
	c->restarts = 2;
	r->children[rig_slot(r, RIG_MID, 1)].state = CHILD_STOPPED;
	r->stages[RIG_MID].workers = 1; /* scaled down: its second worker is history */
	report_workers(&r->m, &j);
	understand(&s, &j);
	assert_int_equal(doc_uint(doc_at(s.d, "master.pid")), getpid());
	struct doc out = find(doc_at(s.d, "workers"), "stage", "out");
	assert_int_equal(doc_uint(doc_at(out, "pid")), c->pid);
	assert_int_equal(doc_uint(doc_at(out, "index")), 0);
	assert_int_equal(doc_uint(doc_at(out, "rss")), 4096000);
	assert_int_equal(doc_uint(doc_at(out, "pss")), (uint64_t)c->pid * 10);
	assert_int_equal(doc_uint(doc_at(out, "restarts")), 2);
	assert_doc(doc_at(out, "state"), "running");
	assert_doc(doc_at(out, "kind"), "consumer");
	unsigned n = 0;
	for (struct doc_walk w = doc_walk(doc_at(s.d, "workers")); doc_next(&w);)
		n++;
	assert_int_equal(n, 4);
	seen_free(&s);
}

static void audit_says_what_the_books_say(void **state)
{
	struct rig *r = *state;
	struct seen s = {0};
	struct json j = json_on(&s.text);
	r->books.book[BOOK_received] = 10;
	r->books.book[BOOK_delivered] = 8;
	r->books.in_flight = 2;
	assert_true(report_audit(&r->m, &j));
	understand(&s, &j);
	static const char *const promised[] = {"balanced",  "received",  "made",     "replayed",
	                                       "delivered", "filtered",  "absorbed", "dead",
	                                       "dropped",   "in_flight", "pipelines"};
	for (size_t i = 0; i < sizeof(promised) / sizeof(*promised); i++)
		assert_true(doc_exists(doc_at(s.d, promised[i])));
	assert_true(doc_bool(doc_at(s.d, "balanced")));
	struct doc_walk w = doc_walk(doc_at(s.d, "pipelines"));
	assert_true(doc_next(&w));
	assert_int_equal(doc_uint(doc_at(w.value, "in_flight")), 2);
	assert_false(doc_next(&w));
	seen_free(&s);
	r->books.balanced = false;
	j = json_on(&s.text);
	assert_true(report_audit(&r->m, &j));
	understand(&s, &j);
	assert_false(doc_bool(doc_at(s.d, "balanced")));
	seen_free(&s);
	r->books_answer = ARENA_E_NONE;
	j = json_on(&s.text);
	assert_false(report_audit(&r->m, &j));
	assert_int_equal(s.text.len, 0);
	seen_free(&s);
}

static void prometheus_escapes_and_names_types(void **state)
{
	struct rig *r = *state;
	r->stages[RIG_MID].name = "a\"b\\c\nd";
	rig_of(r, RIG_OUT, 0)->committed.book[BOOK_delivered] = 42;
	struct seen stats = stats_of(r, false), status = status_of(r), workers = {0};
	struct json j = json_on(&workers.text);
	struct buf out = {0};
	report_workers(&r->m, &j);
	understand(&workers, &j);
	prometheus_print(stats.d, workers.d, status.d, &out);
	assert_int_equal(buf_add_byte(&out, 0), 0);
	const char *text = (const char *)out.p;
	assert_non_null(strstr(text, "# TYPE sluice_stage_delivered_total counter\n"));
	assert_non_null(
	        strstr(text, "sluice_stage_delivered_total{stage=\"out\",kind=\"consumer\"} 42\n"));
	assert_non_null(strstr(text, "stage=\"a\\\"b\\\\c\\nd\""));
	assert_non_null(strstr(text, "sluice_stage_busy_seconds_total"));
	assert_non_null(strstr(text, "# TYPE sluice_stage_latency_seconds summary\n"));
	for (const char *p = text; *p;) { /* every line is a comment or a sample with a value */
		const char *nl = strchr(p, '\n');
		assert_non_null(nl);
		assert_true(*p == '#' || strncmp(p, "sluice_", 7) == 0);
		p = nl + 1;
	}
	buf_deinit(&out);
	seen_free(&stats);
	seen_free(&status);
	seen_free(&workers);
}

static int setup(void **state)
{
	*state = rig_new();
	return 0;
}

static int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

#define RIGGED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(json_escapes),
	        cmocka_unit_test(doc_refuses_what_is_no_object),
	        RIGGED(status_has_what_is_promised),
	        RIGGED(state_follows_the_workers),
	        RIGGED(a_dead_worker_is_named_beside_a_live_one),
	        RIGGED(a_jam_leads_to_its_beginning),
	        RIGGED(broken_shared_memory_harms_nothing),
	        RIGGED(a_lying_circle_ends),
	        RIGGED(edges_are_counted),
	        RIGGED(stats_add_up_workers_and_their_predecessors),
	        RIGGED(rates_come_from_the_ring),
	        RIGGED(workers_are_listed),
	        RIGGED(audit_says_what_the_books_say),
	        RIGGED(prometheus_escapes_and_names_types),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
