"""`/admin` in a real browser, over two real processes that share a database."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from .kept_site import ROOT, expect
from .test_accessible import needs_axe, violations

TOKEN = "the-token-of-the-operators"


class Nodes:
    """Two servers on one database."""

    def __init__(self, database: Path) -> None:
        self.database = database
        command = [sys.executable, "-m", "chatkit_trio", "serve", "tests.browser.administered:app"]
        self.processes = [
            subprocess.Popen(
                [*command, "--port", "0"],
                cwd=ROOT,
                env=os.environ
                | {"ADMINISTERED_DATABASE": str(database), "ADMINISTERED_TOKEN": TOKEN},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(2)
        ]
        self.urls: list[str] = []
        for process in self.processes:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None, "the server doesn't start"
            self.urls.append(found[0].rstrip("/"))

    def ask(self, node: int, text: str) -> str:
        """Ask a question and leave; returns the id of the thread."""
        content = [{"type": "input_text", "text": text}]
        given = {"content": content, "attachments": [], "inference_options": {}}
        body = {"type": "threads.create", "params": {"input": given}}
        request = urllib.request.Request(
            f"{self.urls[node]}/chatkit",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            created = json.loads(answer.readline().partition(b":")[2])
            if "long" not in text:
                answer.read()
        thread_id: str = created["thread"]["id"]
        return thread_id

    def stored(self, thread_id: str) -> list[Any]:
        """Return the stored items of a thread, behind the question."""
        with closing(sqlite3.connect(self.database)) as db:
            rows = db.execute(
                "SELECT items.data FROM items JOIN threads ON threads.seq = items.thread"
                " WHERE threads.id = ? ORDER BY items.seq",
                (thread_id,),
            )
            return [json.loads(data) for (data,) in rows][1:]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path_factory.mktemp("admin") / "chat.sqlite3")
    yield nodes
    for process in nodes.processes:
        process.kill()
        process.communicate()


@pytest.fixture
def page(browser: Any, nodes: Nodes) -> Iterator[Any]:
    """The first node's page; a test fails if a script failed or broke the page's policy."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda said: problems.append(said.text) if "Security Policy" in said.text else None,
    )
    page.goto(f"{nodes.urls[0]}/admin")
    yield page
    context.close()
    assert problems == []


def enter(page: Any) -> None:
    page.get_by_test_id("token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("node")).to_have_count(2)


def test_an_operator_sees_the_tasks_of_all_nodes_and_stops_a_turn(page: Any, nodes: Nodes) -> None:
    field = page.get_by_test_id("token")
    expect(field).to_be_focused()
    field.fill("not-the-token-of-the-operators")
    page.keyboard.press("Enter")
    expect(page.get_by_text("That isn't the token.")).to_be_visible()
    enter(page)
    expect(page.get_by_test_id("no-turns")).to_be_visible()

    threads = [nodes.ask(0, "a long one"), nodes.ask(1, "a long one elsewhere")]
    nodes.ask(1, "fail")
    turns = page.get_by_test_id("turn")
    expect(turns).to_have_count(2)
    expect(page.get_by_test_id("counts-ends")).to_have_text(re.compile("failed.*1"))
    expect(page.get_by_test_id("end")).to_contain_text("RuntimeError")
    assert "a secret of the server" not in page.content()

    page.get_by_label("Show only turns with").fill(threads[1])
    expect(turns).to_have_count(1)
    turns.get_by_test_id("open-turn").click()
    tree = page.get_by_test_id("tree")
    title = tree.get_by_test_id("task").filter(has_text="Counter.find_title").last
    expect(title).to_contain_text("waits for trio.sleep_forever")
    expect(title).to_contain_text("tests.browser.administered:")
    expect(tree.get_by_text("Counter.respond", exact=True)).to_be_visible()
    expect(tree.get_by_text("Counter.numbers", exact=True)).to_be_visible()
    expect(tree.get_by_test_id("nursery")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(tree).to_have_count(0)

    stop = turns.get_by_test_id("stop-turn")
    stop.click()
    expect(stop).to_have_text("Really stop?")
    stop.click()
    expect(turns).to_have_count(0)
    page.get_by_label("Show only turns with").fill("")
    expect(turns).to_have_count(1)
    expect(page.get_by_test_id("counts-ends")).to_have_text(re.compile("stopped.*1"))
    answer, note = nodes.stored(threads[1])
    text = answer["content"][0]["text"]
    assert text.startswith("0 1 2 ")
    assert text == "".join(f"{number} " for number in range(len(text.split())))
    assert note["type"] == "sdk_hidden_context"


def test_the_token_is_forgotten_when_one_says_so(page: Any, nodes: Nodes) -> None:
    enter(page)
    page.reload()
    expect(page.get_by_test_id("node")).to_have_count(2)
    page.get_by_role("button", name="Forget the token").click()
    page.reload()
    expect(page.get_by_test_id("token")).to_be_visible()


def test_a_browser_that_keeps_nothing_shows_the_page(page: Any, nodes: Nodes) -> None:
    page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage',"
        " { get() { throw new DOMException('no', 'SecurityError') } })"
    )
    page.reload()
    enter(page)
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_test_id("token")).to_be_visible()


def test_nothing_is_wider_than_a_narrow_window(page: Any, nodes: Nodes) -> None:
    page.set_viewport_size({"width": 390, "height": 740})
    nodes.ask(0, "a long one")
    enter(page)
    expect(page.get_by_test_id("turn").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@needs_axe
def test_axe_finds_nothing(browser: Any, nodes: Nodes) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        page.goto(f"{nodes.urls[0]}/admin")
        expect(page.get_by_test_id("token")).to_be_visible()
        assert violations(page) == []
        nodes.ask(0, "a long one")
        nodes.ask(1, "short")
        enter(page)
        expect(page.get_by_test_id("turn").first).to_be_visible()
        expect(page.get_by_test_id("end").first).to_be_visible()
        assert violations(page) == []
        page.get_by_test_id("open-turn").first.click()
        expect(page.get_by_test_id("task").first).to_be_visible()
        assert violations(page) == []
        context.close()


def test_a_node_that_is_paused_and_one_that_is_killed(page: Any, nodes: Nodes) -> None:
    enter(page)
    nodes.processes[1].send_signal(signal.SIGSTOP)
    expect(page.get_by_test_id("silent-node")).to_have_count(1)
    expect(page.get_by_test_id("node")).to_have_count(1)
    nodes.processes[1].kill()
    expect(page.get_by_test_id("silent-node")).to_have_count(0)
    expect(page.get_by_role("heading", name="1 node", exact=True)).to_be_visible()
