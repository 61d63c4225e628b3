/*
 * A look into the arena of a daemon that is stopped: what is in it, whether it is sound, its
 * records as text, and its repair.
 *
 * The hard idea: looking changes nothing, and yet shows the arena as the next start will find it.
 * The file is mapped privately: the repair that a start would do is done on that copy, and what
 * differs between before and after is the plan. Only --arena-repair --yes maps the file itself.
 *
 * A PREPARED intent stays as it is: whether it happened only the stage's own transaction knows, so
 * its chunks are shown as claimed, and the next start asks the stage.
 *
 * Limit: while a daemon runs nothing can be said; it is refused, naming its process.
 */
#include "daemon/offline.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "daemon/home_log.h"
#include "daemon/master.h"
#include "ipc/err.h"
#include "ipc/mp.h"
#include "stages/codec.h"

enum {
	SOUND,
	UNSOUND,
	NO_ARENA, /* or it cannot be looked at */
};

struct look {
	struct arena a;
	int lock_fd;
	const char *path;
	unsigned problems;
	struct codec json;
	struct buf line;
};

/* ---- opening ---- */

static bool lock(struct look *l, const char *path)
{
	char name[4096], pid[32] = "?";
	snprintf(name, sizeof(name), "%s.lock", path);
	l->lock_fd = open(name, O_RDONLY | O_CLOEXEC);
	if (l->lock_fd < 0 || flock(l->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return true;
	ssize_t n = pread(l->lock_fd, pid, sizeof(pid) - 1, 0);
	pid[n > 0 ? n : 0] = 0;
	pid[strcspn(pid, "\n")] = 0;
	fprintf(stderr, "sluiced: %s is in use: process %s holds %s; stop that daemon first\n",
	        path, pid, name);
	return false;
}

static int say_problem(const char *path, int r)
{
	if (r == ARENA_E_LAYOUT)
		fprintf(stderr,
		        "sluiced: %s was made by another version of sluiced: start that version, "
		        "run `sluicectl "
		        "drain` and stop it; then this one makes its own\n",
		        path);
	else if (r == ARENA_E_CORRUPT)
		fprintf(stderr,
		        "sluiced: %s is no arena, is cut off, or its header is damaged: move it "
		        "away to start "
		        "with an empty one; what was in flight in it cannot be read\n",
		        path);
	else
		fprintf(stderr, "sluiced: %s: %s\n", path, strerror(-r));
	return r > 0 ? UNSOUND : NO_ARENA;
}

/* SOUND when @l is open. */
static int open_arena(struct look *l, const struct config *cfg, bool change)
{
	*l = (struct look){.lock_fd = -1, .a.fd = -1, .path = cfg->arena_path};
	if (!cfg->arena_path) {
		fprintf(stderr,
		        "sluiced: %s has no arena.path: the arena is in memory and gone with its "
		        "daemon\n",
		        cfg->path);
		return NO_ARENA;
	}
	int fd = open(l->path, (change ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		return say_problem(l->path, err_errno());
	if (!lock(l, l->path)) {
		close(fd);
		return NO_ARENA;
	}
	int r = change ? arena_attach(&l->a, fd) : arena_look(&l->a, fd);
	if (r == 0)
		r = codec_init(&l->json, codec_find("json"), NULL, l->a.buffer_size);
	l->a.fd = fd;
	return r == 0 ? SOUND : say_problem(l->path, r);
}

static int close_arena(struct look *l, struct config *cfg, int status)
{
	int fd = l->a.fd;
	arena_detach(&l->a);
	if (fd >= 0)
		close(fd);
	if (l->lock_fd >= 0)
		close(l->lock_fd);
	codec_deinit(&l->json);
	buf_deinit(&l->line);
	config_free(cfg);
	return status;
}

/* ---- what there is ---- */

static const char *edge_name(const struct arena *a, uint32_t e, char *out, size_t size)
{
	const struct arena_edge *it = &a->h->edges[e < ARENA_EDGES_MAX ? e : 0];
	if (e >= ARENA_EDGES_MAX || !(atomic_load(&a->h->edges_used) >> e & 1))
		snprintf(out, size, "edge %u, which there is not", e);
	else
		snprintf(out, size, "%.*s->%.*s", ARENA_OUTPUT_MAX - 1, it->from,
		         ARENA_NAME_MAX - 1, it->to);
	return out;
}

static bool in_flight(struct word v)
{
	return v.state == WORD_QUEUED || v.state == WORD_CLAIMED;
}

/* Whether the entry can be what its word says; *@why otherwise. */
static bool plausible(const struct arena *a, uint32_t i, const char **why)
{
	struct word v = arena_word(a, i);
	const struct arena_facts *f = &a->facts[i];
	if (v.state > WORD_ASIDE)
		*why = "is in no state there is";
	else if (v.state == WORD_FREE || v.state == WORD_ASIDE)
		return true;
	else if (v.edge >= ARENA_EDGES_MAX || !(atomic_load(&a->h->edges_used) >> v.edge & 1))
		*why = "is on an edge that there is not";
	else if (v.state != WORD_QUEUED && v.owner >= a->workers)
		*why = "belongs to a worker that there is not";
	else if (v.state != WORD_FILLING &&
	         (f->bytes > a->buffer_size || f->reached_byte > f->bytes ||
	          f->reached_record > f->records))
		*why = "says that it is larger than a buffer";
	else if (in_flight(v) && !arena_verified(a, i))
		*why = "is torn or corrupt: its bytes are not what was sealed";
	else
		return true;
	return false;
}

static void say_geometry(const struct look *l)
{
	const uint8_t *e = l->a.h->epoch;
	printf("%s: %u buffers of %llu KiB, %u worker slots, epoch ", l->path, l->a.entries,
	       (unsigned long long)(l->a.buffer_size / 1024), l->a.workers);
	for (unsigned i = 0; i < 16; i++)
		printf("%02x%s", e[i], i == 3 || i == 5 || i == 7 || i == 9 ? "-" : "");
	printf("\nlast used %s\n", l->a.boot_changed ? "before the machine was started anew"
	                                             : "since the machine was started");
}

static void say_edge(const struct arena *a, uint32_t e)
{
	static const char *const names[] = {"free", "filling", "queued", "claimed", "aside"};
	uint64_t chunks[WORD_ASIDE + 1] = {0}, records = 0, bytes = 0, any = 0;
	char name[256];
	for (uint32_t i = 0; i < a->entries; i++) {
		struct word v = arena_word(a, i);
		const struct arena_facts *f = &a->facts[i];
		if (v.state == WORD_FREE || v.state > WORD_ASIDE || v.edge != e)
			continue;
		chunks[v.state]++;
		any++;
		if (v.state == WORD_FILLING)
			continue;
		records += arena_left(f);
		bytes += f->bytes > f->reached_byte ? f->bytes - f->reached_byte : 0;
	}
	if (!any)
		return;
	printf("edge %s: %llu records, %llu bytes in", edge_name(a, e, name, sizeof(name)),
	       (unsigned long long)records, (unsigned long long)bytes);
	const char *comma = " ";
	for (unsigned s = WORD_FILLING; s <= WORD_ASIDE; s++) {
		if (chunks[s])
			printf("%s%llu %s", comma, (unsigned long long)chunks[s], names[s]);
		comma = chunks[s] ? ", " : comma;
	}
	printf(" chunks\n");
}

static void say_intents(const struct arena *a)
{
	static const char *const names[] = {"open", "prepared", "committed"};
	unsigned n[3] = {0};
	for (uint32_t w = 0; w < a->workers; w++) {
		const struct arena_worker *s = arena_worker(a, w);
		uint32_t state = atomic_load(&s->intent.state);
		if (state > INTENT_COMMITTED || !s->stage[0])
			continue;
		n[state]++;
		if (state == INTENT_OPEN && intent_clean(a, w))
			continue;
		printf("worker %.*s[%u]: intent %s%s\n", ARENA_NAME_MAX - 1, s->stage, s->ordinal,
		       names[state],
		       state == INTENT_COMMITTED  ? ": the next start finishes it"
		       : state == INTENT_PREPARED ? ": the next start asks the stage how it ended"
		                                  : ": the next start undoes it");
	}
	printf("intents: %u open, %u prepared, %u committed\n", n[0], n[1], n[2]);
}

static void find_problems(struct look *l)
{
	for (uint32_t i = 0; i < l->a.entries; i++) {
		const char *why = NULL;
		if (plausible(&l->a, i, &why))
			continue;
		printf("PROBLEM: chunk %llu in entry %u (%u records) %s\n",
		       (unsigned long long)atomic_load(&l->a.numbers[i]), i, l->a.facts[i].records,
		       why);
		l->problems++;
	}
}

/* Does to this mapping what a start does to the file. */
static void repair_intents(struct arena *a)
{
	arena_retire_finish(a);
	for (uint32_t w = 0; w < a->workers; w++)
		intent_repair(a, w, NULL);
}

static void say_books(struct look *l)
{
	struct books b;
	if (books_of_arena(&l->a, &b) != 0) {
		printf("PROBLEM: the books never hold still\n");
		l->problems++;
		return;
	}
	printf("books:");
	for (unsigned i = 0; i < BOOK_COUNT; i++)
		if (b.book[i])
			printf(" %s %llu", stats_book_name[i], (unsigned long long)b.book[i]);
	printf(" in_flight %llu aside %llu: %s\n", (unsigned long long)b.in_flight,
	       (unsigned long long)b.aside, b.balanced ? "balanced" : "NOT balanced");
	l->problems += !b.balanced;
}

int offline_arena_check(struct config *cfg)
{
	struct look l;
	int r = open_arena(&l, cfg, false);
	if (r != SOUND)
		return close_arena(&l, cfg, r);
	say_geometry(&l);
	for (uint32_t e = 0; e < ARENA_EDGES_MAX; e++)
		say_edge(&l.a, e);
	printf("free: %u of %u buffers\n", arena_free(&l.a), l.a.entries);
	say_intents(&l.a);
	find_problems(&l);
	repair_intents(&l.a); /* the private copy: the books as they will be */
	say_books(&l);
	if (cfg->arena_sync && l.a.boot_changed)
		printf("with arena.sync the next start makes the arena anew from the log\n");
	printf(l.problems ? "NOT sound: %u problems\n" : "sound\n", l.problems);
	return close_arena(&l, cfg, l.problems ? UNSOUND : SOUND);
}

/* ---- export ---- */

static int put_record(struct look *l, FILE *f, const char *edge, bool aside, const uint8_t *rec,
                      size_t len)
{
	l->line.len = 0;
	int r = l->json.ops->encode(&l->json, rec, len, &l->line);
	if (r != 0)
		return r < 0 ? r : ARENA_E_CORRUPT;
	while (l->line.len && l->line.p[l->line.len - 1] == '\n')
		l->line.len--;
	bool fine = fprintf(f, "{\"edge\":\"%s\"%s,\"record\":", edge,
	                    aside ? ",\"aside\":true" : "") > 0 &&
	            fwrite(l->line.p, 1, l->line.len, f) == l->line.len && fputs("}\n", f) >= 0;
	return fine ? 0 : err_errno();
}

/* The records of one entry that are not done yet. A chunk that is no sequence of records ends where
 * it stops being one. */
static int put_entry(struct look *l, FILE *f, uint32_t i, bool aside, uint64_t *records)
{
	char edge[256];
	const struct arena_facts *fa = &l->a.facts[i];
	const uint8_t *p = arena_buffer(&l->a, i),
	              *end = p + (fa->bytes < l->a.buffer_size ? fa->bytes : l->a.buffer_size);
	edge_name(&l->a, arena_word(&l->a, i).edge, edge, sizeof(edge));
	p += fa->reached_byte <= (uint64_t)(end - p) ? fa->reached_byte : 0;
	for (uint32_t n = fa->reached_record; n < fa->records && p < end; n++) {
		const uint8_t *next = mp_skip(p, end);
		int r = next ? put_record(l, f, edge, aside, p, (size_t)(next - p))
		             : ARENA_E_CORRUPT;
		if (r < 0)
			return r;
		if (r != 0) {
			fprintf(stderr, "sluiced: entry %u: %u of its records cannot be read\n", i,
			        fa->records - n);
			l->problems++;
			return 0;
		}
		(*records)++;
		p = next;
	}
	return 0;
}

static uint32_t next_by_number(const struct arena *a, uint64_t *last)
{
	uint32_t best = UINT32_MAX;
	uint64_t number = UINT64_MAX;
	for (uint32_t i = 0; i < a->entries; i++) {
		struct word v = arena_word(a, i);
		uint64_t n = atomic_load(&a->numbers[i]);
		if ((in_flight(v) || v.state == WORD_ASIDE) && n > *last && n < number) {
			number = n;
			best = i;
		}
	}
	*last = number;
	return best;
}

static int put_all(struct look *l, FILE *f, uint64_t *records)
{
	uint64_t last = 0;
	int r = 0;
	for (uint32_t i; r == 0 && (i = next_by_number(&l->a, &last)) != UINT32_MAX;) {
		bool aside = arena_word(&l->a, i).state == WORD_ASIDE || !arena_verified(&l->a, i);
		r = put_entry(l, f, i, aside, records);
	}
	return r;
}

int offline_arena_export(struct config *cfg, const char *file)
{
	struct look l;
	uint64_t records = 0;
	int r = open_arena(&l, cfg, false);
	if (r != SOUND)
		return close_arena(&l, cfg, r);
	repair_intents(
	        &l.a); /* the private copy: what is committed is done, what is not is undone */
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
	int x = f ? put_all(&l, f, &records) : err_errno();
	if (f && fclose(f) != 0 && x == 0)
		x = err_errno();
	if (x < 0)
		fprintf(stderr, "sluiced: %s: %s\n", file, strerror(-x));
	else
		printf("%llu records written to %s; the arena is as it was\n",
		       (unsigned long long)records, file);
	return close_arena(&l, cfg, x < 0 || l.problems ? UNSOUND : SOUND);
}

/* ---- repair ---- */

/* Says what becomes of each intent that is not clean; on the file or on the private copy the words
 * are the same. */
static unsigned plan_intents(const struct arena *a)
{
	unsigned n = 0;
	for (uint32_t w = 0; w < a->workers; w++) {
		const struct arena_worker *s = arena_worker(a, w);
		uint32_t state = atomic_load(&s->intent.state), filling = 0, claimed = 0;
		for (uint32_t i = 0; i < a->entries; i++) {
			struct word v = arena_word(a, i);
			filling += v.state == WORD_FILLING && v.owner == w;
			claimed += v.state == WORD_CLAIMED && v.owner == w;
		}
		if (state == INTENT_OPEN && !filling && !claimed)
			continue;
		printf("%.*s[%u]: ", ARENA_NAME_MAX - 1, s->stage, s->ordinal);
		if (state == INTENT_PREPARED)
			printf("left as it is: its stage knows how commit %llu ended, and is asked "
			       "at the next start\n",
			       (unsigned long long)s->intent.number);
		else if (state == INTENT_COMMITTED)
			printf("commit %llu is finished: %u chunks published, %u inputs done\n",
			       (unsigned long long)s->intent.number, s->intent.n_out,
			       s->intent.n_in);
		else
			printf("undone: %u chunks go back to their queue, %u half-filled are "
			       "freed\n",
			       claimed, filling);
		n++;
	}
	return n;
}

static unsigned set_aside_all(struct look *l, bool change)
{
	unsigned n = 0;
	for (uint32_t i = 0; i < l->a.entries; i++) {
		struct word v = arena_word(&l->a, i);
		const struct arena_facts *f = &l->a.facts[i];
		const char *why;
		if (v.state != WORD_QUEUED || plausible(&l->a, i, &why))
			continue;
		printf("entry %u: chunk %llu (%u records) %s: set aside\n", i,
		       (unsigned long long)atomic_load(&l->a.numbers[i]), f->records, why);
		n++;
		if (!change)
			continue;
		v.state = WORD_ASIDE;
		atomic_store(&l->a.words[i], word_pack(v));
		atomic_fetch_add(&l->a.h->aside, 1);
		atomic_fetch_add(&l->a.h->aside_records, arena_left(f));
	}
	return n;
}

int offline_arena_repair(struct config *cfg, bool yes)
{
	struct look l;
	int r = open_arena(&l, cfg, yes);
	if (r != SOUND)
		return close_arena(&l, cfg, r);
	unsigned n = plan_intents(&l.a);
	repair_intents(&l.a);
	n += set_aside_all(&l, yes);
	if (n == 0)
		printf("nothing to repair\n");
	else
		printf(yes ? "done\n" : "nothing was changed: --arena-repair --yes does this\n");
	return close_arena(&l, cfg, SOUND);
}
