"""One line in the log for each request, whoever runs the app, and no secret in it."""

from __future__ import annotations

import logging

import pytest
import trio

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import pause, say, scripted_server
from chatkit_trio.web import asgi_app, create_app
from chatkit_trio.web._request_log import logged

from .http import CREATE, client_of


@pytest.fixture
def requests(caplog):
    caplog.set_level(logging.INFO, "chatkit_trio.requests")

    def told():
        return [
            (record.method, record.path, record.status, record.is_whole, record.seconds)
            for record in caplog.records
            if record.name == "chatkit_trio.requests"
        ]

    return told


async def test_each_request_has_one_line_when_it_is_answered(requests, autojump_clock, caplog):
    app = create_app(scripted_server(MemoryStore(), [say("Hello"), pause(3)]))
    async with client_of(app) as client:
        await client.post(CREATE)
        await client.ask("GET", "/nowhere?token=secret")

    assert requests() == [
        ("POST", "/chatkit", 200, True, 3.0),
        ("GET", "/nowhere", 404, True, 0.0),
    ]
    assert "secret" not in caplog.text


async def test_a_client_that_leaves_is_told_of(requests, autojump_clock):
    app = create_app(scripted_server(MemoryStore(), [say("Hello"), pause(99)]))
    async with client_of(app) as client, client.open("POST", "/chatkit", CREATE):
        await trio.sleep(2)

    assert requests() == [("POST", "/chatkit", 200, False, 2.0)]


async def test_an_app_that_fails_is_told_of(requests):
    async def failing(scope, receive, send):
        raise ValueError("no")

    scope = {"type": "http", "method": "GET", "path": "/"}
    with pytest.raises(ValueError, match="no"):
        await logged(failing, scope, None, None)

    assert [each[:4] for each in requests()] == [("GET", "/", None, False)]


async def test_a_request_to_a_mounted_chat_has_one_line_and_not_two(requests, autojump_clock):
    chat = asgi_app(scripted_server(MemoryStore(), [say("Hello")]))

    async def served(scope, receive, send):
        await logged(chat, scope, receive, send)

    async with client_of(served) as client:
        await client.post(CREATE)

    assert [each[:3] for each in requests()] == [("POST", "/chatkit", 200)]


async def test_a_path_can_t_begin_a_line_of_its_own(requests):
    app = create_app(scripted_server(MemoryStore(), []))
    async with client_of(app) as client:
        await client.ask("GET", "/a%0AINFO%20all%20is%20well%1B[2J" + "x" * 500)

    ((_, path, *_),) = requests()
    assert path.startswith("/a%0AINFO%20all%20is%20well%1B%5B2Jxxx")
    assert len(path) == 200
