"""A streamed answer as a client sees it: the events so far, and the items that they make."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio
from pydantic import TypeAdapter

from chatkit_trio._engine.drafts import draft_of
from chatkit_trio.server import Turn
from chatkit_trio.types import (
    AssistantMessageItem,
    ErrorEvent,
    StreamOptionsEvent,
    Thread,
    ThreadCreatedEvent,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadStreamEvent,
    ThreadUpdatedEvent,
)

from ._sse import ServerSentEvent, SSEReader
from ._transport import Connection, ServerConnection

__all__ = ["ClientTurn", "SeenItems", "ids_of"]

_EVENT: TypeAdapter[ThreadStreamEvent] = TypeAdapter(ThreadStreamEvent)


class SeenItems:
    """The items that a stream's events make; `done` replaces what was put together before."""

    def __init__(self) -> None:
        self._drafts: dict[str, Any] = {}

    def feed(self, event: ThreadStreamEvent) -> None:
        """Apply an event; an event that isn't about an item changes nothing."""
        match event:
            case ThreadItemAddedEvent() | ThreadItemDoneEvent() | ThreadItemReplacedEvent():
                self._drafts[event.item.id] = draft_of(event.item)
            case ThreadItemUpdatedEvent() if event.item_id in self._drafts:
                self._drafts[event.item_id].apply(event.update)
            case ThreadItemRemovedEvent():
                self._drafts.pop(event.item_id, None)

    def items(self) -> list[ThreadItem]:
        """Return the items in the order in which they appeared."""
        return [draft.item() for draft in self._drafts.values()]


def ids_of(events: Sequence[ThreadStreamEvent], *kinds: str) -> set[str]:
    """Return the ids of the items that events of these kinds are about."""
    return {
        event.item_id if isinstance(event, ThreadItemRemovedEvent) else event.item.id
        for event in events
        if isinstance(event, ThreadItemDoneEvent | ThreadItemReplacedEvent | ThreadItemRemovedEvent)
        and event.type in kinds
    }


class ClientTurn:
    """A streamed answer that is being read; `ChatClient` makes it.

        async with client.send("Hello") as turn:
            async for event in turn:
                ...

    Read it with `async for`, `read` or `wait_for`, in any mixture. Events that you don't read wait
    in the server, as with a client that has stalled. Leaving the block early disconnects.
    """

    def __init__(self, connection: Connection, stop: Callable[[str], Any]) -> None:
        self.connection = connection
        self.events: list[ThreadStreamEvent] = []
        """All events received so far."""
        self.frames: list[bytes] = []
        """The JSON text of those events."""
        self.is_complete = False
        """Whether the server has ended the stream."""
        self.last_event_id: str | None = None
        """The id of the last event that had one; `watch` takes it, to read the rest of the turn."""
        self.signals: list[tuple[str, Any]] = []
        """Named events with their JSON, which the web layer sends to a watching page beside the
        protocol, such as `("turn.end", {"reason": "finished"})`."""
        self._stop = stop
        self._sse = SSEReader()
        self._waiting: deque[ServerSentEvent] = deque()
        self._seen = SeenItems()
        self._thread: Thread | None = None
        self._thread_id: str | None = None

    # --- Reading -------------------------------------------------------------------------------

    def __aiter__(self) -> ClientTurn:
        return self

    async def __anext__(self) -> ThreadStreamEvent:
        while not self._waiting:
            await self._receive()
        return self._note(self._waiting.popleft())

    async def read(self, count: int | None = None) -> list[ThreadStreamEvent]:
        """Read `count` events, or to the end, and return them; fewer if the stream ends before.

        A cancelled call loses nothing: the events that it has read are in `events`.
        """
        read: list[ThreadStreamEvent] = []
        while count is None or len(read) < count:
            try:
                read.append(await anext(self))
            except StopAsyncIteration:
                break
        return read

    async def wait_for(
        self, wanted: type[Any] | Callable[[ThreadStreamEvent], bool]
    ) -> ThreadStreamEvent:
        """Read until an event has this class, or the function returns True for it.

        Raises `AssertionError` if the stream ends before.
        """
        async for event in self:
            if isinstance(event, wanted) if isinstance(wanted, type) else wanted(event):
                return event
        kinds = [event.type for event in self.events]
        raise AssertionError(f"the stream ended without the event that was waited for: {kinds}")

    # --- Ending --------------------------------------------------------------------------------

    async def disconnect(self) -> None:
        """Break the connection, as closing a tab does.

        In this process the call returns when the server has handled the disconnect; over a real
        network it returns at once. Nothing can be read afterwards.
        """
        await self.connection.disconnect()
        self._waiting.clear()

    async def stop(self) -> None:
        """Ask the server to end the answer, as the stop button does; the stream goes on to its end.

        Returns when the answer so far is stored.
        """
        if self.thread_id is None:
            raise RuntimeError("the id of the new thread hasn't been read yet; read on first")
        await self._stop(self.thread_id)

    # --- What has been read --------------------------------------------------------------------

    @property
    def items(self) -> list[ThreadItem]:
        """The items in this stream so far, in order, each in its latest state."""
        return self._seen.items()

    @property
    def text(self) -> str:
        """The text of all assistant messages in this stream so far, one after the other."""
        messages = [item for item in self.items if isinstance(item, AssistantMessageItem)]
        return "".join(part.text for message in messages for part in message.content)

    @property
    def thread_id(self) -> str | None:
        """The thread's id; in a new thread None until `thread.created` has been read."""
        return self._thread_id

    @property
    def thread(self) -> Thread | None:
        """The thread's latest state in this stream, without items; None if there was none."""
        return self._thread

    @property
    def error(self) -> ErrorEvent | None:
        """The `error` event of this stream, if it has been read."""
        return next((event for event in self.events if isinstance(event, ErrorEvent)), None)

    @property
    def allow_cancel(self) -> bool | None:
        """Whether the page may show a stop button; None until `stream_options` has been read."""
        options = [event for event in self.events if isinstance(event, StreamOptionsEvent)]
        return options[-1].stream_options.allow_cancel if options else None

    @property
    def heartbeats(self) -> int:
        """How many comments, which only keep the connection open, have been read."""
        return self._sse.heartbeats

    @property
    def server_turn(self) -> Turn[Any]:
        """The engine's `Turn`; only for a client that was made by `of_server`."""
        if not isinstance(self.connection, ServerConnection):
            raise TypeError("a client over HTTP has no access to the server's turn")
        return self.connection.turn

    def belongs_to(self, thread_id: str | None) -> None:
        """Note which thread the request named."""
        self._thread_id = thread_id

    # --- Taking events in ----------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            chunk = await self.connection.receive()
        except trio.EndOfChannel:
            self.is_complete = True
            raise StopAsyncIteration from None
        for message in self._sse.feed(chunk):
            self._take(message)

    def _take(self, message: ServerSentEvent) -> None:
        if message.name is None:
            self._waiting.append(message)
        else:
            self.signals.append((message.name, json.loads(message.data)))

    def _note(self, message: ServerSentEvent) -> ThreadStreamEvent:
        event = _EVENT.validate_json(message.data)
        self.events.append(event)
        self.frames.append(message.data)
        self.last_event_id = message.id or self.last_event_id
        self._seen.feed(event)
        if isinstance(event, ThreadCreatedEvent | ThreadUpdatedEvent):
            self._thread = event.thread
            self._thread_id = event.thread.id
        return event
