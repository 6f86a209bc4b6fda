"""The host that a request names: which are answered, and what others are told."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio
from quart_trio import QuartTrio

from chatkit_trio.stores import DiskAttachmentStore, MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.types import ThreadMetadata
from chatkit_trio.web import chatkit_blueprint, create_app, serve
from chatkit_trio.web._hosts import AllowedHosts, Host, is_own_origin, tell_hosts

from .http import CREATE, client_of

LIST = {"type": "threads.list", "params": {}}
LOOPBACK = [
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "chat.localhost:8000",
    "127.0.0.1",
    "127.1.2.3:80",
    "[::1]:8000",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]:8000",
]
STRANGE = [
    "evil.test",
    "evil.test:8000",
    "localhost.evil.test",
    "evil-localhost",
    "127.0.0.1.evil.test",
    "127.0.0.1:8000.evil.test",
    "10.0.0.7:8000",
    "0.0.0.0:8000",
    "[::]:8000",
    "[fe80::1%25eth0]:8000",
    "2130706433",
    "127.1",
    "0177.0.0.1",
    "localhost@evil.test",
    "localhost/evil.test",
    "localhost evil.test",
    "localhost,evil.test",
    "[localhost]",
    "[::1",
    "localhost:80:80",
    "localhost:http",
    "localhost..",
    ".localhost",
    "a" * 64 + ".localhost",
    "\u2025localhost",
]


def app_for(allowed_hosts=None, **settings):
    server = scripted_server(MemoryStore(), [say("Hello")])
    return create_app(server, allowed_hosts=allowed_hosts, **settings)


async def statuses(app, hosts, path="/", method="GET", body=b""):
    async with client_of(app) as client:
        return {
            host: (await client.ask(method, path, body, {"Host": host})).status for host in hosts
        }


# --- By default ----------------------------------------------------------------------------------


async def test_names_and_addresses_of_loopback_are_answered():
    assert await statuses(app_for(), LOOPBACK) == dict.fromkeys(LOOPBACK, 200)


async def test_all_other_hosts_are_refused():
    assert await statuses(app_for(), STRANGE[:-1]) == dict.fromkeys(STRANGE[:-1], 421)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/chatkit"),
        ("OPTIONS", "/chatkit"),
        ("GET", "/chatkit"),
        ("GET", "/chatkit/threads/thr_x/turn"),
        ("POST", "/chatkit/threads/thr_x/stop"),
        ("GET", "/healthz"),
        ("GET", "/livez"),
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/chatkit-trio.js"),
        ("GET", "/static/nowhere.js"),
        ("POST", "/files"),
        ("OPTIONS", "/files"),
        ("PUT", "/files/att_x"),
        ("DELETE", "/files/att_x"),
        ("GET", "/files/att_x"),
    ],
)
async def test_every_route_refuses_an_unknown_host(tmp_path, method, path):
    store = MemoryStore()
    files = DiskAttachmentStore(
        tmp_path, metadata=store, base_url="http://localhost/files", secret="s" * 16
    )
    server = scripted_server(store, [say("Hello")])
    server.attachment_store = files
    async with client_of(create_app(server)) as client:
        answer = await client.ask(method, path, b"{}", {"Host": "evil.test"})

    assert answer.status == 421


async def test_a_page_that_was_rebound_neither_reads_nor_stores():
    """All headers are those of a page of the own origin: only the host's name is wrong."""
    store = MemoryStore()
    await store.save_thread(ThreadMetadata(id="thr_1", created_at="2026-01-01T00:00:00"), None)
    rebound = {
        "Host": "evil.test:8000",
        "Origin": "http://evil.test:8000",
        "Sec-Fetch-Site": "same-origin",
        "X-Forwarded-Host": "localhost:8000",
    }
    async with client_of(create_app(scripted_server(store, [say("Hello")]))) as client:
        listed = await client.post(LIST, rebound)
        posted = await client.post(CREATE, rebound)
        threads = await store.load_threads(10, None, "asc", None)

    assert (listed.status, posted.status) == (421, 421)
    assert b"thr_1" not in listed.body
    assert [thread.id for thread in threads.data] == ["thr_1"]


async def test_a_refusal_says_how_to_allow_the_name():
    async with client_of(app_for()) as client:
        answer = await client.post(LIST, {"Host": "chat.example.org:8443"})

    assert answer.json["error"]["code"] == "misdirected_request"
    message = answer.json["error"]["message"]
    assert "'chat.example.org:8443'" in message
    assert "--allowed-host" in message
    assert "allowed_hosts=[" in message


async def test_a_refused_name_is_logged_once_and_a_flood_of_names_is_not(caplog):
    caplog.set_level(logging.WARNING, "chatkit_trio")
    names = ["evil.test", "evil.test", *(f"evil{number}.test" for number in range(100))]

    await statuses(app_for(), names, "/chatkit")

    assert len([record for record in caplog.records if "'evil.test'" in record.message]) == 1
    assert len(caplog.records) == 20


async def test_a_request_without_a_host_is_no_browsers_and_is_answered():
    """Old probes speak HTTP/1.0; a name that isn't there can't have been rebound."""
    messages = []

    async def send(message):
        messages.append(message)

    app = app_for()
    async with client_of(app):
        await app(_scope_without_host("/healthz"), trio.sleep_forever, send)

    assert messages[0]["status"] == 200


def _scope_without_host(path):
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.0",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }


async def test_probes_may_ask_by_any_address_but_by_no_name():
    for path in ("/healthz", "/livez"):
        by_address = await statuses(app_for(), ["10.0.0.7:8000", "[fd00::7]:8000"], path)
        by_name = await statuses(app_for(), ["evil.test", "10.0.0.7.evil.test"], path)

        assert set(by_address.values()) == {200}
        assert set(by_name.values()) == {421}


# --- Names that are allowed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "allowed", "refused"),
    [
        (["chat.example.org"], "chat.example.org", "www.chat.example.org"),
        (["Chat.Example.org."], "chat.example.ORG:443", "example.org"),
        ([".example.org"], "example.org", "badexample.org"),
        ([".example.org"], "a.b.example.org", "example.org.evil.test"),
        (["*.example.org"], "chat.example.org", "example.com"),
        (["10.0.0.7"], "10.0.0.7:8000", "10.0.0.8:8000"),
        (["fd00::7"], "[fd00:0::7]:8000", "[fd00::8]:8000"),
        (["[fd00::7]"], "[fd00::7]", "fd00::7"),
        (["bücher.example"], "xn--bcher-kva.example", "xn--bucher-kva.example"),
        (["my_host"], "my_host:8000", "my-host:8000"),
    ],
)
async def test_an_allowed_name_is_answered_and_its_neighbours_are_not(given, allowed, refused):
    found = await statuses(app_for(given), [allowed, refused, "localhost"])

    assert found == {allowed: 200, refused: 421, "localhost": 200}


@pytest.mark.parametrize("given", ["*", ["*"]])
async def test_all_names_may_be_allowed(given):
    assert await statuses(app_for(given), ["evil.test"]) == {"evil.test": 200}


@pytest.mark.parametrize(
    "wrong",
    [
        "chat.example.org",
        ["https://chat.example.org"],
        ["chat.example.org:443"],
        ["chat.example.org/chat"],
        ["*example.org"],
        ["chat.*.org"],
        [""],
        ["."],
        ["a b"],
    ],
    ids=str,
)
def test_what_can_be_no_name_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match="allowed_hosts must be"):
        app_for(wrong)


def test_a_name_has_to_be_text():
    with pytest.raises(TypeError, match="allowed_hosts must be names"):
        app_for([8000])


async def test_a_blueprint_in_an_app_of_ones_own_is_as_strict():
    def app(**settings):
        own = QuartTrio(__name__)
        server = scripted_server(MemoryStore(), [say("Hello")])
        own.register_blueprint(chatkit_blueprint(server, **settings))
        return own

    path, hosts = "/chatkit/threads/thr_x/turn", ["chat.example.org"]

    assert await statuses(app(), hosts, path) == {"chat.example.org": 421}
    assert await statuses(app(allowed_hosts=hosts), hosts, path) == {"chat.example.org": 404}


async def test_the_host_of_the_attachments_own_urls_is_allowed_for_attachments(tmp_path):
    store = MemoryStore()
    files = DiskAttachmentStore(
        tmp_path, metadata=store, base_url="https://files.example.org/files", secret="s" * 16
    )
    server = scripted_server(store, [say("Hello")])
    server.attachment_store = files
    app, hosts = create_app(server), ["files.example.org"]

    assert await statuses(app, hosts, "/files/att_x") == {"files.example.org": 403}
    assert await statuses(app, hosts, "/") == {"files.example.org": 421}


async def test_what_serve_allows_counts_beside_what_the_app_allows():
    app = app_for(["a.test"])

    async def served(scope, receive, send):
        if scope["type"] == "http":
            scope = tell_hosts(scope, AllowedHosts.served("b.test", ["c.test"]))
        await app(scope, receive, send)

    found = await statuses(served, ["a.test", "b.test", "c.test", "d.test"])

    assert found == {"a.test": 200, "b.test": 200, "c.test": 200, "d.test": 421}


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::", ""])
def test_a_wildcard_address_is_no_name(wildcard):
    assert AllowedHosts.served(wildcard, None) == AllowedHosts()


# --- Proxies -------------------------------------------------------------------------------------


async def test_every_name_that_a_proxy_passes_on_has_to_be_allowed():
    """A proxy that answers for any name and puts its own into Host would hide a rebound one."""
    app = app_for(["chat.example.org"])
    async with client_of(app) as client:
        found = [
            (await client.post(LIST, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": host})).status
            for host in ["chat.example.org", "evil.test", "localhost, evil.test"]
        ]

    assert found == [200, 421, 421]


async def test_a_forged_forwarded_host_excuses_no_host():
    headers = {"Host": "evil.test", "X-Forwarded-Host": "localhost"}
    async with client_of(app_for()) as client:
        assert (await client.post(LIST, headers)).status == 421


# --- Hosts compared ------------------------------------------------------------------------------


class _Headers(dict):
    def getlist(self, name):
        return [self[name]] if name in self else []


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://localhost:8000", "localhost", False),
        ("http://localhost", "localhost:8000", False),
        ("http://localhost:3000", "localhost:8000", False),
        ("https://chat.example", "chat.example", True),
        ("https://chat.example", "chat.example:443", True),
        ("http://chat.example", "chat.example:443", False),
        ("https://chat.example", "chat.example:80", False),
        ("http://chat.example", "chat.example:80", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost.:8000", "localhost:8000", True),
        ("http://evil.test", "chat.example", False),
        ("http://chat.example.evil.test", "chat.example", False),
        ("null", "null", False),
        ("", "", False),
        ("http://", "chat.example", False),
        ("http://chat.example/", "chat.example", False),
        ("file://", "", False),
    ],
)
def test_an_origin_is_own_if_its_host_and_port_were_asked_for(origin, host, is_own):
    assert is_own_origin(origin, _Headers(Host=host)) is is_own


@pytest.mark.parametrize("text", STRANGE)
def test_what_is_parsed_of_a_strange_host_is_never_loopback(text):
    host = Host.parse(text)

    assert host is None or not host.is_loopback


# --- Serving -------------------------------------------------------------------------------------


async def warnings_when_served(app, caplog, **settings):
    """Serve an app for a moment on real sockets; return what the log says of its hosts."""
    caplog.set_level(logging.WARNING, "chatkit_trio")
    ready = trio.Event()
    served = partial(serve, app, port=0, on_ready=lambda urls: ready.set(), **settings)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served)
            await ready.wait()
            nursery.cancel_scope.cancel()
    return [record.message for record in caplog.records if "--allowed-host" in record.message]


async def test_serving_on_all_addresses_without_a_name_is_warned_of(caplog):
    assert len(await warnings_when_served(app_for(), caplog, host="0.0.0.0")) == 1


@pytest.mark.parametrize(
    ("allowed_by_app", "settings"),
    [
        (["chat.example.org"], {"host": "0.0.0.0"}),
        ("*", {"host": "0.0.0.0"}),
        (None, {"host": "0.0.0.0", "allowed_hosts": ["chat.example.org"]}),
        (None, {"host": "127.0.0.1"}),
    ],
)
async def test_serving_where_names_are_known_is_not(caplog, allowed_by_app, settings):
    assert await warnings_when_served(app_for(allowed_by_app), caplog, **settings) == []
