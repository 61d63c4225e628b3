/*
 * A codec turns bytes from outside into records and records into bytes.
 *
 * Decoding is pull-style over a window of bytes, so that one codec serves whole messages (`last` is
 * set: nothing follows) and streams (the caller slides the window). It writes msgpack straight into
 * the caller's room, which is the chunk under construction: no copy, no objects, no allocation per
 * record.
 *
 * Promises of every codec
 *  - any input ends: each call consumes at least one byte or answers MORE, ROOM or END;
 *  - what it writes is exactly one msgpack map with unique string keys (all levels), UTF-8 checked;
 *  - a rejected piece of input is named by [bad, bad+bad_len), the rest goes on behind it.
 */
#pragma once

#include "ipc/buf.h"
#include "ipc/record.h"
#include "stages/option.h"

enum codec_error {
	CODEC_E_OK,   /* one record written; window->p is behind its input */
	CODEC_E_MORE, /* the record goes on behind the window, and `last` is not set */
	CODEC_E_END,  /* nothing left in the window but blanks */
	CODEC_E_ROOM, /* the record does not fit; window->p unchanged: call again with more room */
	CODEC_E_REJECT, /* bad input, named by bad, bad_len, why; window->p is where to go on */
};

struct codec_window {
	const uint8_t *p;   /* next byte to read; moved by decode */
	const uint8_t *end; /* first byte behind the window */
	bool last;          /* nothing will ever follow `end` */
	/* after CODEC_E_REJECT */
	const uint8_t *bad;
	size_t bad_len;
	const char *why; /* static text, or text inside the codec that lives until the next call */
};

struct codec;

struct codec_ops {
	const char *name;
	const char *help;
	const struct option *options; /* keys beside `codec:` in the stage; may be NULL */
	size_t config_size;
	size_t state_size; /* zeroed, per user of the codec */
	/* What the table cannot say, after option_parse; makes complaints. Also in the master.
	 * Optional. */
	void (*check)(const void *config, const struct node *node, struct complaints *c);
	int (*open)(struct codec *c);   /* optional: 0 or -errno */
	void (*close)(struct codec *c); /* optional */
	/* Start of a new input (file, message): forget header lines and the like. Optional. */
	void (*reset)(struct codec *c);
	/* Takes what stands in front of the first record (a header), if it was not taken yet: so
	 * that who dies of it, and who dies of the record behind it, do not look the same. OK,
	 * MORE, END, REJECT, or -errno. Optional: decode does it too. */
	int (*begin)(struct codec *c, struct codec_window *w);
	/* What stands here was, or is to be, passed over unread. When the header belongs here, this
	 * input has none (c->headless): no record may be named by another row. Optional. */
	void (*lost)(struct codec *c);
	/* True when inputs start with a header line that later records need (csv): a producer that
	 * resumes in the middle of a file feeds the file's first bytes to `prologue` before. */
	bool has_prologue;
	/* Reads the header. Bytes it took (> 0), 0: needs more, or -EINVAL. */
	int64_t (*prologue)(struct codec *c, const uint8_t *p, size_t len);
	/* The first byte behind the record that begins at @w->p, found without decoding it (@w is
	 * not changed); NULL: not before its end. Asked for a record that kills who decodes it.
	 * Optional: without it a line is a record. */
	const uint8_t *(*behind)(struct codec *c, const struct codec_window *w);
	/* Next record of @w into [out, out+room); its bytes go to *@len. Returns codec_error or
	 * -errno. */
	int (*decode)(struct codec *c, struct codec_window *w, uint8_t *out, size_t room,
	              size_t *len);
	/* Appends what stands at the head of an output file before @rec (csv: the header), if
	 * anything. Optional. 0 or -errno. */
	int (*head)(struct codec *c, const uint8_t *rec, size_t len, struct buf *out);
	/* Appends the record (a validated msgpack map) as this codec writes it, line end included.
	 * 0, CODEC_E_REJECT (cannot be said in this codec: c->why), -ENOMEM. */
	int (*encode)(struct codec *c, const uint8_t *rec, size_t len, struct buf *out);
	bool text; /* its output is lines of text */
};

struct codec {
	const struct codec_ops *ops;
	const void *config;
	void *state;
	const char *why;   /* after encode answered CODEC_E_REJECT */
	bool headless;     /* the header of this input was lost; until reset */
	size_t max_record; /* no record may be longer than this (the buffer's size) */
};

/* All codecs, NULL-terminated (from stages.def), and the one with this name, or NULL. */
extern const struct codec_ops *const codec_all[];
const struct codec_ops *codec_find(const char *name);

/* Makes a codec of @ops with @config (borrowed, may be NULL when ops has no options). 0 or -errno.
 */
int codec_init(struct codec *c, const struct codec_ops *ops, const void *config, size_t max_record);
void codec_deinit(struct codec *c);
