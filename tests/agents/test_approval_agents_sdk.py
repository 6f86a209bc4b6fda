"""A person is asked before a tool of the Agents SDK is called: `needs_approval`, `RunState`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from agents import (
    Agent,
    HostedMCPTool,
    RunContextWrapper,
    SQLiteSession,
    function_tool,
)

from chatkit_trio.agents import (
    AgentContext,
    ApprovalWords,
    Runner,
    run_on_trio,
    simple_to_agent_input,
    stream_agent_response,
)
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, RequestRefused
from chatkit_trio.types import (
    StructuredInputItem,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
)

from . import script
from .approvals import answer, calls_in, items_of, note_in, question_in, send, sqlite
from .models import RUN_CONFIG, Around, ScriptedModel, patched
from .test_approval import outputs

REFUND = script.call("refund", '{"amount": 30}', "call_r")
LOOK_UP = script.call("look_up", "{}", "call_l")


class Desk(ChatKitServer[None]):
    """A server whose agent has a tool that needs approval."""

    def __init__(self, store: Store[None], model: ScriptedModel, **options: Any) -> None:
        super().__init__(store)
        self.made: list[str] = []
        self.running = trio.Event()
        self.hangs = False
        self.around: Callable[[Any], Any] = lambda run: run
        self.options = options
        made = self.made

        @function_tool(needs_approval=True)
        async def refund(ctx: RunContextWrapper[AgentContext[None]], amount: int) -> str:
            made.append(f"refund {amount} in {ctx.context.thread.id}")
            if self.hangs:
                await run_on_trio(self._hang)
            return f"refunded {amount}"

        @function_tool
        async def look_up() -> str:
            made.append("look_up")
            return "paid by card"

        self.agent: Agent[Any] = Agent(name="Desk", model=model, tools=[refund, look_up])

    async def _hang(self) -> None:
        self.running.set()
        await trio.sleep_forever()

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        if self.options.get("session") is not None:
            message = input_user_message
            agent_input: Any = "" if message is None else message.content[0].text
        else:
            newest = await self.store.load_thread_items(thread.id, None, 20, "desc", context)
            agent_input = await simple_to_agent_input(newest.data[::-1])
        result = Runner.run_streamed(
            self.agent, agent_input, context=agent_context, run_config=RUN_CONFIG, **self.options
        )
        async for event in stream_agent_response(agent_context, self.around(result)):
            yield event


@pytest.mark.parametrize(
    "around", [lambda run: run, Around, patched], ids=["bare", "around", "patched"]
)
async def test_an_approved_tool_is_called_and_the_run_goes_on(around: Any) -> None:
    model = ScriptedModel(
        script.answer(*REFUND, *LOOK_UP), script.answer(*script.message("m", "Refunded"))
    )
    async with Desk(MemoryStore(), model) as server, ChatClient.of_server(server) as client:
        server.around = around
        turn = await send(client, "I want my money back")
        made_unasked = list(server.made)
        question = await question_in(server.store, turn.thread_id)
        done = await answer(client, question, "Approve", comment="and say sorry")
        note = await note_in(server.store, turn.thread_id)

    assert question.inputs[0].question == "May I do this: refund (amount: 30)?"
    assert made_unasked == ["look_up"]
    # The tool sees the context of the turn that goes on.
    assert server.made == ["look_up", f"refund 30 in {turn.thread_id}"]
    assert done.text == "Refunded"
    assert dict(outputs(model.inputs[1])) == {"call_r": "refunded 30", "call_l": "paid by card"}
    assert "and say sorry" in str(model.inputs[1][-1])
    assert note.approval is not None
    assert note.approval.state == ""
    assert "It returned: refunded 30" in note.content


async def test_a_refused_tool_is_not_called_and_the_model_hears_why() -> None:
    model = ScriptedModel(script.answer(*REFUND), script.answer(*script.message("m", "Well")))
    async with Desk(MemoryStore(), model) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Only 20")

    assert server.made == []
    [(_call_id, output)] = outputs(model.inputs[1])
    assert "Only 20" in output


async def test_of_several_calls_each_is_decided() -> None:
    other = script.call("refund", '{"amount": 70}', "call_o")
    model = ScriptedModel(
        script.answer(*REFUND, *other), script.answer(*script.message("m", "Well"))
    )
    async with Desk(MemoryStore(), model) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Refuse", "Approve")

    assert server.made == [f"refund 70 in {turn.thread_id}"]
    assert dict(outputs(model.inputs[1]))["call_o"] == "refunded 70"


async def test_another_process_carries_the_answer_out_once(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    asking = ScriptedModel(script.answer(*REFUND))
    async with Desk(sqlite(path), asking) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
    going_on = ScriptedModel(script.answer(*script.message("m", "Refunded")))
    async with Desk(sqlite(path), going_on) as server, ChatClient.of_server(server) as client:
        question = await question_in(server.store, turn.thread_id)
        done = await answer(client, question, "Approve")
        with pytest.raises(RequestRefused):
            await answer(client, question, "Approve")

    assert done.text == "Refunded"
    assert server.made == [f"refund 30 in {turn.thread_id}"]


async def test_a_message_instead_of_an_answer_refuses() -> None:
    model = ScriptedModel(script.answer(*REFUND), script.answer(*script.message("m", "Then not")))
    async with Desk(MemoryStore(), model) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        done = await send(client, "Never mind", turn.thread_id)
        question = await question_in(server.store, turn.thread_id)
        [call] = await calls_in(server.store, turn.thread_id)

    assert done.text == "Then not"
    assert server.made == []
    assert (question.status, call.state) == ("skipped", "refused")


async def test_a_message_instead_of_an_answer_leaves_a_session_whole() -> None:
    """The session ends with a call: without its output no model accepts the next input."""
    session = SQLiteSession("s")
    model = ScriptedModel(
        script.answer(*REFUND),
        script.answer(*script.message("m", "Then not")),
        script.answer(*script.message("n", "Anything else?")),
    )
    desk = Desk(MemoryStore(), model, session=session)
    async with desk as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        await send(client, "Never mind", turn.thread_id)
        await send(client, "Bye", turn.thread_id)

    assert server.made == []
    [(call_id, output)] = outputs(model.inputs[2])
    assert call_id == "call_r"
    assert "wrote a message" in output
    said = [item["content"] for item in model.inputs[2] if item.get("role") == "user"]
    assert said == ["hi", "Never mind", "Bye"]


@pytest.mark.parametrize("keeper", ["session", "resp_1", "resp_0"])
async def test_a_message_goes_to_an_agent_that_would_end_with_the_refusal(keeper: str) -> None:
    model = ScriptedModel(
        script.answer(*REFUND, *LOOK_UP), script.answer(*script.message("m", "Then not"))
    )
    options = {"session": SQLiteSession("s")} if keeper == "session" else {}
    desk = Desk(MemoryStore(), model, **options)
    desk.agent.tool_use_behavior = "stop_on_first_tool"
    async with desk as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        if keeper != "session":
            server.options = {"previous_response_id": keeper}
        done = await send(client, "Never mind", turn.thread_id)

    assert done.text == "Then not"
    results = dict(outputs(model.inputs[1]))
    # A response before the one that asked knows of no calls, so it takes no results.
    assert set(results) == (set() if keeper == "resp_0" else {"call_r", "call_l"})
    assert "Never mind" in str(model.inputs[1][-1])


async def test_an_approved_call_with_a_session_goes_on() -> None:
    session = SQLiteSession("s")
    model = ScriptedModel(script.answer(*REFUND), script.answer(*script.message("m", "Done")))
    desk = Desk(MemoryStore(), model, session=session)
    async with desk as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        done = await answer(client, await question_in(server.store, turn.thread_id), "Approve")

    assert done.text == "Done"
    assert outputs(model.inputs[1]) == [("call_r", "refunded 30")]


async def test_a_stop_in_an_approved_tool_is_told_and_not_repeated() -> None:
    model = ScriptedModel(script.answer(*REFUND), script.answer(*script.message("m", "Hm")))
    async with Desk(MemoryStore(), model) as server, ChatClient.of_server(server) as client:
        server.hangs = True
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, client, question, "Approve")
            await server.running.wait()
            await client.stop(turn.thread_id)
        [call] = await calls_in(server.store, turn.thread_id)
        await send(client, "And?", turn.thread_id)

    assert call.state == "begun"
    assert len(server.made) == 1
    assert "nobody knows whether it took effect" in str(model.inputs[-1])


async def test_of_a_call_in_a_run_that_was_cancelled_nobody_knows() -> None:
    model = ScriptedModel(script.answer(*REFUND), script.answer(*script.message("m", "Hm")))
    async with Desk(MemoryStore(), model) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")

        def cancelled(run: Any) -> Any:
            run.cancel()
            return run

        server.around = cancelled
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        note = await note_in(server.store, turn.thread_id)

    assert note.approval is not None
    assert [(call.state, call.output) for call in note.approval.calls] == [("begun", "")]


class Both(ChatKitServer[None]):
    """Runs two agents in a turn, or those it is told to."""

    def __init__(self, *desks: Desk) -> None:
        super().__init__(desks[0].store)
        self.desks = self.due = desks

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        for desk in self.due:
            async for event in desk.respond(thread, input_user_message, context):
                yield event


def both(store: Store[None], *says: str) -> Both:
    desks = [
        Desk(store, ScriptedModel(script.answer(*REFUND), script.answer(*script.message("m", say))))
        for say in says
    ]
    for desk, name in zip(desks, says, strict=True):
        desk.agent.name = name
    return Both(*desks)


async def test_of_two_runs_that_ask_in_one_turn_each_goes_on() -> None:
    async with both(MemoryStore(), "first", "second") as server:
        client = ChatClient.of_server(server)
        turn = await send(client, "hi")
        questions = [i for i in turn.items if isinstance(i, StructuredInputItem)]
        for desk, question in zip(server.desks, questions, strict=True):
            server.due = (desk,)
            await answer(client, question, "Approve")

    assert [len(desk.made) for desk in server.desks] == [1, 1]


async def test_a_message_ends_all_that_was_asked() -> None:
    async with both(MemoryStore(), "first", "second") as server:
        client = ChatClient.of_server(server)
        turn = await send(client, "hi")
        await send(client, "Never mind", turn.thread_id)
        stored = await items_of(server.store, turn.thread_id)

    asked = [item.status for item in stored if isinstance(item, StructuredInputItem)]
    assert asked == ["skipped", "skipped"]


async def test_a_hosted_mcp_server_asks_too() -> None:
    request = {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "name": "delete_page",
        "arguments": '{"page": "home"}',
        "server_label": "wiki",
    }
    model = ScriptedModel(
        script.answer(script.item_done(request)), script.answer(*script.message("m", "Deleted"))
    )
    async with Desk(MemoryStore(), model) as server, ChatClient.of_server(server) as client:
        server.agent.tools = [
            HostedMCPTool(
                tool_config={
                    "type": "mcp",
                    "server_label": "wiki",
                    "server_url": "https://wiki.example/mcp",
                    "require_approval": "always",
                }
            )
        ]
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        done = await answer(client, question, "Approve")

    assert question.inputs[0].question == "May I do this: delete page (page: home)?"
    assert done.text == "Deleted"
    [response] = [i for i in model.inputs[1] if i.get("type") == "mcp_approval_response"]
    assert (response["approval_request_id"], response["approve"]) == ("mcpr_1", True)


async def test_events_that_are_read_unconverted_are_the_sdks_own() -> None:
    model = ScriptedModel(script.answer(*REFUND))
    desk = Desk(MemoryStore(), model)
    async with desk:
        thread = ThreadMetadata(id="thr_1", created_at="2026-01-01T00:00:00Z")  # type: ignore[arg-type]
        await desk.store.save_thread(thread, None)
        context = AgentContext(thread=thread, store=desk.store, request_context=None)
        run = Runner.run_streamed(desk.agent, "hi", context=context, run_config=RUN_CONFIG)
        kinds = {event.type async for event in run.stream_events()}

    assert kinds <= {"raw_response_event", "run_item_stream_event", "agent_updated_stream_event"}
    assert [item.tool_name for item in run.interruptions] == ["refund"]


async def test_words_are_the_applications() -> None:
    class Words(ApprovalWords):
        approve = "Do it"

    model = ScriptedModel(script.answer(*REFUND), script.answer(*script.message("m", "Done")))

    class Desk2(Desk):
        async def respond(self, thread: Any, input_user_message: Any, context: None) -> Any:
            agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
            result = Runner.run_streamed(
                self.agent, "hi", context=agent_context, run_config=RUN_CONFIG
            )
            words = Words()
            async for event in stream_agent_response(agent_context, result, approval_words=words):
                yield event

    async with Desk2(MemoryStore(), model) as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Do it")

    assert len(server.made) == 1
