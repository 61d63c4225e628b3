"""Records through whole pipelines: every producer, step and consumer, with exact outputs."""
import collections
import gzip
import json
import os
import subprocess
import sys

import msgpack
import pytest
import zmq

import box

PY = sys.executable


def push(context, endpoint, messages):
    s = context.socket(zmq.PUSH)
    s.setsockopt(zmq.LINGER, 30000)
    s.connect(endpoint)
    for m in messages:
        s.send(m)
    s.close()


# ---- in by ZeroMQ ----

def test_zmq_pull_to_everything(daemon, port, zmq_context):
    """json by PULL -> filter, set -> file, sqlite, zmq, null, all the same records."""
    inp, out = port(), port()
    sink = zmq_context.socket(zmq.PULL)
    sink.bind("tcp://127.0.0.1:%d" % out)
    d = daemon("""
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json}
transformers:
  t:
    steps:
      - filter: {level: {not: debug}}
      - set: {service: "=upper(service)", hash: "=xxh64(msg)", old: null}
consumers:
  f: {from: t, type: file, path: @DIR@/out.jsonl, codec: json}
  q: {from: t, type: sqlite, path: @DIR@/out.db, table: t, key: id}
  z: {from: t, type: zmq, connect: "tcp://127.0.0.1:%d", codec: msgpack}
  n: {from: t, type: null}
""" % (inp, out))
    n = 3000
    recs = [{"id": i, "level": "debug" if i % 3 == 0 else "info", "service": "shop",
             "msg": "m%d" % i, "old": 1} for i in range(n)]
    kept = [r["id"] for r in recs if r["level"] == "info"]
    # one record a message, then many: values back to back, spanning lines
    push(zmq_context, "tcp://127.0.0.1:%d" % inp,
         [json.dumps(r).encode() for r in recs[:1000]] +
         ["\n".join(json.dumps(r, indent=1) for r in recs[i:i + 100]).encode()
          for i in range(1000, n, 100)])
    got = []

    def receive():
        while sink.poll(0):
            u = msgpack.Unpacker()
            u.feed(sink.recv())
            got.extend(u)
        return len(got) >= len(kept)
    box.wait_for(receive, what="the records by ZeroMQ")
    d.settle(received=n, filtered=n - len(kept), delivered=4 * len(kept), made=3 * len(kept))
    lines = box.ndjson(d.dir / "out.jsonl")
    assert [r["id"] for r in lines] == kept
    assert lines[0]["service"] == "SHOP" and "old" not in lines[0] and len(lines[0]["hash"]) == 16
    assert got == lines
    assert box.rows(d.dir / "out.db", "select id from t order by id") == [(i,) for i in kept]
    sink.close(0)


def test_zmq_sub_topics(daemon, port, zmq_context):
    """SUB takes the topics it asked for; the topic is no part of the record."""
    p = port()
    pub = zmq_context.socket(zmq.XPUB)
    pub.bind("tcp://127.0.0.1:%d" % p)
    d = daemon("""
producers:
  in: {type: zmq, connect: "tcp://127.0.0.1:%d", socket: sub, subscribe: [a], codec: json}
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""" % p)
    assert pub.poll(int(box.DEADLINE * 1000)) and pub.recv() == b"\x01a"
    for i in range(500):
        pub.send_multipart([b"a" if i % 2 else b"b", json.dumps({"id": i}).encode()])
    d.settle(delivered=250)
    assert [r["id"] for r in box.ndjson(d.dir / "out.jsonl")] == list(range(1, 500, 2))
    pub.close(0)


def test_zmq_msgpack_in_and_push_listening(daemon, port, zmq_context):
    """msgpack maps back to back in; out by a PUSH socket that listens."""
    a, b = port(), port()
    d = daemon("""
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: msgpack}
consumers:
  z: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json, message_records: 1}
""" % (a, b))
    sink = zmq_context.socket(zmq.PULL)
    sink.connect("tcp://127.0.0.1:%d" % b)
    recs = [{"id": i, "big": 2**64 - 1 - i, "neg": -2**63 + i, "bin": b"\x00\xff", "f": 0.1}
            for i in range(200)]
    push(zmq_context, "tcp://127.0.0.1:%d" % a,
         [b"".join(msgpack.packb(r) for r in recs[i:i + 7]) for i in range(0, 200, 7)])
    got = []
    while len(got) < 200:
        assert sink.poll(int(box.DEADLINE * 1000)), len(got)
        got.append(json.loads(sink.recv()))
    assert [(r["id"], r["big"], r["neg"], r["f"]) for r in got] == \
        [(r["id"], r["big"], r["neg"], r["f"]) for r in recs]
    d.settle(delivered=200)
    sink.close(0)


def test_two_daemons_acknowledged(daemon, port):
    """One daemon's dealer feeds another's router: all arrive, once, in order."""
    p = port()
    b = daemon("""
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", socket: router, codec: msgpack}
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""" % p)
    a = daemon("""
producers:
  in: {type: generate, count: 50000, record: {id: =seq}}
consumers:
  z: {type: zmq, connect: "tcp://127.0.0.1:%d", socket: dealer, codec: msgpack}
""" % p)
    a.settle(ended=True, delivered=50000)
    b.settle(delivered=50000)
    assert [r["id"] for r in box.ndjson(b.dir / "out.jsonl")] == list(range(50000))


# ---- in by file ----

CODECS = {
    "json": ("codec: json", b'{"a": "1"}\r\n\r\n{"a": "2"}\n{"a": "3"}', [{"a": "1"}, {"a": "2"}, {"a": "3"}]),
    "lines": ("codec: lines", b"one\r\ntwo\n\nlast", [{"line": "one"}, {"line": "two"}, {"line": ""},
                                                     {"line": "last"}]),
    "csv": ("codec: csv", b'a,b\r\n1,"x\r\n""y"""\r\n2,"a,b"', [{"a": "1", "b": 'x\r\n"y"'},
                                                               {"a": "2", "b": "a,b"}]),
    "deb822": ("codec: deb822", b"P: 1\r\nT: a\r\n b\r\n\r\n\r\nP: 2", [{"P": "1", "T": "a\nb"}, {"P": "2"}]),
    "msgpack": ("codec: msgpack", msgpack.packb({"a": 1}) + msgpack.packb({"a": [None, True]}),
                [{"a": 1}, {"a": [None, True]}]),
}


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_file_of_each_codec(daemon, codec):
    """CRLF, empty lines, no newline at the end; the daemon ends by itself with status 0."""
    text, content, expected = CODECS[codec]
    d = daemon("""
producers:
  in: {type: file, path: @DIR@/in, %s}
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""" % text, args=["--until-done"], start=False)
    d.write("in", content)
    assert d.run() == 0, d.log()
    assert box.ndjson(d.dir / "out.jsonl") == expected
    assert d.dead_letters() == []


def test_stdin_to_stdout(daemon):
    """`-` is standard input; stdout has nothing but the records."""
    d = daemon("""
producers:
  in: {type: file, path: "-", codec: json}
transformers:
  t: {steps: [{set: {b: =a + 1}}]}
consumers:
  o: {type: stdout, codec: json}
""", args=["--until-done"], start=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    d.start(wait=False)
    out, _ = d.process.communicate(b'{"a": 1}\n{"a": 41}', timeout=box.DEADLINE)
    assert d.wait() == 0
    assert [json.loads(x) for x in out.splitlines()] == [{"a": 1, "b": 2}, {"a": 41, "b": 42}]


def test_many_files_in_order(daemon):
    d = daemon("""
producers:
  in: {type: file, path: [@DIR@/1, @DIR@/2, @DIR@/3], codec: lines}
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""", args=["--until-done"], start=False)
    d.write("1", b"a\nb")
    d.write("2", b"")
    d.write("3", b"c\n")
    assert d.run() == 0, d.log()
    assert [r["line"] for r in box.ndjson(d.dir / "out.jsonl")] == ["a", "b", "c"]


def test_file_followed(daemon):
    """What is appended arrives; so does what follows a rotation."""
    d = daemon("""
producers:
  in: {type: file, path: @DIR@/in, codec: lines, follow: true, rotate_wait: 200ms}
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""", start=False)
    d.write("in", b"1\n2\n")
    d.start()
    d.settle(delivered=2)
    with open(d.dir / "in", "ab") as f:
        f.write(b"3\n")
    d.settle(delivered=3)
    os.rename(d.dir / "in", d.dir / "in.1")
    with open(d.dir / "in.1", "ab") as f:
        f.write(b"4\n")
    d.write("in", b"5\n")
    d.settle(delivered=5)
    assert [r["line"] for r in box.ndjson(d.dir / "out.jsonl")] == list("12345")


# ---- the graph ----

def test_branches_merges_and_routes(daemon):
    """Two producers merge; a route splits three ways; a branch reads one of them twice."""
    d = daemon("""
producers:
  a: {type: generate, count: 3000, record: {id: =seq, from: a}}
  b: {type: generate, count: 2000, record: {id: =seq, from: b}}
transformers:
  split:
    from: [a, b]
    workers: 2
    steps:
      - route: {low: "id < 100", mine: {from: b}, default: main}
  twice: {from: split.mine, steps: [{set: {n: 2}}]}
consumers:
  low: {from: split.low, type: file, path: @DIR@/low.jsonl, codec: json}
  rest: {from: split, type: file, path: @DIR@/rest.jsonl, codec: json}
  mine: {from: split.mine, type: file, path: @DIR@/mine.jsonl, codec: json}
  both: {from: [twice, split.low], type: file, path: @DIR@/both.jsonl, codec: json}
""")
    books = d.settle(ended=True, received=5000, delivered=200 * 2 + 2900 + 1900 * 2)
    assert books["made"] == 200 + 1900

    def ids(name):
        return sorted((r["from"], r["id"]) for r in box.ndjson(d.dir / name))
    low = [(f, i) for f in "ab" for i in range(100)]
    mine = [("b", i) for i in range(100, 2000)]
    assert ids("low.jsonl") == low
    assert ids("mine.jsonl") == mine
    assert ids("rest.jsonl") == [("a", i) for i in range(100, 3000)]
    assert ids("both.jsonl") == sorted(low + mine)


def test_explode_dedupe_aggregate(daemon):
    d = daemon("""
producers:
  g: {type: file, path: @DIR@/in, codec: json}
transformers:
  split:
    steps:
      - explode: {field: tags, split: ",", trim: true, into: tag, index: n}
      - remove: [tags]
  first: {from: split, steps: [{dedupe: {by: [id, tag]}}]}
  sums:
    from: first
    steps:
      - aggregate: {by: tag, compute: {n: count(), s: sum(id), lo: min(id), hi: max(id), m: mean(id)}}
consumers:
  all: {from: split, type: file, path: @DIR@/parts.jsonl, codec: json}
  db: {from: sums, type: sqlite, path: @DIR@/out.db, table: t, key: tag}
""", args=["--until-done"], start=False)
    recs = [{"id": i % 700, "tags": ", ".join("t%d" % j for j in range(i % 5))} for i in range(2000)]
    d.write("in", "\n".join(json.dumps(r) for r in recs).encode())
    assert d.run() == 0, d.log()
    parts = [(r["id"], t, n) for r in recs for n, t in enumerate(x for x in r["tags"].split(", ") if x)]
    assert [(r["id"], r["tag"], r["n"]) for r in box.ndjson(d.dir / "parts.jsonl")] == parts
    want = collections.defaultdict(list)
    for i, t in sorted({(i, t) for i, t, _ in parts}):
        want[t].append(i)
    assert box.rows(d.dir / "out.db", "select tag, n, s, lo, hi, m from t order by tag") == \
        [(t, len(v), sum(v), min(v), max(v), sum(v) / len(v)) for t, v in sorted(want.items())]


def test_aggregate_window(daemon, port, zmq_context):
    """Windows end by the clock: all groups come out while the producer stays."""
    p = port()
    d = daemon("""
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json}
transformers:
  w: {steps: [{aggregate: {by: k, compute: {n: count()}, window: 1s}}]}
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""" % p)
    push(zmq_context, "tcp://127.0.0.1:%d" % p, [json.dumps({"k": i % 3}).encode() for i in range(900)])
    d.settle(received=900, absorbed=900)

    def all_out():
        return sum(r["n"] for r in box.ndjson(d.dir / "out.jsonl")) == 900
    box.wait_for(all_out, what="the windows to end")
    sums = collections.Counter()
    for r in box.ndjson(d.dir / "out.jsonl"):
        sums[r["k"]] += r["n"]
    assert sums == {0: 300, 1: 300, 2: 300}


def test_expressions_lua_convert_keep_rename(daemon):
    d = daemon("""
producers:
  in: {type: file, path: @DIR@/in, codec: json}
transformers:
  t:
    steps:
      - rename: {n: count}
      - convert: {count: int, price: float, at: {type: time, format: "%Y-%m-%d"}}
      - lua:
          script: |
            function process(r)
              if r.count == 3 then return nil end
              r.total = r.price * r.count
              return r
            end
      - filter: "total ~= 0"
      - set: {a.b: =total / 2, text: ==x, q: "=sha256('')", m: =md5(name)}
      - keep: [count, total, a.b, text, q, m, big]
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""", start=False)
    d.write("in", b"".join(json.dumps(r).encode() + b"\n" for r in [
        {"n": "2", "price": "1.5", "name": "abc", "at": "2026-01-02", "big": 2**64 - 1},
        {"n": "3", "price": "1.5", "name": "abc", "at": "2026-01-02"},
        {"n": "0", "price": "1.5", "name": "abc", "at": "2026-01-02"},
        {"n": "two", "price": "1.5", "name": "abc", "at": "2026-01-02"}]))
    d.start()
    d.settle(ended=True, received=4, delivered=1, filtered=2, dead=1)
    assert box.ndjson(d.dir / "out.jsonl") == [{
        "count": 2, "total": 3.0, "a": {"b": 1.5}, "text": "=x", "big": 2**64 - 1,
        "q": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "m": "900150983cd24fb0d6963f7d28e17f72"}]
    letter, = d.dead_letters()
    assert letter["stage"] == "t/convert (step 2)" and "two" in letter["error"] and letter["input"]["n"] == "two"


def test_short_forms(daemon):
    """What is no map is a step's main option."""
    d = daemon("""
producers:
  in: {type: file, path: @DIR@/in, codec: json}
transformers:
  t:
    steps:
      - explode: tags
      - dedupe: tags
      - lua: |
          function process(r)
            r.n = #r.tags
            return r
          end
      - exec: "sed -u s/n/m/"
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""", start=False)
    d.write("in", '{"tags": ["ab", "c"]}\n{"tags": ["c", "def"]}\n')
    d.start()
    d.settle(ended=True, received=2, made=1, delivered=3)
    assert box.ndjson(d.dir / "out.jsonl") == [{"tags": "ab", "m": 2}, {"tags": "c", "m": 1}, {"tags": "def", "m": 3}]


def test_a_step_that_cannot_go_on_says_why(daemon):
    d = daemon("""
producers:
  g: {type: generate, count: 1, record: {a: 1}}
transformers:
  t: {max_attempts: 100, steps: [{set: {x: 1}}, {exec: [/nonexistent/program]}]}
consumers:
  n: {type: null}
""", expect=["nonexistent", "cannot go on"])
    d.wait_for(lambda: "exec (step 2): " in d.stage("t")["why"] and "/nonexistent/program" in d.stage("t")["why"])
    d.kill_all()  # its record would hold a stop up


def test_exec_in_all_places(daemon):
    """Programs as producer, step and consumer; the step filters and makes two of one."""
    d = daemon("""
producers:
  p: {type: exec, command: [%(py)s, @DIR@/make.py], codec: json}
transformers:
  s: {steps: [{exec: {command: [%(py)s, @DIR@/step.py], timeout: 20s}}]}
consumers:
  c: {type: exec, command: [%(py)s, @DIR@/take.py], codec: json, acknowledge: batch}
""" % {"py": PY}, start=False)
    d.write("make.py", b"import json\nfor i in range(3000): print(json.dumps({'id': i}))\n")
    d.write("step.py", b"""
import json, sys
for line in sys.stdin:
    r = json.loads(line)
    r['x'] = r['id'] * 2
    print(json.dumps(r) if r['id'] % 10 else 'null', flush=True)
""")
    d.write("take.py", b"""
import sys
f = open(sys.argv[0] + '.out', 'a')
for line in sys.stdin:
    if line == '\\n':
        f.flush()
        print('ok', flush=True)
    else:
        f.write(line)
""")
    d.start()
    d.settle(ended=True, received=3000, filtered=300, delivered=2700)
    assert [(r["id"], r["x"]) for r in box.ndjson(d.dir / "take.py.out")] == \
        [(i, 2 * i) for i in range(3000) if i % 10]


# ---- codecs out ----

def test_file_consumer_codecs_and_rotation(daemon):
    d = daemon("""
producers:
  g: {type: generate, count: 50000, record: {id: =seq, t: "a,\\"b"}}
consumers:
  m: {type: file, path: @DIR@/out.mp, codec: msgpack}
  c: {type: file, path: @DIR@/out.csv, codec: csv}
  r: {type: file, path: @DIR@/rot.jsonl, codec: json, rotate: {size: 20KiB}}
""")
    d.settle(ended=True, delivered=150000)
    want = [{"id": i, "t": 'a,"b'} for i in range(50000)]
    with open(d.dir / "out.mp", "rb") as f:
        assert list(msgpack.Unpacker(f)) == want
    import csv
    with open(d.dir / "out.csv", newline="") as f:
        assert list(csv.DictReader(f)) == [{"id": str(r["id"]), "t": r["t"]} for r in want]
    names = sorted(n for n in os.listdir(d.dir) if n.startswith("rot.jsonl."))
    assert len(names) > 3
    got = [r for n in names + ["rot.jsonl"] for r in box.ndjson(d.dir / n)]
    assert got == want


# ---- real input ----

def test_access_log(daemon, need):
    """The example for web servers' logs: 9,999 lines match, line 8899 is a dead letter."""
    log = need("logs", "apache_logs")
    with open(need("logs", "apache_logs.expected.json")) as f:
        want = json.load(f)
    d = daemon("", start=False, env={"LOG": str(log)})
    d.env["DATA"] = str(d.dir)
    with open(box.EXAMPLES / "logs.yaml") as f:
        d.write_config(f.read())
    d.start()
    books = d.settle(ended=True, received=10000, dead=1)
    assert books["absorbed"] == 9999
    report = {str(r["status"]): r for r in box.ndjson(d.dir / "status.jsonl")}
    assert {k: r["requests"] for k, r in report.items()} == want["by_status"]
    assert {k: r["bytes"] for k, r in report.items() if r.get("bytes")} == want["bytes_by_status"]
    letter, = d.dead_letters()
    with open(log, "rb") as f:
        line = f.read().split(b"\n")[8898].decode()
    assert letter["stage"] == "parsed/parse (step 1)" and letter["input"]["line"] == line


def test_package_index(daemon, need):
    """A sample of Debian's package index: as deb822 and as NDJSON, the same answers."""
    with open(need("apt-index", "sample.expected.json")) as f:
        want = json.load(f)
    d = daemon("""
producers:
  deb: {type: file, path: @DIR@/deb, codec: deb822}
transformers:
  t: {steps: [{convert: {Size: int}}]}
  s: {from: t, steps: [{aggregate: {by: Section, compute: {n: count(), b: sum(Size)}}}]}
  m: {from: t, steps: [{dedupe: {by: Maintainer}}]}
consumers:
  db: {from: s, type: sqlite, path: @DIR@/out.db, table: s, key: Section}
  who: {from: m, type: file, path: @DIR@/m.jsonl, codec: json}
  all: {from: t, type: file, path: @DIR@/all.jsonl, codec: json}
""", start=False)
    with gzip.open(need("apt-index", "sample.deb822.gz")) as f:
        d.write("deb", f.read())
    d.start()
    d.settle(ended=True, received=4898)
    assert box.rows(d.dir / "out.db", "select sum(n), sum(b) from s") == [(4898, 9164180768)]
    assert len(box.ndjson(d.dir / "m.jsonl")) == 859
    with gzip.open(need("apt-index", "sample.ndjson.gz")) as f:
        plain = [json.loads(x) for x in f]
    got = box.ndjson(d.dir / "all.jsonl")
    for r in got + plain:
        for k, v in r.items():
            r[k] = str(v)
    assert got == plain
    assert box.rows(d.dir / "out.db", "select Section, n, b from s order by Section") == \
        [tuple(x) for x in want["by_Section_count_and_bytes"]]


def test_large_integers_survive(daemon, need):
    """twitter.json: numbers over 2^53 come out digit for digit."""
    with open(need("json", "real", "twitter.json"), "rb") as f:
        text = f.read()
    d = daemon("""
arena: {size: 64MiB, buffer: 1MiB}
producers:
  in: {type: file, path: @DIR@/in, codec: json}
transformers:
  t: {steps: [{explode: {field: statuses, into: s}}, {keep: [s]}]}
consumers:
  f: {type: file, path: @DIR@/out.jsonl, codec: json}
""", start=False)
    d.write("in", text)
    d.start()
    d.settle(ended=True, received=1, delivered=100, made=99)
    got = [r["s"] for r in box.ndjson(d.dir / "out.jsonl")]
    assert got == json.loads(text)["statuses"]
    assert sum(s["retweet_count"] for s in got) == 7122
    assert max(s["id"] for s in got) == 505874924095815681
