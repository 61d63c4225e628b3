"""
A reload, with arena.sync, that replaces the built-in log together with a stage whose results have to be in the log
before they are committed: neither waits for the other, and nothing is lost.
"""

import json
import socket

from oracle import Box, until

CONFIG = """
arena: {size: 2MiB, buffer: 16KiB, path: @/arena, sync: true, log_size: 6MiB}
state: {path: @/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: STOP}
control: {socket: @/c.sock}
dead_letters: {path: @/dead}
producers:
  one: {type: generate, rate: 20000, record: {g: =seq}, batch: {records: 20}}
  two: {type: generate, rate: 20000, record: {g: =seq}, batch: {records: 20}}
transformers:
  tot: {from: READS, steps: [{set: {g: "=g % 7"}}, {aggregate: {by: [g], window: 20ms, compute: {n: count()}}}]}
consumers:
  out: {from: tot, type: file, path: @/out.jsonl, codec: json}
  rest: {from: REST, type: 'null'}
"""


def config(reads, rest, stop="5s"):
    return CONFIG.replace("READS", reads).replace("REST", rest).replace("STOP", stop)


def reload_with_a_queue(box, text):
    """A reload of which `tot` only hears when its queues are full: it has to empty one that goes."""
    box.ask("pause tot")
    until(lambda: f"its queues to be full: {box.ask('status')['edges']}",
          lambda: all(e["full"] for e in box.ask("status")["edges"] if e["to"] == "tot"))
    box.configure(text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(60)
        s.connect(str(box.path("c.sock")))
        s.sendall(b"reload\n")
        until("a stage to have stopped", lambda: any(x["state"] == "stopped" for x in box.stages().values()))
        box.ask("resume tot")
        with s.makefile("rb") as answer:
            return json.loads(answer.readline())


def test_the_log_stays_until_nobody_needs_it():
    graphs = [config("[one, two]", "two"), config("one", "two"), config("two", "one"), config("one", "two")]
    with Box(graphs[0]) as box:
        box.start()
        until("it to be up", lambda: "tot" in box.stages())
        for graph in graphs[1:]:  # in each, `tot` loses an edge
            answer = reload_with_a_queue(box, graph)
            assert answer == {"reloaded": True}, (answer, box.ask("status"))
        box.ask("drain")
        books = until(lambda: f"all to be done: {box.ask('audit')}; {box.log()}",
                      lambda: (b := box.ask("audit")) and b["balanced"] and not b["in_flight"] and b)
        assert box.stop() == 0
        assert books["dropped"] == books["dead"] == 0
        results = sum(json.loads(line)["n"] for line in open(box.path("out.jsonl")))
        assert 0 < results <= books["absorbed"], books
