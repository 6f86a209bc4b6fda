"""OpenAI Responses on trio, without asyncio: one answer, or a loop with tools.

The OpenAI client itself runs on trio. The model's connection and the tools belong to one task of
the turn's nursery, and the reader only gets the events: so cancelling the turn closes the
connection at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

from chatkit_trio.errors import ModelError
from chatkit_trio.server import current_turn

from ._context import AgentContext
from ._history import waits_for_output, without_open_calls
from ._reading import EventStream, FromModel, Pulled, RunEnded, Worker, turn_in_progress
from ._responses import DEFAULT_CONVERTER, ResponseStreamConverter, ResponseTranslator, is_cut
from ._tools import Tool

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.responses import Response, ResponseInputItemParam, ResponseStreamEvent

_Emit = Callable[[Any], Awaitable[None]]

_LAST_BYTES_TIMEOUT = 1.0
"""How long, in seconds, a provider may take to end a stream whose last event it has sent. One that
takes longer costs the connection, which can't be used again then."""

_LAST_EVENTS = {"response.completed", "response.incomplete"}


def stream_response(
    context: AgentContext[Any],
    stream: AsyncIterable[ResponseStreamEvent],
    *,
    converter: ResponseStreamConverter = DEFAULT_CONVERTER,
) -> EventStream:
    """Turn one streamed answer of the Responses API into thread events.

        async with await client.responses.create(..., stream=True) as stream:
            async for event in stream_response(context, stream):
                yield event

    The `async with` closes the connection when the turn is cancelled. Events that other tasks send
    through the context go out before the model's next event. Raises `ModelError` if the model
    reports an error or its stream breaks off, and whatever the client raises.
    """
    return EventStream(context, _PulledResponse(stream), ResponseTranslator(context, converter))


def run_model(
    context: AgentContext[Any],
    client: AsyncOpenAI,
    *,
    input: str | Sequence[ResponseInputItemParam],
    tools: Sequence[Tool | dict[str, Any]] = (),
    converter: ResponseStreamConverter = DEFAULT_CONVERTER,
    max_rounds: int = 10,
    nursery: trio.Nursery | None = None,
    **request: Any,
) -> ModelRun:
    """Let a model answer, calling tools, and return the thread events of its answer.

        async for event in run_model(
            context, client, model="gpt-5", instructions="...", input=items, tools=[weather]
        ):
            yield event

    `request` is passed to `client.responses.create`. `tools` are functions decorated with `tool`
    and, as dicts, the tools of the API itself. Tools the model asks for together run at the same
    time, in the turn's nursery; outside a turn pass a `nursery`. The model is asked `max_rounds`
    times at most, and not again after a tool has set `context.client_tool_call`. Each round sends
    the whole input and all outputs so far, so any server that speaks the Responses API will do.
    Calls without an output, which a cut turn may have left in `input`, aren't sent.

    An answer that the model cuts itself, for example at `max_output_tokens`, ends the loop: none of
    its tools is called, the stream's `is_incomplete` is true, and the turn ends with reason
    `incomplete`.

    Raises `ModelError` if the model reports an error or its stream breaks off, and whatever the
    client raises. When the returned stream is cancelled,
    closed or dropped, the model's connection is closed and the tools are cancelled.
    """
    loop = _ToolLoop(context, client, input, tools, max_rounds, request)
    return ModelRun(
        context, loop, nursery or _turn_nursery(), ResponseTranslator(context, converter)
    )


def _turn_nursery() -> trio.Nursery:
    try:
        return current_turn().nursery
    except RuntimeError as error:
        raise RuntimeError("outside a turn run_model() needs a nursery: pass nursery=") from error


class ModelRun(EventStream):
    """The thread events of `run_model`."""

    def __init__(
        self,
        context: AgentContext[Any],
        loop: _ToolLoop,
        nursery: trio.Nursery,
        translator: ResponseTranslator,
    ) -> None:
        super().__init__(context, Worker(nursery, loop.run), translator)
        self._loop = loop

    @property
    def last_response(self) -> Response | None:
        """The newest whole response: its `id` and `usage`. None before there is one.

        To go on from it in the next turn, take `previous_response_id` instead.
        """
        return self._loop.last_response

    @property
    def previous_response_id(self) -> str | None:
        """What to pass as `previous_response_id` to go on from here in the next turn.

        It is the newest response that waits for no tool: if the run was cut while tools were
        running, that is the one which the run itself began with.
        """
        return self._loop.previous_response_id


class _ToolLoop:
    """Asks the model, runs the tools it calls, and asks again."""

    def __init__(
        self,
        context: AgentContext[Any],
        client: AsyncOpenAI,
        input: str | Sequence[ResponseInputItemParam],
        tools: Sequence[Tool | dict[str, Any]],
        max_rounds: int,
        request: dict[str, Any],
    ) -> None:
        self._context = context
        self._client = client
        self._items: list[Any] = (
            [{"type": "message", "role": "user", "content": input}]
            if isinstance(input, str)
            else without_open_calls(input)
        )
        self._tools = {tool.name: tool for tool in tools if isinstance(tool, Tool)}
        self._max_rounds = max_rounds
        self._request = dict(request)
        if tools:
            params = [tool.param() if isinstance(tool, Tool) else tool for tool in tools]
            self._request["tools"] = params
        self.last_response: Response | None = None
        self.previous_response_id: str | None = request.get("previous_response_id")
        self._was_cut = False

    async def run(self, emit: _Emit) -> None:
        for _round in range(self._max_rounds):
            output = await self._ask(emit)
            if self._was_cut:
                # Also calls that look whole: what is left of a cut one may well be valid JSON.
                return
            calls = [item for item in output if item.type == "function_call"]
            results = await self._call_tools(calls)
            if not calls or self._context.client_tool_call is not None:
                return
            self._items += [item.model_dump(mode="json", exclude_unset=True) for item in output]
            self._items += results
        raise ModelError(f"the model still called tools when asked {self._max_rounds} times")

    async def _ask(self, emit: _Emit) -> list[Any]:
        """Stream one answer and return its items. Raises `ModelError` if it breaks off."""
        output: list[Any] = []
        is_over = False
        async with (
            await self._client.responses.create(
                input=self._items, stream=True, **self._request
            ) as stream,
            _ended(stream),
        ):
            # Not by `async for`: it would put one more generator around the client's own.
            while (event := await anext(stream, None)) is not None:
                check_failure(event)
                if event.type == "response.output_item.done":
                    output.append(event.item)
                self._was_cut |= is_cut(event)
                if event.type == "response.completed" or event.type == "response.incomplete":
                    is_over = True
                    output = output or list(event.response.output or ())
                    self._note_response(event.response, output)
                await emit(event)
                if is_over:
                    # The answer is there, whatever becomes of the connection.
                    with trio.move_on_after(_LAST_BYTES_TIMEOUT), suppress(Exception):
                        await anext(stream, None)
                    break
            if not is_over:
                raise broken_off(stream)
        return output

    def _note_response(self, response: Response, output: Sequence[Any]) -> None:
        self.last_response = response
        if not waits_for_output(output):
            self.previous_response_id = response.id

    async def _call_tools(self, calls: Sequence[Any]) -> list[Any]:
        """Run the tools at once and return their results in the order of the calls."""
        results: list[Any] = [None] * len(calls)
        turn = turn_in_progress()

        async def call(index: int) -> None:
            results[index] = {
                "type": "function_call_output",
                "call_id": calls[index].call_id,
                "output": await self._call_tool(calls[index]),
            }
            if turn is not None:
                turn.still_working()

        async with trio.open_nursery() as nursery:
            for index in range(len(calls)):
                nursery.start_soon(call, index)
        return results

    async def _call_tool(self, call: Any) -> str:
        tool = self._tools.get(call.name)
        if tool is None:
            return f"There is no tool {call.name}."
        return await tool.answer(self._context, call.arguments)


@asynccontextmanager
async def _ended(stream: AsyncIterator[Any]) -> AsyncIterator[None]:
    """Cut the client's generators short if the block is left early.

    The client's generators iterate over each other, and closing the outer one closes none of the
    inner ones. Reading on in a cancelled scope ends all of them, because the innermost waits there
    and is cancelled. Otherwise they would be left to the garbage collector.
    """
    try:
        yield
    finally:
        with trio.CancelScope(shield=True) as scope:
            scope.cancel()
            while await anext(stream, None) is not None:
                pass


class _PulledResponse(Pulled):
    """A stream of the caller's. It has to come to its end if it came from a server, or says it
    begins: other events may be a part of an answer that the caller has picked."""

    def __init__(self, stream: AsyncIterable[Any]) -> None:
        super().__init__(stream)
        self._is_awaited = hasattr(stream, "response")

    async def receive(self, queue: Any) -> Any:
        entry = await super().receive(queue)
        if isinstance(entry, FromModel):
            check_failure(entry.event)
            if entry.event.type == "response.created":
                self._is_awaited = True
            elif entry.event.type in _LAST_EVENTS:
                self._is_awaited = False
        elif isinstance(entry, RunEnded) and self._is_awaited:
            raise broken_off(self._stream)
        return entry


def broken_off(stream: Any) -> ModelError:
    """Return the error for a stream that has ended without the event that ends an answer."""
    headers = getattr(getattr(stream, "response", None), "headers", {})
    kind = headers.get("content-type", "no content type")
    return ModelError(
        f"the model's stream ({kind}) broke off: it ended without response.completed. Either the"
        " connection was cut, or the server doesn't speak the Responses API"
    )


def check_failure(event: Any) -> None:
    """Raise `ModelError` if the event says that the answer failed, or isn't an event."""
    kind = getattr(event, "type", None)
    if not isinstance(kind, str):
        raise ModelError(f"the model's stream has something that is no event: {event!r:.200}")
    if kind == "error":
        raise ModelError(f"the model's stream failed: {_said(event)}")
    response = getattr(event, "response", None)
    if kind == "response.failed" or getattr(response, "status", None) in _FAILURES:
        raise ModelError(f"the model's answer failed: {_said(getattr(response, 'error', None))}")


_FAILURES = {"failed", "cancelled"}


def _said(error: Any) -> str:
    words = [getattr(error, name, None) for name in ("code", "message")]
    return ": ".join(str(word) for word in words if word) or "no reason was given"
