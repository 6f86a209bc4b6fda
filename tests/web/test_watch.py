"""Coming back to a live turn, and stopping one."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import SlowStore, StoreWrapper, pause, say, scripted_server
from chatkit_trio.types import AssistantMessageItem, UserMessageItem
from chatkit_trio.web import create_app

from .http import CREATE, IDS, client_of, events_of, read_until, thread_id_of

FINISH = TurnPolicy(on_disconnect="finish", heartbeat=None)
RELOAD = ("reload", {})


@asynccontextmanager
async def left_in_the_middle(server, text=b"Hello"):
    """Begin a turn, leave it when this text has come; yield a client, the thread, what came."""
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE, IDS) as response:
            body = await read_until(response, text)
        (created,) = (e for e in events_of(body) if e.data["type"] == "thread.created")
        yield client, created.data["thread"]["id"], events_of(body)


def text_in(events):
    """Return the assistant's text as a page would build it."""
    text = ""
    for event in events:
        match event.data:
            case {"type": "thread.item.updated", "update": {"delta": delta}}:
                text += delta
            case {
                "type": "thread.item.added" | "thread.item.done",
                "item": {"type": "assistant_message", "content": content},
            }:
                text = "".join(part["text"] for part in content)
    return text


async def test_a_client_that_comes_back_gets_each_event_once(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", "!", every=1)], policy=FINISH)
    async with left_in_the_middle(server) as (client, thread_id, before):
        last_seen = {"Last-Event-ID": before[-1].id}
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", last_seen)

    *after, end = events_of(answer.body)
    turn_id, _, _ = before[0].id.rpartition(".")
    numbers = [event.id for event in [*before, *after]]
    assert numbers == [f"{turn_id}.{n}" for n in range(len(numbers))]
    assert (end.type, end.data) == ("turn.end", {"reason": "finished"})
    assert text_in([*before, *after]) == "Hello there!"


@pytest.mark.parametrize("seed", range(10))
async def test_however_often_the_connection_breaks_each_event_comes_once(seed, autojump_clock):
    chance = random.Random(seed)
    words = [f"word{number} " for number in range(60)]
    server = scripted_server(MemoryStore(), [say(*words, every=0.1), pause(9)], policy=FINISH)
    async with left_in_the_middle(server, b"word3 ") as (client, thread_id, events):
        while events[-1].type != "turn.end":
            path, last_seen = f"/chatkit/threads/{thread_id}/turn", {"Last-Event-ID": events[-1].id}
            async with client.open("GET", path, b"", last_seen) as response:
                body = b""
                for _ in range(chance.randrange(1, 12)):
                    with suppress(trio.EndOfChannel):
                        body += await response.connection.receive()
            events += events_of(body)
            await trio.sleep(chance.random() / 2)

    *events, _ = events
    assert [int(event.id.rpartition(".")[2]) for event in events] == list(range(len(events)))
    assert text_in(events) == "".join(words)


async def test_the_last_event_id_may_be_in_the_address(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=1)], policy=FINISH)
    async with left_in_the_middle(server) as (client, thread_id, before):
        path = f"/chatkit/threads/{thread_id}/turn?last_event_id={before[-1].id}"
        answer = await client.ask("GET", path)

    first = events_of(answer.body)[0]
    assert first.id.rpartition(".")[2] == str(len(before))


async def test_a_watcher_gets_headers_and_a_retry_line(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=1)], policy=FINISH)
    async with left_in_the_middle(server) as (client, thread_id, _):
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn")

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.body.startswith(b"retry: 1000\n\n")


async def test_a_new_watcher_gets_the_turn_from_its_beginning(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=1)], policy=FINISH)
    async with left_in_the_middle(server) as (client, thread_id, before):
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn")

    events = events_of(answer.body)
    assert events[: len(before)] == before
    assert text_in(events[:-1]) == "Hello there"


async def test_several_may_watch_at_once(autojump_clock):
    server = scripted_server(MemoryStore(), [say(*"abcdef", every=1)], policy=FINISH)
    texts = []

    async def watch(client, thread_id):
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn")
        texts.append(text_in(events_of(answer.body)[:-1]))

    async with (
        left_in_the_middle(server, b'"a"') as (client, thread_id, _),
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(watch, client, thread_id)

    assert texts == ["abcdef"] * 3


async def test_without_a_live_turn_there_is_nothing():
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await response.body()
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn")

    assert (answer.status, answer.body) == (204, b"")


async def test_the_id_of_another_turn_brings_nothing(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=1)], policy=FINISH)
    async with left_in_the_middle(server) as (client, thread_id, _):
        headers = {"Last-Event-ID": "turn_of_yesterday.3"}
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", headers)

    assert answer.status == 204


class _Asked(StoreWrapper):
    """Does something behind the n-th time that somebody asks for the turn of a thread."""

    def __init__(self, wrapped, at, do):
        super().__init__(wrapped)
        self._left, self._do = at, do

    async def around(self, name, call):
        answer = await call()
        if name == "coordination.record":
            self._left -= 1
            if self._left == 0:
                await self._do()
        return answer


@pytest.mark.parametrize("at", range(1, 12))
async def test_whenever_another_processs_answer_is_cut_its_ending_or_its_life_is_told(
    at, autojump_clock
):
    """A client takes an answer that isn't live and has no ending for one that is complete."""
    cluster = MemoryCluster()
    writing = scripted_server(MemoryStore(cluster=cluster), [say("Hello"), pause(3600)])

    async def stop():
        await writing.stop(thread_id)

    other = scripted_server(_Asked(MemoryStore(cluster=cluster), at, stop), [])
    async with (
        client_of(create_app(other)) as client,
        client_of(create_app(writing)) as sender,
        sender.open("POST", "/chatkit", CREATE) as response,
    ):
        (created, *_) = events_of(await read_until(response, b"Hello"))
        thread_id = created.data["thread"]["id"]
        headers = {"ChatKit-Endings": "1", "Last-Event-ID": "turn_other.1"}
        told = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", headers)

    assert told.json["live"] or told.json["ending"]["reason"] == "stopped"


@pytest.mark.parametrize("event_id", ["3", "turn_x", "turn_x.", "turn_x.-1", "turn_x.²", "x.1e3"])
async def test_what_is_no_event_id_is_refused(event_id):
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        headers = {"Last-Event-ID": event_id}
        answer = await client.ask("GET", "/chatkit/threads/thr_x/turn", b"", headers)

    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_request")


async def test_an_id_from_the_future_means_reload(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=1)], policy=FINISH)
    async with left_in_the_middle(server) as (client, thread_id, before):
        turn_id, _, _ = before[0].id.rpartition(".")
        headers = {"Last-Event-ID": f"{turn_id}.999"}
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", headers)

    assert [(event.type, event.data) for event in events_of(answer.body)] == [RELOAD]


SHORT_MEMORY = TurnPolicy(on_disconnect="finish", heartbeat=None, max_replay_bytes=1000)


async def test_frames_that_are_not_kept_mean_reload(autojump_clock):
    server = scripted_server(MemoryStore(), [say(*"abcdefghij", every=1)], policy=SHORT_MEMORY)
    async with left_in_the_middle(server, b'"h"') as (client, thread_id, before):
        headers = {"Last-Event-ID": before[2].id}
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", headers)

    assert [(event.type, event.data) for event in events_of(answer.body)] == [RELOAD]


async def test_frames_lost_in_the_middle_mean_reload(autojump_clock):
    server = scripted_server(
        MemoryStore(), [say(*"abcdefghij" * 20, every=0.1)], policy=SHORT_MEMORY
    )
    async with left_in_the_middle(server, b'"a"') as (client, thread_id, before):
        last = {"Last-Event-ID": before[-1].id}
        path = f"/chatkit/threads/{thread_id}/turn"
        async with client.open("GET", path, b"", last) as response:
            await response.connection.receive()
            await trio.sleep(10)  # reading nothing, while far more than 1000 bytes are written
            body = await response.body()

    assert [(event.type, event.data) for event in events_of(body)][-1] == RELOAD


async def test_a_page_loaded_late_gets_the_state_so_far_and_the_rest(autojump_clock):
    """The beginning isn't kept any more, and a reload couldn't bring it back."""
    script = [say("First."), say(*"abcdefghij", every=1)]
    server = scripted_server(MemoryStore(), script, policy=SHORT_MEMORY)
    async with left_in_the_middle(server, b'"h"') as (client, thread_id, before):
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn")

    message, first, second, *rest, end = events_of(answer.body)
    assert message.data["item"]["type"] == "user_message"
    assert first.data["item"]["content"][0]["text"] == "First."
    assert second.data["item"]["content"][0]["text"] == "abcdefgh"
    # Who loses the connection between these comes back without an id, and gets all of them again.
    assert [message.id, first.id, second.id] == [None, None, before[-1].id]
    assert text_in([second, *rest]) == "abcdefghij"
    assert (end.type, end.data) == ("turn.end", {"reason": "finished"})


async def test_who_watches_another_nodes_turn_is_told_to_reload_when_its_own_node_leaves(
    autojump_clock,
):
    cluster = MemoryCluster()
    here = scripted_server(MemoryStore(cluster=cluster), [say(*"abcdef", every=1)], policy=FINISH)
    there = scripted_server(MemoryStore(cluster=cluster), [])
    async with (
        left_in_the_middle(here, b'"a"') as (_, thread_id, _),
        client_of(create_app(there)) as client,
        client.open("GET", f"/chatkit/threads/{thread_id}/turn") as response,
    ):
        body = await read_until(response, b'"b"')
        await there.drain(0)
        body += await response.body()

    assert [(event.type, event.data) for event in events_of(body)][-1] == RELOAD


async def test_watching_counts_as_reading(autojump_clock):
    """The connection that began the turn goes; one that watches it keeps it alive."""
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=5)])
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE) as first,
    ):
        thread_id = await thread_id_of(first)
        async with client.open("GET", f"/chatkit/threads/{thread_id}/turn") as second:
            await read_until(second, b"thread.created")
            await first.connection.disconnect()
            body = await read_until(second, b"turn.end")

    assert events_of(body)[-1].data == {"reason": "finished"}


@pytest.mark.parametrize(("headers", "ended"), [({}, True), (IDS, False)])
async def test_one_that_asked_for_ids_has_time_to_come_back(headers, ended, autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=5), pause(9)])
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE, headers) as response:
            thread_id = await thread_id_of(response)
        await trio.sleep(3)
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn")

    assert answer.status == (204 if ended else 200)
    assert ended or text_in(events_of(answer.body)) == "Hello there"


async def test_one_that_comes_back_during_the_first_writes_gets_the_turn(autojump_clock):
    store = SlowStore(MemoryStore(), 0.0)
    server = scripted_server(store, [say("Hello")])
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await response.body()
        store.seconds = 1.0
        message = {**CREATE["params"], "thread_id": thread_id}
        body = {"type": "threads.add_user_message", "params": message}
        async with client.open("POST", "/chatkit", body, IDS):
            await trio.sleep(1.5)
            assert [turn.has_begun for turn in server.live_turns] == [False]
        answer = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn")

    assert text_in(events_of(answer.body)) == "Hello"


async def test_another_owners_turn_is_not_found(autojump_clock):
    store = MemoryStore(owner=lambda user: user)
    server = scripted_server(store, [pause(60)])
    app = create_app(server, context=lambda request: request.headers["X-User"])
    async with (
        client_of(app) as client,
        client.open("POST", "/chatkit", CREATE, {"X-User": "ada"}) as response,
    ):
        thread_id = await thread_id_of(response)
        path, eve = f"/chatkit/threads/{thread_id}", {"X-User": "eve"}
        watched = await client.ask("GET", f"{path}/turn", b"", eve)
        stopped = await client.ask("POST", f"{path}/stop", b"", eve)
        live = len(server.live_turns)

    assert (watched.status, stopped.status, live) == (404, 404, 1)


async def test_stop_settles_the_turn_before_it_answers(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=5)], policy=FINISH)
    async with left_in_the_middle(server) as (client, thread_id, _):
        answer = await client.ask("POST", f"/chatkit/threads/{thread_id}/stop")
        page = await server.store.load_thread_items(thread_id, None, 10, "asc", None)

    assert answer.json == {"stopped": True}
    message, partial, note = page.data
    assert isinstance(message, UserMessageItem)
    assert isinstance(partial, AssistantMessageItem)
    assert partial.content[0].text == "Hello"
    assert note.content.startswith("The user stopped the previous answer")


async def test_a_reader_hears_that_the_turn_was_stopped(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=5)])
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE, IDS) as response,
    ):
        thread_id = await thread_id_of(response)
        await read_until(response, b"Hello")
        await client.ask("POST", f"/chatkit/threads/{thread_id}/stop")
        *_, done, end = events_of(await response.body())

    assert done.data["item"]["content"][0]["text"] == "Hello"
    assert end.data == {"reason": "stopped"}


async def test_stopping_nothing_is_no_error():
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await response.body()
        answer = await client.ask("POST", f"/chatkit/threads/{thread_id}/stop")

    assert (answer.status, answer.json) == (200, {"stopped": False})


async def test_a_turn_that_may_not_be_cancelled_is_not_stopped(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=5)], allow_cancel=False)
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE, IDS) as response,
    ):
        thread_id = await thread_id_of(response)
        answer = await client.ask("POST", f"/chatkit/threads/{thread_id}/stop")
        body = await response.body()

    assert (answer.status, answer.json["error"]["code"]) == (409, "conflict")
    assert events_of(body)[-1].data == {"reason": "finished"}


async def test_a_watcher_whose_head_was_never_sent_is_no_reader(autojump_clock):
    """It hung up between its request and its answer: the turn must notice when all are gone."""
    server = scripted_server(MemoryStore(), [pause(3600)])
    async with client_of(app := create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await _ask_and_hang_up(app, f"/chatkit/threads/{thread_id}/turn")
        await trio.testing.wait_all_tasks_blocked()
        live = len(server.live_turns)

    assert live == 0


async def _ask_and_hang_up(app, path):
    """Call an app that finds the connection closed when it sends the head of its answer."""
    gone = trio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        gone.set()
        await trio.sleep_forever()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }
    await app(scope, receive, send)
