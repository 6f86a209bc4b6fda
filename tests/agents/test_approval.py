"""A person is asked before a tool is called: `run_model`, over reloads, restarts and processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio.agents import AgentContext, ApprovalWords, ClientToolCall, stream_response, tool
from chatkit_trio.errors import StoreError
from chatkit_trio.server import current_turn
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, RequestRefused
from chatkit_trio.types import (
    SDKHiddenContextItem,
    StructuredInputItem,
    ThreadItem,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    WorkflowItem,
    is_hidden,
)
from examples._model import Asked, Call, Say, ScriptedClient

from . import script
from .approvals import (
    Desk,
    answer,
    calls_in,
    items_of,
    note_in,
    question_in,
    send,
    sqlite,
)
from .responses_server import ResponsesServer, serving
from .threads import collected, new_context

REFUND = script.call("refund", '{"order": "A1", "amount": 30}', "call_r")
LOOK_UP = script.call("look_up", '{"order": "A1"}', "call_l")

FAILED = [
    {
        "type": "response.failed",
        "sequence_number": 0,
        "response": script.response([], "failed")
        | {"error": {"code": "server_error", "message": "overloaded"}},
    }
]


class Rig:
    """A model, the calls that were made, and servers to be opened."""

    def __init__(self, model: ResponsesServer, client: Any) -> None:
        self.model = model
        self.client = client
        self.made: list[str] = []

    def plays(self, *answers: list[Any]) -> None:
        self.model.answers += [script.answer(*events) for events in answers]

    @asynccontextmanager
    async def open(
        self, store: Any = None, kind: type[Desk] = Desk, **options: Any
    ) -> AsyncIterator[tuple[Desk, ChatClient]]:
        desk = kind(store or MemoryStore(), self.client, self.made, **options)
        async with desk as server, ChatClient.of_server(server) as client:
            yield server, client

    @property
    def last_input(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.model.requests[-1]["input"]
        return items


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    model = ResponsesServer()
    with trio.fail_after(60):
        async with serving(model) as client:
            yield Rig(model, client)


def outputs(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (item["call_id"], item["output"])
        for item in items
        if item.get("type") == "function_call_output"
    ]


def assert_all_answered(items: list[dict[str, Any]]) -> None:
    """Look that every call has its output, in the order of the calls, as the API requires."""
    calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
    assert [call_id for call_id, _output in outputs(items)] == calls


# --- The question ------------------------------------------------------------------------------


async def test_the_user_is_asked_and_nothing_is_called(rig: Rig) -> None:
    rig.plays(REFUND)
    async with rig.open() as (server, client):
        turn = await send(client, "I want my money back")
        question = await question_in(server.store, turn.thread_id)
        stored = await items_of(server.store, turn.thread_id)

    assert rig.made == []
    assert turn.events[-1].item == question
    assert question.status == "pending"
    first, comment = question.inputs
    assert first.question == "May I do this: refund (order: A1; amount: 30)?"
    assert [option.value for option in first.options] == ["Approve", "Refuse"]
    assert comment.type == "freeform"
    # The note is stored first, so that no question can lose its run.
    assert [item.type for item in stored] == [
        "user_message",
        "sdk_hidden_context",
        "structured_input",
    ]


async def test_no_client_ever_sees_the_state_of_the_run(rig: Rig) -> None:
    rig.plays(REFUND)
    async with rig.open(instructions="the secret") as (server, client):
        turn = await send(client, "hi")
        page = await client.thread(turn.thread_id)
        question = await question_in(server.store, turn.thread_id)

    told = b"".join(turn.frames).decode() + page.model_dump_json()
    assert "sdk_hidden_context" not in told
    assert "function_call" not in told
    assert question.id in told


async def test_words_are_the_applications(rig: Rig) -> None:
    class German(ApprovalWords):
        approve, refuse, comment = "Ja", "Nein", None

        def question(self, tool: str, arguments: dict[str, Any]) -> str:
            return f"{arguments['amount']} € erstatten?"

    rig.plays(REFUND, script.message("m", "Erledigt"))
    async with rig.open(approval_words=German()) as (server, client):
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        await answer(client, question, "Ja")

    assert [each.question for each in question.inputs] == ["30 € erstatten?"]
    assert rig.made == ["refund A1 30"]


async def test_wrong_arguments_are_told_to_the_model_and_nobody_is_asked(rig: Rig) -> None:
    rig.plays(script.call("refund", '{"order": "A1"}'), script.message("m", "Which amount?"))
    async with rig.open() as (_server, client):
        turn = await send(client, "hi")

    assert turn.text == "Which amount?"
    assert "amount" in outputs(rig.last_input)[0][1]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_function_decides_which_calls_need_approval(rig: Rig, is_async: bool) -> None:
    def is_much(context: AgentContext[None], arguments: dict[str, Any]) -> bool:
        return bool(arguments["amount"] > 100)

    async def waits(context: AgentContext[None], arguments: dict[str, Any]) -> bool:
        await trio.lowlevel.checkpoint()
        return is_much(context, arguments)

    @tool(needs_approval=waits if is_async else is_much)
    async def credit(amount: int) -> str:
        rig.made.append(f"credit {amount}")
        return "done"

    rig.plays(
        [*script.call("credit", '{"amount": 5}', "c1"), *script.call("credit", '{"amount": 500}')],
        script.message("m", "Done"),
    )
    async with rig.open(tools=[credit]) as (server, client):
        turn = await send(client, "hi")
        made_unasked = list(rig.made)
        question = await question_in(server.store, turn.thread_id)
        await answer(client, question, "Approve")

    assert made_unasked == ["credit 5"]
    assert rig.made == ["credit 5", "credit 500"]
    assert_all_answered(rig.last_input)


async def test_the_user_is_asked_if_the_function_that_decides_fails(rig: Rig) -> None:
    async def fails(context: AgentContext[None], arguments: dict[str, Any]) -> bool:
        await trio.lowlevel.checkpoint()
        raise KeyError("amount")

    @tool(needs_approval=fails)
    async def credit(amount: int) -> str:
        rig.made.append("credit")
        return "done"

    rig.plays(script.call("credit", '{"amount": 5}'))
    async with rig.open(tools=[credit]) as (server, client):
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)

    assert question.status == "pending"
    assert rig.made == []


async def test_a_call_of_the_page_ends_the_answer_and_nothing_is_asked(rig: Rig) -> None:
    @tool
    async def ask_page(context: AgentContext[None]) -> str:
        context.client_tool_call = ClientToolCall(name="ask_page", arguments={})
        return ""

    @tool(needs_approval=True)
    async def refund(order: str, amount: int) -> str:
        raise AssertionError("it wasn't approved")

    rig.plays([*REFUND, *script.call("ask_page", "{}", "c2")])
    async with rig.open(tools=[ask_page, refund]) as (server, client):
        turn = await send(client, "hi")
        items = await items_of(server.store, turn.thread_id)

    assert [item.type for item in items] == ["user_message", "client_tool_call"]


async def test_thoughts_stand_before_the_question(rig: Rig) -> None:
    rig.plays([*script.reasoning("r", ("Hm",)), *REFUND], script.message("m", "Done"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        items = await items_of(server.store, turn.thread_id)

    seen = [item for item in items if not is_hidden(item)]
    assert isinstance(seen[1], WorkflowItem)
    assert isinstance(seen[2], StructuredInputItem)
    # The model gets its own thought back: some refuse a call without the thought it came from.
    kinds = [item["type"] for item in rig.last_input]
    assert kinds == ["message", "reasoning", "function_call", "function_call_output"]


# --- The answer --------------------------------------------------------------------------------


async def test_an_approved_tool_is_called_once_and_the_model_goes_on(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "Refunded"))
    async with rig.open() as (server, client):
        turn = await send(client, "I want my money back")
        asked = rig.model.requests[0]["input"]
        done = await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        note = await note_in(server.store, turn.thread_id)

    assert done.text == "Refunded"
    assert rig.made == ["refund A1 30"]
    assert rig.last_input[: len(asked)] == asked
    assert outputs(rig.last_input) == [("call_r", "refunded 30")]
    assert note.approval is not None
    assert note.approval.state == ""
    assert "it was called. It returned: refunded 30" in note.content


async def test_a_refused_tool_is_not_called_and_the_model_is_told(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "As you wish"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Refuse")
        note = await note_in(server.store, turn.thread_id)

    assert rig.made == []
    assert "didn't allow" in outputs(rig.last_input)[0][1]
    assert "wasn't called" in note.content


@pytest.mark.parametrize(
    "given", ["Only 20, please", "approve", "", None], ids=["words", "case", "empty", "none"]
)
async def test_anything_but_the_choice_to_approve_refuses(rig: Rig, given: str | None) -> None:
    rig.plays(REFUND, script.message("m", "Well"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), given)

    assert rig.made == []
    [(_call_id, output)] = outputs(rig.last_input)
    assert (given or "") in output


async def test_a_skipped_question_refuses(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "Well"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        async with client.send_answers(turn.thread_id, question.id, None) as skipped:
            await skipped.read()

    assert rig.made == []
    assert skipped.text == "Well"


@pytest.mark.parametrize(("choice", "made"), [("Approve", ["refund A1 30"]), ("Refuse", [])])
async def test_a_comment_reaches_the_model(rig: Rig, choice: str, made: list[str]) -> None:
    rig.plays(REFUND, script.message("m", "Well"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        await answer(client, question, choice, comment="and say sorry")

    assert rig.made == made
    assert "and say sorry" in outputs(rig.last_input)[0][1]


async def test_of_several_calls_each_is_decided(rig: Rig) -> None:
    other = script.call("refund", '{"order": "B2", "amount": 70}', "call_o")
    rig.plays([*REFUND, *LOOK_UP, *other], script.message("m", "Well"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        made_unasked = list(rig.made)
        question = await question_in(server.store, turn.thread_id)
        await answer(client, question, "Refuse", "Approve")

    assert made_unasked == ["look_up A1"]
    assert rig.made == ["look_up A1", "refund B2 70"]
    assert_all_answered(rig.last_input)
    first, second, third = [output for _call_id, output in outputs(rig.last_input)]
    assert "didn't allow" in first
    assert (second, third) == ("paid by card", "refunded 70")


async def test_the_model_may_ask_again_in_the_same_answer(rig: Rig) -> None:
    other = script.call("refund", '{"order": "B2", "amount": 70}', "call_o")
    rig.plays(REFUND, other, script.message("m", "Both done"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        second = await question_in(server.store, turn.thread_id)
        done = await answer(client, second, "Approve")

    assert done.text == "Both done"
    assert rig.made == ["refund A1 30", "refund B2 70"]
    assert_all_answered(rig.last_input)


async def test_later_turns_know_what_was_called(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "Done"), script.message("n", "Yes"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        await send(client, "Did you do it?", turn.thread_id)

    assert "It returned: refunded 30" in json.dumps(rig.last_input)
    assert_all_answered(rig.last_input)
    assert rig.made == ["refund A1 30"]


async def test_the_response_that_the_run_followed_is_followed_again(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "Done"))
    async with rig.open(previous_response_id="resp_before") as (server, client):
        turn = await send(client, "hi")
        server.options["previous_response_id"] = "resp_that_asked"
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")

    assert [request["previous_response_id"] for request in rig.model.requests] == [
        "resp_before",
        "resp_before",
    ]


# --- A message instead, late answers -----------------------------------------------------------


async def test_a_message_instead_of_an_answer_refuses(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "Then not"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        done = await send(client, "Never mind", turn.thread_id)
        after = await question_in(server.store, turn.thread_id)
        [call] = await calls_in(server.store, turn.thread_id)
        with pytest.raises(RequestRefused):
            await answer(client, question, "Approve")

    assert done.text == "Then not"
    assert rig.made == []
    assert after.status == "skipped"
    assert "thread.item.replaced" in [event.type for event in done.events]
    assert call.state == "refused"
    assert_all_answered(rig.last_input)


async def test_a_message_that_follows_the_response_that_asked_brings_its_results(
    rig: Rig,
) -> None:
    """The API keeps that response, and accepts nothing behind it but results for its calls."""
    rig.plays([*REFUND, *LOOK_UP], script.message("m", "Then not"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        server.options["previous_response_id"] = "resp_1"
        await send(client, "Never mind", turn.thread_id)

    first, second, *_rest = rig.last_input
    assert "wrote a message" in first["output"]
    assert (second["call_id"], second["output"]) == ("call_l", "paid by card")


async def test_a_conversation_gets_the_results_of_its_calls_and_nothing_twice(rig: Rig) -> None:
    rig.plays([*REFUND, *LOOK_UP], script.message("m", "Done"))
    async with rig.open(conversation="conv_1") as (server, client):
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")

    assert outputs(rig.last_input) == [("call_r", "refunded 30"), ("call_l", "paid by card")]
    assert len(rig.last_input) == 2


async def test_a_message_in_a_conversation_brings_the_results_of_its_calls(rig: Rig) -> None:
    rig.plays([*REFUND, *LOOK_UP], script.message("m", "Then not"))
    async with rig.open(conversation="conv_1") as (_server, client):
        turn = await send(client, "hi")
        await send(client, "Never mind", turn.thread_id)

    assert [call_id for call_id, _output in outputs(rig.last_input)] == ["call_r", "call_l"]


class Absent(Desk):
    """Answers some messages without asking the model."""

    async def respond(self, thread: Any, input_user_message: Any, context: None) -> Any:
        if input_user_message is None or input_user_message.content[0].text != "/help":
            async for event in super().respond(thread, input_user_message, context):
                yield event


async def test_an_answer_behind_a_message_comes_too_late(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "It went on"))
    async with rig.open(kind=Absent) as (server, client):
        turn = await send(client, "hi")
        await send(client, "/help", turn.thread_id)
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        [call] = await calls_in(server.store, turn.thread_id)

    assert rig.made == []
    assert (call.state, "too late" in call.comment) == ("refused", True)


async def test_a_retry_takes_the_question_and_its_state_away(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "Another answer"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        [message, *_rest] = await items_of(server.store, turn.thread_id)
        async with client.retry(turn.thread_id, message.id) as again:
            await again.read()
        kinds = [item.type for item in await items_of(server.store, turn.thread_id)]

    assert kinds == ["user_message", "assistant_message"]
    assert rig.made == []


# --- Twice -------------------------------------------------------------------------------------


class Slow(Desk):
    """Its tool says when it runs, and waits."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.running = trio.Event()
        self.go_on = trio.Event()

    def tools(self) -> Any:
        @tool(needs_approval=True)
        async def refund(order: str, amount: int) -> str:
            self.made.append("begun")
            self.running.set()
            await self.go_on.wait()
            self.made.append("done")
            return "refunded"

        return [refund]


async def test_a_double_click_runs_it_once(rig: Rig) -> None:
    rig.plays(REFUND, script.message("m", "Done"))
    refusals: list[Any] = []
    async with rig.open(kind=Slow) as (server, client):
        assert isinstance(server, Slow)
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)

        async def click() -> None:
            try:
                clicked = await answer(client, question, "Approve")
            except RequestRefused as refused:
                refusals.append(refused)
            else:
                refusals.extend(e for e in clicked.events if e.type == "error")

        async with trio.open_nursery() as nursery:
            for _click in range(3):
                nursery.start_soon(click)
            await server.running.wait()
            nursery.start_soon(click)
            await trio.testing.wait_all_tasks_blocked(0.05)
            server.go_on.set()
        items = await items_of(server.store, turn.thread_id)

    assert rig.made == ["begun", "done"]
    assert len(refusals) == 3
    assert items[-1].content[0].text == "Done"  # type: ignore[union-attr]


async def test_two_servers_over_one_file_run_it_once(rig: Rig, tmp_path: Path) -> None:
    """Both get the answer at the same moment; the question was asked by one of them."""
    rig.plays(REFUND, script.message("m", "Done"))
    path = tmp_path / "chat.db"
    refused = 0
    async with rig.open(sqlite(path)) as (server, one), rig.open(sqlite(path)) as (_other, two):
        turn = await send(one, "hi")
        question = await question_in(server.store, turn.thread_id)

        async def click(client: ChatClient) -> None:
            nonlocal refused
            try:
                clicked = await answer(client, question, "Approve")
            except RequestRefused:
                refused += 1
            else:
                refused += any(event.type == "error" for event in clicked.events)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(click, one)
            nursery.start_soon(click, two)
        page = await two.thread(turn.thread_id)

    assert rig.made == ["refund A1 30"]
    assert refused == 1
    assert page.items.data[-1].content[0].text == "Done"  # type: ignore[union-attr]


async def test_another_server_carries_the_answer_out(rig: Rig, tmp_path: Path) -> None:
    rig.plays(REFUND, script.message("m", "Done"))
    path = tmp_path / "chat.db"
    async with rig.open(sqlite(path)) as (_server, one), rig.open(sqlite(path)) as (other, two):
        turn = await send(one, "hi")
        done = await answer(two, await question_in(other.store, turn.thread_id), "Approve")

    assert done.text == "Done"
    assert rig.made == ["refund A1 30"]


async def test_a_question_survives_a_restart(rig: Rig, tmp_path: Path) -> None:
    rig.plays(REFUND, script.message("m", "Done"))
    path = tmp_path / "chat.db"
    async with rig.open(sqlite(path)) as (_server, client):
        turn = await send(client, "hi")
    async with rig.open(sqlite(path)) as (_server, client):
        page = await client.thread(turn.thread_id)
        question = page.items.data[-1]
        assert isinstance(question, StructuredInputItem)
        done = await answer(client, question, "Approve")
        await send_refused(client, question)

    assert done.text == "Done"
    assert rig.made == ["refund A1 30"]


async def send_refused(client: ChatClient, question: StructuredInputItem) -> None:
    with pytest.raises(RequestRefused):
        await answer(client, question, "Approve")


# --- Cut short ---------------------------------------------------------------------------------


async def test_a_stop_in_an_approved_tool_is_told_and_not_repeated(rig: Rig) -> None:
    rig.plays(REFUND, script.message("n", "I don't know"))
    async with rig.open(kind=Slow) as (server, client):
        assert isinstance(server, Slow)
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, client, question, "Approve")
            await server.running.wait()
            await client.stop(turn.thread_id)
        [cut] = await calls_in(server.store, turn.thread_id)
        await send(client, "And?", turn.thread_id)
        note = await note_in(server.store, turn.thread_id)

    assert cut.state == "begun"
    assert rig.made == ["begun"]
    assert note.approval is not None
    assert note.approval.state == ""
    assert "nobody knows whether it took effect" in json.dumps(rig.last_input)


class TakesBack(Slow):
    """Its tool takes a refund back when it is stopped, and says so."""

    def tools(self) -> Any:
        @tool(needs_approval=True)
        async def refund(order: str, amount: int) -> str:
            """Give money back."""
            self.running.set()
            with trio.CancelScope() as scope:
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    scope.shield = True
                    self.made.append("taken back")
            return "the refund was taken back"

        return [refund]


async def test_what_a_tool_returns_when_it_is_stopped_is_kept_on_sqlite(
    rig: Rig, tmp_path: Path
) -> None:
    rig.plays(REFUND)
    store = sqlite(tmp_path / "chat.db")
    async with rig.open(store, kind=TakesBack) as (server, client):
        assert isinstance(server, TakesBack)
        turn = await send(client, "hi")
        question = await question_in(store, turn.thread_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, client, question, "Approve")
            await server.running.wait()
            [live] = list(server.live_turns)
            await client.stop(turn.thread_id)
            await live.ended.wait()
        [call] = await calls_in(store, turn.thread_id)

    assert rig.made == ["taken back"]
    assert (call.state, call.output) == ("done", "the refund was taken back")


async def test_what_a_tool_returned_is_kept_when_the_answer_fails(rig: Rig) -> None:
    """The model is away when the tool has run: the tool's result is in the next turn's input."""
    rig.plays(REFUND)
    rig.model.answers.append(FAILED)
    rig.plays(script.message("m", "It was done"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        failed_turn = await answer(
            client, await question_in(server.store, turn.thread_id), "Approve"
        )
        [call] = await calls_in(server.store, turn.thread_id)
        await send(client, "Well?", turn.thread_id)

    assert failed_turn.events[-1].type == "error"
    assert (call.state, call.output) == ("done", "refunded 30")
    assert rig.made == ["refund A1 30"]
    assert "It returned: refunded 30" in json.dumps(rig.last_input)


async def test_a_run_that_is_taken_up_again_repeats_no_call(rig: Rig) -> None:
    """A server may go on after a crash by calling `respond` again without a message."""
    rig.plays(REFUND)
    rig.model.answers.append(FAILED)
    rig.plays(script.message("m", "Done"))
    async with rig.open() as (server, client):
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        thread = await server.store.load_thread(turn.thread_id, None)
        async with trio.open_nursery() as nursery:
            server.options["nursery"] = nursery
            events = [event async for event in server.respond(thread, None, None)]

    assert rig.made == ["refund A1 30"]
    assert outputs(rig.last_input) == [("call_r", "refunded 30")]
    texts = [e.item.content[0].text for e in events if e.type == "thread.item.done"]
    assert texts == ["Done"]


class _Unwilling(MemoryStore[None]):
    """Takes no more notes about calls."""

    is_unwilling = False

    async def save_item(self, thread_id: str, item: ThreadItem, context: None) -> None:
        if self.is_unwilling and isinstance(item, SDKHiddenContextItem):
            raise StoreError("the disk is full")
        await super().save_item(thread_id, item, context)


async def test_a_tool_is_not_called_unless_that_can_be_stored_first(rig: Rig) -> None:
    rig.plays(REFUND)
    store = _Unwilling()
    async with rig.open(store) as (server, client):
        turn = await send(client, "hi")
        store.is_unwilling = True
        failed = await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        question = await question_in(server.store, turn.thread_id)

    assert failed.events[-1].type == "error"
    assert question.status == "answered"
    assert rig.made == []


class _Busy(Desk):
    """Goes on with a context whose events another run has begun to read."""

    busy: AgentContext[None] | None = None

    def agent_context(self, thread: ThreadMetadata, context: None) -> AgentContext[None]:
        return self.busy or super().agent_context(thread, context)

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        if input_user_message is None:
            self.busy = self.agent_context(thread, context)
            other = stream_response(self.busy, _silence())
            current_turn().nursery.start_soon(anext, other)
            await trio.testing.wait_all_tasks_blocked()
        async for event in super().respond(thread, input_user_message, context):
            yield event


async def _silence() -> AsyncIterator[Any]:
    await trio.sleep_forever()
    yield


async def test_a_run_that_is_refused_has_begun_no_approved_call(rig: Rig) -> None:
    rig.plays(REFUND)
    async with rig.open(kind=_Busy) as (server, client):
        turn = await send(client, "hi")
        failed = await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        [call] = await calls_in(server.store, turn.thread_id)

    assert failed.events[-1].type == "error"
    assert call.state == "asked"
    assert rig.made == []


async def test_an_approved_call_may_be_cut_at_any_point(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whatever has happened by then is told, and nothing happens twice."""
    seen = [await _cut_after(checkpoints) for checkpoints in range(0, 120, 2)]

    # Cut before it, in it, and behind it: the exploration has reached all of these.
    assert ("refused", 0) in seen
    assert ("done", 1) in seen
    assert set(seen) <= {("refused", 0), ("begun", 0), ("begun", 1), ("done", 1)}


def _asks_once(asked: Asked) -> list[Any]:
    if asked.results or asked.message != "hi":
        return [Say("Well")]
    return [Call("refund", {"order": "A1", "amount": 30})]


async def _cut_after(checkpoints: int) -> tuple[str, int]:
    """Stop the turn of an approval, send a message; return what became of the call."""
    desk = Desk(MemoryStore(), ScriptedClient(_asks_once), [])
    async with desk as server, ChatClient.of_server(server) as client:
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, client, question, "Approve")
            for _checkpoint in range(checkpoints):
                await trio.lowlevel.checkpoint()
            await client.stop(turn.thread_id)
        went_on = await send(client, "And?", turn.thread_id)
        note = await note_in(server.store, turn.thread_id)
        question = await question_in(server.store, turn.thread_id)

    assert went_on.text == "Well"
    assert question.status != "pending"
    assert note.approval is not None
    assert note.approval.state == ""
    [call] = note.approval.calls
    return call.state, len(desk.made)


# --- Killed ------------------------------------------------------------------------------------


@asynccontextmanager
async def child(path: Path, *arguments: str) -> AsyncIterator[tuple[trio.Process, list[str]]]:
    """Run a server in a process until it says so, then kill it."""
    command = [sys.executable, "-m", "tests.agents.approval_child", str(path), *arguments]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        )
        assert process.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            piece = await process.stdout.receive_some()
            assert piece, "the child has died"
            said += piece
        yield process, said.decode().split()
        process.send_signal(signal.SIGKILL)


async def test_kill_between_question_and_answer_loses_nothing(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with child(path) as (_process, [thread_id]):
        pass
    rig.plays(script.message("m", "Done"))
    async with rig.open(sqlite(path)) as (server, client):
        done = await answer(client, await question_in(server.store, thread_id), "Approve")

    assert done.text == "Done"
    assert rig.made == ["refund A1 30"]
    assert outputs(rig.last_input) == [("call_refund_0", "refunded 30")]


async def test_kill_in_an_approved_tool_doesnt_run_it_twice(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with child(path, "approve") as (_process, [thread_id]):
        pass
    rig.plays(script.message("m", "I can't say"))
    async with rig.open(sqlite(path)) as (server, client):
        [killed] = await calls_in(server.store, thread_id)
        await send_refused(client, await question_in(server.store, thread_id))
        done = await send(client, "What now?", thread_id)

    assert killed.state == "begun"
    assert done.text == "I can't say"
    assert rig.made == []
    assert "nobody knows whether it took effect" in json.dumps(rig.last_input)


# --- MCP ---------------------------------------------------------------------------------------


def mcp_request(request_id: str = "mcpr_1") -> list[Any]:
    item = {
        "type": "mcp_approval_request",
        "id": request_id,
        "name": "delete_page",
        "arguments": '{"page": "home"}',
        "server_label": "wiki",
    }
    return [script.item_added(item), script.item_done(item)]


MCP = {"type": "mcp", "server_label": "wiki", "server_url": "https://wiki.example/mcp"}


@pytest.mark.parametrize("is_approved", [True, False])
async def test_an_mcp_server_gets_the_users_decision(rig: Rig, is_approved: bool) -> None:
    called = {
        "type": "mcp_call",
        "id": "mcp_1",
        "name": "delete_page",
        "arguments": '{"page": "home"}',
        "server_label": "wiki",
        "approval_request_id": "mcpr_1",
        "output": "deleted",
    }
    rig.plays(mcp_request(), [script.item_done(called), *script.message("m", "Well")])
    async with rig.open(tools=[MCP]) as (server, client):
        turn = await send(client, "hi")
        question = await question_in(server.store, turn.thread_id)
        done = await answer(client, question, "Approve" if is_approved else "Refuse")
        note = await note_in(server.store, turn.thread_id)

    assert question.inputs[0].question == "May I do this: delete page (page: home)?"
    assert done.text == "Well"
    response = rig.last_input[-1]
    assert response["type"] == "mcp_approval_response"
    assert response["approval_request_id"] == "mcpr_1"
    assert response["approve"] is is_approved
    assert ("It returned: deleted" in note.content) is is_approved


async def test_of_a_call_in_an_answer_that_was_cut_nobody_knows(rig: Rig) -> None:
    rig.plays(mcp_request())
    cut = {"type": "response.incomplete", "sequence_number": 0}
    rig.model.answers.append(
        [*script.answer()[:1], cut | {"response": script.response([], "incomplete")}]
    )
    async with rig.open(tools=[MCP]) as (server, client):
        turn = await send(client, "hi")
        await answer(client, await question_in(server.store, turn.thread_id), "Approve")
        note = await note_in(server.store, turn.thread_id)

    assert note.approval is not None
    assert [call.state for call in note.approval.calls] == ["begun"]
    assert "nobody knows" in note.content


async def test_a_request_that_nobody_can_be_asked_is_logged(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.plays(mcp_request())
    async with await rig.client.responses.create(model="x", input="hi", stream=True) as stream:
        await collected(stream_response(await new_context(), stream))

    assert "use run_model()" in caplog.text


class Changed(Desk):
    """Has lost the tool that needed approval, and may ask for another one."""

    def tools(self) -> Any:
        @tool(needs_approval=True)
        async def other() -> str:
            return ""

        return [other]


async def test_a_tool_that_is_gone_when_it_is_approved_is_told_to_the_model(
    rig: Rig, tmp_path: Path
) -> None:
    rig.plays(REFUND, script.message("m", "I can't any more"))
    path = tmp_path / "chat.db"
    async with rig.open(sqlite(path)) as (_server, client):
        turn = await send(client, "hi")
    async with rig.open(sqlite(path), kind=Changed) as (server, client):
        done = await answer(client, await question_in(server.store, turn.thread_id), "Approve")

    assert done.text == "I can't any more"
    assert outputs(rig.last_input) == [("call_r", "There is no tool refund.")]
