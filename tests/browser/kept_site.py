"""The page on a server that can be killed, and what the tests do with it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
expect = sync_api.expect

ROOT = Path(__file__).parents[2]
LONG = "count 3000 every 20 ms"
CHAT = "document.querySelector('chatkit-trio').shadowRoot"
"""JavaScript: the root of what the chat draws."""


def held_port() -> socket.socket:
    """Return a socket with a port that nobody else is given while it is open.

    It doesn't listen, so a server can listen there, or nobody.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


class Site:
    """A server in a process of its own, which can be killed and started again."""

    def __init__(self, database: Path, on_busy: str = "supersede") -> None:
        self._held = held_port()
        self.port: int = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = database
        self.on_busy = on_busy
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "chatkit_trio", "serve", "tests.browser.kept:app"]
        env = os.environ | {
            "KEPT_DATABASE": str(self.database),
            "KEPT_URL": self.url,
            "KEPT_ON_BUSY": self.on_busy,
        }
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], cwd=ROOT, env=env, stdout=subprocess.DEVNULL
        )
        for _ in range(300):
            assert self.process.poll() is None, "the server has ended"
            try:
                urllib.request.urlopen(f"{self.url}/healthz").close()
            except urllib.error.URLError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError("the server doesn't start")

    def end(self, how: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None

    def close(self) -> None:
        self.end()
        self._held.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("kept") / "chat.sqlite3")
    yield site
    site.close()


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """A new user's page; a test fails if a script failed on it."""
    if site.process is None:
        site.start()
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    context.set_default_timeout(15_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(site.url)
    expect(page.get_by_test_id("composer")).to_be_visible()
    yield page
    context.close()
    assert problems == [], problems


def send(page: Any, text: str) -> None:
    page.get_by_test_id("composer").fill(text)
    page.get_by_test_id("send").click()


def send_past_the_page(page: Any, text: str) -> None:
    """Send a message to the thread that a page shows, as another client does."""
    page.evaluate(
        """async (text) => {
          const input = {content: [{type: "input_text", text}], attachments: [],
            inference_options: {}};
          const params = {thread_id: location.hash.slice(4), input};
          const body = JSON.stringify({type: "threads.add_user_message", params});
          const headers = {"Content-Type": "application/json"};
          await (await fetch("/chatkit", {method: "POST", headers, body})).text();
        }""",
        text,
    )


def ask(page: Any, text: str) -> None:
    """Send a message and wait for the end of its answer."""
    send(page, text)
    expect(answers(page).last).to_contain_text("You said")
    expect(page.get_by_test_id("send")).to_be_visible()


def answers(page: Any) -> Any:
    return page.get_by_test_id("message-assistant")


def asked(page: Any) -> Any:
    return page.get_by_test_id("message-user").locator(".bubble")


def marks(page: Any) -> Any:
    return page.get_by_test_id("end-mark")


def unsent(page: Any) -> Any:
    return page.get_by_test_id("unsent")


def wait_for_word(page: Any, word: str) -> None:
    expect(answers(page).last).to_contain_text(re.compile(rf"\b{word}\b"))


def let_go(page: Any, site: Site) -> None:
    """Let the answer go on that is held."""
    page.request.get(f"{site.url}/let-go")


def stop(page: Any) -> None:
    page.get_by_test_id("stop").click()
    expect(page.get_by_test_id("send")).to_be_visible()
