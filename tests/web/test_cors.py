"""Pages of other origins."""

from __future__ import annotations

import pytest

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.web import create_app

from .http import CREATE, client_of

SHOP = {"Origin": "https://shop.example"}
EVIL = {"Origin": "https://evil.example"}
LIST = {"type": "threads.list", "params": {}}
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": (
        "content-type,chatkit-event-ids,chatkit-endings,idempotency-key"
    ),
}


def app_for(cors_origins):
    server = scripted_server(MemoryStore(), [say("Hello")])
    return create_app(server, cors_origins=cors_origins)


async def test_a_listed_origin_may_read_answers_streams_and_errors():
    async with client_of(app_for(["https://shop.example"])) as client:
        answers = [
            await client.post(CREATE, SHOP),
            await client.post(LIST, SHOP),
            await client.post(b"{", SHOP),
            await client.ask("GET", "/chatkit", b"", SHOP),
            await client.ask("GET", "/chatkit/threads/thr_x/turn", b"", SHOP),
        ]

    assert [answer.status for answer in answers] == [200, 200, 400, 405, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["vary"] == "Origin"


async def test_an_origin_that_is_not_listed_may_read_nothing():
    async with client_of(app_for(["https://shop.example"])) as client:
        answer = await client.post(LIST, EVIL)

    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


async def test_all_origins_may_be_allowed_but_then_without_cookies():
    async with client_of(app_for("*")) as client:
        answer = await client.post(LIST, EVIL)

    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_without_origins_no_header_is_sent():
    async with client_of(app_for(None)) as client:
        answer = await client.post(LIST, SHOP)

    assert [name for name in answer.headers if name.startswith("access-control")] == []


async def test_a_preflight_is_answered():
    async with client_of(app_for(["https://shop.example"])) as client:
        answer = await client.ask("OPTIONS", "/chatkit", b"", {**SHOP, **PREFLIGHT})

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert answer.headers["access-control-allow-methods"] == "POST, OPTIONS"
    allowed = answer.headers["access-control-allow-headers"]
    assert allowed == PREFLIGHT["Access-Control-Request-Headers"]


async def test_a_preflight_of_a_stranger_allows_nothing():
    async with client_of(app_for(["https://shop.example"])) as client:
        answer = await client.ask("OPTIONS", "/chatkit", b"", {**EVIL, **PREFLIGHT})

    assert answer.status == 204
    assert [name for name in answer.headers if name.startswith("access-control")] == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_browser_cannot_be_made_to_post_for_a_stranger(site):
    headers = {**EVIL, "Sec-Fetch-Site": site, "Content-Type": "text/plain"}
    async with client_of(app_for(["https://shop.example"])) as client:
        posted = await client.post(LIST, headers)
        stopped = await client.ask("POST", "/chatkit/threads/thr_x/stop", b"", headers)
        listed = await client.post(LIST, {**SHOP, "Sec-Fetch-Site": site})

    assert (posted.status, stopped.status, listed.status) == (403, 403, 200)


# Safari before 16.4, and every browser on plain HTTP, sends no Sec-Fetch-Site.


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://testserver.evil", "null", "http://["]
)
async def test_without_the_browsers_word_for_it_a_strangers_origin_is_refused(origin):
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    async with client_of(app_for(["https://shop.example"])) as client:
        posted = await client.post(LIST, headers)
        stopped = await client.ask("POST", "/chatkit/threads/thr_x/stop", b"", headers)
        listed = await client.post(LIST, SHOP)

    assert (posted.status, stopped.status, listed.status) == (403, 403, 200)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://testserver"},
        {"Origin": "https://TestServer"},
        {"Origin": "https://chat.example", "X-Forwarded-Host": "chat.example, testserver"},
    ],
    ids=str,
)
async def test_without_the_browsers_word_for_it_the_own_page_may_post(headers):
    async with client_of(app_for(None)) as client:
        answer = await client.post(LIST, headers)

    assert answer.status == 200


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_the_own_page_may_post(site):
    async with client_of(app_for(None)) as client:
        answer = await client.post(LIST, {"Sec-Fetch-Site": site})

    assert answer.status == 200


def test_one_origin_alone_is_a_mistake():
    with pytest.raises(ValueError, match="must be None, '\\*' or a list"):
        app_for("https://shop.example")
