"""However a stream ends, what the user was shown is in the store, once, with one hidden note.

First every point at which a cancellation can strike, by machine; then one test for each thing a
turn can be waiting for, and each reason it can end for, with what must be stored afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from chatkit_trio.server import CancelReason, TurnPolicy, current_turn
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    EVERY_REASON,
    Aftermath,
    ChatClient,
    Scene,
    ScriptedServer,
    SlowStore,
    Step,
    StoreWrapper,
    do,
    explore_cancellations,
    pause,
    say,
    scripted_server,
    set_title,
    show_widget,
    work,
)
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadMetadata,
)
from chatkit_trio.widgets import DynamicWidgetRoot

from .transcript import lines, transcript

_T = TypeVar("_T")

THE_END = DynamicWidgetRoot.model_validate(
    {"type": "Card", "children": [{"type": "Text", "value": "The end"}]}
)

ANSWER: list[Step] = [
    say("It was ", "a dark ", "night.", every=0.01),
    set_title("A story"),
    work("Search", "Write", every=0.01),
    show_widget(THE_END),
    say("More?"),
]


def story_server(store: Store[Any]) -> ScriptedServer:
    return scripted_server(store, ANSWER)


# --- Every checkpoint, every reason ------------------------------------------------------------


@pytest.mark.parametrize(
    "reason", [reason for reason in EVERY_REASON if isinstance(reason, CancelReason)]
)
def test_a_turn_cut_short_at_any_checkpoint_keeps_its_answer_once(reason: CancelReason) -> None:
    exploration = explore_cancellations(
        story_server, "Tell me a story", reasons=[reason], troubles=[]
    )

    assert exploration.ends[reason] > exploration.runs[reason] / 2


@pytest.mark.parametrize("seed", range(8))
def test_the_order_in_which_tasks_run_does_not_matter(seed: int) -> None:
    # Once, a respond that was woken just before the cut showed the client what it yielded next,
    # while its turn was being settled without it.
    explore_cancellations(
        story_server, "Hi", "Tell me a story", reasons=["stopped"], troubles=[], seed=seed
    )


@pytest.mark.parametrize("reason", ["stopped", "disconnected", "shutdown"])
def test_a_turn_on_sqlite_cut_short_at_any_checkpoint_keeps_its_answer_once(
    reason: str, tmp_path: Path
) -> None:
    numbers = count()

    exploration = explore_cancellations(
        story_server,
        "Tell me a story",
        make_store=lambda: SQLiteStore(tmp_path / f"{next(numbers)}.db"),
        reasons=[reason],
        troubles=[],
        step=4,
    )

    assert exploration.ends[reason] > 0


def test_a_write_that_fails_once_on_sqlite_ends_no_answer(tmp_path: Path) -> None:
    numbers = count()

    exploration = explore_cancellations(
        story_server,
        "Tell me a story",
        make_store=lambda: SQLiteStore(tmp_path / f"{next(numbers)}.db"),
        reasons=["failed"],
        troubles=[],
    )

    assert set(exploration.ends) == {"finished"}


def test_a_client_that_may_not_cancel_gets_the_whole_answer_stored_wherever_it_hangs_up() -> None:
    def check(aftermath: Aftermath) -> None:
        if aftermath.has_begun:
            assert aftermath.reason is None
            assert lines(aftermath.stored)[1:] == [
                "assistant: It was a dark night.",
                "workflow: Search complete, Write complete",
                "widget",
                "assistant: More?",
            ]

    explore_cancellations(
        lambda store: scripted_server(store, ANSWER, allow_cancel=False),
        "Tell me a story",
        reasons=["disconnected"],
        troubles=[],
        check=check,
    )


def test_a_nursery_and_a_scope_across_yields_change_nothing_wherever_the_cut_falls() -> None:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, message, context)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.02)
            with trio.move_on_after(0.015):
                async with aclosing(say("a", "b", "c", every=0.01)(scene)) as events:
                    async for event in events:
                        yield event
        async with aclosing(say("d")(scene)) as events:
            async for event in events:
                yield event

    explore_cancellations(lambda store: ScriptedServer(store, respond), "hi", step=2)


# --- One test for each thing a turn can be waiting for -----------------------------------------


async def hang_up_after(
    server: ScriptedServer, seconds: float, thread_id: str | None = None
) -> str | None:
    """Send a message, read for so long, and disconnect; return the thread's id."""
    async with ChatClient.of_server(server).send("hi", thread_id) as turn:
        with trio.move_on_after(seconds):
            await turn.read()
    return turn.thread_id


class HangingStore(StoreWrapper[Any]):
    """Hangs for so many seconds in one operation, before it is carried out or after it."""

    def __init__(
        self, store: Store[Any], operation: str, seconds: float, *, happens_first: bool = False
    ) -> None:
        super().__init__(store)
        self.operation = operation
        self.seconds = seconds
        self.happens_first = happens_first

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name != self.operation:
            return await call()
        if self.happens_first:
            answer = await call()
            await trio.sleep(self.seconds)
            return answer
        await trio.sleep(self.seconds)
        return await call()


async def test_disconnect_while_the_model_thinks_keeps_the_partial_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("Hel", finish=False), pause(100)]) as server:
        began_at = trio.current_time()
        thread_id = await hang_up_after(server, 1)

        assert await transcript(store, thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: disconnected",
        ]
        assert trio.current_time() == pytest.approx(began_at + 1)


async def test_disconnect_before_the_first_word_stores_the_note_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [pause(100)]) as server:
        thread_id = await hang_up_after(server, 1)

        assert await transcript(store, thread_id) == ["user: hi", "note: disconnected"]


async def test_disconnect_while_respond_loads_from_the_store_keeps_the_partial_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore[Any]()
    store = HangingStore(memory, "load_threads", 100)

    async def load(scene: Scene) -> None:
        await store.load_threads(1, None, "asc", scene.context)

    async with scripted_server(store, [say("Hel", finish=False), do(load)]) as server:
        thread_id = await hang_up_after(server, 1)

        assert await transcript(memory, thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: disconnected",
        ]


@pytest.mark.parametrize("happens_first", [False, True])
@pytest.mark.parametrize("seconds", [2, 1e6], ids=["slow", "hanging"])
async def test_disconnect_while_a_finished_item_is_being_stored_stores_it_once(
    seconds: float, happens_first: bool, autojump_clock: trio.testing.MockClock
) -> None:
    # The original adds it a second time, from its cancel handler.
    memory = MemoryStore[Any]()
    store = HangingStore(memory, "add_thread_item", 0, happens_first=happens_first)
    script = [do(lambda scene: setattr(store, "seconds", seconds)), say("Hello"), pause(100)]
    async with scripted_server(store, script) as server:
        thread_id = await hang_up_after(server, 1)

        assert await transcript(memory, thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: disconnected",
        ]
        assert trio.current_time() < 60


@pytest.mark.parametrize("seconds", [4, 1e6])
async def test_events_yielded_while_an_earlier_one_is_being_stored_are_kept_too(
    seconds: float,
    autojump_clock: trio.testing.MockClock,
) -> None:
    def finished(scene: Scene, text: str) -> ThreadItemDoneEvent:
        content = [AssistantMessageContent(text=text)]
        return ThreadItemDoneEvent(
            item=AssistantMessageItem(content=content, **scene.item_fields())
        )

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, message, context)
        store.seconds = seconds
        with trio.move_on_after(1):
            yield finished(scene, "one")
        # The first is still being stored when this one is yielded.
        yield finished(scene, "two")

    memory = MemoryStore[Any]()
    store = HangingStore(memory, "add_thread_item", 0)
    async with ScriptedServer(store, respond) as server:
        thread_id = await hang_up_after(server, 2)

        assert await transcript(memory, thread_id) == [
            "user: hi",
            "assistant: one",
            "assistant: two",
            "note: disconnected",
        ]


async def test_disconnect_with_unread_frames_keeps_what_respond_had_yielded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # The original, blocked in sending, stores nothing: the cancellation strikes another task.
    store = MemoryStore[Any]()
    policy = TurnPolicy(max_unread_bytes=1)
    async with (
        scripted_server(store, [say("Hel", "lo")], policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: event.type == "thread.item.added")
        await trio.sleep(1)
        await turn.disconnect()

        stored = await transcript(store, turn.thread_id)
    assert stored[0] == "user: hi"
    assert stored[-1] == "note: disconnected"
    assert all("Hello".startswith(line.removeprefix("assistant: ")) for line in stored[1:-1])
    assert len(stored) <= 3


async def test_a_finally_of_the_users_that_awaits_costs_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    cleaned_up = trio.Event()

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async with aclosing(answer(Scene(thread, message, context))) as events:
                async for event in events:
                    yield event
        finally:
            with trio.move_on_after(3, shield=True):
                await trio.sleep(2)
                cleaned_up.set()

    async with ScriptedServer(store, respond) as server:
        thread_id = await hang_up_after(server, 15)

        settled_at = trio.current_time()
        assert await transcript(store, thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: disconnected",
        ]
        await cleaned_up.wait()
        assert trio.current_time() == pytest.approx(settled_at + 2)


async def test_a_finally_of_the_users_that_hangs_does_not_hold_up_settling(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async with aclosing(answer(Scene(thread, message, context))) as events:
                async for event in events:
                    yield event
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1000)

    async with ScriptedServer(store, respond) as server:
        began_at = trio.current_time()
        thread_id = await hang_up_after(server, 15)

        assert await transcript(store, thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: disconnected",
        ]
        assert trio.current_time() == pytest.approx(began_at + 15)
        server.script = say("Again")
        async with ChatClient.of_server(server).send("go on", thread_id) as turn:
            await turn.wait_for(ThreadItemDoneEvent)
        assert trio.current_time() == pytest.approx(began_at + 15)


async def test_an_error_in_the_users_cleanup_is_logged_and_changes_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore[Any]()

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async with aclosing(answer(Scene(thread, message, context))) as events:
                async for event in events:
                    yield event
        finally:
            raise OSError("cleanup failed")

    async with ScriptedServer(store, respond) as server:
        thread_id = await hang_up_after(server, 15)
        await trio.testing.wait_all_tasks_blocked()

        assert await transcript(store, thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: disconnected",
        ]
    assert "cleanup failed" in caplog.text


# --- Each reason, and what the note says of it -------------------------------------------------

answer = say("Hel", "lo", every=10)
SLOW_ANSWER = [say("Hel", "lo", " there", every=10)]


async def test_stopping_ends_the_stream_and_keeps_the_answer_so_far(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with (
        scripted_server(store, SLOW_ANSWER) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        with trio.move_on_after(15):
            await turn.read()
        await turn.stop()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: stopped",
        ]
        await turn.read()
        assert turn.events[-1].type == "thread.item.done"
        assert turn.text == "Hel"


async def test_the_turn_timeout_ends_the_turn_and_tells_the_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = TurnPolicy(turn_timeout=15)
    async with (
        scripted_server(store, SLOW_ANSWER, policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: deadline",
        ]
        assert turn.error is not None
        assert turn.error.allow_retry


async def test_the_turn_timeout_strikes_while_the_store_writes_and_loses_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore[Any]()
    store = HangingStore(memory, "add_thread_item", 0)
    script = [do(lambda scene: setattr(store, "seconds", 4)), say("Hello"), pause(100)]
    policy = TurnPolicy(turn_timeout=2)
    async with (
        scripted_server(store, script, policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read()

        assert await transcript(memory, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: deadline",
        ]


async def test_a_client_that_stops_reading_stalls_the_turn_for_the_stall_timeout_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = TurnPolicy(max_unread_bytes=200, stall_timeout=30)
    script = [say(*["x" * 50] * 20, every=0.1)]
    async with (
        scripted_server(store, script, policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: event.type == "thread.item.added")
        began_at = trio.current_time()
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(began_at + 30, abs=1)
        user, answer, note = await transcript(store, turn.thread_id)
        assert (user, note) == ("user: hi", "note: stalled")
        await turn.read()
        assert answer == f"assistant: {turn.text}"


async def test_leaving_the_server_settles_live_turns_before_the_store_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore(MemoryStore[Any](), 1)
    async with trio.open_nursery() as nursery:
        async with scripted_server(store, SLOW_ANSWER) as server:
            thread_ids = []

            async def ask() -> None:
                async with ChatClient.of_server(server).send("hi") as turn:
                    await turn.read(3)
                    thread_ids.append(turn.thread_id)
                    await turn.read()
                    assert turn.error is not None

            for _ in range(3):
                nursery.start_soon(ask)
            await trio.sleep(20)

        for thread_id in thread_ids:
            assert await transcript(store, thread_id) == [
                "user: hi",
                "assistant: Hel",
                "note: shutdown",
            ]
        assert len(thread_ids) == 3


async def test_a_cancelled_scope_around_the_server_settles_live_turns_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore(MemoryStore[Any](), 1)
    thread_id = None
    with trio.move_on_after(20):
        async with (
            scripted_server(store, SLOW_ANSWER) as server,
            ChatClient.of_server(server).send("hi") as turn,
        ):
            async for _event in turn:
                thread_id = turn.thread_id

    assert await transcript(store, thread_id) == [
        "user: hi",
        "assistant: Hel",
        # The reader stands inside the server's block, so its end comes first.
        "note: disconnected",
    ]


async def test_a_cancelled_scope_around_the_server_alone_is_a_shutdown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore(MemoryStore[Any](), 1)
    scope = trio.CancelScope()
    thread_ids = []

    async def read(server: ScriptedServer) -> None:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.read()
            thread_ids.append(turn.thread_id)

    async with trio.open_nursery() as nursery:
        with scope:
            async with scripted_server(store, SLOW_ANSWER) as server:
                nursery.start_soon(read, server)
                await trio.sleep(20)
                scope.cancel()
                await trio.sleep_forever()

    assert await transcript(store, thread_ids[0]) == [
        "user: hi",
        "assistant: Hel",
        "note: shutdown",
    ]


async def test_an_ordinary_error_in_the_servers_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with scripted_server(MemoryStore(), SLOW_ANSWER):
            raise ZeroDivisionError


async def test_draining_lets_answers_finish_and_refuses_new_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, SLOW_ANSWER) as server, trio.open_nursery() as nursery:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read(3)
            nursery.start_soon(server.drain, 60)
            await turn.read()

            assert await transcript(store, turn.thread_id) == [
                "user: hi",
                "assistant: Hello there",
            ]


async def test_draining_cuts_short_what_takes_too_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with (
        scripted_server(store, SLOW_ANSWER) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read(3)
        await server.drain(15)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: shutdown",
        ]


# --- What is not saved yet, and who reads ------------------------------------------------------


async def test_a_title_set_just_before_the_cut_is_saved(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # The original saves it with the next event, which never comes.
    store = MemoryStore[Any]()
    async with scripted_server(store, [set_title("A story"), pause(100)]) as server:
        thread_id = await hang_up_after(server, 1)

        assert thread_id is not None
        assert (await store.load_thread(thread_id, None)).title == "A story"


async def test_unfinished_workflows_and_widgets_are_kept_and_at_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # The original drops them.
    store = MemoryStore[Any]()
    async with scripted_server(store, [work("Search", "Write", every=10)]) as server:
        thread_id = await hang_up_after(server, 15)

        assert await transcript(store, thread_id) == [
            "user: hi",
            "workflow: Search complete, Write none",
            "note: disconnected",
        ]


class _OfItsOwnIds(MemoryStore[Any]):
    """Makes ids that are short, so that they have to be looked for."""

    count = 0

    def generate_item_id(self, *args: Any) -> str:
        self.count += 1
        return f"item-{self.count}"


@pytest.mark.parametrize("kind", [MemoryStore, _OfItsOwnIds])
async def test_who_reads_the_thread_while_it_is_settled_waits_for_the_end(
    autojump_clock: trio.testing.MockClock, kind: type[MemoryStore[Any]]
) -> None:
    store = SlowStore(kind(), 3)
    async with scripted_server(store, SLOW_ANSWER) as server:
        client = ChatClient.of_server(server)
        read: list[list[ThreadItem]] = []

        async def read_again(thread_id: str) -> None:
            read.append(await client.items(thread_id))
            read.append((await client.thread(thread_id)).items.data)

        async with trio.open_nursery() as nursery, client.send("hi") as turn:
            with trio.move_on_after(25):
                await turn.read()
            assert turn.thread_id is not None
            turn.server_turn.cancel()
            nursery.start_soon(read_again, turn.thread_id)

        assert [lines(items) for items in read] == [["user: hi", "assistant: Hel"]] * 2


async def test_the_hook_can_ask_why_the_turn_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reasons = []

    class Server(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            reasons.append((current_turn().cancel_reason, lines(pending_items)))

    store = MemoryStore[Any]()
    async with Server(store, scripted_server(store, SLOW_ANSWER).script) as server:
        thread_id = await hang_up_after(server, 15)

        assert reasons == [(CancelReason.DISCONNECTED, ["assistant: Hel"])]
        assert await transcript(store, thread_id) == ["user: hi"]


async def test_a_hook_that_raises_leaves_it_to_the_default_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Server(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            await super().handle_stream_cancelled(thread, pending_items, context)
            raise OSError("after the fact")

    class Worse(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            raise OSError("before the fact")

    for kind in (Server, Worse):
        store = MemoryStore[Any]()
        async with kind(store, scripted_server(store, SLOW_ANSWER).script) as server:
            thread_id = await hang_up_after(server, 15)

            assert await transcript(store, thread_id) == [
                "user: hi",
                "assistant: Hel",
                "note: disconnected",
            ]
    assert "after the fact" in caplog.text
    assert "before the fact" in caplog.text


async def test_a_hook_that_hangs_is_given_the_settle_timeout_and_the_log_names_what_may_be_lost(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Server(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            await trio.sleep_forever()

    store = MemoryStore[Any]()
    policy = TurnPolicy(settle_timeout=7)
    script = scripted_server(store, SLOW_ANSWER).script
    async with Server(store, script, policy=policy) as server:
        began_at = trio.current_time()
        async with ChatClient.of_server(server).send("hi") as turn:
            with trio.move_on_after(15):
                await turn.read()
        assert trio.current_time() == pytest.approx(began_at + 22)
        message = next(item for item in turn.items if item.type == "assistant_message")
        [record] = [record for record in caplog.records if record.levelname == "ERROR"]
        assert turn.thread_id is not None
        assert turn.thread_id in record.getMessage()
        assert message.id in record.getMessage()


async def test_a_store_that_fails_to_settle_is_logged_and_the_server_goes_on(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenStore(StoreWrapper[Any]):
        async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
            if name == "settle":
                raise OSError("disk full")
            return await call()

    memory = MemoryStore[Any]()
    async with scripted_server(BrokenStore(memory), SLOW_ANSWER, [say("Hi")]) as server:
        thread_id = await hang_up_after(server, 15)

        assert await transcript(memory, thread_id) == ["user: hi"]
        assert "disk full" in caplog.text
        other_id = await hang_up_after(server, 15)
        assert await transcript(memory, other_id) == ["user: hi", "assistant: Hi"]
