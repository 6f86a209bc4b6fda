"""What the parts of the store conformance kit have in common: the hooks of the store under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from chatkit_trio.store import Store

from ._store_samples import OPERATIONS

needs_persistence = pytest.mark.usefixtures("persistence")


class StoreUnderTest:
    """The hooks that a subclass of `StoreConformance` offers."""

    pytestmark = pytest.mark.trio

    persistent = False
    """Opening it twice in one test, also at the same time, gives the same data."""

    atomic = True
    """`settle`, `update_item`, `update_thread` and `delete_items_after` are one step each."""

    exact_cancellation = True
    """A write that raises `trio.Cancelled` hasn't happened (else it may have, but whole)."""

    remembers_deleted = True
    """A deleted item or thread is still a cursor (else it is one that isn't known)."""

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[Any]]:
        """Open the store under test. It is empty when a test opens it for the first time."""
        raise NotImplementedError(f"{type(self).__name__} must override open_store()")
        yield

    def context(self) -> Any:
        """Return a context as your server passes it."""
        return None

    def other_context(self) -> Any:
        """Return a context of another owner, or None if everyone shares everything."""
        return None

    async def crash_during(self, operation: str, thread_id: str, statement: int) -> bool:
        """Run `perform` in another process that dies as it begins its n-th statement (from 1).

        Return False if the operation has fewer statements and the process ended well. Skip, as
        this default does, if there is no way to tell.
        """
        pytest.skip("the store has no crash_during()")

    @staticmethod
    async def perform(operation: str, store: Store[Any], thread_id: str, context: Any) -> None:
        """Run one of the kit's operations; for a process that `crash_during` starts."""
        await OPERATIONS[operation](store, thread_id, context)

    async def make_silent(self, store: Store[Any]) -> None:
        """Make other nodes take this one for dead while it is open, as if its process hung.

        For a store with coordination: cut its connection, or let its lease run out while the other
        nodes go on asking for their news. Skip, as this default does, if there is no way.
        """
        pytest.skip("the store has no make_silent()")

    async def make_all_silent(self) -> None:
        """Let longer than a lease pass in which no open store asks for its news, nor loses its lock
        or connection: as if all processes had hung at once.

        For a store with coordination; one in which a process that hangs lives on has nothing to do.
        Skip, as this default does, if there is no way.
        """
        pytest.skip("the store has no make_all_silent()")

    # Skipping in a fixture and not in a test: pytest-trio loses the reason otherwise.

    @pytest.fixture
    def persistence(self) -> None:
        if not self.persistent:
            pytest.skip("the store isn't persistent")

    @pytest.fixture
    def memory_of_the_deleted(self) -> None:
        if not self.remembers_deleted:
            pytest.skip("the store doesn't remember what was deleted")

    @pytest.fixture
    def atomicity(self) -> None:
        if not self.atomic:
            pytest.skip("the store isn't atomic")

    @pytest.fixture
    def theirs(self) -> Any:
        context = self.other_context()
        if context is None:
            pytest.skip("the store has no owners: other_context() is None")
        return context


class CancelAtStep(trio.abc.Instrument):
    """Cancel a call when its task has given way to others so many times."""

    def __init__(self, step: int) -> None:
        self.raised = False
        self._steps_left = step
        self._scope = trio.CancelScope()

    @property
    def happened(self) -> bool:
        return self._scope.cancel_called

    async def run(self, call: Callable[[], Awaitable[object]]) -> None:
        self._task = trio.lowlevel.current_task()
        with self._scope:
            self._cancel_at_zero()
            trio.lowlevel.add_instrument(self)
            try:
                await call()
            except trio.Cancelled:
                self.raised = True
                raise
            finally:
                trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._steps_left -= 1
            self._cancel_at_zero()

    def _cancel_at_zero(self) -> None:
        if self._steps_left == 0:
            self._scope.cancel()


async def item_ids(store: Store[Any], thread_id: str, context: Any) -> list[str]:
    page = await store.load_thread_items(thread_id, None, 1000, "asc", context)
    return [item.id for item in page.data]
