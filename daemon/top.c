/*
 * The live view: states, rates and queues, drawn again every second with plain terminal codes.
 *
 * The alternate screen is used, so leaving gives back what was there; the terminal is put back in
 * order by every way out: q, Ctrl-C, a signal, a daemon that went away. Each line ends with "clear
 * to the end of the line", so nothing flickers. Without a terminal one picture is printed and that
 * is all.
 *
 * Limit: lines below the screen's last are not shown; make the window larger, or use status and
 * stats.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "daemon/ctl.h"

static volatile sig_atomic_t asked_to_leave;
static volatile sig_atomic_t resized;

static void on_signal(int sig)
{
	if (sig == SIGWINCH)
		resized = 1;
	else
		asked_to_leave = 1;
}

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal};
	const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH};
	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &sa, NULL);
}

/* The whole picture: status above, stats below. */
static int picture(struct ctl *ctl, struct buf *out)
{
	static const char *const status[] = {"status"}, *const stats[] = {"stats"};
	int r = ctl_ask(ctl, status, 1);
	if (r != CTL_FINE)
		return r;
	out->len = 0;
	ctl_show_status(ctl, ctl->answer, out);
	buf_add_byte(out, '\n');
	r = ctl_ask(ctl, stats, 1);
	if (r == CTL_FINE)
		ctl_show_stats(ctl, ctl->answer, out);
	return r;
}

/* Draws as many lines as the screen has. */
static void draw(const struct buf *text, unsigned height, double seconds)
{
	_cleanup_(buf_deinit) struct buf screen = {0};
	const char *p = (const char *)text->p, *end = p + text->len;
	buf_add_str(&screen, "\033[H");
	for (unsigned row = 1; p < end && (height == 0 || row < height); row++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		size_t n = nl ? (size_t)(nl - p) : (size_t)(end - p);
		buf_add(&screen, p, n);
		buf_add_str(&screen, "\033[K\r\n");
		p += n + 1;
	}
	buf_printf(&screen, "\033[2mevery %g s; q leaves\033[0m\033[K\033[J", seconds);
	ctl_out(&screen);
}

/* Waits for the next picture. False: the user leaves. */
static bool wait_for_next(double seconds)
{
	struct pollfd in = {.fd = 0, .events = POLLIN};
	char key = 0;
	int r = poll(&in, 1, (int)(seconds * 1000));
	if (r > 0 && read(0, &key, 1) <= 0)
		return false;
	return !asked_to_leave && key != 'q' && key != 'Q' && key != 3;
}

static int loop(struct ctl *ctl, double seconds)
{
	_cleanup_(buf_deinit) struct buf text = {0};
	do {
		int r = picture(ctl, &text);
		if (r != CTL_FINE)
			return r;
		if (resized)
			fputs("\033[2J", stdout);
		resized = 0;
		draw(&text, table_terminal_height(1), seconds);
	} while (wait_for_next(seconds));
	return CTL_FINE;
}

static int once(struct ctl *ctl)
{
	_cleanup_(buf_deinit) struct buf text = {0};
	int r = picture(ctl, &text);
	if (r == CTL_FINE)
		ctl_out(&text);
	return r;
}

int top_run(struct ctl *ctl, double seconds)
{
	struct termios before, raw;
	if (!isatty(1) || tcgetattr(0, &before) < 0)
		return once(ctl);
	catch_signals();
	raw = before;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tcsetattr(0, TCSANOW, &raw);
	fputs("\033[?1049h\033[?25l", stdout);
	int r = loop(ctl, seconds);
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	tcsetattr(0, TCSANOW, &before);
	return r;
}
