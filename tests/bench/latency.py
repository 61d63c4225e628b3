"""Latency: records at a steady pace from socket to socket, one clock, the same far ends for everybody."""
import goals
import relays
from contenders import WIRE
from measure import cpu_of, words
from race import alternate, in_dir
from relays import Relay
from report import Column, Row, Section

RATE = 5000
COLUMNS = [Column("p50_us", "p50, us", 1, 0), Column("p99_us", "p99, us", 1, 0), Column("cpu", "CPU-s per M records", 1, 1)]
ENTRANTS = [
    Relay(goals.ZERO, relays.sluice("batch: {linger: 0ms}"), False),
    Relay(goals.LINGER, relays.sluice("batch: {linger: 1ms}"), False),
    relays.RSYSLOG_RELAY, relays.NG_RELAY, relays.ASYNCIO, relays.PYZMQ, relays.NODE, relays.FLUENT_RELAY, relays.BARE,
]


def paced(where, relay, rate, count):
    """What wire saw of @count records through @relay, and the CPU seconds of the relay."""
    r = relay.run(where, lambda into, out: [WIRE, "pace", into, out, str(rate), str(count)])
    try:
        before = cpu_of(r.process.pid)
        got = words(r.go())
        got["cpu"] = cpu_of(r.process.pid) - before
        got["seconds"] = (got["end_ns"] - got["start_ns"]) / 1e9
    finally:
        r.stop()
    return got


def right(got, bare=False):
    return "yes" if got["whole"] and (bare or got["capitals"]) else "NO"


def present(entrants):
    rows = []
    for relay in entrants:
        if relay.missing():
            print(f"  {relay.name}: left out, {relay.missing()} is not here")
            continue
        rows.append(Row(relay.name, relay.note))
        rows[-1].relay = relay
    return rows


def part(o):
    count = RATE * (1 if o.short else 2)

    def once(where, row):
        got = paced(where, row.relay, RATE, count)
        row.add(p50_us=got["p50_us"], p99_us=got["p99_us"], cpu=got["cpu"] / count * 1e6)
        row.right = "NO" if row.right == "NO" else right(got, row.relay is relays.BARE)
    rows = present(ENTRANTS)
    alternate(o.runs, rows, lambda row, _: in_dir(once, row))
    text = [f"{count} records a run, the first tenth not counted; from just before it is sent till just after it has been taken. "
            "All over TCP on the loopback interface; each does the job of J2."]
    return Section("latency", f"Latency at {RATE} records a second, socket to socket", COLUMNS, rows, "cpu",
                   ("p50_us", "p99_us", "cpu"), text)
