#!/usr/bin/python3
"""Holds the hot loops to their budget of instructions.

    test_budget.py HOT [--write]

Instructions are repeatable where time is not: callgrind counts them for each loop of tests/bench/hot.c, and a loop may take
5 % more than tests/bench/budget.txt says. One that takes 5 % less is told too, so that the budget follows. --write writes
the budget anew. The figures belong to gcc 12 with -O2 on x86-64: elsewhere, and without valgrind, this is skipped.
"""
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

BUDGET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "budget.txt")
COUNT = 2000
TOLERANCE = 0.05


def skip(why):
    print(f"budget: skipped: {why}")
    sys.exit(0)


def compiler(hot):
    """As the program's own debug information says."""
    out = subprocess.run(["readelf", "--debug-dump=info", "--dwarf-depth=1", hot], stdout=subprocess.PIPE, text=True).stdout
    made = re.search(r"DW_AT_producer.*: (GNU C17 \S+ .*)", out)
    return made.group(1) if made else "unknown"


def count(hot, name):
    with tempfile.NamedTemporaryFile(prefix="hot") as out:
        p = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", "--toggle-collect=hot_loop",
                            hot, name, str(COUNT)], stderr=subprocess.PIPE, text=True, check=True)
    return int(re.search(r"Collected : (\d+)", p.stderr).group(1)) / COUNT


def read():
    with open(BUDGET) as f:
        return {w[0]: float(w[1]) for w in (line.split() for line in f) if w and not w[0].startswith("#")}


def main():
    hot, write = sys.argv[1], "--write" in sys.argv
    if not shutil.which("valgrind"):
        skip("valgrind is not here")
    if platform.machine() != "x86_64":
        skip("the figures are for x86-64")
    made = compiler(hot)
    if " 12." not in made or "-O2" not in made or "-fsanitize" in made:
        skip(f"the figures are for gcc 12 with -O2, this is {made[:60]}")
    names = subprocess.run([hot, "LIST"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    budget, bad, lines = {} if write else read(), 0, []
    for name in names:
        n = count(hot, name)
        lines.append(f"{name:16} {n:8.0f}\n")
        if write:
            continue
        allowed = budget.get(name)
        word = "ok"
        if allowed is None:
            word, bad = "has no budget", bad + 1
        elif n > allowed * (1 + TOLERANCE):
            word, bad = "OVER BUDGET", bad + 1
        elif n < allowed * (1 - TOLERANCE):
            word = "under: lower the budget (--write)"
        print(f"  {name:16} {n:8.0f} of {allowed or 0:8.0f} instructions a record: {word}", flush=True)
    if write:
        with open(BUDGET, "w") as f:
            f.write("# Instructions a record, counted by test_budget.py, which also says what they hold for.\n")
            f.writelines(lines)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
