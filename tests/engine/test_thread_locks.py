"""The lock of a thread is one and the same for all who want it, and gone when nobody does."""

from __future__ import annotations

import trio
import trio.testing

from chatkit_trio._engine.live import _one_at_a_time


async def test_who_gives_up_waiting_takes_no_lock_away_from_who_has_it() -> None:
    locks: dict[str, trio.Lock] = {}
    waiting = trio.CancelScope()

    async def wait() -> None:
        with waiting:
            async with _one_at_a_time(locks, "thr_1"):
                raise AssertionError("it was given up")

    async with trio.open_nursery() as nursery:
        async with _one_at_a_time(locks, "thr_1"):
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            waiting.cancel()
        async with _one_at_a_time(locks, "thr_1"):
            await trio.testing.wait_all_tasks_blocked()
            assert locks["thr_1"].locked()
    assert locks == {}
