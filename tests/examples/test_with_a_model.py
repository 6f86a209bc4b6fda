"""The examples with `OPENAI_API_KEY` set: the real client, and a model on loopback."""

from __future__ import annotations

import pytest

pytest.importorskip("openai", reason="the extra `openai` isn't installed")

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from examples.metro_map import MetroMap
from examples.tools_and_progress import DayOut
from tests.agents import script
from tests.agents.responses_server import ResponsesServer, serving


@pytest.fixture
async def model(monkeypatch):
    """A model whose answers the test writes down, and which the examples find by environment."""
    server = ResponsesServer()
    async with serving(server) as client:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_BASE_URL", str(client.base_url))
        yield server


async def test_a_models_calls_reach_the_tools_and_their_results_the_model(model):
    model.answers = [
        script.answer(*script.call("weather", '{"city": "Bergen"}')),
        script.answer(*script.message("m", "Take an ", "umbrella.")),
    ]
    async with (
        DayOut(MemoryStore()) as server,
        ChatClient.of_server(server) as client,
        client.send("What about Bergen?") as turn,
    ):
        await turn.read()

    first, second = model.requests
    assert [tool["name"] for tool in first["tools"]] == ["weather", "trains", "sights"]
    assert first["instructions"].startswith("You plan a day out")
    assert second["input"][-1]["output"] == "11 °C and rain"
    assert turn.text == "Take an umbrella."


async def test_a_model_asks_the_page_and_is_told_what_it_said(model):
    model.answers = [
        script.answer(*script.call("get_selected_stations", call_id="call_map")),
        script.answer(*script.message("m", "You chose the Library.")),
    ]
    async with MetroMap(MemoryStore()) as server, ChatClient.of_server(server) as client:
        async with client.send("What have I selected?") as turn:
            await turn.read()
        async with client.send_tool_output(turn.thread_id, {"stations": ["library"]}) as answer:
            await answer.read()

    call, output = model.requests[1]["input"][-2:]
    assert (call["name"], call["call_id"]) == ("get_selected_stations", "call_map")
    assert output["output"] == '{"stations": ["library"]}'
    (annotation,) = answer.items[0].content[0].annotations
    assert annotation.source.id == "library"
