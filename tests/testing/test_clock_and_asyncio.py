"""The clock stands still while the asyncio thread has work in flight, and not for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from chatkit_trio.agents import iterate_on_asyncio, run_on_asyncio, run_on_trio
from chatkit_trio.testing import JumpClock


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    clock = JumpClock()
    return trio.run(main, clock=clock, instruments=[clock])


async def within(seconds: float, async_fn: Callable[..., Awaitable[Any]], *args: Any) -> float:
    """Run a function on asyncio, return the time afterwards; raise if the deadline has struck."""
    with trio.fail_after(seconds):
        await run_on_asyncio(async_fn, *args)
    return trio.current_time()


def test_the_clock_waits_for_the_threads_start() -> None:
    async def nothing() -> None:
        return

    assert run(lambda: within(0.001, nothing)) == 0


def test_the_clock_waits_for_a_coroutine() -> None:
    assert run(lambda: within(0.001, asyncio.sleep, 0.05)) == 0


def test_the_clock_waits_for_a_thread_that_asyncio_waits_for() -> None:
    assert run(lambda: within(0.001, asyncio.to_thread, time.sleep, 0.05)) == 0


def test_the_clock_waits_for_each_entry_of_an_iteration() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0.02)
            yield number

    async def main() -> tuple[list[int], float]:
        with trio.fail_after(0.001):
            seen = [number async for number in iterate_on_asyncio(numbers)]
        return seen, trio.current_time()

    assert run(main) == ([0, 1, 2], 0)


def test_the_clock_goes_on_when_nothing_runs_on_asyncio_any_more() -> None:
    async def main() -> float:
        await run_on_asyncio(asyncio.sleep, 0)
        await trio.sleep(3600)
        return trio.current_time()

    began_at = time.monotonic()
    assert run(main) == 3600
    assert time.monotonic() - began_at < 2


def test_a_task_left_behind_on_asyncio_does_not_hold_the_clock() -> None:
    left: list[Any] = []

    async def leave_one() -> None:
        await asyncio.sleep(0)
        left.append(asyncio.create_task(asyncio.sleep(3600)))

    async def main() -> float:
        await run_on_asyncio(leave_one)
        await trio.sleep(3600)
        return trio.current_time()

    began_at = time.monotonic()
    assert run(main) == 3600
    assert time.monotonic() - began_at < 2


def test_what_waits_for_trio_does_not_hold_the_clock() -> None:
    async def tool() -> None:
        for _ in range(100):
            await run_on_trio(trio.sleep, 36)

    async def main() -> float:
        await run_on_asyncio(tool)
        return trio.current_time()

    began_at = time.monotonic()
    assert run(main) == 3600
    assert time.monotonic() - began_at < 2


def test_a_short_call_to_trio_from_asyncio_meets_no_deadline_that_is_far_away() -> None:
    async def tool() -> None:
        await asyncio.gather(*(run_on_trio(trio.sleep, 0.001) for _ in range(3)))

    async def main() -> int:
        for _ in range(300):
            with trio.fail_after(0.01):
                await run_on_asyncio(tool)
        return 0

    assert run(main) == 0


def test_of_two_runs_the_one_that_waits_for_trio_does_not_let_the_other_be_passed() -> None:
    async def main() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_on_asyncio, run_on_trio, trio.sleep, 3600)
            await trio.testing.wait_all_tasks_blocked()
            at = await within(60, asyncio.sleep, 0.05)
            nursery.cancel_scope.cancel()
        return at

    assert run(main) < 60


@pytest.mark.parametrize("work", [asyncio.sleep, lambda s: asyncio.to_thread(time.sleep, s)])
def test_of_two_tasks_of_one_run_the_one_that_works_is_waited_for(
    work: Callable[[float], Awaitable[None]],
) -> None:
    async def both() -> None:
        asking = asyncio.create_task(run_on_trio(trio.sleep_forever))
        await asyncio.sleep(0.01)
        await work(0.05)
        asking.cancel()

    assert run(lambda: within(60, both)) == 0


def test_a_timer_of_asyncio_does_not_strike_before_a_nearer_deadline_of_trio() -> None:
    async def tool() -> None:
        async with asyncio.timeout(3):
            await run_on_trio(trio.sleep, 1)

    assert run(lambda: within(5, tool)) == 1


def test_a_producer_that_waits_for_its_reader_does_not_hold_the_clock() -> None:
    async def many() -> AsyncIterator[int]:
        for number in range(2000):
            yield number

    async def main() -> tuple[int, float]:
        count = 0
        async for _ in iterate_on_asyncio(many):
            await trio.sleep(1)
            count += 1
        return count, trio.current_time()

    began_at = time.monotonic()
    assert run(main) == (2000, 2000)
    assert time.monotonic() - began_at < 5


def test_a_cancelled_run_may_clean_up_before_time_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def tool() -> None:
        try:
            await run_on_trio(trio.sleep_forever)
        finally:
            await asyncio.sleep(0.05)

    async def main() -> float:
        with trio.move_on_after(10):
            await run_on_asyncio(tool)
        return trio.current_time()

    assert run(main) == 10
    assert caplog.text == ""


def test_what_hangs_on_asyncio_holds_the_clock_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatkit_trio.testing._clock.PATIENCE", 0.1)

    async def main() -> float:
        for _ in range(20):
            with trio.move_on_after(60):
                await run_on_asyncio(asyncio.Event().wait)
        return trio.current_time()

    began_at = time.monotonic()
    assert run(main) == 1200
    assert 1 < time.monotonic() - began_at < 20
