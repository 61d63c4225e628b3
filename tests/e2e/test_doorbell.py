"""
Who wakes whom. With `linger: 0` by eventfd, else by ZeroMQ; both in one daemon, under confinement, and while a
reload changes from one to the other. A ring that gets lost shows as a record that comes 100 ms late.
"""

import json
import os
import statistics
import time

import pytest
import zmq

from conftest import push

LATE = 0.05  # seconds: half of what a sleeper trusts a lost ring
SINGLES = 21

CONFIG = """
arena: {size: 16MiB, buffer: 64KiB}
producers:
  soon: {type: zmq, listen: "tcp://127.0.0.1:@SOON@", codec: json, batch: {linger: @LINGER@}}
  late: {type: zmq, listen: "tcp://127.0.0.1:@LATE@", codec: json, batch: {linger: 1ms}}
transformers:
  quick: {from: soon, steps: [{set: {x: 1}}, {convert: {n: int}}]}
  slow: {from: late, steps: [{set: {x: 2}}]}
consumers:
  one: {from: quick, type: zmq, connect: "tcp://127.0.0.1:@OUT@", codec: json}
  two: {from: slow, type: zmq, connect: "tcp://127.0.0.1:@OUT@", codec: json}
"""


def config(ports, linger):
    text = CONFIG.replace("@LINGER@", linger)
    for name, value in ports.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def has_threads(pid):
    """libzmq's are the only ones that these stages may have."""
    return len(os.listdir(f"/proc/{pid}/task")) > 1


def singles(into, out):
    """Records one by one, each when the one before it has come: their latencies."""
    took = []
    for i in range(SINGLES):
        before = time.monotonic()
        into.send(json.dumps({"id": i}).encode())
        assert out.poll(60000), f"record {i} did not come"
        out.recv()
        took.append(time.monotonic() - before)
    return took


@pytest.fixture
def relay(daemon, port, zmq_context):
    ports = {"SOON": port(), "LATE": port(), "OUT": port()}
    out = zmq_context.socket(zmq.PULL)
    out.bind(f"tcp://127.0.0.1:{ports['OUT']}")
    d = daemon(config(ports, "0ms"))
    with push(f"tcp://127.0.0.1:{ports['SOON']}") as soon, push(f"tcp://127.0.0.1:{ports['LATE']}") as late:
        yield d, ports, soon, late, out
        d.settle()
    out.close(0)


def test_both_in_one_daemon(relay):
    d, _, soon, late, out = relay
    for into in soon, late:
        took = singles(into, out)
        assert statistics.median(took) < LATE, took
    assert not has_threads(d.worker("quick")["pid"])
    assert has_threads(d.worker("slow")["pid"])


def test_letters_across(relay):
    """What listens to an eventfd rings the dead letters' consumer, which listens to ZeroMQ."""
    d, _, soon, _, _ = relay
    soon.send(b'{"n": "x"}\n' * 10)
    d.settle(received=10, dead=10)
    assert len(d.dead_letters()) == 10
    assert has_threads(d.worker("quick")["pid"])  # its first need for them, after it was confined


def test_reload_changes_it(relay):
    d, ports, soon, late, out = relay
    singles(soon, out)
    before = d.pids()
    for linger, threads in ("1ms", True), ("0ms", False):
        d.write_config(config(ports, linger))
        assert d.sluicectl("reload").returncode == 0
        d.wait_for(lambda: d.status()["state"] == "running" and all(w["pid"] for w in d.workers()))
        now = d.pids()
        changed = {name for name, pid in now.items() if pid != before[name]}
        assert changed == {("soon", 0), ("quick", 0), ("one", 0)}
        before = now
        took = singles(soon, out) and singles(soon, out)  # the first ones wait for the connection
        assert statistics.median(took) < LATE, took
        assert has_threads(d.worker("quick")["pid"]) == threads
    singles(late, out)
