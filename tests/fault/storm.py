"""
Random kills under acknowledged load: what test_storm.py and soak are made of.

Three clients send numbered messages of a hundred records each, and go on until told to end; whoever is chosen is
killed, stopped or crashed; at the end each record that was acknowledged, and each that was sent before the end,
is at each end once, or once among the dead letters of what lies before that end.
"""

import itertools
import json
import random
import signal
import time

import oracle
from feed import Client
from oracle import HEAD, Box, Wrong, settled

A_MESSAGE = 100

GRAPH = """
producers:
  src: {type: zmq, socket: router, listen: "ipc://@/in", codec: json, stall_timeout: %(stall)s}
transformers:
  clean:
    workers: 2
    stall_timeout: %(stall)s
    steps:
      - set: {up: "=upper(msg)"}
consumers:
  out: {from: clean, type: file, path: @/out.jsonl, codec: json, stall_timeout: %(stall)s%(out)s}
  db: {from: clean, type: sqlite, path: @/out.db, table: t, synchronous: "off", stall_timeout: %(stall)s}
%(more)s"""


class Storm:
    def __init__(self, arena="16MiB", buffer="64KiB", stall="60s", out="", more="", seed=1, build=None, pause=0.001):
        self.config = HEAD % dict(arena=arena, buffer=buffer) + GRAPH % dict(stall=stall, out=out, more=more)
        self.box = Box(self.config, build=build or oracle.RELEASE)
        self.random = random.Random(seed)
        self.clients = [Client(f"client-{c}", f"ipc://{self.box.dir}/in", 10**9, self.message(c)) for c in range(3)]
        for c in self.clients:
            c.pause = pause
        self.kills = {}

    def message(self, client):
        def make(sequence):
            base = client * 10**9 + (sequence - 1) * A_MESSAGE
            return b"".join(b'{"id": %d, "msg": "m%d"}\n' % (i, i) for i in range(base, base + A_MESSAGE))
        return make

    def __enter__(self):
        self.box.start()
        for c in self.clients:
            c.start()
        return self

    def __exit__(self, kind, value, trace):
        for c in self.clients:
            c.leave = True
        for c in self.clients:
            c.join(10)
        self.box.__exit__(kind, value, trace)

    def acked(self):
        for c in self.clients:
            if c.error:
                raise Wrong(f"client: {c.error}")
        return sum(c.acked for c in self.clients) * A_MESSAGE

    # ---- hurting ----

    def revive(self):
        status = self.box.dead()
        if status is None:
            return
        if status not in (-signal.SIGKILL, -signal.SIGSEGV):
            raise Wrong(f"the daemon ended with status {status}; log:\n{self.box.log()}")
        self.box.start()

    def hurt(self, whom=None, how=None):
        """Hurts somebody. Returns (pid, None for the whole daemon or the slot, the stage's commits before), or None."""
        whom = whom or self.random.choice(("src", "clean", "out", "db", "master", "all"))
        how = how or self.random.choices((signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP), (8, 3, 1))[0]
        if how == signal.SIGSTOP and whom in ("master", "all"):
            how = signal.SIGKILL
        found = self.box.workers()
        if whom in ("master", "all"):
            victims = [w["pid"] for w in found] if whom == "all" else []
            self.box.signal(self.box.pid, how)
            for pid in victims:
                self.box.signal(pid, how)
            self.box.process.wait()
            hurt = (self.box.pid, None, 0)
            self.revive()
        else:
            mine = [w for w in found if w["stage"] == whom]
            if not mine:
                return None
            w = self.random.choice(mine)
            if not self.box.signal(w["pid"], how):
                return None
            hurt = (w["pid"], w["slot"], sum(x["commits"] for x in mine))
            if how == signal.SIGSTOP:
                time.sleep(2)  # this is the fault: two seconds of silence
                self.box.signal(w["pid"], signal.SIGCONT)
                hurt = None
        name = f"{signal.Signals(how).name} {whom}"
        self.kills[name] = self.kills.get(name, 0) + 1
        return hurt

    def recovered(self, hurt, since):
        """
        Waits until another is in its place and its stage has committed again (the whole: its file consumer has; a
        sibling may have taken all there was to do). Seconds it took.
        """
        def again():
            self.revive()
            found = self.box.workers()
            if hurt[1] is None:
                return any(w["stage"] == "out" and w["commits"] > self.before.get(w["pid"], -1) for w in found)
            new = next((w for w in found if w["slot"] == hurt[1] and w["pid"] != hurt[0]), None)
            return new and sum(w["commits"] for w in found if w["stage"] == new["stage"]) > hurt[2]
        self.before = {}
        if hurt[1] is None:  # commit numbers go on across a restart: note where the new one begins
            oracle.until("the daemon to answer", lambda: self.revive() or self.box.workers("out"))
            self.before = {w["pid"]: w["commits"] for w in self.box.workers("out")}
        oracle.until(lambda: f"recovery; log:\n{self.box.log()}", again, pause=0.001)
        return time.monotonic() - since

    # ---- the end ----

    def finish(self):
        """Ends the load, waits until all is done, stops. Returns the books."""
        for c in self.clients:
            c.end_here()

        def done():
            self.revive()
            self.acked()
            return all(c.acked >= c.count for c in self.clients) and settled(self.box.ask("audit"))

        def say():
            return f"the end: {[(c.acked, c.count) for c in self.clients]} {self.box.ask('audit')}; log:\n{self.box.log()}"
        oracle.until(say, done, deadline=4 * oracle.DEADLINE, pause=0.02)
        books = self.box.ask("audit")
        if self.box.stop() != 0:
            raise Wrong(f"stopped with status {self.box.process.returncode}; log:\n{self.box.log()}")
        return books

    def check(self, books):
        aside = {}
        for x in self.box.letters():
            record = x["input"] if isinstance(x["input"], dict) else json.loads(x["input"])
            aside.setdefault(x["stage"].split("/")[0], []).append(record["id"])
        before = aside.get("src", []) + aside.get("clean", [])
        sent = [client.count * A_MESSAGE for client in self.clients]
        for stage, ids in (("out", oracle.each_line(self.box.path("out.jsonl"))),
                           ("db", oracle.each_row(self.box.path("out.db")))):
            self.check_once(stage, itertools.chain(ids, before, aside.get(stage, [])), sent)
        if not books["balanced"] or books["received"] != sum(sent):
            raise Wrong(f"books: {books}, sent {sum(sent)}")
        held = self.box.held_entries()
        if held:
            raise Wrong(f"entries leaked: {held}")
        return sum(sent), sum(len(x) for x in aside.values())

    @staticmethod
    def check_once(where, ids, sent):
        """Each of the records @sent (how many, by client) once. A byte a record: a soak sends a hundred million."""
        seen = [bytearray(n) for n in sent]
        for i in ids:
            client, at = divmod(i, 10**9)
            if not (client < len(seen) and at < sent[client]):
                raise Wrong(f"{where}: {i} is strange")
            seen[client][at] += 1
        lost = [c * 10**9 + b.index(0) for c, b in enumerate(seen) if 0 in b]
        if lost or any(b.count(1) != len(b) for b in seen):
            raise Wrong(f"{where}: lost {sum(b.count(0) for b in seen)}, the first {lost}; more than once "
                        f"{sum(len(b) - b.count(0) - b.count(1) for b in seen)}")


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")
