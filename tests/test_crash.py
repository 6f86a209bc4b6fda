"""Real processes, really killed: what the journal brings back."""

from __future__ import annotations

import logging

import pytest

from benchmarks import crash


def test_kill_nine_loses_no_thread_and_doubles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """After each kill every thread has its partial answer once, and one note that says why.

    Owed is an answer of which text was sent before the journal's last checkpoint began.
    """
    with caplog.at_level(logging.ERROR):
        tally = crash.run(kills=3, turns=4, seed=1)

    assert (tally.threads, tally.noted) == (12, 12)
    assert tally.kept == tally.owed > 0
    assert (tally.doubled, tally.not_a_prefix, tally.behind) == (0, 0, 0)
