"""An output that takes 5 MB/s while much more is offered: peak memory, and what arrives.

By default the output is slow for HOLD seconds, then takes all it gets, so that a run ends: whoever hoards has its whole hoard by
then if it can read the input in that time. `--full` keeps it slow to the end.
"""
import os
import subprocess
import time

import relays
from contenders import LOAD, WIRE
from latency import present
from measure import until
from race import alternate, digest, in_dir
from relays import Relay
from report import Column, Section
from sluice import audit

MBPS, HOLD, SHORT_HOLD, BOUND = 5, 12, 3, 150
MIB = 1 << 20
CLIENTS, HWM, MESSAGE, WORKERS = 1, 16, 64 << 10, 4  # three stages and the dead letters'
FORMULA = 16 * MIB + 2 * MIB + 8 * MIB * (WORKERS + 1) + CLIENTS * (HWM + 1) * MESSAGE
COLUMNS = [Column("peak", "peak PSS, MB", 1e-6, 1), Column("arrived", "% of what should have arrived", 1, 1, False),
           Column("seconds", "s till the last one", 1, 0)]
OURS = Relay("sluice", relays.sluice(f"max_clients: {CLIENTS}, receive_hwm: {HWM}, max_message: {MESSAGE}"), False)
ENTRANTS = [
    OURS, relays.ASYNCIO, relays.MP_QUEUE, relays.POOL, relays.PYZMQ, relays.NODE, relays.RSYSLOG_RELAY, relays.NG_RELAY,
    relays.NG_CAREFUL, relays.FLUENT_RELAY, relays.FLUENT_LIMITED,
]
# Who bounds its queues, and is slow, is offered a part: its peak is reached long before, and the rest would only take time.
SHARE = {relays.ASYNCIO: 0.25, relays.MP_QUEUE: 0.1, relays.NODE: 0.4, relays.RSYSLOG_RELAY: 0.4, relays.NG_RELAY: 0.4,
         relays.NG_CAREFUL: 0.25}


def feeder(into, records):
    if into.startswith("plain:"):
        return [LOAD, "tcp", into[6:], records.path]
    return [LOAD, "push", into, records.path, str(MESSAGE), "1"]


def watched(r, output, records):
    """Starts the client, and looks at the memory until the slow taker has seen the end."""
    client = subprocess.Popen(feeder(r.into, records), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begin = time.monotonic()

    def ended():
        r.process.sample()
        return r.far.poll() is not None
    try:
        until(ended, BOUND, 0.05)
    except TimeoutError:
        print(f"  cut off after {BOUND} s", flush=True)
    finally:
        client.kill()
        client.wait()
    return digest(output), time.monotonic() - begin


def part(o):
    hold = 1e9 if o.full else SHORT_HOLD if o.short else HOLD

    def once(where, row):
        output, records = os.path.join(where, "taken"), row.input
        r = row.relay.run(where, lambda _, out: [WIRE, "drain", out, str(MBPS), str(hold), str(records.kept), output])
        try:
            got, seconds = watched(r, output, records)
            balanced = row.relay is not OURS or audit(where)["balanced"]
        finally:
            r.stop()
        lines = int(got.split()[0])
        row.add(peak=r.process.peak, arrived=100 * lines / records.kept, seconds=seconds)
        if row.relay is OURS:
            row.add(formula=r.process.peak / FORMULA)
        whole = got == records.expected["J2"] and balanced
        row.right = "yes" if whole else f"no: {lines} of {records.kept} arrived" if row.relay is not OURS else "NO"
    rows = present(ENTRANTS)
    for row in rows:
        row.records = int(o.records * (1 if o.full or o.short else SHARE.get(row.relay, 1)))
        row.input = o.input(row.records)
    alternate(1, rows, lambda row, _: in_dir(once, row))
    kept_slow = "to the end" if o.full else f"for {hold} s, then all that comes"
    text = [f"Records of about 190 bytes, offered as fast as they are taken; the output takes {MBPS} MB/s "
            f"{kept_slow}. One run each, one after the other. "
            f"sluice: arena of 16 MiB; the memory formula (arena, ledger, {WORKERS} workers and the master with 8 MiB each, "
            f"{CLIENTS} client x {HWM + 1} messages of 64 KiB) gives {FORMULA / 1e6:.1f} MB. "
            "\"s till the last one\" has 10 s of silence in it where not all arrived."]
    return Section("slow", f"Slow output: {MBPS} MB/s", COLUMNS, rows, "peak", ("peak", "arrived"), text)
