"""The examples of docs/how-to/approval.md work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatkit_trio.testing import ChatClient

from . import script
from .approvals import answer, question_in, send
from .responses_server import ResponsesServer, serving

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "approval.md"


@pytest.fixture
def in_tmp_path(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def names_of_page() -> dict[str, Any]:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile("\n\n".join(examples), PAGE.name, "exec"), names)
    return names


@pytest.mark.usefixtures("in_tmp_path")
async def test_the_pages_server_asks_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ResponsesServer()
    model.answers = [
        script.answer(*script.call("refund", '{"order": "A1", "amount": 30}')),
        script.answer(*script.message("m", "Done")),
    ]
    async with serving(model) as client:
        monkeypatch.setenv("OPENAI_BASE_URL", str(client.base_url))
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        names = names_of_page()
        async with names["client"], names["server"] as server, ChatClient.of_server(server) as page:
            turn = await send(page, "hi")
            question = await question_in(server.store, turn.thread_id)
            done = await answer(page, question, "Approve")

    assert done.text == "Done"
    assert "30.0 € are on their way" in str(model.requests[1])
    assert names["credit"].needs_approval(None, {"amount": 101})
    assert names["German"]().question("refund", {"amount": 3, "order": "A1"}).startswith("Soll")
