"""Errors and texts of user code that can't be told cost neither the answer, the thread nor others.

An error may raise whatever of it is looked at, and a text may have characters that UTF-8 can't
hold. What they are told with is only told: all is stored, the thread is let go of, and the server
goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio._engine.answering import Answer
from chatkit_trio.errors import (
    BaseStreamError,
    CustomStreamError,
    ErrorCode,
    InvalidRequestError,
    StoreError,
    StreamError,
)
from chatkit_trio.server import CancelReason, current_turn
from chatkit_trio.store import Settlement
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    RequestRefused,
    Scene,
    ScriptedServer,
    Step,
    do,
    pause,
    say,
    scripted_server,
    set_title,
)
from chatkit_trio.types import (
    AssistantMessageItem,
    ErrorEvent,
    LockedStatus,
    StreamOptions,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadMetadata,
    ThreadUpdatedEvent,
)
from tests.transcript import transcript

from .doubles import TroubledStore, fails
from .scenes import HELLO, ask, bounded, message, sending

HALF, REPAIRED = "half an emoji: \ud83d", "half an emoji: \ufffd"

TOLD_OF_ANY = ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=True)


# --- Errors that raise when they are looked at -------------------------------------------------


class Wordless(Exception):
    """As an error of a driver whose message is None."""

    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise LookupError("no such text")

    __repr__ = __str__


class Responseless(Exception):
    """As an HTTP client's error whose response never came."""

    @property
    def detail(self) -> str:
        raise RuntimeError("there is no response")

    status_code = headers = detail


class Unnoted(Exception):
    """An error with asyncio's words, to which no note can be added."""

    __notes__ = None

    def __str__(self) -> str:
        return "no running event loop"


class Unfinished(CustomStreamError):
    def __init__(self) -> None:
        pass  # and not the `__init__` of its base


class Odd(BaseException):
    pass


class WordlessRefusal(InvalidRequestError, Wordless):
    pass


ODD_ERRORS: list[Callable[[], Exception]] = [
    Wordless,
    Unspeakable,
    Responseless,
    Unnoted,
    Unfinished,
    WordlessRefusal,
    lambda: CustomStreamError(Wordless()),  # type: ignore[arg-type]
    lambda: ExceptionGroup("", [Wordless(), Responseless()]),
]
IDS = [
    "wordless",
    "unspeakable",
    "responseless",
    "unnoted",
    "unfinished",
    "wordless-refusal",
    "wordless-message",
    "group",
]


def raising(error: BaseException) -> Step:
    def act(scene: Scene) -> None:
        raise error

    return do(act)


async def assert_failed_and_kept(server: ScriptedServer, *told: ErrorEvent) -> None:
    """Ask, and see the answer kept and its failure told at once, and the next answer given."""
    began_at = trio.current_time()
    turn = await ask(server)

    assert [each for each in turn.events if isinstance(each, ErrorEvent)] == [*told]
    assert turn.server_turn.settled.is_set()
    assert trio.current_time() - began_at < 5
    stored = await transcript(server.store, turn.thread_id)
    assert stored == ["user: hi", "assistant: Hello", "note: failed"]
    after = await ask(server, "more", turn.thread_id)
    assert after.text == "Fine"


@pytest.mark.parametrize("make_error", ODD_ERRORS, ids=IDS)
@bounded
async def test_an_error_of_respond_that_cannot_be_looked_at_costs_nothing(
    make_error: Callable[[], Exception], autojump_clock: trio.testing.MockClock
) -> None:
    answers = [HELLO, raising(make_error())], [say("Fine")]
    async with scripted_server(MemoryStore[Any](), *answers) as server:
        await assert_failed_and_kept(server, TOLD_OF_ANY)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            CustomStreamError("No credit", allow_retry=None),  # type: ignore[arg-type]
            ErrorEvent(code="custom", message="No credit", allow_retry=False),
        ),
        (
            CustomStreamError(HALF, allow_retry="yes"),  # type: ignore[arg-type]
            ErrorEvent(code="custom", message=REPAIRED, allow_retry=True),
        ),
        (
            StreamError(ErrorCode.STREAM_ERROR, allow_retry=[]),  # type: ignore[arg-type]
            ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=False),
        ),
    ],
)
@bounded
async def test_an_error_for_the_client_is_told_whatever_its_fields_are(
    error: BaseStreamError, told: ErrorEvent, autojump_clock: trio.testing.MockClock
) -> None:
    answers = [HELLO, raising(error)], [say("Fine")]
    async with scripted_server(MemoryStore[Any](), *answers) as server:
        await assert_failed_and_kept(server, told)


@pytest.mark.parametrize("make_error", ODD_ERRORS, ids=IDS)
@bounded
async def test_an_error_of_the_store_that_cannot_be_looked_at_costs_nothing(
    make_error: Callable[[], Exception], autojump_clock: trio.testing.MockClock
) -> None:
    store = TroubledStore()

    def begin_trouble(scene: Scene) -> None:
        store.give(fails(make_error()), "add_thread_item", "settle")

    async def heal_soon() -> None:
        await trio.sleep(2)
        store.heal()

    answers = [do(begin_trouble), say("Hello")], [say("Fine")]
    async with scripted_server(store, *answers) as server, trio.open_nursery() as nursery:
        nursery.start_soon(heal_soon)
        await assert_failed_and_kept(server, TOLD_OF_ANY)


@pytest.mark.parametrize(
    "make_error",
    [*ODD_ERRORS, asyncio.CancelledError, GeneratorExit, lambda: BaseExceptionGroup("", [Odd()])],
    ids=[*IDS, "asyncio-cancelled", "generator-exit", "base-group"],
)
@bounded
async def test_whatever_get_stream_options_raises_is_told_and_costs_nothing(
    make_error: Callable[[], BaseException], autojump_clock: trio.testing.MockClock
) -> None:
    class Server(ScriptedServer):
        error: BaseException | None = None

        def get_stream_options(self, thread: ThreadMetadata, context: Any) -> StreamOptions:
            error, self.error = self.error, None
            if error is not None:
                raise error
            return super().get_stream_options(thread, context)

    store = MemoryStore[Any]()
    async with Server(store, scripted_server(store, [say("Fine")]).script) as server:
        server.error = make_error()
        turn = await ask(server)

        assert turn.error is not None
        assert turn.server_turn.settled.is_set()
        assert trio.current_time() < 5
        assert await transcript(store, turn.thread_id) == ["user: hi"]
        assert (await ask(server, "more", turn.thread_id)).text == "Fine"


@pytest.mark.parametrize("make_error", ODD_ERRORS, ids=IDS)
@bounded
async def test_an_error_of_the_first_writes_that_cannot_be_looked_at_ends_no_server(
    make_error: Callable[[], Exception], autojump_clock: trio.testing.MockClock
) -> None:
    store = TroubledStore()
    async with scripted_server(store, [say("Good", " answer", every=2)]) as server:
        async with sending(server) as other:
            await trio.sleep(1)
            store.give(fails(make_error()), "save_thread")
            refused = await ask(server)
            await other.read()

        assert [type(event) for event in refused.events] == [ErrorEvent]
        assert other.text == "Good answer"
        assert server.is_running


@pytest.mark.parametrize("make_error", ODD_ERRORS, ids=IDS)
@bounded
async def test_an_error_that_another_node_asked_for_and_that_cannot_be_told_ends_no_server(
    make_error: Callable[[], Exception], autojump_clock: trio.testing.MockClock
) -> None:
    cluster = MemoryCluster()
    store = TroubledStore(MemoryStore[Any](cluster=cluster))
    store.give(fails(make_error()), "save_thread")
    here = scripted_server(store, [say("Good", " answer", every=2)])
    there = scripted_server(MemoryStore[Any](cluster=cluster), [say("Fine")])
    async with here, there, sending(here) as turn:
        await trio.sleep(1)
        with pytest.raises((StoreError, RequestRefused)):
            await ChatClient.of_server(there).rename(turn.server_turn.thread_id, "Mine")
        await turn.read()

        assert turn.text == "Good answer"
        assert here.is_running


@pytest.mark.parametrize("make_error", ODD_ERRORS, ids=IDS)
@bounded
async def test_an_item_is_set_aside_though_its_refusal_cannot_be_looked_at(
    make_error: Callable[[], Exception], autojump_clock: trio.testing.MockClock
) -> None:
    class Picky(MemoryStore[Any]):
        async def settle(self, settlement: Settlement, context: Any) -> None:
            if any(isinstance(item, AssistantMessageItem) for item in settlement.new_items):
                raise make_error()
            await super().settle(settlement, context)

    store = Picky()
    async with scripted_server(store, [HELLO, pause(60)]) as server, sending(server) as turn:
        await trio.sleep(1)
        turn.server_turn.cancel()
        with trio.fail_after(600):
            await turn.server_turn.settled.wait()

        [aside] = store.set_aside_items
        assert "Hello" in aside.text
        assert type(make_error()).__name__ in aside.error
        stored = await transcript(store, turn.server_turn.thread_id)
        assert stored == ["user: hi", "note: stopped"]


class Interrupted(MemoryStore[Any]):
    """A store whose plain functions raise what isn't an `Exception`, once the turn has begun."""

    def get_owner(self, context: Any) -> str:
        raise asyncio.CancelledError

    def generate_item_id(self, item_type: Any, thread: ThreadMetadata, context: Any) -> str:
        if item_type == "sdk_hidden_context":
            raise asyncio.CancelledError
        return super().generate_item_id(item_type, thread, context)


@bounded
async def test_what_plain_functions_of_a_store_raise_costs_no_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = Interrupted()
    async with scripted_server(store, [HELLO, pause(60)]) as server, sending(server) as turn:
        await trio.sleep(1)
        turn.server_turn.cancel()
        with trio.fail_after(1):
            await turn.server_turn.settled.wait()

        assert await transcript(store, turn.server_turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


@bounded
async def test_an_end_that_cannot_be_told_lets_go_of_the_thread(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def announce(answer: Answer, outcome: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Answer, "announce", announce)
    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, raising(ValueError())]) as server:
        turn = await ask(server)

        assert turn.error == TOLD_OF_ANY
        assert turn.server_turn.settled.is_set()
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: failed",
        ]
    assert turn.server_turn.id in caplog.text


# --- Texts that UTF-8 can't hold ---------------------------------------------------------------


def set_half_a_title(scene: Scene) -> None:
    scene.thread.title = HALF


def set_half_a_reason(scene: Scene) -> None:
    scene.thread.status = LockedStatus(reason=HALF)


@pytest.mark.parametrize("step", [do(set_half_a_title), do(set_half_a_reason)])
@pytest.mark.parametrize("reason", [CancelReason.STOPPED, CancelReason.SUPERSEDED])
@bounded
async def test_a_thread_with_half_a_character_is_settled_told_and_let_go_of(
    step: Step, reason: CancelReason, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, step, pause(60)], [say("Fine")]) as server:
        async with sending(server) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            await trio.sleep(1)
            assert turn.thread_id is not None
            turn.server_turn.cancel(reason)
            await trio.sleep(1)

            assert turn.server_turn.settled.is_set()
        [updated] = [each for each in turn.events if isinstance(each, ThreadUpdatedEvent)]
        stored = await store.load_thread(turn.thread_id, None)
        assert REPAIRED in (stored.title, getattr(stored.status, "reason", None))
        assert updated.thread.title == stored.title
        assert updated.thread.status == stored.status
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            f"note: {reason.value}",
        ]


@bounded
async def test_a_title_with_half_a_character_does_not_fail_an_answer_that_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [set_title(HALF), say("Hello")]) as server:
        turn = await ask(server)

        assert turn.error is None
        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]
        titles = [each.thread.title for each in turn.events if isinstance(each, ThreadUpdatedEvent)]
        assert titles == [REPAIRED]


@bounded
async def test_an_item_with_half_a_character_that_a_hook_keeps_is_told_as_it_is_stored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Rewriting(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            [item] = pending_items
            scene = Scene(thread, None, context)
            await current_turn().keep([message(scene, HALF, item.id), message(scene, HALF)])

    store = MemoryStore[Any]()
    script = scripted_server(store, [HELLO, pause(60)]).script
    async with Rewriting(store, script) as server, sending(server) as turn:
        with trio.move_on_after(1):
            await turn.read()
        turn.server_turn.cancel()
        with trio.fail_after(1):
            await turn.server_turn.settled.wait()
        await turn.read()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            f"assistant: {REPAIRED}",
            f"assistant: {REPAIRED}",
            "note: stopped",
        ]
        page = await store.load_thread_items(turn.thread_id or "", None, 9, "asc", None)
        told = [each.item for each in turn.events if isinstance(each, ThreadItemDoneEvent)]
        assert told == list(page.data[:3])
