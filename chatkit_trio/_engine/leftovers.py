"""What a turn has left for the store: decided here, stored by `storing`.

No trio, no store. What settling has stored is noted here too, because it is what clients are told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from chatkit_trio.store import JournalEntry, Settlement
from chatkit_trio.types import SDKHiddenContextItem, ThreadItem, ThreadMetadata

from .items import SaveItem, TurnItems
from .keeping import CancelReason, kept_items
from .thread_state import ThreadWatch, as_metadata

logger = logging.getLogger(__name__)

_TRIES_OF_THREAD = 2
"""A thread that was refused so often, while its items were stored, stays as the store has it."""


class Leftovers:
    """All that one turn has produced and the store may lack."""

    def __init__(self, turn_id: str, items: TurnItems, watch: ThreadWatch) -> None:
        self.turn_id = turn_id
        self.thread_id = watch.thread.id
        self.items = items
        self.watch = watch
        self.in_journal = False
        """Whether the journal has an entry of this turn, for all that is known."""
        self.reason: CancelReason | None = None
        """Why the turn ended early, once that is decided."""
        self.note: SDKHiddenContextItem | None = None
        """The hidden note about the end, if there is to be one."""
        self.kept: tuple[ThreadItem, ...] | None = None
        """What is kept of the pending items; None if an own hook has stored what it wanted."""
        self.made_up_for: tuple[ThreadItem, ...] = ()
        """Finished items whose write failed, and which settling has stored."""
        self.saved_thread: ThreadMetadata | None = None
        """The thread, if settling has saved it."""
        self._pending_is_decided = False
        self._to_add: tuple[ThreadItem, ...] = ()
        self._thread_refusals = 0
        self._is_gone = False

    @property
    def is_nothing(self) -> bool:
        """Whether the store has all that it will get."""
        return self._is_gone or self.settlement() == Settlement(self.thread_id)

    def settlement(self) -> Settlement:
        """Return all that is left."""
        return Settlement(
            thread_id=self.thread_id,
            turn_id=self.turn_id if self.in_journal else None,
            new_items=(*self.own(self.items.unconfirmed_additions()), *self._to_add),
            changed_items=self.own(self.items.changed()),
            thread=self._unsaved_thread(),
        )

    @property
    def version(self) -> int:
        """Grows with all that changes what the journal must know."""
        # When the turn is cut, the reason belongs into the journal too.
        return self.items.version + (self.reason is not None)

    def journal_entry(self) -> JournalEntry:
        """Return what would have to be settled if the process died now."""
        pending = () if self._pending_is_decided else kept_items(self.items.pending())
        left = [item for item in self._to_add if item is not self.note] or pending
        return JournalEntry(
            turn_id=self.turn_id,
            thread_id=self.thread_id,
            items=(*self.own(self.items.unconfirmed_additions()), *self.own(left)),
            changed_items=self.own(self.items.changed()),
            reason=None if self.reason is None else self.reason.value,
        )

    def own(self, items: Sequence[ThreadItem]) -> tuple[ThreadItem, ...]:
        """Fix a wrong thread_id: the store would reject the whole settlement because of it."""
        update = {"thread_id": self.thread_id}
        return tuple(
            item if item.thread_id == self.thread_id else item.model_copy(update=update)
            for item in items
        )

    def keep(
        self,
        pending: Sequence[ThreadItem],
        make_note: Callable[[Sequence[ThreadItem]], SDKHiddenContextItem] | None,
    ) -> None:
        """Keep of the pending items what is worth it, and a note behind it, made only once."""
        self.kept = self._to_add = self.own(kept_items(pending))
        if make_note is not None:
            self.note = self.note or make_note(self.kept)
            self._to_add = (*self.kept, self.note)
        self.decide_pending()

    def decide_pending(self) -> None:
        """Note that the pending items are dealt with, by the hook or by the rule."""
        self._pending_is_decided = True

    def unconfirmed(self) -> Settlement:
        """Return the finished items whose write failed or was cut."""
        new = self.own(self.items.unconfirmed_additions())
        new_ids = {item.id for item in new}
        changed = [item for item in self.items.unconfirmed() if item.id not in new_ids]
        return Settlement(self.thread_id, None, new, self.own(changed))

    def confirm_unconfirmed(self) -> None:
        """Note that the store has the finished items now."""
        finished = self.items.unconfirmed()
        self.made_up_for += self.own(finished)
        for item in finished:
            self.items.confirm(SaveItem(item))

    def confirm(self, thread: ThreadMetadata | None) -> None:
        """Note that the store has everything, and this state of the thread."""
        if thread is not None:
            self.watch.saved(thread)
            self.saved_thread = thread
        self.made_up_for += self.own(self.items.unconfirmed())
        self.in_journal = False
        self._to_add = ()
        self.items.settled()

    def thread_is_gone(self) -> None:
        """Note that the thread was deleted: there is nowhere to store anything."""
        self.made_up_for, self.kept = (), None
        self.confirm(None)
        self.made_up_for = ()
        self._is_gone = True

    def drop(self, item_id: str) -> None:
        """Leave out an item that the store can never take."""
        self.kept = tuple(item for item in self.kept or () if item.id != item_id)
        self.items.forget(item_id)

    def drop_thread(self, *, at_once: bool = False) -> None:
        """Note that the store has refused the thread, and leave it out after some refusals."""
        self._thread_refusals += _TRIES_OF_THREAD if at_once else 1

    def _unsaved_thread(self) -> ThreadMetadata | None:
        """Return the thread if it has changed; None if it can't be copied or stored."""
        if self._thread_refusals >= _TRIES_OF_THREAD:
            return None
        try:
            return as_metadata(self.watch.thread) if self.watch.changed() else None
        except Exception:
            logger.exception(
                "the changes that respond() made to thread %s can't be saved", self.thread_id
            )
            return None
