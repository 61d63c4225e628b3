/*
 * Columns for people: see table.h.
 *
 * Widths are counted in a terminal's columns (wcwidth), not bytes, so that names in any script line
 * up. A program in the C locale counts bytes above 127 as one column each, as its terminal shows
 * them.
 */
#include "daemon/table.h"

#include <math.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

static const char *const color_codes[] = {
        [TABLE_PLAIN] = "",       [TABLE_GOOD] = "\033[32m", [TABLE_WARN] = "\033[33m",
        [TABLE_BAD] = "\033[31m", [TABLE_DIM] = "\033[2m",
};

/* Bytes and columns of the character at @p. Bytes that are no character count as one. */
static size_t character(const char *p, size_t len, size_t *width)
{
	mbstate_t st = {0};
	wchar_t wc;
	size_t n = mbrtowc(&wc, p, len, &st);
	*width = 1;
	if (n == 0 || n > len)
		return 1;
	int w = wcwidth(wc);
	if (w >= 0)
		*width = (size_t)w;
	return n;
}

size_t table_width(const char *text, size_t len)
{
	size_t sum = 0;
	while (len > 0) {
		size_t w, n = character(text, len, &w);
		sum += w;
		text += n;
		len -= n;
	}
	return sum;
}

/* Bytes of @text that fit @width columns. */
static size_t fitting(const char *text, size_t len, size_t width)
{
	size_t at = 0, used = 0;
	while (at < len) {
		size_t w, n = character(text + at, len - at, &w);
		if (used + w > width)
			break;
		used += w;
		at += n;
	}
	return at;
}

static bool is_control(const char *p, size_t left)
{
	unsigned char c = (unsigned char)p[0];
	/* C1 as UTF-8: C2 80 to C2 9F */
	return c < 0x20 || c == 0x7f || (c == 0xc2 && left > 1 && ((unsigned char)p[1]) < 0xa0);
}

static void add_harmless(struct buf *out, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (!is_control(text + i, len - i)) {
			buf_add_byte(out, (uint8_t)text[i]);
			continue;
		}
		buf_add_byte(out, '?');
		i += (unsigned char)text[i] == 0xc2;
	}
}

void table_add(struct buf *out, const char *text, size_t len, enum table_color color, bool use)
{
	bool coloured = use && color != TABLE_PLAIN;
	if (coloured)
		buf_add_str(out, color_codes[color]);
	add_harmless(out, text, len);
	if (coloured)
		buf_add_str(out, "\033[0m");
}

void table_columns(struct table *t, const char *const *titles, unsigned n)
{
	t->n_columns = n < TABLE_COLUMNS_MAX ? n : TABLE_COLUMNS_MAX;
	for (unsigned i = 0; i < t->n_columns; i++) {
		t->columns[i].right = titles[i][0] == '>';
		t->columns[i].title = titles[i] + t->columns[i].right;
	}
}

void table_cell_text(struct table *t, enum table_color color, const char *text, size_t len)
{
	struct table_cell c = {.at = t->text.len, .color = color};
	add_harmless(&t->text, text, len);
	c.len = t->text.len - c.at;
	if (c.len)
		c.width = table_width((const char *)t->text.p + c.at, c.len);
	if (buf_add(&t->cells, &c, sizeof(c)) < 0)
		t->error = -ENOMEM;
}

void table_cell(struct table *t, enum table_color color, const char *fmt, ...)
{
	char s[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(s, sizeof(s), fmt, ap);
	va_end(ap);
	table_cell_text(t, color, s, strlen(s));
}

static size_t n_cells(const struct table *t)
{
	return t->cells.len / sizeof(struct table_cell);
}

static const struct table_cell *cell(const struct table *t, size_t i)
{
	return (const struct table_cell *)(void *)t->cells.p + i;
}

static const char *cell_text(const struct table *t, size_t i)
{
	return cell(t, i)->len ? (const char *)t->text.p + cell(t, i)->at : "";
}

static void measure(const struct table *t, size_t *widths)
{
	for (unsigned c = 0; c < t->n_columns; c++)
		widths[c] = table_width(t->columns[c].title, strlen(t->columns[c].title));
	for (size_t i = 0; i < n_cells(t); i++) {
		size_t *w = &widths[i % t->n_columns];
		if (cell(t, i)->width > *w)
			*w = cell(t, i)->width;
	}
}

static void pad(struct buf *out, size_t n)
{
	while (n-- > 0)
		buf_add_byte(out, ' ');
}

/* What one cell needs to be printed. */
struct place {
	size_t width;
	bool right, last;
	size_t most; /* columns left on the line; 0: no limit */
};

static void print_cell(struct buf *out, const char *text, size_t len, struct place at,
                       enum table_color color, bool use)
{
	size_t width = table_width(text, len);
	if (at.last && at.most && width > at.most) {
		len = fitting(text, len, at.most);
		width = at.most;
	}
	if (at.right && width < at.width)
		pad(out, at.width - width);
	table_add(out, text, len, color, use);
	if (!at.right && !at.last && width < at.width)
		pad(out, at.width - width);
}

static void print_row(const struct table *t, size_t row, const size_t *widths, bool color,
                      unsigned width, struct buf *out)
{
	size_t used = 0;
	for (unsigned c = 0; c < t->n_columns; c++) {
		struct place at = {widths[c], t->columns[c].right, c + 1 == t->n_columns, 0};
		size_t i = row * t->n_columns + c;
		if (width && at.last)
			at.most = width > used ? width - used : 1;
		if (row == SIZE_MAX)
			print_cell(out, t->columns[c].title, strlen(t->columns[c].title), at,
			           TABLE_DIM, color);
		else if (i < n_cells(t))
			print_cell(out, cell_text(t, i), cell(t, i)->len, at, cell(t, i)->color,
			           color);
		if (!at.last)
			pad(out, 2);
		used += widths[c] + 2;
	}
	while (out->len > 0 && out->p[out->len - 1] == ' ')
		out->len--;
	buf_add_byte(out, '\n');
}

void table_print(const struct table *t, bool color, unsigned width, struct buf *out)
{
	size_t widths[TABLE_COLUMNS_MAX];
	if (t->error || t->n_columns == 0)
		return;
	measure(t, widths);
	print_row(t, SIZE_MAX, widths, color, width, out);
	for (size_t row = 0; row * t->n_columns < n_cells(t); row++)
		print_row(t, row, widths, color, width, out);
}

void table_deinit(struct table *t)
{
	buf_deinit(&t->cells);
	buf_deinit(&t->text);
	*t = (struct table){0};
}

bool table_wants_color(int fd)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
	return !(no && *no) && isatty(fd) && !(term && strcmp(term, "dumb") == 0);
}

static struct winsize window(int fd)
{
	struct winsize w = {0};
	if (isatty(fd) && ioctl(fd, TIOCGWINSZ, &w) < 0)
		w = (struct winsize){0};
	return w;
}

unsigned table_terminal_width(int fd)
{
	return window(fd).ws_col;
}

unsigned table_terminal_height(int fd)
{
	return window(fd).ws_row;
}

/* Three digits that count. */
static void scaled(char *s, double n, double step, const char *const *units, unsigned n_units)
{
	unsigned u = 0;
	while (fabs(n) >= step - 0.5 && u + 1 < n_units) {
		n /= step;
		u++;
	}
	int digits = u == 0 && n == floor(n) ? 0 : fabs(n) < 9.995 ? 2 : fabs(n) < 99.95 ? 1 : 0;
	snprintf(s, TABLE_NUMBER_MAX, "%.*f%s%s", digits, n, *units[u] ? " " : "", units[u]);
}

char *table_count(char s[TABLE_NUMBER_MAX], double n)
{
	static const char *const units[] = {"", "k", "M", "G", "T", "P"};
	scaled(s, n, 1000, units, 6);
	return s;
}

char *table_bytes(char s[TABLE_NUMBER_MAX], double bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	scaled(s, bytes, 1024, units, 6);
	return s;
}

char *table_micros(char s[TABLE_NUMBER_MAX], double us)
{
	static const char *const units[] = {"us", "ms", "s"};
	scaled(s, us, 1000, units, 3);
	return s;
}

char *table_seconds(char s[TABLE_NUMBER_MAX], double seconds)
{
	unsigned long long n = seconds > 0 && seconds < 1e15 ? (unsigned long long)seconds : 0;
	if (n < 60)
		snprintf(s, TABLE_NUMBER_MAX, "%.1f s", seconds > 0 && seconds < 60 ? seconds : 0);
	else if (n < 3600)
		snprintf(s, TABLE_NUMBER_MAX, "%llu min %llu s", n / 60, n % 60);
	else if (n < 86400)
		snprintf(s, TABLE_NUMBER_MAX, "%llu h %llu min", n / 3600, n / 60 % 60);
	else
		snprintf(s, TABLE_NUMBER_MAX, "%llu d %llu h", n / 86400, n / 3600 % 24);
	return s;
}
