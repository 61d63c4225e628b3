"""A process a stage, multiprocessing.Queue between them: mp_queue.py lines|clean IN OUT"""
import multiprocessing
import sys

from job import clean, decode, encode

LIMIT = 1000


def read(path, queue):
    with open(path, "rb") as f:
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
    with open(path, "wb") as f:
        while (record := queue.get()) is not None:
            f.write(record if job == "lines" else encode(record))


def main(job, source, path):
    lines, records = multiprocessing.Queue(LIMIT), multiprocessing.Queue(LIMIT)
    workers = [
        multiprocessing.Process(target=read, args=(source, lines)),
        multiprocessing.Process(target=transform, args=(lines, records, job)),
        multiprocessing.Process(target=write, args=(records, path, job)),
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
