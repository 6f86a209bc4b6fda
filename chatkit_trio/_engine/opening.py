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
    turn_id: str = ""
    """The id of the turn, if it was chosen before the turn is made."""
    makes_thread: bool = False
    """Whether the first writes make the thread."""
    message_id: str = ""
    """The id of the user's message, if it was chosen before `begin`; see `name_message`."""

    async def name_message(self) -> None:
        """Choose the id of the user's message now, if the request has one.

        Then `begin` may be called again after a try that failed: the message is stored once.
        """
        return

    @abstractmethod
    async def check(self) -> None:
        """Look, by reads only, whether the request fits the thread; raise if it doesn't."""

    @abstractmethod
    async def begin(self) -> StartedRequest:
        """Do the first writes."""

    async def began(self) -> None:
        """Take note that the first writes have been made, and that `respond` is called next."""
        return


class TurnHooks(Protocol):
    """What a turn needs of the server that it belongs to."""

    store: Store[Any]

    def get_stream_options(self, thread: ThreadMetadata, context: Any) -> StreamOptions:
        """Return the options of a turn."""
        ...

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        """Store what is worth keeping of a turn that ended early."""
