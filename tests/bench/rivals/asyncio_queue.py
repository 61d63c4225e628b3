"""One process, three tasks and bounded queues between them, as the asyncio tutorials have it.

    asyncio_queue.py lines|clean IN OUT
    asyncio_queue.py serve PORT OUT          one TCP connection with lines, until it closes
    asyncio_queue.py relay PORT TO           the same, on to a TCP connection
"""
import asyncio
import sys

from job import clean, decode, encode

LIMIT = 1000


async def read_file(path, queue):
    with open(path, "rb") as f:
        for line in f:
            await queue.put(line)
    await queue.put(None)


async def read_socket(port, queue):
    done = asyncio.Event()

    async def client(reader, writer):
        while line := await reader.readline():
            await queue.put(line)
        writer.close()
        done.set()

    server = await asyncio.start_server(client, "127.0.0.1", port, limit=1 << 20)
    async with server:
        await done.wait()
    await queue.put(None)


async def transform(source, sink, job):
    while (line := await source.get()) is not None:
        if job == "lines":
            await sink.put(line)
        elif (record := clean(decode(line))) is not None:
            await sink.put(encode(record))
    await sink.put(None)


async def write(queue, path):
    with open(path, "wb") as f:
        while (line := await queue.get()) is not None:
            f.write(line)


async def send(queue, port):
    line = await queue.get()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    while line is not None:
        writer.write(line)
        await writer.drain()
        line = await queue.get()
    writer.close()
    await writer.wait_closed()


async def main(job, source, to):
    lines, records = asyncio.Queue(LIMIT), asyncio.Queue(LIMIT)
    read = read_file(source, lines) if job in ("lines", "clean") else read_socket(int(source), lines)
    give = send(records, int(to)) if job == "relay" else write(records, to)
    await asyncio.gather(read, transform(lines, records, job), give)


asyncio.run(main(*sys.argv[1:]))
