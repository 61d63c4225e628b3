"""
The log (arena.sync) goes round while an output stands still: the others do not wait for it, and what stands still is
there in the end, whoever is killed and whenever the power goes meanwhile.
"""

import json
import signal

import pytest

import oracle
from feed import Client
from oracle import Box, check_ids, lines_ids, settled, until
from test_power import check_all_there, disk, lose_power, new_boot, start  # noqa: F401

CONFIG = """
arena: {size: 512KiB, buffer: 16KiB, path: %(home)s/arena, sync: true, log_size: 2MiB}
state: {path: %(home)s/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: %(home)s/dead}
producers:
  src: {type: zmq, socket: router, listen: "ipc://@/src", codec: json}
  other: {type: zmq, socket: router, listen: "ipc://@/other", codec: json}
transformers:
  clean: {from: src, workers: 2, steps: [{set: {up: "=upper(msg)"}}]}
consumers:
  stuck: {from: clean, type: file, path: @/dir/stuck.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
  out: {from: other, type: file, path: %(home)s/out.jsonl, codec: json}
"""
LINES = 50
RING = 2 << 20
AROUND = 600 if oracle.LONG else 250  # messages in which the log goes round about once


def lines(n):
    return b"".join(json.dumps({"id": i, "msg": "x" * 100}).encode() + b"\n" for i in range((n - 1) * LINES, n * LINES))


def ids(client):
    return set(range(client.count * LINES))


class Still:
    """A daemon with an output that stands still until it is mended, and one that works."""

    def __init__(self, home="@", rounds=5, fault=None):
        self.box = Box(CONFIG % {"home": home}, fault=fault)
        self.box.path("dir").write_text("")
        self.stuck = Client("stuck", f"ipc://{self.box.dir}/src", 400, lines)
        self.other = Client("other", f"ipc://{self.box.dir}/other", rounds * AROUND, lines)
        self.home = self.box.dir if home == "@" else home

    def __enter__(self):
        self.box.__enter__()
        return self

    def __exit__(self, *what):
        for c in (self.stuck, self.other):
            c.leave = True
        self.box.__exit__(*what)

    def feed(self):
        self.stuck.start()
        until(lambda: f"the output that stands still has all its room full: {self.box.stages()}",
              lambda: any(e["name"] == "log.src->clean" and e["full"]
                          for e in (self.box.ask("status") or {}).get("edges", [])))
        self.other.start()

    def progress(self):
        for c in (self.stuck, self.other):
            if c.error:
                raise oracle.Wrong(f"{c.error}; log:\n{self.box.log()}")
        return self.other.acked

    def others_go_on(self):
        until(lambda: f"the others go on: {self.other.acked} of {self.other.count}; "
                      f"{self.box.stages().get('log')}; log:\n{self.box.log()}",
              lambda: self.progress() == self.other.count)
        assert self.stuck.acked < self.stuck.count

    def mend(self):
        self.box.path("dir").unlink()
        self.box.path("dir").mkdir()
        until(lambda: f"all is acknowledged: {self.stuck.acked}; {self.box.stages()}; log:\n{self.box.log()}",
              lambda: self.progress() and self.stuck.acked == self.stuck.count)
        return until(lambda: f"all delivered: {self.box.ask('audit')}; {self.box.stages()}; log:\n{self.box.log()}",
                     lambda: settled(b := self.box.ask("audit")) and b["balanced"] and b)

    def ends(self):
        return lines_ids(self.box.path("dir/stuck.jsonl")), lines_ids(self.home / "out.jsonl")


def test_an_output_that_stands_still():
    with Still() as s:
        s.box.start()
        s.feed()
        s.others_go_on()
        assert "is full" not in s.box.stages()["log"]["why"]
        books = s.mend()
        assert books["received"] == len(ids(s.stuck)) + len(ids(s.other))
        assert s.box.stop() == 0
        stuck, out = s.ends()
        check_ids("the one that stood still", stuck, ids(s.stuck))
        check_ids("the other", out, ids(s.other))
        assert s.box.passed()[0]["log"]["log_carried"] > 0, "nothing was carried forward: this has shown nothing"


def test_one_record_and_a_filter():
    """One record stands still; the others of the same producer are filtered out: the arena has room, the log goes round."""
    config = (CONFIG % {"home": "@"}).replace('set: {up: "=upper(msg)"}', 'filter: "=id % 1000000000 == 0"')
    box = Box(config)
    box.path("dir").write_text("")
    client = Client("one", f"ipc://{box.dir}/src", 5 * AROUND, lines)
    with box:
        box.start()
        client.start()
        until(lambda: f"all acknowledged: {client.acked} {client.error}; {box.stages().get('log')}",
              lambda: client.error or client.acked == client.count)
        assert not client.error
        box.path("dir").unlink()
        box.path("dir").mkdir()
        until(lambda: f"delivered: {box.ask('audit')}",
              lambda: settled(b := box.ask("audit")) and b["balanced"] and b["received"] == client.count * LINES)
        assert box.stop() == 0
        check_ids("file", lines_ids(box.path("dir/stuck.jsonl")), {0})


def test_kills_while_it_stands_still():
    """The log's worker is killed again and again: each record once all the same."""
    with Still() as s:
        s.box.start()
        s.feed()
        for part in range(1, 9):
            until(lambda: f"{part} of 9: {s.other.acked}; {s.box.stages().get('log')}; log:\n{s.box.log()}",
                  lambda: s.progress() * 9 >= part * s.other.count)
            for w in s.box.workers("log"):
                s.box.signal(w["pid"], signal.SIGKILL)
        s.others_go_on()
        s.mend()
        assert s.box.stop() == 0
        stuck, out = s.ends()
        check_ids("the one that stood still", stuck, ids(s.stuck))
        check_ids("the other", out, ids(s.other))


@pytest.mark.parametrize("passage", [1, 3, 8] if oracle.LONG else [1, 3])
@pytest.mark.parametrize("point", ["log_carry", "log_carried", "log_trim", "log_written"])
def test_power_while_it_stands_still(disk, point, passage):  # noqa: F811
    """The power goes at this step; and once more, anywhere, when what was carried has come again."""
    passage += 2 * (point == "log_trim")  # the first is passed before the output has all its room full
    with Still(disk.at, fault=f"{point}:{passage if point != 'log_written' else 100 * passage}:log:{int(signal.SIGSTOP)}") as s:
        s.box.env["SLUICE_BOOT_ID"] = str(s.box.path("boot"))
        new_boot(s.box)
        start(s.box)
        s.feed()
        until(lambda: f"{point} is passed: {s.other.acked}; {s.box.passed()}; log:\n{s.box.log()}",
              lambda: s.progress() is not None and s.box.passed()[1][0] >= passage * (100 if point == "log_written" else 1))
        lose_power(s.box, disk)
        start(s.box)
        seen = s.other.acked
        until(lambda: f"the other goes on behind {seen}: {s.other.acked}; {s.box.stages()}; log:\n{s.box.log()}",
              lambda: s.progress() > min(seen + AROUND, s.other.count - 1))
        lose_power(s.box, disk)
        start(s.box)
        s.others_go_on()
        s.mend()
        assert s.box.stop() == 0
        stuck, out = s.ends()
        check_all_there("the one that stood still", stuck, ids(s.stuck))
        check_all_there("the other", out, ids(s.other))
