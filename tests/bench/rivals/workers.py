"""Several workers for one step, as the tutorials share the work out: for one slow worker among healthy ones.

    workers.py pool|queue|zmq PORT TO WORKERS SLOW FLAG      records from PULL on PORT, to PUSH on TO

Each record takes 0.5 ms of waiting; for one of the workers SLOW times that. pool: ProcessPoolExecutor.submit, results in order.
queue: one multiprocessing.Queue that all take from. zmq: PUSH to a PULL each. FLAG: a path that does not exist yet.
"""
import json
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import zmq

PAUSE = 0.0005
LIMIT = 1000
pause = PAUSE


def choose(flag, slow):
    """The first to come is the slow one."""
    global pause
    try:
        os.mkdir(flag)
        pause = PAUSE * slow
    except OSError:
        pause = PAUSE


def work(message):
    record = json.loads(message)
    time.sleep(pause)
    record["service"] = record["service"].upper()
    return json.dumps(record).encode()


def bound(kind, port):
    s = zmq.Context.instance().socket(kind)
    s.bind(f"tcp://127.0.0.1:{port}")
    return s


def give_results(futures, port):
    push = bound(zmq.PUSH, port)
    while True:
        push.send(futures.get().result())


def pool(port, to, n, *lame):
    futures = queue.Queue(LIMIT)
    with ProcessPoolExecutor(n, initializer=choose, initargs=lame) as executor:
        for _ in range(n):  # all of them, before threads and sockets
            executor.submit(time.sleep, 0.05)
        threading.Thread(target=give_results, args=(futures, to), daemon=True).start()
        pull = bound(zmq.PULL, port)
        while True:
            futures.put(executor.submit(work, pull.recv()))


def read_queue(todo, port):
    pull = bound(zmq.PULL, port)
    while True:
        todo.put(pull.recv())


def work_queue(todo, done, *lame):
    choose(*lame)
    while True:
        done.put(work(todo.get()))


def write_queue(done, port):
    push = bound(zmq.PUSH, port)
    while True:
        push.send(done.get())


def shared(port, to, n, *lame):
    todo, done = multiprocessing.Queue(LIMIT), multiprocessing.Queue(LIMIT)
    run([(read_queue, todo, port), (write_queue, done, to)] + [(work_queue, todo, done, *lame)] * n)


def pass_on(source, to):
    pull, push = zmq.Context.instance().socket(zmq.PULL), zmq.Context.instance().socket(zmq.PUSH)
    pull.bind(source), push.bind(to)
    zmq.proxy(pull, push)


def work_zmq(source, to, *lame):
    choose(*lame)
    pull, push = zmq.Context.instance().socket(zmq.PULL), zmq.Context.instance().socket(zmq.PUSH)
    pull.connect(source), push.connect(to)
    while True:
        push.send(work(pull.recv()))


def pushed(port, to, n, *lame):
    where = tempfile.mkdtemp(dir=os.path.dirname(lame[0]))
    first, second = f"ipc://{where}/w", f"ipc://{where}/s"
    run([(pass_on, f"tcp://127.0.0.1:{port}", first), (pass_on, second, f"tcp://127.0.0.1:{to}")]
        + [(work_zmq, first, second, *lame)] * n)


def run(parts):
    for target, *args in parts:
        multiprocessing.Process(target=target, args=args).start()


if __name__ == "__main__":
    how, port, to, n, slow, flag = sys.argv[1:]
    {"pool": pool, "queue": shared, "zmq": pushed}[how](port, to, int(n), flag, float(slow))
