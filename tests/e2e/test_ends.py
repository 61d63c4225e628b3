"""How it ends: by itself, by a signal, and what the next run finds."""
import os
import signal

import zmq

import box

SLOW = """
consumers:
  out: {type: exec, command: [/usr/bin/python3, @DIR@/slow.py], codec: json, acknowledge: batch}
"""

# Takes batches one by one when there is a file "go" or many, one each time "step" is removed.
GATE = """
import os, sys, time
d = os.path.dirname(sys.argv[0])
out = open(d + '/taken', 'a')
for line in sys.stdin:
    if line != '\\n':
        out.write(line)
        continue
    while not os.path.exists(d + '/go'):
        time.sleep(0.01)
    out.flush()
    print('ok', flush=True)
"""


def gated(daemon, count, extra="", expect=()):
    """generate -> a consumer that takes nothing before the file `go` is there."""
    d = daemon("daemon: {runtime_dir: @DIR@/run, stop_timeout: 60s}\n"
               "arena: {size: 4MiB, buffer: 64KiB}\n%s\n"
               "producers:\n  g: {type: generate, count: %d, record: {id: =seq}}\n" % (extra, count) + SLOW,
               start=False, expect=expect)
    d.write("slow.py", GATE)
    return d.start()


def go(d):
    d.write("go", "")


def taken(d):
    return [r["id"] for r in box.ndjson(d.dir / "taken")]


def all_taken(d, received):
    """Without a gap, and at least what was received before. The next run's books say how much it was."""
    got = taken(d)
    assert got == list(range(len(got))) and len(got) >= received
    d.start()
    assert d.audit()["delivered"] >= len(got)


def test_until_done(daemon):
    """Ended producers end the pipeline; the daemon ends with 0, everything is out."""
    d = daemon("""
producers:
  a: {type: generate, count: 20000, record: {id: =seq}}
transformers:
  t: {workers: 2, steps: [{set: {x: 1}}]}
  n: {from: t, steps: [{aggregate: {compute: {n: count()}}}]}
consumers:
  f: {from: t, type: file, path: @DIR@/out.jsonl, codec: json}
  n: {from: n, type: file, path: @DIR@/n.jsonl, codec: json}
""".replace("  n: {from: n, type", "  total: {from: n, type"), args=["--until-done"], start=False)
    assert d.run() == 0
    assert sorted(r["id"] for r in box.ndjson(d.dir / "out.jsonl")) == list(range(20000))
    assert [r["n"] for r in box.ndjson(d.dir / "n.jsonl")] == [20000]


def test_until_done_waits_for_the_slow(daemon):
    d = gated(daemon, 30000)
    d.args = []
    d.wait_for(lambda: d.stage("g")["state"] in ("blocked", "ended"))
    assert d.audit()["delivered"] == 0
    go(d)
    d.settle(ended=True, delivered=30000)
    assert taken(d) == list(range(30000))


def test_term_drains(daemon):
    """SIGTERM stops the intake and finishes what is in flight, however slow."""
    d = gated(daemon, 0)  # without end
    d.wait_for(lambda: d.stage("g")["state"] == "blocked", what="back-pressure")
    d.process.send_signal(signal.SIGTERM)
    d.wait_for(lambda: d.status()["state"] == "draining")
    books = d.audit()
    assert books["balanced"] and books["delivered"] == 0
    go(d)
    assert d.wait() == 0
    all_taken(d, books["received"])


def test_term_drain_has_an_end(daemon):
    """After stop_timeout the daemon stops although a consumer does not; it says what is lost."""
    d = gated(daemon, 0, expect=[r"stop_timeout is over with \d+ chunks in flight: they are lost",
                                 "does not leave: killed", "out\\[0\\]"])
    d.config_path.write_text(d.config_path.read_text().replace("stop_timeout: 60s", "stop_timeout: 1s"))
    assert d.ctl("reload")
    d.wait_for(lambda: d.stage("g")["state"] == "blocked")
    assert d.stop() == 0
    assert "they are lost" in d.log()


def test_second_term_does_not_wait(daemon):
    d = gated(daemon, 0, expect=["does not leave: killed", "out\\[0\\]"])
    d.wait_for(lambda: d.stage("g")["state"] == "blocked")
    d.process.send_signal(signal.SIGTERM)
    d.wait_for(lambda: d.status()["state"] == "draining")
    assert d.stop() == 0


def test_int_is_like_term(daemon):
    d = gated(daemon, 0)
    d.wait_for(lambda: d.stage("g")["state"] == "blocked")
    d.process.send_signal(signal.SIGINT)
    d.wait_for(lambda: d.status()["state"] == "draining")
    received = d.audit()["received"]
    go(d)
    assert d.wait() == 0
    all_taken(d, received)


def test_stop_with_a_file_arena_leaves_the_rest(daemon):
    """An arena that outlives the daemon needs no drain: the next run delivers what was left, once."""
    d = daemon("""
arena: {size: 4MiB, buffer: 64KiB, path: @DIR@/arena}
producers:
  g: {type: generate, count: 100000, rate: 50000, record: {id: =seq}}
transformers:
  t: {steps: [{set: {x: 1}}]}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""", start=False, expect=["recovered \\d+ chunks"])
    d.start()
    d.ctl("pause", "out")
    d.wait_for(lambda: d.stage("out")["state"] == "paused")
    assert d.stop() == 0
    assert d.start() and d.settle(ended=True, received=100000, delivered=100000)
    assert [r["id"] for r in box.ndjson(d.dir / "out.jsonl")] == list(range(100000))


def test_file_position_survives_a_stop(daemon):
    """Stopped in the middle of a file, the next run goes on where this one ended, without gap or repeat,
    although the arena was in memory only."""
    d = daemon("""
producers:
  in: {type: file, path: @DIR@/in, codec: lines, batch: {records: 100}}
transformers:
  t: {quota: 1, steps: [{lua: {script: "function process(r) for i = 1, 5000 do r.x = i end return r end"}}]}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json, quota: 1}
""", start=False)
    d.write("in", "".join("%d\n" % i for i in range(6000)))
    runs = 0
    while len(box.ndjson(d.dir / "out.jsonl")) < 6000:
        d.start()
        before = len(box.ndjson(d.dir / "out.jsonl"))
        d.wait_for(lambda: d.audit()["delivered"] > before + 500 or
                   d.stage("in")["state"] == "ended")
        assert d.stop() == 0
        runs += 1
        assert runs < 50
    assert runs > 1, "one run did all: nothing was tried"
    assert [r["line"] for r in box.ndjson(d.dir / "out.jsonl")] == [str(i) for i in range(6000)]


def test_books_survive_a_restart(daemon):
    d = daemon("""
producers:
  g: {type: generate, count: 1000, record: {id: =seq}}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""")
    d.settle(ended=True, received=1000)
    assert d.stop() == 0
    d.start()
    d.settle(ended=True, received=2000, delivered=2000)  # completed producers begin again


def test_completed_file_is_read_again(daemon):
    d = daemon("""
producers:
  in: {type: file, path: @DIR@/in, codec: lines}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""", args=["--until-done"], start=False)
    d.write("in", "a\nb\n")
    assert d.run() == 0
    assert d.run() == 0
    assert [r["line"] for r in box.ndjson(d.dir / "out.jsonl")] == list("abab")


def test_aggregate_keeps_its_state_over_a_stop(daemon, port, zmq_context):
    """A stop does not flush windows: what was counted before it is counted on afterwards."""
    p = port()
    d = daemon("""
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", codec: json}
transformers:
  n: {steps: [{aggregate: {by: k, compute: {n: count()}, window: 1h}}]}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""" % p)

    def feed(n):
        s = zmq_context.socket(zmq.PUSH)
        s.setsockopt(zmq.LINGER, 30000)
        s.connect("tcp://127.0.0.1:%d" % p)
        for _ in range(n):
            s.send(b'{"k": 1}')
        s.close()
    feed(10)
    d.settle(absorbed=10)
    assert d.stop() == 0
    assert box.ndjson(d.dir / "out.jsonl") == []
    d.start()
    feed(5)
    d.settle(absorbed=15)


def test_stdin_closed_ends(daemon):
    r, w = os.pipe()
    d = daemon("""
producers:
  in: {type: file, path: "-", codec: lines}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""", args=["--until-done"], start=False, stdin=r)
    d.start()
    os.close(r)
    os.write(w, b"one\n")
    d.settle(delivered=1)
    os.write(w, b"two")
    os.close(w)
    assert d.wait() == 0
    assert [x["line"] for x in box.ndjson(d.dir / "out.jsonl")] == ["one", "two"]


def test_a_second_daemon_is_refused(daemon):
    d = daemon("""
producers:
  g: {type: generate, count: 10, record: {id: =seq}}
consumers:
  out: {type: null}
""")
    r = box.command("sluiced", "-c", d.config_path)
    assert r.returncode != 0 and str(d.pid) in r.stderr
    d.settle(ended=True, delivered=10)
