"""What `demo` says when it is ready, and the browser that it opens then."""

from __future__ import annotations

import json
import re
import signal
import sys
import urllib.request

import pytest
import trio

from chatkit_trio.cli import _serve
from chatkit_trio.demo import who_answers
from tests.web.sockets import running, until


async def test_the_demo_says_what_it_is_and_opens_the_browser(tmp_path):
    database, opened = tmp_path / "demo.sqlite3", tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.new; mv {opened}.new {opened}\n')
    browser.chmod(0o700)
    command = [sys.executable, "-m", "chatkit_trio", "demo", "--port", "0", "--open"]
    environment = {"BROWSER": f"{browser} %s", "OPENAI_API_KEY": ""}
    command += ["--database", str(database)]
    async with running(command, tmp_path, "Serving on", **environment) as server:
        await until(opened.exists)
        server.send_signal(signal.SIGINT)
        await server.ended(60)

    assert opened.read_text() == f"http://127.0.0.1:{server.port}\n"
    assert server.log.splitlines()[1:4] == [
        "Offline: a script answers. With OPENAI_API_KEY in the environment, a model does",
        f"Conversations are kept in {database}",
        "Stop with Ctrl-C",
    ]


async def test_the_demo_shows_what_it_is_doing_to_those_who_have_its_token(tmp_path):
    command = [sys.executable, "-m", "chatkit_trio", "demo", "--port", "0", "--admin"]
    command += ["--database", str(tmp_path / "demo.sqlite3")]
    async with running(command, tmp_path, "Serving on", OPENAI_API_KEY="") as server:
        await until(lambda: "the token is" in server.log)
        url, token = re.findall(r"is at (\S+); the token is (\S+)", server.log)[0]
        request = urllib.request.Request(
            f"{url}/state", headers={"Authorization": f"Bearer {token}"}
        )
        with await trio.to_thread.run_sync(urllib.request.urlopen, request) as answer:
            told = json.loads(await trio.to_thread.run_sync(answer.read))
        server.send_signal(signal.SIGINT)
        await server.ended(60)

    assert url == f"http://127.0.0.1:{server.port}/admin"
    assert told["health"] | {"journal_lag": 0} == {
        "is_running": True,
        "stores": {"store": True},
        "journal_lag": 0,
        "oldest_settling": None,
        "unread_bytes": 0,
    }


@pytest.mark.parametrize(
    ("served", "opened"),
    [
        ("http://0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://[::]:80", "http://127.0.0.1:80"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("http://chat.example:80", "http://chat.example:80"),
    ],
)
def test_a_browser_is_sent_where_it_can_go(monkeypatch, served, opened):
    asked = []
    monkeypatch.setattr(_serve.webbrowser, "open", lambda url: not asked.append(url))

    _serve._open(served)

    assert asked == [opened]


def test_without_a_browser_the_address_is_told(monkeypatch, capsys):
    monkeypatch.setattr(_serve.webbrowser, "open", lambda url: False)

    _serve._open("http://127.0.0.1:8000")

    assert "No browser has been found here; open http://127.0.0.1:8000" in capsys.readouterr().err


def test_the_demo_names_the_model_that_answers(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("OPENAI_MODEL", "tiny")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")

    assert who_answers() == "The model tiny answers, at http://127.0.0.1:9/v1"
