"""
What every end-to-end test needs: a real daemon in a directory of its own, and ways to feed it, to ask it, to
hurt it, and to read what it wrote.

    def test_something(daemon):
        d = daemon('''
            producers: ...
            consumers:
              out: {type: file, path: @DIR@/out.jsonl}
        ''')
        d.wait_for(lambda: d.stats("out")["delivered"] == 10)
        assert len(ndjson(d.dir / "out.jsonl")) == 10

@DIR@ stands for the daemon's directory. Sections that a test does not write (control, daemon, state,
dead_letters) are filled in so that everything lies there. At the end the books are audited and the daemon is
stopped, by its pid; a test that breaks the books on purpose sets d.audit_at_end = False. Nothing is slept for:
conditions are waited for, with a deadline.

SLUICED and SLUICECTL name other binaries than build/'s.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE = float(os.environ.get("SLUICE_TEST_DEADLINE", "30"))  # seconds
POLL = 0.02

DEFAULTS = {
    "control": "control: {socket: @DIR@/c.sock}",
    "daemon": "daemon: {runtime_dir: @DIR@/run}",
    "state": "state: {path: @DIR@/state, size: 64MiB}",
    "dead_letters": "dead_letters: {path: @DIR@/dead}",
}


def binary(name, env):
    return os.environ.get(env) or str(ROOT / "build" / name)


def wait_for(condition, deadline=None, what="", alive=lambda: None):
    """Waits until condition() is true and returns its value. An exception inside counts as "not yet"."""
    end = time.monotonic() + (deadline or DEADLINE)
    problem = None
    while time.monotonic() < end:
        try:
            value = condition()
            if value:
                return value
            problem = None
        except (OSError, KeyError, IndexError, ValueError, ControlError) as e:
            problem = e
        alive()
        time.sleep(POLL)
    raise AssertionError(f"waited in vain for {what or condition}" + (f": {problem!r}" if problem else ""))


def ndjson(*paths):
    """All records of NDJSON files, in order. A missing file has none."""
    records = []
    for p in paths:
        p = pathlib.Path(p)
        if p.exists():
            with p.open("rb") as f:
                records += [json.loads(line) for line in f if line.strip()]
    return records


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class ControlError(Exception):
    """The daemon refused, or did not answer. code: sluicectl's exit status."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Daemon:
    def __init__(self, directory, config, args=(), env=None):
        self.dir = pathlib.Path(directory)
        self.config_path = self.dir / "sluice.yaml"
        self.socket = self.dir / "c.sock"
        self.log_path = self.dir / "log"
        self.args = list(args)
        self.env = {**os.environ, **(env or {})}
        self.process = None
        self.audit_at_end = True
        self.write_config(config)

    # ---- life ----

    def write_config(self, text):
        """Writes the configuration; takes effect at the next start or reload."""
        text = textwrap.dedent(text)
        have = {line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()}
        missing = [v for k, v in DEFAULTS.items() if k not in have]
        self.config_path.write_text("\n".join([*missing, text, ""]).replace("@DIR@", str(self.dir)))

    def start(self, wait=True):
        assert self.process is None, "it runs already"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [binary("sluiced", "SLUICED"), "-c", str(self.config_path), *self.args],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir, env=self.env)
        if wait:
            self.wait_for(lambda: self.status()["state"] == "running", what="the daemon to run")
        return self

    def alive(self):
        """Raises when the daemon has gone although nobody stopped it."""
        if self.process and self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log()}")

    @property
    def pid(self):
        return self.process.pid

    def wait(self, deadline=None):
        """Waits for the daemon to end by itself; returns its exit status."""
        try:
            return self.process.wait(deadline or DEADLINE)
        finally:
            if self.process.returncode is not None:
                self.process = None

    def stop(self, deadline=None):
        """Stops it as systemd would; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(deadline)

    def kill_all(self):
        """SIGKILL for the master; its workers die with it. Returns when all of them are gone."""
        pids = [w["pid"] for w in self.workers()]
        self.process.kill()
        self.process.wait()
        self.process = None
        for pid in pids:
            wait_for(lambda: not is_running(pid), what=f"worker {pid} to die with its master")

    def kill(self, stage, index=0, sig=signal.SIGKILL):
        """Kills one worker ("master": the master only); returns the pid it had."""
        pid = self.pid if stage == "master" else self.worker(stage, index)["pid"]
        assert pid, f"{stage}[{index}] does not run"
        os.kill(pid, sig)
        return pid

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # ---- asking ----

    def sluicectl(self, *args, input=None, deadline=None):
        """Runs sluicectl as a user would; returns the finished process."""
        return subprocess.run([binary("sluicectl", "SLUICECTL"), "-s", str(self.socket), *map(str, args)],
                              input=input, capture_output=True, text=True, env=self.env,
                              timeout=deadline or DEADLINE)

    def ctl(self, *args):
        """The answer to a command as a dict; ControlError when refused. audit answers even when not balanced."""
        p = self.sluicectl("--json", *args)
        if not p.stdout.strip():
            raise ControlError(p.returncode, p.stderr.strip())
        answer = json.loads(p.stdout)
        if "error" in answer:
            raise ControlError(p.returncode, answer["error"])
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

    def tap(self, stage, n):
        lines = self.sluicectl("tap", stage, "-n", n).stdout.splitlines()
        return [json.loads(line) for line in lines]

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

    def dead_letters(self):
        return ndjson(*sorted((self.dir / "dead").glob("*.jsonl*"), key=lambda p: (p.suffix == ".jsonl", p.name)))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.fixture
def daemon():
    """Makes daemons: daemon(config, args=[], env={}, start=True)."""
    made = []

    def make(config, args=(), env=None, start=True):
        # a unix socket's path has 107 bytes: pytest's own directories are too deep
        d = Daemon(tempfile.mkdtemp(prefix="sluice-e2e-", dir="/tmp"), config, args, env)
        made.append(d)
        return d.start() if start else d

    yield make
    problems = []
    for d in made:
        problems += finish(d)
    assert not problems, "\n".join(problems)


def finish(d):
    problems = []
    try:
        if d.process and d.process.poll() is None:
            if d.audit_at_end:
                audit = wait_for(d.audit, what="an audit at the end")
                if not audit["balanced"]:
                    problems.append(f"the books do not balance: {audit}")
            d.stop()
    except (AssertionError, ControlError, subprocess.TimeoutExpired) as e:
        problems.append(f"{e}\nlog of {d.dir}:\n{d.log()}")
    if d.process and d.process.poll() is None:
        d.process.kill()
        d.process.wait()
        problems.append(f"the daemon had to be killed; its log:\n{d.log()}")
    if not problems:
        shutil.rmtree(d.dir, ignore_errors=True)
    return problems


# ---- feeding over ZeroMQ ----


@contextlib.contextmanager
def push(endpoint):
    """A PUSH socket connected to a `socket: pull` producer."""
    import zmq
    context = zmq.Context()
    s = context.socket(zmq.PUSH)
    s.set(zmq.SNDTIMEO, int(DEADLINE * 1000))
    s.set(zmq.LINGER, int(DEADLINE * 1000))
    s.connect(endpoint)
    try:
        yield s
    finally:
        s.close()
        context.term()


def push_records(endpoint, records, per_message=100):
    """Sends records as messages of JSON lines."""
    records = list(records)
    with push(endpoint) as s:
        for i in range(0, len(records), per_message):
            s.send("\n".join(json.dumps(r) for r in records[i:i + per_message]).encode())


class Dealer:
    """A client of a `socket: router` producer, with its protocol: what was acknowledged is not sent again,
    what was not is, after any READY."""

    def __init__(self, endpoint, name):
        import zmq
        self.zmq = zmq
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.set(zmq.ROUTING_ID, name.encode())
        self.socket.set(zmq.LINGER, 0)
        self.socket.connect(endpoint)
        self.next = 1      # sequence of the next message
        self.unacked = {}  # sequence: payload
        self.window = 0
        self.naks = []

    def hello(self):
        self.socket.send_multipart([b"HELLO", b"1", str(min(self.unacked, default=self.next)).encode()])

    def send(self, payload):
        self.unacked[self.next] = payload
        self.socket.send_multipart([b"SEND", str(self.next).encode(), payload])
        self.next += 1

    def receive(self, timeout):
        """Handles one answer. False: none came."""
        if not self.socket.poll(int(timeout * 1000)):
            return False
        frames = self.socket.recv_multipart()
        kind, sequence = frames[0], int(frames[2 if frames[0] == b"READY" else 1])
        if kind == b"NAK":
            self.naks.append((sequence, int(frames[2]), frames[3].decode()))
        for s in [s for s in self.unacked if s <= sequence]:
            del self.unacked[s]
        if kind == b"READY":
            self.window = int(frames[3])
            for s in sorted(self.unacked):
                self.socket.send_multipart([b"SEND", str(s).encode(), self.unacked[s]])
        return True

    def deliver(self, payloads, deadline=None):
        """Sends all and waits until all are acknowledged; says HELLO again when it hears nothing."""
        payloads = list(payloads)
        end = time.monotonic() + (deadline or DEADLINE)
        self.hello()
        while payloads or self.unacked:
            assert time.monotonic() < end, f"{len(self.unacked)} messages were never acknowledged"
            while payloads and len(self.unacked) < self.window:
                self.send(payloads.pop(0))
            if not self.receive(0.5):
                self.hello()

    def close(self):
        self.socket.close()
        self.context.term()


@contextlib.contextmanager
def dealer(endpoint, name="test"):
    d = Dealer(endpoint, name)
    try:
        yield d
    finally:
        d.close()
