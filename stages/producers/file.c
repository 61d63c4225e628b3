/*
 * Producer `file`: reads files, or standard input (`-`), through a codec.
 *
 * The hard idea: nothing is held between two calls. Each call reads one window at the mark's
 * offset, decodes what is whole in it, and the mark moves with every record made; what is
 * unfinished at the window's end is simply read again next time. So the place to go on after a
 * crash is never anything else than the place to go on in the normal course.
 *
 * Without `follow` the paths are read one after another, each to its end, then the producer has
 * ended. The marks of a run that ended are forgotten by the next one (another arena): it reads
 * everything again. A file that was replaced or cut since the committed mark is read from its
 * beginning, and that is told.
 *
 * Limits
 *  - standard input and other pipes have no position: after a crash of this worker what it had read
 *    and not yet committed is lost with the pipe;
 *  - a record whose text is longer than the window may grow (eight times the largest record) is
 * rejected and skipped up to the next newline; in a binary codec the rest of that file cannot be
 * read;
 *  - compressed files are not read.
 */
#include "stages/producers/file.h"
#include "ipc/clock.h"

#include <fcntl.h>
#include <string.h>
#include <xxhash.h>

/* Reads until @len bytes are there or the file ends: a short read alone proves nothing. */
static ssize_t read_at(int fd, uint8_t *p, size_t len, uint64_t offset)
{
	size_t got = 0;
	while (got < len) {
		ssize_t n = pread(fd, p + got, len - got, (off_t)(offset + got));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno();
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

int file_input_save(struct stage *st, struct file_input *in)
{
	const struct file_state *s = st->state;
	if (in->stream)
		return 0;
	size_t off = offsetof(struct file_position, marks) +
	             (size_t)(in - s->inputs) * sizeof(struct file_mark);
	return stage_position(st, (uint32_t)off, &in->mark, sizeof(in->mark));
}

bool file_input_print(struct file_input *in, uint64_t size)
{
	uint8_t head[FILE_PRINT_MAX];
	if (in->mark.print_len >= FILE_PRINT_MAX || size <= in->mark.print_len)
		return false;
	ssize_t n = read_at(in->fd, head, sizeof(head), 0);
	if (n <= (ssize_t)in->mark.print_len)
		return false;
	in->mark.print_len = (uint32_t)n;
	in->mark.print = XXH3_64bits(head, (size_t)n);
	return true;
}

bool file_mark_matches(const struct file_mark *m, int fd, const struct stat *sb)
{
	uint8_t head[FILE_PRINT_MAX];
	if (sb->st_ino != m->ino || m->print_len > sizeof(head))
		return false;
	/* a device's number may change with a reboot: only a file without content needs it */
	if (m->print_len == 0)
		return sb->st_dev == m->dev;
	return read_at(fd, head, m->print_len, 0) == (ssize_t)m->print_len &&
	       XXH3_64bits(head, m->print_len) == m->print;
}

void file_input_begin(struct file_input *in, const struct stat *sb)
{
	uint64_t hash = in->mark.path_hash;
	in->mark = (struct file_mark){
	        .path_hash = hash,
	        .dev = sb->st_dev,
	        .ino = sb->st_ino,
	        .flags = FILE_MARK_USED,
	};
	if (S_ISREG(sb->st_mode))
		file_input_print(in, (uint64_t)sb->st_size);
}

/* The window grows only for a record that needs it. False: it may not. */
static bool window_grow(struct file_state *s)
{
	if (s->window_size >= s->window_max)
		return false;
	size_t size = s->window_size * 2 < s->window_max ? s->window_size * 2 : s->window_max;
	uint8_t *p = realloc(s->window, size);
	if (!p)
		return false;
	s->window = p;
	s->window_size = size;
	return true;
}

/* Feeds the header line to a codec that needs it for what stands behind. One that cannot be had is
 * lost: what stands behind must not be taken for it. */
static int resume_header(struct stage *st, struct file_input *in, const char *name)
{
	struct file_state *s = st->state;
	bool headless = in->mark.flags & FILE_MARK_HEADLESS;
	do {
		if (headless)
			break;
		ssize_t n = read_at(in->fd, s->window, s->window_size, 0);
		if (n < 0)
			return (int)n;
		int64_t took = in->codec.ops->prologue(&in->codec, s->window, (size_t)n);
		if (took > 0)
			return 0;
		if (took < 0)
			break;
	} while (window_grow(s));
	if (!headless)
		log_warning("%s: its header line cannot be read again", name);
	if (in->codec.ops->lost)
		in->codec.ops->lost(&in->codec);
	return 0;
}

int file_input_start(struct stage *st, struct file_input *in, const char *name)
{
	if (!in->codec_made) {
		int r = codec_init(&in->codec, st->codec->ops, st->codec->config, st->max_record);
		if (r < 0)
			return r;
		in->codec_made = true;
	}
	if (in->codec.ops->reset)
		in->codec.ops->reset(&in->codec);
	in->asleep = false;
	in->rotated = 0;
	in->told = false;
	if (!in->stream && in->mark.offset > 0 && in->codec.ops->has_prologue)
		return resume_header(st, in, name);
	return 0;
}

void file_input_close(struct stage *st, struct file_input *in)
{
	(void)st;
	if (in->fd > STDIN_FILENO)
		close(in->fd);
	in->fd = -1;
	in->watch = -1;
}

struct progress {
	struct file_input *in;
	uint64_t base;
};

static int moved_on(struct stage *st, void *arg, size_t consumed)
{
	struct progress *p = arg;
	p->in->mark.offset = p->base + consumed;
	if (p->in->codec.headless)
		p->in->mark.flags |= FILE_MARK_HEADLESS;
	return file_input_save(st, p->in);
}

/* Decodes [window, window+len), which stands at mark.offset. Returns the bytes used up, or -errno.
 */
static ssize_t decode(struct stage *st, struct file_input *in, size_t len, bool last)
{
	struct file_state *s = st->state;
	struct progress p = {in, in->mark.offset};
	struct codec_window w = {.p = s->window, .end = s->window + len, .last = last};
	struct codec *own = st->codec;
	char at[STAGE_WHY_MAX];
	if (p.base)
		snprintf(at, sizeof(at), "%s from byte %llu", in->path, (unsigned long long)p.base);
	else
		snprintf(at, sizeof(at), "%s", in->path);
	st->codec = &in->codec;
	int r = stage_decode(st, &w, at, moved_on, &p);
	st->codec = own;
	if (r < 0)
		return r;
	size_t used = (size_t)(w.p - s->window);
	if (p.base + used != in->mark.offset) {
		in->mark.offset = p.base + used;
		r = file_input_save(st, in);
	}
	return r < 0 ? r : (ssize_t)used;
}

/* A record that no window can hold: told with its beginning, then skipped. Returns the bytes
 * passed. */
static ssize_t give_up_record(struct stage *st, struct file_input *in, size_t len)
{
	char at[STAGE_WHY_MAX];
	snprintf(at, sizeof(at), "%s at byte %llu", in->path, (unsigned long long)in->mark.offset);
	int r = stage_reject(st, "the record is longer than can be read in one piece",
	                     ((struct file_state *)st->state)->window, len, at);
	if (r < 0)
		return r;
	in->mark.flags |= FILE_MARK_SKIP;
	in->mark.offset += len;
	r = file_input_save(st, in);
	return r < 0 ? r : (ssize_t)len;
}

/* Goes behind the next newline. In binary input there is none to trust: nothing more is taken. */
static ssize_t skip_record(struct stage *st, struct file_input *in, size_t len)
{
	const uint8_t *start = ((struct file_state *)st->state)->window;
	const uint8_t *nl = in->codec.ops->text ? memchr(start, '\n', len) : NULL;
	size_t passed = nl ? (size_t)(nl - start) + 1 : len;
	in->mark.offset += passed;
	if (nl)
		in->mark.flags &= ~(uint32_t)FILE_MARK_SKIP;
	int r = file_input_save(st, in);
	return r < 0 ? r : (ssize_t)passed;
}

/* Uses @len bytes of the window. Bytes passed, 0 when there is no whole record, or -errno. */
static ssize_t use_window(struct stage *st, struct file_input *in, size_t len, bool last)
{
	struct file_state *s = st->state;
	if (in->mark.flags & FILE_MARK_SKIP)
		return skip_record(st, in, len);
	ssize_t used = decode(st, in, len, last);
	if (used == 0 && len == s->window_size && !last && s->window_size >= s->window_max)
		return give_up_record(st, in, len);
	return used;
}

int file_input_read(struct stage *st, struct file_input *in, bool final)
{
	struct file_state *s = st->state;
	for (;;) {
		ssize_t n = read_at(in->fd, s->window, s->window_size, in->mark.offset);
		if (n < 0)
			return (int)n;
		if (n == 0)
			return STAGE_E_IDLE;
		ssize_t used = use_window(st, in, (size_t)n, final && (size_t)n < s->window_size);
		if (used < 0)
			return (int)used;
		if (used > 0)
			return STAGE_OK;
		if ((size_t)n < s->window_size || !window_grow(s))
			return STAGE_E_IDLE;
	}
}

/* A pipe's bytes come once: what is unfinished stays in the window. */
static int stream_read(struct stage *st, struct file_input *in)
{
	struct file_state *s = st->state;
	struct pollfd p = {.fd = in->fd, .events = POLLIN};
	if (poll(&p, 1, 0) == 0)
		return STAGE_E_IDLE;
	ssize_t n = read(in->fd, s->window + s->held, s->window_size - s->held);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return STAGE_E_IDLE;
	if (n < 0)
		return err_errno();
	stage_read_pipe(st, (size_t)n);
	size_t len = s->held + (size_t)n;
	ssize_t used = len ? use_window(st, in, len, n == 0) : 0;
	if (used < 0)
		return (int)used;
	s->held = len - (size_t)used;
	memmove(s->window, s->window + used, s->held);
	if (s->held == s->window_size && !window_grow(s))
		return -ENOMEM;
	return n == 0 ? STAGE_E_END : STAGE_OK;
}

static int open_stream(struct stage *st, struct file_input *in)
{
	struct file_state *s = st->state;
	in->stream = true;
	s->held = 0;
	in->mark.offset = 0;
	return file_input_start(st, in, in->path);
}

/* Opens the file at the input's turn; goes on at the mark when it is still the same file. */
static int open_input(struct stage *st, struct file_input *in)
{
	struct stat sb;
	bool is_stdin = strcmp(in->path, "-") == 0;
	in->fd = is_stdin ? STDIN_FILENO
	                  : open(in->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (in->fd < 0 || fstat(in->fd, &sb) < 0) {
		int r = err_errno();
		stage_say(st, r, "%s: %s", in->path, strerror(-r));
		log_error("%s", st->why);
		return r;
	}
	if (is_stdin || !S_ISREG(sb.st_mode))
		return open_stream(st, in);
	if (!(in->mark.flags & FILE_MARK_USED) || !file_mark_matches(&in->mark, in->fd, &sb) ||
	    (uint64_t)sb.st_size < in->mark.offset) {
		if (in->mark.flags & FILE_MARK_USED && in->mark.offset)
			log_warning("%s is another file than the one read up to byte %llu: read "
			            "from its beginning",
			            in->path, (unsigned long long)in->mark.offset);
		file_input_begin(in, &sb);
		int r = file_input_save(st, in);
		if (r < 0)
			return r;
	}
	return file_input_start(st, in, in->path);
}

/* One turn of a file that is read once. STAGE_E_END: read to its end. */
static int read_once(struct stage *st, struct file_input *in)
{
	if (in->fd < 0) {
		int r = open_input(st, in);
		if (r < 0)
			return r;
	}
	st->resumes = !in->stream;
	if (in->stream)
		return stream_read(st, in);
	int r = file_input_read(st, in, true);
	return r == STAGE_E_IDLE ? STAGE_E_END : r;
}

static int produce_once(struct stage *st)
{
	struct file_state *s = st->state;
	while (s->turn < s->n) {
		struct file_input *in = &s->inputs[s->turn];
		int r = in->mark.flags & FILE_MARK_DONE ? STAGE_E_END : read_once(st, in);
		if (r == STAGE_E_IDLE) {
			st->fds[0] = (struct pollfd){.fd = in->fd, .events = POLLIN};
			st->n_fds = 1;
		}
		if (r != STAGE_E_END)
			return r;
		file_input_close(st, in);
		in->mark.flags |= FILE_MARK_DONE;
		if ((r = file_input_save(st, in)) < 0)
			return r;
		s->turn++;
	}
	return STAGE_E_END;
}

static int produce_follow(struct stage *st)
{
	struct file_state *s = st->state;
	file_follow_drain(st);
	for (size_t i = 0; i < s->n; i++) {
		struct file_input *in = &s->inputs[s->turn];
		s->turn = (s->turn + 1) % s->n;
		st->resumes = !in->stream;
		int r = file_follow_turn(st, in);
		if (r != STAGE_E_IDLE)
			return r;
	}
	file_follow_wait(st);
	return STAGE_E_IDLE;
}

static void forget_marks(struct file_state *s)
{
	for (size_t i = 0; i < s->n; i++)
		s->inputs[i].mark = (struct file_mark){.path_hash = s->inputs[i].mark.path_hash};
}

/* The committed marks of the paths that are still configured. */
static void take_marks(struct stage *st, const struct file_position *p)
{
	struct file_state *s = st->state;
	const struct file_config *cfg = st->config;
	bool ended = true;
	bool same_paths = p->head.marks == s->n;
	for (unsigned i = 0; i < p->head.marks; i++)
		ended &= (p->marks[i].flags & FILE_MARK_DONE) != 0;
	for (size_t j = 0; j < s->n; j++) {
		unsigned i = 0;
		while (i < p->head.marks && p->marks[i].path_hash != s->inputs[j].mark.path_hash)
			i++;
		if (i < p->head.marks)
			s->inputs[j].mark = p->marks[i];
		else
			same_paths = false;
	}
	/* a run that ended is over; where paths were added to it or taken away, the others are done
	 */
	bool same_arena = memcmp(p->head.epoch, st->commit_id.epoch, sizeof(p->head.epoch)) == 0;
	if (!cfg->follow && ended && (same_paths || !same_arena))
		forget_marks(s);
}

/* Takes over the committed position and lays it out anew for the paths of today. */
static int start(struct stage *st)
{
	struct file_state *s = st->state;
	struct file_position p;
	memcpy(&p, st->position, sizeof(p));
	bool known = p.head.magic == FILE_MAGIC && p.head.version == FILE_VERSION &&
	             p.head.marks <= FILE_INPUTS_MAX;
	if (!st->position_fresh && known)
		take_marks(st, &p);
	else if (!st->position_fresh)
		log_warning("the stored position is not one of a file producer: starts anew");
	memset(&p, 0, sizeof(p));
	p.head = (struct file_head){FILE_MAGIC, FILE_VERSION, (uint16_t)s->n, {0}, {0}};
	memcpy(p.head.epoch, st->commit_id.epoch, sizeof(p.head.epoch));
	for (size_t i = 0; i < s->n; i++)
		p.marks[i] = s->inputs[i].mark;
	size_t len = offsetof(struct file_position, marks) + s->n * sizeof(struct file_mark);
	int r = stage_position(st, 0, &p, (uint32_t)len);
	s->started = r == 0;
	return r;
}

static int file_produce(struct stage *st)
{
	struct file_state *s = st->state;
	const struct file_config *cfg = st->config;
	st->n_fds = 0;
	st->deadline = 0;
	s->now = clock_monotonic();
	if (!s->started) {
		int r = start(st);
		if (r < 0)
			return r;
	}
	return cfg->follow ? produce_follow(st) : produce_once(st);
}

/* What is missing is said at the start, not when its turn has come. */
static int check_paths(struct stage *st)
{
	const struct file_config *cfg = st->config;
	for (size_t i = 0; i < cfg->path.n && !cfg->follow; i++) {
		const char *path = cfg->path.v[i];
		struct stat sb;
		int r = 0;
		if (strcmp(path, "-") == 0)
			continue;
		if (stat(path, &sb) < 0 || access(path, R_OK) < 0)
			r = err_errno();
		else if (S_ISDIR(sb.st_mode))
			r = -EISDIR;
		if (r < 0) {
			stage_say(st, r, "%s: %s", path, strerror(-r));
			log_error("%s", st->why);
			return r;
		}
	}
	return 0;
}

static int file_open(struct stage *st)
{
	struct file_state *s = st->state;
	const struct file_config *cfg = st->config;
	s->notify = -1;
	int r = check_paths(st);
	if (r < 0)
		return r;
	s->window_max = 8 * st->max_record + 65536;
	s->window_size = cfg->read_buffer;
	if (s->window_max < s->window_size)
		s->window_max = s->window_size;
	s->inputs = calloc(cfg->path.n, sizeof(*s->inputs));
	s->window = malloc(s->window_size);
	if (!s->inputs || !s->window)
		return -ENOMEM;
	s->n = cfg->path.n;
	for (size_t i = 0; i < s->n; i++) {
		const char *path = cfg->path.v[i];
		s->inputs[i] = (struct file_input){.path = path, .fd = -1, .watch = -1};
		s->inputs[i].mark.path_hash = XXH3_64bits(path, strlen(path));
	}
	if (cfg->follow)
		file_follow_watch(st);
	return 0;
}

static void file_close(struct stage *st)
{
	struct file_state *s = st->state;
	for (size_t i = 0; i < s->n; i++) {
		file_input_close(st, &s->inputs[i]);
		if (s->inputs[i].codec_made)
			codec_deinit(&s->inputs[i].codec);
	}
	if (s->notify >= 0)
		close(s->notify);
	free(s->inputs);
	free(s->window);
	memset(s, 0, sizeof(*s));
	s->notify = -1;
}

static void file_check(void *config, const struct node *node, struct complaints *c)
{
	const struct file_config *cfg = config;
	const struct node *at = node_get(node, "path");
	if (cfg->path.n > FILE_INPUTS_MAX)
		complain(c, at, "%zu paths are more than one producer takes (%d)", cfg->path.n,
		         FILE_INPUTS_MAX);
	for (size_t i = 0; i < cfg->path.n; i++) {
		if (cfg->follow && strcmp(cfg->path.v[i], "-") == 0)
			complain(c, at, "standard input (-) cannot be followed");
		for (size_t j = 0; j < i; j++)
			if (strcmp(cfg->path.v[i], cfg->path.v[j]) == 0)
				complain(c, at, "%s is named twice", cfg->path.v[i]);
	}
}

static const struct option file_options[] = {
        {.name = "path",
         .type = OPTION_STRINGS,
         .offset = offsetof(struct file_config, path),
         .required = true,
         .help = "the file to read, or a list of them; - is standard input"},
        {.name = "follow",
         .type = OPTION_BOOL,
         .offset = offsetof(struct file_config, follow),
         .def = "false",
         .help = "wait for more at the end, through rotation; without it the producer ends there"},
        {.name = "read_buffer",
         .type = OPTION_SIZE,
         .offset = offsetof(struct file_config, read_buffer),
         .def = "256KiB",
         .min = 512,
         .max = 67108864,
         .help = "bytes read at a time; grows for a long record, to 8 times the largest one"},
        {.name = "poll",
         .type = OPTION_DURATION,
         .offset = offsetof(struct file_config, poll),
         .def = "1s",
         .min = 0.001,
         .max = 3600,
         .help = "follow: how often to look where the kernel does not tell (NFS)"},
        {.name = "rotate_wait",
         .type = OPTION_DURATION,
         .offset = offsetof(struct file_config, rotate_wait),
         .def = "5s",
         .max = 86400,
         .help = "follow: how long a file that was renamed or removed is still read"},
        OPTION_END,
};

static void paths(const void *config, void (*add)(void *, const char *, enum stage_path_use),
                  void *arg)
{
	const struct file_config *cfg = config;
	for (size_t i = 0; i < cfg->path.n; i++)
		if (strcmp(cfg->path.v[i], "-") != 0)
			add(arg, cfg->path.v[i], STAGE_PATH_READ);
}

const struct stage_ops producer_file = {
        .name = "file",
        .kind = STAGE_PRODUCER,
        .flags = STAGE_SINGLE | STAGE_CODEC,
        .needs = STAGE_NEEDS_FILES,
        .paths = paths,
        .help = "reads files, once or as they grow, and standard input",
        .example = "type: file\n"
                   "path: /var/log/nginx/access.json\n"
                   "codec: json\n"
                   "follow: true\n",
        .options = file_options,
        .config_size = sizeof(struct file_config),
        .state_size = sizeof(struct file_state),
        .check = file_check,
        .open = file_open,
        .close = file_close,
        .produce = file_produce,
};
