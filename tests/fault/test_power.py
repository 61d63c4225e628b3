"""
Loss of power, with arena.sync: a file system of its own on a loop device is cut off by its shutdown ioctl, with all that
was not on the disk yet; then every process is killed, the file system is mounted anew and the machine says that it
has been started anew. What a client was told is stored must be there: at least once, never less.

The machine's boot is the one thing that is played: SLUICE_BOOT_ID (builds with faults) names the file it is
read from. Skipped where loop devices or the ioctl are not to be had.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import random
import signal
import sqlite3
import struct
import subprocess
import tempfile
import uuid

import pytest

import oracle
from feed import Client
from oracle import Box, Wrong, until

SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), ext4's and xfs's
NOT_EVEN_THE_JOURNAL = 2
LOSSES = 40 if oracle.LONG else 4
LINES = 20  # a message

CONFIG = """
arena: {size: 4MiB, buffer: 32KiB, path: %(disk)s/arena, sync: true, log_size: 11MiB}
state: {path: %(disk)s/state, size: 16MiB}
daemon: {runtime_dir: @/run, stop_timeout: 30s}
control: {socket: @/c.sock}
dead_letters: {path: %(disk)s/dead}
producers:
  src: {type: zmq, socket: router, listen: "ipc://@/in", codec: json}
transformers:
  clean:
    workers: 2
    steps:
      - filter: {level: {not: d}}
      - set: {up: "=upper(msg)"}
  once:
    from: clean
    steps:
      - dedupe: {by: [id]}
consumers:
  out: {from: clean, type: file, path: %(disk)s/out.jsonl, codec: json}
  uniq: {from: once, type: file, path: %(disk)s/uniq.jsonl, codec: json}
  db: {from: src, type: sqlite, path: %(disk)s/out.db, table: t}
"""


class Disk:
    """An ext4 of its own on a loop device."""

    def __init__(self, megabytes=160):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="sp", dir="/tmp"))
        self.image, self.at = self.dir / "image", self.dir / "m"
        self.at.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(megabytes << 20)
        self.mounted = False
        for command in (["mkfs.ext4", "-q", str(self.image)], self.mount_command()):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                self.close()
                pytest.skip(f"no loop device with ext4 here: {done.stderr.strip()}")
        self.mounted = True

    def mount_command(self):
        return ["mount", "-o", "loop", str(self.image), str(self.at)]

    def cut_off(self):
        fd = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("=I", NOT_EVEN_THE_JOURNAL))
        except OSError as e:
            pytest.skip(f"the file system cannot be cut off: {e}")
        finally:
            os.close(fd)

    def mount_again(self):
        until("nobody uses the file system",
              lambda: subprocess.run(["umount", str(self.at)], capture_output=True).returncode == 0, pause=0.05)
        self.mounted = False
        # somebody's mount namespace may still hold the file system that was cut off: then a copy is the disk
        attached = subprocess.run(["losetup", "-j", str(self.image)], capture_output=True, text=True).stdout
        if attached:
            copy = self.dir / "copy"
            subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)
            copy.rename(self.image)
        subprocess.run(self.mount_command(), check=True)
        self.mounted = True

    def close(self):
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.at)], check=False)
        self.image.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.at.rmdir()
            self.dir.rmdir()


@pytest.fixture
def disk():
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    d = Disk(160 + 40 * LOSSES)
    yield d
    d.close()


def line(i):
    if i % 500 == 99:
        return b'{"id": %d, bad\n' % i
    return json.dumps({"id": i, "level": "abcd"[i % 4], "msg": f"m{i}" + "x" * (i % 200)}).encode() + b"\n"


def message(k):
    return lambda n: b"".join(line(i) for i in range(k + (n - 1) * LINES, k + n * LINES))


def new_boot(box):
    box.path("boot").write_text(str(uuid.uuid4()) + "\n")


def lose_power(box, disk):
    pids = [box.pid, *box.children()]
    disk.cut_off()
    for pid in pids:
        box.signal(pid, signal.SIGKILL)
    box.process.wait()
    disk.mount_again()
    new_boot(box)


def start(box):
    box.start()
    until(lambda: f"the daemon answers; log:\n{box.log()}", lambda: box.ask("status") or box.dead() is not None)
    if box.dead() is not None:
        raise Wrong(f"the daemon ended with {box.dead()}; log:\n{box.log()}")


def check_all_there(where, got, want):
    """Every wanted one at least once, none that was never sent. Returns the repeats."""
    missing, strange = want - set(got), set(got) - want
    if missing or strange:
        raise Wrong(f"{where}: {len(missing)} missing {sorted(missing)[:10]}, strange {sorted(strange)[:10]}")
    return len(got) - len(set(got))


def condition(box):
    """What a stuck daemon says of itself."""
    return {k: (v["state"], v["why"]) for k, v in box.stages().items()}, box.ask("audit"), box.log()[-1500:]


def settled(books):
    return books and books["in_flight"] == 0 and books["balanced"]


def test_power(disk, capsys):
    rng = random.Random(int(os.environ.get("SLUICE_SEED", "4711")))
    per_client = 300 * LOSSES
    box = Box(CONFIG % {"disk": disk.at})
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    new_boot(box)
    start(box)
    space = per_client * LINES
    clients = [Client(f"c{k}", f"ipc://{box.dir}/in", per_client, message(k * space)) for k in range(3)]
    for c in clients:
        c.pause = 0.001
        c.start()

    def acked():
        for c in clients:
            if c.error:
                raise Wrong(f"{c.error}; log:\n{box.log()}")
        return sum(c.acked for c in clients)

    with box:
        for loss in range(LOSSES):
            # somewhere on the way to the next part: never while nothing is in motion
            goal = int(3 * per_client * (loss + rng.uniform(0.2, 0.9)) / (LOSSES + 1))
            until(lambda: f"{goal} messages acknowledged, not {acked()}: {condition(box)}",
                  lambda: acked() >= goal)
            lose_power(box, disk)
            told = acked() * LINES
            start(box)
            books = until("the books", lambda: box.ask("audit"))
            if not books["balanced"] or not told <= books["received"] <= 3 * space:
                raise Wrong(f"{told} were acknowledged; books: {books}")
        until(lambda: f"all acknowledged, not {acked()} of {3 * per_client}: {condition(box)}",
              lambda: acked() == 3 * per_client)
        books = until(lambda: f"in flight and balanced: {box.ask('audit')}; log:\n{box.log()}",
                      lambda: settled(b := box.ask("audit")) and b)
        assert books["aside"] == 0
        assert books["received"] == 3 * space, "the books have not gone on"
        assert all(p["balanced"] for p in books["pipelines"])
        until(lambda: f"letters written: {box.ask('audit')}",
              lambda: (b := box.ask("audit")) and b["letters"] == b["dead"])
        assert box.stop() == 0
        bad = {i for i in range(3 * space) if i % 500 == 99}
        every = set(range(3 * space)) - bad
        kept = {i for i in every if i % 4 != 3}
        letters = [int(x["input"].split('"id": ')[1].split(",")[0]) for x in letters_of(disk)]
        with contextlib.closing(sqlite3.connect(disk.at / "out.db")) as db:
            rows = [r[0] for r in db.execute("select id from t")]
        repeats = [check_all_there("file", oracle.lines_ids(disk.at / "out.jsonl"), kept),
                   check_all_there("behind dedupe", oracle.lines_ids(disk.at / "uniq.jsonl"), kept),
                   check_all_there("sqlite", rows, every),
                   check_all_there("dead letters", letters, bad)]
        with capsys.disabled():
            print(f"  {LOSSES} losses of power: {len(every)} records, lost 0; repeated: file {repeats[0]}, "
                  f"behind dedupe {repeats[1]}, sqlite {repeats[2]}, letters {repeats[3]}", flush=True)


def letters_of(disk):
    found = []
    for p in sorted((disk.at / "dead").glob("dead.jsonl*")):
        found += [json.loads(x) for x in p.read_bytes().splitlines()]
    return found
