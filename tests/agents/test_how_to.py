"""The servers of docs/how-to/models.md answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from agents import set_tracing_disabled

from . import script
from .models import ScriptedModel
from .responses_server import ResponsesServer, serving

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "models.md"
REQUEST = (
    '{"type":"threads.create","params":{"input":{"content":[{"type":"input_text","text":"hi"}],'
    '"attachments":[],"inference_options":{}}}}'
)


def example(index: int) -> dict[str, Any]:
    """Run an example and return what it defines."""
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(examples[index], PAGE.name, "exec"), names)
    return names


async def answer(server: Any) -> str:
    """Return the text the server's assistant says to one message."""
    async with server:
        async with await server.process(REQUEST, None) as frames:
            _ = [frame async for frame in frames]
        [thread] = (await server.store.load_threads(5, None, "desc", None)).data
        page = await server.store.load_thread_items(thread.id, None, 5, "desc", None)
        return str(page.data[0].content[0].text)


async def test_example_on_trio_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ResponsesServer()
    model.answers = [
        script.answer(*script.call("weather", '{"city": "Bern"}')),
        script.answer(*script.message("m", "Take an umbrella")),
    ]
    async with serving(model) as client:
        monkeypatch.setenv("OPENAI_BASE_URL", str(client.base_url))
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        names = example(0)
        async with names["client"]:
            assert await answer(names["server"]) == "Take an umbrella"

    assert "It rains in Bern." in str(model.requests[1])


async def test_example_with_the_agents_sdk_answers() -> None:
    set_tracing_disabled(True)
    names = example(1)
    names["agent"].model = ScriptedModel(
        script.answer(*script.call("count_items")), script.answer(*script.message("m", "One"))
    )

    assert await answer(names["server"]) == "One"

    assert "1 items" in str(names["agent"].model.inputs[1])


async def test_example_with_pydantic_ai_answers() -> None:
    pytest.importorskip("pydantic_ai", reason="pydantic-ai isn't installed")

    assert await answer(example(2)["server"]) == "success (no tool calls)"
