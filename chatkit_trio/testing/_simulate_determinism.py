"""Making a run depend on its seed and on nothing else.

Trio's order of tasks, ids, the engine's glances at the real clock, worker threads and the garbage
collector would each make a run differ from the last. Here they are taken over while a run lasts.
"""

from __future__ import annotations

import contextvars
import gc
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any
from unittest import mock

import trio

from ._probe import same_schedule, without_real_time

__all__ = ["deterministic"]


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Run what is inside as the seed says. Not to be nested, nor used by two threads at once."""
    with ExitStack() as stack:
        stack.enter_context(same_schedule(seed))
        stack.enter_context(mock.patch.object(secrets, "token_hex", _tokens(seed)))
        stack.enter_context(mock.patch.object(trio.to_thread, "run_sync", _run_inline))
        stack.enter_context(without_real_time())
        stack.enter_context(_no_collecting())
        yield


def _tokens(seed: int) -> Callable[..., str]:
    source = Random(f"ids {seed}")  # noqa: S311  (to be repeated, not to be secret)

    def token_hex(nbytes: int | None = None) -> str:
        return source.randbytes(nbytes or 32).hex()

    return token_hex


async def _run_inline(
    sync_fn: Callable[..., Any],
    *args: Any,
    thread_name: str | None = None,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> Any:
    """Stand for `trio.to_thread.run_sync`: a thread comes back when the machine likes."""
    await trio.lowlevel.checkpoint_if_cancelled()
    limiter = limiter or trio.to_thread.current_default_thread_limiter()
    async with _token_of(limiter):
        await trio.lowlevel.cancel_shielded_checkpoint()
        return contextvars.copy_context().run(sync_fn, *args)


class _token_of:  # noqa: N801  (read as a function)
    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        await self._limiter.acquire_on_behalf_of(self)

    async def __aexit__(self, *exc_info: object) -> None:
        self._limiter.release_on_behalf_of(self)


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Collect no garbage meanwhile: it ends what was left open at a moment of its own."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
