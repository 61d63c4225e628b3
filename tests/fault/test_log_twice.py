"""
Entries that stand in the log twice, when the power goes: the first of them counts, whoever is killed while they are put
back; and copies of which the last did not get written are not in the way of those that are made anew.
"""

import json
import signal

from feed import Client
from oracle import Box, check_ids, lines_ids, until
from test_log_full import SRC_TO_OUT, all_acknowledged, all_delivered, carried, client, lines, lose_power, open_again
from test_power import check_all_there, new_boot, start

COUNT = 7


def paused(box, stage):
    box.ask(f"pause {stage}")
    until(lambda: f"the pause: {box.stages()}", lambda: box.stages()[stage]["state"] == "paused")


def fault_from_now(box, fault):
    """For the next start."""
    box.path("passed").unlink()
    box.env["SLUICE_FAULT"] = fault


def test_killed_while_they_are_put_back():
    """
    The log's worker is killed when chunks are on the disk and nobody was told, so they are written once more. The power
    goes. Some are put back and delivered, and the log's tail has moved over them; then the log's worker is killed again:
    what is left of them in the log, the second time, is not to be put back.
    """
    box = Box(SRC_TO_OUT)
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    box.path("dir").write_text("")
    new_boot(box)
    source = Client("more", f"ipc://{box.dir}/src.zmq", COUNT - 1, lambda n: lines(n + 1))
    with box:
        start(box)
        first = client(box, "src", 1)  # it stands still, and keeps what comes after it in the log
        all_acknowledged(box, [first])
        assert box.stop() == 0
        fault_from_now(box, "log_publish:1:log")
        start(box)
        paused(box, "log")
        source.start()
        until(lambda: f"all wait for the log: {box.ask('audit')}",
              lambda: (box.ask("audit") or {}).get("in_flight") == COUNT * 50)
        box.ask("resume log")
        all_acknowledged(box, [source])
        assert box.stages()["log"]["restarts"] == 1
        lose_power(box)
        open_again(box, "dir")
        fault_from_now(box, f"apply_clear:6:log:{int(signal.SIGSTOP)}")
        start(box)
        until("some are put back", lambda: box.passed()[1][0] >= 6)
        out = box.path("dir/out.jsonl")
        until("they are delivered", lambda: out.exists() and len(out.read_bytes().splitlines()) >= 2 * 50)
        box.ask("pause log")
        for w in box.workers("log"):
            box.signal(w["pid"], signal.SIGCONT)
        until(lambda: f"the pause: {box.stages()}", lambda: box.stages()["log"]["state"] == "paused")
        assert box.passed()[0]["log"]["log_trim"], "the tail has not moved: this has shown nothing"
        for w in box.workers("log"):
            box.signal(w["pid"], signal.SIGKILL)
        box.ask("resume log")
        until(lambda: f"all there: {len(lines_ids(out))}; {box.stages()}; log:\n{box.log()}",
              lambda: set(lines_ids(out)) == set(range(COUNT * 50)) and box.stages()["log"]["state"] == "idle")
        all_delivered(box)
        assert box.stop() == 0
        check_ids("file", lines_ids(out), set(range(COUNT * 50)))


ROW = """
arena: {size: 1MiB, buffer: 16KiB, path: @/arena, sync: true, log_size: 3300KiB}
state: {path: @/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: @/dead}
producers:
  src: {type: zmq, socket: router, listen: "ipc://@/src.zmq", codec: json}
  other: {type: zmq, socket: router, listen: "ipc://@/other.zmq", codec: json}
transformers:
  row: {from: src, steps: [{explode: {field: items}}]}
consumers:
  stuck: {from: row, quota: 50, type: file, path: @/dir/stuck.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
  out: {from: other, type: file, path: @/out.jsonl, codec: json}
"""
ITEMS = 400
AROUND = 300  # messages in which the log goes round about once


def test_power_in_the_middle_of_a_row():
    """
    So many chunks come of one record that all of them have to be written again before the tail can move. The power goes
    when most of them are: there is no room for as many copies once more, and none is needed.
    """
    box = Box(ROW, fault=f"log_carry:4:log:{int(signal.SIGSTOP)}")
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    box.path("dir").write_text("")
    new_boot(box)
    record = json.dumps({"id": 1, "pad": "x" * 2600, "items": list(range(ITEMS))}).encode() + b"\n"
    source = Client("src", f"ipc://{box.dir}/src.zmq", 1, lambda _: record)
    other = Client("other", f"ipc://{box.dir}/other.zmq", 2 * AROUND, lines)
    with box:
        start(box)
        source.start()
        until(lambda: f"the row stands: {box.ask('audit')}; {box.stages()['row']}; {box.letters()}", lambda: box.stages()["row"]["state"] == "blocked", deadline=10)
        other.start()
        until(lambda: f"the row is carried: {box.passed()}; {other.acked}", lambda: box.passed()[1][0] >= 4)
        assert other.acked < other.count - AROUND
        lose_power(box)
        start(box)
        all_acknowledged(box, [source, other])
        assert carried(box) > 8, "it was not carried again: this has shown nothing"
        open_again(box, "dir")
        out = box.path("dir/stuck.jsonl")
        until(lambda: f"the row: {box.stages()}; {box.ask('audit')}", lambda: out.exists() and
              set(lines_ids(out, "items")) == set(range(ITEMS)), pause=0.1)
        all_delivered(box)
        assert box.stop() == 0
        check_all_there("the other", lines_ids(box.path("out.jsonl")), set(range(other.count * 50)))
