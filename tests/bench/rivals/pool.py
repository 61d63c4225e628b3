"""concurrent.futures.ProcessPoolExecutor.map over lines, with a chunk size.

    pool.py clean IN OUT
    pool.py relay PORT TO           lines of one TCP connection, on to another
"""
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from job import clean, client, decode, encode, server

AT_ONCE = 50000
CHUNK = 1000


def work(line):
    record = clean(decode(line))
    return None if record is None else encode(record)


def relay(port, to):
    with server(int(port)) as lines, ProcessPoolExecutor() as pool:
        out = None
        for line in pool.map(work, lines, chunksize=CHUNK):
            if line is not None:
                out = out or client(int(to))
                out.write(line)


def main(job, source, path):
    if job == "relay":
        return relay(source, path)
    with open(source, "rb") as f, open(path, "wb") as out, ProcessPoolExecutor() as pool:
        while batch := list(islice(f, AT_ONCE)):
            for line in pool.map(work, batch, chunksize=CHUNK):
                if line is not None:
                    out.write(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
