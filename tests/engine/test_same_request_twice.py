"""A request repeated with its `Idempotency-Key` is one request, also after a restart.

A client that lost the response sends the request again. The repeat reads along the turn that the
first one began, or gets what that turn has stored; it never begins a second one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.actions import Action
from chatkit_trio.errors import ConflictError
from chatkit_trio.server import ChatKitServer, NonStreamingResult, TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import ChatClient, JumpClock, Scene, SlowStore
from chatkit_trio.types import (
    AssistantMessageItem,
    BaseReq,
    ClientToolCallItem,
    InferenceOptions,
    ItemFeedbackParams,
    ItemsFeedbackReq,
    StructuredInputAnswerSubmission,
    StructuredInputFreeform,
    StructuredInputItem,
    StructuredInputSubmission,
    SyncCustomActionResponse,
    ThreadAddClientToolOutputParams,
    ThreadAddStructuredInputParams,
    ThreadCustomActionParams,
    ThreadItem,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadRetryAfterItemParams,
    ThreadsAddClientToolOutputReq,
    ThreadsAddStructuredInputReq,
    ThreadsCustomActionReq,
    ThreadsRetryAfterItemReq,
    ThreadsSyncCustomActionReq,
    UserMessageItem,
    UserMessageTextContent,
    WidgetItem,
)
from chatkit_trio.web import create_app
from tests.transcript import transcript

from .parts import (
    NOW,
    PRESS,
    AwayStore,
    Mortal,
    begin,
    body_of,
    card,
    content,
    events_of,
    finish,
    message_request,
    more,
    read_all,
    stream,
    text_of,
    thread_id_of,
    within,
)

HOUR = 3600.0
KEY = "a-key-of-the-clients"
THREAD = "thr_1"

ANSWER = "Hello there"


class CountingServer(ChatKitServer[Any]):
    """Answers a word a second, and counts how often each of its hooks was called."""

    def __init__(self, store: Store[Any], **settings: Any) -> None:
        super().__init__(store, **settings)
        self.calls: list[str] = []

    async def _answer(self, scene: Scene) -> AsyncIterator[Any]:
        item_id = f"msg_answer_{len(self.calls)}"
        yield begin(item_id)(scene)
        for character in ANSWER:
            await trio.sleep(1)
            yield more(item_id, character)
        yield finish(item_id, ANSWER)(scene)

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[Any]:
        self.calls.append("respond")
        async for event in self._answer(Scene(thread, input_user_message, context)):
            yield event

    async def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> AsyncIterator[Any]:
        self.calls.append("action")
        async for event in self._answer(Scene(thread, None, context)):
            yield event

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> SyncCustomActionResponse:
        self.calls.append("sync_action")
        assert sender is not None
        text = f"{text_of(sender)}!"
        return SyncCustomActionResponse(
            updated_item=sender.model_copy(update={"widget": card(text)})
        )

    async def add_feedback(
        self, thread_id: str, item_ids: list[str], feedback: Any, context: Any
    ) -> None:
        self.calls.append("add_feedback")


# --- Requests of every kind --------------------------------------------------------------------


async def fill(store: Store[Any], context: Any = None) -> None:
    """Make a thread on which every request has something to work on."""
    own: dict[str, Any] = {"thread_id": THREAD, "created_at": NOW}
    question = StructuredInputFreeform(id="q", question="Why?")
    items: list[ThreadItem] = [
        UserMessageItem(
            id="msg_u",
            content=[UserMessageTextContent(text="hi")],
            inference_options=InferenceOptions(),
            **own,
        ),
        WidgetItem(id="wdg", widget=card("x"), **own),
        StructuredInputItem(id="sin", inputs=[question], **own),
        AssistantMessageItem(id="msg_a", content=content("Hm."), **own),
        ClientToolCallItem(id="tc", call_id="c", name="n", arguments={}, **own),
    ]
    await store.save_thread(ThreadMetadata(id=THREAD, created_at=NOW), context)
    for item in items:
        await store.add_thread_item(THREAD, item, context)


STREAMING: dict[str, Callable[[], bytes]] = {
    "threads.create": message_request,
    "threads.add_user_message": lambda: message_request("more", THREAD),
    "threads.add_client_tool_output": lambda: body_of(
        ThreadsAddClientToolOutputReq(
            params=ThreadAddClientToolOutputParams(thread_id=THREAD, result=7)
        )
    ),
    "threads.add_structured_input": lambda: body_of(
        ThreadsAddStructuredInputReq(
            params=ThreadAddStructuredInputParams(
                thread_id=THREAD,
                item_id="sin",
                input=StructuredInputSubmission(
                    status="answered",
                    answers={"q": StructuredInputAnswerSubmission(values=["because"])},
                ),
            )
        )
    ),
    "threads.retry_after_item": lambda: body_of(
        ThreadsRetryAfterItemReq(
            params=ThreadRetryAfterItemParams(thread_id=THREAD, item_id="msg_u")
        )
    ),
    "threads.custom_action": lambda: body_of(
        ThreadsCustomActionReq(
            params=ThreadCustomActionParams(thread_id=THREAD, item_id="wdg", action=PRESS)
        )
    ),
}

EVERY_KIND = pytest.mark.parametrize("kind", STREAMING)


async def everything(store: Store[Any], context: Any = None) -> dict[str, list[dict[str, Any]]]:
    """Return all threads of a store with all their items."""
    threads = (await store.load_threads(100, None, "asc", context)).data
    return {
        thread.id: [
            item.model_dump(mode="json")
            for item in (await store.load_thread_items(thread.id, None, 100, "asc", context)).data
        ]
        for thread in threads
    }


def done_in(frames: list[bytes]) -> list[dict[str, Any]]:
    """Return the items that a stream told to be done, as on the wire."""
    return [event["item"] for event in events_of(frames) if event["type"] == "thread.item.done"]


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def types_of(frames: list[bytes]) -> list[str]:
    return [event["type"] for event in events_of(frames)]


async def ask(server: ChatKitServer[Any], kind: str, key: str = KEY) -> list[bytes]:
    """Send the request of this kind with a key, and read the stream to its end."""
    return await read_all(await stream(server, STREAMING[kind](), idempotency_key=key))


# --- While the turn is live --------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.1, 0.2, 5.5])
@within(HOUR)
async def test_a_repeat_during_the_turn_reads_the_same_turn_from_its_first_event(
    seconds: float, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Both get the same frames; the store has one answer, and the hook was called once.

    The store is slow, so that the repeat also comes during the checks and the first writes.
    """
    memory = MemoryStore[Any]()
    await fill(memory)
    before = await everything(memory)
    read: dict[int, list[bytes]] = {}
    async with CountingServer(SlowStore(memory, 0.03)) as server:

        async def send(number: int) -> None:
            read[number] = await ask(server, kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, 1)
            await trio.sleep(seconds)
            nursery.start_soon(send, 2)
        after = await everything(memory)

    assert read[1] == read[2]
    assert events_of(read[1])[-1]["type"] == "thread.item.done"
    assert len(server.calls) == 1
    texts = [item for items in after.values() for item in items if item["type"] != "widget"]
    assert [item["type"] for item in texts].count("assistant_message") == (
        1 if kind == "threads.retry_after_item" else 2
    )
    assert [item["type"] for item in texts].count("user_message") == (
        2 if "message" in kind or "create" in kind else 1
    )
    assert len(after) == len(before) + (kind == "threads.create")


@pytest.mark.parametrize("on_busy", ["supersede", "queue", "reject"])
@within(HOUR)
async def test_a_repeat_is_no_rival_of_its_own_turn(
    on_busy: Any, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    await fill(store)
    read: list[list[bytes]] = []
    async with CountingServer(store, policy=TurnPolicy(on_busy=on_busy)) as server:

        async def send() -> None:
            read.append(await ask(server, "threads.add_user_message"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(3)
            nursery.start_soon(send)

        stored = await transcript(store, THREAD)
    assert stored[-2:] == ["user: more", f"assistant: {ANSWER}"]
    assert read[0] == read[1]
    assert "error" not in types_of(read[0])


@within(HOUR)
async def test_two_requests_that_were_processed_before_either_was_read_are_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store) as server:
        results = [await stream(server, message_request(), idempotency_key=KEY) for _ in range(2)]
        read: list[list[bytes]] = []

        async def read_one(result: Any) -> None:
            read.append(await read_all(result))

        async with trio.open_nursery() as nursery:
            for result in results:
                nursery.start_soon(read_one, result)

        assert len(await everything(store)) == 1
    assert read[0] == read[1]
    assert server.calls == ["respond"]


@within(HOUR)
async def test_a_repeat_keeps_the_turn_alive_when_the_first_reader_leaves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store) as server:
        first = await stream(server, message_request(), idempotency_key=KEY)
        async with first:
            await anext(first)
            second = await stream(server, message_request(), idempotency_key=KEY)
            frames = [await anext(second)]
        async with second:
            frames += [frame async for frame in second]

        assert await transcript(store, thread_id_of(frames)) == [
            "user: hi",
            f"assistant: {ANSWER}",
        ]


@within(HOUR)
async def test_the_last_reader_that_leaves_is_a_disconnect(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store) as server:
        first = await stream(server, message_request(), idempotency_key=KEY)
        second = await stream(server, message_request(), idempotency_key=KEY)
        async with first, second:
            frames = [await anext(first)]
            await anext(second)
            await trio.sleep(2.5)

        assert await transcript(store, thread_id_of(frames)) == [
            "user: hi",
            f"assistant: {ANSWER[:2]}",
            "note: disconnected",
        ]


@within(HOUR)
async def test_a_client_that_lost_the_response_and_can_return_comes_back_by_repeating(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store) as server:
        arguments: dict[str, Any] = {"can_return": True, "idempotency_key": KEY}
        async with await stream(server, message_request(), **arguments) as first:
            await anext(first)
            await trio.sleep(2.5)
        await trio.sleep(3)
        frames = await read_all(await stream(server, message_request(), **arguments))

        assert await transcript(store, thread_id_of(frames)) == [
            "user: hi",
            f"assistant: {ANSWER}",
        ]
    assert server.calls == ["respond"]
    deltas = [
        event["update"]["delta"]
        for event in events_of(frames)
        if event["type"] == "thread.item.updated"
    ]
    assert "".join(deltas) == ANSWER


# --- After the turn has ended ------------------------------------------------------------------


def assert_is_the_stored_result(
    kind: str, first: list[bytes], second: list[bytes], stored: dict[str, list[dict[str, Any]]]
) -> None:
    """The repeat has told what the turn has stored, each item once, as done."""
    assert "error" not in types_of(second)
    assert [item for item in ids(done_in(first)) if item not in ids(done_in(second))] == []
    assert len(ids(done_in(second))) == len(set(ids(done_in(second))))
    if kind == "threads.create":
        assert types_of(second)[0] == "thread.created"
        assert thread_id_of(second) == thread_id_of(first)
    else:
        assert "thread.created" not in types_of(second)
    [items] = [items for items in stored.values() if set(ids(done_in(first))) <= set(ids(items))]
    places = [ids(items).index(item_id) for item_id in ids(done_in(second))]
    assert places == sorted(places)
    texts = [item["content"][0]["text"] for item in done_in(second) if "content" in item]
    assert texts[-1] == ANSWER


@EVERY_KIND
@pytest.mark.parametrize("seconds", [0.0, 60.0, 580.0])
@within(HOUR)
async def test_a_repeat_after_the_turn_gets_its_stored_items_and_changes_nothing(
    seconds: float, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    await fill(store)
    async with CountingServer(store) as server:
        first = await ask(server, kind)
        stored = await everything(store)
        await trio.sleep(seconds)
        second = await ask(server, kind)

        assert await everything(store) == stored
    assert len(server.calls) == 1
    assert_is_the_stored_result(kind, first, second, stored)


@EVERY_KIND
@within(HOUR)
async def test_a_repeat_after_a_restart_gets_the_stored_items_and_changes_nothing(
    kind: str, jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    async with CountingServer(SQLiteStore(path)) as server:
        await fill(server.store)
        first = await ask(server, kind)
        stored = await everything(server.store)
    async with CountingServer(SQLiteStore(path)) as restarted:
        second = await ask(restarted, kind)

        assert await everything(restarted.store) == stored
    assert restarted.calls == []
    assert_is_the_stored_result(kind, first, second, stored)


@pytest.mark.parametrize("kind", ["threads.create", "threads.add_user_message"])
@within(HOUR)
async def test_a_repeat_after_later_turns_gets_the_items_of_its_own_turn_only(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    await fill(store)
    async with CountingServer(store) as server:
        first = await ask(server, kind)
        thread_id = thread_id_of(first) if kind == "threads.create" else THREAD
        await read_all(await stream(server, message_request("later", thread_id)))
        second = await ask(server, kind)

        assert len(server.calls) == 2
    assert ids(done_in(second)) == ids(done_in(first))


@within(HOUR)
async def test_a_repeat_of_a_request_whose_response_was_lost_gets_the_partial_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store) as server:
        async with await stream(server, message_request(), idempotency_key=KEY) as result:
            await anext(result)
            await trio.sleep(2.5)
        second = await ask(server, "threads.create")

        assert await transcript(store, thread_id_of(second)) == [
            "user: hi",
            f"assistant: {ANSWER[:2]}",
            "note: disconnected",
        ]
    assert [item["content"][0]["text"] for item in done_in(second)] == ["hi", ANSWER[:2]]
    assert b"hidden" not in b"".join(second)
    assert server.calls == ["respond"]


@within(HOUR)
async def test_a_repeat_after_a_crash_gets_what_the_journal_has_saved(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    mortal = Mortal(path)
    async with (
        CountingServer(mortal) as dying,
        await stream(dying, message_request(), idempotency_key=KEY) as result,
    ):
        frames = [await anext(result)]
        await trio.sleep(5.8)
        await mortal.die()
    async with CountingServer(SQLiteStore(path)) as restarted:
        second = await ask(restarted, "threads.create")

        assert await transcript(restarted.store, thread_id_of(frames)) == [
            "user: hi",
            f"assistant: {ANSWER[:5]}",
            "note: crashed",
        ]
        assert len(await everything(restarted.store)) == 1
    assert restarted.calls == []
    assert types_of(second)[0] == "thread.created"
    assert [item["content"][0]["text"] for item in done_in(second)] == ["hi", ANSWER[:5]]


@within(HOUR)
async def test_a_repeat_on_another_server_finds_the_turn_of_one_that_died_beside_it(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    mortal = Mortal(path)
    async with CountingServer(SQLiteStore(path)) as survivor, CountingServer(mortal) as dying:
        async with await stream(dying, message_request(), idempotency_key=KEY) as result:
            frames = [await anext(result)]
            await trio.sleep(5.8)
            await mortal.die()
            second = await ask(survivor, "threads.create")

        assert await transcript(survivor.store, thread_id_of(frames)) == [
            "user: hi",
            f"assistant: {ANSWER[:5]}",
            "note: crashed",
        ]
    assert [item["content"][0]["text"] for item in done_in(second)] == ["hi", ANSWER[:5]]


class DiesBeforeItsNote(Mortal):
    """Dies when a turn has begun, and before it is noted that its request is carried out."""

    async def around(self, name: str, call: Any) -> Any:
        if name == "update_request" and not self._is_dead:
            await self.die()
            await trio.sleep_forever()
        return await super().around(name, call)


@EVERY_KIND
@pytest.mark.parametrize("is_beside", [True, False], ids=["beside", "restarted"])
@within(HOUR)
async def test_a_repeat_after_a_crash_before_the_note_is_told_of_the_crash(
    is_beside: bool, kind: str, jump_clock: JumpClock, tmp_path: Path
) -> None:
    """Its turn has begun, so it can't begin again; what it was to do may have been done."""
    path = tmp_path / "chat.db"
    async with SQLiteStore[Any](path) as store:
        await fill(store)
    async with AsyncExitStack() as stack:
        if is_beside:
            server = await stack.enter_async_context(CountingServer(SQLiteStore(path)))
        async with CountingServer(DiesBeforeItsNote(path)) as dying:
            with trio.move_on_after(1):
                await ask(dying, kind)
        if not is_beside:
            server = await stack.enter_async_context(CountingServer(SQLiteStore(path)))
        told: list[list[str]] = []
        stored: list[dict[str, list[dict[str, Any]]]] = []
        for _ in range(2):
            result = await stream(server, STREAMING[kind](), idempotency_key=KEY)
            told.append(types_of(await read_all(result)))
            stored.append(await everything(server.store))
            assert result.turn.end_reason == "crashed"
    assert "error" not in told[0]
    assert (told[1], stored[1]) == (told[0], stored[0])
    assert server.calls == dying.calls == []


@pytest.mark.parametrize("kind", ["threads.create", "threads.add_user_message"])
@within(HOUR)
async def test_a_request_whose_first_writes_failed_is_carried_out_when_it_is_repeated(
    kind: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    await fill(memory)
    store = AwayStore(memory, spared=("load_", "ping", "begin_request", "update_request"))
    async with CountingServer(store) as server:
        store.leave(10)
        first = await ask(server, kind)
        assert types_of(first) == ["error"]
        await trio.sleep(20)
        second = await ask(server, kind)

        stored = await everything(memory)
    assert server.calls == ["respond"]
    assert "error" not in types_of(second)
    texts = [item["content"][0]["text"] for items in stored.values() for item in items[5:]]
    texts += [
        item["content"][0]["text"]
        for thread_id, items in stored.items()
        if thread_id != THREAD
        for item in items
    ]
    assert texts == ["hi" if kind == "threads.create" else "more", ANSWER]


# --- Requests with one answer ------------------------------------------------------------------


ANSWERED: dict[str, BaseReq] = {
    "sync_action": ThreadsSyncCustomActionReq(
        params=ThreadCustomActionParams(thread_id=THREAD, item_id="wdg", action=PRESS)
    ),
    "add_feedback": ItemsFeedbackReq(
        params=ItemFeedbackParams(thread_id=THREAD, item_ids=["msg_a"], kind="positive")
    ),
}


async def answer_to(server: ChatKitServer[Any], name: str, **arguments: Any) -> bytes:
    result = await server.process(body_of(ANSWERED[name]), None, **arguments)
    assert isinstance(result, NonStreamingResult)
    return result.json


@pytest.mark.parametrize("name", ANSWERED)
@within(HOUR)
async def test_a_repeat_of_a_request_with_one_answer_gets_the_same_answer(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    await fill(store)
    async with CountingServer(store) as server:
        first = await answer_to(server, name, idempotency_key=KEY)
        stored = await everything(store)
        second = await answer_to(server, name, idempotency_key=KEY)

        assert await everything(store) == stored
    assert server.calls == [name]
    assert first == second


@pytest.mark.parametrize("name", ANSWERED)
@within(HOUR)
async def test_a_repeat_of_a_request_with_one_answer_gets_it_after_a_restart_too(
    name: str, jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    async with CountingServer(SQLiteStore(path)) as server:
        await fill(server.store)
        first = await answer_to(server, name, idempotency_key=KEY)
        stored = await everything(server.store)
    async with CountingServer(SQLiteStore(path)) as restarted:
        second = await answer_to(restarted, name, idempotency_key=KEY)

        assert await everything(restarted.store) == stored
    assert restarted.calls == []
    assert first == second


@within(HOUR)
async def test_a_request_with_one_answer_that_failed_is_carried_out_when_it_is_repeated(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class FailingOnce(CountingServer):
        async def add_feedback(self, *args: Any) -> None:
            await super().add_feedback(*args)
            if len(self.calls) == 1:
                raise OSError("not now")

    store = MemoryStore[Any]()
    await fill(store)
    async with FailingOnce(store) as server:
        with pytest.raises(OSError, match="not now"):
            await answer_to(server, "add_feedback", idempotency_key=KEY)
        await answer_to(server, "add_feedback", idempotency_key=KEY)

    assert server.calls == ["add_feedback"] * 2


# --- What isn't the same request ---------------------------------------------------------------


@pytest.mark.parametrize("is_live", [False, True], ids=["ended", "live"])
@pytest.mark.parametrize("kind", ["threads.create", "threads.custom_action", "sync_action"])
@within(HOUR)
async def test_the_same_key_with_another_body_is_a_conflict(
    kind: str, is_live: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    await fill(store)
    other = STREAMING[kind]() if kind in STREAMING else body_of(ANSWERED[kind])
    async with CountingServer(store) as server:
        first = await stream(server, message_request("something else"), idempotency_key=KEY)
        async with first:
            await anext(first)
            if not is_live:
                async for _ in first:
                    pass
            stored = await everything(store)
            with pytest.raises(ConflictError):
                await server.process(other, None, idempotency_key=KEY)

            assert await everything(store) == stored
    assert server.calls == ["respond"]


@pytest.mark.parametrize("is_live", [False, True], ids=["ended", "live"])
@within(HOUR)
async def test_the_same_key_of_another_owner_is_another_request(
    is_live: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any](owner=lambda context: str(context))
    async with CountingServer(store) as server:
        first = await stream(server, message_request(), "anne", idempotency_key=KEY)
        async with first:
            frames = [await anext(first)]
            if not is_live:
                frames += [frame async for frame in first]
            second = await read_all(
                await stream(server, message_request(), "bert", idempotency_key=KEY)
            )
            frames += [frame async for frame in first]

        for owner, own in (("anne", frames), ("bert", second)):
            assert list(await everything(store, owner)) == [thread_id_of(own)]
    assert thread_id_of(frames) != thread_id_of(second)
    assert server.calls == ["respond"] * 2


@EVERY_KIND
@within(HOUR)
async def test_without_a_key_the_same_body_twice_is_two_requests(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store) as server:
        for _ in range(2):
            await store.delete_thread(THREAD, None)
            await fill(store)
            await read_all(await stream(server, STREAMING[kind]()))

    assert len(server.calls) == 2


@within(HOUR)
async def test_two_keys_with_the_same_body_are_two_requests(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store) as server:
        frames = [await ask(server, "threads.create", key) for key in ("one", "two")]

        assert list(await everything(store)) == [thread_id_of(each) for each in frames]
    assert server.calls == ["respond"] * 2


@within(HOUR)
async def test_a_key_whose_window_is_over_is_a_new_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store, idempotency_window=0.0) as server:
        frames = [await ask(server, "threads.create") for _ in range(2)]

        assert list(await everything(store)) == [thread_id_of(each) for each in frames]
    assert server.calls == ["respond"] * 2


@pytest.mark.parametrize(("seconds", "calls"), [(580, 1), (601, 2)])
@within(HOUR)
async def test_a_key_counts_for_ten_minutes_by_default(
    seconds: float, calls: int, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any](clock=trio.current_time)
    async with CountingServer(store) as server:
        for _ in range(2):
            await ask(server, "threads.create")
            await trio.sleep(seconds)

        assert len(await everything(store)) == calls
    assert server.calls == ["respond"] * calls


@within(HOUR)
async def test_a_request_that_is_refused_uses_no_key_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with CountingServer(store) as server:
        client = ChatClient.of_server(server)
        with pytest.raises(Exception, match=THREAD):
            await server.process(message_request("more", THREAD), None, idempotency_key=KEY)
        await fill(store)
        frames = await ask(server, "threads.add_user_message")

        assert [item.type for item in (await client.items(THREAD))[-2:]] == [
            "user_message",
            "assistant_message",
        ]
    assert "error" not in types_of(frames)


@within(HOUR)
async def test_a_store_that_keeps_no_keys_carries_each_request_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Forgetful(MemoryStore[Any]):
        """Has the defaults of `Store` only, which keep nothing."""

        begin_request = Store.begin_request
        update_request = Store.update_request

    store = Forgetful()
    async with CountingServer(store) as server:
        for _ in range(2):
            await ask(server, "threads.create")

    assert server.calls == ["respond"] * 2


# --- Over HTTP ---------------------------------------------------------------------------------


@within(HOUR)
async def test_the_header_carries_the_key(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore[Any]()
    app = create_app(CountingServer(store))
    headers = [("Idempotency-Key", KEY)]
    async with (
        ChatClient.of_app(app, headers=headers) as client,
        client.send("hi") as first,
    ):
        await first.wait_for(ThreadItemUpdatedEvent)
        async with client.send("hi") as second:
            await second.read()
        await first.read()

    assert first.thread_id == second.thread_id
    assert first.frames == second.frames
    assert len(await everything(store)) == 1
