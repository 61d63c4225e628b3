"""
A stray write with arena.sync: a chunk that stands somewhere in the arena is overwritten while the log is there. It is
lost, counted and told; the log does not stop for it, and no other chunk is lost with it.
"""

import json
import time
import signal

import pytest

from feed import Client
from oracle import Box, lines_ids, until
from test_log_full import SMALL, SRC_TO_OUT, all_acknowledged, all_delivered, carried, lines, lose_power, open_again
from test_log_ring import Still, ids
from test_power import new_boot, start
from test_stray_write import Arena

FILLING, QUEUED, CLAIMED = 1, 2, 3
STRAY = b"\xc1" * 200  # no msgpack; more than a record, so that no string holds it


def standing(box, state, edge):
    """The arena, and its chunks in that state on that edge."""
    a = Arena(box)
    header, = a.at("65536s", 0)
    at = {}
    for e in box.ask("status")["edges"]:
        source, to = e["name"].encode().split(b"->")
        at[e["name"]] = header.index(source.ljust(128, b"\0") + to.ljust(64, b"\0"))
    number = (at[edge] - min(at.values())) // 256  # they are numbered from 0 on
    words = a.at(f"={a.entries}Q", a.words_at)
    return a, [i for i, w in enumerate(words) if w & 15 == state and w >> 4 & 0xfff == number]


def hurt(box, state, edge, share=0.7):
    """Overwrites a chunk there; returns the ids that are in it."""
    a, found = standing(box, state, edge)
    assert found, f"nothing on {edge}"
    lost = {r["id"] for r in a.records(found[0])}
    a.overwrite(found[0], STRAY, share)
    return lost


@pytest.mark.parametrize("state, edge", [(QUEUED, "clean->stuck"), (QUEUED, "log.src->clean"),
                                         (CLAIMED, "log.src->clean")])
def test_what_stands_still(state, edge):
    """The log goes round all the same."""
    with Still() as s:
        s.box.start()
        s.feed()
        lost = hurt(s.box, state, edge)
        s.others_go_on()
        assert carried(s.box), "nothing was carried forward: this has shown nothing"
        if state == QUEUED:
            assert s.box.ask("audit")["aside"] == len(lost)
        books = s.mend()
        assert 0 < books["aside"] <= len(lost)
        assert s.box.stop() == 0
        stuck, out = s.ends()
        assert len(stuck) == len(set(stuck)) and set(out) == ids(s.other)
        assert ids(s.stuck) - lost <= set(stuck) <= ids(s.stuck)
        assert len(ids(s.stuck)) - len(stuck) == books["aside"]


def test_on_its_way_to_the_log():
    """What is written with it, and behind it, is in the log when the power goes, before any checkpoint."""
    box = Box(SRC_TO_OUT, fault=f"log_trim:1:log:{int(signal.SIGSTOP)}")
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    box.path("dir").write_text("")
    new_boot(box)
    client = Client("one", f"ipc://{box.dir}/src.zmq", 10, lines)
    with box:
        start(box)
        box.ask("pause log")
        until("the pause", lambda: box.stages()["log"]["state"] == "paused")
        client.start()
        until(lambda: f"they wait for the log: {box.ask('audit')}",
              lambda: (box.ask("audit") or {}).get("in_flight", 0) >= 6 * 50)
        a, found = standing(box, QUEUED, "src->log")
        found = sorted((i for i in found if a.records(i)), key=lambda i: a.records(i)[0]["id"])
        lost = {r["id"] for r in a.records(found[2])}
        a.overwrite(found[2], STRAY, 0.7)
        box.ask("resume log")
        until(lambda: f"acknowledged: {client.acked}; {box.stages()}; log:\n{box.log()}", lambda: client.acked >= 6)
        lose_power(box)
        open_again(box, "dir")
        start(box)
        all_acknowledged(box, [client])
        out = box.path("dir/out.jsonl")
        wanted = set(range(client.count * 50)) - lost
        until(lambda: f"all there: {len(set(lines_ids(out)))} of {len(wanted)}; {box.stages()}",
              lambda: out.exists() and len(out.read_bytes().splitlines()) >= len(wanted))
        all_delivered(box)
        assert box.stop() == 0
        assert set(lines_ids(out)) == wanted
        assert "is torn or corrupt: set aside" in box.path("log").read_text()


def test_before_its_commit():
    """What a step waits for to be in the log: it is made once more."""
    box = Box()
    box.configure((SMALL % "1MiB").replace("window: 100ms", "window: 1s").replace("log_size: 1400KiB", "log_size: 8MiB"))
    box.path("stuck").mkdir()
    with box:
        start(box)
        # on a slow machine the window may end before the log is paused: then the next one is tried
        waits = lambda: "is in the log" in box.stages()["tot"]["why"]
        for n in range(1, 20):
            client = Client(f"two {n}", f"ipc://{box.dir}/two.zmq", 20, lines)
            client.start()
            until(lambda: f"absorbed: {box.ask('audit')}", lambda: (box.ask("audit") or {}).get("absorbed") == n * 20 * 50)
            box.ask("pause log")
            end = time.monotonic() + 3  # two windows and more
            while not waits() and time.monotonic() < end:
                time.sleep(0.02)
            if waits():
                break
            box.ask("resume log")
        assert waits(), box.stages()
        a, found = standing(box, FILLING, "tot->sums")
        before, = (w["pid"] for w in box.workers("tot"))
        a.overwrite(found[0], STRAY, 0.3)
        until(lambda: f"it is replaced: {box.stages()}", lambda: [w["pid"] for w in box.workers("tot")] not in ([], [before]))
        box.ask("resume log")
        sums = box.path("sums.jsonl")
        until(lambda: f"the sums: {box.stages()}; log:\n{box.log()}", lambda: sums.exists() and sums.read_text().count("\n"))
        all_delivered(box)
        assert box.stop() == 0
        assert sum(json.loads(x)["n"] for x in sums.read_text().splitlines()) == n * 20 * 50
