/*
 * The SQLite consumer: values exact, rows exactly once though its process is killed.
 */
#include "tests/unit/files.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "stages/consumers/sqlite.h"

enum {
	ROOM = 65536,
};

static char *dir;

static int make_dir(void **state)
{
	(void)state;
	dir = files_dir();
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	files_remove(dir);
	return 0;
}

struct run {
	struct test_host *host;
	struct stage st;
	struct sqlite_config config;
	struct codec json;
	const char *keys[2];
};

static void run_make(struct run *r)
{
	memset(r, 0, sizeof(*r));
	r->host = host_new(ROOM);
	r->config = (struct sqlite_config){.path = files_name(dir, "db"),
	                                   .table = "t",
	                                   .create = true,
	                                   .synchronous = 0,
	                                   .busy_timeout = 1000000};
	host_stage(r->host, &r->st, stage_find(STAGE_CONSUMER, "sqlite"), &r->config);
	r->st.commit_id = (struct commit_id){.epoch = {1, 2, 3}, .worker = 5, .number = 1};
	files_codec(&r->json, "json", ROOM);
}

static void run_open(struct run *r)
{
	assert_int_equal(r->st.ops->open(&r->st), 0);
}

static void run_free(struct run *r)
{
	r->st.ops->close(&r->st);
	free(r->st.state);
	files_codec_free(&r->json);
	host_free(r->host);
}

/* Consumes JSON text as a record. */
static int take(struct run *r, const char *text)
{
	uint8_t rec[4096];
	size_t len = 0;
	struct codec_window w = {.p = (const uint8_t *)text,
	                         .end = (const uint8_t *)text + strlen(text),
	                         .last = true};
	assert_int_equal(r->json.ops->decode(&r->json, &w, rec, sizeof(rec), &len), CODEC_E_OK);
	return r->st.ops->consume(&r->st, rec, len);
}

static void unit(struct run *r, const char *text)
{
	assert_int_equal(r->st.ops->begin(&r->st), 0);
	int answer = take(r, text);
	if (answer != 0)
		fail_msg("%s: %s", text, r->st.why);
	assert_int_equal(r->st.ops->finish(&r->st), 0);
	assert_int_equal(r->st.ops->commit(&r->st), 0);
	r->st.commit_id.number++;
}

/* What a query says, columns by |, rows by newline; read by a connection of its own. */
static const char *ask(const char *sql)
{
	static char text[4096];
	sqlite3 *db;
	sqlite3_stmt *stmt;
	text[0] = 0;
	assert_int_equal(sqlite3_open(files_name(dir, "db"), &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		if (text[0])
			strcat(text, "\n");
		for (int i = 0; i < sqlite3_column_count(stmt); i++) {
			const char *v = (const char *)sqlite3_column_text(stmt, i);
			assert_true(strlen(text) + 100 < sizeof(text));
			strcat(text, i ? "|" : "");
			strncat(text, v ? v : "NULL", 80);
		}
	}
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	return text;
}

static void ask_do(const char *sql)
{
	sqlite3 *db;
	assert_int_equal(sqlite3_open(files_name(dir, "db"), &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

/* ---- values ------------------------------------------------------------------------------------
 */

static void test_values(void **state)
{
	(void)state;
	struct run r;
	run_make(&r);
	run_open(&r);
	unit(&r, "{\"a\":1,\"b\":\"007\",\"c\":0.5,\"d\":true,\"e\":null,"
	         "\"f\":[1,{\"x\":\"y\"}],\"g\":{\"h\":[]}}");
	assert_string_equal(ask("SELECT a,b,c,d,e,f,g FROM t"),
	                    "1|007|0.5|1|NULL|[1,{\"x\":\"y\"}]|{\"h\":[]}");
	assert_string_equal(
	        ask("SELECT typeof(a),typeof(b),typeof(c),typeof(d),typeof(e),typeof(f) FROM t"),
	        "integer|text|real|integer|null|text");
	/* every value as it came, whatever stood in the column before */
	unit(&r, "{\"a\":\"00123\",\"b\":5,\"c\":9007199254740993}");
	assert_string_equal(ask("SELECT a,b,c,d FROM t WHERE rowid=2"),
	                    "00123|5|9007199254740993|NULL");
	assert_string_equal(ask("SELECT typeof(a),typeof(b),typeof(c) FROM t WHERE rowid=2"),
	                    "text|integer|integer");
	unit(&r,
	     "{\"a\":18446744073709551615,\"b\":9223372036854775807,\"c\":-9223372036854775808}");
	assert_string_equal(ask("SELECT a,typeof(a),b,c FROM t WHERE rowid=3"),
	                    "18446744073709551615|text|9223372036854775807|-9223372036854775808");
	run_free(&r);
}

static void test_new_columns(void **state)
{
	(void)state;
	struct run r;
	run_make(&r);
	run_open(&r);
	unit(&r, "{\"a\":1}");
	unit(&r, "{\"b \\\"q\\\"\":2,\"a\":3}");
	unit(&r, "{\"a\":4}");
	assert_string_equal(ask("SELECT * FROM t"), "1|NULL\n3|2\n4|NULL");
	/* undone with its unit, and made again */
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	assert_int_equal(take(&r, "{\"c\":5}"), 0);
	r.st.ops->rollback(&r.st);
	assert_string_equal(ask("SELECT count(*) FROM pragma_table_info('t')"), "2");
	unit(&r, "{\"c\":6}");
	assert_string_equal(ask("SELECT c FROM t WHERE c IS NOT NULL"), "6");
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	assert_int_equal(take(&r, "{\"A\":7,\"a\":8}"), STAGE_E_REJECT);
	assert_int_equal(take(&r, "{}"), 0); /* a row of nothing */
	r.st.ops->rollback(&r.st);
	/* somebody else adds the column first */
	ask_do("ALTER TABLE t ADD COLUMN d");
	run_free(&r);
	run_make(&r);
	run_open(&r);
	unit(&r, "{\"d\":9}");
	assert_string_equal(ask("SELECT d FROM t WHERE d IS NOT NULL"), "9");
	run_free(&r);
}

static void test_upsert(void **state)
{
	(void)state;
	struct run r;
	run_make(&r);
	r.keys[0] = "id";
	r.config.key = (struct strings){r.keys, 1};
	run_open(&r);
	unit(&r, "{\"id\":1,\"v\":\"a\"}");
	unit(&r, "{\"id\":2,\"v\":\"b\"}");
	unit(&r, "{\"id\":1,\"v\":\"c\",\"w\":1}");
	assert_string_equal(ask("SELECT id,v,w FROM t ORDER BY id"), "1|c|1\n2|b|NULL");
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	assert_int_equal(take(&r, "{\"v\":\"x\"}"), STAGE_E_REJECT);
	assert_int_equal(take(&r, "{\"id\":null}"), STAGE_E_REJECT);
	r.st.ops->rollback(&r.st);
	run_free(&r);
}

/* One bad record costs itself, not its unit. */
static void test_constraint(void **state)
{
	(void)state;
	struct run r;
	ask_do("CREATE TABLE t(a INTEGER NOT NULL UNIQUE, b TEXT DEFAULT 'kept', n INTEGER)");
	run_make(&r);
	run_open(&r);
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	assert_int_equal(take(&r, "{\"a\":1}"), 0);
	assert_int_equal(take(&r, "{\"a\":1}"), STAGE_E_REJECT);
	assert_non_null(strstr(r.st.why, "UNIQUE"));
	assert_int_equal(take(&r, "{\"a\":2}"), 0);
	assert_int_equal(take(&r, "{\"a\":18446744073709551615}"), STAGE_E_REJECT);
	assert_int_equal(r.st.ops->finish(&r.st), 0);
	assert_int_equal(r.st.ops->commit(&r.st), 0);
	assert_string_equal(ask("SELECT a,b FROM t"), "1|kept\n2|kept");
	run_free(&r);
}

static void test_given(void **state)
{
	(void)state;
	struct run r;
	struct sqlite_given given[] = {
	        {.name = "id", .path = "id", .type = SQLITE_TYPE_INTEGER},
	        {.name = "country", .path = "user.country", .type = SQLITE_TYPE_TEXT},
	};
	run_make(&r);
	r.config.given = given;
	r.config.n_given = 2;
	run_open(&r);
	unit(&r, "{\"id\":\"7\",\"user\":{\"country\":\"CH\",\"x\":1},\"other\":2}");
	unit(&r, "{\"id\":8}");
	assert_string_equal(ask("SELECT *, typeof(id) FROM t"), "7|CH|integer\n8|NULL|integer");
	run_free(&r);
	run_make(&r);
	r.config.table = "missing";
	r.config.create = false;
	run_open(&r);
	assert_int_equal(r.st.ops->begin(&r.st), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r.st.why, "missing"));
	r.st.ops->rollback(&r.st);
	run_free(&r);
}

static void test_busy(void **state)
{
	(void)state;
	struct run r;
	sqlite3 *other;
	run_make(&r);
	run_open(&r);
	unit(&r, "{\"a\":1}");
	assert_int_equal(sqlite3_open(files_name(dir, "db"), &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(r.st.ops->begin(&r.st), STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r.st.why, "locked"));
	r.st.ops->rollback(&r.st);
	sqlite3_close(other);
	unit(&r, "{\"a\":2}");
	assert_string_equal(ask("SELECT a FROM t"), "1\n2");
	run_free(&r);
}

/* No room: nothing of the unit is left, and it can be done again. */
static void test_full(void **state)
{
	(void)state;
	struct run r;
	char text[3000];
	int answer = 0;
	memset(text, 'x', sizeof(text));
	memcpy(text, "{\"a\":\"", 6);
	memcpy(text + sizeof(text) - 3, "\"}", 3);
	run_make(&r);
	run_open(&r);
	unit(&r, "{\"a\":1}");
	struct sqlite_state *s = r.st.state;
	assert_int_equal(sqlite3_exec(s->db, "PRAGMA max_page_count=20", NULL, NULL, NULL),
	                 SQLITE_OK);
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	for (int i = 0; i < 100 && answer == 0; i++)
		answer = take(&r, text);
	assert_int_equal(answer, STAGE_E_UNREACHABLE);
	assert_non_null(strstr(r.st.why, "full"));
	r.st.ops->rollback(&r.st);
	assert_string_equal(ask("SELECT count(*) FROM t"), "1");
	sqlite3_exec(s->db, "PRAGMA max_page_count=10000", NULL, NULL, NULL);
	unit(&r, text);
	assert_string_equal(ask("SELECT count(*) FROM t"), "2");
	run_free(&r);
}

/* ---- kills -------------------------------------------------------------------------------------
 */

enum moment {
	IN_UNIT,
	AFTER_FINISH,
	AFTER_COMMIT,
	MOMENTS,
};

/* A worker that dies by SIGKILL at @m of unit @number. */
static void die(enum moment m, uint64_t number)
{
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct run r;
		run_make(&r);
		r.st.commit_id.number = number;
		if (r.st.ops->open(&r.st) || r.st.ops->begin(&r.st))
			_exit(1);
		for (int i = 0; i < 100; i++)
			if (take(&r, "{\"a\":1,\"b\":\"text\"}"))
				_exit(1);
		if (m >= AFTER_FINISH && r.st.ops->finish(&r.st))
			_exit(1);
		if (m >= AFTER_COMMIT && r.st.ops->commit(&r.st))
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

static void test_kills(void **state)
{
	(void)state;
	struct run r;
	unsigned rows = 0;
	for (uint64_t number = 1; number <= 12; number++) {
		enum moment m = (enum moment)(number % MOMENTS);
		die(m, number);
		run_make(&r);
		run_open(&r);
		r.st.commit_id.number = number;
		int in = r.st.ops->committed(&r.st, &r.st.commit_id);
		assert_int_equal(in, m == AFTER_COMMIT);
		rows += in ? 100 : 0;
		char text[16];
		snprintf(text, sizeof(text), "%u", rows);
		if (rows)
			assert_string_equal(ask("SELECT count(*) FROM t"), text);
		struct commit_id other = r.st.commit_id;
		other.epoch[0]++;
		assert_int_equal(r.st.ops->committed(&r.st, &other), 0);
		other = r.st.commit_id;
		other.worker++;
		assert_int_equal(r.st.ops->committed(&r.st, &other), 0);
		run_free(&r);
	}
	assert_int_equal(rows, 400);
}

/* However long ago it was, and whatever the clock says: only what other arenas left is forgotten.
 */
static void test_old_commits(void **state)
{
	(void)state;
	struct run r;
	die(AFTER_COMMIT, 8);
	ask("UPDATE sluice_commits SET at = 5");
	run_make(&r);
	run_open(&r);
	r.st.commit_id.number = 8;
	assert_int_equal(r.st.ops->committed(&r.st, &r.st.commit_id), 1);
	run_free(&r);
	run_make(&r);
	r.st.commit_id.epoch[0]++;
	run_open(&r);
	assert_string_equal(ask("SELECT count(*) FROM sluice_commits"), "0");
	run_free(&r);
}

/* A transaction that is gone must never look committed. */
static void test_lost_transaction(void **state)
{
	(void)state;
	struct run r;
	run_make(&r);
	run_open(&r);
	unit(&r, "{\"a\":1}");
	assert_int_equal(r.st.ops->begin(&r.st), 0);
	assert_int_equal(take(&r, "{\"a\":2}"), 0);
	struct sqlite_state *s = r.st.state;
	sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	assert_int_equal(take(&r, "{\"a\":3}"), STAGE_E_UNREACHABLE);
	assert_int_equal(r.st.ops->finish(&r.st), STAGE_E_UNREACHABLE);
	assert_int_equal(r.st.ops->commit(&r.st), -EIO);
	r.st.ops->rollback(&r.st);
	unit(&r, "{\"a\":4}");
	assert_string_equal(ask("SELECT a FROM t"), "1\n4");
	run_free(&r);
}

/* Prints a figure; checks what was stored, for the machine may be busy. */
static void test_speed(void **state)
{
	(void)state;
	struct run r;
	uint8_t rec[128];
	struct timespec a;
	struct timespec b;
	const unsigned rows = 200000;
	run_make(&r);
	r.config.synchronous = 1;
	run_open(&r);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	for (unsigned i = 0; i < rows;) {
		assert_int_equal(r.st.ops->begin(&r.st), 0);
		for (unsigned k = 0; k < 5000; k++, i++) {
			uint8_t *o = mp_write_map_head(rec, 5);
			o = mp_write_uint(mp_write_str(o, "id", 2), i);
			o = mp_write_str(mp_write_str(o, "name", 4), "somebody", 8);
			o = mp_write_uint(mp_write_str(o, "amount", 6), i * 17);
			o = mp_write_float(mp_write_str(o, "price", 5), i * 0.5);
			o = mp_write_str(mp_write_str(o, "country", 7), "CH", 2);
			assert_int_equal(r.st.ops->consume(&r.st, rec, (size_t)(o - rec)), 0);
		}
		assert_int_equal(r.st.ops->finish(&r.st), 0);
		assert_int_equal(r.st.ops->commit(&r.st), 0);
		r.st.commit_id.number++;
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	print_message("%.0f rows of 5 columns per second of CPU\n", rows / s);
	assert_string_equal(ask("SELECT count(*), sum(id) FROM t"), "200000|19999900000");
	run_free(&r);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_values),      TEST(test_new_columns), TEST(test_upsert),
	        TEST(test_constraint),  TEST(test_given),       TEST(test_busy),
	        TEST(test_full),        TEST(test_kills),       TEST(test_lost_transaction),
	        TEST(test_old_commits), TEST(test_speed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
