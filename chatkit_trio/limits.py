"""What the server takes: how much one request may hold, and how much one owner may use.

Plain settings. Those of a request are read by the engine before it is validated, so that no work on
the event loop grows with what a stranger sends. An owner's limit that isn't kept is a `LimitError`
(HTTP 429), and nothing of the refused request is stored; docs/reference/policy.md says what counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Protocol

from ._settings import check_count

__all__ = ["DEFAULT_BODY_BYTES", "OwnerLimits", "OwnerUsage", "Rate", "RequestLimits"]

# --- One request -------------------------------------------------------------------------------

_IDS = 16 * 1024
_DATA = 1024 * 1024

DEFAULT_BODY_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "threads.create": _DATA,
        "threads.add_user_message": _DATA,
        "threads.add_client_tool_output": _DATA,
        "threads.add_structured_input": 256 * 1024,
        "threads.custom_action": 256 * 1024,
        "threads.sync_custom_action": 256 * 1024,
        "threads.retry_after_item": _DATA,
        "threads.get_by_id": _IDS,
        "threads.list": _IDS,
        "threads.update": _IDS,
        "threads.delete": _IDS,
        "items.list": _IDS,
        "items.feedback": 256 * 1024,
        "attachments.create": _IDS,
        "attachments.delete": _IDS,
        "input.transcribe": 10 * 1024 * 1024,
    }
)
"""How many bytes the body of a request may have, by the request's type."""

MAX_VALUES = 100_000
"""The most JSON values in one field of an item that the bundled stores load."""

MAX_PARTS = 2_000
"""The most parts, or attachments, of a message that the bundled stores load."""

_AT_MOST = {"values": MAX_VALUES, "content_parts": MAX_PARTS, "attachments": MAX_PARTS}


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """How much one request may hold, and how much one answer. The limits of a server.

        ChatKitServer(store, limits=RequestLimits(body_bytes={"threads.create": 4_000_000}))

    A request over a limit raises `TooLargeError` (HTTP 413), which names the field and the limit,
    before any of it is validated or stored. Raises `TypeError` or `ValueError` for a limit that
    makes no sense.
    """

    body_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)
    """The longest body in bytes by the type of the request; a type that isn't named has its default
    of `DEFAULT_BODY_BYTES`. Only `input.transcribe` has 10 MiB, for its recording in Base64."""

    values: int = 50_000
    """How many JSON values a request may have, those within others counted too; 100,000 at most.
    They are counted by commas and brackets, so that an empty list or object counts twice."""

    depth: int = 64
    """How deep lists and objects may be nested in a request. The protocol itself needs up to seven
    levels; the rest is for an action's payload, a tool's output and a tag's data."""

    text_chars: int = 500_000
    """How many characters the text and the tags of a message may have together."""

    quote_chars: int = 50_000
    """How many characters the quoted text of a message may have."""

    content_parts: int = 500
    """How many parts the content of a message may have, tags among them; 2,000 at most."""

    tags: int = 100
    """How many parts of a message may be tags."""

    attachments: int = 50
    """How many attachments a message may have; 2,000 at most."""

    id_chars: int = 256
    """How many characters an id or a cursor may have; also the name of an action, tool or model."""

    name_chars: int = 1_000
    """How many characters a thread's title, a file's name and a media type may have."""

    item_ids: int = 500
    """How many items one feedback may be about."""

    answers: int = 100
    """How many questions of a structured input may be answered, and how many values an answer may
    have."""

    page_items: int = 100
    """How many items or threads a page has at most; who asks for more gets so many."""

    page_bytes: int = 2 * 1024 * 1024
    """How many bytes of items or threads a page has at most; it has at least one. What is left out
    comes with the next page."""

    def __post_init__(self) -> None:
        unknown = self.body_bytes.keys() - DEFAULT_BODY_BYTES.keys()
        if unknown:
            raise ValueError(f"body_bytes has no request types {sorted(unknown)}")
        object.__setattr__(self, "body_bytes", MappingProxyType(dict(self.body_bytes)))
        for name, limit in (*self._numbers(), *self.body_bytes.items()):
            check_count(name, limit)
        for name, most in _AT_MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"the limit {name} may be {most} at most: stores load no more")

    def _numbers(self) -> list[tuple[str, int]]:
        names = [each.name for each in fields(self) if each.name != "body_bytes"]
        return [(name, getattr(self, name)) for name in names]

    def bytes_of(self, request_type: str) -> int:
        """Return how many bytes a request of this type may have. Raises `KeyError` for no type."""
        return self.body_bytes.get(request_type, DEFAULT_BODY_BYTES[request_type])

    @property
    def longest_body(self) -> int:
        """How many bytes the longest request may have, of whatever type."""
        return max(map(self.bytes_of, DEFAULT_BODY_BYTES))


# --- One owner ---------------------------------------------------------------------------------


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
    """Bytes of files as they arrive, and of recordings for dictation. Files that clients upload
    past the server count with their declared size, when clients ask where to."""

    uploads_per_hour: int | None = None
    """New attachments, whether their bytes arrive or not."""

    live_uploads: int | None = None
    """Files that arrive at the same time."""

    def __post_init__(self) -> None:
        for each in fields(self):
            limit = getattr(self, each.name)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
                raise ValueError(
                    f"{each.name} must be a whole number of at least 1, or None for no limit, not"
                    f" {limit!r}"
                )


@dataclass(frozen=True, slots=True)
class Rate:
    """So much in so many seconds."""

    amount: float
    seconds: float


class OwnerUsage(Protocol):
    """Where the use of each owner is counted.

    Where several processes share a store, its `Coordination.usage` counts for all of them; else a
    server counts in its own memory. Before a server is entered, `ChatKitServer.owners.usage` can be
    set to another one. `kind` is the name of a field of `OwnerLimits`.
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
