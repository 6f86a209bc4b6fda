"""A person is asked before a tool of pydantic-ai is called: `requires_approval`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.agents import AgentContext, run_on_trio, run_pydantic_ai
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, RequestRefused
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem

from .approvals import answer, calls_in, items_of, note_in, question_in, send, sqlite

pydantic_ai = pytest.importorskip("pydantic_ai", reason="the extra `pydantic-ai` isn't installed")
from pydantic_ai import Agent, CallDeferred, DeferredToolRequests, RunContext  # noqa: E402
from pydantic_ai.models.function import DeltaToolCall, FunctionModel  # noqa: E402

Calls = Sequence[tuple[str, str]]
REFUND: Calls = [("refund", '{"amount": 30}')]


class Desk(ChatKitServer[None]):
    """A server whose model makes these calls first, and then says what it was given for them."""

    def __init__(self, store: Store[None], calls: Calls, **options: Any) -> None:
        super().__init__(store)
        self.made: list[str] = []
        self.seen: list[Any] = []
        self.history: list[Any] = []
        self.kept: list[Any] = []
        self.running = trio.Event()
        self.hangs = False
        self.options = options
        self._calls = list(calls)
        self.agent: Agent[Any, Any] = Agent(
            FunctionModel(stream_function=self._model),
            name="desk",
            deps_type=AgentContext,
            output_type=[str, DeferredToolRequests],
        )

        @self.agent.tool(requires_approval=True)
        async def refund(ctx: RunContext[AgentContext[None]], amount: int) -> str:
            self.made.append(f"refund {amount} in {ctx.deps.thread.id}")
            if self.hangs:
                await run_on_trio(self._hang)
            return f"refunded {amount}"

        @self.agent.tool_plain
        async def look_up() -> str:
            self.made.append("look_up")
            return "paid by card"

        @self.agent.tool_plain
        async def elsewhere() -> str:
            raise CallDeferred

    async def _hang(self) -> None:
        self.running.set()
        await trio.sleep_forever()

    async def _model(self, messages: list[Any], info: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        self.seen = messages
        if self._calls:
            calls, self._calls = self._calls, []
            for number, (name, arguments) in enumerate(calls):
                yield {number: DeltaToolCall(name, arguments, tool_call_id=f"call_{number}")}
        else:
            yield f"I got: {returns(messages)}"

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        prompt = None if input_user_message is None else input_user_message.content[0].text
        run = run_pydantic_ai(
            agent_context,
            self.agent,
            prompt,
            deps=agent_context,
            message_history=self.history,
            **self.options,
        )
        async for event in run:
            yield event
        self.history = run.result.all_messages()
        self.kept += run.new_messages()


def returns(messages: list[Any]) -> list[str]:
    """Return what the model was given for its calls."""
    return [
        str(part.content)
        for message in messages
        for part in message.parts
        if part.part_kind in ("tool-return", "retry-prompt")
    ]


def prompts(messages: list[Any]) -> list[str]:
    return [p.content for m in messages for p in m.parts if p.part_kind == "user-prompt"]


async def test_an_approved_tool_is_called_and_the_run_goes_on() -> None:
    desk = Desk(MemoryStore(), [*REFUND, ("look_up", "{}")])
    async with desk as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        made_unasked = list(server.made)
        question = await question_in(server.store, turn.thread_id)
        await answer(client, question, "Approve", comment="and say sorry")
        note = await note_in(server.store, turn.thread_id)

    assert question.inputs[0].question == "May I do this: refund (amount: 30)?"
    assert made_unasked == ["look_up"]
    assert server.made == ["look_up", f"refund 30 in {turn.thread_id}"]
    assert sorted(returns(server.seen)) == ["paid by card", "refunded 30"]
    assert "and say sorry" in prompts(server.seen)[-1]
    assert note.approval is not None
    assert note.approval.state == ""
    assert "It returned: refunded 30" in note.content


async def test_a_refused_tool_is_not_called_and_the_model_hears_why() -> None:
    async with Desk(MemoryStore(), REFUND) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Only 20")

    assert server.made == []
    [told] = returns(server.seen)
    assert "Only 20" in told


async def test_of_several_calls_each_is_decided() -> None:
    desk = Desk(MemoryStore(), [*REFUND, ("refund", '{"amount": 70}')])
    async with desk as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Refuse", "Approve")

    assert server.made == [f"refund 70 in {turn.thread_id}"]


async def test_another_process_carries_the_answer_out_once(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with Desk(sqlite(path), REFUND) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
    async with Desk(sqlite(path), []) as server, ChatClient.of_server(server) as client:
        question = await question_in(server.store, turn.thread_id)
        done = await answer(client, question, "Approve")
        with pytest.raises(RequestRefused):
            await answer(client, question, "Approve")

    assert done.text == "I got: ['refunded 30']"
    assert server.made == [f"refund 30 in {turn.thread_id}"]


async def test_a_message_instead_of_an_answer_leaves_the_history_whole() -> None:
    async with Desk(MemoryStore(), REFUND) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        done = await send(client, "Never mind", turn.thread_id)
        question = await question_in(server.store, turn.thread_id)
        [call] = await calls_in(server.store, turn.thread_id)

    assert server.made == []
    assert (question.status, call.state) == ("skipped", "refused")
    assert "wrote a message" in done.text
    assert prompts(server.seen) == ["hi", "Never mind"]


async def test_a_message_instead_of_an_answer_needs_no_history() -> None:
    async with Desk(MemoryStore(), REFUND) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        server.history = []
        done = await send(client, "Never mind", turn.thread_id)

    assert done.text == "I got: []"
    assert server.made == []


@pytest.mark.parametrize("calls", [REFUND, [("look_up", "{}"), *REFUND]], ids=["one", "two"])
async def test_the_new_messages_of_both_turns_have_each_call_and_its_result(calls: Calls) -> None:
    async with Desk(MemoryStore(), calls) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        kept_before = [message.kind for message in server.kept]
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")

    assert kept_before == ["request"]
    kept = [(p.part_kind, getattr(p, "tool_name", "")) for m in server.kept for p in m.parts]
    whole = [(p.part_kind, getattr(p, "tool_name", "")) for m in server.history for p in m.parts]
    assert kept == whole


async def test_a_stop_in_an_approved_tool_is_told_and_not_repeated() -> None:
    async with Desk(MemoryStore(), REFUND) as server, ChatClient.of_server(server) as client:
        server.hangs = True
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, client, question, "Approve")
            await server.running.wait()
            await client.stop(turn.thread_id)
        [call] = await calls_in(server.store, turn.thread_id)
        done = await send(client, "And?", turn.thread_id)

    assert call.state == "begun"
    assert len(server.made) == 1
    assert "nobody knows whether it took effect" in done.text


async def test_calls_for_elsewhere_are_left_to_the_application() -> None:
    desk = Desk(MemoryStore(), [*REFUND, ("elsewhere", "{}")])
    async with desk as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        items = await items_of(server.store, turn.thread_id)

    assert [item.type for item in items] == ["user_message"]
