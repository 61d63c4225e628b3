"""J5: what is acknowledged is on the disk. Records from a client that waits for acknowledgements, and bytes beside plain writes."""
import os
import pathlib
import shutil
import tempfile

import goals
import sync
from contenders import LOAD, TO_NULL, sluice_fed
from race import Count, alternate
from report import Column, Row, Section
from sluice import BENCH

SYNCED = "size: 64MiB, path: {dir}/arena, sync: true"
COLUMNS = [Column("rate", "M records/s", 1e-6, 3, False), Column("mb", "MB/s", 1, 0, False), Column("cpu", "CPU-s per M records", 1, 3)]
PLAIN, SYNC = "O_DIRECT|O_DSYNC writes", goals.DURABLE


def acked(per, arena):
    return sluice_fed("codec: msgpack, socket: router", None, TO_NULL, [LOAD, "acked", "{at}", "{n}", str(per)], arena)


def ingest(o):
    rows = []
    for name, arena in (("sync: true", SYNCED), ("an arena file, no sync", "size: 64MiB, path: {dir}/arena"), ("memory", "size: 64MiB")):
        for per in (100, 600):
            rows.append(Row(f"sluice, {per} records a message, {name}", "", o.records))
            rows[-1].start = acked(per, arena)

    def once(row, _):
        where = tempfile.mkdtemp(prefix="sb", dir=BENCH)  # on the disk that is measured
        try:
            run = row.start(where, Count(o.records), "", False)
        finally:
            shutil.rmtree(where, ignore_errors=True)
        rate = o.records / run.wall
        row.add(rate=rate, mb=rate * 1e-4, cpu=run.cpu / o.records * 1e6)
        row.right = "yes" if run.right and row.right != "NO" else "NO"
    alternate(o.runs, rows, once)
    text = ["A DEALER sends 100-byte records, at most a window of messages ahead of its acknowledgements, into null; what is "
            "acknowledged has been received once and the books balance."]
    return Section("J5", "J5: acknowledged ingest, durable", COLUMNS, rows, "cpu", ("rate", "cpu"), text)


def bytes_on_disk(o):
    where = pathlib.Path(tempfile.mkdtemp(prefix="sync", dir=BENCH))
    run = pathlib.Path(tempfile.mkdtemp(prefix="sb", dir="/tmp"))
    try:
        each, rates = sync.measure(where, run, o.runs, 100000 if o.short else 600000, 1000)
    finally:
        shutil.rmtree(where)
        shutil.rmtree(run)
    names = {"durable": SYNC, "not synced": "sluice, the same without sync", "plain": f"{PLAIN} of 256 KiB", "plain 1 MiB": f"{PLAIN} of 1 MiB"}
    rows = [Row(names[k]) for k in names] + [Row(goals.PLAIN)]
    for k, row in zip(names, rows):
        row.values["mb"] = rates[k]
    rows[-1].values["mb"] = [max(a, b) for a, b in zip(rates["plain"], rates["plain 1 MiB"])]
    text = [f"Records of {each:.0f} bytes; plain writes go one after the other to a file that has been written before, on the disk of "
            f"{os.path.relpath(BENCH)}."]
    return Section("durable", "J5: bytes that are durable, beside plain writes", COLUMNS, rows, "mb", ("mb",), text)
