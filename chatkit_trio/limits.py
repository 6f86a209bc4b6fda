"""What one owner of threads may use: settings, and where the use is counted.

A limit that isn't kept is a `LimitError` (HTTP 429), and nothing of the refused request is stored.
docs/reference/policy.md says what counts as what.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

__all__ = ["OwnerLimits", "OwnerUsage", "Rate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnerLimits:
    """How much one owner may use; None means no limit.

        server = MyServer(store, owner_limits=OwnerLimits(live_turns=4, requests_per_minute=120))

    Who the owner is says `ChatKitServer.get_owner`. What is allowed a minute or an hour may be used
    at once, and comes back evenly. Raises `ValueError` for a limit below 1.
    """

    live_turns: int | None = None
    """Answers under way at once: messages, retries, actions, tool outputs, answered questions."""

    requests_per_minute: int | None = None
    """Requests of every kind but stop: reading, watching and uploading too."""

    text_bytes_per_minute: int | None = None
    """Bytes of the requests that change something or that a model gets, without recordings. One
    request larger than this passes after a minute without any, and is paid for later."""

    upload_bytes_per_hour: int | None = None
    """Bytes of files as they arrive, and of recordings for dictation."""

    uploads_per_hour: int | None = None
    """New attachments, whether their bytes arrive or not."""

    live_uploads: int | None = None
    """Files that arrive at the same time."""

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
                raise ValueError(
                    f"{field.name} must be a whole number of at least 1, or None for no limit, not"
                    f" {limit!r}"
                )


@dataclass(frozen=True, slots=True)
class Rate:
    """So much in so many seconds."""

    amount: float
    seconds: float


class OwnerUsage(Protocol):
    """Where the use of each owner is counted.

    A server counts in its own memory. Before it is entered, set `ChatKitServer.owners.usage` to
    another one that several processes share. `kind` is the name of a field of `OwnerLimits`.
    """

    async def spend(
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        """Use up an amount if the rate allows it; return 0, or in how many seconds it would.

        What is larger than the rate's amount is allowed when nothing was used for `rate.seconds`.
        With `only_look` nothing is used up. A cancelled call has used up all of it or nothing.
        """
        ...

    async def take_slot(
        self, owner: str, kind: str, slot_id: str, most: int, replaces: str | None
    ) -> bool:
        """Take one of `most` slots until `free_slot`; say whether there was one.

        A slot that another one replaces isn't counted while both are taken. A slot that nobody has
        said to `keep_slot` is freed after some seconds: the request that took it has got lost.
        """
        ...

    def keep_slot(self, owner: str, kind: str, slot_id: str) -> None:
        """Keep a slot until it is freed, even if it was taken away meanwhile. Never waits."""
        ...

    def free_slot(self, owner: str, kind: str, slot_id: str) -> None:
        """Give a slot back; one that is free already is no error. Never waits."""
        ...
