"""
A worker is gone, and a chunk of its is in a transaction whose end nobody knows: killed between the transaction's
preparation and its commit, or between its commit and the ledger's. Meanwhile the configuration changes, by a reload or
by a new start: the edge is dropped, or only taken away, or the stage has fewer workers. Whatever it is, the transaction
is settled in the end, the books hold, and no entry is kept.
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


# ---- a reload, while the database cannot be opened ----

ALIVE = BEFORE.replace("@/out.db", "@/disk/out.db").replace('"off"}', '"off", retry: {base: 50ms, max: 50ms}}')
ALIVE_STAYS = ALIVE.replace("from: [a, b]", "from: a") + "  rest: {from: b, type: 'null'}\n"


def append(box, name, ids):
    with open(box.path(name), "a") as f:
        f.writelines('{"id": %d}\n' % i for i in ids)


def unsettled(config, point, but=None):
    """A daemon whose consumer died in its second transaction, that of a chunk of `b`, and cannot come back: its database
    is out of reach. @but: number of a worker of it that is stopped meanwhile."""
    box = Box(config, fault=f"{point}:2:db")
    box.path("disk").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        box.path(name).write_text("")
    box.start()
    oracle.until("it to be up", lambda: box.stages().get("db", {}).get("state") == "idle")
    others = [w["pid"] for w in box.workers("db") if w["index"] == but]
    for pid in others:
        box.signal(pid, signal.SIGSTOP)
    append(box, "a.jsonl", [0])
    oracle.until(lambda: f"the first: {box.ask('audit')}", lambda: box.ask("audit")["delivered"] == 1)
    box.path("disk").rename(box.path("away"))
    append(box, "b.jsonl", range(1, 100))
    oracle.until(lambda: f"it to be out of reach: {box.stages()}",
                 lambda: any(w["state"] == "unreachable" for w in box.workers("db")))
    for pid in others:
        box.signal(pid, signal.SIGCONT)
    return box


def come_back(box):
    box.path("away").rename(box.path("disk"))


def reload(box, config, command="reload", deadline=oracle.DEADLINE):
    box.configure(config)
    answer = box.ask(command, timeout=deadline)
    assert answer and "error" not in answer, (answer, box.log())


def all_settled(box):
    books = oracle.until(lambda: f"all to be done: {box.ask('audit')}; {box.log()}",
                         lambda: pipelines_balanced(box) and settled(b := box.ask("audit")) and b, 20)
    oracle.until(lambda: f"no entry to be held: {box.held_entries()}", lambda: not box.held_entries())
    return books


@pytest.mark.parametrize("point", ["commit_prepared", "commit_transaction"])
def test_reload_drops_an_edge_with_an_open_transaction(point):
    """The consumer stays, without that edge; its transaction is settled when the database is there again."""
    with unsettled(ALIVE, point) as box:
        reload(box, ALIVE_STAYS, "reload --discard b->db")
        append(box, "b.jsonl", range(1000, 1100))
        oracle.until("the new reader to get what comes", lambda: box.ask("stats")["stages"]["rest"]["records_in"] == 100)
        come_back(box)
        books = all_settled(box)
        committed = point == "commit_transaction"
        assert books["received"] == 200 and books["dropped"] == (0 if committed else 99), books
        rows = table_ids(box.path("disk/out.db"))
        assert sorted(rows) == list(range(100 if committed else 1))
        append(box, "a.jsonl", [500])
        oracle.until("the consumer to go on", lambda: len(table_ids(box.path("disk/out.db"))) == len(rows) + 1)
        assert box.stop() == 0


def test_master_killed_after_such_a_reload():
    """The order to drop the edge outlasts it, as long as the transaction is open."""
    with unsettled(ALIVE, "commit_prepared") as box:
        reload(box, ALIVE_STAYS, "reload --discard b->db")
        workers = box.children()
        box.signal(box.pid, signal.SIGKILL)
        box.process.wait()
        assert workers
        box.start()
        oracle.until("it to be up", lambda: box.stages().get("db", {}).get("state") == "unreachable")
        come_back(box)
        books = all_settled(box)
        assert books["received"] == 100 and books["dropped"] == 99 and books["delivered"] == 1, books
        assert box.stop() == 0


@pytest.mark.parametrize("kill", [False, True])
def test_reload_takes_an_edge_away_with_an_open_transaction(kill):
    """Without an order to drop it: nothing is dropped. The reload waits for the transaction, or is refused."""
    with unsettled(ALIVE.replace("stop_timeout: 30s", "stop_timeout: 500ms"), "commit_transaction") as box:
        box.configure(ALIVE_STAYS.replace("stop_timeout: 30s", "stop_timeout: 500ms"))
        answer = box.ask("reload", timeout=oracle.DEADLINE)
        assert "b->db" in answer["error"], answer
        if kill:
            box.signal(box.pid, signal.SIGKILL)
            box.process.wait()
            box.start()  # with the new configuration: refused, for the edge holds a chunk
            oracle.until("the refusal", lambda: box.dead() == 1)
            box.configure(ALIVE)
            box.start()
        come_back(box)
        books = all_settled(box)
        assert books["received"] == books["delivered"] == 100 and books["dropped"] == 0, books
        reload(box, ALIVE_STAYS)
        assert box.stop() == 0


@pytest.mark.parametrize("how", ["reload", "start"])
def test_fewer_workers_with_an_open_transaction(how):
    """The worker that is one too many settles what it left before its place is given up."""
    two = ALIVE.replace("type: sqlite,", "type: sqlite, workers: 2,")
    with unsettled(two, "commit_prepared", but=0) as box:
        one = two.replace("workers: 2", "workers: 1")
        if how == "reload":
            reload(box, one)
        else:
            box.signal(box.pid, signal.SIGKILL)
            box.process.wait()
            box.configure(one)
            box.start()
            oracle.until("it to be up", lambda: box.stages().get("db", {}).get("state") == "unreachable")
        come_back(box)
        books = all_settled(box)
        assert books["received"] == books["delivered"] == 100, books
        assert sorted(table_ids(box.path("disk/out.db"))) == list(range(100))
        oracle.until("one worker to be left", lambda: len(box.workers("db")) == 1)
        assert box.stop() == 0
