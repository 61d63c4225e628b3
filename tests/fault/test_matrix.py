"""
A kill at every step of the protocol, in every role, and at every step of the recovery from such kills.

The short form kills once at each point each role passes (some hundred kills); SLUICE_TORTURE=1 at up to nine
passages of each.
"""

import json

import pytest

import matrix
import oracle
from matrix import Scenario, run_all
from oracle import HEAD, Job, Wrong, settled
from feed import Client


class Acknowledged(Job):
    """The input comes from a client that wants acknowledgements; one hundred lines a message."""

    GRAPH = """
producers:
  src: {type: zmq, socket: router, listen: "ipc://@/in", codec: json}
transformers:
  clean:
    workers: 2
    steps:
      - convert: {n: int}
      - filter: {level: {not: d}}
      - set: {up: "=upper(msg)"}
consumers:
  out: {from: clean, type: file, path: @/out.jsonl, codec: json}
  db: {from: clean, type: sqlite, path: @/out.db, table: t, synchronous: "off"}
"""

    def __init__(self):
        super().__init__()
        self.config = HEAD % dict(arena="4MiB", buffer="16KiB") + self.GRAPH

    def box(self, fault=None, **more):
        box = super().box(fault, **more)
        lines = box.path("in.jsonl").read_bytes().splitlines(keepends=True)
        box.client = Client("one", f"ipc://{box.dir}/in", len(lines) // 100,
                            lambda i: b"".join(lines[(i - 1) * 100:i * 100]))
        box.client.start()
        return box

    def ready(self, box, stages=()):
        if box.client.error:
            raise Wrong(f"client: {box.client.error}")
        if box.client.acked < box.client.count:
            return None
        books = box.ask("audit")  # behind the look at the client: what it was told of is in the books
        return books if settled(books) else None

    def check_totals(self, box):
        pass

    def check_books(self, b):
        super().check_books(dict(b, delivered=b["delivered"] + 3, absorbed=len(self.good)))


class Durable(Job):
    """With the log between producer and transformer."""

    def __init__(self, n):
        super().__init__(n)
        self.config = self.config.replace("path: @/arena}", "path: @/arena, sync: true, log_size: 12MiB}")


class StandsStill(Durable):
    """Beside it an output that stands still until all the rest is done: the log goes round a few times before it."""

    FEW = 20
    STUCK = """
  few: {type: file, path: @/few.jsonl, codec: json}
transformers:
"""

    def __init__(self, n):
        super().__init__(n)
        self.config = self.config.replace("size: 4MiB", "size: 512KiB").replace("12MiB", "2MiB").replace("\ntransformers:\n", self.STUCK, 1)
        self.config = self.config.replace("  clean:\n", "  clean:\n    from: src\n", 1)
        self.config += "  stuck: {type: file, path: @/dir/stuck.jsonl, codec: json, from: few, retry: {base: 10ms, max: 20ms}}\n"

    def box(self, fault=None, **more):
        box = super().box(fault, **more)
        lines = box.path("in.jsonl").read_text().splitlines()
        box.path("in.jsonl").write_text("".join(x[:-1] + ', "pad": "%s"}\n' % ("x" * 900) if x.endswith("}") else x + "\n"
                                                for x in lines))
        box.path("few.jsonl").write_text("".join(json.dumps({"id": i}) + "\n" for i in range(self.FEW)))
        box.path("dir").write_text("")
        return box

    def ready(self, box, stages=("src", "few", "clean", "tot", "out", "db", "totals")):
        if not box.path("dir").is_dir():
            found = box.stages()
            if found and all(found[s]["state"] == "ended" for s in stages):
                box.path("dir").unlink()
                box.path("dir").mkdir()
            return None
        return super().ready(box, (*stages, "stuck"))

    def check_stuck(self, box):
        got = oracle.lines_ids(box.path("dir/stuck.jsonl"))
        if set(got) != set(range(self.FEW)):
            raise Wrong(f"the one that stood still: {sorted(got)}")
        return len(got)

    def check(self, box, books):
        super().check(box, books)
        if self.check_stuck(box) != self.FEW:
            raise Wrong("the one that stood still: repeats")

    def check_books(self, b):
        super().check_books(dict(b, received=b["received"] - self.FEW, delivered=b["delivered"] - self.FEW))


EXTRA = "  extra: {from: clean, type: 'null'}\n"
# every record grows, and there are so few buffers that units end wherever room does
GROW = "      - set: {a: \"=msg .. msg .. msg\", b: \"=msg .. msg .. msg\"}\n"


def by_master(role, point):
    return role == "master"


def recovery(role, point):
    return point.startswith(("repair", "settle", "retire")) or role == "master"


SCENARIOS = [
    Scenario("plain"),
    Scenario("tight", Job(6000, arena="512KiB", buffer="16KiB", steps=GROW),
             only=lambda role, point: point in ("drop_free", "apply_advance", "unclaim", "acquire_take")),
    Scenario("acknowledged", Acknowledged(), only=lambda role, point: role == "src"),
    # the master repairs a worker that died before, within and after its commit
    Scenario("undo transformer", base="apply_publish:9:clean,commit_intent:25:clean", only=by_master),
    Scenario("redo transformer", base="commit_done:9:clean", only=by_master),
    Scenario("redo producer", base="commit_done:5:src", only=by_master),
    Scenario("undo consumer", base="delivered:5:out", only=by_master),
    Scenario("redo consumer", base="apply_input:5:out", only=by_master),
    # a successor settles what its predecessor had prepared
    Scenario("sqlite not committed", base="commit_prepared:5:db", only=recovery),
    Scenario("sqlite committed", base="commit_transaction:5:db", only=recovery),
    Scenario("state not committed", base="commit_prepared:2:tot", only=recovery),
    Scenario("state committed", base="commit_transaction:2:tot", only=recovery),
    # a record that kills is marked
    Scenario("poison", Job(6000, steps="      - crash: {}\n", poison={1234: "segv"}), only=by_master),
    Scenario("retire", Job(6000, more=EXTRA), only=by_master, run=matrix.reload_drops_stage),
    Scenario("reload", Job(6000), only=by_master, run=matrix.reload_adds_stages, every=True),
    Scenario("discard", Job(20000, arena="1MiB", buffer="32KiB", more=EXTRA), only=by_master, run=matrix.discard,
             every=True),
    Scenario("durable", Durable(6000), only=lambda role, point: role == "log" or point.startswith("log_")),
    Scenario("power lost", Durable(6000), run=matrix.lose_power,
             only=lambda role, point: role == "log" or point == "log_rebuild"),
    Scenario("one stands still", StandsStill(6000), only=lambda role, point: role == "log" and point.startswith("log_")),
    Scenario("power lost, one stands still", StandsStill(6000), run=matrix.lose_power_there,
             only=lambda role, point: role == "log" and point.startswith("log_")),
    Scenario("new geometry", Job(300000), only=by_master, run=matrix.new_geometry),
]

hit = {}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name.replace(" ", "-"))
def test_kill_at_every_step(scenario, capsys):
    def say(text):
        with capsys.disabled():
            print("  " + text, flush=True)
    hit[scenario.name], failures = run_all(scenario, say)
    assert not failures, f"{len(failures)} failed:\n" + "\n".join(failures[:20])


def test_every_point_is_in_the_matrix():
    if len(hit) < len(SCENARIOS):
        pytest.skip("not all scenarios were run")
    missing = set(oracle.points()) - set().union(*hit.values())
    assert not missing, f"points that nothing passed: {sorted(missing)}"
