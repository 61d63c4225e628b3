/*
 * A stored position is outside input: whatever its bytes are, both file stages must start, read all
 * or write on, and never cut bytes that are not theirs.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stages/consumers/file.h"
#include "stages/producers/file.h"

extern const struct stage_ops producer_file, consumer_file;

static uint8_t position[STAGE_POSITION_MAX];
static uint8_t room[4096];
static char path[64];
static const char content[] = "one line\nanother line\nlast";

static int reserve(struct stage_host *h, size_t need, uint8_t **p, size_t *n)
{
	(void)h;
	*p = room;
	*n = sizeof(room);
	return need > sizeof(room) ? STAGE_E_REJECT : 0;
}

static int made(struct stage_host *h, size_t len)
{
	(void)h;
	(void)len;
	return 0;
}

static int reject(struct stage_host *h, const char *why, const void *input, size_t len,
                  const char *at)
{
	(void)h, (void)why, (void)input, (void)len, (void)at;
	return 0;
}

static int set_position(struct stage_host *h, uint32_t off, const void *data, uint32_t len)
{
	(void)h;
	assert(off <= sizeof(position) && len <= sizeof(position) - off);
	memcpy(position + off, data, len);
	return 0;
}

static void put_content(void)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert(fd >= 0);
	assert(write(fd, content, sizeof(content) - 1) == (ssize_t)sizeof(content) - 1);
	close(fd);
}

static void start(struct stage *st, const struct stage_ops *ops, struct stage_host *host,
                  struct codec *codec, const void *config)
{
	*st = (struct stage){.ops = ops,
	                     .name = "fuzz",
	                     .config = config,
	                     .state = calloc(1, ops->state_size),
	                     .codec = codec,
	                     .host = host,
	                     .max_record = sizeof(room),
	                     .position = position};
	assert(st->state);
}

static void read_file(struct stage_host *host, struct codec *codec)
{
	const char *paths[] = {path};
	struct file_config config = {.path = {paths, 1}, .read_buffer = 512};
	struct stage st;
	int answer = STAGE_OK;
	start(&st, &producer_file, host, codec, &config);
	assert(st.ops->open(&st) == 0);
	for (int i = 0; i < 100 && answer == STAGE_OK; i++)
		answer = st.ops->produce(&st);
	assert(answer == STAGE_E_END);
	st.ops->close(&st);
	free(st.state);
}

static void write_file(struct stage_host *host, struct codec *codec, const struct file_out_mark *m)
{
	struct file_out_config config = {.path = path, .mode = 0600};
	struct stage st;
	struct stat sb;
	start(&st, &consumer_file, host, codec, &config);
	assert(st.ops->open(&st) == 0);
	assert(stat(path, &sb) == 0);
	/* cut only by a position whose fingerprint is right; at the beginning there is none */
	assert(sb.st_size == sizeof(content) - 1 || (m->tail_len == 0 && m->offset == 0));
	st.ops->close(&st);
	free(st.state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stage_host host = {reserve, made, NULL, reject, set_position, NULL};
	const struct codec_ops *ops = codec_find("lines");
	struct complaints none = {0};
	struct codec codec;
	struct stat sb;
	uint64_t ino;
	if (size < 1 || size > sizeof(position))
		return 0;
	if (!path[0])
		snprintf(path, sizeof(path), "/tmp/sluice-fuzz-%d", (int)getpid());
	put_content();
	assert(stat(path, &sb) == 0);
	ino = sb.st_ino;
	void *config = calloc(1, ops->config_size + 1);
	option_parse(ops->options, NULL, NULL, config, &none);
	assert(codec_init(&codec, ops, config, sizeof(room)) == 0);
	memset(position, 0, sizeof(position));
	memcpy(position, data, size);
	if (data[0] & 1) { /* what a random input would not guess */
		struct file_position *p = (struct file_position *)position;
		p->head.magic = FILE_MAGIC;
		p->head.version = FILE_VERSION;
		p->marks[0].ino = ino;
	}
	read_file(&host, &codec);
	memset(position, 0, sizeof(position));
	memcpy(position, data, size);
	struct file_out_mark *m = (struct file_out_mark *)position;
	if (data[0] & 1) {
		m->magic = FILE_OUT_MAGIC;
		m->version = FILE_OUT_VERSION;
		m->ino = ino;
	}
	struct file_out_mark before = *m;
	write_file(&host, &codec, &before);
	codec_deinit(&codec);
	free(config);
	unlink(path);
	return 0;
}
