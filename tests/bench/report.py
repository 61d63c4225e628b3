"""The report: a section is a table of rows, its plots, and the goals that its rows are held against.

A row has a list of values for each figure, one for each run; the median counts, ± is half of the way from the least to the
greatest. Runs alternate, so the n-th run of two rows had the same neighbours: a ratio to sluice is the median of the ratios of
such pairs, with the least and the greatest behind it.
"""
import os
from typing import NamedTuple

import goals
import svg
from measure import middle, spread


class Row:
    def __init__(self, name, note="", records=0, peer=False):
        self.name, self.note, self.records, self.peer = name, note, records, peer
        self.values, self.right = {}, "-"

    def add(self, **figures):
        for key, value in figures.items():
            self.values.setdefault(key, []).append(value)

    def has(self, key):
        return bool(self.values.get(key))

    def mid(self, key):
        return middle(self.values[key])


class Column(NamedTuple):
    key: str
    head: str
    scale: float = 1.0
    digits: int = 2
    less_is_better: bool = True


class Section:
    def __init__(self, part, title, columns, rows, ratio=None, plots=(), text=()):
        self.part, self.title, self.columns = part, title, columns
        self.wrong = [r.name for r in rows if r.right.startswith("NO")]
        self.rows = [r for r in rows if r.values]
        self.ratio, self.plots, self.text = ratio, plots, list(text)
        self.reached = goals.reached(part, {r.name: r for r in self.rows})


def cell(row, c):
    if not row.has(c.key):
        return "-"
    values = row.values[c.key]
    text = f"{middle(values) * c.scale:.{c.digits}f}"
    return text if len(values) == 1 else f"{text} (±{spread(values) / 2:.0f} %)"


def ratio_cell(row, first, key):
    if not row.has(key) or not first.has(key):
        return "-"
    pairs = [a / b for a, b in zip(row.values[key], first.values[key]) if b]
    if not pairs:
        return "-"
    m = middle(pairs)
    return f"{m:.2f}" if len(pairs) == 1 else f"{m:.2f} ({min(pairs):.2f}..{max(pairs):.2f})"


def named(row):
    return f"{row.name} ({row.note})" if row.note else row.name


def table(s):
    columns = [c for c in s.columns if any(r.has(c.key) for r in s.rows)]
    ratio = next((c for c in columns if c.key == s.ratio), None)
    counted = any(r.records for r in s.rows)
    heads = ["who"] + [c.head for c in columns]
    heads += [f"{ratio.head.split(',')[0]} against {s.rows[0].name}"] if ratio else []
    heads += ["output right"] + (["records"] if counted else []) + (["goal"] if s.reached else [])
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in s.rows:
        cells = [named(row)] + [cell(row, c) for c in columns]
        cells += [ratio_cell(row, s.rows[0], s.ratio)] if ratio else []
        cells += [row.right] + ([str(row.records or "-")] if counted else [])
        cells += ["<br>".join(g.told() for g in s.reached if g.who == row.name)] if s.reached else []
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(s, where):
    lines = []
    for c in s.columns:
        rows = [r for r in s.rows if r.has(c.key)]
        if c.key not in s.plots or not rows:
            continue
        bars = [(named(r), r.mid(c.key), f"{r.mid(c.key) * c.scale:.{c.digits}f}", r.name.startswith("sluice")) for r in rows]
        name = f"{s.part}-{c.key}.svg"
        with open(os.path.join(where, name), "w") as f:
            f.write(svg.bars(f"{s.part}: {c.head} ({'shorter' if c.less_is_better else 'longer'} is better)", bars))
        lines.append(f"![{s.part}: {c.head}]({name})")
    return lines


def told(s):
    """One line a row, for whoever watches the run."""
    for row in s.rows:
        figures = "  ".join(f"{row.mid(c.key) * c.scale:.{c.digits}f} {c.head}" for c in s.columns if row.has(c.key))
        print(f"  {named(row):44} {figures}  right: {row.right}")
    for g in s.reached:
        print(f"  goal: {g.who}: {g.told()}", flush=True)


def section(s, where):
    lines = [f"## {s.title}", ""]
    if s.rows:
        lines += table(s) + [""]
    lines += s.text + ([""] if s.text else [])
    return lines + draw(s, where) + [""]


def summary(sections):
    reached = [(s.part, g) for s in sections for g in s.reached]
    if not reached:
        return []
    lines = ["## Goals", "", "| part | who | goal | met |", "|---|---|---|---|"]
    lines += [f"| {part} | {g.who} | {g.text} | {g.verdict()} |" for part, g in reached]
    return lines + [""]
