"""A turn while all goes well, and when user code fails: who waits, what is sent, what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from time import perf_counter
from typing import Any

import pytest
import trio

from chatkit_trio._engine.keeping import ENDING_NOTES
from chatkit_trio.errors import CustomStreamError, ErrorCode, StoreError, StreamError
from chatkit_trio.server import CancelReason, StreamingResult, TurnPolicy, current_turn
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    RequestRefused,
    Scene,
    ScriptedRespond,
    ScriptedServer,
    SlowStore,
    do,
    emit,
    fail,
    pause,
    say,
    scripted_server,
    set_title,
)
from chatkit_trio.types import (
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ErrorEvent,
    HiddenContextItem,
    ProgressUpdateEvent,
    SDKHiddenContextItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
)

from .transcript import lines, transcript

SLOW_ANSWER = [say("Hel", "lo", " there", every=10)]


async def answer_to(server: ScriptedServer, text: str = "hi") -> tuple[str, list[str]]:
    """Send a message, read the answer to its end; return the thread's id and what was sent."""
    async with ChatClient.of_server(server).send(text) as turn:
        await turn.read()
    assert turn.thread_id is not None
    return turn.thread_id, [event.type for event in turn.events]


# --- What goes over the wire, and what is stored by then ---------------------------------------


async def test_an_item_is_stored_before_the_client_hears_that_it_is_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore(MemoryStore[Any](), 1)
    async with (
        scripted_server(store, [say("Hello"), pause(100)]) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(
            lambda event: isinstance(event, ThreadItemDoneEvent) and bool(turn.text)
        )

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]


async def test_a_changed_thread_is_saved_and_announced_after_the_next_event() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [set_title("A story"), say("Hello")]) as server:
        thread_id, kinds = await answer_to(server)

        assert kinds[:5] == [
            "thread.created",
            "thread.item.done",
            "stream_options",
            "thread.item.added",
            "thread.updated",
        ]
        assert (await store.load_thread(thread_id, None)).title == "A story"


async def test_hidden_items_are_stored_and_never_sent() -> None:
    # The original leaks those that are added or replaced.
    def hidden(scene: Scene) -> HiddenContextItem:
        return HiddenContextItem(content="secret", **scene.item_fields() | {"id": "msg_hidden"})

    script = [
        emit(
            lambda scene: ThreadItemAddedEvent(item=hidden(scene)),
            lambda scene: ThreadItemDoneEvent(item=hidden(scene)),
            lambda scene: ThreadItemReplacedEvent(item=hidden(scene)),
        ),
        say("Hello"),
    ]
    store = MemoryStore[Any]()
    async with scripted_server(store, script) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()

        assert b"secret" not in b"".join(turn.frames)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "hidden_context_item",
            "assistant: Hello",
        ]
        assert turn.thread_id is not None
        assert lines(await client.items(turn.thread_id)) == ["user: hi", "assistant: Hello"]
        thread = await client.thread(turn.thread_id)
        assert lines(thread.items.data) == ["user: hi", "assistant: Hello"]


async def test_an_item_that_respond_forgets_to_finish_is_stored_at_the_end() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("Hello", finish=False)]) as server:
        thread_id, _ = await answer_to(server)

        assert await transcript(store, thread_id) == ["user: hi", "assistant: Hello"]


@pytest.mark.parametrize(("failures", "last"), [(1, "thread.item.done"), (9, "error")])
async def test_an_item_that_respond_forgets_is_stored_later_and_the_client_is_told_if_it_takes_long(
    failures: int, last: str, autojump_clock: trio.testing.MockClock
) -> None:
    class Failing(MemoryStore[Any]):
        left = failures

        async def settle(self, settlement: Settlement, context: Any) -> None:
            self.left -= 1
            if self.left >= 0:
                raise StoreError("the disk is full")
            await super().settle(settlement, context)

    store = Failing()
    async with scripted_server(store, [say("Hello", finish=False)]) as server:
        thread_id, kinds = await answer_to(server)
        await trio.sleep(60)

        assert await transcript(store, thread_id) == ["user: hi", "assistant: Hello"]
        assert kinds[-1] == last


async def test_a_content_index_that_would_size_a_huge_message_ends_the_turn_with_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The original pads the message with as many empty parts as the model asks for.
    def delta(scene: Scene) -> ThreadStreamEvent:
        update = AssistantMessageContentPartTextDelta(content_index=10**9, delta="x")
        return ThreadItemUpdatedEvent(item_id="msg_1", update=update)

    def added(scene: Scene) -> ThreadStreamEvent:
        fields = scene.item_fields() | {"id": "msg_1"}
        return ThreadItemAddedEvent(item=AssistantMessageItem(content=[], **fields))

    async with scripted_server(MemoryStore(), [emit(added, delta)]) as server:
        _, kinds = await answer_to(server)

        assert kinds[-1] == "error"
    assert "content_index 1000000000" in caplog.text


async def test_two_users_may_be_given_the_same_item_id_by_a_model() -> None:
    # The original's items share one key space: the second user's answer is lost.
    def done(scene: Scene) -> ThreadStreamEvent:
        fields = scene.item_fields() | {"id": "__fake_id__"}
        return ThreadItemDoneEvent(item=AssistantMessageItem(content=[], **fields))

    store = MemoryStore[str](owner=lambda context: context)
    async with scripted_server(store, [emit(done)]) as server:
        for user in ("Ada", "Bob"):
            async with ChatClient.of_server(server, user).send("hi") as turn:
                await turn.read()

            assert turn.error is None
            stored = await transcript(store, turn.thread_id, user)
            assert stored == ["user: hi", "assistant: "]


async def test_an_item_that_is_done_twice_is_stored_once() -> None:
    def done(scene: Scene) -> ThreadStreamEvent:
        fields = scene.item_fields() | {"id": "msg_1"}
        return ThreadItemDoneEvent(item=AssistantMessageItem(content=[], **fields))

    store = MemoryStore[Any]()
    async with scripted_server(store, [emit(done, done)]) as server:
        thread_id, kinds = await answer_to(server)

        assert "error" not in kinds
        assert await transcript(store, thread_id) == ["user: hi", "assistant: "]


async def test_nothing_is_stored_before_the_stream_is_read() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("Hello")]) as server:
        request = (
            b'{"type": "threads.create", "params": {"input": {"content": [], "attachments": [],'
            b' "inference_options": {}}}}'
        )
        result = await server.process(request, None)

        assert isinstance(result, StreamingResult)
        assert (await store.load_threads(10, None, "asc", None)).data == []


# --- What respond may be -----------------------------------------------------------------------


class Words:
    """An async iterable that is no generator."""

    def __init__(self, scene: Scene) -> None:
        self._events = say("Hello")(scene)

    def __aiter__(self) -> Words:
        return self

    async def __anext__(self) -> ThreadStreamEvent:
        return await self._events.__anext__()


async def answer_words(thread: ThreadMetadata, message: Any, context: Any) -> Words:
    await trio.lowlevel.checkpoint()
    return Words(Scene(thread, message, context))


@trio.as_safe_channel
async def answer_by_channel(
    thread: ThreadMetadata, message: Any, context: Any
) -> AsyncIterator[ThreadStreamEvent]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0)
        async with aclosing(say("Hello")(Scene(thread, message, context))) as events:
            async for event in events:
                yield event


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(lambda *arguments: say("Hello")(Scene(*arguments)), id="generator"),
        pytest.param(lambda *arguments: Words(Scene(*arguments)), id="iterator"),
        pytest.param(answer_words, id="awaitable"),
        pytest.param(answer_by_channel, id="as_safe_channel"),
    ],
)
async def test_respond_may_return(respond: Any) -> None:
    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        thread_id, kinds = await answer_to(server)

        assert await transcript(store, thread_id) == ["user: hi", "assistant: Hello"]
        assert kinds[-1] == "thread.item.done"


async def test_a_channel_that_is_cut_short_keeps_its_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @trio.as_safe_channel
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        async with aclosing(SLOW_ANSWER[0](Scene(thread, message, context))) as events:
            async for event in events:
                yield event

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            with trio.move_on_after(15):
                await turn.read()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: disconnected",
        ]


async def test_a_scope_across_a_yield_cancels_neither_a_slow_reader_nor_a_slow_store(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, message, context)
        with trio.move_on_after(1):
            async with aclosing(say("Hel", "lo")(scene)) as events:
                async for event in events:
                    yield event
        async with aclosing(say("More")(scene)) as events:
            async for event in events:
                yield event

    store = SlowStore(MemoryStore[Any](), 3)
    policy = TurnPolicy(max_unread_bytes=1)
    async with (
        ScriptedServer(store, respond, policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        async for _event in turn:
            await trio.sleep(5)

        assert turn.error is None
        stored = await transcript(store, turn.thread_id)
        assert "assistant: More" in stored
        assert stored[0] == "user: hi"
        assert [line for line in stored if line.startswith("note")] == []


async def test_a_respond_that_never_awaits_does_not_starve_other_requests() -> None:
    endless = True

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        while endless:
            yield ProgressUpdateEvent(text="busy")

    async with ScriptedServer(MemoryStore[Any](), respond) as server:
        client = ChatClient.of_server(server)
        async with trio.open_nursery() as nursery, client.send("hi") as turn:
            nursery.start_soon(turn.read)
            for _ in range(5):
                assert len(await client.threads()) <= 1
            endless = False


async def test_a_respond_that_computes_for_long_lets_each_event_out() -> None:
    """It takes the processor for 30 ms an event, real time, and awaits nothing: the client isn't
    kept waiting for all of them, nor for 16."""
    received = 0
    lag: list[int] = []

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(12):
            until = perf_counter() + 0.03
            while perf_counter() < until:
                pass
            lag.append(number - received)
            yield ProgressUpdateEvent(text=str(number))

    async with (
        ScriptedServer(MemoryStore[Any](), respond) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        async for event in turn:
            received += isinstance(event, ProgressUpdateEvent)

    assert (received, max(lag) < 6) == (12, True)


async def test_tasks_in_the_turns_nursery_belong_to_the_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def find_title(thread: ThreadMetadata) -> None:
        await trio.sleep(5)
        thread.title = "A story"

    script = [
        do(lambda scene: current_turn().nursery.start_soon(find_title, scene.thread)),
        say("Hello"),
    ]
    store = MemoryStore[Any]()
    async with scripted_server(store, script) as server:
        thread_id, kinds = await answer_to(server)

        assert kinds[-1] == "thread.updated"
        assert (await store.load_thread(thread_id, None)).title == "A story"


# --- Errors of user code -----------------------------------------------------------------------


async def test_an_error_keeps_the_partial_answer_and_tells_the_client_last() -> None:
    # The original drops what the user has already seen.
    store = MemoryStore[Any]()
    script = [say("Hel", finish=False), fail(CustomStreamError("No more.", allow_retry=True))]
    async with scripted_server(store, script) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()

        assert turn.events[-1] == ErrorEvent(code="custom", message="No more.", allow_retry=True)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: failed",
        ]


async def test_an_error_before_the_first_word_stores_nothing_but_the_message() -> None:
    store = MemoryStore[Any]()
    script = [fail(StreamError(ErrorCode.STREAM_ERROR, allow_retry=False))]
    async with scripted_server(store, script) as server:
        thread_id, kinds = await answer_to(server)

        assert kinds[-1] == "error"
        assert await transcript(store, thread_id) == ["user: hi"]


async def test_an_error_raised_in_a_nursery_of_responds_is_told_as_without_one() -> None:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            async with trio.open_nursery():
                raise CustomStreamError("Out of credit.")
        yield ProgressUpdateEvent(text="never")

    async with (
        ScriptedServer(MemoryStore[Any](), respond) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read()

        assert turn.error == ErrorEvent(code="custom", message="Out of credit.")


async def test_the_text_of_an_unexpected_error_goes_to_the_log_and_not_to_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted_server(MemoryStore(), [fail(OSError("the password is known"))]) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()

        assert turn.error == ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=True)
        assert b"password" not in b"".join(turn.frames)
    assert "the password is known" in caplog.text


async def test_one_bad_turn_harms_no_other(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, SLOW_ANSWER, [fail(OSError("bad"))]) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as good:
            await good.read(3)
            async with client.send("hi") as bad:
                await bad.read()
            await good.read()

        assert bad.error is not None
        assert await transcript(store, good.thread_id) == ["user: hi", "assistant: Hello there"]


@pytest.mark.parametrize("event", [None, "text", {"type": "progress_update", "text": "x"}])
async def test_yielding_something_that_is_no_event_is_an_error(
    event: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        yield event

    async with ScriptedServer(MemoryStore[Any](), respond) as server:
        _, kinds = await answer_to(server)

        assert kinds[-1] == "error"
    assert type(event).__name__ in caplog.text


# --- A server that isn't running ---------------------------------------------------------------


async def test_a_server_that_is_not_running_refuses_streams_and_says_what_to_do() -> None:
    client = ChatClient.of_server(scripted_server(MemoryStore(), [say("Hello")]))

    with pytest.raises(RequestRefused) as caught:
        async with client.send("hi"):
            pass

    assert (caught.value.status, caught.value.code) == (503, "not_running")
    assert "async with server" in str(caught.value.__cause__)


async def test_a_server_that_is_not_running_answers_what_does_not_stream() -> None:
    client = ChatClient.of_server(scripted_server(MemoryStore(), [say("Hello")]))

    assert await client.threads() == []


async def test_a_server_is_entered_once_at_a_time() -> None:
    async with scripted_server(MemoryStore(), [say("Hello")]) as server:
        with pytest.raises(RuntimeError, match="running already"):
            await server.__aenter__()


async def test_a_turn_whose_scope_user_code_cancels_has_been_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In the store afterwards: what was said, and a note that it was stopped, not timed out."""
    store, policy = MemoryStore[Any](), TurnPolicy(turn_timeout=60)
    cancel = do(lambda _: current_turn().cancel_scope.cancel())
    script = [say("Hello", finish=False), cancel, pause(5)]
    async with scripted_server(store, script, policy=policy) as server:
        thread_id, _ = await answer_to(server)
        page = await store.load_thread_items(thread_id, None, 9, "asc", None)

    note = page.data[-1]
    assert isinstance(note, SDKHiddenContextItem)
    assert note.content == ENDING_NOTES[CancelReason.STOPPED]


async def test_names_of_a_subclass_do_not_get_in_the_servers_way() -> None:
    class Crowded(ScriptedServer):
        _nursery = _stack = _start = _open = _answer = _settle_all = "mine"

    async with Crowded(MemoryStore(), ScriptedRespond([say("Hello")])) as server:
        thread_id, _ = await answer_to(server)

        assert await transcript(server.store, thread_id) == ["user: hi", "assistant: Hello"]


# --- Two turns on one thread -------------------------------------------------------------------


async def two_messages(store: Store[Any], policy: TurnPolicy, **options: Any) -> list[str]:
    """Send a second message 15 s into the first answer; return what is stored in the end."""
    async with (
        scripted_server(store, SLOW_ANSWER, [say("Hi")], policy=policy, **options) as server,
        trio.open_nursery() as nursery,
    ):
        client = ChatClient.of_server(server)
        async with client.send("one") as first:
            await first.read(3)
            nursery.start_soon(first.read)
            await trio.sleep(15)
            async with client.send("two", first.thread_id) as second:
                await second.read()
        return await transcript(store, first.thread_id)


async def test_a_new_message_supersedes_the_live_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await two_messages(MemoryStore(), TurnPolicy(on_busy="supersede")) == [
        "user: one",
        "assistant: Hel",
        "note: superseded",
        "user: two",
        "assistant: Hi",
    ]


async def test_a_new_message_does_not_supersede_a_turn_that_may_not_be_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = TurnPolicy(on_busy="supersede")
    assert await two_messages(MemoryStore(), policy, allow_cancel=False) == [
        "user: one",
        "assistant: Hello there",
        "user: two",
        "assistant: Hi",
    ]


async def test_a_new_message_queues_behind_the_live_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await two_messages(MemoryStore(), TurnPolicy(on_busy="queue")) == [
        "user: one",
        "assistant: Hello there",
        "user: two",
        "assistant: Hi",
    ]


async def test_a_new_message_is_refused_while_the_thread_is_busy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with (
        scripted_server(store, SLOW_ANSWER, policy=TurnPolicy(on_busy="reject")) as server,
        ChatClient.of_server(server).send("one") as first,
    ):
        await first.read(3)
        with pytest.raises(RequestRefused) as caught:
            async with ChatClient.of_server(server).send("two", first.thread_id):
                pass
        await first.read()

        assert (caught.value.status, caught.value.code) == (409, "busy")
        assert await transcript(store, first.thread_id) == [
            "user: one",
            "assistant: Hello there",
        ]


async def test_a_client_that_leaves_while_its_message_is_queued_leaves_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, SLOW_ANSWER, policy=TurnPolicy(on_busy="queue")) as server:
        client = ChatClient.of_server(server)
        async with client.send("one") as first:
            await first.read(3)
            async with client.send("two", first.thread_id) as second:
                with trio.move_on_after(5):
                    await second.read()
            await first.read()

        assert await transcript(store, first.thread_id) == [
            "user: one",
            "assistant: Hello there",
        ]


async def test_messages_sent_at_once_are_answered_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore(MemoryStore[Any](), 0.002)
    policy = TurnPolicy(on_busy="queue")
    async with scripted_server(store, [say("Hi", every=1)], policy=policy) as server:
        client = ChatClient.of_server(server)
        thread_id, _ = await answer_to(server, "first")

        async def ask(text: str) -> None:
            async with client.send(text, thread_id) as turn:
                await turn.read()

        async with trio.open_nursery() as nursery:
            for text in "abcde":
                nursery.start_soon(ask, text)

        stored = await transcript(store, thread_id)
    assert stored[1::2] == ["assistant: Hi"] * 6
    assert sorted(stored[2::2]) == [f"user: {text}" for text in "abcde"]


# --- Disconnects that don't cancel -------------------------------------------------------------


async def test_on_disconnect_finish_the_answer_is_there_after_a_reload(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = TurnPolicy(on_disconnect="finish")
    async with scripted_server(store, SLOW_ANSWER, policy=policy) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.read(3)
        await turn.server_turn.settled.wait()

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello there"]


async def test_a_client_that_may_not_cancel_leaves_a_turn_that_finishes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, SLOW_ANSWER, allow_cancel=False) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.read(4)
            assert turn.allow_cancel is False
        await turn.server_turn.settled.wait()

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello there"]


async def test_a_turn_given_some_seconds_is_cut_short_when_nobody_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = TurnPolicy(on_disconnect=12.0)
    async with scripted_server(store, SLOW_ANSWER, policy=policy) as server:
        began_at = trio.current_time()
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.read(3)
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(began_at + 12, abs=0.1)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: disconnected",
        ]


async def test_a_client_that_comes_back_in_time_reads_on_and_misses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = TurnPolicy(on_disconnect=12.0)
    async with scripted_server(store, SLOW_ANSWER, policy=policy) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read(3)
        await trio.sleep(5)
        assert turn.thread_id is not None
        async with client.watch(turn.thread_id) as again:
            await again.read()

        assert again.events[:3] == turn.events
        assert again.text == "Hello there"
        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello there"]


async def test_a_reload_in_the_middle_shows_what_there_is_so_far(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = TurnPolicy(on_disconnect="finish")
    async with scripted_server(MemoryStore(), SLOW_ANSWER, policy=policy) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read(3)
        await trio.sleep(15)

        assert turn.thread_id is not None
        thread = await client.thread(turn.thread_id)
        assert lines(thread.items.data) == ["user: hi", "assistant: Hel"]


async def test_a_thread_without_a_live_turn_has_nothing_to_watch() -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        thread_id, _ = await answer_to(server)

        async with ChatClient.of_server(server).watch(thread_id) as watching:
            assert await watching.read() == []


# --- Other requests during a live turn ---------------------------------------------------------


async def test_a_thread_renamed_during_a_turn_keeps_the_new_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    script = [say("Hel", "lo", every=10), do(lambda scene: scene.thread.metadata.update(seen=1))]
    async with scripted_server(store, script) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read(4)
            assert turn.thread_id is not None
            await client.rename(turn.thread_id, "Mine")
            await turn.read()

        stored = await store.load_thread(turn.thread_id, None)
        assert (stored.title, stored.metadata) == ("Mine", {"seen": 1})


async def test_a_thread_deleted_during_a_turn_stays_deleted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore(MemoryStore[Any](), 1)
    async with scripted_server(store, SLOW_ANSWER) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read(4)
            assert turn.thread_id is not None
            await client.delete(turn.thread_id)
            await turn.read()

        assert await client.threads() == []
        assert (await store.load_threads(10, None, "asc", None)).data == []
