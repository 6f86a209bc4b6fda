"""What a turn leaves behind is stored, told and let go of, whatever goes wrong beside it.

Hooks and stores that raise beside their timeout, failures while user code cleans up, frames that
wait for room, errors after the cut, deletions that are cancelled, generators slow to close.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import CancelReason, TurnPolicy, current_turn
from chatkit_trio.store import AttachmentStore, NotFoundError
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    Scene,
    ScriptedServer,
    Step,
    do,
    emit,
    fail,
    pause,
    say,
    scripted_server,
    set_title,
)
from chatkit_trio.testing._client_turn import ClientTurn
from chatkit_trio.types import (
    FileAttachment,
    ProgressUpdateEvent,
    StreamOptionsEvent,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    WidgetItem,
    WidgetRootUpdated,
)
from chatkit_trio.widgets import DynamicWidgetRoot
from tests.transcript import lines, transcript

from .doubles import (
    HANGING,
    THREAD_WRITES,
    JournaledStore,
    TroubledStore,
    fails,
    hangs,
    hangs_and_fails,
    once,
    raise_beside_the_cancellation,
    takes,
)
from .scenes import (
    HELLO,
    ask,
    beside,
    bounded,
    cling,
    done,
    message,
    more,
    sending,
    sleep_shielded,
)

# --- A hook, or a store, that raises beside its timeout ----------------------------------------


async def stray_cancellation() -> trio.Cancelled:
    """Return a cancellation of a scope that is no more."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:  # noqa: ASYNC103 (the test raises it)
            stray = cancelled
    return stray


class HookServer(ScriptedServer):
    """Answers "Hello" and hangs; its hook keeps the items or not, and then raises a group."""

    hook_keeps = False
    error: Exception = ValueError("lost on the way")

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        if self.hook_keeps:
            await super().handle_stream_cancelled(thread, pending_items, context)
        await raise_beside_the_cancellation(self.error)


@pytest.mark.parametrize("reason", [CancelReason.STOPPED, CancelReason.DEADLINE])
@pytest.mark.parametrize("hook_keeps", [False, True])
@bounded
async def test_a_hook_that_raises_beside_its_timeout_loses_no_answer_and_no_error(
    hook_keeps: bool,
    reason: CancelReason,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore[Any]()
    respond = scripted_server(store, [HELLO, pause(60)]).script
    async with (
        HookServer(store, respond, policy=TurnPolicy(settle_timeout=2)) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        server.hook_keeps = hook_keeps
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        turn.server_turn.cancel(reason)
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(1 + 2)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            f"note: {reason.value}",
        ]
        assert "lost on the way" in caplog.text
    assert turn.text == "Hello"
    assert (turn.error is None) == (reason is CancelReason.STOPPED)


class NotAnException(BaseException):
    """As asyncio's CancelledError is: nothing that `except Exception` sees."""


@pytest.mark.parametrize("is_stray", [False, True], ids=["alone", "beside-a-cancellation"])
@pytest.mark.parametrize("where", ["hook", "settle"])
@bounded
async def test_what_a_hook_or_a_store_raises_is_in_the_log_whatever_its_class(
    where: str,
    is_stray: bool,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error: BaseException = NotAnException("lost on the way")
    if is_stray:
        error = BaseExceptionGroup("both", [await stray_cancellation(), error])
    errors = [error]

    async def trouble(call: Callable[[], Awaitable[Any]]) -> Any:
        if errors:
            raise errors.pop()
        return await call()

    class Server(ScriptedServer):
        async def handle_stream_cancelled(self, *args: Any) -> None:
            if where == "hook":
                raise errors.pop()
            await super().handle_stream_cancelled(*args)

    store = TroubledStore()
    if where == "settle":
        store.give(trouble, "settle")
    respond = scripted_server(store, [HELLO, fail(OSError("no model"))]).script
    async with Server(store, respond) as server:
        turn = await ask(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: failed",
        ]
    assert "NotAnException: lost on the way" in caplog.text


@bounded
async def test_a_hook_that_raises_beside_its_timeout_after_a_failure_loses_no_answer(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore[Any]()
    respond = scripted_server(store, [HELLO, fail(OSError("the model is away"))]).script
    async with HookServer(store, respond, policy=TurnPolicy(settle_timeout=2)) as server:
        turn = await ask(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: failed",
        ]
        assert turn.error is not None
        assert "lost on the way" in caplog.text


@bounded
async def test_a_hook_that_reports_a_deleted_thread_beside_its_timeout_loses_no_answer(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore[Any]()
    respond = scripted_server(store, [HELLO, pause(60)]).script
    async with HookServer(store, respond, policy=TurnPolicy(settle_timeout=2)) as server:
        server.error = NotFoundError("there is no such document")
        async with sending(server) as turn:
            with trio.move_on_after(1):
                await turn.read()
        await turn.server_turn.settled.wait()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: disconnected",
        ]


@bounded
async def test_a_settling_that_raises_beside_its_timeout_is_made_up_for_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    store.give(once(hangs_and_fails(ValueError("lost on the way"))), "settle")
    policy = TurnPolicy(settle_timeout=2)
    async with scripted_server(store, [HELLO, pause(60)], policy=policy) as server:
        async with sending(server) as turn:
            with trio.move_on_after(1):
                await turn.read()
        await turn.server_turn.settled.wait()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: disconnected",
        ]
        assert "lost on the way" in caplog.text


@bounded
async def test_what_a_finished_answer_left_begun_survives_a_settling_that_raises_beside_its_timeout(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    store.give(once(hangs_and_fails(ValueError("lost on the way"))), "settle")
    policy = TurnPolicy(settle_timeout=2)
    async with scripted_server(store, [HELLO], [say("Hi")], policy=policy) as server:
        turn = await ask(server)
        again = await ask(server, "go on", turn.thread_id)

        assert again.text == "Hi"
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "user: go on",
            "assistant: Hi",
        ]
        assert "lost on the way" in caplog.text


@bounded
async def test_the_title_is_saved_although_the_hook_raises_beside_its_timeout(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore[Any]()
    respond = scripted_server(store, [HELLO, set_title("A story"), pause(60)]).script
    async with HookServer(store, respond, policy=TurnPolicy(settle_timeout=2)) as server:
        async with sending(server) as turn:
            with trio.move_on_after(1):
                await turn.read()
        await turn.server_turn.settled.wait()

        assert (await store.load_thread(turn.thread_id or "", None)).title == "A story"


# --- A failure while user code is slow to clean up ---------------------------------------------

SLOW_CLEANUP = 60.0


class SlowToCleanUp(ScriptedServer):
    """Plays its script inside a `try` whose `finally` takes a minute and can't be cut short."""

    async def respond(
        self, thread: ThreadMetadata, input_user_message: Any, context: Any
    ) -> AsyncIterator[Any]:
        events = self.script(thread, input_user_message, context)
        async with aclosing(events):
            try:
                async for event in events:
                    yield event  # noqa: ASYNC119
            finally:
                if input_user_message.content[0].text == "hi":
                    await sleep_shielded(SLOW_CLEANUP)


def slow_to_clean_up(store: TroubledStore, *steps: Step) -> SlowToCleanUp:
    script = scripted_server(store, [say("Begun", finish=False), *steps], [say("Hi")]).script
    return SlowToCleanUp(store, script)


async def check_that_a_failure_holds_up_nobody(
    server: ScriptedServer, store: TroubledStore, kept: list[str]
) -> None:
    turn = await ask(server)
    items = await ChatClient.of_server(server).items(turn.thread_id or "")
    store.heal()
    second = await ask(server, "second", turn.thread_id)
    stored = await transcript(store, turn.thread_id)

    assert trio.current_time() <= 1
    assert turn.error is not None
    assert turn.error.allow_retry
    assert second.error is None
    assert stored[0] == "user: hi"
    assert sorted(stored[1:-3]) == sorted(kept)
    assert stored[-3:] == ["note: failed", "user: second", "assistant: Hi"]
    assert sorted(lines(items)) == sorted(["user: hi", *kept])


FAILING_WRITES: dict[str, tuple[tuple[str, ...], list[Step], list[str]]] = {
    "add": (
        ("add_thread_item",),
        [emit(done("Hello"))],
        ["assistant: Begun", "assistant: Hello"],
    ),
    "save": (
        ("save_item",),
        [
            emit(
                done("Draft", "msg_1"),
                lambda scene: ThreadItemReplacedEvent(item=message(scene, "Hello", "msg_1")),
            )
        ],
        ["assistant: Begun", "assistant: Hello"],
    ),
    "delete": (
        ("delete_thread_item",),
        [emit(done("Hello", "msg_1"), ThreadItemRemovedEvent(item_id="msg_1"))],
        ["assistant: Begun", "assistant: Hello"],
    ),
    "thread": (
        THREAD_WRITES,
        [set_title("Title"), emit(ProgressUpdateEvent(text="working"))],
        ["assistant: Begun"],
    ),
}


@pytest.mark.parametrize("kind", FAILING_WRITES)
@bounded
async def test_a_write_that_fails_is_told_before_respond_has_cleaned_up(
    kind: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    operations, steps, kept = FAILING_WRITES[kind]
    begin = do(lambda scene: store.give(fails(), *operations))
    async with slow_to_clean_up(store, begin, *steps, pause(600)) as server:
        await check_that_a_failure_holds_up_nobody(server, store, kept)
    assert "the disk is full" in caplog.text


async def fail_soon(message: str) -> None:
    await trio.sleep(0.5)
    raise ValueError(message)


@bounded
async def test_a_task_of_the_turn_that_fails_is_told_before_respond_has_cleaned_up(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    async with slow_to_clean_up(store, beside(fail_soon, "no title"), pause(600)) as server:
        await check_that_a_failure_holds_up_nobody(server, store, ["assistant: Begun"])
    assert "no title" in caplog.text


@bounded
async def test_a_task_of_the_turn_that_fails_is_told_before_another_has_cleaned_up(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    first = [HELLO, beside(cling, SLOW_CLEANUP), beside(fail_soon, "no title"), pause(600)]
    async with scripted_server(store, first, [say("Hi")]) as server:
        await check_that_a_failure_holds_up_nobody(server, store, ["assistant: Hello"])
    assert "no title" in caplog.text


@bounded
async def test_a_respond_that_fails_is_told_before_a_task_of_the_turn_has_cleaned_up(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    first = [HELLO, beside(cling, SLOW_CLEANUP), pause(0.5), fail(ValueError("no model"))]
    async with scripted_server(store, first, [say("Hi")]) as server:
        await check_that_a_failure_holds_up_nobody(server, store, ["assistant: Hello"])
    assert "no model" in caplog.text


@bounded
async def test_a_respond_that_cancels_the_tasks_beside_it_has_not_failed(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    cancel = do(lambda scene: current_turn().nursery.cancel_scope.cancel())
    script = [beside(cling, 1.0), pause(0.5), cancel, pause(0.5), say("Hello")]
    store = MemoryStore[Any]()
    async with scripted_server(store, script) as server:
        turn = await ask(server)

        assert turn.error is None
        assert turn.server_turn.end_reason == "finished"
        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]
    assert caplog.records == []


@bounded
async def test_an_error_of_the_cleanup_after_a_failure_is_logged_beside_it(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        store.give(once(fails()), "add_thread_item")
        try:
            yield done("Hello")(Scene(thread, None, context))
        finally:
            await sleep_shielded(SLOW_CLEANUP)
            raise OSError("no refund")

    store = TroubledStore()
    async with ScriptedServer(store, respond) as server:
        turn = await ask(server)
        told_at = trio.current_time()
        await turn.server_turn.ended.wait()

        assert told_at <= 1
        assert turn.error is not None
        assert (await transcript(store, turn.thread_id))[:2] == ["user: hi", "assistant: Hello"]
    assert "the disk is full" in caplog.text
    assert "no refund" in caplog.text


# --- What was stored while its frame waited for room -------------------------------------------


def card(text: str) -> DynamicWidgetRoot:
    return DynamicWidgetRoot.model_validate(
        {"type": "Card", "children": [{"type": "Text", "id": "text", "value": text}]}
    )


def widget(scene: Scene) -> ThreadItemDoneEvent:
    item = WidgetItem(widget=card("old"), **scene.item_fields() | {"id": "wdg_1"})
    return ThreadItemDoneEvent(item=item)


def begin_message(scene: Scene) -> ThreadItemAddedEvent:
    return ThreadItemAddedEvent(item=message(scene, "Hel", "msg_1"))


UNTOLD: dict[str, tuple[list[Any], Any, list[str]]] = {
    "done": ([begin_message], done("Hello", "msg_1"), ["assistant: Hello"]),
    "done-at-once": ([], done("Hello", "msg_1"), ["assistant: Hello"]),
    "replaced": (
        [done("Draft", "msg_1")],
        lambda scene: ThreadItemReplacedEvent(item=message(scene, "Hello", "msg_1")),
        ["assistant: Hello"],
    ),
    "removed": ([done("Hello", "msg_1")], ThreadItemRemovedEvent(item_id="msg_1"), []),
    "updated": (
        [widget],
        ThreadItemUpdatedEvent(item_id="wdg_1", update=WidgetRootUpdated(widget=card("new"))),
        ["widget"],
    ),
}


async def end_by_stop(server: ScriptedServer, turn: ClientTurn) -> None:
    await server.stop(turn.thread_id or "")


async def end_by_shutdown(server: ScriptedServer, turn: ClientTurn) -> None:
    await server.drain(0)


async def end_by_itself(server: ScriptedServer, turn: ClientTurn) -> None:
    await turn.server_turn.settled.wait()


ENDS: dict[str, tuple[TurnPolicy, Callable[..., Awaitable[None]]]] = {
    "stopped": (TurnPolicy(max_unread_bytes=1), end_by_stop),
    "shutdown": (TurnPolicy(max_unread_bytes=1), end_by_shutdown),
    "deadline": (TurnPolicy(max_unread_bytes=1, turn_timeout=5), end_by_itself),
    "stalled": (TurnPolicy(max_unread_bytes=1, stall_timeout=5), end_by_itself),
}


@pytest.mark.parametrize("ending", ENDS)
@pytest.mark.parametrize("kind", UNTOLD)
@bounded
async def test_a_client_is_told_of_what_was_stored_while_its_frame_waited_for_room(
    kind: str, ending: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    earlier, event, kept = UNTOLD[kind]
    policy, end = ENDS[ending]
    script = [
        emit(*earlier),
        pause(1),
        emit(ProgressUpdateEvent(text="not read, so there is no room behind it"), event),
        pause(60),
    ]
    async with scripted_server(store, script, policy=policy) as server, sending(server) as turn:
        with trio.move_on_after(0.5):
            await turn.read()
        await trio.sleep(2)
        await end(server, turn)
        await turn.read()

        assert await transcript(store, turn.thread_id) == ["user: hi", *kept, f"note: {ending}"]
        visible = await ChatClient.of_server(server).items(turn.thread_id or "")
        assert turn.items == visible
        finished = {e.item.id for e in turn.events if isinstance(e, ThreadItemDoneEvent)}
        assert {item.id for item in visible} <= finished


# --- Store errors after the cut ----------------------------------------------------------------


LATE_FAILURES: dict[str, tuple[tuple[str, ...], list[Step], list[str] | None]] = {
    "add": (("add_thread_item",), [emit(done("Hello"))], ["assistant: Hello"]),
    "save": (
        ("save_item",),
        [
            emit(
                done("Draft", "msg_1"),
                lambda scene: ThreadItemReplacedEvent(item=message(scene, "Hello", "msg_1")),
            )
        ],
        ["assistant: Hello"],
    ),
    # A deletion that failed may be tried again or not: the log has to tell of it.
    "delete": (
        ("delete_thread_item",),
        [emit(done("Hello", "msg_1"), ThreadItemRemovedEvent(item_id="msg_1"))],
        None,
    ),
    "update": (
        ("load_item", "save_item"),
        [
            emit(
                widget,
                ThreadItemUpdatedEvent(
                    item_id="wdg_1", update=WidgetRootUpdated(widget=card("new"))
                ),
            )
        ],
        ["widget"],
    ),
    "thread": (THREAD_WRITES, [set_title("Title"), emit(ProgressUpdateEvent(text="."))], []),
}


@pytest.mark.parametrize("reason", [CancelReason.STOPPED, CancelReason.SUPERSEDED])
@pytest.mark.parametrize("kind", LATE_FAILURES)
@bounded
async def test_a_store_error_after_the_cut_is_logged(
    kind: str,
    reason: CancelReason,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = TroubledStore()
    operations, steps, kept = LATE_FAILURES[kind]
    begin = do(lambda scene: store.give(once(fails(after=1)), *operations))
    async with (
        scripted_server(store, [begin, *steps, pause(60)]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(0.5)
        turn.server_turn.cancel(reason)
        await turn.server_turn.settled.wait()

        assert turn.server_turn.cancel_reason is reason
        stored = await transcript(store, turn.thread_id)
        assert (stored[0], stored[-1]) == ("user: hi", f"note: {reason.value}")
        assert kept is None or stored[1:-1] == kept
        [record] = [record for record in caplog.records if "the disk is full" in logged(record)]
        assert record.levelno >= logging.WARNING
        assert turn.server_turn.id in logged(record) or str(turn.thread_id) in logged(record)


def logged(record: logging.LogRecord) -> str:
    return f"{record.getMessage()} {record.exc_info and record.exc_info[1]}"


@bounded
async def test_a_write_that_hangs_after_the_cut_is_logged(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    begin = do(lambda scene: store.give(hangs, "add_thread_item"))
    async with (
        scripted_server(store, [begin, emit(done("Hello")), pause(60)]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(0.5)
        await turn.stop()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]
        told = [record for record in caplog.records if turn.server_turn.id in logged(record)]
        assert any(record.levelno >= logging.WARNING for record in told)


# --- Deleting an attachment --------------------------------------------------------------------


class Files(AttachmentStore[Any]):
    """Keeps the ids of files; deleting one takes so many seconds before it happens."""

    def __init__(self, *ids: str, seconds: float = 0.0) -> None:
        self.ids = set(ids)
        self.seconds = seconds

    async def delete_attachment(self, attachment_id: str, context: Any) -> None:
        await trio.sleep(self.seconds)
        self.ids.discard(attachment_id)


async def attached(store: TroubledStore) -> bool:
    try:
        await store.load_attachment("atc_1", None)
    except NotFoundError:
        return False
    return True


def delete_body() -> bytes:
    return b'{"type":"attachments.delete","params":{"attachment_id":"atc_1"}}'


async def delete_and_give_up(store: TroubledStore, files: Files, seconds: float) -> None:
    """Ask for the deletion of the attachment, and cancel the request after so long."""
    attachment = FileAttachment(id="atc_1", name="a.pdf", mime_type="application/pdf")
    await store.wrapped.save_attachment(attachment, None)
    respond = scripted_server(store, [say("Hi")]).script
    policy = TurnPolicy(settle_timeout=5)
    async with ScriptedServer(store, respond, attachment_store=files, policy=policy) as server:
        with trio.move_on_after(seconds):
            await server.process(delete_body(), None)


@pytest.mark.parametrize(("file_takes", "metadata_takes"), [(2, 0), (0, 2), (2, 2)])
@bounded
async def test_a_deletion_of_an_attachment_that_has_begun_is_finished(
    file_takes: float, metadata_takes: float, autojump_clock: trio.testing.MockClock
) -> None:
    files, store = Files("atc_1", "atc_2", seconds=file_takes), TroubledStore()
    store.give(takes(metadata_takes), "delete_attachment")

    await delete_and_give_up(store, files, 1)

    assert files.ids == {"atc_2"}
    assert not await attached(store)
    assert trio.current_time() == pytest.approx(file_takes + metadata_takes)


@bounded
async def test_a_deletion_of_an_attachment_that_has_not_begun_is_not_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    files, store = Files("atc_1"), TroubledStore()
    store.give(takes(2), "load_attachment")

    await delete_and_give_up(store, files, 1)

    store.heal()
    assert files.ids == {"atc_1"}
    assert await attached(store)
    assert trio.current_time() == pytest.approx(1)


@bounded
async def test_a_deletion_of_an_attachment_that_hangs_ends_with_its_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    files, store = Files("atc_1"), TroubledStore()
    store.give(hangs, "delete_attachment")

    await delete_and_give_up(store, files, 1)

    assert files.ids == set()
    assert trio.current_time() <= 1 + 2 * 5


# --- Generators that are slow to close ---------------------------------------------------------


class SlowToClose:
    """An async iterator of events with a slow `aclose`, as a client library may offer."""

    def __init__(self, events: list[Any], seconds: float) -> None:
        self._events = iter(events)
        self._seconds = seconds

    def __aiter__(self) -> SlowToClose:
        return self

    async def __anext__(self) -> Any:
        await trio.lowlevel.checkpoint()
        for event in self._events:
            return event
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await trio.sleep(self._seconds)


@pytest.mark.parametrize("seconds", [4.0, HANGING])
@bounded
async def test_an_iterator_that_is_too_slow_to_close_is_named_in_the_log(
    seconds: float, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        return SlowToClose([done("Hello")(Scene(thread, None, context))], seconds)

    store = MemoryStore[Any]()
    policy = TurnPolicy(settle_timeout=5)
    async with ScriptedServer(store, respond, policy=policy) as server:
        turn = await ask(server)
        await turn.server_turn.ended.wait()

        assert turn.error is None
        assert trio.current_time() == pytest.approx(min(seconds, 5))
        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]
    told = [record for record in caplog.records if str(turn.thread_id) in record.getMessage()]
    assert len(told) == (1 if seconds > 5 else 0)
    assert all(record.levelno >= logging.WARNING for record in told)


class FailsAndIsClosed:
    """An iterator that isn't a generator: it begins a message, fails, and has this `aclose`."""

    def __init__(self, event: Any, error: BaseException, close: Callable[[], Awaitable[None]]):
        self._events = [event]
        self._error = error
        self.aclose = close

    def __aiter__(self) -> FailsAndIsClosed:
        return self

    async def __anext__(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self._events:
            return self._events.pop()
        raise self._error


async def hang() -> None:
    await trio.sleep(HANGING)


async def fail_to_close() -> None:
    raise OSError("the connection is gone")


async def fail_beside_hanging() -> None:
    await raise_beside_the_cancellation(OSError("the connection is gone"))


@pytest.mark.parametrize("close", [hang, fail_to_close, fail_beside_hanging])
@pytest.mark.parametrize("grouped", [False, True])
@bounded
async def test_the_error_of_an_iterator_outlives_what_goes_wrong_in_its_closing(
    grouped: bool,
    close: Callable[[], Awaitable[None]],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = CustomStreamError("the model is full", allow_retry=True)
    error = ExceptionGroup("of the model", [told]) if grouped else told

    def respond(thread: ThreadMetadata, _: Any, context: Any) -> Any:
        item = message(Scene(thread, None, context), "Hello")
        return FailsAndIsClosed(ThreadItemAddedEvent(item=item), error, close)

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        turn = await ask(server)

        # Before the iterator is closed, which may take long.
        assert trio.current_time() == 0
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: failed",
        ]
        assert turn.error is not None
        assert turn.error.message == "the model is full"
        await turn.server_turn.ended.wait()
    lost = "its cleanup was cut" if close is hang else "the connection is gone"
    assert lost in caplog.text


@bounded
async def test_a_stray_cancellation_outlives_a_closing_that_hangs(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    stray = await stray_cancellation()

    def respond(thread: ThreadMetadata, _: Any, context: Any) -> Any:
        item = message(Scene(thread, None, context), "Hello")
        return FailsAndIsClosed(ThreadItemAddedEvent(item=item), stray, hang)

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        turn = await ask(server)

        assert turn.error is not None
        assert (await transcript(store, turn.thread_id))[-1] == "note: failed"


@bounded
async def test_a_generator_that_is_too_slow_to_close_after_a_stop_is_named_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        item = message(Scene(thread, None, context), "Hello")
        yield ThreadItemAddedEvent(item=item)
        try:
            await sleep_shielded(2)
            yield more(item, " too late")  # so it is closed here
        finally:
            await trio.sleep(HANGING)

    store = MemoryStore[Any]()
    policy = TurnPolicy(settle_timeout=5)
    async with (
        ScriptedServer(store, respond, policy=policy) as server,
        sending(server) as turn,
    ):
        await turn.wait_for(StreamOptionsEvent)
        await trio.sleep(1)
        await turn.stop()
        await turn.server_turn.ended.wait()

        assert trio.current_time() == pytest.approx(2 + 5)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]
    told = [record for record in caplog.records if str(turn.thread_id) in record.getMessage()]
    assert [record.levelno >= logging.WARNING for record in told] == [True]


# --- What user code and stores may not do ------------------------------------------------------


@bounded
async def test_a_reason_may_be_given_by_its_name(autojump_clock: trio.testing.MockClock) -> None:
    def cancel(scene: Scene) -> None:
        current_turn().cancel("deadline")  # type: ignore[arg-type]

    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, do(cancel), pause(5)]) as server:
        turn = await ask(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: deadline",
        ]


@bounded
async def test_what_is_no_reason_is_refused_where_it_is_given(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def cancel(scene: Scene) -> None:
        current_turn().cancel("the user is bored")  # type: ignore[arg-type]

    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, do(cancel), pause(5)]) as server:
        turn = await ask(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: failed",
        ]
    assert "the user is bored" in caplog.text


@pytest.mark.parametrize("is_cut", [False, True])
@bounded
async def test_respond_may_not_keep_what_only_the_hook_may(
    is_cut: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The note would come before the text, and the rest of the answer would be unknown."""

    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        item = message(Scene(thread, None, context), "Hello")
        yield ThreadItemAddedEvent(item=item)
        try:
            await trio.sleep(60 if is_cut else 0)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                await current_turn().keep([])

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        async with sending(server) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            await trio.sleep(5)
            turn.server_turn.cancel()
        await turn.server_turn.ended.wait()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped" if is_cut else "note: failed",
        ]
    assert "handle_stream_cancelled" in caplog.text


@bounded
async def test_a_client_is_told_of_its_thread_and_message_though_the_turn_could_not_be_recorded(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore(JournaledStore())
    store.give(fails(), "journal.begin")
    async with scripted_server(store, [HELLO]) as server:
        turn = await ask(server)

        assert await transcript(store, turn.thread_id) == ["user: hi"]
    assert [event.type for event in turn.events] == [
        "thread.created",
        "thread.item.done",
        "stream_options",
        "error",
    ]
