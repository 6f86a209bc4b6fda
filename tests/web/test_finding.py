"""Those who look for a thread: `GET .../threads` and `GET .../search`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from quart import Request
from werkzeug.exceptions import Unauthorized

from chatkit_trio.errors import StoreError
from chatkit_trio.limits import OwnerLimits, RequestLimits
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import StoreWrapper, say, scripted_server
from chatkit_trio.testing._store_samples import NOON, answered, at, said
from chatkit_trio.types import (
    ClosedStatus,
    HiddenContextItem,
    ThreadItem,
    ThreadMetadata,
)
from chatkit_trio.web import create_app

from .http import CREATE, Answer, Client, client_of

THREADS, SEARCH = "/chatkit/threads", "/chatkit/search"


def user_of(request: Request) -> str:
    """Return whose request it is, and refuse some."""
    name = request.headers.get("X-User", "ann")
    if name == "nobody":
        raise Unauthorized("Log in first.")
    if name == "banned":
        raise PermissionError("You may not ask.")
    return name


def app_of(store: Any, **options: Any) -> Any:
    server = scripted_server(store, [say("Hello")], **options)
    return create_app(server, context=user_of)


class Reading(ChatKitServer[str]):
    """A server that is only read from."""

    async def respond(self, thread: ThreadMetadata, message: Any, context: str) -> Any:
        raise AssertionError("nobody asks")
        yield


async def filled(*items: ThreadItem, titles: dict[str, str] | None = None) -> MemoryStore[str]:
    """Return a store with three threads of ann's."""
    store = MemoryStore[str](owner=str)
    for number in range(3):
        thread_id = f"thr_{number}"
        thread = ThreadMetadata(
            id=thread_id,
            created_at=at(number),
            title=(titles or {}).get(thread_id),
            metadata={"internal": "secret"},
        )
        await store.save_thread(thread, "ann")
    for item in items:
        await store.add_thread_item(item.thread_id, item, "ann")
    return store


async def search(client: Client, query: str, more: str = "", user: str = "ann") -> Answer:
    return await client.ask("GET", f"{SEARCH}?q={quote(query)}{more}", headers={"X-User": user})


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [each.get("thread", each)["id"] for each in answer.json["data"]]


async def test_threads_come_by_activity_with_its_time_and_a_name():
    store = await filled(
        said("m1", "thr_0", "When does the ferry leave?", 5),
        HiddenContextItem(id="h", thread_id="thr_1", created_at=at(9), content="x"),
        titles={"thr_1": "Trains"},
    )
    async with client_of(app_of(store)) as client:
        answer = await client.ask("GET", THREADS)
        listed = await client.post({"type": "threads.list", "params": {"order": "desc"}})

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    as_listed = {thread["id"]: thread for thread in listed.json["data"]}
    assert answer.json == {
        "data": [
            {
                **as_listed["thr_0"],
                "last_activity_at": "2025-06-01T12:05:00Z",
                "name": "When does the ferry leave?",
            },
            {**as_listed["thr_2"], "last_activity_at": "2025-06-01T12:02:00Z"},
            {**as_listed["thr_1"], "last_activity_at": "2025-06-01T12:01:00Z"},
        ],
        "has_more": False,
    }
    assert b"secret" not in answer.body


async def test_a_message_that_is_sent_moves_its_thread_to_the_top():
    store = await filled()
    async with client_of(app_of(store)) as client:
        before = await client.ask("GET", THREADS)
        message = {**CREATE["params"], "thread_id": "thr_0"}
        await client.post({"type": "threads.add_user_message", "params": message})
        after = await client.ask("GET", THREADS)
        found = await search(client, "question")

    assert ids(before) == ["thr_2", "thr_1", "thr_0"]
    assert ids(after) == ["thr_0", "thr_2", "thr_1"]
    assert after.json["data"][0]["name"] == "A question"
    assert ids(found) == ["thr_0"]


async def test_pages_go_on_behind_their_cursor():
    async with client_of(app_of(await filled(titles={f"thr_{n}": "boats" for n in range(3)}))) as (
        client
    ):
        for path in (f"{THREADS}?limit=2", f"{SEARCH}?q=boat&limit=2"):
            first = await client.ask("GET", path)
            assert ids(first) == ["thr_2", "thr_1"]
            assert first.json["has_more"]
            rest = await client.ask("GET", f"{path}&after={quote(first.json['after'], safe='')}")
            assert ids(rest) == ["thr_0"]
            assert "after" not in rest.json


async def test_a_hit_has_its_thread_its_item_and_the_place():
    store = await filled(
        said("m1", "thr_0", "When does the ferry leave?"),
        answered("m2", "thr_0", "👍 The ferry\nleaves <b>at nine</b>", 5),
        titles={"thr_1": "Ferries"},
    )
    closed = ThreadMetadata(
        id="thr_1", created_at=NOON, title="Ferries", status=ClosedStatus(reason="over")
    )
    await store.save_thread(closed, "ann")
    async with client_of(app_of(store)) as client:
        answer = await search(client, "ferr")

    of_item, of_title = answer.json["data"]
    assert of_item["thread"]["name"] == "When does the ferry leave?"
    assert of_item["item_id"] == "m2"
    assert of_item["excerpt"] == "👍 The ferry leaves <b>at nine</b>"
    assert of_item["matches"] == [[7, 11]]  # as JavaScript counts
    text = of_item["excerpt"].encode("utf-16-le")
    assert text[2 * 7 : 2 * 11].decode("utf-16-le") == "ferr"
    assert of_title["thread"]["status"] == {"type": "closed", "reason": "over"}
    assert of_title["thread"]["title"] == of_title["excerpt"] == "Ferries"
    assert of_title["matches"] == [[0, 4]]
    assert "item_id" not in of_title
    assert "name" not in of_title["thread"]


async def test_nobody_sees_the_threads_of_another():
    store = await filled(titles={"thr_0": "boats"})
    async with client_of(app_of(store)) as client:
        mine = await client.ask("GET", f"{THREADS}?limit=1")
        after = quote(mine.json["after"], safe="")
        bob = {"X-User": "bob"}
        for path in (THREADS, f"{THREADS}?after={after}"):
            answer = await client.ask("GET", path, headers=bob)
            assert answer.json == {"data": [], "has_more": False}
        for more in ("", f"&after={after}"):
            answer = await search(client, "boat", more, "bob")
            assert answer.json == {"data": [], "has_more": False}


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "?!.,",
        "\x00",
        "%",
        "*",
        '"',
        "'",
        '"boat',
        "boat AND",
        "boat OR NEAR(x y)",
        "words:boat",
        "-boat",
        "boat*",
        "(boat",
        "b\\oat",
        "' OR 1=1; --",
        "a" * 256,
        "東" * 256,
        "\ufffd\U0010ffff",
    ],
)
async def test_whatever_is_searched_for_is_answered(query: str, tmp_path: Any) -> None:
    store = SQLiteStore[str](tmp_path / "chat.db", owner=str)
    async with client_of(app_of(store)) as client:
        await client.post(CREATE)
        answer = await search(client, query)
    assert answer.status == 200
    assert answer.json == {"data": [], "has_more": False}


async def test_bytes_that_are_no_text_are_answered():
    async with client_of(app_of(await filled())) as client:
        answer = await client.ask("GET", f"{SEARCH}?q=%ff%fe%00&after")
    assert answer.status == 404


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (SEARCH, "q is missing"),
        (f"{SEARCH}?q={'a' * 257}", "256 characters, and this one has 257"),
        (f"{SEARCH}?q={'a' * 10_000}", "256 characters"),
        (f"{SEARCH}?q={'+'.join(f'w{number}' for number in range(33))}", "32 words"),
        (f"{SEARCH}?q=a&limit=0", "limit has to be a number"),
        (f"{THREADS}?limit=-1", "limit has to be a number"),
        (f"{THREADS}?limit=ten", "limit has to be a number"),
        (f"{THREADS}?limit=", "limit has to be a number"),
        (f"{THREADS}?limit={'9' * 5_000}", "limit has to be a number"),
        (f"{THREADS}?limit=%D9%A3", "limit has to be a number"),
    ],
)
async def test_what_cant_be_asked_is_refused_with_a_reason(path: str, told: str) -> None:
    async with client_of(app_of(await filled())) as client:
        answer = await client.ask("GET", path)
    assert answer.status == 400
    assert answer.json["error"]["code"] == "invalid_request"
    assert told in answer.json["error"]["message"]


async def test_what_is_no_cursor_is_not_found():
    async with client_of(app_of(await filled())) as client:
        for path in (f"{THREADS}?after=thr_1", f"{SEARCH}?q=boat&after=%00"):
            answer = await client.ask("GET", path)
            assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", [THREADS, f"{SEARCH}?q=boat"])
async def test_who_may_not_ask_is_told_nothing(path: str) -> None:
    store = await filled(titles={"thr_0": "boats"})
    async with client_of(app_of(store)) as client:
        for headers, status in (
            ({"X-User": "nobody"}, 401),
            ({"X-User": "banned"}, 403),
            ({"Origin": "https://evil.example"}, 403),
            ({"Host": "evil.example"}, 421),
        ):
            answer = await client.ask("GET", path, headers=headers)
            assert answer.status == status
            assert b"boats" not in answer.body
        assert (await client.ask("POST", path)).status == 405


@pytest.mark.parametrize("path", [THREADS, f"{SEARCH}?q=boat"])
async def test_each_counts_as_a_request_of_its_owner(path: str) -> None:
    app = app_of(await filled(), owner_limits=OwnerLimits(requests_per_minute=2))
    async with client_of(app) as client:
        answers = [await client.ask("GET", path) for _ in range(3)]
        other = await client.ask("GET", path, headers={"X-User": "bob"})
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[-1].json["error"]["limit"] == "requests_per_minute"
    assert other.status == 200


@pytest.mark.parametrize("path", [THREADS, f"{SEARCH}?q=boat"])
async def test_a_store_that_is_away_is_told_as_such(path: str) -> None:
    class Away(StoreWrapper[str]):
        async def around(self, name: str, call: Any) -> Any:
            if name in ("search_threads", "load_threads_by_activity"):
                raise StoreError("the disk is on fire")
            return await call()

    async with client_of(app_of(Away(await filled()))) as client:
        answer = await client.ask("GET", path)
    assert answer.status == 503
    assert "fire" not in answer.json["error"]["message"]


async def test_a_page_has_no_more_entries_and_bytes_than_the_limits_allow():
    titles = {f"thr_{number}": f"boats {'x' * 900}" for number in range(3)}
    store = await filled(titles=titles)
    for limits, sizes in (
        (RequestLimits(page_items=2), [2, 1]),
        (RequestLimits(page_bytes=3_000), [2, 1]),
        (RequestLimits(page_bytes=1), [1, 1, 1]),
    ):
        app = create_app(Reading(store, limits=limits), context=user_of)
        async with client_of(app) as client:
            for path in (f"{THREADS}?limit=9", f"{SEARCH}?q=boat&limit=9"):
                pages: list[list[str]] = []
                after = ""
                while True:
                    answer = await client.ask("GET", path + after)
                    pages.append(ids(answer))
                    if not answer.json["has_more"]:
                        break
                    after = f"&after={quote(answer.json['after'], safe='')}"
                assert [len(page) for page in pages] == sizes
                assert [each for page in pages for each in page] == ["thr_2", "thr_1", "thr_0"]
