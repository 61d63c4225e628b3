"""
What README.md shows is run as it stands there: the configuration, the clients, the sum of memory.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import sqlite3
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ENDPOINT = "tcp://127.0.0.1:5555"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def first_config(endpoint, kind="pull"):
    """The configuration of the README, with an endpoint and paths of the test's own."""
    text = blocks("yaml")[0]
    text = text.replace(ENDPOINT, endpoint).replace("socket: pull", f"socket: {kind}")
    return text.replace("path: orders", "path: @DIR@/orders")


def tcp():
    """An endpoint nobody uses. Not ipc: who closes an ipc socket at once may lose what was not read yet."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"


def rows(d):
    with sqlite3.connect(d.dir / "orders.db") as db:
        return db.execute("SELECT count(*), count(DISTINCT id) FROM orders").fetchone()


def delivered(d, n):
    d.wait_for(lambda: d.audit()["delivered"] == 2 * n and d.audit()["in_flight"] == 0, what=f"{n} records twice")
    assert len((d.dir / "orders.jsonl").read_text().splitlines()) == n
    assert rows(d) == (n, n)


def test_python_client(daemon):
    endpoint = tcp()
    d = daemon(first_config(endpoint))
    program = blocks("python")[0].replace(ENDPOINT, endpoint)
    assert len(program.splitlines()) <= 6
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    delivered(d, 1000)
    line = json.loads((d.dir / "orders.jsonl").read_text().splitlines()[0])
    assert line["service"] == "SHOP" and line["processed_at"].startswith("20")


def test_c_client(daemon):
    endpoint = tcp()
    d = daemon(first_config(endpoint))
    cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    (d.dir / "client.c").write_text(blocks("c")[0].replace(ENDPOINT, endpoint))
    subprocess.run([cc, "client.c", "-o", "client", "-lzmq"], cwd=d.dir, check=True, timeout=60)
    subprocess.run([str(d.dir / "client")], check=True, timeout=60)
    delivered(d, 1)


def node_with_zeromq():
    """Command and environment of a Node that has the package; it is fetched once, below build/. Skips where it cannot be had."""
    node, npm, at = shutil.which("node"), shutil.which("npm"), ROOT / "build" / "node"
    env = {**os.environ, "NODE_PATH": str(at / "node_modules")}
    has = [node, "-e", "require('zeromq')"]
    if node and npm and subprocess.run(has, env=env, capture_output=True, check=False).returncode:
        at.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "install", "--silent", "--no-save", "--prefix", str(at), "zeromq"], capture_output=True,
                       check=False, timeout=120)
    if not node or subprocess.run(has, env=env, capture_output=True, check=False).returncode:
        pytest.skip("node with its package zeromq is not here")
    return node, env


def test_node_client(daemon):
    node, env = node_with_zeromq()
    endpoint = tcp()
    d = daemon(first_config(endpoint))
    program = blocks("js")[0].replace(ENDPOINT, endpoint)
    subprocess.run([node, "-e", program], check=True, timeout=60, env=env)
    delivered(d, 1)


def acknowledged():
    program = blocks("python")[1]
    assert len(program.splitlines()) < 40
    scope = {}
    exec(program, scope)
    return scope["Sluice"]


def test_acknowledged_client(daemon):
    """The producer is killed in the midst; each record arrives once all the same."""
    d = daemon(first_config("ipc://@DIR@/in", "router"))
    d.expect = [r"Killed"]
    client = acknowledged()(f"ipc://{d.dir}/in", "shop-1")
    for i in range(2000):
        client.send(json.dumps({"id": i, "service": "shop"}).encode())
        if i in (500, 1000, 1500):
            d.kill("orders")
    client.flush()
    delivered(d, 2000)


def test_acknowledged_client_goes_on(daemon):
    """Another process with the same name goes on behind what is stored; a bad record is told."""
    d = daemon(first_config("ipc://@DIR@/in", "router"))
    for part in range(3):
        client = acknowledged()(f"ipc://{d.dir}/in", "shop-1")
        for i in range(100):
            client.send(json.dumps({"id": part * 100 + i, "service": "shop"}).encode())
        client.flush()
        client.socket.close()
    client = acknowledged()(f"ipc://{d.dir}/in", "shop-1")
    client.send(b"no record")
    client.flush()
    delivered(d, 300)
    assert d.audit()["dead"] == 1


def test_first_config_is_explained():
    """Every key of the first configuration stands in the table that explains it."""
    table = README[README.index("Line by line"):README.index("Save it as")]
    own = {"clean", "archive", "processed_at", "service"}  # names of the reader's choice
    for key in set(re.findall(r"^\s*-?\s*([a-z_]+):", blocks("yaml")[0], re.M)) - own:
        assert re.search(rf"`[^`]*\b{key}\b", table), key


def test_memory_is_as_written(daemon):
    """PSS of all processes under load, with a slow end, against the README's sum."""
    mib = 1 << 20
    per_worker = int(re.search(r"\+ (\d+) MiB for each worker", README)[1]) * mib
    per_sqlite = int(re.search(r"(\d+) MiB for each sqlite", README)[1]) * mib
    master = int(re.search(r"(\d+) MiB for the master", README)[1]) * mib
    ledger = int(re.search(r"the ledger +\((\d+) MiB", README)[1]) * mib
    if "san" in os.environ.get("SLUICED", ""):
        pytest.skip("sanitizers take memory of their own")
    d = daemon(first_config("ipc://@DIR@/in").replace("producers:", "arena: {size: 16MiB}\nproducers:", 1))
    import zmq
    context = zmq.Context()
    s = context.socket(zmq.PUSH)
    s.set(zmq.SNDHWM, 10)
    s.connect(f"ipc://{d.dir}/in")
    message = "\n".join(json.dumps({"id": i, "service": "shop", "text": "x" * 200}) for i in range(200)).encode()
    limit = 16 * mib + ledger + master + per_sqlite + 6 * per_worker + 101 * len(message)
    peak = 0
    for _ in range(5):
        for _ in range(100):
            s.send(message)
        answer = d.ctl("workers")
        peak = max(peak, answer["master"]["pss"] + sum(w["pss"] for w in answer["workers"]))
    d.wait_for(lambda: d.audit()["received"] == 100000 and d.audit()["in_flight"] == 0, what="all records")
    s.close()
    context.term()
    assert 16 * mib < peak < limit, (peak / mib, limit / mib)
