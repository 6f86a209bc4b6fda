"""How a turn treats its readers, its rivals and the clock: plain settings, nothing that waits."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

from chatkit_trio._settings import check_choice, check_count, check_seconds

OnDisconnect: TypeAlias = Literal["cancel", "finish"] | float
OnBusy: TypeAlias = Literal["supersede", "queue", "reject"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnPolicy:
    """The settings of one turn; a server has one as its default.

    Override `ChatKitServer.get_turn_policy` for another one a turn. All times are in seconds.
    Raises `TypeError` or `ValueError` for a value that can't be meant.
    """

    on_disconnect: OnDisconnect = "cancel"
    """When nobody reads the stream any more: `"cancel"` the turn, let it `"finish"`, or let it go
    on for so many seconds and cancel it if nobody has come back by then."""

    return_timeout: float = 20.0
    """How long a turn with `on_disconnect="cancel"` goes on when the last reader has left and can
    come back: a client that asked for event ids. For a client that didn't, a disconnect is its way
    to stop, and cancels at once. 0: it always cancels at once."""

    on_busy: OnBusy = "supersede"
    """When the thread has a live turn already: `"supersede"` it (settle it, then start), `"queue"`
    behind it, or `"reject"` the new one (`BusyError`, HTTP 409). Actions and answers queue where
    this says supersede; see `ChatKitServer.get_turn_policy`."""

    turn_timeout: float | None = None
    """The longest a turn may take, from its first write. It ends with reason `deadline`."""

    idle_timeout: float | None = None
    """How long `respond` may yield nothing, from its start or its last event. The clock stands
    still while an event waits for the store or the client, and starts anew with each event of a
    model and each end of a tool that `chatkit_trio.agents` runs, and with
    `Turn.still_working()`. The turn ends with reason `silent`."""

    max_continuations: int = 1
    """How many times in a row `ChatKitServer.on_recovered` may be called for one message of the
    user: what crashes the server again and again must not do so for ever."""

    stall_timeout: float | None = 60.0
    """How long a turn waits for a client that is connected and reads nothing."""

    settle_timeout: float = 5.0
    """The longest that storing a cut-short answer may take, and that a write which a cancellation
    falls on may go on."""

    heartbeat: float | None = 15.0
    """After so long without an event, send an SSE comment, so that proxies keep the connection."""

    flush_interval: float = 0.033
    """Events that follow the last ones within so long go out together, over HTTP. The first one
    after a pause goes out at once. A server that can't keep up makes it up to four times longer; a
    busy one does so for streams of more than 200 events a second, which nobody can read along. 0:
    nothing is held back, and each send costs the server as much as many events."""

    max_unread_bytes: int = 256 * 1024
    """How much may wait for a slow client before `respond` has to wait for it too."""

    max_replay_bytes: int = 256 * 1024
    """How much of a live turn is kept for clients that come back or watch it too."""

    def __post_init__(self) -> None:
        if isinstance(self.on_disconnect, str):
            check_choice("on_disconnect", self.on_disconnect, ("cancel", "finish"))
        else:
            instead = "or 'cancel', or 'finish' for no limit"
            check_seconds("on_disconnect", self.on_disconnect, or_zero=True, instead=instead)
        check_choice("on_busy", self.on_busy, ("supersede", "queue", "reject"))
        check_seconds("return_timeout", self.return_timeout, or_zero=True)
        check_seconds("flush_interval", self.flush_interval, or_zero=True)
        # Zero would give up an answer before it is stored.
        check_seconds("settle_timeout", self.settle_timeout)
        for name in ("turn_timeout", "idle_timeout", "stall_timeout", "heartbeat"):
            check_seconds(name, getattr(self, name), unless=None, instead="or None for none")
        check_count("max_unread_bytes", self.max_unread_bytes)
        check_count("max_replay_bytes", self.max_replay_bytes, least=0)
        check_count("max_continuations", self.max_continuations, least=0)

    def seconds_after_disconnect(self, *, can_return: bool) -> float:
        """Return how long a turn goes on without readers, infinite for to its end."""
        if self.on_disconnect == "finish":
            return inf
        if self.on_disconnect == "cancel":
            return self.return_timeout if can_return else 0.0
        return self.on_disconnect
