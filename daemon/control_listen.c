/*
 * The listening socket: made, or handed over by systemd; removed when it was made here.
 *
 * The hard idea is the socket file that a dead daemon left behind. It is removed only when it is a
 * socket and connecting to it says that nobody listens; anything else at that path is left alone
 * and refused with what to do. From the first moment the file is open to the owner only; the
 * configured mode is set before anyone could connect, since listen() comes last.
 *
 * Limit: between the look and the bind another daemon may come; the daemon's own lock keeps that to
 * daemons with different runtime directories and the same socket path.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "daemon/control_parts.h"
#include "daemon/notify.h"

static const char KEPT[] = "control-kept"; /* our own one in systemd's store */

static bool is_control(const char *name, int n)
{
	size_t len = strlen(name);
	if (strcmp(name, "control") == 0)
		return true;
	/* a socket unit without FileDescriptorName= */
	return strcmp(name, KEPT) != 0 &&
	       (n == 1 || (len > 7 && strcmp(name + len - 7, ".socket") == 0));
}

/* A descriptor handed over by systemd: the one called "control", or the only one, when it fits. */
static int take_from_systemd(void)
{
	char **names = NULL;
	int found = -1;
	int n = sd_listen_fds_with_names(0, &names);
	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;
		bool named = names && names[i] && is_control(names[i], n);
		if (found < 0 && named && sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) > 0)
			found = fd;
	}
	for (int i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
	return found;
}

/* The socket of the daemon before us, with the clients that have knocked since: only while it is
 * the one at @path. */
static int take_kept(struct control_listen *l, const char *path)
{
	struct stat st;
	int fd = notify_stored(KEPT);
	if (fd < 0)
		return -1;
	if (sd_is_socket_unix(fd, SOCK_STREAM, 1, path, 0) > 0 && lstat(path, &st) == 0 &&
	    S_ISSOCK(st.st_mode)) {
		l->ours = l->kept = true;
		snprintf(l->path, sizeof(l->path), "%s", path);
		return fd;
	}
	notify_unstore(KEPT);
	close(fd);
	return -1;
}

static int make_parents(const char *path)
{
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
	snprintf(dir, sizeof(dir), "%s", path);
	for (char *p = strchr(dir + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdir(dir, 0755) < 0 && errno != EEXIST && errno != EISDIR) {
			int r = err_errno();
			log_error("control socket %s: cannot make directory %s: %s", path, dir,
			          strerror(-r));
			return r;
		}
		*p = '/';
	}
	return 0;
}

/* Whether a socket is at @sa and nobody listens there: 0, or the errno that says otherwise. */
static int is_dead(const struct sockaddr_un *sa)
{
	struct stat st;
	if (lstat(sa->sun_path, &st) < 0)
		return err_errno();
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno();
	if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0)
		return -EADDRINUSE;
	return errno == ECONNREFUSED ? 0 : errno == ENOENT ? -ENOENT : -EADDRINUSE;
}

/* Removes the socket of a dead daemon. 0: the path is free now. */
static int clear_path(const struct sockaddr_un *sa)
{
	int r = is_dead(sa);
	if (r == -EEXIST)
		log_error("control socket %s: something that is no socket is there: remove it, or "
		          "set "
		          "control.socket to another path",
		          sa->sun_path);
	else if (r == -EADDRINUSE)
		log_error("control socket %s: another process listens there: stop it, or set "
		          "control.socket to another path",
		          sa->sun_path);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return unlink(sa->sun_path) < 0 && errno != ENOENT ? err_errno() : 0;
}

static int bind_and_listen(struct control_listen *l, const struct sockaddr_un *sa, unsigned mode)
{
	mode_t before = umask(0177);
	int r = bind(l->fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 ? err_errno() : 0;
	umask(before);
	if (r < 0) {
		log_error("control socket %s: cannot bind: %s", l->path, strerror(-r));
		return r;
	}
	l->ours = true;

	if (chmod(l->path, mode & 0777) < 0 || listen(l->fd, 64) < 0) {
		r = err_errno();
		log_error("control socket %s: cannot listen: %s", l->path, strerror(-r));
	}
	return r;
}

int control_listen_open(struct control_listen *l, const char *path, unsigned mode)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	*l = (struct control_listen){.fd = take_from_systemd()};
	if (l->fd < 0)
		l->fd = take_kept(l, path);
	if (l->fd >= 0) /* as it was handed over, an accept could wait */
		return fcntl(l->fd, F_SETFL, fcntl(l->fd, F_GETFL) | O_NONBLOCK) < 0 ? err_errno()
		                                                                     : 0;
	if (strlen(path) >= sizeof(sa.sun_path)) {
		log_error("control socket %s: the path has %zu bytes, at most %zu fit: set "
		          "control.socket "
		          "to a shorter one",
		          path, strlen(path), sizeof(sa.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	snprintf(l->path, sizeof(l->path), "%s", path);
	int r = make_parents(path);
	if (r == 0)
		r = clear_path(&sa);
	if (r < 0)
		return r;
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return err_errno();
	r = bind_and_listen(l, &sa, mode);
	if (r < 0)
		control_listen_close(l);
	else
		l->kept = notify_store(KEPT, l->fd);
	return r;
}

void control_listen_close(struct control_listen *l)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", l->path);
	/* somebody may have put a socket of his own there: then there is an answer */
	if (l->ours && !l->kept && is_dead(&sa) == 0)
		unlink(l->path);
	l->ours = false;
}
