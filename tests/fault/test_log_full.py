"""
The log (arena.sync) when more has to be kept than it can carry forward: after a loss of power more may wait to be put
back than the ring has free, and a log that is older than the arena's size may be too small for it. Then it stands
still, says so, writes nothing, sleeps, and obeys; and it goes on by itself when there is room again.
"""

import json
import signal

from feed import Client
from oracle import Box, Wrong, check_ids, lines_ids, settled, until
from test_power import check_all_there, new_boot, start

LINES = 50

# one way through, in small chunks, for other files' tests too
SRC_TO_OUT = """
arena: {size: 1MiB, buffer: 16KiB, path: @/arena, sync: true, log_size: 8MiB}
state: {path: @/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: @/dead}
producers:
  src: {type: zmq, socket: router, listen: "ipc://@/src.zmq", codec: json, batch: {records: 50}}
consumers:
  out: {from: src, type: file, path: @/dir/out.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
"""


def lines(n):
    return b"".join(json.dumps({"id": i, "msg": "x" * 100}).encode() + b"\n" for i in range((n - 1) * LINES, n * LINES))


def ids(client):
    return set(range(client.count * LINES))


def client(box, name, count):
    c = Client(name, f"ipc://{box.dir}/{name}.zmq", count, lines)
    c.start()
    return c


def close(box, name):
    """An output that stands still: its directory is none."""
    d = box.path(name)
    for p in d.glob("*"):
        p.rename(box.path(f"kept.{p.name}"))
    d.rmdir()
    d.write_text("")


def open_again(box, name):
    box.path(name).unlink()
    box.path(name).mkdir()
    for p in box.dir.glob(f"kept.{name}.jsonl"):
        p.rename(box.path(name) / f"{name}.jsonl")


def carried(box):
    return box.passed()[0].get("log", {}).get("log_carried", 0)


def sleeps(box):
    return ((box.ask("stats") or {"stages": {}})["stages"].get("log") or {}).get("wakeups", 0)


def log_says(box):
    s = box.stages().get("log", {"state": "", "why": ""})
    return s["state"], s["why"]


def goes_to_sleep(box, times=8):
    """It sleeps again and again without carrying anything in between."""
    seen = []

    def quiet():
        now = carried(box), sleeps(box)
        if not seen or seen[0][0] != now[0]:
            seen[:] = [now]
        return now[1] >= seen[0][1] + times
    until(lambda: f"the log sleeps: {sleeps(box)} times, carried {carried(box)}; {log_says(box)}", quiet, deadline=20)


def all_acknowledged(box, clients):
    def done():
        for c in clients:
            if c.error:
                raise Wrong(f"{c.name}: {c.error}; log:\n{box.log()}")
        return all(c.acked == c.count for c in clients)
    until(lambda: f"all acknowledged: {[(c.name, c.acked, c.count) for c in clients]}; {box.stages()}; log:\n{box.log()}",
          done)


def all_delivered(box):
    return until(lambda: f"all delivered: {box.ask('audit')}; {box.stages()}; log:\n{box.log()}",
                 lambda: settled(b := box.ask("audit")) and b["balanced"] and b)


# ---- a log of before the arena was made larger ----

SMALL = """
arena: {size: %s, buffer: 16KiB, path: @/arena, sync: true, log_size: 1400KiB}
state: {path: @/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: @/dead}
producers:
  one: {type: zmq, socket: router, listen: "ipc://@/one.zmq", codec: json}
  two: {type: zmq, socket: router, listen: "ipc://@/two.zmq", codec: json}
transformers:
  tot: {from: two, steps: [{aggregate: {by: [msg], window: 100ms, compute: {n: count()}}}]}
consumers:
  stuck: {from: one, quota: 10, type: file, path: @/stuck/stuck.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
  sums: {from: tot, type: file, path: @/sums.jsonl, codec: json}
"""


def test_a_log_that_is_too_small():
    """It is full, and a step waits for what it made to be in the log: nobody runs round in circles."""
    box = Box()
    box.configure(SMALL % "256KiB")
    box.path("stuck").write_text("")
    with box:
        start(box)
        assert box.stop() == 0
        box.configure((SMALL % "4MiB").replace("log_size: 1400KiB", "log_size: 16MiB").replace(
            "quota: 10,", "quota: 100,"))
        start(box)
        clients = [client(box, "one", 400), client(box, "two", 2000)]
        clients[1].pause = 0.001
        until(lambda: f"the log is full: {log_says(box)}; {box.stages().get('tot')}; {[c.acked for c in clients]}",
              lambda: "is full" in log_says(box)[1] and "is in the log" in box.stages()["tot"]["why"])
        goes_to_sleep(box)
        assert "is full" in log_says(box)[1]
        assert box.stop() == 0
        start(box)
        until(lambda: f"it is full still: {log_says(box)}", lambda: "is full" in log_says(box)[1])
        goes_to_sleep(box)
        open_again(box, "stuck")
        all_acknowledged(box, clients)
        all_delivered(box)
        until("all sums", lambda: sum(json.loads(x)["n"] for x in box.path("sums.jsonl").read_text().splitlines()) ==
              clients[1].count * LINES)
        assert box.stop() == 0
        check_ids("the one that stood still", lines_ids(box.path("stuck/stuck.jsonl")), ids(clients[0]))


# ---- after a loss of power ----

WAITING = """
arena: {size: 256KiB, buffer: 16KiB, path: @/arena, sync: true, log_size: 3MiB}
state: {path: @/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: @/dead}
producers:
  a: {type: zmq, socket: router, listen: "ipc://@/a.zmq", codec: json}
  b: {type: zmq, socket: router, listen: "ipc://@/b.zmq", codec: json}
transformers:
  few: {from: a, steps: [{filter: "=id == 0"}]}
consumers:
  pin: {from: few, type: file, path: @/pin/pin.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
  out_a: {from: a, type: file, path: @/a/a.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
  out_b: {from: b, type: file, path: @/b/b.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
"""
AROUND = 300  # messages in which the log goes round about once


def lose_power(box):
    for pid in [box.pid, *box.children()]:
        box.signal(pid, signal.SIGKILL)
    box.process.wait()
    new_boot(box)


def full_of_what_was_delivered():
    """One record pins the tail, all others are delivered; the log's worker stops where it would carry for the first
    time. Then the power goes: all that the log holds comes again."""
    box = Box(WAITING, fault=f"log_carry:1:log:{int(signal.SIGSTOP)}")
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    for name in "ab":
        box.path(name).mkdir()
    box.path("pin").write_text("")
    new_boot(box)
    start(box)
    a = client(box, "a", 4 * AROUND)
    until(lambda: f"the log would carry: {a.acked}; {log_says(box)}", lambda: box.passed()[1][0] >= 1)
    lose_power(box)
    close(box, "a")
    return box, a


def all_in_the_end(box, clients):
    open_again(box, "a")
    open_again(box, "pin")
    all_acknowledged(box, clients)
    all_delivered(box)
    assert box.stop() == 0
    for x in clients:
        check_all_there(x.name, lines_ids(box.path(f"{x.name}/{x.name}.jsonl")), ids(x))
    assert set(lines_ids(box.path("pin/pin.jsonl"))) == {0}


def test_more_waits_than_there_is_room_for():
    box, a = full_of_what_was_delivered()
    with box:
        # an arena as large as this log allows: so much more has to be kept free for it
        box.configure(WAITING.replace("size: 256KiB", "size: 896KiB"))
        start(box)
        b = client(box, "b", AROUND)
        until(lambda: f"it is full: {log_says(box)}; b {b.acked}; carried {carried(box)}",
              lambda: b.error or "is full" in log_says(box)[1])
        goes_to_sleep(box)
        assert not b.error and b.acked < b.count
        assert "is full" in log_says(box)[1]
        assert box.stop() == 0, "it obeys"
        start(box)
        goes_to_sleep(box)
        all_in_the_end(box, [a, b])


def test_what_waits_is_carried():
    """There is room for what waits: then the others go on as long as they like."""
    box, a = full_of_what_was_delivered()
    with box:
        start(box)
        b = client(box, "b", 6 * AROUND)
        all_acknowledged(box, [b])
        assert a.acked < a.count
        assert carried(box) > 1, "nothing was carried: this has shown nothing"
        all_in_the_end(box, [a, b])
