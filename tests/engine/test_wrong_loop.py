"""Everybody's first error, code for asyncio on trio, says what to use instead."""

from __future__ import annotations

import asyncio
import gc
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.lowlevel

from chatkit_trio.actions import Action
from chatkit_trio.agents import iterate_on_asyncio, run_on_asyncio
from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import ChatKitServer, current_turn
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    ClientTurn,
    JumpClock,
    RequestRefused,
    say,
    scripted_server,
)
from chatkit_trio.types import ProgressUpdateEvent, ThreadStreamEvent

NEEDS_ASYNCIO = "This needs asyncio"
NEEDS_TRIO = "This needs trio"


async def nothing() -> None:
    await trio.lowlevel.checkpoint()


async def task() -> None:
    asyncio.create_task(nothing())  # noqa: RUF006


async def gather() -> None:
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))


async def queue() -> None:
    await asyncio.Queue[int]().get()


async def event() -> None:
    await asyncio.Event().wait()


async def timeout() -> None:
    async with asyncio.timeout(1):
        await trio.lowlevel.checkpoint()


async def future() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


async def of_another_cause() -> None:
    try:
        await asyncio.sleep(1)
    except RuntimeError as error:
        raise ValueError("no weather today") from error


async def in_a_group() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        nursery.start_soon(asyncio.sleep, 1)


MIX_UPS: list[Callable[[], Awaitable[Any]]] = [
    lambda: asyncio.sleep(1),
    lambda: asyncio.sleep(0),
    lambda: asyncio.to_thread(print),
    lambda: asyncio.wait_for(nothing(), 1),
    task,
    gather,
    queue,
    event,
    timeout,
    future,
    of_another_cause,
    in_a_group,
]


@pytest.fixture(autouse=True)
def _left_over(caplog: pytest.LogCaptureFixture) -> Any:
    """What asyncio leaves of these mistakes is none of ours: coroutines that are never awaited, and
    loops that aren't closed. It goes here, or another test would be told of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        # What keeps all that alive: tracebacks in the log, and a loop that asyncio has made.
        caplog.clear()
        asyncio.set_event_loop(None)
        gc.collect()


class Server(ChatKitServer[Any]):
    """Calls `mix_up` in the hook that `where` names."""

    def __init__(self, mix_up: Any, where: str, store: Any = None) -> None:
        super().__init__(store or MemoryStore())
        self.mix_up = mix_up
        self.where = where

    async def at(self, where: str) -> None:
        if where == self.where:
            await self.mix_up()

    async def respond(self, *args: Any) -> AsyncIterator[ThreadStreamEvent]:
        await self.at("respond")
        if self.where == "a task":
            current_turn().nursery.start_soon(self.mix_up)
        yield ProgressUpdateEvent(text="one moment")
        if self.where == "handle_stream_cancelled":
            current_turn().cancel()
            await trio.lowlevel.checkpoint()

    async def action(self, *args: Any) -> AsyncIterator[ThreadStreamEvent]:
        await self.at("action")
        yield ProgressUpdateEvent(text="one moment")

    async def sync_action(self, *args: Any) -> Any:
        await self.at("sync_action")

    async def add_feedback(self, *args: Any) -> None:
        await self.at("add_feedback")

    async def handle_stream_cancelled(self, *args: Any) -> None:
        await self.at("handle_stream_cancelled")


async def answered(server: ChatKitServer[Any]) -> ClientTurn:
    async with server, ChatClient.of_server(server).send("hi") as turn:
        await turn.read()
    return turn


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return the tracebacks in the log, as an operator reads them."""
    return "".join(
        "".join(traceback.format_exception(record.exc_info[1]))
        for record in caplog.records
        if record.exc_info is not None
    )


@pytest.mark.parametrize("mix_up", MIX_UPS)
async def test_every_mix_up_in_respond_is_logged_with_the_way_out(
    mix_up: Any, jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    turn = await answered(Server(mix_up, "respond"))

    assert turn.error is not None
    assert turn.error.message is None

    assert logged(caplog).count(NEEDS_ASYNCIO) == 1
    assert "run_on_asyncio(function, *args)" in logged(caplog)
    assert NEEDS_TRIO not in logged(caplog)


@pytest.mark.parametrize("where", ["respond", "a task", "handle_stream_cancelled"])
async def test_wherever_a_turn_meets_it(
    where: str, jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Server(lambda: asyncio.sleep(1), where) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read()

    assert NEEDS_ASYNCIO in logged(caplog)


async def test_in_an_action(jump_clock: JumpClock, caplog: pytest.LogCaptureFixture) -> None:
    async with Server(lambda: asyncio.sleep(1), "action") as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()
        assert turn.thread_id is not None
        async with client.act(turn.thread_id, Action(type="a", payload=None)) as acted:
            await acted.read()

    assert NEEDS_ASYNCIO in logged(caplog)


def notes_of(refused: RequestRefused) -> list[str]:
    """Return the notes on the hook's own error."""
    assert "no running event loop" in str(refused.__cause__)
    return getattr(refused.__cause__, "__notes__", [])


@pytest.mark.parametrize("where", ["sync_action", "add_feedback"])
async def test_in_a_hook_that_does_not_stream(where: str, jump_clock: JumpClock) -> None:
    async with Server(lambda: asyncio.sleep(1), where) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()
        assert turn.thread_id is not None
        calls = {
            "sync_action": partial(client.act_and_wait, turn.thread_id, Action(type="a")),
            "add_feedback": partial(client.give_feedback, turn.thread_id, ["x"], "positive"),
        }
        with pytest.raises(RequestRefused) as refused:
            await calls[where]()

    assert [note[: len(NEEDS_ASYNCIO)] for note in notes_of(refused.value)] == [NEEDS_ASYNCIO]


class OnAsyncio(MemoryStore[Any]):
    """A store that waits on asyncio, and is used without `AsyncioStore`."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    async def __aenter__(self) -> OnAsyncio:  # noqa: PYI034
        if "open" in self.names:
            await asyncio.sleep(1)
        await super().__aenter__()
        return self

    async def load_threads(self, *args: Any, **named: Any) -> Any:
        if "load_threads" in self.names:
            await asyncio.sleep(1)
        return await super().load_threads(*args, **named)

    async def add_thread_item(self, *args: Any, **named: Any) -> None:
        if "add_thread_item" in self.names:
            await asyncio.sleep(1)
        await super().add_thread_item(*args, **named)

    async def begin_turn(self, *args: Any, **named: Any) -> None:
        if "begin_turn" in self.names:
            await asyncio.sleep(1)
        await super().begin_turn(*args, **named)


async def test_in_a_store_that_cannot_be_opened() -> None:
    with pytest.raises(RuntimeError, match="no running event loop") as caught:
        async with scripted_server(OnAsyncio("open"), []):
            pass

    assert "AsyncioStore" in caught.value.__notes__[0]


async def test_in_a_store_that_is_read(jump_clock: JumpClock) -> None:
    async with scripted_server(OnAsyncio("load_threads"), []) as server:
        with pytest.raises(RequestRefused) as refused:
            await ChatClient.of_server(server).threads()

    assert "AsyncioStore" in notes_of(refused.value)[0]


@pytest.mark.parametrize("name", ["begin_turn", "add_thread_item"])
async def test_in_a_store_that_is_written(
    name: str, jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = OnAsyncio(name)
    store.coordination = None
    async with (
        scripted_server(store, [say("Hello")]) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read()

    assert "AsyncioStore" in logged(caplog)


async def test_the_other_way_round(jump_clock: JumpClock, caplog: pytest.LogCaptureFixture) -> None:
    async def tool() -> None:
        await trio.sleep(1)

    async with (
        Server(lambda: run_on_asyncio(tool), "respond") as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read()

    assert NEEDS_TRIO in logged(caplog)
    assert "run_on_trio(function, *args)" in logged(caplog)
    assert NEEDS_ASYNCIO not in logged(caplog)


async def test_an_object_of_another_loop(
    jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.new_event_loop()
    elsewhere = loop.create_future()

    async def wait() -> None:
        await elsewhere

    async with (
        Server(lambda: run_on_asyncio(wait), "respond") as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read()
    loop.close()

    assert "made on another asyncio event loop" in logged(caplog)


@pytest.mark.parametrize("error", [ValueError("no weather"), CustomStreamError("no weather")])
async def test_other_errors_get_no_note(
    error: Exception, jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    await answered(Server(fails, "respond"))

    assert not hasattr(error, "__notes__")


async def test_what_the_hint_says_works(jump_clock: JumpClock) -> None:
    async def words() -> AsyncIterator[str]:
        await asyncio.sleep(0)
        yield "Hello"

    await run_on_asyncio(asyncio.sleep, 0)
    assert [word async for word in iterate_on_asyncio(words)] == ["Hello"]
