"""`stream_text`: an assistant message from pieces of text, as the events that `respond` yields."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, ScriptedModel
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    SDKHiddenContextItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
)

THREAD = ThreadMetadata(id="thr_1", created_at=datetime(2025, 1, 1, tzinfo=UTC))


class Pieces:
    """An async iterator that knows whether it has been closed, and what it has been asked for."""

    def __init__(self, *pieces: str, error: Exception | None = None) -> None:
        self.is_closed = False
        self.given: list[str] = []
        self._pieces = iter(pieces)
        self._error = error

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        await trio.lowlevel.checkpoint()
        for piece in self._pieces:
            self.given.append(piece)
            return piece
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.is_closed = True


async def events_of(chunks: AsyncIterable[str] | Iterable[str]) -> list[ThreadStreamEvent]:
    return [event async for event in stream_text(THREAD, chunks, lambda kind: f"{kind}_1")]


def told(events: list[ThreadStreamEvent]) -> list[tuple[str, str]]:
    """Return, for each event, its kind and the text that it brings."""
    return [_kind_and_text(event) for event in events]


def _kind_and_text(event: ThreadStreamEvent) -> tuple[str, str]:
    match event:
        case ThreadItemAddedEvent(item=AssistantMessageItem(content=[])):
            return "added", ""
        case ThreadItemUpdatedEvent(
            update=AssistantMessageContentPartTextDelta(content_index=0, delta=delta)
        ):
            return "delta", delta
        case ThreadItemDoneEvent(item=AssistantMessageItem(content=[content])):
            return "done", content.text
    raise AssertionError(event)


async def test_pieces_of_an_async_iterator_become_one_message() -> None:
    events = await events_of(Pieces("Good ", "morning"))

    assert told(events) == [
        ("added", ""),
        ("delta", "Good "),
        ("delta", "morning"),
        ("done", "Good morning"),
    ]


@pytest.mark.parametrize(
    "chunks",
    [["a", "b"], ("a", "b"), iter(["a", "b"])],
    ids=["a list", "a tuple", "an iterator"],
)
async def test_pieces_may_come_from_a_list_or_any_iterable(chunks: Iterable[str]) -> None:
    assert told(await events_of(chunks)) == [
        ("added", ""),
        ("delta", "a"),
        ("delta", "b"),
        ("done", "ab"),
    ]


async def test_a_string_is_one_piece_and_not_one_a_letter() -> None:
    assert told(await events_of("Hello")) == [("added", ""), ("delta", "Hello"), ("done", "Hello")]


async def test_empty_pieces_are_skipped() -> None:
    assert told(await events_of(["", "a", "", "b"])) == told(await events_of(["a", "b"]))


@pytest.mark.parametrize(
    "chunks",
    [[], [""], Pieces(), Pieces("", "")],
    ids=["nothing", "an empty piece", "no pieces", "empty pieces"],
)
async def test_without_text_there_is_no_message(chunks: Any) -> None:
    assert await events_of(chunks) == []


async def test_the_first_event_waits_for_the_first_text() -> None:
    send, receive = trio.open_memory_channel[str](1)
    async with aclosing(stream_text(THREAD, receive)) as events:
        with trio.move_on_after(0.01) as waiting:
            await anext(events)
    send.close()

    assert waiting.cancelled_caught


async def test_every_event_names_the_thread_and_the_one_id() -> None:
    added, delta, done = await events_of(["Hello"])

    assert isinstance(added, ThreadItemAddedEvent)
    assert isinstance(delta, ThreadItemUpdatedEvent)
    assert isinstance(done, ThreadItemDoneEvent)
    assert {added.item.id, delta.item_id, done.item.id} == {"message_1"}
    assert {added.item.thread_id, done.item.thread_id} == {"thr_1"}


async def test_each_message_gets_an_id_of_its_own() -> None:
    first = [event async for event in stream_text(THREAD, "Hello")][-1]
    second = [event async for event in stream_text(THREAD, "Hello")][-1]

    assert isinstance(first, ThreadItemDoneEvent)
    assert isinstance(second, ThreadItemDoneEvent)
    assert first.item.id != second.item.id


async def test_the_message_is_dated_when_its_first_text_comes() -> None:
    before = datetime.now(UTC)
    added, _delta, done = await events_of(["Hello"])

    assert isinstance(added, ThreadItemAddedEvent)
    assert isinstance(done, ThreadItemDoneEvent)
    assert timedelta(0) <= added.item.created_at - before < timedelta(seconds=5)
    assert done.item.created_at == added.item.created_at


async def test_the_iterator_is_closed_at_the_end() -> None:
    pieces = Pieces("a", "b")
    await events_of(pieces)

    assert pieces.is_closed


async def test_the_iterator_is_closed_when_the_consumer_leaves_early() -> None:
    pieces = Pieces("a", "b", "c")
    async with aclosing(stream_text(THREAD, pieces)) as events:
        async for event in events:
            if isinstance(event, ThreadItemUpdatedEvent):
                break

    assert (pieces.is_closed, pieces.given) == (True, ["a"])


async def test_a_plain_generator_is_closed_when_the_consumer_leaves_early() -> None:
    closed: list[bool] = []

    def pieces() -> Iterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append(True)

    generator = pieces()
    async with aclosing(stream_text(THREAD, generator)) as events:
        await anext(events)

    assert closed == [True]


async def test_an_error_of_the_iterator_is_raised_after_what_came_before_it() -> None:
    pieces = Pieces("a", error=OSError("the model is gone"))
    async with aclosing(stream_text(THREAD, pieces)) as stream:
        events = [await anext(stream), await anext(stream)]
        with pytest.raises(OSError, match="the model is gone"):
            await anext(stream)

    assert told(events) == [("added", ""), ("delta", "a")]
    assert pieces.is_closed


class Answering(ChatKitServer[None]):
    """Answers with a model's text, in two lines of code."""

    def __init__(self, model: ScriptedModel) -> None:
        super().__init__(MemoryStore())
        self.model = model

    def respond(
        self, thread: ThreadMetadata, input_user_message: Any, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        return stream_text(thread, self.words())

    async def words(self) -> AsyncIterator[str]:
        async with self.model.stream("?") as words:
            async for word in words:
                yield word


async def test_a_stop_keeps_the_text_and_closes_the_models_stream(
    autojump_clock: MockClock,
) -> None:
    model = ScriptedModel(["one ", "two ", "three "], every=1.0)
    server = Answering(model)
    async with server, ChatClient.of_server(server) as client, client.send("Count") as turn:
        await turn.wait_for(lambda _: turn.text == "one two ")
        await server.stop(turn.thread_id)
        page = await server.store.load_thread_items(turn.thread_id, None, 10, "asc", None)

    _question, answer, note = page.data
    assert isinstance(answer, AssistantMessageItem)
    assert isinstance(note, SDKHiddenContextItem)
    assert answer.content == [AssistantMessageContent(text="one two ")]
    assert model.open_streams == 0
