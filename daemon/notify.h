/*
 * What is said to systemd, and what it keeps for us.
 *
 * The service manager is told the state in words with the rate, that a start or a drain still goes
 * on, and that the daemon is alive: the watchdog is fed only while the master's loop runs AND no
 * worker stands still beyond its limit without having been replaced. So a hang that the daemon
 * cannot mend itself (a worker that does not even die) becomes a restart by systemd.
 *
 * The store: systemd keeps descriptors over a restart and a crash of ours
 * (FileDescriptorStoreMax=). The memory arena goes there, and the listening control socket, so that
 * clients that knock meanwhile wait instead of being refused.
 *
 * Limits: the store is emptied by `systemctl stop` (unless FileDescriptorStorePreserve=yes, systemd
 * 254) and when the unit fails for good. Whether the manager really keeps a descriptor is not told:
 * it does when the unit allows it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct master;

/* After every change of state. */
void notify_state(const struct master *m);
/* From the loop, ten times a second: status once a second, the watchdog when it is due. */
void notify_tick(const struct master *m, int64_t now);
/* A reload begins; it has ended. */
void notify_reloading(void);
void notify_reloaded(const struct master *m);

/* The descriptor that was stored under @name by a daemon before us, or -1. The caller's to close.
 */
int notify_stored(const char *name);
/* Gives @fd to the store. Whether there is a manager to give it to. */
bool notify_store(const char *name, int fd);
/* Takes what is stored under @name out again. */
void notify_unstore(const char *name);
