"""A client that asks learns which answers were cut, why, and whether they can be continued."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.server import ChatKitServer, NonStreamingResult, StreamingResult, TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    Step,
    StoreWrapper,
    emit,
    fail,
    pause,
    say,
    scripted_server,
    work,
)
from chatkit_trio.types import (
    AnswerEnding,
    HiddenContextItem,
    ItemsListParams,
    ItemsListReq,
    Page,
    ThreadGetByIdParams,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadsGetByIdReq,
)
from tests.transcript import transcript

from .parts import (
    FOR_EVER,
    AwayStore,
    Mortal,
    answered,
    body_of,
    message_request,
    read_all,
    stopped,
    stream,
    thread_id_of,
    within,
)

HOUR = 3600.0
HEL: list[Step] = [say("Hel", finish=False), pause(FOR_EVER)]
FINE: list[Step] = [say("Fine")]


async def endings_of(
    server: ChatKitServer[Any], thread_id: str | None, context: Any = None
) -> list[AnswerEnding]:
    client = ChatClient.of_server(server, context)
    endings = (await client.thread(thread_id or "", with_endings=True)).items.endings
    assert endings is not None
    return endings


async def last_answer_of(store: Store[Any], thread_id: str) -> str:
    page = await store.load_thread_items(thread_id, None, 100, "asc", None)
    return [item.id for item in page.data if item.type == "assistant_message"][-1]


async def read_until_hel(result: StreamingResult) -> list[bytes]:
    frames = [await anext(result)]
    while b"Hel" not in frames[-1]:
        frames.append(await anext(result))
    return frames


# --- Every way of ending -----------------------------------------------------------------------


async def stop(store: Store[Any]) -> str:
    async with scripted_server(store, HEL) as server:
        return (await stopped(server)).thread_id or ""


async def leave(store: Store[Any]) -> str:
    async with (
        scripted_server(store, HEL) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: turn.text == "Hel")
        await turn.disconnect()
    return turn.thread_id or ""


async def stall(store: Store[Any]) -> str:
    policy = TurnPolicy(max_unread_bytes=1, stall_timeout=1)
    script = [say("Hel", finish=False), say(*["more "] * 9, every=1)]
    async with (
        scripted_server(store, script, policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: turn.text == "Hel")
        await turn.server_turn.settled.wait()
    return turn.thread_id or ""


async def fall_silent(store: Store[Any]) -> str:
    async with scripted_server(store, HEL, policy=TurnPolicy(idle_timeout=5)) as server:
        return (await answered(server)).thread_id or ""


async def reach_the_deadline(store: Store[Any]) -> str:
    async with scripted_server(store, HEL, policy=TurnPolicy(turn_timeout=5)) as server:
        return (await answered(server)).thread_id or ""


async def shut_down(store: Store[Any]) -> str:
    policy = TurnPolicy(on_disconnect="finish")
    async with (
        scripted_server(store, HEL, policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: turn.text == "Hel")
    return turn.thread_id or ""


async def break_down(store: Store[Any]) -> str:
    async with scripted_server(store, [HEL[0], fail(RuntimeError("broken"))]) as server:
        return (await answered(server)).thread_id or ""


WAYS: dict[str, Callable[[Store[Any]], Awaitable[str]]] = {
    "stopped": stop,
    "disconnected": leave,
    "stalled": stall,
    "silent": fall_silent,
    "deadline": reach_the_deadline,
    "shutdown": shut_down,
    "failed": break_down,
}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("reason", WAYS)
@within(HOUR)
async def test_every_way_of_ending_is_told_after_a_restart(
    reason: str, kind: str, tmp_path: Path, jump_clock: JumpClock
) -> None:
    memory = MemoryStore[Any]()

    def store() -> Store[Any]:
        return memory if kind == "memory" else SQLiteStore(tmp_path / "chat.db")

    thread_id = await WAYS[reason](store())
    async with scripted_server(again := store(), FINE) as server:
        [ending] = await endings_of(server, thread_id)

        cut = await last_answer_of(again, thread_id)
        assert (ending.reason, ending.item_ids, ending.can_continue) == (reason, [cut], True)
        assert ending.turn_id.startswith("turn_")
        assert await server.last_ending(thread_id, None) == ending


@within(HOUR)
async def test_a_crash_is_told_by_the_next_process(tmp_path: Path, jump_clock: JumpClock) -> None:
    store = Mortal(tmp_path / "chat.db")
    async with (
        scripted_server(store, HEL) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: turn.text == "Hel")
        await trio.sleep(2)
        await store.die()
        thread_id = turn.thread_id or ""

    async with scripted_server(again := SQLiteStore[Any](tmp_path / "chat.db"), FINE) as server:
        [ending] = await endings_of(server, thread_id)
        cut = await last_answer_of(again, thread_id)

        assert (ending.reason, ending.item_ids, ending.can_continue) == ("crashed", [cut], True)
        assert await server.last_ending(thread_id, None) == ending


@within(HOUR)
async def test_an_answer_that_a_new_message_has_superseded_cannot_be_continued(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_server(MemoryStore(), HEL, FINE) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: turn.text == "Hel")
            await answered(server, "more", turn.thread_id)
        [ending] = await endings_of(server, turn.thread_id)

        assert (ending.reason, ending.can_continue) == ("superseded", False)
        assert await server.last_ending(turn.thread_id or "", None) is None


@within(HOUR)
async def test_an_answer_that_was_finished_has_no_ending(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_server(MemoryStore(), FINE) as server:
        thread_id = (await answered(server)).thread_id or ""

        assert await endings_of(server, thread_id) == []
        assert await server.last_ending(thread_id, None) is None


@within(HOUR)
async def test_an_answer_of_which_nothing_was_kept_is_told_and_cannot_be_continued(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_server(MemoryStore(), [pause(FOR_EVER)]) as server:
        thread_id = (await stopped(server)).thread_id or ""
        [ending] = await endings_of(server, thread_id)

        assert (ending.reason, ending.item_ids, ending.can_continue) == ("stopped", [], False)
        assert await server.last_ending(thread_id, None) == ending


@within(HOUR)
async def test_an_answer_cut_between_two_items_names_the_last_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [say("One"), say("Two"), pause(FOR_EVER)]) as server:
        thread_id = (await stopped(server)).thread_id or ""
        [ending] = await endings_of(server, thread_id)

        assert ending.item_ids == [await last_answer_of(store, thread_id)]
        assert ending.can_continue


@within(HOUR)
async def test_a_hidden_item_is_not_named(autojump_clock: trio.testing.MockClock) -> None:
    hidden = emit(
        lambda scene: ThreadItemAddedEvent(
            item=HiddenContextItem(content="a secret", **scene.item_fields())
        )
    )
    store = MemoryStore[Any]()
    async with scripted_server(store, [hidden, *HEL]) as server:
        thread_id = (await stopped(server)).thread_id or ""
        [ending] = await endings_of(server, thread_id)

        assert ending.item_ids == [await last_answer_of(store, thread_id)]


@within(HOUR)
async def test_an_answer_cannot_be_continued_behind_the_next_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_server(MemoryStore(), HEL, FINE) as server:
        thread_id = (await stopped(server)).thread_id or ""
        await answered(server, "more", thread_id)
        [ending] = await endings_of(server, thread_id)

        assert (ending.reason, ending.can_continue) == ("stopped", False)
        assert await server.last_ending(thread_id, None) is None


# --- Pages -------------------------------------------------------------------------------------

CUT_TWICE = (
    [say("a"), say("b", finish=False), work("c", finish=False), pause(FOR_EVER)],
    FINE,
    [say("d"), say("e"), pause(FOR_EVER)],
)
"""Behind each message of the user: a, b, c, note; Fine; d, e, note."""


async def thread_cut_twice(server: ChatKitServer[Any]) -> str:
    thread_id = (await stopped(server, "1")).thread_id or ""
    await answered(server, "2", thread_id)
    await stopped(server, "3", thread_id)
    return thread_id


async def pages_of(
    server: ChatKitServer[Any], thread_id: str, order: Any, limit: int
) -> list[Page[ThreadItem]]:
    client = ChatClient.of_server(server)
    pages: list[Page[ThreadItem]] = []
    while not pages or pages[-1].has_more:
        after = pages[-1].after if pages else None
        page = await client.items_page(
            thread_id, limit=limit, order=order, after=after, with_endings=True
        )
        pages.append(page)
    return pages


@pytest.mark.parametrize("limit", range(1, 13))
@pytest.mark.parametrize("order", ["asc", "desc"])
@within(HOUR)
async def test_an_ending_is_on_each_page_that_has_the_note_or_one_of_its_items(
    order: str, limit: int, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, *CUT_TWICE) as server:
        thread_id = await thread_cut_twice(server)
        whole = (await store.load_thread_items(thread_id, None, 100, order, None)).data
        notes = [item for item in whole if item.type == "sdk_hidden_context"]
        about = [{note.id, *(note.ending.item_ids if note.ending else ())} for note in notes]
        [one, two] = [note.ending.turn_id for note in notes if note.ending is not None]
        pages = await pages_of(server, thread_id, order, limit)

        starts = range(0, len(whole), limit)
        for start, page in zip(starts, pages, strict=True):
            ids = {item.id for item in whole[start : start + limit]}
            expected = [turn for turn, own in zip([one, two], about, strict=True) if own & ids]
            assert [ending.turn_id for ending in page.endings or ()] == expected
        can = {end.turn_id: end.can_continue for page in pages for end in page.endings or ()}
        assert sorted(can.values()) == [False, True]
        assert can[two if order == "asc" else one]
        assert about[0 if order == "asc" else 1] >= {whole[3 if order == "asc" else -4].id}


@within(HOUR)
async def test_a_thread_is_loaded_with_the_endings_of_its_first_page(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first = [*[say("word") for _ in range(18)], *HEL]
    store = MemoryStore[Any]()
    async with scripted_server(store, first, HEL) as server:
        thread_id = (await stopped(server)).thread_id or ""
        await stopped(server, "more", thread_id)
        thread = await ChatClient.of_server(server).thread(thread_id, with_endings=True)

        assert len(thread.items.data) == 20
        [ending] = thread.items.endings or []
        assert ending.item_ids == [thread.items.data[-1].id]
        assert not ending.can_continue


@within(HOUR)
async def test_an_ending_outlives_its_items(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, HEL) as server:
        thread_id = (await stopped(server)).thread_id or ""
        [before] = await endings_of(server, thread_id)
        await store.delete_thread_item(thread_id, before.item_ids[0], None)

        after = before.model_copy(update={"can_continue": False})
        assert await endings_of(server, thread_id) == [after]
        assert await server.last_ending(thread_id, None) == after


@within(HOUR)
async def test_a_retry_takes_the_ending_away(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted_server(MemoryStore(), HEL, FINE) as server:
        turn = await stopped(server)
        thread_id, message = turn.thread_id or "", turn.items[0]
        async with ChatClient.of_server(server).retry(thread_id, message.id) as again:
            await again.read()

        assert await endings_of(server, thread_id) == []
        assert await server.last_ending(thread_id, None) is None


class VanishingStore(StoreWrapper[Any]):
    """A store that deletes the item a page ends with as soon as the page is loaded."""

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: Any
    ) -> Page[ThreadItem]:
        page = await super().load_thread_items(thread_id, after, limit, order, context)
        if limit == 2:
            await self.wrapped.delete_thread_item(thread_id, page.data[-1].id, context)
        return page


@within(HOUR)
async def test_an_item_deleted_while_its_page_is_loaded_is_no_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_server(VanishingStore(MemoryStore()), HEL) as server:
        thread_id = (await stopped(server)).thread_id or ""
        page = await ChatClient.of_server(server).items_page(
            thread_id, limit=2, order="asc", with_endings=True
        )

        assert len(page.data) == 2
        assert page.endings is not None
        # The note behind it is found all the same; nothing of the answer is left to continue.
        assert [(one.reason, one.can_continue) for one in page.endings] == [("stopped", False)]


# --- Who is told -------------------------------------------------------------------------------


@within(HOUR)
async def test_who_does_not_ask_gets_what_the_original_sends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_server(MemoryStore(), HEL) as server:
        thread_id = (await stopped(server)).thread_id or ""
        thread = ThreadsGetByIdReq(params=ThreadGetByIdParams(thread_id=thread_id))
        items = ItemsListReq(params=ItemsListParams(thread_id=thread_id, order="asc"))
        for request, where in ((thread, ["items"]), (items, [])):
            plain = await server.process(body_of(request), None)
            asked = await server.process(body_of(request), None, with_endings=True)
            assert isinstance(plain, NonStreamingResult)
            assert isinstance(asked, NonStreamingResult)
            without = json.loads(asked.json)
            page = without["items"] if where else without
            del page["endings"]

            assert b"ending" not in plain.json
            assert json.loads(plain.json) == without


@within(HOUR)
async def test_another_owner_is_told_nothing(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore[Any](owner=lambda user: str(user))
    async with scripted_server(store, HEL) as server:
        async with ChatClient.of_server(server, "ada").send("hi") as turn:
            await turn.wait_for(lambda event: turn.text == "Hel")
            await turn.disconnect()
        thread_id = turn.thread_id or ""

        assert len(await endings_of(server, thread_id, "ada")) == 1
        with pytest.raises(NotFoundError):
            await server.last_ending(thread_id, "eve")


@within(HOUR)
async def test_while_a_turn_is_live_there_is_no_last_ending(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted_server(MemoryStore(), HEL) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: turn.text == "Hel")
            assert await server.last_ending(turn.thread_id or "", None) is None
        ending = await server.last_ending(turn.thread_id or "", None)

        assert ending is not None
        assert ending.reason == "disconnected"


@within(HOUR)
async def test_who_asks_while_an_answer_is_being_stored_waits_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = AwayStore(MemoryStore[Any]())
    async with scripted_server(store, HEL) as server:
        result = await stream(server, message_request())
        frames = await read_until_hel(result)
        thread_id = thread_id_of(frames)
        store.leave(3)
        result.turn.cancel()
        ending = await server.last_ending(thread_id, None)
        await read_all(result)

        assert ending is not None
        assert (ending.reason, ending.can_continue) == ("stopped", True)
        assert await transcript(store, thread_id) == ["user: hi", "assistant: Hel", "note: stopped"]


@within(HOUR)
async def test_who_asks_for_long_while_the_store_is_away_is_told_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = AwayStore(MemoryStore[Any]())
    async with scripted_server(store, HEL) as server:
        result = await stream(server, message_request())
        frames = await read_until_hel(result)
        store.leave(600)
        result.turn.cancel()

        with pytest.raises(StoreError):
            await server.last_ending(thread_id_of(frames), None)
        store.leave(0)
        await read_all(result)
