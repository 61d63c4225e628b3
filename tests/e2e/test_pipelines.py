"""
The books of each pipeline while reloads and new starts cut pipelines in two and join them: records that were received
in what is one pipeline now may have been delivered in what is another.

Each change is made while records flow. At once after it, and again and again later, every pipeline balances, and
so does the whole; what moved between them adds up to nothing, and stays as it is until the next change.
"""

import pytest

from conftest import ControlError, wait_for

HEAD = """
arena: {size: 16MiB, buffer: 64KiB@ARENA@}
producers:
  p: {type: generate, rate: 5000, record: {id: =seq, of: p}}
  q: {type: generate, rate: 3000, record: {id: =seq, of: q}}
"""
OUT = ", type: file, path: @DIR@/out.ndjson, codec: json}\n"
OTHER = ", type: file, path: @DIR@/other.ndjson, codec: json}\n"
GRAPHS = {
    "joined": "consumers:\n  out: {from: [p, q]" + OUT,
    "split": "consumers:\n  out: {from: p" + OUT + "  other: {from: q" + OTHER,
    "crossed": "consumers:\n  out: {from: q" + OUT + "  other: {from: p" + OTHER,
    "joined by a stage": "transformers:\n  mix: {from: [p, q], workers: 2, steps: [{filter: {id: {gt: 50}}}]}\n"
                         "consumers:\n  out: {from: mix" + OUT,
    "joined by two readers": "consumers:\n  out: {from: p" + OUT + "  other: {from: [p, q]" + OTHER,
    "one stage each": "transformers:\n  a: {from: p, steps: []}\n  b: {from: q, steps: []}\n"
                      "consumers:\n  out: {from: a" + OUT + "  other: {from: b" + OTHER,
}
WAY = ["split", "crossed", "joined by a stage", "split", "joined by two readers", "crossed", "joined",
       "one stage each", "joined by a stage", "one stage each", "split", "joined"]


def looks(d, n=3):
    """So many audits, each with everything balanced. Returns what moved, by pipeline."""
    moved = None
    for _ in range(n):
        audit = wait_for(lambda: audit_of(d), what="an audit")
        assert audit["balanced"], audit
        assert all(p["balanced"] for p in audit["pipelines"]), audit
        this = [p["moved_in"] - p["moved_out"] for p in audit["pipelines"]]
        assert sum(this) == 0 and moved in (None, this), (moved, this)
        moved = this
        before = {s: f["records_in"] for s, f in d.stats().items() if s in ("out", "other")}
        d.wait_for(lambda: all(d.stats(s)["records_in"] > before[s] + 100 for s in before), what="records to flow")
    return moved


def audit_of(d):
    try:
        return d.audit()
    except ControlError as e:
        assert "hold still" in str(e)
        return None


def drained(d):
    return all(d.stage(s)["state"] == "stopped" for s in ("p", "q")) and d.settled()


def config(graph, arena):
    return HEAD.replace("@ARENA@", arena) + GRAPHS[graph]


def test_pipelines_cut_at_full_speed(daemon):
    """Producers without a pace, outputs that take everything."""
    def fast(graph):
        text = config(graph, "").replace("rate: 5000, ", "").replace("rate: 3000, ", "")
        return text.replace(OUT, ", type: 'null'}\n").replace(OTHER, ", type: 'null'}\n")
    d = daemon(fast("joined"))
    for graph in WAY[:6]:
        d.write_config(fast(graph))
        d.sluicectl("reload").check_returncode()
        looks(d)
    d.ctl("drain")
    d.wait_for(lambda: drained(d), what="the drain")


@pytest.mark.parametrize("arena", ["", ", path: @DIR@/arena"], ids=["memory", "file"])
def test_pipelines_cut_and_joined(daemon, arena):
    d = daemon(config("joined", arena), expect=["recovered [0-9]+ chunks"])
    assert looks(d) == [0]
    for graph in WAY:
        d.write_config(config(graph, arena))
        d.sluicectl("reload").check_returncode()
        moved = looks(d)
        assert len(moved) == (1 if "joined" in graph else 2), graph
        assert any(moved) == (len(moved) == 2), f"{graph}: {moved}"
    # and with another graph at a new start
    for graph in ("split", "crossed", "joined by a stage", "one stage each", "joined"):
        if arena:
            d.ctl("drain")  # an edge that is gone must be empty
            d.wait_for(lambda: drained(d), what="the drain")
        d.stop()
        d.write_config(config(graph, arena))
        d.start()
        looks(d, 2)
    if arena:
        d.write_config(config("split", arena))
        d.sluicectl("reload").check_returncode()
        moved = looks(d, 1)
        d.kill_all()
        d.start()
        assert looks(d) == moved, "a kill changes nothing of it"
    # sluicectl shows it
    d.write_config(config("split", arena))
    d.sluicectl("reload").check_returncode()
    moved = looks(d, 1)
    shown = d.sluicectl("audit").stdout
    assert f"moved in {max(moved)}" in shown and f"moved out {max(moved)}" in shown, shown
