"""kill -9 of workers while records flow: nothing lost, nothing doubled, the siblings never stop."""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

import box
from conftest import wait_for

KILL_EVERY = 0.05
RECORDS = int(os.environ.get("SLUICE_KILL_RECORDS", "2000000"))


def test_any_worker_at_any_time(daemon):
    """A random worker is killed every 50 ms until all is through."""
    d = daemon("""
arena: {size: 16MiB, buffer: 128KiB}
producers:
  gen: {type: generate, count: %d, rate: 300000, record: {seq: =seq, level: info}}
transformers:
  clean: {workers: 2, steps: [{set: {level: "=upper(level)"}}]}
  agg: {from: clean, steps: [{aggregate: {by: level, compute: {n: count(), s: sum(seq)}}}]}
consumers:
  out: {from: clean, type: file, path: @DIR@/out.jsonl, codec: json}
  db: {from: clean, type: sqlite, path: @DIR@/out.db, table: t}
  sums: {from: agg, type: file, path: @DIR@/agg.jsonl, codec: json}
""" % RECORDS, args=["--log-level", "error"])
    rng = random.Random(1)
    end = time.monotonic() + 240
    killed = 0
    while d.stage("sums")["state"] != "ended":
        assert time.monotonic() < end, json.dumps(d.status())
        pids = [p for (stage, _), p in d.pids().items() if p and stage != "dead"]
        if not pids:
            continue
        before = d.pids()
        victim = rng.choice(pids)
        try:
            os.kill(victim, signal.SIGKILL)
            killed += 1
        except ProcessLookupError:
            continue
        # the others are the same processes as before (but those that came to their end)
        after = d.pids()
        for who, pid in before.items():
            assert pid == victim or after[who] in (pid, 0) or not box.is_running(pid), (who, pid, after)
        time.sleep(KILL_EVERY * rng.uniform(0.5, 1.5))
    assert killed >= RECORDS // 100000, killed
    d.settle(ended=True, received=RECORDS, deadline=240)
    assert d.process.poll() is None
    seen = bytearray(RECORDS)
    with open(d.dir / "out.jsonl") as f:
        for line in f:
            seen[int(line[7:line.index(",")])] += 1
    assert seen == b"\x01" * RECORDS
    assert box.rows(d.dir / "out.db", "select count(*), count(distinct seq), sum(seq) from t") == \
        [(RECORDS, RECORDS, RECORDS * (RECORDS - 1) // 2)]
    assert box.ndjson(d.dir / "agg.jsonl") == [{"level": "INFO", "n": RECORDS,
                                                "s": RECORDS * (RECORDS - 1) // 2}]


def test_siblings_keep_their_pids(daemon):
    """One worker is killed again and again: only its own place changes hands, and fast."""
    d = daemon("""
producers:
  gen: {type: generate, rate: 20000, record: {seq: =seq}}
transformers:
  t: {workers: 2, steps: [{set: {x: 1}}]}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""", args=["--log-level", "error"])
    first = d.pids()
    for _ in range(20):
        commits = d.worker("t", 0)["commits"]
        old = d.kill("t", 0)
        # a commit of the new one: a worker that dies again before it did anything is started later and later
        d.wait_for(lambda: d.worker("t", 0)["pid"] not in (0, old) and d.worker("t", 0)["commits"] > commits + 1,
                   what="a new worker that works")
    last = d.pids()
    assert {k for k in first if first[k] != last[k]} == {("t", 0)}
    assert d.worker("t", 0)["restarts"] >= 20 and d.worker("t", 1)["restarts"] == 0
    assert d.ctl("drain")
    d.wait_for(lambda: d.audit()["in_flight"] == 0 and d.stage("gen")["state"] == "stopped")
    n = d.settle()["received"]
    assert sorted(r["seq"] for r in box.ndjson(d.dir / "out.jsonl")) == list(range(n))


def test_a_record_that_kills_is_set_aside(daemon):
    """The program of an exec step that dies of one record costs that record only."""
    d = daemon("""
producers:
  in: {type: generate, count: 500, record: {seq: =seq}}
transformers:
  t: {steps: [{exec: {command: [/usr/bin/python3, @DIR@/step.py], timeout: 30s}}]}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
""", start=False, expect=["t\\[0\\]"])
    d.write("step.py", """
import json, os, sys
for line in sys.stdin:
    if json.loads(line)["seq"] == 250:
        os.abort()
    print(line, end='', flush=True)
""")
    d.start()
    d.settle(ended=True, received=500, delivered=499, dead=1)
    assert [r["seq"] for r in box.ndjson(d.dir / "out.jsonl")] == [i for i in range(500) if i != 250]
    letter, = d.dead_letters()
    assert letter["input"]["seq"] == 250


TRACER = """
import ctypes, signal, sys
SEIZE = 0x4206
print(ctypes.CDLL(None).ptrace(SEIZE, int(sys.argv[1]), 0, 0), flush=True)
signal.pause()
"""


def test_one_that_dies_while_somebody_traces_it(daemon):
    """Its end cannot be seen before the tracer lets go, and nobody tells the master then: it looks itself."""
    d = daemon("""
producers:
  gen: {type: generate, rate: 1000, record: {seq: =seq}}
consumers:
  out: {type: 'null'}
""", expect=[r"worker out\[0\] \(pid \d+\): killed by Killed"])
    victim = next(p for (stage, _), p in d.pids().items() if stage == "out")
    with subprocess.Popen([sys.executable, "-c", TRACER, str(victim)], stdout=subprocess.PIPE, text=True) as tracer:
        try:
            if tracer.stdout.readline().strip() != "0":
                pytest.skip("tracing is not allowed here")
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: "Z (zombie)" in pathlib.Path(f"/proc/{victim}/status").read_text(), what="its end")
        finally:
            tracer.kill()
    d.wait_for(lambda: next(p for (stage, _), p in d.pids().items() if stage == "out") not in (0, victim),
               what="another in its place")
    before = d.stats("out")["records_in"]
    d.wait_for(lambda: d.stats("out")["records_in"] > before, what="it to go on")
