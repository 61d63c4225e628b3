"""
A real daemon in a directory of its own: ways to ask it, to hurt it, to read what it wrote.

The one hard idea is the oracle. Whatever a test does to a daemon, at the end the books balance, every buffer
of the arena is free, and the log holds nothing but what the test said it would: settle() waits for the first
two, finish() checks the books again and the log, for every daemon of every test.

Nothing is slept for: conditions are waited for, with a deadline that is generous, for machines are busy.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "etc" / "examples"
DEADLINE = float(os.environ.get("SLUICE_TEST_DEADLINE", "60"))  # seconds
POLL = 0.02

DEFAULTS = {
    "control": "control: {socket: @DIR@/c.sock}",
    "daemon": "daemon: {runtime_dir: @DIR@/run}",
    "state": "state: {path: @DIR@/state, size: 64MiB}",
    "dead_letters": "dead_letters: {path: @DIR@/dead}",
}

# Lines that any daemon may log. Everything else must be among a test's `expect`.
USUAL = [r"the arena is in memory", r"arena\.sync is off", r": started with ", r": stopped$"]


def binary(name, env):
    return os.environ.get(env) or str(ROOT / "build" / name)


def sanitized():
    """Whether the daemon was built with AddressSanitizer, which needs memory and time of its own."""
    return b"__asan_init" in pathlib.Path(binary("sluiced", "SLUICED")).read_bytes()


class ControlError(Exception):
    """The daemon refused, or did not answer. code: sluicectl's exit status."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Ended(Exception):
    """The daemon has gone although nobody stopped it."""


def wait_for(condition, deadline=None, what="", alive=lambda: None):
    """Waits until condition() is true and returns its value. An exception inside counts as "not yet"."""
    end = time.monotonic() + (deadline or DEADLINE)
    problem = None
    while True:
        try:
            value = condition()
            if value:
                return value
            problem = None
        except (OSError, KeyError, IndexError, ValueError, StopIteration, ControlError) as e:
            problem = e
        alive()
        if time.monotonic() > end:
            break
        time.sleep(POLL)
    raise AssertionError(f"waited in vain for {what or condition}" + (f": {problem!r}" if problem else ""))


# ---- looking at files and processes ----


def data(*names):
    """A file of the shared test data, or None when this machine has none."""
    for base in (os.environ.get("SLUICE_DATA"), ROOT / "../shared/data", ROOT / "../../shared/data"):
        if base and pathlib.Path(base, *names).exists():
            return pathlib.Path(base, *names)
    return None


def ndjson(*paths):
    """All records of NDJSON files, in order. A missing file has none."""
    records = []
    for p in paths:
        p = pathlib.Path(p)
        if p.exists():
            with p.open("rb") as f:
                records += [json.loads(line) for line in f if line.strip()]
    return records


def rows(db, query):
    """Rows of a query; a table or file that does not exist yet has none."""
    try:
        with sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=DEADLINE) as c:
            return c.execute(query).fetchall()
    except sqlite3.OperationalError as e:
        if "no such table" in str(e) or "unable to open" in str(e):
            return []
        raise


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(x) for x in f.read().split()]
    except OSError:
        return []


def pss(pid):
    """Proportional set size in bytes; 0 when the process is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def command(name, *args, input=None, env=None, deadline=None, cwd=None):
    """Runs sluiced or sluicectl to its end; returns the finished process."""
    return subprocess.run([binary(name, name.upper()), *map(str, args)], input=input, capture_output=True,
                          text=True, env={**os.environ, **(env or {})}, timeout=deadline or DEADLINE, cwd=cwd)


# ---- the daemon ----


class Daemon:
    def __init__(self, config, args=(), env=None, expect=(), stdin=subprocess.DEVNULL, stdout=None):
        # a unix socket's path has 107 bytes: pytest's own directories are too deep
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
        self.config_path = self.dir / "sluice.yaml"
        self.socket = self.dir / "c.sock"
        self.log_path = self.dir / "log"
        self.args = list(args)
        self.env = {**os.environ, **(env or {})}
        self.expect = list(expect)
        self.stdin, self.stdout = stdin, stdout
        self.process = None
        self.audit_at_end = True
        self.write_config(config)

    def write_config(self, text):
        """Writes the configuration; takes effect at the next start or reload."""
        text = textwrap.dedent(text)
        have = {line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()}
        missing = [v for k, v in DEFAULTS.items() if k not in have]
        new = self.config_path.with_suffix(".new")  # whole or not there: a reload may be reading it
        new.write_text("\n".join([*missing, text, ""]).replace("@DIR@", str(self.dir)))
        new.replace(self.config_path)

    def write(self, name, content):
        (self.dir / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    # ---- life ----

    def start(self, wait=True):
        assert self.process is None, "it runs already"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [binary("sluiced", "SLUICED"), "-c", str(self.config_path), *self.args], stdin=self.stdin,
                stdout=self.stdout or log, stderr=log, cwd=self.dir, env=self.env)
        if wait:
            self.wait_for(lambda: self.status()["state"] == "running", what="the daemon to run")
        return self

    def run(self):
        """Runs it to its end (--until-done); returns the exit status."""
        return self.start(wait=False).wait()

    def alive(self):
        """Raises when the daemon has gone although nobody stopped it."""
        if self.process and self.process.poll() is not None:
            raise Ended(f"the daemon ended with {self.process.returncode}:\n{self.log()}")

    @property
    def pid(self):
        return self.process.pid

    def wait(self, deadline=None):
        """Waits for the daemon to end by itself; returns its exit status."""
        try:
            return self.process.wait(deadline or DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon does not end:\n{self.log()}") from None
        finally:
            if self.process.returncode is not None:
                self.process = None

    def stop(self, deadline=None, sig=signal.SIGTERM):
        """Stops it as systemd would; returns its exit status."""
        self.process.send_signal(sig)
        return self.wait(deadline)

    def kill_all(self):
        """SIGKILL for the master; its workers die with it. Returns when all of them are gone."""
        pids = [w["pid"] for w in self.workers() if w["pid"]]
        self.process.kill()
        self.process.wait()
        self.process = None
        for pid in pids:
            wait_for(lambda pid=pid: not is_running(pid), what=f"worker {pid} to die with its master")

    def kill(self, stage, index=0, sig=signal.SIGKILL):
        """Kills one worker ("master": the master only); returns the pid it had."""
        pid = self.pid if stage == "master" else self.worker(stage, index)["pid"]
        assert pid, f"{stage}[{index}] does not run"
        os.kill(pid, sig)
        return pid

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def unexpected(self):
        """Lines of the log that neither any daemon says nor the test expects."""
        known = re.compile("|".join(USUAL + self.expect))
        return [line for line in self.log().splitlines() if line and not known.search(line)]

    # ---- asking ----

    def sluicectl(self, *args, input=None, deadline=None):
        """Runs sluicectl as a user would; returns the finished process."""
        return command("sluicectl", "-s", self.socket, *args, input=input, deadline=deadline)

    def connect(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.settimeout(DEADLINE)
        s.connect(str(self.socket))
        return s

    def ctl(self, *args):
        """The answer to a command, from the socket itself; ControlError when refused."""
        try:
            with self.connect() as s, s.makefile("rb") as f:
                s.sendall(" ".join(map(str, args)).encode() + b"\n")
                line = f.readline()
        except OSError as e:
            raise ControlError(2, str(e)) from None
        if not line:
            raise ControlError(2, "no answer")
        answer = json.loads(line)
        if "error" in answer:
            raise ControlError(1, answer["error"])
        return answer

    def status(self):
        return self.ctl("status")

    def stage(self, name):
        return next(s for s in self.status()["stages"] if s["name"] == name)

    def edge(self, name):
        return next(e for e in self.status()["edges"] if e["name"] == name)

    def stats(self, stage=None):
        stages = self.ctl("stats")["stages"]
        return stages[stage] if stage else stages

    def audit(self):
        return self.ctl("audit")

    def workers(self, stage=None):
        return [w for w in self.ctl("workers")["workers"] if stage in (None, w["stage"])]

    def worker(self, stage, index=0):
        return next(w for w in self.workers(stage) if w["index"] == index)

    def pids(self, stage=None):
        return {(w["stage"], w["index"]): w["pid"] for w in self.workers(stage)}

    def tap(self, stage, n):
        lines = self.sluicectl("tap", stage, "-n", n).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def total_pss(self):
        return sum(pss(p) for p in [self.pid, *children(self.pid)])

    def wait_for(self, condition, deadline=None, what=""):
        """Waits for a condition, as long as the daemon lives. A dict waits for counters of the whole:
        {"delivered": 10}, or of a stage: {"out.delivered": 10}; at least so much."""
        if isinstance(condition, dict):
            wanted, what = condition, what or repr(condition)
            condition = lambda: self.reached(wanted)  # noqa: E731
        return wait_for(condition, deadline, what, self.alive)

    def reached(self, wanted):
        whole = self.audit() if any("." not in k for k in wanted) else {}
        stages = self.stats() if any("." in k for k in wanted) else {}
        for key, least in wanted.items():
            have = whole
            if "." in key:
                stage, key = key.rsplit(".", 1)
                have = stages[stage]
            if have[key] < least:
                return False
        return True

    def settled(self):
        """Nothing in flight and the books balanced: returns the audit."""
        audit = self.audit()
        return audit if audit["balanced"] and audit["in_flight"] == 0 else None

    def settle(self, deadline=None, ended=False, **wanted):
        """Waits until the books show what is wanted (received=10, dead=1), nothing is in flight, every
        buffer is free and, with @ended, all stages have come to their end. Checks the figures, returns
        the audit."""
        seen = {}

        def look():
            if ended and any(s["state"] != "ended" for s in self.status()["stages"] if not s["builtin"]):
                return None
            seen.update(self.audit())
            assert seen["balanced"], seen
            if seen["in_flight"] or any(seen[k] < v for k, v in wanted.items()):
                return None
            seen["arena"] = self.ctl("stats")["arena"]
            return seen["arena"]["free"] == seen["arena"]["buffers"]
        try:
            self.wait_for(look, deadline, "everything to be done")
        except AssertionError as e:
            raise AssertionError(f"{e}\nwanted: {wanted}\nbooks: {seen}\nlog:\n{self.log()}") from None
        assert {k: seen[k] for k in wanted} == wanted, seen
        return seen

    def dead_letters(self):
        return ndjson(*sorted((self.dir / "dead").glob("dead.jsonl*"),
                              key=lambda p: (p.suffix == ".jsonl", p.name)))


def finish(d):
    """Ends a test's daemon. Returns what was not as it must be."""
    problems = []
    try:
        if d.process and d.process.poll() is None:
            if d.audit_at_end:
                audit = wait_for(d.audit, what="an audit at the end")
                if not audit["balanced"]:
                    problems.append(f"the books do not balance: {audit}")
            workers = children(d.pid)
            if d.stop() != 0:
                problems.append(f"it did not stop well:\n{d.log()}")
            problems += [f"worker {p} is left" for p in workers if is_running(p)]
        problems += [f"unexpected in the log: {line}" for line in d.unexpected()[:20]]
    except (AssertionError, ControlError, Ended) as e:
        problems.append(f"{e}\nlog of {d.dir}:\n{d.log()}")
    if d.process and d.process.poll() is None:
        d.process.kill()
        d.process.wait()
        problems.append(f"the daemon had to be killed; its log:\n{d.log()}")
    shutil.rmtree(d.dir, ignore_errors=True)
    return problems
