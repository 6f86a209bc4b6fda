"""Runs of the OpenAI Agents SDK, which needs asyncio, read from trio.

`Runner` stands in for the SDK's: `from chatkit_trio.agents import Runner` is the only line that
changes. The run and its tools live on the asyncio thread; a run starts when it's first read, and
ends when its reader does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from ._asyncio_thread import in_trio, run_on_asyncio
from ._context import AgentContext
from ._extras import require
from ._history import waits_for_output, without_open_calls
from ._queue import EventQueue
from ._reading import AsyncioSource, EventStream, ModelEvents
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
        return (
            AgentRun(start, options.get("previous_response_id"))
            if in_trio()
            else cast("AgentRun", start())
        )


def _takeable(input: Any) -> Any:
    return without_open_calls(input) if isinstance(input, list) else input


class AgentRun:
    """A streamed run of the Agents SDK, to be read once.

    Has the attributes of the SDK's `RunResultStreaming` (`final_output`, `last_response_id`,
    `to_input_list()`) from the run's start on. After a cut, the last two leave out what waits for
    a tool, for no model would take it.
    """

    def __init__(
        self, start: Callable[[], RunResultStreaming], previous_response_id: str | None = None
    ) -> None:
        self._start = start
        self._previous_response_id = previous_response_id
        self._is_read = False
        self._cancel_mode: Literal["immediate", "after_turn"] | None = None
        self._started: tuple[RunResultStreaming, asyncio.AbstractEventLoop] | None = None

    def stream_events(self) -> AsyncIterator[StreamEvent]:
        """Return the SDK's events, to be read on trio instead of `stream_agent_response`."""
        return ModelEvents(EventQueue(), self.source())

    def cancel(self, mode: Literal["immediate", "after_turn"] = "immediate") -> None:
        """End the run early; its stream then ends without an error.

        `"after_turn"` lets the model's present answer and its tools finish.
        """
        self._cancel_mode = mode
        if self._started is not None:
            result, loop = self._started
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(result.cancel, mode)

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
        result = self._start()
        self._started = (result, asyncio.get_running_loop())
        if self._cancel_mode is not None:
            result.cancel(self._cancel_mode)
        is_over = False
        try:
            async for event in result.stream_events():
                yield event
            is_over = True
        except Exception:
            is_over = True
            raise
        finally:
            if not is_over:
                await _cancel(result)


async def _cancel(result: RunResultStreaming) -> None:
    """Cancel a run and read it to its end, which is how the SDK ends its tasks."""
    result.cancel()
    with suppress(Exception):
        async for _event in result.stream_events():
            pass


class _AgentSource(AsyncioSource):
    def takes_back(self, error: Exception) -> bool:
        """Say whether a guardrail tripped: nothing of such a run may be seen or remembered."""
        exceptions = require("agents.exceptions")
        return isinstance(
            error,
            exceptions.InputGuardrailTripwireTriggered
            | exceptions.OutputGuardrailTripwireTriggered,
        )


def stream_agent_response(
    context: AgentContext[Any],
    result: AgentRun,
    *,
    converter: ResponseStreamConverter = DEFAULT_CONVERTER,
) -> EventStream:
    """Turn a streamed run of the Agents SDK into thread events.

        result = Runner.run_streamed(agent, input, context=agent_context)
        async for event in stream_agent_response(agent_context, result):
            yield event

    The first read starts the run. Errors of the run, guardrail tripwires among them, are raised
    unchanged; before a tripwire is raised, every item of the run is removed. When the returned
    stream is cancelled, closed or dropped, the run is cancelled and leaves no task behind. Raises
    `TypeError` for a run of the SDK's own `Runner`, and `RuntimeError` if the context or the run is
    being read already.
    """
    if not isinstance(result, AgentRun):
        raise TypeError(
            f"stream_agent_response() reads runs of chatkit_trio.agents.Runner, not"
            f" {type(result).__module__}.{type(result).__name__}: import Runner from there"
        )
    return EventStream(context, result.source(), ResponseTranslator(context, converter))
