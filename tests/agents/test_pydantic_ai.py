"""Runs of pydantic-ai read from trio: the real library, its own models for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from chatkit_trio.agents import AgentContext, run_pydantic_ai

from .threads import collected, new_context

pydantic_ai = pytest.importorskip("pydantic_ai", reason="the extra `pydantic-ai` isn't installed")
from pydantic_ai import Agent, ModelRetry, RunContext  # noqa: E402
from pydantic_ai.models.function import (  # noqa: E402
    DeltaThinkingPart,
    DeltaToolCall,
    FunctionModel,
)
from pydantic_ai.models.test import TestModel  # noqa: E402


async def test_tool_and_answer_stream_in_order() -> None:
    agent = Agent(TestModel(custom_output_text="Hello there"), deps_type=AgentContext)

    @agent.tool
    async def look(ctx: RunContext[AgentContext[None]]) -> str:
        """Look."""
        await ctx.deps.stream_progress("looking")
        return "found"

    context = await new_context()
    run = run_pydantic_ai(context, agent, "hi", deps=context)
    events = await collected(run)

    types = [event.type for event in events]
    assert types[:2] == ["progress_update", "thread.item.added"]
    assert events[-1].item.content[0].text == "Hello there"
    assert run.result.output == "Hello there"


async def test_thinking_is_a_reasoning_workflow() -> None:
    async def thinks(messages: Any, info: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        yield {0: DeltaThinkingPart(content="Hm")}
        yield {0: DeltaThinkingPart(content="m")}
        yield "Yes"

    agent = Agent(FunctionModel(stream_function=thinks))
    events = await collected(run_pydantic_ai(await new_context(), agent, "hi"))

    [workflow, message] = [e.item for e in events if e.type == "thread.item.done"]
    assert [task.content for task in workflow.workflow.tasks] == ["Hmm"]
    assert message.content[0].text == "Yes"


async def test_text_behind_a_call_is_a_message_that_ends_before_the_tool_runs() -> None:
    """The library tells such text as more of the part before the call, which has ended."""

    async def calls(messages: list[Any], info: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        if len(messages) > 1:
            yield "Found"
            return
        yield "I'll look"
        yield {1: DeltaToolCall("look", "{}", tool_call_id="c")}
        yield ", one "
        yield "moment"

    agent = Agent(FunctionModel(stream_function=calls), deps_type=AgentContext)

    @agent.tool
    async def look(ctx: RunContext[AgentContext[None]]) -> str:
        """Look."""
        await ctx.deps.stream_progress("looking")
        return "found"

    context = await new_context()
    events = await collected(run_pydantic_ai(context, agent, "hi", deps=context))

    assert [
        e.text if e.type == "progress_update" else e.item.content[0].text
        for e in events
        if e.type in ("thread.item.done", "progress_update")
    ] == ["I'll look", ", one moment", "looking", "Found"]
    assert len([e for e in events if e.type == "thread.item.added"]) == 3


async def test_a_call_that_is_to_be_tried_again_goes_back_to_the_model() -> None:
    rounds = 0

    async def calls(messages: Any, info: Any) -> AsyncIterator[Any]:
        nonlocal rounds
        rounds += 1
        await asyncio.sleep(0)
        if rounds <= 3:
            # An argument of a wrong type, one that the tool refuses, and one that it takes.
            value = ['"many"', "1", "2"][rounds - 1]
            call = DeltaToolCall("count", f'{{"number": {value}}}', tool_call_id=f"call_{rounds}")
            yield {0: call}
        else:
            yield "Two"

    agent = Agent(FunctionModel(stream_function=calls), retries=3)

    @agent.tool_plain
    async def count(number: int) -> str:
        """Count."""
        if number == 1:
            raise ModelRetry("one more")
        return "counted"

    run = run_pydantic_ai(await new_context(), agent, "hi")
    events = await collected(run)

    assert events[-1].item.content[0].text == "Two"
    assert run.result.output == "Two"


async def test_error_arrives_as_itself() -> None:
    async def fails(messages: Any, info: Any) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        yield "Hel"
        raise ValueError("no such model")

    agent = Agent(FunctionModel(stream_function=fails))

    with pytest.raises(ValueError, match="no such model"):
        await collected(run_pydantic_ai(await new_context(), agent, "hi"))


async def test_closed_run_cancels_the_model() -> None:
    token = trio.lowlevel.current_trio_token()
    waiting, cancelled = trio.Event(), trio.Event()

    async def hangs(messages: Any, info: Any) -> AsyncIterator[str]:
        yield "Hel"
        token.run_sync_soon(waiting.set)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            token.run_sync_soon(cancelled.set)
            raise

    run = run_pydantic_ai(await new_context(), Agent(FunctionModel(stream_function=hangs)), "hi")
    await anext(run)
    await waiting.wait()

    await run.aclose()

    assert cancelled.is_set()
