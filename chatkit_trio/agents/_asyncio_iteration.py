"""Iterating on trio over what only asyncio can iterate over."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, cast

from ._asyncio_thread import in_trio
from ._queue import EventQueue
from ._reading import AsyncioSource, RunReader, Unchanged, closing, iterable_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def iterate_on_asyncio(
    function: Callable[[*Ts], AsyncIterable[T] | Awaitable[AsyncIterable[T]]], *args: *Ts
) -> RunReader[T]:
    """Call a function on the asyncio thread and iterate over what it returns, from trio.

        async with aclosing(iterate_on_asyncio(graph.astream, {"question": text})) as parts:
            async for part in parts:
                ...

    `function` is an async generator function, or any that returns an async iterable or an awaitable
    of one; named arguments go in by `functools.partial`. It is called at the first read, sees the
    context variables of the reader, and runs ahead of the reader by 256 entries at most. What it
    raises is raised unchanged, behind the entries before it; `TypeError` if there is nothing to
    iterate over.

    Each read waits for an entry, if none is there. When a read is cancelled, or the iterator is
    closed or dropped, the function is cancelled, its iterator is closed on asyncio, and tasks that
    it has started are ended; closing waits for that, two seconds at most. A call made on the
    asyncio thread iterates there.
    """
    iterate = partial(_iterate, function, args)
    if not in_trio():
        return cast("RunReader[T]", iterate())
    return Unchanged(EventQueue(), AsyncioSource(iterate))


async def _iterate(function: Callable[..., Any], args: tuple[Any, ...]) -> AsyncIterator[Any]:
    made = await iterable_of(
        function(*args),
        "iterate_on_asyncio() needs a function that returns something for `async for`, and"
        f" {getattr(function, '__qualname__', function)} has returned",
    )
    async with closing(aiter(made)) as entries:
        async for entry in entries:
            yield entry  # noqa: ASYNC119  (AsyncioSource closes this)
