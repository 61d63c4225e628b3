"""
Input that trickles. It gathers outside until the pipeline's next beat, which must not make it late, lose it in a drain, or
hold anybody up.
"""
import contextlib
import os
import time

import pytest
import zmq

import box
from feed import RawPush, dealer

ROUNDS = 6  # the best of so many counts, where something else may take the time
PULL = """
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json, receive_hwm: %d, batch: {linger: 1ms}}
consumers:
  out: {type: "null"}
"""
ROUTER = """
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json, socket: router, batch: {linger: 1ms}}
consumers:
  out: {type: "null"}
"""
in_its_own_time = pytest.mark.skipif(box.sanitized(), reason="a sanitizer's time is not the product's")


def pace():
    time.sleep(0.0002)


def woken(pid):
    """How often libzmq's threads of this process have gone to sleep, all together."""
    n = 0
    for task in os.scandir(f"/proc/{pid}/task"):
        with open(f"{task.path}/status", encoding="ascii") as f:
            status = dict(line.split(":\t") for line in f if ":\t" in line)
        if status["Name"].startswith("ZMQbg/IO/"):
            n += int(status["voluntary_ctxt_switches"])
    return n


@contextlib.contextmanager
def on_one_processor():
    """Whoever is started in here has but one: threads that ought to take turns do."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


@in_its_own_time
def test_messages_do_not_wake_anybody_one_by_one(daemon, port, zmq_context):
    a = port()
    d = daemon(PULL % (a, 100))
    pid = d.worker("in")["pid"]
    source = zmq_context.socket(zmq.PUSH)
    source.connect("tcp://127.0.0.1:%d" % a)
    each, n = [], 2000
    for _ in range(ROUNDS):
        before = woken(pid)
        for i in range(n):
            source.send(b'{"n":%d}' % i)
            pace()
        each.append((woken(pid) - before) / n)
        if each[-1] < 0.7:
            break
    source.close()
    d.settle(received=n * len(each))
    print("wake-ups a message:", each)
    assert min(each) < 0.7, each


def test_a_drain_takes_what_has_gathered(daemon, port):
    """What stood in the daemon's sockets when it was told to end is taken."""
    for k in range(10):
        a = port()
        with on_one_processor():
            d = daemon(PULL.replace('"null"', "file, path: @DIR@/out, codec: json") % (a, 100))
        clients = [RawPush(a) for _ in range(8)]
        n, until = 0, time.monotonic() + 0.1 + 0.00037 * k
        while time.monotonic() < until:
            clients[n % 8].send(b'{"n":%d}' % n)
            n += 1
            pace()
        assert d.stop() == 0
        assert sorted(r["n"] for r in box.ndjson(d.dir / "out")) == list(range(n))
        for c in clients:
            c.close()


@in_its_own_time
@pytest.mark.parametrize("hwm", [2, 20])
def test_a_short_queue_that_is_full_is_not_slow_input(daemon, port, zmq_context, hwm):
    """Its client is not held up until the next beat, which were `hwm` messages every two lingers."""
    a, n = port(), 20000
    d = daemon(PULL % (a, hwm))
    source = zmq_context.socket(zmq.PUSH)
    source.connect("tcp://127.0.0.1:%d" % a)
    rates = []
    for k in range(1, ROUNDS + 1):
        begin = time.monotonic()
        for i in range(n):
            source.send(b'{"n":%d}' % i)
        d.wait_for({"received": k * n})
        rates.append(n / (time.monotonic() - begin))
        if rates[-1] > 2 * hwm * 1000:
            break
    source.close()
    print("records a second:", rates)
    assert max(rates) > 2 * hwm * 1000, rates


@in_its_own_time
def test_who_waits_to_be_acknowledged_waits_one_linger(daemon, port):
    """Ten unacknowledged messages at a time, sealed every two lingers, were at most 5,000 a second."""
    a, window, n = port(), 10, 1000
    d = daemon(ROUTER % a)
    rates = []
    with dealer("tcp://127.0.0.1:%d" % a) as s:
        s.hello()
        assert s.receive(box.DEADLINE)
        for _ in range(ROUNDS):
            begin = time.monotonic()
            for _ in range(n):
                while len(s.unacked) >= window:
                    assert s.receive(box.DEADLINE)
                s.send(b'{"a":1}')
            rates.append(n / (time.monotonic() - begin))
            if rates[-1] > 5500:
                break
        while s.unacked:
            assert s.receive(box.DEADLINE)
    d.settle(received=n * len(rates))
    print("messages a second:", rates)
    assert max(rates) > 5500, rates
