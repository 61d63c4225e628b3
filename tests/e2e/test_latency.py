"""Socket to socket at a steady rate."""
import json
import os
import subprocess
import sys
import time

import pytest
import zmq

import box

RATE = 5000
SECONDS = 1.5
TRIES = 6
P99 = 0.005


def once(inp, out, seconds=SECONDS):
    """Sends RATE records a second, one a message; returns their sorted latencies."""
    took = []
    n = int(RATE * seconds)
    start = time.monotonic()
    sent = 0
    while len(took) < n:
        now = time.monotonic()
        assert now - start < 60, "%d of %d came back" % (len(took), n)
        due = min(n, int((now - start) * RATE))
        while sent < due:
            inp.send(b'{"t":%d}' % time.monotonic_ns())
            sent += 1
        if out.poll(0 if sent < due else 1):
            try:
                while True:
                    for line in out.recv(zmq.NOBLOCK).splitlines():
                        took.append((time.monotonic_ns() - json.loads(line)["t"]) / 1e9)
            except zmq.Again:
                pass
    return sorted(took)


RELAY = """
import sys, zmq
c = zmq.Context()
a, b = c.socket(zmq.PULL), c.socket(zmq.PUSH)
a.bind(sys.argv[1])
b.connect(sys.argv[2])
while True:
    b.send(a.recv())
"""


def p99(took):
    return took[int(len(took) * 0.99)]


@pytest.mark.skipif(box.sanitized(), reason="a sanitizer's time is not the product's")
def test_p99_under_5_ms(daemon, port, zmq_context):
    """The best of a few tries counts. The yardstick is a relay of one process beside the daemon: where the
    machine is so busy that already this one is late, the daemon, three processes in a row, may be later by as
    much a process."""
    a, b, c = port(), port(), port()
    endpoint = "tcp://127.0.0.1:%d"
    sink = zmq_context.socket(zmq.PULL)
    sink.bind(endpoint % b)
    relay = subprocess.Popen([sys.executable, "-c", RELAY, endpoint % c, endpoint % b])
    source, beside = zmq_context.socket(zmq.PUSH), zmq_context.socket(zmq.PUSH)
    source.connect(endpoint % a)
    beside.connect(endpoint % c)
    try:
        d = daemon("""
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json, batch: {linger: 1ms}}
transformers:
  t: {steps: [{set: {x: 1}}]}
consumers:
  z: {type: zmq, connect: "tcp://127.0.0.1:%d", codec: json}
""" % (a, b))
        tries = []
        once(beside, sink, 0.1)  # connections are made, programs are loaded
        once(source, sink, 0.1)
        for _ in range(TRIES):
            yardstick, took = p99(once(beside, sink)), once(source, sink)
            bound = P99 if yardstick < P99 / 2 else P99 + 4 * yardstick
            tries.append((p99(took), bound))
            if tries[-1][0] < P99:
                break
        d.settle()
    finally:
        relay.kill()
        relay.wait()
        source.close(0)
        beside.close(0)
        sink.close(0)
    print("p99 and its bound, ms:", [(round(x * 1e3, 2), round(y * 1e3, 2)) for x, y in tries])
    assert any(x < y for x, y in tries), tries


def woken(pid):
    """How often libzmq's threads of this process have gone to sleep, all together."""
    n = 0
    for task in os.scandir(f"/proc/{pid}/task"):
        with open(f"{task.path}/status", encoding="ascii") as f:
            status = dict(line.split(":\t") for line in f if ":\t" in line)
        if status["Name"].startswith("ZMQbg/IO/"):
            n += int(status["voluntary_ctxt_switches"])
    return n


@pytest.mark.skipif(box.sanitized(), reason="a sanitizer's time is not the product's")
def test_slow_messages_are_gathered_by_the_kernel(daemon, port, zmq_context):
    """They wake libzmq's thread together, not one by one."""
    a = port()
    d = daemon("""
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json, batch: {linger: 2ms}}
consumers:
  z: {type: "null"}
""" % a)
    pid = d.worker("in")["pid"]
    source = zmq_context.socket(zmq.PUSH)
    source.connect("tcp://127.0.0.1:%d" % a)
    each, n = [], 2000
    for _ in range(TRIES):
        before = woken(pid)
        for i in range(n):
            source.send(b'{"n":%d}' % i)
            time.sleep(0.0002)  # the pace
        each.append((woken(pid) - before) / n)
        if each[-1] < 0.7:
            break
    source.close()
    d.settle(received=n * len(each))
    print("wake-ups a message:", each)
    assert min(each) < 0.7, each
