"""What the header `ChatKit-Endings` changes in the answers over HTTP."""

from __future__ import annotations

from contextlib import asynccontextmanager

import trio

from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import SlowStore, pause, say, scripted_server
from chatkit_trio.types import AnswerEnding
from chatkit_trio.web import create_app

from .http import CREATE, IDS, client_of, events_of, read_until, thread_id_of

ENDINGS = {"ChatKit-Endings": "1"}
HEL = [say("Hel", finish=False), pause(3600)]


@asynccontextmanager
async def cut_by_leaving(server):
    """Begin a turn and leave it; yield a client, the thread's id and the last event's id."""
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await read_until(response, b"Hel")
        yield client, thread_id


def message_for(thread_id):
    params = {**CREATE["params"], "thread_id": thread_id}
    return {"type": "threads.add_user_message", "params": params}


async def test_a_thread_comes_with_its_endings_if_they_are_asked_for(autojump_clock):
    server = scripted_server(MemoryStore(), HEL)
    load = {"type": "threads.get_by_id", "params": {}}
    async with cut_by_leaving(server) as (client, load["params"]["thread_id"]):
        plain = await client.post(load)
        asked = await client.post(load, ENDINGS)

    assert "endings" not in plain.json["items"]
    _message, answer = asked.json["items"]["data"]
    [ending] = asked.json["items"]["endings"]
    assert ending.pop("turn_id").startswith("turn_")
    assert ending == {"reason": "disconnected", "item_ids": [answer["id"]], "can_continue": True}


async def test_a_page_of_items_comes_with_its_endings(autojump_clock):
    server = scripted_server(MemoryStore(), HEL)
    async with cut_by_leaving(server) as (client, thread_id):
        params = {"thread_id": thread_id, "limit": 1, "order": "desc"}
        answer = await client.post({"type": "items.list", "params": params}, ENDINGS)

    assert answer.json["data"] == []
    assert [ending["reason"] for ending in answer.json["endings"]] == ["disconnected"]


async def test_a_client_that_comes_back_too_late_learns_why_it_ended(autojump_clock):
    server = scripted_server(MemoryStore(), HEL)
    async with cut_by_leaving(server) as (client, thread_id):
        path = f"/chatkit/threads/{thread_id}/turn"
        plain = await client.ask("GET", path)
        asked = await client.ask("GET", path, b"", ENDINGS)

    assert (plain.status, plain.body) == (204, b"")
    assert asked.status == 200
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["cache-control"] == "no-store"
    assert (asked.json["live"], asked.json["ending"]["reason"]) == (False, "disconnected")


async def test_the_end_of_a_grace_period_is_told_to_the_client_that_comes_back_after_it(
    autojump_clock,
):
    server = scripted_server(MemoryStore(), HEL)
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE, IDS) as response:
            thread_id = await thread_id_of(response)
            last = events_of(await read_until(response, b"Hel"))[-1].id
        await trio.sleep(30)
        headers = {**ENDINGS, "Last-Event-ID": last}
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", headers)

    ending = answer.json["ending"]
    assert ending["reason"] == "disconnected"
    assert last.startswith(ending["turn_id"])


async def test_a_client_that_comes_back_while_the_answer_is_stored_is_told_then(autojump_clock):
    store = SlowStore(MemoryStore(), 0.0)
    server = scripted_server(store, HEL)
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE, IDS) as response,
    ):
        thread_id = await thread_id_of(response)
        await read_until(response, b"Hel")
        store.seconds = 2.0
        [turn] = server.live_turns
        turn.cancel()
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", ENDINGS)
        end = events_of(await response.body())[-1]

    assert (answer.json["live"], answer.json["ending"]["reason"]) == (False, "stopped")
    assert (end.type, end.data) == ("turn.end", {"reason": "stopped"})


async def test_an_answer_that_was_finished_has_no_ending(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello")])
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await response.body()
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", ENDINGS)

    assert answer.json == {"live": False, "ending": None}


async def test_a_live_turn_is_read_on_by_those_who_ask_for_endings_too(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hel", "lo", every=5)])
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE, IDS) as response,
    ):
        thread_id = await thread_id_of(response)
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", ENDINGS)

    assert answer.headers["content-type"] == "text/event-stream"
    assert events_of(answer.body)[-1].data == {"reason": "finished"}


async def test_one_whose_turn_is_over_learns_that_another_one_is_live(autojump_clock):
    server = scripted_server(MemoryStore(), HEL)
    async with (
        cut_by_leaving(server) as (client, thread_id),
        client.open("POST", "/chatkit", message_for(thread_id), IDS) as response,
    ):
        await read_until(response, b"Hel")
        headers = {**ENDINGS, "Last-Event-ID": "turn_of_before.3"}
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", headers)

    assert answer.json == {"live": True, "ending": None}


async def test_the_reason_is_told_after_a_restart(tmp_path, jump_clock):
    path = tmp_path / "chat.db"
    async with cut_by_leaving(scripted_server(SQLiteStore(path), HEL)) as (_, thread_id):
        pass
    async with client_of(create_app(scripted_server(SQLiteStore(path), HEL))) as client:
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", ENDINGS)

    assert AnswerEnding.model_validate(answer.json["ending"]).reason == "disconnected"


async def test_another_owner_is_told_nothing(autojump_clock):
    store = MemoryStore(owner=lambda user: user)
    app = create_app(scripted_server(store, HEL), context=lambda r: r.headers["X-User"])
    async with client_of(app) as client:
        async with client.open("POST", "/chatkit", CREATE, {"X-User": "ada"}) as response:
            thread_id = await thread_id_of(response)
            await read_until(response, b"Hel")
        headers = {**ENDINGS, "X-User": "eve"}
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", headers)

    assert answer.status == 404
