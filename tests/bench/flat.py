"""Is the cost of a record the same in a long run as in a short one?

Twice: whole processes (generate -> null), where starting and ending is a part of a short run's cost and is measured beside it, by
a run of one record; and a daemon that stands already, fed over a socket, where nothing but records is counted.
"""
import subprocess

from contenders import LOAD, free_port
from measure import cpu_of, until
from race import alternate, in_dir
from report import Column, Row, Section
from sluice import CLEAN, SMALL, TRANSPORT, config, finished, sluiced, started

TIMES = 20
COLUMNS = [Column("cpu", "CPU-s per M records", 1, 4), Column("whole", "with start and end", 1, 4),
           Column("more", "% more than the short run", 1, 1)]


def whole(where, count):
    """CPU seconds of a process from its start to its end."""
    path = config(where, "size: 32MiB, buffer: 1MiB", f"type: generate, count: {count}", TRANSPORT, 'type: "null"')
    p = sluiced(path, "--until-done")
    cpu = p.wait()
    return cpu, p.status == 0


def fed(where, records, times):
    """CPU seconds of a daemon while it takes @records from a socket, @times over."""
    at = f"tcp://127.0.0.1:{free_port()}"
    p = sluiced(config(where, SMALL, f'type: zmq, listen: "{at}", codec: json', CLEAN, 'type: "null"'))
    try:
        until(lambda: started(where))
        before = cpu_of(p.pid)
        subprocess.run([LOAD, "push", at, records.path, "65536", str(times)], stdout=subprocess.DEVNULL, check=True, timeout=150)
        books = finished(where, records.n * times, step=0.02)
        return cpu_of(p.pid) - before, books["delivered"] == records.kept * times and books["balanced"]
    finally:
        p.stop()


def measured(row, cpu, start, right):
    if row.from_socket:
        row.add(cpu=cpu / row.records * 1e6)
    else:
        row.add(cpu=(cpu - start) / row.records * 1e6, whole=cpu / row.records * 1e6)
    row.right = "yes" if right and row.right != "NO" else "NO"


def part(o):
    base = o.input(o.records // 2)
    rows, starts = [], [0.0]
    for who, from_socket in (("sluice", False), ("sluice from a socket", True)):
        for times in (1, TIMES):
            rows.append(Row(who if times == 1 else f"{who}, {TIMES}x the records", "", base.n * times))
            rows[-1].from_socket, rows[-1].times = from_socket, times

    def once(where, row):
        if row is rows[0]:
            starts.append(in_dir(whole, 1)[0])
        cpu, right = fed(where, base, row.times) if row.from_socket else whole(where, row.records)
        measured(row, cpu, starts[-1], right)
    alternate(o.runs, rows, lambda row, _: in_dir(once, row))
    for few, many in zip(rows[::2], rows[1::2]):
        many.values["more"] = [100 * (b / a - 1) for a, b in zip(few.values.get("cpu", []), many.values.get("cpu", []))]
    start = sorted(starts[1:])[len(starts[1:]) // 2] if starts[1:] else 0
    text = [f"Starting and ending took {start:.3f} CPU seconds; the first column is without them. From a socket: NDJSON, the job of "
            "J2, into null; the daemon has been started before."]
    return Section("flat", "Flat cost: a short run and one with 20 times the records", COLUMNS, rows, None, ("cpu",), text)
