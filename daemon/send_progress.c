/*
 * The progress of `sluicectl send`; see send_progress.h. The rate is that of the whole run: it is
 * there to say how long it will take, and that it lives.
 */
#include "daemon/send_progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	BAR_EVERY = 200,   /* ms */
	LINE_EVERY = 5000, /* ms */
	BAR_WIDTH = 30,
};

void send_progress_start(struct send_progress *p, bool quiet, uint64_t total, int64_t now)
{
	*p = (struct send_progress){.quiet = quiet,
	                            .terminal = isatty(STDERR_FILENO),
	                            .total = total,
	                            .started = now,
	                            .shown = now};
}

const char *send_progress_size(double bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	static char text[4][32];
	static unsigned turn;
	size_t u = 0;
	for (; bytes >= 1024 && u + 1 < sizeof(units) / sizeof(*units); u++)
		bytes /= 1024;
	char *out = text[turn++ % 4];
	snprintf(out, sizeof(text[0]), u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
	return out;
}

static void draw_bar(double share)
{
	char bar[BAR_WIDTH + 1];
	int full = (int)(share * BAR_WIDTH);
	memset(bar, ' ', BAR_WIDTH);
	memset(bar, '#', (size_t)full);
	bar[BAR_WIDTH] = 0;
	fprintf(stderr, "\r\033[K[%s] %3.0f %% ", bar, 100 * share);
}

void send_progress_show(struct send_progress *p, int64_t now)
{
	if (p->quiet || now - p->shown < (p->terminal ? BAR_EVERY : LINE_EVERY))
		return;
	p->shown = now;
	double seconds = (double)(now - p->started) / 1000;
	double rate = seconds > 0 ? (double)p->bytes / seconds : 0;
	double share = p->total ? (double)p->bytes / (double)p->total : 0;
	share = share > 1 ? 1 : share;
	if (p->terminal && p->total)
		draw_bar(share);
	else if (p->terminal)
		fprintf(stderr, "\r\033[K");
	fprintf(stderr, "%" PRIu64 " records, %s, %s/s", p->records,
	        send_progress_size((double)p->bytes), send_progress_size(rate));
	if (p->total && rate > 0) {
		double left = ((double)p->total - (double)p->bytes) / rate;
		int64_t s = left > 0 ? (int64_t)(left + 0.5) : 0;
		fprintf(stderr, ", ETA %" PRId64 ":%02" PRId64, s / 60, s % 60);
	}
	if (!p->terminal)
		fputc('\n', stderr);
	p->drawn = p->terminal;
	fflush(stderr);
}

void send_progress_clear(struct send_progress *p)
{
	if (p->drawn)
		fprintf(stderr, "\r\033[K");
	p->drawn = false;
}
