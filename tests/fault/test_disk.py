"""
A full disk is back-pressure: the stage says why, the others go on, it goes on by itself when there is room, and
nothing half-written is left. The same for single calls that fail: ENOSPC, EIO, EINTR, nothing written.
"""

import shutil
import signal
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


# calls that fail in every worker: from the second on, each fifth; so many in all
WHEN = "when=2+5"
FAILURES = 25
CALLS = [
    f"pwrite64:error=ENOSPC:{WHEN}", f"pwrite64:error=EIO:{WHEN}", f"pwrite64:error=EINTR:{WHEN}",
    f"pwrite64:retval=0:{WHEN}", f"fdatasync:error=EIO:{WHEN}", f"ftruncate:error=EIO:{WHEN}",
    f"mmap:error=ENOMEM:{WHEN}",
    f"write:error=ENOSPC:{WHEN}", f"write:error=EINTR:{WHEN}", f"fdatasync:error=ENOSPC:{WHEN}",
    f"ftruncate:error=EINTR:{WHEN}",
]


def traced(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return "TracerPid:\t0\n" not in f.read()
    except OSError:
        return False


def injected(box):
    trace = box.path("trace")
    return trace.read_text(errors="replace").count("INJECTED") if trace.exists() else 0


@pytest.mark.parametrize("call", CALLS if oracle.LONG else CALLS[:7])
def test_calls_that_fail(call):
    """
    strace makes calls of the workers fail; they try again or are replaced, and nothing is lost or doubled. Each worker
    is killed once at the beginning, so that its start is among what fails.
    """
    if not shutil.which("strace"):
        pytest.skip("SKIP: no strace")
    retry = ", retry: {base: 10ms, max: 50ms}"
    job = Job(n=100_000, buffer="64KiB", arena="8MiB")
    job.config = job.config.replace("path: @/out.jsonl, codec: json", f"path: @/out.jsonl, codec: json, sync: true{retry}")
    job.config = job.config.replace('synchronous: "off"', f"synchronous: full{retry}")
    with job.box() as box:
        box.start()
        oracle.until("the daemon to answer", box.stages)
        with open(box.path("strace.err"), "w") as err:
            tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", str(box.path("trace")), "-p", str(box.pid),
                                       "-e", f"trace={call.split(':')[0]}", "-e", f"inject={call}"], stderr=err)
        try:
            oracle.until("strace", lambda: traced(box.pid) or tracer.poll() is not None)
            if tracer.poll() is not None:
                pytest.skip(f"SKIP: strace: {box.path('strace.err').read_text()[:200]}")
            for w in box.workers():
                box.signal(w["pid"], signal.SIGKILL)
            oracle.until(lambda: f"{injected(box)} calls to fail", lambda: injected(box) >= FAILURES or job.ready(box))
        finally:
            tracer.terminate()  # what it traced goes on, unharmed
            tracer.wait()
        assert injected(box), "no call was made to fail: the test has tried nothing"
        books = job.run(box)
        assert box.stop() == 0
        job.check(box, books)
