"""A turn of another process that has died is settled when its thread is needed, not by the clock.

Faults F3 and F22: two servers share one SQLite file. The one that lives showed a thread without
the dead one's answer for up to ten seconds, and answered without it; and a living process whose
lock file was removed lost text when it was taken for dead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.actions import Action
from chatkit_trio.errors import NotFoundError
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import JournalEntry
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    RequestRefused,
    Scene,
    emit,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import (
    AssistantMessageItem,
    InferenceOptions,
    SyncCustomActionResponse,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    UserMessageItem,
    UserMessageTextContent,
    WidgetItem,
    WidgetStreamingTextValueDelta,
)
from tests.transcript import transcript

from .parts import (
    FOR_EVER,
    NOW,
    PRESS,
    Mortal,
    answered,
    begin,
    card,
    content,
    fields,
    finish,
    message_request,
    more,
    read_all,
    stream,
    text_of,
    within,
)

HOUR = 3600.0
AT_ONCE = 1.0
"""Seconds within which a request must be answered: the clock found the dead after 10."""

THREAD = "thr_1"
SETTLED = ["user: hi", "widget", "assistant: so far", "note: crashed"]


async def leave_a_turn_behind(
    path: Path, text: str = "so far", entry: JournalEntry | None = None
) -> None:
    """Write what a process that dies in the middle of an answer leaves in the file."""
    own: dict[str, Any] = {"thread_id": THREAD, "created_at": NOW}
    async with SQLiteStore[Any](path) as store:
        await store.save_thread(ThreadMetadata(id=THREAD, created_at=NOW), None)
        message = UserMessageItem(
            id="msg_u",
            content=[UserMessageTextContent(text="hi")],
            inference_options=InferenceOptions(),
            **own,
        )
        await store.add_thread_item(THREAD, message, None)
        await store.add_thread_item(THREAD, WidgetItem(id="wdg", widget=card("x"), **own), None)
        await store.journal.begin("turn_dead", THREAD, None)
        answer = AssistantMessageItem(id="msg_a", content=content(text), **own)
        await store.journal.checkpoint([entry or JournalEntry("turn_dead", THREAD, (answer,))])


class Survivor(ChatKitServer[Any]):
    """A server that notes what the thread said whenever one of its hooks was called."""

    def __init__(self, path: Path) -> None:
        super().__init__(SQLiteStore(path))
        self.seen: list[list[str]] = []

    async def _look(self, thread_id: str) -> None:
        self.seen.append(await transcript(self.store, thread_id))

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[Any]:
        await self._look(thread.id)
        yield finish("msg_fine", "Fine")(Scene(thread, input_user_message, context))

    async def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> AsyncIterator[Any]:
        await self._look(thread.id)
        yield finish("msg_fine", "Fine")(Scene(thread, None, context))

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> SyncCustomActionResponse:
        await self._look(thread.id)
        return SyncCustomActionResponse()

    async def add_feedback(
        self, thread_id: str, item_ids: list[str], feedback: Any, context: Any
    ) -> None:
        await self._look(thread_id)


# --- F3: a process that has died ---------------------------------------------------------------


async def get_by_id(client: ChatClient) -> list[str]:
    return [item.type for item in (await client.thread(THREAD)).items.data]


async def items_list(client: ChatClient) -> list[str]:
    return [item.type for item in await client.items(THREAD)]


@pytest.mark.parametrize("load", [get_by_id, items_list])
@within(HOUR)
async def test_a_reader_finds_the_answer_of_a_dead_process_settled_at_once(
    load: Any, jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    async with Survivor(path) as server:
        await leave_a_turn_behind(path)
        began_at = trio.current_time()
        loaded = await load(ChatClient.of_server(server))

        assert loaded == ["user_message", "widget", "assistant_message"]
        assert trio.current_time() <= began_at + AT_ONCE
        assert await transcript(server.store, THREAD) == SETTLED


async def send(client: ChatClient) -> None:
    async with client.send("more", THREAD) as turn:
        await turn.read()
        assert turn.error is None


async def act(client: ChatClient) -> None:
    async with client.act(THREAD, PRESS, "wdg") as turn:
        await turn.read()
        assert turn.error is None


async def act_and_wait(client: ChatClient) -> None:
    await client.act_and_wait(THREAD, PRESS, "wdg")


async def act_on_the_answer(client: ChatClient) -> None:
    await client.give_feedback(THREAD, ["msg_a"], "positive")


@pytest.mark.parametrize(
    ("request_", "added"),
    [
        (send, ["user: more"]),
        (act, []),
        (act_and_wait, []),
        (act_on_the_answer, []),
    ],
    ids=["add_user_message", "custom_action", "sync_custom_action", "feedback"],
)
@within(HOUR)
async def test_a_hook_finds_the_answer_of_a_dead_process_settled_in_its_place(
    request_: Callable[[ChatClient], Awaitable[None]],
    added: list[str],
    jump_clock: JumpClock,
    tmp_path: Path,
) -> None:
    path = tmp_path / "chat.db"
    async with Survivor(path) as server:
        await leave_a_turn_behind(path)
        began_at = trio.current_time()
        await request_(ChatClient.of_server(server))

        assert server.seen == [[*SETTLED, *added]]
        assert trio.current_time() <= began_at + AT_ONCE
        await trio.sleep(60)  # nothing comes behind it later
        stored = await transcript(server.store, THREAD)
    assert stored[: len(SETTLED) + len(added)] == [*SETTLED, *added]
    assert stored[len(SETTLED) + len(added) :] in ([], ["assistant: Fine"])


@within(HOUR)
async def test_a_retry_takes_the_answer_of_a_dead_process_away_for_good(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    async with Survivor(path) as server:
        await leave_a_turn_behind(path)
        async with ChatClient.of_server(server).retry(THREAD, "msg_u") as turn:
            await turn.read()
        await trio.sleep(60)

        assert await transcript(server.store, THREAD) == ["user: hi", "assistant: Fine"]
        assert server.seen == [["user: hi"]]


@within(HOUR)
async def test_a_deleted_thread_of_a_dead_process_does_not_come_back(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    async with Survivor(path) as server:
        await leave_a_turn_behind(path)
        client = ChatClient.of_server(server)
        await client.delete(THREAD)
        await trio.sleep(60)

        assert await client.threads() == []


@within(HOUR)
async def test_readers_that_come_at_the_same_time_settle_the_dead_turn_once(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    loaded: list[list[str]] = []
    async with Survivor(path) as server, Survivor(path) as other:
        await leave_a_turn_behind(path)
        clients = [ChatClient.of_server(each) for each in (server, other, server, other)]

        async def load(client: ChatClient) -> None:
            loaded.append(await get_by_id(client))

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(load, client)

        assert await transcript(server.store, THREAD) == SETTLED
    assert loaded == [["user_message", "widget", "assistant_message"]] * 4


@within(HOUR)
async def test_a_turn_finds_settled_what_died_between_its_request_and_its_first_read(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    async with Survivor(path) as server:
        await leave_a_turn_behind(path, text="")
        # This one is settled now: the thread is there, and nobody has died on it.
        assert await get_by_id(ChatClient.of_server(server)) == ["user_message", "widget"]
        result = await stream(server, message_request("more", THREAD))
        async with SQLiteStore[Any](path) as dying:
            await dying.journal.begin("turn_2", THREAD, None)
            answer = AssistantMessageItem(
                id="msg_a", thread_id=THREAD, created_at=NOW, content=content("so far")
            )
            await dying.journal.checkpoint([JournalEntry("turn_2", THREAD, (answer,))])
        await read_all(result)

        note = "note: crashed"
        assert await transcript(server.store, THREAD) == [
            "user: hi",
            "widget",
            note,
            "assistant: so far",
            note,
            "user: more",
            "assistant: Fine",
        ]


@within(HOUR)
async def test_another_owners_request_does_not_see_the_thread_of_a_dead_process(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    store = SQLiteStore[Any](path, owner=lambda context: context or "")
    async with scripted_server(store, [say("Fine")]) as server:
        await leave_a_turn_behind(path)
        with pytest.raises(RequestRefused) as refused:
            await ChatClient.of_server(server, "somebody else").thread(THREAD)

        assert isinstance(refused.value.__cause__, NotFoundError)


def grow(scene: Scene) -> ThreadItemDoneEvent:
    return ThreadItemDoneEvent(item=WidgetItem(widget=card("Hel"), **fields(scene, "wdg_m")))


WORDS = ThreadItemUpdatedEvent(
    item_id="wdg_m",
    update=WidgetStreamingTextValueDelta(component_id="body", delta="lo", done=False),
)


@within(HOUR)
async def test_a_server_that_dies_beside_another_loses_nothing_older_than_its_last_checkpoint(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a real server that dies: a finished widget that has grown, and an unfinished text."""
    path = tmp_path / "chat.db"
    mortal = Mortal(path)
    script = [emit(grow, WORDS, begin("msg_m", "so far")), pause(FOR_EVER)]
    async with (
        Survivor(path) as survivor,
        scripted_server(mortal, script) as dying,
        ChatClient.of_server(dying).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: "so far" in event.model_dump_json())
        thread_id = turn.thread_id or ""
        await trio.sleep(2)
        await mortal.die()
        page = await ChatClient.of_server(survivor).thread(thread_id)

        await answered(survivor, "more", thread_id)
        stored = await transcript(survivor.store, thread_id)
    assert [item.type for item in page.items.data] == [
        "user_message",
        "widget",
        "assistant_message",
    ]
    assert text_of(page.items.data[1]) == "Hello"
    assert stored == [
        "user: hi",
        "widget",
        "assistant: so far",
        "note: crashed",
        "user: more",
        "assistant: Fine",
    ]


@within(HOUR)
async def test_the_live_turn_of_another_process_is_shown_and_left_alone(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    script = [emit(begin("msg_m", "Hel")), pause(30), emit(finish("msg_m", "Hello"))]
    async with Survivor(path) as reader, scripted_server(SQLiteStore(path), script) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: "Hel" in event.model_dump_json())
            for _ in range(5):
                await trio.sleep(2)
                page = await ChatClient.of_server(reader).thread(turn.thread_id or "")
                _, answer = page.items.data
                assert isinstance(answer, AssistantMessageItem)
                assert [part.text for part in answer.content] == ["Hel"]
            await turn.read()

        assert await transcript(reader.store, turn.thread_id) == ["user: hi", "assistant: Hello"]
    assert turn.error is None


# --- F22: a living process that is taken for dead ----------------------------------------------


def remove_lock_files(path: Path) -> None:
    """Remove the files that say which processes live, as an over-eager clean-up does."""
    for file in path.parent.glob(f"{path.name}-instance-*"):
        file.unlink()


@pytest.mark.parametrize("end", ["finished", "stopped", "failed"])
@within(HOUR)
async def test_a_living_turn_that_was_settled_as_crashed_still_stores_all_its_text_once(
    end: str, jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    words = [f" word{number}" for number in range(100)]

    async def write(scene: Scene) -> AsyncIterator[Any]:
        yield begin("msg_m")(scene)
        for word in words:
            await trio.sleep(0.1)
            yield more("msg_m", word)
        if end == "finished":
            yield finish("msg_m", "".join(words))(scene)
        if end == "failed":
            raise OSError("broken")
        if end == "stopped":
            await trio.sleep_forever()

    store = SQLiteStore[Any](path)
    store.coordination.poll_interval = HOUR  # asking for news tells of the loss: here too late
    server = scripted_server(store, [write])
    server.journal_interval = 4  # a checkpoint puts the lock file back: here too late
    async with server:
        async with ChatClient.of_server(server).send("hi") as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            await trio.sleep(5)
            remove_lock_files(path)
            async with Survivor(path) as other:
                page = await ChatClient.of_server(other).thread(turn.thread_id or "")
                assert len(page.items.data) == 2
                await trio.sleep(10)
                if end == "stopped":
                    await turn.stop()

        stored = await transcript(server.store, turn.thread_id)
    text = "assistant: " + "".join(words)
    assert [line for line in stored if not line.startswith("note")] == ["user: hi", text]
    assert [line for line in stored if line.startswith("note")] == ["note: crashed"]
    assert turn.text == "".join(words)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any(turn.server_turn.id in record.getMessage() for record in warnings)


@within(HOUR)
async def test_a_living_turn_that_was_settled_as_crashed_stores_its_later_items_too(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    script = [
        emit(begin("msg_m", "Hel")),
        pause(10),
        emit(more("msg_m", "lo"), begin("msg_n", "more")),
        pause(FOR_EVER),
    ]
    store = SQLiteStore[Any](path)
    store.coordination.poll_interval = HOUR
    async with scripted_server(store, script) as server:
        async with ChatClient.of_server(server).send("hi") as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            await trio.sleep(5)
            remove_lock_files(path)
            async with Survivor(path):
                await trio.sleep(10)
            await turn.stop()

        assert sorted(await transcript(server.store, turn.thread_id)) == [
            "assistant: Hello",
            "assistant: more",
            "note: crashed",
            "user: hi",
        ]
