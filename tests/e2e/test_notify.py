"""
What the daemon tells its service manager, heard by a notify socket of the test's own: works where no systemd is.
"""

import os
import signal
import socket
import tempfile

import pytest
from conftest import DEADLINE, wait_for


class Manager:
    """Binds a notify socket and keeps what it hears; descriptors that come along are closed."""

    def __init__(self, watchdog_us=None):
        self.dir = tempfile.mkdtemp(prefix="ntf", dir="/tmp")
        self.path = os.path.join(self.dir, "n")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(0.1)
        self.heard = []  # one dict a message
        self.stored = {}
        self.env = {"NOTIFY_SOCKET": self.path}
        if watchdog_us:
            self.env["WATCHDOG_USEC"] = str(watchdog_us)

    def listen(self):
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 8)
        except TimeoutError:
            return
        message = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
        self.heard.append(message)
        if "FDSTORE" in message:
            assert fds, "nothing to store"
            self.stored[message["FDNAME"]] = os.readlink(f"/proc/self/fd/{fds[0]}")
        for fd in fds:
            os.close(fd)

    def hear(self, condition, what):
        def heard():
            self.listen()
            return condition()
        return wait_for(heard, DEADLINE, what)

    def has(self, key, value=None):
        return any(key in m and value in (None, m[key]) for m in self.heard)

    def forget(self):
        self.heard.clear()

    def close(self):
        self.socket.close()
        os.unlink(self.path)
        os.rmdir(self.dir)


@pytest.fixture
def manager():
    m = Manager(watchdog_us=1_000_000)
    yield m
    m.close()


CONFIG = """
    arena: {size: 8MiB, buffer: 64KiB}
    daemon: {runtime_dir: @DIR@/run, stop_timeout: 60s}
    producers:
      gen: {type: generate, rate: 5000, record: {id: =seq}}
    transformers:
      mid: {steps: [{set: {x: 1}}], stall_timeout: 1s}
    consumers:
      out: {type: file, path: @DIR@/out.ndjson, codec: json}
"""


def test_a_life(daemon, manager):
    d = daemon(CONFIG, env=manager.env)
    manager.hear(lambda: manager.has("READY", "1"), "READY")
    assert "memfd:sluice-arena" in manager.stored["arena"]
    assert manager.stored["control-kept"].startswith("socket:")
    manager.hear(lambda: manager.has("WATCHDOG", "1"), "WATCHDOG")
    manager.hear(lambda: any(" records/s in" in m.get("STATUS", "") and "; 0 rec" not in m["STATUS"]
                             for m in manager.heard), "a rate")
    manager.forget()
    d.write_config(CONFIG.replace("x: 1", "x: 2"))
    d.ctl("reload")
    manager.hear(lambda: manager.has("RELOADING", "1") and manager.has("MONOTONIC_USEC"), "RELOADING")
    manager.hear(lambda: manager.has("READY", "1"), "READY after the reload")
    order = [k for m in manager.heard for k in m if k in ("RELOADING", "READY")]
    assert order == ["RELOADING", "READY"]
    manager.forget()
    d.process.send_signal(signal.SIGTERM)
    manager.hear(lambda: manager.has("STOPPING", "1"), "STOPPING")
    assert d.wait() == 0


def test_ready_when_the_failure_of_a_stage_is_known(daemon, manager):
    d = daemon(CONFIG.replace("60s", "1s") + "      bad: {from: mid, type: file, path: /proc/nowhere/x, codec: json, quota: 2, full: drop}\n",
               env=manager.env, start=False, expect=["not reachable yet", "stop_timeout is over"])
    d.start(wait=False)
    manager.hear(lambda: manager.has("READY", "1"), "READY")
    assert not [s for s in d.status()["stages"] if s["state"] == "starting"]
    assert d.stage("bad")["state"] == "unreachable"
    manager.hear(lambda: any("1 wait for the outside" in m.get("STATUS", "") for m in manager.heard), "the status")


def test_a_long_drain_asks_for_time(daemon, manager):
    d = daemon(CONFIG, env=manager.env)
    d.audit_at_end = False
    manager.hear(lambda: manager.has("READY", "1"), "READY")
    wait_for(lambda: d.audit()["delivered"] > 100, DEADLINE, "records")
    pid = d.worker("out")["pid"]
    os.kill(pid, signal.SIGSTOP)  # nothing is delivered now: the drain takes its time
    wait_for(lambda: d.audit()["in_flight"] > 100, DEADLINE, "records in flight")
    manager.forget()
    d.process.send_signal(signal.SIGTERM)
    manager.hear(lambda: manager.has("EXTEND_TIMEOUT_USEC"), "EXTEND_TIMEOUT_USEC")
    manager.hear(lambda: any("in flight" in m.get("STATUS", "") for m in manager.heard), "what is left")
    assert manager.has("STOPPING", "1")
    os.kill(pid, signal.SIGCONT)
    assert d.wait() == 0
    lines = (d.dir / "out.ndjson").read_bytes().splitlines()
    assert len(lines) == len(set(lines)) > 100


def test_the_watchdog_is_fed_only_by_a_loop_that_runs(daemon, manager):
    d = daemon(CONFIG, env=manager.env)
    manager.hear(lambda: manager.has("WATCHDOG"), "WATCHDOG")
    os.kill(d.pid, signal.SIGSTOP)
    while True:  # what was said before the stop
        before = len(manager.heard)
        manager.listen()
        if len(manager.heard) == before:
            break
    manager.forget()
    for _ in range(15):
        manager.listen()
    assert not manager.has("WATCHDOG")
    os.kill(d.pid, signal.SIGCONT)
    manager.hear(lambda: manager.has("WATCHDOG"), "WATCHDOG again")
