"""
Reload under load: acknowledged records flow through a graph that changes all the time: other steps, other numbers of
workers, stages that come and go, and now and then a configuration that is wrong.

At the end each record that was acknowledged is in the output exactly once, and the producer, which no reload
changed, is still the process it was.

SLUICE_RELOADS says how many reloads (20); SLUICE_RECORDS how many records at least (200,000).
"""

import json
import os
import signal
import threading

import pytest

from conftest import DEADLINE, ControlError, dealer, free_port, ndjson, wait_for

RELOADS = int(os.environ.get("SLUICE_RELOADS", "20"))
RECORDS = int(os.environ.get("SLUICE_RECORDS", "200000"))
PER_MESSAGE = 100

HEAD = """
arena: {size: 16MiB, buffer: 64KiB}
producers:
  in: {type: zmq, socket: router, listen: "tcp://127.0.0.1:@PORT@", codec: json}
"""

GRAPHS = {
    "plain": """
transformers:
  clean: {steps: [{set: {x: 1}}]}
consumers:
  out: {from: clean, type: file, path: @DIR@/out.ndjson, codec: json}
""",
    "other step": """
transformers:
  clean: {steps: [{set: {x: 2, y: =upper("a")}}]}
consumers:
  out: {from: clean, type: file, path: @DIR@/out.ndjson, codec: json}
""",
    "three workers": """
transformers:
  clean: {workers: 3, steps: [{set: {x: 3}}]}
consumers:
  out: {from: clean, type: file, path: @DIR@/out.ndjson, codec: json}
""",
    "a stage between": """
transformers:
  clean: {workers: 2, steps: [{set: {x: 4}}]}
  extra: {from: clean, workers: 2, steps: [{set: {z: 1}}]}
consumers:
  out: {from: extra, type: file, path: @DIR@/out.ndjson, codec: json}
""",
    "a stage beside": """
transformers:
  clean: {steps: [{set: {x: 5}}]}
  twin: {from: in, steps: [{filter: {id: {lt: 0}}}]}
consumers:
  out: {from: clean, type: file, path: @DIR@/out.ndjson, codec: json}
  none: {from: twin, type: null}
""",
}
BAD = "\nconsumers:\n  out: {from: nobody, type: file, path: @DIR@/out.ndjson, codec: json}\n"


class Feeder(threading.Thread):
    """A client that sends until it is told to stop, and at least so many records."""

    def __init__(self, port):
        super().__init__()
        self.port = port
        self.enough = threading.Event()
        self.sent = 0
        self.error = None

    def run(self):
        try:
            with dealer(f"tcp://127.0.0.1:{self.port}", "feeder") as client:
                while self.sent < RECORDS or not self.enough.is_set():
                    batch = []
                    for _ in range(20):
                        lines = [b'{"id":%d,"pad":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}' % i
                                 for i in range(self.sent, self.sent + PER_MESSAGE)]
                        batch.append(b"\n".join(lines))
                        self.sent += PER_MESSAGE
                    client.deliver(batch, deadline=4 * DEADLINE)
        except Exception as e:  # noqa: BLE001  told by the test's own thread
            self.error = e


def test_reload_under_load(daemon):
    port = free_port()
    text = lambda graph: (HEAD + graph).replace("@PORT@", str(port))  # noqa: E731
    d = daemon(text(GRAPHS["plain"]), expect=["reload refused", "sluice.yaml:"])
    producer = d.worker("in")["pid"]
    feeder = Feeder(port)
    feeder.start()
    names = list(GRAPHS)
    bad = 0
    try:
        for n in range(1, RELOADS + 1):
            before = d.stats("out")["records_in"]
            keep = {(w["stage"], w["index"]): w["pid"] for w in d.workers()}
            if n % 5 == 0:
                d.write_config(text(BAD))
                p = d.sluicectl("reload")
                assert p.returncode == 1 and "nobody" in p.stdout + p.stderr
                bad += 1
                assert {(w["stage"], w["index"]): w["pid"] for w in d.workers()} == keep
            d.write_config(text(GRAPHS[names[n % len(names)]]))
            d.sluicectl("reload", deadline=4 * DEADLINE).check_returncode()
            if "beside" not in names[n % len(names)] and "beside" not in names[(n - 1) % len(names)]:
                assert d.worker("in")["pid"] == keep["in", 0], "an unchanged worker was replaced"
            assert d.worker("dead")["pid"] == keep["dead", 0]
            d.wait_for(lambda: d.stats("out")["records_in"] != before and not feeder.error or not feeder.is_alive(),
                       what="records to flow again")
    finally:
        feeder.enough.set()
        feeder.join()
    assert not feeder.error, feeder.error
    status = d.status()
    assert status["reloads"] == RELOADS and bad == RELOADS // 5
    wait_for(d.settled, 4 * DEADLINE, "everything to be delivered")
    assert producer
    with (d.dir / "out.ndjson").open("rb") as f:
        have = [json.loads(line)["id"] for line in f]
    print(f"{RELOADS} reloads and {bad} refused ones while {feeder.sent} acknowledged records flowed")
    assert len(have) == feeder.sent, f"{feeder.sent - len(have)} lost or doubled"
    assert sorted(have) == list(range(feeder.sent))


def test_a_removed_reader_that_is_stuck(daemon):
    """The edge to it cannot be emptied: the reload is refused, with the way out; --discard takes it, counted."""
    config = """
        arena: {size: 8MiB, buffer: 64KiB}
        daemon: {runtime_dir: @DIR@/run, stop_timeout: 1s}
        producers:
          gen: {type: generate, rate: 20000, record: {id: =seq}}
        consumers:
          out: {from: gen, type: file, path: @DIR@/out.ndjson, codec: json}
    """
    stuck = config + "      bad: {from: gen, type: file, path: /proc/nowhere/x, codec: json, quota: 4}\n"
    d = daemon(stuck, expect=["not reachable yet", "reload refused", "dropped [0-9]+ records"])
    wait_for(lambda: d.stage("gen")["state"] == "blocked", DEADLINE, "the dead output to hold the producer up")
    d.write_config(config)
    try:
        d.ctl("reload")
        raise AssertionError("it was not refused")
    except ControlError as e:
        assert "--discard gen->bad" in str(e)
    wait_for(lambda: d.stage("bad")["state"] == "unreachable", DEADLINE, "all to be as it was")
    for edge, why in (("gen->bat", "there is no such edge"), ("gen->out", "still has this edge")):
        with pytest.raises(ControlError, match=f"--discard {edge}: .*{why}"):
            d.ctl("reload", "--discard", edge)
    d.ctl("reload", "--discard", "gen->bad")
    before = d.stats("out")["records_in"]
    d.wait_for(lambda: d.stats("out")["records_in"] > before + 1000, what="the producer to go on")
    audit = wait_for(lambda: (a := d.audit())["balanced"] and a, DEADLINE, "the books")
    assert audit["dropped"] > 0


ENDED = {
    "plain": """
consumers:
  out: {from: in, type: file, path: @DIR@/out.ndjson, codec: json}
""",
    "a consumer added": """
consumers:
  out: {from: in, type: file, path: @DIR@/out.ndjson, codec: json}
  more: {from: in, type: file, path: @DIR@/more.ndjson, codec: json}
""",
    "a stage between": """
transformers:
  clean: {from: in, steps: [{set: {x: 1}}]}
consumers:
  out: {from: clean, type: file, path: @DIR@/out.ndjson, codec: json}
""",
}
ONCE = """
producers:
  in: {type: file, path: @PATH@, codec: json@MORE@}
  gen: {type: generate, rate: 100, record: {x: 1}}
"""
ASIDE = "  rest: {from: gen, type: 'null'}\n"


def once(graph, path="@DIR@/in.ndjson", more=""):
    return ONCE.replace("@PATH@", path).replace("@MORE@", more) + ENDED[graph] + ASIDE


def ids(path):
    return [r["id"] for r in ndjson(path)]


def reload_and_end(d, text):
    """Reloads, and waits until the producer and the consumer have come to their ends again."""
    d.write_config(text)
    d.sluicectl("reload").check_returncode()
    d.wait_for(lambda: at_end(d), what="the ends")


def at_end(d):
    """Both have ended, and nothing is on the way that would wake the consumer again."""
    return all(d.stage(s)["state"] == "ended" for s in ("in", "out")) and all(
        e["queued"] == 0 for e in d.status()["edges"] if e["name"].endswith("->out"))


def test_an_end_outlasts_reloads(daemon):
    """A producer that has read its file to the end does not read it again, whatever is changed around it: neither
    by reloads, nor by a restart of the stage. Only when its own options change it begins anew."""
    d = daemon(once("plain"), start=False)
    d.write("in.ndjson", "".join('{"id": %d}\n' % i for i in range(1000)))
    d.start()
    d.wait_for(lambda: d.stage("out")["state"] == "ended", what="the end")
    assert ids(d.dir / "out.ndjson") == list(range(1000))
    for graph in ("a consumer added", "plain", "a stage between", "plain"):
        reload_and_end(d, once(graph))
        assert ids(d.dir / "out.ndjson") == list(range(1000)), f"read again after: {graph}"
    reload_and_end(d, once("plain", more=", batch: {records: 7}, meta: true"))
    d.ctl("restart", "in")
    d.wait_for(lambda: d.stage("in")["state"] == "ended", what="the producer to be at its end")
    assert ids(d.dir / "out.ndjson") == list(range(1000)), "read again after a change of how it is run"
    d.write("in2.ndjson", '{"id": 5000}\n')
    reload_and_end(d, once("plain", path="@DIR@/in2.ndjson"))
    assert ids(d.dir / "out.ndjson") == [*range(1000), 5000], "another path is read"
    d.write("in3.ndjson", '{"id": 6000}\n')
    reload_and_end(d, once("plain", path='["@DIR@/in2.ndjson", "@DIR@/in3.ndjson"]'))
    assert ids(d.dir / "out.ndjson") == [*range(1000), 5000, 6000], "what was added is read, and only that"
    reload_and_end(d, once("plain", path='["@DIR@/in3.ndjson"]'))
    assert ids(d.dir / "out.ndjson") == [*range(1000), 5000, 6000], "what was left is not read again"
    reload_and_end(d, once("plain", path='["@DIR@/in3.ndjson"]', more=", read_buffer: 1MiB"))
    assert ids(d.dir / "out.ndjson") == [*range(1000), 5000, 6000, 6000], "with other options it begins anew"


def test_an_end_outlasts_a_new_start(daemon):
    """The same over a stop and a start with another graph, as long as the run as a whole had not ended."""
    head = "arena: {size: 16MiB, buffer: 64KiB, path: @DIR@/arena}\n"
    d = daemon(head + once("plain"), start=False, expect=["recovered [0-9]+ chunks"])
    d.write("in.ndjson", "".join('{"id": %d}\n' % i for i in range(1000)))
    d.start()
    d.wait_for(lambda: d.stage("out")["state"] == "ended", what="the end")
    for graph in ("a stage between", "a consumer added"):
        d.stop()
        d.write_config(head + once(graph))
        d.start()
        d.wait_for(lambda: at_end(d), what="the ends")
        assert ids(d.dir / "out.ndjson") == list(range(1000)), f"read again after a start with: {graph}"


GONE = """
arena: {size: 8MiB, buffer: 64KiB, path: @DIR@/arena}
producers:
  gen: {type: generate, rate: 20000, record: {id: =seq}}
consumers:
  out: {from: gen, type: file, path: @DIR@/out.ndjson, codec: json}
"""
STUCK = GONE + "  bad: {from: gen, type: 'null', quota: 4}\n"


def cut_off(daemon, kill):
    """A daemon that was ended in the middle of `reload --discard gen->bad`. Returns it, and how many records that
    edge had."""
    d = daemon(STUCK, expect=["dropped [0-9]+ records of edge gen->bad", "recovered [0-9]+ chunks",
                              "the arena holds [0-9]+ chunks of edge gen -> bad", "does not leave: killed"])
    d.ctl("pause", "bad")
    d.wait_for(lambda: d.stage("gen")["state"] == "blocked", what="the queue to be full")
    records = d.edge("gen->bad")["records"]
    os.kill(d.worker("gen")["pid"], signal.SIGSTOP)  # it cannot leave, so the reload cannot come to its end
    d.write_config(GONE)
    with d.connect() as s:
        s.sendall(b"reload --discard gen->bad\n")
        d.wait_for(lambda: d.stage("bad")["state"] == "stopped", what="the reload to be under way")
        if kill:
            d.kill_all()
        else:
            assert d.stop() == 0
    return d, records


def all_balanced(d):
    audit = wait_for(lambda: (a := d.audit())["balanced"] and a, what="the books")
    assert all(p["balanced"] for p in audit["pipelines"]), audit
    return audit


@pytest.mark.parametrize("kill", [True, False])
def test_ended_within_a_discard(daemon, kill):
    """The order to drop the edge outlasts the daemon: the next start with the new configuration carries it out."""
    d, records = cut_off(daemon, kill)
    d.start()
    assert all_balanced(d)["dropped"] == records
    before = d.stats("out")["records_in"]
    d.wait_for(lambda: d.stats("out")["records_in"] > before + 1000, what="the rest to go on")
    d.stop()
    d.start()
    assert all_balanced(d)["dropped"] == records, "counted once"


def test_a_discard_that_is_taken_back(daemon):
    """A start with the old configuration forgets the order: nothing is dropped, and the edge is kept from then on."""
    d, records = cut_off(daemon, kill=True)
    d.write_config(STUCK.replace("'null', quota", "file, path: /proc/nowhere/x, quota"))
    d.expect.append("not reachable yet")
    d.start()
    assert d.edge("gen->bad")["records"] >= records and all_balanced(d)["dropped"] == 0
    d.kill_all()
    d.write_config(GONE)
    assert d.start(wait=False).wait() == 1 and "the arena holds" in d.log()
    d.write_config(STUCK)
    d.start()
    d.wait_for(lambda: d.stats("bad")["records_in"] > records, what="the chunks to be delivered")
    assert all_balanced(d)["dropped"] == 0


def test_hangups_in_a_row(daemon):
    """A SIGHUP that comes while a reload is under way counts as well: the file as it is last is in force."""
    def config(n):
        return f"""
producers:
  g: {{type: generate, rate: 1000, record: {{a: 1}}}}
transformers:
  t: {{steps: [{{set: {{n: {n}}}}}]}}
consumers:
  out: {{type: 'null'}}
"""
    d = daemon(config(0))
    for n in range(1, 20):
        d.write_config(config(n))
        os.kill(d.pid, signal.SIGHUP)
    d.wait_for(lambda: {r["n"] for r in d.tap("t", 3)} == {19}, deadline=20, what="the last configuration")
