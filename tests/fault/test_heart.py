"""
The heart under bad luck: units that end in the middle of a record, workers that come and go by command while they
are killed, reloads that are cut off, an arena full of garbage. Each test ends on exact counts, and on the books.
"""

import contextlib
import json
import mmap
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from box import POLL, ControlError, Daemon, finish, ndjson, rows, wait_for  # noqa: E402
del sys.path[0]  # its other modules are not meant for the tests here

DEATHS = (r"killed by Killed",)
ANY = (r"",)  # for tests after which the log may say anything
SMALL = "arena: {size: 8MiB, buffer: 64KiB}\n"


@pytest.fixture
def daemon():
    """As in tests/e2e: makes daemons, and looks at the end whether all is well with them."""
    made = []

    def make(config, args=(), start=True, **more):
        made.append(Daemon(config, args, **more))
        return made[-1].start() if start else made[-1]

    yield make
    problems = [p for d in made for p in finish(d)]
    assert not problems, "\n".join(problems)


def children(pid):
    try:
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_workers_until_done(d, stages, kills, seed=1):
    """Kills a random worker of these stages, again and again, until so many are dead or the daemon has come to its
    end. Only one that has committed since it was killed last: the others would wait longer and longer to be
    started again. Returns how many it killed."""
    rng, done, had = random.Random(seed), 0, {}
    end = time.monotonic() + 60
    while d.process.poll() is None:
        assert time.monotonic() < end, d.log()
        workers = [w for w in (soon(d.workers) or []) if w["stage"] in stages and w["pid"]]
        ripe = [w for w in workers if w["commits"] > had.get(w["slot"], 0)]
        if not ripe or done == kills:
            time.sleep(POLL)
            continue
        w = rng.choice(ripe)
        with contextlib.suppress(ProcessLookupError):
            os.kill(w["pid"], signal.SIGKILL)
            done += 1
        had[w["slot"]] = w["commits"]
    assert d.wait() == 0, d.log()
    return done


def soon(ask):
    """The answer of a daemon that may come to its end at any moment: None then."""
    with contextlib.suppress(ControlError, OSError):
        return ask()


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- units that end inside a record ----

MIDDLE = SMALL + """
producers:
  p: {type: file, path: @DIR@/in.jsonl, codec: json}
transformers:
  x:
    from: p
    workers: 2
    steps:
      - explode: {field: items}
      - convert: {items: int}
      - route: {odd: "=items % 2 == 1"}
consumers:
  odd: {from: x.odd, type: file, path: @DIR@/odd.jsonl, codec: json, quota: 1}
  even: {from: x, type: file, path: @DIR@/even.jsonl, codec: json, quota: 1}
"""


def test_killed_in_the_middle_of_a_record(daemon):
    """1,000 parts of each record by two ways, a few of them bad; two workers; every edge one chunk deep."""
    records, parts = 500, 1000
    d = daemon(MIDDLE, args=["--until-done"], start=False, expect=DEATHS)
    with open(d.dir / "in.jsonl", "w") as f:
        for i in range(records):
            items = [str(k) if k % 100 != 77 else f"bad{k}" for k in range(parts)]
            f.write(json.dumps({"id": i, "pad": "x" * 90, "items": items}) + "\n")
    d.start(wait=False)
    assert kill_workers_until_done(d, ("x", "odd", "even"), 80) > 10
    good = {(i, k) for i in range(records) for k in range(parts) if k % 100 != 77}
    for name, want in (("odd", {g for g in good if g[1] % 2}), ("even", {g for g in good if g[1] % 2 == 0})):
        got = [(r["id"], r["items"]) for r in ndjson(d.dir / f"{name}.jsonl")]
        assert len(got) == len(set(got)), f"{name}: {len(got) - len(set(got))} doubled"
        assert set(got) == want, f"{name}: {len(want - set(got))} lost"
    letters = [(r["input"]["id"], r["input"]["items"]) for r in d.dead_letters()]
    assert sorted(letters) == sorted((i, f"bad{k}") for i in range(records) for k in range(77, parts, 100))


AGGREGATE = SMALL + """
state: {path: @DIR@/state, size: 256MiB}
producers:
  p: {type: file, path: @DIR@/in.jsonl, codec: json}
transformers:
  x:
    from: p
    steps:
      - explode: {field: items}
      - dedupe: {by: [id, items]}
      - route: {odd: "=items % 2 == 1"}
      - aggregate: {by: [id], compute: {n: count(), s: sum(items)}}
consumers:
  odd: {from: x.odd, type: file, path: @DIR@/odd.jsonl, codec: json, quota: 1}
  sums: {from: x, type: file, path: @DIR@/sums.jsonl, codec: json}
"""


def test_state_that_is_committed_in_the_middle_of_a_record(daemon):
    """Half of the parts leave, half are summed up, each part comes twice and is to be seen once."""
    records, parts = 200, 1500
    d = daemon(AGGREGATE, args=["--until-done"], start=False, expect=DEATHS)
    with open(d.dir / "in.jsonl", "w") as f:
        for i in range(records):
            f.write(json.dumps({"id": i, "pad": "x" * 40, "items": [*range(parts), *range(parts)]}) + "\n")
    d.start(wait=False)
    assert kill_workers_until_done(d, ("x", "odd"), 80) > 10
    odd = [(r["id"], r["items"]) for r in ndjson(d.dir / "odd.jsonl")]
    assert sorted(odd) == [(i, k) for i in range(records) for k in range(1, parts, 2)]
    sums = ndjson(d.dir / "sums.jsonl")
    even = range(0, parts, 2)
    assert sorted((r["id"], r["n"], r["s"]) for r in sums) == [(i, len(even), sum(even)) for i in range(records)]


# ---- workers that come and go by command ----

SCALED = SMALL + """
producers:
  p: {type: generate, rate: 2000, count: COUNT}
transformers:
  x:
    from: p
    workers: 3
    steps: [{set: {a: 1}}]
consumers:
  out: {from: x, type: file, path: @DIR@/out.jsonl, codec: json}
"""


def running(d, stage):
    return [w["index"] for w in d.workers(stage) if w["pid"]]


def test_scaled_down_and_done(daemon):
    """A worker that a smaller scale leaves no place for is not waited for at the end."""
    d = daemon(SCALED.replace("COUNT", "3000"), args=["--until-done"])
    d.ctl("scale", "x", 1)
    assert d.wait() == 0
    assert len(ndjson(d.dir / "out.jsonl")) == 3000


def test_scaled_down_and_killed(daemon):
    """... and does not come back: not by a crash, nor by a restart of its stage."""
    d = daemon(SCALED.replace("COUNT", "1000000000"), expect=DEATHS)
    pid = d.worker("x", 2)["pid"]
    os.kill(pid, signal.SIGSTOP)
    d.ctl("scale", "x", 1)
    os.kill(pid, signal.SIGKILL)
    d.wait_for(lambda: running(d, "x") == [0])
    first = d.worker("x", 0)["pid"]
    d.ctl("restart", "x")
    d.wait_for(lambda: d.worker("x", 0)["pid"] not in (0, first))
    assert running(d, "x") == [0]


def test_scaled_down_and_up_at_once(daemon):
    d = daemon(SCALED.replace("COUNT", "1000000000"))
    pid = d.worker("x", 2)["pid"]
    os.kill(pid, signal.SIGSTOP)
    d.ctl("scale", "x", 1)
    d.ctl("scale", "x", 3)
    os.kill(pid, signal.SIGCONT)
    d.wait_for(lambda: running(d, "x") == [0, 1, 2] and d.worker("x", 2)["pid"] != pid)


def test_scaled_while_paused_and_reloaded(daemon):
    """Who is born into a paused stage is paused; a reload that does not touch the stage leaves its scale."""
    text = SCALED.replace("COUNT", "1000000000").replace("workers: 3", "workers: 1")
    d = daemon(text, expect=["is not beside it"])
    d.ctl("pause", "x")
    d.ctl("scale", "x", 3)
    d.wait_for(lambda: [w["state"] for w in d.workers("x")] == ["paused"] * 3)
    d.ctl("resume", "x")
    d.write_config(text.replace("out.jsonl", "other.jsonl"))
    d.ctl("reload")
    d.wait_for({"out.delivered": 1000})
    assert running(d, "x") == [0, 1, 2] and d.stage("x")["workers"] == 3
    d.ctl("scale", "x", 1)
    d.write_config(text)
    d.ctl("reload")
    assert running(d, "x") == [0] and d.stage("x")["workers"] == 1


# ---- reloads ----

def graph(stages):
    return SMALL + "producers:\n  p: {type: generate, rate: 2000, count: 1000000000}\n" + stages


def test_a_paused_stage_leaves_no_pause_behind(daemon):
    d = daemon(graph("consumers:\n  a: {from: p, type: null}\n  b: {from: p, type: null}\n"),
               expect=["dropped [0-9]+ records of edge p->b as ordered"])
    d.ctl("pause", "b")
    d.wait_for(lambda: d.stage("b")["state"] == "paused")
    d.write_config(graph("consumers:\n  a: {from: p, type: null}\n  c: {from: p, type: null}\n"))
    d.ctl("reload", "--discard", "p->b")
    d.wait_for({"c.delivered": 100})


def test_books_after_an_heir_is_gone(daemon):
    """Stages are removed one after the other, each the heir of the one before; two pipelines, audited each."""
    def config(chain, producer):
        text = SMALL + f"producers:\n  {producer}: {{type: generate, rate: 2000, count: 1000000000}}\n"
        text += "  q: {type: generate, rate: 500, count: 1000000000}\ntransformers:\n"
        before = producer
        for t in chain:
            text += f"  {t}:\n    from: {before}\n    steps: [{{set: {{{t}: 1}}}}]\n"
            before = t
        return text + (f"consumers:\n  end: {{from: {before}, type: null}}\n"
                       "  other: {from: q, type: null}\n")
    d = daemon(config(["a", "b"], "p"))
    for chain, producer in ((["b"], "p"), (["b"], "p2"), (["c"], "p2"), (["c"], "p3"), (["c", "e"], "p3")):
        before = d.stats("end")["delivered"]
        d.wait_for(lambda: d.stats("end")["delivered"] > before + 100)
        d.write_config(config(chain, producer))
        d.ctl("reload")
        audit = d.audit()
        assert audit["balanced"] and all(p["balanced"] for p in audit["pipelines"]), audit
    d.stop()
    d.start()  # the arena was in memory: books, and whose they are, were carried over
    audit = d.audit()
    assert audit["balanced"] and all(p["balanced"] for p in audit["pipelines"]), audit
    assert audit["delivered"] > 500


def test_stopped_in_the_middle_of_a_reload(daemon):
    """A reload waits for a removed edge; SIGTERM comes; what the reload had stopped has to finish its chunks."""
    stages = ("transformers:\n  x:\n    from: p\n    steps: [{set: {a: 1}}]\n"
              "consumers:\n  out: {from: x, type: file, path: @DIR@/out.jsonl, codec: json}\n")
    d = daemon(graph(stages + "  slow: {from: x, type: file, path: @DIR@/slow.jsonl, codec: json}\n"),
               expect=["reload refused, .*: the daemon is stopping"])
    d.wait_for({"slow.delivered": 100})
    slow = d.worker("slow")["pid"]
    os.kill(slow, signal.SIGSTOP)
    d.wait_for(lambda: d.edge("x->slow")["queued"] >= 2)
    d.write_config(graph(stages.replace("a: 1", "a: 2")))
    reload = subprocess.Popen([os.environ.get("SLUICECTL") or "build/sluicectl", "-s", str(d.socket), "reload"],
                              cwd=pathlib.Path(__file__).resolve().parents[2], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    d.wait_for(lambda: not running(d, "x"))  # the reload has stopped it and waits for x->slow
    d.audit_at_end = False
    d.process.send_signal(signal.SIGTERM)
    os.kill(slow, signal.SIGCONT)
    assert d.wait() == 0, d.log()
    reload.communicate(timeout=30)
    assert "chunks in flight" not in d.log(), d.log()
    seqs = [r["seq"] for r in ndjson(d.dir / "out.jsonl")]
    assert seqs == list(range(len(seqs)))
    assert [r["seq"] for r in ndjson(d.dir / "slow.jsonl")] == seqs


# ---- consumers ----

def test_give_up_after_when_the_stage_cannot_even_begin(daemon):
    """The records become dead letters, and the worker sleeps between its tries."""
    d = daemon("""
        producers:
          p: {type: generate, rate: 500, count: 1000000000}
        consumers:
          out: {from: p, type: file, path: @DIR@/o/out.jsonl, codec: json, give_up_after: 500ms,
                retry: {base: 50ms, max: 100ms}}
        """, start=False, expect=["cannot be opened", "is not beside it"])
    (d.dir / "o").mkdir()
    d.start()
    d.wait_for({"out.delivered": 100})
    (d.dir / "o").rename(d.dir / "gone")
    (d.dir / "o").write_text("")
    d.ctl("reopen")
    pid = d.worker("out")["pid"]
    d.wait_for({"dead": 50})
    assert d.worker("out")["pid"] == pid
    assert cpu_seconds(pid) < 1, "it does not sleep"


CANNOT_OPEN = {
    # a directory that is a file: unreachable
    "file": ("type: file, path: @DIR@/o/out.jsonl, codec: json", lambda d: (d.dir / "o").mkdir(), "not reachable yet"),
    "sqlite": ("type: sqlite, path: @DIR@/o/out.db, table: t", lambda d: (d.dir / "o").mkdir(), "not reachable yet"),
    # the address is in use: an error, of which a worker ended so far
    "zmq": ('type: zmq, socket: push, listen: "ipc://@DIR@/o/s", codec: json', lambda d: (d.dir / "o").mkdir(),
            "not reachable yet"),
}


@pytest.mark.parametrize("kind", CANNOT_OPEN)
def test_give_up_after_when_the_stage_cannot_be_opened(daemon, kind):
    """What has waited so long becomes dead letters; what comes once it can be opened is delivered. Each record is
    one or the other, and the worker sleeps between its tries."""
    consumer, mend, told = CANNOT_OPEN[kind]
    d = daemon(f"""
        producers:
          p: {{type: file, path: @DIR@/in.jsonl, codec: json, follow: true}}
        consumers:
          out: {{from: p, {consumer}, give_up_after: 300ms, retry: {{base: 50ms, max: 100ms}}}}
        """, start=False, expect=[told])
    (d.dir / "o").write_text("")
    d.write("in.jsonl", "".join('{"id": %d}\n' % i for i in range(500)))
    d.start()
    d.wait_for({"dead": 500})
    pid = d.worker("out")["pid"]
    with open(d.dir / "in.jsonl", "a") as f:
        f.writelines('{"id": %d}\n' % i for i in range(500, 700))
    d.wait_for({"dead": 700})
    why = d.stage("out")
    assert why["state"] == "unreachable" and why["why"], why
    assert d.worker("out")["pid"] == pid and cpu_seconds(pid) < 1, "it does not sleep"
    d.wait_for(lambda: len(d.dead_letters()) == 700)
    assert sorted(x["input"]["id"] for x in d.dead_letters()) == list(range(700))
    assert all(x["stage"] == "out" and x["error"] for x in d.dead_letters()), d.dead_letters()[0]
    (d.dir / "o").unlink()
    mend(d)
    d.wait_for(lambda: d.stage("out")["state"] == "idle", what="it to be opened")
    if kind == "zmq":
        return
    with open(d.dir / "in.jsonl", "a") as f:
        f.writelines('{"id": %d}\n' % i for i in range(700, 1000))
    d.wait_for({"delivered": 300})
    audit = d.audit()
    assert audit["dead"] == 700 and audit["delivered"] == 300 and audit["balanced"], audit
    got = [r["id"] for r in ndjson(d.dir / "o/out.jsonl")] if kind == "file" else \
        [r[0] for r in rows(d.dir / "o/out.db", "select id from t")]
    assert sorted(got) == list(range(700, 1000))


def test_without_give_up_after_it_is_tried_for_ever(daemon):
    """The counterpart: nothing is given up, and all is delivered in the end."""
    d = daemon("""
        producers:
          p: {type: generate, rate: 2000, count: 400}
        consumers:
          out: {from: p, type: file, path: @DIR@/o/out.jsonl, codec: json, retry: {base: 50ms, max: 100ms}}
        """, start=False, expect=["not reachable yet"])
    (d.dir / "o").write_text("")
    d.start()
    d.wait_for(lambda: d.audit()["in_flight"] == 400)
    since = d.stage("out")["since_s"]
    d.wait_for(lambda: d.stage("out")["since_s"] > since + 1)
    assert d.stage("out")["state"] == "unreachable" and d.audit()["dead"] == 0
    (d.dir / "o").unlink()
    (d.dir / "o").mkdir()
    d.wait_for({"delivered": 400})


def test_an_input_that_ends_at_a_stage_that_cannot_be_opened(daemon):
    """It ends as it does with a peer that is out of reach: all is given up, and the run is over."""
    d = daemon("""
        producers:
          p: {type: generate, count: 300}
        consumers:
          out: {from: p, type: file, path: @DIR@/o/out.jsonl, codec: json, give_up_after: 200ms,
                retry: {base: 50ms, max: 100ms}}
        """, args=["--until-done"], start=False, expect=["not reachable yet"])
    (d.dir / "o").write_text("")
    assert d.run() == 0, d.log()
    assert len(d.dead_letters()) == 300


def test_letters_that_are_dropped_are_counted(daemon):
    bad = 60000
    d = daemon(f"""
        arena: {{size: 8MiB, buffer: 64KiB}}
        dead_letters: {{path: @DIR@/dead, full: drop}}
        producers:
          p: {{type: generate, rate: 20000, count: {bad}}}
        transformers:
          x:
            from: p
            steps: [{{convert: {{msg: int}}}}]
        consumers:
          out: {{from: x, type: null}}
        """)
    d.kill("dead", sig=signal.SIGSTOP)
    d.wait_for(lambda: (a := d.audit())["received"] == bad and a["in_flight"] == 0)
    audit = d.audit()
    d.kill("dead", sig=signal.SIGCONT)
    assert audit["dropped"] > 0 and audit["dropped"] + audit["dead"] == bad
    assert audit["balanced"]
    d.wait_for(lambda: len(d.dead_letters()) == audit["dead"])


# ---- the master ----

def test_everything_stood_still(daemon):
    """Master and workers were stopped for longer than stall_timeout: nobody is taken for hung."""
    d = daemon("""
        producers:
          p: {type: generate, rate: 100, count: 1000000000}
        consumers:
          out: {from: p, type: null, stall_timeout: 4s, timeout: 1s}
        """)
    d.wait_for({"out.delivered": 10})
    worker = d.kill("out", sig=signal.SIGSTOP)
    stopped = time.monotonic()
    wait_for(lambda: time.monotonic() - stopped > 2.2)  # the master has seen that nothing moves
    d.kill("master", sig=signal.SIGSTOP)
    wait_for(lambda: time.monotonic() - stopped > 8)  # it is the passing of time that is tested
    os.kill(d.pid, signal.SIGCONT)
    d.status()  # the master runs again ...
    started = time.monotonic()
    wait_for(lambda: time.monotonic() - started > 1.5)  # ... and has looked at its workers
    os.kill(worker, signal.SIGCONT)
    had = d.stats("out")["delivered"]
    d.wait_for(lambda: d.stats("out")["delivered"] > had + 10)
    assert d.worker("out")["pid"] == worker and d.worker("out")["restarts"] == 0


def test_smaller_arena_keeps_positions(daemon):
    """max_workers goes down, and there are more slots of former stages than places: those that are left go on."""
    def config(names, most):
        text = f"arena: {{path: @DIR@/arena, size: 8MiB, buffer: 64KiB, max_workers: {most}}}\nproducers:\n"
        text += "".join(f"  p{n}: {{type: file, path: @DIR@/in, codec: json, follow: true}}\n" for n in names)
        text += "consumers:\n"
        return text + "".join(f"  c{n}: {{from: p{n}, type: file, path: @DIR@/out{n}, codec: json}}\n" for n in names)
    d = daemon(config([1, 2, 3], 16), start=False)
    (d.dir / "in").write_text("".join(f'{{"n": {i}}}\n' for i in range(500)))
    d.start()
    d.wait_for({"delivered": 1500})
    d.write_config(config([3], 16))
    d.ctl("reload")
    d.stop()
    d.write_config(config([3], 3))
    with open(d.dir / "in", "a") as f:
        f.write('{"n": 500}\n')
    d.start()
    d.wait_for({"delivered": 1501})
    assert [r["n"] for r in ndjson(d.dir / "out3")] == list(range(501)), "what was read is not read again"
    audit = d.audit()
    assert audit["balanced"] and audit["received"] == 1501


def arena_map(path):
    """The part of an arena that workers write besides chunks: their slots, the words, numbers, facts."""
    f = open(path, "r+b")
    size, entries, workers, stride = struct.unpack_from("=4I", f.read(64), 12)
    start = (size + 4095) // 4096 * 4096
    end = start + workers * stride + entries * (8 + 8 + 128)
    return mmap.mmap(f.fileno(), 0), start, workers, stride, entries, end


def test_garbage_in_the_arena(daemon):
    """Every worker can write all of the shared memory: the master and those who ask it have to bear what is there."""
    d = daemon("""
        arena: {path: @DIR@/arena, size: 8MiB, buffer: 64KiB}
        producers:
          p: {type: generate, rate: 20000, count: 1000000000}
        transformers:
          x: {from: p, workers: 2, steps: [{set: {a: 1}}]}
        consumers:
          out: {from: x, type: null}
        """, expect=ANY)
    d.audit_at_end = False
    d.wait_for({"delivered": 1000})
    m, start, workers, stride, entries, end = arena_map(d.dir / "arena")
    rng, words = random.Random(7), start + workers * stride
    commands = ("status", "stats", "workers", "audit")
    until = time.monotonic() + 8
    rounds = 0
    while time.monotonic() < until:
        for _ in range(60):
            at = rng.choice((start + rng.randrange(workers) * stride + rng.randrange(24000),
                             rng.randrange(start, words), rng.randrange(words, end)))
            n = rng.choice((1, 4, 8, 64))
            what = rng.choice((bytes(n), b"\xff" * n, rng.randbytes(n), b"\x01" + bytes(n - 1)))
            m[at:min(at + n, end)] = what[:max(0, min(n, end - at))]
        command = commands[rounds % len(commands)]
        p = d.sluicectl("--json", command)
        assert p.stdout.strip() or p.stderr.strip(), command
        if rounds % 5 == 0:
            for pid in children(d.pid)[:1]:
                os.kill(pid, signal.SIGKILL)  # its slot has to be repaired as it is
        rounds += 1
        d.alive()
    assert rounds > 10
    # whole slots at once, and what is read of them
    for fill in (b"\xff", b"\x00", None):
        for w in range(workers):
            at = start + w * stride
            m[at:at + 24000] = rng.randbytes(24000) if fill is None else fill * 24000
        for command in commands:
            d.sluicectl("--json", command)
            d.alive()
        d.sluicectl("stats", "--prometheus")
        d.sluicectl("scale", "x", "1")
        d.sluicectl("scale", "x", "2")
        d.sluicectl("restart", "x")
        d.alive()
    d.process.send_signal(signal.SIGTERM)
    assert d.wait() >= 0, d.log()


def is_zombie(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0])


def test_restarts_leave_nothing(daemon):
    """Descriptors, memory and children of a master whose workers are killed again and again."""
    d = daemon(SCALED.replace("COUNT", "1000000000"), expect=DEATHS)
    rounds, first, had = 1500 if os.environ.get("SLUICE_TORTURE") else 400, None, {}

    def state():
        d.wait_for(lambda: all(w["pid"] for w in d.workers()))
        return descriptors(d.pid), resident(d.pid)

    killed = 0
    while killed < rounds:
        for w in d.workers():
            if w["stage"] != "dead" and w["pid"] and w["commits"] > had.get(w["slot"], 0):
                had[w["slot"]] = w["commits"]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(w["pid"], signal.SIGKILL)
                    killed += 1
        if first is None and killed > 100:
            first = state()
    last = state()
    assert last[0] <= first[0] + 2  # a control client may be connected
    assert last[1] <= first[1] + 1024  # KiB
    assert sum(w["restarts"] for w in d.workers()) > rounds * 0.9
    d.wait_for(lambda: not any(is_zombie(p) for p in children(d.pid)))
