"""
Drains: what is in flight comes to its end, and only `--flush` passes an end on.
"""

import json
import signal
import sqlite3

import pytest

CONFIG = """
arena: {size: 8MiB, buffer: 64KiB}
producers:
  in: {type: zmq, listen: "ipc://@DIR@/in", socket: router, codec: json}
transformers:
  grouped:
    from: in
    steps: [aggregate: {by: k, compute: {n: count(), v: sum(v)}}]
consumers:
  out: {from: grouped, type: sqlite, path: @DIR@/out.db, table: t}
"""


def send(d, first, n):
    records = "".join(json.dumps({"k": i % 7, "v": i}) + "\n" for i in range(first, first + n))
    p = d.sluicectl("send", "--quiet", "--to", f"ipc://{d.dir}/in", "--codec", "json", "--ack", input=records)
    assert p.returncode == 0, p.stderr


def rows(d):
    try:
        with sqlite3.connect(d.dir / "out.db") as db:
            return sorted(db.execute("SELECT k, n, v FROM t"))
    except sqlite3.OperationalError:
        return []


def expected(n):
    return sorted((k, len(range(k, n, 7)), sum(range(k, n, 7))) for k in range(7))


def absorbed(d, n):
    d.wait_for(lambda: d.audit()["absorbed"] == n and d.audit()["in_flight"] == 0, what="all to be absorbed")


def all_ended(d):
    return all(s["state"] == "ended" or s["builtin"] or s["kind"] == "producer" for s in d.status()["stages"])


def test_flush_finishes_everything(daemon):
    d = daemon(CONFIG, expect=["reload refused, the old configuration stays: everything is being finished"])
    send(d, 0, 10000)
    d.ctl("drain", "--flush")
    d.wait_for(lambda: all_ended(d), what="all stages to end")
    assert rows(d) == expected(10000)
    assert d.audit()["balanced"]
    for refused in ["restart in", "restart grouped", "scale in 1", "reload"]:
        p = d.sluicectl(*refused.split())
        assert p.returncode == 1 and "finish" in p.stderr + p.stdout, (refused, p)


def test_plain_drain_keeps_groups(daemon):
    d = daemon(CONFIG)
    send(d, 0, 1000)
    d.ctl("drain")
    d.wait_for(lambda: d.stage("in")["state"] == "stopped", what="the producer to stop")
    absorbed(d, 1000)
    assert rows(d) == []
    assert d.status()["drained"]
    # intake again, then the end: the groups hold both parts
    d.ctl("restart", "in")
    send(d, 1000, 500)
    absorbed(d, 1500)
    d.ctl("drain", "--flush")
    d.wait_for(lambda: all_ended(d), what="all stages to end")
    assert rows(d) == expected(1500)


def test_flush_ends_until_done(daemon):
    d = daemon(CONFIG, args=["--until-done"])
    send(d, 0, 500)
    d.ctl("drain", "--flush")
    assert d.wait() == 0
    assert rows(d) == expected(500)


def test_flush_survives_a_death(daemon):
    """The stage that is to flush stands still and dies: its successor flushes, once."""
    d = daemon(CONFIG)
    d.expect = [r"Killed"]
    send(d, 0, 2000)
    absorbed(d, 2000)
    d.kill("grouped", sig=signal.SIGSTOP)
    d.ctl("drain", "--flush")
    d.wait_for(lambda: d.stage("in")["state"] == "stopped", what="the producer to stop")
    d.kill("grouped")
    d.wait_for(lambda: all_ended(d), what="all stages to end")
    assert rows(d) == expected(2000)


@pytest.mark.parametrize("words", ["drain --now", "drain --flush --flush"])
def test_wrong_words(daemon, words):
    d = daemon(CONFIG)
    assert d.sluicectl(*words.split()).returncode in (1, 2)
    assert not d.status()["drained"]
