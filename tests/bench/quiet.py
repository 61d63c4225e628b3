"""How quiet the machine was: processor time that was neither ours nor idle, and time the host took away.

What our own processes and all they started used is known once they have been waited for; everything else that was busy is
others' (or the kernel's for us, a little: writing files back, interrupts).
"""
import os
import resource
import time

TICKS = os.sysconf("SC_CLK_TCK")
NOISY = 5.0  # per cent of the machine


def busy():
    """Seconds since boot: in use, taken by the host."""
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq, steal = (int(x) / TICKS for x in f.readline().split()[1:9])
    return user + nice + system + irq + softirq, steal


def ours():
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


class Watch:
    def __init__(self):
        self.load = os.getloadavg()[0]
        self.begin, (self.busy, self.steal), self.ours = time.monotonic(), busy(), ours()

    def noise(self):
        """Per cent of the machine since the beginning: used by others, taken by the host."""
        all_of_it = (time.monotonic() - self.begin) * os.cpu_count() or 1e-9
        now, steal = busy()
        others = max(0.0, now - self.busy - (ours() - self.ours))
        return 100 * others / all_of_it, 100 * (steal - self.steal) / all_of_it

    def told(self):
        others, steal = self.noise()
        text = f"{time.monotonic() - self.begin:.0f} s; others used {others:.0f} % of the machine, the host took {steal:.0f} %"
        return text + (" - NOT QUIET" if others + steal > NOISY else "")

    def loud(self):
        return sum(self.noise()) > NOISY


def machine():
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "?")
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) / (1 << 20)
    return f"{os.cpu_count()} cores, {cpu}, {memory:.0f} GiB, Linux {os.uname().release}"
