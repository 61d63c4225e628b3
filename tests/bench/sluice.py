"""Our own daemon: its configuration, its start, its books."""
import json
import os
import socket

from measure import Process, last_lines, until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, "build")
BENCH = os.path.join(BUILD, "bench")
CLEAN = "steps: [filter: {level: {not: debug}}, set: {processed_at: =now(), hash: =xxh64(msg), service: =upper(service)}]"
REWRITE = "steps: [set: {service: =upper(service)}]"
TRANSPORT = "steps: [set: {at: =now(), service: =upper(service)}]"
SMALL = "size: 16MiB"


def config(where, arena, producer, transformer, consumer):
    text = (f"arena: {{{arena}}}\ncontrol: {{socket: {where}/c.sock}}\ndead_letters: {{path: {where}/dead}}\n"
            f"state: {{path: {where}/state}}\ndaemon: {{runtime_dir: {where}/run}}\n"
            f"producers: {{in: {{{producer}}}}}\n")
    if transformer:
        text += f"transformers: {{t: {{{transformer}}}}}\n"
    text += f"consumers: {{out: {{{consumer}}}}}\n"
    path = os.path.join(where, "sluice.yaml")
    with open(path, "w") as f:
        f.write(text)
    os.makedirs(os.path.join(where, "state"), exist_ok=True)
    return path


def sluiced(path, *more):
    where = os.path.dirname(path)
    with open(os.path.join(where, "log"), "w") as log:
        return Process([os.path.join(BUILD, "sluiced"), "-c", path, *more], log=log)


def audit(where):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(os.path.join(where, "c.sock"))
        s.sendall(b"audit\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += s.recv(65536)
    return json.loads(answer)


def started(where):
    try:
        audit(where)
        return True
    except OSError:
        return False


def settled(where, n):
    """The books, once all @n records have come and gone."""
    books = audit(where)
    return books if books["received"] + books["made"] >= n and books["in_flight"] == 0 else None


def finished(where, n, look=None, step=0.005):
    """The books when all @n records have gone through; @look is called meanwhile."""
    def done():
        if look:
            look()
        return settled(where, n)
    try:
        return until(done, step=step)
    except TimeoutError:
        print(f"  not finished: {audit(where)}\n{last_lines(os.path.join(where, 'log'), 20)}", flush=True)
        raise
