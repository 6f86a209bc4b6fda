"""A request reaches a view by many spellings of its address, and is the same request by each.

What guards a request (`_guard`, `_delivery`) and what routes it (Quart) have to read the same path:
else the view runs without its guard. Real sockets, because HTTP servers pass on what they get.
"""

from __future__ import annotations

import pytest
from quart_trio import QuartTrio

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.web import chatkit_blueprint, create_app

from .http import client_of
from .sockets import served_app
from .test_connections import CHAT, all_until_closed, request

LIST = b'{"type": "threads.list", "params": {}}'


def of_users_own(server):
    app = QuartTrio(__name__)
    app.register_blueprint(chatkit_blueprint(server))
    return app


def server():
    return scripted_server(MemoryStore(), [say("Hello")])


async def status_of(port, target, body) -> int:
    answer = await all_until_closed(
        port, request("POST", target, "1.1", "Connection: close", body=body)
    )
    return int(answer.split()[1])


@pytest.mark.parametrize("app_of", [create_app, of_users_own], ids=["create_app", "blueprint"])
@pytest.mark.parametrize("body", [LIST, CHAT], ids=["list", "message"])
async def test_an_address_may_be_whole_or_have_more_slashes(app_of, body):
    targets = ["/chatkit", "//chatkit", "///chatkit", "http://127.0.0.1/chatkit", "/%63hatkit"]
    async with served_app(app_of(server())) as port:
        found = {target: await status_of(port, target, body) for target in targets}

    assert found == dict.fromkeys(targets, 200)


@pytest.mark.parametrize("app_of", [create_app, of_users_own], ids=["create_app", "blueprint"])
async def test_what_is_no_address_of_the_app_is_not_found(app_of):
    targets = ["*", "?q", "http://[::1/chatkit", "chatkit:x", "/./chatkit", "//other.test/chatkit"]
    async with served_app(app_of(server())) as port:
        found = {target: await status_of(port, target, LIST) for target in targets}

    assert found == dict.fromkeys(targets, 404) | {"?q": 405 if app_of is create_app else 404}


@pytest.mark.parametrize("root", ["/chat", "/chat/", "/"])
@pytest.mark.parametrize("app_of", [create_app, of_users_own], ids=["create_app", "blueprint"])
async def test_only_what_is_below_the_root_path_is_the_apps(app_of, root):
    """The root path is what a proxy has in front of the app, and doesn't take away."""
    place = root.rstrip("/")
    async with client_of(below(root, app_of(server()))) as client:
        own = [f"{place}/chatkit", f"{place}//chatkit"]
        foreign = [f"{place}chatkit", f"/x{place}/chatkit"] if place else ["/x/chatkit"]
        found = {path: (await client.ask("POST", path, LIST)).status for path in own + foreign}

    assert found == dict.fromkeys(own, 200) | dict.fromkeys(foreign, 404)


def below(root, app):
    async def with_root(scope, receive, send):
        await app({**scope, "root_path": root}, receive, send)

    return with_root
