"""Stepping what `respond` returned, in a task that does nothing else.

A cancel scope or nursery that user code holds open across a `yield` cancels whoever awaits between
its steps. Here that is nobody but this task, which hands each event over and waits; and when such
a scope ends meanwhile, the cancellation is let out of the `yield`, where the scope can catch it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import trio

from chatkit_trio.types import ThreadStreamEvent

Take: TypeAlias = Callable[[ThreadStreamEvent], Awaitable[bool]]
"""Takes an event, waits until it has been dealt with, and says whether more are wanted."""


async def drive(source: Any, take: Take, closing_timeout: float) -> None:
    """Give every event of a source to `take`, and close the source, whatever happens.

    The source is an async iterable, a context manager of one (`trio.as_safe_channel`), or an
    awaitable of either. Closing it may take `closing_timeout` seconds.
    """
    if inspect.isawaitable(source):
        source = await source
    if hasattr(source, "__aiter__"):
        await _iterate(aiter(source), take, closing_timeout)
    else:
        async with source as channel:
            await _iterate(aiter(channel), take, closing_timeout)


async def _iterate(
    iterator: AsyncIterator[ThreadStreamEvent], take: Take, closing_timeout: float
) -> None:
    athrow = getattr(iterator, "athrow", None)
    step: Callable[[], Awaitable[ThreadStreamEvent]] = iterator.__anext__
    try:
        while True:
            try:
                event = await step()
            except StopAsyncIteration:
                return
            step = iterator.__anext__
            try:
                # One that swallows its cancellation must not go on for ever: hence the answer.
                if not await take(event):
                    return
            except trio.Cancelled as cancelled:  # noqa: ASYNC103
                if athrow is None:
                    raise
                step = partial(athrow, cancelled)
    finally:
        await _close(iterator, closing_timeout)  # noqa: ASYNC102 (it shields itself)


async def _close(iterator: AsyncIterator[ThreadStreamEvent], seconds: float) -> None:
    aclose = getattr(iterator, "aclose", None)
    if aclose is None:
        return
    with trio.move_on_after(seconds, shield=True):
        try:
            await aclose()
        except BaseExceptionGroup as group:
            # What closing a generator does to a nursery that is open across its yield.
            failure = group.split(GeneratorExit)[1]
            if failure is not None:
                raise failure from None
