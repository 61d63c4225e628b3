"""
The log (arena.sync) on a disk that fails: nothing more is acknowledged, status says why, nobody tries the failed
write again as if nothing had happened; when the disk works again all goes on, each record once.
"""

import json
import shutil
import subprocess

import pytest

import oracle
from feed import Client
from oracle import Box, check_ids, lines_ids, settled, until

CONFIG = """
arena: {size: 2MiB, buffer: 16KiB, path: @/arena, sync: true, log_size: 6MiB}
state: {path: @/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: @/dead}
producers:
  src: {type: zmq, socket: router, listen: "ipc://@/in", codec: json}
transformers:
  clean:
    steps: [{filter: "=id % @@ == 0"}]
consumers:
  out: {from: clean, type: file, path: @/dir/out.jsonl, codec: json, retry: {base: 20ms, max: 50ms}}
"""
LINES = 50


def lines(n):
    return b"".join(json.dumps({"id": i, "msg": "x" * 100}).encode() + b"\n" for i in range((n - 1) * LINES, n * LINES))


def make(count, keep):
    """A job that keeps each so many-th record."""
    box = Box(CONFIG.replace("@@", str(keep)))
    box.path("dir").mkdir()
    client = Client("one", f"ipc://{box.dir}/in", count, lines)
    return box, client


def log_why(box):
    return box.stages().get("log", {"why": ""})["why"]


def finish(box, client, keep):
    until(lambda: f"all acknowledged: {client.acked} {client.error}; log:\n{box.log()}",
          lambda: client.error or client.acked == client.count)
    assert not client.error
    until(lambda: f"all delivered: {box.ask('audit')}; log:\n{box.log()}",
          lambda: settled(b := box.ask("audit")) and b["balanced"] and b["received"] == client.count * LINES)
    assert box.stop() == 0
    check_ids("file", lines_ids(box.path("dir/out.jsonl")), {i for i in range(client.count * LINES) if i % keep == 0})


def test_a_disk_that_fails():
    if not shutil.which("strace"):
        pytest.skip("SKIP: no strace")
    box, client = make(2000, 8)
    with box:
        box.start()
        client.pause = 0.002
        client.start()
        until(lambda: f"some acknowledged; log:\n{box.log()}", lambda: client.acked > 100)
        with open(box.path("strace.err"), "w") as err:
            tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", str(box.path("trace")), "-p", str(box.pid), "-e",
                                       "trace=pwritev", "-e", "inject=pwritev:error=EIO"], stderr=err)
        try:
            until("strace", lambda: box.path("trace").exists() or tracer.poll() is not None)
            # it follows those that are forked from now on: the log's worker has to be one of them
            for w in box.workers("log"):
                box.signal(w["pid"], 9)
            until(lambda: f"the log's failure is told: {box.stages().get('log')}; {box.path('strace.err').read_text()}",
                  lambda: tracer.poll() is not None or "Input/output error" in log_why(box))
            if tracer.poll() is not None:
                pytest.skip(f"SKIP: strace: {box.path('strace.err').read_text()[:200]}")
            before = client.acked
            tries = box.stages()["log"]["restarts"]
            until("it is started again", lambda: box.stages()["log"]["restarts"] >= tries + 3)
            assert client.acked == before < client.count
        finally:
            tracer.terminate()
            tracer.wait()
        client.pause = 0
        finish(box, client, 8)
