"""Work for the processor, shared out over workers: heavy.py pool|queue WORKERS COUNT LOOPS"""
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

CHUNK = 100


def work(record):
    x = record["seq"]
    for i in range(record["loops"]):
        x = (x * 31 + i) % 65521
    record["x"] = x
    return record


def pool(n, records):
    with ProcessPoolExecutor(n) as executor:
        return sum(1 for r in executor.map(work, records, chunksize=CHUNK) if "x" in r)


def take(todo, done):
    while (record := todo.get()) is not None:
        done.put(work(record))
    done.put(None)


def feed(todo, records, n):
    for record in records:
        todo.put(record)
    for _ in range(n):
        todo.put(None)


def queue(n, records):
    todo, done = multiprocessing.Queue(1000), multiprocessing.Queue(1000)
    for target, args in [(feed, (todo, records, n))] + [(take, (todo, done))] * n:
        multiprocessing.Process(target=target, args=args).start()
    got = left = 0
    while left < n:
        record = done.get()
        left += record is None
        got += record is not None
    return got


if __name__ == "__main__":
    how, n, count, loops = sys.argv[1], *map(int, sys.argv[2:])
    records = [{"seq": i, "loops": loops} for i in range(count)]
    sys.exit({"pool": pool, "queue": queue}[how](n, records) != count)
