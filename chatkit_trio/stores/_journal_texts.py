"""The items of a journal's entries as text, for stores that keep an entry in one row.

What can't be stored or read again doesn't hold up the other items and turns: it is left out, or
handed on as text, and the log has one line about it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from chatkit_trio.store import JournalEntry, UnstorableItem
from chatkit_trio.types import ThreadItem

from ._records import decode_item, decode_items, encode_item

logger = logging.getLogger(__name__)

MOST_ABANDONED = 64
"""So many abandoned turns are read at a time. Which ones is left to chance: some of them may be
impossible to settle, and must not hide the others."""

JournalRow: TypeAlias = tuple[str, str, str, str, str | None]
"""Turn id, thread id, items, changed items, reason."""


class JournalTexts:
    """Encodes and decodes the entries of one journal."""

    def __init__(self) -> None:
        self._told_of: set[str] = set()
        """The ids of turns and items about which the log has a line already."""

    def encoded(self, items: Iterable[ThreadItem]) -> str:
        """Encode the items of an entry, without those that can't be stored."""
        texts: list[str] = []
        for item in items:
            try:
                texts.append(encode_item(item))
            except ValueError:
                self._tell_once(
                    item.id,
                    "item %s of thread %s can't be journaled; it is left out",
                    item.id,
                    item.thread_id,
                )
        return f"[{','.join(texts)}]"

    def entry(self, row: JournalRow) -> JournalEntry:
        """Return an entry; what another version has written may be among its `unreadable`."""
        turn_id, thread_id, items, changed_items, reason = row
        new, unread = _decoded(turn_id, thread_id, items, "items")
        changed, more = _decoded(turn_id, thread_id, changed_items, "changed_items")
        unreadable = (*unread, *more)
        if unreadable and turn_id not in self._told_of:
            self._told_of.add(turn_id)
            logger.error(
                "items %s of turn %s are in the journal and can't be read: another version may"
                " have written them",
                [item.item_id for item in unreadable],
                turn_id,
            )
        return JournalEntry(turn_id, thread_id, new, changed, reason, unreadable)

    def entries(self, rows: Iterable[JournalRow]) -> list[JournalEntry]:
        return [self.entry(row) for row in rows]

    def _tell_once(self, about: str, message: str, *args: str) -> None:
        if about not in self._told_of:
            self._told_of.add(about)
            logger.exception(message, *args)


def _decoded(
    turn_id: str, thread_id: str, text: str, column: str
) -> tuple[tuple[ThreadItem, ...], tuple[UnstorableItem, ...]]:
    """Return the items of a text, and those that can't be read."""
    with suppress(ValueError):
        return tuple(decode_items(text)), ()
    read: list[ThreadItem] = []
    unreadable: list[UnstorableItem] = []
    for name, part in _parts(text, column):
        try:
            read.append(decode_item(part))
        except ValueError as error:
            unreadable.append(UnstorableItem(thread_id, name, turn_id, part, str(error)))
    return tuple(read), tuple(unreadable)


def _parts(text: str, column: str) -> Iterator[tuple[str, str]]:
    """Yield a name and the text of each part; one for the whole if it has no parts."""
    parts: Any = None
    with suppress(ValueError, RecursionError):
        parts = json.loads(text)
    if not isinstance(parts, list):
        yield column, text
        return
    for number, part in enumerate(parts):
        item_id = part.get("id") if isinstance(part, dict) else None
        name = item_id if isinstance(item_id, str) else f"{column} [{number}]"
        yield name, json.dumps(part, ensure_ascii=False)
