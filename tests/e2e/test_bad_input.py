"""Hostile peers between good records: the good arrive exactly once, the bad are dead letters or counted."""
import json
import os
import socket
import struct
import time

import msgpack
import pytest
import zmq

import box
from feed import RAW_GREETING, RAW_READY, push

CONFIG = """
arena: {size: 8MiB, buffer: 64KiB}
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", socket: pull, codec: %s}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
"""


def good_one(codec, i):
    r = {"id": i}
    return json.dumps(r).encode() if codec == "json" else msgpack.packb(r)


# payloads that cost one dead letter each
MSGPACK = {
    "truncated map": b"\x82\xa1a\x01\xa1b",
    "truncated string": b"\x81\xa1a\xd9\xffabc",
    "string of 2^32-1": b"\x81\xa1a\xdb\xff\xff\xff\xff" + b"x" * 100,
    "map of 2^32-1": b"\xdf\xff\xff\xff\xff\xa1a\x01",
    "array of 2^32-1": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "binary of 2^32-1": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "ext of 2^32-1": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "nesting": b"\x81\xa1a" + b"\x91" * 50000 + b"\xc0",
    "no map": b"\x93\x01\x02\x03",
    "never used byte": b"\xc1",
    "key no string": b"\x81\x01\x01",
    "duplicate key": b"\x82\xa1a\x01\xa1a\x02",
    "invalid utf-8": b"\x81\xa1a\xa2\xff\xfe",
}
JSON = {
    "garbage": b"\x00\xff\xfe garbage",
    "truncated": b'{"a": 1, "b"',
    "nesting": b'{"a":' + b"[" * 60000,
    "no record": b"[1, 2, 3]",
    "duplicate key": b'{"a": 1, "a": 2}',
    "invalid utf-8": b'{"a": "\xff"}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "huge number": b'{"a": ' + b"9" * 50000 + b"e99999999}",
}


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_bad_payloads(daemon, port, zmq_context, codec):
    bad = JSON if codec == "json" else MSGPACK
    p = port()
    d = daemon(CONFIG % (p, codec))
    s = zmq_context.socket(zmq.PUSH)
    s.setsockopt(zmq.LINGER, 30000)
    s.connect("tcp://127.0.0.1:%d" % p)
    n = 0
    for rounds in range(3):
        for payload in bad.values():
            s.send(good_one(codec, n))
            s.send(payload)
            n += 1
    s.send(b"")  # nothing at all: no record, no letter
    s.send_multipart([good_one(codec, n), b"", good_one(codec, n + 1)])  # each part is a message
    s.send(good_one(codec, n + 2))
    s.close()
    n += 3
    d.wait_for(lambda: d.audit()["delivered"] >= n)
    books = d.settle()
    assert [r["id"] for r in box.ndjson(d.dir / "out.jsonl")] == list(range(n))
    letters = d.dead_letters()
    assert books["dead"] == len(letters)
    # each kind was refused every time, with a reason (a number too large for a double may pass as text)
    assert len(letters) >= 3 * (len(bad) - 1)
    assert all(x["error"] and x["stage"] == "in" and x["position"] for x in letters)


def test_every_letter_is_written(daemon, port, zmq_context):
    """A reason cut within a character, an id that is no text, a record that nests as deep as one may: none of
    them takes its own letter away, nor others."""
    p = port()
    d = daemon("""
        arena: {size: 8MiB, buffer: 64KiB}
        producers:
          in: {type: zmq, listen: "tcp://127.0.0.1:%d", socket: router, codec: json}
        transformers:
          t:
            steps:
              - lua: {script: "function process(r) error(r.text, 0) end"}
        consumers:
          out: {type: file, path: @DIR@/out.jsonl, codec: json}
        """ % p)
    s = zmq_context.socket(zmq.DEALER)
    s.setsockopt(zmq.LINGER, 0)
    s.setsockopt(zmq.ROUTING_ID, b"\xff\xc3")
    s.connect("tcp://127.0.0.1:%d" % p)
    rows = [{"n": i, "text": "x" * i + "\u00e4" * 300} for i in range(4)]
    rows += [{"n": 4 + i, "text": "deep", "a": json.loads("[" * (124 + i) + "]" * (124 + i))} for i in range(4)]
    payload = "\n".join(json.dumps(r) for r in rows).encode()
    s.send_multipart([b"HELLO", b"1", b"1"])
    s.send_multipart([b"SEND", b"1", payload + b"\nnonsense"])
    books = d.settle(received=9)
    assert (books["dead"], books["letters"], books["aside"]) == (9, 9, 0)
    letters = d.dead_letters()
    assert [r["input"] for r in letters if r["position"]] == ["nonsense"]
    assert all(r["position"] in ("", "message 1 of ??, byte %d" % (len(payload) + 1)) for r in letters)
    assert sorted(r["input"]["n"] for r in letters if isinstance(r["input"], dict)) == list(range(7))
    assert sum(r["error"].startswith("xx\u00e4") for r in letters) == 1
    s.close()


def test_steps_nest_deeper(daemon, port):
    """What a step puts deeper than anything may come is still read by whoever is next, or refused alone."""
    p = port()
    d = daemon("""
        arena: {size: 8MiB, buffer: 64KiB}
        producers:
          in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json}
        transformers:
          t: {steps: [set: {x.y: =a}]}
          u: {steps: [set: {v.w: =x}]}
        consumers:
          out: {type: file, path: @DIR@/out.jsonl, codec: json}
        """ % p)
    depths = [1, 127, 2, 126, 120, 3]
    with push("tcp://127.0.0.1:%d" % p) as s:
        s.send(b"\n".join(b'{"n":%d,"a":%s}' % (k, b"[" * k + b"]" * k) for k in depths))
    books = d.settle(received=len(depths))
    assert (books["dead"], books["letters"], books["aside"]) == (2, 2, 0)
    assert [r["n"] for r in box.ndjson(d.dir / "out.jsonl")] == [1, 2, 120, 3]
    assert {r["error"] for r in d.dead_letters()} == {"nested too deep"}


ATTACKS = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
    "noise": os.urandom(100000),
    "nothing": b"",
    "half a greeting": RAW_GREETING[:30],
    "greeting, then noise": RAW_GREETING + os.urandom(50000),
    "frame of 2^63-1": RAW_GREETING + RAW_READY + b"\x02" + struct.pack(">Q", 2**63 - 1) + b"x" * 1000,
    "frame of 2^32-1": RAW_GREETING + RAW_READY + b"\x02" + struct.pack(">Q", 2**32 - 1) + b"x" * 1000,
    "unfinished frame": RAW_GREETING + RAW_READY + b"\x02" + struct.pack(">Q", 1000) + b"x",
}


def test_garbage_on_the_port(daemon, port, zmq_context):
    """What does not speak the protocol is refused; a good client beside it never notices."""
    p = port()
    d = daemon(CONFIG % (p, "json"))
    s = zmq_context.socket(zmq.PUSH)
    s.setsockopt(zmq.LINGER, 30000)
    s.connect("tcp://127.0.0.1:%d" % p)
    n, before = 0, 0
    for rounds in range(5):
        for attack in ATTACKS.values():
            with socket.create_connection(("127.0.0.1", p)) as c:
                try:
                    c.sendall(attack)
                    c.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # thrown out already: fine
                for _ in range(10):
                    s.send(json.dumps({"id": n, "pad": "x" * 100}).encode())
                    n += 1
        d.wait_for({"delivered": n})
        if rounds == 0:
            before = d.total_pss()
    d.settle(received=n, delivered=n, dead=0)
    s.close()
    assert [r["id"] for r in box.ndjson(d.dir / "out.jsonl")] == list(range(n))
    d.wait_for(lambda: d.stats("in")["refused"] >= 5, what="refusals to be counted")
    assert d.worker("in")["restarts"] == 0
    assert box.sanitized() or d.total_pss() < before + (8 << 20)
    fds = len(os.listdir("/proc/%d/fd" % d.worker("in")["pid"]))
    assert fds < 100, fds


def test_too_large_message(daemon, port, zmq_context):
    """64 MiB in one message: its sender loses the connection, counted; nothing grows, others go on."""
    p = port()
    d = daemon(CONFIG % (p, "json"))
    good = zmq_context.socket(zmq.PUSH)
    good.connect("tcp://127.0.0.1:%d" % p)
    good.send(b'{"id": 0}')
    d.settle(delivered=1)
    before = d.total_pss()
    evil = zmq_context.socket(zmq.PUSH)
    evil.setsockopt(zmq.LINGER, 0)
    evil.connect("tcp://127.0.0.1:%d" % p)
    evil.send(b'{"id": "' + b"x" * (64 << 20) + b'"}')
    d.wait_for(lambda: d.stats("in")["refused"] >= 1, what="the refusal to be counted")
    assert box.sanitized() or d.total_pss() < before + (16 << 20)
    evil.close(0)
    good.send(b'{"id": 1}')
    d.settle(delivered=2, received=2, dead=0)
    assert [r["id"] for r in box.ndjson(d.dir / "out.jsonl")] == [0, 1]
    good.close(0)


def test_bad_files(daemon):
    """A file of rubbish between good lines: every line is accounted for."""
    d = daemon("""
arena: {size: 8MiB, buffer: 64KiB}
producers:
  in: {type: file, path: @DIR@/in, codec: json}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""", start=False)
    bad = [b"\xff\xfe\x00", b"{", b"{]", b"nonsense", b'{"a":1,"a":2}', b"[1]", b'"text"',
           b'{"a": "' + b"x" * 100000 + b'"}', b"\x00" * 1000]
    lines = []
    for i, b in enumerate(bad * 10):
        lines += [json.dumps({"id": i}).encode(), b]
    d.write("in", b"\n".join(lines))
    d.start()
    books = d.settle(ended=True)
    assert [r["id"] for r in box.ndjson(d.dir / "out.jsonl")] == list(range(len(bad) * 10))
    assert books["dead"] == len(bad) * 10 == len(d.dead_letters())


def test_control_socket(daemon):
    """Rubbish, long lines, silence and greed on the control socket: others are still served."""
    d = daemon("""
producers:
  g: {type: generate, rate: 1000, record: {id: =seq}}
consumers:
  out: {type: null}
""")
    idle = [d.connect() for _ in range(20)]
    greedy = d.connect()
    greedy.setblocking(False)
    end = time.monotonic() + 5
    try:
        while time.monotonic() < end:
            greedy.sendall(b"stats\n" * 1000)  # asks, never reads
    except OSError:
        pass
    for line in (b"x" * 100000 + b"\n", b"\x00\xff\n", b"status status status\n", b"\n", b"scale g\n",
                 b"tap nosuch\n", b"scale g 99999999999999999999\n"):
        with d.connect() as c:
            try:
                c.sendall(line)
                answer = c.makefile("rb").readline()
                assert answer == b"" or "error" in json.loads(answer) or line == b"\n", (line[:50], answer)
            except OSError:
                pass  # thrown out: as good
    assert d.audit()["balanced"] and d.status()["state"] == "running"
    for c in idle + [greedy]:
        c.close()
    d.ctl("drain")
    d.settle()
