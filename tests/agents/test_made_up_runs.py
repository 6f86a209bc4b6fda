"""Runs that aren't the SDK's: the doubles of users' tests, and other libraries' runs."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
import trio
from agents import (
    Agent,
    RawResponsesStreamEvent,
    RunContextWrapper,
    RunResultStreaming,
    function_tool,
)
from agents import Runner as SDKRunner

from chatkit_trio.agents import (
    AgentContext,
    Runner,
    run_on_asyncio,
    run_on_trio,
    stream_agent_response,
)
from chatkit_trio.agents._queue import CAPACITY
from chatkit_trio.server import ChatKitServer, current_turn
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, JumpClock, explore_cancellations
from chatkit_trio.types import (
    ProgressUpdateEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
)

from . import script
from .models import RUN_CONFIG, Around, ScriptedModel, agent, patched
from .threads import collected, new_context


def raw_events(*words: str) -> list[RawResponsesStreamEvent]:
    events = script.parsed(script.answer(*script.message("m", *words)))
    return [RawResponsesStreamEvent(data=event) for event in events]


class MadeUp:
    """A run as users' tests make them up."""

    def __init__(self, *words: str, waits: bool = False) -> None:
        self.events = raw_events(*words)
        self.waits = waits
        self.begun = 0
        self.closed = 0
        self.cancelled = 0

    async def stream_events(self) -> AsyncIterator[Any]:
        self.begun += 1
        try:
            for event in self.events[: 4 if self.waits else None]:
                await trio.lowlevel.checkpoint()
                yield event
            if self.waits:
                await trio.sleep_forever()
        finally:
            self.closed += 1

    def cancel(self) -> None:
        self.cancelled += 1


class OnlyEvents:
    def __init__(self) -> None:
        self.events = raw_events("Hello")

    async def stream_events(self) -> AsyncIterator[Any]:
        for event in self.events:
            yield event


class ReturnsItsEvents:
    async def stream_events(self) -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        return OnlyEvents().stream_events()


class IterableAlone:
    """Its events are an iterable that is no generator and can't be closed."""

    def stream_events(self) -> Any:
        iterable = MagicMock()
        iterable.__aiter__.return_value = raw_events("Hello")
        return iterable


class OfTheSDKsClass(RunResultStreaming):
    def __init__(self) -> None:
        pass

    async def stream_events(self) -> AsyncIterator[Any]:
        for event in raw_events("Hello"):
            yield event


def mock_of_the_sdks_class() -> Any:
    run = MagicMock(spec=RunResultStreaming)
    run.stream_events.return_value.__aiter__.return_value = raw_events("Hello")
    return run


def async_mock() -> Any:
    run = AsyncMock()
    run.stream_events = OnlyEvents().stream_events
    return run


@pytest.mark.parametrize(
    "make",
    [
        lambda: MadeUp("Hel", "lo"),
        OnlyEvents,
        ReturnsItsEvents,
        IterableAlone,
        OfTheSDKsClass,
        mock_of_the_sdks_class,
        async_mock,
    ],
)
async def test_any_object_with_stream_events_is_read_as_it_is(make: Any) -> None:
    events = await collected(stream_agent_response(await new_context(), make()))

    assert events[-1].type == "thread.item.done"
    assert events[-1].item.content[0].text == "Hello"


async def test_its_end_is_its_own() -> None:
    run = MadeUp("Hello")

    await collected(stream_agent_response(await new_context(), run))

    assert (run.begun, run.closed, run.cancelled) == (1, 1, 0)


async def first_event_left(context: AgentContext[Any], run: MadeUp, how: str) -> Any:
    """Read one event of a run, leave the run in this way, and return the event."""
    stream = stream_agent_response(context, run)
    first = await anext(stream)
    if how == "closed":
        await stream.aclose()
    elif how == "cancelled":
        with trio.move_on_after(0.01):
            await collected(stream)
    else:
        del stream
        await trio.testing.wait_all_tasks_blocked()
    return first


@pytest.mark.parametrize("how", ["closed", "cancelled", "dropped"])
async def test_a_made_up_run_that_is_left_early_is_cancelled_and_closed_once(how: str) -> None:
    run = MadeUp("Hel", "lo", waits=True)
    first = await first_event_left(await new_context(), run, how)

    assert first.type == "thread.item.added"
    assert (run.begun, run.cancelled) == (1, 1)
    assert run.closed == 1


class CannotCancel(MadeUp):
    def cancel(self) -> None:
        super().cancel()
        raise AttributeError("there is no task yet")


class CannotCancelLater(MadeUp):
    def cancel(self) -> Any:
        super().cancel()

        async def later() -> None:
            raise AttributeError("there is no task yet")

        return later()


@pytest.mark.parametrize("make", [CannotCancel, CannotCancelLater])
@pytest.mark.parametrize("how", ["closed", "cancelled", "dropped"])
async def test_a_run_whose_cancel_fails_is_ended_and_the_log_says_so(
    how: str, make: type[MadeUp], caplog: pytest.LogCaptureFixture
) -> None:
    run = make("Hel", "lo", waits=True)
    context = await new_context()
    await first_event_left(context, run, how)

    assert (run.closed, run.cancelled) == (1, 1)
    assert "cancel() of a model run failed" in caplog.text
    events = await collected(stream_agent_response(context, MadeUp("Hello")))
    assert events[-1].type == "thread.item.done"


class KeepsItsTurn(ChatKitServer[Any]):
    """Its contexts keep the turn, as one that keeps the request does."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.turn: Any = None

    async def respond(
        self, thread: ThreadMetadata, item: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        self.turn = weakref.ref(current_turn())
        own = AgentContext[Any](
            thread=thread, store=self.store, request_context={"turn": current_turn()}
        )
        async for event in stream_agent_response(own, MadeUp("Hel", "lo", waits=True)):
            yield event


async def test_a_turn_that_was_cut_in_a_run_is_let_go_of(jump_clock: JumpClock) -> None:
    async with KeepsItsTurn() as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: event.type == "thread.item.added")
            await turn.stop()
        del turn
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()

        assert server.turn() is None


async def test_an_awaitable_cancel_is_awaited() -> None:
    run = async_mock()
    stream = stream_agent_response(await new_context(), run)
    await anext(stream)

    await stream.aclose()

    run.cancel.assert_awaited_once_with()


async def test_an_error_of_a_made_up_run_is_raised_unchanged() -> None:
    class Fails(MadeUp):
        async def stream_events(self) -> AsyncIterator[Any]:
            yield self.events[0]
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await collected(stream_agent_response(await new_context(), Fails("Hello")))


@pytest.mark.parametrize("thing", [None, "text", object(), MadeUp])
async def test_what_has_no_events_is_refused_by_name(thing: Any) -> None:
    context = await new_context()

    with pytest.raises(TypeError, match=r"stream_events"):
        await collected(stream_agent_response(context, thing))


async def test_the_sdks_own_result_is_refused_with_the_way_out() -> None:
    async def start() -> Any:
        await asyncio.sleep(0)
        return SDKRunner.run_streamed(agent(ScriptedModel([])), "hi", run_config=RUN_CONFIG)

    own = await run_on_asyncio(start)
    with pytest.raises(TypeError, match=r"chatkit_trio\.agents\.Runner.*import Runner"):
        stream_agent_response(await new_context(), own)


async def test_a_result_of_the_sdk_that_a_test_has_filled_is_read() -> None:
    """It has no task that runs it, so it belongs to no other loop."""
    context = await new_context()
    result = RunResultStreaming(
        input=[],
        new_items=[],
        raw_responses=[],
        final_output=None,
        input_guardrail_results=[],
        output_guardrail_results=[],
        tool_input_guardrail_results=[],
        tool_output_guardrail_results=[],
        context_wrapper=RunContextWrapper(None),
        current_agent=Agent(name="made up"),
        current_turn=0,
        max_turns=1,
        _current_agent_output_schema=None,
        trace=None,
        is_complete=True,
    )
    for event in raw_events("Hel", "lo"):
        result._event_queue.put_nowait(event)

    events = await collected(stream_agent_response(context, result))

    assert [event.item.content[0].text for event in events if event.type == "thread.item.done"] == [
        "Hello"
    ]


# --- In a server -------------------------------------------------------------------------------


class Sample(ChatKitServer[None]):
    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        result = Runner.run_streamed(agent(ScriptedModel([])), "hi", context=agent_context)
        async for event in stream_agent_response(agent_context, result):
            yield event


async def test_a_patched_runner_answers(
    monkeypatch: pytest.MonkeyPatch, jump_clock: JumpClock
) -> None:
    monkeypatch.setattr(Runner, "run_streamed", lambda *args, **options: MadeUp("Hello"))
    async with Sample(MemoryStore()) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read()

    assert turn.text == "Hello"


@pytest.mark.parametrize("leaves_early", [False, True])
async def test_a_patched_runner_of_the_sdk_is_read_once(
    leaves_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnAsyncio(OnlyEvents):
        begun = closed = 0

        async def stream_events(self) -> AsyncIterator[Any]:
            OnAsyncio.begun += 1
            try:
                for event in self.events:
                    await asyncio.sleep(0.001)
                    yield event
            finally:
                OnAsyncio.closed += 1

    monkeypatch.setattr(SDKRunner, "run_streamed", lambda *args, **options: OnAsyncio())
    context = await new_context()
    stream = stream_agent_response(context, Runner.run_streamed(None, "hi"))  # type: ignore[arg-type]
    if leaves_early:
        await anext(stream)
        await stream.aclose()
    else:
        assert (await collected(stream))[-1].item.content[0].text == "Hello"

    assert (OnAsyncio.begun, OnAsyncio.closed) == (1, 1)


def test_a_server_on_made_up_runs_can_be_explored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "run_streamed", lambda *args, **options: MadeUp("Hel", "lo"))

    exploration = explore_cancellations(Sample, "hi", step=5)

    assert exploration.ends["stopped"] > 0


async def test_the_type_of_the_sdks_input_is_there() -> None:
    from agents import TResponseInputItem as OfTheSDK

    from chatkit_trio.agents import TResponseInputItem

    assert TResponseInputItem is OfTheSDK


# --- What an application puts around a run -----------------------------------------------------


@pytest.mark.parametrize("wrap", [Around, patched])
async def test_what_tools_send_goes_out_while_the_wrapped_run_waits_for_them(wrap: Any) -> None:
    """Also more than the queue holds; and each event before the tool goes on."""
    count, shown = CAPACITY + 50, trio.Event()

    @function_tool
    async def slow(ctx: RunContextWrapper[AgentContext[None]]) -> str:
        for number in range(count):
            await ctx.context.stream(ProgressUpdateEvent(text=f"step {number}"))
        await run_on_trio(shown.wait)
        return "done"

    context = await new_context()
    model = ScriptedModel(script.answer(*script.call("slow")), script.answer(*script.message("m")))
    run = Runner.run_streamed(
        agent(model, tools=[slow]), "hi", context=context, run_config=RUN_CONFIG
    )
    texts = []
    with trio.fail_after(20):
        async for event in stream_agent_response(context, wrap(run)):
            if event.type == "progress_update":
                texts.append(event.text)
                if len(texts) == count:
                    shown.set()

    assert texts == [f"step {number}" for number in range(count)]


class Wrapped(Sample):
    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        model = ScriptedModel(script.answer(*script.message("m", "Hel", "lo")))
        run = Runner.run_streamed(agent(model), "hi", context=agent_context, run_config=RUN_CONFIG)
        async for event in stream_agent_response(agent_context, Around(run)):
            yield event


def test_a_server_that_wraps_its_runs_can_be_explored() -> None:
    exploration = explore_cancellations(Wrapped, "hi", step=9)

    assert exploration.ends["stopped"] > 0
