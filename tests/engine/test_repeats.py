"""Repeats of a request in the corners: failures, cancellations, lost frames, unfit keys."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.errors import InvalidRequestError, NotFoundError
from chatkit_trio.server import ChatKitServer, NonStreamingResult, TurnPolicy, current_turn
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    FaultyStore,
    JumpClock,
    RequestRefused,
    Scene,
    ScriptedServer,
    SlowStore,
    say,
    scripted_server,
)
from chatkit_trio.types import (
    ItemFeedbackParams,
    ItemsFeedbackReq,
    ThreadCustomActionParams,
    ThreadItemUpdatedEvent,
    ThreadListParams,
    ThreadMetadata,
    ThreadsCustomActionReq,
    ThreadsListReq,
)
from chatkit_trio.web import create_app
from tests.transcript import transcript

from .doubles import TroubledStore, hangs, hangs_and_fails, takes
from .parts import (
    NOW,
    PRESS,
    AwayStore,
    Mortal,
    begin,
    body_of,
    events_of,
    finish,
    message_request,
    more,
    read_all,
    stream,
    thread_id_of,
    within,
)

HOUR = 3600.0
KEY = "k"
THREAD = "thr_1"
FAILURE = "raise an error here"
WORDS = [f"{number:04d} " + "x" * 200 for number in range(20)]


class TalkingServer(ChatKitServer[Any]):
    """Answers messages and actions with a piece of text a second."""

    def __init__(self, store: Any, *, words: list[str] | None = None, **settings: Any) -> None:
        super().__init__(store, **settings)
        self.words = ["a", "b", "c"] if words is None else words
        self.calls = 0

    async def respond(self, thread: Any, message: Any, context: Any) -> AsyncIterator[Any]:
        self.calls += 1
        item_id = f"msg_{self.calls}"
        scene = Scene(thread, message, context)
        yield begin(item_id)(scene)
        for word in self.words:
            await trio.sleep(1)
            if word == FAILURE:
                raise OSError("no model")
            yield more(item_id, word)
        yield finish(item_id, "".join(self.words))(scene)

    def action(self, thread: Any, action: Any, sender: Any, context: Any) -> AsyncIterator[Any]:
        return self.respond(thread, None, context)

    async def add_feedback(self, *args: Any) -> None:
        self.calls += 1
        await trio.sleep(1)


FEEDBACK = body_of(
    ItemsFeedbackReq(
        params=ItemFeedbackParams(thread_id=THREAD, item_ids=["msg_a"], kind="positive")
    )
)
ACTION = body_of(
    ThreadsCustomActionReq(params=ThreadCustomActionParams(thread_id=THREAD, action=PRESS))
)


async def fill(store: Any) -> None:
    await store.save_thread(ThreadMetadata(id=THREAD, created_at=NOW), None)


async def ask(server: ChatKitServer[Any], body: bytes, key: str = KEY) -> list[bytes]:
    return await read_all(await stream(server, body, idempotency_key=key))


def types_of(frames: list[bytes]) -> list[str]:
    return [event["type"] for event in events_of(frames)]


def texts_of(frames: list[bytes]) -> list[str]:
    events = [event for event in events_of(frames) if event["type"] == "thread.item.done"]
    return [event["item"]["content"][0]["text"] for event in events]


# --- When the beginning isn't kept any more ----------------------------------------------------


@within(HOUR)
async def test_a_repeat_of_a_turn_whose_first_frames_are_gone_gets_its_state_and_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = TurnPolicy(max_replay_bytes=1000)
    async with TalkingServer(store, words=WORDS, policy=policy) as server:
        client = ChatClient.of_server(server)

        async def repeat() -> None:
            await trio.sleep(10.5)
            async with client.send("hi", idempotency_key=KEY) as second:
                await second.read()
            repeats.append(second)

        repeats: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat)
            async with client.send("hi", idempotency_key=KEY) as first:
                await first.read()

    [second] = repeats
    assert [event.type for event in second.events[:4]] == [
        "thread.created",
        "stream_options",
        "thread.item.done",
        "thread.item.added",
    ]
    assert second.items == first.items
    assert len(second.events) < len(first.events)
    assert server.calls == 1


@within(HOUR)
async def test_a_repeat_that_gets_the_state_is_given_an_id_to_come_back_with(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    app = create_app(TalkingServer(store, words=WORDS, policy=TurnPolicy(max_replay_bytes=1000)))
    headers = [("ChatKit-Event-Ids", "1")]
    async with (
        ChatClient.of_app(app, headers=headers) as client,
        client.send("hi", idempotency_key=KEY) as first,
    ):
        assert first.connection is not None
        for _ in range(10):
            await first.wait_for(ThreadItemUpdatedEvent)
        async with client.send("hi", idempotency_key=KEY) as second:
            # Not before it has all of the state: who loses a part of it gets all of it again.
            while second.last_event_id is None:
                await second.read(1)
            seen = second.last_event_id
            state = [event.type for event in second.events]
        async with client.watch(str(first.thread_id), seen) as third:
            await third.read(1)
        await first.read()

    assert state == [
        "thread.created", "stream_options", "thread.item.done", "thread.item.added"
    ]  # fmt: skip
    turn_id, _, number = seen.rpartition(".")
    assert (turn_id, int(number)) == (str(first.last_event_id).rpartition(".")[0], 13)
    assert third.events[0] == first.events[14]


# --- When something fails ----------------------------------------------------------------------


@within(HOUR)
async def test_a_second_reader_carries_the_request_out_if_the_first_one_was_refused_by_the_store(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory, spared=("load_", "begin_request", "update_request"))
    async with TalkingServer(store) as server:
        results = [await stream(server, message_request(), idempotency_key=KEY) for _ in range(2)]
        store.fail_calls(1)
        first, second = [await read_all(result) for result in results]

        assert types_of(first) == ["error"]
        assert await transcript(memory, thread_id_of(second)) == ["user: hi", "assistant: abc"]


@within(HOUR)
async def test_a_message_that_was_stored_without_an_answer_is_answered_by_the_repeat(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The store fails after it has done the last of the first writes."""
    memory = MemoryStore[Any]()
    store = FaultyStore(memory, operations=["save_item"], happens=True)
    async with TalkingServer(store) as server:
        assert types_of(await ask(server, message_request())) == ["error"]
        second = await ask(server, message_request())

        assert await transcript(memory, thread_id_of(second)) == ["user: hi", "assistant: abc"]
        assert len((await memory.load_threads(10, None, "asc", None)).data) == 1


@within(HOUR)
async def test_a_crash_before_respond_was_called_leaves_the_request_to_its_repeat(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class DiesAtTheMessage(Mortal):
        async def around(self, name: str, call: Any) -> Any:
            if name == "coordination.begin":  # the message and the turn's record are one write
                await self.die()
            return await super().around(name, call)

    path = tmp_path / "chat.db"
    async with TalkingServer(DiesAtTheMessage(path)) as dying:
        await ask(dying, message_request())
    async with TalkingServer(SQLiteStore(path)) as server:
        second = await ask(server, message_request())

        assert await transcript(server.store, thread_id_of(second)) == [
            "user: hi",
            "assistant: abc",
        ]
    assert (dying.calls, server.calls) == (0, 1)


@within(HOUR)
async def test_a_store_that_cannot_note_a_request_costs_no_answer(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory, spared=("load_", "save_", "settle", "begin_request", "add_"))
    async with TalkingServer(store) as server:
        store.leave(100)
        first = await ask(server, message_request())
        second = await ask(server, message_request())

    assert store.failing == ["update_request"] * 2
    assert texts_of(second) == texts_of(first) == ["hi", "abc"]
    assert server.calls == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2
    assert "its repeat may be carried out" in caplog.text


@pytest.mark.parametrize("is_beside", [False, True], ids=["hangs", "hangs-and-fails"])
@within(HOUR)
async def test_a_store_that_hangs_when_it_notes_an_end_ends_no_server(
    is_beside: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is raised beside the timeout must not come out in the server's nursery."""
    store = TroubledStore()
    trouble = hangs_and_fails(ValueError("lost on the way")) if is_beside else hangs
    async with TalkingServer(store, policy=TurnPolicy(settle_timeout=2)) as server:
        result = await stream(server, message_request(), idempotency_key=KEY)
        async with result:
            frames = await result.receive()
            await trio.sleep(1)  # the beginning is noted
            store.give(trouble, "update_request")
            frames += [frame async for frame in result]
        assert texts_of(frames) == ["hi", "abc"]
        await trio.sleep(10)

        store.heal()
        assert texts_of(await ask(server, message_request("again"), "other")) == ["again", "abc"]
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert ("lost on the way" in caplog.text) == is_beside


@pytest.mark.parametrize("is_beside", [False, True], ids=["hangs", "hangs-and-fails"])
@within(HOUR)
async def test_a_store_that_hangs_when_it_notes_an_answer_costs_no_answer(
    is_beside: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    await fill(store)
    trouble = hangs_and_fails(ValueError("lost on the way")) if is_beside else hangs
    store.give(trouble, "update_request")
    async with TalkingServer(store, policy=TurnPolicy(settle_timeout=2)) as server:
        result = await server.process(FEEDBACK, None, idempotency_key=KEY)

    assert isinstance(result, NonStreamingResult)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert ("lost on the way" in caplog.text) == is_beside


@within(HOUR)
async def test_a_repeat_is_told_that_the_answer_has_failed(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with TalkingServer(MemoryStore[Any](), words=["a", FAILURE]) as server:
        first = await ask(server, message_request())
        second = await ask(server, message_request())

    assert types_of(first)[-1] == "error"
    assert events_of(second)[-1] == events_of(first)[-1]
    assert texts_of(second) == ["hi", "a"]
    assert server.calls == 1


@within(HOUR)
async def test_a_repeat_with_event_ids_is_told_how_the_turn_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = create_app(TalkingServer(MemoryStore[Any]()))
    headers = [("ChatKit-Event-Ids", "1")]
    async with ChatClient.of_app(app, headers=headers) as client:
        async with client.send("hi", idempotency_key=KEY) as first:
            await first.wait_for(ThreadItemUpdatedEvent)
            await first.stop()
            await first.read()
        async with client.send("hi", idempotency_key=KEY) as second:
            await second.read()

    assert first.signals == second.signals == [("turn.end", {"reason": "stopped"})]
    assert second.text == "a"


@within(HOUR)
async def test_a_repeat_waits_until_the_turn_is_settled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore[Any]()
    async with TalkingServer(SlowStore(memory, 0.5)) as server:

        async def lose_the_response() -> None:
            async with await stream(server, message_request(), idempotency_key=KEY) as result:
                await anext(result)
                await trio.sleep(3.2)
                is_lost.set()

        is_lost = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose_the_response)
            await is_lost.wait()
            await trio.sleep(0.1)
            second = await ask(server, message_request())

        stored = await transcript(memory, thread_id_of(second))
    assert stored[-1] == "note: disconnected"
    assert texts_of(second) == [line.partition(": ")[2] for line in stored[:-1]]
    assert server.calls == 1


@within(HOUR)
async def test_a_repeat_after_its_thread_was_deleted_is_not_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    await fill(store)
    async with TalkingServer(store) as server:
        new_thread = thread_id_of(await ask(server, message_request(), "create"))
        await ask(server, ACTION, "act")
        for thread_id in (new_thread, THREAD):
            await store.delete_thread(thread_id, None)

        for body, key in ((message_request(), "create"), (ACTION, "act")):
            with pytest.raises(NotFoundError):
                await server.process(body, None, idempotency_key=key)
    assert server.calls == 2


# --- Which items are the turn's ----------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
@within(HOUR)
async def test_turns_without_a_message_are_told_apart(
    restarts: bool, jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    async with TalkingServer(SQLiteStore(path)) as server:
        await fill(server.store)
        first = [await ask(server, ACTION, key) for key in ("one", "two")]
        second = [await ask(server, ACTION, key) for key in ("one", "two")]
    if restarts:
        async with TalkingServer(SQLiteStore(path)) as server:
            second = [await ask(server, ACTION, key) for key in ("one", "two")]

    for once, again in zip(first, second, strict=True):
        assert events_of(again) == [events_of(once)[-1]]


@within(HOUR)
async def test_after_a_crash_a_turn_without_a_message_ends_with_its_note(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    mortal = Mortal(path)
    async with TalkingServer(mortal) as dying:
        await fill(mortal)
        await ask(dying, ACTION, "earlier")
        async with await stream(dying, ACTION, idempotency_key=KEY) as result:
            await anext(result)
            await trio.sleep(2.8)
            await mortal.die()
    async with TalkingServer(SQLiteStore(path)) as server:
        server.calls = 2
        await ask(server, ACTION, "later")
        again = await ask(server, ACTION)

        assert await transcript(server.store, THREAD) == [
            "assistant: abc",
            "assistant: ab",
            "note: crashed",
            "assistant: abc",
        ]
    assert texts_of(again) == ["ab"]


# --- Cancellation ------------------------------------------------------------------------------


@pytest.mark.parametrize("tenths", range(12))
@within(HOUR)
async def test_a_cancelled_process_leaves_its_key_usable(
    tenths: int, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryStore[Any]()
    await fill(memory)
    body = message_request("more", THREAD)
    async with TalkingServer(SlowStore(memory, 0.25)) as server:
        with trio.move_on_after(tenths / 10):
            await server.process(body, None, idempotency_key=KEY)
        frames = await ask(server, body)

        assert await transcript(memory, THREAD) == ["user: more", "assistant: abc"]
    assert "error" not in types_of(frames)


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.6, 1.4, 1.6, 1.8])
@within(HOUR)
async def test_a_repeat_beside_a_cancelled_request_with_one_answer_gets_the_answer(
    seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryStore[Any]()
    await fill(memory)
    answers: list[bytes] = []
    async with TalkingServer(SlowStore(memory, 0.25)) as server:

        async def be_cancelled() -> None:
            with trio.move_on_after(seconds):
                await server.process(FEEDBACK, None, idempotency_key=KEY)

        async def repeat() -> None:
            result = await server.process(FEEDBACK, None, idempotency_key=KEY)
            assert isinstance(result, NonStreamingResult)
            answers.append(result.json)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_cancelled)
            await trio.sleep(0.05)
            nursery.start_soon(repeat)
        await repeat()

    assert answers == [b"{}", b"{}"]
    was_cut_in_the_hook = 0.5 < seconds < 1.5
    assert server.calls == 1 + was_cut_in_the_hook


@within(HOUR)
async def test_requests_with_one_answer_at_the_same_time_are_carried_out_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    await fill(store)
    async with TalkingServer(store) as server, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: server.process(FEEDBACK, None, idempotency_key=KEY))

    assert server.calls == 1
    assert trio.current_time() == 1


# --- Keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "x" * 256, "line\nbreak", "\x7f"])
@pytest.mark.parametrize("body", [message_request(), FEEDBACK], ids=["stream", "answer"])
@within(HOUR)
async def test_a_key_must_be_short_and_printable(
    key: str, body: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    await fill(store)
    async with TalkingServer(store) as server:
        with pytest.raises(InvalidRequestError, match="1 to 255 printable characters"):
            await server.process(body, None, idempotency_key=key)


@within(HOUR)
async def test_a_key_may_have_255_characters(autojump_clock: trio.testing.MockClock) -> None:
    async with TalkingServer(MemoryStore[Any]()) as server:
        first = await ask(server, message_request(), "x" * 255)
        assert thread_id_of(await ask(server, message_request(), "x" * 255)) == thread_id_of(first)


@within(HOUR)
async def test_a_request_that_only_reads_ignores_the_key(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = body_of(ThreadsListReq(params=ThreadListParams()))
    store = MemoryStore[Any]()
    async with TalkingServer(store) as server:
        first = await server.process(body, None, idempotency_key=KEY)
        await fill(store)
        second = await server.process(body, None, idempotency_key=KEY)

    assert isinstance(first, NonStreamingResult)
    assert isinstance(second, NonStreamingResult)
    assert b"thr_1" not in first.json
    assert b"thr_1" in second.json


@within(HOUR)
async def test_another_body_is_refused_with_what_to_do(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with TalkingServer(MemoryStore[Any]()) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi", idempotency_key=KEY) as turn:
            await turn.read()
        with pytest.raises(RequestRefused, match="another body") as refused:
            async with client.send("hello", idempotency_key=KEY):
                pass

    assert (refused.value.status, refused.value.code) == (409, "conflict")


@within(HOUR)
async def test_what_has_ended_or_was_never_read_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with TalkingServer(MemoryStore[Any]()) as server:
        repeats: Any = server._ChatKitServer__repeats  # type: ignore[attr-defined]
        unread = await stream(server, message_request(), idempotency_key="unread")
        ended = await stream(server, message_request(), idempotency_key="ended")
        assert len(repeats._opened) == 2
        await read_all(ended)
        await trio.testing.wait_all_tasks_blocked()
        with suppress(NotFoundError):
            await server.process(FEEDBACK, None, idempotency_key="answer")
        del unread, ended
        gc.collect()

        assert len(repeats._opened) == 0
        assert len(repeats._answering) == 0


@within(HOUR)
async def test_an_answer_about_a_key_that_is_older_than_the_turns_end_starts_no_second_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class SlowToAnswer(MemoryStore[Any]):
        async def begin_request(self, record: Any, window: float, context: Any) -> Any:
            known = await super().begin_request(record, window, context)
            if known is not None:
                await trio.sleep(60)
            return known

    class Wordless(TalkingServer):
        async def respond(self, thread: Any, message: Any, context: Any) -> AsyncIterator[Any]:
            self.calls += 1
            await trio.sleep(1)
            for event in ():
                yield event

    store = SlowToAnswer()
    async with Wordless(store) as server, trio.open_nursery() as nursery:
        first = await stream(server, message_request(), idempotency_key=KEY)
        nursery.start_soon(ask, server, message_request())
        await trio.testing.wait_all_tasks_blocked()
        thread_id = thread_id_of(await read_all(first))
        del first

    assert server.calls == 1
    assert await transcript(store, thread_id) == ["user: hi"]


@within(HOUR)
async def test_a_turn_that_has_ended_is_let_go_of_while_others_ask(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """There is always somebody who asks; each is answered in a minute."""
    store = TroubledStore()
    store.give(takes(60), "begin_request")
    ended: list[Any] = []

    class Noting(ScriptedServer):
        def respond(self, *args: Any) -> Any:
            ended.append(weakref.ref(current_turn()))
            return super().respond(*args)

    script = scripted_server(store, *[[say("Hi")]] * 5).script
    async with Noting(store, script) as server, trio.open_nursery() as nursery:
        for number in range(5):
            client = ChatClient.of_server(server)
            nursery.start_soon(read_whole, client, f"key {number}")
            await trio.sleep(40)
        gc.collect()
        assert [turn() is None for turn in ended[:2]] == [True, True]


async def read_whole(client: ChatClient, key: str) -> None:
    async with client.send("hi", idempotency_key=key) as turn:
        await turn.read()
