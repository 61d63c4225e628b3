"""
A stray write: some worker overwrites bytes of a chunk that is on its way, while the daemon runs.

Whoever claims that chunk must not die on it for ever: it is set aside, counted and told, once, and everything else
goes on. What of it was committed before stays; the books hold at every moment, and over a new start.
"""

import os
import pathlib
import struct
import sys

import msgpack
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from box import Daemon, finish, ndjson, wait_for  # noqa: E402
del sys.path[0]  # its other modules are not meant for the tests here

N = 20000
TOLD = [r"cannot go on: chunk \d+ cannot be read at record \d+", r"worker \w+\[\d\] \(pid \d+\): chunk \d+ cannot be",
        r"chunk \d+ \(\d+ records\) is torn or corrupt: set aside", r"recovered \d+ chunks",
        r"the bytes of chunk \d+ are in .*/aside\.\d+$"]
QUEUED, CLAIMED, ASIDE = 2, 3, 4


@pytest.fixture
def daemon():
    made = []

    def make(config):
        made.append(Daemon(config, expect=TOLD))
        return made[-1]

    yield make
    problems = [p for d in made for p in finish(d)]
    assert not problems, "\n".join(problems)


class Arena:
    """The arena of a running daemon, seen and written from outside."""

    def __init__(self, d):
        path = d.dir / "arena"
        if not path.exists():
            fds = pathlib.Path(f"/proc/{d.pid}/fd")
            path = next(p for p in fds.iterdir() if "memfd:sluice-arena" in os.readlink(p))
        self.file = open(path, "r+b", buffering=0)
        self.entries, = self.at("=I", 16)
        self.stride, = self.at("=Q", 40)
        self.words_at, _, self.facts_at, self.buffers_at = self.at("=4Q", 56)

    def at(self, form, offset):
        self.file.seek(offset)
        return struct.unpack(form, self.file.read(struct.calcsize(form)))

    def chunks(self, state):
        words = self.at(f"={self.entries}Q", self.words_at)
        return [i for i, w in enumerate(words) if w & 15 == state]

    def facts(self, i):
        """records, bytes, reached_record, reached_byte"""
        return self.at("=4I", self.facts_at + 128 * i)

    def records(self, i):
        """What is left of it."""
        _, size, _, reached = self.facts(i)
        self.file.seek(self.buffers_at + self.stride * i)
        unpacker = msgpack.Unpacker()
        unpacker.feed(self.file.read(size)[reached:])
        return list(unpacker)

    def bytes(self, i):
        size = self.facts(i)[1]
        self.file.seek(self.buffers_at + self.stride * i)
        return self.file.read(size)

    def overwrite(self, i, what, share):
        _, size, _, reached = self.facts(i)
        self.file.seek(self.buffers_at + self.stride * i + reached + int((size - reached) * share))
        self.file.write(what)


CONFIG = """
arena: {size: 4MiB, buffer: 64KiB%s}
producers:
  in: {type: file, path: @DIR@/in.ndjson, codec: json, follow: true, batch: {records: 500}}
"""
STAGES = {
    "transformer": """
transformers:
  hurt: {workers: 2, max_attempts: %d, steps: [{set: {x: 1}}]}
consumers:
  out: {type: file, path: @DIR@/out.ndjson, codec: json}
""",
    "consumer": """
consumers:
  hurt: {type: file, max_attempts: %d, path: @DIR@/out.ndjson, codec: json}
""",
}
# no msgpack; many small records; a record beyond the buffer; no map
STRAY = [b"\xc1" * 40, b"\0" * 200, b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("attempts", [1, 3])
def test_overwritten_chunks_are_set_aside(daemon, stage, where, attempts):
    path = ", path: @DIR@/arena" if where == "file" else ""
    d = daemon(CONFIG % path + STAGES[stage] % attempts)
    d.write("in.ndjson", "")
    d.start()
    d.ctl("pause", "hurt")
    d.wait_for(lambda: d.stage("hurt")["state"] == "paused", what="the pause")
    d.write("in.ndjson", "".join('{"id": %d}\n' % i for i in range(N)))
    d.wait_for(lambda: d.edge("in->hurt")["full"] or d.audit()["received"] == N, what="a queue")
    a = Arena(d)
    queue = a.chunks(QUEUED)
    assert len(queue) > 8
    lost, damaged = set(), queue[1:2 * len(STRAY):2]
    for i, stray in zip(damaged, STRAY):
        lost |= {r["id"] for r in a.records(i)}
        a.overwrite(i, stray, 0.6)
    kept = {a.bytes(i) for i in damaged}
    d.ctl("resume", "hurt")
    d.wait_for(lambda: (b := d.audit())["received"] == N and b["in_flight"] == 0 and b["balanced"], what="the rest")
    audit = d.audit()
    assert audit["aside"] == len(lost) and audit["dead"] == 0, audit
    assert all(p["balanced"] for p in audit["pipelines"]), audit
    got = [r["id"] for r in ndjson(d.dir / "out.ndjson")]
    assert sorted(got) == sorted(set(range(N)) - lost)
    d.wait_for(lambda: not a.chunks(ASIDE), what="their room to be given back")
    assert {p.read_bytes() for p in (d.dir / "dead").glob("aside.*")} == kept, "their bytes are kept"
    again = d.audit()
    assert again["balanced"] and again["aside"] == len(lost) and again["dropped"] == 0, again
    assert all(p["balanced"] for p in again["pipelines"]), again
    told = [line for line in d.log().splitlines() if "set aside" in line]  # once each
    assert len(told) == len(STRAY), told
    assert d.status()["aside"] == len(STRAY)
    assert f"{len(STRAY)} chunks are set aside" in d.sluicectl("status").stdout


PARTS = """
arena: {size: 4MiB, buffer: 64KiB, path: @DIR@/arena}
producers:
  in: {type: file, path: @DIR@/in.ndjson, codec: json}
transformers:
  hurt: {steps: [{explode: {field: items}}]}
consumers:
  out: {type: file, path: @DIR@/out.ndjson, codec: json, quota: 1}
"""


def test_the_part_that_was_committed_stays(daemon):
    """The rest of a chunk is overwritten while it is worked on: some of its records have gone on already."""
    d = daemon(PARTS)
    d.write("in.ndjson", "".join('{"id": %d, "items": [%s]}\n' % (i, ", ".join(str(k) for k in range(100)))
                                 for i in range(2000)))
    d.start(wait=False)
    d.wait_for(d.status, what="an answer")
    d.ctl("pause", "out")
    d.wait_for(lambda: d.stage("out")["state"] == "paused" and d.stage("hurt")["state"] == "blocked", what="a jam")
    a = Arena(d)
    entry, = a.chunks(CLAIMED)
    records, _, reached, _ = a.facts(entry)
    assert 0 < reached < records - 1, "a part of it was committed"
    a.overwrite(entry, b"\xc1" * 100, 0.7)
    d.ctl("resume", "out")
    d.wait_for(lambda: (b := d.audit())["received"] == 2000 and b["in_flight"] == 0, what="the rest")
    audit = d.audit()
    got = [(r["id"], r["items"]) for r in ndjson(d.dir / "out.ndjson")]
    seen = set(got)
    assert len(got) == len(seen), "nothing comes twice"
    assert audit["balanced"] and audit["delivered"] == len(got) and 0 < audit["aside"] < records - reached + 1, audit
    whole = {i for i in range(2000) if {(i, k) for k in range(100)} <= seen}
    assert len(whole) in (2000 - audit["aside"], 2000 - audit["aside"] - 1), "one may have been in hand"
    d.stop()
    d.start()
    again = d.audit()
    assert again["balanced"] and again["aside"] == audit["aside"], "and so after a new start"
    wait_for(lambda: d.stage("out")["state"] != "starting", what="it to be up")


NARROW = """
arena: {size: 320KiB, buffer: 64KiB%s}
producers:
  in: {type: file, path: @DIR@/in.ndjson, codec: json, follow: true, batch: {records: 50}}
transformers:
  mid: {steps: [{set: {x: 1}}], quota: 5}
consumers:
  out: {type: file, path: @DIR@/out.ndjson, codec: json}
dead_letters: {path: @DIR@/%s}
"""


def append(d, ids):
    with open(d.dir / "in.ndjson", "a") as f:
        f.writelines('{"id": %d}\n' % i for i in ids)


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("dead", ["dead", "full"])
def test_an_edge_loses_its_own_entry(daemon, where, dead):
    """The chunk lies in the entry that its edge owns, and all others are taken by those who wait for that edge: its
    room has to come back, also when its bytes cannot be saved."""
    d = daemon(NARROW % (", path: @DIR@/arena" if where == "file" else "", dead))
    d.expect.append(r"the bytes of chunk \d+ cannot be saved to .*: Is a directory")
    if dead == "full":
        for i in range(32):
            (d.dir / dead / f"aside.{i}" / "x").mkdir(parents=True)
    d.write("in.ndjson", "")
    d.start()
    a = Arena(d)
    d.ctl("pause", "out")
    d.wait_for(lambda: d.stage("out")["state"] == "paused", what="the pause")
    append(d, range(50))
    d.wait_for(lambda: d.edge("mid->out")["records"] == 50, what="the chunk")
    entry, = a.chunks(QUEUED)
    a.overwrite(entry, b"\xc1" * 40, 0.5)
    d.ctl("pause", "mid")
    d.wait_for(lambda: d.stage("mid")["state"] == "paused", what="the pause")
    append(d, range(50, 2000))
    d.wait_for(lambda: d.stage("in")["state"] == "blocked", what="all room to be taken")
    d.ctl("resume", "out")
    d.ctl("resume", "mid")
    d.wait_for(lambda: (b := d.audit())["delivered"] == 1950 and b, what="the others")
    audit = d.audit()
    assert audit["balanced"] and audit["aside"] == 50 and audit["in_flight"] == 0, audit
    assert [r["id"] for r in ndjson(d.dir / "out.ndjson")] == list(range(50, 2000))
    d.wait_for(lambda: not a.chunks(ASIDE), what="its room to be given back")
