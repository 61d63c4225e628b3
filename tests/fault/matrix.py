"""
A kill at every step: which cases there are, and how one is run.

A scenario is a job with a way to run it and, maybe, a first fault that makes others possible (a worker's death
gives the master something to repair). It is run once unharmed to learn which points each role passes and how often;
then each such pair is a case: the same run with a kill at one of these passages, and the oracle.
"""

import concurrent.futures
import os
import signal
import traceback

import oracle
from oracle import Job, Wrong

WIDTH = int(os.environ.get("SLUICE_PARALLEL", "2"))


class Scenario:
    def __init__(self, name, job=None, base="", only=None, run=None, every=False):
        """@every: at each passage, not only at some: where the one that matters is not the middle one."""
        self.name, self.base, self.only, self.every = name, base, only, every
        self.job = job or Job()
        self.how = run or plain

    def run(self, fault):
        """One case. Returns (passages by role, numbers drawn by each rule)."""
        rules = ",".join(x for x in (self.base, fault) if x)
        with self.job.box(fault=rules) as box:
            self.how(self.job, box)
            return box.passed()

    def pairs(self):
        """The cases: [(role, point, passages)]."""
        roles, _ = self.run("")
        return [(role, point, n) for role, counts in sorted(roles.items()) for point, n in counts.items()
                if self.only is None or self.only(role, point)]


def plain(job, box):
    job.check(box, job.finish(box))


def reload_drops_stage(job, box):
    """When all is done, the configuration loses a consumer: its slot is retired, its figures stay."""
    less = job.config.replace("  extra: {from: clean, type: 'null'}\n", "")
    assert less != job.config
    job.run(box)
    box.configure(less)
    box.signal(box.pid, signal.SIGHUP)

    def gone():
        revive(box)
        found = box.stages()
        return found and "extra" not in found
    oracle.until(lambda: f"the reload to end; log:\n{box.log()}", gone)
    books = job.finish(box)
    books = dict(books, delivered=books["delivered"] - len(job.good))
    job.check(box, books)


def reload_adds_stages(job, box):
    """When all is done, the configuration gets a consumer more and a stage between: the producer, which has ended
    and whose edges are others now, must not read its input again."""
    more = job.config.replace("    workers: 2\n", "    from: first\n    workers: 2\n").replace(
        "transformers:\n", "transformers:\n  first: {from: src, steps: []}\n")
    more += "  extra: {from: src, type: 'null'}\n"
    job.run(box)
    box.configure(more)
    box.signal(box.pid, signal.SIGHUP)

    def there():
        revive(box)
        return "extra" in box.stages()
    oracle.until(lambda: f"the reload to end; log:\n{box.log()}", there)
    job.check(box, job.finish(box))


def discard(job, box):
    """
    A consumer is paused, its queue fills, and a reload drops it with its chunks: counted, each once. Who is killed
    in the middle of that is started with the new configuration, and finishes it.
    """
    less = job.config.replace("  extra: {from: clean, type: 'null'}\n", "")
    box.start()

    def full():
        revive(box)
        box.ask("pause extra")
        edges = {e["name"]: e for e in (box.ask("status") or {}).get("edges", [])}
        return edges and edges["clean->extra"]["full"]

    def gone():
        revive(box)
        found = box.stages()
        if "extra" in found:
            box.ask("reload --discard clean->extra")
        return found and "extra" not in found
    oracle.until("the paused consumer's queue to be full", full)
    box.configure(less)
    oracle.until(lambda: f"the reload to end; log:\n{box.log()}", gone, pause=0.05)
    books = job.finish(box)
    if not books["dropped"]:
        raise Wrong("nothing was dropped")
    extra = books["delivered"] - 2 * len(job.good) - 3
    job.check(box, dict(books, delivered=books["delivered"] - extra, dropped=0))


def revive(box):
    """Starts it again when it was killed."""
    if box.dead() == -signal.SIGKILL:
        box.start()


def new_geometry(job, box):
    """Stopped half way, drained, started with another arena: positions, state and books go on."""
    box.start()
    def drained():
        revive(box)
        if (box.ask("audit") or {}).get("delivered", 0) > 1000:
            box.ask("drain")
        # an order is not its end: the producer may still commit what it had in hand
        if box.stages().get("src", {}).get("state") not in ("stopped", "ended"):
            return None
        books = box.ask("audit")
        return oracle.settled(books) and books
    books = oracle.until("the drain", drained)
    assert books["received"] < job.n, "all was done before it could be stopped: give it more input"
    while box.stop() == -signal.SIGKILL:
        box.start()
        oracle.until("the drain", drained)
    box.configure(job.config.replace("size: 4MiB", "size: 6MiB"))
    job.check(box, job.finish(box))


def lose_power(job, box):
    """
    All is killed half way and the machine was started anew: the arena is made anew from the log. Then at least once:
    all that has to come out is there, and nothing else.
    """
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    box.path("boot").write_text("00000000-0000-4000-8000-000000000001\n")
    box.start()

    def half_way():
        revive(box)
        return (box.ask("audit") or {}).get("delivered", 0) > job.n // 4
    oracle.until("something delivered", half_way)
    for pid in [box.pid, *box.children()]:
        box.signal(pid, signal.SIGKILL)
    box.process.wait()
    box.path("boot").write_text("00000000-0000-4000-8000-000000000002\n")
    check_after_loss(job, box)


def check_after_loss(job, box):
    """At least once: all that has to come out is there, and nothing else."""
    books = job.finish(box)
    if not books["balanced"] or books["dropped"] or books["aside"]:
        raise Wrong(f"books: {books}")
    for where, got in (("file", oracle.lines_ids(box.path("out.jsonl"))),
                       ("sqlite", oracle.table_ids(box.path("out.db")))):
        if set(got) != job.good:
            raise Wrong(f"{where}: lost {len(job.good - set(got))}, strange {len(set(got) - job.good)}")
    if hasattr(job, "check_stuck"):
        job.check_stuck(box)
    held = box.held_entries()
    if held:
        raise Wrong(f"entries leaked: {held}; log:\n{box.log()}")


def lose_power_there(job, box):
    """
    The same with the loss of power at the step of the fault: all is killed as soon as that has happened. What is
    begun after a new start may be disturbed by it instead.
    """
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    box.path("boot").write_text("00000000-0000-4000-8000-000000000001\n")
    rule = box.env.get("SLUICE_FAULT")
    wanted = int(rule.split(":")[1]) if rule else 1 << 60
    box.start()

    def there():
        revive(box)
        found = box.path("passed").exists() and box.path("passed").stat().st_size > 128 and box.passed()
        status = box.stages()
        over = status and all(status[s]["state"] == "ended" for s in ("src", "clean", "out", "db"))
        return over or (found and found[1][0] >= wanted)
    oracle.until(lambda: f"the step; log:\n{box.log()}", there)
    for pid in [box.pid, *box.children()]:
        box.signal(pid, signal.SIGKILL)
    box.process.wait()
    box.path("boot").write_text("00000000-0000-4000-8000-000000000002\n")
    check_after_loss(job, box)


def passages(count, every=False):
    """Which of so many passages are tried."""
    if every:
        return list(range(1, count + 1))
    if not oracle.LONG:
        return [(count + 1) // 2]
    some = {1, 2, 3, 5, count // 4, count // 2, 3 * count // 4, count - 1, count}
    return sorted(x for x in some if 1 <= x <= count)


TRIES = 8


def one(scenario, role, point, n):
    """
    Tries passage @n; when the run was shorter this time, an earlier one. Some points are passed only when two
    processes meet, so a run that met none is run again. (name, whether it was killed there, what went wrong).
    """
    index = len([x for x in scenario.base.split(",") if x])
    name = f"{scenario.name} {point}:{n}:{role}"
    try:
        for _ in range(TRIES):
            _, drawn = scenario.run(f"{point}:{n}:{role}")
            if drawn[index] >= n:
                return name, True, None
            n = max(1, min(n // 2, drawn[index]))
        return name, False, None
    except Wrong as e:
        return name, True, str(e)
    except Exception:
        return name, True, traceback.format_exc()


def run_all(scenario, say=print):
    """All cases of a scenario. Returns (points at which something was killed, failures)."""
    cases = [(role, point, n) for role, point, count in scenario.pairs() for n in passages(count, scenario.every)]
    with concurrent.futures.ThreadPoolExecutor(WIDTH) as pool:
        results = list(pool.map(lambda c: one(scenario, *c), cases))
    failures = [f"{name}: {what}" for name, _, what in results if what]
    missed = [name for name, killed, _ in results if not killed]
    say(f"{scenario.name}: {len(cases) - len(missed)} kills, {len(failures)} failed" +
        "".join(f"; not passed again: {name}" for name in missed))
    return {point for (_, point, _), (_, killed, _) in zip(cases, results) if killed}, failures
