"""Who takes part in which job, and how each is started.

A contender gives start(dir, input, output) -> a run: wall seconds, CPU seconds, peak PSS. Most are commands that end by
themselves. Servers are fed by tests/bench/load and stopped when their output holds all records.
"""
import json
import os
import shutil
import socket
import subprocess
import time

from measure import Process, until

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(TOP, "build")
BENCH = os.path.join(BUILD, "bench")
LOAD, LOOP = os.path.join(BENCH, "load"), os.path.join(BENCH, "loop")
RIVALS = os.path.join(HERE, "rivals")
PY = "/usr/bin/python3"
KEEP = 0.75  # the share of records that is not debug, roughly


class Run:
    def __init__(self, wall, cpu, peak, output=None):
        self.wall, self.cpu, self.peak, self.output = wall, cpu, peak, output


class Contender:
    def __init__(self, name, job, start, share=1.0, needs=None, note=""):
        self.name, self.job, self.start = name, job, start
        self.share = share  # of the records: a slow one gets fewer, its figures are per record
        self.needs, self.note = needs, note

    def missing(self):
        if self.needs and not (shutil.which(self.needs) or os.path.exists(self.needs)):
            return self.needs
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
        return Run(time.monotonic() - begin, cpu, p.peak, output if os.path.exists(output) else None)
    return start


# ---- sluice ----

def config(where, arena, producer, transformer, consumer):
    text = (f"arena: {{{arena}}}\ncontrol: {{socket: {where}/c.sock}}\ndead_letters: {{path: {where}/dead}}\n"
            f"state: {{path: {where}/state}}\n"
            f"producers: {{in: {{{producer}}}}}\n")
    if transformer:
        text += f"transformers: {{t: {{{transformer}}}}}\n"
    text += f"consumers: {{out: {{{consumer}}}}}\n"
    path = os.path.join(where, "sluice.yaml")
    with open(path, "w") as f:
        f.write(text)
    os.makedirs(os.path.join(where, "state"), exist_ok=True)
    return path


def sluiced(path, *more, log=None):
    return Process([os.path.join(BUILD, "sluiced"), "-c", path, *more],
                   env={"XDG_RUNTIME_DIR": os.path.dirname(path)}, log=log)


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


CLEAN = "steps: [filter: {level: {not: debug}}, set: {processed_at: =now(), hash: =xxh64(msg), service: =upper(service)}]"
TRANSPORT = 'steps: [set: {at: =now(), service: =upper(service)}]'
SMALL = "size: 16MiB"


def sluice_file(codec, transformer, arena=SMALL, producer="type: file, path: {in}", consumer=None):
    def start(where, records, output, memory):
        take = producer.replace("{in}", records.path).replace("{n}", str(records.n))
        give = consumer or f"type: file, path: {output}"
        if codec:
            take, give = f"{take}, codec: {codec}", f"{give}, codec: {codec}"
        path = config(where, arena, take, transformer, give)
        begin = time.monotonic()
        p = sluiced(path, "--until-done")
        cpu = p.watch() if memory else p.wait()
        return Run(time.monotonic() - begin, cpu, p.peak, None if consumer else output)
    return start


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

        def done():
            if memory:
                p.sample()
            a = audit(where)
            return a["received"] >= records.n and a["in_flight"] == 0
        until(done)
        wall = time.monotonic() - begin
        c.wait()
        return Run(wall, p.stop(), p.peak, output if "{out}" in consumer else None)
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


def daemon(argv, template, file_input, socket_input, over_socket, env=None):
    """rsyslog and syslog-ng: they never end. Done when all but the last block has been written (they keep that
    in memory till they stop), then stopped."""
    def start(where, records, output, memory):
        port = free_port()
        text = open(os.path.join(RIVALS, template)).read()
        given = (socket_input if over_socket else file_input).replace("{in}", records.path).replace("{port}", str(port))
        for k, v in {"@INPUT@": given, "@OUT@": output, "@DIR@": where}.items():
            text = text.replace(k, v)
        with open(os.path.join(where, "conf"), "w") as f:
            f.write(text)
        lines, want = Lines(output), records.kept - 3000
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
        until(done, 600, 0.05)
        wall = time.monotonic() - begin
        cpu = p.stop()
        if c:
            c.wait()
        return Run(wall, cpu, p.peak, output)
    return start


def fluent_bit(where, records, output, memory):
    with open(os.path.join(where, "parsers.conf"), "w") as f:
        f.write("[PARSER]\n    Name json\n    Format json\n")
    with open(os.path.join(where, "f.lua"), "w") as f:
        f.write("function clean(tag, ts, r)\n if r.level == 'debug' then return -1, 0, 0 end\n"
                " r.service = string.upper(r.service)\n r.processed_at = os.date('!%FT%TZ')\n"
                " r.hash = #r.msg\n return 2, ts, r\nend\n")
    argv = [os.environ["FLUENT_BIT"], "-q", "-f", "1", "-R", f"{where}/parsers.conf",
            "-i", "tail", "-p", f"path={records.path}", "-p", "read_from_head=true", "-p", "exit_on_eof=true",
            "-p", "parser=json", "-p", "buffer_chunk_size=1M", "-p", "buffer_max_size=4M",
            "-F", "lua", "-m", "*", "-p", f"script={where}/f.lua", "-p", "call=clean",
            "-o", "file", "-m", "*", "-p", f"path={where}", "-p", "file=out", "-p", "format=plain"]
    begin = time.monotonic()
    p = Process(argv)
    cpu = p.watch() if memory else p.wait()
    os.rename(os.path.join(where, "out"), output)
    return Run(time.monotonic() - begin, cpu, p.peak, output)


def python(script, *args):
    return [PY, os.path.join(RIVALS, script), *args]


RSYSLOG = dict(argv=["rsyslogd", "-n", "-f", "{dir}/conf", "-i", "{dir}/pid"], template="rsyslog.conf",
               file_input='module(load="imfile")\ninput(type="imfile" File="{in}" Tag="x" ruleset="clean" freshStartTail="off")',
               socket_input='module(load="imptcp")\ninput(type="imptcp" port="{port}" ruleset="clean")')
NG = os.path.join(BENCH, "syslog-ng")
SYSLOG_NG = dict(argv=[f"{NG}/usr/sbin/syslog-ng", "-F", "-f", "{dir}/conf", "-R", "{dir}/persist", "-p", "{dir}/pid",
                       "-c", "{dir}/ctl", f"--module-path={NG}/usr/lib/syslog-ng/3.38", "--no-caps"],
                 template="syslog-ng.conf", env={"LD_LIBRARY_PATH": f"{NG}/usr/lib/syslog-ng"},
                 file_input='file("{in}" flags(no-parse) log-msg-size(65536) follow-freq(0.1) log-iw-size(10000) log-fetch-limit(1000));',
                 socket_input='network(port({port}) flags(no-parse) log-msg-size(65536) log-iw-size(10000) log-fetch-limit(1000));')

PUSH = [LOAD, "push", "{at}", "{in}", "65536"]
TO_FILE = "type: file, path: {out}, codec: json"
TO_NULL = 'type: "null"'

ALL = [
    Contender("sluice", "J1", sluice_file("lines", None)),
    Contender("C loop", "J1", batch([LOOP, "lines", "{in}", "{out}"]), note="limit"),
    Contender("cat", "J1", batch(["cat", "{in}"], stdout=True), note="limit"),
    Contender("mawk", "J1", batch(["mawk", "{print}", "{in}"], stdout=True), needs="mawk"),
    Contender("Node", "J1", batch(["node", f"{RIVALS}/stream.js", "lines", "{in}", "{out}"]), 0.5, "node"),
    Contender("asyncio.Queue", "J1", batch(python("asyncio_queue.py", "lines", "{in}", "{out}")), 0.25),
    Contender("multiprocessing.Queue", "J1", batch(python("mp_queue.py", "lines", "{in}", "{out}")), 0.05),

    Contender("sluice", "J2", sluice_file("json", CLEAN)),
    Contender("C loop", "J2", batch([LOOP, "clean", "{in}", "{out}"]), note="limit; checks nothing"),
    Contender("mawk", "J2", batch(["mawk", "-f", f"{RIVALS}/clean.awk", "{in}"], stdout=True), 0.5, "mawk", "no parser, no hash"),
    Contender("jq", "J2", batch(["jq", "-c", "-f", f"{RIVALS}/clean.jq", "{in}"], stdout=True), 0.1, "jq", "no hash"),
    Contender("Node", "J2", batch(["node", f"{RIVALS}/stream.js", "clean", "{in}", "{out}"]), 0.25, "node", "MD5"),
    Contender("asyncio.Queue", "J2", batch(python("asyncio_queue.py", "clean", "{in}", "{out}")), 0.1),
    Contender("ProcessPoolExecutor", "J2", batch(python("pool.py", "clean", "{in}", "{out}")), 0.1),
    Contender("multiprocessing.Queue", "J2", batch(python("mp_queue.py", "clean", "{in}", "{out}")), 0.05),
    Contender("pyzmq", "J2", batch(python("zmq_pipeline.py", "clean", "{in}", "{out}")), 0.1),
    Contender("rsyslog", "J2", daemon(over_socket=False, **RSYSLOG), 0.1, "rsyslogd"),
    Contender("syslog-ng", "J2", daemon(over_socket=False, **SYSLOG_NG), 0.1, SYSLOG_NG["argv"][0], "MD5"),
    Contender("Fluent Bit", "J2", fluent_bit, 0.25, os.environ.get("FLUENT_BIT", "FLUENT_BIT="), "no hash"),

    Contender("sluice", "J3", sluice_fed("codec: json", CLEAN, TO_FILE, PUSH)),
    Contender("C over zmq", "J3", fed([LOOP, "serve", "{at}", "{out}", "{n}"], PUSH), note="limit; checks nothing"),
    Contender("pyzmq", "J3", fed(python("zmq_pipeline.py", "serve", "{at}", "{out}", "{n}"), PUSH), 0.1),
    Contender("asyncio.Queue", "J3", fed(python("asyncio_queue.py", "serve", "{port}", "{out}"), [LOAD, "tcp", "{port}", "{in}"]), 0.1),
    Contender("Node", "J3", fed(["node", f"{RIVALS}/stream.js", "serve", "{port}", "{out}"], [LOAD, "tcp", "{port}", "{in}"]), 0.25, "node", "MD5"),
    Contender("rsyslog", "J3", daemon(over_socket=True, **RSYSLOG), 0.1, "rsyslogd"),
    Contender("syslog-ng", "J3", daemon(over_socket=True, **SYSLOG_NG), 0.1, SYSLOG_NG["argv"][0], "MD5"),

    Contender("generate, set and upper, null", "transport",
              sluice_file(None, TRANSPORT, "size: 32MiB, buffer: 1MiB", "type: generate, count: {n}", TO_NULL), 0.5),
    Contender("the same, 20 times as many records", "transport",
              sluice_file(None, TRANSPORT, "size: 32MiB, buffer: 1MiB", "type: generate, count: {n}", TO_NULL), 10),

    Contender("PULL, 1 record a message, receive_hwm 1000", "ingest",
              sluice_fed("codec: msgpack, receive_hwm: 1000", None, TO_NULL, [LOAD, "pack", "{at}", "{n}", "1"])),
    Contender("PULL, 1 record a message, receive_hwm 100 (default)", "ingest",
              sluice_fed("codec: msgpack", None, TO_NULL, [LOAD, "pack", "{at}", "{n}", "1"])),
    Contender("PULL, 64 KiB a message", "ingest",
              sluice_fed("codec: msgpack", None, TO_NULL, [LOAD, "pack", "{at}", "{n}", "65536"]), 5),
    Contender("ROUTER, acknowledged, 100 records a message", "ingest",
              sluice_fed("codec: msgpack, socket: router", None, TO_NULL, [LOAD, "acked", "{at}", "{n}", "100"]), 2.5),
    Contender("the same, stored on disk before it is acknowledged (J5)", "ingest",
              sluice_fed("codec: msgpack, socket: router", None, TO_NULL, [LOAD, "acked", "{at}", "{n}", "100"],
                         "size: 64MiB, path: {dir}/arena, sync: true"), 1),
    Contender("raw libzmq, 100 bytes a message", "ingest", batch([LOAD, "raw", "{n}", "100"]), note="limit"),
]
