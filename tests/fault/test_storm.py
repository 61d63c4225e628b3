"""
Random kills: lost 0, doubled 0. SLUICE_TORTURE=1: two million records and a thousand kills, and a full arena of 1 GiB.
SLUICE_KILLS, SLUICE_RECORDS, SLUICE_ARENA_MIB and SLUICE_ARENA_UNDER (the directory it lies in) say otherwise.

Prints how long recovery took. These figures are for people; on a machine with other work they say little, so no test
fails by them short of the deadline.
"""

import os
import signal
import time

import oracle
from oracle import Box, HEAD
from storm import Storm, quantile

RECORDS = int(os.environ.get("SLUICE_RECORDS", 2_000_000 if oracle.LONG else 100_000))
KILLS = int(os.environ.get("SLUICE_KILLS", 1000 if oracle.LONG else 30))
ARENA_MIB = int(os.environ.get("SLUICE_ARENA_MIB", 1024 if oracle.LONG else 128))
ARENA_UNDER = os.environ.get("SLUICE_ARENA_UNDER", "/dev/shm")


def test_random_kills(capsys):
    one, whole, stages = [], [], {}
    with Storm(seed=int(time.time())) as storm:
        oracle.until("the first acknowledgement", storm.acked)
        while sum(storm.kills.values()) < KILLS or storm.acked() < RECORDS:
            time.sleep(storm.random.uniform(0.02, 0.2))  # the storm's own rhythm
            since = time.monotonic()
            whom = storm.random.choice(("src", "clean", "out", "db", "master", "all"))
            hurt = storm.hurt(whom)
            if hurt and storm.random.random() < 0.5:
                took = storm.recovered(hurt, since)
                (whole if hurt[1] is None else one).append(took)
                stages.setdefault(whom, []).append(took)
        sent, aside = storm.check(storm.finish())
    with capsys.disabled():
        print(f"\n  {sent} records, {sum(storm.kills.values())} kills: lost 0, doubled 0, {aside} set aside; recovery "
              f"of a worker p50 {quantile(one, .5) * 1e3:.0f} ms, p99 {quantile(one, .99) * 1e3:.0f} ms; "
              f"of the daemon p50 {quantile(whole, .5) * 1e3:.0f} ms, p99 {quantile(whole, .99) * 1e3:.0f} ms")
        print("  p50/p99/most in ms: " + ", ".join(
            f"{n} {quantile(v, .5) * 1e3:.0f}/{quantile(v, .99) * 1e3:.0f}/{max(v) * 1e3:.0f}, {len(v)} times"
            for n, v in sorted(stages.items())))
        print("  " + ", ".join(f"{n} x {k}" for k, n in sorted(storm.kills.items())))


FULL = """
producers:
  gen: {type: generate, record: {id: =seq, pad: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}}
consumers:
  out: {type: file, path: @/out.jsonl, codec: json, quota: %d}
"""


def test_a_full_arena_is_taken_over(capsys, tmp_path):
    """The whole daemon dies with its arena full: the next one delivers at once, however much there is."""
    mib, size = ARENA_MIB, f"{ARENA_MIB}MiB"
    config = HEAD % dict(arena=size, buffer="256KiB") + FULL % (mib * 4 - 24)
    with Box(config, build=oracle.RELEASE, under=ARENA_UNDER) as box:
        box.start()
        oracle.until(lambda: f"the consumer to pause; log:\n{box.log()}",
                     lambda: (box.ask("pause out") or {"error": 1}).get("error") is None)

        def full():
            stats = box.ask("stats")
            gen = box.stages().get("gen", {})
            return stats and gen.get("state") == "blocked" and stats["arena"]
        arena = oracle.until("the arena to be full", full, deadline=4 * oracle.DEADLINE, pause=0.05)
        workers = [w["pid"] for w in box.workers()]
        size_before = box.path("out.jsonl").stat().st_size
        since = time.monotonic()
        box.signal(box.pid, signal.SIGKILL)
        for pid in workers:
            box.signal(pid, signal.SIGKILL)
        box.process.wait()
        box.start()
        oracle.until("the first delivery", lambda: box.path("out.jsonl").stat().st_size > size_before, pause=0.001)
        took = time.monotonic() - since
        oracle.until("the books", lambda: (box.ask("audit") or {}).get("balanced"))
    with capsys.disabled():
        print(f"\n  {arena['buffers'] - arena['free']} of {arena['buffers']} buffers in use ({size} under {ARENA_UNDER}): "
              f"{took * 1e3:.0f} ms from the kill of everything to the first record delivered")
