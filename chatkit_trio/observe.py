"""What a server tells those who watch it: metrics, traces, logs, and whatever you write yourself.

An observer is a function that takes an event, one of the classes here. It is called at once, in the
task in which the thing happens, so it has to return at once: one that waits or computes holds up
the server. What it raises is logged, once for each observer, and changes nothing.

    def watch(event):
        match event:
            case TurnEnded(turn=turn, reason=reason, seconds=seconds):
                print(turn.turn_id, reason, seconds)

    server.observe(watch)

The life of a turn: `TurnAsked`; `TurnBegan`, when its first writes are made; `FirstEventSent`;
`TurnSettling`, when its answer is over; `TurnSettled`, when that is stored; `TurnEnded`. Meanwhile
come `StoreOperation`, `CallBegan` and `CallEnded`. A turn that can't begin has `TurnAsked`,
perhaps `RequestRefused`, and `TurnEnded`. No event holds a text of users or models, but errors may.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = [
    "OWNER_KEY_VARIABLE",
    "CallBegan",
    "CallEnded",
    "Event",
    "FirstEventSent",
    "Observer",
    "RequestRefused",
    "StoreOperation",
    "TurnAsked",
    "TurnBegan",
    "TurnEnded",
    "TurnInfo",
    "TurnRecovered",
    "TurnSettled",
    "TurnSettling",
    "owner_hash",
    "trace_headers",
]


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """Which turn an event is about."""

    turn_id: str
    thread_id: str
    """A client may have chosen it."""
    request: str
    """What the client asked for: the `type` of the request, or `recovered`, if the server goes on
    with an answer that a crash has cut."""
    owner: str
    """What `ChatKitServer.get_owner` says, "" if it says nothing. See `owner_hash`."""


@dataclass(frozen=True, slots=True)
class TurnAsked:
    """A turn is about to begin; it may have to wait for its thread."""

    turn: TurnInfo


@dataclass(frozen=True, slots=True)
class TurnBegan:
    """The first writes of a turn are made; `respond` is called next."""

    turn: TurnInfo
    seconds: float
    """Since the turn was asked for."""


@dataclass(frozen=True, slots=True)
class FirstEventSent:
    """The first event that `respond` yielded and clients see is handed to the connection."""

    turn: TurnInfo
    seconds: float
    """Since the turn was asked for."""


@dataclass(frozen=True, slots=True)
class TurnSettling:
    """The answer is over, or cut; what is left of it is stored next."""

    turn: TurnInfo
    reason: str
    """`finished`, or the value of a `CancelReason`."""


@dataclass(frozen=True, slots=True)
class TurnSettled:
    """The store has the answer, or the server has given up, because it leaves."""

    turn: TurnInfo
    seconds: float
    """Since `TurnSettling`."""
    tries: int
    """How often it was tried to store all that was left in one step; 0 if nothing was left."""
    is_stored: bool
    """False: a journal, if there is one, has the answer."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A turn is over, and its answer is stored if it can be. Each `TurnAsked` has one."""

    turn: TurnInfo
    reason: str
    """`finished`, the value of a `CancelReason`, or `refused`, if the turn couldn't begin."""
    seconds: float
    """Since the turn was asked for."""
    events: int
    """How many events its clients could read."""
    error: BaseException | None = None
    """What went wrong, if it `failed` or was `refused`."""

    @property
    def is_cut(self) -> bool:
        """Whether somebody or a limit has cut the answer short; a failed one isn't cut."""
        return self.reason not in _NOT_CUT


_NOT_CUT = ("finished", "failed", "refused", "crashed")


@dataclass(frozen=True, slots=True)
class TurnRecovered:
    """A turn is stored whose process has died."""

    turn_id: str
    thread_id: str
    reason: str
    """What had ended it: `crashed`, or why it had been cut before its process died."""


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A request wasn't carried out, or failed before it was."""

    code: str
    """The `code` of the `ChatKitError`, or `internal` for another error."""
    request: str
    """The `type` of the request; "" if it couldn't be read."""
    error: BaseException


@dataclass(frozen=True, slots=True)
class StoreOperation:
    """The store has done something for a live turn, or has failed to."""

    turn: TurnInfo
    name: str
    """The method of `Store`, or of its journal (`journal.begin`, `journal.checkpoint`)."""
    seconds: float
    is_done: bool
    """False: it has failed, or its outcome isn't known."""


@dataclass(frozen=True, slots=True, eq=False)
class CallBegan:
    """A turn calls a model or a tool, in the calling task. Told by `agents.run_model`."""

    turn: TurnInfo
    kind: Literal["model", "tool"]
    name: str
    """Of the model, or of the tool."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is known, by the names of OpenTelemetry's conventions."""


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is over; told in the same task as its beginning."""

    call: CallBegan
    """The same object as was told when it began."""
    seconds: float
    facts: Mapping[str, Any]
    """What is known now, by the names of OpenTelemetry's conventions."""
    error: BaseException | None = None
    """What it raised; also a cancellation."""


Event: TypeAlias = (
    TurnAsked
    | TurnBegan
    | FirstEventSent
    | TurnSettling
    | TurnSettled
    | TurnEnded
    | TurnRecovered
    | RequestRefused
    | StoreOperation
    | CallBegan
    | CallEnded
)
"""Later versions may tell more: leave alone what you don't know."""

Observer: TypeAlias = Callable[[Event], object]
"""A plain function, not an async one."""

trace_headers: ContextVar[Mapping[str, str] | None] = ContextVar(
    "chatkit_trio_trace_headers", default=None
)
"""The `traceparent`, `tracestate` and `baggage` of the request that is being answered.

`chatkit_trio.web` sets it, if the server has observers; a task that calls `process` in another way
may set it."""


# --- Owners in logs and traces -----------------------------------------------------------------

OWNER_KEY_VARIABLE = "CHATKIT_TRIO_OWNER_KEY"
"""The environment variable with the key of `owner_hash`."""

_key_of_process = secrets.token_bytes(32)


def owner_hash(owner: str) -> str:
    """Return a name for an owner that tells nobody who it is: 16 hexadecimal digits, "" for "".

    It is an HMAC with a key, so that nobody who has a list of owners, but not the key, can find out
    whose it is. The key is in the environment variable `CHATKIT_TRIO_OWNER_KEY`; without one it is
    random, made anew with each process. Not a checkpoint, and for any thread.
    """
    if not owner:
        return ""
    given = os.environ.get(OWNER_KEY_VARIABLE)
    key = _key_of_process if not given else given.encode(errors="surrogateescape")
    text = owner.encode(errors="surrogatepass")
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:16]
