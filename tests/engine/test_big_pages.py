"""Pages of big items: few at a time, in pieces, and right all the same."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio._engine.pace import PIECE
from chatkit_trio.limits import MAX_PARTS, MAX_VALUES, RequestLimits
from chatkit_trio.server import ChatKitServer, NonStreamingResult
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore, _records
from chatkit_trio.stores._records import PAGE_CHARS
from chatkit_trio.stores._shortening import REST_IS_LEFT_OUT
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ClientToolCallItem,
    HiddenContextItem,
    InferenceOptions,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    UserMessageTagContent,
    UserMessageTextContent,
)

from .parts import NOW, message_request, read_all, stream

THREAD = "thr_1"
TAG = UserMessageTagContent(id="", text="", data={})


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store[Any]]:
    store: Store[Any] = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "c")
    async with store:
        await store.save_thread(ThreadMetadata(id=THREAD, created_at=NOW), None)
        yield store


class ReadingServer(ChatKitServer[Any]):
    """Answers with the number of items that it finds in the thread."""

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        page = await self.store.load_thread_items(thread.id, None, 100, "desc", context)
        text = f"{len(page.data)} items"
        yield ThreadItemDoneEvent(
            item=AssistantMessageItem(
                id="answer",
                thread_id=thread.id,
                created_at=NOW,
                content=[AssistantMessageContent(text=text)],
            )
        )


def user_message(item_id: str, *content: Any) -> UserMessageItem:
    return UserMessageItem(
        id=item_id,
        thread_id=THREAD,
        created_at=NOW,
        content=list(content),
        inference_options=InferenceOptions(),
    )


def text_message(item_id: str, size: int) -> UserMessageItem:
    return user_message(item_id, UserMessageTextContent(text="x" * size))


def hidden(item_id: str, size: int) -> HiddenContextItem:
    return HiddenContextItem(id=item_id, thread_id=THREAD, created_at=NOW, content="x" * size)


async def add(store: Store[Any], *items: ThreadItem) -> None:
    for item in items:
        await store.add_thread_item(THREAD, item, None)


async def ask(server: ChatKitServer[Any], kind: str, **params: Any) -> Any:
    body = json.dumps({"type": kind, "params": params}).encode()
    result = await server.process(body, None)
    assert isinstance(result, NonStreamingResult)
    return json.loads(result.json)


async def pages(server: ChatKitServer[Any], **params: Any) -> list[list[str]]:
    """Return the ids on each page of the thread's items."""
    found, after = [], None
    while True:
        page = await ask(server, "items.list", thread_id=THREAD, after=after, **params)
        found.append([item["id"] for item in page["data"]])
        after = page.get("after")
        if not page["has_more"]:
            return found


# --- Pages that are bounded in bytes -----------------------------------------------------------


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_ends_before_the_item_that_would_make_it_too_long(
    store: Store[Any], order: str
) -> None:
    server = ReadingServer(store, limits=RequestLimits(page_bytes=1000))
    await add(store, *(text_message(f"i{number}", 300) for number in range(5)))

    found = await pages(server, order=order)

    expected = [["i0", "i1"], ["i2", "i3"], ["i4"]]
    turned = [["i4", "i3"], ["i2", "i1"], ["i0"]]
    assert found == (expected if order == "asc" else turned)


async def test_an_item_that_is_longer_than_a_page_is_a_page(store: Store[Any]) -> None:
    server = ReadingServer(store, limits=RequestLimits(page_bytes=1000))
    await add(store, text_message("i0", 10), text_message("i1", 5000), text_message("i2", 10))

    assert await pages(server, order="asc") == [["i0"], ["i1"], ["i2"]]


async def test_a_page_holds_only_so_many_objects(store: Store[Any]) -> None:
    """A text of objects alone is short; what is made of it holds up the garbage collector."""
    many = 1000 * [[{}] * 50]  # so many objects weigh as 3.3 MB of text
    calls = [
        ClientToolCallItem(
            id=f"i{number}",
            thread_id=THREAD,
            created_at=NOW,
            status="completed",
            call_id=f"c{number}",
            name="look",
            arguments={},
            output=many,
        )
        for number in range(5)
    ]
    server = ReadingServer(store)
    await add(store, *calls)

    assert await pages(server, order="asc") == [["i0", "i1"], ["i2", "i3"], ["i4"]]


async def test_hidden_items_take_no_room_and_are_on_no_page(store: Store[Any]) -> None:
    server = ReadingServer(store, limits=RequestLimits(page_bytes=1000))
    await add(store, hidden("h0", 5000), text_message("i1", 600), hidden("h2", 5000))
    await add(store, text_message("i3", 600), hidden("h4", 5000))

    assert await pages(server, order="asc") == [["i1"], ["i3"]]


async def test_a_thread_comes_with_the_items_that_fit_and_the_cursor_of_the_next(
    store: Store[Any],
) -> None:
    server = ReadingServer(store, limits=RequestLimits(page_bytes=1000))
    await add(store, *(text_message(f"i{number}", 300) for number in range(3)))

    thread = await ask(server, "threads.get_by_id", thread_id=THREAD)

    assert [item["id"] for item in thread["items"]["data"]] == ["i0", "i1"]
    assert thread["items"]["has_more"] is True
    assert thread["items"]["after"] == "i1"


async def test_threads_with_long_titles_come_on_several_pages(store: Store[Any]) -> None:
    server = ReadingServer(store, limits=RequestLimits(page_bytes=1000))
    for number in range(3):
        thread = ThreadMetadata(id=f"t{number}", created_at=NOW, title="x" * 600)
        await store.save_thread(thread, None)

    first = await ask(server, "threads.list", limit=2)
    second = await ask(server, "threads.list", limit=2, after=first["after"])

    assert [thread["id"] for thread in first["data"]] == ["t2"]
    assert first["has_more"] is True
    assert [thread["id"] for thread in second["data"]] == ["t1"]


async def test_a_title_that_looks_like_an_empty_page_stays_a_title(store: Store[Any]) -> None:
    server = ReadingServer(store)
    title = 'x","items":{"data":[]}'
    await store.save_thread(ThreadMetadata(id=THREAD, created_at=NOW, title=title), None)
    await add(store, text_message("i0", 10))

    thread = await ask(server, "threads.get_by_id", thread_id=THREAD)

    assert thread["title"] == title
    assert [item["id"] for item in thread["items"]["data"]] == ["i0"]


async def test_who_asks_for_more_items_than_a_page_may_have_gets_so_many(
    store: Store[Any],
) -> None:
    server = ReadingServer(store, limits=RequestLimits(page_items=2))
    await add(store, *(text_message(f"i{number}", 1) for number in range(5)))

    assert await pages(server, limit=10**6, order="asc") == [["i0", "i1"], ["i2", "i3"], ["i4"]]


async def test_a_store_returns_fewer_items_when_they_are_big(store: Store[Any]) -> None:
    size = PAGE_CHARS // 2 - 1000
    await add(store, *(text_message(f"i{number}", size) for number in range(5)))

    first = await store.load_thread_items(THREAD, None, 100, "asc", None)
    second = await store.load_thread_items(THREAD, first.after, 100, "asc", None)
    third = await store.load_thread_items(THREAD, second.after, 100, "asc", None)

    assert [item.id for item in first.data] == ["i0", "i1"]
    assert [item.id for item in second.data] == ["i2", "i3"]
    assert ([item.id for item in third.data], third.has_more) == (["i4"], False)


async def test_a_call_that_waits_is_found_behind_big_hidden_items(store: Store[Any]) -> None:
    """Of the latest items a store returns fewer than were asked for, if they are big."""
    server = ReadingServer(store)
    call = ClientToolCallItem(
        id="c", thread_id=THREAD, created_at=NOW, call_id="c", name="look", arguments={}
    )
    await add(store, call, *(hidden(f"h{number}", PAGE_CHARS) for number in range(2)))
    request = {
        "type": "threads.add_client_tool_output",
        "params": {"thread_id": THREAD, "result": 7},
    }

    async with server:
        await read_all(await stream(server, json.dumps(request).encode()))

    stored = await store.load_item(THREAD, "c", None)
    assert isinstance(stored, ClientToolCallItem)
    assert (stored.status, stored.output) == ("completed", 7)


# --- Items that hold too much ------------------------------------------------------------------


async def test_a_message_of_too_many_parts_is_loaded_as_its_beginning_and_says_so(
    store: Store[Any],
) -> None:
    await add(store, user_message("big", *[TAG] * (MAX_PARTS + 500)))

    message = await store.load_item(THREAD, "big", None)

    assert isinstance(message, UserMessageItem)
    assert message.content == [*[TAG] * MAX_PARTS, UserMessageTextContent(text=REST_IS_LEFT_OUT)]


async def test_a_message_of_as_many_parts_as_there_may_be_is_loaded_whole(
    store: Store[Any],
) -> None:
    whole = user_message("big", *[TAG] * MAX_PARTS)
    await add(store, whole)

    assert await store.load_item(THREAD, "big", None) == whole


async def test_a_part_that_holds_too_much_is_left_out_with_what_follows(
    store: Store[Any],
) -> None:
    first = UserMessageTextContent(text='look, [at] {"this"} \\')
    bomb = UserMessageTagContent(id="i", text="t", data={"a": [[]] * MAX_VALUES})
    await add(store, user_message("big", first, bomb, first))

    page = await store.load_thread_items(THREAD, None, 10, "asc", None)

    rest = UserMessageTextContent(text=REST_IS_LEFT_OUT)
    assert page.data == [user_message("big", first, rest)]


@pytest.mark.parametrize("make", [list, lambda values: {str(n): 0 for n in range(len(values))}])
async def test_a_tools_output_that_holds_too_much_is_loaded_as_its_beginning(
    store: Store[Any], make: Callable[[list[int]], Any]
) -> None:
    call = ClientToolCallItem(
        id="c",
        thread_id=THREAD,
        created_at=NOW,
        status="completed",
        call_id="c",
        name="look",
        arguments={"a": 1},
        output=make([0] * (MAX_VALUES + 7)),
    )
    await add(store, call)

    loaded = await store.load_item(THREAD, "c", None)

    assert isinstance(loaded, ClientToolCallItem)
    assert loaded.output == make([0] * (MAX_VALUES - 1))  # the output itself counts too
    assert loaded.model_copy(update={"output": None}) == call.model_copy(update={"output": None})


async def test_what_the_application_stores_is_loaded_whole(store: Store[Any]) -> None:
    content = {"type": "user_message", "content": [0] * (MAX_VALUES + 1)}
    note = HiddenContextItem(id="h", thread_id=THREAD, created_at=NOW, content=content)
    await add(store, note)

    assert await store.load_item(THREAD, "h", None) == note


async def test_a_long_text_full_of_commas_and_quotes_is_loaded_whole(store: Store[Any]) -> None:
    whole = user_message("i", UserMessageTextContent(text='a, "b" \\"[{,\\' * 60_000))
    await add(store, whole)

    assert await store.load_item(THREAD, "i", None) == whole


# --- In pieces ---------------------------------------------------------------------------------


class _Steps(trio.abc.Instrument):
    """Counts what is decoded at most between two checkpoints."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0

    def count(self, decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counting(text: Any) -> Any:
            self._now += len(text)
            self.most = max(self.most, self._now)
            return decode(text)

        return counting

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._now = 0


async def _answers(server: ChatKitServer[Any]) -> None:
    async with server:
        await read_all(await stream(server, message_request("hi", THREAD)))


READERS: dict[str, Callable[[ChatKitServer[Any]], Awaitable[Any]]] = {
    "threads.get_by_id": lambda server: ask(server, "threads.get_by_id", thread_id=THREAD),
    "items.list": lambda server: pages(server),
    "last_ending": lambda server: server.last_ending(THREAD, None),
    "the turn's own": _answers,
}


@pytest.mark.parametrize("name", READERS)
async def test_no_two_big_items_are_decoded_without_a_checkpoint_between(
    store: Store[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: a thread with ten such messages stopped everybody for 17 s."""

    server = ReadingServer(store)
    await add(store, *(text_message(f"i{number}", 3 * PIECE) for number in range(10)))
    steps = _Steps()
    monkeypatch.setattr(_records, "decode_item", steps.count(_records.decode_item))
    trio.lowlevel.add_instrument(steps)

    await READERS[name](server)

    trio.lowlevel.remove_instrument(steps)
    assert 3 * PIECE < steps.most < 4 * PIECE
