"""Noting what `respond` yields, without changing how the engine has to treat it.

The engine treats an async generator, another iterable, a context manager and an awaitable each in
its own way, so each is replaced by one of its own kind.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import AsyncGeneratorType, TracebackType
from typing import Any

from chatkit_trio.server import ChatKitServer
from chatkit_trio.types import ThreadItem, ThreadMetadata, ThreadStreamEvent

from ._client_turn import SeenItems

__all__ = ["Recorder", "Recording"]


class Recording:
    """What one call of `respond` has yielded so far."""

    def __init__(self, thread: ThreadMetadata) -> None:
        self.thread = thread
        self.events: list[ThreadStreamEvent] = []
        self.generators: list[AsyncGeneratorType[Any, Any]] = []
        self._seen = SeenItems()

    def note(self, event: ThreadStreamEvent) -> ThreadStreamEvent:
        """Take in an event, copying it: `respond` may go on changing its items."""
        self.events.append(event)
        self._seen.feed(event)
        return event

    def items(self) -> list[ThreadItem]:
        """Return the items in their latest state."""
        return self._seen.items()

    def record(self, source: Any) -> Any:
        """Return a stand-in for what `respond` returned."""
        if isinstance(source, AsyncGeneratorType):
            self.generators.append(source)
        if inspect.isawaitable(source):
            return self._await(source)
        if hasattr(source, "__aiter__"):
            return _Iterable(source, self.note)
        if isinstance(source, AbstractAsyncContextManager):
            return _Manager(source, self.note)
        return source

    async def _await(self, source: Awaitable[Any]) -> Any:
        return self.record(await source)


class Recorder:
    """Makes a server's `respond` and `action` leave a `Recording` of each call."""

    def __init__(self, server: ChatKitServer[Any]) -> None:
        self.recordings: list[Recording] = []
        for name in ("respond", "action"):
            setattr(server, name, self._recorded(getattr(server, name)))

    def _recorded(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(thread: ThreadMetadata, *args: Any) -> Any:
            recording = Recording(thread)
            self.recordings.append(recording)
            return recording.record(hook(thread, *args))

        return call


class _Iterable:
    def __init__(self, inner: Any, note: Callable[[Any], Any]) -> None:
        self._inner = inner
        self._note = note

    def __aiter__(self) -> AsyncIterator[Any]:
        return _Iterator(aiter(self._inner), self._note)


class _Iterator:
    """Has `athrow` and `aclose` if the iterator within has them: the engine asks."""

    def __init__(self, inner: Any, note: Callable[[Any], Any]) -> None:
        self._inner = inner
        self._note = note
        if hasattr(inner, "athrow"):
            self.athrow = self._throw
        if hasattr(inner, "aclose"):
            self.aclose = inner.aclose

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return self._note(await self._inner.__anext__())

    async def _throw(self, error: BaseException) -> Any:
        return self._note(await self._inner.athrow(error))


class _Manager(AbstractAsyncContextManager[Any]):
    def __init__(self, inner: AbstractAsyncContextManager[Any], note: Callable[[Any], Any]) -> None:
        self._inner = inner
        self._note = note

    async def __aenter__(self) -> Any:
        return _Iterable(await self._inner.__aenter__(), self._note)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._inner.__aexit__(  # noqa: ASYNC102  (passed on)
            exc_type, exc_value, traceback
        )
