#!/usr/bin/python3
"""
What durability costs: records through `generate -> null` with arena.sync, in bytes of records a second, against plain
sequential O_DIRECT|O_DSYNC writes to a pre-written file on the same disk, of one chunk each and of 1 MiB each. Runs
alternate; medians.

    tests/bench/sync.py [--dir DIR] [--rounds N] [--records N] [--size BYTES] [--gate]

Records of 1 KB by default: with small ones the pipeline itself, not the log, is what a fast disk waits for ("not
synced" is the same pipeline without the log).

--gate: status 1 when the durable rate is under half of the faster plain one.
"""

import argparse
import json
import mmap
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHUNK = 256 << 10
PLAIN_WRITES = 600

CONFIG = """
arena: {{size: 32MiB, path: {dir}/arena, sync: {sync}, log_size: 256MiB}}
state: {{path: {dir}/state}}
daemon: {{runtime_dir: {run}}}
control: {{socket: {run}/c.sock}}
dead_letters: {{path: {dir}/dead}}
producers:
  gen: {{type: generate, count: {count}, record: {{seq: =seq, at: =now, msg: {msg}}}}}
consumers:
  out: {{type: 'null'}}
"""


def fill(path, size):
    with open(path, "wb") as f:
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            f.write(block)
        f.flush()
        os.fsync(f.fileno())


def plain(path, size, block):
    """MB/s of writes of @block bytes, each on the disk before the next."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    data = mmap.mmap(-1, block)
    data.write(os.urandom(block))
    start = time.monotonic()
    for i in range(PLAIN_WRITES):
        os.pwrite(fd, data, i * block % size)
    spent = time.monotonic() - start
    os.close(fd)
    return PLAIN_WRITES * block / spent / 1e6


def through(where, run, count, sync, record_bytes, text):
    """MB/s of records from the producer to the consumer; made afresh, the log's making not counted."""
    config = run / "c.yaml"
    config.write_text(CONFIG.format(dir=where, run=run, count=1, sync=sync, msg="x" * text))
    command = [str(ROOT / "build/sluiced"), "-c", str(config), "--until-done", "--log-level", "error"]
    subprocess.run(command, check=True, timeout=300)  # makes arena and log
    config.write_text(CONFIG.format(dir=where, run=run, count=count, sync=sync, msg="x" * text))
    start = time.monotonic()
    subprocess.run(command, check=True, timeout=600)
    spent = time.monotonic() - start
    for p in where.glob("arena*"):
        p.unlink()
    return count * record_bytes / spent / 1e6


def record_size(where, run, text):
    """Bytes of one record as it travels, from the daemon's own books."""
    config = run / "c.yaml"
    config.write_text(CONFIG.format(dir=where, run=run, count=100000, sync="false", msg="x" * text))
    subprocess.run([str(ROOT / "build/sluiced"), "-c", str(config), "--until-done", "--log-level", "error"],
                   check=True, timeout=300)
    check = subprocess.run([str(ROOT / "build/sluiced"), "-c", str(config), "--arena-check"],
                           capture_output=True, text=True)
    for p in where.glob("arena*"):
        p.unlink()
    line = next(x for x in check.stdout.splitlines() if x.startswith("books:"))
    words = line.split()
    return int(words[words.index("bytes_in") + 1]) / 2 / 100000


def measure(where, run, rounds, records, text):
    """The bytes of a record, and each way's MB/s, a round behind the other."""
    size = 256 << 20
    fill(where / "plain", size)
    each = record_size(where, run, text)
    rates = {"plain": [], "plain 1 MiB": [], "durable": [], "not synced": []}
    for _ in range(rounds):
        rates["plain"].append(plain(where / "plain", size, CHUNK))
        rates["plain 1 MiB"].append(plain(where / "plain", size, 1 << 20))
        rates["durable"].append(through(where, run, records, "true", each, text))
        rates["not synced"].append(through(where, run, records, "false", each, text))
    return each, rates


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dir", default=str(ROOT / "build"))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--records", type=int, default=600000)
    p.add_argument("--size", type=int, default=1000)
    p.add_argument("--gate", action="store_true")
    args = p.parse_args()
    where = pathlib.Path(tempfile.mkdtemp(prefix="sync", dir=args.dir))
    run = pathlib.Path(tempfile.mkdtemp(prefix="sb", dir="/tmp"))
    try:
        each, rates = measure(where, run, args.rounds, args.records, args.size)
    finally:
        shutil.rmtree(where)
        shutil.rmtree(run)
    medians = {k: statistics.median(v) for k, v in rates.items()}
    ratio = medians["durable"] / max(medians["plain"], medians["plain 1 MiB"])
    print(json.dumps({"chunk_kib": CHUNK >> 10, "record_bytes": each, "mb_s": {k: round(v, 1) for k, v in medians.items()},
                      "runs": {k: [round(x, 1) for x in v] for k, v in rates.items()}, "durable_to_plain": round(ratio, 2)}))
    return 1 if args.gate and ratio < 0.5 else 0


if __name__ == "__main__":
    sys.exit(main())
