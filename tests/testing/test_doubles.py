"""The parts to build tests of: stores that are slow or fail, scripts, the clock."""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.store import Coordination, Journal, News, Opening, Settlement, Store
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    FaultyStore,
    JumpClock,
    ScriptedModel,
    ScriptedRespond,
    SlowStore,
    StoreWrapper,
    fail,
    say,
    scripted_server,
)
from chatkit_trio.testing._sse import ServerSentEvent, SSEReader
from chatkit_trio.testing._store_doubles import READS, WRITES
from chatkit_trio.types import ThreadMetadata
from tests.transcript import transcript

THREAD = ThreadMetadata.model_validate({"id": "thr_1", "created_at": "2026-01-01T00:00:00Z"})


# --- Stores ------------------------------------------------------------------------------------


def test_a_wrapper_passes_on_every_operation_of_a_store() -> None:
    operations = {
        name
        for name, member in vars(Store).items()
        if inspect.iscoroutinefunction(member) and not name.startswith("_")
    }

    # These are made of others, which pass one by one.
    assert operations - {"has_item", "begin_turn"} <= vars(StoreWrapper).keys()


def test_a_wrapper_passes_on_every_operation_of_journal_and_coordination() -> None:
    store = StoreWrapper(MemoryStore[Any](cluster=MemoryCluster()))

    for contract, wrapper in ((Journal, store.journal), (Coordination, store.coordination)):
        operations = {name for name in vars(contract) if not name.startswith("_")}
        # What the engine keeps with a node belongs to the outermost one.
        assert operations - {"engine"} <= vars(type(wrapper)).keys()


async def test_operations_of_coordination_pass_around_under_their_names() -> None:
    class Names(StoreWrapper[Any]):
        async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
            names.append(name)
            return await call()

    names: list[str] = []
    async with Names(MemoryStore[Any](cluster=MemoryCluster())) as store:
        coordination = store.coordination
        assert coordination is not None
        await coordination.begin(Opening("thr_1", "turn_1", new_thread=THREAD), None)
        await coordination.record("thr_1")
        await coordination.checkpointed("turn_1")
        with coordination.hint(coordination.node) as hint:
            await coordination.post(coordination.node, b"message")
            await hint.wait(math.inf)
        news = await coordination.news()
        await coordination.line_up("turn_2", "thr_1", None)
        await coordination.withdraw("turn_2")
        await coordination.abandon("turn_1")
        assert await coordination.nodes() == [coordination.node]

    assert news == News((b"message",), frozenset({"turn_1"}))
    assert names == [
        "coordination.begin",
        "coordination.record",
        "coordination.checkpointed",
        "coordination.post",
        "coordination.news",
        "coordination.line_up",
        "coordination.withdraw",
        "coordination.abandon",
        "coordination.nodes",
    ]


async def test_a_slow_store_takes_its_time_before_and_after(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore(MemoryStore[Any](), 2, answer_seconds=3)
    began_at = trio.current_time()

    await store.save_thread(THREAD, None)

    assert trio.current_time() == pytest.approx(began_at + 5)


async def test_a_slow_store_may_be_slow_to_write_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = SlowStore(MemoryStore[Any](), 2, answer_seconds=3, reads=0)
    began_at = trio.current_time()
    await store.load_threads(10, None, "asc", None)
    loaded_at = trio.current_time()
    await store.save_thread(THREAD, None)

    assert loaded_at == began_at
    assert trio.current_time() == pytest.approx(loaded_at + 5)


def test_the_names_of_operations_are_known() -> None:
    source = inspect.getsource(inspect.getmodule(StoreWrapper) or StoreWrapper)

    assert set(re.findall(r'around\("([a-z_.]+)"', source)) == READS | WRITES


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"at": 0}, ValueError, "at must be 1 or more, and is 0"),
        ({"operations": ["setle"]}, ValueError, "operations .*'setle'.*settle, "),
        ({"operations": "settle"}, TypeError, r"operations must be a list .*\['settle'\]"),
        ({"operations": []}, ValueError, "operations is empty"),
        ({"operations": ["coordination.begin"]}, ValueError, "'coordination.begin'"),
    ],
)
def test_a_faulty_store_that_would_never_fail_is_refused(
    given: dict[str, Any], error: type[Exception], words: str
) -> None:
    store = MemoryStore[Any]()
    store.coordination = None

    with pytest.raises(error, match=words):
        FaultyStore(store, **given)


def test_a_faulty_store_cannot_be_armed_for_an_operation_before_the_first() -> None:
    with pytest.raises(ValueError, match="at must be 1 or more, and is 0"):
        FaultyStore(MemoryStore[Any]()).arm(0)


@pytest.mark.parametrize("given", [{"seconds": -1}, {"answer_seconds": math.nan}, {"reads": -1}])
def test_a_slow_store_refuses_what_is_no_time(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be 0 or more"):
        SlowStore(MemoryStore[Any](), **{"seconds": 0.0, **given})


@pytest.mark.parametrize(("cancelled_at", "is_saved"), [(1, False), (4, True)])
async def test_a_cancelled_write_of_a_slow_store_has_happened_or_has_not(
    cancelled_at: float, is_saved: bool, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryStore[Any]()
    store = SlowStore(memory, 2, answer_seconds=3)

    with trio.move_on_after(cancelled_at) as scope:
        await store.save_thread(THREAD, None)

    page = await memory.load_threads(10, None, "asc", None)
    assert (scope.cancelled_caught, bool(page.data)) == (not is_saved, is_saved)


@pytest.mark.parametrize("happens", [False, True])
async def test_a_faulty_store_fails_at_the_write_it_is_told(happens: bool) -> None:
    memory = MemoryStore[Any]()
    store = FaultyStore(memory, at=2, happens=happens)

    await store.save_thread(THREAD, None)
    await store.load_thread("thr_1", None)
    with pytest.raises(StoreError):
        await store.delete_thread("thr_1", None)

    assert store.calls == ["save_thread", "delete_thread"]
    page = await memory.load_threads(10, None, "asc", None)
    assert [thread.id for thread in page.data] == ([] if happens else ["thr_1"])
    await store.delete_thread("thr_1", None)


async def test_a_faulty_store_counts_only_the_operations_it_is_told() -> None:
    store = FaultyStore(MemoryStore[Any](), operations={"load_thread"}, error=OSError("no route"))

    await store.save_thread(THREAD, None)
    with pytest.raises(OSError, match="no route"):
        await store.load_thread("thr_1", None)
    store.arm(at=2)
    await store.load_thread("thr_1", None)
    store.disarm()
    await store.load_thread("thr_1", None)
    assert store.calls == ["load_thread"]


async def test_a_wrapped_journal_is_one(tmp_path: Path) -> None:
    seen: list[str] = []

    class Noting(StoreWrapper[Any]):
        async def around(self, name: str, call: Any) -> Any:
            seen.append(name)
            return await call()

    async with Noting(SQLiteStore(tmp_path / "chat.db")) as store:
        assert store.journal is not None
        await store.save_thread(THREAD, None)
        await store.journal.begin("turn_1", "thr_1", None)
        await store.journal.checkpoint([])
        assert await store.journal.abandoned() == []
        await store.settle(Settlement("thr_1", "turn_1"), None)
        with pytest.raises(NotFoundError):
            await store.load_item("thr_1", "msg_1", None)

    assert seen == [
        "save_thread",
        "journal.begin",
        "journal.checkpoint",
        "journal.abandoned",
        "settle",
        "load_item",
    ]


# --- Scripts -----------------------------------------------------------------------------------


async def test_each_turn_plays_the_next_script_and_the_last_one_ever_after() -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("One")], [say("Two")]) as server:
        client = ChatClient.of_server(server, "Ada")
        thread_id = None
        for _ in range(3):
            async with client.send("hi", thread_id) as turn:
                await turn.read()
            thread_id = turn.thread_id

        stored = await transcript(store, thread_id)
        assert stored[1::2] == ["assistant: One", "assistant: Two", "assistant: Two"]
        assert [scene.context for scene in server.script.scenes] == ["Ada"] * 3


def test_a_respond_needs_a_script_and_a_model_an_answer() -> None:
    with pytest.raises(ValueError, match="needs a script"):
        ScriptedRespond()
    with pytest.raises(ValueError, match="needs an answer"):
        ScriptedModel()


async def test_a_model_streams_its_answers_and_knows_of_streams_left_open(
    autojump_clock: trio.testing.MockClock,
) -> None:
    model = ScriptedModel(["Hel", "lo"], ["Bye", OSError("overloaded")], every=1)
    heard: list[str] = []

    async def listen(prompt: str) -> None:
        async with model.stream(prompt) as deltas:
            async for delta in deltas:
                heard.append(delta)
                assert model.open_streams == 1

    await listen("Hi")
    with pytest.raises(OSError, match="overloaded"):
        await listen("Bye")

    assert heard == ["Hel", "lo", "Bye"]
    assert (model.prompts, model.open_streams) == (["Hi", "Bye"], 0)


async def test_a_script_that_fails_ends_the_turn_with_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        scripted_server(MemoryStore(), [fail(OSError("on purpose"))]) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read()
        assert turn.error is not None


# --- The clock ---------------------------------------------------------------------------------


def run(main: Any) -> Any:
    clock = JumpClock()
    return trio.run(main, clock=clock, instruments=[clock])


def test_the_clock_jumps_to_the_next_deadline() -> None:
    async def main() -> list[float]:
        seen = []
        with trio.move_on_after(3600):
            while True:
                await trio.sleep(1000)
                seen.append(trio.current_time())
        return [*seen, trio.current_time()]

    began_at = time.monotonic()
    assert run(main) == [1000, 2000, 3000, 3600]
    assert time.monotonic() - began_at < 10


def test_the_clock_waits_for_worker_threads() -> None:
    async def main() -> float:
        with trio.fail_after(0.001):
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(time.sleep, 0.05)
            return trio.current_time()

    assert run(main) == 0


def test_the_clock_lets_waiting_for_idleness_go_first() -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def sleep() -> None:
            await trio.sleep(1)
            seen.append("slept")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            await trio.testing.wait_all_tasks_blocked()
            seen.append("idle")
        return seen

    assert run(main) == ["idle", "slept"]


# --- Server-sent events ------------------------------------------------------------------------

STREAM = b'id: 7\ndata: {"a": 1}\n\n: still here\n\nevent: end\ndata: b\ndata: c\r\n\r\ndata:d\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_found_wherever_the_stream_is_cut(size: int) -> None:
    reader = SSEReader()

    events = [
        event
        for start in range(0, len(STREAM), size)
        for event in reader.feed(STREAM[start : start + size])
    ]

    assert events == [
        ServerSentEvent(b'{"a": 1}', None, "7"),
        ServerSentEvent(b"b\nc", "end", "7"),
        ServerSentEvent(b"d", None, "7"),
    ]
    assert reader.heartbeats == 1
