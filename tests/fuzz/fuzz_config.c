/*
 * The configuration under any text: YAML, options, stages, graph. Ends in a configuration or in
 * complaints, never in a crash; what was loaded has edges that lead forward.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct config *cfg)
{
	struct buf out = {0};
	for (unsigned i = 0; i + 1 < cfg->n_edges; i++)
		assert(cfg->edges[i].from < cfg->edges[i].to && cfg->edges[i].quota > 0);
	assert(cfg->stages[cfg->dead_stage].builtin);
	config_graph_dot(cfg, &out);
	config_graph_mermaid(cfg, &out);
	buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	static char path[64];
	struct complaints c = {0};
	if (fd < 0) {
		fd = memfd_create("fuzz", MFD_CLOEXEC);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		setenv("A", "7", 1);
	}
	if (ftruncate(fd, 0) < 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
		return -1;
	struct config *cfg = config_load(path, &c);
	assert((cfg == NULL) == (c.count > 0));
	if (cfg)
		check(cfg);
	config_free(cfg);
	buf_deinit(&c.text);
	return 0;
}
