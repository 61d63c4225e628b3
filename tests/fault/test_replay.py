"""
A kill at every step that a replay of dead letters passes: in the replayer, the stage the letters go back to, what
follows it, and the master. Each letter is back once in the end.

The short form kills at the first passage of each point; SLUICE_TORTURE=1 at some more.
"""

import json
import os
import pathlib
import re
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import oracle  # noqa: E402
from conftest import Daemon, finish as stop_daemon, ndjson, wait_for  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
POINTS = re.findall(r"^FAULT_POINT\((\w+)\)", (ROOT / "ipc" / "fault.def").read_text(), re.M)
PASSAGES = [1, 2, 3, 5, 9] if os.environ.get("SLUICE_TORTURE") else [1, 4]
LETTERS = 1500

CONFIG = """
    arena: {size: 1280KiB, buffer: 32KiB, path: @DIR@/arena}
    producers:
      in: {type: file, path: @DIR@/in.jsonl}
    transformers:
      clean: {from: in, steps: [STEPS]}
    consumers:
      out: {from: clean, type: file, path: @DIR@/out.jsonl}
"""


def prepared():
    """A daemon whose letters are written and whose cause is mended; it does not run."""
    d = Daemon(CONFIG.replace("STEPS", "{convert: {n: int}}"), expect=[""])
    with (d.dir / "in.jsonl").open("w") as f:
        for i in range(LETTERS):
            f.write(json.dumps({"id": i, "n": "word", "pad": "x" * 200}) + "\n")
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == LETTERS)
    d.kill_all()
    d.write_config(CONFIG.replace("STEPS", "{set: {mended: true}}"))
    return d


def revive(d):
    """Starts the daemon whenever its master died. True: it runs."""
    if d.process and d.process.poll() is not None:
        d.process = None
        d.deaths += 1
    if not d.process:
        d.start(wait=False)
    return d.status()["state"] == "running"


def all_back(d):
    if not revive(d):
        return False
    d.sluicectl("dead", "replay", "--all")
    audit = d.audit()
    left = list((d.dir / "dead").glob("replay:*")) or d.workers("replay:clean")
    return audit["replayed"] == LETTERS and audit["in_flight"] == 0 and not left and audit


def died(d, before):
    """Whether the fault point killed someone: a worker's end is logged, the master's shows."""
    return "killed by" in d.log()[before:] or d.deaths > 0


hit = set()


@pytest.mark.parametrize("point", POINTS)
def test_kill_at_every_step_of_a_replay(point, monkeypatch):
    if not (oracle.FAULTS / "sluiced").exists():
        pytest.skip("no build with fault points")
    monkeypatch.setenv("SLUICED", str(oracle.FAULTS / "sluiced"))
    monkeypatch.setenv("SLUICECTL", str(oracle.FAULTS / "sluicectl"))
    for passage in PASSAGES:
        d = prepared()
        d.deaths, before = 0, len(d.log())
        d.env.update(SLUICE_FAULT=f"{point}:{passage}", SLUICE_FAULT_STATE=str(d.dir / "faults"))
        audit = wait_for(lambda: all_back(d), what=f"{LETTERS} letters back over {point}:{passage}\n{d.log()}")
        assert audit["balanced"] and all(p["balanced"] for p in audit["pipelines"]), audit
        assert sorted(r["id"] for r in ndjson(d.dir / "out.jsonl")) == list(range(LETTERS))
        assert "nothing to do" in d.sluicectl("dead", "replay", "--all").stdout
        if died(d, before):
            hit.add(point)
        problems = stop_daemon(d)
        assert not problems, "\n".join(problems)


def test_the_steps_that_matter_were_among_them():
    if not hit:
        pytest.skip("no build with fault points, or not all were run")
    missing = {"produce", "acquire_take", "fill_facts", "commit_intent", "commit_done", "apply_publish", "apply_position",
               "apply_clear", "acknowledge", "claim_taken", "deliver", "retire_intent", "retire_book", "retire_clear",
               "spawn"} - hit
    assert not missing
