"""Which cut answers a client is told of, and which of them it may offer to continue.

What the store knows is the hidden note behind each cut answer. So an ending is gone when its note
is: with the thread, or with a retry. Plain rules: nothing here waits. Items are in the thread's
order everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from chatkit_trio.types import (
    AnswerEnding,
    SDKHiddenContextItem,
    ThreadItem,
    TurnEnding,
    UserMessageItem,
    is_hidden,
)

from .keeping import CancelReason


def ends_search(item: ThreadItem) -> bool:
    """Say whether no note behind this item can be about an item before it.

    A turn begins with a message of the user, or after the note of the turn before it.
    """
    return isinstance(item, UserMessageItem) or _is_ending_note(item)


def notes_of_page(
    page: Sequence[ThreadItem], behind: Sequence[ThreadItem]
) -> list[SDKHiddenContextItem]:
    """Return the notes in a page, and those `behind` it that are about one of its items."""
    ids = {item.id for item in page}
    return [
        item
        for item in (*page, *behind)
        if _is_ending_note(item) and (item.id in ids or not ids.isdisjoint(_item_ids(item)))
    ]


def behind_last_message(items: Sequence[ThreadItem]) -> list[ThreadItem] | None:
    """Return the items behind the last message of the user; None if there is no message."""
    places = [place for place, item in enumerate(items) if isinstance(item, UserMessageItem)]
    return list(items[places[-1] + 1 :]) if places else None


def note_at_the_end(latest: Sequence[ThreadItem]) -> SDKHiddenContextItem | None:
    """Return the note of the last answer, None if it wasn't cut.

    `latest` are the items behind the last message of the user.
    """
    for item in reversed(latest):
        if _is_ending_note(item):
            return item
        if not is_hidden(item):
            return None
    return None


def may_go_on(ending: TurnEnding, latest: Sequence[ThreadItem], most: int) -> bool:
    """Say whether the server may go on with the last answer, which has this ending.

    It may if a crash has cut it, and at most `most` times since the last message of the user.
    `latest` are the items behind that.
    """
    notes = (item for item in latest if _is_ending_note(item))
    times = sum(note.ending is not None and bool(note.ending.continued) for note in notes)
    return ending.reason == CancelReason.CRASHED and not ending.continued and times < most


def answer_ending(note: SDKHiddenContextItem, latest: Sequence[ThreadItem]) -> AnswerEnding:
    """Return what a client is told by a note, which has an ending.

    It can continue the answer if that was cut for another reason than a new message, something of
    it is there, the server hasn't gone on with it, and no message of the user stands behind it.
    """
    assert note.ending is not None
    ids = {item.id for item in latest}
    return AnswerEnding(
        **note.ending.model_dump(),
        can_continue=(
            note.ending.reason != CancelReason.SUPERSEDED
            and not note.ending.continued
            and note.id in ids
            and not ids.isdisjoint(_item_ids(note))
        ),
    )


def _is_ending_note(item: ThreadItem) -> TypeGuard[SDKHiddenContextItem]:
    return isinstance(item, SDKHiddenContextItem) and item.ending is not None


def _item_ids(note: SDKHiddenContextItem) -> Sequence[str]:
    return () if note.ending is None else note.ending.item_ids
