"""Socket to socket at a steady rate."""
import json
import os
import statistics
import time

import pytest
import zmq

import box

RATE = 5000
SECONDS = 1.5
TRIES = 8
P99 = 0.005


def once(inp, out):
    """Sends RATE records a second, one a message; returns their sorted latencies."""
    took = []
    n = int(RATE * SECONDS)
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


@pytest.mark.skipif(box.sanitized(), reason="a sanitizer's time is not the product's")
def test_p99_under_5_ms(daemon, port, zmq_context):
    """The best of a few tries counts: on a busy machine this process itself may wait for a processor."""
    a, b = port(), port()
    sink = zmq_context.socket(zmq.PULL)
    sink.bind("tcp://127.0.0.1:%d" % b)
    d = daemon("""
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json, batch: {linger: 1ms}}
transformers:
  t: {steps: [{set: {x: 1}}]}
consumers:
  z: {type: zmq, connect: "tcp://127.0.0.1:%d", codec: json}
""" % (a, b))
    source = zmq_context.socket(zmq.PUSH)
    source.connect("tcp://127.0.0.1:%d" % a)
    p99 = []
    for _ in range(TRIES):
        took = once(source, sink)
        p99.append(took[int(len(took) * 0.99)])
        if p99[-1] < P99:
            break
    source.close(0)
    d.settle()
    sink.close(0)
    print("p99 %.1f ms, median %.2f ms, load %s" %
          (min(p99) * 1e3, statistics.median(took) * 1e3, os.getloadavg()))
    assert min(p99) < P99, p99
