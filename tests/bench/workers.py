"""J6: several workers of one stage, one of them far slower than the others."""
import os

import relays
from contenders import PY, python
from latency import paced
from measure import Process
from race import alternate, in_dir
from relays import Relay
from report import Column, Row, Section

PACE = 3000  # records a second: half of what three healthy workers do
COLUMNS = [Column("rate", "records/s, as fast as it goes", 1, 0, False), Column("p50_us", f"p50 at {PACE}/s, us", 1, 0),
           Column("p99_us", f"p99 at {PACE}/s, us", 1, 0)]
SETUPS = [("3 workers", 3, 1), ("4 workers", 4, 1), ("4 workers, one 100x slower", 4, 100)]

# The step's program: the first to start is the slow one.
SLEEPER = """import json, os, sys, time
try:
    os.mkdir(sys.argv[1])
    slow = float(sys.argv[2])
except OSError:
    slow = 1.0
for line in sys.stdin.buffer:
    record = json.loads(line)
    time.sleep(0.0005 * slow)
    record["service"] = record["service"].upper()
    sys.stdout.buffer.write(json.dumps(record).encode() + b"\\n")
    sys.stdout.buffer.flush()
"""


def sleepers(n, slow):
    def start(where, port, to):
        script = os.path.join(where, "sleeper.py")
        with open(script, "w") as f:
            f.write(SLEEPER)
        steps = f'workers: {n}, steps: [exec: {{command: [{PY}, {script}, {where}/taken, "{slow}"]}}]'
        return relays.sluice("batch: {records: 1, linger: 0ms}", transformer=steps)(where, port, to)
    return start


def rival(how, n, slow):
    return lambda where, port, to: Process(python("workers.py", how, str(port), str(to), str(n), str(slow), f"{where}/taken"))


def entrants():
    for who, how in (("sluice", None), ("multiprocessing.Queue", "queue"), ("ProcessPoolExecutor", "pool"), ("pyzmq", "zmq")):
        for name, n, slow in SETUPS[1:] if how else SETUPS:
            start = rival(how, n, slow) if how else sleepers(n, slow)
            count = 400 if how == "zmq" and slow > 1 else 3000  # a quarter of all waits for the slow one, 50 ms each
            row = Row(f"{who}, {name}", "", count)
            row.relay = Relay(row.name, start, False)
            yield row


def part(o):
    def once(where, row):
        os.makedirs(os.path.join(where, "a")), os.makedirs(os.path.join(where, "b"))
        count = row.records // (2 if o.short else 1)
        fast = paced(os.path.join(where, "a"), row.relay, 0, count)
        steady = paced(os.path.join(where, "b"), row.relay, PACE, count)
        row.add(rate=count / fast["seconds"], p50_us=steady["p50_us"], p99_us=steady["p99_us"])
        row.right = "yes" if row.right != "NO" and all(g["whole"] and g["capitals"] for g in (fast, steady)) else "NO"
    rows = list(entrants())
    if not o.short:
        o = o._replace(runs=min(o.runs, 3))
    alternate(o.runs, rows, lambda row, _: in_dir(once, row))
    text = [f"Each record takes a worker 0.5 ms of waiting (the slow one 50 ms). {o.runs} runs. Records come one a message from a "
            "socket and leave by one. With sluice and one queue for all, what is not in the slow worker's hands does not wait for "
            "it; where each worker has a queue of its own, a quarter does; where results are given in order, all do."]
    return Section("J6", "J6: four workers, one of them 100x slower", COLUMNS, rows, None, ("rate", "p99_us"), text)
