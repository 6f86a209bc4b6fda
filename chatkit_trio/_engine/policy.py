"""How a turn treats its readers, its rivals and the clock: plain settings, nothing that waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

OnDisconnect: TypeAlias = Literal["cancel", "finish"] | float
OnBusy: TypeAlias = Literal["supersede", "queue", "reject"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnPolicy:
    """The settings of one turn; a server has one as its default.

    Override `ChatKitServer.get_turn_policy` for another one a turn. All times are in seconds.
    """

    on_disconnect: OnDisconnect = "cancel"
    """When nobody reads the stream any more: `"cancel"` the turn, let it `"finish"`, or let it go
    on for so many seconds and cancel it if nobody has come back by then."""

    on_busy: OnBusy = "supersede"
    """When the thread has a live turn already: `"supersede"` it (settle it, then start), `"queue"`
    behind it, or `"reject"` the new one (`BusyError`, HTTP 409)."""

    turn_timeout: float | None = None
    """The longest a turn may take, from its first event."""

    stall_timeout: float | None = 60.0
    """How long a turn waits for a client that is connected and reads nothing."""

    settle_timeout: float = 5.0
    """The longest that storing a cut-short answer may take, and that a write which a cancellation
    falls on may go on."""

    heartbeat: float | None = 15.0
    """After so long without an event, send an SSE comment, so that proxies keep the connection."""

    max_unread_bytes: int = 256 * 1024
    """How much may wait for a slow client before `respond` has to wait for it too."""

    max_replay_bytes: int = 256 * 1024
    """How much of a live turn is kept for clients that come back or watch it too."""
