"""The acknowledged protocol, by a client of its own and by `sluicectl send --ack`: exactly once."""
import json
import subprocess

import pytest
import zmq

import box
from feed import Dealer

CONFIG = """
arena: {size: 8MiB, buffer: 64KiB}
producers:
  in: {type: zmq, listen: "tcp://127.0.0.1:%d", socket: router, codec: json%s}
consumers:
  out: {type: file, path: @DIR@/out.jsonl, codec: json}
"""


class Peer:
    """A DEALER that says exactly what it is told to."""

    def __init__(self, context, port, name):
        self.s = context.socket(zmq.DEALER)
        self.s.setsockopt(zmq.LINGER, 0)
        if name:
            self.s.setsockopt(zmq.ROUTING_ID, name.encode())
        self.s.connect("tcp://127.0.0.1:%d" % port)

    def say(self, *frames):
        self.s.send_multipart([f if isinstance(f, bytes) else str(f).encode() for f in frames])

    def send(self, sequence, *records):
        self.say("SEND", sequence, b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in records))

    def hear(self, timeout=None):
        """The next answer as text, or None."""
        if not self.s.poll(int((timeout or box.DEADLINE) * 1000)):
            return None
        return [f.decode() for f in self.s.recv_multipart()]

    def hello(self, following=1):
        self.say("HELLO", 1, following)
        while True:
            answer = self.hear()
            assert answer, "no answer to HELLO"
            if answer[0] == "READY":
                return int(answer[2]), int(answer[3])

    def until_acked(self, sequence):
        while True:
            answer = self.hear()
            assert answer, "no ACK up to %d" % sequence
            if answer[0] == "READY":  # a worker that has just started greets whom it knows
                continue
            assert answer[0] in ("ACK", "NAK"), answer
            if int(answer[1]) >= sequence:
                return answer

    def close(self):
        self.s.close(0)


@pytest.fixture
def peer(zmq_context):
    made = []

    def make(port, name="client"):
        made.append(Peer(zmq_context, port, name))
        return made[-1]
    yield make
    for p in made:
        p.close()


def ids(d):
    return [r["id"] for r in box.ndjson(d.dir / "out.jsonl")]


def test_messages_are_acknowledged(daemon, port, peer):
    p = port()
    d = daemon(CONFIG % (p, ""))
    c = peer(p)
    assert c.hello() == (0, 256)
    for i in range(1, 101):
        c.send(i, {"id": 2 * i}, {"id": 2 * i + 1})
    c.until_acked(100)
    d.settle(received=200, delivered=200)
    assert ids(d) == list(range(2, 202))


def test_bad_records_are_named(daemon, port, peer):
    """NAK: acknowledged too, and says how many of its records are dead letters and why."""
    p = port()
    d = daemon(CONFIG % (p, ""))
    c = peer(p)
    c.hello()
    c.send(1, {"id": 1}, b"rubbish", {"id": 2})
    kind, seq, k, why = c.hear()
    assert (kind, seq, k) == ("NAK", "1", "1") and why
    c.send(2, {"id": 3})
    assert c.until_acked(2)[0] == "ACK"
    d.settle(received=4, delivered=3, dead=1)
    assert ids(d) == [1, 2, 3]


def test_repeats_and_gaps(daemon, port, peer):
    """A repeat is acknowledged and dropped; what skips ahead is dropped and answered READY."""
    p = port()
    d = daemon(CONFIG % (p, ""))
    c = peer(p)
    c.hello()
    for i in (1, 2, 3):
        c.send(i, {"id": i})
    c.until_acked(3)
    for i in (1, 3, 2):
        c.send(i, {"id": 100 + i})
    assert c.until_acked(3)[0] == "ACK"
    c.send(6, {"id": 106})
    while (answer := c.hear())[0] != "READY":
        pass
    assert answer[2] == "3"
    c.send(4, {"id": 4})
    c.until_acked(4)
    d.settle(delivered=4)
    assert ids(d) == [1, 2, 3, 4]


def test_resume_after_everything(daemon, port, peer):
    """The last stored sequence outlives the client, the worker, and the daemon."""
    p = port()
    d = daemon(CONFIG % (p, ""), args=["--log-level", "error"])
    c = peer(p)
    c.hello()
    c.send(1, {"id": 1})
    c.until_acked(1)
    c.close()
    c = peer(p)
    assert c.hello()[0] == 1
    c.send(2, {"id": 2})
    c.until_acked(2)
    old = d.kill("in")
    d.wait_for(lambda: d.worker("in")["pid"] not in (0, old))
    c.close()
    c = peer(p)
    assert c.hello()[0] == 2
    c.send(3, {"id": 3})
    c.until_acked(3)
    c.close()
    assert d.stop() == 0
    d.start()
    c = peer(p)
    assert c.hello()[0] == 3
    c.send(3, {"id": 103})
    c.send(4, {"id": 4})
    c.until_acked(4)
    d.settle(delivered=4)
    assert ids(d) == [1, 2, 3, 4]


def test_without_hello(daemon, port, peer):
    """SEND without HELLO is dropped and answered READY; a new id's HELLO names the base."""
    p = port()
    d = daemon(CONFIG % (p, ""))
    c = peer(p)
    c.send(1, {"id": 101})
    answer = c.hear()
    assert answer[0] == "READY" and answer[2] == "0"
    assert c.hello(51)[0] == 50
    c.send(51, {"id": 51})
    c.until_acked(51)
    assert c.hello(7)[0] == 51  # known by now: what is stored counts
    d.settle(delivered=1)


def test_window(daemon, port, peer):
    """More than the window is not lost: what is beyond is dropped, and READY says where to go on."""
    p = port()
    d = daemon(CONFIG % (p, ", window: 4"))
    c = peer(p)
    assert c.hello()[1] == 4
    d.ctl("pause", "in")
    for i in range(1, 21):
        c.send(i, {"id": i})
    d.ctl("resume", "in")
    stored = 0
    while stored < 20:
        answer = c.hear(1)
        if answer is None:
            stored = c.hello(stored + 1)[0]
        elif answer[0] == "READY":
            stored = int(answer[2])
            for i in range(stored + 1, min(stored + 5, 21)):
                c.send(i, {"id": i})
        else:
            stored = max(stored, int(answer[1]))
            if stored < 20:
                c.send(stored + 1, {"id": stored + 1})
    d.settle(delivered=20)
    assert ids(d) == list(range(1, 21))


def test_a_crowd(daemon, port, peer):
    """More clients at once than a commit has room for, and then fewer that are remembered."""
    p = port()
    d = daemon(CONFIG % (p, ", max_clients: 300"))
    crowd = [peer(p, "crowd-%d" % i) for i in range(300)]
    for c in crowd:
        assert c.hello(7) == (6, 256)
    d.sluicectl("pause", "in")
    d.wait_for(lambda: d.worker("in")["state"] == "paused")
    for c in crowd:  # without records, so that nothing ends a unit
        c.send(7)
    d.sluicectl("resume", "in")
    for c in crowd:
        c.until_acked(7)
    assert d.worker("in")["restarts"] == 0
    d.write_config(CONFIG % (p, ", max_clients: 20"))
    assert d.sluicectl("reload").returncode == 0
    for c in crowd:
        c.close()
    late = peer(p, "late")
    assert late.hello(3) == (2, 256)
    late.send(3, {"id": 1})
    late.until_acked(3)
    d.settle(received=1, delivered=1)


def test_two_clients(daemon, port, peer):
    p = port()
    d = daemon(CONFIG % (p, ""))
    a, b = peer(p, "a"), peer(p, "b")
    a.hello()
    b.hello()
    for i in range(1, 201):
        a.send(i, {"id": i, "of": "a"})
        b.send(i, {"id": i, "of": "b"})
    a.until_acked(200)
    b.until_acked(200)
    d.settle(delivered=400)
    for of in "ab":
        assert [r["id"] for r in box.ndjson(d.dir / "out.jsonl") if r["of"] == of] == list(range(1, 201))


def test_an_id_is_handed_over(daemon, port, peer):
    """A client that comes back under its id, while its old connection still stands, takes over."""
    p = port()
    d = daemon(CONFIG % (p, ""))
    old, new = peer(p, "x"), None
    old.hello()
    old.send(1, {"id": 1})
    old.until_acked(1)
    new = peer(p, "x")
    assert new.hello()[0] == 1
    new.send(2, {"id": 2})
    new.until_acked(2)
    d.settle(delivered=2)
    assert ids(d) == [1, 2]


def test_ids_made_by_the_library_are_refused(daemon, port, peer):
    p = port()
    d = daemon(CONFIG % (p, ""))
    c = peer(p, None)
    c.say("HELLO", 1, 1)
    d.wait_for(lambda: d.stats("in")["refused"] >= 1, what="the refusal to be counted")
    assert not c.s.poll(0) or c.hear()[0] != "READY"


def test_rubbish_from_clients(daemon, port, peer):
    """Frames that mean nothing are counted; the good client beside them is served."""
    p = port()
    d = daemon(CONFIG % (p, ""))
    c, bad = peer(p, "good"), peer(p, "bad")
    c.hello()
    for frames in ([b""], [b"HELLO"], [b"HELLO", b"1", b"-1"], [b"HELLO", b"1", b"x"], [b"HELLO", b"9", b"1"],
                   [b"SEND"], [b"SEND", b"1"], [b"SEND", b"0", b"{}"], [b"SEND", b"9" * 40, b"{}"],
                   [b"NONSENSE", b"1", b"1"], [b"SEND", b"1", b"{}", b"more"], [b"\x00" * 1000] * 20):
        bad.say(*frames)
    for i in range(1, 51):
        c.send(i, {"id": i})
    c.until_acked(50)
    d.settle(delivered=50)
    d.wait_for(lambda: d.stats("in")["refused"] >= 5)
    assert ids(d) == list(range(1, 51))


def test_ack_delivered(daemon, port, peer):
    """`ack: delivered` comes when the consumer has committed, and not before."""
    p = port()
    d = daemon(CONFIG % (p, ", ack: delivered"))
    c = peer(p)
    c.hello()
    c.send(1, {"id": 1})
    c.until_acked(1)
    assert ids(d) == [1]
    d.ctl("pause", "out")
    d.wait_for(lambda: d.stage("out")["state"] == "paused")
    for i in range(2, 12):
        c.send(i, {"id": i})
    d.wait_for(lambda: d.audit()["received"] == 11)
    assert c.hear(0.5) is None, "acknowledged before it was delivered"
    d.ctl("resume", "out")
    c.until_acked(11)
    d.settle(delivered=11)
    assert ids(d) == list(range(1, 12))


def test_client_of_the_tests(daemon, port):
    """A simple client that goes on from any READY, while the producer is killed."""
    p = port()
    d = daemon(CONFIG % (p, ""), args=["--log-level", "error"])
    c = Dealer("tcp://127.0.0.1:%d" % p, "simple")
    payloads = [json.dumps({"id": i}).encode() for i in range(3000)]
    for part in range(0, 3000, 500):
        c.deliver(payloads[part:part + 500])
        d.kill("in")
    c.close()
    d.wait_for({"delivered": 3000})
    d.settle(delivered=3000)
    assert ids(d) == list(range(3000))


def test_send_ack_while_the_producer_is_killed(daemon, port):
    """`sluicectl send --ack` of a file; the producer dies again and again: each record arrives once."""
    p = port()
    d = daemon(CONFIG % (p, ""), args=["--log-level", "error"])
    n = 400000
    d.write("feed", "".join('{"id": %d}\n' % i for i in range(n)))
    sender = subprocess.Popen([box.binary("sluicectl", "SLUICECTL"), "send", "--to", "tcp://127.0.0.1:%d" % p, "--ack", "--message-size", "500",
                               str(d.dir / "feed")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    kills = 0
    try:
        while sender.poll() is None:
            d.alive()
            received = d.audit()["received"]
            try:
                d.kill("in")
                kills += 1
            except (AssertionError, ProcessLookupError):
                pass
            # the next kill when it has got on: so it ends however slow the machine is
            d.wait_for(lambda: d.audit()["received"] > received + 1000 or sender.poll() is not None)
        out, err = sender.communicate(timeout=box.DEADLINE)
    finally:
        if sender.poll() is None:
            sender.kill()
            sender.wait()
    assert sender.returncode == 0, err
    assert kills >= 5, kills
    d.settle(received=n, delivered=n)
    assert ids(d) == list(range(n))
