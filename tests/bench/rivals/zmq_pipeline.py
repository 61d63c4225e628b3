"""ventilator -> worker -> sink over pyzmq PUSH/PULL, a process each, a message a record.

    zmq_pipeline.py clean IN OUT
    zmq_pipeline.py serve ENDPOINT OUT COUNT      messages of whole lines from a PUSH peer
    zmq_pipeline.py relay IN OUT                  PULL -> the job -> PUSH, a message for a message
"""
import multiprocessing
import os
import sys

import zmq

from job import clean, decode, encode

END = b""


def ventilate(path, to):
    push = zmq.Context().socket(zmq.PUSH)
    push.bind(to)
    with open(path, "rb") as f:
        for line in f:
            push.send(line)
    push.send(END)


def work(source, to, count):
    ctx = zmq.Context()
    pull, push = ctx.socket(zmq.PULL), ctx.socket(zmq.PUSH)
    pull.bind(source) if count else pull.connect(source)
    push.connect(to)
    seen = 0
    while not count or seen < count:
        message = pull.recv()
        if message == END:
            break
        for line in message.splitlines():
            seen += 1
            record = clean(decode(line))
            if record is not None:
                push.send(encode(record))
    push.send(END)


def sink(source, path):
    pull = zmq.Context().socket(zmq.PULL)
    pull.bind(source)
    with open(path, "wb") as f:
        while (line := pull.recv()) != END:
            f.write(line)


def relay(source, to):
    ctx = zmq.Context()
    pull, push = ctx.socket(zmq.PULL), ctx.socket(zmq.PUSH)
    pull.bind(source)
    push.bind(to)
    while True:
        records = [clean(decode(line)) for line in pull.recv().splitlines()]
        if kept := [encode(r) for r in records if r is not None]:
            push.send(b"".join(kept))


def main(job, source, path, count=0):
    if job == "relay":
        return relay(source, path)
    base = "ipc://%s.%d" % (path, os.getpid())
    workers = [multiprocessing.Process(target=sink, args=(base + ".s", path))]
    if job == "clean":
        workers.append(multiprocessing.Process(target=ventilate, args=(source, base + ".v")))
        source = base + ".v"
    workers.append(multiprocessing.Process(target=work, args=(source, base + ".s", int(count))))
    for w in workers:
        w.start()
    for w in workers:
        w.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
