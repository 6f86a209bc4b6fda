"""Code on the asyncio thread that exits: as elsewhere, that ends the process, and nothing hangs."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatkit_trio.agents import iterate_on_asyncio, run_on_asyncio
from chatkit_trio.agents._asyncio_thread import AsyncioTask
from chatkit_trio.agents._reading import AsyncioSource

from .threads import collected


async def leave() -> int:
    await asyncio.sleep(0)
    sys.exit(3)


async def one() -> int:
    await asyncio.sleep(0)
    return 1


async def one_and_leave() -> AsyncIterator[int]:
    yield await one()
    sys.exit(3)


async def one_and_a_task_leaves() -> AsyncIterator[int]:
    yield await one()
    task = asyncio.create_task(leave())
    await asyncio.sleep(3600)
    await task


async def test_an_exit_reaches_the_caller_and_the_next_call_has_a_loop() -> None:
    with pytest.raises(SystemExit, match="3"):
        await run_on_asyncio(leave)

    assert await run_on_asyncio(one) == 1


@pytest.mark.parametrize("function", [one_and_leave, one_and_a_task_leaves])
async def test_an_exit_reaches_the_reader(function: object) -> None:
    with trio.fail_after(30), pytest.raises(SystemExit, match="3"):
        await collected(iterate_on_asyncio(function))  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [one_and_leave, one_and_a_task_leaves])
async def test_an_exit_is_raised_once_though_its_reader_leaves_before_the_loop_ends(
    function: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump, cancel = AsyncioSource._pump, AsyncioTask.cancel
    has_left = threading.Event()

    async def pump_and_wait(*args: Any) -> None:
        try:
            await pump(*args)
        finally:
            assert has_left.wait(30)  # the whole loop waits

    def cancel_and_tell(task: AsyncioTask[Any]) -> None:
        cancel(task)
        has_left.set()

    monkeypatch.setattr(AsyncioSource, "_pump", pump_and_wait)
    monkeypatch.setattr(AsyncioTask, "cancel", cancel_and_tell)
    with trio.fail_after(30), pytest.raises(SystemExit, match="3"):
        await collected(iterate_on_asyncio(function))  # type: ignore[arg-type]

    await wait_all_tasks_blocked(0.05)
    assert await run_on_asyncio(one) == 1


def test_an_exit_that_nobody_waits_for_ends_the_run() -> None:
    async def leave_later() -> None:
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(sys.exit, 3)

    async def main() -> None:
        with trio.fail_after(30):
            await run_on_asyncio(leave_later)
            await trio.sleep_forever()

    cause: BaseException | None = None
    try:
        trio.run(main)
    except trio.TrioInternalError as error:
        cause = error.__cause__
    assert isinstance(cause, BaseExceptionGroup)
    assert cause.subgroup(SystemExit) is not None
