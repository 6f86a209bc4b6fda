"""Pages of other sites in a real browser, with names that a resolver rule sends to this machine.

`evil.test` has a server of its own for its pages. After a rebinding its address leads to the chat:
to the browser it is the same address, whose page it has loaded before.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.chromium import running_chromium

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
expect = sync_api.expect

ROOT = Path(__file__).parents[2]
CREATE = json.dumps(
    {
        "type": "threads.create",
        "params": {
            "input": {
                "content": [{"type": "input_text", "text": "Sent by a stranger"}],
                "attachments": [],
                "inference_options": {},
            }
        },
    }
)
LIST = json.dumps({"type": "threads.list", "params": {}})

SEND = """
async ([url, body, mode]) => {
    try {
        const response = await fetch(url, {method: "POST", body, mode, credentials: "include"});
        return [response.type, response.status, await response.text()];
    } catch (error) {
        return ["failed", 0, String(error)];
    }
}
"""
READ = """
async (url) => {
    try {
        const response = await fetch(url);
        return [response.status, await response.text()];
    } catch (error) {
        return [0, String(error)];
    }
}
"""


class Chat:
    """A chat in a process of its own."""

    def __init__(self, port: int, database: Path) -> None:
        self.port = port
        self._database = database

    def at(self, host: str) -> str:
        return f"http://{host}:{self.port}"

    @property
    def thread_count(self) -> int:
        with closing(sqlite3.connect(self._database)) as connection:
            return connection.execute("SELECT count(*) FROM threads").fetchone()[0]


@contextmanager
def chatting(database: Path, *command: str) -> Iterator[Chat]:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"},
        "TALKER_DATABASE": str(database),
        "TALKER_COUNT": "3",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "chatkit_trio", *command, "--port", "0"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            yield Chat(int(re.search(r"http://\S*:(\d+)", line)[1]), database)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    database = tmp_path_factory.mktemp("demo") / "demo.sqlite3"
    with chatting(database, "demo", "--database", str(database)) as chat:
        yield chat


@pytest.fixture(scope="module")
def lan_chat(tmp_path_factory):
    """A chat that its people reach on plain HTTP, as http://chat.lan.test."""
    database = tmp_path_factory.mktemp("lan") / "chat.sqlite3"
    target = "tests.web.talker:server"
    with chatting(database, "serve", target, "--allowed-host", "chat.lan.test") as chat:
        yield chat


class _EmptyPage(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>A page</title>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of another web server on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    with running_chromium("--host-resolver-rules=MAP *.test 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def page(browser):
    context = browser.new_context()
    context.set_default_timeout(15_000)
    yield context.new_page()
    context.close()


def send_by_the_page(page, text="Hello") -> None:
    expect(page.get_by_test_id("composer")).to_be_visible()
    page.get_by_test_id("composer").fill(text)
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("message-assistant").last).to_contain_text(re.compile(r"\w"))
    expect(page.get_by_test_id("stop")).to_be_hidden(timeout=20_000)


@pytest.mark.parametrize("host", ["chat.lan.test", "127.0.0.1", "localhost"])
def test_the_own_page_works_under_each_of_its_names(page, lan_chat, host):
    before = lan_chat.thread_count
    page.goto(lan_chat.at(host))
    send_by_the_page(page)

    assert lan_chat.thread_count == before + 1


@pytest.mark.parametrize("mode", ["no-cors", "cors"])
@pytest.mark.parametrize("site", ["evil.test", "evil.lan.test", "localhost"])
def test_a_page_of_another_site_stores_nothing(page, lan_chat, elsewhere, site, mode):
    """evil.lan.test is of the same site as chat.lan.test; localhost has another port."""
    before = lan_chat.thread_count
    page.goto(f"http://{site}:{elsewhere}")
    sent = [page.evaluate(SEND, [lan_chat.at("chat.lan.test") + "/chatkit", CREATE, mode])]
    sent += [page.evaluate(SEND, [lan_chat.at("localhost") + "/chatkit", CREATE, mode])]

    # In mode no-cors the page sees that something came, and nothing of it.
    assert {answer[0] for answer in sent} == {"opaque" if mode == "no-cors" else "failed"}
    assert lan_chat.thread_count == before


def test_a_form_of_another_site_stores_nothing(page, lan_chat, elsewhere):
    before = lan_chat.thread_count
    page.goto(f"http://evil.test:{elsewhere}")
    name, value = CREATE[:-1] + ', "x": "', '"}'  # as a form joins them, the JSON is whole
    script = """
    ([url, name, value]) => {
        const form = Object.assign(document.createElement("form"), {
            action: url, method: "post", enctype: "text/plain",
        });
        form.append(Object.assign(document.createElement("input"), {name, value}));
        document.body.append(form);
        form.submit();
    }
    """
    with page.expect_navigation():
        page.evaluate(script, [lan_chat.at("chat.lan.test") + "/chatkit", name, value])

    assert "may not use the chat" in page.content()
    assert lan_chat.thread_count == before


class _Rebinding(socketserver.BaseRequestHandler):
    """Sends a stranger's page, and once the server has a `chat`, every byte on to that."""

    def handle(self) -> None:
        request = self.request.recv(65536)
        if self.server.chat is None:
            self.request.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"
                b"<!doctype html><title>A page</title>"
            )
            return
        with socket.create_connection(("127.0.0.1", self.server.chat.port)) as chat:
            chat.sendall(request)
            back = threading.Thread(target=self._pass_on, args=(chat, self.request), daemon=True)
            back.start()
            self._pass_on(self.request, chat)
            back.join()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


class _RebindingServer(socketserver.ThreadingTCPServer):
    daemon_threads = True  # a browser keeps connections open that it doesn't use
    chat: Chat | None = None


@contextmanager
def rebinding(page, chat) -> Iterator[None]:
    """Load a stranger's page from an address that leads to the chat from then on."""
    with _RebindingServer(("127.0.0.1", 0), _Rebinding) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        page.goto(f"http://evil.test:{server.server_address[1]}")
        server.chat = chat
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("which", ["demo", "lan_chat"])
def test_a_page_whose_name_is_rebound_reads_and_stores_nothing(page, request, which):
    chat = request.getfixturevalue(which)
    page.goto(chat.at("localhost"))
    send_by_the_page(page, "A secret")
    before = chat.thread_count

    with rebinding(page, chat):
        listed = page.evaluate(SEND, ["/chatkit", LIST, "same-origin"])
        posted = page.evaluate(SEND, ["/chatkit", CREATE, "cors"])
        read = [page.evaluate(READ, path) for path in ("/", "/healthz", "/chatkit-trio.js")]

    assert [listed[1], posted[1], *(status for status, _ in read)] == [421] * 5
    assert "A secret" not in listed[2]
    assert chat.thread_count == before


def test_a_page_of_another_port_of_this_machine_cannot_use_the_demo(page, demo, elsewhere):
    before = demo.thread_count
    page.goto(f"http://localhost:{elsewhere}")
    sent = page.evaluate(SEND, [demo.at("localhost") + "/chatkit", CREATE, "no-cors"])

    assert sent[0] == "opaque"
    assert demo.thread_count == before


def test_a_listed_origin_may_use_the_chat(page, tmp_path, elsewhere):
    module = tmp_path / "shop_chat.py"
    module.write_text(
        "from chatkit_trio.web import create_app\n"
        "from tests.web.talker import server\n"
        f"app = create_app(server, cors_origins=['http://shop.test:{elsewhere}'])\n"
    )
    target = "shop_chat:app"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
        with chatting(
            tmp_path / "chat.sqlite3", "serve", target, "--allowed-host", "chat.lan.test"
        ) as chat:
            url = chat.at("chat.lan.test") + "/chatkit"
            page.goto(f"http://shop.test:{elsewhere}")
            listed = page.evaluate(SEND, [url, CREATE, "cors"])
            page.goto(f"http://evil.test:{elsewhere}")
            strange = page.evaluate(SEND, [url, CREATE, "cors"])
            threads = chat.thread_count

    assert listed[:2] == ["cors", 200]
    assert strange[0] == "failed"
    assert threads == 1
