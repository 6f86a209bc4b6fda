"""Two servers over one store, each a node: they behave as one server would.

The store is a `MemoryCluster` with two nodes; no hint reaches anybody in the tests named so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from chatkit_trio._engine.node import node_of
from chatkit_trio.errors import ChatKitError, FramesLost, StoreError
from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import (
    CancelReason,
    ChatKitServer,
    NonStreamingResult,
    RemoteTurn,
    StreamingResult,
    Turn,
    TurnPolicy,
)
from chatkit_trio.store import Coordination
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    ClientTurn,
    Operation,
    RequestRefused,
    Scene,
    ScriptedServer,
    SlowStore,
    StoreWrapper,
    do,
    emit,
    pause,
    say,
    scripted_server,
    set_title,
    simulate,
)
from chatkit_trio.types import (
    InputTranscribeParams,
    InputTranscribeReq,
    ProgressUpdateEvent,
    StreamOptions,
    StreamOptionsEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    TranscriptionResult,
)
from tests.transcript import lines, transcript

from .doubles import TroubledStore, takes, tells_late
from .parts import (
    FOR_EVER,
    SlowWrites,
    answered,
    begin,
    body_of,
    events_of,
    finish,
    message_request,
    read_all,
    stream,
    thread_id_of,
    within,
)

HOUR = 3600.0
LEASE = 15.0
WORDS = [f"word{number} " for number in range(30)]
SLOWLY = [say(*WORDS, every=1.0)]
WHOLE = ["user: hi", "assistant: " + "".join(WORDS)]


@dataclass
class Two:
    """Two servers over one store."""

    here: ScriptedServer
    there: ScriptedServer
    cluster: MemoryCluster

    async def transcript(self, thread_id: str | None) -> list[str]:
        return await transcript(self.there.store, thread_id)


@asynccontextmanager
async def two(
    *scripts: Sequence[Any], other: Sequence[Any] = (say("Fine"),), **settings: Any
) -> AsyncIterator[Two]:
    cluster = MemoryCluster(lease_timeout=LEASE)
    policy = TurnPolicy(**settings)
    here = scripted_server(MemoryStore[Any](cluster=cluster), *scripts, policy=policy)
    there = scripted_server(MemoryStore[Any](cluster=cluster), other, policy=policy)
    async with here, there:
        yield Two(here, there, cluster)


@asynccontextmanager
async def streaming(
    server: ChatKitServer[Any], *, words: int = 3, can_return: bool = False
) -> AsyncIterator[ClientTurn]:
    """Send a message, and read until so many words have come."""
    client = ChatClient.of_server(server, can_return=can_return)
    async with client.send("hi") as turn:
        await turn.wait_for(lambda event: WORDS[words - 1] in event.model_dump_json())
        yield turn


def cut_after(words: int, reason: str) -> list[str]:
    return ["user: hi", "assistant: " + "".join(WORDS[:words]), f"note: {reason}"]


def client(server: ChatKitServer[Any]) -> ChatClient:
    return ChatClient.of_server(server)


@pytest.fixture(params=["hinted", "no hints"])
def hints(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with hints, and with all of them lost."""
    if request.param == "no hints":
        monkeypatch.setattr(MemoryCluster, "_tell", lambda *_: None)
        monkeypatch.setattr(
            "chatkit_trio.stores._memory_coordination.MemoryCoordination.tell", lambda *_: None
        )
    return str(request.param)


@within(HOUR)
async def test_a_server_that_leaves_takes_no_other_of_its_process_along(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Two servers on one open store are one node; the one that waits to run it leaves first."""
    cluster = MemoryCluster(lease_timeout=LEASE)
    shared = MemoryStore[Any](cluster=cluster)
    here = scripted_server(shared, SLOWLY)
    there = scripted_server(MemoryStore[Any](cluster=cluster), [say("Fine")])
    async with there, here:
        async with scripted_server(shared, [say("Beside")]):
            await trio.sleep(1)
        async with streaming(here) as turn:
            assert await there.stop(turn.thread_id or "") is True

        assert (await transcript(there.store, turn.thread_id))[-1] == "note: stopped"


# --- One live turn a thread --------------------------------------------------------------------


@within(HOUR)
async def test_a_message_to_another_node_supersedes_the_answer(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY) as nodes, streaming(nodes.here) as turn:
        async with client(nodes.there).send("and?", turn.thread_id) as second:
            await second.read()

        expected = [*cut_after(3, "superseded"), "user: and?", "assistant: Fine"]
        assert [*await nodes.transcript(turn.thread_id)][2:] == expected[2:]
        assert turn.server_turn.cancel_reason is CancelReason.SUPERSEDED


@within(HOUR)
async def test_a_message_to_another_node_waits_if_the_policy_says_so(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY, on_busy="queue") as nodes, streaming(nodes.here) as turn:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            async with client(nodes.there).send("and?", turn.thread_id) as second:
                await second.read()

        expected = [*WHOLE, "user: and?", "assistant: Fine"]
        assert await nodes.transcript(turn.thread_id) == expected


@within(HOUR)
@pytest.mark.parametrize("seconds", [1.5, 3, 5, 7])
async def test_a_turn_begins_with_what_the_one_before_it_on_another_node_has_made_of_the_thread(
    seconds: float, hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    def note(scene: Scene) -> ProgressUpdateEvent:
        scene.thread.metadata["noted"] = scene.thread.title
        return ProgressUpdateEvent(text="noted")

    cluster, policy = MemoryCluster(lease_timeout=LEASE), TurnPolicy(on_busy="queue")
    first = [say(*WORDS[:5], every=0.1), pause(seconds), set_title("Greetings")]
    here = scripted_server(MemoryStore[Any](cluster=cluster), first, policy=policy)
    store_there = TroubledStore(MemoryStore[Any](cluster=cluster))
    store_there.give(tells_late(2), "load_thread")
    there = scripted_server(store_there, [emit(note)], policy=policy)
    async with here, there, streaming(here) as turn, trio.open_nursery() as nursery:
        nursery.start_soon(turn.read)
        async with client(there).send("and?", turn.thread_id) as second:
            await second.read()
        thread = await here.store.load_thread(turn.thread_id or "", None)

    assert (thread.title, thread.metadata) == ("Greetings", {"noted": "Greetings"})


@within(HOUR)
async def test_a_message_to_another_node_is_refused_if_the_policy_says_so(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY, on_busy="reject") as nodes, streaming(nodes.here) as turn:
        with pytest.raises(RequestRefused) as refusal:
            async with client(nodes.there).send("and?", turn.thread_id):
                pass
        assert refusal.value.status == 409
        assert refusal.value.code == "busy"
        await turn.read()
        assert await nodes.transcript(turn.thread_id) == WHOLE


@within(HOUR)
async def test_an_answer_that_its_client_may_not_cancel_is_waited_for(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY) as nodes:
        nodes.here.allow_cancel = False
        async with streaming(nodes.here) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            async with client(nodes.there).send("and?", turn.thread_id) as second:
                await second.read()
        expected = [*WHOLE, "user: and?", "assistant: Fine"]
        assert await nodes.transcript(turn.thread_id) == expected


@pytest.mark.parametrize("nodes_in_order", ["hththt", "hhht", "hhtt", "hthhtt", "tthhht"])
@within(HOUR)
async def test_messages_to_all_nodes_are_answered_one_after_the_other(
    nodes_in_order: str, hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    """In the order of their arrival, h for one node and t for the other."""
    talk = [say("a", "b", "c", every=0.3)]
    async with two(talk, other=talk, on_busy="queue") as nodes:
        async with client(nodes.here).send("first") as turn:
            await turn.read()
        thread_id = turn.thread_id

        async with trio.open_nursery() as nursery:
            for number, name in enumerate(nodes_in_order):
                server = nodes.there if name == "t" else nodes.here
                nursery.start_soon(answered, server, f"m{number}", thread_id)
                await trio.sleep(0.05)
        stored = await nodes.transcript(thread_id)
        asked = [f"user: m{number}" for number in range(len(nodes_in_order))]
        answers = [line for line in stored if line.startswith("assistant")]
        assert stored[2::2] == asked
        assert answers == ["assistant: abc"] * (len(nodes_in_order) + 1)


@pytest.mark.parametrize("on_busy", ["queue", "supersede"])
@within(HOUR)
async def test_messages_are_answered_in_the_order_of_their_arrival_when_one_has_lost_its_place(
    on_busy: str, hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The node was taken for dead for a moment, so the first that waits has lost its place."""
    answers = [[say(text)] for text in ("One", "Two")]
    async with two(SLOWLY, *answers, on_busy=on_busy) as nodes:
        nodes.here.allow_cancel = nodes.there.allow_cancel = False
        async with streaming(nodes.here) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)

            nursery.start_soon(answered, nodes.here, "one", turn.thread_id)
            await trio.sleep(1)
            [waiting] = [each for each in nodes.here.live_turns if not each.has_begun]
            assert nodes.here.store.coordination is not None
            await nodes.here.store.coordination.withdraw(waiting.id)
            nursery.start_soon(answered, nodes.here, "two", turn.thread_id)
            await trio.sleep(1)
            nursery.start_soon(answered, nodes.there, "three", turn.thread_id)
        stored = await nodes.transcript(turn.thread_id)
    for elsewhere in ("user: three", "assistant: Fine"):
        stored.remove(elsewhere)
    assert stored == [*WHOLE, "user: one", "assistant: One", "user: two", "assistant: Two"]


@within(HOUR)
async def test_a_message_is_not_superseded_by_one_that_came_before_it(
    hints: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer is slow to be stored; meanwhile two messages come, by two nodes."""

    async def settle_slowly(*arguments: Any) -> None:
        await trio.sleep(2.0)
        await settle(*arguments)

    async with two(SLOWLY, [say("Second")], other=[say("Third", "!", every=1.0)]) as nodes:
        settle = nodes.here.store.settle
        monkeypatch.setattr(nodes.here.store, "settle", settle_slowly)
        async with streaming(nodes.here) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)

            nursery.start_soon(answered, nodes.here, "second", turn.thread_id)
            await trio.sleep(1.0)
            nursery.start_soon(answered, nodes.there, "third", turn.thread_id)
        stored = await nodes.transcript(turn.thread_id)
        assert stored[-2:] == ["user: third", "assistant: Third!"]
        assert "user: second" in stored


@within(HOUR)
async def test_a_message_that_waits_for_a_node_that_hangs_is_not_failed_by_one_that_comes_after_it(
    hints: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it waits for is no operation of the store that would have to end in time."""
    async with two(SLOWLY) as nodes, streaming(nodes.here) as turn:
        nodes.there.allow_cancel = False
        monkeypatch.setattr(nodes.here.store.coordination, "news", hangs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answered, nodes.there, "second", turn.thread_id)
            await trio.sleep(1)
            nursery.start_soon(answered, nodes.there, "third", turn.thread_id)
        stored = await nodes.transcript(turn.thread_id)
    assert stored[2:] == [
        "note: crashed",
        *("user: second", "assistant: Fine"),
        *("user: third", "assistant: Fine"),
    ]


@within(HOUR)
async def test_a_message_that_waits_for_a_node_that_hangs_is_given_up_as_soon_as_it_is_cut(
    hints: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(SLOWLY) as nodes, streaming(nodes.here) as turn:
        monkeypatch.setattr(nodes.here.store.coordination, "news", hangs)
        body = message_request("second", thread_id=turn.thread_id)
        second = await stream(nodes.there, body)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, second)
            await trio.sleep(5)
            cut_at = trio.current_time()
            assert isinstance(second.turn, Turn)
            second.turn.cancel(CancelReason.DISCONNECTED)
            await second.turn.settled.wait()
            assert trio.current_time() == cut_at
        async with client(nodes.there).send("third", turn.thread_id) as third:
            await third.read()
        stored = await nodes.transcript(turn.thread_id)
    assert stored[2:] == ["note: crashed", "user: third", "assistant: Fine"]


@within(HOUR)
async def test_a_message_that_cant_ask_another_node_to_make_way_waits_for_it(
    hints: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(SLOWLY) as nodes, streaming(nodes.here) as turn:
        monkeypatch.setattr(nodes.there.store.coordination, "post", hangs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            nursery.start_soon(answered, nodes.there, "second", turn.thread_id)
        assert await nodes.transcript(turn.thread_id) == [
            *WHOLE,
            *("user: second", "assistant: Fine"),
        ]


@within(HOUR)
async def test_a_message_that_waits_for_another_node_is_not_what_a_stop_ends(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY, on_busy="queue") as nodes, streaming(nodes.here) as turn:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)

            nursery.start_soon(answered, nodes.there, "and?", turn.thread_id)
            await trio.sleep(2)
            thread = await client(nodes.there).thread(turn.thread_id or "")
            assert lines(list(thread.items.data))[1].startswith("assistant: " + WORDS[0])
            assert await nodes.there.stop(turn.thread_id or "") is True

        stored = await nodes.transcript(turn.thread_id)
        assert stored[-3:] == ["note: stopped", "user: and?", "assistant: Fine"]


# --- Stop, read, rename, delete from another node ----------------------------------------------


@within(HOUR)
async def test_a_stop_on_another_node_returns_when_the_answer_is_stored(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY) as nodes, streaming(nodes.here) as turn:
        assert await nodes.there.stop(turn.thread_id or "") is True

        stored = await nodes.transcript(turn.thread_id)
        assert stored[0] == "user: hi"
        assert stored[-1] == "note: stopped"
        assert "".join(WORDS[:3]) in stored[1]
        assert await nodes.there.stop(turn.thread_id or "") is False


@within(HOUR)
async def test_a_client_may_not_stop_on_another_node_what_it_may_not_stop_here(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two(SLOWLY) as nodes:
        nodes.here.allow_cancel = False
        async with streaming(nodes.here) as turn:
            with pytest.raises(Exception, match="can't be stopped"):
                await nodes.there.stop(turn.thread_id or "", by_client=True)
            await turn.read()
        assert await nodes.transcript(turn.thread_id) == WHOLE


@within(HOUR)
async def test_a_thread_read_on_another_node_shows_the_answer_so_far(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY) as nodes, streaming(nodes.here) as turn:
        thread = await client(nodes.there).thread(turn.thread_id or "")

        *_, answer = lines(list(thread.items.data))
        assert answer.startswith("assistant: " + "".join(WORDS[:3]))


@within(HOUR)
async def test_a_thread_read_on_another_node_waits_for_an_answer_that_is_being_stored(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = MemoryCluster()
    slow = SlowStore(MemoryStore[Any](cluster=cluster), 0.5)
    here = scripted_server(slow, SLOWLY)
    there = scripted_server(MemoryStore[Any](cluster=cluster), [say("Fine")])
    async with here, there, streaming(here) as turn:
        turn.server_turn.cancel()
        thread = await client(there).thread(turn.thread_id or "")

        assert lines(list(thread.items.data)) == cut_after(3, "stopped")[:2]
        assert (await transcript(there.store, turn.thread_id))[-1] == "note: stopped"


@within(HOUR)
async def test_a_title_given_on_another_node_is_kept(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two([*SLOWLY, do(lambda _: None)]) as nodes, streaming(nodes.here) as turn:
        await client(nodes.there).rename(turn.thread_id or "", "Mine")
        await turn.read()
        thread = await nodes.there.store.load_thread(turn.thread_id or "", None)
        assert thread.title == "Mine"
        assert await nodes.transcript(turn.thread_id) == WHOLE


@asynccontextmanager
async def settling_slowly() -> AsyncIterator[tuple[ScriptedServer, str]]:
    """Give a server and a thread whose answer another node is storing, for another 3.5 s."""
    cluster = MemoryCluster(lease_timeout=LEASE)
    slow = SlowWrites(MemoryStore[Any](cluster=cluster), 4.5, "settle")
    here = scripted_server(slow, [set_metadata, say(*WORDS[:3], every=0.1), pause(FOR_EVER)])
    there = scripted_server(MemoryStore[Any](cluster=cluster), [say("Fine")])
    async with here, there, streaming(here) as turn:
        turn.server_turn.cancel()
        await trio.sleep(1)
        assert not turn.server_turn.settled.is_set()
        yield there, turn.thread_id or ""
        await turn.server_turn.settled.wait()


set_metadata = do(lambda scene: scene.thread.metadata.update(seen=True))


@within(HOUR)
async def test_a_title_given_on_another_node_while_the_answer_is_being_stored_is_kept(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with settling_slowly() as (server, thread_id):
        answer = await client(server).rename(thread_id, "Mine")
        assert (await transcript(server.store, thread_id)) == cut_after(3, "stopped")
        await trio.sleep(60)

        thread = await server.store.load_thread(thread_id, None)
    assert answer.title == "Mine"
    assert (thread.title, thread.metadata) == ("Mine", {"seen": True})


@within(HOUR)
async def test_how_an_answer_ended_is_known_on_another_node_when_it_is_stored(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with settling_slowly() as (server, thread_id):
        ending = await server.last_ending(thread_id, None)
        thread = await client(server).thread(thread_id)

    assert ending is not None
    assert ending.reason == "stopped"
    assert lines(list(thread.items.data)) == cut_after(3, "stopped")[:2]


@pytest.mark.parametrize("reads", [0.0, 0.04, 0.2])
@within(HOUR)
async def test_a_title_given_while_a_turn_begins_on_another_node_is_kept(
    reads: float, hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The turn begins after the look for one, and loads the old title before the new one is
    stored; or its node hears late that it has begun."""
    cluster = MemoryCluster(lease_timeout=LEASE)
    store_here = TroubledStore(MemoryStore[Any](cluster=cluster))
    store_there = TroubledStore(MemoryStore[Any](cluster=cluster))
    here = scripted_server(store_here, [say("One")], [pause(1), set_metadata, say("Two")])
    there = scripted_server(store_there, [say("Fine")])
    async with here, there:
        thread_id = (await answered(here)).thread_id or ""
        store_here.give(tells_late(reads), "coordination.begin")
        store_there.give(takes(0.1), "save_thread")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client(there).rename, thread_id, "Mine")
            await trio.sleep(0.05)
            nursery.start_soon(answered, here, "and?", thread_id)

        thread = await here.store.load_thread(thread_id, None)
    assert (thread.title, thread.metadata) == ("Mine", {"seen": True})


@within(HOUR)
async def test_a_thread_deleted_on_another_node_does_not_come_back(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two([*SLOWLY, set_title("again")]) as nodes, streaming(nodes.here) as turn:
        await client(nodes.there).delete(turn.thread_id or "")
        await turn.read()
        assert await client(nodes.here).threads() == []
        assert turn.server_turn.settled.is_set()


# --- Watching from another node ----------------------------------------------------------------


@within(HOUR)
async def test_a_watcher_on_another_node_gets_every_frame_once_with_its_number(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY) as nodes:
        seen: list[bytes] = []
        async with await stream(nodes.here, message_request(), can_return=True) as result:
            with trio.move_on_after(5.5):
                async for frame in result:
                    seen.append(frame)  # noqa: PERF401  (as it comes)
        follow = await nodes.there.follow(thread_id_of(seen), start=len(seen))
        assert follow is not None
        assert isinstance(follow.turn, RemoteTurn)
        assert follow.next_frame_number == len(seen)
        rest = await read_all(follow)
        assert await nodes.transcript(thread_id_of(seen)) == WHOLE
    async with two(SLOWLY) as nodes:
        whole = await read_all(await stream(nodes.here, message_request(), can_return=True))
    assert len(seen) + len(rest) == len(whole)
    assert "".join(map(delta_of, [*seen, *rest])) == "".join(WORDS)


def delta_of(frame: bytes) -> str:
    event = json.loads(frame.removeprefix(b"data: "))
    return str(event.get("update", {}).get("delta", ""))


@within(HOUR)
async def test_a_watcher_on_another_node_waits_for_the_turn_to_begin(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The store has begun it, and its node doesn't know so yet."""

    class TellsLate(StoreWrapper[Any]):
        async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
            answer = await call()
            if name == "coordination.begin":
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
            return answer

    cluster = MemoryCluster(lease_timeout=LEASE)
    here = scripted_server(TellsLate(MemoryStore[Any](cluster=cluster)), SLOWLY)
    there = scripted_server(MemoryStore[Any](cluster=cluster), [])
    async with here, there, trio.open_nursery() as nursery:
        result = await stream(here, message_request(), new_thread_id="thr_new")
        nursery.start_soon(read_all, result)
        await trio.sleep(1)
        follow = await there.follow("thr_new")
        assert follow is not None
        frames = await read_all(follow)

    assert "".join(map(delta_of, frames)) == "".join(WORDS)


@within(HOUR)
async def test_a_watcher_on_another_node_keeps_the_answer_going(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY, return_timeout=2.0) as nodes:
        async with streaming(nodes.here, can_return=True) as turn:
            follow = await nodes.there.follow(turn.thread_id or "")
            assert follow is not None
        await read_all(follow)
        assert await nodes.transcript(turn.thread_id) == WHOLE


@within(HOUR)
async def test_a_watcher_on_another_node_that_leaves_is_a_disconnect(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two([say(*WORDS[:3], every=0.1), pause(FOR_EVER)], return_timeout=2.0) as nodes:
        async with streaming(nodes.here, can_return=True) as turn:
            follow = await nodes.there.follow(turn.thread_id or "")
            assert follow is not None
        async with follow:
            await follow.receive()
        await trio.sleep(5)
        assert await nodes.transcript(turn.thread_id) == cut_after(3, "disconnected")


@within(HOUR)
async def test_a_watcher_on_another_node_is_told_how_the_shutdown_ended_the_answer(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = MemoryCluster(lease_timeout=LEASE)
    here = scripted_server(MemoryStore[Any](cluster=cluster), SLOWLY)
    there = scripted_server(MemoryStore[Any](cluster=cluster), [say("Fine")])
    frames: list[bytes] = []
    async with there, trio.open_nursery() as nursery:
        async with here, streaming(here) as turn:
            follow = await there.follow(turn.thread_id or "")
            assert follow is not None

            async def read() -> None:
                frames.extend(await read_all(follow))

            nursery.start_soon(read)
        await trio.sleep(6)

        assert follow.turn.end_reason == "shutdown"
        assert "".join(map(delta_of, frames)).startswith("".join(WORDS[:3]))
        assert (await transcript(there.store, turn.thread_id))[-1] == "note: shutdown"


@within(HOUR)
async def test_a_node_at_rest_asks_for_its_news_when_a_turn_begins(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else it would learn late that it has lost its lock, and others take it for dead."""
    asked_at: list[float] = []

    class Watched(StoreWrapper[Any]):
        async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
            if name == "coordination.news":
                asked_at.append(trio.current_time())
            return await call()

    store = Watched(MemoryStore[Any](cluster=MemoryCluster(lease_timeout=LEASE)))
    async with scripted_server(store, SLOWLY) as server:
        await trio.sleep(LEASE + 0.1)  # it has just asked, and would ask again in a quarter of it
        begun_at = trio.current_time()
        assert asked_at[-1] < begun_at
        async with streaming(server, words=1):
            pass
    assert begun_at in asked_at


@within(HOUR)
async def test_what_nobody_watches_elsewhere_costs_no_message(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[bytes] = []
    post = MemoryCluster.post

    def counted(self: MemoryCluster, name: str, message: bytes) -> None:
        posted.append(message)
        post(self, name, message)

    monkeypatch.setattr(MemoryCluster, "post", counted)
    async with two(SLOWLY) as nodes, client(nodes.here).send("hi") as turn:
        await turn.read()
    assert posted == []


@asynccontextmanager
async def watching_the_dead(**settings: Any) -> AsyncIterator[StreamingResult]:
    """Watch an answer of another node, which has been killed just now."""
    cluster = MemoryCluster(lease_timeout=LEASE)
    here = scripted_server(MemoryStore[Any](cluster=cluster), [say("a"), pause(FOR_EVER)])
    policy = TurnPolicy(**settings)
    there = scripted_server(MemoryStore[Any](cluster=cluster), [say("Fine")], policy=policy)
    async with there, trio.open_nursery() as nursery:
        dying = trio.CancelScope()
        thread_ids: list[str] = []
        nursery.start_soon(run_until_killed, here, dying, thread_ids)
        await trio.sleep(1)
        follow = await there.follow(thread_ids[0])
        assert follow is not None
        kill(here, cluster)
        dying.cancel()
        yield follow


@within(HOUR)
async def test_a_watcher_learns_that_the_node_has_died(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with watching_the_dead() as follow:
        began_at = trio.current_time()
        with pytest.raises(Exception, match="the server of this answer doesn't respond"):
            await read_all(follow)
        assert trio.current_time() <= began_at + 2 * LEASE


async def again_and_again(receive: Callable[[], Awaitable[list[bytes]]]) -> None:
    """Read until that raises."""
    while True:
        await receive()


@pytest.mark.parametrize("heartbeat", [5.0, LEASE, 2 * LEASE, None])
@within(HOUR)
async def test_a_watcher_that_sends_heartbeats_learns_that_the_node_has_died(
    heartbeat: float | None, hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with watching_the_dead(heartbeat=heartbeat) as follow:
        began_at = trio.current_time()
        async with follow:
            with pytest.raises(FramesLost, match="the server of this answer doesn't respond"):
                await again_and_again(follow.receive_in_time)
        assert trio.current_time() <= began_at + 2 * LEASE


@pytest.mark.parametrize("receives", ["receive", "receive_in_time"])
@within(HOUR)
async def test_a_watcher_that_pauses_for_longer_than_the_lease_is_told_at_once_that_it_lags(
    receives: str, hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Both nodes live: the turn's node has given the watcher up meanwhile."""
    async with (
        two([say(*WORDS, every=1.0), pause(10 * LEASE)]) as nodes,
        streaming(nodes.here, words=10) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        follow = await nodes.there.follow(turn.thread_id or "")
        assert follow is not None
        async with follow:
            await follow.receive(1)
            await trio.sleep(3 * LEASE)
            came_back_at = trio.current_time()
            with pytest.raises(FramesLost):
                await again_and_again(getattr(follow, receives))
            assert trio.current_time() == came_back_at


@within(HOUR)
async def test_a_watcher_is_not_given_up_while_the_answer_pauses(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two([say("a"), pause(20 * LEASE), say("b")], heartbeat=LEASE) as nodes:
        client = ChatClient.of_server(nodes.here)
        async with client.send("hi") as turn, trio.open_nursery() as nursery:
            await turn.wait_for(lambda event: event.type == "thread.item.done")
            nursery.start_soon(turn.read)
            follow = await nodes.there.follow(turn.thread_id or "")
            assert follow is not None
            frames: list[bytes] = []
            async with follow:
                with suppress(trio.EndOfChannel):
                    while True:
                        frames += await follow.receive_in_time()
    assert "".join(map(delta_of, frames)) == "ab"


@pytest.mark.parametrize("leaves_by", ["draining", "leaving"])
@within(HOUR)
async def test_watchers_of_other_nodes_are_told_when_their_own_node_leaves(
    leaves_by: str, hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    """They'd hold the node up for the whole grace of its connections, and be cut at its end."""
    cluster = MemoryCluster(lease_timeout=LEASE)
    policy = TurnPolicy(on_disconnect="finish")
    here, there, third = (
        scripted_server(MemoryStore[Any](cluster=cluster), SLOWLY, policy=policy) for _ in range(3)
    )
    told: list[tuple[str, float]] = []

    async def watch(follow: StreamingResult) -> None:
        async with follow:
            try:
                await again_and_again(follow.receive)
            except trio.EndOfChannel:
                told.append(("whole", trio.current_time()))
            except FramesLost:
                told.append(("lost", trio.current_time()))

    async with here, third, trio.open_nursery() as nursery:
        async with there:
            async with streaming(here, words=2) as turn:
                for server in (there, third):
                    follow = await server.follow(turn.thread_id or "")
                    assert follow is not None
                    nursery.start_soon(watch, follow)
            await trio.sleep(5)
            left_at = trio.current_time()
            if leaves_by == "draining":
                await there.drain(20)
                await trio.sleep(2)
                [turn_here] = here.live_turns
                assert turn_here.log.readers == 1  # its node knows, too
        await trio.testing.wait_all_tasks_blocked()
        assert told == [("lost", left_at)]
    assert [how for how, _ in told] == ["lost", "whole"]


@within(HOUR)
async def test_who_comes_to_a_node_that_leaves_to_watch_another_one_is_sent_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two(SLOWLY) as nodes, streaming(nodes.here) as turn:
        await nodes.there.drain(0)
        follow = await nodes.there.follow(turn.thread_id or "")
        assert follow is not None
        async with follow:
            with trio.fail_after(5), pytest.raises(FramesLost):
                await again_and_again(follow.receive)


@within(HOUR)
async def test_a_server_that_leaves_ends_no_watch_of_another_server_on_its_store(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster(lease_timeout=LEASE)
    shared = MemoryStore[Any](cluster=cluster)
    here = scripted_server(MemoryStore[Any](cluster=cluster), SLOWLY)
    there, beside = scripted_server(shared, []), scripted_server(shared, [])
    async with here, there, streaming(here) as turn, trio.open_nursery() as nursery:
        nursery.start_soon(turn.read)
        follow = await there.follow(turn.thread_id or "")
        assert follow is not None
        async with beside:
            await beside.drain(0)
        frames = await read_all(follow)
    assert "".join(map(delta_of, frames)) == "".join(WORDS)


# --- A node dies, or is taken for dead ---------------------------------------------------------


def kill(server: ChatKitServer[Any], cluster: MemoryCluster) -> None:
    """End a server's part in the cluster, as `kill -9` would."""
    assert server.store.coordination is not None
    cluster.leave(server.store.coordination.node)


async def run_until_killed(
    server: ScriptedServer, scope: trio.CancelScope, thread_ids: list[str]
) -> None:
    with scope:
        async with server, client(server).send("hi") as turn:
            await turn.wait_for(lambda event: event.type == "thread.item.updated")
            thread_ids.append(turn.thread_id or "")
            await turn.read()


@within(HOUR)
async def test_the_answer_of_a_dead_node_is_settled_when_its_thread_is_read(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    script = [say(*WORDS[:3], every=0.1), pause(FOR_EVER)]
    async with two(script) as nodes, streaming(nodes.here) as turn:
        await trio.sleep(1)
        kill(nodes.here, nodes.cluster)
        await client(nodes.there).thread(turn.thread_id or "")
        assert await nodes.transcript(turn.thread_id) == cut_after(3, "crashed")


@within(HOUR)
async def test_the_answer_of_a_silent_node_is_settled_within_its_lease(
    hints: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [say(*WORDS[:3], every=0.1), pause(FOR_EVER)]
    async with two(script) as nodes, streaming(nodes.here) as turn:
        await trio.sleep(1)
        paused = nodes.here.store.coordination
        assert paused is not None
        monkeypatch.setattr(paused, "news", trio.sleep_forever)
        await trio.sleep(LEASE + 2)
        assert await nodes.transcript(turn.thread_id) == cut_after(3, "crashed")


@within(HOUR)
async def test_a_node_that_was_taken_for_dead_writes_nothing_more(
    hints: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(SLOWLY) as nodes, streaming(nodes.here) as turn:
        coordination = nodes.here.store.coordination
        assert coordination is not None
        nodes.cluster.abandon(turn.server_turn.id, coordination.node)
        await client(nodes.there).thread(turn.thread_id or "")
        async with client(nodes.there).send("and?", turn.thread_id) as second:
            await second.read()
        await turn.server_turn.settled.wait()

        stored = await nodes.transcript(turn.thread_id)
        assert stored[0] == "user: hi"
        assert stored[-3:] == ["note: crashed", "user: and?", "assistant: Fine"]
        assert turn.server_turn.cancel_reason is CancelReason.CRASHED


@within(HOUR)
async def test_a_turn_that_another_node_has_settled_did_not_fail(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    script = [say("one ", "two ", every=1.0), say("three")]
    async with two(script) as nodes:
        async with client(nodes.here).send("hi") as turn:
            await turn.wait_for(lambda event: "one " in event.model_dump_json())
            coordination = nodes.here.store.coordination
            assert coordination is not None
            nodes.cluster.abandon(turn.server_turn.id, coordination.node)
            await client(nodes.there).thread(turn.thread_id or "")
            events = await turn.read()

        assert turn.server_turn.cancel_reason is CancelReason.CRASHED
        assert [event for event in events if event.type == "error"] == []
        assert (await nodes.transcript(turn.thread_id))[-1] == "note: crashed"
        assert "failed" not in caplog.text


@pytest.mark.parametrize("seconds", [0.5, LEASE - 1])
@within(HOUR)
async def test_an_answer_outlives_an_outage_of_the_store_that_is_shorter_than_the_lease(
    autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    async with with_outage(seconds) as (server, store):
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: "one " in event.model_dump_json())
            store.goes_away()
            await turn.read()

        expected = ["user: hi", "assistant: one two ", "assistant: three"]
        assert await transcript(server.store, turn.thread_id) == expected
        assert turn.server_turn.cancel_reason is None


@within(HOUR)
async def test_a_stop_during_an_outage_of_the_store_does_not_wait_for_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with with_outage(LEASE - 1) as (server, store):
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: "one " in event.model_dump_json())
            store.goes_away()
            await trio.sleep(2)
            turn.server_turn.cancel()
            before = trio.current_time()
            await turn.server_turn.settled.wait()

        assert trio.current_time() - before < LEASE
        stored = await transcript(server.store, turn.thread_id)
        assert stored == ["user: hi", "assistant: one two ", "note: stopped"]


@within(HOUR)
async def test_a_request_that_waits_on_two_nodes_is_carried_out_once(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY, [say("Fine")], on_busy="queue") as nodes:
        async with streaming(nodes.here) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            body = message_request(thread_id=turn.thread_id)
            for server in (nodes.there, nodes.here):
                nursery.start_soon(carried_out, server, body)
        expected = [*WHOLE, "user: hi", "assistant: Fine"]
        assert await nodes.transcript(turn.thread_id) == expected
        # Who came too late and asks again gets the answer.
        frames = await carried_out(nodes.there, body)
        assert any(b"Fine" in frame for frame in frames)
        assert await nodes.transcript(turn.thread_id) == expected


def begin_slowly(server: ScriptedServer, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the store take so long until it is asked whether a turn of this node may begin."""
    coordination = server.store.coordination
    assert coordination is not None
    begin = coordination.begin

    async def slowly(*args: Any) -> Any:
        await trio.sleep(seconds)
        return await begin(*args)

    monkeypatch.setattr(coordination, "begin", slowly)


@pytest.mark.parametrize("on_busy", ["queue", "supersede"])
@within(HOUR)
async def test_who_waits_for_a_request_of_another_node_that_was_sent_here_too_asks_now_and_then(
    on_busy: Any,
    hints: str,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its copy here waits behind who waits, but its place, and then its turn, are the other's."""
    async with two(SLOWLY, other=[say(*WORDS[:10], every=1.0)], on_busy="queue") as nodes:
        nodes.here.allow_cancel = False
        store = MemoryStore[Any](cluster=nodes.cluster)
        third = scripted_server(store, [say("Third")], policy=TurnPolicy(on_busy=on_busy))
        third.allow_cancel = False  # or the copy would supersede it
        assert store.coordination is not None
        begins = count_begins(store.coordination, monkeypatch)
        async with third, streaming(nodes.here) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            body = message_request("twice", thread_id=turn.thread_id)
            nursery.start_soon(carried_out, nodes.there, body)
            await trio.sleep(1)
            nursery.start_soon(answered, third, "third", turn.thread_id)
            await trio.sleep(1)
            nursery.start_soon(refused_or_carried_out, third, body)
            await turn.server_turn.ended.wait()
        stored = await nodes.transcript(turn.thread_id)
    end = "note: superseded" if on_busy == "supersede" else "assistant: " + "".join(WORDS[:10])
    assert stored == [*WHOLE, "user: twice", end, "user: third", "assistant: Third"]
    assert len(begins) < 200


def count_begins(coordination: Coordination[Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note what is asked to begin; time passes too if somebody asks without a pause."""
    asked: list[Any] = []
    begin = coordination.begin

    async def counted(*args: Any) -> Any:
        asked.append(args)
        await trio.sleep(0.001)
        return await begin(*args)

    monkeypatch.setattr(coordination, "begin", counted)
    return asked


@within(HOUR)
async def test_a_request_refused_beside_its_begun_twin_records_no_end(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same request waits on both nodes; a third copy of it tells one that the other begins."""
    async with two(SLOWLY, [say("Fi", "ne", every=60.0)], on_busy="queue") as nodes:
        begin_slowly(nodes.there, 3, monkeypatch)
        async with streaming(nodes.here) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            body = message_request(thread_id=turn.thread_id)
            nursery.start_soon(refused_or_carried_out, nodes.there, body)
            await trio.sleep(0.1)
            nursery.start_soon(refused_or_carried_out, nodes.here, body)
            await turn.server_turn.ended.wait()
            await trio.sleep(1)
            nursery.start_soon(refused_or_carried_out, nodes.there, body)
            await trio.sleep(20)

            record = await nodes.here.store.find_request("k", HOUR, None)
            assert record is not None
            assert (record.begun, record.answer) == (True, None)
        record = await nodes.here.store.find_request("k", HOUR, None)
        assert record is not None
        assert len(json.loads(record.answer or b"")["item_ids"]) == 1
        assert await nodes.transcript(turn.thread_id) == [*WHOLE, "user: hi", "assistant: Fine"]


async def refused_or_carried_out(server: ChatKitServer[Any], body: bytes) -> None:
    with suppress(ChatKitError):
        await carried_out(server, body)


@within(HOUR)
async def test_a_client_that_leaves_while_its_turn_asks_for_the_thread_takes_it_along(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is slow to say that the thread is another node's."""
    async with two([say(*WORDS, every=100.0)], on_busy="queue") as nodes:
        begin_slowly(nodes.there, 2, monkeypatch)
        async with streaming(nodes.here, words=1) as turn:
            waiting = await stream(nodes.there, message_request(thread_id=turn.thread_id))
            with trio.move_on_after(1):
                await read_all(waiting)
            await trio.sleep(5)

            assert list(nodes.there.live_turns) == []
            await turn.stop()
        await trio.sleep(60)
        stored = await nodes.transcript(turn.thread_id)
        assert stored == ["user: hi", "assistant: word0 ", "note: stopped"]


async def carried_out(server: ChatKitServer[Any], body: bytes) -> list[bytes]:
    return await read_all(await server.process(body, None, idempotency_key="k"))  # type: ignore


@pytest.mark.parametrize("name", ["add_thread_item", "save_item", "delete_thread_item", "settle"])
@pytest.mark.parametrize("is_begun", [True, False], ids=["begun", "only done"])
@within(HOUR)
async def test_a_write_whose_outcome_was_lost_is_made_once(
    name: str, is_begun: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """The connection breaks behind the commit: the store has it, and the turn tries again."""
    store = LosingStore(MemoryStore[Any](cluster=MemoryCluster(lease_timeout=LEASE)), name)

    begun = [begin("a"), begin("b")] if is_begun else []
    done = [finish("a", "one"), finish("b", "two")]
    script = [emit(*begun, *done, rewritten, ThreadItemRemovedEvent(item_id="a"))]
    async with scripted_server(store, script) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.read()

        assert await transcript(server.store, turn.thread_id) == ["user: hi", "assistant: zwei"]
        assert turn.server_turn.cancel_reason is None
    assert store.lost


def rewritten(scene: Scene) -> ThreadItemReplacedEvent:
    return ThreadItemReplacedEvent(item=finish("b", "zwei")(scene).item)


class LosingStore(StoreWrapper[Any]):
    """A store that makes every write of a kind, and raises after the first try of each."""

    def __init__(self, store: MemoryStore[Any], name: str) -> None:
        super().__init__(store)
        self._name = name
        self.lost = 0

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        answer = await call()
        if name == self._name:
            self.lost += 1
            if self.lost % 2:
                raise StoreError("the connection is lost")
        return answer


class AwayStore(StoreWrapper[Any]):
    """A store of which items can't be written for some time, and settlements neither."""

    def __init__(self, store: MemoryStore[Any], seconds: float) -> None:
        super().__init__(store)
        self._seconds = seconds
        self._until = 0.0

    def goes_away(self) -> None:
        self._until = trio.current_time() + self._seconds

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        is_write = name in ("add_thread_item", "save_item", "load_item", "settle")
        if is_write and trio.current_time() < self._until:
            raise StoreError("gone")
        return await call()


@asynccontextmanager
async def with_outage(seconds: float) -> AsyncIterator[tuple[ScriptedServer, AwayStore]]:
    store = AwayStore(MemoryStore[Any](cluster=MemoryCluster(lease_timeout=LEASE)), seconds)
    server = scripted_server(store, [say("one ", "two ", every=0.1), say("three")])
    async with server:
        yield server, store


@asynccontextmanager
async def overtaken() -> AsyncIterator[
    tuple[Two, Coordination[Any], ClientTurn, Callable[[], Awaitable[ClientTurn]]]
]:
    """Let one node answer, and give what has the other node take it for dead and answer too."""
    async with (
        two(SLOWLY, other=SLOWLY) as nodes,
        streaming(nodes.here) as turn,
        AsyncExitStack() as stack,
    ):
        coordination = nodes.here.store.coordination
        assert coordination is not None

        async def take_over() -> ClientTurn:
            nodes.cluster.abandon(turn.server_turn.id, coordination.node)
            sending = client(nodes.there).send("and?", turn.thread_id)
            second = await stack.enter_async_context(sending)
            await second.wait_for(lambda event: WORDS[0] in event.model_dump_json())
            return second

        yield nodes, coordination, turn, take_over


async def is_live_for(
    server: ChatKitServer[Any], turn: ClientTurn, *, within: float = HOUR
) -> None:
    """Check that a server finds another node's turn on its thread, in so long, and can stop it."""
    thread_id = turn.server_turn.thread_id
    with trio.fail_after(within):
        live_id = await server.live_turns.watchable(thread_id)
        thread = await client(server).thread(thread_id)
    stopped = await server.stop(thread_id)

    assert live_id == turn.server_turn.id
    assert lines(list(thread.items.data))[-1].startswith("assistant: word0 ")
    assert stopped
    assert turn.server_turn.cancel_reason is CancelReason.STOPPED


@within(HOUR)
async def test_a_node_that_was_paused_knows_of_the_turns_that_began_elsewhere(
    hints: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with overtaken() as (nodes, coordination, _, take_over):
        with monkeypatch.context() as pause:
            pause.setattr(coordination, "news", trio.sleep_forever)
            await trio.sleep(coordination.poll_interval)
            second = await take_over()
            wakes_up(nodes.here)
        await is_live_for(nodes.here, second)


@within(HOUR)
async def test_a_turn_that_was_lost_hides_no_other_while_it_ends(
    hints: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that was taken for dead knows it, and its store is slow to refuse the rest."""
    async with overtaken() as (nodes, coordination, turn, take_over):
        settle = nodes.here.store.settle

        async def settle_late(*arguments: Any) -> None:
            await trio.sleep(8.0)
            await settle(*arguments)

        monkeypatch.setattr(nodes.here.store, "settle", settle_late)
        second = await take_over()
        await trio.sleep(2 * coordination.poll_interval)
        assert turn.server_turn.cancel_reason is CancelReason.CRASHED
        assert not turn.server_turn.settled.is_set()
        # Without hints, both nodes look into their boxes once in an interval.
        await is_live_for(nodes.here, second, within=2.5 * coordination.poll_interval)


def test_a_watch_of_another_node_may_end_while_its_own_server_leaves() -> None:
    """Found by a seed: it raised that the nursery is closed."""
    simulate(
        nodes=3,
        seeds=[10362],
        operations=[
            Operation(0.0, "send", text="rewrite say:1:0.2 tool"),
            Operation(0.273, "answer", client=1, text="labor:2:0", node=2),
            Operation(0.283, "feedback", client=1, node=1),
            Operation(0.409, "watch", node=1),
            Operation(0.515, "hold", text="pause", seconds=8.0, node=1),
            Operation(1.164, "watch", client=1, node=2),
            Operation(2.097, "restart", seconds=1.0, node=1),
        ],
    )


def wakes_up(server: ChatKitServer[Any]) -> None:
    """Make the server believe that it wakes up from a pause longer than its lease."""
    node = node_of(server.store)
    assert node is not None
    node._heard_at = -HOUR


# --- The same request twice --------------------------------------------------------------------


@within(HOUR)
async def test_a_request_repeated_on_another_node_reads_the_same_turn(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY) as nodes:
        body = message_request()
        first = await nodes.here.process(body, None, can_return=True, idempotency_key="k")
        frames: list[bytes] = []
        async with first:  # type: ignore[union-attr]
            with trio.move_on_after(4.5):
                async for frame in first:  # type: ignore[union-attr]
                    frames.append(frame)  # noqa: PERF401
        again = await nodes.there.process(body, None, can_return=True, idempotency_key="k")
        repeated = await read_all(again)  # type: ignore[arg-type]
        assert repeated[: len(frames)] == frames
        assert "".join(map(delta_of, repeated)) == "".join(WORDS)
        assert await nodes.transcript(thread_id_of(frames)) == WHOLE


@pytest.mark.parametrize("allow_cancel", [True, False])
@within(HOUR)
async def test_a_request_repeated_on_another_node_when_frames_are_gone_gets_the_state_and_the_rest(
    allow_cancel: bool, hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two(SLOWLY, max_replay_bytes=2000) as nodes, trio.open_nursery() as nursery:
        nodes.here.allow_cancel = allow_cancel
        async with client(nodes.here).send("hi", idempotency_key="k") as first:
            await first.wait_for(lambda event: WORDS[20] in event.model_dump_json())
            nursery.start_soon(first.read)
            asked_at = trio.current_time()
            async with client(nodes.there).send("hi", idempotency_key="k") as second:
                await second.read(1)
                waited = trio.current_time() - asked_at
                await second.read()
        stored = await nodes.transcript(first.thread_id)

    assert stored == WHOLE
    assert second.items == first.items
    options = StreamOptionsEvent(stream_options=StreamOptions(allow_cancel=allow_cancel))
    assert second.events[:2] == [first.events[0], options]
    assert [event.type for event in second.events[2:4]] == ["thread.item.done", "thread.item.added"]
    assert len(second.events) < len(first.events)
    assert waited < 7  # for three questions, each answered at the latest in an interval or two


@within(HOUR)
async def test_a_request_that_came_to_two_nodes_at_once_reads_the_turn_when_it_is_sent_again(
    hints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with two([say("Hello")], SLOWLY) as nodes:
        thread_id = (await answered(nodes.here)).thread_id
        body = message_request(thread_id=thread_id)
        # Both are accepted before either has begun.
        first = await stream(nodes.here, body, idempotency_key="k")
        second = await stream(nodes.there, body, idempotency_key="k")
        frames: list[bytes] = []

        async def read() -> None:
            frames.extend(await read_all(first))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0.5)
            refused = await read_all(second)
            asked_at = trio.current_time()
            again = await stream(nodes.there, body, idempotency_key="k")
            waited = trio.current_time() - asked_at
            repeated = await read_all(again)

    assert [event["type"] for event in events_of(refused)] == ["error"]
    assert waited < 5
    assert repeated == frames
    # A reader may hold what it was refused with for as long as it likes.
    assert isinstance(second.turn, Turn)
    assert isinstance(again.turn, RemoteTurn)


async def hangs(*_: Any) -> None:
    await trio.sleep_forever()


class Transcribing(ScriptedServer):
    """Numbers its transcripts; each takes 2 s, and as many as there are errors fail first."""

    def __init__(self, cluster: MemoryCluster, made: list[str], errors: list[Exception]) -> None:
        super().__init__(MemoryStore[Any](cluster=cluster), lambda *_: None)
        self.made, self.errors = made, errors

    async def transcribe(self, audio_input: Any, context: Any) -> TranscriptionResult:
        self.made.append(f"take {len(self.made)}")
        text = self.made[-1]
        await trio.sleep(2)
        if self.errors:
            raise self.errors.pop()
        return TranscriptionResult(text=text)


@asynccontextmanager
async def transcribing(
    *errors: Exception,
) -> AsyncIterator[tuple[list[Transcribing], MemoryCluster, list[str]]]:
    cluster, made = MemoryCluster(lease_timeout=LEASE), list[str]()
    nodes = [Transcribing(cluster, made, [*errors]) for _ in range(2)]
    async with nodes[0], nodes[1]:
        yield nodes, cluster, made


async def transcript_of(server: ChatKitServer[Any]) -> str:
    params = InputTranscribeParams(audio_base64="AAAA", mime_type="audio/wav")
    body = body_of(InputTranscribeReq(params=params))
    result = await server.process(body, None, idempotency_key="k")
    assert isinstance(result, NonStreamingResult)
    text: str = json.loads(result.json)["text"]
    return text


@pytest.mark.parametrize("seconds_later", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("repeats", ["th", "tht", "ttt", "hth"])
@within(HOUR)
async def test_a_request_with_one_answer_that_comes_to_several_nodes_is_carried_out_once(
    repeats: str, seconds_later: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with transcribing() as (nodes, _, made):
        answers: list[str] = []

        async def ask(name: str) -> None:
            answers.append(await transcript_of(nodes["ht".index(name)]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "h")
            await trio.sleep(seconds_later)
            for name in repeats:
                nursery.start_soon(ask, name)

    assert made == ["take 0"]
    assert answers == ["take 0"] * (1 + len(repeats))


@pytest.mark.parametrize("end", ["fails", "is cancelled", "dies"])
@within(HOUR)
async def test_a_request_with_one_answer_that_got_none_is_carried_out_by_its_repeat_elsewhere(
    end: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transcribing() as (nodes, cluster, made), trio.open_nursery() as nursery:
        if end == "fails":
            nodes[0].errors.append(OSError("not now"))
        first = trio.CancelScope()

        async def ask() -> None:
            with first, suppress(OSError):
                await transcript_of(nodes[0])

        nursery.start_soon(ask)
        await trio.sleep(1)
        if end == "is cancelled":
            first.cancel()
        if end == "dies":
            kill(nodes[0], cluster)
            monkeypatch.setattr(nodes[0].store, "update_request", hangs)  # it writes no more
        answer = await transcript_of(nodes[1])
        again = await transcript_of(nodes[1])

    assert made == ["take 0", "take 1"]
    assert answer == again == "take 1"


@pytest.mark.parametrize("failures", [1, 2, 3])
@within(HOUR)
async def test_a_request_that_has_failed_is_carried_out_once_by_its_repeats_on_two_nodes(
    failures: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with transcribing() as (nodes, _, made):
        for number in range(failures):
            node = nodes[number % 2]
            node.errors.append(OSError("not now"))
            with pytest.raises(OSError, match="not now"):
                await transcript_of(node)
        answers: list[str] = []

        async def ask(node: Transcribing) -> None:
            answers.append(await transcript_of(node))

        async with trio.open_nursery() as nursery:
            for node in (*nodes, *nodes):
                nursery.start_soon(ask, node)

    assert made == [f"take {number}" for number in range(failures + 1)]
    assert answers == [f"take {failures}"] * 4


@within(HOUR)
async def test_a_repeat_does_not_wait_for_ever_for_an_answer_of_another_node(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with transcribing() as (nodes, _, _made), trio.open_nursery() as nursery:
        monkeypatch.setattr(nodes[0], "transcribe", hangs)
        nursery.start_soon(transcript_of, nodes[0])
        await trio.sleep(1)
        with pytest.raises(StoreError, match="send it again"):
            await transcript_of(nodes[1])
        nursery.cancel_scope.cancel()


# --- Limits by owner ---------------------------------------------------------------------------


@asynccontextmanager
async def two_with_limits(**limits: int) -> AsyncIterator[tuple[ScriptedServer, ScriptedServer]]:
    cluster, owner_limits = MemoryCluster(lease_timeout=LEASE), OwnerLimits(**limits)
    here, there = (
        scripted_server(
            MemoryStore[Any](owner=str, cluster=cluster), SLOWLY, owner_limits=owner_limits
        )
        for _ in range(2)
    )
    async with here, there:
        yield here, there


@within(HOUR)
async def test_the_live_turns_of_an_owner_count_on_all_nodes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_with_limits(live_turns=1) as (here, there):
        async with ChatClient.of_server(here, "Ann").send("hi") as turn:
            await turn.wait_for(lambda event: WORDS[0] in event.model_dump_json())
            with pytest.raises(RequestRefused) as refusal:
                async with ChatClient.of_server(there, "Ann").send("and?"):
                    pass
            async with ChatClient.of_server(there, "Ben").send("hi") as other:
                await other.wait_for(lambda event: WORDS[0] in event.model_dump_json())
            await turn.stop()
        async with ChatClient.of_server(there, "Ann").send("now?") as turn:
            await turn.wait_for(lambda event: WORDS[0] in event.model_dump_json())

    assert refusal.value.status == 429
    assert len(await ChatClient.of_server(here, "Ann").threads()) == 2


@pytest.mark.parametrize("policy", [None, TurnPolicy(on_busy="queue")], ids=["default", "queue"])
@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("allow_cancel", [True, False])
@within(HOUR)
async def test_an_answer_that_is_superseded_from_another_node_is_not_counted_beside_the_new_one(
    allow_cancel: bool,
    key: str | None,
    policy: TurnPolicy | None,
    hints: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_with_limits(live_turns=1) as (here, there):
        here.allow_cancel, there.policy = allow_cancel, policy or there.policy
        ann = ChatClient.of_server(there, "Ann")
        async with ChatClient.of_server(here, "Ann").send("hi", idempotency_key=key) as turn:
            await turn.wait_for(lambda event: WORDS[0] in event.model_dump_json())
            refusals: list[int] = []
            try:
                async with ann.send("and?", turn.thread_id) as second:
                    await second.wait_for(lambda event: WORDS[0] in event.model_dump_json())
                    with pytest.raises(RequestRefused, match="1 answers under way"):
                        async with ann.send("in a new thread"):
                            pass
            except RequestRefused as refusal:
                refusals.append(refusal.status)

    is_accepted = allow_cancel and policy is None
    assert refusals == ([] if is_accepted else [429])
    if is_accepted:
        assert turn.server_turn.cancel_reason is CancelReason.SUPERSEDED


@within(HOUR)
async def test_the_requests_of_an_owner_count_on_all_nodes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with two_with_limits(requests_per_minute=3) as (here, there):
        for server in (here, there, here):
            await ChatClient.of_server(server, "Ann").threads()
        for server in (here, there):
            with pytest.raises(RequestRefused, match="3 requests a minute"):
                await ChatClient.of_server(server, "Ann").threads()
        await ChatClient.of_server(there, "Ben").threads()
        await trio.sleep(20)
        await ChatClient.of_server(there, "Ann").threads()


@within(HOUR)
async def test_the_slots_of_a_node_that_leaves_are_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = OwnerLimits(live_turns=1)
    cluster = MemoryCluster(lease_timeout=LEASE)
    async with scripted_server(
        MemoryStore[Any](cluster=cluster), SLOWLY, owner_limits=limits
    ) as there:
        here = scripted_server(MemoryStore[Any](cluster=cluster), SLOWLY, owner_limits=limits)
        async with here, ChatClient.of_server(here).send("hi") as turn:
            await turn.wait_for(lambda event: WORDS[0] in event.model_dump_json())
        async with ChatClient.of_server(there).send("and?") as turn:
            await turn.wait_for(lambda event: WORDS[0] in event.model_dump_json())


@within(HOUR)
async def test_an_answer_goes_on_that_has_deleted_its_own_thread(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its record goes with the thread, but no other node has settled it."""

    async def delete(scene: Scene) -> None:
        await pair.here.store.delete_thread(scene.thread.id, None)

    bye = ProgressUpdateEvent(text="All of it is deleted.")
    script = [say("Hel", finish=False), do(delete), pause(2 * LEASE), emit(lambda _: bye)]
    async with two(script) as pair:
        turn = await answered(pair.here)

        assert turn.is_complete
        assert turn.events[-1] == bye
        assert turn.server_turn.end_reason == "finished"
        assert (await pair.there.store.load_threads(10, None, "asc", None)).data == []
    assert [line for line in caplog.records if line.levelno >= logging.ERROR] == []
