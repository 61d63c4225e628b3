"""
Dead letters put back with `sluicectl dead replay`: each exactly once, whoever is killed in the middle, and
counted in the books.
"""

import json
import os
import signal

import pytest

from conftest import is_running, ndjson, wait_for

# `convert` rejects words; every tenth record has one
STEPS = "{convert: {n: int}}"
MENDED = "{set: {mended: true}}"

CONFIG = """
    ARENA
    producers:
      in: {type: file, path: @DIR@/in.jsonl, follow: FOLLOW}
    transformers:
      clean: {from: in, steps: [STEPS]}
    consumers:
      out: {from: clean, type: file, path: @DIR@/out.jsonl}
"""

SMALL = "arena: {size: 1280KiB, buffer: 32KiB, path: @DIR@/arena}"


KILLED = [r"killed by Killed", r"recovered \d+ chunks", r"reload refused"]


def config(steps=STEPS, arena="", follow="false"):
    return CONFIG.replace("ARENA", arena).replace("STEPS", steps).replace("FOLLOW", follow)


def write_input(d, n, every=10, pad=""):
    with (d.dir / "in.jsonl").open("w") as f:
        for i in range(n):
            f.write('{"id":%d,"n":"%s","pad":"%s"}\n' % (i, "word" if i % every == 0 else i, pad))
    return n // every


def with_letters(daemon, n, arena="", every=10):
    """A daemon that has taken in @n records, with its letters written."""
    d = daemon(config(arena=arena), start=False)
    bad = write_input(d, n, every)
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == bad, what="the letters to be written")
    d.wait_for(lambda: d.audit()["delivered"] == n - bad)
    return d, bad


def replay(d, *which):
    """The answer of `dead replay`."""
    p = d.sluicectl("--json", "dead", "replay", *which)
    assert p.returncode in (0, 1) and p.stdout, p.stderr
    return json.loads(p.stdout)


def mend(d, arena=""):
    d.write_config(config(MENDED, arena))
    d.ctl("reload")


def replayed(d, n):
    d.wait_for(lambda: d.audit()["replayed"] == n and d.settled(), what=f"{n} letters to be replayed")
    d.wait_for(lambda: not spools(d), what="the spool to be removed")
    d.wait_for(lambda: not d.workers("replay:clean"), what="the replayer to leave")
    return d.audit()


def spools(d):
    return sorted(p.name for p in (d.dir / "dead").glob("replay:*"))


def delivered_ids(d):
    return [r["id"] for r in ndjson(d.dir / "out.jsonl")]


def check_each_once(d, n):
    ids = delivered_ids(d)
    assert len(ids) == n
    assert sorted(ids) == list(range(n))


def nothing_left(d):
    answer = replay(d, "--all")
    assert answer["handed_over"] == 0
    assert not d.sluicectl("dead", "list", "--open", "--json").stdout


def test_letters_arrive_once_and_are_not_replayed_again(daemon):
    d, bad = with_letters(daemon, 1000)
    mend(d)
    p = d.sluicectl("dead", "replay", "--all")
    assert p.returncode == 0, p.stderr
    assert f"{bad} handed over" in p.stdout
    audit = replayed(d, bad)
    assert audit["balanced"] and audit["received"] == 1000 and audit["dead"] == bad
    assert all(pipeline["balanced"] for pipeline in audit["pipelines"])
    check_each_once(d, 1000)
    assert all(r["mended"] for r in ndjson(d.dir / "out.jsonl") if r["id"] % 10 == 0)
    p = d.sluicectl("dead", "replay", "--all")
    assert p.returncode == 0 and "nothing to do" in p.stdout
    nothing_left(d)
    check_each_once(d, 1000)


def test_single_letters_by_id(daemon):
    d, bad = with_letters(daemon, 100)
    mend(d)
    letters = d.dead_letters()
    wanted = letters[3]
    assert replay(d, wanted["id"])["handed_over"] == 1
    replayed(d, 1)
    assert delivered_ids(d).count(wanted["input"]["id"]) == 1
    assert replay(d, wanted["id"]) == {
        "handed_over": 0, "replayed_before": 1, "refused": 0, "unknown": 0}
    assert replay(d, "--all")["handed_over"] == bad - 1
    replayed(d, bad)
    check_each_once(d, 100)
    p = d.sluicectl("dead", "replay", "no-such-letter")
    assert p.returncode == 1 and 'no dead letter "no-such-letter"' in p.stderr


def test_a_cause_that_is_not_mended_makes_new_letters(daemon):
    d, bad = with_letters(daemon, 100)
    assert replay(d, "--all")["handed_over"] == bad
    audit = replayed(d, bad)
    assert audit["dead"] == 2 * bad and audit["delivered"] == 100 - bad
    d.wait_for(lambda: d.stats("dead")["letters"] == 2 * bad)
    assert len({letter["id"] for letter in d.dead_letters()}) == 2 * bad
    mend(d)
    assert replay(d, "--all") == {
        "handed_over": bad, "replayed_before": bad, "refused": 0, "unknown": 0}
    assert replayed(d, 2 * bad)["balanced"]
    check_each_once(d, 100)


def test_what_cannot_be_replayed_is_refused_by_name(daemon):
    d = daemon(config(follow="true"), start=False)
    (d.dir / "in.jsonl").write_text('{"id":1,"n":"word"}\nno record\n')
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == 2)
    letters = {letter["stage"].split("/")[0]: letter for letter in d.dead_letters()}
    p = d.sluicectl("dead", "replay", letters["in"]["id"])
    assert p.returncode == 1
    assert "producer" in p.stderr and f"dead show {letters['in']['id']}" in p.stderr
    d.write_config(config(MENDED, follow="true").replace("clean", "other"))
    d.ctl("reload")
    p = d.sluicectl("dead", "replay", "--all", "--json")
    assert p.returncode == 1 and "clean" in p.stderr and "no stage" in p.stderr
    assert '"refused":2' in p.stdout
    assert len(d.sluicectl("dead", "list", "--open", "--json").stdout.splitlines()) == 2
    assert not spools(d)


def test_two_commands_at_once(daemon):
    import subprocess
    from conftest import binary
    d, bad = with_letters(daemon, 2000)
    mend(d)
    runs = [subprocess.Popen([binary("sluicectl", "SLUICECTL"), "-s", str(d.socket), "dead", "replay", "--all",
                              "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    for run in runs:
        run.communicate(timeout=60)
    d.wait_for(lambda: d.audit()["replayed"] == bad and d.settled())
    check_each_once(d, 2000)


def held_up(d):
    return any(s["name"] == "replay:clean" and s["state"] == "blocked" for s in d.status()["stages"])


@pytest.fixture
def middle(daemon):
    """A replay of 8,000 letters that fills all the room there is, with its target paused."""
    n = 8000
    d = daemon(config(arena=SMALL), start=False, expect=KILLED)
    write_input(d, n, every=1, pad="x" * 400)
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == n)
    mend(d, SMALL)
    # the pipeline has ended: its stages only live while there is something to replay
    d.wait_for(lambda: d.stage("clean")["state"] == "ended")
    d.ctl("pause", "clean")
    assert replay(d, "--all")["handed_over"] == n
    d.wait_for(lambda: held_up(d), what="the replay to be in its middle")
    assert 0 < d.audit()["replayed"] < n
    return d, n


def finish(d, n, letters=None):
    audit = replayed(d, letters or n)
    assert audit["balanced"] and audit["replayed"] == (letters or n)
    assert all(p["balanced"] for p in audit["pipelines"])
    check_each_once(d, n)
    nothing_left(d)


def test_kill_the_replayer(middle):
    d, n = middle
    for _ in range(3):
        pid = d.kill("replay:clean")
        d.wait_for(lambda: held_up(d) and d.worker("replay:clean")["pid"] not in (0, pid))
        assert d.audit()["balanced"]
    d.ctl("resume", "clean")
    # and while it runs
    kill_often(d, "replay:clean", n)
    finish(d, n)


def test_kill_the_target(middle):
    d, n = middle
    d.ctl("resume", "clean")
    kill_often(d, "clean", n)
    finish(d, n)


def kill_often(d, stage, n):
    """Kills @stage each time some more letters are back, until all are."""
    last = -1
    while True:
        done = d.audit()["replayed"]
        if done >= n:
            return
        if done == last:
            continue
        last = done
        pids = [w["pid"] for w in d.workers(stage) if w["pid"]]
        if pids:
            try:
                os.kill(pids[0], signal.SIGKILL)
            except ProcessLookupError:
                continue
            wait_for(lambda: not is_running(pids[0]))


def test_kill_everything(middle):
    d, n = middle
    before = d.audit()["replayed"]
    d.kill_all()
    d.start()
    assert d.audit()["replayed"] >= before
    d.wait_for(lambda: d.audit()["replayed"] >= min(n, before + 1))
    if spools(d):
        d.kill_all()
        d.start()
    finish(d, n)


def test_marks_that_a_killed_command_did_not_make(middle):
    d, n = middle
    d.kill_all()
    (d.dir / "dead" / "replayed").unlink()
    d.start()
    finish(d, n)


def test_an_orderly_stop_in_the_middle(middle):
    d, n = middle
    d.stop()
    d.start()
    finish(d, n)


def test_in_memory_a_clean_stop_carries_the_place_on(daemon):
    d = daemon(config(follow="true"), start=False)
    write_input(d, 8000, every=1, pad="x" * 400)
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == 8000)
    d.write_config(config(MENDED, follow="true"))
    d.ctl("reload")
    replay(d, "--all")
    d.stop()
    d.start()
    finish(d, 8000)


def test_with_a_log(daemon):
    arena = "arena: {size: 1280KiB, buffer: 32KiB, path: @DIR@/arena, sync: true}"
    d = daemon(config(arena=arena), start=False, expect=KILLED)
    write_input(d, 3000, every=1, pad="x" * 400)
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == 3000)
    mend(d, arena)
    d.ctl("pause", "clean")
    assert replay(d, "--all")["handed_over"] == 3000
    d.wait_for(lambda: d.audit()["replayed"])
    d.kill_all()
    d.start()
    finish(d, 3000)


def test_a_spool_stays_until_its_letters_are_delivered(daemon):
    d, bad = with_letters(daemon, 100)
    mend(d)
    d.ctl("pause", "clean")
    replay(d, "--all")
    d.wait_for(lambda: d.audit()["replayed"] == bad)
    d.wait_for(lambda: d.stage("replay:clean")["state"] == "idle")
    assert spools(d)
    d.ctl("resume", "clean")
    finish(d, 100, bad)


def test_a_reload_in_the_middle(middle):
    d, n = middle
    d.write_config(config("{set: {mended: 2}}", SMALL))
    d.ctl("reload")
    d.ctl("resume", "clean")
    finish(d, n)


def test_a_stage_is_not_removed_in_the_middle(middle):
    d, n = middle
    d.write_config(config(MENDED, SMALL).replace("clean", "other"))
    p = d.sluicectl("reload")
    assert p.returncode == 1 and "replayed to clean" in p.stderr
    d.write_config(config(MENDED, SMALL))
    d.ctl("resume", "clean")
    finish(d, n)


def test_letters_of_a_consumer(daemon):
    text = """
        producers:
          in: {type: file, path: @DIR@/in.jsonl}
        consumers:
          out: {from: in, type: file, path: @DIR@/out.jsonl, codec: CODEC}
          other: {from: in, type: file, path: @DIR@/other.jsonl}
    """
    d = daemon(text.replace("CODEC", "lines"), start=False)
    write_input(d, 50)  # without a field "line", which is what this codec writes
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == 50)
    d.write_config(text.replace("CODEC", "json"))
    d.ctl("reload")
    assert replay(d, "--all")["handed_over"] == 50
    audit = d.wait_for(lambda: d.audit()["replayed"] == 50 and d.settled())
    assert audit["balanced"]
    check_each_once(d, 50)
    assert len(ndjson(d.dir / "other.jsonl")) == 50


def test_each_pipeline_balances_by_itself(daemon):
    text = """
        producers:
          in: {type: file, path: @DIR@/in.jsonl}
          in2: {type: file, path: @DIR@/in.jsonl}
        transformers:
          clean: {from: in, steps: [STEPS]}
          clean2: {from: in2, steps: [STEPS]}
        consumers:
          out: {from: clean, type: file, path: @DIR@/out.jsonl}
          out2: {from: clean2, type: file, path: @DIR@/out2.jsonl}
    """
    d = daemon(text.replace("STEPS", STEPS), start=False)
    bad = write_input(d, 200)
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == 2 * bad)
    d.write_config(text.replace("STEPS", MENDED))
    d.ctl("reload")
    one = next(letter for letter in d.dead_letters() if letter["stage"].startswith("clean2"))
    assert replay(d, one["id"])["handed_over"] == 1
    audit = d.wait_for(lambda: d.audit()["replayed"] == 1 and d.settled())
    assert sorted(p["replayed"] for p in audit["pipelines"]) == [0, 1]
    d.wait_for(lambda: not spools(d))
    assert replay(d, "--all")["handed_over"] == 2 * bad - 1
    audit = d.wait_for(lambda: d.audit()["replayed"] == 2 * bad and d.settled())
    assert all(p["balanced"] and p["replayed"] == bad for p in audit["pipelines"])
    check_each_once(d, 200)
    assert sorted(r["id"] for r in ndjson(d.dir / "out2.jsonl")) == list(range(200))


def test_a_drained_daemon_takes_no_letters(daemon):
    d, _ = with_letters(daemon, 100)
    d.ctl("drain")
    p = d.sluicectl("dead", "replay", "--all")
    assert p.returncode == 2 and "drained" in p.stderr
    assert not spools(d)


def test_without_a_daemon_nothing_is_handed_over(daemon):
    d, bad = with_letters(daemon, 100)
    d.stop()
    p = d.sluicectl("-c", d.config_path, "dead", "replay", "--all")
    assert p.returncode == 2 and "no daemon" in p.stderr
    assert not spools(d)


def test_no_free_worker_slot(daemon):
    text = config(arena="arena: {max_workers: 4}")
    d = daemon(text, start=False, expect=["dead letters wait"])
    write_input(d, 100)
    d.start()
    d.wait_for(lambda: d.stats("dead")["letters"] == 10)
    p = d.sluicectl("dead", "replay", "--all")
    assert p.returncode == 1 and "max_workers" in p.stderr
    assert spools(d) == ["replay:clean.spool"]
    assert d.sluicectl("dead", "replay", "--all").returncode == 1  # they wait; nothing is handed over twice
    assert d.audit()["balanced"]
    d.stop()
    d.write_config(config(MENDED, "arena: {max_workers: 5}"))
    (d.dir / "in.jsonl").write_text("")
    d.start()
    d.wait_for(lambda: d.audit()["replayed"] == 10 and d.settled())
    check_each_once(d, 100)


def test_until_done_waits_for_the_replay(middle):
    d, n = middle
    d.kill_all()
    d.args = ["--until-done"]
    d.start(wait=False)
    assert d.wait() == 0
    assert not spools(d)
    check_each_once(d, n)
