"""concurrent.futures.ProcessPoolExecutor.map over lines, with a chunk size: pool.py clean IN OUT"""
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from job import clean, decode, encode

AT_ONCE = 50000
CHUNK = 1000


def work(line):
    record = clean(decode(line))
    return None if record is None else encode(record)


def main(job, source, path):
    with open(source, "rb") as f, open(path, "wb") as out, ProcessPoolExecutor() as pool:
        while batch := list(islice(f, AT_ONCE)):
            for line in pool.map(work, batch, chunksize=CHUNK):
                if line is not None:
                    out.write(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
