"""What is wrong with a configuration is said with line and column, all of it in one run; --try, variables, conf.d.

In the texts below the mark ^ stands right before the place that has to be named; it is taken out.
"""
import json
import re

import pytest

import box

PRODUCER = "producers:\n  g: {type: generate}\n"
CONSUMER = "consumers:\n  n: {type: null}\n"

BAD = {
    "unknown section": (PRODUCER + CONSUMER + "^producer: {}\n", "producers"),
    "unknown key": ("producers:\n  g: {type: generate, ^ratte: 5}\n" + CONSUMER, "rate"),
    "unknown key of arena": ("arena: {^sise: 64MiB}\n" + PRODUCER + CONSUMER, "size"),
    "unknown type": ("producers:\n  g: {type: ^generat}\n" + CONSUMER, "generate"),
    "unknown step": (PRODUCER + "transformers:\n  t:\n    steps:\n      - ^fitler: {a: 1}\n" + CONSUMER, "filter"),
    "type left out": ("producers:\n  g: ^{rate: 1}\n" + CONSUMER, "type"),
    "not a number": ("producers:\n  g: {type: generate, rate: ^fast}\n" + CONSUMER, "number"),
    "negative number": ("producers:\n  g: {type: generate, rate: ^-1}\n" + CONSUMER, ""),
    "bad size": ("arena: {size: ^64MB!}\n" + PRODUCER + CONSUMER, "size"),
    "bad duration": ("daemon: {stop_timeout: ^soon}\n" + PRODUCER + CONSUMER, "duration"),
    "bad boolean": ("producers:\n  g: {type: file, path: /x, codec: lines, follow: ^yes}\n" + CONSUMER, "true"),
    "bad choice": ("producers:\n  g: {type: zmq, listen: \"tcp://127.0.0.1:1\", codec: json, socket: ^pul}\n" + CONSUMER,
                   "pull"),
    "required option": ("producers:\n  f: ^{type: file, codec: lines}\n" + CONSUMER, "path"),
    "map expected": ("arena: ^5\n" + PRODUCER + CONSUMER, "map"),
    "list expected": (PRODUCER + "transformers:\n  t: {steps: ^5}\n" + CONSUMER, "list"),
    "dangling from": (PRODUCER + "consumers:\n  n: {type: null, from: ^gg}\n", "g"),
    "from an unknown output": (PRODUCER + "transformers:\n  t: {steps: [{route: {a: {x: 1}, default: main}}]}\n"
                               "consumers:\n  n: {type: null, from: [t, t.a]}\n  m: {type: null, from: ^t.b}\n", "output"),
    "circle": (PRODUCER + "transformers:\n  a: {from: ^b, steps: [{keep: [x]}]}\n"
               "  b: {from: [a, g], steps: [{keep: [x]}]}\n" + CONSUMER, "circle"),
    "nobody reads": (PRODUCER + "transformers:\n  ^t: {from: g, steps: [{keep: [x]}]}\n"
                     "consumers:\n  n: {type: null, from: g}\n", "reads"),
    "name taken": (PRODUCER + "consumers:\n  ^g: {type: null}\n", "taken"),
    "duplicate key": ("producers:\n  g: {type: generate}\n  ^g: {type: generate}\n" + CONSUMER, ""),
    "alias": ("producers:\n  g: {type: generate, record: &r {a: 1}}\n  h: {type: generate, record: ^*r}\n" + CONSUMER,
              "alias"),
    "merge key": ("producers:\n  g: {type: generate, record: {^<<: {a: 1}}}\n" + CONSUMER, "merge"),
    "tab": ("producers:\n^\tg: {type: generate}\n" + CONSUMER, ""),
    "unclosed": ("producers:\n  g: {type: generate\nconsumers^:\n  n: {type: null}\n", ""),
    "unset variable": ("producers:\n  g: {type: generate, rate: ^\"${SLUICE_TEST_UNSET}\"}\n" + CONSUMER,
                       "SLUICE_TEST_UNSET"),
    "expression": (PRODUCER + "transformers:\n  t: {steps: [{set: {a: ^=1 + }}]}\n" + CONSUMER, ""),
    "unknown function": (PRODUCER + "transformers:\n  t: {steps: [{set: {a: ^=uper(b)}}]}\n" + CONSUMER, ""),
    "filter expression": (PRODUCER + "transformers:\n  t: {steps: [{filter: ^\"a >\"}]}\n" + CONSUMER, ""),
    "filter condition": (PRODUCER + "transformers:\n  t: {steps: [{filter: {a: {^greater: 5}}}]}\n" + CONSUMER, ""),
    "regex": (PRODUCER + "transformers:\n  t: {steps: [{parse: {field: a, pattern: ^'(?<x>['}}]}\n" + CONSUMER, ""),
    "lua": (PRODUCER + "transformers:\n  t: {steps: [{lua: {script: ^\"function process(\"}}]}\n" + CONSUMER, ""),
    "lua in short": (PRODUCER + "transformers:\n  t: {steps: [{lua: ^\"function process(\"}]}\n" + CONSUMER, "lua:1"),
    "a step that is no map": (PRODUCER + "transformers:\n  t: {steps: [{aggregate: ^count}]}\n" + CONSUMER, "a map"),
    "a short form that is no text": (PRODUCER + "transformers:\n  t: {steps: [{explode: ^[a]}]}\n" + CONSUMER, "string"),
    "aggregate function": (PRODUCER + "transformers:\n  t: {steps: [{aggregate: {compute: {n: ^median(x)}}}]}\n" + CONSUMER,
                           ""),
    "convert type": (PRODUCER + "transformers:\n  t: {steps: [{convert: {a: ^integer}}]}\n" + CONSUMER, "int"),
    "state with two workers": (PRODUCER + "transformers:\n  t: {workers: ^2, steps: [{dedupe: {by: a}}]}\n" + CONSUMER,
                               "workers: 1"),
    "unknown codec": ("producers:\n  g: {type: file, path: /x, codec: ^jsn}\n" + CONSUMER, "json"),
    "endpoint": ("producers:\n  g: {type: zmq, codec: json, listen: ^\"127.0.0.1:5555\"}\n" + CONSUMER, "tcp://"),
    "open to the world": ("producers:\n  g: {type: zmq, codec: json, listen: ^\"tcp://0.0.0.0:5555\"}\n" + CONSUMER,
                          "curve"),
    "quota of none": (PRODUCER + "consumers:\n  n: {type: null, quota: ^0}\n", ""),
    "arena too small": ("arena: {size: ^128KiB, buffer: 64KiB}\n" + PRODUCER + CONSUMER, "too small"),
    "empty file": ("^", ""),
    "no producers": ("^" + CONSUMER, "producers"),
}


def place(marked):
    at = marked.index("^")
    before = marked[:at]
    return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1, marked[:at] + marked[at + 1:]


@pytest.mark.parametrize("kind", sorted(BAD))
def test_place_of_a_mistake(tmp_path, kind):
    marked, word = BAD[kind]
    line, column, text = place(marked)
    f = tmp_path / "c.yaml"
    f.write_text(text)
    r = box.command("sluiced", "--check", "-c", f)
    assert r.returncode == 2, (text, r.stdout, r.stderr)
    places = re.findall(r"^%s:(\d+):(\d+): (.*)$" % re.escape(str(f)), r.stderr, re.M)
    found = [m for a, b, m in places if (int(a), int(b)) == (line, column)]
    assert found, "wanted %d:%d, got\n%s" % (line, column, r.stderr)
    assert any(word.lower() in m.lower() for m in found), found
    # sluicectl says the same
    c = box.command("sluicectl", "check", f)
    assert c.returncode == 1 and "%s:%d:%d:" % (f, line, column) in c.stdout + c.stderr


def test_all_mistakes_in_one_run(tmp_path):
    f = tmp_path / "c.yaml"
    f.write_text("arena: {sise: 1}\nproducers:\n  g: {type: generate, rate: x, cuont: 1}\n"
                 "consumers:\n  n: {type: nul}\n  m: {type: null, form: g}\n")
    r = box.command("sluiced", "--check", "-c", f)
    assert r.returncode == 2
    for where in ("1:9", "3:29", "3:32", "5:13", "6:19"):
        assert "%s:%s:" % (f, where) in r.stderr, (where, r.stderr)


def test_good_examples():
    for f in sorted(box.EXAMPLES.glob("*.yaml")) + [box.ROOT / "etc" / "sluice.yaml"]:
        r = box.command("sluiced", "--check", "-c", f)
        assert r.returncode == 0 and r.stderr == "", (f, r.stderr)


def test_a_bad_file_does_not_start(tmp_path):
    f = tmp_path / "c.yaml"
    f.write_text("producers: {}\n")
    r = box.command("sluiced", "-c", f)
    assert r.returncode == 2 and "%s:1:" % f in r.stderr
    r = box.command("sluiced", "--check", "-c", tmp_path / "none.yaml")
    assert r.returncode == 2 and "none.yaml" in r.stderr
    assert box.command("sluiced", "--nonsense").returncode == 2


def test_try(tmp_path):
    """One transformer's steps on records from stdin: what comes out, and what is refused."""
    f = tmp_path / "c.yaml"
    f.write_text(PRODUCER + """
transformers:
  t:
    steps:
      - filter: {level: {not: debug}}
      - convert: {n: int}
      - set: {s: "=upper(s)", host: "${SLUICE_HOST:-here}"}
""" + CONSUMER)
    r = box.command("sluiced", "--try", "t", "-c", f, env={"SLUICE_HOST": "there"},
                    input='{"n": "5", "s": "a", "level": "info"}\n{"level": "debug"}\n{"n": "x"}\n{"n": 1}\n')
    out = [json.loads(x) for x in r.stdout.splitlines()]
    assert {"n": 5, "s": "A", "level": "info", "host": "there"} in out and {"n": 1, "host": "there"} in out
    assert len(out) == 2 and "convert" in r.stderr, (out, r.stderr)
    r = box.command("sluiced", "--try", "nosuch", "-c", f)
    assert r.returncode == 2 and "nosuch" in r.stderr


def test_variables_and_fragments(daemon):
    """${NAME}, ${NAME:-default}, $$; conf.d beside the file, names taken twice name both places."""
    d = daemon("""
producers:
  g: {type: generate, count: 3, record: {id: =seq, a: "${SLUICE_A}", b: "${SLUICE_B:-x${SLUICE_A}}", c: "$${SLUICE_A}",
      n: "${SLUICE_N}"}}
""", env={"SLUICE_A": "one: {}", "SLUICE_N": "${SLUICE_A}"}, start=False)
    (d.dir / "conf.d").mkdir()
    d.write("conf.d/10-out.yaml", "consumers:\n  out: {type: file, path: %s/out.jsonl, codec: json}\n" % d.dir)
    d.write("conf.d/ignored.txt", "nonsense: [")
    d.start()
    d.settle(ended=True, delivered=3)
    r = box.ndjson(d.dir / "out.jsonl")[0]
    assert r["a"] == "one: {}" and r["c"] == "${SLUICE_A}" and r["n"] == "${SLUICE_A}", r
    d.write("conf.d/20-again.yaml", "consumers:\n  out: {type: null}\n")
    r = box.command("sluiced", "--check", "-c", d.config_path, env={"SLUICE_A": "", "SLUICE_N": ""})
    assert r.returncode == 2 and "10-out.yaml:2:3" in r.stderr and "20-again.yaml:2:3" in r.stderr, r.stderr
