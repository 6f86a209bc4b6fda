"""Going on with an answer that a crash has cut: `on_recovered` and `continue_answer`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio.errors import NotFoundError, ServerNotRunningError
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.store import JournalEntry, Opening
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    Scene,
    Step,
    do,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    InferenceOptions,
    LockedStatus,
    ThreadItem,
    ThreadMetadata,
    UserMessageItem,
    UserMessageTextContent,
)
from tests.transcript import transcript

from .parts import NOW
from .scenes import HELLO, bounded, crash, sending

CUT = ["user: hi", "assistant: Hello", "note: crashed"]
WENT_ON = [*CUT, "assistant: , world"]


class GoesOn(ChatKitServer[Any]):
    """A server that finishes what a crash has cut, and notes what it was given."""

    def __init__(self, store: Any, *, steps: Any = None, **options: Any) -> None:
        super().__init__(store, **options)
        self.given: list[list[str]] = []
        self._script = scripted_server(store, steps or [say(", world")])

    async def respond(self, thread: ThreadMetadata, message: Any, context: Any) -> Any:
        async for event in say("Fine")(Scene(thread, message, context)):
            yield event

    async def on_recovered(
        self, thread: ThreadMetadata, partial: list[ThreadItem], context: Any
    ) -> AsyncIterator[Any]:
        self.given.append([item.type for item in partial])
        async for event in self._script.respond(thread, None, context):
            yield event


@pytest.fixture
async def cut(tmp_path: Path, jump_clock: JumpClock) -> tuple[Path, str]:
    """A database as a crash in the middle of an answer has left it, and the id of its thread."""
    return await cut_after(tmp_path, HELLO)


async def cut_after(folder: Path, *steps: Step) -> tuple[Path, str]:
    return await cut_again(folder / "chat.db", folder / "after.db", *steps)


async def cut_again(
    path: Path, into: Path, *steps: Step, text: str = "hi", thread_id: str | None = None
) -> tuple[Path, str]:
    """Send a message to a server that dies in the middle of the answer."""
    server = scripted_server(SQLiteStore(path), [*steps, pause(3600)])
    async with server, sending(server, text, thread_id) as turn:
        with trio.move_on_after(2):
            await turn.read()
        crash(path, into)
    assert turn.thread_id is not None
    return into, turn.thread_id


async def opened(server: ChatKitServer[Any], thread_id: str) -> None:
    """Open a thread as the page does, and give what that begins the time to end."""
    await ChatClient.of_server(server).thread(thread_id)
    await trio.sleep(5)


async def stored(server: ChatKitServer[Any], thread_id: str) -> list[str]:
    return await transcript(server.store, thread_id)


@bounded
async def test_an_answer_is_finished_when_its_thread_is_opened(
    cut: tuple[Path, str], jump_clock: JumpClock
) -> None:
    """In the store afterwards: the part that was there, its note, and the rest; all once."""
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path)) as server:
        await opened(server, thread_id)
        await opened(server, thread_id)

        assert await stored(server, thread_id) == WENT_ON
        assert server.given == [["assistant_message"]]
        assert await server.last_ending(thread_id, None) is None


@bounded
async def test_who_opens_the_thread_may_follow_the_answer(
    cut: tuple[Path, str], jump_clock: JumpClock
) -> None:
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path), steps=[pause(1), say(", world")]) as server:
        client = ChatClient.of_server(server)
        page = await client.thread(thread_id, with_endings=True)
        async with client.watch(thread_id) as turn:
            await turn.read()

    assert [item.type for item in page.items.data] == ["user_message", "assistant_message"]
    assert turn.text == ", world"
    assert [ending.can_continue for ending in page.items.endings or ()] == [False]


@bounded
async def test_without_the_hook_an_answer_stays_as_it_was_cut(
    cut: tuple[Path, str], jump_clock: JumpClock
) -> None:
    path, thread_id = cut
    async with scripted_server(SQLiteStore(path), [say("Fine")]) as server:
        await opened(server, thread_id)

        assert await stored(server, thread_id) == CUT
        with pytest.raises(NotImplementedError, match="on_recovered"):
            await server.continue_answer(thread_id, None)


@bounded
async def test_an_answer_of_which_nothing_was_there_is_given(
    tmp_path: Path, jump_clock: JumpClock
) -> None:
    path, thread_id = await cut_after(tmp_path, pause(1))
    async with GoesOn(SQLiteStore(path), steps=[say("Hello")]) as server:
        await opened(server, thread_id)

        assert await stored(server, thread_id) == ["user: hi", "note: crashed", "assistant: Hello"]
        assert server.given == [[]]


@bounded
async def test_many_who_open_the_thread_at_once_have_it_finished_once(
    cut: tuple[Path, str], jump_clock: JumpClock
) -> None:
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path)) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(opened, server, thread_id)

        assert await stored(server, thread_id) == WENT_ON


@bounded
async def test_of_several_servers_one_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    cluster = MemoryCluster()
    async with (
        GoesOn(MemoryStore(cluster=cluster)) as one,
        GoesOn(MemoryStore(cluster=cluster)) as other,
    ):
        thread_id = await crashed_on_a_cluster(cluster)
        async with trio.open_nursery() as nursery:
            for server in (one, other, one, other):
                nursery.start_soon(opened, server, thread_id)

        assert await stored(one, thread_id) == WENT_ON
        assert len(one.given) + len(other.given) == 1


async def crashed_on_a_cluster(cluster: MemoryCluster) -> str:
    """Leave a cut answer behind, as a node that dies does; return the id of its thread."""
    store = MemoryStore[Any](cluster=cluster)
    async with store:
        thread = ThreadMetadata(id="thr_1", created_at=NOW)
        await store.save_thread(thread, None)
        own: dict[str, Any] = {"thread_id": "thr_1", "created_at": NOW}
        hi = UserMessageItem(
            id="msg_hi",
            content=[UserMessageTextContent(text="hi")],
            inference_options=InferenceOptions(),
            **own,
        )
        assert store.coordination is not None
        assert store.journal is not None
        await store.coordination.begin(Opening("thr_1", "turn_1", new_items=(hi,)), None)
        hello = AssistantMessageItem(
            id="msg_hello", content=[AssistantMessageContent(text="Hello")], **own
        )
        await store.journal.checkpoint([JournalEntry("turn_1", "thr_1", (hello,))])
    return "thr_1"


@pytest.mark.parametrize(("most", "times"), [(0, 0), (1, 1), (3, 3)])
@bounded
async def test_what_crashes_the_server_again_is_gone_on_with_so_often(
    most: int, times: int, cut: tuple[Path, str], tmp_path: Path, jump_clock: JumpClock
) -> None:
    """In the store afterwards: a note for each crash, and nothing but what was made."""
    path, thread_id = cut
    calls = 0
    for number in range(5):
        store = SQLiteStore[Any](path)
        policy = TurnPolicy(max_continuations=most)
        async with GoesOn(store, steps=[pause(3600)], policy=policy) as server:
            await opened(server, thread_id)
            calls += len(server.given)
            crash(path, path := tmp_path / f"{number}.db")

    assert calls == times
    async with GoesOn(SQLiteStore(path), policy=TurnPolicy(max_continuations=0)) as server:
        await opened(server, thread_id)
        assert await stored(server, thread_id) == [*CUT, *["note: crashed"] * times]


@bounded
async def test_a_new_message_has_its_own_tries(
    cut: tuple[Path, str], tmp_path: Path, jump_clock: JumpClock
) -> None:
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path)) as server:
        await opened(server, thread_id)
        async with sending(server, "more", thread_id) as turn:
            await turn.read()
    path, _ = await cut_again(
        path, tmp_path / "again.db", HELLO, text="and more", thread_id=thread_id
    )
    async with GoesOn(SQLiteStore(path)) as server:
        await opened(server, thread_id)

        assert (await stored(server, thread_id))[-2:] == ["note: crashed", "assistant: , world"]


@bounded
async def test_nothing_is_gone_on_with_when_the_user_has_written(
    cut: tuple[Path, str], jump_clock: JumpClock
) -> None:
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path)) as server:
        async with sending(server, "never mind", thread_id) as turn:
            await turn.read()
        await opened(server, thread_id)

        assert await stored(server, thread_id) == [*CUT, "user: never mind", "assistant: Fine"]
        assert await server.continue_answer(thread_id, None) is False


@bounded
async def test_a_message_supersedes_an_answer_that_is_gone_on_with(
    cut: tuple[Path, str], jump_clock: JumpClock
) -> None:
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path), steps=[say(", wor", finish=False), pause(60)]) as server:
        await opened(server, thread_id)
        async with sending(server, "never mind", thread_id) as turn:
            await turn.read()

        assert await stored(server, thread_id) == [
            *CUT,
            "assistant: , wor",
            "note: superseded",
            "user: never mind",
            "assistant: Fine",
        ]


@bounded
async def test_a_hook_that_fails_is_not_called_again(
    cut: tuple[Path, str], jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    path, thread_id = cut

    def fail(_: Scene) -> None:
        raise OSError("the model is away")

    async with GoesOn(SQLiteStore(path), steps=[do(fail)]) as server:
        await opened(server, thread_id)
        await opened(server, thread_id)

        assert len(server.given) == 1
        assert await stored(server, thread_id) == CUT
        assert "the model is away" in caplog.text


@bounded
async def test_a_thread_that_is_locked_or_not_the_callers_is_left_as_it_is(
    cut: tuple[Path, str], jump_clock: JumpClock
) -> None:
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path)) as server:
        with pytest.raises(NotFoundError):
            await server.continue_answer("thr_other", None)
        thread = await server.store.load_thread(thread_id, None)
        locked = thread.model_copy(update={"status": LockedStatus()})
        await server.store.update_thread(locked, None)
        await opened(server, thread_id)

        assert await server.continue_answer(thread_id, None) is False
        assert await stored(server, thread_id) == CUT


@bounded
async def test_a_server_that_is_left_shows_the_thread_as_it_is(
    cut: tuple[Path, str], jump_clock: JumpClock
) -> None:
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path)) as server:
        await server.drain(0)
        await opened(server, thread_id)

        with pytest.raises(ServerNotRunningError):
            await server.continue_answer(thread_id, None)
        assert await stored(server, thread_id) == CUT


@bounded
async def test_the_server_may_go_on_by_itself(cut: tuple[Path, str], jump_clock: JumpClock) -> None:
    path, thread_id = cut
    async with GoesOn(SQLiteStore(path)) as server:
        assert await server.continue_answer(thread_id, None) is True
        assert await server.continue_answer(thread_id, None) is False
        await trio.sleep(5)

        assert await stored(server, thread_id) == WENT_ON
