"""
What every end-to-end test needs: a real daemon in a directory of its own (box.py) and ways to feed it (feed.py).

    def test_something(daemon):
        d = daemon('''
            producers: ...
            consumers:
              out: {type: file, path: @DIR@/out.jsonl}
        ''')
        d.settle(delivered=10)
        assert len(ndjson(d.dir / "out.jsonl")) == 10

@DIR@ stands for the daemon's directory. Sections that a test does not write (control, daemon, state,
dead_letters) are filled in so that everything lies there. At the end the books are audited, the daemon is
stopped, by its pid, and its log must hold nothing unexpected: `expect` is a list of regular expressions for
what a test provokes. A test that breaks the books on purpose sets d.audit_at_end = False.

SLUICED and SLUICECTL name other binaries than build/'s.
"""

import os

import pytest

from box import *  # noqa: F401,F403: tests may import all of it from here
from box import Daemon, data, finish, free_port
from feed import Dealer, dealer, push, push_records  # noqa: F401


@pytest.fixture
def daemon():
    """Makes daemons: daemon(config, args=[], env={}, start=True, expect=[])."""
    made = []

    def make(config, args=(), env=None, start=True, **more):
        d = Daemon(config, args, env, **more)
        made.append(d)
        return d.start() if start else d

    yield make
    problems = []
    for d in made:
        problems += finish(d)
    assert not problems, "\n".join(problems)


@pytest.fixture
def port():
    """Makes numbers of TCP ports that nobody listens on."""
    return free_port


@pytest.fixture
def need():
    """Path of a file of the shared test data; the test is skipped where there is none."""
    def find(*names):
        p = data(*names)
        if not p:
            pytest.skip("no shared test data: " + os.path.join(*names))
        return p
    return find


@pytest.fixture(scope="session")
def zmq_context():
    zmq = pytest.importorskip("zmq")
    c = zmq.Context()
    yield c
    c.destroy(linger=0)
