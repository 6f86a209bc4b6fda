"""A new thread has one live turn from its first write on.

Fault F10: `threads.create` was registered after its first writes, but `threads.list` shows the
thread before. A message that came in between was answered beside the first one, whatever
`on_busy` said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from chatkit_trio.server import CancelReason, ChatKitServer, TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    RequestRefused,
    Scene,
    ScriptedServer,
    StoreWrapper,
    say,
    scripted_server,
)
from chatkit_trio.types import ThreadMetadata, UserMessageItem
from tests.transcript import transcript

from .doubles import TroubledStore, fails, once
from .parts import begin, finish, message_request, more, stream, within
from .scenes import ask

_T = TypeVar("_T")

HOUR = 3600.0

SLOW = 3.0
"""Seconds that one of the first writes takes."""

OFFSETS = pytest.mark.parametrize("tenths", [0, 5, 10, 20, 29, 31, 40])
"""When the second client comes, in tenths of a second after the thread is listed."""

SLOW_WRITES = pytest.mark.parametrize("slow_write", ["save_thread", "add_thread_item"])


class SlowOnce(StoreWrapper[Any]):
    """The first operation of this name answers late: it is carried out, and others see it."""

    def __init__(self, store: Store[Any], name: str) -> None:
        super().__init__(store)
        self._name = name

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        answer = await call()
        if name == self._name:
            self._name = ""
            await trio.sleep(SLOW)
        return answer


class CountingServer(ChatKitServer[Any]):
    """Answers for some seconds, and knows how many answers were under way at once."""

    def __init__(self, store: Store[Any], **settings: Any) -> None:
        super().__init__(store, **settings)
        self.live = 0
        self.most_live = 0

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[Any]:
        scene = Scene(thread, input_user_message, context)
        assert input_user_message is not None
        item_id = f"to_{input_user_message.id}"
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        try:
            yield begin(item_id)(scene)
            for piece in ("Hel", "lo"):
                yield more(item_id, piece)
                await trio.sleep(5)
            yield finish(item_id, "Hello")(scene)
        finally:
            self.live -= 1


async def listed(client: ChatClient) -> str:
    """Return the id of the first thread as soon as the list shows one."""
    while True:
        if threads := await client.threads():
            return threads[0].id
        await trio.sleep(0.01)


async def race(server: CountingServer, tenths: int) -> tuple[str, RequestRefused | None]:
    """Create a thread; send a second message to it so long after it is listed.

    Return the thread's id, and how the second message was refused, if it was.
    """
    client = ChatClient.of_server(server)
    found: list[str] = []
    refusals: list[RequestRefused] = []

    async def create() -> None:
        async with client.send("first") as turn:
            await turn.read()

    async def send_again() -> None:
        thread_id = await listed(client)
        found.append(thread_id)
        await trio.sleep(tenths / 10)
        try:
            async with client.send("second", thread_id) as turn:
                await turn.read()
        except RequestRefused as refused:
            refusals.append(refused)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create)
        nursery.start_soon(send_again)
    return found[0], (refusals or [None])[0]


@SLOW_WRITES
@OFFSETS
@within(HOUR)
async def test_a_message_to_a_new_thread_supersedes_its_first_turn(
    tenths: int, slow_write: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = SlowOnce(MemoryStore[Any](), slow_write)
    async with CountingServer(store) as server:
        thread_id, _ = await race(server, tenths)

        stored = await transcript(store, thread_id)
        assert server.most_live == 1
    assert [line for line in stored if not line.startswith("assistant: Hel")] in (
        ["user: first", "note: superseded", "user: second"],
        ["user: first", "user: second"],  # superseded before it had begun to answer
    )
    assert stored[-1] == "assistant: Hello"


@SLOW_WRITES
@OFFSETS
@within(HOUR)
async def test_a_message_to_a_new_thread_queues_behind_its_first_turn(
    tenths: int, slow_write: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = SlowOnce(MemoryStore[Any](), slow_write)
    async with CountingServer(store, policy=TurnPolicy(on_busy="queue")) as server:
        thread_id, _ = await race(server, tenths)

        assert await transcript(store, thread_id) == [
            "user: first",
            "assistant: Hello",
            "user: second",
            "assistant: Hello",
        ]
        assert server.most_live == 1


@SLOW_WRITES
@OFFSETS
@within(HOUR)
async def test_a_message_to_a_new_thread_is_rejected_during_its_first_turn(
    tenths: int, slow_write: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = SlowOnce(MemoryStore[Any](), slow_write)
    async with CountingServer(store, policy=TurnPolicy(on_busy="reject")) as server:
        thread_id, refused = await race(server, tenths)

        assert await transcript(store, thread_id) == ["user: first", "assistant: Hello"]
        assert server.most_live == 1
    assert refused is not None
    assert (refused.status, refused.code) == (409, "busy")


@within(HOUR)
async def test_the_thread_of_a_turn_is_known_before_anything_is_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowOnce(MemoryStore[Any](), "save_thread")
    async with CountingServer(store) as server:
        result = await stream(server, message_request("first"))
        async with result:
            thread_id = result.turn.thread_id
            assert isinstance(thread_id, str)
            assert not result.turn.has_begun
            frames = [frame async for frame in result]
    assert thread_id.encode() in frames[0]


@SLOW_WRITES
@OFFSETS
@within(HOUR)
async def test_a_stop_during_the_first_writes_of_a_new_thread_ends_its_turn(
    tenths: int, slow_write: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = SlowOnce(MemoryStore[Any](), slow_write)
    async with CountingServer(store) as server:
        client = ChatClient.of_server(server)
        answers: list[bool] = []

        async def stop() -> None:
            thread_id = await listed(client)
            await trio.sleep(tenths / 10)
            answers.append(await server.stop(thread_id))

        async with trio.open_nursery() as nursery, client.send("first") as turn:
            nursery.start_soon(stop)
            await turn.read()

        assert answers == [True]
        assert turn.server_turn.cancel_reason is CancelReason.STOPPED
        assert "Hello" not in turn.text


@pytest.mark.parametrize("slow_write", ["save_thread", "add_thread_item", "journal.begin"])
@OFFSETS
@within(HOUR)
async def test_a_new_thread_on_sqlite_has_one_live_turn(
    tenths: int, slow_write: str, jump_clock: JumpClock, tmp_path: Path
) -> None:
    store = SlowOnce(SQLiteStore[Any](tmp_path / "chat.db"), slow_write)
    async with CountingServer(store, policy=TurnPolicy(on_busy="queue")) as server:
        thread_id, _ = await race(server, tenths)

        assert server.most_live == 1
        assert await transcript(store, thread_id) == [
            "user: first",
            "assistant: Hello",
            "user: second",
            "assistant: Hello",
        ]


# --- An id that has been given before ----------------------------------------------------------


class BeginsAnew(MemoryStore[Any]):
    """A store whose ids are counted, and whose count begins anew with each start."""

    def __init__(self, cluster: MemoryCluster | None = None) -> None:
        super().__init__(cluster=cluster)
        self._numbers = count(1)

    def generate_thread_id(self, context: Any) -> str:
        return f"thr_{next(self._numbers)}"


BEFORE = ["user: one", "assistant: Fine"]


@asynccontextmanager
async def begun_anew(
    how: str,
) -> AsyncIterator[tuple[ScriptedServer, MemoryStore[Any]]]:
    """Run a server whose next thread gets an id that is taken."""
    cluster = MemoryCluster() if how == "cluster" else None
    store = BeginsAnew(cluster)
    async with scripted_server(store, [say("Fine")]) as server:
        client = ChatClient.of_server(server)
        async with client.send("one") as turn:
            await turn.read()
        await client.rename("thr_1", "First")
        store._numbers = count(1)
        yield server, store
        assert (await store.load_thread("thr_1", None)).title == "First"
        assert await transcript(store, "thr_1") == BEFORE


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("how", ["alone", "cluster"])
@within(HOUR)
async def test_a_new_thread_whose_id_is_taken_is_refused(
    how: str, key: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with begun_anew(how) as (server, _):
        client = ChatClient.of_server(server)
        for _ in range(1 if key is None else 2):
            with pytest.raises(RequestRefused) as refused:
                async with client.send("two", idempotency_key=key) as turn:
                    await turn.read()
            assert (refused.value.status, refused.value.code) == (409, "conflict")
            assert "thr_1" in str(refused.value)


@pytest.mark.parametrize("seconds", [0, 0.1, SLOW, SLOW + 1])
@within(HOUR)
async def test_of_two_new_threads_with_one_id_one_is_made(
    seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    class Constant(MemoryStore[Any]):
        def generate_thread_id(self, context: Any) -> str:
            return "thr_1"

    store = SlowOnce(Constant(), "save_thread")
    refusals: list[str | None] = []

    async def create(text: str) -> None:
        with suppress(RequestRefused):
            async with ChatClient.of_server(server).send(text) as turn:
                await turn.read()
            if turn.error is None:
                return
        refusals.append(text)

    async with CountingServer(store) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, "one")
            await trio.sleep(seconds)
            nursery.start_soon(create, "two")

        [refused] = refusals
        made = "one" if refused == "two" else "two"
        assert await transcript(store, "thr_1") == [f"user: {made}", "assistant: Hello"]


@pytest.mark.parametrize("operation", ["save_thread", "save_item"])
@within(HOUR)
async def test_a_repeat_makes_the_thread_whose_first_writes_failed(
    operation: str, autojump_clock: trio.testing.MockClock
) -> None:
    inner = BeginsAnew()
    store = TroubledStore(inner)
    async with scripted_server(store, [say("Fine")]) as server:
        client = ChatClient.of_server(server)
        store.give(once(fails()), operation)
        for _ in range(2):
            async with client.send("one", idempotency_key="key") as turn:
                await turn.read()

        assert turn.error is None
        assert await transcript(inner, "thr_1") == BEFORE


@within(HOUR)
async def test_a_repeat_of_a_new_thread_that_is_made_gets_its_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster()
    servers = [scripted_server(BeginsAnew(cluster), [say("Fine", every=1)]) for _ in range(2)]
    async with servers[0], servers[1]:
        texts: list[str] = []

        async def create(server: ScriptedServer) -> None:
            client = ChatClient.of_server(server, can_return=True)
            for _ in range(2):  # one that comes while the other begins is told to send it again
                async with client.send("one", idempotency_key="key") as turn:
                    await turn.read()
            texts.append(turn.text)

        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(create, server)
        assert texts == ["Fine", "Fine"]
        assert await transcript(servers[0].store, "thr_1") == BEFORE


@within(HOUR)
async def test_no_look_is_made_for_an_id_that_is_random(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    store.give(fails(), "load_thread")
    async with scripted_server(store, [say("Fine")]) as server:
        assert (await ask(server)).text == "Fine"
