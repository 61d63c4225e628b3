"""
An edge that is to be dropped while a chunk of it is in a transaction whose end nobody knows: the master and the
consumer were killed between the transaction's preparation and its commit, or between its commit and the ledger's.
The next start has the order to drop the edge; the consumer is still there, or is gone with its edge.
"""

import signal

import pytest

import oracle
from oracle import HEAD, Box, Wrong, settled, table_ids

N = 10000
BEFORE = HEAD % dict(arena="4MiB", buffer="16KiB") + """
producers:
  a: {type: file, path: @/a.jsonl, codec: json, follow: true}
  b: {type: file, path: @/b.jsonl, codec: json, follow: true}
consumers:
  db: {from: [a, b], type: sqlite, path: @/out.db, table: t, synchronous: "off"}
"""
STAYS = BEFORE.replace("from: [a, b]", "from: a") + "  rest: {from: b, type: 'null'}\n"
GONE = BEFORE.replace("db: {from: [a, b], type: sqlite, path: @/out.db, table: t, synchronous: \"off\"}",
                      "rest: {from: [a, b], type: 'null'}")


def order_discard(box, origin, to):
    """As a reload does it before anything else: the mark stands in the arena's own line of the edge."""
    names = origin.encode().ljust(128, b"\0") + to.encode().ljust(64, b"\0")
    with open(box.path("arena"), "r+b") as f:
        at = f.read(1 << 20).find(names)
        assert at > 0
        f.seek(at + len(names) + 8)
        f.write(b"\1\0\0\0")


def pipelines_balanced(box):
    books = box.ask("audit")
    return books and books["balanced"] and all(p["balanced"] for p in books["pipelines"])


@pytest.mark.parametrize("point", ["commit_prepared", "commit_transaction"])
@pytest.mark.parametrize("after", [STAYS, GONE], ids=["stays", "gone"])
def test_dropped_with_an_open_transaction(point, after):
    with Box(BEFORE, fault=f"{point}:2:db,reap:1:master") as box:
        box.path("a.jsonl").write_text("")
        with open(box.path("b.jsonl"), "w") as f:
            f.writelines('{"id": %d}\n' % i for i in range(N))
        box.start()
        oracle.until("the master to be killed when it reaps", lambda: box.dead() == -signal.SIGKILL)
        delivered = len(table_ids(box.path("out.db")))
        order_discard(box, "b", "db")
        box.env.pop("SLUICE_FAULT")
        box.configure(after)
        box.start()
        books = oracle.until(lambda: f"all to be done: {box.ask('audit')}; {box.log()}",
                             lambda: pipelines_balanced(box) and settled(b := box.ask("audit")) and
                             b["received"] >= N and b)
        oracle.until(lambda: f"no entry to be held: {box.held_entries()}", lambda: not box.held_entries())
        if not books["dropped"]:
            raise Wrong(f"nothing was dropped: {books}")
        rows = table_ids(box.path("out.db"))
        assert len(rows) == len(set(rows)) == delivered, "the transaction is what it was"
        if after is STAYS:
            rest = box.ask("stats")["stages"]["rest"]["records_in"]
            assert len(rows) + rest + books["dropped"] == books["received"] == N, books
        assert box.stop() == 0
