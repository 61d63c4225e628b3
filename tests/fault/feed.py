"""
A client of the acknowledged protocol: sends numbered messages until all are acknowledged, whatever dies meanwhile.

    client -> HELLO, 1, <next sequence>     daemon -> READY, 1, <last stored>, <window>
    client -> SEND, <sequence>, <payload>   daemon -> ACK, <sequence>  |  NAK, <sequence>, <k>, <reason>
"""

import threading
import time

import zmq


class Client(threading.Thread):
    """Sends message(i) for i in 1..count as client @name. `acked` says how far it is."""

    SILENCE = 0.5  # seconds until HELLO is said again; the protocol says 5, which a test has no time for

    def __init__(self, name, endpoint, count, message):
        super().__init__(daemon=True)
        self.name, self.endpoint, self.count, self.message = name, endpoint, count, message
        self.acked = self.letters = 0
        self.error = None
        self.leave = False
        self.pause = 0.0  # seconds after each message: bounds the rate
        self.sent = 0

    def run(self):
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, self.name.encode())
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 5)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(self.endpoint)
        try:
            self.feed(socket)
        except Exception as e:  # shown by whoever waits for us
            self.error = e
        finally:
            socket.close()

    def end_here(self):
        """No message after those that were sent already."""
        self.count = min(self.count, self.sent)

    def feed(self, socket):
        ready, window, sent, heard = False, 0, 0, 0.0
        while self.acked < self.count and not self.leave:
            if time.monotonic() - heard > self.SILENCE:
                socket.send_multipart([b"HELLO", b"1", b"%d" % (self.acked + 1)])
                heard = time.monotonic()
            while ready and sent < self.count and sent - self.acked < window:
                sent += 1
                self.sent = max(self.sent, sent)
                socket.send_multipart([b"SEND", b"%d" % sent, self.message(sent)])
                if self.pause:
                    time.sleep(self.pause)
                if socket.poll(0):
                    break
            if not socket.poll(50):
                continue
            heard = time.monotonic()
            word, *rest = socket.recv_multipart()
            if word == b"READY":
                stored, window, ready = int(rest[1]), int(rest[2]), True
                if stored < self.acked:
                    raise RuntimeError(f"{self.name}: {self.acked} was acknowledged, now only {stored} is stored")
                self.acked = sent = stored
            elif word in (b"ACK", b"NAK"):
                self.acked = max(self.acked, int(rest[0]))
                self.letters += int(rest[1]) if word == b"NAK" else 0
            else:
                raise RuntimeError(f"{self.name}: {word} {rest}")
