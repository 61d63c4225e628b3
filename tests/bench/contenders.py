"""Who takes part in which race (J1, J2, J3, transport, ingest), and how each is started.

A contender gives start(dir, records, output, memory) -> a run: wall seconds, CPU seconds, peak PSS. Most are commands that end
by themselves. Servers are fed by tests/bench/load and stopped when their output holds all records.
"""
import os
import shutil
import socket
import subprocess
import time

import goals
from measure import Process, until, words
from sluice import BENCH, CLEAN, REWRITE, SMALL, TRANSPORT, config, finished, sluiced, started

HERE = os.path.dirname(os.path.abspath(__file__))
LOAD, LOOP, WIRE, CHECKED = (os.path.join(BENCH, name) for name in ("load", "loop", "wire", "checked"))
RIVALS = os.path.join(HERE, "rivals")
PY = "/usr/bin/python3"
FLUENT_BIT = os.environ.get("FLUENT_BIT", "FLUENT_BIT=")


class Run:
    def __init__(self, wall, cpu, peak, output=None, right=None):
        self.wall, self.cpu, self.peak, self.output, self.right = wall, cpu, peak, output, right


class Contender:
    def __init__(self, name, job, start, share=1.0, needs=None, note="", raw=None, peer=False):
        self.name, self.job, self.start = name, job, start
        self.share = share  # of the records: a slow one gets fewer, its figures are per record
        self.needs, self.note = needs, note
        self.raw = raw    # the row whose rate is the limit of this one's
        self.peer = peer  # does the whole job, as sluice does

    def missing(self):
        return absent(self.needs)


def absent(program):
    if program and not (shutil.which(program) or os.path.exists(program)):
        return program
    return None


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def batch(argv, stdin=False, stdout=False, env=None):
    """A command that ends by itself. {in} and {out} are the files."""
    def start(where, records, output, memory):
        args = [a.replace("{in}", records.path).replace("{out}", output).replace("{dir}", where)
                .replace("{n}", str(records.n)) for a in argv]
        i = open(records.path, "rb") if stdin else None
        o = open(output, "wb") if stdout else None
        begin = time.monotonic()
        p = Process(args, stdin=i, stdout=o, env=env)
        cpu = p.watch() if memory else p.wait()
        wall = time.monotonic() - begin
        return Run(wall, cpu, p.peak, output if os.path.exists(output) else None, False if p.status else None)
    return start


# ---- sluice ----

def sluice_file(codec, transformer, arena=SMALL, producer="type: file, path: {in}", consumer=None):
    def start(where, records, output, memory):
        take = producer.replace("{in}", records.path).replace("{n}", str(records.n))
        give = consumer or f"type: file, path: {output}"
        if codec:
            take, give = f"{take}, codec: {codec}", f"{give}, codec: {codec}"
        path = config(where, arena, take, transformer, give)
        begin = time.monotonic()
        if memory and consumer:  # its books are its output
            p = sluiced(path)
            right = watched(where, p, records.n)
            return Run(0, 0, p.peak, right=right)
        p = sluiced(path, "--until-done")
        cpu = p.watch() if memory else p.wait()
        return Run(time.monotonic() - begin, cpu, p.peak, None if consumer else output)
    return start


def watched(where, p, n):
    """Looks at memory until @n records have gone through; whether the books are right."""
    until(lambda: started(where))
    books = finished(where, n, p.sample, 0.03)
    p.stop()
    return books["delivered"] == n and books["balanced"]


def sluice_fed(producer, transformer, consumer, client, arena=SMALL):
    """The daemon, fed over a socket by @client; ends when the books say that all went through."""
    def start(where, records, output, memory):
        at = f"tcp://127.0.0.1:{free_port()}"
        path = config(where, arena.replace("{dir}", where), f'type: zmq, listen: "{at}", {producer}', transformer,
                      consumer.replace("{out}", output))
        p = sluiced(path)
        until(lambda: started(where))
        begin = time.monotonic()
        c = subprocess.Popen([a.replace("{at}", at).replace("{in}", records.path).replace("{n}", str(records.n))
                              for a in client], stdout=subprocess.DEVNULL)

        def fed_all():
            if memory:
                p.sample()
            return c.poll() is not None
        until(fed_all)
        books = finished(where, records.n)
        wall = time.monotonic() - begin
        right = books["delivered"] + books["filtered"] == records.n and books["balanced"]
        return Run(wall, p.stop(), p.peak, output if "{out}" in consumer else None, right)
    return start


# ---- peers that are fed over a socket ----

def fed(argv, client, ready=None):
    """A server that ends by itself when its client has gone."""
    def start(where, records, output, memory):
        port = free_port()
        fill = {"{port}": str(port), "{out}": output, "{in}": records.path, "{n}": str(records.n),
                "{at}": f"tcp://127.0.0.1:{port}"}

        def filled(words):
            for k, v in fill.items():
                words = [w.replace(k, v) for w in words]
            return words
        p = Process(filled(argv))
        until(lambda: listening(port))
        begin = time.monotonic()
        c = subprocess.Popen(filled(client), stdout=subprocess.DEVNULL)
        cpu = p.watch() if memory else p.wait()
        c.wait()
        return Run(time.monotonic() - begin, cpu, p.peak, output)
    return start


def listening(port):
    want = f":{port:04X} 00000000:0000 0A"
    with open("/proc/net/tcp") as f:
        return any(want in line for line in f)


class Lines:
    """Counts the lines of a file that grows."""

    def __init__(self, path):
        self.path, self.at, self.n = path, 0, 0

    def count(self):
        try:
            with open(self.path, "rb") as f:
                f.seek(self.at)
                while block := f.read(1 << 20):
                    self.n += block.count(b"\n")
                    self.at += len(block)
        except FileNotFoundError:
            pass
        return self.n

    def rest(self):
        """Whether nothing has come since the last look."""
        return self.n == self.count()


def daemon(job, argv, template, given, over_socket=False, env=None):
    """rsyslog, syslog-ng, Fluent Bit: they never end. Done when all but the last block has been written (they keep that
    in memory till they stop), then stopped."""
    def start(where, records, output, memory):
        port = free_port()
        configure(where, template, INPUT=given, OUTPUT=TO_FILES[template], IN=records.path, PORT=port, OUT=output)
        lines, want = Lines(output), int(records.expected[job].split()[0]) - 3000
        begin = time.monotonic()
        p = Process([a.replace("{dir}", where) for a in argv], env=env)
        c = None
        if over_socket:
            until(lambda: listening(port))
            begin = time.monotonic()
            c = subprocess.Popen([LOAD, "tcp", str(port), records.path], stdout=subprocess.DEVNULL)

        def done():
            if memory:
                p.sample()
            return lines.count() >= want
        try:
            until(done, step=0.05)
            wall = time.monotonic() - begin
            until(lines.rest, step=1)
        finally:
            cpu = p.stop()
            if c:
                c.kill()
                c.wait()
        return Run(wall, cpu, p.peak, output)
    return start


def configure(where, template, **words):
    """Writes the directory's `conf` from a rival's template; a word may hold others."""
    with open(os.path.join(RIVALS, template)) as f:
        text = f.read()
    words = {"FLUSH": 0.2, "FLAGS": "", **words, "DIR": where, "RIVALS": RIVALS}
    for _ in range(2):
        for k, v in words.items():
            text = text.replace(f"@{k}@", str(v))
    with open(os.path.join(where, "conf"), "w") as f:
        f.write(text)


def python(script, *args):
    return [PY, os.path.join(RIVALS, script), *args]


RSYSLOG = ["rsyslogd", "-n", "-f", "{dir}/conf", "-i", "{dir}/pid"]
NG = os.path.join(BENCH, "syslog-ng")
SYSLOG_NG = [f"{NG}/usr/sbin/syslog-ng", "-F", "-f", "{dir}/conf", "-R", "{dir}/persist", "-p", "{dir}/pid",
             "-c", "{dir}/ctl", f"--module-path={NG}/usr/lib/syslog-ng/3.38", "--no-caps"]
NG_ENV = {"LD_LIBRARY_PATH": f"{NG}/usr/lib/syslog-ng"}
FLUENT = [FLUENT_BIT, "-q", "-c", "{dir}/conf"]

RSYSLOG_FILE = 'module(load="imfile")\ninput(type="imfile" File="@IN@" Tag="x" ruleset="clean" freshStartTail="off")'
RSYSLOG_TCP = 'module(load="imptcp")\ninput(type="imptcp" port="@PORT@" ruleset="clean")'
NG_FILE = 'file("@IN@" flags(no-parse) log-msg-size(65536) follow-freq(0.1) log-iw-size(10000) log-fetch-limit(1000));'
NG_TCP = "network(port(@PORT@) flags(no-parse) log-msg-size(65536) log-iw-size(10000) log-fetch-limit(1000));"
FLUENT_TAIL = "name tail\n  path @IN@\n  read_from_head true\n  buffer_chunk_size 1M\n  buffer_max_size 4M"
FLUENT_FILE = FLUENT_TAIL + "\n  parser json"
FLUENT_TCP = "name tcp\n  listen 127.0.0.1\n  port @PORT@\n  format json\n  chunk_size 1024\n  buffer_size 4096"
TO_FILES = {
    "rsyslog.conf": 'action(type="omfile" file="@OUT@" template="out" ioBufferSize="256k" flushOnTXEnd="off")',
    "syslog-ng.conf": 'file("@OUT@" template("$(format-json --scope none .j.* --shift-levels 2)\\n"))',
    "fluent-bit.conf": "name file\n  match *\n  path @DIR@\n  file output\n  format plain",
}
TO_FILES["rsyslog-lines.conf"] = TO_FILES["rsyslog.conf"]
TO_FILES["syslog-ng-lines.conf"] = 'file("@OUT@" template("$MSG\\n"))'
TO_FILES["fluent-bit-lines.conf"] = TO_FILES["fluent-bit.conf"].replace("plain", "template\n  template {log}")


PUSH = [LOAD, "push", "{at}", "{in}", "65536", "1"]
TO_FILE = "type: file, path: {out}, codec: json"
TO_NULL = 'type: "null"'

TCP = [LOAD, "tcp", "{port}", "{in}"]
BIG = "size: 32MiB, buffer: 1MiB"
GENERATE = "type: generate, count: {n}"


def packed(size):
    return [LOAD, "pack", "{at}", "{n}", str(size)]


def raw(size):
    """libzmq alone, fed as the daemon is."""
    def start(where, count, output, memory):
        told = os.path.join(where, "told")
        run = batch([LOAD, "raw", "{n}", str(size)], stdout=True)(where, count, told, memory)
        with open(told) as f:
            run.wall = words(f.read())["seconds"]  # from the first message to the last: no start, no end
        run.output, run.right = None, run.right is None  # it has counted the bytes
        return run
    return start


LINES = [
    Contender("sluice", "J1", sluice_file("lines", None)),
    Contender("C loop", "J1", batch([LOOP, "lines", "{in}", "{out}"]), note="limit"),
    Contender("cat", "J1", batch(["cat", "{in}"], stdout=True), note="limit"),
    Contender("mawk", "J1", batch(["mawk", "{print}", "{in}"], stdout=True), needs="mawk"),
    Contender("Node", "J1", batch(["node", f"{RIVALS}/stream.js", "lines", "{in}", "{out}"]), 0.5, "node"),
    Contender("asyncio.Queue", "J1", batch(python("asyncio_queue.py", "lines", "{in}", "{out}")), 0.25),
    Contender("multiprocessing.Queue", "J1", batch(python("mp_queue.py", "lines", "{in}", "{out}")), 0.05),
    Contender("rsyslog", "J1", daemon("J1", RSYSLOG, "rsyslog-lines.conf", RSYSLOG_FILE), 0.1, "rsyslogd"),
    Contender("syslog-ng", "J1", daemon("J1", SYSLOG_NG, "syslog-ng-lines.conf", NG_FILE, env=NG_ENV), 0.1, SYSLOG_NG[0]),
    Contender("Fluent Bit", "J1", daemon("J1", FLUENT, "fluent-bit-lines.conf", FLUENT_TAIL), 0.5, FLUENT_BIT),
]

CLEANED = [
    Contender("sluice", "J2", sluice_file("json", CLEAN)),
    Contender("C loop", "J2", batch([LOOP, "clean", "{in}", "{out}"]), note="limit; checks nothing"),
    Contender("C loop over yajl", "J2", batch([CHECKED, "{in}", "{out}"]), note="limit; checks JSON and UTF-8"),
    Contender("mawk", "J2", batch(["mawk", "-f", f"{RIVALS}/clean.awk", "{in}"], stdout=True), 0.5, "mawk", "no parser, no hash"),
    Contender("jq", "J2", batch(["jq", "-c", "-f", f"{RIVALS}/clean.jq", "{in}"], stdout=True), 0.05, "jq", "no hash"),
    Contender("Node", "J2", batch(["node", f"{RIVALS}/stream.js", "clean", "{in}", "{out}"]), 0.25, "node", "MD5", peer=True),
    Contender("asyncio.Queue", "J2", batch(python("asyncio_queue.py", "clean", "{in}", "{out}")), 0.1, peer=True),
    Contender("ProcessPoolExecutor", "J2", batch(python("pool.py", "clean", "{in}", "{out}")), 0.1, peer=True),
    Contender("multiprocessing.Queue", "J2", batch(python("mp_queue.py", "clean", "{in}", "{out}")), 0.05, peer=True),
    Contender("pyzmq", "J2", batch(python("zmq_pipeline.py", "clean", "{in}", "{out}")), 0.1, peer=True),
    Contender("rsyslog", "J2", daemon("J2", RSYSLOG, "rsyslog.conf", RSYSLOG_FILE), 0.1, "rsyslogd", peer=True),
    Contender("syslog-ng", "J2", daemon("J2", SYSLOG_NG, "syslog-ng.conf", NG_FILE, env=NG_ENV), 0.05, SYSLOG_NG[0], "MD5", peer=True),
    Contender("Fluent Bit", "J2", daemon("J2", FLUENT, "fluent-bit.conf", FLUENT_FILE), 0.25, FLUENT_BIT, "no hash", peer=True),
]

FED = [
    Contender("sluice", "J3", sluice_fed("codec: json", CLEAN, TO_FILE, PUSH)),
    Contender("C over zmq", "J3", fed([LOOP, "serve", "{at}", "{out}", "{n}"], PUSH), note="limit; checks nothing"),
    Contender("pyzmq", "J3", fed(python("zmq_pipeline.py", "serve", "{at}", "{out}", "{n}"), PUSH), 0.1, peer=True),
    Contender("asyncio.Queue", "J3", fed(python("asyncio_queue.py", "serve", "{port}", "{out}"), TCP), 0.1, peer=True),
    Contender("Node", "J3", fed(["node", f"{RIVALS}/stream.js", "serve", "{port}", "{out}"], TCP), 0.25, "node", "MD5", peer=True),
    Contender("rsyslog", "J3", daemon("J3", RSYSLOG, "rsyslog.conf", RSYSLOG_TCP, True), 0.1, "rsyslogd", peer=True),
    Contender("syslog-ng", "J3", daemon("J3", SYSLOG_NG, "syslog-ng.conf", NG_TCP, True, NG_ENV), 0.05, SYSLOG_NG[0], "MD5", peer=True),
    Contender("Fluent Bit", "J3", daemon("J3", FLUENT, "fluent-bit.conf", FLUENT_TCP, True), 0.25, FLUENT_BIT, "no hash", peer=True),
]

TRANSPORTED = [
    Contender("sluice", "transport", sluice_file(None, REWRITE, BIG, GENERATE, TO_NULL), 8, note="buffers of 1 MiB"),
    Contender("sluice, default buffers", "transport", sluice_file(None, REWRITE, SMALL, GENERATE, TO_NULL), 8, note="256 KiB"),
    Contender("sluice, a time added as well", "transport", sluice_file(None, TRANSPORT, BIG, GENERATE, TO_NULL), 8,
              note="buffers of 1 MiB"),
]

RAW1, RAW100, RAW64K = (f"raw libzmq, {what} a message" for what in ("1 record", "100 records", "64 KiB"))
INGESTED = [
    Contender(goals.ONE, "ingest", sluice_fed("codec: msgpack, receive_hwm: 1000", None, TO_NULL, packed(1)), 2,
              note="receive_hwm 1000", raw=RAW1),
    Contender(f"{goals.ONE}, default", "ingest", sluice_fed("codec: msgpack", None, TO_NULL, packed(1)), 2,
              note="receive_hwm 100", raw=RAW1),
    Contender(RAW1, "ingest", raw(1), 2, note="limit; CPU of both ends"),
    Contender(goals.ACKED, "ingest", sluice_fed("codec: msgpack, socket: router", None, TO_NULL,
                                                [LOAD, "acked", "{at}", "{n}", "100"]), 2.5, raw=RAW100),
    Contender(RAW100, "ingest", raw(10000), 2.5, note="limit; CPU of both ends"),
    Contender(goals.MANY, "ingest", sluice_fed("codec: msgpack", None, TO_NULL, packed(65536)), 5, raw=RAW64K),
    Contender(RAW64K, "ingest", raw(65536), 5, note="limit; CPU of both ends"),
]

ALL = LINES + CLEANED + FED + TRANSPORTED + INGESTED
