"""What the Python rivals do with a record: the same for all of them."""
import json
import socket
from datetime import datetime, timezone

import xxhash


def decode(line):
    return json.loads(line)


def encode(record):
    return json.dumps(record).encode() + b"\n"


def clean(record):
    if record["level"] == "debug":
        return None
    record["service"] = record["service"].upper()
    record["processed_at"] = datetime.now(timezone.utc).isoformat()
    record["hash"] = xxhash.xxh64_hexdigest(record["msg"])
    return record


def server(port):
    """The one connection that comes, as a file of lines."""
    with socket.create_server(("127.0.0.1", port)) as s:
        connection, _ = s.accept()
    return connection.makefile("rb")


def client(port):
    """A connection, to be written to as a file; a record is sent at once."""
    return socket.create_connection(("127.0.0.1", port)).makefile("wb", buffering=0)
