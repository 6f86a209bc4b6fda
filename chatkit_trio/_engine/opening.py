"""How a turn is asked for: a checked request, its first writes, and the hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chatkit_trio.store import Opening, Store
from chatkit_trio.types import StreamOptions, ThreadItem, ThreadMetadata, ThreadStreamEvent

from .foreign import ForeignModels
from .journal import JournalWriter
from .pace import BigWork
from .story import Story


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A streaming request that fits its thread: its first writes, and what follows them.

    The events here tell of those writes; they are sent as they are, once the writes are made.
    """

    opening: Opening
    thread: ThreadMetadata
    respond: Callable[[], Any]
    first_events: Sequence[ThreadStreamEvent] = ()
    sends_options: bool = True
    events_after_options: Sequence[ThreadStreamEvent] = ()


class CheckedRequest(ABC):
    """A streaming request that has been parsed.

    Its methods write nothing, and run while no other turn of this process can begin on the thread.
    """

    kind: str = ""
    """What the client asked for: the `type` of the request."""
    thread_id: str
    """The thread of the turn; for `threads.create` the id that the new thread will have."""
    turn_id: str = ""
    """The id of the turn, if it was chosen before the turn is made."""
    makes_thread: bool = False
    """Whether the first writes make the thread."""
    message_id: str = ""
    """The id of the user's message, if it was chosen before `prepare`; see `name_message`."""
    has_given_ids: bool = False
    """Whether ids of what the request makes were given; they must be free."""

    def give_ids(self, thread_id: str | None, message_id: str | None) -> None:
        """Have the thread and the message that the request makes get these ids."""
        self.has_given_ids = True
        if thread_id is not None and self.makes_thread:
            self.thread_id = thread_id
        if message_id is not None:
            self.message_id = message_id

    async def name_message(self) -> None:
        """Choose the id of the user's message now, if the request has one.

        Then the request may be prepared and its first writes made again after a try that failed:
        the message is stored once.
        """
        return

    @abstractmethod
    async def check(self) -> None:
        """Look, by reads only, whether the request fits the thread; raise if it doesn't."""

    @abstractmethod
    async def prepare(self, turn_id: str) -> PreparedRequest:
        """Return what to write first, and what follows; raise as `check` does.

        Called again if another process was faster: what it reads may have changed.
        """

    @abstractmethod
    async def refresh(self, thread: ThreadMetadata) -> None:
        """Put what the store has of a thread into this object.

        Called when the turn has the thread: until then another process may have changed it.
        """

    async def began(self) -> None:
        """Take note that the first writes have been made, and that `respond` is called next."""
        return


class TurnHooks(Protocol):
    """What a turn needs of the server that it belongs to."""

    store: Store[Any]
    foreign_models: ForeignModels
    big_work: BigWork
    journal_writer: JournalWriter | None
    turn_story: Story

    def get_owner(self, context: Any) -> str:
        """Return who a request's use is counted for."""
        ...

    def get_stream_options(self, thread: ThreadMetadata, context: Any) -> StreamOptions:
        """Return the options of a turn."""
        ...

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        """Store what is worth keeping of a turn that ended early."""
