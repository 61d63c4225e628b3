#!/usr/bin/python3
"""
soak.py [MINUTES]: acknowledged load with kills, reloads, changes of scale, restarts and paused consumers, for a given
time (30 minutes).

Every second the resident memory of master and workers, and the master's descriptors, are noted; at the end their
slopes have to be flat (a worker that was replaced begins anew, so its stage's largest is what counts), all
records exactly once at both ends, the books balanced.
"""

import os
import signal
import sys
import time

import oracle
from oracle import Wrong
from storm import Storm

WARM = 0.25         # of the time: caches and pools fill, not looked at
SLOPE_KIB = 64      # a minute, of resident memory; noise of a slope over a short run is allowed for below
A_CONSUMER = "  extra: {from: clean, type: 'null'}\n"


def slope(points):
    """Least squares: units a minute."""
    n = len(points)
    if n < 3:
        return 0.0
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    var = sum((x - mx) ** 2 for x, _ in points)
    return 60 * sum((x - mx) * (y - my) for x, y in points) / var if var else 0.0


class Soak:
    def __init__(self, minutes):
        self.seconds = minutes * 60
        self.memory, self.fds = {}, []
        self.storm = Storm(seed=int(time.time()), more=A_CONSUMER, pause=0.003)
        self.done = {}

    def note(self, now):
        """One look at the processes."""
        box = self.storm.box
        answer = box.ask("workers")
        if not answer:
            return
        largest = {"master": answer["master"]["rss"]}
        for w in answer["workers"]:
            if w["pid"]:
                largest[w["stage"]] = max(largest.get(w["stage"], 0), w["rss_anon"])
        for name, rss in largest.items():
            self.memory.setdefault(name, []).append((now, rss / 1024))
        try:
            self.fds.append((now, len(os.listdir(f"/proc/{box.pid}/fd"))))
        except OSError:
            pass

    def act(self):
        """One thing that happens to a daemon."""
        storm, box = self.storm, self.storm.box
        what = storm.random.choice(("kill", "kill", "reload", "pause", "reopen", "scale", "restart", "nothing"))
        self.done[what] = self.done.get(what, 0) + 1
        if what == "kill":
            storm.hurt()
        elif what == "reload":
            more = storm.random.choice((A_CONSUMER, "", "  extra: {from: clean, type: 'null', quota: 3}\n"))
            box.configure(storm.config.replace(A_CONSUMER, more))
            box.ask("reload")
        elif what == "reopen":
            box.signal(box.pid, signal.SIGHUP)
        elif what == "scale":
            box.ask(f"scale clean {storm.random.randint(1, 4)}")
        elif what == "restart":
            box.ask(f"restart {storm.random.choice(('src', 'clean', 'out', 'db'))}")
        elif what == "pause":
            stage = storm.random.choice(("src", "clean", "out", "db"))
            box.ask(f"pause {stage}")
            time.sleep(storm.random.uniform(0.1, 2))  # a dead consumer, for a while
            self.resume(stage)

    def resume(self, stage):
        def resumed():
            self.storm.revive()
            answer = self.storm.box.ask(f"resume {stage}")
            return answer is not None and "error" not in answer
        oracle.until(f"{stage} to be resumed", resumed)

    def run(self):
        with self.storm as storm:
            start = time.monotonic()
            oracle.until("the first acknowledgement", storm.acked)
            while time.monotonic() - start < self.seconds:
                time.sleep(storm.random.uniform(0.2, 1.0))
                storm.revive()
                self.act()
                storm.revive()
                self.note(time.monotonic() - start)
            sent, aside = storm.check(storm.finish())
        print(f"{sent} records, {aside} set aside; {self.done}; {storm.kills}")
        self.judge()

    def judge(self):
        bad = []
        for name, points in sorted(self.memory.items()):
            late = [p for p in points if p[0] > WARM * self.seconds]
            most = max((y for _, y in late), default=0)
            rise = slope(late)
            print(f"  {name}: at most {most:.0f} KiB, {rise:+.1f} KiB a minute")
            # a short run sees little but noise: the rise over the whole run has to be visible too
            if rise > SLOPE_KIB and rise * self.seconds / 60 > 0.2 * most:
                bad.append(f"{name} grows by {rise:.0f} KiB a minute")
        late = [p for p in self.fds if p[0] > WARM * self.seconds]
        rise = slope(late) * self.seconds / 60
        print(f"  descriptors of the master: at most {max((y for _, y in late), default=0)}, {rise:+.1f} in all")
        if rise > 8:
            bad.append(f"the master's descriptors grow by {rise:.0f}")
        if bad:
            raise Wrong("; ".join(bad))


if __name__ == "__main__":
    try:
        Soak(float(sys.argv[1]) if len(sys.argv) > 1 else 30).run()
    except Wrong as wrong:
        sys.exit(f"soak: {wrong}")
