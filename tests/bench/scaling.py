"""Scaling: a step that computes, with one worker and with two."""
import os
import time

from contenders import python
from measure import Process, until
from race import alternate, in_dir
from report import Column, Row, Section
from sluice import SMALL, config, finished, sluiced, started

LOOPS = 1000
SCRIPT = (f"function process(record) local x = record.seq for i = 0, {LOOPS - 1} do x = (x * 31 + i) % 65521 end "
          "record.x = x return record end")
COLUMNS = [Column("rate", "records/s", 1, 0, False), Column("cpu", "CPU-s per M records", 1, 1),
           Column("factor", "rate against one worker", 1, 2, False)]


def lua(where, n, count):
    """Wall and CPU seconds of @count records through @n workers that compute, and whether the books show them."""
    path = config(where, SMALL, f"type: generate, count: {count}, record: {{seq: =seq}}, batch: {{records: 200}}",
                  f"workers: {n}, steps: [lua: {{script: '{SCRIPT}'}}]", 'type: "null"')
    begin = time.monotonic()
    p = sluiced(path)
    until(lambda: started(where))
    books = finished(where, count, step=0.02)
    wall = time.monotonic() - begin
    return wall, p.stop(), books["delivered"] == count and books["balanced"]


def rival(how, n, count):
    begin = time.monotonic()
    p = Process(python("heavy.py", how, str(n), str(count), str(LOOPS)))
    cpu = p.wait()
    return time.monotonic() - begin, cpu, p.status == 0


def part(o):
    count = 6000 if o.short else 60000

    def once(where, row):
        wall, cpu, right = rival(row.how, row.n, count) if row.how else lua(where, row.n, count)
        row.add(rate=count / wall, cpu=cpu / count * 1e6)
        row.right = "yes" if right and row.right != "NO" else "NO"
    rows = []
    for who, how in (("sluice", None), ("ProcessPoolExecutor", "pool"), ("multiprocessing.Queue", "queue")):
        for n in (1, 2):
            rows.append(Row(f"{who}, {n} worker{'s' * (n > 1)}"))
            rows[-1].how, rows[-1].n = how, n
    alternate(o.runs, rows, lambda row, _: in_dir(once, row))
    for one, two in zip(rows[::2], rows[1::2]):
        two.values["factor"] = [b / a for a, b in zip(one.values.get("rate", []), two.values.get("rate", []))]
    text = [f"{count} records, {LOOPS} rounds of arithmetic each, in Lua and in Python; starting is in the time. This machine has "
            f"{os.cpu_count()} cores for the workers and all else."]
    return Section("scaling", "Scaling: a step that computes, one worker and two", COLUMNS, rows, None, ("factor",), text)
