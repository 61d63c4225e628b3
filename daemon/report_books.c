/*
 * audit: the conservation law, for the whole and for each pipeline.
 *
 *     received + made + replayed = delivered + filtered + absorbed + dead + dropped + in flight (+
 * aside)
 *
 * The figures are read by books_audit, which looks until nothing moved while it looked. Under heavy
 * load the whole may never hold still where each pipeline does; since every pipeline's equation is
 * exact by itself, their sum then stands for the whole.
 */
#include "daemon/report.h"

static const enum book shown[] = {BOOK_received, BOOK_made,     BOOK_replayed, BOOK_delivered,
                                  BOOK_filtered, BOOK_absorbed, BOOK_dead,     BOOK_dropped};

static void write_books(const struct books *b, struct json *j)
{
	json_bool(j, "balanced", b->balanced);
	for (size_t i = 0; i < sizeof(shown) / sizeof(*shown); i++)
		json_uint(j, stats_book_name[shown[i]], b->book[shown[i]]);
	json_uint(j, "in_flight", b->in_flight);
	json_uint(j, "aside", b->aside);
}

static void write_pipeline(const struct master *m, unsigned pipeline, const struct books *b,
                           struct json *j)
{
	json_open(j, NULL, '{');
	json_uint(j, "pipeline", pipeline);
	json_open(j, "stages", '[');
	for (unsigned i = 0; i < m->config->n_stages; i++)
		if (m->config->stages[i].pipeline == pipeline)
			json_text(j, NULL, m->config->stages[i].name);
	json_close(j, ']');
	write_books(b, j);
	json_uint(j, "moved_in", b->moved > 0 ? (uint64_t)b->moved : 0);
	json_uint(j, "moved_out", b->moved < 0 ? (uint64_t)-b->moved : 0);
	json_close(j, '}');
}

static void sum_up(struct books *sum, const struct books *b)
{
	for (unsigned i = 0; i < BOOK_COUNT; i++)
		sum->book[i] += b->book[i];
	sum->in_flight += b->in_flight;
	sum->aside += b->aside;
	sum->balanced = sum->balanced && b->balanced;
}

bool report_audit(const struct master *m, struct json *j)
{
	unsigned n = m->config->n_pipelines;
	struct books whole, sum = {.balanced = true};
	_cleanup_free_ struct books *each = calloc(n ? n : 1, sizeof(*each));
	if (!each)
		return false;
	for (unsigned i = 0; i < n; i++) {
		if (books_audit(m, (int)i, &each[i]) != 0)
			return false;
		sum_up(&sum, &each[i]);
	}
	if (books_audit(m, -1, &whole) != 0)
		whole = sum;
	whole.balanced = whole.balanced && sum.balanced;
	json_open(j, NULL, '{');
	write_books(&whole, j);
	json_uint(j, "letters", whole.book[BOOK_letters]);
	json_open(j, "pipelines", '[');
	for (unsigned i = 0; i < n; i++)
		write_pipeline(m, i, &each[i], j);
	json_close(j, ']');
	json_close(j, '}');
	return true;
}
