"""What several tests of this folder share: events, clients, and stores that go away."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import trio

from chatkit_trio.actions import Action
from chatkit_trio.errors import StoreError
from chatkit_trio.server import ChatKitServer, StreamingResult
from chatkit_trio.store import Store
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import ChatClient, ClientTurn, Scene, StoreWrapper
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    BaseReq,
    InferenceOptions,
    ThreadAddUserMessageParams,
    ThreadCreateParams,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadsAddUserMessageReq,
    ThreadsCreateReq,
    UserMessageInput,
    UserMessageTextContent,
    WidgetItem,
)
from chatkit_trio.widgets import DynamicWidgetRoot

_T = TypeVar("_T")

NOW = datetime(2026, 1, 2, tzinfo=UTC)

FOR_EVER = 1e8
"""Seconds of virtual time: longer than any test lasts."""

MakeEvent: TypeAlias = Callable[[Scene], Any]


def within(
    seconds: float,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Let a test fail that takes longer, in virtual time: none of them can hang."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(test)
        async def bounded(*args: Any, **kwargs: Any) -> None:
            with trio.fail_after(seconds):
                await test(*args, **kwargs)

        return bounded

    return decorate


# --- Events ------------------------------------------------------------------------------------


def fields(scene: Scene, item_id: str) -> dict[str, Any]:
    """Return the fields that every item needs, with this id."""
    return scene.item_fields() | {"id": item_id}


def content(text: str) -> list[AssistantMessageContent]:
    return [AssistantMessageContent(text=text)] if text else []


def begin(item_id: str, text: str = "") -> MakeEvent:
    """Return a maker of the event that begins a message."""
    return lambda scene: ThreadItemAddedEvent(
        item=AssistantMessageItem(content=content(text), **fields(scene, item_id))
    )


def finish(item_id: str, text: str) -> MakeEvent:
    """Return a maker of the event that finishes a message."""
    return lambda scene: ThreadItemDoneEvent(
        item=AssistantMessageItem(content=content(text), **fields(scene, item_id))
    )


def delta(text: str) -> AssistantMessageContentPartTextDelta:
    return AssistantMessageContentPartTextDelta(content_index=0, delta=text)


def more(item_id: str, text: str) -> ThreadItemUpdatedEvent:
    """Return the event that appends text to a message."""
    return ThreadItemUpdatedEvent(item_id=item_id, update=delta(text))


def card(text: str) -> DynamicWidgetRoot:
    """Return a widget with one text, whose component id is "body"."""
    return DynamicWidgetRoot.model_validate(
        {"type": "Card", "children": [{"type": "Markdown", "id": "body", "value": text}]}
    )


def text_of(widget: Any) -> str:
    """Return the text of a widget item made with `card`."""
    assert isinstance(widget, WidgetItem)
    text: str = widget.model_dump()["widget"]["children"][0]["value"]
    return text


# --- Clients -----------------------------------------------------------------------------------


async def answered(
    server: ChatKitServer[Any], text: str = "hi", thread_id: str | None = None
) -> ClientTurn:
    """Send a message and read the answer to its end."""
    async with ChatClient.of_server(server).send(text, thread_id) as turn:
        await turn.read()
    return turn


async def stopped(
    server: ChatKitServer[Any],
    text: str = "hi",
    thread_id: str | None = None,
    *,
    after: float = 1.0,
) -> ClientTurn:
    """Send a message, read on, stop the answer after some seconds, and read to the end."""
    client = ChatClient.of_server(server)
    async with client.send(text, thread_id) as turn, trio.open_nursery() as nursery:
        nursery.start_soon(turn.read)
        await trio.sleep(after)
        # Not by the client, for whom there is no thread any more if a test has deleted it.
        assert turn.thread_id is not None
        await server.stop(turn.thread_id)
    return turn


def message_request(text: str = "hi", thread_id: str | None = None) -> bytes:
    """Return the body of a request that sends a message."""
    message = UserMessageInput(
        content=[UserMessageTextContent(text=text)],
        attachments=[],
        inference_options=InferenceOptions(),
    )
    if thread_id is None:
        return body_of(ThreadsCreateReq(params=ThreadCreateParams(input=message)))
    params = ThreadAddUserMessageParams(thread_id=thread_id, input=message)
    return body_of(ThreadsAddUserMessageReq(params=params))


def body_of(request: BaseReq) -> bytes:
    return request.model_dump_json(exclude_none=True).encode()


async def stream(
    server: ChatKitServer[Any], body: bytes, context: Any = None, **arguments: Any
) -> StreamingResult:
    """Process a request that streams; its turn begins with the first read."""
    result = await server.process(body, context, **arguments)
    assert isinstance(result, StreamingResult)
    return result


async def read_all(result: StreamingResult) -> list[bytes]:
    """Read a stream from where it is to its end, and close it."""
    async with result:
        return [frame async for frame in result]


def events_of(frames: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the events of these frames as they were on the wire."""
    lines = b"".join(frames).split(b"\n")
    return [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data:")]


def thread_id_of(frames: Iterable[bytes]) -> str:
    """Return the id of the thread that a stream of `threads.create` has made."""
    events = events_of(frames)
    [created] = [event for event in events if event["type"] == "thread.created"]
    thread_id: str = created["thread"]["id"]
    return thread_id


PRESS = Action[str, Any](type="press", payload={})
"""What a button of a widget sends."""

# --- Stores ------------------------------------------------------------------------------------

READS = {"load_thread", "load_threads", "load_thread_items", "load_item", "load_attachment", "ping"}

How: TypeAlias = Literal["raises", "raises afterwards", "hangs", "hangs afterwards"]


class AwayStore(StoreWrapper[Any]):
    """A store that can't be reached for a while: every operation but the spared ones fails.

    `how` says what a failing operation does; "afterwards" means that it is carried out first.
    Operations whose name begins with one of `spared` always work.
    """

    def __init__(
        self,
        store: Store[Any],
        how: How = "raises",
        *,
        spared: Iterable[str] = READS,
        error: Exception | None = None,
    ) -> None:
        super().__init__(store)
        self.failing: list[str] = []
        """The names of the operations that have failed."""
        self._how = how
        self._spared = tuple(spared)
        self._error = StoreError("the database is locked") if error is None else error
        self._back_at = float("-inf")
        self._calls_to_fail = 0

    def leave(self, seconds: float) -> None:
        """Be away for so many seconds from now."""
        self._back_at = trio.current_time() + seconds

    def fail_calls(self, count: int) -> None:
        """Be away for so many operations."""
        self._calls_to_fail = count

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        is_away = trio.current_time() < self._back_at or self._calls_to_fail > 0
        if not is_away or name.startswith(self._spared):
            return await call()
        self._calls_to_fail -= 1
        self.failing.append(name)
        if self._how.endswith("afterwards"):
            await call()
        if self._how.startswith("hangs"):
            await trio.sleep_forever()
        raise self._error.with_traceback(None)  # else it grows with each raise


class SlowWrites(StoreWrapper[Any]):
    """A store whose operations of some names take a while, before they are carried out."""

    def __init__(self, store: Store[Any], seconds: float, *operations: str) -> None:
        super().__init__(store)
        self.seconds = seconds
        self._operations = operations

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name in self._operations:
            await trio.sleep(self.seconds)
        return await call()


class Mortal(StoreWrapper[Any]):
    """A store on SQLite whose process dies: from then on nothing reaches the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(SQLiteStore(path))
        self._is_dead = False

    async def die(self) -> None:
        """Close the file as the end of a process does, with all that is unsaved."""
        self._is_dead = True
        await self.wrapped.__aexit__(None, None, None)

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if self._is_dead:
            raise OSError("this process is dead")
        return await call()

    async def __aexit__(self, *exc_info: object) -> None:
        if not self._is_dead:
            await super().__aexit__(*exc_info)  # noqa: ASYNC102  (passed on)
