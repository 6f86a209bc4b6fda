"""OpenAI Responses on trio, without asyncio: one answer, or a loop with tools.

The OpenAI client itself runs on trio. The model's connection and the tools belong to one task of
the turn's nursery, and the reader only gets the events: so cancelling the turn closes the
connection at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pydantic_core
import trio
from pydantic import BaseModel

from chatkit_trio.errors import ModelError
from chatkit_trio.server import current_turn
from chatkit_trio.types import Approval, ApprovalCall

from ._approval import (
    DEFAULT_WORDS,
    Approvals,
    ApprovalWanted,
    ApprovalWords,
    outcome,
    with_comment,
)
from ._context import AgentContext
from ._history import open_calls, waits_for_output, without_open_calls
from ._reading import EventStream, FromModel, Pulled, RunEnded, Worker
from ._responses import (
    DEFAULT_CONVERTER,
    ResponseStreamConverter,
    ResponseTranslator,
    is_cut,
    item_of,
    output_of,
)
from ._telling import facts_of_request, facts_of_response, told_call, turn_in_progress
from ._tools import Tool

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.responses import Response, ResponseInputItemParam, ResponseStreamEvent

logger = logging.getLogger(__name__)

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
    approval_words: ApprovalWords = DEFAULT_WORDS,
    **request: Any,
) -> ModelRun:
    """Let a model answer, calling tools, and return the thread events of its answer.

        async for event in run_model(
            context, client, model="gpt-5", instructions="...", input=items, tools=[weather]
        ):
            yield event

    `request` is passed to `client.responses.create`. `tools` are functions decorated with `tool`
    and, as dicts, the tools that the API itself runs. Tools the model asks for together run at the
    same time, in the turn's nursery; outside a turn pass a `nursery`. The model is asked
    `max_rounds` times at most, and not again after a tool has set `context.client_tool_call`. Each
    round sends the whole input and all outputs so far, so any server that speaks the Responses API
    will do; with `conversation`, where the provider keeps them, only what is new. Calls without an
    output, which a cut turn may have left in `input`, aren't sent.

    If a tool or an MCP server needs approval, the run ends with a question to the user, in
    `approval_words`. When they have answered, `respond` is called without a message; the run it
    starts then goes on from that point, and ignores its own `input`. If they send a message
    instead, the calls are refused and the run starts with its `input` as usual.

    An answer that the model cuts itself, for example at `max_output_tokens`, ends the loop: none of
    its tools is called, the stream's `is_incomplete` is true, and the turn ends with reason
    `incomplete`.

    Raises `ModelError` if the model reports an error, its stream breaks off, or it calls what is no
    function (a custom tool, a shell on this machine), and whatever the client raises. When the
    returned stream is cancelled, closed or dropped, the model's connection is closed and the tools
    are cancelled.
    """
    approvals = Approvals(context, "run_model", approval_words)
    loop = _ToolLoop(context, client, input, tools, max_rounds, request, approvals)
    return ModelRun(
        context, loop, nursery or _turn_nursery(), ResponseTranslator(context, converter), approvals
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
        approvals: Approvals,
    ) -> None:
        super().__init__(context, Worker(nursery.start_soon, loop.run), translator, approvals)
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
        approvals: Approvals,
    ) -> None:
        self._context = context
        self._approvals = approvals
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
        if self._approvals.resumed is not None:
            await self._go_on(self._approvals.resumed)
        elif self._approvals.dropped is not None:
            await self._refuse(self._approvals.dropped)
        for _round in range(self._max_rounds):
            output = await self._ask(emit)
            if self._was_cut:
                # Also calls that look whole: what is left of a cut one may well be valid JSON.
                return
            _check_calls(output)
            calls = [item for item in output if item.type in _CALLS]
            asked = [await self._asks_first(call) for call in calls]
            results = await self._call_tools(
                [None if waits else call for call, waits in zip(calls, asked, strict=True)]
            )
            # A function of the page comes first: its call ends the answer.
            if not calls or self._context.client_tool_call is not None:
                return
            self._note_answer(output)
            if any(asked):
                await emit(self._wanted(calls, results))
                return
            self._items += results
        raise ModelError(f"the model still called tools when asked {self._max_rounds} times")

    @property
    def _conversation(self) -> str | None:
        """The id of the conversation in which the provider keeps all items, if it does."""
        given = self._request.get("conversation")
        known = given.get("id") if isinstance(given, Mapping) else given
        return known if isinstance(known, str) else None

    def _note_answer(self, output: Sequence[Any]) -> None:
        """Take an answer into the next round's input."""
        if self._conversation is None:
            self._items += [item.model_dump(mode="json", exclude_unset=True) for item in output]
        else:
            self._items = []  # what was sent, and the answer, would be there twice

    async def _ask(self, emit: _Emit) -> list[Any]:
        """Ask the model and return the items of its answer. Raises `ModelError` if it breaks off.

        Observers are told of the call.
        """
        model = str(self._request.get("model", ""))
        with told_call("model", model, facts_of_request(self._client, model)) as learned:
            output = await self._stream(emit)
            if learned is not None and self.last_response is not None:
                learned |= facts_of_response(self.last_response)
        return output

    async def _stream(self, emit: _Emit) -> list[Any]:
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
                if event.type == "response.output_item.done" and (item := item_of(event)):
                    output.append(item)
                    await self._note_mcp_call(item)
                self._was_cut |= is_cut(event)
                if event.type in _LAST_EVENTS:
                    is_over = True
                    response = getattr(event, "response", None)
                    output = _whole(output, output_of(response))
                    for item in output:
                        await self._note_mcp_call(item)
                    if response is not None:
                        self._note_response(response, output)
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
        """Run the tools at once and return their results in the order of the calls.

        For None, a call that isn't made, the result is None.
        """
        results: list[Any] = [None] * len(calls)
        turn = turn_in_progress()

        async def run(index: int, call: Any) -> None:
            output = await self._call_tool(call, call.call_id)
            results[index] = _function_result(call.call_id, output)
            if turn is not None:
                turn.still_working()

        async with trio.open_nursery() as nursery:
            for index, call in enumerate(calls):
                if call is not None:
                    nursery.start_soon(run, index, call)
        return results

    # --- Asking a person first -----------------------------------------------------------------

    async def _asks_first(self, call: Any) -> bool:
        if call.type == "mcp_approval_request":
            return True
        tool = self._tools.get(call.name)
        return tool is not None and await tool.asks_first(self._context, call.arguments)

    def _wanted(self, calls: Sequence[Any], results: Sequence[Any]) -> ApprovalWanted:
        """Return the question about the calls without a result, and all it takes to go on."""
        waiting = [call for call, result in zip(calls, results, strict=True) if result is None]
        state = {
            "items": [_as_json(item) for item in self._items],
            "results": list(results),
            "kinds": [call.type for call in waiting],
            "previous_response_id": self._request.get("previous_response_id"),
            "response_id": None if self.last_response is None else self.last_response.id,
            "conversation": self._conversation,
        }
        return ApprovalWanted(
            [
                ApprovalCall(
                    id=_call_id(call),
                    name=call.name,
                    arguments=call.arguments or "{}",
                )
                for call in waiting
            ],
            json.dumps(state),
        )

    async def _go_on(self, approval: Approval) -> None:
        """Take up the run that has asked: make the approved calls, give the model all results."""
        state = json.loads(approval.state)
        self._items = state["items"] + await self._results(state, approval)
        # The app may have noted the response that asked; what follows it is in the items.
        self._request.pop("previous_response_id", None)
        if state["previous_response_id"] is not None:
            self._request["previous_response_id"] = state["previous_response_id"]
        self.previous_response_id = state["previous_response_id"]

    async def _refuse(self, approval: Approval) -> None:
        """Give results for the calls of a run that has asked and won't go on, if they are missed.

        That is so if this run follows the response with the calls by its id, or goes on in their
        conversation.
        """
        state = json.loads(approval.state)
        followed = self._request.get("previous_response_id")
        follows = followed is not None and followed == state["response_id"]
        conversation = self._conversation
        # Notes of earlier releases have no conversation.
        if follows or (conversation is not None and conversation == state.get("conversation")):
            self._items = await self._results(state, approval) + self._items

    async def _results(self, state: dict[str, Any], approval: Approval) -> list[Any]:
        """Make the approved calls; return the results of all, in the order of the calls."""
        decided: list[Any] = [None] * len(approval.calls)

        async def decide(index: int, call: ApprovalCall, kind: str) -> None:
            is_mcp = kind == "mcp_approval_request"
            decided[index] = self._decided_mcp(call) if is_mcp else await self._decided(call)

        async with trio.open_nursery() as nursery:
            for index, call in enumerate(approval.calls):
                nursery.start_soon(decide, index, call, state["kinds"][index])
        late = iter(decided)
        return [next(late) if result is None else result for result in state["results"]]

    async def _decided(self, call: ApprovalCall) -> Any:
        if call not in self._approvals.approved:
            return _function_result(call.id, outcome(call))
        output = with_comment(await self._call_tool(call, call.id), call)
        await self._approvals.done(call, output)
        return _function_result(call.id, output)

    async def _note_mcp_call(self, item: Any) -> None:
        """Store what an approved call of an MCP server has returned."""
        if item.type == "mcp_call":
            output = item.output or item.error or ""
            await self._approvals.done_by_id(item.approval_request_id, str(output))

    def _decided_mcp(self, call: ApprovalCall) -> Any:
        """Return the answer for an MCP server, whose tool the model's provider calls."""
        is_approved = call in self._approvals.approved
        answer: dict[str, Any] = {
            "type": "mcp_approval_response",
            "approval_request_id": call.id,
            "approve": is_approved,
        }
        reason = call.comment if is_approved else outcome(call)
        return answer | ({"reason": reason} if reason else {})

    async def _call_tool(self, call: Any, call_id: str) -> str:
        tool = self._tools.get(call.name)
        if tool is None:
            return f"There is no tool {call.name}."
        return await tool.answer(self._context, call.arguments, call_id)


_CALLS = frozenset(("function_call", "mcp_approval_request"))
"""The items of an answer that the model waits for a result of."""


def _check_calls(output: Sequence[Any]) -> None:
    """Raise `ModelError` if the model waits for something that no function can give it."""
    kinds = {call.type for call in open_calls(output)} - _CALLS
    if kinds:
        raise ModelError(
            "run_model() runs functions only, and the model waits for the output of a"
            f" {', '.join(sorted(kinds))}: leave the tool out of tools=, or give the model a"
            " function decorated with @tool instead"
        )


def _whole(ended: Sequence[Any], told: Sequence[Any]) -> list[Any]:
    """Return the items of an answer, each call once.

    `ended` are those whose end has streamed, and `told` those of the last event. Some gateways
    stream all, some only a part of them, and some tell an end twice.
    """
    ended, told = _each_call_once(ended), _each_call_once(told)
    output, others = (told, ended) if len(told) > len(ended) else (ended, told)
    # By their ids alone: a gateway may well write the same arguments in another way.
    known = [_call_id(item) for item in output if item.type in _CALLS]
    calls = [item for item in others if item.type in _CALLS]
    return [*output, *(call for call in calls if _call_id(call) not in known)]


def _each_call_once(items: Sequence[Any]) -> list[Any]:
    kept: list[Any] = []
    calls: list[Any] = []
    for item in items:
        if item.type in _CALLS:
            call = (_call_id(item), item.name, item.arguments)
            if call in calls:
                continue
            calls.append(call)
        kept.append(item)
    return kept


def _call_id(call: Any) -> Any:
    return call.id if call.type == "mcp_approval_request" else call.call_id


def _as_json(item: Any) -> Any:
    if isinstance(item, BaseModel):
        # What wasn't set must not be sent: the API refuses nulls in places.
        return item.model_dump(mode="json", exclude_unset=True)
    return pydantic_core.to_jsonable_python(item)


def _function_result(call_id: str, output: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


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
        self._answer = WatchedAnswer(stream)

    async def receive(self, queue: Any) -> Any:
        entry = await super().receive(queue)
        if isinstance(entry, FromModel):
            self._answer.check(entry.event)
            _warn_of_approval(entry.event)
        elif isinstance(entry, RunEnded) and entry.error is None:
            self._answer.check_end()
        return entry


class WatchedAnswer:
    """Tells a failed answer from a whole one, while somebody reads its stream."""

    def __init__(self, stream: object) -> None:
        self._stream = stream
        self._is_awaited = hasattr(stream, "response")
        """Whether the event that ends an answer has to come."""

    def check(self, event: Any) -> None:
        """Look at an event. Raises `ModelError` if it says that the answer failed."""
        check_failure(event)
        if event.type == "response.created":
            self._is_awaited = True
        elif event.type in _LAST_EVENTS:
            self._is_awaited = False

    def check_end(self) -> None:
        """Look at the end of the stream. Raises `ModelError` if it has broken off."""
        if self._is_awaited:
            raise broken_off(self._stream)


def broken_off(stream: Any) -> ModelError:
    """Return the error for a stream that has ended without the event that ends an answer."""
    headers = getattr(getattr(stream, "response", None), "headers", {})
    kind = headers.get("content-type", "no content type")
    return ModelError(
        f"the model's stream ({kind}) broke off: it ended without response.completed. Either the"
        " connection was cut, or the server doesn't speak the Responses API"
    )


def _warn_of_approval(event: Any) -> None:
    item = item_of(event)
    is_done = event.type == "response.output_item.done"
    if is_done and item is not None and item.type == "mcp_approval_request":
        logger.warning(
            "the model asks for approval of %s on MCP server %s, and stream_response() can't ask"
            " the user: use run_model(), or set require_approval to never",
            item.name,
            item.server_label,
        )


def check_failure(event: Any) -> None:
    """Raise `ModelError` if the event says that the answer failed, or isn't an event."""
    kind = getattr(event, "type", None)
    if not isinstance(kind, str):
        raise ModelError(f"the model's stream has a {type(event).__name__} that is no event")
    if kind == "error":
        raise ModelError(f"the model's stream failed: {_said(event)}")
    response = getattr(event, "response", None)
    if kind == "response.failed" or getattr(response, "status", None) in _FAILURES:
        raise ModelError(f"the model's answer failed: {_said(getattr(response, 'error', None))}")


_FAILURES = {"failed", "cancelled"}


def _said(error: Any) -> str:
    words = [getattr(error, name, None) for name in ("code", "message")]
    return ": ".join(str(word) for word in words if word) or "no reason was given"
