"""A process a stage, multiprocessing.Queue between them.

    mp_queue.py lines|clean IN OUT
    mp_queue.py relay PORT TO           lines of one TCP connection, on to another
"""
import multiprocessing
import sys

from job import clean, client, decode, encode, server

LIMIT = 1000


def read(path, queue, job):
    with server(int(path)) if job == "relay" else open(path, "rb") as f:
        for line in f:
            queue.put(line)
    queue.put(None)


def transform(source, sink, job):
    while (line := source.get()) is not None:
        if job == "lines":
            sink.put(line)
        elif (record := clean(decode(line))) is not None:
            sink.put(record)
    sink.put(None)


def write(queue, path, job):
    record = queue.get()
    with client(int(path)) if job == "relay" else open(path, "wb") as f:
        while record is not None:
            f.write(record if job == "lines" else encode(record))
            record = queue.get()


def main(job, source, path):
    lines, records = multiprocessing.Queue(LIMIT), multiprocessing.Queue(LIMIT)
    workers = [
        multiprocessing.Process(target=read, args=(source, lines, job)),
        multiprocessing.Process(target=transform, args=(lines, records, job)),
        multiprocessing.Process(target=write, args=(records, path, job)),
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
