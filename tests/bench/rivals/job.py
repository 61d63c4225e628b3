"""What the Python rivals do with a record: the same for all of them."""
import json
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
