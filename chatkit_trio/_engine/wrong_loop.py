"""What to say when code that needs asyncio runs on trio, or the other way round.

These are the first errors that everybody meets, and asyncio's and trio's own words don't say what
to do about them here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

from chatkit_trio._foreign_text import text_of

P = ParamSpec("P")
T = TypeVar("T")

_TABLE = "docs/how-to/asyncio.md has a table of counterparts"

_NEEDS_ASYNCIO = (
    "This needs asyncio, and hooks and stores run on trio: write trio.sleep for asyncio.sleep, and"
    " so on. What has no counterpart there runs on asyncio with `await"
    " run_on_asyncio(function, *args)`, or iterate over it with `iterate_on_asyncio(function,"
    " *args)`, both of chatkit_trio.agents; a store, in chatkit_trio.stores.AsyncioStore."
    f" {_TABLE}."
)
_NEEDS_TRIO = (
    "This needs trio, and tools of the Agents SDK or of pydantic-ai, and all that"
    " `run_on_asyncio` calls, run on asyncio. Let it run on trio with `await"
    " run_on_trio(function, *args)` of chatkit_trio.agents."
)
_ANOTHER_LOOP = (
    "This was made on another asyncio event loop than the one it is used on. Make it where it is"
    " used: in a function that `run_on_asyncio` of chatkit_trio.agents calls, or in the function"
    " that is given to chatkit_trio.stores.AsyncioStore."
)

_HINTS = [
    (
        re.compile(
            r"no running (event )?loop|no current event loop|unrecognized yield message"
            r"|used inside a task|'NoneType' object has no attribute 'create_future'"
        ),
        _NEEDS_ASYNCIO,
    ),
    (re.compile(r"must be called from async context|wasn't created by Trio"), _NEEDS_TRIO),
    (re.compile(r"(attached|bound) to a different (event )?loop"), _ANOTHER_LOOP),
]


def hint_at_loop(error: BaseException) -> None:
    """Add a note that says what to do to each error of this kind, among causes and in groups.

    Never raises: an error that takes no note goes without.
    """
    for one in _chain(error, set()):
        text = text_of(one)
        for pattern, hint in _HINTS:
            with suppress(Exception):  # of a class that isn't ours
                if pattern.search(text) and hint not in getattr(one, "__notes__", ()):
                    one.add_note(hint)


def hints_at_loop(async_fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Let a function add such notes to what it raises."""

    @wraps(async_fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await async_fn(*args, **kwargs)
        except BaseException as error:
            hint_at_loop(error)
            raise

    return call


def _chain(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen:
        return
    seen.add(id(error))
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _chain(inner, seen)
    else:
        yield error
    for other in (error.__cause__, error.__context__):
        if other is not None:
            yield from _chain(other, seen)
