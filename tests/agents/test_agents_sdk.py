"""Runs of the Agents SDK read from trio: the real SDK, a scripted model."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from agents import (
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    RunContextWrapper,
    StopAtTools,
    function_tool,
)
from agents import Runner as SDKRunner

from chatkit_trio.agents import (
    AgentContext,
    ClientToolCall,
    Runner,
    accumulate_text,
    run_on_asyncio,
    run_on_trio,
    simple_to_agent_input,
    stream_agent_response,
)
from chatkit_trio.server import ChatKitServer, current_turn
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.types import (
    CustomTask,
    ThreadItemDoneEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    Workflow,
)
from chatkit_trio.widgets import DynamicWidgetRoot, Markdown

from . import script
from .models import RUN_CONFIG, ScriptedModel, agent
from .threads import collected, new_context

Context = RunContextWrapper[AgentContext[Any]]


MARKDOWN = Markdown(value="")


def streamed(context: AgentContext[Any], model: ScriptedModel, **options: Any) -> Any:
    run = Runner.run_streamed(agent(model, **options), "hi", context=context, run_config=RUN_CONFIG)
    return stream_agent_response(context, run)


def card(value: str) -> DynamicWidgetRoot:
    text = {"type": "Text", "id": "t", "value": value}
    return DynamicWidgetRoot.model_validate({"type": "Card", "children": [text]})


def titles(events: list[Any]) -> list[str]:
    """Name the events shortly."""
    return [
        getattr(event, "text", None)
        or (event.update.type if event.type == "thread.item.updated" else event.type)
        for event in events
    ]


async def other_tasks() -> int:
    """Return how many tasks the asyncio thread runs, but for its own and the one asking."""

    async def count() -> int:
        await asyncio.sleep(0)
        return len(asyncio.all_tasks()) - 2

    return await run_on_asyncio(count)


# --- The samples' way --------------------------------------------------------------------------


class Sample(ChatKitServer[None]):
    """A server as in the samples; `after` is called with each event."""

    def __init__(self, model: ScriptedModel, after: Any = None, **options: Any) -> None:
        super().__init__(MemoryStore())
        self.agent = agent(model, **options)
        self.after = after

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        assert input_user_message is not None
        agent_input = await simple_to_agent_input(input_user_message)
        result = Runner.run_streamed(
            self.agent, agent_input, context=agent_context, run_config=RUN_CONFIG
        )
        async for event in stream_agent_response(agent_context, result):
            yield event
            if self.after is not None:
                self.after(event)
        thread.title = result.final_output


async def played(server: Sample) -> tuple[list[str], ThreadMetadata, list[Any]]:
    """Run one turn; return the types of its events, the thread, and its items."""
    body = (
        '{"type":"threads.create","params":{"input":{"content":[{"type":"input_text","text":"hi"}],'
        '"attachments":[],"inference_options":{}}}}'
    )
    async with server:
        async with await server.process(body, None) as frames:  # type: ignore[union-attr]
            sent = [json.loads(frame[6:]) async for frame in frames]
        [thread] = (await server.store.load_threads(5, None, "desc", None)).data
        items = (await server.store.load_thread_items(thread.id, None, 9, "asc", None)).data
    return [event["type"] for event in sent], thread, items


def stop(event: Any) -> None:
    current_turn().cancel()


async def test_sample_runs_but_for_the_import() -> None:
    model = ScriptedModel(script.answer(*script.message("m", "Hel", "lo")))

    _sent, thread, items = await played(Sample(model))

    assert thread.title == "Hello"
    assert [item.type for item in items] == ["user_message", "assistant_message"]


async def test_guardrail_leaves_nothing_in_the_thread() -> None:
    model = ScriptedModel(
        script.answer(*script.call("look", '{"what": "x"}')),
        script.answer(*script.message("m", "Bad")),
    )
    guardrail = OutputGuardrail(guardrail_function=tripping())

    sent, _thread, items = await played(Sample(model, tools=[look], output_guardrails=[guardrail]))

    assert sent[-4:] == [*["thread.item.removed"] * 3, "error"]
    assert [item.type for item in items] == ["user_message"]


async def test_stopped_turn_keeps_the_workflow_in_progress() -> None:
    """6.1: the workflow was only stored at the end of the run."""
    model = ScriptedModel(script.answer(*script.reasoning("r", ("Hm",))), [hang])

    def stop_after_the_thought(event: Any) -> None:
        if event.type == "thread.item.updated":
            current_turn().cancel()

    _sent, _thread, items = await played(Sample(model, stop_after_the_thought))

    assert [item.type for item in items] == ["user_message", "workflow", "sdk_hidden_context"]
    assert items[1].workflow.tasks[0].content == "Hm"


async def test_stream_dropped_at_a_yield_by_the_engine_cancels_the_model() -> None:
    """The engine may cancel a turn at a `yield`, past which our iterator is never closed."""
    model = hanging_model()

    await played(Sample(model, stop))

    with trio.fail_after(5):
        await model.cancelled.wait()


async def test_result_has_the_sdks_attributes_when_it_has_been_read() -> None:
    context = await new_context()
    model = ScriptedModel(script.answer(*script.message("m", "Hi")))
    run = Runner.run_streamed(agent(model), "hi", context=context, run_config=RUN_CONFIG)

    with pytest.raises(AttributeError, match="once it has been read"):
        _ = run.final_output
    await collected(stream_agent_response(context, run))

    assert (run.final_output, run.last_response_id) == ("Hi", "resp_1")


async def test_run_without_a_stream_returns_the_sdks_result() -> None:
    class Answers(ScriptedModel):
        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            from agents import ModelResponse, Usage
            from openai.types.responses import ResponseOutputMessage

            item = ResponseOutputMessage.model_validate(
                script.message_item("m", script.text_part("A title"))
            )
            return ModelResponse(output=[item], usage=Usage(), response_id=None)

    result = await Runner.run(agent(Answers()), "hi", run_config=RUN_CONFIG)

    assert result.final_output == "A title"


async def test_run_of_the_sdks_own_runner_is_refused_with_the_way_out() -> None:
    model = ScriptedModel([])

    async def start() -> Any:
        await asyncio.sleep(0)
        return SDKRunner.run_streamed(agent(model), "hi", run_config=RUN_CONFIG)

    result = await run_on_asyncio(start)

    with pytest.raises(TypeError, match="import Runner from there"):
        stream_agent_response(await new_context(), result)


async def test_run_can_be_read_once() -> None:
    await trio.lowlevel.checkpoint()
    run = Runner.run_streamed(agent(ScriptedModel([])), "hi", run_config=RUN_CONFIG)
    run.stream_events()

    with pytest.raises(RuntimeError, match="read once"):
        run.stream_events()


async def test_context_is_read_by_one_stream_at_a_time() -> None:
    context = await new_context()
    first = streamed(context, ScriptedModel(script.answer(*script.message("m", "Hi"))))
    await anext(first)

    with pytest.raises(RuntimeError, match="a context of its own"):
        await anext(streamed(context, ScriptedModel([])))

    assert titles(await collected(first))[-1] == "thread.item.done"


async def test_context_serves_one_run_after_the_other() -> None:
    context = await new_context()

    for _ in range(2):
        events = await collected(
            streamed(context, ScriptedModel(script.answer(*script.message("m", "Hi"))))
        )
        assert titles(events)[-1] == "thread.item.done"


# --- Tools -------------------------------------------------------------------------------------


@function_tool
async def look(ctx: Context, what: str) -> str:
    """Look for something."""
    await ctx.context.stream_progress(f"looking for {what}")
    await ctx.context.stream_widget(card(what))
    await ctx.context.add_workflow_task(CustomTask(title=what))
    return "found"


async def test_tools_events_come_between_those_of_the_model() -> None:
    model = ScriptedModel(
        script.answer(*script.call("look", '{"what": "a cat"}')),
        script.answer(*script.message("m", "Here")),
    )

    events = await collected(streamed(await new_context(), model, tools=[look]))

    assert titles(events) == [
        "looking for a cat",
        "thread.item.done",
        "thread.item.added",
        "thread.item.done",
        "thread.item.added",
        "assistant_message.content_part.added",
        "assistant_message.content_part.text_delta",
        "assistant_message.content_part.done",
        "thread.item.done",
    ]


async def test_widget_of_a_tool_streams_from_an_asyncio_generator() -> None:
    async def growing() -> AsyncIterator[DynamicWidgetRoot]:
        for value in ("a", "ab", "abc"):
            await asyncio.sleep(0)
            yield card(value)

    @function_tool
    async def show(ctx: Context) -> str:
        """Show it."""
        await ctx.context.stream_widget(growing())
        return "shown"

    model = ScriptedModel(script.answer(*script.call("show")), script.answer())

    events = await collected(streamed(await new_context(), model, tools=[show]))

    assert titles(events)[:4] == [
        "thread.item.added",
        "widget.streaming_text.value_delta",
        "widget.streaming_text.value_delta",
        "thread.item.done",
    ]


async def test_tool_reaches_the_store_by_way_of_trio() -> None:
    @function_tool
    async def count(ctx: Context) -> str:
        """Count the thread's items."""
        context = ctx.context
        page = await run_on_trio(
            context.store.load_thread_items, context.thread.id, None, 9, "asc", None
        )
        return str(len(page.data))

    model = ScriptedModel(script.answer(*script.call("count")), script.answer())
    await collected(streamed(await new_context(), model, tools=[count]))

    [output] = [item for item in model.inputs[1] if item.get("type") == "function_call_output"]
    assert output["output"] == "0"


async def test_a_cancellation_of_asyncio_that_is_raised_on_trio_costs_its_tool_only() -> None:
    """Trio's own tasks may not raise what is no Exception: the process would end."""

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise asyncio.CancelledError

    async def ask() -> str:
        try:
            await run_on_trio(fail)
        except asyncio.CancelledError:
            return "cancelled"
        return "nothing"

    assert await run_on_asyncio(ask) == "cancelled"
    assert await run_on_asyncio(asyncio.sleep, 0, "goes on") == "goes on"


async def test_error_on_trio_reaches_the_tool_as_itself() -> None:
    seen: list[BaseException] = []

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("missing")

    @function_tool
    async def tries(ctx: Context) -> str:
        """Try."""
        try:
            await run_on_trio(fail)
        except KeyError as error:
            seen.append(error)
        return "ok"

    model = ScriptedModel(script.answer(*script.call("tries")), script.answer())
    await collected(streamed(await new_context(), model, tools=[tries]))

    assert [error.args for error in seen] == [("missing",)]


async def test_context_variables_cross_both_ways() -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    async def on_trio() -> None:
        await trio.lowlevel.checkpoint()
        seen.append(f"trio {tenant.get()}")

    @function_tool
    async def who(ctx: Context) -> str:
        """Say who."""
        seen.append(f"asyncio {tenant.get()}")
        await run_on_trio(on_trio)
        return "ok"

    tenant.set("acme")
    model = ScriptedModel(script.answer(*script.call("who")), script.answer())
    await collected(streamed(await new_context(), model, tools=[who]))

    assert seen == ["asyncio acme", "trio acme"]


async def test_client_tool_call_ends_the_stream() -> None:
    @function_tool
    async def pick(ctx: Context) -> str:
        """Let the page pick."""
        await asyncio.sleep(0)
        ctx.context.client_tool_call = ClientToolCall(name="pick", arguments={"n": 1})
        return ""

    model = ScriptedModel(script.answer(*script.call("pick", call_id="call_7")))
    events = await collected(
        streamed(
            await new_context(),
            model,
            tools=[pick],
            tool_use_behavior=StopAtTools(stop_at_tool_names=["pick"]),
        )
    )

    [event] = events
    assert (event.item.type, event.item.call_id, event.item.name) == (
        "client_tool_call",
        "call_7",
        "pick",
    )


async def test_workflows_a_tool_runs_one_after_the_other_each_end_once() -> None:
    """6.x: the end of the first was taken for an item that ends the second."""

    @function_tool
    async def work(ctx: Context) -> str:
        """Work."""
        for name in ("one", "two"):
            await ctx.context.start_workflow(Workflow(type="custom", tasks=[]))
            await ctx.context.add_workflow_task(CustomTask(title=name))
            await ctx.context.update_workflow_task(CustomTask(title=name.upper()), 0)
            await ctx.context.end_workflow(expanded=True)
        return "ok"

    model = ScriptedModel(script.answer(*script.call("work")), script.answer())
    events = await collected(streamed(await new_context(), model, tools=[work]))

    ended = [event.item.workflow for event in events if event.type == "thread.item.done"]
    assert [(w.tasks[0].title, w.expanded) for w in ended] == [("ONE", True), ("TWO", True)]


async def test_nested_run_in_a_tool_is_the_sdks() -> None:
    inner = ScriptedModel(script.answer(*script.message("m", "wo", "rd")))

    @function_tool
    async def sub(ctx: Context) -> str:
        """Ask another agent and show its words as they come."""
        run = Runner.run_streamed(agent(inner), "x", run_config=RUN_CONFIG)
        texts = [w.value async for w in accumulate_text(run.stream_events(), MARKDOWN)]
        return "|".join(texts)

    model = ScriptedModel(script.answer(*script.call("sub")), script.answer())
    await collected(streamed(await new_context(), model, tools=[sub]))

    [output] = [item for item in model.inputs[1] if item.get("type") == "function_call_output"]
    assert output["output"] == "|wo|word|word"


# --- Errors and guardrails ---------------------------------------------------------------------


async def test_model_error_arrives_as_itself_behind_what_came_before() -> None:
    is_read = trio.Event()

    async def fail() -> None:
        # The SDK drops what it hasn't handed over when an error comes.
        await run_on_trio(is_read.wait)
        raise ValueError("no such model")

    model = ScriptedModel([*script.answer(*script.message("m", "Hi"))[:4], fail])
    stream = streamed(await new_context(), model)
    seen = [await anext(stream) for _ in range(3)]
    is_read.set()

    with pytest.raises(ValueError, match="no such model"):
        await anext(stream)

    assert titles(seen)[-1] == "assistant_message.content_part.text_delta"
    assert await other_tasks() == 0


async def test_too_many_turns_is_the_sdks_error() -> None:
    model = ScriptedModel(*(script.answer(*script.call("look", '{"what": "x"}')),) * 3)
    context = await new_context()
    run = Runner.run_streamed(
        agent(model, tools=[look]), "hi", context=context, max_turns=2, run_config=RUN_CONFIG
    )

    with pytest.raises(MaxTurnsExceeded):
        await collected(stream_agent_response(context, run))


def tripping(*, delay: float = 0.0) -> Any:
    async def check(*args: Any) -> GuardrailFunctionOutput:
        await asyncio.sleep(delay)
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    return check


async def test_tripwire_takes_back_what_was_produced_in_its_order() -> None:
    """6.1: items were removed in the order of a set."""
    model = ScriptedModel(
        script.answer(*script.reasoning("r", ("Hm",)), *script.call("look", '{"what": "x"}')),
        script.answer(*script.image("i", result="x"), *script.message("m", "Bad")),
    )
    stream = streamed(
        await new_context(),
        model,
        tools=[look],
        output_guardrails=[OutputGuardrail(guardrail_function=tripping())],
    )
    events: list[Any] = []

    async def read() -> None:
        async for event in stream:
            events.append(event)  # noqa: PERF401

    with pytest.raises(OutputGuardrailTripwireTriggered):
        await read()

    produced = [event.item.id for event in events if event.type == "thread.item.added"]
    produced += [event.item.id for event in events if event.type == "thread.item.done"]
    removed = [event.item_id for event in events if event.type == "thread.item.removed"]
    order = list(dict.fromkeys(e.item.id for e in events if hasattr(e, "item")))
    assert removed == order
    assert set(removed) == set(produced)
    assert len(removed) == 5


async def test_input_tripwire_arrives_as_itself() -> None:
    model = ScriptedModel(script.answer(*script.message("m", "Hi")))
    stream = streamed(
        await new_context(),
        model,
        input_guardrails=[InputGuardrail(guardrail_function=tripping(delay=0.01))],
    )

    with pytest.raises(InputGuardrailTripwireTriggered):
        await collected(stream)

    assert await other_tasks() == 0


# --- Cancellation ------------------------------------------------------------------------------


async def hang() -> None:
    await asyncio.sleep(3600)


def hanging_model() -> ScriptedModel:
    return ScriptedModel([*script.answer(*script.message("m", "Hel"))[:4], hang])


async def test_cancelled_read_cancels_the_model_and_leaves_no_task() -> None:
    model = hanging_model()
    stream = streamed(await new_context(), model)
    with trio.move_on_after(5) as scope:
        async for event in stream:
            if getattr(getattr(event, "update", None), "delta", None) == "Hel":
                scope.cancel()

    assert model.cancelled.is_set()
    assert await other_tasks() == 0


async def test_closed_stream_cancels_the_model() -> None:
    model = hanging_model()
    stream = streamed(await new_context(), model)
    await anext(stream)

    await stream.aclose()

    assert model.cancelled.is_set()
    assert await other_tasks() == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_dropped_stream_cancels_the_model() -> None:
    model = hanging_model()

    async def reads_one() -> None:
        async for _event in streamed(await new_context(), model):
            return

    await reads_one()
    gc.collect()

    with trio.fail_after(5):
        await model.cancelled.wait()


async def test_tool_that_ignores_cancellation_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chatkit_trio.agents._reading.CLOSE_TIMEOUT", 0.05)
    begun, release = trio.Event(), trio.Event()

    async def wait_for_release() -> None:
        begun.set()
        await release.wait()

    @function_tool
    async def stubborn(ctx: Context) -> str:
        """Go on whatever happens."""
        await ctx.context.stream_progress("working")
        wait = asyncio.ensure_future(run_on_trio(wait_for_release))
        while not wait.done():
            try:
                await asyncio.shield(wait)
            except asyncio.CancelledError:  # noqa: ASYNC103  (that's the point)
                if wait.cancelled():
                    raise
        return "never mind"

    model = ScriptedModel(script.answer(*script.call("stubborn")))
    stream = streamed(await new_context(), model, tools=[stubborn])
    await anext(stream)
    await begun.wait()

    with trio.fail_after(20):
        await stream.aclose()

    release.set()


async def test_cancel_while_a_tool_waits_on_trio_ends_that_wait() -> None:
    begun, ended = trio.Event(), trio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    @function_tool
    async def waits(ctx: Context) -> str:
        """Wait."""
        await ctx.context.stream_progress("waiting")
        await run_on_trio(wait)
        return "never"

    model = ScriptedModel(script.answer(*script.call("waits")))
    stream = streamed(await new_context(), model, tools=[waits])
    await anext(stream)
    # The event comes before the wait: closed in between, the tool would never begin to wait.
    await begun.wait()
    await stream.aclose()

    with trio.fail_after(5):
        await ended.wait()
    assert await other_tasks() == 0


async def test_run_may_be_cancelled_by_the_sdks_own_means() -> None:
    context = await new_context()
    run = Runner.run_streamed(agent(hanging_model()), "hi", run_config=RUN_CONFIG)
    stream = stream_agent_response(context, run)
    await anext(stream)

    run.cancel()

    with trio.fail_after(5):
        await collected(stream)
    assert await other_tasks() == 0


async def test_cancelled_run_without_a_stream_is_cancelled_on_asyncio() -> None:
    started = trio.Event()
    cancelled: list[bool] = []

    async def start() -> None:
        await trio.lowlevel.checkpoint()
        started.set()

    async def work() -> None:
        await run_on_trio(start)
        try:
            await hang()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_on_asyncio, work)
        await started.wait()
        # The answer has yet to cross back; a call that crosses behind it shows that it has.
        await run_on_asyncio(asyncio.sleep, 0.01)
        nursery.cancel_scope.cancel()

    assert cancelled == [True]


# --- Backpressure ------------------------------------------------------------------------------


async def test_fast_tool_waits_for_a_slow_reader() -> None:
    """6.4: the queue had no bound, so a fast tool and a slow client grew memory."""
    sent: list[int] = []

    @function_tool
    async def chatty(ctx: Context) -> str:
        """Say much."""
        for index in range(2000):
            await ctx.context.stream_progress(str(index))
            sent.append(index)
        return "ok"

    model = ScriptedModel(script.answer(*script.call("chatty")), script.answer())
    stream = streamed(await new_context(), model, tools=[chatty])
    await anext(stream)
    await trio.sleep(0.2)
    sent_unread = len(sent)

    assert sent_unread < 300
    assert len(await collected(stream)) == 1999


async def test_events_that_nobody_reads_are_an_error_and_no_deadlock() -> None:
    context = await new_context()

    async def overfill() -> None:
        for index in range(1000):
            await context.stream_progress(str(index))

    with pytest.raises(RuntimeError, match="nobody reads them"):
        await overfill()


async def test_events_sent_before_the_stream_come_first() -> None:
    context = await new_context()
    item = script.message("m", "Hi")
    await context.stream_progress("one moment")

    events = await collected(streamed(context, ScriptedModel(script.answer(*item))))

    assert titles(events)[0] == "one moment"
    assert isinstance(events[-1], ThreadItemDoneEvent)


async def test_call_to_trio_from_nowhere_says_what_is_missing() -> None:
    def plain_asyncio() -> None:
        asyncio.run(run_on_trio(trio.lowlevel.checkpoint))

    with pytest.raises(RuntimeError, match="there is no trio to go to"):
        await trio.to_thread.run_sync(plain_asyncio)
