"""What a run costs: its wall time, the CPU of all its processes, its memory.

A contender runs in a child of ours that waits for all it starts, so RUSAGE_CHILDREN of that child is the CPU of the
whole tree (processes that a contender leaves behind would escape; none here does). Memory is PSS, summed over the tree
every 30 ms, in a run of its own, since looking costs time.
"""
import ctypes
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time


PR_SET_CHILD_SUBREAPER = 36
LIMIT = 200  # seconds that any run may take


def children_of(pid):
    """The tree below @pid, itself included."""
    found, todo = [], [pid]
    while todo:
        p = todo.pop()
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/children") as f:
                    todo += [int(c) for c in f.read().split()]
        except OSError:
            continue
        found.append(p)
    return found


def pss(pid):
    """Proportional set size of a tree, in bytes: shared pages count once."""
    total = 0
    for p in children_of(pid):
        try:
            with open(f"/proc/{p}/smaps_rollup") as f:
                total += next(int(line.split()[1]) for line in f if line.startswith("Pss:")) * 1024
        except (OSError, StopIteration):
            continue
    return total


def cpu_of(pid):
    """CPU seconds that a living tree has used, without its root (the helper below)."""
    total = 0
    for p in children_of(pid)[1:]:
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/schedstat") as f:
                    total += int(f.read().split()[0])
        except OSError:
            continue
    return total / 1e9


def tell(to, argv, how):
    """Runs @argv and writes what it and its descendants took. Nothing lives longer than LIMIT, and nothing is left."""
    p = None
    adopt(True)
    signal.signal(signal.SIGTERM, lambda *_: p and p.terminate())
    try:
        p = subprocess.Popen(argv, start_new_session=True, **how)
        status = p.wait(LIMIT)
    except OSError as e:
        print(f"    {argv[0]}: {e}", file=sys.stderr)
        status = 127
    except subprocess.TimeoutExpired:
        print(f"    {argv[0]}: ended after {LIMIT} s", file=sys.stderr)
        status = 124
    if p:
        end_group(p.pid)
    adopt(False)
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.write(to, f"{u.ru_utime + u.ru_stime} {status}".encode())


def adopt(begin):
    """From the beginning on, who loses its parent becomes our child; at the end all of them are waited for."""
    if begin:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass


def end_group(leader):
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Process:
    """A command whose CPU time, with that of all its descendants, is known after wait()."""

    def __init__(self, argv, stdin=None, stdout=None, env=None, log=None):
        self.name, self.status, self.log = os.path.basename(argv[0]), None, log
        r, w = os.pipe()
        self.reader = r
        self.pid = os.fork()
        if self.pid == 0:
            os.close(r)
            try:
                tell(w, argv, dict(stdin=stdin, stdout=stdout or subprocess.DEVNULL, stderr=log or subprocess.DEVNULL,
                                   env={**os.environ, **(env or {})}))
            finally:
                os._exit(0)  # whatever happens: this is a copy of the bench
        os.close(w)
        self.peak = 0

    def watch(self):
        """Waits for its end, and notes the peak of its memory."""
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            self.peak = max(self.peak, pss(self.pid) - pss_of_one(self.pid))
            time.sleep(0.03)
        return self.result()

    def sample(self):
        self.peak = max(self.peak, pss(self.pid) - pss_of_one(self.pid))

    def wait(self):
        os.waitpid(self.pid, 0)
        return self.result()

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def result(self):
        with os.fdopen(self.reader) as f:
            cpu, status = f.read().split()
        self.status = int(status)
        if self.status not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            print(f"    {self.name}: ended with status {status}", file=sys.stderr)
        return float(cpu)

    def last_words(self):
        return last_lines(self.log.name) if self.log else ""


def last_lines(path, n=5):
    with open(path, errors="replace") as f:
        return "".join(f.readlines()[-n:])


def pss_of_one(pid):
    """Of the helper that stands between us and the contender: not its memory."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("Pss:")) * 1024
    except (OSError, StopIteration):
        return 0


def until(condition, seconds=120, step=0.005):
    """Waits for a condition; the caller learns when it held, or dies."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = condition()
        if got:
            return got
        time.sleep(step)
    raise TimeoutError(f"not so after {seconds} s: {condition}")


def words(text):
    """The numbers of `name=value name=value`."""
    return {k: float(v) for k, v in re.findall(r"(\w+)=([\d.]+)", text)}


def middle(values):
    return statistics.median(values)


def spread(values):
    """From the least to the greatest, as a share of the median, in per cent."""
    m = middle(values)
    return 100 * (max(values) - min(values)) / m if m else 0
