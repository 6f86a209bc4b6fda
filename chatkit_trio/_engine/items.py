"""What an event does to a turn's items, decided once and without waiting.

`TurnItems` is fed every event of a turn and says what the store has to do before the event may be
sent. Wire, store and journal all follow that one decision: an event that is refused here is neither
sent nor stored. No trio, no store, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from chatkit_trio.errors import ConflictError
from chatkit_trio.types import (
    AssistantMessageContentPartTextDelta,
    GeneratedImageUpdated,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadStreamEvent,
    WidgetComponentUpdated,
    WidgetRootUpdated,
    is_hidden,
)

from .drafts import Draft, MessageDraft, draft_of
from .keeping import kept_items


@dataclass(frozen=True, slots=True)
class AddItem:
    """Append this finished item to the thread."""

    item: ThreadItem


@dataclass(frozen=True, slots=True)
class SaveItem:
    """Put this item in the place of the stored one."""

    item: ThreadItem


@dataclass(frozen=True, slots=True)
class DeleteItem:
    """Delete this item from the thread."""

    item_id: str


@dataclass(frozen=True, slots=True)
class DropItem:
    """See that nothing is kept of this item, which isn't in the thread yet."""

    item_id: str


@dataclass(frozen=True, slots=True)
class RequireNew:
    """Look that the thread has no item of this id: it has been begun."""

    item_id: str


@dataclass(frozen=True, slots=True)
class UpdateStoredItem:
    """Load an item that was stored earlier and give it to `TurnItems.reopen` with the update."""

    item_id: str
    update: ThreadItemUpdate


StoreEffect: TypeAlias = AddItem | SaveItem | DeleteItem | DropItem | RequireNew | UpdateStoredItem


_LONGEST_ID = 1_000
"""Bytes of the longest id of a new item. Databases have a limit for what is in an index: an id of
more would be refused when the turn is settled, and by then the client has seen the item."""

_WHOLE_UPDATES = WidgetRootUpdated | WidgetComponentUpdated | GeneratedImageUpdated
"""Updates of a stored item that are saved at once. Others come in many small pieces: they are
collected, kept in the journal, and saved when the turn ends."""


def is_visible(event: ThreadStreamEvent) -> bool:
    """Say whether the client may see the event."""
    if isinstance(event, ThreadItemAddedEvent | ThreadItemDoneEvent | ThreadItemReplacedEvent):
        return not is_hidden(event.item)
    return True


class TurnItems:
    """The items of one turn, in the state that the client has been shown.

    Each item is in one of these sets, and moves from one to the next:

    | set         | its items                                     | at the end of the turn they    |
    |-------------|-----------------------------------------------|--------------------------------|
    | pending     | were begun and aren't done                    | are kept or dropped by a rule  |
    | unconfirmed | are done; the store hasn't said it has them   | are added, or saved if the     |
    |             |                                               | store has an older state       |
    | stored      | are in the store as they are                  | stay                           |
    | reopened    | are in the store, and have been updated since | are saved                      |
    | removing    | are being deleted                             | are looked for: what is still  |
    |             |                                               | there is reopened or stored    |

    Feed it each event before acting on it, and `confirm` each effect that the store has carried
    out.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Draft] = {}
        self._unconfirmed: dict[str, ThreadItem] = {}
        self._replacing: set[str] = set()  # ids of unconfirmed items that the store has
        self._reopened: dict[str, Draft] = {}
        self._removing: dict[str, Draft | None] = {}  # the value: what was reopened of it
        self._new_ids: dict[str, str] = {}  # by the id that another item of the thread has
        self._known_new: set[str] = set()  # ids that nobody else had when they were begun
        self._stored: dict[str, bool] = {}  # in the order of their writes; the value: is visible
        self.version = 0
        """Grows with every event that changes what the journal must know."""
        self.writes = 0
        """Grows when the store has got another state of an item."""

    def feed(self, event: ThreadStreamEvent) -> StoreEffect | None:
        """Take an event in and return what the store has to do before the event is sent.

        Raises `ConflictError` for a new item with the id of another one of this turn, `UnfitUpdate`
        for an update that is to be ignored, and `ValueError` for one that can't be applied or an id
        that is too long.
        """
        match event:
            case ThreadItemUpdatedEvent():
                return self._update(event.item_id, event.update)
            case ThreadItemAddedEvent():
                return self._begin(event.item)
            case ThreadItemDoneEvent():
                item = self._finish(event.item)
                return SaveItem(item) if item.id in self._replacing else AddItem(item)
            case ThreadItemReplacedEvent():
                item = self._finish(event.item)
                self._replacing.add(item.id)
                return SaveItem(item)
            case ThreadItemRemovedEvent():
                return self._remove(event.item_id)
            case _:
                return None

    def add_text(self, event: ThreadItemUpdatedEvent) -> bool:
        """Take in a text delta of a message that was begun; say whether it was one.

        If not, `feed` it. Raises `ValueError` for an index that no part may have.
        """
        draft, update = self._pending.get(event.item_id), event.update
        if not isinstance(draft, MessageDraft):
            return False
        if type(update) is not AssistantMessageContentPartTextDelta:
            return False
        draft.add_text(update.content_index, update.delta)
        self.version += 1
        return True

    def confirm(self, effect: StoreEffect) -> None:
        """Note that the store has carried out the effect."""
        self.writes += isinstance(effect, AddItem | SaveItem | DeleteItem)
        match effect:
            case AddItem() | SaveItem():
                # A later event may have put another state of the item in its place.
                if self._unconfirmed.get(effect.item.id) is effect.item:
                    del self._unconfirmed[effect.item.id]
                    self._replacing.discard(effect.item.id)
                elif effect.item.id in self._unconfirmed:
                    self._replacing.add(effect.item.id)
                self._stored[effect.item.id] = not is_hidden(effect.item)
            case DeleteItem():
                self._stored.pop(effect.item_id, None)
                self._removing.pop(effect.item_id, None)
            case RequireNew():
                self._known_new.add(effect.item_id)
            case DropItem() | UpdateStoredItem():
                pass

    def reopen(self, item: ThreadItem, update: ThreadItemUpdate) -> SaveItem | None:
        """Apply an update to an item that was stored earlier; return what has to be saved now.

        Raises `UnfitUpdate` if the item is of another kind, and changes nothing then.
        """
        draft = self._reopened.get(item.id) or draft_of(item)
        draft.apply(update)
        self.version += 1
        if isinstance(update, _WHOLE_UPDATES) and item.id not in self._reopened:
            self._unconfirmed[item.id] = changed = draft.item()
            self._replacing.add(item.id)
            return SaveItem(changed)
        self._reopened[item.id] = draft
        return None

    def begun(self, item_id: str) -> ThreadItem | None:
        """Return an item that is pending or reopened, with its updates so far; None for others."""
        draft = self._pending.get(item_id) or self._reopened.get(item_id)
        return None if draft is None else draft.item()

    def was_new(self, item_id: str) -> bool:
        """Say whether the thread had no item of this id when this turn began one."""
        return item_id in self._known_new

    def is_stored(self, item_id: str) -> bool:
        """Say whether the store has an item of this id that this turn has finished."""
        return item_id in self._stored

    def give_new_id(self, item_id: str, new_id: str) -> None:
        """Keep an item under another id, because another item of the thread has its id."""
        if (item := self._unconfirmed.pop(item_id, None)) is not None:
            self._unconfirmed[new_id] = item.model_copy(update={"id": new_id})
        self._known_new.add(new_id)
        self._new_ids[item_id] = new_id
        self.version += 1

    def own_id(self, item_id: str) -> str:
        """Return the id under which an item is kept that was begun or finished with this id."""
        return self._new_ids.get(item_id, item_id)

    @property
    def removing(self) -> list[str]:
        """The ids of the items of which it isn't known whether they are deleted."""
        return list(self._removing)

    def stays(self, item_id: str) -> None:
        """Note that an item hasn't been deleted: it stays as it was before."""
        if (draft := self._removing.pop(item_id, None)) is not None:
            self._reopened[item_id] = draft
            self.version += 1

    @property
    def last_visible_id(self) -> str | None:
        """The id of the last finished item of this turn that the client may see."""
        ids = {item.id: not is_hidden(item) for item in self._unconfirmed.values()}
        visible = [item_id for item_id, is_shown in {**self._stored, **ids}.items() if is_shown]
        return visible[-1] if visible else None

    def visible_ids(self) -> list[str]:
        """Return the ids of all items of this turn that the client may see, also unfinished ones.

        Items from before that this turn has changed are among them.
        """
        ids = dict.fromkeys(item_id for item_id, is_visible in self._stored.items() if is_visible)
        for item in (*self.unconfirmed(), *self.changed(), *self.pending()):
            if not is_hidden(item):
                ids[item.id] = None
        return list(ids)

    def pending(self) -> list[ThreadItem]:
        """Return the items that were begun and aren't done, as the client has seen them so far."""
        return [draft.item() for draft in self._pending.values()]

    def unconfirmed_additions(self) -> list[ThreadItem]:
        """Return the finished items that the store may lack."""
        return [item for key, item in self._unconfirmed.items() if key not in self._replacing]

    def unconfirmed(self) -> list[ThreadItem]:
        """Return the finished items of which the store may lack the last state."""
        return list(self._unconfirmed.values())

    def changed(self) -> list[ThreadItem]:
        """Return the items of which the store may have an older state, as it is to have them."""
        return [*self._replacements(), *self.reopened()]

    def changed_as_told(self) -> list[ThreadItem]:
        """Return the same as clients have seen them: what is loading is loading."""
        return [*self._replacements(), *(draft.item() for draft in self._reopened.values())]

    def reopened(self) -> list[ThreadItem]:
        """Return the stored items that have been updated since, with nothing in them loading."""
        return kept_items(draft.item() for draft in self._reopened.values())

    def put_at_rest(self) -> list[ThreadItem]:
        """Return those of the reopened items that clients have seen otherwise."""
        return [item for item in self.reopened() if item != self._reopened[item.id].item()]

    def refuse(self, item_id: str) -> None:
        """Drop an item that was begun with the id of another one."""
        self._pending.pop(item_id, None)

    def forget(self, item_id: str) -> None:
        """Drop an item that the store can never take."""
        self._pending.pop(item_id, None)
        self._unconfirmed.pop(item_id, None)
        self._reopened.pop(item_id, None)

    def settled(self) -> None:
        """Note that the store has all that is kept."""
        self.writes += 1
        for item in self._unconfirmed.values():
            self._stored[item.id] = not is_hidden(item)
        self._pending.clear()
        self._unconfirmed.clear()
        self._replacing.clear()
        self._reopened.clear()
        self._removing.clear()

    def _replacements(self) -> list[ThreadItem]:
        return [item for key, item in self._unconfirmed.items() if key in self._replacing]

    def _begin(self, item: ThreadItem) -> RequireNew:
        check_new_id(item.id)
        known = (self._pending, self._unconfirmed, self._stored, self._reopened)
        if any(item.id in each for each in known):
            raise id_conflict(item.id)
        self._pending[item.id] = draft_of(item)
        self.version += 1
        return RequireNew(item.id)

    def _update(self, item_id: str, update: ThreadItemUpdate) -> UpdateStoredItem | None:
        draft = self._pending.get(item_id) or self._reopened.get(item_id)
        if draft is None:
            # A copy, because respond may change its object while the item is loaded.
            return UpdateStoredItem(item_id, update.model_copy(deep=True))
        draft.apply(update)
        self.version += 1
        return None

    def _finish(self, item: ThreadItem) -> ThreadItem:
        check_new_id(item.id)
        if item.id in self._stored or item.id in self._reopened:
            self._replacing.add(item.id)
        self._pending.pop(item.id, None)
        self._reopened.pop(item.id, None)
        # A copy, because respond may keep changing its object.
        self._unconfirmed[item.id] = finished = item.model_copy(deep=True)
        self.version += 1
        return finished

    def _remove(self, item_id: str) -> DeleteItem | DropItem:
        self.version += 1
        if self._pending.pop(item_id, None) is not None:
            return DropItem(item_id)
        self._removing[item_id] = self._reopened.pop(item_id, None)
        self._unconfirmed.pop(item_id, None)
        self._replacing.discard(item_id)
        return DeleteItem(item_id)


def check_new_id(item_id: str) -> None:
    """Raise `ValueError` for an id that no new item may have."""
    size = len(item_id.encode(errors="surrogatepass"))
    if size > _LONGEST_ID:
        raise ValueError(
            f"the id of an item may have {_LONGEST_ID} bytes, not {size}: {item_id[:40]!r}..."
        )


def id_conflict(item_id: str) -> ConflictError:
    """Return the error for a new item whose id the thread has already."""
    return ConflictError(
        f"an item was begun with the id {item_id}, which the thread has already: give each new item"
        " an id of its own, for example from store.generate_item_id()"
    )
