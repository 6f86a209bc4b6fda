"""How a turn is asked for: a checked request, what its first writes have made, and the hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chatkit_trio.store import Store
from chatkit_trio.types import StreamOptions, ThreadItem, ThreadMetadata, ThreadStreamEvent


@dataclass(frozen=True, slots=True)
class StartedRequest:
    """A streaming request after its first writes: what to send, and where events come from.

    The events here tell of those writes; they are sent as they are.
    """

    thread: ThreadMetadata
    respond: Callable[[], Any]
    first_events: Sequence[ThreadStreamEvent] = ()
    sends_options: bool = True
    events_after_options: Sequence[ThreadStreamEvent] = ()


class CheckedRequest(ABC):
    """A streaming request that has been parsed and has written nothing yet.

    Both methods run while no other turn can begin on the thread.
    """

    thread_id: str
    """The thread of the turn; for `threads.create` the id that the new thread will have."""

    @abstractmethod
    async def check(self) -> None:
        """Look, by reads only, whether the request fits the thread; raise if it doesn't."""

    @abstractmethod
    async def begin(self) -> StartedRequest:
        """Do the first writes."""


class TurnHooks(Protocol):
    """What a turn needs of the server that it belongs to."""

    store: Store[Any]

    def get_stream_options(self, thread: ThreadMetadata, context: Any) -> StreamOptions:
        """Return the options of a turn."""

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        """Store what is worth keeping of a turn that ended early."""
