"""Runs of the OpenAI Agents SDK, which needs asyncio, read from trio.

`Runner` stands in for the SDK's: `from chatkit_trio.agents import Runner` is the only line that
changes. The run and its tools live on the asyncio thread; a run starts when it's first read, and
ends when its reader does.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from chatkit_trio.types import Approval, ApprovalCall, ThreadStreamEvent

from ._approval import DEFAULT_WORDS, Approvals, ApprovalWanted, ApprovalWords, outcome
from ._asyncio_thread import in_trio, run_on_asyncio
from ._context import AgentContext
from ._extras import require
from ._history import waits_for_output, without_open_calls
from ._queue import EventQueue
from ._reading import (
    AsyncioSource,
    EventStream,
    OtherRun,
    Source,
    StreamedRun,
    Unchanged,
    cancel_run,
    closing,
    events_of,
)
from ._responses import DEFAULT_CONVERTER, ResponseStreamConverter, ResponseTranslator

if TYPE_CHECKING:
    from agents import Agent, RunResult, RunResultStreaming, StreamEvent, TResponseInputItem


class Runner:
    """Runs agents of the Agents SDK from trio; arguments are those of the SDK's `Runner`.

    In code that runs on asyncio already, such as a tool of an agent, it calls the SDK's `Runner`.
    """

    @classmethod
    async def run(
        cls,
        starting_agent: Agent[Any],
        input: str | list[TResponseInputItem],
        *args: Any,
        **options: Any,
    ) -> RunResult:
        """Run an agent to its end and return the SDK's result.

        Raises what the SDK raises. A cancelled call cancels the run and waits for its end.
        """
        run = partial(
            require("agents").Runner.run, starting_agent, _takeable(input), *args, **options
        )
        return cast("RunResult", await run_on_asyncio(run))

    @classmethod
    def run_streamed(
        cls,
        starting_agent: Agent[Any],
        input: str | list[TResponseInputItem],
        *args: Any,
        **options: Any,
    ) -> AgentRun:
        """Return a run that starts when it is first read, by `stream_agent_response`.

        Calls of tools without an output, which a cut run may have left in `input`, aren't sent.
        """
        run = require("agents").Runner.run_streamed
        start = partial(run, starting_agent, _takeable(input), *args, **options)
        if not in_trio():
            return cast("AgentRun", start())

        def start_from(state: Any) -> RunResultStreaming:
            return cast("RunResultStreaming", run(starting_agent, state, *args, **options))

        restart = _Restart(starting_agent, input, options, start_from)
        return AgentRun(start, options.get("previous_response_id"), restart)


def _takeable(input: Any) -> Any:
    return without_open_calls(input) if isinstance(input, list) else input


@dataclass(frozen=True, slots=True)
class _Restart:
    """What it takes to go on with a run that has asked a person."""

    agent: Agent[Any]
    input: Any
    options: Mapping[str, Any]
    start_from: Callable[[Any], RunResultStreaming]

    @property
    def items(self) -> list[Any]:
        """The input as a list."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return cast("list[Any]", _takeable(list(self.input)))

    @property
    def remembers(self) -> bool:
        """Whether somebody else keeps the conversation, with the calls that nobody answered."""
        keepers = ("session", "previous_response_id", "conversation_id")
        return any(self.options.get(keeper) is not None for keeper in keepers)


class AgentRun:
    """A streamed run of the Agents SDK, to be read once.

    Has the attributes of the SDK's `RunResultStreaming` (`final_output`, `last_response_id`,
    `to_input_list()`) from the run's start on. After a cut, the last two leave out what waits for
    a tool, for no model would take it.
    """

    def __init__(
        self,
        start: Callable[[], RunResultStreaming],
        previous_response_id: str | None = None,
        restart: _Restart | None = None,
    ) -> None:
        self._start = start
        self._previous_response_id = previous_response_id
        self._restart = restart
        self._approvals: Approvals | None = None
        self._is_read = False
        self._cancel_mode: Literal["immediate", "after_turn"] | None = None
        self._started: tuple[RunResultStreaming, asyncio.AbstractEventLoop] | None = None

    def stream_events(self) -> AsyncIterator[StreamEvent]:
        """Return the SDK's events, to be read on trio instead of `stream_agent_response`."""
        return Unchanged(EventQueue(), self.source())

    def cancel(self, mode: Literal["immediate", "after_turn"] = "immediate") -> None:
        """End the run early; its stream then ends without an error.

        `"after_turn"` lets the model's present answer and its tools finish.
        """
        self._cancel_mode = mode
        if self._started is not None:
            result, loop = self._started
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(result.cancel, mode)

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel()` has been called."""
        return self._cancel_mode is not None

    def approvals(self, context: AgentContext[Any], words: ApprovalWords) -> Approvals | None:
        """Let the run ask the user, and go on from the answers; before its `source` is read."""
        if self._restart is not None:
            agent = getattr(self._restart.agent, "name", "an agent")
            name = f"Runner.run_streamed of {agent}"
            self._approvals = Approvals(context, name, words)
        return self._approvals

    def source(self) -> AsyncioSource:
        """Return what a reader reads. Raises `RuntimeError` the second time."""
        if self._is_read:
            raise RuntimeError("a streamed run can be read once; start another one")
        self._is_read = True
        return _AgentSource(self._iterate)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result(name), name)

    def _result(self, name: str) -> RunResultStreaming:
        if name.startswith("_") or self._started is None:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}: a run has the attributes of the SDK's"
                " result once it has been read"
            )
        return self._started[0]

    @property
    def last_response_id(self) -> str | None:
        """The newest response that the next turn can go on from, by `previous_response_id`.

        If the run was cut while tools were running, it is the one that the run itself began with.
        """
        result = self._result("last_response_id")
        responses = result.raw_responses
        if not responses:
            return self._previous_response_id
        if result.final_output is None and waits_for_output(responses[-1].output):
            return self._previous_response_id
        return responses[-1].response_id

    def to_input_list(self, *args: Any, **options: Any) -> list[TResponseInputItem]:
        """Return the run's input and what it has produced, as input for the next run."""
        result = self._result("to_input_list")
        return without_open_calls(result.to_input_list(*args, **options))

    async def _iterate(self) -> AsyncIterator[StreamEvent]:
        """Run the agent on the asyncio thread; closing this early leaves no task behind."""
        result = await self._begin()
        self._started = (result, asyncio.get_running_loop())
        if self._cancel_mode is not None:
            result.cancel(self._cancel_mode)
        events = await events_of(result)
        is_over = False
        try:
            async for event in events:
                yield event
            is_over = True
            # Older releases of the SDK have no interruptions.
            if self._approvals is not None and getattr(result, "interruptions", None):
                yield cast("StreamEvent", _wanted(result))
        except Exception:
            is_over = True
            raise
        finally:
            if not is_over:
                await _cancel(result, events)

    async def _begin(self) -> RunResultStreaming:
        """Start the run, or go on with the one that the user was asked for."""
        approvals, restart = self._approvals, self._restart
        if approvals is None or restart is None:
            return self._start()
        if approvals.resumed is not None:
            return restart.start_from(await _state(restart, approvals.resumed, approvals))
        if approvals.dropped is not None and restart.remembers:
            # The conversation that is kept ends with these calls: they need results first.
            state = await _state(restart, approvals.dropped, approvals)
            try:
                state.add_input(restart.input)
            except require("agents").UserError:
                # The run would end with the refusal, and nobody would read what the user says.
                results = _missed_results(restart, state, approvals.dropped)
                return restart.start_from([*results, *restart.items])
            return restart.start_from(state)
        return self._start()


def _wanted(result: RunResultStreaming) -> ApprovalWanted:
    """Return the question about the calls for which the run has been interrupted."""
    calls = [
        ApprovalCall(
            id=_call_id(item), name=item.name or "a tool", arguments=_arguments(item.arguments)
        )
        for item in result.interruptions
    ]
    # The context isn't the run's: the turn that goes on has one of its own.
    state = result.to_state().to_json(context_serializer=lambda _context: {})
    return ApprovalWanted(calls, json.dumps(state))


def _call_id(item: Any) -> str:
    """Return the id of a call; the requests of hosted MCP servers have one of another name."""
    return str(_raw(item, "call_id") or _raw(item, "id") or "")


def _raw(item: Any, name: str) -> Any:
    raw = item.raw_item
    return raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, default=str)


async def _state(restart: _Restart, approval: Approval, approvals: Approvals) -> Any:
    """Return the state of an interrupted run with the user's decisions. To be run on asyncio."""
    sdk = require("agents")
    state = await sdk.RunState.from_json(
        restart.agent,
        json.loads(approval.state),
        context_override=sdk.RunContextWrapper(context=restart.options.get("context")),
    )
    calls = {call.id: call for call in approval.calls}
    comments = []
    for item in state.get_interruptions():
        call = calls.get(_call_id(item))
        if call is not None and call in approvals.approved:
            state.approve(item)
            comments += [call.comment] if call.comment else []
        else:
            message = "This call wasn't allowed." if call is None else outcome(call)
            state.reject(item, rejection_message=message)
    for comment in dict.fromkeys(comments):
        # An agent that ends with a tool's result takes no more input: then nobody reads it.
        with suppress(sdk.UserError):
            state.add_input(f"(The user allowed this and said: {comment})")
    return state


def _missed_results(restart: _Restart, state: Any, approval: Approval) -> list[Any]:
    """Return the results that the conversation which is kept elsewhere lacks."""
    refusals = _refusals(state, approval)
    if restart.options.get("session") is not None:
        return refusals  # it has the results of other calls
    told = json.loads(approval.state)
    answer = told["model_responses"][-1]
    followed = restart.options.get("previous_response_id")
    if followed is not None and followed != answer["response_id"]:
        return []  # the run goes on from an earlier answer, which has no open calls
    calls = {item.get("call_id") for item in answer["output"]}
    raw = [item["raw_item"] for item in told["generated_items"]]
    return [*refusals, *(item for item in raw if _is_result(item) and item["call_id"] in calls)]


def _is_result(item: dict[str, Any]) -> bool:
    return str(item.get("type")).endswith("_call_output")


def _refusals(state: Any, approval: Approval) -> list[Any]:
    """Return what the model gets for the calls that nobody has allowed."""
    calls = {call.id: call for call in approval.calls}
    return [
        _refusal(item, outcome(calls[_call_id(item)]))
        for item in state.get_interruptions()
        if _call_id(item) in calls
    ]


def _refusal(item: Any, reason: str) -> dict[str, Any]:
    if _raw(item, "type") == "mcp_approval_request":
        answer = {"type": "mcp_approval_response", "approval_request_id": _call_id(item)}
        return {**answer, "approve": False, "reason": reason}
    return {"type": "function_call_output", "call_id": _call_id(item), "output": reason}


async def _cancel(result: RunResultStreaming, events: AsyncIterable[Any]) -> None:
    """End a run that is left early."""
    answer = cancel_run(result)
    if not _is_of_sdk(result):
        # A test has put a double into the place of the SDK's runner.
        if inspect.isawaitable(answer):
            await answer
        async with closing(aiter(events)):
            return
    # Reading a cancelled run to its end is how the SDK ends its tasks.
    with suppress(Exception):
        async for _event in result.stream_events():
            pass


class _AgentEvents(EventStream):
    """The thread events of a run, which note what approved tools return."""

    run: AgentRun | None = None
    """The run that may ask, if it is one of ours."""

    def _was_cut(self) -> bool:
        return super()._was_cut() or (self.run is not None and self.run.is_cancelled)

    async def _convert(self, event: Any) -> Iterable[ThreadStreamEvent]:
        approvals = self._approvals
        if approvals is not None and approvals.approved and _is_output(event):
            await approvals.done_by_id(_call_id(event.item), str(event.item.output))
        return await super()._convert(event)


def _is_output(event: Any) -> bool:
    is_item = getattr(event, "type", None) == "run_item_stream_event"
    return is_item and event.name == "tool_output"


def _is_of_sdk(result: object) -> bool:
    """Say whether events come from the SDK itself: a double may be of a class made from its."""
    sdk = sys.modules.get("agents")
    method = getattr(result, "stream_events", None)
    own = None if sdk is None else sdk.RunResultStreaming.stream_events
    return own is not None and getattr(method, "__func__", None) is own


def _was_started(result: StreamedRun) -> bool:
    """Say whether a result of the SDK has a task that runs it; one filled by a test hasn't."""
    names = ("run_loop_task", "_run_impl_task")  # the latter until openai-agents 0.8
    return any(getattr(result, name, None) is not None for name in names)


def _is_tripwire(error: Exception) -> bool:
    """Say whether a guardrail tripped: nothing of such a run may be seen or remembered."""
    sdk = sys.modules.get("agents")
    return sdk is not None and isinstance(
        error, sdk.InputGuardrailTripwireTriggered | sdk.OutputGuardrailTripwireTriggered
    )


class _AgentSource(AsyncioSource):
    def takes_back(self, error: Exception) -> bool:
        return _is_tripwire(error)


def _run_behind(result: object) -> AgentRun | None:
    """Return the run that this is, or that it stands for with what it hasn't itself."""
    method = getattr(result, "approvals", None)
    if getattr(method, "__func__", None) is not AgentRun.approvals:
        return None
    return cast("AgentRun", method.__self__)  # type: ignore[union-attr]


class _OtherRun(OtherRun):
    def takes_back(self, error: Exception) -> bool:
        return _is_tripwire(error)


def stream_agent_response(
    context: AgentContext[Any],
    result: AgentRun | StreamedRun,
    *,
    converter: ResponseStreamConverter = DEFAULT_CONVERTER,
    approval_words: ApprovalWords = DEFAULT_WORDS,
) -> EventStream:
    """Turn a streamed run of the Agents SDK into thread events.

        result = Runner.run_streamed(agent, input, context=agent_context)
        async for event in stream_agent_response(agent_context, result):
            yield event

    The first read starts the run. Errors of the run, guardrail tripwires among them, are raised
    unchanged; before a tripwire is raised, every item of the run is removed. When the returned
    stream is cancelled, closed or dropped, the run is cancelled and leaves no task behind.

    A run that is interrupted because a tool needs approval ends with a question to the user, in
    `approval_words`. When they have answered, `respond` is called without a message; the run it
    starts with the same agent then goes on from the interruption, and ignores its own input.

    Any other object with an async `stream_events()`, such as a test's made-up run or what you have
    put around a run, is read as it is, on trio: its events have to be like the SDK's, and its
    `cancel()`, if it has one, is called when it is left early. What is put around a run of `Runner`
    has its approvals if it passes on the attributes that it hasn't itself. A result of the SDK that
    a test has filled is read on asyncio. Raises `TypeError` for a run of the SDK's own `Runner` and
    for what has no events, and `RuntimeError` if the context or the run is being read already.
    """
    run = _run_behind(result)
    approvals = None if run is None else run.approvals(context, approval_words)
    if isinstance(result, AgentRun) and "stream_events" not in vars(result):
        source: Source = result.source()
    elif _is_of_sdk(result) and not _was_started(result):
        source = _AgentSource(result.stream_events)
    elif _is_of_sdk(result):
        raise TypeError(
            f"stream_agent_response() reads runs of chatkit_trio.agents.Runner, not"
            f" {type(result).__module__}.{type(result).__name__}: import Runner from there"
        )
    elif isinstance(result, type) or not callable(getattr(result, "stream_events", None)):
        raise TypeError(
            f"stream_agent_response() reads what has an async stream_events(), and a"
            f" {type(result).__module__}.{type(result).__name__} hasn't"
        )
    else:
        source = _OtherRun(result)
    events = _AgentEvents(context, source, ResponseTranslator(context, converter), approvals)
    events.run = run
    return events
