"""Whether, when and why a turn is cut short.

One object owns the turn's cancel scope, its reason and every time limit, and bounds the store
operations that a cut falls on. So these can't disagree.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import TypeVar

import trio

from chatkit_trio.errors import StoreTimeoutError

from .keeping import CancelReason

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Ending:
    """The end of one turn, as far as it comes from outside of `respond`."""

    def __init__(self, name: str, settle_timeout: float) -> None:
        self._name = name
        # Shielded, so that only cancel() and the limits end a turn, and the reason is known.
        self.scope = trio.CancelScope(shield=True)
        self._settle_timeout = settle_timeout
        self._reason: CancelReason | None = None
        self._limits: dict[CancelReason, float] = {}
        self._cancelled_at = inf
        self._may_be_hurried = True
        self._hurried_at = inf
        self._operation: trio.CancelScope | None = None
        self._operation_began_at = inf
        self.tell_operation: Callable[[str, float, bool], None] | None = None
        """Called with each store operation that has a name: its seconds, and whether it is done."""

    @property
    def is_cut(self) -> bool:
        """Whether the turn has been cancelled or has reached a limit."""
        return self.scope.cancel_called

    @property
    def reason(self) -> CancelReason | None:
        """Why the turn is cut short, or None. The first reason counts."""
        if self._reason is None and self.is_cut:
            self._reason = self._expired_limit()
        return self._reason

    def cancel(self, reason: CancelReason) -> None:
        """Cut the turn short, unless it is cut already."""
        if not self.is_cut:
            self._reason = reason
            self._cancelled_at = trio.current_time()
            self.scope.cancel()
            self._bound_operation()

    def limit(self, reason: CancelReason, seconds: float | None) -> None:
        """Cut the turn short in so many seconds from now, or lift this limit (None).

        A limit that has passed stays: it is the reason.
        """
        if self.reason is not None:
            return
        self._limits[reason] = inf if seconds is None else trio.current_time() + seconds
        self.scope.deadline = min(self._limits.values())
        self._bound_operation()

    def hurry(self) -> None:
        """Bound each operation until the turn has begun, because somebody waits for that.

        The turn isn't cut: an operation that ends in time changes nothing.
        """
        if self._may_be_hurried:
            self._hurried_at = min(self._hurried_at, trio.current_time())
            self._bound_operation()

    def stop_hurrying(self) -> None:
        """Lift what `hurry` has set, for good: the turn has begun."""
        self._may_be_hurried = False
        self._hurried_at = inf

    async def write(self, operation: Callable[[], Awaitable[_T]], name: str = "") -> _T:
        """Run a store write to its end: a cut that falls on it waits for the outcome.

        It waits for `settle_timeout` at most: then the cut goes on (`trio.Cancelled`), or, if the
        turn was only hurried, `StoreTimeoutError` is raised. The outcome is unknown in both cases.
        One with a name is told to observers.
        """
        if self.tell_operation is not None and name:
            operation = partial(self._timed, operation, name, self.tell_operation)
        return await self._bounded(operation, shield=True)

    async def read(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        """Run a store read, which a cut interrupts; raises `StoreTimeoutError` as `write` does."""
        return await self._bounded(operation, shield=False)

    async def _bounded(self, operation: Callable[[], Awaitable[_T]], *, shield: bool) -> _T:
        self._operation_began_at = trio.current_time()
        try:
            with trio.CancelScope(shield=shield, deadline=self._bound) as self._operation:
                return await operation()
        finally:
            self._operation = None
        error = StoreTimeoutError(
            f"a store operation of {self._name} hadn't ended {self._settle_timeout} s after"
            " somebody began to wait for it; its outcome is unknown"
        )
        if self.is_cut:
            logger.error("%s", error)
            await trio.lowlevel.checkpoint()
        raise error

    async def _timed(
        self,
        operation: Callable[[], Awaitable[_T]],
        name: str,
        tell: Callable[[str, float, bool], None],
    ) -> _T:
        began_at = trio.current_time()
        is_done = False
        try:
            made = await operation()
            is_done = True
            return made
        finally:
            tell(name, trio.current_time() - began_at, is_done)

    @property
    def _bound(self) -> float:
        hurried_since = max(self._hurried_at, self._operation_began_at)
        waited_for_since = min(self._cancelled_at, self.scope.deadline, hurried_since)
        return waited_for_since + self._settle_timeout

    def _bound_operation(self) -> None:
        if self._operation is not None:
            self._operation.deadline = self._bound

    def _expired_limit(self) -> CancelReason:
        now = trio.current_time()
        expired = [(at, reason) for reason, at in self._limits.items() if at <= now]
        if expired:
            return min(expired)[1]
        # User code has used the scope itself.
        return CancelReason.DEADLINE if self.scope.deadline <= now else CancelReason.STOPPED
