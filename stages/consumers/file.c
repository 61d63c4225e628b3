/*
 * Consumer `file`: appends records to a file, exactly once.
 *
 * The hard idea: the committed position {inode, offset, fingerprint of the bytes before it} is the
 * file's true end. Bytes behind it belong to a unit that was never committed; whoever opens the
 * file next cuts them off. For that to hold, no byte may be written into a file before a commit has
 * named it. A new file is therefore ANCHORED first: consume() answers STAGE_E_FULL with nothing
 * taken, finish() sets the position {new inode, its size}, and only when the next unit begins is
 * the file written.
 *
 * Rotation is one rename (file_rotate.c) and a new, unanchored file. Whatever was reached when a
 * crash came, the position still names the old inode, and open() does the rest:
 *
 *   crash                            path is         position says   open()
 *   before the rename                the old inode   old, O          cuts at O, goes on; rotation
 * is due again after it, before the new file    missing         old, O          cuts the renamed
 * file at O, makes a new one after that, before the anchor    a new inode     old, O          cuts
 * the renamed file at O, takes the new one after the anchor's commit        the new inode   new, 0
 * goes on
 *
 * The same table serves logrotate. The file that is taken is always written from its end on.
 *
 * Invariants
 *  - between units the file is exactly as long as the position says;
 *  - bytes are cut only behind bytes that carry our fingerprint; a file that existed before is
 * kept.
 *
 * Limits
 *  - what another program appends to the file is cut after a crash, and only told while running;
 *  - a file moved to another directory while a unit was open keeps that unit's bytes: told;
 *  - of an empty file only the inode number is known: should it be removed and the number be given
 * to another file of the same name while the daemon is down, that one is cut to nothing;
 *  - after a loss of power (arena.sync) there is no position: a last line without its end is cut
 * off, and what follows may repeat lines before it. In a codec that is not text a torn last record
 * stays;
 *  - a rotated file is a little larger than `rotate.size`: units are not torn apart.
 */
#include "stages/consumers/file.h"
#include "stages/consumers/file_rotate.h"
#include "ipc/clock.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <xxhash.h>

enum {
	UNIT_MAX = 8 << 20, /* bytes written as one unit at most */
	HEADER_MAX = 65536, /* bytes of a header line */
};

static int file_begin(struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	struct file_out_state *s = st->state;
	if (s->anchor_set)
		s->anchored = true;
	s->anchor_set = false;
	s->written = false;
	s->out.len = 0;
	s->sure = s->now;
	if (s->anchored && s->prune_due) {
		file_rotate_prune(cfg->path, (uint64_t)cfg->rotate.keep);
		file_out_count(st);
		s->prune_due = false;
	}
	int r = s->reopen_due || s->fd < 0 ? file_out_switch(st) : 0;
	s->reopen_due = false;
	return r ? r : file_out_check(st);
}

/* Lets the codec read the header of a file that it goes on in, if its files have one. */
static int read_header(struct stage *st, const uint8_t *rec, size_t len)
{
	const struct file_out_config *cfg = st->config;
	struct file_out_state *s = st->state;
	struct codec *c = st->codec;
	_cleanup_(buf_deinit) struct buf in = {0};
	int r = c->ops->head ? c->ops->head(c, rec, len, &in) : 0;
	s->header_due = false;
	if (r != 0 || in.len == 0)
		return r;
	in.len = 0;
	if (buf_room(&in, HEADER_MAX) < 0)
		return -ENOMEM;
	ssize_t n = pread(s->fd, in.p, HEADER_MAX, 0);
	if (n <= 0 || c->ops->prologue(c, in.p, (size_t)n) <= 0)
		log_warning("%s: its header line cannot be read", cfg->path);
	return 0;
}

/* What comes before the unit's first record. */
static int start_output(struct stage *st, const uint8_t *rec, size_t len)
{
	struct file_out_state *s = st->state;
	struct codec *c = st->codec;
	int r = 0;
	if (s->newline_due)
		r = buf_add_byte(&s->out, '\n');
	if (r == 0 && s->header_due)
		r = read_header(st, rec, len);
	if (r == 0 && c->ops->head && s->now.offset == 0)
		r = c->ops->head(c, rec, len, &s->out);
	return r;
}

static int file_consume(struct stage *st, const uint8_t *rec, size_t len)
{
	struct file_out_state *s = st->state;
	size_t before = s->out.len;
	int r = 0;
	if (s->out.len == 0) {
		r = file_out_rotate(st);
		if (r != 0)
			return r;
		if (!s->anchored)
			return STAGE_E_FULL;
		r = start_output(st, rec, len);
	} else if (s->out.len >= UNIT_MAX) {
		return STAGE_E_FULL;
	}
	if (r == 0)
		r = st->codec->ops->encode(st->codec, rec, len, &s->out);
	if (r == 0)
		return STAGE_OK;
	s->out.len = before;
	if (r < 0)
		return r;
	return stage_say(st, STAGE_E_REJECT, "%s",
	                 st->codec->why ? st->codec->why : "cannot be written in this codec");
}

static int room_left(struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	struct file_out_state *s = st->state;
	if (cfg->max_size == 0 || s->rotated_bytes + s->now.offset + s->out.len <= cfg->max_size)
		return 0;
	file_out_count(st); /* somebody may have made room */
	uint64_t have = s->rotated_bytes + s->now.offset;
	if (have + s->out.len <= cfg->max_size)
		return 0;
	return stage_say(st, STAGE_E_UNREACHABLE,
	                 "%s: full: %" PRIu64 " bytes with its rotated files, max_size is %" PRIu64,
	                 cfg->path, have, cfg->max_size);
}

/* Writes the unit's bytes behind the committed end; a failure leaves none of them. */
static int write_unit(struct stage *st)
{
	const struct file_out_config *cfg = st->config;
	struct file_out_state *s = st->state;
	int r = room_left(st);
	if (r != 0)
		return r;
	s->written = true;
	r = err_pwrite(s->fd, s->out.p, s->out.len, (off_t)s->now.offset);
	/* after a failed sync the kernel may have dropped the pages: they are written again then */
	if (r == 0 && cfg->sync && fdatasync(s->fd) < 0)
		r = err_errno();
	if (r == 0)
		return 0;
	s->cut_due = ftruncate(s->fd, (off_t)s->now.offset) < 0;
	return file_out_unreachable(st, "cannot be written", -r);
}

static int file_finish(struct stage *st)
{
	struct file_out_state *s = st->state;
	if (s->fd < 0)
		return STAGE_E_UNREACHABLE;
	if (s->out.len) {
		int r = write_unit(st);
		if (r != 0)
			return r;
		s->now.tail_len =
		        (uint16_t)(s->out.len < FILE_OUT_TAIL_MAX ? s->out.len : FILE_OUT_TAIL_MAX);
		s->now.tail = XXH3_64bits(s->out.p + s->out.len - s->now.tail_len, s->now.tail_len);
		if (s->now.offset == 0)
			s->now.opened = clock_realtime();
		s->now.offset += s->out.len;
		s->out.len = 0;
		s->newline_due = false;
	}
	s->anchor_set = true;
	return stage_position(st, 0, &s->now, sizeof(s->now));
}

static void file_rollback(struct stage *st)
{
	struct file_out_state *s = st->state;
	s->out.len = 0;
	s->anchor_set = false;
	if (!s->written || s->fd < 0)
		return;
	s->written = false;
	s->now = s->sure;
	s->cut_due = ftruncate(s->fd, (off_t)s->now.offset) < 0;
	s->newline_due = file_out_line_open(st, s->fd, s->now.offset);
}

/* ---- the stage ---------------------------------------------------------------------------------
 */

static int file_open(struct stage *st)
{
	struct file_out_state *s = st->state;
	struct file_out_mark mark;
	s->fd = -1;
	memcpy(&mark, st->position, sizeof(mark));
	bool known = !st->position_fresh && mark.magic == FILE_OUT_MAGIC &&
	             mark.version == FILE_OUT_VERSION && mark.tail_len <= FILE_OUT_TAIL_MAX;
	if (!st->position_fresh && !known)
		log_warning("the stored position is not one of a file: goes on at the file's end");
	if (known)
		s->now.rotation = mark.rotation;
	s->prune_due = ((const struct file_out_config *)st->config)->rotate.keep > 0;
	int r = file_out_open(st, known ? &mark : NULL);
	file_out_count(st);
	return r;
}

static void file_close(struct stage *st)
{
	struct file_out_state *s = st->state;
	file_out_close(st);
	buf_deinit(&s->out);
}

static int file_tick(struct stage *st)
{
	struct file_out_state *s = st->state;
	int r = 0;
	if (s->out.len == 0)
		r = file_out_rotate(st);
	file_out_deadline(st);
	return r < 0 ? r : STAGE_OK;
}

static int file_reopen(struct stage *st)
{
	struct file_out_state *s = st->state;
	if (file_out_is_current(st))
		return STAGE_OK;
	if (s->out.len) {
		s->reopen_due = true;
		return STAGE_OK;
	}
	return file_out_switch(st);
}

static void file_check(void *config, const struct node *node, struct complaints *c)
{
	struct file_out_config *cfg = config;
	char *end;
	unsigned long mode = strtoul(cfg->mode_text, &end, 8);
	if (*end || end == cfg->mode_text || mode > 0777)
		complain(c, node_get(node, "mode"), "mode is an octal number such as \"0640\"");
	cfg->mode = (unsigned)mode;
	if (cfg->path && strlen(cfg->path) + FILE_ROTATE_SUFFIX >= PATH_MAX)
		complain(c, node_get(node, "path"), "the path is too long");
	if (cfg->rotate.keep && !cfg->rotate.size && !cfg->rotate.age)
		complain(c, node_get(node, "rotate"), "keep has no effect without size or age");
}

static const struct option rotate_options[] = {
        {.name = "size",
         .type = OPTION_SIZE,
         .offset = offsetof(struct file_out_config, rotate.size) -
                   offsetof(struct file_out_config, rotate),
         .help = "begin a new file when this one has reached so many bytes"},
        {.name = "age",
         .type = OPTION_DURATION,
         .offset = offsetof(struct file_out_config, rotate.age) -
                   offsetof(struct file_out_config, rotate),
         .help = "begin a new file when this one is so old"},
        {.name = "keep",
         .type = OPTION_INT,
         .offset = offsetof(struct file_out_config, rotate.keep) -
                   offsetof(struct file_out_config, rotate),
         .def = "0",
         .max = 1000000,
         .help = "how many old files stay; 0: all"},
        OPTION_END,
};

static const struct option file_options[] = {
        {.name = "path",
         .type = OPTION_STRING,
         .offset = offsetof(struct file_out_config, path),
         .required = true,
         .help = "the file to append to; made when missing"},
        {.name = "mode",
         .type = OPTION_STRING,
         .offset = offsetof(struct file_out_config, mode_text),
         .def = "0640",
         .help = "permissions of a new file, octal, in quotes"},
        {.name = "sync",
         .type = OPTION_BOOL,
         .offset = offsetof(struct file_out_config, sync),
         .def = "false",
         .help = "wait for the disk with every commit"},
        {.name = "max_size",
         .type = OPTION_SIZE,
         .offset = offsetof(struct file_out_config, max_size),
         .help = "hold the data back when the file and its rotated ones have so many bytes"},
        {.name = "rotate",
         .type = OPTION_SUB,
         .offset = offsetof(struct file_out_config, rotate),
         .sub = rotate_options,
         .help = "when to rename the file to PATH.000001, .000002, ... and begin a new one"},
        OPTION_END,
};

static void paths(const void *config, void (*add)(void *, const char *, enum stage_path_use),
                  void *arg)
{
	const struct file_out_config *cfg = config;
	add(arg, cfg->path, STAGE_PATH_WRITE);
}

const struct stage_ops consumer_file = {
        .name = "file",
        .kind = STAGE_CONSUMER,
        .flags = STAGE_SINGLE | STAGE_CODEC | STAGE_OUTSIDE,
        .needs = STAGE_NEEDS_FILES,
        .paths = paths,
        .help = "appends records to a file, exactly once, with rotation",
        .example = "type: file\n"
                   "path: /var/lib/sluice/orders.jsonl\n"
                   "codec: json\n"
                   "rotate: {size: 1GiB, age: 1d, keep: 7}\n",
        .options = file_options,
        .config_size = sizeof(struct file_out_config),
        .state_size = sizeof(struct file_out_state),
        .check = file_check,
        .open = file_open,
        .close = file_close,
        .consume = file_consume,
        .tick = file_tick,
        .begin = file_begin,
        .finish = file_finish,
        .rollback = file_rollback,
        .reopen = file_reopen,
};
