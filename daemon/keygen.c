/*
 * sluicectl keygen: a pair of CURVE keys in two files.
 *
 * FILE is the public key, to be given away; FILE_secret is for its owner alone. Both are
 * certificates as czmq and pyzmq write and read them. Nothing that exists is overwritten: a key
 * that is in use would be gone.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/ctl.h"
#include "stages/zmqkey.h"

/* A file is there in full or not at all. */
static int write_file(const char *path, mode_t mode, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0) {
		ctl_say("keygen: %s: %s", path, strerror(errno));
		return CTL_NO;
	}
	size_t len = strlen(text);
	bool whole = write(fd, text, len) == (ssize_t)len && fsync(fd) == 0;
	int error = errno;
	if (close(fd) < 0 && whole) {
		error = errno;
		whole = false;
	}
	if (whole)
		return CTL_FINE;
	unlink(path);
	ctl_say("keygen: %s: %s", path, strerror(error));
	return CTL_NO;
}

int ctl_keygen(const char *path)
{
	char public_key[ZMQKEY_TEXT], secret_key[ZMQKEY_TEXT], text[512], secret_path[PATH_MAX];
	if (snprintf(secret_path, sizeof(secret_path), "%s_secret", path) >=
	    (int)sizeof(secret_path)) {
		ctl_say("keygen: the path is too long");
		return CTL_NO;
	}
	int r = zmqkey_make(public_key, secret_key);
	if (r < 0) {
		ctl_say("keygen: no keys: %s", strerror(-r));
		return CTL_NO;
	}
	/* the secret one first: a public key whose secret could not be kept is of no use to anybody
	 */
	snprintf(text, sizeof(text),
	         "# CURVE secret key: for its owner alone\nmetadata\ncurve\n    public-key = "
	         "\"%s\"\n    secret-key = \"%s\"\n",
	         public_key, secret_key);
	r = write_file(secret_path, 0600, text);
	explicit_bzero(text, sizeof(text));
	explicit_bzero(secret_key, sizeof(secret_key));
	if (r != CTL_FINE)
		return r;
	snprintf(text, sizeof(text),
	         "# CURVE public key\nmetadata\ncurve\n    public-key = \"%s\"\n", public_key);
	r = write_file(path, 0644, text);
	if (r == CTL_FINE)
		printf("%s\n%s\n", path, secret_path);
	else
		unlink(secret_path);
	return r;
}
