"""A model on trio alone: the OpenAI client, a server on loopback, tools that are trio functions."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import trio
from pydantic import BaseModel, Field

from chatkit_trio.agents import (
    AgentContext,
    ClientToolCall,
    ModelError,
    accumulate_text,
    run_model,
    stream_response,
    tool,
)
from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import ChatKitServer, current_turn
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent, UserMessageItem
from chatkit_trio.widgets import Markdown

from . import script
from .responses_server import ResponsesServer, serving
from .threads import collected, new_context


@pytest.fixture(params=["chatkit_trio", "chatkit"])
def package(request: pytest.FixtureRequest) -> Any:
    """Return a package with the modules `types` and `errors`: ours, or the original."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        names = ("types", "errors")
        return SimpleNamespace(
            **{name: pytest.importorskip(f"{request.param}.{name}") for name in names}
        )


class Rig:
    """A server, its client, a context and a nursery."""

    def __init__(self, server: ResponsesServer, client: Any, context: Any, nursery: Any) -> None:
        self.server = server
        self.client = client
        self.context: AgentContext[None] = context
        self.nursery: trio.Nursery = nursery

    def run(self, *answers: list[Any], **options: Any) -> Any:
        self.server.answers = list(answers)
        return run_model(
            self.context,
            self.client,
            model="scripted",
            nursery=self.nursery,
            **({"input": "hi"} | options),
        )


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    server = ResponsesServer()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(serving(server))
        nursery = await stack.enter_async_context(trio.open_nursery())
        yield Rig(server, client, await new_context(), nursery)


def texts(events: list[Any]) -> list[str]:
    return [e.text if e.type == "progress_update" else e.type for e in events]


def outputs(request: dict[str, Any]) -> list[str]:
    return [
        item["output"] for item in request["input"] if item.get("type") == "function_call_output"
    ]


async def hang() -> None:
    await trio.sleep_forever()


# --- Answers -----------------------------------------------------------------------------------


async def test_answer_streams_from_the_client(rig: Rig) -> None:
    events = await collected(rig.run(script.answer(*script.message("m", "Hel", "lo"))))

    assert events[-1].item.content[0].text == "Hello"
    assert rig.server.requests[0]["input"] == [{"type": "message", "role": "user", "content": "hi"}]


async def test_last_response_is_there_at_the_end(rig: Rig) -> None:
    run = rig.run(script.answer(*script.message("m", "Hi")))
    await collected(run)

    assert run.last_response.id == "resp_1"


async def test_stream_of_the_callers_becomes_thread_events(rig: Rig) -> None:
    rig.server.answers = [script.answer(*script.message("m", "Hi"))]
    await rig.context.stream_progress("one moment")

    async with await rig.client.responses.create(model="x", input="hi", stream=True) as stream:
        events = await collected(stream_response(rig.context, stream))

    assert texts(events)[0] == "one moment"
    assert events[-1].item.content[0].text == "Hi"


async def test_failed_answer_is_an_error(rig: Rig) -> None:
    failed = script.response([], "failed") | {
        "error": {"code": "server_error", "message": "overloaded"}
    }
    event = {"type": "response.failed", "sequence_number": 0, "response": failed}

    with pytest.raises(ModelError, match="overloaded"):
        await collected(rig.run([event]))


async def test_the_clients_own_error_is_told_and_not_that_the_stream_broke_off() -> None:
    class Timeout(Exception):
        pass

    async def events() -> AsyncIterator[Any]:
        for event in script.parsed(script.answer()[:1]):
            yield event
        raise Timeout

    with pytest.raises(Timeout):
        await collected(stream_response(await new_context(), events()))


BROKEN = {
    "failed": [
        *script.answer(*script.message("m", "Half"))[:-1],
        {
            "type": "response.failed",
            "sequence_number": 0,
            "response": script.response([], "failed")
            | {"error": {"code": "server_error", "message": "overloaded"}},
        },
    ],
    "error": [
        *script.answer()[:1],
        {
            "type": "error",
            "sequence_number": 0,
            "code": "x",
            "message": "overloaded",
            "param": None,
        },
    ],
    "broke off": script.answer(*script.message("m", "Half"))[:-1],
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_text_widget_of_an_answer_that_failed_fails(how: str) -> None:
    async def events() -> AsyncIterator[Any]:
        for event in script.parsed(BROKEN[how]):
            yield event

    with pytest.raises(ModelError, match=r"overloaded|broke off"):
        await collected(accumulate_text(events(), Markdown(value="", id="m", streaming=True)))


async def test_without_a_turn_a_nursery_is_asked_for(rig: Rig) -> None:
    await trio.lowlevel.checkpoint()
    with pytest.raises(RuntimeError, match="pass nursery="):
        run_model(rig.context, rig.client, input="hi", model="scripted")


# --- Tools -------------------------------------------------------------------------------------


class Weather(BaseModel):
    city: str
    degrees: int


@tool
async def weather(
    context: AgentContext[None], city: Annotated[str, Field(description="Where?")], days: int = 1
) -> Weather:
    """Look up the weather."""
    await context.stream_progress(f"weather of {city}")
    return Weather(city=city, degrees=20 + days)


def test_tools_schema_comes_from_its_signature() -> None:
    assert (weather.name, weather.description) == ("weather", "Look up the weather.")
    assert weather.parameters["properties"] == {
        "city": {"type": "string", "title": "City", "description": "Where?"},
        "days": {"type": "integer", "title": "Days", "default": 1},
    }
    assert weather.parameters["required"] == ["city"]
    assert weather.parameters["additionalProperties"] is False


async def test_a_parameter_may_have_any_name(rig: Rig) -> None:
    """Also one that a class of pydantic's has, or doesn't allow."""

    @tool
    async def add(
        model_config: int, copy: int, json: int, _secret: int, class_name: int = 5
    ) -> int:
        await trio.lowlevel.checkpoint()
        return model_config + copy + json + _secret + class_name

    given = '{"model_config": 1, "copy": 2, "json": 3, "_secret": 4}'
    await collected(
        rig.run(script.answer(*script.call("add", given)), script.answer(), tools=[add])
    )

    assert outputs(rig.server.requests[1]) == ["15"]
    assert add.parameters["required"] == ["model_config", "copy", "json", "_secret"]


async def test_an_alias_of_the_tools_own_is_what_a_model_gives(rig: Rig) -> None:
    @tool
    async def book(start: Annotated[str, Field(alias="from")]) -> str:
        await trio.lowlevel.checkpoint()
        return start

    given = '{"from": "Bern"}'
    await collected(
        rig.run(script.answer(*script.call("book", given)), script.answer(), tools=[book])
    )

    assert outputs(rig.server.requests[1]) == ["Bern"]
    assert book.parameters["required"] == ["from"]


@pytest.mark.parametrize(
    "hint", [Annotated[AgentContext[None], "the turn"], AgentContext[None] | None], ids=str
)
async def test_a_context_is_one_however_it_is_annotated(rig: Rig, hint: Any) -> None:
    async def shows(context: Any = None) -> str:
        """Show something."""
        await context.stream_progress("shown")
        return "ok"

    shows.__annotations__["context"] = hint
    made = tool(shows)

    assert made.parameters["properties"] == {}
    assert await made.answer(rig.context, "{}") == "ok"


def test_a_parameter_that_a_model_cannot_name_is_refused() -> None:
    async def positional(city: str, /) -> str: ...
    async def several(*cities: str) -> str: ...
    async def named(**cities: str) -> str: ...

    for function, told in ((positional, "city"), (several, r"\*cities"), (named, r"\*\*cities")):
        with pytest.raises(TypeError, match=f"can't have the parameter {told}"):
            tool(function)


async def test_tool_runs_and_the_model_gets_its_result(rig: Rig) -> None:
    run = rig.run(
        script.answer(*script.call("weather", '{"city": "Bern"}')),
        script.answer(*script.message("m", "Warm")),
        tools=[weather],
    )

    events = await collected(run)

    assert texts(events)[:2] == ["weather of Bern", "thread.item.added"]
    second = rig.server.requests[1]["input"]
    assert [item["type"] for item in second] == [
        "message",
        "function_call",
        "function_call_output",
    ]
    assert json.loads(outputs(rig.server.requests[1])[0]) == {"city": "Bern", "degrees": 21}


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}], ids=["id", "dict"])
async def test_a_conversation_gets_each_item_once(rig: Rig, conversation: Any) -> None:
    @tool
    async def look() -> str:
        await trio.lowlevel.checkpoint()
        return "found"

    answers = [script.answer(*script.call("look")) for _round in range(2)]
    run = rig.run(
        *answers,
        script.answer(*script.message("m", "Well")),
        tools=[look],
        conversation=conversation,
    )
    await collected(run)

    result = {"type": "function_call_output", "call_id": "call_1", "output": "found"}
    first, *others = [request["input"] for request in rig.server.requests]
    assert first == [{"type": "message", "role": "user", "content": "hi"}]
    assert others == [[result], [result]]


async def test_tools_asked_for_at_once_run_at_once_and_answer_in_order(
    rig: Rig,
) -> None:
    met = [trio.Event(), trio.Event()]

    @tool
    async def meet(me: int) -> int:
        """Wait for the other one."""
        met[me].set()
        await met[1 - me].wait()
        return me

    run = rig.run(
        script.answer(
            *script.call("meet", '{"me": 1}', "call_a"), *script.call("meet", '{"me": 0}', "call_b")
        ),
        script.answer(*script.message("m", "Hi")),
        tools=[meet],
    )

    with trio.fail_after(5):
        await collected(run)

    assert outputs(rig.server.requests[1]) == ["1", "0"]


async def test_wrong_arguments_are_told_to_the_model(rig: Rig) -> None:
    run = rig.run(
        script.answer(*script.call("weather", '{"city": 5}')), script.answer(), tools=[weather]
    )
    await collected(run)

    [told] = outputs(rig.server.requests[1])
    assert "valid string" in told


async def test_error_of_a_tool_is_logged_and_not_told(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    async def fails() -> None:
        """Fail."""
        await trio.lowlevel.checkpoint()
        raise ValueError("a secret")

    await collected(rig.run(script.answer(*script.call("fails")), script.answer(), tools=[fails]))

    assert "a secret" not in outputs(rig.server.requests[1])[0]
    assert "a secret" in caplog.text


async def test_what_a_tool_fails_to_validate_is_no_fault_of_its_arguments(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    class Reading(BaseModel):
        temperature: float

    @tool
    async def measured(city: str) -> str:
        """Read a thermometer, which is out of order."""
        await trio.lowlevel.checkpoint()
        return Reading.model_validate({"temperature": None}).model_dump_json()

    call = script.answer(*script.call("measured", '{"city": "Bern"}'))
    await collected(rig.run(call, script.answer(), tools=[measured]))

    [told] = outputs(rig.server.requests[1])
    assert told == "The tool failed. Do without it, or tell the user."
    assert "tool measured failed" in caplog.text


async def test_stream_error_of_a_tool_ends_the_answer_as_itself(rig: Rig, package: Any) -> None:
    @tool
    async def fails() -> None:
        """Fail."""
        await trio.lowlevel.checkpoint()
        raise package.errors.CustomStreamError("Out of stock")

    with pytest.raises(CustomStreamError, match="Out of stock"):
        await collected(rig.run(script.answer(*script.call("fails")), tools=[fails]))


async def test_of_two_tools_that_fail_at_once_the_log_has_both(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    async def both_have_begun() -> None:
        await trio.testing.wait_all_tasks_blocked()

    @tool
    async def sells() -> None:
        """Fail."""
        try:
            await trio.sleep_forever()
        finally:
            raise CustomStreamError("Out of stock")

    @tool
    async def delivers() -> None:
        """Fail."""
        await both_have_begun()
        raise CustomStreamError("No van")

    calls = [*script.call("sells"), *script.call("delivers", call_id="call_2")]
    with pytest.raises(CustomStreamError):
        await collected(rig.run(script.answer(*calls), tools=[sells, delivers]))
    assert "Out of stock" in caplog.text
    assert "No van" in caplog.text


async def test_a_task_that_a_tool_shows_ends_the_workflow_before_it(rig: Rig, package: Any) -> None:
    types = package.types

    @tool
    async def shows(context: AgentContext[None]) -> None:
        """Show a task."""
        fields = {"id": "task", "thread_id": "thr_1", "created_at": datetime.now(UTC)}
        item = types.TaskItem(task=types.CustomTask(title="shown"), **fields)
        await context.stream(types.ThreadItemDoneEvent(item=item))

    thought_and_call = [*script.reasoning("rs_1", ("Hm",)), *script.call("shows")]
    events = await collected(
        rig.run(script.answer(*thought_and_call), script.answer(), tools=[shows])
    )

    done = [event.item.type for event in events if event.type == "thread.item.done"]
    assert done == ["workflow", "task"]


async def test_unknown_tool_is_told_to_the_model(rig: Rig) -> None:
    await collected(rig.run(script.answer(*script.call("nope")), script.answer(), tools=[weather]))

    assert outputs(rig.server.requests[1]) == ["There is no tool nope."]


async def test_model_that_never_stops_calling_is_stopped(rig: Rig) -> None:
    calls = script.answer(*script.call("weather", '{"city": "Bern"}'))

    with pytest.raises(ModelError, match="asked 2 times"):
        await collected(rig.run(calls, calls, tools=[weather], max_rounds=2))


def _call(type: str, **fields: Any) -> dict[str, Any]:
    return {"type": type, "id": "x_1", "call_id": "call_x", "status": "completed"} | fields


_CALLS_FOR_OTHERS = {
    "custom_tool_call": _call("custom_tool_call", name="sql", input="SELECT 1"),
    "local_shell_call": _call(
        "local_shell_call", action={"type": "exec", "command": ["ls"], "env": {}}
    ),
    "shell_call": _call("shell_call", action={"commands": ["ls"]}),
    "apply_patch_call": _call(
        "apply_patch_call", operation={"type": "delete_file", "path": "notes.txt"}
    ),
    "computer_call": _call(
        "computer_call", action={"type": "screenshot"}, pending_safety_checks=[]
    ),
}


@pytest.mark.parametrize("kind", _CALLS_FOR_OTHERS)
async def test_a_call_that_is_no_function_is_an_error_and_nothing_runs(rig: Rig, kind: str) -> None:
    """The model waits for its result, and would refuse to go on without it."""
    ran = []

    @tool
    async def look_up() -> str:
        ran.append("look_up")
        return "found"

    other = script.at_once(_CALLS_FOR_OTHERS[kind])
    answer = script.answer(*script.message("m", "Let me see"), *script.call("look_up"), *other)

    with pytest.raises(ModelError, match=f"run_model.. runs functions only.*{kind}"):
        await collected(rig.run(answer, tools=[look_up]))

    assert (ran, len(rig.server.requests)) == ([], 1)


async def test_a_shell_that_the_provider_runs_ends_no_answer(rig: Rig) -> None:
    """Its call and its output come together: nothing waits, and the next turn may follow it."""
    output = {
        "type": "shell_call_output",
        "id": "x_2",
        "call_id": "call_x",
        "max_output_length": None,
        "output": [],
        "status": "completed",
    }
    told = [*script.at_once(_CALLS_FOR_OTHERS["shell_call"]), *script.at_once(output)]
    run = rig.run(script.answer(*told, *script.message("m", "Two files")))

    events = await collected(run)

    assert events[-1].item.content[0].text == "Two files"
    assert run.previous_response_id == "resp_1"


async def test_client_tool_call_ends_the_loop(rig: Rig) -> None:
    @tool
    async def pick(context: AgentContext[None]) -> None:
        """Let the page pick."""
        await trio.lowlevel.checkpoint()
        context.client_tool_call = ClientToolCall(name="pick", arguments={})

    events = await collected(
        rig.run(script.answer(*script.call("pick", call_id="call_7")), tools=[pick])
    )

    assert events[-1].item.call_id == "call_7"
    assert len(rig.server.requests) == 1


# --- Cancellation ------------------------------------------------------------------------------


def unfinished() -> list[Any]:
    return [*script.answer(*script.message("m", "Hel"))[:4], hang]


async def test_cancelled_read_closes_the_models_connection(rig: Rig) -> None:
    run = rig.run(unfinished())
    with trio.move_on_after(5) as scope:
        async for event in run:
            if getattr(getattr(event, "update", None), "delta", None) == "Hel":
                scope.cancel()

    with trio.fail_after(20):
        await rig.server.disconnected.wait()


async def test_dropped_run_closes_the_models_connection(rig: Rig) -> None:
    async def reads_one() -> None:
        async for _event in rig.run(unfinished()):
            return

    await reads_one()
    gc.collect()

    with trio.fail_after(20):
        await rig.server.disconnected.wait()


async def test_closed_run_cancels_its_tools(rig: Rig) -> None:
    ended = trio.Event()

    @tool
    async def waits(context: AgentContext[None]) -> None:
        """Wait."""
        await context.stream_progress("waiting")
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    run = rig.run(script.answer(*script.call("waits")), tools=[waits])
    await anext(run)

    await run.aclose()

    assert ended.is_set()


async def test_fast_model_waits_for_a_slow_reader(rig: Rig) -> None:
    """6.4: nothing bounded what a fast model and a slow client pile up."""
    run = rig.run(script.answer(*script.message("m", *["x" * 1000] * 3000)))
    await anext(run)
    await trio.sleep(0.3)

    assert len(rig.context._queue) <= 256
    assert len(await collected(run)) == 3003


class Assistant(ChatKitServer[None]):
    """Answers by a model on trio."""

    def __init__(self, store: MemoryStore[None], client: Any) -> None:
        super().__init__(store)
        self.client = client

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        async for event in run_model(agent_context, self.client, model="scripted", input="hi"):
            yield event
            if getattr(getattr(event, "update", None), "delta", None) == "Hel":
                current_turn().cancel()


async def test_stopped_turn_closes_the_connection_and_keeps_the_partial_answer(rig: Rig) -> None:
    rig.server.answers = [unfinished()]
    store: MemoryStore[None] = MemoryStore()
    body = (
        '{"type":"threads.create","params":{"input":{"content":[{"type":"input_text","text":"hi"}],'
        '"attachments":[],"inference_options":{}}}}'
    )
    async with Assistant(store, rig.client) as server:
        async with await server.process(body, None) as frames:  # type: ignore[union-attr]
            _ = [frame async for frame in frames]
        with trio.fail_after(20):
            await rig.server.disconnected.wait()
        [thread] = (await store.load_threads(5, None, "desc", None)).data
        items = (await store.load_thread_items(thread.id, None, 5, "asc", None)).data

    assert [item.type for item in items] == [
        "user_message",
        "assistant_message",
        "sdk_hidden_context",
    ]
    assert items[1].content[0].text == "Hel"  # type: ignore[union-attr]
