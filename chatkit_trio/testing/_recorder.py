"""Noting what `respond` yields, without changing how the engine has to treat it.

The engine treats an async generator, another iterable, a context manager and an awaitable each in
its own way, so each is replaced by one of its own kind. The stand-in can also do what `respond`
itself might: fall silent, raise, or take its time to clean up.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from types import AsyncGeneratorType, TracebackType
from typing import Any

import trio

from chatkit_trio._engine.drafts import draft_of
from chatkit_trio.server import ChatKitServer
from chatkit_trio.types import (
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
)

__all__ = ["Interference", "Recorder", "Recording"]


class Interference:
    """What is done to one call of `respond`, as if its own code did it."""

    def __init__(
        self,
        *,
        silent_at: int | None = None,
        raises_at: int | None = None,
        error: Exception | None = None,
        cleanup_seconds: float = 0.0,
    ) -> None:
        self.has_raised = False
        """Whether `error` has been raised."""
        self._silent_at = silent_at
        self._raises_at = raises_at
        self.error = error if error is not None else RuntimeError("respond() failed")
        self._cleanup_seconds = cleanup_seconds

    async def before_event(self, number: int) -> None:
        """Wait for ever or raise instead of making event `number`, if that is to be."""
        if number == self._silent_at:
            await trio.sleep_forever()
        if number == self._raises_at:
            self.has_raised = True
            raise self.error

    async def clean_up(self) -> None:
        """Take time at the end, once, and don't be cancelled."""
        seconds, self._cleanup_seconds = self._cleanup_seconds, 0.0
        if seconds:
            with trio.move_on_after(seconds, shield=True):
                await trio.sleep_forever()


class Recording:
    """What one call of `respond` has yielded so far."""

    def __init__(
        self,
        thread: ThreadMetadata,
        known: Iterable[ThreadItem] = (),
        interference: Interference | None = None,
    ) -> None:
        self.thread = thread
        self.events: list[ThreadStreamEvent] = []
        self.generators: list[AsyncGeneratorType[Any, Any]] = []
        self.states: dict[str, list[ThreadItem]] = {}
        """Of each item all states it has been in, oldest first."""
        self.began_at = trio.current_time()
        self.longest_silence = 0.0
        """The longest time for one event, in seconds."""
        self._interference = interference
        # Those of the thread, which events may change, and those that were yielded.
        self._drafts = {item.id: draft_of(item) for item in known}
        self._yielded: set[str] = set()

    def note(self, event: ThreadStreamEvent) -> ThreadStreamEvent:
        """Take in an event, copying it: `respond` may go on changing its items."""
        self.events.append(event)
        match event:
            case ThreadItemAddedEvent() | ThreadItemDoneEvent() | ThreadItemReplacedEvent():
                self._drafts[event.item.id] = draft_of(event.item)
                self._note_state(event.item.id)
            case ThreadItemUpdatedEvent() if event.item_id in self._drafts:
                self._drafts[event.item_id].apply(event.update)
                self._note_state(event.item_id)
            case ThreadItemRemovedEvent():
                self._drafts.pop(event.item_id, None)
                self._yielded.discard(event.item_id)
        return event

    def _note_state(self, item_id: str) -> None:
        self._yielded.add(item_id)
        self.states.setdefault(item_id, []).append(self._drafts[item_id].item())

    def items(self) -> list[ThreadItem]:
        """Return the items in their latest state."""
        return [draft.item() for item_id, draft in self._drafts.items() if item_id in self._yielded]

    async def step(self, make_event: Callable[[], Awaitable[Any]], athrow: Any = None) -> Any:
        """Let `respond` make its next event, and note it.

        A cancellation that interrupts an interference is thrown into `respond`, as if it had waited
        itself: it may have a cancel scope of its own that catches it.
        """
        started_at = trio.current_time()
        try:
            try:
                if self._interference is not None:
                    await self._interference.before_event(len(self.events))
            except trio.Cancelled as cancelled:  # noqa: ASYNC103
                if athrow is None:
                    raise
                event = await athrow(cancelled)  # noqa: ASYNC102 (it is cancelled already)
            else:
                event = await make_event()
        except trio.Cancelled:
            await self.clean_up()  # noqa: ASYNC102 (it shields itself, if anything is to be done)
            raise
        except StopAsyncIteration:
            self._interference = None  # it has nothing left to clean up
            raise
        self.longest_silence = max(self.longest_silence, trio.current_time() - started_at)
        return self.note(event)

    async def clean_up(self) -> None:
        """Do what is to be done when `respond` ends early."""
        if self._interference is not None:
            await self._interference.clean_up()

    def record(self, source: Any) -> Any:
        """Return a stand-in for what `respond` returned."""
        if isinstance(source, AsyncGeneratorType):
            self.generators.append(source)
        if inspect.isawaitable(source):
            return self._await(source)
        if hasattr(source, "__aiter__"):
            return _Iterable(source, self)
        if isinstance(source, AbstractAsyncContextManager):
            return _Manager(source, self)
        return source

    async def _await(self, source: Awaitable[Any]) -> Any:
        return self.record(await source)


class Recorder:
    """Makes a server's `respond` and `action` leave a `Recording` of each call.

    `begin`, called with the thread, makes it.
    """

    def __init__(
        self,
        server: ChatKitServer[Any],
        begin: Callable[[ThreadMetadata], Recording] = Recording,
    ) -> None:
        self.recordings: list[Recording] = []
        self._begin = begin
        for name in ("respond", "action"):
            setattr(server, name, self._recorded(getattr(server, name)))

    def _recorded(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(thread: ThreadMetadata, *args: Any) -> Any:
            recording = self._begin(thread)
            self.recordings.append(recording)
            return recording.record(hook(thread, *args))

        return call


class _Iterable:
    def __init__(self, inner: Any, recording: Recording) -> None:
        self._inner = inner
        self._recording = recording

    def __aiter__(self) -> AsyncIterator[Any]:
        return _Iterator(aiter(self._inner), self._recording)


class _Iterator:
    """Has `athrow` and `aclose` if the iterator within has them: the engine asks."""

    def __init__(self, inner: Any, recording: Recording) -> None:
        self._inner = inner
        self._recording = recording
        if hasattr(inner, "athrow"):
            self.athrow = self._throw
        if hasattr(inner, "aclose"):
            self.aclose = self._close

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        athrow = getattr(self._inner, "athrow", None)
        return await self._recording.step(self._inner.__anext__, athrow)

    async def _throw(self, error: BaseException) -> Any:
        return await self._recording.step(lambda: self._inner.athrow(error))

    async def _close(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            # It shields itself, if anything is to be done.
            await self._recording.clean_up()  # noqa: ASYNC102


class _Manager(AbstractAsyncContextManager[Any]):
    def __init__(self, inner: AbstractAsyncContextManager[Any], recording: Recording) -> None:
        self._inner = inner
        self._recording = recording

    async def __aenter__(self) -> Any:
        return _Iterable(await self._inner.__aenter__(), self._recording)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._inner.__aexit__(  # noqa: ASYNC102  (passed on)
            exc_type, exc_value, traceback
        )
