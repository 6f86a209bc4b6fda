"""`idle_timeout` with models: what counts as a sign of life, and how a silent turn ends.

Any event of the model counts, also one that shows nothing, and so does what a tool sends, and its
end. A tool that says nothing for too long is as silent as a model.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio

from chatkit_trio.agents import AgentContext, Tool, run_model
from chatkit_trio.server import TurnPolicy
from tests.transcript import transcript

from . import script
from .model_endpoint import ModelEndpoint
from .test_misbehaving_models import HALF, HEL_LO
from .ways import Native, PydanticAI, Server, Work, asked, every_way, played

HIDDEN = {
    "type": "response.function_call_arguments.delta",
    "item_id": "fc",
    "output_index": 0,
    "sequence_number": 0,
    "delta": "x",
}
"""An event that shows nothing: the arguments of a call, as they are written."""


async def wait(seconds: float) -> None:
    if trio.lowlevel.in_trio_task():
        await trio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


async def hang() -> None:
    await wait(3600)


def pause(seconds: float) -> Any:
    async def step() -> None:
        await wait(seconds)

    return step


async def answered(
    way: type[Server], *answers: list[Any], seconds: float, tools: dict[str, Work] | None = None
) -> tuple[Any, list[str]]:
    server = way(ModelEndpoint(*answers), tools, TurnPolicy(idle_timeout=seconds))
    async with server:
        turn = await asked(server)
        return turn, await transcript(server.store, turn.thread_id)


@pytest.mark.parametrize(("steps", "kept"), [([*HALF, hang], ["assistant: Hel"]), ([hang], [])])
@every_way
async def test_a_model_that_falls_silent_is_cut_and_its_words_are_kept(
    way: type[Server], steps: list[Any], kept: list[str]
) -> None:
    await played(way, HEL_LO)  # the first answer takes longer: the library loads what it needs
    with trio.fail_after(20):
        turn, said = await answered(way, steps, seconds=1.5)

    assert said == ["user: hi", *kept, "note: silent"]
    assert turn.server_turn.end_reason == "silent"
    assert turn.error.message == (
        "Nothing came from the assistant for too long; the answer was cut short."
    )
    assert turn.error.allow_retry


@every_way
async def test_a_tool_that_takes_too_long_ends_the_turn_in_words_that_fit_it_too(
    way: type[Server],
) -> None:
    async def work(what: str) -> str:
        await hang()
        return "never"

    call = script.answer(*script.call("work", '{"what": "x"}'))
    with trio.fail_after(20):
        turn, said = await answered(way, call, seconds=1.5, tools={"work": work})

    assert said == ["user: hi", "note: silent"]
    assert turn.error.message == (
        "Nothing came from the assistant for too long; the answer was cut short."
    )


async def test_events_that_show_nothing_are_signs_of_life(jump_clock: Any) -> None:
    steps = [HEL_LO[0], *[pause(4), HIDDEN] * 5, *HEL_LO[1:]]

    turn, said = await answered(Native, steps, seconds=5)

    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None


@pytest.mark.parametrize("way", [PydanticAI])
async def test_what_a_library_tells_of_a_call_is_a_sign_of_life(way: type[Server]) -> None:
    call = script.call_item("work", '{"what": "x"}')
    pieces = [{**HIDDEN, "item_id": "fc_1", "delta": delta} for delta in ('{"what"', ': "', 'x"}')]
    slow = [step for piece in pieces for step in (pause(0.7), piece)]
    added = script.item_added({**call, "arguments": "", "status": "in_progress"})

    async def work(what: str) -> str:
        return what

    # The first answer takes longer: the library loads what it needs.
    first = script.answer(*script.call("work", '{"what": "x"}'))
    await played(way, first, HEL_LO, tools={"work": work})
    turn, said = await answered(
        way,
        script.answer(added, *slow, script.item_done(call)),
        HEL_LO,
        seconds=1.5,
        tools={"work": work},
    )

    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None


async def test_the_end_of_a_tool_and_what_it_sends_start_the_clock_anew(
    jump_clock: Any,
) -> None:
    class Sends(Native):
        def start(self, context: AgentContext[Any], agent_input: list[Any]) -> Any:
            async def work(context: AgentContext[Any], arguments: str) -> str:
                await trio.sleep(float(arguments))
                if arguments == "4":
                    await context.stream_progress("still at it")
                    await trio.sleep(8)
                return "done"

            tools = [Tool("work", "Work.", {"type": "object"}, work)]
            client = self.endpoint.client()
            return run_model(context, client, model="x", input=agent_input, tools=tools)

    calls = [
        *script.call("work", "4", "call_a"),
        *script.call("work", "8", "call_b"),
        *script.call("work", "16", "call_c"),
    ]

    turn, said = await answered(Sends, script.answer(*calls), HEL_LO, seconds=9)

    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None
