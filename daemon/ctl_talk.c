/*
 * Talking to the daemon: one connection, requests out, lines in.
 *
 * Where the socket is: -s; else $SLUICE_SOCKET; else what the configuration given with -c says;
 * else the user's own daemon (XDG_RUNTIME_DIR, /tmp/sluice-UID) when its socket is there, else
 * /run/sluice/control.sock.
 *
 * Limits: an answer may have ANSWER_MAX bytes; a daemon that says nothing for ANSWER_S seconds has
 * hung, but for taps and reloads, which take as long as they take.
 */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/ctl.h"

enum {
	ANSWER_MAX = 64 << 20,
	ANSWER_S = 30,
};

void ctl_say(const char *fmt, ...)
{
	va_list ap;
	_cleanup_(buf_deinit) struct buf safe = {0};
	char s[8192];
	va_start(ap, fmt);
	vsnprintf(s, sizeof(s), fmt, ap);
	va_end(ap);
	for (char *line = s; line && *line;) {
		char *nl = strchr(line, '\n');
		size_t n = nl ? (size_t)(nl - line) : strlen(line);
		table_add(&safe, line, n, TABLE_PLAIN, false);
		buf_add_byte(&safe, '\n');
		line = nl ? nl + 1 : NULL;
	}
	fprintf(stderr, "sluicectl: %.*s", (int)safe.len, safe.p ? (char *)safe.p : "\n");
}

int ctl_used_wrongly(const struct command *c)
{
	ctl_say("usage: sluicectl %s%s%s", c->name, *c->args ? " " : "", c->args);
	return CTL_WRONG;
}

bool ctl_out(const struct buf *text)
{
	if (text->len == 0)
		return true;
	return fwrite(text->p, 1, text->len, stdout) == text->len && fflush(stdout) == 0;
}

/* ---- where ---- */

static void of_config(struct ctl *ctl)
{
	struct complaints c = {0};
	struct config *cfg = config_load(ctl->config, &c);
	if (cfg)
		snprintf(ctl->tried, sizeof(ctl->tried), "%s", cfg->control_socket);
	else
		ctl_say("%s has mistakes, so it is not known which socket it means (sluicectl "
		        "check %s); "
		        "trying the default",
		        ctl->config, ctl->config);
	config_free(cfg);
	buf_deinit(&c.text);
}

static bool try_path(struct ctl *ctl, const char *dir, const char *rest)
{
	snprintf(ctl->tried, sizeof(ctl->tried), "%s%s", dir, rest);
	return access(ctl->tried, F_OK) == 0;
}

static void find_socket(struct ctl *ctl)
{
	const char *env = getenv("SLUICE_SOCKET"), *xdg = getenv("XDG_RUNTIME_DIR");
	char own[64];
	ctl->tried[0] = '\0';
	if (ctl->socket || (env && *env))
		snprintf(ctl->tried, sizeof(ctl->tried), "%s", ctl->socket ? ctl->socket : env);
	else if (ctl->config)
		of_config(ctl);
	if (ctl->tried[0])
		return;
	snprintf(own, sizeof(own), "/tmp/sluice-%u", (unsigned)geteuid());
	if (geteuid() != 0 && ((xdg && *xdg && try_path(ctl, xdg, "/sluice/control.sock")) ||
	                       try_path(ctl, own, "/control.sock")))
		return;
	try_path(ctl, "/run/sluice", "/control.sock");
}

/* ---- the connection ---- */

static const char *advice(int error)
{
	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
		return "is sluiced running? another socket is named with -s SOCKET or -c CONFIG";
	case EACCES:
	case EPERM:
		return "you may not connect: use sudo, or join the socket's group";
	default:
		return "another socket is named with -s SOCKET";
	}
}

bool ctl_connect(struct ctl *ctl, bool quiet)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct timeval patience = {ANSWER_S, 0};
	find_socket(ctl);
	if (strlen(ctl->tried) >= sizeof(sa.sun_path)) {
		if (!quiet)
			ctl_say("%s: a socket's path has at most %zu bytes", ctl->tried,
			        sizeof(sa.sun_path) - 1);
		return false;
	}
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", ctl->tried);
	ctl->in.len = ctl->line = 0;
	ctl->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (ctl->fd >= 0 && connect(ctl->fd, (struct sockaddr *)&sa, sizeof(sa)) == 0) {
		setsockopt(ctl->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		setsockopt(ctl->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		return true;
	}
	int e = errno;
	if (!quiet)
		ctl_say("no answer at %s: %s: %s", ctl->tried, strerror(e), advice(e));
	ctl_close(ctl);
	return false;
}

void ctl_close(struct ctl *ctl)
{
	if (ctl->fd >= 0)
		close(ctl->fd);
	ctl->fd = -1;
}

static bool is_patient(const char *word)
{
	return strcmp(word, "tap") == 0 || strcmp(word, "reload") == 0;
}

bool ctl_send(struct ctl *ctl, const char *const *words, unsigned n)
{
	_cleanup_(buf_deinit) struct buf line = {0};
	struct timeval forever = {0, 0};
	for (unsigned i = 0; i < n; i++) {
		if (i)
			buf_add_byte(&line, ' ');
		buf_add_str(&line, words[i]);
	}
	buf_add_byte(&line, '\n');
	if (n && is_patient(words[0]))
		setsockopt(ctl->fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever));
	for (size_t at = 0; at < line.len;) {
		ssize_t r = send(ctl->fd, line.p + at, line.len - at, MSG_NOSIGNAL);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0) {
			ctl_say("the daemon at %s went away: %s", ctl->tried, strerror(errno));
			return false;
		}
		at += (size_t)r;
	}
	return true;
}

/* Reads more. False: the end. */
static bool read_more(struct ctl *ctl)
{
	if (ctl->in.len >= ANSWER_MAX || buf_room(&ctl->in, 65536) < 0)
		return false;
	for (;;) {
		ssize_t r = recv(ctl->fd, ctl->in.p + ctl->in.len, 65536, 0);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN)
			ctl_say("the daemon at %s accepted the request but has not answered for %d "
			        "s",
			        ctl->tried, ANSWER_S);
		if (r <= 0)
			return false;
		ctl->in.len += (size_t)r;
		return true;
	}
}

const char *ctl_line(struct ctl *ctl, size_t *len)
{
	size_t looked = 0;
	if (ctl->line) {
		memmove(ctl->in.p, ctl->in.p + ctl->line, ctl->in.len - ctl->line);
		ctl->in.len -= ctl->line;
		ctl->line = 0;
	}
	for (;;) {
		uint8_t *nl = NULL;
		if (ctl->in.len > looked)
			nl = memchr(ctl->in.p + looked, '\n', ctl->in.len - looked);
		if (nl) {
			*len = (size_t)(nl - ctl->in.p);
			ctl->line = *len + 1;
			*nl = '\0';
			return (const char *)ctl->in.p;
		}
		looked = ctl->in.len;
		if (!read_more(ctl))
			return NULL;
	}
}

void ctl_print_answer(struct ctl *ctl)
{
	if (ctl->line)
		printf("%s\n", (const char *)ctl->in.p);
	fflush(stdout);
}

/* The error in an answer is said; with --json the answer itself is what programs want. */
static int refused(struct ctl *ctl, const char *command)
{
	_cleanup_free_ char *why = NULL;
	size_t n;
	const char *text = doc_text(doc_at(ctl->answer, "error"), &n);
	if (ctl->json) {
		ctl_print_answer(ctl);
		return CTL_NO;
	}
	why = strndup(text, n);
	ctl_say("%s: %s", command, why ? why : "refused");
	return CTL_NO;
}

int ctl_ask(struct ctl *ctl, const char *const *words, unsigned n)
{
	size_t len;
	if (!ctl_send(ctl, words, n))
		return CTL_WRONG;
	const char *line = ctl_line(ctl, &len);
	if (!line) {
		ctl_say("%s: no answer from the daemon at %s", words[0], ctl->tried);
		return CTL_WRONG;
	}
	int r = doc_parse(&ctl->store, line, len, &ctl->answer);
	if (r < 0) {
		ctl_say("%s: the answer of %s is no JSON object: is that the control socket of "
		        "sluiced?",
		        words[0], ctl->tried);
		return CTL_WRONG;
	}
	return doc_exists(doc_at(ctl->answer, "error")) ? refused(ctl, words[0]) : CTL_FINE;
}
