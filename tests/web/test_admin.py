"""`/admin`: who gets in, what it shows of turns and their tasks, and how it stops one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import TurnPolicy, current_turn
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import StoreWrapper, do, fail, pause, say, scripted_server
from chatkit_trio.web import asgi_app, create_app
from chatkit_trio.web._admin_desk import Desk, Order
from tests.all_ends import ENDS, SECRET, let_end
from tests.transcript import transcript

from .http import CREATE, Answer, Client, client_of, thread_id_of

TOKEN = "a-token-of-the-operators"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


async def _find_title() -> None:
    await trio.sleep(60)


def _start_finding_a_title(scene: Any) -> None:
    current_turn().nursery.start_soon(_find_title)


LONG = [
    pause(1),
    do(_start_finding_a_title),
    say("one ", "two ", every=1.0, finish=False),
    pause(99),
]


STATE = Order(do="state")
ANSWER = ["user: A question", "assistant: one two ", "note: stopped"]


def app_on(store: Store[Any], *script: Any) -> Any:
    policy = TurnPolicy(on_disconnect="finish", turn_timeout=50)
    server = scripted_server(store, list(script or LONG), policy=policy)
    return create_app(server, admin_token=TOKEN)


async def ask(client: Client, path: str, method: str = "GET") -> Answer:
    return await client.ask(method, f"/admin/{path}", headers=WITH_TOKEN)


async def state(client: Client) -> Any:
    answer = await ask(client, "state")
    assert answer.status == 200
    return answer.json


@asynccontextmanager
async def answering(client: Client) -> AsyncIterator[str]:
    """Have a question answered meanwhile; returns the id of its thread."""
    async with client.open("POST", "/chatkit", CREATE) as response:
        yield await thread_id_of(response)


# --- Who gets in ---------------------------------------------------------------------------------


async def test_there_is_no_admin_unless_it_is_asked_for(autojump_clock):
    server = scripted_server(MemoryStore(), LONG)
    async with client_of(create_app(server)) as client:
        assert (await client.ask("GET", "/admin")).status == 404
        assert (await ask(client, "state")).status == 404
        assert not server.turn_story.is_watched


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, f"Bearer {TOKEN[:-1]}"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "state"),
        ("GET", "nodes"),
        ("GET", "tasks"),
        ("GET", "tree?turn=x"),
        ("POST", "stop?turn=x"),
    ],
)
async def test_without_its_token_nothing_is_told(autojump_clock, given, method, path):
    async with client_of(app_on(MemoryStore())) as client:
        headers = {"Authorization": given} if given else {}
        answer = await client.ask(method, f"/admin/{path}", headers=headers)

    assert answer.status == 401
    assert answer.json["error"]["code"] == "unauthorized"
    assert answer.headers["www-authenticate"].lower().startswith("bearer")


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "a token with spaces", "ümlaut" * 5, 7])
def test_a_token_that_keeps_nobody_out_is_refused(token):
    with pytest.raises(ValueError, match="the token of /admin"):
        create_app(scripted_server(MemoryStore(), LONG), admin_token=token)


@pytest.mark.parametrize("path", ["", "/", "/a?b", "/<x>"])
def test_a_path_that_is_none_of_its_own_is_refused(path):
    with pytest.raises(ValueError, match="path must be a path of its own"):
        create_app(scripted_server(MemoryStore(), LONG), admin_token=TOKEN, admin_path=path)


async def test_pages_of_other_origins_and_names_are_refused(autojump_clock):
    async with client_of(app_on(MemoryStore())) as client:
        strange = {**WITH_TOKEN, "Origin": "https://evil.example"}
        assert (await client.ask("POST", "/admin/stop?turn=x", headers=strange)).status == 403
        for path in ("", "/state", "/files/favicon.svg"):
            answer = await client.ask("GET", f"/admin{path}", headers={"Host": "evil.example"})
            assert answer.status == 421


async def test_the_page_loads_its_files_and_has_a_policy_of_its_own(autojump_clock):
    server = scripted_server(MemoryStore(), LONG)
    app = create_app(server, admin_token=TOKEN, admin_path="/ops/turns/")
    async with client_of(app) as client:
        page = await client.ask("GET", "/ops/turns")
        names = [part.split('"')[0] for part in page.body.decode().split('"turns/')[1:]]
        answers = [await client.ask("GET", f"/ops/turns/{name}") for name in names]
        slash = await client.ask("GET", "/ops/turns/")

    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert {name.rpartition(".")[2] for name in names} == {"svg", "css", "js"}
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert (slash.status, slash.headers["location"]) == (308, "../turns")


# --- What is shown -------------------------------------------------------------------------------


async def test_a_live_turn_is_shown_with_its_times(autojump_clock):
    async with client_of(app_on(MemoryStore())) as client, answering(client) as thread_id:
        await trio.sleep(5)
        shown = await state(client)

    (turn,) = shown["turns"]
    assert turn["thread_id"] == thread_id
    assert turn["request"] == "threads.create"
    assert (turn["state"], turn["reason"]) == ("answering", None)
    assert turn["seconds"] == pytest.approx(5, abs=0.1)
    assert turn["first_event_seconds"] == pytest.approx(1, abs=0.1)
    assert turn["seconds_left"] == pytest.approx(45, abs=0.1)
    assert (turn["readers"], turn["events"] > 3) == (1, True)
    assert shown["live_turns"] == 1
    assert shown["health"]["stores"] == {"store": True}


async def test_the_tree_shows_the_users_tasks_and_what_they_wait_for(autojump_clock):
    async with client_of(app_on(MemoryStore())) as client, answering(client):
        await trio.sleep(5)
        (turn,) = (await state(client))["turns"]
        answer = await ask(client, f"tree?turn={turn['turn_id']}")

    tasks = {task["name"]: task for task in _all_tasks(answer.json)}
    found = next(task for name, task in tasks.items() if name.endswith("_find_title"))
    assert found["waits_for"] == "trio.sleep"
    assert found["seconds"] == pytest.approx(4, abs=0.1)
    assert found["places"][-1]["module"] == __name__
    respond = next(task for name, task in tasks.items() if name.endswith("_drive"))
    assert respond["waits_for"] == "trio.sleep"
    assert respond["seconds"] == pytest.approx(2, abs=0.1)


async def test_all_tasks_of_the_process_can_be_shown(autojump_clock):
    async with client_of(app_on(MemoryStore())) as client, answering(client):
        answer = await ask(client, "tasks")

    names = [task["name"] for task in _all_tasks(answer.json)]
    assert any(name.startswith("chatkit_trio turn_") for name in names)


def _all_tasks(task: Any) -> list[Any]:
    below = [each for nursery in task["nurseries"] for each in nursery["tasks"]]
    return [task, *(deeper for each in below for deeper in _all_tasks(each))]


@pytest.mark.parametrize("path", ["tree?turn=turn_x", "stop?turn=turn_x", "tasks?node=node_x"])
async def test_what_isnt_there_is_not_found(autojump_clock, path):
    async with client_of(app_on(MemoryStore(cluster=MemoryCluster()))) as client:
        answer = await ask(client, path, "POST" if path.startswith("stop") else "GET")

    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["tree", "stop"])
async def test_one_has_to_say_which_turn(autojump_clock, path):
    async with client_of(app_on(MemoryStore())) as client:
        answer = await ask(client, path, "POST" if path == "stop" else "GET")

    assert (answer.status, "?turn=ID" in answer.json["error"]["message"]) == (400, True)


@pytest.mark.parametrize("reason", ENDS)
async def test_a_turn_that_has_ended_is_shown_with_its_reason(reason, autojump_clock):
    desks: list[Desk] = []
    await let_end(reason, lambda server: desks.append(Desk(server)))
    text = await desks[0].tell(STATE)
    view = json.loads(text)

    others = {"finished": 1} if reason == "superseded" else {}
    assert view["reasons"] == {reason: 1, **others}
    assert reason in [end["reason"] for end in view["ends"]]
    if reason == "crashed":
        # Either of them settles it, and counts it.
        recovered = [json.loads(await desk.tell(STATE))["recovered"] for desk in desks]
        assert sorted(recovered, key=len) == [{}, {"crashed": 1}]
    assert SECRET not in text


async def test_an_error_is_named_and_its_text_isnt_told(autojump_clock):
    app = app_on(MemoryStore(), fail(RuntimeError(SECRET)))
    async with client_of(app) as client:
        await client.post(CREATE)
        answer = await ask(client, "state")

    (end,) = answer.json["ends"]
    assert (end["reason"], end["error"]) == ("failed", "RuntimeError")
    assert SECRET not in answer.body.decode()


async def test_owners_are_told_by_their_hash_and_refusals_are_counted(autojump_clock):
    server = scripted_server(
        MemoryStore(owner=lambda user: SECRET), LONG, owner_limits=OwnerLimits(live_turns=1)
    )
    async with client_of(create_app(server, admin_token=TOKEN)) as client, answering(client):
        refused = await client.post(CREATE)
        answer = await ask(client, "state")

    assert refused.status == 429
    assert list(answer.json["refusals"].values()) == [1]
    (turn,) = answer.json["turns"]
    assert len(turn["owner_hash"]) == 16
    assert SECRET not in answer.body.decode()


async def test_a_store_that_is_ill_and_an_answer_that_waits_for_it_are_shown(autojump_clock):
    class Ill(StoreWrapper[Any]):
        is_ill = False

        async def around(self, name: str, call: Any) -> Any:
            if self.is_ill and name != "coordination.news":
                raise StoreError("the disk is full")
            return await call()

        async def ping(self) -> None:
            await self.around("ping", trio.lowlevel.checkpoint)

    store = Ill(MemoryStore())
    app = app_on(store, say("one ", "two ", every=1.0))
    async with client_of(app) as client, answering(client):
        await trio.sleep(0.5)
        store.is_ill = True
        await trio.sleep(9)
        shown = await state(client)
        store.is_ill = False

    assert shown["health"]["stores"] == {"store": False}
    assert shown["health"]["oldest_settling"] > 5
    assert [turn["state"] for turn in shown["turns"]] == ["settling"]


# --- Stopping ------------------------------------------------------------------------------------


async def test_a_turn_that_is_stopped_leaves_its_answer_and_its_note(autojump_clock):
    store = MemoryStore[Any]()
    async with client_of(app_on(store)) as client, answering(client) as thread_id:
        await trio.sleep(5)
        (turn,) = (await state(client))["turns"]
        answer = await ask(client, f"stop?turn={turn['turn_id']}", "POST")
        await trio.sleep(1)
        shown = await state(client)

    assert (answer.status, answer.json) == (200, True)
    assert (shown["turns"], shown["reasons"]) == ([], {"stopped": 1})
    assert await transcript(store, thread_id) == ANSWER


async def test_a_get_stops_nothing(autojump_clock):
    async with client_of(app_on(MemoryStore())) as client, answering(client):
        (turn,) = (await state(client))["turns"]
        answer = await ask(client, f"stop?turn={turn['turn_id']}")
        await trio.sleep(1)
        still = (await state(client))["turns"]

    assert (answer.status, len(still)) == (405, 1)


# --- Other nodes ---------------------------------------------------------------------------------


async def test_turns_of_another_node_are_shown_drawn_and_stopped(autojump_clock):
    cluster = MemoryCluster()
    store = MemoryStore[Any](cluster=cluster)
    async with (
        client_of(app_on(store)) as here,
        client_of(app_on(MemoryStore(cluster=cluster))) as there,
        answering(there) as thread_id,
    ):
        await trio.sleep(5)
        (other,) = (await ask(here, "nodes")).json
        ((shown,), node) = other["states"], other["node"]
        (turn,) = shown["turns"]
        where = f"node={node}&turn={turn['turn_id']}"
        tree = (await ask(here, f"tree?{where}")).json
        tasks = (await ask(here, f"tasks?node={node}")).json
        elsewhere = await ask(here, f"tree?turn={turn['turn_id']}")
        stopped = await ask(here, f"stop?{where}", "POST")
        await trio.sleep(1)
        (after,) = (await ask(here, "nodes")).json

        assert (await state(here))["turns"] == []
        assert turn["thread_id"] == thread_id
        assert any(task["name"].endswith("_find_title") for task in _all_tasks(tree))
        assert len(_all_tasks(tasks)) > len(_all_tasks(tree))
        assert elsewhere.status == 404
        assert (stopped.status, stopped.json) == (200, True)
        assert (after["states"][0]["turns"], after["states"][0]["reasons"]) == ([], {"stopped": 1})
        assert await transcript(store, thread_id) == ANSWER


async def test_a_node_without_admin_and_one_that_is_silent_are_told_of(autojump_clock):
    cluster = MemoryCluster()
    plain = scripted_server(MemoryStore[Any](cluster=cluster), LONG)
    async with client_of(app_on(MemoryStore(cluster=cluster))) as client, plain:
        (other,) = (await ask(client, "nodes")).json
        assert other["states"] == []
        cluster.join(lambda about: None)  # a node that never looks into its box
        states = [each["states"] for each in (await ask(client, "nodes")).json]
        assert sorted(states, key=str) == [None, []]


async def test_nodes_that_end_are_gone(autojump_clock):
    cluster = MemoryCluster()
    async with client_of(app_on(MemoryStore(cluster=cluster))) as client:
        async with client_of(app_on(MemoryStore(cluster=cluster))):
            assert len((await ask(client, "nodes")).json) == 1
        assert (await ask(client, "nodes")).json == []


async def test_this_node_is_shown_when_the_store_cant_be_asked(autojump_clock):
    class Away(StoreWrapper[Any]):
        async def around(self, name: str, call: Any) -> Any:
            if name == "coordination.nodes":
                raise StoreError("the database is away")
            return await call()

    async with client_of(app_on(Away(MemoryStore(cluster=MemoryCluster())))) as client:
        assert (await ask(client, "nodes")).status == 503
        assert (await state(client))["live_turns"] == 0


async def test_a_hundred_turns_of_another_node_fit_into_one_message(autojump_clock):
    cluster = MemoryCluster()
    sizes: list[int] = []
    post = cluster.post

    def measured(name: str, message: bytes, sender: str) -> None:
        sizes.append(len(message))
        post(name, message, sender)

    cluster.post = measured  # type: ignore[method-assign]
    async with (
        client_of(app_on(MemoryStore(cluster=cluster))) as here,
        client_of(app_on(MemoryStore(cluster=cluster))) as there,
        trio.open_nursery() as nursery,
    ):
        for _ in range(150):
            nursery.start_soon(there.post, CREATE)
        await trio.sleep(3)
        (other,) = (await ask(here, "nodes")).json
        await ask(here, f"tasks?node={other['node']}")
        nursery.cancel_scope.cancel()

    assert other["states"][0]["live_turns"] == 150
    assert len(other["states"][0]["turns"]) == 100
    assert 30_000 < max(sizes) < 100_000


# --- In another app ------------------------------------------------------------------------------


async def test_it_is_below_the_root_of_a_mount(autojump_clock):
    server = scripted_server(MemoryStore[Any](), LONG)
    chat = asgi_app(server, admin_token=TOKEN)
    async with client_of(chat) as client:
        assert (await client.ask("GET", "/admin")).status == 200
        assert (await state(client))["live_turns"] == 0
