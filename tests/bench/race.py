"""Races: everybody does the same job on the same input, once each, again and again; the last time for memory and correctness."""
import os
import shutil
import subprocess
import tempfile

import contenders
from contenders import LOOP
from report import Column, Row, Section
from sluice import BENCH

TITLES = {
    "J1": "J1: lines from file to file, untouched",
    "J2": "J2: NDJSON from file to file: parse, filter, set three fields, write",
    "J3": "J3: as J2, the input over a socket",
    "transport": "Transport: generate -> set -> null, each record of 100 bytes rewritten, one worker each, no codec",
    "ingest": "Ingest over ZeroMQ into null, msgpack records of 100 bytes",
}
COLUMNS = [
    Column("rate", "M records/s", 1e-6, 3, False), Column("mb", "MB/s", 1, 0, False), Column("cpu", "CPU-s per M records", 1, 3),
    Column("raw", "rate against raw libzmq", 1, 2, False), Column("peak", "peak PSS, MB", 1e-6, 1),
]


class Records:
    """An input of @n records, and what must come out of it."""

    def __init__(self, n):
        self.n = n
        self.path = os.path.join(BENCH, f"records-{n}.ndjson")
        if not os.path.exists(self.path):
            with open(self.path + ".new", "wb") as f:
                subprocess.run([os.path.join(BENCH, "input"), str(n)], stdout=f, check=True)
            os.rename(self.path + ".new", self.path)
        self.bytes = os.path.getsize(self.path)
        self.expected = {}
        for job, how in (("J1", "lines"), ("J2", "clean")):
            out = os.path.join(BENCH, "expected")
            subprocess.run([LOOP, how, self.path, out], check=True, stderr=subprocess.DEVNULL)
            self.expected[job] = digest(out)
            os.unlink(out)
        self.expected["J3"] = self.expected["J2"]
        self.kept = int(self.expected["J2"].split()[0])


class Count:
    """No input of ours: @n records of 100 bytes that somebody makes."""

    def __init__(self, n):
        self.n, self.path, self.bytes, self.expected = n, "", n * 100, {}


def digest(path):
    return subprocess.run([LOOP, "check", path, "-"], stdout=subprocess.PIPE, text=True).stdout.strip()


def in_dir(function, *args):
    where = tempfile.mkdtemp(prefix="sb", dir="/tmp")
    try:
        return function(where, *args)
    finally:
        shutil.rmtree(where, ignore_errors=True)


def alternate(runs, rows, once):
    """once(row, i) for each row and then again: everybody has the same neighbours. A rival that fails must not end the others."""
    for i in range(runs):
        for row in rows:
            try:
                once(row, i)
            except Exception as e:
                print(f"  {row.name}: {type(e).__name__}: {e}", flush=True)
                row.right = "NO: failed"


def one_run(where, row, memory):
    c, records = row.contender, row.input
    run = c.start(where, records, os.path.join(where, "output"), memory)
    if memory:
        row.add(peak=run.peak)
    else:
        rate = records.n / run.wall
        row.add(rate=rate, mb=rate * records.bytes / records.n / 1e6, cpu=run.cpu / records.n * 1e6)
    if run.right is not None:
        row.right = "NO" if row.right.startswith("NO") or not run.right else "yes"
    elif run.output and memory:
        row.right = "yes" if digest(run.output) == records.expected[c.job] else "NO"


def entrants(job, o):
    rows = []
    for c in contenders.ALL:
        if c.job != job or (o.only and c.name not in o.only):
            continue
        if c.missing():
            print(f"  {c.name}: left out, {c.missing()} is not here")
            continue
        part = max(20000, int(o.records * c.share))
        row = Row(c.name, c.note, part, c.peer)
        row.contender, row.input = c, o.input(part) if job in ("J1", "J2", "J3") else Count(part)
        rows.append(row)
    return rows


def race(job, o):
    rows = entrants(job, o)
    alternate(o.runs + 1, rows, lambda row, i: in_dir(one_run, row, i == o.runs))
    by_name = {r.name: r for r in rows}
    for r in rows:
        limit = by_name.get(r.contender.raw)
        if limit and limit.has("rate"):
            r.values["raw"] = [a / b for a, b in zip(r.values.get("rate", []), limit.values["rate"])]
    columns = [c for c in COLUMNS if c.key != "mb" or job != "transport"]
    return Section(job, TITLES[job], columns, rows, ratio=None if job in ("transport", "ingest") else "cpu", plots=("cpu", "rate"))
