"""Explorations of servers whose model runs on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from agents import RunContextWrapper, function_tool
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import RunContext
from pydantic_ai.models.function import DeltaToolCall, FunctionModel

from chatkit_trio.agents import (
    AgentContext,
    Runner,
    iterate_on_asyncio,
    run_pydantic_ai,
    simple_to_agent_input,
    stream_agent_response,
)
from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.testing import explore_cancellations
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem
from tests.agents import script
from tests.agents.models import RUN_CONFIG, ScriptedModel, agent


async def nap() -> None:
    await asyncio.sleep(0.001)


@function_tool
async def look(ctx: RunContextWrapper[AgentContext[Any]]) -> str:
    """Look."""
    await ctx.context.stream_progress("looking")
    await nap()
    return "found"


class OnAgentsSDK(ChatKitServer[None]):
    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        first, *rest = script.message("m", "Hel", "lo")
        model = ScriptedModel(
            script.answer(*script.reasoning("r", ("Hm",)), nap, *script.call("look")),
            script.answer(first, nap, *rest),
        )
        result = Runner.run_streamed(
            agent(model, tools=[look]),
            await simple_to_agent_input(input_user_message),
            context=agent_context,
            run_config=RUN_CONFIG,
        )
        async for event in stream_agent_response(agent_context, result):
            yield event
        thread.title = result.final_output


async def looks_and_says(messages: Any, info: Any) -> AsyncIterator[Any]:
    await nap()
    if len(messages) == 1:
        yield {0: DeltaToolCall(name="look", json_args="{}")}
        return
    yield "Hel"
    await nap()
    yield "lo"


class OnPydanticAI(ChatKitServer[None]):
    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        agent = PydanticAgent(FunctionModel(stream_function=looks_and_says), deps_type=AgentContext)

        @agent.tool
        async def look(ctx: RunContext[AgentContext]) -> str:
            """Look."""
            await ctx.deps.stream_progress("looking")
            return "found"

        async for event in run_pydantic_ai(agent_context, agent, "hi", deps=agent_context):
            yield event


async def words() -> AsyncIterator[str]:
    for word in ("Hel", "lo"):
        await nap()
        yield word


class OnIteration(ChatKitServer[None]):
    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        async with aclosing(stream_text(thread, iterate_on_asyncio(words))) as events:
            async for event in events:
                yield event


@pytest.mark.parametrize("server", [OnAgentsSDK, OnPydanticAI, OnIteration])
def test_a_server_whose_model_is_on_asyncio_passes(server: Any) -> None:
    exploration = explore_cancellations(server, "hi", step=9)

    assert exploration.ends["finished"] < exploration.total_runs / 2
    for reason in ("stopped", "disconnected", "superseded", "shutdown", "failed", "deadline"):
        assert exploration.ends[reason] > 0
