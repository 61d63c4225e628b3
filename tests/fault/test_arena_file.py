"""
The arena as a file: looked at, exported and repaired while no daemon runs, refused when it is not one, and what
becomes of bytes that are not what was sealed.
"""

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import uuid

import pytest

from oracle import Box, FAULTS, HEAD, lines_ids, settled, until

LINES = 2000
GRAPH = """
producers:
  src: {type: file, path: @/in.jsonl, codec: json}
transformers:
  clean:
    steps: [{set: {up: "=upper(msg)"}}]
consumers:
  out: {from: clean, type: file, path: @/%s/out.jsonl, codec: json, retry: {base: 50ms, max: 50ms}}
"""


def make(dead_output=True):
    """A box with a job; its output cannot be written as long as @/dir is a file."""
    box = Box(HEAD % dict(arena="1MiB", buffer="4KiB") + GRAPH % "dir")
    box.env["SLUICE_BOOT_ID"] = str(box.path("boot"))
    new_boot(box)
    with open(box.path("in.jsonl"), "w") as f:
        for i in range(LINES):
            f.write(json.dumps({"id": i, "msg": f"m{i}"}) + "\n")
    if dead_output:
        box.path("dir").write_text("")
    return box


def new_boot(box):
    box.path("boot").write_text(str(uuid.uuid4()) + "\n")


def tool(box, *args):
    done = subprocess.run([str(FAULTS / "sluiced"), "-c", str(box.path("c.yaml")), *args], env=box.env, cwd=box.dir,
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def fill(box):
    """Starts the daemon and kills all of it when everything is in flight."""
    box.start()
    until(lambda: f"all in flight: {box.ask('audit')}; {box.log()}",
          lambda: (b := box.ask("audit")) and b["received"] == LINES and b["in_flight"] == LINES and
          box.stages()["clean"]["state"] == "ended")
    kill_all(box)


def process_state(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


def kill_all(box):
    pids = [box.pid, *box.children()]
    box.signal(box.pid, signal.SIGKILL)
    for pid in pids[1:]:
        box.signal(pid, signal.SIGKILL)
    box.process.wait()
    with open(box.path("arena.lock")) as f:  # free only when the last worker is gone
        until("the lock is free", lambda: try_lock(f))


def try_lock(f):
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def arena_bytes(box):
    return box.path("arena").read_bytes()


def queued(box):
    """(entry, where its bytes are) of all queued chunks, from the file's own header."""
    data = arena_bytes(box)
    entries, = struct.unpack_from("=I", data, 16)
    stride, = struct.unpack_from("=Q", data, 40)
    words_at, = struct.unpack_from("=Q", data, 56)
    buffers_at, = struct.unpack_from("=Q", data, 80)
    words = struct.unpack_from(f"={entries}Q", data, words_at)
    return [(i, buffers_at + i * stride) for i, w in enumerate(words) if w & 15 == 2]


def flip(box, at):
    with open(box.path("arena"), "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 0x55]))


def finish(box):
    """Lets the output be written and runs to the end."""
    box.path("dir").unlink()
    box.path("dir").mkdir()
    if box.dead() is not None:
        box.start()
    until(lambda: f"all delivered: {box.ask('audit')}; {box.log()}",
          lambda: settled(b := box.ask("audit")) and b["received"] == LINES)


def test_check_and_export_show_what_is_in_flight():
    with make() as box:
        fill(box)
        before = arena_bytes(box)
        status, text = tool(box, "--arena-check")
        assert status == 0, text
        assert "clean->out" in text and text.rstrip().endswith("\nsound") and "in_flight 2000" in text, text
        status, text = tool(box, "--arena-export", str(box.path("saved")))
        assert status == 0 and "2000 records" in text, text
        saved = [json.loads(x) for x in box.path("saved").read_bytes().splitlines()]
        assert sorted(x["record"]["id"] for x in saved) == list(range(LINES))
        assert {x["edge"] for x in saved} <= {"src->clean", "clean->out"}
        assert not any("aside" in x for x in saved)
        assert arena_bytes(box) == before  # looking has changed nothing
        finish(box)
        assert sorted(lines_ids(box.path("dir/out.jsonl"))) == list(range(LINES))
        status, text = tool(box, "--arena-check")
        assert status == 2 and f"process {box.pid} " in text, text  # a daemon has it


def test_repair_plans_and_does():
    with make(dead_output=False) as box:
        box.path("dir").mkdir()
        # stopped there, so that the master repairs nothing before it is killed with all the others
        box.env["SLUICE_FAULT"] = f"commit_done:1:clean:{int(signal.SIGSTOP)}"
        box.start()
        until(lambda: f"stopped in the middle of a commit; {box.log()}",
              lambda: any(process_state(pid) == "T" for pid in box.children()))
        kill_all(box)
        status, text = tool(box, "--arena-check")
        assert status == 0 and "clean[0]: intent committed" in text, text
        before = arena_bytes(box)
        status, text = tool(box, "--arena-repair")
        assert status == 0 and "clean[0]: commit" in text and "nothing was changed" in text, text
        assert arena_bytes(box) == before
        status, text = tool(box, "--arena-repair", "--yes")
        assert status == 0 and "done" in text, text
        assert tool(box, "--arena-repair")[1] == "nothing to repair\n"
        assert "committed: " not in tool(box, "--arena-check")[1]
        del box.env["SLUICE_FAULT"]
        box.start()
        until(lambda: f"all delivered: {box.ask('audit')}; {box.log()}",
              lambda: settled(b := box.ask("audit")) and b["received"] == LINES)
        assert sorted(lines_ids(box.path("dir/out.jsonl"))) == list(range(LINES))


@pytest.mark.parametrize("repair", [False, True])
def test_damage_is_set_aside_and_told(repair):
    with make() as box:
        fill(box)
        chunks = queued(box)
        assert len(chunks) > 3
        flip(box, chunks[1][1] + 10)
        new_boot(box)  # in the same boot the kernel's copy is the truth, and nobody looks
        status, text = tool(box, "--arena-check")
        assert status == 1 and "torn or corrupt" in text and "NOT sound: 1 problems" in text, text
        status, text = tool(box, "--arena-export", str(box.path("saved")))
        saved = [json.loads(x) for x in box.path("saved").read_bytes().splitlines()]
        whole = {x["record"]["id"] for x in saved if not x.get("aside")}
        assert 0 < len(whole) < LINES
        if repair:
            assert "set aside" in tool(box, "--arena-repair")[1]
            assert tool(box, "--arena-repair", "--yes")[0] == 0
            status, text = tool(box, "--arena-check")
            assert status == 0 and "1 aside" in text, text
        finish(box)
        books = box.ask("audit")
        assert books["balanced"] and books["aside"] == LINES - len(whole), books
        assert books["delivered"] == len(whole)
        assert {int(x) for x in lines_ids(box.path("dir/out.jsonl"))} == whole
        if not repair:
            assert "torn or corrupt: set aside" in box.log()
        assert box.stop() == 0
        status, text = tool(box, "--arena-check")
        assert status == 0 and f"aside {LINES - len(whole)}: balanced" in text, text


def test_flipped_in_the_same_boot_is_found_by_check():
    with make() as box:
        fill(box)
        flip(box, queued(box)[0][1] + 10)
        status, text = tool(box, "--arena-check")
        assert status == 1 and "torn or corrupt" in text, text


def test_what_is_no_arena():
    with make() as box:
        status, text = tool(box, "--arena-check")
        assert status == 2 and "No such file" in text, text
        for junk in (b"", b"x", os.urandom(5000), os.urandom(3 << 20), b"SLUICE\n\0" + bytes(1 << 20)):
            box.path("arena").write_bytes(junk)
            for args in (["--arena-check"], ["--arena-repair", "--yes"], ["--arena-export", str(box.path("x"))]):
                status, text = tool(box, *args)
                assert status in (1, 2) and text.startswith("sluiced: "), (status, text)
            assert box.path("arena").read_bytes() == junk
        box.path("arena").unlink()
        fill(box)
        whole = arena_bytes(box)
        for size in (100, 5000, len(whole) // 2, len(whole) - 1):
            box.path("arena").write_bytes(whole[:size])
            status, text = tool(box, "--arena-check")
            assert status == 1 and "cut off" in text, (size, status, text)
        box.path("arena").write_bytes(whole[:8] + struct.pack("=I", 999) + whole[12:])
        status, text = tool(box, "--arena-check")
        assert status == 1 and "another version" in text and "drain" in text, text


def test_random_damage_never_kills_the_tools():
    """Whatever stands in the ledger, the tools say something and end in order."""
    with make() as box:
        fill(box)
        whole = bytearray(arena_bytes(box))
        words_at, = struct.unpack_from("=Q", whole, 56)
        buffers_at, = struct.unpack_from("=Q", whole, 80)
        for seed in range(25):
            data = bytearray(whole)
            rng = __import__("random").Random(seed)
            for _ in range(rng.choice((1, 10, 200))):
                data[rng.randrange(words_at, buffers_at)] = rng.randrange(256)
            box.path("arena").write_bytes(data)
            for args in (["--arena-check"], ["--arena-export", str(box.path("x"))], ["--arena-repair"]):
                status, text = tool(box, *args)
                assert status in (0, 1), (seed, args, status, text)


def test_full_disk_is_told_at_creation():
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    with make() as box:
        small = box.path("small")
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)]).returncode:
            pytest.skip("no tmpfs can be mounted here")
        try:
            text = box.path("c.yaml").read_text().replace(f"{box.dir}/arena", f"{small}/arena")
            box.path("c.yaml").write_text(text)
            box.start()
            status = until("it ends", lambda: box.dead() is not None and [box.dead()])[0]
            assert status == 1 and "No space left on device" in box.log(), box.log()
            assert "cannot make an arena of" in box.log()
        finally:
            subprocess.run(["umount", str(small)], check=False)


def test_second_daemon_is_refused_with_the_pid():
    with make() as box:
        box.start()
        until("it answers", lambda: box.ask("status"))
        done = subprocess.run([str(FAULTS / "sluiced"), "-c", str(box.path("c.yaml"))], env=box.env,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and f"pid {box.pid} holds" in done.stderr, done.stderr


def test_nothing_syncs_an_arena_that_need_not_be():
    """Without arena.sync its pages are the kernel's to write when it likes: a sync of them would cost, for nothing."""
    if not shutil.which("strace"):
        pytest.skip("SKIP: no strace")
    with make(dead_output=False) as box:
        text = box.path("c.yaml").read_text()
        box.path("c.yaml").write_text(text[:text.index("  out:")] + "  out: {type: 'null'}\n")
        done = subprocess.run(
            ["strace", "-f", "-y", "-qq", "-o", str(box.path("trace")), "-e",
             "trace=msync,fsync,fdatasync,sync,syncfs,sync_file_range,ftruncate", str(FAULTS / "sluiced"), "-c",
             str(box.path("c.yaml")), "--until-done"], env=box.env, capture_output=True, text=True, timeout=120)
        if done.returncode and "ptrace" in done.stderr:
            pytest.skip(f"SKIP: strace: {done.stderr[:200]}")
        assert done.returncode == 0, done.stderr
        calls = box.path("trace").read_text(errors="replace").splitlines()
        assert any("ftruncate" in c and "/arena.new>" in c for c in calls), "strace saw nothing of the arena"
        assert not [c for c in calls if "/arena>" in c]  # once it has its name
        assert not [c for c in calls if "msync(" in c]
