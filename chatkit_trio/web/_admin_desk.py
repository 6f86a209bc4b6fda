"""What `/admin` shows of one server: its live turns with their tasks, the last ends, its health.

The server of another node tells the same when it is asked, so everything here is asked by an
`Order` and answered with JSON text. Texts of users and models aren't told, nor those of errors.
"""

from __future__ import annotations

import math
import os
import platform
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

import trio
from pydantic import BaseModel

from chatkit_trio import __version__
from chatkit_trio._engine.node import Node, node_of
from chatkit_trio._engine.task_tree import TaskClock, tree_of
from chatkit_trio.observe import (
    Event,
    FirstEventSent,
    RequestRefused,
    TurnEnded,
    TurnInfo,
    TurnRecovered,
    owner_hash,
)
from chatkit_trio.server import CancelReason, ChatKitServer, Turn

from ._health import Health

_ENDS_KEPT = 40
_LONGEST_ID = 120  # characters of an id that a client may have chosen


class _Most(NamedTuple):
    turns: int
    tasks: int


_HERE = _Most(500, 500)
_ELSEWHERE = _Most(100, 60)
"""What another node tells has to fit into one message of some 100 kB."""


class Order(BaseModel):
    """What an admin wants of a server."""

    do: Literal["state", "tree", "tasks", "stop"]
    turn_id: str = ""


class TurnView(BaseModel):
    """A live turn."""

    turn_id: str
    thread_id: str
    request: str
    owner_hash: str
    state: str
    reason: str | None
    """Why it is being cut, if it is."""
    seconds: float
    """Since it was asked for."""
    first_event_seconds: float | None
    """From then to its first event; None while there is none."""
    seconds_left: float | None
    """Until the nearest of its time limits; None if there is none."""
    events: int
    readers: int
    unread_bytes: int


class EndView(BaseModel):
    """A turn that has ended."""

    turn_id: str
    thread_id: str
    request: str
    owner_hash: str
    reason: str
    seconds: float
    events: int
    error: str
    """The class of what went wrong, if something did."""
    at: float
    """When, in seconds since 1970."""


class HealthView(BaseModel):
    """How a server fares."""

    is_running: bool
    stores: dict[str, bool]
    """Whether each store can be written to."""
    journal_lag: float | None
    """Seconds since the journal had all that live turns said; None without a journal."""
    oldest_settling: float | None
    """Seconds since the oldest answer that isn't stored is over."""
    unread_bytes: int


class ProcessView(BaseModel):
    """The process and its event loop."""

    host: str
    pid: int
    version: str
    python: str
    trio: str
    up_seconds: float
    tasks: int
    tasks_runnable: int
    threads_busy: int
    threads: float


class ServerView(BaseModel):
    """Everything that is shown of a server without being asked for."""

    node: str
    server: str
    """The name of its class."""
    turns: list[TurnView]
    live_turns: int
    ends: list[EndView]
    reasons: dict[str, int]
    """How many turns have ended, by reason, since the process began."""
    recovered: dict[str, int]
    """How many turns of dead processes were stored here, by reason."""
    refusals: dict[str, int]
    """How many requests were refused, by code."""
    health: HealthView
    process: ProcessView


class Desk:
    """One server, as its admin sees it. It watches from now on."""

    def __init__(self, server: ChatKitServer[Any]) -> None:
        self._server = server
        self._health = Health(server)
        self._clock = TaskClock()
        self._began_at = time.monotonic()
        self._first_events: dict[str, float] = {}
        self._ends: deque[EndView] = deque(maxlen=_ENDS_KEPT)
        self._reasons: Counter[str] = Counter()
        self._recovered: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        server.observe(self._note)

    @property
    def node(self) -> Node | None:
        """The server's place among those that share its store, if the store can be shared."""
        return node_of(self._server.store)

    def start(self) -> None:
        """Watch the tasks of this run of Trio, and answer other nodes, from now on."""
        trio.lowlevel.add_instrument(self._clock)
        if self.node is not None:
            self.node.tellers.append(self._tell_elsewhere)

    def stop(self) -> None:
        """Watch no more."""
        if self.node is not None:
            self.node.tellers.remove(self._tell_elsewhere)
        trio.lowlevel.remove_instrument(self._clock)

    async def tell(self, order: Order) -> str:
        """Carry out an order for an admin who asks this process; return JSON text. A checkpoint."""
        return await _DEEDS[order.do](self, order, _HERE)

    async def _tell_elsewhere(self, about: str) -> str:
        order = Order.model_validate_json(about)
        return await _DEEDS[order.do](self, order, _ELSEWHERE)

    # --- The orders ----------------------------------------------------------------------------

    async def _state(self, order: Order, most: _Most) -> str:
        stores = await self._health.states()
        live = list(self._server.live_turns)
        view = ServerView(
            node="" if self.node is None else self.node.name,
            server=type(self._server).__name__,
            turns=[self._turn_view(turn) for turn in live[: most.turns]],
            live_turns=len(live),
            ends=list(self._ends),
            reasons=self._reasons,
            recovered=self._recovered,
            refusals=self._refusals,
            health=self._health_view(stores),
            process=self._process_view(),
        )
        return view.model_dump_json()

    async def _tree(self, order: Order, most: _Most) -> str:
        await trio.lowlevel.checkpoint()
        turn = self._find(order.turn_id)
        if turn is None or turn.task is None:
            return "null"
        return self._drawn(turn.task, most)

    async def _tasks(self, order: Order, most: _Most) -> str:
        await trio.lowlevel.checkpoint()
        root = trio.lowlevel.current_root_task()
        return "null" if root is None else self._drawn(root, most)

    def _drawn(self, task: trio.lowlevel.Task, most: _Most) -> str:
        tree = tree_of(task, self._clock, most.tasks)
        return tree.model_dump_json()

    async def _stop(self, order: Order, most: _Most) -> str:
        await trio.lowlevel.checkpoint()
        turn = self._find(order.turn_id)
        if turn is None:
            return "null"
        turn.cancel(CancelReason.STOPPED)
        return "true"

    def _find(self, turn_id: str) -> Turn[Any] | None:
        return next((turn for turn in self._server.live_turns if turn.id == turn_id), None)

    # --- What the server tells -----------------------------------------------------------------

    def _note(self, event: Event) -> None:
        match event:
            case FirstEventSent(turn=turn, seconds=seconds):
                self._first_events[turn.turn_id] = seconds
            case TurnEnded():
                self._note_end(event)
            case TurnRecovered(reason=reason):
                self._recovered[reason] += 1
            case RequestRefused(code=code):
                self._refusals[code] += 1

    def _note_end(self, event: TurnEnded) -> None:
        self._first_events.pop(event.turn.turn_id, None)
        self._reasons[event.reason] += 1
        self._ends.appendleft(
            EndView(
                **_who(event.turn),
                reason=event.reason,
                seconds=event.seconds,
                events=event.events,
                error="" if event.error is None else type(event.error).__qualname__,
                at=time.time(),
            )
        )

    # --- Views ---------------------------------------------------------------------------------

    def _turn_view(self, turn: Turn[Any]) -> TurnView:
        reason = turn.cancel_reason
        return TurnView(
            **_who(turn.info),
            state=turn.state,
            reason=None if reason is None else reason.value,
            seconds=turn.seconds,
            first_event_seconds=self._first_events.get(turn.id),
            seconds_left=_left(turn.cancel_scope.deadline),
            events=turn.log.next_number,
            readers=turn.log.readers,
            unread_bytes=turn.log.unread_bytes,
        )

    def _health_view(self, stores: dict[str, bool]) -> HealthView:
        writer = self._server.journal_writer
        return HealthView(
            is_running=self._server.is_running,
            stores=stores,
            journal_lag=None if writer is None else writer.lag,
            oldest_settling=self._server.live_turns.oldest_settling,
            unread_bytes=self._server.live_turns.unread_bytes,
        )

    def _process_view(self) -> ProcessView:
        statistics = trio.lowlevel.current_statistics()
        threads = trio.to_thread.current_default_thread_limiter()
        return ProcessView(
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            python=platform.python_version(),
            trio=trio.__version__,
            up_seconds=time.monotonic() - self._began_at,
            tasks=statistics.tasks_living,
            tasks_runnable=statistics.tasks_runnable,
            threads_busy=threads.borrowed_tokens,
            threads=threads.total_tokens,
        )


_DEEDS: dict[str, Callable[[Desk, Order, _Most], Awaitable[str]]] = {
    "state": Desk._state,
    "tree": Desk._tree,
    "tasks": Desk._tasks,
    "stop": Desk._stop,
}


def _who(turn: TurnInfo) -> dict[str, str]:
    return {
        "turn_id": turn.turn_id,
        "thread_id": turn.thread_id[:_LONGEST_ID],
        "request": turn.request,
        "owner_hash": owner_hash(turn.owner),
    }


def _left(deadline: float) -> float | None:
    return None if math.isinf(deadline) else max(0.0, deadline - trio.current_time())
