/*
 * Columns: alignment, widths of wide and broken characters, colours only when asked, numbers for
 * people.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <locale.h>

#include "daemon/table.h"

static void check(const struct table *t, bool color, unsigned width, const char *want)
{
	struct buf out = {0};
	table_print(t, color, width, &out);
	assert_int_equal(buf_add_byte(&out, 0), 0);
	assert_string_equal((char *)out.p, want);
	buf_deinit(&out);
}

static void columns(struct table *t)
{
	static const char *const titles[] = {"NAME", ">N", "WHY"};
	table_columns(t, titles, 3);
}

static void numbers_to_the_right(void **state)
{
	struct table t = {0};
	(void)state;
	columns(&t);
	table_cell(&t, TABLE_PLAIN, "a");
	table_cell(&t, TABLE_PLAIN, "%d", 12345);
	table_cell(&t, TABLE_PLAIN, "because");
	table_cell(&t, TABLE_PLAIN, "longer");
	table_cell(&t, TABLE_PLAIN, "7");
	table_cell(&t, TABLE_PLAIN, "%s", "");
	check(&t, false, 0, "NAME        N  WHY\na       12345  because\nlonger      7\n");
	table_deinit(&t);
}

static void the_last_column_is_cut(void **state)
{
	struct table t = {0};
	(void)state;
	columns(&t);
	table_cell(&t, TABLE_PLAIN, "a");
	table_cell(&t, TABLE_PLAIN, "1");
	table_cell(&t, TABLE_PLAIN, "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac");
	check(&t, false, 12, "NAME  N  WHY\na     1  \xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\n");
	table_deinit(&t);
}

static void wide_characters_line_up(void **state)
{
	struct table t = {0};
	(void)state;
	columns(&t);
	table_cell(&t, TABLE_PLAIN,
	           "\xe6\xbc\xa2\xe5\xad\x97\xe5"); /* two wide ones, half a third */
	table_cell(&t, TABLE_PLAIN, "1");
	table_cell(&t, TABLE_PLAIN, "x");
	check(&t, false, 0, "NAME   N  WHY\n\xe6\xbc\xa2\xe5\xad\x97\xe5  1  x\n");
	table_deinit(&t);
}

static void colour_only_when_asked(void **state)
{
	struct table t = {0};
	(void)state;
	columns(&t);
	table_cell(&t, TABLE_BAD, "a");
	table_cell(&t, TABLE_PLAIN, "1");
	table_cell(&t, TABLE_PLAIN, "x");
	check(&t, false, 0, "NAME  N  WHY\na     1  x\n");
	check(&t, true, 0,
	      "\033[2mNAME\033[0m  \033[2mN\033[0m  \033[2mWHY\033[0m\n\033[31ma\033[0m     1  "
	      "x\n");
	table_deinit(&t);
}

/* Text from outside must not move the cursor. */
static void control_characters_are_harmless(void **state)
{
	struct table t = {0};
	(void)state;
	columns(&t);
	table_cell(&t, TABLE_PLAIN, "a\033[2Jb\xc2\x9b");
	table_cell(&t, TABLE_PLAIN, "1\n2");
	table_cell(&t, TABLE_PLAIN, "\r\177");
	check(&t, false, 0, "NAME       N  WHY\na?[2Jb?  1?2  ??\n");
	table_deinit(&t);
}

static void no_rows(void **state)
{
	struct table t = {0};
	(void)state;
	columns(&t);
	check(&t, false, 80, "NAME  N  WHY\n");
	table_deinit(&t);
}

static void counts(void **state)
{
	char s[TABLE_NUMBER_MAX];
	(void)state;
	assert_string_equal(table_count(s, 0), "0");
	assert_string_equal(table_count(s, 999), "999");
	assert_string_equal(table_count(s, 1000), "1.00 k");
	assert_string_equal(table_count(s, 1234567), "1.23 M");
	assert_string_equal(table_count(s, 12.345), "12.3");
	assert_string_equal(table_count(s, 999999), "1.00 M");
	assert_string_equal(table_count(s, 123456), "123 k");
}

static void bytes_and_times(void **state)
{
	char s[TABLE_NUMBER_MAX];
	(void)state;
	assert_string_equal(table_bytes(s, 1023), "1023 B");
	assert_string_equal(table_bytes(s, 1024), "1.00 KiB");
	assert_string_equal(table_bytes(s, 64.0 * 1024 * 1024), "64.0 MiB");
	assert_string_equal(table_micros(s, 12), "12 us");
	assert_string_equal(table_micros(s, 1500), "1.50 ms");
	assert_string_equal(table_micros(s, 2.5e6), "2.50 s");
	assert_string_equal(table_seconds(s, 12.34), "12.3 s");
	assert_string_equal(table_seconds(s, 192), "3 min 12 s");
	assert_string_equal(table_seconds(s, 11520), "3 h 12 min");
	assert_string_equal(table_seconds(s, 2 * 86400 + 3700), "2 d 1 h");
	assert_string_equal(table_seconds(s, -5), "0.0 s");
}

int main(void)
{
	if (!setlocale(LC_CTYPE, "C.UTF-8")) {
		puts("SKIPPED: no locale C.UTF-8 here");
		return 0;
	}
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(numbers_to_the_right),
	        cmocka_unit_test(the_last_column_is_cut),
	        cmocka_unit_test(wide_characters_line_up),
	        cmocka_unit_test(colour_only_when_asked),
	        cmocka_unit_test(control_characters_are_harmless),
	        cmocka_unit_test(no_rows),
	        cmocka_unit_test(counts),
	        cmocka_unit_test(bytes_and_times),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
