"""Workflows that a model and its tools write together, and that go on in the next turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from agents import OutputGuardrailTripwireTriggered

from chatkit_trio.agents import (
    AgentContext,
    ClientToolCall,
    run_on_trio,
    stream_agent_response,
)
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.testing import ChatClient, ClientTurn
from chatkit_trio.types import (
    CustomTask,
    ThreadItem,
    ThreadItemRemovedEvent,
    Workflow,
    WorkflowItem,
)

from . import script
from .model_endpoint import ModelEndpoint
from .test_misbehaving_models import at
from .threads import collected, new_context
from .ways import Server, asked, every_way


def tasks_of(item: ThreadItem) -> list[str]:
    assert isinstance(item, WorkflowItem)
    return [task.content if task.type == "thought" else task.title for task in item.workflow.tasks]


@every_way
@pytest.mark.parametrize("has_message", [False, True], ids=["thought", "message and thought"])
async def test_what_a_tool_adds_stands_behind_the_thoughts_before_it_however_slow_the_reader_is(
    way: type[Server], has_message: bool
) -> None:
    has_begun = trio.Event()

    class Behind(way):  # type: ignore[misc, valid-type]
        """Takes one event, and the next when the tool has begun: as with a store that is slow."""

        context: AgentContext[Any]

        def start(self, context: AgentContext[Any], agent_input: list[Any]) -> Any:
            self.context = context
            return super().start(context, agent_input)

        async def respond(self, *arguments: Any) -> AsyncIterator[Any]:
            async for event in super().respond(*arguments):
                yield event
                await has_begun.wait()

    async def begin() -> None:
        has_begun.set()

    async def work(what: str) -> str:
        context = server.context
        await run_on_trio(begin)
        await context.add_workflow_task(CustomTask(title="begun"))
        assert context.workflow_item is not None
        last = len(context.workflow_item.workflow.tasks) - 1
        await context.update_workflow_task(CustomTask(title="done"), last)
        return "ok"

    message = script.message("m", "Well") if has_message else []
    thought_and_call = [
        *at(0, message),
        *at(1, script.reasoning("r", ("I ", "think"))),
        *at(2, script.call("work", '{"what": "x"}')),
    ]
    endpoint = ModelEndpoint(
        script.answer(*thought_and_call), script.answer(*at(0, script.message("n", "Hello")))
    )
    async with Behind(endpoint, {"work": work}) as server:
        turn = await asked(server)
        stored = await ChatClient.of_server(server).items(turn.thread_id)

    assert turn.error is None
    assert [item.type for item in stored] == [
        "user_message",
        *(["assistant_message"] * has_message),
        "workflow",
        "assistant_message",
    ]
    assert tasks_of(stored[-2]) == ["I think", "done"]
    [shown] = [item for item in turn.items if item.type == "workflow"]
    assert tasks_of(shown) == ["I think", "done"]


async def test_a_workflow_that_a_tool_has_removed_does_not_come_back() -> None:
    context = await new_context()

    async def events() -> AsyncIterator[Any]:
        for event in thinking("r", "secret ", "thought"):
            yield event
        assert context.workflow_item is not None
        await context.stream(ThreadItemRemovedEvent(item_id=context.workflow_item.id))
        for parsed in script.parsed(script.message("m", "Hello")):
            yield SimpleNamespace(type="raw_response_event", data=parsed)

    told = await collected(stream_agent_response(context, SimpleNamespace(stream_events=events)))

    assert [e.item.type for e in told if e.type == "thread.item.done"] == ["assistant_message"]
    assert context.workflow_item is None


async def test_what_a_tool_has_sent_before_its_run_failed_is_shown() -> None:
    context = await new_context()
    told: list[Any] = []

    async def tell(run: Any) -> None:
        async for event in stream_agent_response(context, run):
            told.append(event)  # noqa: PERF401  (it is raised out of the middle)

    async def events() -> AsyncIterator[Any]:
        for event in thinking("r", "one ", "thought"):
            yield event
        await context.stream_progress("looking")
        raise ValueError("no such boat")

    with pytest.raises(ValueError, match="no such boat"):
        await tell(SimpleNamespace(stream_events=events))

    assert told[-1].type == "progress_update"


# --- A workflow that the next turn goes on with -------------------------------------------------


NOTHING: list[Any] = []


class TwoTurns(ChatKitServer[Any]):
    """The first turn ends with a call of a client tool; its output begins the second."""

    def __init__(self, *turns: Any) -> None:
        super().__init__(MemoryStore())
        self._turns = iter(turns)

    async def respond(
        self, thread: Any, input_user_message: Any, context: Any
    ) -> AsyncIterator[Any]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        events = next(self._turns)(agent_context)
        run = SimpleNamespace(stream_events=lambda: events)
        try:
            async for event in stream_agent_response(agent_context, run):
                yield event
        except OutputGuardrailTripwireTriggered:
            pass


def call_client(context: AgentContext[Any]) -> None:
    context.client_tool_call = ClientToolCall(name="look", arguments={})


async def both(server: TwoTurns) -> tuple[ClientTurn, list[ThreadItem]]:
    """Let both turns run; return the second, and what is stored."""
    async with server:
        client = ChatClient.of_server(server)
        thread_id = (await asked(server)).thread_id
        assert thread_id is not None
        async with client.send_tool_output(thread_id, {"seen": "a boat"}) as turn:
            await turn.read()
        return turn, await client.items(thread_id)


def thinking(name: str, *pieces: str) -> list[Any]:
    events = script.parsed(script.reasoning(name, pieces))
    return [SimpleNamespace(type="raw_response_event", data=event) for event in events]


async def test_a_tripwire_leaves_an_earlier_turns_workflow_as_it_was() -> None:
    async def first(context: AgentContext[Any]) -> AsyncIterator[Any]:
        for event in thinking("r1", "first ", "thought"):
            yield event
        call_client(context)

    async def second(context: AgentContext[Any]) -> AsyncIterator[Any]:
        for event in thinking("r2", "forbidden ", "thought"):
            yield event
        guardrail = SimpleNamespace(guardrail=SimpleNamespace())
        raise OutputGuardrailTripwireTriggered(guardrail)  # type: ignore[arg-type]

    turn, stored = await both(TwoTurns(first, second))

    assert [item.type for item in stored] == ["user_message", "workflow", "client_tool_call"]
    assert tasks_of(stored[1]) == ["first thought"]
    assert turn.events[-1].type == "thread.item.replaced"


async def test_a_task_goes_into_an_earlier_turns_workflow_that_had_none() -> None:
    async def first(context: AgentContext[Any]) -> AsyncIterator[Any]:
        await context.start_workflow(Workflow(type="custom", tasks=[]))
        call_client(context)
        for event in NOTHING:
            yield event

    async def second(context: AgentContext[Any]) -> AsyncIterator[Any]:
        await context.add_workflow_task(CustomTask(title="looked"))
        for event in NOTHING:
            yield event

    turn, stored = await both(TwoTurns(first, second))

    assert turn.error is None
    assert [item.type for item in stored] == ["user_message", "workflow", "client_tool_call"]
    assert tasks_of(stored[1]) == ["looked"]


async def test_an_earlier_turns_workflow_stays_as_a_tool_has_ended_it() -> None:
    async def first(context: AgentContext[Any]) -> AsyncIterator[Any]:
        await context.add_workflow_task(CustomTask(title="looked"))
        call_client(context)
        for event in NOTHING:
            yield event

    async def second(context: AgentContext[Any]) -> AsyncIterator[Any]:
        await context.end_workflow(expanded=True)
        for event in script.parsed(script.message("m", "Hello")):
            yield SimpleNamespace(type="raw_response_event", data=event)

    turn, stored = await both(TwoTurns(first, second))

    assert turn.error is None
    assert isinstance(stored[1], WorkflowItem)
    assert stored[1].workflow.expanded
