"""The items of a journal's entries as text, for stores that keep an entry in one row.

What can't be stored or read again doesn't hold up the other items and turns: it is left out, or
stays where it is, and the log has one line about it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeAlias

from chatkit_trio.store import JournalEntry
from chatkit_trio.types import ThreadItem

from ._records import decode_items, encode_item

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

    def entry(self, row: JournalRow) -> JournalEntry | None:
        """Return an entry, or None for one of another version, which stays where it is."""
        turn_id, thread_id, items, changed_items, reason = row
        try:
            new, changed = decode_items(items), decode_items(changed_items)
        except ValueError:
            self._tell_once(
                turn_id, "the journal's entry of turn %s can't be read; it is kept", turn_id
            )
            return None
        return JournalEntry(turn_id, thread_id, tuple(new), tuple(changed), reason)

    def entries(self, rows: Iterable[JournalRow]) -> list[JournalEntry]:
        """Return those entries that can be read."""
        return [entry for row in rows if (entry := self.entry(row)) is not None]

    def _tell_once(self, about: str, message: str, *args: str) -> None:
        if about not in self._told_of:
            self._told_of.add(about)
            logger.exception(message, *args)
