"""The examples of the README and the tutorial, run as they stand."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, JumpClock, explore_cancellations
from chatkit_trio.testing._asgi import ASGITransport

from .web.http import client_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_of(page: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.S | re.M)
    return "\n\n".join(blocks)


@pytest.fixture
def in_tmp_path(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def names_of(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(python_of(page), page, "exec"), names)
    return names


@pytest.mark.usefixtures("in_tmp_path")
async def test_the_readmes_server_answers_over_http(
    jump_clock: JumpClock,
) -> None:
    app = names_of("README.md")["app"]
    async with ChatClient.of_app(app) as client, client.send("Good morning to you") as turn:
        await turn.read()

    assert turn.text == "Good morning to you "


@pytest.mark.usefixtures("in_tmp_path")
async def test_the_migration_guides_fastapi_app_answers_and_refuses(
    jump_clock: JumpClock,
) -> None:
    app = names_of("docs/how-to/migrate.md")["app"]
    async with ChatClient.of_app(app, headers=[("X-User", "Ann")]) as client:
        async with client.send("Good morning") as turn:
            await turn.read()
        strangers = ASGITransport(app, "", [])
        async with strangers.exchange("POST", "/chatkit", b"{}", []) as answer:
            refusal = answer.status, json.loads(await answer.body())["error"]["message"]
        async with strangers.exchange("GET", "/hello", b"", []) as answer:
            other = await answer.body()

    assert turn.text == "Hello, Ann."
    assert refusal == (401, "Sign in first")
    assert other == b'"still here"'


@pytest.mark.usefixtures("in_tmp_path")
def test_the_readmes_test_passes() -> None:
    names_of("README.md")["test_my_answer_survives_being_cut_anywhere"]()


@pytest.mark.usefixtures("in_tmp_path")
def test_the_tutorials_test_passes() -> None:
    counter = names_of("docs/tutorial/first-chat.md")["Titled"]

    exploration = explore_cancellations(counter, "count", step=5)

    assert exploration.total_runs > 50


@pytest.mark.usefixtures("in_tmp_path")
async def test_the_tutorials_chat_goes_on_where_it_was_stopped(
    jump_clock: JumpClock,
) -> None:
    server = names_of("docs/tutorial/first-chat.md")["Titled"](MemoryStore())
    async with server, ChatClient.of_server(server) as client:
        async with client.send("count") as turn:
            await turn.wait_for(lambda _: turn.text.endswith("7 "))
        async with client.send("on", thread_id=turn.thread_id) as turn:
            await turn.read()

    assert turn.text.startswith("8 9 ")


@pytest.mark.usefixtures("in_tmp_path")
async def test_the_server_for_other_clients_answers_both(jump_clock: JumpClock) -> None:
    app = names_of("docs/how-to/other-clients.md")["app"]
    parts = [{"type": "text", "text": "Hi"}]
    asked = {"id": "c", "message": {"id": "m", "role": "user", "parts": parts}}
    message = {"id": "n", "role": "user", "content": "Hi"}
    run = {"threadId": "c", "runId": "r", "messages": [message]}
    async with client_of(app) as client:
        chat = await client.ask("POST", "/api/chat", asked)
        agent = await client.ask("POST", "/ag-ui", run)

    assert b'"delta":"You said: "' in chat.body
    assert b'"delta":"You said: "' in agent.body


def test_the_agent_of_the_documentation_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs" / "how-to" / "other-clients.md").read_text("utf-8")
    (agent,) = re.findall(r"^```js\n(class .*?)^```", page, re.S | re.M)

    assert agent in (ROOT / "tests" / "clients" / "ag_ui.mjs").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text("utf-8"), flags=re.S | re.M)
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", prose)

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_row_of_the_threat_model_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "| who |" not in line]
    missing = []
    for row in rows:
        named = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)(?:::(\w+))?`", row.split("|")[-2])
        assert named, f"no test: {row}"
        missing += [
            f"{path}::{name}"
            for path, name in named
            if not (ROOT / path).exists() or f"def {name}" not in (ROOT / path).read_text("utf-8")
        ]

    assert len(rows) > 20
    assert missing == []
