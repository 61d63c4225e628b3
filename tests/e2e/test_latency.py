"""Socket to socket at a steady rate."""
import json
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


def once(inputs, out, seconds=SECONDS):
    """Sends RATE records a second, one a message, to the inputs in turn; returns their sorted latencies."""
    took = []
    n = int(RATE * seconds)
    start = time.monotonic()
    sent = 0
    while len(took) < n:
        now = time.monotonic()
        assert now - start < 60, "%d of %d came back" % (len(took), n)
        due = min(n, int((now - start) * RATE))
        while sent < due:
            inputs[sent % len(inputs)].send(b'{"t":%d}' % time.monotonic_ns())
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
@pytest.mark.parametrize("clients", [1, 8])
def test_p99_under_5_ms(daemon, port, zmq_context, clients):
    """The best of a few tries counts. The yardstick is a relay of one process beside the daemon: where the
    machine is so busy that already this one is late, the daemon, three processes in a row, may be later by as
    much a process."""
    a, b, c = port(), port(), port()
    endpoint = "tcp://127.0.0.1:%d"
    sink = zmq_context.socket(zmq.PULL)
    sink.bind(endpoint % b)
    relay = subprocess.Popen([sys.executable, "-c", RELAY, endpoint % c, endpoint % b])
    sources, beside = [zmq_context.socket(zmq.PUSH) for _ in range(clients)], zmq_context.socket(zmq.PUSH)
    for s in sources:
        s.connect(endpoint % a)
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
        once([beside], sink, 0.1)  # connections are made, programs are loaded
        once(sources, sink, 0.1)
        for _ in range(TRIES):
            yardstick, took = p99(once([beside], sink)), once(sources, sink)
            bound = P99 if yardstick < P99 / 2 else P99 + 4 * yardstick
            tries.append((p99(took), bound))
            if tries[-1][0] < P99:
                break
        d.settle()
    finally:
        relay.kill()
        relay.wait()
        for s in [*sources, beside, sink]:
            s.close(0)
    print("p99 and its bound, ms:", [(round(x * 1e3, 2), round(y * 1e3, 2)) for x, y in tries])
    assert any(x < y for x, y in tries), tries
