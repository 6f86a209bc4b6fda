"""Bugs that servers on one store could have, planted one at a time: `simulate` finds each."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from chatkit_trio.store import Hint, Opening, Settlement, Store, TurnRecord
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.stores._memory_coordination import MemoryCoordination
from chatkit_trio.testing import SimulationFailed, simulate

SEEDS = 60


def kinds_of_failure(**options: Any) -> set[str]:
    """Return which rules the first of some seeds breaks that breaks any."""
    with pytest.raises(SimulationFailed) as caught:
        simulate(seeds=SEEDS, nodes=3, max_shrinking_runs=0, **options)
    return {problem.kind for problem in caught.value.problems}


def test_turns_that_write_without_a_fence_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(self: MemoryCluster, settlement: Settlement, owner: str, node: str) -> None:
        self.settle(settlement, owner)

    monkeypatch.setattr(MemoryCluster, "check_live", lambda self, turn_id, node: None)
    monkeypatch.setattr(MemoryCluster, "settle_live", settle)

    assert kinds_of_failure() & {"notes", "out of order", "shown and not stored"}


def test_a_lease_that_goes_by_the_clocks_of_the_nodes_is_found() -> None:
    def cluster() -> Callable[[], Store[Any]]:
        return partial(MemoryStore, cluster=MemoryCluster(lease_timeout=5.0, clock=time.time))

    assert "untrue reason" in kinds_of_failure(make_cluster=cluster)


def test_a_wait_for_a_hint_that_may_be_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Hint.wait
    monkeypatch.setattr(Hint, "wait", lambda self, seconds: wait(self, 1e5))

    assert "hangs" in kinds_of_failure()


def test_a_message_that_is_stored_before_its_turn_is_recorded_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = MemoryCoordination.begin

    async def begin(
        self: MemoryCoordination[Any], opening: Opening, context: Any
    ) -> TurnRecord | None:
        turns = self._cluster.turns
        is_new = opening.turn_id not in turns
        blocking = await whole(self, opening, context)
        if blocking is None and is_new:
            row = turns.pop(opening.turn_id)
            await trio.sleep(0.005)
            other = self._cluster.live_on(opening.thread_id)
            if other is not None:
                return other.record
            turns[opening.turn_id] = row
        return blocking

    monkeypatch.setattr(MemoryCoordination, "begin", begin)

    assert kinds_of_failure() & {"readers go back", "two turns at once", "out of order"}
