"""Feeding daemons over ZeroMQ: a PUSH socket, and a client of the acknowledged protocol."""
import contextlib
import json
import socket
import struct
import time

from box import DEADLINE


@contextlib.contextmanager
def push(endpoint):
    """A PUSH socket connected to a `socket: pull` producer."""
    import zmq
    context = zmq.Context()
    s = context.socket(zmq.PUSH)
    s.set(zmq.SNDTIMEO, int(DEADLINE * 1000))
    s.set(zmq.LINGER, int(DEADLINE * 1000))
    s.connect(endpoint)
    try:
        yield s
    finally:
        s.close()
        context.term()


def push_records(endpoint, records, per_message=100):
    """Sends records as messages of JSON lines."""
    records = list(records)
    with push(endpoint) as s:
        for i in range(0, len(records), per_message):
            s.send("\n".join(json.dumps(r) for r in records[i:i + per_message]).encode())


# A PUSH socket's first words in ZMTP 3.0 (rfc.zeromq.org/spec/23), without any encryption.
RAW_GREETING = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + b"\x00" * 32
RAW_READY = b"\x04\x1a\x05READY\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"


class RawPush:
    """A PUSH socket without a library: what was sent is in the kernel of the daemon's machine when send() returns."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(RAW_GREETING + RAW_READY)
        answer = b""
        while b"READY" not in answer:
            answer += self.socket.recv(4096)

    def send(self, message):
        """Of at most 255 bytes."""
        self.socket.sendall(bytes([0, len(message)]) + message)

    def close(self):
        self.socket.close()


class Dealer:
    """A client of a `socket: router` producer, with its protocol: what was acknowledged is not sent again,
    what was not is, after any READY."""

    def __init__(self, endpoint, name):
        import zmq
        self.zmq = zmq
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.set(zmq.ROUTING_ID, name.encode())
        self.socket.set(zmq.LINGER, 0)
        self.socket.connect(endpoint)
        self.next = 1      # sequence of the next message
        self.unacked = {}  # sequence: payload
        self.window = 0
        self.naks = []

    def hello(self):
        self.socket.send_multipart([b"HELLO", b"1", str(min(self.unacked, default=self.next)).encode()])

    def send(self, payload):
        self.unacked[self.next] = payload
        self.socket.send_multipart([b"SEND", str(self.next).encode(), payload])
        self.next += 1

    def receive(self, timeout):
        """Handles one answer. False: none came."""
        if not self.socket.poll(int(timeout * 1000)):
            return False
        frames = self.socket.recv_multipart()
        kind, sequence = frames[0], int(frames[2 if frames[0] == b"READY" else 1])
        if kind == b"NAK":
            self.naks.append((sequence, int(frames[2]), frames[3].decode()))
        for s in [s for s in self.unacked if s <= sequence]:
            del self.unacked[s]
        if kind == b"READY":
            self.window = int(frames[3])
            for s in sorted(self.unacked):
                self.socket.send_multipart([b"SEND", str(s).encode(), self.unacked[s]])
        return True

    def deliver(self, payloads, deadline=None):
        """Sends all and waits until all are acknowledged; says HELLO again when it hears nothing."""
        payloads = list(payloads)
        end = time.monotonic() + (deadline or DEADLINE)
        self.hello()
        while payloads or self.unacked:
            assert time.monotonic() < end, f"{len(self.unacked)} messages were never acknowledged"
            while payloads and len(self.unacked) < self.window:
                self.send(payloads.pop(0))
            if not self.receive(0.5):
                self.hello()

    def close(self):
        self.socket.close()
        self.context.term()


@contextlib.contextmanager
def dealer(endpoint, name="test"):
    d = Dealer(endpoint, name)
    try:
        yield d
    finally:
        d.close()
