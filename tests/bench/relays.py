"""Who takes records from one socket, does the job, and gives them to another: for latency and for a slow output.

Each speaks its own kind of socket: ZeroMQ, bound on both sides, or lines over TCP, listening for input and connecting to its
output (see wire.c). All do the job of J2, but the bare relay.
"""
import os
import subprocess

from contenders import FLUENT, FLUENT_TCP, NG_ENV, NG_TCP, RSYSLOG, RSYSLOG_TCP, SYSLOG_NG, WIRE, FLUENT_BIT
from contenders import absent, configure, free_port, listening, python, RIVALS
from measure import Process, until
from sluice import CLEAN, SMALL, config, sluiced, started

OUTPUTS = {
    "rsyslog.conf": 'action(type="omfwd" target="127.0.0.1" port="@TO@" protocol="tcp" template="out" '
                    'action.resumeRetryCount="-1" action.resumeInterval="1")',
    "syslog-ng.conf": 'network("127.0.0.1" port(@TO@) template("$(format-json --scope none .j.* --shift-levels 2)\\n"))',
    "fluent-bit.conf": "name tcp\n  workers 1\n  match *\n  host 127.0.0.1\n  port @TO@\n  format json_lines\n  json_date_key false",
}


class Running:
    """A relay that has been started, the ends to talk to, and the program at its far end, which was there first."""

    def __init__(self, relay, where, far):
        ports = free_port(), free_port()
        self.into, self.out = (f"plain:{p}" if relay.plain else f"tcp://127.0.0.1:{p}" for p in ports)
        self.far = subprocess.Popen(far(self.into, self.out), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if relay.plain:
            until(lambda: listening(ports[1]))
        self.process = relay.start(where, *ports)
        try:
            self.wait_ready(where, relay.plain, ports)
        except TimeoutError:
            self.stop()
            raise

    def wait_ready(self, where, plain, ports):
        if plain:
            until(lambda: listening(ports[0]), 30)
        elif os.path.exists(os.path.join(where, "sluice.yaml")):
            until(lambda: started(where), 30)
        else:
            until(lambda: all(map(listening, ports)), 30)

    def go(self, seconds=120):
        """Lets the far end send, and gives what it said when it had seen the end."""
        return self.far.communicate("\n", timeout=seconds)[0]

    def stop(self):
        self.far.kill()
        self.far.communicate()
        return self.process.stop()


class Relay:
    """A rival; @start(where, from, to) starts it between two ports."""

    def __init__(self, name, start, plain=True, needs=None, note=""):
        self.name, self.start, self.plain, self.needs, self.note = name, start, plain, needs, note

    def missing(self):
        return absent(self.needs)

    def run(self, where, far):
        return Running(self, where, far)


def sluice(producer="", consumer="", transformer=CLEAN, arena=SMALL):
    def start(where, port, to):
        into, out = (f"tcp://127.0.0.1:{p}" for p in (port, to))
        return sluiced(config(where, arena, f'type: zmq, listen: "{into}", codec: json, {producer}', transformer,
                              f'type: zmq, socket: push, listen: "{out}", codec: json, '
                              f'retry: {{base: 5ms, max: 20ms}}, {consumer}'))
    return start


def command(*argv):
    """{in} and {out} are ports."""
    return lambda where, port, to: Process([a.replace("{in}", str(port)).replace("{out}", str(to)) for a in argv])


def script(name):
    return command(*python(name, "relay", "{in}", "{out}"))


def configured(argv, template, given, env=None, **words):
    def start(where, port, to):
        configure(where, template, INPUT=given, OUTPUT=OUTPUTS[template], PORT=port, TO=to, **words)
        return Process([a.replace("{dir}", where) for a in argv], env=env)
    return start


ZMQ_ENDS = ("tcp://127.0.0.1:{in}", "tcp://127.0.0.1:{out}")
BARE = Relay("libzmq relay in C", command(WIRE, "relay", *ZMQ_ENDS), False, note="limit; does nothing")
PYZMQ = Relay("pyzmq", command(*python("zmq_pipeline.py", "relay", *ZMQ_ENDS)), False)
ASYNCIO = Relay("asyncio.Queue", script("asyncio_queue.py"))
MP_QUEUE = Relay("multiprocessing.Queue", script("mp_queue.py"))
POOL = Relay("ProcessPoolExecutor", script("pool.py"), note="map over the socket's lines")
NODE = Relay("Node", command("node", f"{RIVALS}/stream.js", "relay", "{in}", "{out}"), needs="node")
RSYSLOG_RELAY = Relay("rsyslog", configured(RSYSLOG, "rsyslog.conf", RSYSLOG_TCP), needs="rsyslogd")
NG_RELAY = Relay("syslog-ng", configured(SYSLOG_NG, "syslog-ng.conf", NG_TCP, NG_ENV), needs=SYSLOG_NG[0])
NG_CAREFUL = Relay("syslog-ng, flow-control", configured(SYSLOG_NG, "syslog-ng.conf", NG_TCP, NG_ENV, FLAGS="flags(flow-control);"),
                   needs=SYSLOG_NG[0])
FLUENT_RELAY = Relay("Fluent Bit", configured(FLUENT, "fluent-bit.conf", FLUENT_TCP, FLUSH=0.05), needs=FLUENT_BIT,
                     note="flush 0.05 s")
FLUENT_LIMITED = Relay("Fluent Bit, mem_buf_limit 10M",
                       configured(FLUENT, "fluent-bit.conf", FLUENT_TCP + "\n  mem_buf_limit 10M", FLUSH=0.05), needs=FLUENT_BIT)
