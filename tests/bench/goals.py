"""What is asked of sluice, figure by figure, and whether a run shows it.

A goal has a limit, a figure computed from a section's rows, and the row beside which the report says so.
"""
from typing import Callable, NamedTuple, Optional


class Goal(NamedTuple):
    part: str
    who: str
    text: str
    figure: Callable
    most: Optional[float] = None
    least: Optional[float] = None


def short(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


class Reached(NamedTuple):
    who: str
    text: str
    got: float
    met: bool

    def verdict(self):
        return f"{'yes' if self.met else '**no**'}: {short(self.got)}"

    def told(self):
        return f"{self.text}: {'met' if self.met else '**missed**'} ({short(self.got)})"


def of(who, key, scale=1.0):
    return lambda rows: rows[who].mid(key) * scale


def quotient(a, b, key):
    return lambda rows: rows[a].mid(key) / rows[b].mid(key)


def to_best_peer(key):
    """Against the least of those who do the whole job."""
    return lambda rows: rows["sluice"].mid(key) / min(r.mid(key) for r in rows.values() if r.peer)


def file_job(part, cpu, rate):
    return [Goal(part, "sluice", f"at most {cpu} CPU-s per M", of("sluice", "cpu"), most=cpu),
            Goal(part, "sluice", f"{rate} M records/s", of("sluice", "rate", 1e-6), least=rate)]


ONE, ONE_RAW = "sluice PULL, 1 record a message", "raw libzmq, 1 record a message"
MANY, ACKED = "sluice PULL, 64 KiB a message", "sluice ROUTER, acknowledged, 100 records a message"
DURABLE, PLAIN = "sluice, generate -> null, sync: true", "the faster of both, for each run"
ZERO, LINGER, FLUENT_BIT = "sluice, linger 0", "sluice, linger 1 ms", "Fluent Bit"
LAME, THREE = "sluice, 4 workers, one 100x slower", "sluice, 3 workers"

ALL = [
    *file_job("J1", 0.25, 4.0),
    *file_job("J2", 0.85, 1.5),
    Goal("J2", "sluice", "CPU within 1.5x of the C loop that checks nothing", quotient("sluice", "C loop", "cpu"), most=1.5),
    Goal("J2", "sluice", "CPU within 1.5x of the C loop over yajl", quotient("sluice", "C loop over yajl", "cpu"), most=1.5),
    Goal("J2", "sluice", "CPU a fifth of the best peer's", to_best_peer("cpu"), most=0.2),
    *file_job("J3", 0.95, 1.4),
    Goal("transport", "sluice", "10 M records/s", of("sluice", "rate", 1e-6), least=10),
    Goal("transport", "sluice", "at most 0.15 CPU-s per M", of("sluice", "cpu"), most=0.15),
    Goal("ingest", ONE, "80 % of raw libzmq", of(ONE, "raw"), least=0.8),
    Goal("ingest", MANY, "5 M records/s", of(MANY, "rate", 1e-6), least=5),
    Goal("ingest", ACKED, "5 M records/s", of(ACKED, "rate", 1e-6), least=5),
    Goal("durable", DURABLE, "half of plain writes", quotient(DURABLE, PLAIN, "mb"), least=0.5),
    Goal("latency", ZERO, "p50 under 120 us", of(ZERO, "p50_us"), most=120),
    Goal("latency", ZERO, "p99 under 500 us", of(ZERO, "p99_us"), most=500),
    Goal("latency", LINGER, "p99 under 2500 us", of(LINGER, "p99_us"), most=2500),
    Goal("latency", LINGER, "at most 15 CPU-s per M", of(LINGER, "cpu"), most=15),
    Goal("latency", LINGER, "no more CPU than Fluent Bit", quotient(LINGER, FLUENT_BIT, "cpu"), most=1),
    Goal("slow", "sluice", "peak PSS within the memory formula (1 is all of it)", of("sluice", "formula"), most=1),
    Goal("slow", "sluice", "nothing lost, % that arrived", of("sluice", "arrived"), least=100),
    Goal("J6", LAME, "90 % of three healthy workers", quotient(LAME, THREE, "rate"), least=0.9),
    Goal("scaling", "sluice, 2 workers", "1.7x of one worker", quotient("sluice, 2 workers", "sluice, 1 worker", "rate"), least=1.7),
    Goal("flat", "sluice, 20x the records", "CPU per record within 5 % of a short run's", of("sluice, 20x the records", "more"), most=5),
    Goal("flat", "sluice from a socket, 20x the records", "CPU per record within 5 % of a short run's",
         of("sluice from a socket, 20x the records", "more"), most=5),
    Goal("idle", "sluice", "under 0.5 % of a core", of("sluice", "share"), most=0.5),
]


def reached(part, rows):
    """Of the goals of @part, those whose rows are there."""
    got = []
    for g in ALL:
        if g.part != part or g.who not in rows:
            continue
        try:
            value = g.figure(rows)
        except (KeyError, ValueError, ZeroDivisionError):  # left out of this run
            continue
        met = (g.most is None or value <= g.most) and (g.least is None or value >= g.least)
        got.append(Reached(g.who, g.text, value, met))
    return got
