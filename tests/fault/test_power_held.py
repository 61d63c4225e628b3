"""
Loss of power, with arena.sync, while something is held that no producer would send again: results that `aggregate` has
given out of its state, and dead letters that are put back. At least once, never less.
"""

import json
import signal
import subprocess

import pytest

from feed import Client
from oracle import Box, lines_ids, until
from test_power import disk, lose_power, new_boot, start  # noqa: F401

HEAD = """
arena: {size: 1MiB, buffer: 16KiB, path: %(disk)s/arena, sync: true, log_size: 4MiB}
state: {path: %(disk)s/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: %(disk)s/dead}
producers:
  src: {type: zmq, socket: router, listen: "ipc://@/in", codec: json}
"""
COUNT = """
transformers:
  tot:
    steps:
      - aggregate: {by: [g], window: 200ms, compute: {n: count()}}
consumers:
  out: {from: tot, type: file, path: @/dir/out.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
"""
ONCE = """
transformers:
  clean: {from: src, steps: [STEP]}
  once: {from: clean, steps: [{dedupe: {by: [id]}}]}
consumers:
  out: {from: once, type: file, path: @/dir/out.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
"""
LINES = 50


def numbered(n):
    return b"".join(b'{"id": %d, "g": "g%d"}\n' % (i, i % 7) for i in range((n - 1) * LINES, n * LINES))


def box_on(disk, config, fault=None):  # noqa: F811
    box = Box((HEAD + config) % {"disk": disk.at}, fault=fault)
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    box.path("dir").write_text("")
    new_boot(box)
    return box


def mend(box):
    box.path("dir").unlink()
    box.path("dir").mkdir()


def send(box, name, count, message):
    client = Client(name, f"ipc://{box.dir}/in", count, message)
    client.start()
    until(lambda: f"all acknowledged: {client.acked} {client.error}; {box.stages()}",
          lambda: client.error or client.acked == client.count)
    assert not client.error
    return count * LINES


def queued(box, edge):
    return next((e["queued"] for e in (box.ask("status") or {}).get("edges", []) if e["name"] == edge), 0)


def total(box):
    """What the results that came out say: a group's count, over all windows."""
    p = box.path("dir/out.jsonl")
    return sum(json.loads(x)["n"] for x in p.read_bytes().splitlines() if x.endswith(b"}")) if p.exists() else 0


@pytest.mark.parametrize("point", [None, "commit_prepared", "commit_transaction", "apply_publish", "log_carried"])
def test_results_that_nobody_has_taken(disk, point):  # noqa: F811
    role = "log" if point == "log_carried" else "tot"
    box = box_on(disk, COUNT, fault=point and f"{point}:2:{role}:{int(signal.SIGSTOP)}")
    with box:
        start(box)
        sent = send(box, "a", 20, numbered)
        until(lambda: f"results: {box.ask('status')}",
              lambda: queued(box, "tot->out") or (point and box.passed()[1][0] >= 2))
        if point:  # the next window, at the latest, passes the point
            sent += send(box, "b", 20, numbered)
            until(lambda: f"{point} is passed: {box.passed()}; {box.ask('status')}", lambda: box.passed()[1][0] >= 2)
        lose_power(box, disk)
        start(box)
        sent += send(box, "c", 5, numbered)
        mend(box)
        until(lambda: f"at least {sent} counted, not {total(box)}: {box.ask('audit')}; {box.stages()}; log:\n{box.log()}",
              lambda: total(box) >= sent)
        until(lambda: f"balanced: {box.ask('audit')}",
              lambda: (b := box.ask("audit")) and b["balanced"] and b["in_flight"] == 0)
        assert box.stop() == 0


def test_until_done_with_an_aggregate(disk):  # noqa: F811
    """What is given out at the very end is in the log too, though all producers have ended."""
    config = COUNT.replace("window: 200ms, ", "").replace("@/dir/out.jsonl", "@/out.jsonl")
    box = box_on(disk, config)
    text = box.path("c.yaml").read_text()
    a, b = text.index("  src:"), text.index("\ntransformers")
    box.path("c.yaml").write_text(text[:a] + f"  src: {{type: file, path: {box.dir}/in.jsonl, codec: json}}\n" + text[b:])
    box.path("in.jsonl").write_bytes(b"".join(numbered(n) for n in range(1, 21)))
    done = subprocess.run([str(box.build / "sluiced"), "-c", str(box.path("c.yaml")), "--until-done"], env=box.env,
                          timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(x) for x in box.path("out.jsonl").read_text().splitlines()]
    assert sum(r["n"] for r in found) == 20 * LINES and len(found) == 7
    assert box.passed()[0]["log"].get("log_carried"), "the results did not go through the log"
    box.close()


def ctl(box, *command):
    return subprocess.run([str(box.build / "sluicectl"), "-s", str(box.path("c.sock")), *command], capture_output=True,
                          text=True, timeout=30, check=False)


def test_letters_that_are_put_back(disk):  # noqa: F811
    """They were seen by `dedupe`, and wait behind it when the power goes; later input had a place behind them."""
    config = (HEAD + ONCE) % {"disk": disk.at}
    box = box_on(disk, ONCE.replace("STEP", "{convert: {g: int}}"))
    with box:
        start(box)
        letters = send(box, "a", 2, numbered)
        until("all are dead letters", lambda: (box.ask("audit") or {}).get("letters") == letters)
        assert box.stop() == 0
        box.configure(config.replace("STEP", "{set: {mended: true}}"))
        start(box)
        until("letters handed over", lambda: ctl(box, "dead", "replay", "--all").returncode == 0)
        until(lambda: f"they stand behind dedupe: {box.ask('status')}",
              lambda: queued(box, "once->out") and (box.ask("audit") or {}).get("in_flight") == letters and
              queued(box, "log.src->clean") == queued(box, "clean->once") == 0)
        send(box, "b", 1, lambda n: b"".join(b'{"id": %d, "g": "x"}\n' % i for i in range(9000, 9000 + LINES)))
        until(lambda: f"what came later too: {box.ask('audit')}",
              lambda: (box.ask("audit") or {}).get("in_flight") == letters + LINES and
              queued(box, "log.src->clean") == queued(box, "clean->once") == 0)
        lose_power(box, disk)
        start(box)
        mend(box)
        until(lambda: f"all there: {box.ask('audit')}; {box.stages()}",
              lambda: (b := box.ask("audit")) and b["balanced"] and b["in_flight"] == 0 and
              not list((disk.at / "dead").glob("replay:*")) and not box.workers("replay:clean"))
        got = lines_ids(box.path("dir/out.jsonl"))
        assert set(got) == set(range(letters)) | set(range(9000, 9000 + LINES))
        assert box.stop() == 0
