"""When something last happened in a thread, and the order of threads by that.

The order is the newest activity first, and of threads with the same time the greater id. So a place
in it is a time and an id, which says all that a page needs to go on behind it, whatever has become
of the thread.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple, Self

from .errors import NotFoundError

_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?")
_BEHIND_ALL_TIMES = "T"


class ActivityPlace(NamedTuple):
    """A thread's place in the order of threads by activity; a greater one comes earlier."""

    active: str
    """A time in UTC as stored JSON has it, without the zone: text in the order of the times."""
    thread_id: str

    @classmethod
    def of(cls, moment: datetime, thread_id: str) -> Self:
        """Return the place of a thread in which something last happened at that time."""
        return cls(moment.astimezone(UTC).replace(tzinfo=None).isoformat(), thread_id)

    @classmethod
    def behind(cls, after: str | None) -> Self:
        """Return the place that a page goes on behind. Raises `NotFoundError` for no cursor."""
        if after is None:
            return cls(_BEHIND_ALL_TIMES, "")
        active, slash, thread_id = after.partition("/")
        if not (slash and _MOMENT.fullmatch(active)):
            raise NotFoundError(f"there is nothing with the id {after} to go on from")
        return cls(active, thread_id)

    @property
    def cursor(self) -> str:
        """What a page has as its `after` if this is its last thread."""
        return f"{self.active}/{self.thread_id}"

    @property
    def moment(self) -> datetime:
        """The time."""
        return datetime.fromisoformat(self.active).replace(tzinfo=UTC)
