"""The control socket's commands, used while records flow."""
import json
import os
import re

import pytest

import box

FLOW = """
arena: {size: 8MiB, buffer: 64KiB}
producers:
  gen: {type: generate, rate: %d, record: {seq: =seq, level: info}}
transformers:
  t: {workers: %d, steps: [{set: {v: %s}}]}
consumers:
  out: {from: t, type: file, path: @DIR@/out.jsonl, codec: json}
"""
RATE = 20000


def flow(daemon, workers=2, **kw):
    d = daemon(FLOW % (RATE, workers, "1"), **kw)
    d.wait_for(lambda: d.audit()["delivered"] > 1000)
    return d


def drained(d, sorted_=False):
    """Stops the intake; what came out is exactly what came in."""
    d.ctl("drain")
    d.wait_for(lambda: d.stage("gen")["state"] == "stopped", what="the producer to stop")
    books = d.settle()
    got = [r["seq"] for r in box.ndjson(d.dir / "out.jsonl")]
    assert (sorted(got) if sorted_ else got) == list(range(len(got)))
    return books, len(got)


def goes_on(d):
    before = d.audit()["delivered"]
    d.wait_for(lambda: d.audit()["delivered"] > before + 1000, what="records to flow")


# ---- looking ----

def test_audit_balances_at_every_moment(daemon):
    """200 looks under load with branches, a filter, growth, absorption, dead letters and drops."""
    d = daemon("""
arena: {size: 8MiB, buffer: 64KiB}
producers:
  gen: {type: generate, record: {id: =seq, l: "a,b,c", n: "1"}}
transformers:
  grow: {workers: 2, steps: [{explode: {field: l, split: ","}}, {filter: "id % 5 ~= 0"}]}
  bad: {from: gen, steps: [{filter: "id % 1000 == 0"}, {set: {n: "x"}}, {convert: {n: int}}]}
  sum: {from: grow, steps: [{aggregate: {by: l, compute: {n: count()}}}]}
consumers:
  a: {from: grow, type: null}
  b: {from: grow, type: file, path: @DIR@/b.jsonl, codec: json, rotate: {size: 20MiB, keep: 1}}
  c: {from: [bad, sum], type: null}
  d: {from: grow, type: null, quota: 1, full: drop}
""")
    last = None
    for _ in range(200):
        a = d.audit()
        assert a["balanced"] and all(p["balanced"] for p in a["pipelines"]), a
        assert a["received"] + a["made"] + a["replayed"] == a["delivered"] + a["filtered"] + a["absorbed"] + \
            a["dead"] + a["dropped"] + a["in_flight"], a
        assert not last or all(a[k] >= last[k] for k in ("received", "delivered", "dead", "absorbed"))
        last = a
    d.wait_for(lambda: d.audit()["dead"] > 5)
    d.ctl("drain")
    d.settle()


def test_status_names_what_blocks(daemon):
    """The edge without room, who reads it, and since when."""
    d = flow(daemon)
    d.ctl("pause", "out")
    d.wait_for(lambda: d.stage("t")["state"] == "blocked")
    t = d.stage("t")
    assert "t->out" in t["why"] and t["blocked"]["edge"] == "t->out" and t["blocked"]["reader"] == "out", t
    since = t["blocked"]["since_s"]
    d.wait_for(lambda: d.stage("t")["blocked"]["since_s"] > since + 0.5)
    assert d.stage("out")["state"] == "paused" and d.edge("t->out")["full"]
    d.wait_for(lambda: d.stage("gen")["state"] == "blocked")
    assert d.stage("gen")["blocked"]["edge"] == "gen->t"
    text = d.sluicectl("status").stdout
    assert "t->out" in text and "paused" in text
    d.ctl("resume", "out")
    goes_on(d)
    d.wait_for(lambda: d.stage("t")["state"] != "blocked")
    drained(d, True)


def test_fields_of_stats_and_workers(daemon):
    d = flow(daemon)
    s = d.ctl("stats")
    for name in ("gen", "t", "out"):
        v = s["stages"][name]
        for k in ("records_in", "records_out", "bytes_in", "bytes_out", "filtered", "dead", "retries"):
            assert isinstance(v[k], int), (name, k)
        for k in ("min", "max", "mean", "median", "stddev", "p90", "p99", "p999", "count"):
            assert isinstance(v["latency_us"][k], (int, float)), (name, k)
    lat = s["stages"]["out"]["latency_us"]
    assert 0 < lat["min"] <= lat["median"] <= lat["p90"] <= lat["p99"] <= lat["p999"] <= lat["max"]
    assert s["arena"]["buffers"] == 128 and s["arena"]["bytes"] >= 8 << 20 and 0 < s["arena"]["free"] <= 128
    d.wait_for(lambda: all(x["rss"] for x in d.workers()), what="the first sample of the processes")
    w = d.ctl("workers")
    assert w["master"]["pid"] == d.pid
    assert [(x["stage"], x["kind"], x["index"]) for x in w["workers"]] == [
        ("gen", "producer", 0), ("t", "transformer", 0), ("t", "transformer", 1), ("out", "consumer", 0),
        ("dead", "consumer", 0)]
    for x in w["workers"]:
        assert x["pid"] in box.children(d.pid) and x["rss"] >= x["pss"] > 0 and x["restarts"] == 0
    d.wait_for(lambda: 0.5 * RATE < d.stats("out")["rate"]["1s"]["in"] < 2 * RATE, what="a true rate")
    drained(d, True)


def test_tap(daemon):
    """Copies of live records; the flow does not notice."""
    d = flow(daemon)
    for stage, fields in (("gen", {"seq", "level"}), ("t", {"seq", "level", "v"})):
        lines = d.sluicectl("tap", stage, "-n", "20").stdout.splitlines()
        recs = [json.loads(x) for x in lines]
        recs = [r for r in recs if "tapped" not in r]
        assert len(recs) == 20 and all(set(r) == fields for r in recs), lines[:3]
    assert d.sluicectl("tap", "nosuch").returncode == 1
    books, _ = drained(d, True)
    assert books["made"] == 0


def test_graph(daemon):
    d = flow(daemon)
    dot, mermaid = d.sluicectl("graph", "--dot").stdout, d.sluicectl("graph", "--mermaid").stdout
    assert dot.startswith("digraph") and mermaid.startswith("flowchart")
    for text in (dot, mermaid):
        assert all(name in text for name in ("gen", "t", "out"))
    offline = box.command("sluicectl", "graph", "--dot", d.config_path)
    assert offline.stdout == dot
    drained(d, True)


def test_prometheus(daemon):
    """Every line is HELP, TYPE or a sample of a family that was declared; counters agree with the books."""
    d = flow(daemon)
    books, n = drained(d, True)
    text = d.sluicectl("stats", "--prometheus").stdout
    declared, samples = set(), {}
    for line in text.splitlines():
        m = re.fullmatch(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)", line)
        if m:
            declared.add(m[2])
            continue
        m = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)*\})? (\S+)', line)
        assert m, line
        float(m[3])
        assert m[1] in declared or re.sub("_(sum|count|bucket)$", "", m[1]) in declared, line
        assert (m[1], m[2]) not in samples, line
        samples[m[1], m[2]] = float(m[3])
    assert n in [v for (name, labels), v in samples.items() if 'stage="out"' in (labels or "")]


# ---- steering ----

def test_pause_and_resume(daemon):
    d = flow(daemon)
    for stage in ("out", "t", "gen"):
        d.ctl("pause", stage)
        d.wait_for(lambda: d.stage(stage)["state"] == "paused")
        d.wait_for(lambda: d.audit()["received"] == d.audit()["received"])
        stopped = d.stats(stage)["records_out"]
        assert d.stats(stage)["records_out"] == stopped
        d.ctl("resume", stage)
        goes_on(d)
    drained(d, True)


def test_restart(daemon):
    """A stage's workers are replaced in an orderly way: others stay, nothing is lost or doubled."""
    d = flow(daemon)
    for stage in ("t", "out", "gen"):
        before = d.pids()
        d.ctl("restart", stage)
        d.wait_for(lambda: all(p not in (0, before[k]) for k, p in d.pids(stage).items()), what="new workers")
        after = d.pids()
        assert {k for k in before if before[k] != after[k]} == set(d.pids(stage))
        goes_on(d)
    drained(d, True)


def test_scale(daemon):
    """More and fewer workers under load, without loss."""
    d = flow(daemon, workers=1)
    for n in (4, 2, 6, 1):
        d.ctl("scale", "t", n)
        d.wait_for(lambda: len([w for w in d.workers("t") if w["pid"]]) == n, what="%d workers" % n)
        goes_on(d)
    for bad in (("t", 0), ("t", 1000), ("nosuch", 2)):
        with pytest.raises(box.ControlError):
            d.ctl("scale", *bad)
    goes_on(d)
    drained(d, True)


def test_scale_refuses_what_remembers(daemon):
    d = daemon("""
producers:
  gen: {type: generate, count: 100, record: {id: =seq}}
transformers:
  t: {steps: [{dedupe: {by: id}}]}
consumers:
  out: {type: null}
""")
    with pytest.raises(box.ControlError):
        d.ctl("scale", "t", 2)
    d.settle(ended=True, delivered=100)


def test_drain(daemon):
    d = flow(daemon)
    books, n = drained(d, True)
    assert books["received"] == books["delivered"] == n
    assert d.status()["drained"]
    with pytest.raises(box.ControlError):
        d.ctl("resume", "gen")
    d.ctl("restart", "gen")
    goes_on(d)
    drained(d, True)


# ---- reload ----

def test_reload_good(daemon):
    """Only the changed stage gets new processes; nothing is lost; the new steps are in force."""
    d = flow(daemon)
    before = d.pids()
    d.write_config(FLOW % (RATE, 2, "2"))
    assert "error" not in d.ctl("reload")
    after = d.pids()
    assert {k[0] for k in before if before[k] != after[k]} == {"t"}
    goes_on(d)
    _, n = drained(d, True)
    values = [r["v"] for r in box.ndjson(d.dir / "out.jsonl")]
    assert set(values) == {1, 2}


def test_reload_bad(daemon):
    """A bad file changes nothing; the answer and `status` name the place."""
    d = flow(daemon, expect=["reload refused, the old configuration stays"])
    before = d.pids()
    good = d.config_path.read_text()
    d.config_path.write_text(good.replace("workers: 2", "workers: two"))
    with pytest.raises(box.ControlError) as e:
        d.ctl("reload")
    line = next(i for i, x in enumerate(good.splitlines(), 1) if "workers: 2" in x)
    assert "%s:%d:" % (d.config_path, line) in str(e.value)
    assert "workers" in d.status()["reload_error"]
    assert d.pids() == before
    d.config_path.write_text(good)
    d.ctl("reload")
    assert d.status()["reload_error"] is None and d.pids() == before
    goes_on(d)
    drained(d, True)


def test_reload_by_hangup(daemon):
    import signal
    d = flow(daemon, expect=["reload refused", "c.yaml", "sluice.yaml", "expected a number"])
    d.write_config(FLOW % (RATE, 2, "3"))
    d.process.send_signal(signal.SIGHUP)
    d.wait_for(lambda: any(r["v"] == 3 for r in box.ndjson(d.dir / "out.jsonl")[-100:]))
    reloads = d.status()["reloads"]
    d.write_config(FLOW.replace("rate: %d", "rate: x%d") % (RATE, 2, "4"))
    d.process.send_signal(signal.SIGHUP)
    d.wait_for(lambda: d.status()["reload_error"])
    assert d.status()["reloads"] == reloads
    drained(d, True)


def test_reload_adds_and_removes_stages(daemon):
    """Under load: a branch comes, goes, and the middle of the pipeline is taken out."""
    d = flow(daemon)
    d.write_config(FLOW % (RATE, 2, "1") + "  extra: {from: t, type: file, path: @DIR@/extra.jsonl, codec: json}\n")
    d.ctl("reload")
    d.wait_for(lambda: d.stats("extra")["delivered"] > 1000)
    d.write_config(FLOW % (RATE, 2, "1"))
    d.ctl("reload")
    assert "extra" not in d.stats()
    extra = [r["seq"] for r in box.ndjson(d.dir / "extra.jsonl")]
    assert sorted(extra) == list(range(min(extra), min(extra) + len(extra))), "a hole in what the branch got"
    goes_on(d)
    text = FLOW % (RATE, 2, "1")
    d.write_config(re.sub(r"transformers:.*?consumers:", "consumers:", text, flags=re.S).replace("from: t", "from: gen"))
    d.ctl("reload")
    assert set(d.stats()) == {"gen", "out", "dead"}
    goes_on(d)
    d.write_config(text)
    d.ctl("reload")
    goes_on(d)
    drained(d, True)


def test_reload_again_and_again(daemon):
    d = flow(daemon)
    for i in range(10):
        d.write_config(FLOW % (RATE, 1 + i % 3, str(i)))
        d.ctl("reload")
        assert d.audit()["balanced"]
    goes_on(d)
    drained(d, True)
    assert d.status()["reloads"] == 10


def test_reopen_for_logrotate(daemon):
    """A file that was moved away is made anew at a reload; nothing falls between."""
    d = flow(daemon)
    os.rename(d.dir / "out.jsonl", d.dir / "old.jsonl")
    d.ctl("reload")
    d.wait_for(lambda: (d.dir / "out.jsonl").exists() and (d.dir / "out.jsonl").stat().st_size)
    d.ctl("drain")
    d.wait_for(lambda: d.stage("gen")["state"] == "stopped")
    books = d.settle()
    got = [r["seq"] for r in box.ndjson(d.dir / "old.jsonl", d.dir / "out.jsonl")]
    assert sorted(got) == list(range(books["received"]))


# ---- dead letters ----

LETTERS = """
producers:
  in: {type: file, path: @DIR@/in, codec: json, follow: true}
transformers:
  t: {steps: [{convert: {n: %s}}]}
consumers:
  out: {from: t, type: file, path: @DIR@/out.jsonl, codec: json}
"""


def test_dead_list_show_purge(daemon):
    d = daemon(LETTERS % "int", start=False)
    d.write("in", "\n".join(json.dumps({"id": i, "n": "x" if i % 2 else str(i)}) for i in range(100)) + "\nrubbish\n")
    d.start()
    d.settle(received=101, delivered=50, dead=51)
    listed = [json.loads(x) for x in d.sluicectl("--json", "dead", "list").stdout.splitlines()]
    assert len(listed) == 51 and len({x["id"] for x in listed}) == 51
    assert [x["input"]["id"] for x in listed if x["stage"].startswith("t/")] == list(range(1, 100, 2))
    text = d.sluicectl("dead", "list", "--stage", "in").stdout
    assert "rubbish" in text or "JSON" in text
    show = json.loads(d.sluicectl("dead", "show", listed[0]["id"]).stdout)
    assert show["input"] == listed[0]["input"]
    assert d.sluicectl("dead", "show", "nosuch").returncode == 1
    assert d.sluicectl("dead", "purge", "--all").returncode == 0
    assert d.sluicectl("--json", "dead", "list").stdout.strip() in ("", "[]")
    with open(d.dir / "in", "a") as f:
        f.write('{"id": 101, "n": "x"}\n')
    d.settle(dead=52)
    assert len(d.dead_letters()) == 1
