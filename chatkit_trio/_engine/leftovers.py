"""What a turn has left for the store: decided here, stored by `storing`.

No trio, no store. What settling has stored is noted here too, because it is what clients are told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from chatkit_trio.store import JournalEntry, Settlement
from chatkit_trio.types import SDKHiddenContextItem, ThreadItem, ThreadMetadata

from .items import DeleteItem, SaveItem, TurnItems, UpdateStoredItem
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
        self.put_at_rest: tuple[ThreadItem, ...] = ()
        """Stored items that had gone on and were stored otherwise than clients have seen them."""
        self.saved_thread: ThreadMetadata | None = None
        """The thread, if settling has saved it."""
        self._pending_is_decided = False
        self._to_add: tuple[ThreadItem, ...] = ()
        self._version_of_end = 0
        self._gone: set[str] = set()
        self.late_updates: list[UpdateStoredItem] = []
        """Updates of stored items that were accepted and not performed."""
        self._applied: list[UpdateStoredItem] = []
        self._thread_refusals = 0
        self._is_gone = False

    @property
    def is_nothing(self) -> bool:
        """Whether the store has all that it will get."""
        if self._is_gone:
            return True
        if self.late_updates or self.items.removing:
            return False
        return self.settlement() == Settlement(self.thread_id)

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
        return self.items.version + (self.reason is not None) + self._version_of_end

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
        self._version_of_end += 1

    def unsure_additions(self) -> list[ThreadItem]:
        """Return the new items whose id another item of the thread may have."""
        new = self.own((*self.items.unconfirmed_additions(), *self._to_add))
        return [item for item in new if item is not self.note and not self.items.was_new(item.id)]

    def give_new_id(self, item_id: str, new_id: str) -> None:
        """Keep an item under another id, because another item of the thread has its id."""
        self.items.give_new_id(item_id, new_id)

        def renamed(item: ThreadItem) -> ThreadItem:
            is_it = item.id == item_id and item is not self.note
            return item.model_copy(update={"id": new_id}) if is_it else item

        self._to_add = tuple(map(renamed, self._to_add))
        self.kept = None if self.kept is None else tuple(map(renamed, self.kept))
        self._version_of_end += 1
        if self.note is not None and self.note.ending is not None:
            ids = list(map(self.items.own_id, self.note.ending.item_ids))
            self._change_note({"ending": self.note.ending.model_copy(update={"item_ids": ids})})

    def note_to_add(self) -> SDKHiddenContextItem | None:
        """Return the note if the store lacks it."""
        return self.note if any(item is self.note for item in self._to_add) else None

    def is_beside_its_id(self, note: SDKHiddenContextItem) -> bool:
        """Say whether the note is to be added together with another item of its id."""
        new = (*self.items.unconfirmed_additions(), *self._to_add)
        return any(item.id == note.id for item in new if item is not note)

    def give_note_new_id(self, new_id: str) -> None:
        """Keep the note under another id, because an item of the thread has its id."""
        self._change_note({"id": new_id})

    def _change_note(self, update: dict[str, Any]) -> None:
        if (before := self.note) is not None:
            self.note = note = before.model_copy(update=update)
            self._to_add = tuple(note if item is before else item for item in self._to_add)

    def item_is_gone(self, item_id: str) -> None:
        """Note that an item that was to be deleted isn't there any more."""
        self._gone.add(item_id)
        self.items.confirm(DeleteItem(item_id))

    def apply_late(self, update: UpdateStoredItem, item: ThreadItem) -> None:
        """Take in an update of an item as the store has it. Raises what the update raises."""
        if self.items.reopen(item, update.update) is None:
            self._applied.append(update)

    def is_applied(self, update: UpdateStoredItem) -> bool:
        """Say whether settling has stored this late update, and clients aren't told otherwise."""
        return any(each is update for each in self._applied)

    def is_gone(self, item_id: str) -> bool:
        """Say whether settling has found that an item is deleted."""
        return item_id in self._gone

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
        self.put_at_rest += self.own(self.items.put_at_rest())
        self.in_journal = False
        self._to_add = ()
        self.late_updates = []
        self.items.settled()

    def thread_is_gone(self) -> None:
        """Note that the thread was deleted: there is nowhere to store anything."""
        self.made_up_for, self.kept = (), None
        self.confirm(None)
        self.made_up_for = self.put_at_rest = ()
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
