#!/usr/bin/python3
"""
What an arena that outlives the daemon costs: `generate -> set -> null` with the arena in plain memory (memfd), in a file
on tmpfs and in a file on disk, without arena.sync. Runs alternate; medians of records a second, and of CPU seconds a
million records, which say more on a machine that does other things too. Making the file is not counted.

    tests/bench/arena.py [--disk DIR] [--tmpfs DIR] [--rounds N] [--records N]
"""

import argparse
import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = """
arena: {{size: 32MiB{path}}}
state: {{path: {run}/state}}
daemon: {{runtime_dir: {run}}}
control: {{socket: {run}/c.sock}}
dead_letters: {{path: {run}/dead}}
producers:
  gen: {{type: generate, count: {count}, record: {{seq: =seq, at: =now, service: billing}}}}
transformers:
  clean:
    steps:
      - set: {{service: "=upper(service)"}}
consumers:
  out: {{type: 'null', from: clean}}
"""


def cpu():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


def once(run, path, count):
    """(records a second, CPU seconds a million records)"""
    config = run / "c.yaml"
    config.write_text(CONFIG.format(run=run, path=f", path: {path}" if path else "", count=count))
    start, before = time.monotonic(), cpu()
    subprocess.run([str(ROOT / "build/sluiced"), "-c", str(config), "--until-done", "--log-level", "error"],
                   check=True, timeout=300)
    return count / (time.monotonic() - start), (cpu() - before) / count * 1e6


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--disk", default="/tmp")
    p.add_argument("--tmpfs", default="/dev/shm")
    p.add_argument("--rounds", type=int, default=31)
    p.add_argument("--records", type=int, default=3_000_000)
    args = p.parse_args()
    run = pathlib.Path(tempfile.mkdtemp(prefix="sa", dir="/tmp"))
    on = {k: pathlib.Path(tempfile.mkdtemp(prefix="sa", dir=v)) for k, v in (("tmpfs", args.tmpfs), ("disk", args.disk))}
    where = {"memory": None, **{k: d / "arena" for k, d in on.items()}}
    runs = {k: [] for k in where}
    try:
        for path in on:
            once(run, where[path], 1)  # makes the file
        for _ in range(args.rounds):
            for k, path in where.items():
                runs[k].append(once(run, path, args.records))
    finally:
        for d in (run, *on.values()):
            shutil.rmtree(d, ignore_errors=True)
    for i, what in enumerate(("records a second", "CPU seconds a million records")):
        middle = {k: statistics.median(x[i] for x in v) for k, v in runs.items()}
        more = {k: round(100 * (middle["memory"] / m - 1 if i == 0 else m / middle["memory"] - 1), 1)
                for k, m in middle.items() if k != "memory"}
        print(json.dumps({"what": what, "median": {k: float(f"{m:.4g}") for k, m in middle.items()}, "percent_more": more,
                          "runs": {k: [float(f"{x[i]:.4g}") for x in v] for k, v in runs.items()}}))


main()
