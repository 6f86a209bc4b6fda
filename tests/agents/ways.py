"""The three ways to let a model answer, as servers that differ in nothing else.

Each asks a `ModelEndpoint` by the client or library that people use: `run_model` on trio, the
Agents SDK and pydantic-ai on asyncio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from agents import Agent as SDKAgent
from agents import FunctionTool, OpenAIResponsesModel, function_tool

from chatkit_trio.agents import (
    AgentContext,
    Runner,
    Tool,
    run_model,
    run_pydantic_ai,
    simple_to_agent_input,
    stream_agent_response,
)
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.testing import ChatClient, ClientTurn
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem
from tests.transcript import transcript

from .model_endpoint import ModelEndpoint
from .models import RUN_CONFIG

PydanticAgent: Any = pytest.importorskip("pydantic_ai").Agent
pydantic_tool: Any = pytest.importorskip("pydantic_ai").Tool
PydanticModel: Any = pytest.importorskip("pydantic_ai.models.openai").OpenAIResponsesModel
OpenAIProvider: Any = pytest.importorskip("pydantic_ai.providers.openai").OpenAIProvider

Work = Callable[[str], Awaitable[str]]
"""What a tool does with its one argument, on whichever loop it runs."""


class Server(ChatKitServer[Any]):
    """A server that answers by a model; `tools` are functions by name."""

    run: Any = None

    def __init__(
        self,
        endpoint: ModelEndpoint,
        tools: dict[str, Work] | None = None,
        policy: TurnPolicy | None = None,
    ) -> None:
        super().__init__(MemoryStore(), policy=policy or TurnPolicy())
        self.endpoint = endpoint
        self.tools = tools or {}

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        page = await self.store.load_thread_items(thread.id, None, 50, "desc", context)
        agent_input = await simple_to_agent_input(page.data[::-1])
        self.run = self.start(agent_context, agent_input)
        async for event in self.run:
            yield event

    def start(self, context: AgentContext[Any], agent_input: list[Any]) -> Any:
        """Return the stream of a run."""
        raise NotImplementedError


class Native(Server):
    """`run_model`."""

    def start(self, context: AgentContext[Any], agent_input: list[Any]) -> Any:
        tools = [native_tool(name, work) for name, work in self.tools.items()]
        return run_model(context, self.endpoint.client(), model="x", input=agent_input, tools=tools)


class AgentsSDK(Server):
    """The Agents SDK, without a session."""

    options: dict[str, Any] = {}  # noqa: RUF012

    def start(self, context: AgentContext[Any], agent_input: list[Any]) -> Any:
        model = OpenAIResponsesModel("x", openai_client=self.endpoint.client())
        tools = [sdk_tool(name, work) for name, work in self.tools.items()]
        self.result = Runner.run_streamed(
            SDKAgent(name="a", model=model, tools=list(tools)),
            agent_input,
            context=context,
            run_config=RUN_CONFIG,
            **self.options,
        )
        return stream_agent_response(context, self.result)


class PydanticAI(Server):
    """pydantic-ai, which is given the user's last words, and what is `kept` of earlier runs."""

    kept: list[Any] = []  # noqa: RUF012
    options: dict[str, Any] = {}  # noqa: RUF012

    def start(self, context: AgentContext[Any], agent_input: list[Any]) -> Any:
        provider = OpenAIProvider(openai_client=self.endpoint.client())
        tools = [pydantic_ai_tool(name, work) for name, work in self.tools.items()]
        agent = PydanticAgent(PydanticModel("x", provider=provider), tools=tools)
        return run_pydantic_ai(context, agent, "hi", message_history=self.kept, **self.options)


WAYS: list[type[Server]] = [Native, AgentsSDK, PydanticAI]

every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)

_PARAMETERS = {
    "type": "object",
    "properties": {"what": {"type": "string"}},
    "required": ["what"],
    "additionalProperties": False,
}


def native_tool(name: str, work: Work) -> Tool:
    async def call(context: Any, arguments: str) -> str:
        return await work(arguments)

    return Tool(name, "Work.", _PARAMETERS, call)


def sdk_tool(name: str, work: Work) -> FunctionTool:
    async def call(what: str) -> str:
        return await work(what)

    return function_tool(call, name_override=name, description_override="Work.")


def pydantic_ai_tool(name: str, work: Work) -> Any:
    async def call(what: str) -> str:
        return await work(what)

    return pydantic_tool(call, name=name, description="Work.")


async def asked(server: ChatKitServer[Any], text: str = "hi", thread_id: Any = None) -> ClientTurn:
    """Send a message to a running server, and read the answer to its end."""
    async with ChatClient.of_server(server).send(text, thread_id) as turn:
        await turn.read()
    await turn.server_turn.ended.wait()
    return turn


async def played(
    way: type[Server], *answers: list[Any], tools: dict[str, Work] | None = None, **options: Any
) -> tuple[ClientTurn, list[str], ModelEndpoint]:
    """Run one turn; return it, what the thread says afterwards, and the endpoint."""
    endpoint = ModelEndpoint(*answers, **options)
    async with way(endpoint, tools) as server:
        turn = await asked(server)
        said = await transcript(server.store, turn.thread_id)
    return turn, said, endpoint
