"""
A full disk is back-pressure: the stage says why, the others go on, it goes on by itself when there is room, and
nothing half-written is left. The same for single calls that fail: ENOSPC, EIO, EINTR, nothing written.
"""

import shutil
import subprocess

import pytest

import oracle
from oracle import Job, settled

# what lies on the small file system: how large it is at first, the stage that has to wait, what `status` says of it
SMALL = {
    "out.jsonl": ("256k", "out"),
    "out.db": ("256k", "db"),
    "dead": ("4k", "dead"),
    "state": ("64k", "tot"),
}
ROOM = "300m"


@pytest.mark.parametrize("name", SMALL)
def test_full_disk(name):
    size, stage = SMALL[name]
    retry = ", retry: {base: 50ms, max: 200ms}"
    job = Job(n=40_000, buffer="64KiB", arena="8MiB")
    job.config = job.config.replace("codec: json, max_attempts", f"codec: json{retry}, max_attempts")
    job.config = job.config.replace('synchronous: "off"', f'synchronous: "off"{retry}')
    with job.box() as box:
        if not box.mount_small(size, [name], job.config):
            pytest.skip("SKIP: cannot mount a tmpfs here")
        box.start()

        def says_why():
            status = box.stages().get(stage)
            worker = [w for w in (box.ask("workers") or {"workers": []})["workers"] if w["stage"] == stage]
            text = f"{status} {worker}".lower()
            return "no space" in text or "full" in text.replace("'full': false", "") and text
        oracle.until(lambda: f"{stage} to say that the disk is full: {box.stages().get(stage)}; log:\n{box.log()}",
                     says_why)
        assert box.dead() is None
        assert not settled(box.ask("audit")) or job.ready(box) is None, "all was done: the disk was not full"
        box.make_room(ROOM)
        books = job.finish(box)
        job.check(box, books)
        assert box.starts == 1


def test_no_room_for_the_arena():
    """Refused at once, with the size and the place; no half-made file is left; with room it starts."""
    job = Job(n=2000)
    with job.box() as box:
        if not box.mount_small("1m", ["arena"], job.config):
            pytest.skip("SKIP: cannot mount a tmpfs here")
        box.start()
        oracle.until("the refusal", lambda: box.dead() is not None)
        assert box.dead() == 1
        assert "No space left" in box.log() and str(box.path("arena")) in box.log()
        assert not box.path("arena").exists() or box.path("arena").stat().st_size == 0
        box.make_room(ROOM)
        box.start()
        job.check(box, job.finish(box))


# calls that fail in every worker: from the third on, each fifth
WHEN = "when=3+5"
CALLS = [
    f"pwrite64:error=ENOSPC:{WHEN}", f"pwrite64:error=EIO:{WHEN}", f"pwrite64:error=EINTR:{WHEN}",
    f"pwrite64:retval=0:{WHEN}",
    f"write:error=ENOSPC:{WHEN}", f"write:error=EINTR:{WHEN}",
    f"fdatasync:error=EIO:{WHEN}", f"fdatasync:error=ENOSPC:{WHEN}",
    f"ftruncate:error=EIO:{WHEN}", f"ftruncate:error=EINTR:{WHEN}",
    f"mmap:error=ENOMEM:{WHEN}",
]


@pytest.mark.parametrize("call", CALLS if oracle.LONG else CALLS[:4] + CALLS[6:7] + CALLS[8:9] + CALLS[10:])
def test_calls_that_fail(call):
    """strace makes calls of the workers fail; each is replaced or tries again, and nothing is lost or doubled."""
    if not shutil.which("strace"):
        pytest.skip("SKIP: no strace")
    retry = ", retry: {base: 10ms, max: 50ms}"
    job = Job(n=40_000, buffer="64KiB", arena="8MiB")
    job.config = job.config.replace("path: @/out.jsonl, codec: json", f"path: @/out.jsonl, codec: json, sync: true{retry}")
    job.config = job.config.replace('synchronous: "off"', f"synchronous: full{retry}")
    name = call.split(":")[0]
    with job.box() as box:
        box.start()
        oracle.until("the daemon to answer", box.stages)
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", str(box.path("trace")), "-p", str(box.pid),
                                   *[x for w in box.workers() for x in ("-p", str(w["pid"]))],
                                   "-e", f"trace={name}", "-e", f"inject={call}"], stderr=subprocess.PIPE)
        try:
            def hit():
                return box.path("trace").exists() and "INJECTED" in box.path("trace").read_text(errors="replace")
            oracle.until("the tracer, or the end", lambda: hit() or job.ready(box) or tracer.poll() is not None)
            if tracer.poll() is not None:
                pytest.skip(f"SKIP: strace: {tracer.stderr.read().decode()[:200]}")
            books = job.run(box)
        finally:
            tracer.terminate()
            tracer.wait()
        assert hit(), "no call was made to fail: the test has tried nothing"
        assert box.stop() == 0
        job.check(box, books)
