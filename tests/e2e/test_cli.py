"""sluicectl as people and scripts meet it: tables, JSON, exit codes, help."""
import json
import re

import pytest

import box

COMMANDS = re.findall(r'^COMMAND\(\w+, "([^"]+)"', (box.ROOT / "daemon" / "commands.def").read_text(), re.M)


@pytest.fixture
def running(daemon):
    d = daemon("""
producers:
  gen: {type: generate, count: 1000, record: {seq: =seq}}
transformers:
  t: {steps: [{filter: "seq % 2 == 0"}]}
consumers:
  out: {from: t, type: file, path: @DIR@/out.jsonl, codec: json}
""")
    d.settle(ended=True, received=1000, filtered=500, delivered=500)
    return d


def table(text):
    """Rows of the first table in @text: the columns stand under their heads."""
    lines = text.splitlines()
    at = next(i for i, x in enumerate(lines) if x.startswith("STAGE "))
    rows = []
    for line in lines[at + 1:]:
        if not line.strip():
            break
        rows.append(line.split())
    return lines[at].split(), rows


def test_tables(running):
    r = running.sluicectl("status")
    assert r.returncode == 0 and r.stderr == "" and "\x1b" not in r.stdout
    head, rows = table(r.stdout)
    assert [x[0] for x in rows] == ["gen", "t", "out", "dead"]
    assert len(max(r.stdout.splitlines(), key=len)) <= 130
    head, rows = table(running.sluicectl("stats").stdout)
    assert head[:3] == ["STAGE", "IN", "OUT"]
    head, rows = table(running.sluicectl("workers").stdout)
    assert rows[0][0] == "(master)" and str(running.pid) in rows[0][1:3]
    r = running.sluicectl("audit")
    assert r.returncode == 0 and "received 1000" in r.stdout and "balanced" in r.stdout
    assert "not balanced" not in r.stdout


def test_json_is_the_daemons_answer(running):
    for command in ("status", "stats", "workers", "audit", "graph"):
        r = running.sluicectl("--json", command)
        assert r.returncode == 0 and len(r.stdout.splitlines()) == 1
        assert set(json.loads(r.stdout)) == set(running.ctl(command))
    r = running.sluicectl("--json", "scale", "nosuch", "2")
    assert r.returncode == 1 and "error" in json.loads(r.stdout)


def test_exit_codes(running, tmp_path):
    fine = ["status", "stats", "workers", "audit", "graph", "version", "stages", "stages file", "help",
            "help status", "dead list"]
    refused = ["pause nosuch", "scale t 0", "restart nosuch", "tap nosuch", "dead show nosuch", "stages nosuch"]
    wrong = ["", "nonsense", "pause", "scale t", "scale t two three", "status extra", "dead", "dead nonsense",
             "--nonsense", "help nonsense", "send"]
    for line, code in [(x, 0) for x in fine] + [(x, 1) for x in refused] + [(x, 2) for x in wrong]:
        r = running.sluicectl(*line.split())
        assert r.returncode == code, (line, r.returncode, r.stdout, r.stderr)
        assert (code == 0) == (r.stderr == ""), (line, r.stderr)


def test_no_daemon(tmp_path):
    """It says which socket was tried and what to do."""
    r = box.command("sluicectl", "-s", tmp_path / "c.sock", "status")
    assert r.returncode == 2 and str(tmp_path / "c.sock") in r.stderr and "sluiced" in r.stderr, r.stderr
    r = box.command("sluicectl", "-s", tmp_path / "c.sock", "--json", "audit")
    assert r.returncode == 2
    r = box.command("sluicectl", "-s", "/" + "x" * 200, "status")
    assert r.returncode == 2 and r.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name):
    r = box.command("sluicectl", *name.split(), "--help")
    assert r.returncode == 0 and "usage: sluicectl" in r.stdout and name in r.stdout and r.stderr == ""
    assert box.command("sluicectl", "help", *name.split()).stdout == r.stdout


def test_help_lists_every_command():
    text = box.command("sluicectl", "--help").stdout
    assert [n for n in COMMANDS if not re.search(r"^  %s\b" % re.escape(n), text, re.M)] == []


def test_stages_reference():
    listed = box.command("sluicectl", "stages").stdout
    types = [line.split()[:2] for line in listed.splitlines()[1:]]
    assert ["producer", "zmq"] in types and ["step", "filter"] in types and ["codec", "csv"] in types
    assert len({tuple(t) for t in types}) == len(types)
    for name in {t[1] for t in types}:
        r = box.command("sluicectl", "stages", name)
        assert r.returncode == 0 and "%s:" % name in r.stdout


def test_socket_from_the_configuration(running):
    r = box.command("sluicectl", "-c", running.config_path, "audit")
    assert r.returncode == 0 and "balanced" in r.stdout
    r = box.command("sluicectl", "audit", env={"SLUICE_SOCKET": str(running.socket)})
    assert r.returncode == 0


def test_versions(running):
    v = box.command("sluiced", "--version").stdout.strip()
    assert re.search(r"\d+\.\d+\.\d+", v)
    r = running.sluicectl("version")
    assert r.stdout.count(re.search(r"\d+\.\d+\.\d+", v)[0]) == 2


def test_check(tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("producers: {g: {type: generate}}\nconsumers: {n: {type: null}}\n")
    bad.write_text("producers: {g: {type: generat}}\n")
    assert box.command("sluicectl", "check", good).returncode == 0
    r = box.command("sluicectl", "check", bad)
    assert r.returncode == 1 and "%s:1:23" % bad in r.stderr + r.stdout


def test_send_without_a_peer(tmp_path, port):
    f = tmp_path / "feed"
    f.write_text('{"a": 1}\n')
    r = box.command("sluicectl", "send", "--timeout", "1", "--to", "tcp://127.0.0.1:%d" % port(), f)
    assert r.returncode == 1 and "nobody" in r.stderr
