"""What a daemon with nothing to do costs, and what the machine itself can do."""
import os
import subprocess
import time

import relays
from contenders import LOAD, WIRE
from measure import cpu_of, words
from race import alternate, in_dir
from relays import Relay
from report import Column, Row, Section
from sluice import BENCH

COLUMNS = [Column("share", "% of a core, all processes", 1, 3), Column("peak", "PSS, MB", 1e-6, 1)]
LIMITS = [Column("mb", "MB/s", 1, 0, False)]


def once(where, row, seconds):
    """One record a second comes and goes."""
    r = row.relay.run(where, lambda into, out: [WIRE, "pace", into, out, "1", str(seconds)])
    try:
        before, begin = cpu_of(r.process.pid), time.monotonic()
        out = r.go()
        row.add(share=100 * (cpu_of(r.process.pid) - before) / (time.monotonic() - begin))
        r.process.sample()
        row.add(peak=r.process.peak)
        row.right = "yes" if words(out)["whole"] else "NO"
    finally:
        r.stop()


def part(o):
    rows = [Row("sluice")]
    rows[0].relay = Relay("sluice", relays.sluice(), False)
    alternate(1 if o.short else 3, rows, lambda row, _: in_dir(once, row, 4 if o.short else 8))
    return Section("idle", "Idle: three stages, one record a second", COLUMNS, rows)


def limits(o):
    rows = [Row(name) for name in ("memcpy in the cache", "memcpy in memory", "disk, 1 GiB and fdatasync")]
    at = os.path.join(BENCH, "disk")
    for _ in range(1 if o.short else 3):
        got = words(subprocess.run([LOAD, "copy", "4096"], stdout=subprocess.PIPE, text=True, timeout=60).stdout)
        begin = time.monotonic()
        subprocess.run(["dd", "if=/dev/zero", f"of={at}", "bs=1M", "count=1024", "conv=fdatasync"], check=True,
                       stderr=subprocess.DEVNULL, timeout=120)
        disk = (1 << 30) / 1e6 / (time.monotonic() - begin)
        os.unlink(at)
        for row, mb in zip(rows, (got["cached_mb"], got["memory_mb"], disk)):
            row.add(mb=mb)
    return Section("limits", "Limits of the machine", LIMITS, rows)
