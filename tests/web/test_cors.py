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


def app_for(cors_origins, allowed_hosts=None):
    server = scripted_server(MemoryStore(), [say("Hello")])
    return create_app(server, cors_origins=cors_origins, allowed_hosts=allowed_hosts)


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


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        (EVIL, 200),
        ({"Cookie": "user=ada"}, 200),
        ({"Cookie": "user=ada", "Origin": "http://localhost"}, 200),
        ({"Cookie": "user=ada", **EVIL}, 403),
    ],
    ids=str,
)
async def test_where_all_origins_are_allowed_none_writes_with_the_users_cookies(headers, status):
    async with client_of(app_for("*")) as client:
        answer = await client.post(LIST, {"Host": "localhost", **headers})

    assert answer.status == status


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


# --- Who may ask ---------------------------------------------------------------------------------

OWN = {"Origin": "http://localhost:8000", "Host": "localhost:8000"}
FOREIGN = ["https://evil.example", "http://localhost.evil", "null", "http://[", ""]


async def ask_all(client, headers):
    """Return the statuses of a post, a stop and a watch."""
    answers = [
        await client.post(LIST, headers),
        await client.ask("POST", "/chatkit/threads/thr_x/stop", b"", headers),
        await client.ask("GET", "/chatkit/threads/thr_x/turn", b"", headers),
    ]
    return [answer.status for answer in answers]


ANSWERED, REFUSED = [200, 404, 404], [403, 403, 403]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything-else"])
async def test_a_browser_cannot_be_made_to_ask_for_a_stranger(site):
    headers = {**EVIL, "Sec-Fetch-Site": site, "Content-Type": "text/plain"}
    async with client_of(app_for(["https://shop.example"])) as client:
        refused = await ask_all(client, headers)
        listed = await ask_all(client, {**SHOP, "Sec-Fetch-Site": site})

    assert (refused, listed) == (REFUSED, ANSWERED)


@pytest.mark.parametrize("site", [None, "same-origin", "none", "cross-site"])
@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_strangers_origin_is_refused_whatever_else_the_browser_says(origin, site):
    """Safari before 16.4, and every browser on plain HTTP, sends no Sec-Fetch-Site."""
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    if site is not None:
        headers["Sec-Fetch-Site"] = site
    async with client_of(app_for(["https://shop.example"])) as client:
        assert await ask_all(client, headers) == REFUSED


async def test_a_foreign_site_is_refused_though_no_origin_came():
    async with client_of(app_for(["https://shop.example"])) as client:
        assert await ask_all(client, {"Sec-Fetch-Site": "cross-site"}) == REFUSED


async def test_a_foreign_site_is_refused_though_the_origin_is_the_own():
    """A page of http://chat.example that posts to https://chat.example: same name, other site."""
    async with client_of(app_for(None)) as client:
        assert await ask_all(client, {**OWN, "Sec-Fetch-Site": "cross-site"}) == REFUSED


async def test_a_page_of_another_port_of_this_machine_is_a_stranger():
    headers = {"Origin": "http://localhost:3000", "Host": "localhost:8000"}
    async with client_of(app_for(None)) as client:
        assert await ask_all(client, headers) == REFUSED


async def test_nothing_is_stored_of_what_a_stranger_posts():
    server = scripted_server(MemoryStore(), [say("Hello")])
    async with client_of(create_app(server)) as client:
        answer = await client.post(CREATE, {"Origin": "http://evil.test"})
        page = await server.store.load_threads(10, None, "asc", None)

    assert (answer.status, page.data) == (403, [])


async def test_a_refusal_says_which_origin_asked_for_which_host():
    async with client_of(app_for(None)) as client:
        answer = await client.post(LIST, {**OWN, "Origin": "http://localhost:3000"})

    assert answer.json["error"]["code"] == "forbidden"
    message = answer.json["error"]["message"]
    assert "'http://localhost:3000'" in message
    assert "'localhost:8000'" in message
    assert "cors_origins" in message


@pytest.mark.parametrize(
    "headers",
    [
        {},
        OWN,
        {"Origin": "https://LocalHost"},
        {**OWN, "Sec-Fetch-Site": "same-origin"},
        {**OWN, "Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://chat.example", "X-Forwarded-Host": "chat.example, localhost"},
        {"Origin": "https://chat.example", "Host": "chat.example:443"},
        {"Origin": "https://chat.example:8443", "Host": "chat.example:8443"},
    ],
    ids=str,
)
async def test_the_own_page_may_ask(headers):
    async with client_of(app_for(None, ["chat.example"])) as client:
        assert await ask_all(client, headers) == ANSWERED


async def test_the_health_of_a_server_may_be_asked_by_anyone():
    headers = {**EVIL, "Sec-Fetch-Site": "cross-site"}
    async with client_of(app_for(None)) as client:
        assert (await client.ask("GET", "/healthz", b"", headers)).status == 200


async def test_links_from_other_sites_lead_to_the_page():
    async with client_of(app_for(None)) as client:
        answer = await client.ask("GET", "/", b"", {"Sec-Fetch-Site": "cross-site"})

    assert answer.status == 200


@pytest.mark.parametrize(
    "wrong",
    [
        ["null"],
        ["shop.example"],
        ["https://shop.example/chat"],
        ["https://"],
        ["https://a@shop.example"],
        ["*"],
        ["https://a.example https://b.example"],
        ["https://münchen..example"],
        ["https://münchen.example\uff0fchat"],
    ],
    ids=str,
)
def test_what_can_be_no_origin_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match="cors_origins must be origins"):
        app_for(wrong)


@pytest.mark.parametrize(
    "given", ["https://Shop.example", "https://shop.example/", "https://shop.example:443"]
)
async def test_an_origin_may_be_written_in_other_ways(given):
    async with client_of(app_for([given])) as client:
        assert await ask_all(client, SHOP) == ANSWERED


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://München.example", "https://xn--mnchen-3ya.example"),
        ("https://münchen.example:443", "https://xn--mnchen-3ya.example"),
        ("http://例え.テスト:8080", "http://xn--r8jz45g.xn--zckzah:8080"),
        ("https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example"),
    ],
)
async def test_an_origin_may_be_written_in_other_letters(given, sent):
    async with client_of(app_for([given])) as client:
        assert await ask_all(client, {"Origin": sent}) == ANSWERED
        answer = await client.post(LIST, {"Origin": sent})

    assert answer.headers["access-control-allow-origin"] == sent


def test_one_origin_alone_is_a_mistake():
    with pytest.raises(ValueError, match="must be None, '\\*' or a list"):
        app_for("https://shop.example")
