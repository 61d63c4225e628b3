/*
 * YAML text to a tree of nodes.
 *
 * The hard idea: what makes YAML files dangerous is refused, with its place, instead of understood:
 * tags, aliases and merge keys (`<<`), duplicate keys, several documents, keys that are no scalars.
 * What is left is a tree that says what the eye reads. Scalars resolve by node_resolve(), after
 * ${NAME} was filled in, so `size: ${SIZE}` is a number when SIZE holds one, and `"${SIZE}"` is
 * always a string. What a variable holds is never read as YAML and never expanded again.
 *
 * Invariants
 *  - any input ends in a tree or a complaint; depth, file size and expanded text are bounded;
 *  - a node that was complained about here is marked `bad`, so that nobody complains about it
 * again;
 *  - all memory belongs to the tree and goes with it; nothing is freed one by one.
 *
 * Limits: anchors without an alias are let through, they mean nothing. An error inside a scalar is
 * placed at the scalar's start. libyaml accepts a few things that YAML 1.2 does not, and the other
 * way round.
 */
#include "daemon/yaml.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <yaml.h>

#include "ipc/err.h"

struct yaml_block {
	struct yaml_block *next;
	_Alignas(max_align_t) char bytes[];
};

/* State of one text being read. */
struct reader {
	struct yaml_tree *tree;
	struct complaints *c;
	yaml_parser_t parser;
	const char *file;
	const char *data;
	size_t len;
	unsigned depth;
};

static void *alloc(struct yaml_tree *t, size_t size)
{
	struct yaml_block *b = calloc(1, sizeof(*b) + size);
	if (!b)
		return NULL;
	b->next = t->blocks;
	t->blocks = b;
	return b->bytes;
}

static char *copy(struct yaml_tree *t, const void *text, size_t len)
{
	char *p = alloc(t, len + 1);
	if (p && len)
		memcpy(p, text, len);
	return p;
}

void yaml_deinit(struct yaml_tree *t)
{
	for (struct yaml_block *b = t->blocks, *next; b; b = next) {
		next = b->next;
		free(b);
	}
	*t = (struct yaml_tree){0};
}

struct node *yaml_map(struct yaml_tree *t, const struct node *place)
{
	struct node *n = alloc(t, sizeof(*n));
	if (!n)
		return NULL;
	n->kind = NODE_MAP;
	n->file = place ? place->file : "built-in";
	n->line = place ? place->line : 1;
	n->column = place ? place->column : 1;
	return n;
}

struct node *yaml_string(struct yaml_tree *t, const struct node *place, const char *text)
{
	struct node *n = yaml_map(t, place);
	if (!n)
		return NULL;
	n->kind = NODE_SCALAR;
	n->scalar = NODE_STRING;
	n->quoted = true;
	n->len = strlen(text);
	n->text = copy(t, text, n->len);
	return n->text ? n : NULL;
}

static size_t room_for(size_t n)
{
	size_t cap = 1;
	while (cap < n)
		cap *= 2;
	return cap;
}

/* Arrays of items always have room for a power of two of pairs or elements: so the count alone says
 * when they are full. */
int yaml_add(struct yaml_tree *t, struct node *map, struct node *key, struct node *value)
{
	if (!key || !value)
		return -ENOMEM;
	if (map->n == 0 || map->n == room_for(map->n)) {
		struct node **items = alloc(t, 2 * room_for(map->n + 1) * sizeof(*items));
		if (!items)
			return -ENOMEM;
		if (map->n)
			memcpy(items, map->items, 2 * map->n * sizeof(*items));
		map->items = items;
	}
	map->items[2 * map->n] = key;
	map->items[2 * map->n + 1] = value;
	map->n++;
	return 0;
}

static struct node *out_of_memory(struct reader *r)
{
	complain(r->c, NULL, "%s: out of memory", r->file);
	return NULL;
}

static struct node *node_at(struct reader *r, const yaml_mark_t *mark)
{
	struct node *n = alloc(r->tree, sizeof(*n));
	if (!n)
		return out_of_memory(r);
	n->file = r->file;
	n->line = (unsigned)mark->line + 1;
	n->column = (unsigned)mark->column + 1;
	return n;
}

static size_t name_length(const char *s, const char *end)
{
	size_t n = 0;
	while (s + n < end && (s[n] == '_' || (s[n] >= 'A' && s[n] <= 'Z') ||
	                       (s[n] >= 'a' && s[n] <= 'z') || (n && s[n] >= '0' && s[n] <= '9')))
		n++;
	return n;
}

/* Appends what the variable at @s (behind "${") stands for. Returns the byte behind "}", or NULL
 * after a complaint about @n. An empty variable takes the default, like in a shell. */
static const char *expand_one(struct reader *r, struct node *n, const char *s, struct buf *out)
{
	const char *end = n->text + n->len;
	size_t len = name_length(s, end);
	const char *close = memchr(s, '}', (size_t)(end - s));
	char name[256];
	if (!close || len == 0 || len >= sizeof(name) ||
	    (s + len != close && strncmp(s + len, ":-", 2) != 0)) {
		complain(r->c, n, "expected ${NAME} or ${NAME:-default}; a plain $ is written $$");
		return NULL;
	}
	memcpy(name, s, len);
	name[len] = '\0';
	const char *value = getenv(name);
	int e = 0;
	if (s + len != close && (!value || !*value))
		e = buf_add(out, s + len + 2, (size_t)(close - (s + len + 2)));
	else if (value)
		e = buf_add_str(out, value);
	else {
		complain(r->c, n,
		         "environment variable %s is not set, and no default is given "
		         "(${%s:-default})",
		         name, name);
		return NULL;
	}
	if (e < 0 || out->len > YAML_EXPANDED_MAX) {
		complain(r->c, n, "too long with its variables filled in");
		return NULL;
	}
	return close + 1;
}

/* Fills in ${NAME}, ${NAME:-default} and $$; any other $ stays. */
static void expand(struct reader *r, struct node *n)
{
	_cleanup_(buf_deinit) struct buf out = {0};
	const char *s = n->text, *end = n->text + n->len;
	while (s < end) {
		const char *dollar = memchr(s, '$', (size_t)(end - s));
		if (!dollar || dollar + 1 == end)
			dollar = end;
		buf_add(&out, s, (size_t)(dollar - s));
		if (dollar == end)
			break;
		s = dollar + 2;
		if (dollar[1] == '{') {
			n->expanded = true;
			s = expand_one(r, n, s, &out);
			if (!s) {
				n->bad = true;
				return;
			}
		} else {
			buf_add_byte(&out, '$');
			if (dollar[1] != '$')
				s--;
		}
	}
	char *text = copy(r->tree, out.p, out.len);
	if (text) {
		n->text = text;
		n->len = out.len;
	}
}

/* Inside { } and [ ] a comma ends a plain scalar, also one that stands in an expression's brackets.
 */
static bool brackets_balance(const char *s)
{
	int depth = 0;
	char quote = '\0';
	for (; *s; s++) {
		if (quote) {
			if (*s == '\\' && s[1])
				s++;
			else if (*s == quote)
				quote = '\0';
		} else if (*s == '"' || *s == '\'') {
			quote = *s;
		} else if (strchr("([{", *s)) {
			depth++;
		} else if (strchr(")]}", *s)) {
			depth--;
		}
	}
	return depth == 0 && !quote;
}

static bool next_event(struct reader *r, yaml_event_t *e);
static struct node *read_node(struct reader *r, const yaml_event_t *e, bool flow);

static void refuse_tag(struct reader *r, struct node *n, const yaml_char_t *tag)
{
	if (!tag)
		return;
	complain(r->c, n, "tags are not supported (%s): quote a value to make it a string", tag);
	n->bad = true;
}

static struct node *read_scalar(struct reader *r, const yaml_event_t *e, bool flow)
{
	struct node *n = node_at(r, &e->start_mark);
	if (!n)
		return NULL;
	n->kind = NODE_SCALAR;
	n->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
	n->len = e->data.scalar.length;
	n->text = copy(r->tree, e->data.scalar.value, n->len);
	if (!n->text)
		return out_of_memory(r);
	refuse_tag(r, n, e->data.scalar.tag);
	if (flow && !n->quoted && n->text[0] == '=' && n->text[1] != '=' &&
	    !brackets_balance(n->text)) {
		complain(r->c, n,
		         "the brackets or quotes of %s do not balance: put the expression in "
		         "quotes (inside { } and [ ] a comma ends a value)",
		         n->text);
		n->bad = true;
	}
	if (memchr(n->text, '$', n->len))
		expand(r, n);
	if (!node_resolve(n)) {
		complain(r->c, n,
		         "no 64 bits hold the number %s: put it in quotes to make it a string",
		         n->text);
		n->bad = true;
	}
	return n;
}

static struct node *read_alias(struct reader *r, const yaml_event_t *e)
{
	struct node *n = node_at(r, &e->start_mark);
	if (!n)
		return NULL;
	n->kind = NODE_SCALAR;
	n->text = copy(r->tree, "", 0);
	complain(r->c, n, "aliases are not supported (*%s): write the value out",
	         e->data.alias.anchor);
	n->bad = true;
	return n->text ? n : NULL;
}

static int by_text(const void *a, const void *b)
{
	const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;
	size_t len = x->len < y->len ? x->len : y->len;
	int r = memcmp(x->text, y->text, len);
	if (r == 0)
		r = (x->len > y->len) - (x->len < y->len);
	if (r == 0)
		r = (x->line > y->line) - (x->line < y->line);
	return r ? r : (x->column > y->column) - (x->column < y->column);
}

/* Removes pairs whose key came before, after a complaint. @items: key, value, ... Returns the pairs
 * left. Sorted, so that a file of one huge map costs no quadratic time. */
static size_t refuse_duplicates(struct reader *r, struct node **items, size_t n)
{
	struct node **keys = n ? malloc(n * sizeof(*keys)) : NULL;
	if (!keys)
		return n;
	for (size_t i = 0; i < n; i++)
		keys[i] = items[2 * i];
	qsort(keys, n, sizeof(*keys), by_text);
	size_t first = 0;
	for (size_t i = 1; i < n; i++)
		if (keys[i]->len == keys[first]->len &&
		    memcmp(keys[i]->text, keys[first]->text, keys[i]->len) == 0) {
			complain(r->c, keys[i], "duplicate key \"%s\": it is at line %u already",
			         keys[i]->text, keys[first]->line);
			keys[i]->bad = true;
		} else {
			first = i;
		}
	free(keys);
	size_t left = 0;
	for (size_t i = 0; i < n; i++)
		if (!items[2 * i]->bad) {
			items[2 * left] = items[2 * i];
			items[2 * left++ + 1] = items[2 * i + 1];
		}
	return left;
}

/* Whether @key can be one; says why not. */
static bool key_good(struct reader *r, struct node *key)
{
	if (key->kind != NODE_SCALAR)
		complain(r->c, key, "a key must be a word, not %s", node_describe(key));
	else if (!key->quoted && strcmp(key->text, "<<") == 0)
		complain(r->c, key, "merge keys (<<) are not supported: write the keys out");
	else if (key->len == 0)
		complain(r->c, key, "a key is missing before the colon");
	else if (strlen(key->text) != key->len)
		complain(r->c, key, "a NUL character cannot stand in a key");
	else
		return !key->bad;
	return false;
}

/* Reads nodes up to the container's end into @items, keys and values alike. False: stop. */
static bool read_items(struct reader *r, struct buf *items, bool map, bool flow)
{
	for (size_t count = 0;; count++) {
		yaml_event_t e;
		if (!next_event(r, &e))
			return false;
		if (e.type == YAML_MAPPING_END_EVENT || e.type == YAML_SEQUENCE_END_EVENT) {
			yaml_event_delete(&e);
			return true;
		}
		struct node *n = read_node(r, &e, flow);
		yaml_event_delete(&e);
		if (!n || buf_add(items, &n, sizeof(n)) < 0)
			return false;
		if (map && count % 2 == 1) {
			struct node **pair = (struct node **)(void *)(items->p + items->len) - 2;
			if (!key_good(r, pair[0]))
				items->len -= 2 * sizeof(n);
		}
	}
}

static struct node *read_container(struct reader *r, const yaml_event_t *e, bool map, bool flow)
{
	_cleanup_(buf_deinit) struct buf items = {0};
	struct node *n = node_at(r, &e->start_mark);
	if (!n)
		return NULL;
	if (r->depth == YAML_DEPTH_MAX) {
		complain(r->c, n, "nested more than %d deep", YAML_DEPTH_MAX);
		return NULL;
	}
	n->kind = map ? NODE_MAP : NODE_SEQ;
	refuse_tag(r, n, map ? e->data.mapping_start.tag : e->data.sequence_start.tag);
	r->depth++;
	bool good = read_items(r, &items, map, flow);
	r->depth--;
	if (!good)
		return NULL;
	struct node **list = (struct node **)(void *)items.p;
	n->n = items.len / sizeof(n) / (map ? 2 : 1);
	if (map)
		n->n = refuse_duplicates(r, list, n->n);
	n->items = alloc(r->tree, room_for(n->n) * (map ? 2 : 1) * sizeof(n));
	if (!n->items)
		return out_of_memory(r);
	if (n->n)
		memcpy(n->items, list, n->n * (map ? 2 : 1) * sizeof(n));
	return n;
}

static struct node *read_node(struct reader *r, const yaml_event_t *e, bool flow)
{
	switch (e->type) {
	case YAML_SCALAR_EVENT:
		return read_scalar(r, e, flow);
	case YAML_ALIAS_EVENT:
		return read_alias(r, e);
	case YAML_MAPPING_START_EVENT:
		return read_container(r, e, true,
		                      e->data.mapping_start.style == YAML_FLOW_MAPPING_STYLE);
	case YAML_SEQUENCE_START_EVENT:
		return read_container(r, e, false,
		                      e->data.sequence_start.style == YAML_FLOW_SEQUENCE_STYLE);
	default:
		return NULL;
	}
}

/* Where byte @offset of the text is, for errors in the encoding, which libyaml places by byte. */
static struct node place_of(const struct reader *r, size_t offset)
{
	struct node n = {.file = r->file, .line = 1, .column = 1};
	for (size_t i = 0; i < offset && i < r->len; i++) {
		if (r->data[i] == '\n') {
			n.line++;
			n.column = 1;
		} else if ((r->data[i] & 0xc0) != 0x80) {
			n.column++;
		}
	}
	return n;
}

static bool tab_indents(const struct reader *r, size_t line)
{
	const char *s = r->data, *end = r->data + r->len;
	for (; line && s; line--) {
		s = memchr(s, '\n', (size_t)(end - s));
		s = s ? s + 1 : NULL;
	}
	while (s && s < end && *s == ' ')
		s++;
	return s && s < end && *s == '\t';
}

static void syntax_error(struct reader *r)
{
	const yaml_parser_t *p = &r->parser;
	const char *problem = p->problem ? p->problem : "no YAML";
	if (p->error == YAML_READER_ERROR) {
		struct node place = place_of(r, p->problem_offset);
		complain(r->c, &place, "%s", problem);
		return;
	}
	struct node place = {.file = r->file,
	                     .line = (unsigned)p->problem_mark.line + 1,
	                     .column = (unsigned)p->problem_mark.column + 1};
	if (p->error == YAML_MEMORY_ERROR)
		complain(r->c, &place, "out of memory");
	else if (tab_indents(r, p->problem_mark.line))
		complain(r->c, &place, "a tab cannot indent: use spaces");
	else if (p->context)
		complain(r->c, &place, "%s (%s that starts at line %zu)", problem, p->context,
		         p->context_mark.line + 1);
	else
		complain(r->c, &place, "%s", problem);
}

static bool next_event(struct reader *r, yaml_event_t *e)
{
	if (yaml_parser_parse(&r->parser, e))
		return true;
	syntax_error(r);
	return false;
}

/* Goes through the stream: one document or none. */
static struct node *read_stream(struct reader *r)
{
	struct node *root = NULL;
	unsigned documents = 0;
	for (;;) {
		yaml_event_t e;
		if (!next_event(r, &e))
			return NULL;
		yaml_event_type_t type = e.type;
		if (type == YAML_DOCUMENT_START_EVENT && ++documents == 2) {
			struct node *n = node_at(r, &e.start_mark);
			complain(r->c, n, "a second document starts here: one per file");
			type = YAML_STREAM_END_EVENT;
		} else if (type == YAML_SCALAR_EVENT || type == YAML_MAPPING_START_EVENT ||
		           type == YAML_SEQUENCE_START_EVENT || type == YAML_ALIAS_EVENT) {
			root = read_node(r, &e, false);
			if (!root)
				type = YAML_STREAM_END_EVENT;
		}
		yaml_event_delete(&e);
		if (type == YAML_STREAM_END_EVENT)
			return root;
	}
}

static const char *add_file(struct yaml_tree *t, const char *name, unsigned mode)
{
	struct yaml_file *f = alloc(t, sizeof(*f));
	if (!f)
		return NULL;
	f->name = copy(t, name, strlen(name));
	f->mode = mode;
	f->next = t->files;
	t->files = f;
	return f->name;
}

static struct node *parse(struct yaml_tree *t, const char *name, unsigned mode, const void *data,
                          size_t len, struct complaints *c)
{
	struct reader r = {.tree = t, .c = c, .data = data, .len = len};
	r.file = add_file(t, name, mode);
	if (!r.file || !yaml_parser_initialize(&r.parser)) {
		complain(c, NULL, "%s: out of memory", name);
		return NULL;
	}
	yaml_parser_set_input_string(&r.parser, data, len);
	struct node *root = read_stream(&r);
	yaml_parser_delete(&r.parser);
	return root;
}

struct node *yaml_parse(struct yaml_tree *t, const char *name, const void *data, size_t len,
                        struct complaints *c)
{
	return parse(t, name, 0, data, len, c);
}

/* Reads all of @fd. 0, -EFBIG, -errno. */
static int read_all(int fd, struct buf *out)
{
	for (;;) {
		int e = buf_room(out, 65536);
		if (e < 0)
			return e;
		ssize_t n = read(fd, out->p + out->len, 65536);
		if (n == 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return err_errno();
		out->len += n > 0 ? (size_t)n : 0;
		if (out->len > YAML_FILE_MAX)
			return -EFBIG;
	}
}

struct node *yaml_read(struct yaml_tree *t, const char *path, struct complaints *c)
{
	_cleanup_(buf_deinit) struct buf text = {0};
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct stat st;
	int e = fd < 0 || fstat(fd, &st) < 0 ? err_errno() : read_all(fd, &text);
	if (e < 0) {
		complain(c, NULL, "%s: cannot be read: %s", path, strerror(-e));
		return NULL;
	}
	return parse(t, path, S_ISREG(st.st_mode) ? st.st_mode : 0, text.p ? text.p : (uint8_t *)"",
	             text.len, c);
}
