"""A store on a bad day: its writes take their time, to see what a stop then costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from chatkit_trio.store import Store
from chatkit_trio.testing import StoreWrapper

T = TypeVar("T")

_LOADS = "load_"


class SlowWrites(StoreWrapper[Any]):
    """Another store, with a wait of `seconds` before each write."""

    def __init__(self, store: Store[Any], seconds: float) -> None:
        super().__init__(store)
        self._seconds = seconds

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        if not name.startswith(_LOADS) and name != "ping":
            await trio.sleep(self._seconds)
        return await call()
