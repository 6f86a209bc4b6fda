"""What was recorded of one simulated run, mostly by its clients. Nothing here waits or judges.

All records are numbered by one counter, so that of any two it is known which came first, although
virtual time stands still while anything works.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chatkit_trio.server import CancelReason, RemoteTurn, Turn
from chatkit_trio.types import (
    AssistantMessageItem,
    ErrorEvent,
    ThreadItem,
    ThreadMetadata,
    WidgetItem,
    WorkflowItem,
)

from ._recorder import Recording
from ._simulate_plan import Operation, Settings
from ._simulate_store import Faults, Ledger

__all__ = [
    "Body", "Cause", "Exchange", "Fact", "History", "Life", "LogRecord", "Reading", "Request",
    "extent", "has_content",
]  # fmt: skip


def extent(item: ThreadItem) -> str:
    """Return what grows of an item while it streams."""
    match item:
        case AssistantMessageItem():
            return "".join(part.text for part in item.content)
        case WorkflowItem():
            return "".join(f"{getattr(task, 'title', '')}\n" for task in item.workflow.tasks)
        case WidgetItem():
            return "".join(_texts(item.widget.model_dump(mode="json", exclude_none=True)))
    return ""


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        value = node.get("value")
        if isinstance(value, str):
            yield value
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _texts(child)


def has_content(item: ThreadItem) -> bool:
    """Say whether an item that was cut short is worth keeping."""
    return isinstance(item, WidgetItem) or bool(extent(item).strip())


@dataclass(eq=False)
class Life:
    """One server process, from its start to its end or crash."""

    index: int
    server: Any
    door: Any
    began: int
    node: int = 0
    troubles: list[tuple[float, float]] = field(default_factory=list)
    """When it was held up or its store failed, and for how many seconds."""
    is_up: bool = False
    is_ending: bool = False
    ended_in_trouble: bool = False
    """Whether the store was away when the server gave up storing, or later."""
    gives_up_at: float = float("inf")
    """When a server that leaves stops trying to store what is left."""
    crashed: int | None = None
    crashed_at: float = float("inf")
    ended: int | None = None
    unsettled: set[str] = field(default_factory=set)
    """The turns that weren't settled when it crashed or ended."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A client was shown an item in this state."""

    number: int
    time: float
    thread_id: str
    item_id: str
    kind: str
    extent: str
    is_done: bool
    is_worth_keeping: bool
    turn_id: str | None
    life: Life

    def __str__(self) -> str:
        return f"{self.kind} {self.item_id} {shortened(self.extent)}"


def shortened(text: str) -> str:
    """Return a text as a report shows it."""
    return repr(text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}")


@dataclass(eq=False)
class Request:
    """An operation of a client, and what came of it."""

    number: int
    time: float
    operation: Operation
    life: Life
    thread_id: str | None = None
    sent_to: str | None = None
    """The thread that its body names."""
    ended: int | None = None
    ended_at: float = 0.0
    outcome: str = ""
    """"ok", "broken" if the server was gone, or what it was refused with."""
    error: Exception | None = None


@dataclass(eq=False)
class Exchange:
    """A stream that a client has read."""

    number: int
    request: Request
    turn: Turn[Any] | RemoteTurn
    first_frame: int
    thread_id: str | None
    frames: list[bytes] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    is_repeat: bool = False
    """Whether it answers a request that was sent before; its frames have numbers of their own."""
    complete: int | None = None
    """When the server had ended the stream."""
    error: ErrorEvent | None = None
    accepted: str | None = None
    """The id of the user's message, once the client has seen it."""


@dataclass(eq=False)
class Reading:
    """What a client was told that asked for a thread's items."""

    number: int
    thread_id: str
    with_live: bool
    """Whether it was told of items that aren't stored yet, too."""
    is_all: bool
    ended: int
    items: list[ThreadItem]


@dataclass(eq=False)
class Body:
    """One call of `respond` or `action`."""

    number: int
    life: Life
    turn: Turn[Any]
    thread_id: str
    recording: Recording
    outcome: str = "open"
    """"finished", "raised" or "cancelled" at its end; "open" before."""
    ended: int | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """Somebody did something that may end turns."""

    number: int
    reason: CancelReason
    thread_id: str | None = None
    turn_id: str | None = None
    life: Life | None = None
    request: Request | None = None


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A line of the log that a living server has written."""

    number: int
    level: int
    message: str
    error: BaseException | None

    @property
    def is_error(self) -> bool:
        return self.level >= logging.ERROR


@dataclass(eq=False)
class History:
    """All of it."""

    seed: int
    settings: Settings
    ledger: Ledger
    faults: Faults
    uses_own_server: bool
    journal_interval: float = 0.5
    lives: list[Life] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    lists: list[tuple[int, list[str]]] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)
    """Threads that a client has been told of, and when."""
    stops: list[tuple[int, int, str]] = field(default_factory=list)
    """When the turn of a thread was to be stopped, since when it certainly was, and the thread."""
    bodies: list[Body] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    log: list[LogRecord] = field(default_factory=list)
    stored: dict[str, list[ThreadItem]] = field(default_factory=dict)
    """What was in the store at the end, hidden items too."""
    threads: dict[str, ThreadMetadata] = field(default_factory=dict)
    abandoned: int = 0
    """How many entries the journal still had."""
    trace: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """What went wrong in the run itself: the kind, and in words."""
