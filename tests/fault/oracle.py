"""
A daemon to be hurt, and the oracle that says whether it lost, doubled or leaked anything.

Box      one daemon in a short temporary directory: start, ask, kill, stop. Never kills by name, only its own.
Job      an input whose every record is known, the pipeline it goes through, and what has to come out.
check()  the oracle: each id that has to be at an end is there once, sums are exact, each bad input has its dead
         letter, the books balance, no entry of the arena is held, the log of faults says what was passed.

Nothing here waits for a time: each wait has a condition and a generous deadline.
"""

import atexit
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAULTS = pathlib.Path(os.environ.get("SLUICE_FAULTS_BUILD", ROOT / "build/faults"))
RELEASE = pathlib.Path(os.environ.get("SLUICE_BUILD", ROOT / "build"))
if not (RELEASE / "sluiced").exists():
    RELEASE = FAULTS  # the same code but for the points
LONG = bool(os.environ.get("SLUICE_TORTURE"))
DEADLINE = 120 if LONG else 90  # seconds: for a machine with much else to do


class Wrong(AssertionError):
    """The oracle's verdict."""


def until(what, condition, deadline=DEADLINE, pause=0.005):
    """Waits for condition() to be true, and returns what it returned."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Wrong(f"not within {deadline} s: {what() if callable(what) else what}")
        time.sleep(pause)


def points():
    """All fault points, in the order of their numbers."""
    text = (ROOT / "ipc/fault.def").read_text()
    return re.findall(r"^FAULT_POINT\((\w+)\)", text, re.M)


def passed(path):
    """What a fault state file says: ({role: {point: passages}}, [drawn by each rule])."""
    data, names, roles = pathlib.Path(path).read_bytes(), points(), {}
    drawn = struct.unpack_from("=16Q", data)
    for at in range(128, len(data), 8 + 64 + 64 * 8):
        key, name = struct.unpack_from("=Q64s", data, at)
        if key:
            counts = struct.unpack_from("=64Q", data, at + 72)
            roles[name.rstrip(b"\0").decode()] = {n: c for n, c in zip(names, counts) if c}
    return roles, drawn


class Box:
    """A daemon in its own directory."""

    def __init__(self, config="", build=None, fault=None, args=(), under=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="sf", dir=under or "/tmp"))
        self.build = pathlib.Path(build or FAULTS)
        self.env = dict(os.environ, SLUICE_FAULT_STATE=str(self.dir / "passed"))
        self.env.pop("SLUICE_FAULT", None)
        if fault:
            self.env["SLUICE_FAULT"] = fault
        self.args = list(args)
        self.process = None
        self.starts = 0
        self.keep = False
        self.small = None     # a file system of its own, and ...
        self.moved = set()    # ... what lies there
        if config:
            self.configure(config)
        atexit.register(self.close)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.keep = kind is not None and bool(os.environ.get("SLUICE_KEEP"))
        self.close()

    def path(self, name):
        return self.dir / "small" / name if name in self.moved else self.dir / name

    def configure(self, text):
        for name in self.moved:
            text = text.replace(f"@/{name}", f"@/small/{name}")
        self.path("c.yaml").write_text(text.replace("@", str(self.dir)))

    def mount_small(self, size, names, text):
        """Puts @names on a tmpfs of @size, and configures. False: mounting is not allowed here."""
        (self.dir / "small").mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "sluice-small", self.dir / "small"],
                          stderr=subprocess.DEVNULL, check=False).returncode != 0:
            return False
        self.small = self.dir / "small"
        self.moved = set(names)
        self.configure(text)
        return True

    def make_room(self, size):
        subprocess.run(["mount", "-o", f"remount,size={size}", self.small], check=True)

    # ---- the process ----

    def start(self):
        log = open(self.path("log"), "a")
        self.process = subprocess.Popen(
            [*self.args, str(self.build / "sluiced"), "-c", str(self.path("c.yaml")), "--log-level", "warning"],
            env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.dir)
        log.close()
        self.starts += 1
        return self

    @property
    def pid(self):
        return self.process.pid

    def dead(self):
        """The exit status when the daemon is gone, else None."""
        return self.process.poll() if self.process else 0

    def children(self, pid=None):
        try:
            text = pathlib.Path(f"/proc/{pid or self.pid}/task/{pid or self.pid}/children").read_text()
        except OSError:
            return []
        return [int(x) for x in text.split()]

    def signal(self, pid, sig):
        try:
            os.kill(pid, sig)
            return True
        except ProcessLookupError:
            return False

    def stop(self):
        """An orderly stop. Returns the exit status."""
        if self.dead() is None:
            self.signal(self.pid, signal.SIGTERM)
            try:
                return self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                raise Wrong(f"does not stop; log:\n{self.log()}") from None
        return self.process.returncode

    def close(self):
        if self.process and self.process.poll() is None:
            workers = self.children()
            self.process.kill()
            self.process.wait()
            for pid in workers:  # they follow their master; a stopped one has to be let go for that
                self.signal(pid, signal.SIGCONT)
        if self.small and not self.keep:
            subprocess.run(["umount", "-l", self.small], check=False)
        if self.keep:
            print(f"kept: {self.dir}")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        atexit.unregister(self.close)

    def log(self):
        p = self.path("log")
        return p.read_text(errors="replace")[-4000:] if p.exists() else ""

    # ---- the control socket ----

    def ask(self, command, timeout=10):
        """One command. None: nobody answers (it is dead, or not up yet)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(timeout)
            answer = b""
            try:
                s.connect(str(self.path("c.sock")))
                s.sendall(command.encode() + b"\n")
                while not answer.endswith(b"\n"):
                    piece = s.recv(65536)
                    if not piece:
                        return None
                    answer += piece
            except (OSError, TimeoutError):
                return None
        return json.loads(answer)

    def stages(self):
        status = self.ask("status")
        return {s["name"]: s for s in status["stages"]} if status else {}

    def workers(self, stage=None):
        answer = self.ask("workers")
        found = answer["workers"] if answer else []
        return [w for w in found if w["pid"] and (stage is None or w["stage"] == stage)]

    # ---- looking at what is left ----

    def held_entries(self):
        """States and owners of all entries of the arena file that are not FREE."""
        data = self.path("arena").read_bytes()
        entries, = struct.unpack_from("=I", data, 16)
        words_at, = struct.unpack_from("=Q", data, 56)
        if data[:8] != b"SLUICE\n\0" or not 0 < entries < 1 << 20:
            raise Wrong("the arena's header is not one")
        words = struct.unpack_from(f"={entries}Q", data, words_at)
        return {i: (w & 15, w >> 4 & 0xfff, w >> 16 & 0xffff) for i, w in enumerate(words) if w & 15}

    def passed(self):
        return passed(self.path("passed"))

    def letters(self):
        """All dead letters."""
        found = []
        for p in sorted(self.path("dead").glob("dead.jsonl*")):
            with open(p, "rb") as f:
                found += [json.loads(line) for line in f]
        return found


HEAD = """
arena: {size: %(arena)s, buffer: %(buffer)s, path: @/arena}
state: {path: @/state, size: 64MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: @/dead}
"""

GRAPH = """
producers:
  src: {type: file, path: @/in.jsonl, codec: json%(producer)s}
transformers:
  clean:
    workers: 2
    max_attempts: %(attempts)d
    steps:
      - convert: {n: int}
      - filter: {level: {not: d}}
      - set: {up: "=upper(msg)"}
%(steps)s  tot:
    from: clean
    max_attempts: %(attempts)d
    steps:
      - aggregate: {by: [level], compute: {n: count(), s: sum(id)}}
consumers:
  out: {from: clean, type: file, path: @/out.jsonl, codec: json, max_attempts: %(attempts)d}
  db: {from: clean, type: sqlite, path: @/out.db, table: t, synchronous: "off", max_attempts: %(attempts)d}
  totals: {from: tot, type: file, path: @/totals.jsonl, codec: json, max_attempts: %(attempts)d}
%(more)s"""


class Job:
    """
    N lines through the graph above. Of these: every 1000th is no JSON (the producer's letter), every 1500th has
    an n that is no number (a letter of `clean`), level d is filtered; the rest arrives at all three ends.
    """

    def __init__(self, n=20000, arena="4MiB", buffer="16KiB", attempts=3, producer="", steps="", more="", poison=None):
        self.n, self.poison = n, dict(poison or {})
        self.bad = {i for i in range(n) if i % 1000 == 500}
        self.rejected = {i for i in range(n) if i % 1500 == 7} - self.bad
        self.lost_to_poison = set(self.poison)
        self.filtered = {i for i in range(n) if i % 4 == 3} - self.bad - self.rejected - self.lost_to_poison
        self.good = set(range(n)) - self.bad - self.rejected - self.filtered - self.lost_to_poison
        self.config = (HEAD + GRAPH) % dict(arena=arena, buffer=buffer, attempts=attempts, producer=producer,
                                            steps=steps, more=more)

    def write_input(self, path):
        with open(path, "w") as f:
            for i in range(self.n):
                if i in self.bad:
                    f.write('{"id": %d, bad\n' % i)
                    continue
                r = {"id": i, "level": "abcd"[i % 4], "n": "x" if i in self.rejected else i, "msg": f"m{i}"}
                if i in self.poison:
                    r["crash"], r["level"] = self.poison[i], "a"
                f.write(json.dumps(r) + "\n")

    def box(self, fault=None, **more):
        box = Box(self.config, fault=fault, **more)
        self.write_input(box.path("in.jsonl"))
        return box

    def ready(self, box, stages=("src", "clean", "tot", "out", "db", "totals")):
        """All has been done and written."""
        found = box.stages()
        if not found or any(found[s]["state"] != "ended" for s in stages):
            return None
        books = box.ask("audit")
        return books if settled(books) else None

    def run(self, box, restarts=40, deadline=DEADLINE):
        """Starts the daemon, again whenever it was killed, until all is done. Returns the books then."""
        end = time.monotonic() + deadline
        if not box.process or box.dead() is not None:
            box.start()
        while True:
            status = box.dead()
            if status is not None:
                if status != -signal.SIGKILL:
                    raise Wrong(f"the daemon ended with status {status}; log:\n{box.log()}")
                if box.starts > restarts:
                    raise Wrong(f"killed {box.starts} times; log:\n{box.log()}")
                box.start()
            books = self.ready(box)
            if books:
                return books
            if time.monotonic() > end:
                states = {k: (v["state"], v["why"]) for k, v in box.stages().items()}
                raise Wrong(f"not done within {deadline} s: {states}; {box.ask('audit')}; log:\n{box.log()}")
            time.sleep(0.01)

    def finish(self, box):
        """run() and an orderly stop, whoever dies at it."""
        books = self.run(box)
        while box.stop() == -signal.SIGKILL:
            books = self.run(box)
        if box.process.returncode != 0:
            raise Wrong(f"stopped with status {box.process.returncode}; log:\n{box.log()}")
        return books

    # ---- the oracle ----

    def check(self, box, books):
        check_ids("file", lines_ids(box.path("out.jsonl")), self.good)
        check_ids("sqlite", table_ids(box.path("out.db")), self.good)
        self.check_totals(box)
        self.check_letters(box)
        self.check_books(books)
        held = box.held_entries()
        if held:
            raise Wrong(f"entries leaked: {held}; log:\n{box.log()}")

    def check_totals(self, box):
        got = {}
        with open(box.path("totals.jsonl")) as f:
            for r in map(json.loads, f):
                if r["level"] in got:
                    raise Wrong(f"the sum of level {r['level']} came twice")
                got[r["level"]] = (r["n"], r["s"])
        want = {}
        for i in self.good:
            n, s = want.get("abcd"[i % 4], (0, 0))
            want["abcd"[i % 4]] = (n + 1, s + i)
        if got != want:
            raise Wrong(f"sums: {got} instead of {want}")

    def check_letters(self, box):
        letters = box.letters()
        by_stage = {}
        for x in letters:
            text = x["input"] if isinstance(x["input"], str) else json.dumps(x["input"])
            i = int(re.search(r'"id": *(\d+)', text).group(1))
            by_stage.setdefault(x["stage"].split("/")[0], []).append(i)
        check_ids("letters of src", by_stage.pop("src", []), self.bad)
        check_ids("letters of clean", by_stage.pop("clean", []), self.rejected | self.lost_to_poison)
        if by_stage:
            raise Wrong(f"dead letters nobody expects: { {k: len(v) for k, v in by_stage.items()} }")
        names = [x["id"] for x in letters]
        if len(names) != len(set(names)):
            raise Wrong("two dead letters have the same id")

    def check_books(self, b):
        wrong = [k for k, want in (
            ("balanced", True), ("received", self.n), ("delivered", 2 * len(self.good) + 3), ("in_flight", 0),
            ("filtered", len(self.filtered)), ("absorbed", len(self.good)), ("dropped", 0), ("aside", 0),
            ("dead", len(self.bad | self.rejected | self.lost_to_poison))) if b[k] != want]
        wrong += [f"pipeline {p['pipeline']}" for p in b["pipelines"]
                  if not p["balanced"] or p["moved_in"] or p["moved_out"]]
        if wrong:
            raise Wrong(f"books: {', '.join(wrong)} wrong: {b}")


def settled(books):
    """Nothing is in flight, dead letters included. False also for an audit that could not be made."""
    return bool(books) and books.get("in_flight") == 0 and books["letters"] == books["dead"]


def each_line(path, key="id"):
    with open(path, "rb") as f:
        for line in f:
            yield json.loads(line)[key]


def each_row(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        for row in db.execute("select id from t"):
            yield row[0]


def lines_ids(path, key="id"):
    return list(each_line(path, key))


def table_ids(path):
    return list(each_row(path))


def check_ids(where, got, want):
    """Each wanted id once, no other."""
    seen = set(got)
    if len(got) == len(seen) and seen == set(want):
        return
    want = set(want)
    twice = sorted({i for i in got if got.count(i) > 1})[:10] if len(got) < 5000 else len(got) - len(seen)
    raise Wrong(f"{where}: lost {len(want - seen)} {sorted(want - seen)[:10]}, strange {sorted(seen - want)[:10]}, "
                f"twice {twice}; {len(got)} instead of {len(want)}")
