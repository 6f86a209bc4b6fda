"""OpenTelemetry traces of a server's turns (extra `otel`).

One span a turn, and below it spans of the calls of models and tools that `agents.run_model` makes,
and of the settling. Spans that your own code opens in `respond`, in tools and in tasks of the turn
are below them too. docs/how-to/observe.md tells the attributes.

Spans go to the tracer provider that your program sets up. No text of users or models is in them.
"""

from __future__ import annotations

from contextvars import Token
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from ._engine.groups import split_cancelled, unwrapped
from .errors import ChatKitError
from .observe import (
    CallBegan,
    CallEnded,
    Event,
    FirstEventSent,
    TurnAsked,
    TurnBegan,
    TurnEnded,
    TurnInfo,
    TurnRecovered,
    TurnSettled,
    TurnSettling,
    owner_hash,
    trace_headers,
)

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context, attach, detach, get_current
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ModuleNotFoundError as error:
    raise ImportError(
        "traces need the package opentelemetry-api: pip install 'chatkit-trio[otel]'"
    ) from error

__all__ = ["Tracing"]


@dataclass(slots=True)
class _Open:
    """A span that is the current one of its task."""

    span: Span
    token: Token[Context]

    def close(self) -> None:
        """End it, in the task in which it was opened."""
        self.span.end()
        detach(self.token)


class Tracing:
    """An observer that makes spans.

        server = MyServer(store)
        server.observe(Tracing())

    `tracer_provider` is OpenTelemetry's global one unless you give another.

    The parent of a turn's span is the span that is current where the request is answered, as an
    ASGI instrumentation makes one; else the one that the request's `traceparent` names.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer(
            "chatkit_trio", version("chatkit-trio"), tracer_provider=tracer_provider
        )
        self._turns: dict[str, Span] = {}
        self._settlings: dict[str, _Open] = {}
        self._calls: dict[CallBegan, _Open] = {}

    def __call__(self, event: Event) -> None:
        """Begin, complete or end a span. Not a checkpoint."""
        match event:
            case TurnAsked(turn=turn):
                self._begin_turn(turn)
            case TurnBegan(turn=turn):
                self._turn(turn).add_event("chatkit.turn.began")
            case FirstEventSent(turn=turn):
                self._turn(turn).add_event("chatkit.turn.first_event")
            case TurnSettling(turn=turn):
                self._settlings[turn.turn_id] = self._open("settle", SpanKind.INTERNAL, turn)
            case TurnSettled():
                self._end_settling(event)
            case TurnEnded():
                self._end_turn(event)
            case TurnRecovered():
                self._tell_recovery(event)
            case CallBegan():
                self._begin_call(event)
            case CallEnded():
                self._end_call(event)

    def _turn(self, turn: TurnInfo) -> Span:
        # One that was asked for before this observer was there has none.
        return self._turns.get(turn.turn_id, trace.INVALID_SPAN)

    def _begin_turn(self, turn: TurnInfo) -> None:
        parent = get_current()
        if not trace.get_current_span(parent).get_span_context().is_valid:
            parent = propagate.extract(trace_headers.get() or {}, parent)
        attributes = _attributes(turn.turn_id, turn.thread_id) | {
            "gen_ai.operation.name": "invoke_agent",
            "chatkit.request": turn.request,
        }
        if turn.owner:
            attributes["user.hash"] = owner_hash(turn.owner)
        span = self._tracer.start_span(f"turn {turn.request}", parent, attributes=attributes)
        self._turns[turn.turn_id] = span
        # For good: this is the turn's own task, whose context nobody else has.
        attach(trace.set_span_in_context(span, parent))

    def _open(
        self, name: str, kind: SpanKind, turn: TurnInfo, attributes: dict[str, Any] | None = None
    ) -> _Open:
        attributes = _attributes(turn.turn_id, turn.thread_id) | (attributes or {})
        span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        return _Open(span, attach(trace.set_span_in_context(span)))

    def _end_settling(self, event: TurnSettled) -> None:
        settling = self._settlings.pop(event.turn.turn_id, None)
        if settling is None:
            return
        settling.span.set_attribute("chatkit.settle.tries", event.tries)
        settling.span.set_attribute("chatkit.settle.is_stored", event.is_stored)
        if not event.is_stored:
            settling.span.set_attribute("error.type", "not_stored")
            settling.span.set_status(Status(StatusCode.ERROR))
        settling.close()

    def _end_turn(self, event: TurnEnded) -> None:
        span = self._turns.pop(event.turn.turn_id, trace.INVALID_SPAN)
        span.set_attribute("chatkit.turn.reason", event.reason)
        span.set_attribute("chatkit.turn.is_cut", event.is_cut)
        span.set_attribute("chatkit.turn.events", event.events)
        if event.error is not None:
            span.set_attribute("error.type", _name_of(event.error))
        elif event.reason in _FAILURES:
            span.set_attribute("error.type", event.reason)
        if event.reason in _FAILURES or _is_own_fault(event.error):
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _tell_recovery(self, event: TurnRecovered) -> None:
        """Make a span for the end of a turn whose own span has died with its process."""
        attributes = _attributes(event.turn_id, event.thread_id)
        attributes["chatkit.turn.reason"] = event.reason
        attributes["error.type"] = "crashed"
        span = self._tracer.start_span("turn recovered", attributes=attributes)
        span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _begin_call(self, call: CallBegan) -> None:
        kind = SpanKind.CLIENT if call.kind == "model" else SpanKind.INTERNAL
        operation = call.facts.get("gen_ai.operation.name", call.kind)
        name = f"{operation} {call.name}".rstrip()
        self._calls[call] = self._open(name, kind, call.turn, dict(call.facts))

    def _end_call(self, event: CallEnded) -> None:
        call = self._calls.pop(event.call, None)
        if call is None:
            return
        call.span.set_attributes(dict(event.facts))
        if event.error is not None:
            cancelled, failure = split_cancelled(event.error)
            call.span.set_attribute("chatkit.call.is_cut", cancelled is not None)
            if failure is not None:
                call.span.set_attribute("error.type", _name_of(unwrapped(failure)))
                call.span.set_status(Status(StatusCode.ERROR))
        call.close()


_FAILURES = ("failed", "crashed")


def _attributes(turn_id: str, thread_id: str) -> dict[str, Any]:
    # A client may have chosen the thread's id; exporters take UTF-8 only.
    thread_id = thread_id.encode(errors="backslashreplace").decode()
    return {"chatkit.turn.id": turn_id, "gen_ai.conversation.id": thread_id}


def _is_own_fault(error: BaseException | None) -> bool:
    """Say whether an error isn't the client's."""
    return error is not None and not (isinstance(error, ChatKitError) and error.http_status < 500)


def _name_of(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
