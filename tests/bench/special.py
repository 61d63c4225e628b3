"""The measurements that are no race over one file: latency, idle, a slow output, one slow worker of four."""
import os
import re
import subprocess
import time

from contenders import CLEAN, LOAD, PY, RIVALS, SMALL, audit, config, sluiced, started
from measure import Process, children_of, until


def cpu_of(pid):
    """CPU seconds of a living tree."""
    total = 0
    for p in children_of(pid)[1:]:
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{task}/schedstat") as f:
                    total += int(f.read().split()[0])
        except OSError:
            continue
    return total / 1e9


def words(text):
    return {k: float(v) for k, v in re.findall(r"(\w+)=([\d.]+)", text)}


def ends(where):
    return f"ipc://{where}/in.s", f"ipc://{where}/out.s"


def relayed(where, p, rate, seconds):
    """p50 and p99 of what goes through process @p, and its CPU."""
    until(lambda: all(os.path.exists(f"{where}/{s}.s") for s in ("in", "out")))
    before = cpu_of(p.pid)
    out = subprocess.run([LOAD, "latency", *ends(where), str(rate), str(seconds)], stdout=subprocess.PIPE, text=True)
    got = words(out.stdout)
    got["cpu"] = (cpu_of(p.pid) - before) / (rate * seconds) * 1e6
    p.stop()
    return got


def latency_sluice(where, linger, rate, seconds):
    i, o = ends(where)
    path = config(where, SMALL, f'type: zmq, listen: "{i}", codec: json, batch: {{linger: {linger}}}',
                  "steps: [set: {service: =upper(service)}]",
                  f'type: zmq, socket: push, listen: "{o}", codec: json, retry: {{base: 5ms, max: 20ms}}')
    return relayed(where, sluiced(path), rate, seconds)


def latency_command(where, argv, rate, seconds):
    return relayed(where, Process([*argv, *ends(where)]), rate, seconds)


def latency(where, rate, seconds):
    yield "sluice, linger 0", latency_sluice(fresh(where, "a"), "0ms", rate, seconds)
    yield "sluice, linger 1 ms", latency_sluice(fresh(where, "b"), "1ms", rate, seconds)
    yield "pyzmq relay", latency_command(fresh(where, "c"), [PY, f"{RIVALS}/zmq_pipeline.py", "relay"], rate, seconds)
    yield "bare libzmq relay in C (limit)", latency_command(fresh(where, "d"), [LOAD, "relay"], rate, seconds)


def fresh(where, name):
    path = os.path.join(where, name)
    os.makedirs(path)
    return path


def idle(where, seconds):
    """The share of a core that a daemon with three stages and nothing to do takes, in per cent; its PSS."""
    i, o = ends(where)
    path = config(where, SMALL, f'type: zmq, listen: "{i}", codec: json', CLEAN,
                  f'type: zmq, socket: push, listen: "{o}", codec: json')
    p = sluiced(path)
    until(lambda: started(where))
    before, begin = cpu_of(p.pid), time.monotonic()
    until(lambda: time.monotonic() - begin > seconds, step=0.1)
    share = 100 * (cpu_of(p.pid) - before) / (time.monotonic() - begin)
    p.sample()
    p.stop()
    return share, p.peak


def slow_output(where, records, mbps):
    """Peak memory while an output takes less than is offered; nothing may be lost."""
    i, o = ends(where)
    path = config(where, "size: 16MiB", f'type: zmq, listen: "{i}", codec: json', None,
                  f'type: zmq, socket: push, listen: "{o}", codec: json, retry: {{base: 5ms, max: 20ms}}')
    p = sluiced(path)
    until(lambda: started(where))
    drain = subprocess.Popen([LOAD, "drain", o, str(mbps), str(1 << 60)], stdout=subprocess.DEVNULL)
    push = subprocess.Popen([LOAD, "push", i, records.path, "65536"], stdout=subprocess.DEVNULL)

    def done():
        p.sample()
        a = audit(where)
        return a["delivered"] >= records.n and a
    a = until(done, 600, 0.05)
    push.wait()
    drain.terminate()
    drain.wait()
    p.stop()
    return p.peak, a["received"], a["delivered"]


SLEEPER = """import os, sys, time
try:
    os.mkdir(sys.argv[1])
    slow = float(sys.argv[2])
except OSError:
    slow = 1.0
for line in sys.stdin.buffer:
    time.sleep(0.0005 * slow)
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""


def workers(where, n, count, slow):
    """Records a second of @n transformer workers that wait 0.5 ms for each record, one of them @slow times that."""
    script = os.path.join(where, "sleeper.py")
    with open(script, "w") as f:
        f.write(SLEEPER)
    path = config(where, "size: 16MiB", f"type: generate, count: {count}, batch: {{records: 2}}",
                  f"workers: {n}, steps: [exec: {{command: [{PY}, {script}, {where}/taken, \"{slow}\"]}}]",
                  'type: "null"')
    begin = time.monotonic()
    p = sluiced(path, "--until-done")
    p.wait()
    return count / (time.monotonic() - begin)
