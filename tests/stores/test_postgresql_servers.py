"""Two servers over one PostgreSQL database, on a real clock: they behave as one server would."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from chatkit_trio.errors import NotFoundError
from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing import (
    ChatClient,
    ClientTurn,
    RequestRefused,
    ScriptedRespond,
    ScriptedServer,
    say,
    scripted_server,
)
from chatkit_trio.types import HiddenContextItem, ThreadItem, ThreadMetadata
from tests.postgresql_server import Server
from tests.transcript import transcript

WORDS = [f"word{number} " for number in range(20)]
SLOWLY = [say(*WORDS, every=0.1)]
WHOLE = ["user: hi", "assistant: " + "".join(WORDS)]


@asynccontextmanager
async def two(
    url: str, *scripts: Sequence[Any], **settings: Any
) -> AsyncIterator[tuple[ScriptedServer, ScriptedServer]]:
    policy = TurnPolicy(**settings)
    here = scripted_server(PostgreSQLStore[Any](url), SLOWLY, *scripts, policy=policy)
    there = scripted_server(PostgreSQLStore[Any](url), [say("Fine")], policy=policy)
    with trio.fail_after(60):
        async with here, there:
            yield here, there


@asynccontextmanager
async def streaming(server: ChatKitServer[Any]) -> AsyncIterator[ClientTurn]:
    """Send a message, and read until some words have come."""
    async with ChatClient.of_server(server).send("hi") as turn:
        await turn.wait_for(lambda event: WORDS[2] in event.model_dump_json())
        yield turn


async def test_a_message_to_another_node_supersedes_the_answer(postgresql_url: str) -> None:
    async with two(postgresql_url) as (here, there), streaming(here) as turn:
        async with ChatClient.of_server(there).send("and?", turn.thread_id) as second:
            await second.read()
        lines = await transcript(there.store, turn.thread_id)
        assert lines[0] == "user: hi"
        assert lines[1].startswith("assistant: word0 word1 word2 ")
        assert lines[2:] == ["note: superseded", "user: and?", "assistant: Fine"]


async def test_a_message_to_another_node_waits_if_the_policy_says_so(postgresql_url: str) -> None:
    async with two(postgresql_url, on_busy="queue") as (here, there), streaming(here) as turn:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            async with ChatClient.of_server(there).send("and?", turn.thread_id) as second:
                await second.read()
        lines = await transcript(there.store, turn.thread_id)
        assert lines == [*WHOLE, "user: and?", "assistant: Fine"]


async def test_a_turn_is_stopped_from_another_node(postgresql_url: str) -> None:
    async with two(postgresql_url) as (here, there), streaming(here) as turn:
        assert turn.thread_id is not None
        await there.stop(turn.thread_id)
        lines = await transcript(there.store, turn.thread_id)
        assert lines[0] == "user: hi"
        assert lines[2:] == ["note: stopped"]


class GoesOn(ScriptedServer):
    """Writes more behind the end of a turn: in its hook, and in the cleanup of `respond`."""

    async def respond(self, thread: ThreadMetadata, message: Any, context: Any) -> Any:
        try:
            async for event in super().respond(thread, message, context):
                yield event
        finally:
            with trio.move_on_after(5, shield=True):
                await self.store.add_thread_item(thread.id, own_note(thread, "cleanup"), context)

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        await super().handle_stream_cancelled(thread, pending_items, context)
        await self.store.add_thread_item(thread.id, own_note(thread, "hook"), context)
        thread.metadata["cut"] = True


def own_note(thread: ThreadMetadata, item_id: str) -> HiddenContextItem:
    return HiddenContextItem(
        id=item_id, thread_id=thread.id, created_at=thread.created_at, content=item_id
    )


async def test_what_a_turns_own_code_writes_behind_its_end_is_kept(postgresql_url: str) -> None:
    server = GoesOn(PostgreSQLStore[Any](postgresql_url), ScriptedRespond(SLOWLY))
    async with server:
        for _ in range(10):
            async with streaming(server) as turn:
                await turn.stop()
                assert turn.thread_id is not None
                await turn.server_turn.ended.wait()
                thread = await server.store.load_thread(turn.thread_id, None)
                page = await server.store.load_thread_items(turn.thread_id, None, 9, "asc", None)
            assert {"hook", "cleanup"} <= {item.id for item in page.data}
            assert thread.metadata == {"cut": True}


THE_ACTION = {"item_id": "i1", "action": {"type": "a"}}


ON_A_THREAD = {
    "threads.get_by_id": {},
    "items.list": {},
    "items.feedback": {"item_ids": ["i1"], "kind": "positive"},
    "threads.update": {"title": "t"},
    "threads.sync_custom_action": THE_ACTION,
    "threads.custom_action": THE_ACTION,
    "threads.retry_after_item": {"item_id": "i1"},
    "threads.add_client_tool_output": {"result": 1},
}


async def test_a_thread_that_postgresql_cant_name_is_not_found(postgresql_url: str) -> None:
    async with scripted_server(PostgreSQLStore[Any](postgresql_url), []) as server:
        for kind, params in ON_A_THREAD.items():
            request = json.dumps({"type": kind, "params": {"thread_id": "thr_\x00", **params}})
            for key in (None, f"a key for {kind}"):
                with pytest.raises(NotFoundError):
                    await server.process(request, None, idempotency_key=key)
        assert await server.stop("thr_\x00") is False


@pytest.mark.parametrize("at_once", [False, True], ids=["fast", "immediate"])
async def test_an_answer_outlives_a_restart_of_the_database(
    at_once: bool, postgresql_url: str, postgresql_server: Server
) -> None:
    async with two(postgresql_url) as (here, there), streaming(here) as turn:
        await trio.to_thread.run_sync(lambda: postgresql_server.restart(at_once=at_once))
        await turn.read()
        assert await transcript(there.store, turn.thread_id) == WHOLE


async def can_answer(server: ChatKitServer[None]) -> bool:
    try:
        async with streaming(server):
            return True
    except RequestRefused:
        return False


async def test_an_owner_has_so_many_answers_under_way_on_all_nodes(postgresql_url: str) -> None:
    limits = OwnerLimits(live_turns=1)
    here, there = (
        scripted_server(PostgreSQLStore[Any](postgresql_url), SLOWLY, owner_limits=limits)
        for _ in range(2)
    )
    with trio.fail_after(60):
        async with here, there:
            async with streaming(here) as turn:
                with pytest.raises(RequestRefused) as refusal:
                    async with streaming(there):
                        pass
                await turn.stop()
            while not await can_answer(there):  # noqa: ASYNC110  (it is given back on another node)
                await trio.sleep(0.05)
    assert refusal.value.status == 429
