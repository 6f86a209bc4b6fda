"""What observers are told of the calls of a model and its tools, and no word of these."""

from __future__ import annotations

from typing import Any

import trio

from chatkit_trio.errors import ModelError
from chatkit_trio.observe import CallBegan, CallEnded
from chatkit_trio.testing import ChatClient

from . import script
from .model_endpoint import ModelEndpoint
from .ways import Native

SECRET = "swordfish"


async def look_up(arguments: str) -> str:
    await trio.sleep(2)
    return SECRET


async def break_down(arguments: str) -> str:
    raise ValueError(SECRET)


async def calls_told(endpoint: ModelEndpoint, tools: Any, *, stop_after: float = 99) -> list[Any]:
    told: list[Any] = []
    server = Native(endpoint, tools)
    server.observe(told.append)
    async with server, ChatClient.of_server(server) as client, client.send(SECRET) as turn:
        with trio.move_on_after(stop_after):
            await turn.read()
        if not turn.is_complete:
            await server.stop(turn.thread_id or "")
    return [event for event in told if isinstance(event, CallBegan | CallEnded)]


async def test_each_call_of_model_and_tool_is_told_with_its_facts(jump_clock):
    endpoint = ModelEndpoint(
        script.answer(*script.call("look_up", f'{{"what": "{SECRET}"}}', "call_7")),
        script.answer(*script.message("msg_1", SECRET)),
    )
    events = await calls_told(endpoint, {"look_up": look_up})

    model, model_done, tool, tool_done, again, again_done = events
    assert [(each.kind, each.name) for each in (model, tool, again)] == [
        ("model", "x"),
        ("tool", "look_up"),
        ("model", "x"),
    ]
    assert [each.call for each in (model_done, tool_done, again_done)] == [model, tool, again]
    assert model.turn.request == "threads.create"
    assert model.facts["gen_ai.operation.name"] == "chat"
    assert model.facts["gen_ai.request.model"] == "x"
    assert model.facts["server.address"]
    assert model_done.facts["gen_ai.response.finish_reasons"] == ["completed"]
    assert tool.facts == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look_up",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "call_7",
    }
    assert (tool_done.seconds, tool_done.error) == (2.0, None)
    assert SECRET not in repr(events)


async def test_a_tool_that_fails_is_told_with_its_error(jump_clock):
    endpoint = ModelEndpoint(
        script.answer(*script.call("look_up")), script.answer(*script.message("msg_1", "Sorry"))
    )
    events = await calls_told(endpoint, {"look_up": break_down})

    assert [type(e.error) for e in events if isinstance(e, CallEnded)] == [
        type(None),
        ValueError,
        type(None),
    ]


async def test_a_model_that_breaks_off_is_told_with_its_error(jump_clock):
    endpoint = ModelEndpoint([*script.answer(*script.message("msg_1", "Hel"))[:-1]])
    events = await calls_told(endpoint, {})

    assert isinstance(events[1].error, ModelError)


async def test_a_call_that_a_stop_cuts_is_told_as_cancelled(jump_clock):
    endpoint = ModelEndpoint(script.answer(*script.call("look_up")))
    events = await calls_told(endpoint, {"look_up": look_up}, stop_after=1)

    ended = events[-1]
    assert ended.call.name == "look_up"
    assert isinstance(ended.error, trio.Cancelled)
    assert ended.seconds == 1.0
