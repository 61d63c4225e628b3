"""Memory is a number; quotas of one never deadlock; what does not fit is refused, dropped and counted."""
import json
import os
import socket
import threading
import time

import pytest
import zmq

import box
from feed import push

MIB = 1 << 20

# What a process costs besides the arena and the buffers of its sockets; README says the same number.
OVERHEAD = 8 * MIB
RECV_HWM = 100

# A program that takes 20 MB/s.
SLOW = """
import sys, time
start, n = time.monotonic(), 0
while True:
    block = sys.stdin.buffer.read1(65536)
    if not block:
        break
    n += len(block)
    late = n / 20e6 - (time.monotonic() - start)
    if late > 0:
        time.sleep(late)
"""


@pytest.mark.skipif(box.sanitized(), reason="a sanitizer's memory is not the product's")
def test_memory_stays_under_its_formula(daemon, port, zmq_context):
    """Records offered at full speed, taken at 20 MB/s: the sum of PSS stays under arena + processes x
    overhead + clients x (HWM + 1) x message, and does not move between the second and third tenth and the last.
    (In the first the buffers of the arena are touched, one after the other.)"""
    p = port()
    message = 64 << 10
    clients = 2
    d = daemon("""
arena: {size: 32MiB, buffer: 256KiB}
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json, max_clients: %d, receive_hwm: %d, max_message: %d}
transformers:
  t: {steps: [{set: {x: 1}}]}
consumers:
  out: {type: exec, command: [/usr/bin/python3, @DIR@/slow.py], codec: json}
""" % (p, clients, RECV_HWM, message), start=False)
    d.write("slow.py", SLOW)
    d.start()
    record = b'{"id":123456,"msg":"' + b"x" * 178 + b'"}\n'
    assert len(record) == 200 + 1
    payload = record * (message // len(record))
    stop = threading.Event()
    sent = [0]

    def feed():
        s = zmq_context.socket(zmq.PUSH)
        s.setsockopt(zmq.SNDTIMEO, 200)
        s.setsockopt(zmq.LINGER, 60000)
        s.setsockopt(zmq.SNDHWM, 10)
        s.connect("tcp://127.0.0.1:%d" % p)
        while not stop.is_set():
            try:
                s.send(payload)
                sent[0] += len(payload) // len(record)
            except zmq.Again:
                pass
        s.close()
    feeders = [threading.Thread(target=feed) for _ in range(clients)]
    for t in feeders:
        t.start()
    try:
        samples = []
        total = int(os.environ.get("SLUICE_MEMORY_RECORDS", "1000000"))
        while d.audit()["delivered"] < total:
            d.alive()
            workers = [w["pid"] for w in d.workers() if w["pid"]]
            samples.append((d.audit()["delivered"], sum(box.pss(x) for x in [d.pid] + workers)))
            time.sleep(0.05)  # a sampling rate, not a wait
    finally:
        stop.set()
        for t in feeders:
            t.join()
    processes = 1 + len(d.workers())
    bound = d.ctl("stats")["arena"]["bytes"] + processes * OVERHEAD + clients * (RECV_HWM + 1) * message
    assert max(s for _, s in samples) < bound, (max(samples, key=lambda x: x[1]), bound)
    first = [s for n, s in samples if total * 0.1 < n <= total * 0.3]
    last = [s for n, s in samples if n >= total * 0.9]
    assert first and last
    assert sorted(last)[len(last) // 2] < sorted(first)[len(first) // 2] + 2 * MIB, (first, last)
    d.settle(received=sent[0], delivered=sent[0])


def test_quota_of_one_everywhere(daemon):
    """Branches, merges, a step that makes 50 of 1, two workers: with one chunk an edge it still flows."""
    d = daemon("""
arena: {size: 1MiB, buffer: 32KiB, max_workers: 12}
producers:
  a: {type: generate, count: 4000, record: {id: =seq, l: "%s"}, batch: {records: 200}}
  b: {type: generate, count: 4000, record: {id: =seq, l: "x"}, batch: {records: 10}}
transformers:
  grow: {from: a, quota: 1, workers: 2, steps: [{explode: {field: l, split: ","}}]}
  odd: {from: [grow, b], quota: 1, workers: 2, steps: [{route: {odd: "id %% 2 == 1", default: main}}]}
  copy: {from: [odd.odd, b], quota: 1, steps: [{set: {x: 1}}]}
consumers:
  f: {from: [copy, odd], type: file, path: @DIR@/out.jsonl, codec: json, quota: 1}
  n: {from: [grow, odd.odd, b], type: null, quota: 1}
""" % ",".join(["x"] * 50))
    grown = 4000 * 50
    books = d.settle(ended=True, received=8000)
    got = box.ndjson(d.dir / "out.jsonl")
    # f: even of (grow + b) by odd; odd of (grow + b) by copy; all of b by copy
    assert len(got) == grown + 4000 + 4000
    assert books["delivered"] == len(got) + grown + (grown + 4000) // 2 + 4000
    assert books["dropped"] == 0 and books["dead"] == 0


def test_who_waits_for_a_peer_keeps_no_room_for_letters(daemon, port):
    """A record that cannot be encoded, beside one that can, for a peer that is not there: the room for letters is
    others' meanwhile."""
    a, b = port(), port()
    d = daemon("""
        daemon: {runtime_dir: @DIR@/run, stop_timeout: 1s}
        arena: {size: 576KiB, buffer: 64KiB}
        producers:
          a: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json}
          b: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json}
        consumers:
          c1: {from: a, type: zmq, connect: "tcp://127.0.0.1:%d", codec: lines}
          c2: {from: a, type: zmq, connect: "tcp://127.0.0.1:%d", codec: lines}
          out: {from: b, type: file, path: @DIR@/out.jsonl, codec: json}
        """ % (a, b, port(), port()), expect=["not reachable", "stop_timeout is over"])
    with push("tcp://127.0.0.1:%d" % a) as s:
        s.send(b'{"x": 1}\n{"line": "y"}\n')
    d.wait_for(lambda: d.stage("c1")["state"] == d.stage("c2")["state"] == "unreachable")
    assert d.edge("*->dead")["quota"] == 2  # so that two can use it up
    with push("tcp://127.0.0.1:%d" % b) as s:
        s.send(b"nonsense\n")
    d.wait_for(lambda: len(d.dead_letters()) == 1)


@pytest.mark.parametrize("why", ["blocked", "paused"])
def test_doors_are_watched_while_it_waits(daemon, port, zmq_context, why):
    """Who connects while a producer waits is let in, or counted: nothing of it gathers anywhere."""
    a = port()
    d = daemon("""
        daemon: {runtime_dir: @DIR@/run, stop_timeout: 1s}
        arena: {size: 384KiB, buffer: 64KiB}
        producers:
          in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json}
        consumers:
          out: {type: zmq, connect: "tcp://127.0.0.1:%d", codec: json}
        """ % (a, port()), expect=["not reachable", "stop_timeout is over"])
    if why == "paused":
        d.sluicectl("pause", "in")
    else:
        with push("tcp://127.0.0.1:%d" % a) as s:
            for i in range(8):
                s.send(json.dumps({"x": "y" * 50000}).encode())
    d.wait_for(lambda: d.worker("in")["state"] == why)
    for i in range(50):
        with socket.create_connection(("127.0.0.1", a)) as s:
            s.sendall(b"GET / HTTP/1.1\r\n\r\n")
    d.wait_for(lambda: d.stats("in")["refused"] >= 50)
    s = zmq_context.socket(zmq.PUSH)
    s.setsockopt(zmq.LINGER, 0)
    s.setsockopt(zmq.IMMEDIATE, 1)
    s.connect("tcp://127.0.0.1:%d" % a)
    assert s.poll(box.DEADLINE * 1000, zmq.POLLOUT), "nobody is let in"
    s.close()
    assert d.worker("in")["state"] == why


def test_a_slow_program_does_not_hang(daemon, port):
    """One that takes what it is given bit by bit is let be, however long that lasts."""
    a = port()
    d = daemon("""
        arena: {size: 8MiB, buffer: 1MiB}
        producers:
          in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json}
        consumers:
          out:
            type: exec
            codec: json
            timeout: 700ms
            stall_timeout: 1500ms
            command: [python3, "-c", "%s"]
        """ % (a, r"import os, time\nwhile b := os.read(0, 32768):\n os.write(2, b'.')\n time.sleep(0.15)"),
        expect=["program"])
    line = json.dumps({"x": "y" * 1000}).encode() + b"\n"
    with push("tcp://127.0.0.1:%d" % a) as s:
        s.send(line * 800)
    d.settle(received=800, delivered=800)
    assert d.worker("out")["restarts"] == 0


def test_full_drop_is_counted(daemon):
    """An edge with `full: drop` loses what its reader has no room for, counted; the other reader has all."""
    d = daemon("""
arena: {size: 2MiB, buffer: 32KiB}
producers:
  g: {type: generate, count: 100000, record: {id: =seq}}
consumers:
  all: {type: file, path: @DIR@/all.jsonl, codec: json}
  lossy: {type: exec, command: [/usr/bin/python3, @DIR@/gate.py], codec: json, acknowledge: batch,
          quota: 2, full: drop}
""", start=False)
    d.write("gate.py", """
import os, sys, time
d = os.path.dirname(sys.argv[0])
for line in sys.stdin:
    if line == '\\n':
        while not os.path.exists(d + '/go'):
            time.sleep(0.01)
        print('ok', flush=True)
""")
    d.start()
    d.wait_for({"all.delivered": 100000})
    dropped = d.audit()["dropped"]
    assert dropped > 0
    d.write("go", "")
    books = d.settle(ended=True, received=100000, made=100000)
    assert books["dropped"] == dropped
    assert books["delivered"] == 200000 - dropped
    assert [r["id"] for r in box.ndjson(d.dir / "all.jsonl")] == list(range(100000))


def test_huge_record(daemon):
    """A record larger than a buffer becomes a dead letter; also one that a step makes too large."""
    d = daemon("""
arena: {size: 2MiB, buffer: 32KiB}
producers:
  in: {type: file, path: @DIR@/in, codec: json}
transformers:
  t: {steps: [{lua: {script: "function process(r) if r.grow then r.s = string.rep('y', 40000) end return r end"}}]}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""", start=False)
    d.write("in", "\n".join(json.dumps(r) for r in [
        {"id": 1}, {"id": 2, "s": "x" * 33000}, {"id": 3, "grow": True}, {"id": 4, "s": "x" * 32000},
        {"id": 5, "s": "x" * 10000000}, {"id": 6}]))
    d.start()
    d.settle(ended=True, received=6, delivered=3, dead=3)
    assert [r["id"] for r in box.ndjson(d.dir / "out.jsonl")] == [1, 4, 6]
    letters = d.dead_letters()
    assert sorted(x["stage"].split("/")[0] for x in letters) == ["in", "in", "t"]
    assert all("large" in x["error"] or "buffer" in x["error"] for x in letters), \
        [(x["stage"], x["error"]) for x in letters]


@pytest.mark.parametrize("arena, word", [
    ("{size: 256KiB, buffer: 64KiB}", "arena.size"),
    ("{size: 64MiB, buffer: 256KiB, max_workers: 3}", "max_workers"),
])
def test_too_small_an_arena_is_refused(daemon, arena, word):
    d = daemon("""
arena: %s
producers:
  g: {type: generate, count: 10}
transformers:
  a: {workers: 4, steps: [{set: {x: 1}}]}
  b: {steps: [{set: {x: 1}}]}
consumers:
  out: {from: [a, b], type: null}
""" % arena, start=False)
    r = box.command("sluiced", "--check", "-c", d.config_path)
    assert r.returncode == 2 and word in r.stderr and "too small" in r.stderr, r.stderr
    assert "%s:5:" % d.config_path in r.stderr or "%s:6:" % d.config_path in r.stderr, r.stderr


def test_the_arena_bounds_everything(daemon):
    """With every consumer shut the producer stops at what the arena holds."""
    d = daemon("""
arena: {size: 4MiB, buffer: 64KiB}
producers:
  g: {type: generate, record: {id: =seq, pad: "%s"}}
consumers:
  a: {type: file, path: @DIR@/a.jsonl, codec: json}
  b: {type: file, path: @DIR@/b.jsonl, codec: json}
""" % ("x" * 900))
    for c in "ab":
        d.ctl("pause", c)
    d.wait_for(lambda: d.stage("g")["state"] == "blocked")
    books = d.audit()
    assert books["in_flight"] * 900 < 4 * MIB
    for c in "ab":
        d.ctl("resume", c)
    d.wait_for(lambda: d.audit()["delivered"] > books["delivered"] + 1000)
    d.ctl("drain")
    d.settle()
    a, b = box.ndjson(d.dir / "a.jsonl"), box.ndjson(d.dir / "b.jsonl")
    assert a == b and [r["id"] for r in a] == list(range(len(a)))
